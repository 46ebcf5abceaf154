"""Server-side apply on the write path. Upstream: ``applyPatcher`` in ``endpoints/handlers/patch.go``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery import apply, codec, schema
from k3sd.apimachinery.errors import Obj, StatusError, bad_request, conflict, not_found
from k3sd.apiserver import writes
from k3sd.apiserver.endpoint import Endpoint, Item, Rendered
from k3sd.apiserver.managedfields import manager_of, reset_fields
from k3sd.apiserver.patching import Patch, check_apply_target, report
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler


def _checked(ep: Endpoint, ctx: RequestContext, patch: Patch) -> Obj:
    """The applied configuration. Raises 400."""
    applied: Obj = patch.body
    if patch.duplicates:
        texts = list(patch.duplicates)
        report(ctx, texts, lambda: bad_request(f"error strict decoding YAML: {', '.join(texts)}"))
    if ctx.subresource in ("", "status"):
        check_apply_target(ep, ctx, applied)
    return applied


async def apply_object(ep: Endpoint, ctx: RequestContext, patch: Patch) -> tuple[Item, bool]:
    """Apply to the main resource or ``/status``; an object that does not exist is created."""
    applied = _checked(ep, ctx, patch)
    resource = ep.resource
    meta = writes.metadata_of(applied)
    if ep.cache.get(ep.key(ctx.namespace, ctx.name)) is None:
        if ctx.subresource:
            raise not_found(resource.group, resource.plural, ctx.name)
        if meta.get("uid"):
            raise conflict(
                resource.group,
                resource.plural,
                ctx.name,
                f"uid mismatch: the provided object specified uid {meta['uid']}, and no existing object was found",
            )
        try:
            return await _create(ep, ctx, applied, patch.force), True
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise  # else somebody created it meanwhile: apply to that

    def change(old: Obj) -> Obj:
        new = apply.apply(
            dict(old),
            applied,
            ep.type_,
            manager_of(ctx),
            patch.force,
            api_version=resource.api_version,
            subresource=ctx.subresource,
            ignore=reset_fields(ep, ctx.subresource),
        )
        codec.conform(new, ep.type_)
        return new

    conditional = bool(meta.get("resourceVersion"))
    return await writes.modify(ep, ctx, change, managed=False, patch=True, conditional=conditional)


async def _create(ep: Endpoint, ctx: RequestContext, applied: Obj, force: bool) -> Item:
    resource = ep.resource
    new = apply.apply(
        None,
        applied,
        ep.type_,
        manager_of(ctx),
        force,
        api_version=resource.api_version,
        ignore=reset_fields(ep, ""),
    )
    codec.conform(new, ep.type_)
    writes.check_name(ep, ctx, writes.metadata_of(new))
    writes.authorize_create(ep, ctx)
    return await writes.create(ep, ctx, new, managed=False)


async def apply_handled(ep: Endpoint, ctx: RequestContext, patch: Patch, handler: SubresourceHandler) -> Item:
    """Apply to a subresource that is an object of its own (``scale``): merged over what is there; ownership stays with the
    parent."""
    applied = _checked(ep, ctx, patch)
    row = ep.subresource(ctx.subresource)
    assert row is not None
    type_ = schema.types.get(row.type_name)
    live = dict(await handler.get(ctx, ctx.namespace, ctx.name))
    live["metadata"] = {k: v for k, v in live["metadata"].items() if k != "managedFields"}
    new = apply.apply(live, applied, type_, manager_of(ctx), True, api_version=live["apiVersion"], subresource=ctx.subresource)
    new["metadata"].pop("managedFields", None)
    codec.conform(new, type_)
    return Rendered(await handler.update(ctx, ctx.namespace, ctx.name, new))
