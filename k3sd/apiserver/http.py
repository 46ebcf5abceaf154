"""The HTTP face: authenticate, understand the request, authorize, call the registry, answer.

Upstream: ``apiserver/pkg/server/config.go`` (the filter chain), ``endpoints/handlers``. Everything a client can get wrong
becomes a ``Status``; everything else is logged here, once, and becomes a 500.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from aiohttp import web

from k3sd.apimachinery import schema, validation
from k3sd.apimachinery.errors import (
    FieldError,
    StatusError,
    bad_request,
    forbidden_field,
    internal,
    invalid_object,
    required,
    service_unavailable,
    too_large,
    unauthorized,
)
from k3sd.apimachinery.resource import Resource
from k3sd.apiserver import decoding, fastpath, patching, rendering, requestinfo, watchsocket
from k3sd.apiserver.connections import LightRequest, make_server
from k3sd.apiserver.deadlines import Limits
from k3sd.apiserver.endpoint import Endpoint
from k3sd.apiserver.negotiation import JSON, MediaType, negotiate
from k3sd.apiserver.options import DeleteRequest, ListOptions, check_dry_run
from k3sd.apiserver.registry import Registry
from k3sd.apiserver.request import RequestContext, UserInfo
from k3sd.apiserver.requestinfo import Query, RequestInfo, is_true
from k3sd.apiserver.responses import Answer, Headers, Stream, status_answer
from k3sd.apiserver.tables import check_include
from k3sd.apiserver.watching import Watch
from k3sd.datastore.backend import DatastoreError

log = logging.getLogger(__name__)

MAX_BODY = 3 * 1024 * 1024
MAX_DISCARDED = 32 * 1024 * 1024
REQUEST_SECONDS = 60.0
SLOW_CLIENT_SECONDS = 30.0
WATCH_BUFFER = 256 * 1024

Response = Any
"""What a handler returns: ``Answer``, ``Stream`` or an aiohttp response."""
ExtraHandler = Callable[[web.BaseRequest], Awaitable[Response]]

NOT_ALLOWED = StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
_CONNECT = frozenset({"log", "exec", "attach", "portforward", "proxy"})
_UNKNOWN = "the server could not find the requested resource"


def not_served() -> StatusError:
    return StatusError(404, "NotFound", _UNKNOWN)


class APIServer:
    """The server behind one or more listeners. ``ready`` is False until ``bootstrap`` has made the start-up objects; requests
    are served as soon as ``serve`` was called."""

    def __init__(
        self,
        registry: Registry,
        authenticator: Any,
        authorizer: Any,
        extra_routes: Mapping[str, ExtraHandler] | None = None,
        node_dialer: Callable[[str], Any] | None = None,
    ) -> None:
        from k3sd.apiserver.connecting import Kubelets
        from k3sd.apiserver.nonresource import NonResource

        self.registry = registry
        self.authenticator = authenticator
        self.authorizer = authorizer
        self.ready = False
        self.node_dialer = node_dialer
        self.kubelets = Kubelets(self)
        self._extra = dict(extra_routes or {})
        self._extra_prefixes = tuple(self._extra)
        self._nonresource = NonResource(self)
        self.metrics = self._nonresource.metrics
        self._servers: list[asyncio.Server] = []
        self._watches: set[Watch] = set()
        self._http: Any = None
        self._limits = Limits(REQUEST_SECONDS)

    async def serve(self, sock: socket.socket, ssl_context: ssl.SSLContext | None) -> None:
        """Accept on an already bound socket. Returns when it listens."""
        loop = asyncio.get_running_loop()
        if self._http is None:
            self._http = make_server(self.handle)
        server = await loop.create_server(self._http, sock=sock, ssl=ssl_context, backlog=1024)
        self._servers.append(server)

    async def stop(self, seconds: float = 3.0) -> None:
        """Stop accepting; end watches; give running requests ``seconds``."""
        for server in self._servers:
            server.close()
        for watch in tuple(self._watches):
            watch.close()
        if self._http is not None:
            await self._http.shutdown(seconds)
        self._servers.clear()

    async def bootstrap(self) -> None:
        """Make the objects every cluster has; then the server is ready."""
        from k3sd.apiserver.startup import make_startup_objects

        await make_startup_objects(self.registry)
        self.ready = True

    # one request

    async def handle(self, request: web.BaseRequest) -> Response:
        """Answer one request; the only place where errors become responses."""
        started = time.perf_counter()
        try:
            answer = await self._dispatch(request)
        except StatusError as error:
            answer = status_answer(error)
        except web.HTTPException as error:  # raised by supervisor routes
            raise error
        except DatastoreError as error:
            log.warning("%s %s: %s", request.method, request.path, error)
            answer = status_answer(service_unavailable(str(error)))
        except TimeoutError:
            answer = status_answer(
                StatusError(
                    504,
                    "Timeout",
                    "Timeout: request did not complete within requested timeout - context deadline exceeded",
                )
            )
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            answer = status_answer(internal(str(error)))
        self.metrics.observe(request.method, getattr(answer, "status", 0), time.perf_counter() - started)
        return answer

    async def _dispatch(self, request: web.BaseRequest) -> Response:
        path, _, query_text = request.raw_path.partition("?")
        if self._extra_prefixes and path.startswith(self._extra_prefixes):
            handler = self._extra_handler(path)
            if handler is not None:
                return await handler(request)
        user = await self.authenticate(request)
        query = requestinfo.parse_query(query_text)
        info = requestinfo.parse(request.method, path, query)
        if not info.is_resource:
            self.authorize(RequestContext(user, info.verb, path=path))
            return await self._nonresource.handle(request, path, query)
        resource = self.registry.served.find(info.group, info.version, info.plural)
        if resource is None:
            raise not_served()
        ctx = self._context(request, user, info, resource, query)
        self.authorize(ctx)
        return await self._resource(request, ctx, info, query, query_text)

    def is_extra(self, path: str) -> bool:
        """The path belongs to a route that answers before authentication."""
        return bool(self._extra_prefixes) and path.startswith(self._extra_prefixes)

    def _extra_handler(self, path: str) -> ExtraHandler | None:
        """The longest route that is the path or a folder above it."""
        best = ""
        for prefix in self._extra_prefixes:
            below = path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")
            if below and len(prefix) > len(best):
                best = prefix
        return self._extra.get(best)

    async def authenticate(self, request: web.BaseRequest) -> UserInfo:
        """Who asks, after impersonation. Raises 401, 403."""
        connection: Any = request.protocol
        headers = request.headers
        user: UserInfo | None = await self.authenticator.authenticate(headers, connection.certificate)
        if user is None:
            raise unauthorized()
        if "Impersonate-User" in headers or "Impersonate-Group" in headers or "Impersonate-Uid" in headers:
            from k3sd.apiserver.authn.impersonation import impersonate

            user = impersonate(user, headers.items(), self.authorizer)
        return user

    def authorize(self, ctx: RequestContext) -> None:
        """Raises 403."""
        decision = self.authorizer.authorize(ctx)
        if not decision.allowed:
            from k3sd.apiserver.authz import forbidden_error

            raise forbidden_error(ctx, decision)

    def _context(
        self, request: web.BaseRequest, user: UserInfo, info: RequestInfo, resource: Resource, query: Query
    ) -> RequestContext:
        ctx = RequestContext(
            user,
            info.verb,
            resource,
            info.subresource,
            info.namespace,
            info.name,
            info.path,
            user_agent=request.headers.get("User-Agent", ""),
        )
        if resource.deprecation:
            ctx.warnings.append(resource.deprecation)
        if query:
            ctx.field_manager = query.get("fieldManager", "")
            ctx.field_selector = query.get("fieldSelector", "")
            validation_mode = query.get("fieldValidation", "")
            if validation_mode:
                ctx.field_validation = check_field_validation(validation_mode)
            if "dryRun" in query:
                ctx.dry_run = check_dry_run([query["dryRun"]])
        return ctx

    # resources

    async def _resource(
        self, request: web.BaseRequest, ctx: RequestContext, info: RequestInfo, query: Query, query_text: str
    ) -> Response:
        resource = ctx.resource
        assert resource is not None
        ep = self.registry.endpoint(resource)
        verb = info.verb
        if not resource.namespaced:
            if info.namespace and resource.plural != "namespaces":
                raise not_served()
        elif info.name and not info.namespace and verb not in ("list", "watch", "deletecollection"):
            raise not_served()
        if info.subresource:
            return await self._subresource(request, ctx, ep, info, query, query_text)
        if verb not in resource.verbs:
            raise NOT_ALLOWED
        if verb in ("get", "list", "watch"):
            virtual = (resource, "") in self.registry.handlers
            media = negotiate(request.headers.get("Accept", ""), wants_pretty(request, query))
            rendering.check(ep, media)
            include = check_include(query.get("includeObject", "")) if media.convert == "Table" else ""
            if virtual:
                return rendering.object_answer(ep, await self.registry.handle(ctx, "get", None), media, 200, warnings(ctx))
            if verb != "watch" and media.plain and not virtual:
                fastpath.remember(self, request, media)
            if verb == "get":
                item = await self.registry.fetch(ctx, query.get("resourceVersion", ""))
                return rendering.object_answer(ep, item, media, 200, warnings(ctx), include)
            options = ListOptions.from_query(query, verb == "watch")
            if verb == "watch" and info.name and options.fields is None:
                options.select("", f"metadata.name={info.name}")  # the legacy /api/v1/watch/.../pods/NAME
            if verb == "list":
                return rendering.list_answer(await self.registry.list(ctx, options), media, warnings(ctx), include)
            return await self._watch(request, ctx, ep, options, media, include)
        with self._limits.limit():
            return await self._write(request, ctx, ep, verb, query)

    async def _write(self, request: web.BaseRequest, ctx: RequestContext, ep: Endpoint, verb: str, query: Query) -> Answer:
        registry, resource = self.registry, ep.resource
        virtual = (resource, "") in registry.handlers
        media = negotiate(request.headers.get("Accept", ""), wants_pretty(request, query), not virtual)
        rendering.check(ep, media)
        include = check_include(query.get("includeObject", "")) if media.convert == "Table" else ""
        check_field_manager(ctx)
        body = await read_body(request)
        if verb == "create":
            if resource.namespaced and not ctx.namespace:
                raise NOT_ALLOWED
            content = request.headers.get("Content-Type", "")
            obj = decoding.decode(ctx, body, content, resource.kind, resource.api_version, ep.type_)
            if virtual:
                item = await registry.handle(ctx, "create", obj)
            else:
                item = await registry.create(ctx, obj)
            return rendering.object_answer(ep, item, media, 201, warnings(ctx), include)
        if verb == "update":
            content = request.headers.get("Content-Type", "")
            obj = decoding.decode(ctx, body, content, resource.kind, resource.api_version, ep.type_)
            item, created = await registry.update(ctx, obj)
            return rendering.object_answer(ep, item, media, 201 if created else 200, warnings(ctx), include)
        if verb == "patch":
            patch = patching.parse(request.headers.get("Content-Type", ""), body, is_true(query.get("force")))
            check_patch_options(ctx, patch, query)
            item, created = await registry.patch(ctx, patch)
            return rendering.object_answer(ep, item, media, 201 if created else 200, warnings(ctx), include)
        options = delete_options(ctx, body, request.headers.get("Content-Type", ""), query)
        if verb == "deletecollection":
            if resource.namespaced and not ctx.namespace:
                raise NOT_ALLOWED
            selection = ListOptions.from_query(query, False)
            return rendering.list_answer(
                await registry.delete_collection(ctx, options, selection), media, warnings(ctx), include
            )
        item, gone = await registry.delete(ctx, options)
        status = 202 if not gone and options.orphan_dependents is False else 200
        return rendering.object_answer(ep, item, media, status, warnings(ctx), include)

    async def _subresource(
        self,
        request: web.BaseRequest,
        ctx: RequestContext,
        ep: Endpoint,
        info: RequestInfo,
        query: Query,
        query_text: str,
    ) -> Response:
        row = ep.subresource(info.subresource)
        if row is None or not info.name:
            raise not_served()
        if info.subresource in _CONNECT:
            if info.verb not in row.verbs and info.subresource != "proxy" and info.subresource != "log":
                raise NOT_ALLOWED
            from k3sd.apiserver import connecting

            return await connecting.connect(self, request, ctx, info, query_text)
        if info.verb not in row.verbs:
            raise NOT_ALLOWED
        if info.verb == "get" and info.subresource == "status":
            media = negotiate(request.headers.get("Accept", ""), wants_pretty(request, query))
            include = check_include(query.get("includeObject", "")) if media.convert == "Table" else ""
            return rendering.object_answer(ep, await self.registry.fetch(ctx), media, include=include)
        with self._limits.limit():
            return await self._write_subresource(request, ctx, ep, info, query)

    async def _write_subresource(
        self, request: web.BaseRequest, ctx: RequestContext, ep: Endpoint, info: RequestInfo, query: Query
    ) -> Answer:
        registry = self.registry
        row = ep.subresource(info.subresource)
        assert row is not None
        media = negotiate(request.headers.get("Accept", ""), wants_pretty(request, query), False)
        if info.verb == "get":
            return rendering.object_answer(ep, await registry.handle(ctx, "get", None), media)
        check_field_manager(ctx)
        body = await read_body(request)
        content = request.headers.get("Content-Type", "")
        if info.verb == "patch":
            patch = patching.parse(content, body, is_true(query.get("force")))
            check_patch_options(ctx, patch, query)
            if info.subresource == "status":
                item, _ = await registry.patch(ctx, patch)
            else:
                item = await registry.patch_handled(ctx, patch)
            return rendering.object_answer(ep, item, media, 200, warnings(ctx))
        api_version = f"{row.group}/{row.version}" if row.group else row.version
        obj = decoding.decode(ctx, body, content, row.kind, api_version, schema.types.get(row.type_name))
        if info.subresource == "status":
            item, _ = await registry.update(ctx, obj)
        else:
            item = await registry.handle(ctx, info.verb, obj)
        return rendering.object_answer(ep, item, media, 201 if info.verb == "create" else 200, warnings(ctx))

    async def _watch(
        self,
        request: web.BaseRequest,
        ctx: RequestContext,
        ep: Endpoint,
        options: ListOptions,
        media: MediaType,
        include: str,
    ) -> Response:
        """Stream changes until the client leaves, the time is over or the client is too slow."""
        if request.method == "HEAD":
            raise NOT_ALLOWED
        stream = Stream(request)
        connection: Any = request.protocol
        try:
            watch = await self.registry.watch(ctx, options)
        except StatusError as error:
            if error.code != 410 or "Upgrade" in request.headers:
                raise
            stream.start(rendering.stream_type(media), warnings(ctx))
            stream.write(rendering.error_frame(error, media))
            stream.end()
            return stream
        connection.on_lost = watch.close
        self._watches.add(watch)
        gauge = self.metrics.watch_opened(ep.resource)
        try:
            encoder = rendering.change_encoder(ep, media, include)
            if "Upgrade" in request.headers and watchsocket.is_websocket(request):
                return await watchsocket.serve(request, watch, media, encoder, SLOW_CLIENT_SECONDS)
            stream.start(rendering.stream_type(media), warnings(ctx))
            as_is = watch.plain and not media.convert and media.type == JSON
            transport = request.transport
            while True:
                if as_is:
                    data = await watch.next_frames()
                else:
                    data = b"".join([encoder(t, item) for t, item in await watch.next()])
                if not data:
                    break
                stream.write(data)
                if transport is not None and transport.get_write_buffer_size() > WATCH_BUFFER:
                    async with asyncio.timeout(SLOW_CLIENT_SECONDS):
                        await stream.drain()
        except StatusError as error:
            stream.write(rendering.error_frame(error, media))
        except TimeoutError:
            log.info("a watch on %s was cut: its client does not read", ep.resource.qualified)
            stream.abort()
        except ConnectionResetError:
            stream.abort()  # it left before the loop could tell: nobody to answer
        finally:
            connection.on_lost = None
            self._watches.discard(watch)
            watch.close()
            gauge()
        stream.end()
        return stream


def build_server(
    registry: Registry,
    authenticator: Any,
    authorizer: Any,
    extra_routes: Mapping[str, ExtraHandler] | None = None,
    node_dialer: Callable[[str], Any] | None = None,
) -> APIServer:
    """``extra_routes`` maps path prefixes (``/cacerts``, ``/v1-k3s/``) to aiohttp handlers that answer before
    authentication."""
    return APIServer(registry, authenticator, authorizer, extra_routes, node_dialer)


async def read_body(request: web.BaseRequest | LightRequest) -> bytes:
    """The whole body. Raises 413 over 3 MiB, before reading when the length is said."""
    if isinstance(request, LightRequest):
        if len(request.body) > MAX_BODY:
            raise _too_large()
        return request.body
    fastpath.remember_write(request)
    headers = request.headers
    length = headers.get("Content-Length")
    if length is not None and length.isdigit() and int(length) > MAX_BODY:
        await _discard(request)
        raise _too_large()
    if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    if length == "0" or (length is None and "Transfer-Encoding" not in headers):
        return b""
    parts: list[bytes] = []
    size = 0
    while True:
        part = await content.readany()
        if not part:
            break
        size += len(part)
        if size > MAX_BODY:
            parts.clear()
            await _discard(request)
            raise _too_large()
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _discard(request: web.BaseRequest) -> None:
    """Read on for a while: a client that is still sending would see a reset connection instead of the answer."""
    left = MAX_DISCARDED
    while left > 0:
        part = await request.content.readany()
        if not part:
            return
        left -= len(part)


def _too_large() -> StatusError:
    return too_large(f"Request entity too large: limit is {MAX_BODY}")


def wants_pretty(request: web.BaseRequest, query: Query) -> bool:
    """Source: ``isPrettyPrint``: the parameter, else what a person at a terminal or browser uses."""
    if "pretty" in query:
        return is_true(query["pretty"])
    agent: str = request.headers.get("User-Agent", "")
    return agent.startswith(("curl", "Wget", "Mozilla/5.0"))


def warnings(ctx: RequestContext) -> Headers:
    """``Warning`` headers, each text once. Source: ``util/net.NewWarningHeader``."""
    if not ctx.warnings:
        return ()
    out = []
    for text in dict.fromkeys(ctx.warnings):
        quoted = "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', '\\"')
        out.append(("Warning", f'299 - "{quoted}"'))
    return out


def check_field_validation(value: str) -> Literal["Ignore", "Warn", "Strict"]:
    if value == "Strict":
        return "Strict"
    if value == "Warn":
        return "Warn"
    if value == "Ignore":
        return "Ignore"
    supported = 'supported values: "Ignore", "Strict", "Warn"'
    error = FieldError("FieldValueNotSupported", "fieldValidation", f'Unsupported value: "{value}": {supported}')
    raise invalid_object("meta.k8s.io", "CreateOptions", "", [error])


def check_field_manager(ctx: RequestContext) -> None:
    if ctx.field_manager:
        errors = validation.validate_field_manager(ctx.field_manager, "fieldManager")
        if errors:
            raise invalid_object("meta.k8s.io", "CreateOptions", "", errors)


def check_patch_options(ctx: RequestContext, patch: patching.Patch, query: Query) -> None:
    """``ValidatePatchOptions``."""
    if patch.type == patching.APPLY:
        if not ctx.field_manager:
            error = required("fieldManager", "is required for apply patch")
            raise invalid_object("meta.k8s.io", "PatchOptions", "", [error])
    elif "force" in query:
        error = forbidden_field("force", "may not be specified for non-apply patch")
        raise invalid_object("meta.k8s.io", "PatchOptions", "", [error])


def delete_options(ctx: RequestContext, body: bytes, content_type: str, query: Query) -> DeleteRequest:
    raw: Any = {}
    if body:
        raw, _ = decoding.read(body, content_type)
        kind = raw.get("kind") or "DeleteOptions"
        if kind != "DeleteOptions":
            raise bad_request(f"expected DeleteOptions in the body, not {kind}")
        if raw.get("dryRun"):
            ctx.dry_run = check_dry_run(list(raw["dryRun"]))
    return DeleteRequest.parse({k: v for k, v in raw.items() if k not in ("kind", "apiVersion")}, query)
