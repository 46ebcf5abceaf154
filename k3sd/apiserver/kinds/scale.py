"""``*/scale``: autoscaling/v1 Scale of what has replicas. Source: ``pkg/registry/apps/deployment/storage`` (``ScaleREST``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery import selectors
from k3sd.apimachinery.errors import Obj, bad_request, invalid, invalid_object
from k3sd.apis import resources
from k3sd.apiserver.kinds.handlers import Handler
from k3sd.apiserver.kinds.rules import NON_NEGATIVE, clone
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.registry import Registry


def scale_of(obj: Obj) -> Obj:
    """The Scale of a workload."""
    meta, spec = obj["metadata"], obj.get("spec") or {}
    status: Obj = {"replicas": (obj.get("status") or {}).get("replicas") or 0}
    selector = spec.get("selector")
    if selector:
        text = str(selectors.label_selector_from(selector))
        if text:
            status["selector"] = text
    keep = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: meta[k] for k in keep if k in meta},
        "spec": {"replicas": spec["replicas"]} if spec.get("replicas") else {},
        "status": status,
    }


class ScaleHandler(Handler):
    """``scale`` of a kind with ``spec.replicas``. The hooks are all that another place for the number needs."""

    @property
    def replicas_path(self) -> tuple[str, ...]:
        """Where the number is in the object."""
        return ("spec", "replicas")

    def scale_of(self, obj: Obj) -> Obj:
        return scale_of(obj)

    def set_replicas(self, obj: Obj, replicas: int) -> None:
        obj.setdefault("spec", {})["replicas"] = replicas

    async def get(self, ctx: RequestContext, namespace: str, name: str) -> Obj:
        return self.scale_of((await self.registry.fetch(ctx)).obj)

    def changed(self, current: Obj, body: Obj, name: str) -> Obj:
        """``current`` (which stays as it is) scaled as ``body`` says. Raises 400, 422."""
        meta = body.get("metadata") or {}
        if meta.get("name", name) != name:
            raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
        replicas = (body.get("spec") or {}).get("replicas") or 0
        if replicas < 0:
            raise invalid_object("autoscaling", "Scale", name, [invalid("spec.replicas", replicas, NON_NEGATIVE)])
        new: Obj = clone(current)
        new["metadata"].pop("resourceVersion", None)
        for key in ("resourceVersion", "uid"):
            if meta.get(key):
                new["metadata"][key] = meta[key]
        self.set_replicas(new, replicas)
        return new

    async def update(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        return self.scale_of((await self.registry.modify(ctx, lambda current: self.changed(current, body, name))).obj)


def handlers(registry: Registry) -> list[SubresourceHandler]:
    rows = (resources.DEPLOYMENTS, resources.REPLICASETS, resources.STATEFULSETS, resources.REPLICATIONCONTROLLERS)
    return [ScaleHandler(registry, row, "scale") for row in rows]
