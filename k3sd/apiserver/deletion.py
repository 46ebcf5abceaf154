"""Delete and deletecollection: grace, finalizers, propagation policy, preconditions.

Upstream: ``Store.Delete``/``DeleteCollection`` in ``registry/generic/registry/store.go`` and ``registry/rest/delete.go``.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError, conflict, not_found
from k3sd.apiserver import storage
from k3sd.apiserver.endpoint import Endpoint, Item, Rendered
from k3sd.apiserver.options import DeleteRequest, status_success
from k3sd.apiserver.request import Attributes, RequestContext
from k3sd.apiserver.writes import Lost, splice
from k3sd.datastore.backend import CompareFailed

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
DELETE_ATTEMPTS = 20
COLLECTION_WORKERS = 16
"""Deletes of one deletecollection in flight: enough to share group commits, few enough not to starve other writers."""


@dataclass(slots=True)
class Plan:
    """What one delete does to an object now. ``new`` None and not ``remove``: nothing to change, deletion is already
    pending."""

    remove: bool
    new: Obj | None = None


async def delete(ep: Endpoint, ctx: RequestContext, options: DeleteRequest) -> tuple[Item, bool]:
    """Delete or mark one object. Returns what to answer and whether the object is gone."""
    resource = ep.resource
    key = ep.key(ctx.namespace, ctx.name)
    admitted = False
    for _ in range(DELETE_ATTEMPTS):
        entry = ep.cache.get(key)
        if entry is None:
            raise not_found(resource.group, resource.plural, ctx.name)
        await ep.prepare((entry,))
        old = ep.view(entry).obj
        check_preconditions(ep, ctx, options, old)
        if not admitted:
            attrs = Attributes(ctx, "DELETE", None, old, options.raw)
            plugins = ep.plugins(ctx.subresource, "DELETE")
            for plugin in plugins:
                await plugin.admit(attrs)
            for plugin in plugins:
                await plugin.validate(attrs)
            admitted = True
            if plugins:
                continue  # admission may have waited: look at the object again
        plan = plan_delete(ep, ctx, options, old)
        try:
            if plan.remove:
                await remove(ep, ctx, key, entry.revision, old)
                return _answer(ep, old), True
            if plan.new is None:
                return Rendered(old), False
            return await _mark(ep, ctx, key, entry.revision, plan.new), False
        except Lost:
            if options.resource_version:
                raise conflict(resource.group, resource.plural, ctx.name) from None
            await ep.registry.cache.fresh()  # with several servers on one store, the newer object may still be on its way
    raise conflict(resource.group, resource.plural, ctx.name)


async def _mark(ep: Endpoint, ctx: RequestContext, key: str, revision: int, new: Obj) -> Item:
    if ctx.dry_run:
        return Rendered(new)
    stored = storage.encode(await ep.stored_form(new) if ep.to_storage else new)
    try:
        written = await ep.registry.backend.update(key, stored, revision, ep.event_ttl)
    except CompareFailed:
        raise Lost from None
    new["metadata"] = {"resourceVersion": str(written), **new["metadata"]}
    return Rendered(new, None if ep.to_storage else splice(stored, written))


async def remove(ep: Endpoint, ctx: RequestContext, key: str, revision: int, old: Obj) -> int:
    """Take the key out of the store if it still has ``revision``; run the kind's ``after_delete``. Returns the revision of
    the delete. Raises what the caller retries on: ``Lost`` (here) when the object changed."""
    if ctx.dry_run:
        return revision
    try:
        deleted_at, previous = await ep.registry.backend.delete(key, revision)
    except CompareFailed as failed:
        if failed.current is None:
            raise not_found(ep.resource.group, ep.resource.plural, ctx.name) from None
        raise Lost from None
    if previous is None:
        raise not_found(ep.resource.group, ep.resource.plural, ctx.name)
    await ep.strategy.after_delete(ctx, old)
    return deleted_at


def _answer(ep: Endpoint, gone: Obj) -> Item:
    if ep.returns_deleted:
        return Rendered(gone)
    meta = gone["metadata"]
    details: Obj = {"name": meta["name"]}
    if ep.resource.group:
        details["group"] = ep.resource.group
    details["kind"] = ep.resource.plural
    details["uid"] = meta.get("uid", "")
    return Rendered(status_success(details))


def check_preconditions(ep: Endpoint, ctx: RequestContext, options: DeleteRequest, old: Obj) -> None:
    meta = old["metadata"]
    if options.uid is not None and options.uid != meta.get("uid"):
        raise conflict(
            ep.resource.group,
            ep.resource.plural,
            ctx.name,
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta.get('uid', '')}). "
            "The object might have been deleted and then recreated",
        )
    if options.resource_version is not None and options.resource_version != meta.get("resourceVersion"):
        raise conflict(
            ep.resource.group,
            ep.resource.plural,
            ctx.name,
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion in "
            f"record ({meta.get('resourceVersion', '')}). The object might have been modified",
        )


def plan_delete(ep: Endpoint, ctx: RequestContext, options: DeleteRequest, old: Obj) -> Plan:
    """``BeforeDelete`` and ``updateForGracefulDeletionAndFinalizers``."""
    strategy = ep.strategy
    meta = dict(old["metadata"])
    new: Obj = {**old, "metadata": meta}
    deleting = bool(meta.get("deletionTimestamp"))
    requested = options.grace_seconds
    if requested is not None and requested < 0:
        requested = 1
    grace = 0
    changed = False
    if deleting:
        pending = meta.get("deletionGracePeriodSeconds")
        if pending:
            asked = requested if requested is not None else pending
            if asked >= pending:
                return Plan(False)
            stamp = timefmt.parse(meta["deletionTimestamp"]) - pending + asked
            meta["deletionTimestamp"] = timestamp(stamp)
            meta["deletionGracePeriodSeconds"] = asked
            grace = asked
            changed = True
    else:
        grace = strategy.graceful_seconds(ctx, old, requested)
        if grace > 0:
            meta["deletionTimestamp"] = timestamp(time.time() + grace)
            meta["deletionGracePeriodSeconds"] = grace
            if meta.get("generation"):
                meta["generation"] += 1
            changed = True
    finalizers = garbage_collection_finalizers(ep, options, old)
    if finalizers != list(meta.get("finalizers") or ()):
        changed = True
        if finalizers:
            meta["finalizers"] = finalizers
        else:
            meta.pop("finalizers", None)
    held = bool(finalizers) or strategy.holds_deletion(new)
    if grace == 0 and not held:
        return Plan(True)
    if grace == 0 and not deleting:
        meta["deletionTimestamp"] = timefmt.now()
        if not strategy.holds_deletion(new):
            meta["deletionGracePeriodSeconds"] = 0
        if meta.get("generation"):
            meta["generation"] += 1
        changed = True
    if not changed:
        return Plan(False)
    if not deleting:
        if "status" in new:
            new["status"] = dict(new["status"] or {})
        strategy.mark_deleting(ctx, new)
    return Plan(False, new)


def timestamp(epoch: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def garbage_collection_finalizers(ep: Endpoint, options: DeleteRequest, old: Obj) -> list[str]:
    """``deletionFinalizersForGarbageCollection``: the object's finalizers with ``orphan``/``foregroundDeletion`` as asked."""
    existing = list(old["metadata"].get("finalizers") or ())
    kept = [f for f in existing if f not in (ORPHAN, FOREGROUND)]
    if options.orphan_dependents is not None:
        orphan, foreground = bool(options.orphan_dependents), False
    elif options.policy:
        orphan, foreground = options.policy == "Orphan", options.policy == "Foreground"
    elif ORPHAN in existing or FOREGROUND in existing:
        return existing
    else:
        orphan, foreground = ep.strategy.default_orphan(old), False
    if orphan:
        kept.append(ORPHAN)
    if foreground:
        kept.append(FOREGROUND)
    return existing if set(kept) == set(existing) else kept


async def delete_collection(ep: Endpoint, ctx: RequestContext, items: list[Any], options: DeleteRequest) -> list[Item]:
    """Delete the listed cache entries. Objects that vanish meanwhile are skipped. Returns what each delete answered, as
    objects."""
    gate = asyncio.Semaphore(COLLECTION_WORKERS)

    async def one(item: Any) -> Item | None:
        meta = item.obj["metadata"]
        single = RequestContext(
            ctx.user,
            "delete",
            ctx.resource,
            namespace=meta.get("namespace", ""),
            name=meta["name"],
            dry_run=ctx.dry_run,
            user_agent=ctx.user_agent,
            privileged=ctx.privileged,
        )
        async with gate:
            try:
                answer, gone = await delete(ep, single, options)
            except StatusError as error:
                if error.reason == "NotFound":
                    return None
                raise
        if not gone or ep.returns_deleted:
            return answer
        await ep.prepare((item,))
        return ep.view(item)

    answers = await asyncio.gather(*(one(item) for item in items))
    return [a for a in answers if a is not None]
