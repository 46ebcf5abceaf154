"""One worker a pod: steps of one pod are serial, pods are parallel. This is the table of them, by uid.

Source: Kubernetes 1.36 ``pkg/kubelet/pod_workers.go``.
"""

from __future__ import annotations

import asyncio

from k3sd.kubelet import podinfo
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.podworker import PodWorker
from k3sd.kubelet.services import Services


class PodWorkers:
    """All workers of the node, by uid."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._workers: dict[str, PodWorker] = {}
        self._again: dict[str, Obj] = {}
        self._is_stopping = False

    def get(self, uid: str) -> PodWorker | None:
        return self._workers.get(uid)

    def __contains__(self, uid: object) -> bool:
        return uid in self._workers

    def all(self) -> list[PodWorker]:
        return list(self._workers.values())

    def pods(self) -> list[Obj]:
        return [w.pod for w in self._workers.values()]

    def admitted(self) -> list[Obj]:
        """Pods that hold resources of the node. What its source has no more counts no longer, though it may still be ending:
        the scheduler gives its place away as well (``getActivePods``). A resize that waits holds what was granted before."""
        return [w.granted() for w in self._workers.values() if w.is_admitted and not w.is_terminated and not w.is_gone]

    def update(self, pod: Obj) -> None:
        """A pod of this node appeared or changed."""
        worker = self._workers.get(podinfo.uid(pod))
        if worker is None:
            self._workers[podinfo.uid(pod)] = PodWorker(self._services, pod, self._done)
        elif worker.is_gone:
            # A static pod that was taken away and put back: its end is completed first.
            self._again[podinfo.uid(pod)] = pod
        else:
            worker.update(pod)

    def remove(self, uid: str, forced: bool = False) -> None:
        """The pod is gone from its source."""
        self._again.pop(uid, None)
        worker = self._workers.get(uid)
        if worker is not None:
            worker.vanish(forced)

    def runtime_changed(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.runtime_changed()

    async def stop(self) -> None:
        self._is_stopping = True
        await asyncio.gather(*(w.stop() for w in self._workers.values()))

    def _done(self, uid: str) -> None:
        if self._is_stopping:
            return
        self._workers.pop(uid, None)
        # What it held may be what a resize waits for.
        for worker in self._workers.values():
            if worker.waits_for_resources:
                worker.retry()
        again = self._again.pop(uid, None)
        if again is not None:
            self.update(again)
