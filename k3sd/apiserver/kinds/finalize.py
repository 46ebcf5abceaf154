"""``namespaces/finalize``: the only way to change a namespace's ``spec.finalizers``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.apiserver.kinds.handlers import ObjectHandler
from k3sd.apiserver.kinds.rules import clone

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.registry import Registry


class FinalizeHandler(ObjectHandler):
    def merge(self, current: Obj, body: Obj) -> Obj:
        new: Obj = clone(current)
        finalizers = (body.get("spec") or {}).get("finalizers") or []
        if finalizers:
            new.setdefault("spec", {})["finalizers"] = list(finalizers)
        else:
            new.get("spec", {}).pop("finalizers", None)
        return new


def handlers(registry: Registry) -> list[SubresourceHandler]:
    return [FinalizeHandler(registry, resources.NAMESPACES, "finalize")]
