"""Server-side apply on the write path. Upstream: ``applyPatcher`` in ``endpoints/handlers/patch.go``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery import apply, codec, fieldset, schema
from k3sd.apimachinery.errors import Obj, StatusError, bad_request, conflict, not_found
from k3sd.apiserver import writes
from k3sd.apiserver.endpoint import Endpoint, Item, Rendered
from k3sd.apiserver.managedfields import manager_of, reset_fields
from k3sd.apiserver.patching import Patch, check_apply_target, report
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.kinds.scale import ScaleHandler


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
    """Apply to a subresource that is an object of its own: merged over what is there; ownership stays with the parent."""
    from k3sd.apiserver.kinds.scale import ScaleHandler

    applied = _checked(ep, ctx, patch)
    if isinstance(handler, ScaleHandler):
        return await _apply_scale(ep, ctx, applied, patch.force, handler)
    row = ep.subresource(ctx.subresource)
    assert row is not None
    type_ = schema.types.get(row.type_name)
    live = dict(await handler.get(ctx, ctx.namespace, ctx.name))
    live["metadata"] = {k: v for k, v in live["metadata"].items() if k != "managedFields"}
    new = apply.apply(live, applied, type_, manager_of(ctx), True, api_version=live["apiVersion"], subresource=ctx.subresource)
    new["metadata"].pop("managedFields", None)
    codec.conform(new, type_)
    return Rendered(await handler.update(ctx, ctx.namespace, ctx.name, new))


async def _apply_scale(ep: Endpoint, ctx: RequestContext, applied: Obj, force: bool, handler: ScaleHandler) -> Item:
    """The number of replicas has the owners it has in the parent. Source: ``managedfields/scalehandler.go``."""
    row = ep.subresource(ctx.subresource)
    assert row is not None
    type_ = schema.types.get(row.type_name)
    path = handler.replicas_path

    def change(old: Obj) -> Obj:
        live = handler.scale_of(old)
        owners = old["metadata"].get("managedFields") or []
        live["metadata"] = {**live["metadata"], "managedFields": scale_fields(owners, path)}
        scaled = apply.apply(
            live, applied, type_, manager_of(ctx), force, api_version=live["apiVersion"], subresource=ctx.subresource
        )
        given = writes.metadata_of(applied).get("resourceVersion", "")
        scaled["metadata"]["resourceVersion"] = given
        codec.conform(scaled, type_)
        new = handler.changed(old, scaled, ctx.name)
        mine = scaled["metadata"].get("managedFields") or []
        new["metadata"]["managedFields"] = parent_fields(owners, mine, path, ep.resource.api_version)
        return new

    conditional = bool(writes.metadata_of(applied).get("resourceVersion"))
    item, _ = await writes.modify(ep, ctx, change, managed=False, conditional=conditional)
    return Rendered(handler.scale_of(item.obj))


_IN_SCALE: fieldset.Tree = {"f:spec": {"f:replicas": {}}}


def _tree(path: tuple[str, ...]) -> fieldset.Tree:
    tree: fieldset.Tree = {}
    for name in reversed(path):
        tree = {f"f:{name}": tree}
    return tree


def scale_fields(owners: list[Obj], path: tuple[str, ...]) -> list[Obj]:
    """``ScaleHandler.ToSubresource``: the managed fields of a Scale, from those of its parent."""
    tree = _tree(path)
    return [
        {**entry, "apiVersion": "autoscaling/v1", "fieldsV1": _IN_SCALE}
        for entry in owners
        if fieldset.intersection(entry.get("fieldsV1") or {}, tree)
    ]


def parent_fields(owners: list[Obj], scaled: list[Obj], path: tuple[str, ...], api_version: str) -> list[Obj]:
    """``ScaleHandler.ToParent``: the parent's managed fields, with who owns its replicas as the Scale's have it."""
    tree = _tree(path)
    out: dict[tuple[str, ...], Obj] = {}
    for entry in owners:
        fields = fieldset.difference(entry.get("fieldsV1") or {}, tree)
        if fields:
            out[_identity(entry, entry.get("apiVersion", ""))] = {**entry, "fieldsV1": fields}
    for entry in scaled:
        if not fieldset.intersection(entry.get("fieldsV1") or {}, _IN_SCALE):
            continue
        key = _identity(entry, api_version)
        fields = fieldset.union(out[key]["fieldsV1"], tree) if key in out else tree
        out[key] = {**out.get(key, entry), "apiVersion": api_version, "fieldsV1": fields}
        if "time" in entry:
            out[key]["time"] = entry["time"]
    return list(out.values())


def _identity(entry: Obj, api_version: str) -> tuple[str, ...]:
    return entry.get("manager", ""), entry.get("operation", ""), api_version, entry.get("subresource", "")
