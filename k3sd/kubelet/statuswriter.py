"""Pod statuses on their way to the API: only what changed, one write a pod at a time, the newest wins.

Source of the rules: Kubernetes 1.36 ``pkg/kubelet/status/status_manager.go``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client, DeleteOptions
from k3sd.kubelet import podinfo
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.status import KUBELET_CONDITIONS

log = logging.getLogger(__name__)

LAZY_SECONDS = 2.0
"""How long a status that only says "being created" may wait for something better to say."""
_RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
_OWNED = (
    "phase",
    "reason",
    "message",
    "observedGeneration",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "qosClass",
)
_MERGED_BY_IP = ("hostIPs", "podIPs")


def build_patch(base: Obj, wanted: Obj) -> Obj:
    """The strategic merge patch of ``status`` that makes ``base`` show ``wanted``; empty when it does.

    Conditions of others are not touched, whatever they are by the time the patch arrives.
    """
    patch: Obj = {}
    for key in _OWNED:
        if wanted.get(key) == base.get(key):
            continue
        value = wanted.get(key)
        if key in _MERGED_BY_IP and base.get(key) and value is not None:
            value = [*value, {"$patch": "replace"}]
        patch[key] = value
    old = {c["type"]: c for c in base.get("conditions") or ()}
    new = {c["type"]: c for c in wanted.get("conditions") or ()}
    changed: list[Obj] = [_condition_patch(old.get(t), c) for t, c in new.items() if old.get(t) != c]
    changed += [{"$patch": "delete", "type": t} for t in old if t in KUBELET_CONDITIONS and t not in new]
    if changed:
        patch["conditions"] = changed
    return patch


def _condition_patch(old: Obj | None, new: Obj) -> Obj:
    """Elements merge field by field: what the new one lacks must be taken away."""
    gone = {key: None for key in old or () if key not in new and key != "lastProbeTime"}
    return {**new, **gone}


class _Entry:
    """One pod: what it should show, and what the API answered last."""

    __slots__ = ("answered", "base", "delete", "is_deleted", "lazy", "pod", "seen", "task", "wake", "wanted")

    def __init__(self, pod: Obj) -> None:
        self.pod = pod
        self.wanted: Obj | None = None
        self.base: Obj = pod.get("status") or {}
        self.seen: Obj = {}
        self.answered = 0
        self.delete = False
        self.is_deleted = asyncio.Event()
        self.lazy = False
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class StatusWriter:
    """``target`` maps a pod to the API object that shows its status (a static pod's mirror), None while there is none."""

    def __init__(self, client: Client, target: Callable[[Obj], Obj | None] = lambda pod: pod) -> None:
        self._client = client
        self._target = target
        self._entries: dict[str, _Entry] = {}

    def get(self, pod: Obj) -> Obj:
        """The status last decided for the pod; the API's before there is one."""
        entry = self._entries.get(podinfo.uid(pod))
        if entry is not None and entry.wanted is not None:
            return entry.wanted
        return pod.get("status") or {}

    def set(self, pod: Obj, status: Obj, *, lazy: bool = False) -> None:
        """Show ``status``. ``lazy``: soon is good enough, a better one may come first."""
        entry = self._entry(pod)
        entry.pod = pod
        if entry.wanted is not None and not build_patch(entry.wanted, status):
            return
        entry.wanted = status
        entry.lazy = lazy
        self._kick(entry)

    async def delete(self, pod: Obj) -> None:
        """Write what is pending, then confirm the pod's deletion: grace 0, this very uid. Returns when the API agreed."""
        entry = self._entry(pod)
        entry.delete = True
        entry.lazy = False
        self._kick(entry)
        await entry.is_deleted.wait()

    def observed(self, pod: Obj) -> None:
        """The API's object changed. When somebody else wrote our fields after us, ours are written again."""
        entry = self._entries.get(podinfo.uid(pod))
        if entry is None or entry.wanted is None:
            return
        version = str(pod["metadata"].get("resourceVersion") or "")
        if not version.isdigit() or int(version) <= entry.answered:
            return
        status = pod.get("status") or {}
        if entry.task is None and any(status.get(key) != entry.seen.get(key) for key in _OWNED):
            entry.base = status
            self._kick(entry)

    def retry(self, pod: Obj) -> None:
        """The object to write to has appeared (a mirror pod was made)."""
        entry = self._entries.get(podinfo.uid(pod))
        if entry is not None:
            entry.base = {}
            self._kick(entry)

    def forget(self, uid: str) -> None:
        entry = self._entries.pop(uid, None)
        if entry is not None and entry.task is not None:
            entry.task.cancel()

    async def flush(self) -> None:
        """Wait until nothing is pending (tests, shutdown)."""
        while tasks := [e.task for e in self._entries.values() if e.task is not None]:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        tasks = [e.task for e in self._entries.values() if e.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _entry(self, pod: Obj) -> _Entry:
        uid = podinfo.uid(pod)
        return self._entries.get(uid) or self._entries.setdefault(uid, _Entry(pod))

    def _kick(self, entry: _Entry) -> None:
        if entry.task is None:
            name = f"status {podinfo.namespace(entry.pod)}/{podinfo.name(entry.pod)}"
            entry.task = asyncio.get_running_loop().create_task(self._write(entry), name=name)
        elif not entry.lazy:
            entry.wake.set()

    async def _write(self, entry: _Entry) -> None:
        failures = 0
        try:
            while True:
                if entry.lazy:
                    entry.wake.clear()
                    try:
                        await asyncio.wait_for(entry.wake.wait(), LAZY_SECONDS)
                    except TimeoutError:
                        entry.lazy = False
                try:
                    if not await self._write_once(entry):
                        return
                    failures = 0
                except (StatusError, ConnectionError, TimeoutError) as error:
                    delay = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                    failures += 1
                    level = logging.WARNING if failures == len(_RETRY_SECONDS) else logging.DEBUG
                    log.log(level, "pod %s: status not written yet: %s", podinfo.describe(entry.pod), error)
                    entry.wake.clear()
                    try:
                        await asyncio.wait_for(entry.wake.wait(), delay)
                    except TimeoutError:
                        continue
        finally:
            entry.task = None

    async def _write_once(self, entry: _Entry) -> bool:
        """One request; False when there is nothing left to do."""
        target = self._target(entry.pod)
        if target is None:
            return False
        wanted = entry.wanted
        patch = build_patch(entry.base, wanted) if wanted is not None else {}
        meta = target["metadata"]
        try:
            if patch:
                answer = await self._client.patch(
                    resources.PODS,
                    meta["name"],
                    {"metadata": {"uid": meta["uid"]}, "status": patch},
                    meta.get("namespace"),
                    patch_type="application/strategic-merge-patch+json",
                    subresource="status",
                    field_manager="kubelet",
                )
                self._accept(entry, answer, wanted)
                return True
            if entry.delete:
                await self._client.delete(
                    resources.PODS,
                    meta["name"],
                    meta.get("namespace"),
                    DeleteOptions(grace_period_seconds=0, uid=meta["uid"]),
                )
                entry.is_deleted.set()
            return False
        except StatusError as error:
            # Gone, or another pod of this name by now: nobody is left to tell.
            if error.code in (404, 409) and (error.code == 404 or "uid" in error.message.lower()):
                entry.base = wanted if wanted is not None else entry.base
                entry.is_deleted.set()
                return False
            raise

    @staticmethod
    def _accept(entry: _Entry, answer: Obj, wanted: Obj | None) -> None:
        """Later diffs are against what we sent: the server may spell values in another way, which is no difference."""
        entry.base = wanted or {}
        entry.seen = answer.get("status") or {}
        version = str(answer["metadata"].get("resourceVersion") or "")
        entry.answered = int(version) if version.isdigit() else 0
