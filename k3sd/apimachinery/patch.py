"""The three kinds of patch that need no field ownership: JSON patch, JSON merge patch, strategic merge patch.

All are pure: the given object and patch stay as they are, the result shares nothing with them. Sources: RFC 6902 as
``evanphx/json-patch`` reads it, RFC 7386, ``apimachinery/pkg/util/strategicpatch/patch.go``,
``apiserver/pkg/endpoints/handlers/patch.go`` (limits and error codes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from k3sd.apimachinery.codec import clone, encode
from k3sd.apimachinery.errors import Obj, StatusError, bad_request, go_value
from k3sd.apimachinery.schema import SCALARS, Field, Type, types

MAX_OPERATIONS = 10_000
MAX_COPIED_BYTES = 3 * 1024 * 1024
_MISSING: Any = object()


def _unprocessable(text: str) -> StatusError:
    """422 as ``NewGenericServerResponse`` words it; the cause says what was wrong."""
    cause = {"reason": "UnexpectedServerResponse", "message": text, "field": "patch"}
    return StatusError(422, "Invalid", "the server rejected our request due to an error in our request", {"causes": [cause]})


# JSON patch


def json_patch(obj: Obj, operations: Any) -> Any:
    """``obj`` after the RFC 6902 operations. 400 for a malformed patch, 413 for too many operations, 422 where one fails."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp")
    if len(operations) > MAX_OPERATIONS:
        raise StatusError(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}",
        )
    document = _Document(clone(obj))
    for operation in operations:
        if not isinstance(operation, dict):
            raise bad_request("error decoding patch: json: cannot unmarshal value into Go value of type jsonpatch.Operation")
        document.apply(operation)
    return document.root


def _pointer(operation: Obj, name: str) -> list[str]:
    text = operation.get(name)
    if not isinstance(text, str):
        raise _unprocessable(f"{operation.get('op')} operation does not have a valid {name!r}")
    if text and not text.startswith("/"):
        raise _unprocessable(f"{operation.get('op')} operation: {name} {go_value(text)} must be empty or start with '/'")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


class _Document:
    """The document being patched."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._copied = 0

    def apply(self, operation: Obj) -> None:
        op = operation.get("op")
        path = _pointer(operation, "path")
        if op == "test":
            self._test(path, operation)
        elif op == "remove":
            self._remove(path)
        elif op == "add":
            self._add(path, self._value(operation))
        elif op == "replace":
            self._replace(path, self._value(operation))
        elif op == "move":
            source = _pointer(operation, "from")
            value = self._get(source)
            self._remove(source)
            self._add(path, value)
        elif op == "copy":
            value = clone(self._get(_pointer(operation, "from")))
            self._copied += len(encode(value))
            if self._copied > MAX_COPIED_BYTES:
                raise _unprocessable(f"unable to copy, the accumulated size increase of copy exceeds {MAX_COPIED_BYTES}")
            self._add(path, value)
        else:
            raise _unprocessable(f"unexpected kind: {op}")

    @staticmethod
    def _value(operation: Obj) -> Any:
        if "value" not in operation:
            raise _unprocessable(f"{operation['op']} operation: missing value")
        return clone(operation["value"])

    @staticmethod
    def _text(path: list[str]) -> str:
        return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)

    def _child(self, node: Any, part: str, path: list[str]) -> Any:
        if isinstance(node, dict):
            return node.get(part, _MISSING)
        if isinstance(node, list):
            index = self._index(part, len(node), path)
            return node[index] if index < len(node) else _MISSING
        return _MISSING

    def _index(self, part: str, size: int, path: list[str]) -> int:
        digits = part.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise _unprocessable(f"{self._text(path)}: {go_value(part)} is not an array index")
        index = int(part)
        return index + size if index < 0 else index

    def _parent(self, path: list[str], op: str) -> Any:
        node = self.root
        for part in path[:-1]:
            node = self._child(node, part, path)
            if node is _MISSING:
                break
        if not isinstance(node, dict | list):
            raise _unprocessable(
                f"{op} operation does not apply: doc is missing path: {go_value(self._text(path))}: missing value"
            )
        return node

    def _get(self, path: list[str]) -> Any:
        node = self.root
        for part in path:
            node = self._child(node, part, path)
            if node is _MISSING:
                raise _unprocessable(f"doc is missing path: {go_value(self._text(path))}: missing value")
        return node

    def _test(self, path: list[str], operation: Obj) -> None:
        expected = operation.get("value")
        try:
            found = self._get(path)
        except StatusError:
            if expected is None:
                return
            raise
        if not _same(found, expected):
            raise _unprocessable(f"testing value {self._text(path)} failed: test failed")

    def _remove(self, path: list[str]) -> None:
        if not path:
            raise _unprocessable("remove operation does not apply: the whole document cannot be removed")
        parent = self._parent(path, "remove")
        if isinstance(parent, dict):
            if path[-1] not in parent:
                text = go_value(path[-1])
                raise _unprocessable(f"Unable to remove nonexistent key: {text}: missing value")
            del parent[path[-1]]
            return
        index = self._index(path[-1], len(parent), path)
        if not 0 <= index < len(parent):
            raise _unprocessable(f"Unable to access invalid index: {path[-1]}: invalid index referenced")
        del parent[index]

    def _add(self, path: list[str], value: Any) -> None:
        if not path:
            self.root = value
            return
        parent = self._parent(path, "add")
        if isinstance(parent, dict):
            parent[path[-1]] = value
            return
        if path[-1] == "-":
            parent.append(value)
            return
        # A negative index counts from the end of the grown list, as json-patch does.
        index = self._index(path[-1], len(parent) + 1, path)
        if not 0 <= index <= len(parent):
            raise _unprocessable(f"Unable to access invalid index: {path[-1]}: invalid index referenced")
        parent.insert(index, value)

    def _replace(self, path: list[str], value: Any) -> None:
        if not path:
            self.root = value
            return
        parent = self._parent(path, "replace")
        if isinstance(parent, dict):
            if path[-1] not in parent:
                text = go_value(self._text(path))
                raise _unprocessable(f"replace operation does not apply: doc is missing key: {text}: missing value")
            parent[path[-1]] = value
            return
        index = self._index(path[-1], len(parent), path)
        if not 0 <= index < len(parent):
            raise _unprocessable(f"Unable to access invalid index: {path[-1]}: invalid index referenced")
        parent[index] = value


def _same(a: Any, b: Any) -> bool:
    """JSON equality: true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


# JSON merge patch


def merge_patch(obj: Any, patch: Any) -> Any:
    """``obj`` after the RFC 7386 patch. 400 when the patch is no object."""
    if not isinstance(patch, dict):
        raise bad_request("Invalid JSON Patch")
    return _merge(obj, patch)


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return clone(patch)
    base = target if isinstance(target, dict) else {}
    out = {key: clone(value) for key, value in base.items() if key not in patch}
    # Keys keep their place, so that a patch that changes nothing yields equal bytes.
    if len(out) != len(base):
        out = {}
        for key, value in base.items():
            if key not in patch:
                out[key] = clone(value)
            elif patch[key] is not None:
                out[key] = _merge(value, patch[key])
    for key, value in patch.items():
        if key not in base and value is not None:
            out[key] = _merge(None, value)
    return out


# Strategic merge patch

_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"
_BAD_REQUEST = {
    "primitive": "invalid patch format of primitive list",
    "retain": "invalid patch format of retainKeys",
    "order": "invalid patch format of setElementOrder list",
}


def strategic_merge_patch(obj: Obj, patch: Any, type_: Type | str) -> Obj:
    """``obj`` after the strategic merge patch, by the merge keys and strategies of ``type_``.

    400 for a malformed patch, 422 for lists of lists, 500 where upstream answers so (an item without its merge key).
    """
    if not isinstance(patch, dict):
        raise bad_request("invalid JSON document")
    if isinstance(type_, str):
        type_ = types.get(type_)
    merged: Obj = _merge_map(clone(obj), clone(patch), type_)
    return merged


def _fail(text: str) -> StatusError:
    return StatusError(500, "InternalError", text)


def _sub(type_: Type | None, name: str) -> tuple[Field | None, Type | None]:
    """The field, and the type its maps or items have. Both None inside free-form values and label maps."""
    field = type_.fields.get(name) if type_ is not None else None
    if field is None or field.type in SCALARS:
        return field, None
    return field, types.get(field.type)


def _merge_map(original: Any, patch: Obj, type_: Type | None) -> Any:
    directive = patch.pop("$patch", None)
    if directive == "replace":
        return patch
    if directive == "delete":
        return {}
    if directive is not None:
        raise _fail(f"unknown patch type: {directive} in map: {go_value(patch)}")
    _retain_keys(original, patch)
    _apply_order(original, patch, type_)
    for key, value in patch.items():
        is_delete_list = key.startswith(_DELETE)
        if is_delete_list:
            key = key[len(_DELETE) :]
            if not isinstance(value, list):
                raise bad_request(_BAD_REQUEST["primitive"])
        if value is None:
            original.pop(key, None)
            continue
        current = original.get(key)
        if _kind(current) is not _kind(value):
            if not is_delete_list:
                _set(original, key, _strip_nulls(value))
        elif isinstance(value, dict):
            original[key] = _merge_field_map(current, value, type_, key)
        elif isinstance(value, list):
            field, item = _sub(type_, key)
            original[key] = _merge_list(current, value, field, item, is_delete_list)
        else:
            original[key] = value
    return original


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def _merge_field_map(current: Obj, patch: Obj, type_: Type | None, key: str) -> Any:
    field, sub = _sub(type_, key)
    if field is not None and "replace" in field.strategy:
        return patch
    if field is not None and field.container:
        # The values of a map have the item's type, one level down.
        merged = _merge_map(current, patch, None) if sub is None else _merge_keyed(current, patch, sub)
        return merged
    return _merge_map(current, patch, sub)


def _merge_keyed(current: Obj, patch: Obj, sub: Type) -> Obj:
    if patch.pop("$patch", None) is not None:
        return patch
    for key, value in patch.items():
        if value is None:
            current.pop(key, None)
        elif isinstance(value, dict) and isinstance(current.get(key), dict):
            current[key] = _merge_map(current[key], value, sub)
        else:
            _set(current, key, _strip_nulls(value))
    return current


def _set(target: Obj, key: str, value: Any) -> None:
    value, keep = _without_directives(value)
    if keep:
        target[key] = value
    else:
        target.pop(key, None)


def _strip_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _strip_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_strip_nulls(v) for v in value]
    return value


def _without_directives(value: Any) -> tuple[Any, bool]:
    """Source: ``removeDirectives``: new content carries no directives; a map with ``$patch`` is dropped."""
    if isinstance(value, dict):
        if "$patch" in value:
            return None, False
        kept = {k: _without_directives(v) for k, v in value.items() if not k.startswith((_ORDER, _DELETE, "$retainKeys"))}
        return {k: v for k, (v, keep) in kept.items() if keep}, True
    if isinstance(value, list):
        return [v for v, keep in map(_without_directives, value) if keep], True
    return value, True


def _retain_keys(original: Obj, patch: Obj) -> None:
    keep = patch.pop("$retainKeys", _MISSING)
    if keep is _MISSING:
        return
    if not isinstance(keep, list):
        raise bad_request(_BAD_REQUEST["retain"])
    for key, value in patch.items():
        if value is not None and not key.startswith((_ORDER, _DELETE)) and key not in keep:
            raise bad_request(_BAD_REQUEST["retain"])
    for key in [key for key in original if key not in keep]:
        del original[key]


def _apply_order(original: Obj, patch: Obj, type_: Type | None) -> None:
    """Source: ``mergePatchIntoOriginal``: lists with ``$setElementOrder`` are merged and ordered here."""
    for directive in [key for key in patch if key.startswith(_ORDER)]:
        order = patch.pop(directive)
        name = directive[len(_ORDER) :]
        current, given = original.get(name), patch.get(name)
        if not isinstance(order, list) or not isinstance(given, list | None) or not isinstance(current, list | None):
            raise bad_request(_BAD_REQUEST["order"])
        field, item = _sub(type_, name)
        key = field.merge_key if field is not None else ""
        if given and order:
            _check_order(given, order, key)
        if current is None and given is None:
            continue
        server = list(current or ())
        if given is None:
            merged = server
        elif current is None:
            merged = _without_directives(given)[0]
        else:
            merged = _merge_list(clone(current), given, field, item, False)
        if merged or order:
            ident = _identity(key)
            wanted = [ident(entry) for entry in order]
            inside = sorted((v for v in merged if ident(v) in wanted), key=lambda v: wanted.index(ident(v)))
            outside = [v for v in merged if ident(v) not in wanted]
            merged = _interleave(outside, inside, _shifted(server, given or [], ident), ident)
        original[name] = merged
        patch.pop(name, None)


def _shifted(server: list[Any], given: list[Any], ident: Callable[[Any], Any]) -> list[Any]:
    """The server's order as upstream sees it behind deletions: it deletes in place, and new items fill the room at the end."""
    deleted = {ident(v) for v in given if isinstance(v, dict) and v.get("$patch") == "delete"}
    left = [v for v in server if ident(v) not in deleted]
    known = {ident(v) for v in server}
    new = [v for v in given if not (isinstance(v, dict) and "$patch" in v) and ident(v) not in known]
    return left + new[: len(server) - len(left)]


def _check_order(given: list[Any], order: list[Any], key: str) -> None:
    ident = _identity(key)
    wanted = iter([ident(entry) for entry in order])
    for entry in given:
        if isinstance(entry, dict) and "$patch" in entry:
            continue
        if not any(ident(entry) == other for other in wanted):
            raise _fail(
                f"The order in patch list:\n{go_value(given)}\n doesn't match $setElementOrder list:\n{go_value(order)}\n"
            )


def _identity(key: str) -> Callable[[Any], Any]:
    def of(entry: Any) -> Any:
        if not isinstance(entry, dict):
            return ("", repr(entry))
        if key not in entry:
            raise _fail(f"map: {go_value(entry)} does not contain declared merge key: {key}")
        return (key, repr(entry[key]))

    return of


def _merge_list(current: list[Any], patch: list[Any], field: Field | None, item: Type | None, is_delete: bool) -> list[Any]:
    """Source: ``mergeSliceHandler`` and ``mergeSlice``."""
    if not is_delete and (field is None or "merge" not in field.strategy):
        return patch
    if not current and not patch:
        return current
    both = [*current, *patch]
    if any(isinstance(entry, list) for entry in both):
        raise _unprocessable("lists of lists are not supported")
    if len({_kind(entry) for entry in both}) > 1:
        raise _fail(f"list element types are not identical: {go_value([current, patch])}")
    if not isinstance(both[0], dict):
        if is_delete:
            return [entry for entry in current if entry not in patch]
        ident = _identity("")
        merged: list[Any] = list({ident(entry): entry for entry in both}.values())
        server = current
    else:
        key = field.merge_key if field is not None else ""
        if not key:
            raise _fail(f"cannot merge lists without merge key for {item.short if item else ''}")
        ident = _identity(key)
        server, patch = _special_items(current, patch, ident, key)
        merged = _merge_items(server, patch, ident, item)
    named = [ident(entry) for entry in patch]
    inside = sorted((v for v in merged if ident(v) in named), key=lambda v: named.index(ident(v)))
    outside = [v for v in merged if ident(v) not in named]
    return _interleave(outside, inside, server, ident)


def _special_items(current: list[Any], patch: list[Any], ident: Callable[[Any], Any], key: str) -> tuple[list[Any], list[Any]]:
    """Source: ``mergeSliceWithSpecialElements``: items that delete others or replace the whole list."""
    plain: list[Any] = []
    replace = False
    for entry in patch:
        directive = entry.get("$patch")
        if directive is None:
            plain.append(entry)
        elif directive == "delete":
            gone = ident(entry)
            current = [other for other in current if ident(other) != gone]
        elif directive == "replace":
            replace = True
        elif directive == "merge":
            raise _fail("merging lists cannot yet be specified in the patch")
        else:
            raise _fail(f"unknown patch type: {directive} in map: {go_value(entry)}")
    return (plain, []) if replace else (current, plain)


def _merge_items(current: list[Any], patch: list[Any], ident: Callable[[Any], Any], item: Type | None) -> list[Any]:
    merged = list(current)
    places: dict[Any, int] = {}
    for i, entry in enumerate(merged):
        places.setdefault(ident(entry), i)
    for entry in patch:
        name = ident(entry)
        at = places.get(name)
        if at is None:
            places[name] = len(merged)
            merged.append(_without_directives(_strip_nulls(entry))[0])
        else:
            merged[at] = _merge_map(merged[at], entry, item)
    return merged


def _interleave(server_only: list[Any], from_patch: list[Any], server: list[Any], ident: Callable[[Any], Any]) -> list[Any]:
    """Source: ``mergeSortedSlice``: both orders are kept; where they do not say, the patch's items come first."""
    places: dict[Any, int] = {}
    for i, entry in enumerate(server):
        places.setdefault(ident(entry), i)
    out: list[Any] = []
    i = j = 0
    while i < len(server_only) and j < len(from_patch):
        left, right = places.get(ident(server_only[i])), places.get(ident(from_patch[j]))
        if left is not None and right is not None and left < right:
            out.append(server_only[i])
            i += 1
        else:
            out.append(from_patch[j])
            j += 1
    return out + server_only[i:] + from_patch[j:]
