"""In-place resize: bringing running containers to the resources their spec asks for now.

What is in force is kept by container id; after a restart of the kubelet it is read from the pod's status, which is where the
last one wrote it. Source: Kubernetes 1.36 ``pkg/kubelet/allocation``, ``kuberuntime_manager.go`` (``doPodResizeAction``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from k3sd.apimachinery import quantity, timefmt
from k3sd.kubelet import podinfo
from k3sd.kubelet.cgroups import CgroupManager, pod_limits
from k3sd.kubelet.cri.client import CRIError
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.runtime import PodRuntime
from k3sd.kubelet.state import ContainerRecord, PodState
from k3sd.kubelet.status import Verdict
from k3sd.lib.jsonvalue import clone

log = logging.getLogger(__name__)


class Resizer:
    """One a pod. ``in_force`` maps a container id to its resources, ``allocated`` a container's name to what was granted."""

    def __init__(self, pod: Obj) -> None:
        status = pod.get("status") or {}
        running = [
            entry
            for key in ("containerStatuses", "initContainerStatuses")
            for entry in status.get(key) or ()
            if entry.get("containerID") and "running" in (entry.get("state") or {})
        ]
        self.in_force: dict[str, Obj] = {
            str(entry["containerID"]).removeprefix("containerd://"): entry["resources"]
            for entry in running
            if "resources" in entry
        }
        self.allocated: dict[str, Obj] = {}
        self._pending: Verdict | None = None
        self._error = ""
        self._generation = 0
        self._since = ""

    @property
    def is_deferred(self) -> bool:
        return self._pending is not None and self._pending.reason == "Deferred"

    def conditions(self) -> list[Obj]:
        """PodResizePending while the node will not grant it, PodResizeInProgress while it does not get through."""
        if self._pending is not None:
            kind, reason, message = "PodResizePending", self._pending.reason, self._pending.message
        elif self._error:
            kind, reason, message = "PodResizeInProgress", "Error", self._error
        else:
            return []
        out = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": self._since}
        return [{**out, "observedGeneration": self._generation} if self._generation else out]

    def restarts(self, pod: Obj, state: PodState) -> list[ContainerRecord]:
        """Running containers whose change of resources needs a restart (``resizePolicy``); call after ``allocate``."""
        if self._pending is not None:
            return []
        found: list[ContainerRecord] = []
        for container, record in _running(pod, state):
            known, wanted = self.in_force.get(record.id), container.get("resources") or {}
            if known is None or _same(known, wanted):
                continue
            strict = {
                p["resourceName"] for p in container.get("resizePolicy") or () if p.get("restartPolicy") == "RestartContainer"
            }
            if strict & _changed(known, wanted):
                found.append(record)
        return found

    def allocate(self, pod: Obj, state: PodState, check: Callable[[Obj], Verdict | None]) -> None:
        """Grant what the spec asks for, unless the node refuses a change of it."""
        differs = any(
            record.id in self.in_force and not _same(self.in_force[record.id], container.get("resources") or {})
            for container, record in _running(pod, state)
        )
        before = self._pending
        self._pending = check(pod) if differs else None
        if self._pending != before:
            self._since = timefmt.now()
            self._generation = int(pod["metadata"].get("generation") or 0)
        if self._pending is None:
            self.allocated = {
                c["name"]: (c.get("resources") or {}).get("requests") or {} for _, c in podinfo.all_containers(pod)
            }
        else:
            for container, record in _running(pod, state):
                self.allocated[container["name"]] = (self.in_force.get(record.id) or {}).get("requests") or {}

    async def run(self, pod: Obj, state: PodState, runtime: PodRuntime, cgroups: CgroupManager) -> bool:
        """Update what differs: the pod's cgroup is widened before its containers and narrowed after them. Whether anything did.

        Raises CRIError.
        """
        if self._pending is not None:
            return False
        pending: list[tuple[str, Obj]] = []
        alive: set[str] = set()
        for container, record in _running(pod, state):
            alive.add(record.id)
            wanted = container.get("resources") or {}
            if not _same(self.in_force.setdefault(record.id, clone(wanted)), wanted):
                pending.append((record.id, container))
        for id_ in self.in_force.keys() - alive:
            del self.in_force[id_]
        if not pending:
            self._error = ""
            return False
        try:
            await asyncio.to_thread(cgroups.widen_pod, pod, pod_limits(pod))
            for id_, container in pending:
                await runtime.resize_container(pod, container, id_)
                self.in_force[id_] = clone(container.get("resources") or {})
            await asyncio.to_thread(cgroups.update_pod, pod)
            self._error = ""
            return True
        except CRIError as error:
            self._error = str(error)
            self._since = timefmt.now()
            raise


def _running(pod: Obj, state: PodState) -> Iterator[tuple[Obj, ContainerRecord]]:
    for _, container in podinfo.all_containers(pod):
        record = state.latest(container["name"])
        if record is not None and record.is_running:
            yield container, record


def _changed(left: Obj, right: Obj) -> set[str]:
    """Names of the resources that differ."""
    names = {n for side in (left, right) for kind in ("requests", "limits") for n in side.get(kind) or {}}

    def part(side: Obj, name: str) -> Obj:
        return {kind: {name: side[kind][name]} for kind in ("requests", "limits") if name in (side.get(kind) or {})}

    return {n for n in names if not _same(part(left, n), part(right, n))}


def _same(left: Obj, right: Obj) -> bool:
    """Equal amounts, however they are spelled."""
    if left == right:
        return True
    for kind in ("requests", "limits"):
        a, b = left.get(kind) or {}, right.get(kind) or {}
        if a.keys() != b.keys() or any(quantity.parse(a[k]) != quantity.parse(b[k]) for k in a):
            return False
    return True
