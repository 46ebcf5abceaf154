"""Load on the API server alone: creates/s, GET/s, LIST/s with eight connections, and the server's CPU time a request.

Starts a server process on the sqlite store in a temporary folder and drives it over TLS from this process. The CPU figures do
not depend on what else the machine does; the rates do.

    python3 -m bench.apiserver [--seconds 3] [--store sqlite|memory] [--profile FILE] [--peer-kube-apiserver FILE]

A kube-apiserver, where its binary is given, is measured in the same run by the same client, on one etcd of the distribution.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 8
TOKEN = "secret-of-the-test"


class Client(asyncio.Protocol):
    """One keep-alive connection that sends the next request as soon as the answer is complete."""

    def __init__(self, requests: Any, until: float) -> None:
        self.requests = requests
        self.until = until
        self.count = 0
        self.bytes = 0
        self.failed = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = 0
        self._chunked = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        if self._left:
            self._left -= len(data)
        elif not self._chunked:
            head, _, body = data.partition(b"\r\n\r\n")
            head += b"\r\n"
            if head[9:10] != b"2":
                self.failed = data[:600].decode(errors="replace")
                self.done.set_result(None)
                self.transport.close()
                return
            self._chunked = b"\r\nTransfer-Encoding: chunked" in head
            if not self._chunked:
                at = head.index(b"Content-Length: ") + 16
                self._left = int(head[at : head.index(b"\r\n", at)]) - len(body)
        if self._chunked and data.endswith(b"0\r\n\r\n"):
            self._chunked = False
        if self._left == 0 and not self._chunked:
            self.count += 1
            if time.monotonic() >= self.until:
                if not self.done.done():
                    self.done.set_result(None)
                self.transport.close()
            else:
                self.transport.write(next(self.requests))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.failed = self.failed or f"connection lost: {exc}"
            self.done.set_result(None)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def head(method: str, path: str, port: int, extra: str = "") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Accept: application/json\r\nUser-Agent: bench/1\r\n{extra}\r\n"
    ).encode()


def creates(port: int, tag: str, namespace: str) -> Any:
    """Requests that create ConfigMaps of 1 KiB."""
    number = 0
    while True:
        number += 1
        body = json.dumps(
            {
                "kind": "ConfigMap",
                "apiVersion": "v1",
                "metadata": {"name": f"cm-{tag}-{number}", "labels": {"app": "bench"}},
                "data": {"payload": "x" * 900},
            }
        ).encode()
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        yield head("POST", path, port, f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n") + body


def same(request: bytes) -> Any:
    while True:
        yield request


async def drive(port: int, pids: list[int], context: ssl.SSLContext, name: str, sources: list[Any], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    started, used = time.monotonic(), sum(map(cpu_seconds, pids))
    until = started + seconds
    clients = []
    for source in sources:
        _, client = await loop.create_connection(
            lambda source=source: Client(source, until), "127.0.0.1", port, ssl=context, server_hostname="127.0.0.1"
        )
        clients.append(client)
    await asyncio.gather(*(c.done for c in clients))
    elapsed, used = time.monotonic() - started, sum(map(cpu_seconds, pids)) - used
    for client in clients:
        if client.failed:
            print(f"{name}: {client.failed}")
            return
    count = sum(c.count for c in clients)
    print(
        f"{name:28} {count / elapsed:9.0f}/s   {used / count * 1e6:7.0f} us CPU each   server at {used / elapsed * 100:4.0f} %",
        flush=True,
    )


async def fill(port: int, context: ssl.SSLContext, namespace: str, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    source = creates(port, "fill", namespace)
    for _ in range(count):
        writer.write(next(source))
        answer = await reader.readuntil(b"\r\n\r\n")
        at = answer.index(b"Content-Length: ") + 16
        await reader.readexactly(int(answer[at : answer.index(b"\r\n", at)]))
    writer.close()


async def client(port: int, pids: list[int], certificate: Path, seconds: float, only: str) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    if only in ("", "create"):
        many = [creates(port, f"{i}", "default") for i in range(CONNECTIONS)]
        await drive(port, pids, context, "create ConfigMap 1 KiB", many, seconds)
    await fill(port, context, "kube-public", 1000 if only != "create" else 1)
    if only in ("", "get"):
        get = head("GET", "/api/v1/namespaces/kube-public/configmaps/cm-fill-7", port)
        await drive(port, pids, context, "GET ConfigMap", [same(get)] * CONNECTIONS, seconds)
    if only in ("", "list"):
        everything = head("GET", "/api/v1/namespaces/kube-public/configmaps", port)
        await drive(port, pids, context, "LIST 1,000 ConfigMaps", [same(everything)] * CONNECTIONS, seconds)


async def serve(folder: Path, store: str, profile: str) -> None:
    from tests.support.apiserver import run_server

    async with run_server(folder, store) as server:
        print(server.port, flush=True)
        if profile:
            import cProfile

            profiler = cProfile.Profile()
            profiler.enable()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        if profile:
            profiler.disable()
            profiler.dump_stats(profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--profile", default="")
    parser.add_argument("--peer-kube-apiserver", default="", metavar="FILE")
    parser.add_argument("--only", default="", choices=("", "create", "get", "list"))
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import uvloop

    if arguments.serve:
        uvloop.install()
        asyncio.run(serve(Path(arguments.serve), arguments.store, arguments.profile))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "bench.apiserver",
            "--serve",
            folder,
            "--store",
            arguments.store,
            "--profile",
            arguments.profile,
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        print("k3sd's API server with SQLite", flush=True)
        assert process.stdout is not None and process.stdin is not None
        try:
            port = int(process.stdout.readline())
            uvloop.install()
            asyncio.run(client(port, [process.pid], Path(folder, "tls.crt"), arguments.seconds, arguments.only))
        finally:
            process.stdin.close()
            process.wait(30)
    if arguments.peer_kube_apiserver:
        asyncio.run(peer(arguments.peer_kube_apiserver, arguments.seconds, arguments.only))


async def peer(binary: str, seconds: float, only: str) -> None:
    """The same load on a kube-apiserver; CPU time is its own and etcd's."""
    os.environ["K3SD_TEST_KUBE_APISERVER"] = binary
    sys.path.insert(0, str(ROOT / "tests" / "component" / "etcdface"))
    from kube_apiserver import TOKEN as PEER_TOKEN
    from kube_apiserver import KubeAPIServer

    from tests.support.datastore_servers import SERVERS

    global TOKEN
    TOKEN = PEER_TOKEN
    with tempfile.TemporaryDirectory() as folder, SERVERS["etcd"]() as etcd:
        server = KubeAPIServer("kube", Path(folder), [f"--etcd-servers={etcd.endpoint}"])
        try:
            await server.start()
            pids = [server.pid, *([etcd.process.pid] if etcd.process else [])]
            print("kube-apiserver with etcd")
            await client(server.port, pids, Path(folder, "kube-certs", "apiserver.crt"), seconds, only)
        finally:
            await server.stop()


if __name__ == "__main__":
    main()
