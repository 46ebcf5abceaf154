"""A watch over a websocket: each change is a message, in the text frames browsers and scripts read.

Upstream: ``endpoints/handlers/watch.go`` (``HandleWS``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver import rendering
from k3sd.apiserver.endpoint import Item
from k3sd.apiserver.negotiation import PROTOBUF, MediaType
from k3sd.apiserver.watching import Watch

BEARER = "base64url.bearer.authorization.k8s.io."
"""Prefix of the subprotocol that carries a token; never answered."""


def is_websocket(request: web.BaseRequest) -> bool:
    headers = request.headers
    return "upgrade" in headers.get("Connection", "").lower() and headers.get("Upgrade", "").lower() == "websocket"


async def serve(
    request: web.BaseRequest, watch: Watch, media: MediaType, encode: Callable[[str, Item], bytes], slow_seconds: float
) -> Any:
    """Send the watch's changes until one side ends it. The caller closes the watch."""
    offered = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
    socket = web.WebSocketResponse(protocols=[p for p in offered if not p.startswith(BEARER)], autoclose=True)
    await socket.prepare(request)
    reader = asyncio.get_running_loop().create_task(_until_closed(socket, watch), name="websocket watch: reader")
    binary = media.type == PROTOBUF

    async def send(frame: bytes) -> None:
        async with asyncio.timeout(slow_seconds):
            # A protobuf message needs no length of its own here.
            await (socket.send_bytes(frame[4:]) if binary else socket.send_str(frame.decode()))

    try:
        while changes := await watch.next():
            for type_, item in changes:
                await send(encode(type_, item))
    except StatusError as error:
        await send(rendering.error_frame(error, media))
    except ConnectionResetError:
        pass  # the client is gone: nothing is left to be told
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await socket.close()
    return socket


async def _until_closed(socket: web.WebSocketResponse, watch: Watch) -> None:
    """Nothing a client says matters but its goodbye."""
    async for message in socket:
        if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
            break
    watch.close()
