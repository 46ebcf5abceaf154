"""``scale`` of custom resources: an autoscaling/v1 Scale read and written through the definition's JSON paths.

Source: ``apiextensions-apiserver/pkg/registry/customresource/etcd.go`` (``ScaleREST``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k3sd.apimachinery.codec import clone
from k3sd.apimachinery.errors import Obj, bad_request, invalid, invalid_object
from k3sd.apimachinery.resource import Resource
from k3sd.apis.columns.custom import evaluate
from k3sd.apiserver.kinds.handlers import Handler
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

_KEEP = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def _number(path: str, obj: Obj) -> int:
    values = evaluate(path, obj)
    return values[0] if values and isinstance(values[0], int) else 0


def _set(obj: Obj, path: str, value: Any) -> None:
    *parents, last = path.removeprefix(".").split(".")
    for name in parents:
        obj = obj.setdefault(name, {})
    obj[last] = value


class CustomScale(Handler):
    """``paths`` is the version's ``subresources.scale``."""

    def __init__(self, registry: Registry, resource: Resource, paths: Obj) -> None:
        super().__init__(registry, resource, "scale")
        self.paths = paths

    def _scale(self, obj: Obj) -> Obj:
        status: Obj = {"replicas": _number(self.paths.get("statusReplicasPath", ""), obj)}
        selector = evaluate(self.paths["labelSelectorPath"], obj) if self.paths.get("labelSelectorPath") else []
        if selector and isinstance(selector[0], str):
            status["selector"] = selector[0]
        replicas = _number(self.paths.get("specReplicasPath", ""), obj)
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {key: obj["metadata"][key] for key in _KEEP if key in obj["metadata"]},
            "spec": {"replicas": replicas} if replicas else {},
            "status": status,
        }

    async def get(self, ctx: RequestContext, namespace: str, name: str) -> Obj:
        return self._scale((await self.registry.fetch(ctx)).obj)

    async def update(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        metadata = body.get("metadata") or {}
        if metadata.get("name", name) != name:
            raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
        replicas = (body.get("spec") or {}).get("replicas") or 0
        if replicas < 0:
            text = "should be a non-negative integer"
            raise invalid_object("autoscaling", "Scale", name, [invalid("spec.replicas", replicas, text)])
        version = metadata.get("resourceVersion", "")

        def change(current: Obj) -> Obj:
            new: Obj = clone(current)
            new["metadata"].pop("resourceVersion", None)
            if version:
                new["metadata"]["resourceVersion"] = version
            _set(new, self.paths["specReplicasPath"], replicas)
            return new

        return self._scale((await self.registry.modify(ctx, change)).obj)
