"""Namespaces: held by ``spec.finalizers`` until their controller has emptied them. Source: ``pkg/registry/core/namespace``."""

from __future__ import annotations

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, invalid
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, spec_of
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

NAME_LABEL = "kubernetes.io/metadata.name"


@strategy(resources.NAMESPACES)
class NamespaceStrategy(Strategy):
    name_rule = "dns1123-label"

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["status"] = {"phase": "Active"}
        finalizers = list(spec_of(obj).get("finalizers") or [])
        if "kubernetes" not in finalizers:
            finalizers.append("kubernetes")
        obj.setdefault("spec", {})["finalizers"] = finalizers

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        return _validate_finalizers(obj)

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        if ctx.subresource != "finalize":
            new["spec"] = {**(new.get("spec") or {}), "finalizers": list(spec_of(old).get("finalizers") or [])}
            if not new["spec"]["finalizers"]:
                del new["spec"]["finalizers"]

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return _validate_finalizers(new) if ctx.subresource == "finalize" else []

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        phase = (new.get("status") or {}).get("phase", "")
        if not new["metadata"].get("deletionTimestamp"):
            if phase != "Active":
                errs.append(invalid("status.Phase", phase, "may only be 'Active' if `deletionTimestamp` is empty"))
        elif phase != "Terminating":
            errs.append(invalid("status.Phase", phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
        return errs

    def mark_deleting(self, ctx: RequestContext, obj: Obj) -> None:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}

    def holds_deletion(self, obj: Obj) -> bool:
        return bool(spec_of(obj).get("finalizers"))

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"status.phase": (obj.get("status") or {}).get("phase", "")}


def _validate_finalizers(obj: Obj) -> list[FieldError]:
    errs: Errors = []
    for i, name in enumerate(spec_of(obj).get("finalizers") or []):
        if name != "kubernetes":
            errs += [invalid(f"spec.finalizers[{i}]", name, text) for text in names.qualified_name(name)]
    return errs
