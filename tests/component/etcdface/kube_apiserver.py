"""An upstream kube-apiserver on the etcd face, as processes that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.ports import free_port

BINARY = os.environ.get("K3SD_TEST_KUBE_APISERVER", "")
READY_SECONDS = 90
TOKEN = "test-only"

Object = dict[str, Any]


class Gone(Exception):
    """The API server answers that a resource version is too old."""


class Process:
    def __init__(self, name: str, directory: Path) -> None:
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> None:
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None


class Face(Process):
    """``k3sd datastore serve``."""

    def __init__(self, directory: Path, endpoint: str, listen: str, *tls: str) -> None:
        super().__init__("face", directory)
        self._command = [sys.executable, "-m", "k3sd", "datastore", "serve", "--data-dir", str(directory / "data")]
        self._command += ["--listen", listen, "--endpoint", endpoint, *tls]

    def start(self) -> None:
        self.run(self._command)


class KubeAPIServer(Process):
    def __init__(self, name: str, directory: Path, etcd: Sequence[str], **flags: str) -> None:
        super().__init__(name, directory)
        self.port = free_port()
        key, tokens = directory / "sa.key", directory / "tokens.csv"
        if not key.exists():
            pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            private = rsa.generate_private_key(65537, 2048)
            key.write_bytes(private.private_bytes(pem, pkcs8, serialization.NoEncryption()))
            tokens.write_text(f'{TOKEN},admin,1,"system:masters"\n')
        options = {
            "bind-address": "127.0.0.1",
            "advertise-address": "10.99.0.1",
            "secure-port": str(self.port),
            "cert-dir": str(directory / f"{name}-certs"),
            "token-auth-file": str(tokens),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(key),
            "service-account-signing-key-file": str(key),
            "service-cluster-ip-range": "10.43.0.0/16",
            "disable-admission-plugins": "ServiceAccount",
            "etcd-compaction-interval": "2s",
            "event-ttl": "5s",
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        self._command = [BINARY, *etcd, *(f"--{name}={value}" for name, value in options.items())]
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self.run(self._command)
        await self.ready()

    async def ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if (await self._request("GET", "/readyz"))[0] == 200:
                    return
            except (OSError, aiohttp.ClientError, TimeoutError):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError("\n".join(self.log.read_text().splitlines()[-20:]))
            await asyncio.sleep(0.2)

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        self.end()

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._session = aiohttp.ClientSession(
                f"https://127.0.0.1:{self.port}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                connector=aiohttp.TCPConnector(ssl=context),
                timeout=aiohttp.ClientTimeout(total=30),
            )
        return self._session

    async def _request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body)
        async with self.session().request(method, path, data=data, headers={"Content-Type": kind}) as response:
            return response.status, await response.read()

    async def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Object:
        status, data = await self._request(method, path, body, kind)
        if status == 410:
            raise Gone(data.decode())
        assert status < 300, f"{method} {path}: {status} {data.decode()}"
        answer: Object = json.loads(data)
        return answer

    async def get(self, path: str) -> Object:
        return await self.call("GET", path)

    async def text(self, path: str) -> str:
        return (await self._request("GET", path))[1].decode()

    async def status(self, method: str, path: str, body: object = None) -> int:
        return (await self._request(method, path, body))[0]

    async def watch(self, path: str) -> AsyncIterator[tuple[str, Object]]:
        """``(type, object)`` until the connection ends."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self.session().get(path, timeout=timeout, read_bufsize=1 << 22) as response:
            if response.status == 410:
                raise Gone(await response.text())
            assert response.status == 200, await response.text()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"]["code"] == 410:
                        raise Gone(event["object"]["message"])
                    raise AssertionError(event)
                yield event["type"], event["object"]
