"""Upgraded connections through real sockets with TLS on both sides, on both event loops."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from k3sd.lib.upgrade import BackendError, forward_upgrade


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = pytest.importorskip("uvloop").new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    start = datetime.datetime.utcnow() - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=1))
    path = tmp_path_factory.mktemp("pem") / "pem"
    path.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


class Rig:
    """A front server that forwards everything to a backend, which upgrades and echoes, refuses or vanishes."""

    def __init__(self, pem: Path) -> None:
        self.server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_tls.load_cert_chain(pem)
        self.client_tls = ssl.create_default_context(cafile=str(pem))
        self.client_tls.check_hostname = False
        self.heads: list[str] = []
        self.backend_port = 0
        self.port = 0
        self.idle = 60.0
        self.backend_ended = asyncio.Event()
        self.handled = asyncio.Event()

    async def backend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        path = head.split(" ")[1]
        if path == "/refuse":
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\r\nno")
            await reader.read()
        elif path == "/chunks":
            writer.write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\nX-Why: y\r\n\r\n3\r\nno!\r\n0\r\n\r\n")
            await reader.read()
        elif path == "/vanish":
            pass
        else:
            # The first bytes of the stream come together with the head.
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello ")
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
                if data.endswith(b"bye"):
                    break
        self.backend_ended.set()
        writer.close()

    async def front(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await forward_upgrade(
                request,
                "127.0.0.1",
                self.backend_port,
                request.path,
                ssl_context=self.client_tls,
                server_hostname="x",
                headers=[("X-Added", "1")],
                without="x-own-secret",
                idle_seconds=self.idle,
            )
        except BackendError as error:
            return web.Response(status=502, text=str(error))
        finally:
            self.handled.set()

    async def connect(self, path: str, early: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client_tls, server_hostname="x")
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: front\r\nAuthorization: Bearer secret\r\nConnection: Upgrade\r\n"
            "Upgrade: SPDY/3.1\r\nX-Own: a\r\nX-Own-Secret-1: s\r\nX-Own: b\r\n\r\n".encode()
            + early
        )
        return reader, writer, (await reader.readuntil(b"\r\n\r\n")).decode()


@pytest.fixture
async def rig(pem: Path) -> AsyncIterator[Rig]:
    rig = Rig(pem)
    backend = await asyncio.start_server(rig.backend, "127.0.0.1", 0, ssl=rig.server_tls)
    rig.backend_port = backend.sockets[0].getsockname()[1]
    handler = web.Server(rig.front, access_log=None)  # type: ignore[arg-type]
    front = await asyncio.get_running_loop().create_server(handler, "127.0.0.1", 0, ssl=rig.server_tls)
    rig.port = front.sockets[0].getsockname()[1]
    yield rig
    front.close()
    await handler.shutdown(1)
    backend.close()
    await backend.wait_closed()
    assert not handler.connections


async def test_bytes_pass_both_ways(rig: Rig) -> None:
    reader, writer, head = await rig.connect("/echo")
    assert head == "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    assert await reader.readexactly(6) == b"hello "
    lines = rig.heads[0].split("\r\n")
    assert lines[0] == "GET /echo HTTP/1.1" and lines[1] == f"Host: 127.0.0.1:{rig.backend_port}"
    assert [line for line in lines if line.startswith("X-")] == ["X-Own: a", "X-Own: b", "X-Added: 1"]
    assert "Upgrade: SPDY/3.1" in lines and "secret" not in rig.heads[0]
    # More than any buffer holds, unread for a while: the writer is slowed down, nothing is lost.
    data = os.urandom(1 << 20) * 16

    async def send() -> None:
        for start in range(0, len(data), 1 << 16):
            writer.write(data[start : start + (1 << 16)])
            await writer.drain()

    sending = asyncio.create_task(send())
    await asyncio.wait({sending}, timeout=0.2)
    received = hashlib.sha256()
    count = 0
    while count < len(data):
        piece = await reader.read(1 << 16)
        received.update(piece)
        count += len(piece)
    await sending
    assert received.digest() == hashlib.sha256(data).digest()
    writer.close()
    await asyncio.wait_for(rig.backend_ended.wait(), 5)
    await asyncio.wait_for(rig.handled.wait(), 5)


async def test_the_backends_end_is_the_clients(rig: Rig) -> None:
    reader, writer, _ = await rig.connect("/echo")
    writer.write(b"bye")
    assert await asyncio.wait_for(reader.read(), 5) == b"hello bye"
    writer.close()


async def test_a_refusal_is_an_answer_on_a_living_connection(rig: Rig) -> None:
    reader, writer, head = await rig.connect("/refuse")
    assert head.startswith("HTTP/1.1 403") and "Content-Type: text/x" in head
    assert await reader.readexactly(2) == b"no"
    writer.close()


async def test_a_chunked_refusal_is_a_plain_answer(rig: Rig) -> None:
    reader, writer, head = await rig.connect("/chunks")
    assert head.startswith("HTTP/1.1 500") and "X-Why: y" in head and "chunked" not in head
    assert await reader.readexactly(3) == b"no!"
    writer.close()


async def test_what_a_client_says_before_the_answer_is_not_lost(rig: Rig) -> None:
    reader, writer, _ = await rig.connect("/echo", early=b"early ")
    writer.write(b"bye")
    assert await asyncio.wait_for(reader.read(), 5) == b"hello early bye"
    writer.close()


async def test_a_backend_that_vanishes(rig: Rig) -> None:
    _, writer, head = await rig.connect("/vanish")
    assert head.startswith("HTTP/1.1 502")
    writer.close()


async def test_idle_tunnels_end(rig: Rig) -> None:
    rig.idle = 0.1
    reader, writer, _ = await rig.connect("/echo")
    assert await asyncio.wait_for(reader.read(), 5) == b"hello "
    writer.close()
