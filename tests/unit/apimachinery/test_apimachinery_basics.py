"""Quantities, times, selectors, names and bodies: the small vocabulary everything else stands on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k3sd.apimachinery import codec, quantity, selectors, timefmt, validation
from k3sd.apimachinery.errors import StatusError

QUANTITIES = [
    ("1000m", "1", 1000, 1),
    ("0.1", "100m", 100, 1),
    ("1024Mi", "1Gi", 1073741824000, 1073741824),
    ("1.5Gi", "1536Mi", 1610612736000, 1610612736),
    ("0.5Ki", "512", 512000, 512),
    ("1e3", "1e3", 1000000, 1000),
    ("1000e3", "1e6", 1000000000, 1000000),
    ("1E2", "100", 100000, 100),
    ("0.0000000001", "1n", 1, 1),
    ("-5", "-5", -5000, -5),
    ("5.", "5", 5000, 5),
    ("0", "0", 0, 0),
]


@pytest.mark.parametrize(("text", "canonical", "milli", "value"), QUANTITIES, ids=[q[0] for q in QUANTITIES])
def test_quantity(text: str, canonical: str, milli: int, value: int) -> None:
    parsed = quantity.parse(text)
    assert (quantity.canonical(text), parsed.milli(), parsed.value()) == (canonical, milli, value)


@pytest.mark.parametrize("text", ["", "1x", "1 Gi", "abc", "--1", "1.2.3"])
def test_quantity_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantity.parse(text)


def test_quantity_arithmetic_keeps_the_format() -> None:
    assert str(quantity.parse("1Gi") + quantity.parse("512Mi")) == "1536Mi"
    assert str(quantity.parse("1") - quantity.parse("250m")) == "750m"
    assert quantity.parse("1k") < quantity.parse("1Ki")


@given(st.integers(min_value=-(10**15), max_value=10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "e3"]))
def test_canonical_quantity_is_stable(number: int, suffix: str) -> None:
    text = quantity.canonical(f"{number}{suffix}")
    assert quantity.canonical(text) == text
    assert quantity.parse(text) == quantity.parse(f"{number}{suffix}")


def test_times() -> None:
    assert timefmt.canonical("2026-01-01T02:00:00.123+02:00") == "2026-01-01T00:00:00Z"
    assert timefmt.canonical_micro("0001-01-01T00:00:00Z") == "0001-01-01T00:00:00.000000Z"
    assert timefmt.parse("1970-01-01T00:00:01.5Z") == 1.5
    assert timefmt.parse(timefmt.now()) <= timefmt.parse(timefmt.now_micro())
    for bad in ("2026-13-01T00:00:00Z", "yesterday", "2026-01-01 00:00:00Z"):
        with pytest.raises(ValueError):
            timefmt.canonical(bad)
    assert timefmt.parse_duration("1h30m") == 5400
    assert timefmt.parse_duration("-1.5s") == -1.5


HUMAN = [
    (0, "0s"),
    (119, "119s"),
    (125, "2m5s"),
    (599, "9m59s"),
    (600, "10m"),
    (3 * 3600 - 1, "179m"),
    (3 * 3600 + 60, "3h1m"),
    (9 * 3600, "9h"),
    (49 * 3600, "2d1h"),
    (9 * 86400, "9d"),
    (3 * 365 * 86400 + 86400, "3y1d"),
    (9 * 365 * 86400, "9y"),
    (-5, "<invalid>"),
]


@pytest.mark.parametrize(("seconds", "text"), HUMAN, ids=[h[1] for h in HUMAN])
def test_human_duration(seconds: int, text: str) -> None:
    assert timefmt.human_duration(seconds) == text


LABELS = {"app": "web", "n": "7"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app == web", True),
        ("app!=web", False),
        ("app in (api, web)", True),
        ("app notin (web)", False),
        ("tier notin (web)", True),
        ("!tier", True),
        ("tier", False),
        ("n>6,n<8", True),
        ("app=web,!app", False),
        ("tier=", False),
    ],
)
def test_label_selector(text: str, matches: bool) -> None:
    assert selectors.parse_label_selector(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a in x", "unable to parse requirement: found 'x' expected: '('"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
    ],
)
def test_label_selector_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        selectors.parse_label_selector(text)
    assert str(caught.value) == message


def test_label_selector_objects() -> None:
    build = selectors.label_selector_from
    assert not build(None).matches(LABELS)
    assert build({}).matches(LABELS) and build({}).empty
    assert build({"app": "web"}).matches(LABELS)
    assert build({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "n", "operator": "Exists"}]}).matches(LABELS)
    with pytest.raises(ValueError, match='"Like" is not a valid label selector operator'):
        build({"matchExpressions": [{"key": "n", "operator": "Like"}]})


def test_field_selector() -> None:
    parsed = selectors.parse_field_selector("metadata.name=a,status.phase!=Failed,x=a\\,b")
    assert parsed.requirements == (
        ("metadata.name", "=", "a"),
        ("status.phase", "!=", "Failed"),
        ("x", "=", "a,b"),
    )
    assert parsed.value_of("metadata.name") == "a"
    assert parsed.matches({"metadata.name": "a", "x": "a,b"})
    assert not parsed.matches({"metadata.name": "a", "status.phase": "Failed", "x": "a,b"})
    with pytest.raises(ValueError, match="can't understand 'nonsense'"):
        selectors.parse_field_selector("nonsense")


def test_json_duplicates_carry_paths() -> None:
    obj, texts = codec.decode_json(b'{"a":{"b":[{"c":1,"c":2}]},"a":{"b":[{"c":3,"c":4}]},"d":1}')
    assert obj == {"a": {"b": [{"c": 4}]}, "d": 1}
    assert texts == ['duplicate field "a"', 'duplicate field "a.b[0].c"']


def test_yaml_reads_as_upstream_does() -> None:
    body = b'a: 2026-01-01\nb: yes\nc: 0644\nd: 1:30\ne: "on"\nfoo: 1\nfoo: 2\nf: &x {g: 1}\nh: {<<: *x, i: 2}\nj: 1_000\nk:\n'
    obj, texts = codec.decode_yaml(body)
    assert texts == ['line 7: key "foo" already set in map']
    assert obj == {
        "a": "2026-01-01",
        "b": True,
        "c": 420,
        "d": "1:30",
        "e": "on",
        "foo": 2,
        "f": {"g": 1},
        "h": {"g": 1, "i": 2},
        "j": 1000,
        "k": None,
    }


YAML_SCALARS = [
    ("08", 8),
    ("010", 8),
    ("0o10", 8),
    ("0x10", 16),
    ("0b11", 3),
    ("1e3", 1000),
    ("3.0", 3),
    (".5", 0.5),
    ("1.5e-1", 0.15),
    ("+1", 1),
    ("-_", "-_"),
    ("1.2.3", "1.2.3"),
    ("1:30", "1:30"),
    ("~", None),
    ("'1'", "1"),
    ("!!str 1", "1"),
    ("off", False),
    ("Yes", True),
]


@pytest.mark.parametrize(("text", "value"), YAML_SCALARS, ids=[t for t, _ in YAML_SCALARS])
def test_yaml_scalars(text: str, value: object) -> None:
    obj, _ = codec.decode_yaml(f"a: {text}\n".encode())
    assert obj == {"a": value} and type(obj["a"]) is type(value)


def test_yaml_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(StatusError, match="excessive aliasing"):
        codec.decode_yaml("\n".join(lines).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"a":NaN}', b'{"a" 1}', b"[" * 100000, b"\xff\xfe"])
def test_unreadable_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(StatusError) as caught:
        codec.decode_json(body, "Pod")
    assert caught.value.code == 400
    assert caught.value.message.startswith("the object provided is unrecognized (must be of type Pod): ")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "unexpected end of JSON input"),
        (b'{"a":1', "unexpected end of JSON input"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        (b'{"a":x}', "invalid character 'x' looking for beginning of value"),
        (b'{"a":[1 2]}', "invalid character '2' after array element"),
        (b'{"a":[1] "b":2}', "invalid character '\"' after object key:value pair"),
        (b'{"a":[{} 2]}', "invalid character '2' after array element"),
        (b'{"a":1} x', "invalid character 'x' after top-level value"),
    ],
)
def test_json_errors_read_as_in_go(body: bytes, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        codec.decode_json(body)
    assert f"json parse error: {text} (" in caught.value.message


DEEP = [b"[", b'{"a":', b"- ", b"? "]


@pytest.mark.parametrize("opening", DEEP, ids=["list", "map", "block list", "complex key"])
@pytest.mark.parametrize("levels", [300, 3000, 300_000])
def test_deep_nesting_is_refused_before_anything_recurses(opening: bytes, levels: int) -> None:
    """PyYAML's composer overflows the C stack on such bodies, which would end the whole process."""
    body = b"x: \n  " + opening * levels
    with pytest.raises(StatusError):
        codec.decode_yaml(body)
    if opening in DEEP[:2]:
        closing = {b"[": b"]", b'{"a":': b"}"}[opening]
        with pytest.raises(StatusError):
            codec.decode_json(b'{"x":' + opening * levels + b"1" + closing * levels + b"}")


def test_many_brackets_in_a_row_are_fine() -> None:
    obj, _ = codec.decode_json(b'{"a":[' + b",".join([b'{"b":["[[[[{{{{"]}'] * 500) + b"]}")
    assert len(obj["a"]) == 500


def test_numbers_that_json_does_not_have_are_refused() -> None:
    obj, _ = codec.decode_json(b'{"a":1e400}')
    with pytest.raises(StatusError, match="not finite"):
        codec.encode(obj)


def test_clone_copies_everything() -> None:
    class Shared(dict[str, object]):
        """As the watch cache hands objects out."""

    inner = Shared(a=[Shared(b=1)])
    copied = codec.clone(Shared(x=inner))
    copied["x"]["a"][0]["b"] = 2
    assert inner == {"a": [{"b": 1}]} and type(copied) is dict and type(copied["x"]) is dict


def test_encode_orders_the_head_of_objects() -> None:
    obj = {"spec": {"b": 1}, "metadata": {"name": "ä"}, "apiVersion": "v1", "kind": "Pod"}
    body = codec.encode(obj)
    assert body == '{"kind":"Pod","apiVersion":"v1","metadata":{"name":"ä"},"spec":{"b":1}}'.encode()
    assert codec.loads(body) == obj
    assert codec.loads(codec.encode({"a": "\ud800"})) == {"a": "\ufffd"}


def test_object_meta() -> None:
    errors = validation.validate_object_meta({"name": "A", "labels": {"k": "-"}}, True)
    assert [e.field for e in errors] == ["metadata.name", "metadata.namespace", "metadata.labels"]
    assert "a lowercase RFC 1123 subdomain must consist of" in errors[0].detail
    assert validation.validate_object_meta({"name": "a.b", "namespace": "x"}, True) == []
    assert validation.validate_object_meta({"name": "system:a"}, False, "path-segment") == []
    assert validation.dns1123_label("a.b") == ["must not contain dots"]


def test_object_meta_update() -> None:
    old = {"name": "a", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
    new = {**old, "uid": "2", "finalizers": ["x.io/y"]}
    errors = [str(e) for e in validation.validate_object_meta_update(new, old)]
    assert errors[0].startswith("metadata.finalizers: Forbidden: no new finalizers can be added")
    assert errors[1] == 'metadata.uid: Invalid value: "2": field is immutable'
