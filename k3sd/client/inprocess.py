"""The client contract on the registry itself: no HTTP, no encoding. For controllers, the scheduler and the server's own parts.

What is read is shared with the watch cache: read-only. Requests skip authorization (``privileged``) but not admission.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from k3sd.apimachinery import codec, schema
from k3sd.apimachinery.errors import Obj, service_unavailable
from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.options import DeleteRequest, ListOptions
from k3sd.apiserver.patching import Patch
from k3sd.apiserver.request import LOOPBACK, RequestContext, UserInfo, Verb
from k3sd.apiserver.served import subresource as find_subresource
from k3sd.client.api import DeleteOptions, List, PatchType, WatchEvent
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.apiserver.watching import Watch

P = ParamSpec("P")
T = TypeVar("T")


def _as_over_http(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A datastore that does not answer is StatusError ServiceUnavailable, which callers of either transport expect."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except DatastoreError as error:
            raise service_unavailable(str(error)) from error

    return call


class InProcessClient:
    """``k3sd.client.api.Client`` acting as ``user``; ``component`` is the default field manager."""

    def __init__(self, registry: Registry, user: UserInfo = LOOPBACK, privileged: bool = True, component: str = "k3sd") -> None:
        self._registry = registry
        self._user = user
        self._privileged = privileged
        self._component = component

    def _context(
        self,
        verb: Verb,
        resource: Resource,
        namespace: str | None,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
    ) -> RequestContext:
        ctx = RequestContext(
            self._user,
            verb,
            resource,
            subresource,
            namespace or "",
            name,
            dry_run=dry_run,
            field_manager=field_manager,
            field_validation="Ignore",
            user_agent=self._component,
            privileged=self._privileged,
        )
        if not self._privileged:
            self._authorize(ctx)
        return ctx

    def _authorize(self, ctx: RequestContext) -> None:
        from k3sd.apiserver.authz import forbidden_error

        authorizer = self._registry.authorizer
        assert authorizer is not None
        decision = authorizer.authorize(ctx)
        if not decision.allowed:
            raise forbidden_error(ctx, decision)

    @_as_over_http
    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        ctx = self._context("get", resource, namespace, name, subresource)
        if subresource not in ("", "status"):
            return (await self._registry.handle(ctx, "get", None)).obj
        return (await self._registry.fetch(ctx)).obj

    @_as_over_http
    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> List:
        ctx = self._context("list", resource, namespace)
        ctx.field_selector = field_selector
        options = ListOptions(resource_version, limit=limit, continue_=continue_)
        options.select(label_selector, field_selector)
        answer = await self._registry.list(ctx, options)
        return List([i.obj for i in answer.items], str(answer.revision), answer.continue_)

    @_as_over_http
    async def create(
        self,
        resource: Resource,
        obj: Obj,
        namespace: str | None = None,
        *,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
    ) -> Obj:
        meta = obj.get("metadata") or {}
        name = name or meta.get("name") or ""
        namespace = namespace or meta.get("namespace")
        ctx = self._context("create", resource, namespace, name, subresource, dry_run, field_manager)
        if subresource or (resource, "") in self._registry.handlers:
            return (await self._registry.handle(ctx, "create", _own(obj, resource, subresource))).obj
        return (await self._registry.create(ctx, _own(obj, resource))).obj

    @_as_over_http
    async def update(
        self, resource: Resource, obj: Obj, *, subresource: str = "", dry_run: bool = False, field_manager: str = ""
    ) -> Obj:
        meta = obj["metadata"]
        ctx = self._context("update", resource, meta.get("namespace"), meta["name"], subresource, dry_run, field_manager)
        if subresource not in ("", "status"):
            return (await self._registry.handle(ctx, "update", _own(obj, resource, subresource))).obj
        item, _ = await self._registry.update(ctx, _own(obj, resource))
        return item.obj

    @_as_over_http
    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        patch_type: PatchType = "application/merge-patch+json",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Obj:
        ctx = self._context("patch", resource, namespace, name, subresource, dry_run, field_manager)
        body = Patch(patch_type, codec.loads(codec.encode(patch)), force)
        if subresource not in ("", "status"):
            return (await self._registry.patch_handled(ctx, body)).obj
        item, _ = await self._registry.patch(ctx, body)
        return item.obj

    @_as_over_http
    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, options: DeleteOptions | None = None
    ) -> Obj:
        options = options or DeleteOptions()
        ctx = self._context("delete", resource, namespace, name, dry_run=options.dry_run)
        item, _ = await self._registry.delete(ctx, _request(options))
        return item.obj

    @_as_over_http
    async def delete_collection(
        self,
        resource: Resource,
        namespace: str | None = None,
        options: DeleteOptions | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        options = options or DeleteOptions()
        ctx = self._context("deletecollection", resource, namespace, dry_run=options.dry_run)
        selection = ListOptions()
        selection.select(label_selector, field_selector)
        await self._registry.delete_collection(ctx, _request(options), selection)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = True,
        timeout_seconds: int = 0,
    ) -> AsyncIterator[WatchEvent]:
        """Ends after ``timeout_seconds``; 0 means never."""
        ctx = self._context("watch", resource, namespace)
        ctx.field_selector = field_selector
        # No bookmarks: they keep a version fresh for a client that must come back, and this one is never sent away.
        del allow_bookmarks
        options = ListOptions(resource_version, timeout_seconds=timeout_seconds, endless=not timeout_seconds)
        options.select(label_selector, field_selector)
        watch = await self._open(ctx, options)
        try:
            while changes := await self._next(watch):
                for type_, item in changes:
                    yield WatchEvent(type_, item.obj)
        finally:
            watch.close()

    @_as_over_http
    async def _open(self, ctx: RequestContext, options: ListOptions) -> Watch:
        return await self._registry.watch(ctx, options)

    @_as_over_http
    async def _next(self, watch: Watch) -> Any:
        return await watch.next()

    async def close(self) -> None:
        """Nothing is held."""


def _own(obj: Obj, resource: Resource, subresource: str = "") -> Obj:
    """A private, canonical copy of what the caller wants stored."""
    kind, api_version, type_name = resource.kind, resource.api_version, resource.type_name
    if subresource not in ("", "status"):
        row = find_subresource(resource, subresource)
        if row is not None:
            kind, type_name = row.kind, row.type_name
            api_version = f"{row.group}/{row.version}" if row.group else row.version
    copy: Obj = codec.loads(codec.encode({**obj, "kind": kind, "apiVersion": api_version}))
    codec.conform(copy, schema.types.get(type_name))
    return copy


def _request(options: DeleteOptions) -> DeleteRequest:
    raw: Obj = dict(options.extra)
    if options.grace_period_seconds is not None:
        raw["gracePeriodSeconds"] = options.grace_period_seconds
    if options.propagation_policy:
        raw["propagationPolicy"] = options.propagation_policy
    preconditions = {}
    if options.uid is not None:
        preconditions["uid"] = options.uid
    if options.resource_version is not None:
        preconditions["resourceVersion"] = options.resource_version
    if preconditions:
        raw["preconditions"] = preconditions
    return DeleteRequest.parse(raw, {})
