"""``scale`` of custom resources: an autoscaling/v1 Scale read and written through the definition's JSON paths.

Source: ``apiextensions-apiserver/pkg/registry/customresource/etcd.go`` (``ScaleREST``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apis.columns.custom import evaluate
from k3sd.apiserver.kinds.scale import ScaleHandler

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


class CustomScale(ScaleHandler):
    """``paths`` is the version's ``subresources.scale``."""

    def __init__(self, registry: Registry, resource: Resource, paths: Obj) -> None:
        super().__init__(registry, resource, "scale")
        self.paths = paths

    @property
    def replicas_path(self) -> tuple[str, ...]:
        return tuple(self.paths["specReplicasPath"].removeprefix(".").split("."))

    def scale_of(self, obj: Obj) -> Obj:
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

    def set_replicas(self, obj: Obj, replicas: int) -> None:
        _set(obj, self.paths["specReplicasPath"], replicas)
