"""Tells kubelets by annotation how long they may cache ConfigMaps and Secrets, the longer the more nodes there are.

Source: ``pkg/controller/ttl/ttl_controller.go``.
"""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import annotations_of, is_deleting, uid_of

ANNOTATION = "node.alpha.kubernetes.io/ttl"
_STEPS = ((100, 0), (500, 15), (1000, 30), (2000, 60), (10000, 300))


def seconds_for(nodes: int) -> int:
    return next((seconds for limit, seconds in _STEPS if nodes <= limit), _STEPS[-1][1])


class TTLController(Controller):
    name = "ttl-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._told: int | None = None
        self.nodes = self.informer(resources.NODES, self._node, None, self._node)

    def _node(self, node: Obj) -> None:
        seconds = seconds_for(len(self.nodes))
        if seconds != self._told:
            self._told = seconds
            for other in self.nodes.list():
                self.enqueue(other)
        self.enqueue(node)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.get(key)
        wanted = str(seconds_for(len(self.nodes)))
        if node is None or is_deleting(node) or annotations_of(node).get(ANNOTATION) == wanted:
            return

        def change(obj: Obj) -> None:
            obj["metadata"].setdefault("annotations", {})[ANNOTATION] = wanted

        try:
            await update_with_retry(self.client, resources.NODES, key, None, change, initial=node, uid=uid_of(node))
        except StatusError as e:
            if e.code != 404:
                raise
