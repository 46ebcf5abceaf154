"""Server-side apply and the bookkeeping of ``metadata.managedFields``.

``update_managed_fields`` is called for creates, updates and other patches, ``apply`` for apply patches. Cost, measured on a
2-core machine: about 35 µs for a status update, 65 µs for the create of a Deployment, 90 µs for an apply. An object that was
created without managed fields stays without them until its first apply, as upstream does; its fields then belong to
``before-first-apply``.
Sources: ``apimachinery/pkg/util/managedfields/internal``, ``structured-merge-diff/merge/update.go``.
"""

from __future__ import annotations

import json
from typing import Any

from k3sd.apimachinery import fieldset, timefmt
from k3sd.apimachinery.codec import clone
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import Obj, StatusError, bad_request, go_value
from k3sd.apimachinery.fieldset import Tree
from k3sd.apimachinery.schema import Type
from k3sd.apimachinery.shape import Shape, of_schema, of_type

__all__ = ["apply", "of_schema", "of_type", "same_but_times", "update_managed_fields"]

MAX_UPDATE_MANAGERS = 10
_BEFORE_FIRST_APPLY = "before-first-apply"
_ANCIENT = "ancient-changes"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_TYPE_ONLY: dict[str, Obj] = {}
Typed = Type | str | Shape


def _shape(type_: Typed) -> Shape:
    if isinstance(type_, Shape):
        return type_
    return of_type(type_ if isinstance(type_, str) else type_.name)


def _empty(type_: Typed) -> Obj:
    """What Go has before anything is set: the structs that are always there. Shared, read-only."""
    if isinstance(type_, Shape):
        return {"metadata": {}}
    name = type_ if isinstance(type_, str) else type_.name
    found = _TYPE_ONLY.get(name)
    if found is None:
        found = {}
        conform(found, name)
        _TYPE_ONLY[name] = found
    return found


class _Entry:
    """One manager's entry of ``managedFields``."""

    __slots__ = ("api_version", "fields", "manager", "operation", "subresource", "time")

    def __init__(self, manager: str, operation: str, api_version: str, subresource: str, fields: Tree, time: str) -> None:
        self.manager = manager
        self.operation = operation
        self.api_version = api_version
        self.subresource = subresource
        self.fields = fields
        self.time = time

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Apply entries of one manager are one, whatever version they were applied in."""
        version = "" if self.operation == "Apply" else self.api_version
        return self.manager, self.operation, version, self.subresource

    @property
    def wire(self) -> Obj:
        out: Obj = {"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version}
        if self.time:
            out["time"] = self.time
        out["fieldsType"] = "FieldsV1"
        out["fieldsV1"] = self.fields
        if self.subresource:
            out["subresource"] = self.subresource
        return out

    def __str__(self) -> str:
        text = go_value(self.manager)
        if self.subresource:
            text = f"{text} with subresource {go_value(self.subresource)}"
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


def _decode(entries: Any) -> list[_Entry] | None:
    """The entries, or None where they are not well formed."""
    out = []
    for entry in entries or ():
        operation, version = entry.get("operation"), entry.get("apiVersion")
        if operation not in ("Apply", "Update") or not version or entry.get("fieldsType") != "FieldsV1":
            return None
        fields = entry.get("fieldsV1") or {}
        out.append(
            _Entry(
                entry.get("manager", ""),
                operation,
                version,
                entry.get("subresource", ""),
                fields,
                entry.get("time", ""),
            )
        )
    return out


def _managed(live: Obj | None, new: Obj, subresource: str) -> list[_Entry]:
    """``decodeLiveOrNew``: the request's own entries if it brings any, else the stored ones; ``[{}]`` resets."""
    stored = ((live or {}).get("metadata") or {}).get("managedFields")
    given = (new.get("metadata") or {}).get("managedFields")
    if not subresource:
        if given in ([], [{}]):
            return []
        if decoded := _decode(given):
            return decoded
    return _decode(stored) or []


def _encode(obj: Obj, entries: list[_Entry]) -> None:
    metadata = obj.setdefault("metadata", {})
    if not entries:
        metadata.pop("managedFields", None)
        return
    entries.sort(key=lambda e: (e.operation, e.time[:19], e.manager, e.api_version, e.subresource))
    metadata["managedFields"] = [entry.wire for entry in entries]


def _find(entries: list[_Entry], identity: tuple[str, str, str, str]) -> _Entry | None:
    return next((entry for entry in entries if entry.identity == identity), None)


def update_managed_fields(
    live: Obj | None,
    new: Obj,
    manager: str,
    operation: str,
    subresource: str,
    api_version: str,
    type_: Typed,
    time: str = "",
    ignore: Tree | None = None,
) -> None:
    """Set ``new.metadata.managedFields`` after a create (``live`` None) or update, in place.

    Both objects are conformed, ``new`` before the server's own changes (admission, strategy). ``operation`` is ``Update``.
    ``ignore`` are fields this endpoint resets (``{"f:status": {}}`` for the main resource of a kind with status). ``time`` is
    when, now by default.
    """
    entries = _managed(live, new, subresource)
    if not entries and live is not None:
        (new.get("metadata") or {}).pop("managedFields", None)
        return
    me = _Entry(manager or "unknown", operation, api_version, subresource, {}, time or timefmt.now())
    _encode(new, _updated(entries, _empty(type_) if live is None else live, new, _shape(type_), me, ignore))


def _updated(entries: list[_Entry], old: Obj, new: Obj, shape: Shape, me: _Entry, ignore: Tree | None) -> list[_Entry]:
    """``Updater.Update``: what changed belongs to ``me``, what is gone to nobody."""
    changed, removed = fieldset.compare(shape, old, new)
    if ignore:
        changed, removed = fieldset.subtract_under(changed, ignore), fieldset.subtract_under(removed, ignore)
    if not changed and not removed:
        return entries
    out = []
    mine = changed
    for entry in entries:
        if entry.identity == me.identity and changed:
            mine = fieldset.union(fieldset.difference(entry.fields, removed) if removed else entry.fields, changed)
            continue
        fields = _without(_without(entry.fields, changed), removed)
        if fields:
            entry.fields = fields
            out.append(entry)
    if changed:
        me.fields = fieldset.ordered(mine)
        out.append(me)
    return _capped(out)


def _without(fields: Tree, gone: Tree) -> Tree:
    return fieldset.difference(fields, gone) if gone else fields


def _capped(entries: list[_Entry]) -> list[_Entry]:
    """``capUpdateManagers``: the oldest updates of more than ten are merged into ``ancient-changes``, one entry a version."""
    updates = sorted((e for e in entries if e.operation == "Update"), key=lambda e: (e.time[:19], e.manager))
    surplus = len(updates) - MAX_UPDATE_MANAGERS
    if surplus <= 0:
        return entries
    gone: set[int] = set()
    buckets: dict[str, _Entry] = {}
    for entry in updates:
        if len(gone) >= surplus:
            break
        bucket = buckets.get(entry.api_version)
        if bucket is None:
            buckets[entry.api_version] = entry
            continue
        bucket.fields = fieldset.ordered(fieldset.union(bucket.fields, entry.fields))
        bucket.manager, bucket.subresource, bucket.time = _ANCIENT, "", entry.time
        gone.add(id(entry))
    return [entry for entry in entries if id(entry) not in gone]


def apply(
    live: Obj | None,
    applied: Obj,
    type_: Typed,
    manager: str,
    force: bool,
    *,
    api_version: str = "",
    subresource: str = "",
    time: str = "",
    ignore: Tree | None = None,
) -> Obj:
    """The object after an apply patch, with its managed fields; not yet conformed or defaulted. ``live`` stays as it is.

    409 with upstream's wording and causes for conflicts, unless ``force``; 400 for a wrong apiVersion or given managedFields;
    500, as upstream has it, for an object that does not fit its type.
    """
    shape = _shape(type_)
    api_version = api_version or applied.get("apiVersion", "")
    if applied.get("apiVersion") != api_version:
        raise bad_request(
            "Incorrect version specified in apply patch. "
            f"Specified patch version: {applied.get('apiVersion', '')}, expected: {api_version}"
        )
    if (applied.get("metadata") or {}).get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    _require_fit(shape, applied, api_version)
    now = time or timefmt.now()
    base = live if live is not None else {**_empty(type_), **_head(applied, api_version)}
    old = {**base, "metadata": {k: v for k, v in (base.get("metadata") or {}).items() if k != "managedFields"}}
    entries = _decode((base.get("metadata") or {}).get("managedFields")) or []
    if not entries and live is not None:
        before = _Entry(_BEFORE_FIRST_APPLY, "Update", api_version, "", {}, now)
        try:
            entries = _updated([], _empty(type_), old, shape, before, None)
        except fieldset.ShapeError as err:
            raise _does_not_fit(old, api_version, str(err), "live") from None
    me = _Entry(manager, "Apply", api_version, subresource, {}, now)
    try:
        new, entries = _applied(entries, old, applied, shape, me, force, ignore)
    except fieldset.ShapeError as err:
        raise _does_not_fit(applied, api_version, str(err)) from None
    out: Obj = clone(new)
    if manager == "kubectl":
        _sync_last_applied(out, applied)
    if live is not None and new == old:
        previous = _find(_decode((base.get("metadata") or {}).get("managedFields")) or [], me.identity)
        me.time = previous.time if previous else now
    _encode(out, entries)
    return out


def _head(applied: Obj, api_version: str) -> Obj:
    return {"kind": applied.get("kind", ""), "apiVersion": api_version}


def _require_fit(shape: Shape, applied: Obj, api_version: str) -> None:
    texts = fieldset.check(shape, applied)
    if texts:
        joined = texts[0] if len(texts) == 1 else "errors:\n" + "\n".join(f"  {text}" for text in texts)
        raise _does_not_fit(applied, api_version, joined)


def _does_not_fit(applied: Obj, api_version: str, text: str, which: str = "patch") -> StatusError:
    metadata = applied.get("metadata") or {}
    who = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}; {api_version}, Kind={applied.get('kind', '')}"
    return StatusError(500, "", f"failed to create typed {which} object ({who}): {text}")


def _applied(
    entries: list[_Entry], old: Obj, applied: Obj, shape: Shape, me: _Entry, force: bool, ignore: Tree | None
) -> tuple[Obj, list[_Entry]]:
    """``Updater.Apply``."""
    merged: Obj = fieldset.merge(shape, old, applied)
    me.fields = fieldset.of_object(shape, applied)
    if ignore:
        me.fields = fieldset.subtract_under(me.fields, ignore)
    last = _find(entries, me.identity)
    others = [entry for entry in entries if entry is not last]
    dropped = fieldset.difference(last.fields, me.fields) if last is not None else {}
    new = _prune(shape, merged, last.fields, [*others, me]) if last is not None and dropped else merged
    changed, removed = fieldset.compare(shape, old, new)
    if ignore:
        changed, removed = fieldset.subtract_under(changed, ignore), fieldset.subtract_under(removed, ignore)
    conflicts = [(entry, both) for entry in others if (both := fieldset.intersection(entry.fields, changed))]
    if conflicts and not force:
        raise _conflict(conflicts)
    kept = []
    for entry in others:
        fields = _without(_without(entry.fields, changed), removed)
        if fields:
            entry.fields = fields
            kept.append(entry)
    me.fields = fieldset.ordered(me.fields)
    return new, [*kept, me] if me.fields else kept


def _prune(shape: Shape, merged: Obj, last: Tree, entries: list[_Entry]) -> Obj:
    """What this manager applied last time and nobody owns any more goes. Source: ``Updater.prune``."""
    last = fieldset.with_named_members(shape, last)
    owned: Tree = {}
    for entry in entries:
        owned = fieldset.union(owned, entry.fields)
    owned = fieldset.with_named_members(shape, owned)
    everything = fieldset.with_named_members(shape, fieldset.of_object(shape, merged))
    pruned = fieldset.remove(shape, merged, last) or {}
    left = fieldset.with_named_members(shape, fieldset.of_object(shape, pruned))
    pruned = fieldset.remove(shape, merged, fieldset.difference(everything, fieldset.union(left, owned))) or {}
    left = fieldset.with_named_members(shape, fieldset.of_object(shape, pruned))
    gone = fieldset.intersection(fieldset.difference(everything, left), last)
    result: Obj = fieldset.remove(shape, merged, gone) if gone else merged
    return result or {}


def _conflict(conflicts: list[tuple[_Entry, Tree]]) -> StatusError:
    """Source: ``NewConflictError``."""
    found = [(str(entry), path) for entry, tree in conflicts for path in fieldset.paths(tree)]
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for who, path in found]
    if len(found) == 1:
        message = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {found[0][1]}"
    else:
        lines = []
        for who in sorted({who for who, _ in found}):
            lines.append(f"conflicts with {who}:")
            lines += [f"- {path}" for other, path in found if other == who]
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return StatusError(409, "Conflict", message, {"causes": causes})


def _sync_last_applied(out: Obj, applied: Obj) -> None:
    """``kubectl apply --server-side`` keeps the annotation of client-side apply up to date where it exists."""
    annotations = (out.get("metadata") or {}).get("annotations") or {}
    if not annotations.get(_LAST_APPLIED):
        return
    config = clone(applied)
    given = (config.get("metadata") or {}).get("annotations")
    if given:
        given.pop(_LAST_APPLIED, None)
    annotations[_LAST_APPLIED] = json.dumps(config, separators=(",", ":"), ensure_ascii=False) + "\n"


def same_but_times(old: Obj, new: Obj) -> bool:
    """True when the two differ at most in the times of managed fields: such a write is none, and keeps the old object."""

    def bare(obj: Obj) -> list[Obj]:
        entries = (obj.get("metadata") or {}).get("managedFields") or ()
        return [{k: v for k, v in entry.items() if k != "time"} for entry in entries]

    if old.keys() != new.keys() or any(old[k] != new[k] for k in old if k != "metadata"):
        return False
    a, b = old.get("metadata") or {}, new.get("metadata") or {}
    strip = ("managedFields",)
    plain = {k: v for k, v in a.items() if k not in strip} == {k: v for k, v in b.items() if k not in strip}
    return plain and sorted(map(repr, bare(old))) == sorted(map(repr, bare(new)))
