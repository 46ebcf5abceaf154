"""Streams between clients of the kubelet and the runtime's streaming server.

What the runtime speaks itself (SPDY/3.1, the websocket protocols up to v4) passes through byte for byte. New clients first ask
for two protocols it does not know, which are translated to SPDY here: ``v5.channel.k8s.io`` (exec and attach, with an end of
input) and ``SPDY/3.1+portforward.k8s.io`` (SPDY's bytes inside websocket messages).
Source: Kubernetes 1.36, ``staging/src/k8s.io/streaming/pkg/httpstream/wsstream``, ``.../remotecommand/websocket.go``,
``.../portforward/tunneling_dialer.go``; KEP-4006.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from aiohttp import WSMsgType, web

from k3sd.lib import spdy
from k3sd.lib.upgrade import BackendError, forward_upgrade

V5 = "v5.channel.k8s.io"
TUNNEL = "SPDY/3.1+portforward.k8s.io"
_CHANNELS = ("stdin", "stdout", "stderr", "error", "resize")
"""Channel numbers of the websocket protocols, which SPDY calls by name."""
CLOSE_CHANNEL = 255
CHUNK_BYTES = 32 * 1024
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CONNECT_SECONDS = 30.0


def offered(request: web.BaseRequest) -> list[str]:
    """The websocket protocols a client names, in its order."""
    values = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [protocol.strip() for value in values for protocol in value.split(",") if protocol.strip()]


async def forward(request: web.BaseRequest, url: str, options: Mapping[str, bool] | None = None) -> web.StreamResponse:
    """Join ``request`` with the runtime's ``url``. ``options`` (tty, stdin, stdout, stderr) are given for exec and attach.

    Raises BackendError.
    """
    parts = urlsplit(url)
    protocols = offered(request) if request.headers.get("Upgrade", "").lower() == "websocket" else []
    if options is not None and V5 in protocols:
        return await _translate(request, parts, options)
    if options is None and TUNNEL in protocols:
        return await _tunnel(request, parts)
    return await forward_upgrade(request, parts.hostname or "127.0.0.1", parts.port or 80, _target(parts))


def _target(parts: SplitResult) -> str:
    return parts.path + (f"?{parts.query}" if parts.query else "")


async def _connect(parts: SplitResult, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A SPDY connection to the runtime, upgraded. Raises BackendError."""
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    head = (
        f"POST {_target(parts)} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    )
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
    except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
        if writer is not None:
            writer.close()
        raise BackendError(f"connecting to the runtime's streams at {host}:{port}: {error or type(error).__name__}") from error
    line = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if line.split(" ")[1:2] != ["101"]:
        writer.close()
        raise BackendError(f"the runtime refused to upgrade: {line}")
    return reader, writer


async def _accept(request: web.BaseRequest, protocol: str) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=(protocol,), max_msg_size=MAX_MESSAGE_BYTES, compress=False)
    await socket.prepare(request)
    return socket


async def _join(
    up: asyncio.Task[None], down: asyncio.Task[None], socket: web.WebSocketResponse, writer: asyncio.StreamWriter
) -> None:
    """Until the runtime has said all (``down``) or the client has left (``up``)."""
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        writer.close()
        if not socket.closed:
            await socket.close()


# -- exec and attach


async def _translate(request: web.BaseRequest, parts: SplitResult, options: Mapping[str, bool]) -> web.StreamResponse:
    reader, writer = await _connect(parts, "v4.channel.k8s.io")
    try:
        socket = await _accept(request, V5)
    except BaseException:
        writer.close()
        raise
    session = _Session(socket, reader, writer, options)
    loop = asyncio.get_running_loop()
    up = loop.create_task(session.client_to_runtime(), name="exec input")
    down = loop.create_task(session.runtime_to_client(), name="exec output")
    await _join(up, down, socket, writer)
    return socket


class _Session:
    """One exec: websocket channels on one side, SPDY streams on the other."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        options: Mapping[str, bool],
    ) -> None:
        self._socket = socket
        self._reader = reader
        self._writer = writer
        self._spdy = spdy.Connection()
        self._streams: dict[int, int] = {}
        wanted = {"error": True, "resize": options["tty"], **{k: options[k] for k in ("stdin", "stdout", "stderr")}}
        # The runtime waits for exactly these, whatever their order.
        for name in ("error", "stdin", "stdout", "stderr", "resize"):
            if wanted[name]:
                stream, frame = self._spdy.open({"streamtype": name})
                self._streams[_CHANNELS.index(name)] = stream
                self._writer.write(frame)
        self._open = {self._streams[_CHANNELS.index(n)] for n in ("error", "stdout", "stderr") if wanted[n]}
        self._closed: set[int] = set()

    async def client_to_runtime(self) -> None:
        async for message in self._socket:
            if message.type != WSMsgType.BINARY or not message.data:
                continue
            channel = message.data[0]
            is_close = channel == CLOSE_CHANNEL and len(message.data) > 1
            stream = self._streams.get(message.data[1] if is_close else channel)
            if stream is None or stream in self._closed:
                continue
            if is_close:
                self._closed.add(stream)
                self._writer.write(self._spdy.data(stream, b"", fin=True))
            elif len(message.data) > 1:
                self._writer.write(self._spdy.data(stream, message.data[1:]))
            await self._writer.drain()

    async def runtime_to_client(self) -> None:
        """Ends when all output streams have ended, or the runtime hangs up."""
        channels = {stream: channel for channel, stream in self._streams.items()}
        while self._open:
            data = await self._reader.read(CHUNK_BYTES)
            if not data:
                return
            for event in self._spdy.feed(data):
                if event.type == "ping":
                    self._writer.write(self._spdy.pong(event))
                elif event.type == "data" and event.data and event.stream in channels:
                    await self._socket.send_bytes(bytes((channels[event.stream],)) + event.data)
                if event.type == "reset" or event.fin:
                    self._open.discard(event.stream)
                    self._closed.add(event.stream)


# -- port-forward


async def _tunnel(request: web.BaseRequest, parts: SplitResult) -> web.StreamResponse:
    reader, writer = await _connect(parts, "portforward.k8s.io")
    try:
        socket = await _accept(request, TUNNEL)
    except BaseException:
        writer.close()
        raise

    async def client_to_runtime() -> None:
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                writer.write(message.data)
                await writer.drain()

    async def runtime_to_client() -> None:
        while data := await reader.read(CHUNK_BYTES):
            await socket.send_bytes(data)

    loop = asyncio.get_running_loop()
    up = loop.create_task(client_to_runtime(), name="port-forward up")
    down = loop.create_task(runtime_to_client(), name="port-forward down")
    await _join(up, down, socket, writer)
    return socket
