"""In-place resize: bringing running containers to the resources their spec asks for now.

What is in force is kept by container id; after a restart of the kubelet it is read from the pod's status, which is where the
last one wrote it. Source: Kubernetes 1.36 ``pkg/kubelet/allocation``, ``kuberuntime_manager.go`` (``doPodResizeAction``).
"""

from __future__ import annotations

import asyncio
import logging

from k3sd.apimachinery import timefmt
from k3sd.kubelet import podinfo
from k3sd.kubelet.cgroups import CgroupManager, pod_limits
from k3sd.kubelet.cri.client import CRIError
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.runtime import PodRuntime
from k3sd.kubelet.state import PodState
from k3sd.lib.jsonvalue import clone

log = logging.getLogger(__name__)


class Resizer:
    """One a pod. ``in_force`` maps a container id to its resources."""

    def __init__(self, pod: Obj) -> None:
        status = pod.get("status") or {}
        self.in_force: dict[str, Obj] = {
            str(entry["containerID"]).removeprefix("containerd://"): entry.get("resources") or {}
            for key in ("containerStatuses", "initContainerStatuses")
            for entry in status.get(key) or ()
            if entry.get("containerID") and "running" in (entry.get("state") or {})
        }
        self._error = ""

    def conditions(self) -> list[Obj]:
        """PodResizeInProgress while a resize does not get through."""
        if not self._error:
            return []
        return [
            {
                "type": "PodResizeInProgress",
                "status": "True",
                "reason": "Error",
                "message": self._error,
                "lastTransitionTime": timefmt.now(),
            }
        ]

    async def run(self, pod: Obj, state: PodState, runtime: PodRuntime, cgroups: CgroupManager) -> None:
        """Update what differs: the pod's cgroup is widened before its containers and narrowed after them."""
        pending: list[tuple[str, Obj]] = []
        alive: set[str] = set()
        for _, container in podinfo.all_containers(pod):
            record = state.latest(container["name"])
            if record is None or not record.is_running:
                continue
            alive.add(record.id)
            wanted = container.get("resources") or {}
            known = self.in_force.setdefault(record.id, clone(wanted))
            if known != wanted and not _same(known, wanted):
                pending.append((record.id, container))
        for id_ in self.in_force.keys() - alive:
            del self.in_force[id_]
        if not pending:
            self._error = ""
            return
        limits = pod_limits(pod)
        try:
            await asyncio.to_thread(cgroups.widen_pod, pod, limits)
            for id_, container in pending:
                await runtime.resize_container(pod, container, id_)
                self.in_force[id_] = clone(container.get("resources") or {})
            await asyncio.to_thread(cgroups.update_pod, pod)
            self._error = ""
        except CRIError as error:
            self._error = str(error)
            raise


def _same(left: Obj, right: Obj) -> bool:
    """Equal amounts, however they are spelled."""
    from k3sd.apimachinery import quantity

    for kind in ("requests", "limits"):
        a, b = left.get(kind) or {}, right.get(kind) or {}
        if a.keys() != b.keys() or any(quantity.parse(a[k]) != quantity.parse(b[k]) for k in a):
            return False
    return True
