"""Who owns which field: keeps ``metadata.managedFields`` on creates and updates. Source:
``managedfields/internal/fieldmanager.go``."""

from __future__ import annotations

from k3sd.apimachinery import apply
from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.fieldset import ShapeError, Tree
from k3sd.apiserver.endpoint import Endpoint
from k3sd.apiserver.request import RequestContext

MANAGER_LIMIT = 128
_STATUS: Tree = {"f:status": {}}
_SPEC: Tree = {"f:spec": {}}


def manager_of(ctx: RequestContext) -> str:
    """``managerOrUserAgent``: the field manager asked for, else the program's name from the user agent."""
    if ctx.field_manager:
        return ctx.field_manager
    agent = ctx.user_agent.split("/", 1)[0]
    return "".join(c for c in agent if c.isprintable())[:MANAGER_LIMIT] or "unknown"


def reset_fields(ep: Endpoint, subresource: str) -> Tree | None:
    """What a write through this endpoint cannot change, as a field set (``GetResetFields``)."""
    if subresource == "status":
        return _SPEC
    return _STATUS if ep.has_status and not subresource else None


def on_create(ep: Endpoint, ctx: RequestContext, obj: Obj) -> None:
    """``obj`` is about to be stored for the first time; admission has not seen it yet."""
    _update(ep, ctx, None, obj, "")


def on_update(ep: Endpoint, ctx: RequestContext, old: Obj, new: Obj) -> None:
    """``new`` is about to replace ``old``; admission has not seen it yet."""
    _update(ep, ctx, old, new, ctx.subresource)


def _update(ep: Endpoint, ctx: RequestContext, old: Obj | None, new: Obj, subresource: str) -> None:
    """``UpdateNoErrors``: an object whose lists lack their keys loses its managed fields; validation may refuse it later."""
    try:
        apply.update_managed_fields(
            old,
            new,
            manager_of(ctx),
            "Update",
            subresource,
            ep.resource.api_version,
            ep.type_,
            "",
            reset_fields(ep, subresource),
        )
    except ShapeError:
        new["metadata"].pop("managedFields", None)
