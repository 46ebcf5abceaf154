"""Removes pods that nobody else will: too many finished ones, those of nodes that are gone, those never bound.

Source: ``pkg/controller/podgc/gc_controller.go``.
"""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import object_key
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.nodelifecycle import node_index
from k3sd.controllers.objects import condition_status, is_deleting, name_of, namespace_of, uid_of
from k3sd.controllers.pods import is_finished
from k3sd.controllers.tainteviction import mark_disrupted

THRESHOLD = 12500
QUARANTINE_SECONDS = 40.0
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
FINISHED = " finished"
"""Queue key for the count of finished pods; no pod's key has a space."""


class PodGarbageCollector(Controller):
    name = "pod-garbage-collector-controller"
    workers = 2

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        values = ctx.settings.controller_manager_args.get("terminated-pod-gc-threshold", ())
        self.threshold = int(values[-1]) if values else THRESHOLD
        self._finished: dict[str, None] = {}
        self.nodes = self.informer(resources.NODES, self._node, self._node_updated, self._node)
        self.pods = self.informer(resources.PODS, self._pod, lambda _, pod: self._pod(pod), self._deleted)
        self.pods.add_index("node", node_index)

    def _node(self, node: Obj) -> None:
        for pod in self.pods.by_index("node", name_of(node)):
            self._pod(pod)

    def _node_updated(self, old: Obj, node: Obj) -> None:
        if old["spec"].get("taints") != node["spec"].get("taints"):
            self._node(node)

    def _pod(self, pod: Obj) -> None:
        key = object_key(pod)
        if is_finished(pod):
            self._finished[key] = None
            if 0 < self.threshold < len(self._finished):
                self.queue.add(FINISHED)
        node = pod["spec"].get("nodeName")
        if not node:
            if is_deleting(pod):
                self.queue.add(key)
        elif self.nodes.synced and self.nodes.get(node) is None:
            # A pod may be seen before its new node is; only a node that stays away counts.
            self.queue.add_after(key, QUARANTINE_SECONDS)
        elif is_deleting(pod) and self._out_of_service(node):
            self.queue.add(key)

    def _deleted(self, pod: Obj) -> None:
        self._finished.pop(object_key(pod), None)

    def _out_of_service(self, node_name: str) -> bool:
        node = self.nodes.get(node_name)
        if node is None or condition_status(node, "Ready") == "True":
            return False
        return any(t.get("key") == OUT_OF_SERVICE for t in node["spec"].get("taints") or ())

    async def background(self) -> None:
        """Pods that came before the first list of nodes were not compared with it."""
        for pod in list(self.pods.list()):
            self._pod(pod)

    async def reconcile(self, key: str) -> None:
        if key == FINISHED:
            await self._trim()
            return
        pod = self.pods.get(key)
        if pod is None:
            return
        node = pod["spec"].get("nodeName")
        if not node:
            if is_deleting(pod):
                await self._delete(pod, "", "")
        elif self.nodes.get(node) is None:
            if await self._node_is_gone(node):
                await self._delete(pod, "DeletionByPodGC", "PodGC: node no longer exists")
        elif is_deleting(pod) and self._out_of_service(node):
            await self._delete(pod, "DeletionByPodGC", "PodGC: node is out of service")

    async def _node_is_gone(self, name: str) -> bool:
        try:
            await self.client.get(resources.NODES, name)
        except StatusError as e:
            if e.code == 404:
                return True
            raise
        return False

    async def _trim(self) -> None:
        """Delete the oldest finished pods above the threshold."""
        found = [p for k in self._finished if (p := self.pods.get(k)) is not None and not is_deleting(p)]
        found.sort(key=lambda p: (p["metadata"].get("creationTimestamp") or "", name_of(p)))
        for pod in found[: max(0, len(found) - self.threshold)]:
            await self._delete(pod, "", "")

    async def _delete(self, pod: Obj, reason: str, message: str) -> None:
        """Delete at once; a pod that has not finished is failed first, since no kubelet will."""
        try:
            if reason and not is_finished(pod):
                await mark_disrupted(self, pod, reason, message, fail=True)
            options = DeleteOptions(grace_period_seconds=0, uid=uid_of(pod))
            await self.client.delete(resources.PODS, name_of(pod), namespace_of(pod), options)
        except StatusError as e:
            if e.code != 404:
                raise
