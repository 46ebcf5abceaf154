"""K3s's supervisor routes that anybody may ask. Source: K3s ``pkg/server/handlers/router.go``.

``/cacerts`` is how a token's CA hash is checked before credentials are sent, so it answers without any.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from k3sd.config.settings import Settings

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]


def build_routes(settings: Settings) -> dict[str, Handler]:
    """Path to handler."""
    ca_file = settings.paths.tls / "server-ca.crt"

    async def cacerts(request: web.BaseRequest) -> web.Response:
        if request.method != "GET":
            return web.Response(status=405, text="method not allowed")
        return web.Response(body=ca_file.read_bytes(), content_type="text/plain")

    async def ping(request: web.BaseRequest) -> web.Response:
        return web.Response(text="pong")

    return {"/cacerts": cacerts, "/ping": ping}
