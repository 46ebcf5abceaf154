"""Create and update: the one write path of every kind.

Upstream: ``registry/generic/registry/store.go`` (Create, Update), ``registry/rest/{create,update,meta}.go`` and
``api/validation/objectmeta.go``. Order of a write: metadata of the server, defaults, mutating admission, strategy,
validation, validating admission, allocation, one compare-and-swap in the store. The cache holds the new object before the
writer is answered.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

from k3sd.apimachinery import timefmt, validation
from k3sd.apimachinery.apply import same_but_times
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    go_value,
    invalid_object,
    not_found,
)
from k3sd.apiserver import managedfields, storage
from k3sd.apiserver.endpoint import Endpoint, Item, Rendered
from k3sd.apiserver.options import parse_revision
from k3sd.apiserver.request import Attributes, RequestContext
from k3sd.datastore.backend import CompareFailed
from k3sd.lib.uid import new_uid

NAME_ATTEMPTS = 8
UPDATE_ATTEMPTS = 5
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_METADATA_MARK = b'"metadata":{'

Change = Callable[[Obj], Obj]
"""Makes the new object from the current one, which it must not change. Raises StatusError."""


def generate_name(base: str) -> str:
    """``names.SimpleNameGenerator``."""
    return base[:58] + "".join(random.choices(_SUFFIX_ALPHABET, k=5))


def splice(stored: bytes, revision: int) -> bytes:
    """The served bytes of stored ones: ``resourceVersion`` goes first in ``metadata``."""
    at = stored.index(_METADATA_MARK) + len(_METADATA_MARK)
    comma = b"" if stored[at : at + 1] == b"}" else b","
    return b'%b"resourceVersion":"%d"%b%b' % (stored[:at], revision, comma, stored[at:])


def metadata_of(obj: Obj) -> Obj:
    meta: Obj | None = obj.get("metadata")
    if meta is None:
        meta = obj["metadata"] = {}
    return meta


def check_namespace(ep: Endpoint, ctx: RequestContext, meta: Obj) -> None:
    """``EnsureObjectNamespaceMatchesRequestNamespace``: an empty one is filled in, another one refused; a cluster-wide object
    loses what it brings."""
    if not ep.resource.namespaced:
        meta.pop("namespace", None)
        return
    namespace = meta.get("namespace", "")
    if not ctx.namespace:
        raise bad_request("an empty namespace may not be set during creation")
    if not namespace:
        meta["namespace"] = ctx.namespace
    elif namespace != ctx.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


async def create(ep: Endpoint, ctx: RequestContext, obj: Obj, managed: bool = True) -> Item:
    """Store a new object. ``obj`` is decoded and conformed; it is changed in place and afterwards belongs to the answer.
    ``managed`` is False when it already says who owns its fields (apply)."""
    meta = metadata_of(obj)
    check_namespace(ep, ctx, meta)
    if meta.get("resourceVersion"):
        raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
    strategy = ep.strategy
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"):
        meta.pop(field, None)
    meta["uid"] = new_uid()
    meta["creationTimestamp"] = timefmt.now()
    if strategy.has_generation:
        meta["generation"] = 1
    if ep.has_status and not strategy.keeps_status_on_create:
        obj.pop("status", None)
        if ep.zero_status is not None:
            obj["status"] = copy.deepcopy(ep.zero_status)
    apply_defaults(obj, ep.resource)
    if managed:
        managedfields.on_create(ep, ctx, obj)

    attrs = Attributes(ctx, "CREATE", obj, None)
    for plugin in ep.plugins("", "CREATE"):
        await plugin.admit(attrs)
    generated = not meta.get("name") and bool(meta.get("generateName"))
    if generated:
        meta["name"] = ctx.name = _free_name(ep, ctx, meta["generateName"])
    strategy.prepare_create(ctx, obj)
    await _check_create(ep, ctx, obj, attrs)
    try:
        return await _insert(ep, ctx, obj)
    except StatusError as error:
        if generated and error.reason == "AlreadyExists":
            raise _no_free_name(ep, meta["name"]) from None
        raise


def _free_name(ep: Endpoint, ctx: RequestContext, base: str) -> str:
    """A name nobody has, in eight attempts (KEP-4420). The cache knows every stored name, so only a write in flight could
    still take it. Raises 409."""
    name = ""
    for _ in range(NAME_ATTEMPTS):
        name = generate_name(base)
        if ep.cache.get(ep.key(ctx.namespace, name)) is None:
            return name
    raise _no_free_name(ep, name)


def _no_free_name(ep: Endpoint, name: str) -> StatusError:
    """``errors.NewGenerateNameConflict``."""
    resource = ep.resource
    return StatusError(
        409,
        "AlreadyExists",
        f"{resource.qualified} {go_value(name)} already exists, the server was not able to generate a unique name for the "
        "object",
        {"name": name, "group": resource.group, "kind": resource.plural, "retryAfterSeconds": 1},
    )


async def _check_create(ep: Endpoint, ctx: RequestContext, obj: Obj, attrs: Attributes) -> None:
    """Validation, then the validators of admission, then warnings."""
    strategy = ep.strategy
    errors = validation.validate_object_meta(obj["metadata"], ep.resource.namespaced, strategy.name_rule)
    errors += strategy.validate_create(ctx, obj)
    if errors:
        raise _invalid(ep, obj, errors)
    for plugin in ep.plugins("", "CREATE"):
        await plugin.validate(attrs)
    ctx.warnings += strategy.warnings(ctx, obj, None)


async def _insert(ep: Endpoint, ctx: RequestContext, obj: Obj) -> Item:
    meta = obj["metadata"]
    name = meta["name"]
    undo = await ep.strategy.begin_create(ctx, obj)
    done = False
    try:
        key = ep.key(meta.get("namespace", ""), name)
        if ctx.dry_run:
            if ep.cache.get(key) is not None:
                raise already_exists(ep.resource.group, ep.resource.plural, name)
            done = True
            return Rendered(obj)
        stored = storage.encode(await ep.stored_form(obj) if ep.to_storage else obj)
        try:
            revision = await ep.registry.backend.create(key, stored, ep.event_ttl)
        except CompareFailed:
            error = already_exists(ep.resource.group, ep.resource.plural, name)
            entry = ep.cache.get(key)
            if entry is not None and entry.obj["metadata"].get("deletionTimestamp"):
                error = StatusError(error.code, error.reason, f"object is being deleted: {error.message}", error.details)
            raise error from None
        done = True
        return _stored(ep, obj, stored, revision)
    finally:
        if not done and undo is not None:
            await undo()


def _stored(ep: Endpoint, obj: Obj, stored: bytes, revision: int) -> Item:
    """What the writer is answered: the object as the store has it now."""
    meta = obj["metadata"]
    meta.pop("resourceVersion", None)  # the precondition, still there when a converted copy was stored
    obj["metadata"] = {"resourceVersion": str(revision), **meta}
    return Rendered(obj, None if ep.to_storage else splice(stored, revision))


def _invalid(ep: Endpoint, obj: Obj, errors: list[FieldError]) -> StatusError:
    name = obj["metadata"].get("name") or obj["metadata"].get("generateName") or ""
    return invalid_object(ep.resource.group, ep.resource.kind, name, errors)


async def update(ep: Endpoint, ctx: RequestContext, obj: Obj) -> tuple[Item, bool]:
    """PUT of the main resource or ``/status`` (``ctx.subresource``). Returns the object and whether it was created."""
    meta = metadata_of(obj)
    check_name(ep, ctx, meta)
    resource_version = meta.get("resourceVersion", "")

    def change(old: Obj) -> Obj:
        if resource_version:
            obj["metadata"]["resourceVersion"] = resource_version
        else:
            obj["metadata"].pop("resourceVersion", None)
        return obj

    return await modify(ep, ctx, change, created=obj)


def check_name(ep: Endpoint, ctx: RequestContext, meta: Obj) -> None:
    """``checkName`` of the update handler."""
    name = meta.get("name", "")
    if not name:
        raise bad_request(f"the name of the object ({ctx.name} based on URL) was undeterminable: name must be provided")
    if name != ctx.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({ctx.name})")
    namespace = meta.get("namespace", "")
    if ep.resource.namespaced and namespace and namespace != ctx.namespace:
        raise bad_request(
            f"the namespace of the object ({namespace}) does not match the namespace on the request ({ctx.namespace})"
        )


async def modify(
    ep: Endpoint,
    ctx: RequestContext,
    change: Change,
    *,
    created: Obj | None = None,
    managed: bool = True,
    patch: bool = False,
    conditional: bool = False,
) -> tuple[Item, bool]:
    """Read, change, write back with compare-and-swap; again when somebody else was faster and the change names no
    ``resourceVersion``. ``created`` is what to store when there is no such object and the kind allows creation by PUT.
    ``managed`` is False when the change has set managedFields itself (apply). ``patch`` checks the changed name;
    ``conditional`` is True when a patch names a ``resourceVersion`` that it may not be retried without."""
    resource = ep.resource
    key = ep.key(ctx.namespace, ctx.name)
    for attempt in range(UPDATE_ATTEMPTS):
        entry = ep.cache.get(key)
        if entry is None:
            if created is not None and not ctx.subresource and ep.strategy.allow_create_on_update:
                metadata_of(created).pop("resourceVersion", None)
                authorize_create(ep, ctx)
                return await create(ep, ctx, created), True
            raise not_found(resource.group, resource.plural, ctx.name)
        if ep.views is not None:
            await ep.prepare((entry,))
        old = ep.view(entry).obj
        new = change(old)
        meta = metadata_of(new)
        given = meta.get("resourceVersion", "")
        if patch:
            check_name(ep, ctx, meta)
        try:
            return await _replace(ep, ctx, key, entry.revision, old, new, managed), False
        except Lost:
            if (given and not patch) or conditional or attempt == UPDATE_ATTEMPTS - 1:
                raise conflict(resource.group, resource.plural, ctx.name) from None
            await ep.registry.cache.fresh()  # with several servers on one store, the newer object may still be on its way
    raise AssertionError("unreachable")


def authorize_create(ep: Endpoint, ctx: RequestContext) -> None:
    """A PUT or apply that creates needs the right to create as well. Raises 403."""
    authorizer = ep.registry.authorizer
    if ctx.privileged or authorizer is None:
        return
    from k3sd.apiserver.authz import forbidden_error

    asked = RequestContext(ctx.user, "create", ctx.resource, namespace=ctx.namespace, name=ctx.name)
    decision = authorizer.authorize(asked)
    if not decision.allowed:
        raise forbidden_error(asked, decision)


class Lost(Exception):
    """Somebody else wrote the object between our read and our write; read again."""


async def _replace(ep: Endpoint, ctx: RequestContext, key: str, revision: int, old: Obj, new: Obj, managed: bool) -> Item:
    resource, strategy = ep.resource, ep.strategy
    meta, old_meta = new["metadata"], old["metadata"]
    _check_precondition(ep, ctx, revision, meta, old_meta)
    _restore_metadata(ep, ctx, meta, old_meta)
    new["kind"], new["apiVersion"] = resource.kind, resource.api_version
    if ctx.subresource == "status":
        new = _with_status_of(new, old)
        meta = new["metadata"]
    elif ep.has_status and not ctx.subresource:
        _take(new, old, "status")
    apply_defaults(new, resource)
    if managed:
        managedfields.on_update(ep, ctx, old, new)

    attrs = Attributes(ctx, "UPDATE", new, old)
    plugins = ep.plugins(ctx.subresource, "UPDATE")
    for plugin in plugins:
        await plugin.admit(attrs)
    meta = new["metadata"]
    if ctx.subresource == "status":
        strategy.prepare_status(ctx, new, old)
    else:
        strategy.prepare_update(ctx, new, old)
    if strategy.has_generation and ctx.subresource != "status":
        _bump_generation(new, old)
    meta["resourceVersion"] = str(revision)
    errors = validation.validate_object_meta_update(meta, old_meta)
    if ctx.subresource == "status":
        errors += strategy.validate_status(ctx, new, old)
    else:
        errors += strategy.validate_update(ctx, new, old)
    if errors:
        raise _invalid(ep, new, errors)
    for plugin in plugins:
        await plugin.validate(attrs)
    ctx.warnings += strategy.warnings(ctx, new, old)

    current = ep.cache.get(key)
    if current is None or current.revision != revision:
        raise Lost  # admission took a while; do not allocate for a write that cannot succeed
    if new == old or (managed is False and same_but_times(new, old)):
        await ep.prepare((current,))
        return ep.view(current)
    if should_delete_during_update(ep, new, old):
        from k3sd.apiserver import deletion

        await deletion.remove(ep, ctx, key, revision, old)
        return Rendered(new)
    return await _swap(ep, ctx, key, revision, old, new)


async def _swap(ep: Endpoint, ctx: RequestContext, key: str, revision: int, old: Obj, new: Obj) -> Item:
    undo = await ep.strategy.begin_update(ctx, new, old) if ctx.subresource != "status" else None
    done = False
    try:
        if ctx.dry_run:
            done = True
            return Rendered(new)
        stored = storage.encode(await ep.stored_form(new) if ep.to_storage else new)
        try:
            written = await ep.registry.backend.update(key, stored, revision, ep.event_ttl)
        except CompareFailed as failed:
            if failed.current is None:
                raise not_found(ep.resource.group, ep.resource.plural, ctx.name) from None
            raise Lost from None
        done = True
        return _stored(ep, new, stored, written)
    finally:
        if not done and undo is not None:
            await undo()


def _check_precondition(ep: Endpoint, ctx: RequestContext, revision: int, meta: Obj, old_meta: Obj) -> None:
    """``resourceVersion`` and ``uid`` of the new object, as ``Store.Update`` treats them."""
    resource = ep.resource
    uid = meta.get("uid", "")
    if uid and uid != old_meta.get("uid"):
        detail = (
            f"StorageError: invalid object, Code: 4, Key: {ep.key(ctx.namespace, ctx.name)}, ResourceVersion: 0, "
            f"AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, "
            f"UID in object meta: {old_meta.get('uid', '')}"
        )
        raise conflict(resource.group, resource.plural, ctx.name, detail)
    given = meta.get("resourceVersion", "")
    if not given or given == "0":
        if not ep.strategy.allow_unconditional_update:
            error = FieldError(
                "FieldValueInvalid", "metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update"
            )
            raise invalid_object(resource.group, resource.kind, ctx.name, [error])
    elif parse_revision(given) != revision:
        raise conflict(resource.group, resource.plural, ctx.name)


def _restore_metadata(ep: Endpoint, ctx: RequestContext, meta: Obj, old_meta: Obj) -> None:
    """What an update may leave out or may not change silently. ``BeforeUpdate``, ``ValidateObjectMetaAccessorUpdate``."""
    if not ep.resource.namespaced:
        meta.pop("namespace", None)
    elif not meta.get("namespace"):
        meta["namespace"] = ctx.namespace
    _take(meta, old_meta, "generation")
    if not meta.get("uid"):
        _take(meta, old_meta, "uid")
    if not meta.get("creationTimestamp"):
        _take(meta, old_meta, "creationTimestamp")
    if old_meta.get("deletionTimestamp"):
        meta["deletionTimestamp"] = old_meta["deletionTimestamp"]
        if meta.get("deletionGracePeriodSeconds") is None:
            _take(meta, old_meta, "deletionGracePeriodSeconds")
    meta.pop("selfLink", None)


def _take(new: Obj, old: Obj, field: str) -> None:
    """``new[field]`` becomes what ``old`` has."""
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


def _with_status_of(new: Obj, old: Obj) -> Obj:
    """The old object with the new one's metadata and status."""
    out = {**old, "metadata": new["metadata"]}
    if "status" in new:
        out["status"] = new["status"]
    else:
        out.pop("status", None)
    return out


def _bump_generation(new: Obj, old: Obj) -> None:
    for field in new.keys() | old.keys():
        if field not in ("metadata", "status", "kind", "apiVersion") and new.get(field) != old.get(field):
            new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1
            return


def should_delete_during_update(ep: Endpoint, new: Obj, old: Obj) -> bool:
    """True when this update takes away the last thing that kept a deleted object. ``ShouldDeleteDuringUpdate``."""
    old_meta = old["metadata"]
    if new["metadata"].get("finalizers") or not old_meta.get("deletionTimestamp") or ep.strategy.holds_deletion(new):
        return False
    return not old_meta.get("deletionGracePeriodSeconds")
