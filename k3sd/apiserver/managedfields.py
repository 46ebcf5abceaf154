"""Who owns which field: keeps ``metadata.managedFields`` on creates and updates. Source: ``managedfields/internal/fieldmanager.go``."""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj
from k3sd.apiserver.endpoint import Endpoint
from k3sd.apiserver.request import RequestContext

MANAGER_LIMIT = 128


def manager_of(ctx: RequestContext) -> str:
    """``managerOrUserAgent``: the field manager asked for, else the program's name from the user agent."""
    if ctx.field_manager:
        return ctx.field_manager
    agent = ctx.user_agent.split("/", 1)[0]
    return "".join(c for c in agent if c.isprintable())[:MANAGER_LIMIT] or "unknown"


def on_create(ep: Endpoint, ctx: RequestContext, obj: Obj) -> None:
    """``obj`` is about to be stored for the first time."""


def on_update(ep: Endpoint, ctx: RequestContext, old: Obj, new: Obj) -> None:
    """``new`` is about to replace ``old``."""
