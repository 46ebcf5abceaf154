"""Deletes pods that do not tolerate a NoExecute taint of their node, at once or when their tolerationSeconds are over.

Source: ``pkg/controller/tainteviction``.
"""

from __future__ import annotations

import asyncio

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import object_key
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.nodehealth import min_toleration_seconds
from k3sd.controllers.nodelifecycle import node_index
from k3sd.controllers.objects import is_deleting, name_of, namespace_of, set_condition, uid_of


def no_execute(node: Obj | None) -> list[Obj]:
    """The node's NoExecute taints."""
    taints = (node.get("spec") or {}).get("taints") or () if node is not None else ()
    return [t for t in taints if t.get("effect") == "NoExecute"]


class TaintEvictionController(Controller):
    name = "taint-eviction-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder(self.name)
        # pod key -> (uid, when its waiting began, seconds it may wait), in loop time
        self._waiting: dict[str, tuple[str, float, float]] = {}
        self.nodes = self.informer(resources.NODES, self._node, self._node_updated)
        self.pods = self.informer(resources.PODS, self._pod, self._pod_updated, self._pod_deleted)
        self.pods.add_index("node", node_index)

    def _node(self, node: Obj) -> None:
        if no_execute(node):
            self._all_pods(node)

    def _node_updated(self, old: Obj, node: Obj) -> None:
        if no_execute(old) != no_execute(node):
            self._all_pods(node)

    def _all_pods(self, node: Obj) -> None:
        for pod in self.pods.by_index("node", name_of(node)):
            self.enqueue(pod)

    def _pod(self, pod: Obj) -> None:
        node = pod["spec"].get("nodeName")
        if node and (no_execute(self.nodes.get(node)) or not self.nodes.synced):
            self.enqueue(pod)

    def _pod_updated(self, old: Obj, pod: Obj) -> None:
        before, after = old["spec"], pod["spec"]
        if before.get("nodeName") != after.get("nodeName") or before.get("tolerations") != after.get("tolerations"):
            self._pod(pod)

    def _pod_deleted(self, pod: Obj) -> None:
        self._waiting.pop(object_key(pod), None)

    async def reconcile(self, key: str) -> float | None:
        pod = self.pods.get(key)
        if pod is None or is_deleting(pod):
            self._waiting.pop(key, None)
            return None
        taints = no_execute(self.nodes.get(pod["spec"].get("nodeName") or ""))
        seconds = min_toleration_seconds(taints, pod["spec"].get("tolerations") or ()) if taints else None
        now = asyncio.get_running_loop().time()
        waiting = self._waiting.get(key)
        if waiting is not None and waiting[0] != uid_of(pod):
            waiting = None
        if seconds is None:
            if self._waiting.pop(key, None) is not None:
                self.recorder.event(pod, "Normal", "TaintManagerEviction", f"Cancelling deletion of Pod {key}")
            return None
        # A taint that joins others shortens the wait but does not begin it anew.
        began = waiting[1] if waiting is not None else now
        if waiting is not None and began + seconds >= waiting[1] + waiting[2]:
            seconds = waiting[2]
        left = began + seconds - now
        if left > 0:
            self._waiting[key] = (uid_of(pod), began, seconds)
            return left
        await self._evict(pod)
        self._waiting.pop(key, None)
        return None

    async def _evict(self, pod: Obj) -> None:
        key = object_key(pod)
        self.recorder.event(pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {key}")
        try:
            await mark_disrupted(
                self, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", fail=False
            )
            await self.client.delete(resources.PODS, name_of(pod), namespace_of(pod), DeleteOptions(uid=uid_of(pod)))
        except StatusError as e:
            if e.code != 404:
                raise


async def mark_disrupted(controller: Controller, pod: Obj, reason: str, message: str, *, fail: bool) -> None:
    """Say in the DisruptionTarget condition why the pod is about to go; ``fail`` also ends its phase."""
    now = controller.ctx.now()

    def change(obj: Obj) -> None:
        status = obj.setdefault("status", {})
        condition: Obj = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
        if obj["metadata"].get("generation"):
            condition["observedGeneration"] = obj["metadata"]["generation"]
        set_condition(status, condition, now)
        if fail:
            status["phase"] = "Failed"

    await update_with_retry(
        controller.client,
        resources.PODS,
        name_of(pod),
        namespace_of(pod),
        change,
        subresource="status",
        initial=pod,
        uid=uid_of(pod),
    )
