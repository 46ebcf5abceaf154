"""Owning objects: adopting orphans, releasing strays, creating and deleting pods in growing batches.

Source: ``pkg/controller/controller_ref_manager.go``, ``pkg/controller/controller_utils.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.selectors import LabelSelector
from k3sd.apis import resources
from k3sd.client.api import Client, DeleteOptions
from k3sd.client.events import EventRecorder
from k3sd.client.informer import Informer
from k3sd.client.retry import update_with_retry
from k3sd.controllers.objects import (
    controller_of,
    controller_reference,
    has_cause,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)

Claim = Literal["keep", "adopt", "release", "ignore"]
SLOW_START = 1


def decide_claim(owner: Obj, obj: Obj, selector: LabelSelector) -> Claim:
    """What ``owner`` should do about ``obj``. Pure. Source: ``BaseControllerRefManager.ClaimObject``."""
    reference = controller_of(obj)
    matches = selector.matches(labels_of(obj))
    if reference is not None:
        if reference.get("uid") != uid_of(owner):
            return "ignore"
        if matches:
            return "keep"
        return "ignore" if is_deleting(owner) else "release"
    if is_deleting(owner) or not matches or is_deleting(obj) or namespace_of(owner) != namespace_of(obj):
        return "ignore"
    return "adopt"


def owner_in(owners: Informer, kind: str, obj: Obj) -> Obj | None:
    """The controller of ``obj`` in the cache of ``kind``; None where it is another's, or of that name but not the same.
    Source: ``resolveControllerRef``."""
    reference = controller_of(obj)
    if reference is None or reference.get("kind") != kind:
        return None
    owner = owners.get(f"{namespace_of(obj)}/{reference['name']}")
    return owner if owner is not None and uid_of(owner) == reference.get("uid") else None


def claimable(objects: Informer, owner: Obj) -> list[Obj]:
    """What ``owner`` has and what nobody has in its namespace, from a cache with ``pods.owner_index`` as ``owner``."""
    return [
        *objects.by_index("owner", uid_of(owner)),
        *objects.by_index("owner", f"orphan/{namespace_of(owner)}"),
    ]


async def claim(
    client: Client,
    owner_resource: Resource,
    owner: Obj,
    resource: Resource,
    candidates: Iterable[Obj],
    selector: LabelSelector,
    *,
    adoptable: Callable[[Obj], bool] = lambda _: True,
    finalizer: str = "",
) -> list[Obj]:
    """The candidates that belong to ``owner``, after adopting and releasing. ``adoptable`` narrows what is taken in.

    An orphan is adopted only after a fresh read shows that the owner still lives, for the cache may be behind its deletion.
    """
    mine: list[Obj] = []
    may_adopt: bool | None = None
    for obj in list(candidates):
        what = decide_claim(owner, obj, selector)
        if what == "keep":
            mine.append(obj)
        elif what == "release":
            await _release(client, owner, resource, obj, finalizer)
        elif what == "adopt" and adoptable(obj):
            if may_adopt is None:
                may_adopt = await _still_lives(client, owner_resource, owner)
            adopted = await _adopt(client, owner_resource, owner, resource, obj, finalizer) if may_adopt else None
            if adopted is not None:
                mine.append(adopted)
    return mine


async def _still_lives(client: Client, resource: Resource, owner: Obj) -> bool:
    try:
        fresh = await client.get(resource, name_of(owner), namespace_of(owner))
    except StatusError as e:
        if e.code == 404:
            return False
        raise
    return uid_of(fresh) == uid_of(owner) and not is_deleting(fresh)


async def _adopt(
    client: Client, owner_resource: Resource, owner: Obj, resource: Resource, obj: Obj, finalizer: str
) -> Obj | None:
    reference = controller_reference(owner, owner_resource)

    def add(target: Obj) -> None:
        other = controller_of(target)
        if other is not None and other.get("uid") != uid_of(owner):
            raise StatusError(404, "NotFound", f"{resource.plural} {name_of(target)} was adopted by {other.get('name')}")
        references = [r for r in target["metadata"].get("ownerReferences") or () if r.get("uid") != uid_of(owner)]
        target["metadata"]["ownerReferences"] = [*references, reference]
        finalizers = target["metadata"].get("finalizers") or []
        if finalizer and finalizer not in finalizers:
            target["metadata"]["finalizers"] = [*finalizers, finalizer]

    return await _edit(client, resource, obj, add)


async def _release(client: Client, owner: Obj, resource: Resource, obj: Obj, finalizer: str) -> None:
    def drop(target: Obj) -> None:
        metadata = target["metadata"]
        metadata["ownerReferences"] = [r for r in metadata.get("ownerReferences") or () if r.get("uid") != uid_of(owner)]
        if not metadata["ownerReferences"]:
            del metadata["ownerReferences"]
        if finalizer in (metadata.get("finalizers") or ()):
            metadata["finalizers"] = [f for f in metadata["finalizers"] if f != finalizer]

    await _edit(client, resource, obj, drop)


async def _edit(client: Client, resource: Resource, obj: Obj, change: Callable[[Obj], None]) -> Obj | None:
    try:
        return await update_with_retry(client, resource, name_of(obj), namespace_of(obj), change, initial=obj, uid=uid_of(obj))
    except StatusError as e:
        # Gone, or taken by somebody else meanwhile.
        if e.code == 404:
            return None
        raise


async def slow_start(count: int, one: Callable[[int], Awaitable[None]]) -> tuple[int, Exception | None]:
    """Run ``one(0)`` .. ``one(count - 1)`` in batches of 1, 2, 4, ...; stop after the first batch with a failure.

    So that a quota or a broken template costs a few refused requests rather than hundreds. Returns how many succeeded and the
    first failure. Source: ``slowStartBatch``.
    """
    done = succeeded = 0
    batch = min(count, SLOW_START)
    while batch > 0:
        results = await asyncio.gather(*(one(i) for i in range(done, done + batch)), return_exceptions=True)
        done += batch
        failures = [r for r in results if isinstance(r, BaseException)]
        succeeded += batch - len(failures)
        for failure in failures:
            if not isinstance(failure, Exception):
                raise failure
            return succeeded, failure
        batch = min(batch * 2, count - done)
    return succeeded, None


class PodControl:
    """Creates and deletes pods for their owners, and says so in events. Source: ``RealPodControl``."""

    def __init__(self, client: Client, recorder: EventRecorder) -> None:
        self._client = client
        self._recorder = recorder

    async def create(self, pod: Obj, owner: Obj) -> Obj:
        try:
            created = await self._client.create(resources.PODS, pod, namespace_of(owner))
        except StatusError as e:
            # A namespace on its way out refuses everything: that is no news to anybody.
            if not has_cause(e, "NamespaceTerminating"):
                self._recorder.event(owner, "Warning", "FailedCreate", f"Error creating: {e.message}")
            raise
        self._recorder.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name_of(created)}")
        return created

    async def delete(self, pod: Obj, owner: Obj) -> None:
        """A pod that is gone already counts as deleted."""
        try:
            await self._client.delete(resources.PODS, name_of(pod), namespace_of(pod), DeleteOptions(uid=uid_of(pod)))
        except StatusError as e:
            if e.code == 404:
                return
            self._recorder.event(owner, "Warning", "FailedDelete", f"Error deleting: {e.message}")
            raise
        self._recorder.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")
