"""``Registry``: the API server behind HTTP. One generic path for every resource; nothing here knows about sockets.

``http`` and ``client.inprocess`` build a ``RequestContext`` and call these methods; authorization has been done by then.
Components inside the server read with ``read``/``read_all`` (shared objects of the watch cache, no I/O) and write through
``client``. Upstream: ``apiserver/pkg/registry/generic/registry``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj, StatusError, method_not_supported, not_found
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver import deletion, listing, patching, storage, writes
from k3sd.apiserver.customresources import CustomResources
from k3sd.apiserver.endpoint import Endpoint, Item, Rendered
from k3sd.apiserver.listing import ListAnswer
from k3sd.apiserver.options import DeleteRequest, ListOptions
from k3sd.apiserver.request import LOOPBACK, AdmissionPlugin, RequestContext, UserInfo
from k3sd.apiserver.served import ServedResources
from k3sd.apiserver.strategy import Strategy
from k3sd.apiserver.webhookclient import WebhookClient
from k3sd.config.settings import Settings
from k3sd.datastore.backend import Backend

if TYPE_CHECKING:
    from k3sd.apiserver.authn import Authenticator
    from k3sd.apiserver.authz import ChainAuthorizer
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.kubernetes_service import Keeper
    from k3sd.apiserver.watchcache import WatchCache
    from k3sd.apiserver.watching import Watch
    from k3sd.client.inprocess import InProcessClient


class Registry:
    """All served resources over one store and one watch cache.

    ``strategies``, ``handlers`` and ``admission`` are filled by ``load`` before the first request. The cache must be started.
    """

    def __init__(self, backend: Backend, cache: WatchCache, settings: Settings) -> None:
        self.backend = backend
        self.cache = cache
        self.settings = settings
        self.served = ServedResources(resources.ALL)
        self.strategies: dict[Resource, Strategy] = {}
        self.handlers: dict[tuple[Resource, str], SubresourceHandler] = {}
        self.admission: Sequence[AdmissionPlugin] = ()
        self.authorizer: ChainAuthorizer | None = None
        self.authenticator: Authenticator | None = None
        self._endpoints: dict[Resource, Endpoint] = {}
        self.custom = CustomResources(self)
        self.webhooks = WebhookClient(self)
        self.kubernetes: Keeper | None = None

    def load(self) -> None:
        """Bind the kinds' strategies, the subresource handlers and the admission chain to this registry."""
        from k3sd.apiserver import admission, kinds

        self.strategies = kinds.load(self)
        self.handlers = kinds.subresources(self)
        self.admission = admission.build_chain(self, self.settings)

    async def close(self) -> None:
        """Close what admission and webhooks hold open; keep ``default/kubernetes`` no more. Idempotent."""
        if self.kubernetes is not None:
            await self.kubernetes.stop()
        for plugin in self.admission:
            await plugin.close()
        await self.webhooks.close()

    def endpoint(self, resource: Resource) -> Endpoint:
        """The resource's facts, built on first use."""
        found = self._endpoints.get(resource)
        if found is None:
            served = self.served.find(resource.group, resource.version, resource.plural)
            if served is not None and served is not resource:
                return self.endpoint(served)  # a caller's own row of a custom resource
            if served is None and not resource.type_name.startswith("io.k8s."):
                raise StatusError(404, "NotFound", "the server could not find the requested resource")
            found = self._endpoints[resource] = self._build_endpoint(resource)
        return found

    def built(self, resource: Resource) -> Endpoint | None:
        """The resource's facts if they were needed so far."""
        return self._endpoints.get(resource)

    def forget(self, resource: Resource) -> None:
        """Make the resource's facts anew when they are asked for next."""
        self._endpoints.pop(resource, None)

    def endpoints(self) -> list[Endpoint]:
        """Those used so far."""
        return list(self._endpoints.values())

    def _build_endpoint(self, resource: Resource) -> Endpoint:
        stored = resource
        target = storage.STORAGE_VERSIONS.get((resource.group, resource.plural))
        if target is not None:
            stored = self.served.find(target[0], target[1], resource.plural) or resource
        cache = self.cache.prefix(storage.prefix(resource))
        strategy = self.strategies.get(resource)
        if strategy is None:
            strategy = Strategy(resource, self)
        built = Endpoint(self, resource, stored, cache, strategy)
        if custom := self.custom.stored(resource):
            built.store_as(custom, self.custom.views(resource))
        return built

    def client(self, user: UserInfo = LOOPBACK) -> InProcessClient:
        """A client that acts as ``user`` without authorization."""
        from k3sd.client.inprocess import InProcessClient

        return InProcessClient(self, user)

    # Reads without I/O, for authorization, admission and the server's own parts.

    def read(self, resource: Resource, name: str, namespace: str = "") -> Obj | None:
        """The object as it is now, shared and read-only; None when there is none."""
        ep = self.endpoint(resource)
        entry = ep.cache.get(ep.key(namespace, name))
        return None if entry is None else ep.view(entry).obj

    def read_all(self, resource: Resource, namespace: str = "") -> Iterator[Obj]:
        """All objects (of one namespace) in key order, shared and read-only."""
        ep = self.endpoint(resource)
        return (ep.view(entry).obj for entry in ep.cache.list(ep.scope(namespace))) if ep.cache else iter(())

    # Requests. ``ctx.resource`` is set; ``ctx.subresource`` is "" or "status" unless said otherwise.

    def get(self, ctx: RequestContext, resource_version: str = "") -> Item:
        """Raises NotFound; 500 where a conversion webhook would have to be asked (``fetch`` asks it)."""
        assert ctx.resource is not None
        return listing.get(self.endpoint(ctx.resource), ctx, resource_version)

    async def fetch(self, ctx: RequestContext, resource_version: str = "") -> Item:
        """``get`` for every kind. Raises NotFound."""
        assert ctx.resource is not None
        ep = self.endpoint(ctx.resource)
        if ep.views is not None:
            await self.prepare(ep.resource, ctx.name, ctx.namespace)
        return listing.get(ep, ctx, resource_version)

    async def prepare(self, resource: Resource, name: str = "", namespace: str = "") -> None:
        """Await this before ``read`` or ``read_all`` of what may be a custom resource, in the same turn: its webhook may have
        to be asked."""
        ep = self.endpoint(resource)
        if ep.views is not None:
            entry = ep.cache.get(ep.key(namespace, name)) if name else None
            await ep.prepare([entry] if entry else [] if name else ep.cache.list(ep.scope(namespace)))

    async def list(self, ctx: RequestContext, options: ListOptions) -> ListAnswer:
        assert ctx.resource is not None
        return await listing.list_items(self.endpoint(ctx.resource), ctx, options)

    async def watch(self, ctx: RequestContext, options: ListOptions) -> Watch:
        """A started watch; the caller closes it."""
        from k3sd.apiserver import watching

        assert ctx.resource is not None
        if options.revision() > self.cache.revision:
            await self.cache.fresh()
        return watching.open_watch(self.endpoint(ctx.resource), ctx, options)

    async def create(self, ctx: RequestContext, obj: Obj) -> Item:
        """Store ``obj`` (conformed; it is changed in place)."""
        assert ctx.resource is not None
        return await writes.create(self.endpoint(ctx.resource), ctx, obj)

    async def update(self, ctx: RequestContext, obj: Obj) -> tuple[Item, bool]:
        """Replace by ``obj`` (conformed). Returns the object and whether it was created."""
        assert ctx.resource is not None
        return await writes.update(self.endpoint(ctx.resource), ctx, obj)

    async def modify(self, ctx: RequestContext, change: writes.Change) -> Item:
        """Read-modify-write of ``ctx.name`` through admission and validation, for subresource handlers: ``change`` makes the
        new object from the current one (shared: it must copy), and is called again when somebody else was faster.
        ``ctx.subresource`` may be any name; only "status" keeps the spec. ``ctx.verb`` stays the request's."""
        assert ctx.resource is not None
        item, _ = await writes.modify(self.endpoint(ctx.resource), ctx, change)
        return item

    async def patch(self, ctx: RequestContext, patch: patching.Patch) -> tuple[Item, bool]:
        assert ctx.resource is not None
        return await patching.patch_object(self.endpoint(ctx.resource), ctx, patch)

    async def delete(self, ctx: RequestContext, options: DeleteRequest) -> tuple[Item, bool]:
        """Returns what to answer (a Status or the object) and whether the object is gone from the store."""
        assert ctx.resource is not None
        return await deletion.delete(self.endpoint(ctx.resource), ctx, options)

    async def delete_collection(self, ctx: RequestContext, options: DeleteRequest, selection: ListOptions) -> ListAnswer:
        """Delete what ``selection`` lists. Returns the deleted objects as a list."""
        assert ctx.resource is not None
        ep = self.endpoint(ctx.resource)
        match = listing.matcher(ep, selection)
        await self.prepare(ctx.resource, "", ctx.namespace)
        entries = [e for e in ep.cache.list(ep.scope(ctx.namespace)) if match is None or match(e)]
        deleted = await deletion.delete_collection(ep, ctx, entries, options)
        return ListAnswer(ep, deleted, self.cache.revision)

    # Subresources and virtual resources with a handler of their own.

    async def handle(self, ctx: RequestContext, verb: str, body: Obj | None) -> Item:
        """``get``, ``create`` or ``update`` of a subresource (or virtual resource) through its handler. Raises 404, 405."""
        assert ctx.resource is not None
        handler = self.handlers.get((ctx.resource, ctx.subresource))
        if handler is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if verb == "get":
            return Rendered(await handler.get(ctx, ctx.namespace, ctx.name))
        if body is None:
            raise method_not_supported(ctx.resource.group, ctx.resource.plural, verb)
        if verb == "create":
            return Rendered(await handler.create(ctx, ctx.namespace, ctx.name, body))
        return Rendered(await handler.update(ctx, ctx.namespace, ctx.name, body))

    async def patch_handled(self, ctx: RequestContext, patch: patching.Patch) -> Item:
        """PATCH of a subresource with a handler: get, patch, update, again on conflict."""
        assert ctx.resource is not None
        ep = self.endpoint(ctx.resource)
        handler = self.handlers.get((ctx.resource, ctx.subresource))
        row = ep.subresource(ctx.subresource)
        if handler is None or row is None:
            raise not_found(ctx.resource.group, ctx.resource.plural, ctx.name)
        if patch.type == patching.APPLY:
            from k3sd.apiserver import applying

            return await applying.apply_handled(ep, ctx, patch, handler)
        from k3sd.apimachinery import schema

        change = patching.transform(ep, ctx, patch, schema.types.get(row.type_name))
        conditional = isinstance(patch.body, dict) and bool((patch.body.get("metadata") or {}).get("resourceVersion"))
        for attempt in range(writes.UPDATE_ATTEMPTS):
            new = change(await handler.get(ctx, ctx.namespace, ctx.name))
            try:
                return Rendered(await handler.update(ctx, ctx.namespace, ctx.name, new))
            except StatusError as error:
                if error.reason != "Conflict" or conditional or attempt == writes.UPDATE_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")
