"""Bytes to objects and back: JSON and YAML bodies, duplicate keys, compact JSON. Typed checking is ``conform``.

Sources of the wording: ``sigs.k8s.io/json`` (strict errors), ``sigs.k8s.io/yaml``, ``endpoints/handlers/rest.go``
(``transformDecodeError``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import Obj, StatusError, bad_request

__all__ = [
    "clone",
    "conform",
    "decode_error",
    "decode_json",
    "decode_yaml",
    "encode",
    "in_document_order",
    "loads",
    "strict_error",
]

MAX_DEPTH = 250
"""Nesting of untrusted bodies; everything behind the decoder may recurse without looking."""
_CONTAINERS = (dict, list)
_FIRST = ("kind", "apiVersion", "metadata")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_dumps: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode


def loads(body: bytes) -> Any:
    """The value of trusted JSON bytes (from the store, from a server)."""
    return _plain.decode(body.decode())


def clone(value: Any) -> Any:
    """A deep copy of a JSON value, several times faster than ``copy.deepcopy``; subclasses become plain dicts."""
    if isinstance(value, dict):
        return {k: clone(v) if isinstance(v, _CONTAINERS) else v for k, v in value.items()}
    if isinstance(value, list):
        return [clone(v) if isinstance(v, _CONTAINERS) else v for v in value]
    return value


def encode(obj: Any) -> bytes:
    """Compact JSON. An object's ``kind``, ``apiVersion`` and ``metadata`` come first, which the watch cache relies on.

    Raises StatusError 400 for numbers JSON does not have."""
    if isinstance(obj, dict) and "metadata" in obj:
        obj = _ordered(obj)
    try:
        text = _dumps(obj)
    except ValueError:  # 1e400, or NaN in a part of a body that is not looked into
        raise bad_request("json: unsupported value: a number is not finite") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which Go replaces too
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _ordered(obj: Obj) -> Obj:
    keys = [key for key in _FIRST if key in obj]
    if list(obj)[: len(keys)] == keys:
        return obj
    out = {key: obj[key] for key in keys}
    out.update(obj)
    return out


class _Duplicates(dict[str, Any]):
    """An object in which ``names`` were given more than once; the last value counts."""

    names: tuple[str, ...] = ()


class _Pairs:
    """``object_pairs_hook`` that only notes whether any object repeats a key."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) == len(pairs):
            return out
        self.found = True
        marked = _Duplicates(out)
        counts = Counter(name for name, _ in pairs)
        marked.names = tuple(name for name, count in counts.items() if count > 1)
        return marked


def _refuse_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"invalid character {name[:1]!r} looking for beginning of value", name, 0)


_plain = json.JSONDecoder()


def decode_json(body: bytes, expected_kind: str = "") -> tuple[Any, list[str]]:
    """The value of an untrusted body, and ``duplicate field "spec.replicas"`` texts. The last of duplicates counts.

    Raises StatusError 400 with upstream's wording for what is not a JSON object; ``expected_kind`` is named in it.
    """
    hook = _Pairs()
    try:
        _require_depth(body)
        value = json.JSONDecoder(object_pairs_hook=hook, parse_constant=_refuse_constant).decode(body.decode())
    except (ValueError, RecursionError) as err:
        raise _unreadable(body, expected_kind, _go_text(body, err)) from None
    if not isinstance(value, dict):
        kind = _json_type(value)
        text = f"json: cannot unmarshal {kind} into Go value of type struct {{ APIVersion string; Kind string }}"
        raise _unreadable(body, expected_kind, text)
    texts: list[str] = []
    if hook.found:
        value = _plain_dict(value, "", texts)
    return value, texts


def _require_depth(body: bytes) -> None:
    """RecursionError for a body nested more than ``MAX_DEPTH``; most bodies have not even so many brackets."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise RecursionError


_GO_PLACES = {
    "Expecting value": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Extra data": "after top-level value",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}


def _go_text(body: bytes, err: Exception) -> str:
    """The parse error in the words of Go's ``encoding/json``."""
    if isinstance(err, RecursionError):
        return "exceeded max depth"
    if not isinstance(err, json.JSONDecodeError):
        return str(err)
    if err.pos >= len(err.doc.rstrip()) or err.msg.startswith("Unterminated string"):
        return "unexpected end of JSON input"
    place = _GO_PLACES.get(err.msg.removesuffix(": "), "")
    if err.msg == "Expecting ',' delimiter":
        rest = _STRINGS.sub(b"", err.doc[: err.pos].encode()).translate(None, _NO_BRACKETS)
        depth = list(accumulate(map(_STEPS.__getitem__, rest)))
        opened = next((b for b, d in zip(reversed(rest), reversed(depth), strict=True) if d == depth[-1] and _STEPS[b] > 0), 0)
        place = "after array element" if opened == ord("[") else "after object key:value pair"
    return f"invalid character {err.doc[err.pos]!r} {place or err.msg}"


def _unreadable(body: bytes, expected_kind: str, text: str) -> StatusError:
    kind = f" (must be of type {expected_kind})" if expected_kind else ""
    summary = body[:30].decode("utf-8", "replace") + (" ..." if len(body) > 30 else "")
    return bad_request(
        f"the object provided is unrecognized{kind}: couldn't get version/kind; json parse error: {text} ({summary})"
    )


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "null" if value is None else "array" if isinstance(value, list) else "object"


def _plain_dict(value: Any, path: str, texts: list[str]) -> Any:
    if isinstance(value, dict):
        for name in getattr(value, "names", ()):
            texts.append(f'duplicate field "{path}.{name}"' if path else f'duplicate field "{name}"')
        return {k: _plain_dict(v, f"{path}.{k}" if path else k, texts) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain_dict(item, f"{path}[{i}]", texts) for i, item in enumerate(value)]
    return value


def in_document_order(body: bytes, texts: list[str]) -> list[str]:
    """``texts`` about unknown and duplicate fields of a JSON body, in the order in which upstream's decoder meets them."""
    found: dict[str, int] = {}

    def walk(value: Any, path: str) -> None:
        if type(value) is tuple:
            seen = set()
            for key, item in value:
                here = f"{path}.{key}" if path else key
                kind = "duplicate" if key in seen else "unknown"
                seen.add(key)
                found.setdefault(f'{kind} field "{here}"', len(found))
                walk(item, here)
        elif type(value) is list:
            for i, item in enumerate(value):
                walk(item, f"{path}[{i}]")

    walk(json.JSONDecoder(object_pairs_hook=tuple).decode(body.decode()), "")
    return sorted(texts, key=lambda text: found.get(text, len(found)))


def decode_error(kind: str, version: str, expected_kind: str, text: str) -> StatusError:
    """400 for a body that cannot be this kind. Source: ``transformDecodeError``."""
    return bad_request(f'{kind} in version "{version}" cannot be handled as a {expected_kind}: {text}')


def strict_error(kind: str, version: str, texts: list[str]) -> StatusError:
    """400 for ``fieldValidation=Strict``."""
    return decode_error(kind, version, kind, "strict decoding error: " + ", ".join(dict.fromkeys(texts)))


_MAX_YAML_NODES = 1_000_000
_loader: Any = None


def _yaml_loader() -> Any:
    """A parser that resolves scalars as ``sigs.k8s.io/yaml`` does: YAML 1.1 without timestamps and base 60."""
    global _loader
    if _loader is None:
        import yaml

        base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

        class Loader(base):
            yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

        add = Loader.add_implicit_resolver
        booleans = "y Y yes Yes YES n N no No NO true True TRUE false False FALSE on On ON off Off OFF"
        add("tag:yaml.org,2002:bool", re.compile(f"(?:{'|'.join(booleans.split())})\\Z"), list("yYnNtTfFoO"))
        number = r"[-+]?0b[01_]+\Z|[-+]?0o?[0-7_]+\Z|[-+]?0x[0-9a-fA-F_]+\Z|[-+]?(?:0|[1-9][0-9_]*)\Z"
        add("tag:yaml.org,2002:int", re.compile(number), list("-+0123456789"))
        real = r"[-+]?(?:[0-9][0-9_]*)?\.?[0-9_]+(?:[eE][-+]?[0-9]+)?\Z|[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?\Z"
        add("tag:yaml.org,2002:float", re.compile(real), list("-+.0123456789"))
        add("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
        add("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])
        _loader = Loader
    return _loader


def decode_yaml(body: bytes, expected_kind: str = "") -> tuple[Any, list[str]]:
    """As ``decode_json`` for the first document of a YAML body; duplicates read ``line 9: key "foo" already set in map``."""
    import yaml

    texts: list[str] = []
    loader = _yaml_loader()(body)
    try:
        value = _YAMLReader(loader, texts).document()
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(err, "problem", None) or str(err)
        raise bad_request(f"error decoding YAML: yaml: {where}{problem}") from None
    except ValueError as err:
        raise bad_request(f"error decoding YAML: yaml: {err}") from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise _unreadable(
            body,
            expected_kind,
            f"json: cannot unmarshal {_json_type(value)} into Go value of type struct {{ APIVersion string; Kind string }}",
        )
    return value, texts


class _MergeKey(str):
    """The key ``<<``."""


class _YAMLReader:
    """Values from parser events, bounded in depth and size: PyYAML's own composer recurses in C without a limit, and
    aliases could multiply a small body into a huge object."""

    def __init__(self, loader: Any, texts: list[str]) -> None:
        import yaml

        self._loader = loader
        self._texts = texts
        self._left = _MAX_YAML_NODES
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._scalar_node = yaml.ScalarNode
        self._alias, self._scalar = yaml.AliasEvent, yaml.ScalarEvent
        self._sequence, self._sequence_end = yaml.SequenceStartEvent, yaml.SequenceEndEvent
        self._mapping_end = yaml.MappingEndEvent

    def document(self) -> Any:
        import yaml

        while True:
            event = self._loader.get_event()
            if event is None or isinstance(event, yaml.StreamEndEvent):
                return None
            if isinstance(event, yaml.DocumentStartEvent):
                return self._node(self._loader.get_event(), 0)

    def _spend(self, nodes: int) -> None:
        self._left -= nodes
        if self._left < 0:
            raise ValueError("document contains excessive aliasing")

    def _node(self, event: Any, depth: int) -> Any:
        if isinstance(event, self._alias):
            if event.anchor not in self._anchors:
                raise ValueError(f"line {event.start_mark.line + 1}: unknown anchor '{event.anchor}' referenced")
            value, size = self._anchors[event.anchor]
            self._spend(size)
            return clone(value)
        self._spend(1)
        if depth > MAX_DEPTH:
            raise ValueError("exceeded max depth")
        before = self._left
        if isinstance(event, self._scalar):
            value = self._scalar_value(event)
        elif isinstance(event, self._sequence):
            value = []
            while not isinstance(inner := self._loader.get_event(), self._sequence_end):
                value.append(self._node(inner, depth + 1))
        else:
            value = self._mapping(depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, before - self._left + 1)
        return value

    def _mapping(self, depth: int) -> Obj:
        out: Obj = {}
        merged: Obj = {}
        while not isinstance(event := self._loader.get_event(), self._mapping_end):
            line = event.start_mark.line + 1
            key = self._node(event, depth + 1)
            if isinstance(key, dict | list):
                raise ValueError(f"line {line}: invalid map key")
            value = self._node(self._loader.get_event(), depth + 1)
            if isinstance(key, _MergeKey):
                for source in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(source, dict):
                        raise ValueError(f"line {line}: map merge requires map or sequence of maps as the value")
                    merged.update(source)
                continue
            name = _key_text(key)
            if name in out:
                self._texts.append(f'line {line}: key "{name}" already set in map')
            out[name] = value
        for name, value in merged.items():
            out.setdefault(name, value)
        return out

    def _scalar_value(self, event: Any) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(self._scalar_node, event.value, event.implicit)
        kind, text = tag.rpartition(":")[2], event.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("y", "yes", "true", "on")
        if kind == "int":
            return _yaml_int(text)
        if kind == "float":
            return _yaml_float(text)
        return _MergeKey(text) if kind == "merge" else text


def _key_text(key: Any) -> str:
    """A map key as JSON has it."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def _yaml_float(text: str) -> Any:
    """Whole numbers come out as integers, as they do on Go's way through JSON; what is no number after all stays text."""
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        return text
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def _yaml_int(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    for prefix, base in (("0b", 2), ("0o", 8), ("0x", 16)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    if len(digits) > 1 and digits.startswith("0"):
        return sign * int(digits, 8)
    return sign * int(digits)
