"""Sets of fields in their stored form, and the walks of server-side apply over objects.

A set is the ``FieldsV1`` tree itself: ``f:name`` is a field, ``k:{...}`` an item of a list map, ``v:...`` an item of a set; an
empty subtree is a member, ``.`` makes a path with children a member too. So nothing is converted to read or write managed
fields. Source: ``structured-merge-diff`` (``fieldpath``, ``typed``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from k3sd.apimachinery.errors import Obj, go_value
from k3sd.apimachinery.shape import ANY, Shape

Tree = dict[str, Any]
_MISSING: Any = object()
_DOT = "."


class ShapeError(ValueError):
    """The object does not fit its type; the text has the path in front."""


# Sets


def is_member(tree: Tree) -> bool:
    return not tree or _DOT in tree


def union(a: Tree, b: Tree) -> Tree:
    """Both sets' members. Shares subtrees: treat results as read-only."""
    out = dict(a)
    for key, theirs in b.items():
        ours = out.get(key)
        if ours is None:
            out[key] = theirs
        elif key != _DOT and ours is not theirs:
            merged = union(ours, theirs)
            if merged and is_member(ours) | is_member(theirs):
                merged[_DOT] = {}
            out[key] = merged
    return out


def difference(a: Tree, b: Tree) -> Tree:
    """The members of ``a`` that are not in ``b``; paths without members vanish."""
    out: Tree = {}
    for key, ours in a.items():
        theirs = b.get(key)
        if theirs is None:
            out[key] = ours
            continue
        if key == _DOT:
            continue
        member = is_member(ours) and not is_member(theirs)
        rest = difference({k: v for k, v in ours.items() if k != _DOT}, theirs)
        _keep(out, key, rest, member)
    return out


def intersection(a: Tree, b: Tree) -> Tree:
    out: Tree = {}
    for key, ours in a.items():
        theirs = b.get(key)
        if theirs is None or key == _DOT:
            continue
        _keep(out, key, intersection(ours, theirs), is_member(ours) and is_member(theirs))
    return out


def _keep(out: Tree, key: str, rest: Tree, member: bool) -> None:
    if rest:
        out[key] = {_DOT: {}, **rest} if member else rest
    elif member:
        out[key] = {}


def ordered(tree: Tree) -> Tree:
    """The set in the order it is stored in: sorted, so that it stays the same text in a client that keeps it as a map."""
    return {key: ordered(tree[key]) if tree[key] else tree[key] for key in sorted(tree)}


def subtract_under(a: Tree, b: Tree) -> Tree:
    """As ``difference``, but a member of ``b`` takes everything below it along."""
    out: Tree = {}
    for key, ours in a.items():
        theirs = b.get(key)
        if theirs is None:
            out[key] = ours
        elif not is_member(theirs):
            rest = subtract_under(ours, theirs)
            if rest:
                out[key] = rest
    return out


def paths(tree: Tree, prefix: str = "") -> Iterator[str]:
    """The members as upstream prints and orders them: ``.spec.containers[name="a"].image``."""
    keys = sorted(key for key in tree if key != _DOT)
    for key in keys:
        if is_member(tree[key]):
            yield prefix + _element(key)
    for key in keys:
        yield from paths(tree[key], prefix + _element(key))


def _element(key: str) -> str:
    kind, _, text = key.partition(":")
    if kind == "f":
        return f".{text}"
    if kind == "k":
        return "[" + ",".join(f"{name}={go_value(value)}" for name, value in json.loads(text).items()) + "]"
    return f"[={text}]" if kind == "v" else f"[{text}]"


# Path elements of list items

_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode


def item_key(shape: Shape, item: Any) -> str:
    """The path element of a list item. ShapeError where it has no key."""
    if shape.kind == "set":
        if isinstance(item, dict | list) or item is None:
            raise ShapeError("associative list without keys has an element that's not a scalar")
        return "v:" + _dumps(item)
    if not isinstance(item, dict):
        raise ShapeError("associative list with keys may not have non-map elements")
    found = {}
    for name in shape.keys:
        value = item.get(name, _MISSING)
        if value is _MISSING:
            value = shape.key_defaults.get(name, _MISSING)
        if value is not _MISSING:
            found[name] = value
    if not found:
        raise ShapeError(
            f"associative list with keys has an element that omits all key fields [{' '.join(map(go_value, shape.keys))}] "
            "(and doesn't have default values for any key fields)"
        )
    return "k:" + _dumps(found)


def _items(shape: Shape, value: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The first item of each path element; and all items of those that occur more than once (env variables may)."""
    out: dict[str, Any] = {}
    repeated: dict[str, list[Any]] = {}
    for item in value or ():
        key = item_key(shape, item)
        if key not in out:
            out[key] = item
        else:
            repeated.setdefault(key, [out[key]]).append(item)
    return out, repeated


def _resolve(shape: Shape, value: Any) -> Shape:
    """What an untyped value is: maps are granular, lists atomic."""
    if shape.kind != "any":
        return shape
    return _DEDUCED_MAP if value is None or isinstance(value, dict) else _DEDUCED_LEAF


_DEDUCED_MAP = Shape("map", element=ANY, json="map")
_DEDUCED_LEAF = Shape("atomic")
_LEAVES = ("scalar", "atomic")


# Walks


def of_object(shape: Shape, value: Any) -> Tree:
    """``ToFieldSet``: what somebody who writes ``value`` means to own."""
    return _own(shape, value) or {}


def _own(shape: Shape, value: Any) -> Tree | None:
    shape = _resolve(shape, value)
    if shape.kind in _LEAVES:
        return {}
    if shape.kind == "server":
        return None
    out: Tree = {}
    if shape.kind != "map":
        assert shape.element is not None
        items, repeated = _items(shape, value)
        for key, item in items.items():
            tree = None if key in repeated else _own(shape.element, item)
            out[key] = {_DOT: {}, **tree} if tree else {}
        return out or None
    for name, item in (value or {}).items():
        child = shape.child(name)
        if child is None or child.kind == "server":
            continue
        tree = _own(child, item)
        if item is None or item == {} or name not in shape.fields:
            tree = {_DOT: {}, **tree} if tree else {}
        if tree is not None:
            out["f:" + name] = tree
    return out or None


def compare(shape: Shape, old: Any, new: Any) -> tuple[Tree, Tree]:
    """``Compare``: the fields added or modified, and those removed."""
    changed, removed = _compare(shape, old, new)
    return changed or {}, removed or {}


def _compare(shape: Shape, old: Any, new: Any) -> tuple[Tree | None, Tree | None]:
    if old is _MISSING:
        return _whole(shape, new), None
    if new is _MISSING:
        return None, _whole(shape, old)
    if shape.kind == "any":
        shape = _resolve(shape, new)
    if shape.kind == "server":
        return None, None
    if shape.kind in _LEAVES or not (old or new) or not (_walkable(shape, old) and _walkable(shape, new)):
        return ({}, None) if old != new else (None, None)
    changed: Tree = {}
    removed: Tree = {}
    if shape.kind == "map":
        _compare_fields(shape, old or {}, new or {}, changed, removed)
        return changed or None, removed or None
    for key, child, before, after in _entries(shape, old, new, changed, removed):
        if before == after:
            continue
        added, gone = _compare(child, before, after)
        if added is not None:
            changed[key] = added
        if gone is not None:
            removed.setdefault(key, gone)
    return changed or None, removed or None


def _compare_fields(shape: Shape, old: Obj, new: Obj, changed: Tree, removed: Tree) -> None:
    """The map's part of ``_compare``. What Go always writes is there as null, so that its first content does not make it
    new."""
    fields, element = shape.fields, shape.element
    for name, after in new.items():
        child = fields.get(name, element)
        if child is None or child.kind == "server":
            continue
        before = old.get(name, None if child.present else _MISSING)
        if before is _MISSING:
            added, gone = _whole(child, after), None
        elif before == after:
            continue
        else:
            added, gone = _compare(child, before, after)
        if added is not None:
            changed["f:" + name] = added
        if gone is not None:
            removed["f:" + name] = gone
    for name, before in old.items():
        if name not in new:
            child = fields.get(name, element)
            if child is None or child.kind == "server":
                continue
            added, gone = _compare(child, before, None if child.present else _MISSING)
            if added is not None:
                changed["f:" + name] = added
            if gone is not None:
                removed["f:" + name] = gone


def _whole(shape: Shape, value: Any) -> Tree | None:
    """Every path of a value that is there on one side only."""
    kind = shape.kind
    if kind == "any":
        shape = _resolve(shape, value)
        kind = shape.kind
    if kind == "server":
        return None
    if kind in _LEAVES or not value or not _walkable(shape, value):
        return {}
    out: Tree = {_DOT: {}}
    if kind == "map":
        fields, element = shape.fields, shape.element
        for name, item in value.items():
            child = fields.get(name, element)
            tree = _whole(child, item) if child is not None else None
            if tree is not None:
                out["f:" + name] = tree
    else:
        items, repeated = _items(shape, value)
        for key, item in items.items():
            tree = {} if key in repeated else _whole(shape.element or ANY, item)
            if tree is not None:
                out[key] = tree
    return out if len(out) > 1 else {}


def _walkable(shape: Shape, value: Any) -> bool:
    return value is None or isinstance(value, dict if shape.kind == "map" else list)


def _entries(shape: Shape, old: Any, new: Any, changed: Tree, removed: Tree) -> Iterator[tuple[str, Shape, Any, Any]]:
    """``(path element, shape, old value, new value)`` of each list item; absent ones are ``_MISSING``. An item that occurs more
    than once is owned as a whole: noted here, not descended into."""
    left, left_repeated = _items(shape, old)
    right, right_repeated = _items(shape, new)
    element = shape.element or ANY
    for key, value in right.items():
        if key in left_repeated and key in right_repeated:
            if left_repeated[key] != right_repeated[key]:
                changed[key] = {}
        elif key in right_repeated:
            if key in left:
                yield key, element, left[key], _MISSING
            changed[key] = {}
        elif key in left_repeated:
            removed[key] = {}
            yield key, element, _MISSING, value
        else:
            yield key, element, left.get(key, _MISSING), value
    for key, value in left.items():
        if key in left_repeated and key not in right:
            removed[key] = {}
        elif key not in right:
            yield key, element, value, _MISSING


def merge(shape: Shape, live: Any, applied: Any) -> Any:
    """``Merge``: ``applied`` laid over ``live``. New containers; leaves are shared."""
    shape = _resolve(shape, applied)
    if applied is None and shape.kind not in _LEAVES and isinstance(live, dict | list):
        return live  # null is as good as empty: nothing to lay over
    if shape.kind == "map" and isinstance(live, dict) and isinstance(applied, dict):
        out = dict(live)
        for name, value in applied.items():
            child = shape.child(name)
            out[name] = merge(child, live[name], value) if child is not None and name in live else value
        return out
    if shape.kind in ("set", "listmap") and isinstance(live, list) and isinstance(applied, list):
        return _merge_items(shape, live, applied)
    return applied


def _merge_items(shape: Shape, live: list[Any], applied: list[Any]) -> list[Any]:
    """The order of ``visitListItems``: both lists keep their order; where they disagree the applied one wins."""
    assert shape.element is not None
    left, repeated = _items(shape, live)
    right, _ = _items(shape, applied)
    left_keys = [item_key(shape, item) for item in live]
    right_keys = list(right)
    shared = iter([key for key in right_keys if key in left])
    wanted = next(shared, None)
    out: list[Any] = []
    merged: set[str] = set()
    i = j = 0

    def take(key: str) -> None:
        nonlocal wanted
        merged.add(key)
        mergeable = key in left and key not in repeated
        out.append(merge(shape.element or ANY, left[key], right[key]) if mergeable else right[key])
        if key == wanted:
            wanted = next(shared, None)

    while i < len(left_keys) or j < len(right_keys):
        if i < len(left_keys) and j < len(right_keys):
            if left_keys[i] == right_keys[j]:
                take(left_keys[i])
                i, j = i + 1, j + 1
                continue
            if left_keys[i] in right and wanted is not None and wanted != left_keys[i]:
                i += 1
                continue
        if i < len(left_keys):
            if left_keys[i] not in right:
                out.append(live[i])
                i += 1
                continue
            if left_keys[i] in merged:
                i += 1
        if j < len(right_keys):
            take(right_keys[j])
            j += 1
    return out


def with_named_members(shape: Shape, tree: Tree) -> Tree:
    """``EnsureNamedFieldsAreMembers``: declared fields with children become members themselves."""
    out: Tree = {}
    for key, sub in tree.items():
        if key == _DOT or not sub:
            out[key] = sub
            continue
        child, declared = _descend(shape, key)
        inner = with_named_members(child, sub)
        out[key] = {_DOT: {}, **inner} if declared and _DOT not in inner else inner
    return out


def _descend(shape: Shape, key: str) -> tuple[Shape, bool]:
    if key.startswith("f:"):
        name = key[2:]
        declared = shape.kind == "map" and name in shape.fields
        return (shape.child(name) or ANY) if shape.kind == "map" else ANY, declared
    return shape.element or ANY, False


def remove(shape: Shape, value: Any, gone: Tree) -> Any:
    """``RemoveItems``: ``value`` without the members of ``gone``; None where nothing is left."""
    shape = _resolve(shape, value)
    if shape.kind == "scalar" or not value:
        return value
    if shape.kind == "atomic":
        return None
    if shape.kind == "map" and isinstance(value, dict):
        out = {}
        for name, item in value.items():
            sub = gone.get("f:" + name)
            if sub is None:
                out[name] = item
            elif not is_member(sub):
                out[name] = remove(shape.child(name) or ANY, item, sub)
        return out or None
    if isinstance(value, list) and shape.kind != "map":
        kept = []
        for item in value:
            sub = gone.get(item_key(shape, item))
            if sub is None:
                kept.append(item)
            elif not is_member(sub):
                kept.append(remove(shape.element or ANY, item, sub))
        return kept or None
    return value


_IS: dict[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "list": lambda v: isinstance(v, list),
    "map": lambda v: isinstance(v, dict),
}
_EXPECTED = {"number": "numeric (int or float)"}


def check(shape: Shape, obj: Obj) -> list[str]:
    """What in an applied object does not fit its type: ``.spec.foo: field not declared in schema``."""
    found: list[str] = []
    _check(shape, obj, "", found)
    return found


def _check(shape: Shape, value: Any, path: str, found: list[str]) -> None:
    if value is None or shape.kind in ("any", "server"):
        return
    if shape.json and not _IS[shape.json](value):
        expected = _EXPECTED.get(shape.json, shape.json)
        found.append(f"{path}: expected {expected}, got {go_value(value)}")
        return
    if shape.kind == "map":
        for name, item in value.items():
            child = shape.child(name)
            if child is None:
                found.append(f"{path}.{name}: field not declared in schema")
            else:
                _check(child, item, f"{path}.{name}", found)
    elif shape.kind in ("set", "listmap"):
        seen: set[str] = set()
        for i, item in enumerate(value):
            try:
                key = item_key(shape, item)
            except ShapeError as err:
                found.append(f"{path}: element {i}: {err}")
                continue
            if key in seen:
                found.append(f"{path}: duplicate entries for key {_element(key)}")
            seen.add(key)
            _check(shape.element or ANY, item, path + _element(key), found)
