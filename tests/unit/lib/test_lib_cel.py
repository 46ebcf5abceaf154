"""CEL: values, errors and compile errors of expressions."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.lib.cel import CompileError, EvaluationError, compile_expression

DATA: dict[str, Any] = {
    "object": {
        "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"replicas": 3, "items": [{"n": 1}, {"n": 2}], "ratio": 0.5, "none": None},
    },
    "oldObject": None,
}


def run(text: str) -> Any:
    return compile_expression(text, list(DATA)).evaluate(DATA)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7.0 / 2.0", 3.5),
        ("1 == 1.0", True),
        ("1 == true", False),
        ("'a' + \"b\"", "ab"),
        ("[1] + [2]", [1, 2]),
        ("r'a\\n'", "a\\n"),
        ("'a\\n\\u0041'", "a\nA"),
        ("true ? 1 : 2", 1),
        ("false ? 1 : true ? 2 : 3", 2),
        ("!true || 1 < 2", True),
        ("object.spec.replicas <= 5", True),
        ("object['spec'].replicas > 3", False),
        ("has(object.spec.replicas)", True),
        ("has(object.spec.nope)", False),
        ("has(object.metadata.labels.a) && object.metadata.labels.a == 'b'", True),
        ("oldObject == null", True),
        ("object.spec.nope == 1 || true", True),
        ("false && object.spec.nope == 1", False),
        ("object.spec.items.all(i, i.n > 0)", True),
        ("object.spec.items.exists(i, i.n == 2)", True),
        ("object.spec.items.exists_one(i, i.n > 0)", False),
        ("object.spec.items.map(i, i.n * 2)", [2, 4]),
        ("object.spec.items.map(i, i.n > 1, i.n)", [2]),
        ("object.spec.items.filter(i, i.n > 1).size()", 1),
        ("object.metadata.labels.all(k, k.startsWith('a'))", True),
        ("'b' in ['a', 'b']", True),
        ("'a' in object.metadata.labels", True),
        ("size('abc') + size([1]) + size({'a': 1})", 5),
        ("'web-1'.matches('^web-[0-9]+$')", True),
        ("'a,b'.split(',')", ["a", "b"]),
        ("'Web'.lowerAscii() + string(3) + string(true)", "web3true"),
        ("int('12') + 1", 13),
        ("{'a': [1, 2]}.a[1]", 2),
        ("['a', 'b'].join('-')", "a-b"),
        ("type(1) == type(2)", True),
        ("object.spec.replicas > 2 // a comment", True),
    ],
)
def test_value(text: str, value: Any) -> None:
    result = run(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("object.spec.nope", "no such key: nope"),
        ("1 / 0", "division by zero"),
        ("1 + 'a'", "no such overload"),
        ("1 && true", "no such overload"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("[1][1]", "index out of bounds"),
        ("object.spec.replicas.startsWith('a')", "no such overload: startsWith(int, string)"),
        ("'a'.matches('(')", "error parsing regexp"),
        ("oldObject.spec", "no such overload: null_type.spec"),
    ],
)
def test_evaluation_error(text: str, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        run(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Syntax error"),
        ("1 +", "Syntax error"),
        ("(1", "Syntax error"),
        ("nope.spec", "undeclared reference to 'nope' (in container '')"),
        ("nope(1)", "undeclared reference to 'nope' (in container '')"),
        ("object.nope()", "undeclared reference to 'nope' (in container '')"),
        ("has(1)", "invalid argument to has() macro"),
        ("has(object)", "invalid argument to has() macro"),
        ("has(object.a + object.b)", "invalid argument to has() macro"),
        ("1 # 2", "token recognition error"),
        ("[1].map(i)", "wrong number of arguments"),
        ("[1].all(i, i > 0) && i", "undeclared reference to 'i'"),
        ("(" * 300 + "1" + ")" * 300, "nested too deeply"),
        ("!" * 300 + "true", "nested too deeply"),
    ],
)
def test_compile_error(text: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        compile_expression(text, list(DATA))
    assert message in str(caught.value)


def test_endless_work_is_cut() -> None:
    items = list(range(200))
    program = compile_expression("x.all(a, x.all(b, x.all(c, true)))", ["x"])
    with pytest.raises(EvaluationError, match="cost limit"):
        program.evaluate({"x": items})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("object.?spec.?replicas.orValue(0)", 3),
        ("object.?nope.?replicas.orValue(7)", 7),
        ("object.?nope.hasValue()", False),
        ("object.spec.?replicas.value()", 3),
        ("object.spec.items[?5].hasValue()", False),
        ("[?object.?nope, ?object.spec.?replicas]", [3]),
        ("{?'a': object.?nope, 'b': 1}", {"b": 1}),
        ("object.?spec.optMap(s, s.replicas + 1).orValue(0)", 4),
        ("optional.none().or(optional.of(2)).value()", 2),
        ("optional.ofNonZeroValue('').hasValue()", False),
        ("has(object.?spec.replicas)", True),
        ("cel.bind(x, object.spec.replicas, x * x)", 9),
        ("type('a') == string && type(1) != string", True),
        ("type(timestamp('2020-01-01T00:00:00Z')) == google.protobuf.Timestamp", True),
        ("timestamp('2020-01-02T00:00:00Z') - timestamp('2020-01-01T00:00:00Z') == duration('24h')", True),
        ("timestamp('2020-01-02T00:00:00Z') + duration('1h30m') > timestamp('2020-01-02T01:00:00+00:00')", True),
        ("timestamp('2020-03-01T10:20:30Z').getMonth()", 2),
        ("duration('90m').getHours()", 1),
        ("string(duration('1.5s'))", "1.5s"),
        ("string(timestamp('2020-01-02T01:00:00+01:00'))", "2020-01-02T00:00:00Z"),
        ("'%s has %d of %.1f'.format(['web', 3, 2.0])", "web has 3 of 2.0"),
        ("'%s %s'.format([[1, 'a'], {'k': true}])", "[1, a] {k: true}"),
        ("'%x %b %%'.format([255, 5])", "ff 101 %"),
        ("sets.contains([1, 2, 3], [2, 1])", True),
        ("sets.equivalent([1, 1, 2], [2, 1])", True),
        ("sets.intersects([1], [2])", False),
        ("math.greatest(1, 5, 3) + math.least([4, 2])", 7),
        ("[3, 1, 2].sort()", [1, 2, 3]),
        ("object.spec.items.sortBy(i, -i.n).map(i, i.n)", [2, 1]),
        ("[1, 2, 2].distinct()", [1, 2]),
        ("[[1], [2, [3]]].flatten()", [1, 2, [3]]),
        ("lists.range(3).slice(1, 3)", [1, 2]),
        ("['a', 'b'].transformMap(i, v, v + string(i))", {0: "a0", 1: "b1"}),
        ("{'a': 1}.all(k, v, k == 'a' && v == 1)", True),
        ("{'a': 1, 'b': 2}.transformList(k, v, v > 1, k)", ["b"]),
        ("'ab'.reverse() + 'a\"'.size().format([]) == ''", None),
        ("base64.decode('YWI=') == b'ab'", True),
        ("bytes('é') == b'\\xc3\\xa9'", True),
        ("'abc'.find('b.') + string('a1b2'.findAll('[0-9]').size())", "bc2"),
        ("strings.quote('a\"b')", '"a\\"b"'),
        ("object.metadata.labels.`a`", "b"),
    ],
)
def test_extensions(text: str, value: Any) -> None:
    if value is None:
        with pytest.raises(EvaluationError):
            run(text)
    else:
        assert run(text) == value
