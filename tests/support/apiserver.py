"""A real API server for tests: TLS on a random loopback port, the memory or sqlite store, everybody with a token is an
administrator."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.http import APIServer, build_server
from k3sd.apiserver.registry import Registry
from k3sd.apiserver.request import Decision, RequestContext, UserInfo
from k3sd.apiserver.watchcache import WatchCache
from k3sd.config.settings import Settings
from k3sd.datastore.backend import Backend
from k3sd.datastore.drivers.memory import MemoryLog
from k3sd.datastore.drivers.sqlite import SqliteLog
from k3sd.datastore.store import LogStore

TOKEN = "secret-of-the-test"
ADMIN = UserInfo("admin", ("system:masters", "system:authenticated"))


class TokenAuthenticator:
    """One bearer token, one administrator."""

    async def authenticate(self, headers: Any, certificate: bytes | None = None, parsed: object = None) -> UserInfo | None:
        return ADMIN if headers.get("Authorization") == f"Bearer {TOKEN}" else None


class AllowAll:
    def authorize(self, ctx: RequestContext) -> Decision:
        return Decision(True)


def make_certificate(folder: Path) -> None:
    """``tls.crt`` and ``tls.key``, self-signed for loopback."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class TestServer:
    """A running server and ways to talk to it."""

    __test__ = False

    def __init__(self, folder: Path, server: APIServer, registry: Registry, port: int) -> None:
        self.folder = folder
        self.server = server
        self.registry = registry
        self.port = port
        self.url = f"https://127.0.0.1:{port}"
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "kind": "Config",
                    "apiVersion": "v1",
                    "current-context": "test",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {"server": self.url, "certificate-authority": str(folder / "tls.crt")},
                        }
                    ],
                    "users": [{"name": "test", "user": {"token": TOKEN}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )

    async def kubectl(
        self, *args: str, stdin: str = "", program: str = "/usr/bin/kubectl", check: bool = True
    ) -> tuple[int, str, str]:
        """Run kubectl against this server: exit code, output, errors."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)}
        process = await asyncio.create_subprocess_exec(
            program,
            *args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        code = process.returncode or 0
        if check:
            assert code == 0, f"kubectl {' '.join(args)}: {err.decode()}"
        return code, out.decode(), err.decode()

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "tls.crt"))


@contextlib.asynccontextmanager
async def open_registry(settings: Settings, backend: Backend | None = None, *, load: bool = True) -> AsyncIterator[Registry]:
    """A registry over ``backend``, or over an empty store in memory; both are closed at the end."""
    if backend is None:
        backend = LogStore(MemoryLog())
    await backend.start()
    cache = WatchCache(backend)
    await cache.start()
    registry = Registry(backend, cache, settings)
    if load:
        registry.load()
    try:
        yield registry
    finally:
        await registry.close()
        cache.stop()
        await backend.stop()


async def until(registry: Registry, resource: Resource, holds: Callable[[], bool]) -> None:
    """Wait for a change of the resource after which ``holds``."""
    event = asyncio.Event()
    follower = registry.endpoint(resource).cache.follow(lambda _: event.set())
    try:
        async with asyncio.timeout(5):
            while not holds():
                await event.wait()
                event.clear()
    finally:
        follower.close()


@contextlib.asynccontextmanager
async def run_server(
    folder: Path, store: str = "memory", *, load: bool = True, backend: Backend | None = None, **options: Any
) -> AsyncIterator[TestServer]:
    """A server over a fresh store in ``folder``, or over ``backend``, start-up objects made."""
    make_certificate(folder)
    if backend is None:
        backend = LogStore(MemoryLog() if store == "memory" else SqliteLog(folder / "state.db"))
    settings = Settings(data_dir=str(folder), node_ips=("192.0.2.10",), advertise_address="192.0.2.10")
    async with open_registry(settings, backend, load=load) as registry:
        server = build_server(registry, TokenAuthenticator(), AllowAll(), **options)
        registry.authorizer = server.authorizer
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        await server.serve(listener, context)
        try:
            await server.bootstrap()
            yield TestServer(folder, server, registry, listener.getsockname()[1])
        finally:
            await server.stop(1)
