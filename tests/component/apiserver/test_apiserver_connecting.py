"""Logs, exec and proxy through the API server to a scripted kubelet or pod."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.apiserver import connecting
from k3sd.apiserver.tunnel import Target
from tests.component.apiserver.conftest import Http
from tests.support.apiserver import TOKEN, TestServer

POD = "/api/v1/namespaces/default/pods/p"
CHECK_PROXYABLE = connecting.check_proxyable
Script = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Backend:
    """Takes one request head after another and lets the test's script answer; ``heads`` are what came."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.script: Script = self.refuse

    async def refuse(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno")

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await self.script(head, reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def backend(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    """The kubelet of every node, and pod p on it."""
    backend = Backend()
    listener = await asyncio.start_server(backend.connected, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    monkeypatch.setattr(server.server.kubelets, "target", lambda node: Target("127.0.0.1", port))
    monkeypatch.setattr(connecting, "check_proxyable", lambda address: None)
    client = server.registry.client()
    await client.create(
        resources.PODS,
        {
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": port}]}]},
        },
    )
    await client.patch(resources.PODS, "p", {"status": {"podIP": "127.0.0.1"}}, "default", subresource="status")
    yield backend
    listener.close()
    await listener.wait_closed()


async def raw(server: TestServer, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=server.client_context(), server_hostname="localhost"
    )
    writer.write(request.format(token=TOKEN).encode())
    return reader, writer


UPGRADE = (
    "POST /api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&command=echo+1&stdin=true&stdout=true&tty=false "
    "HTTP/1.1\r\n"
    "Host: x\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
)


async def test_exec_is_a_raw_tunnel(server: TestServer, backend: Backend) -> None:
    async def echo(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    backend.script = echo
    reader, writer = await raw(server, UPGRADE)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert await reader.readexactly(5) == b"hello"
    payload = bytes(range(256)) * 4096  # a megabyte through both pumps
    writer.write(payload)
    assert await asyncio.wait_for(reader.readexactly(len(payload)), 20) == payload
    writer.close()
    (sent,) = backend.heads
    first, *lines = sent.decode().split("\r\n")
    assert first == "POST /exec/default/p/c?input=1&output=1&command=sh&command=-c&command=echo+1 HTTP/1.1"
    names = {line.partition(":")[0].lower() for line in lines}
    assert "x-stream-protocol-version" in names
    assert "authorization" not in names, "the client's token is nobody else's business"


async def test_the_end_of_the_backend_ends_the_client(server: TestServer, backend: Backend) -> None:
    async def short(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nbye")

    backend.script = short
    reader, writer = await raw(server, UPGRADE)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert await asyncio.wait_for(reader.read(), 10) == b"bye"
    writer.close()


async def test_a_refused_upgrade_is_passed_on(server: TestServer, backend: Backend) -> None:
    reader, writer = await raw(server, UPGRADE)
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert answer.endswith(b"\r\n\r\nno")
    writer.close()


async def test_exec_needs_a_known_container_and_a_command(http: Http, backend: Backend) -> None:
    status, _, body = await http("POST", POD + "/exec?command=sh&stdout=1&container=zzz")
    assert (status, body["message"]) == (400, "container zzz is not valid for pod p")
    status, _, body = await http("POST", POD + "/exec?stdout=1")
    assert (status, body["message"]) == (400, "you must specify at least 1 command for the container")
    status, _, body = await http("POST", POD + "/exec?command=sh&stdout=1")
    assert (status, body["message"]) == (400, "Upgrade request required")
    assert backend.heads == []


async def test_logs_are_streamed(http: Http, backend: Backend) -> None:
    async def log(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        await writer.drain()
        writer.write(b"4\r\ntwo\n\r\n0\r\n\r\n")

    backend.script = log
    status, headers, text = await http("GET", POD + "/log?tailLines=5&follow=true")
    assert (status, text, headers["Content-Type"]) == (200, "one\ntwo\n", "text/plain")
    assert backend.heads[0].startswith(b"GET /containerLogs/default/p/c?")


async def test_log_refusals(http: Http, backend: Backend) -> None:
    async def waiting(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = b'container "c" in pod "p" is waiting to start: ContainerCreating'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    backend.script = waiting
    status, _, body = await http("GET", POD + "/log")
    assert (status, body["reason"]) == (400, "BadRequest")
    assert body["message"] == 'container "c" in pod "p" is waiting to start: ContainerCreating'
    status, _, body = await http("GET", POD + "/log?tailLines=-1")
    assert (status, body["reason"]) == (422, "Invalid")
    status, _, body = await http("GET", "/api/v1/namespaces/default/pods/none/log")
    assert status == 404


async def test_a_pod_with_many_containers_must_be_told(http: Http, server: TestServer, backend: Backend) -> None:
    spec = {
        "nodeName": "n1",
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "initContainers": [{"name": "i", "image": "i"}],
    }
    await server.registry.client().create(resources.PODS, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    status, _, body = await http("GET", "/api/v1/namespaces/default/pods/web/log")
    assert status == 400
    assert body["message"] == (
        "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]"
    )


async def test_pod_proxy(http: Http, backend: Backend) -> None:
    async def page(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'<html><a href="/next">x</a><img src="//cdn/x"></html>'
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Own: 1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    backend.script = page
    status, headers, text = await http("GET", POD + "/proxy/a%2Fb/?q=1&q=2", data=b"")
    assert (status, headers["X-Own"]) == (200, "1")
    assert f'href="{POD}/proxy/next"' in text
    assert 'src="//cdn/x"' in text
    assert backend.heads[0].startswith(b"GET /a%2Fb/?q=1&q=2 HTTP/1.1\r\n") or b"/a%2Fb/" in backend.heads[0]
    status, headers, _ = await http("GET", POD + "/proxy?x=1", allow_redirects=False)
    assert (status, headers["Location"]) == (301, POD + "/proxy/?x=1")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "224.0.0.1", "0.0.0.0", "255.255.255.255"]
)
def test_addresses_that_no_client_may_reach_through_the_server(address: str) -> None:
    with pytest.raises(StatusError, match="address not allowed") as caught:
        CHECK_PROXYABLE(address)
    assert caught.value.code == 400
    CHECK_PROXYABLE("10.42.0.5")
    CHECK_PROXYABLE("fd00::5")


async def test_what_a_status_claims_is_checked(http: Http, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "check_proxyable", CHECK_PROXYABLE)
    for path in (f"{POD}/proxy/x", "/api/v1/nodes/n1:22/proxy/x"):
        status, _, body = await http("GET", path)
        assert (status, body["message"]) == (400, "address not allowed")
    assert backend.heads == []


async def test_other_ports_of_a_node_are_not_its_kubelet(http: Http, backend: Backend) -> None:
    async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nother")

    other = Backend()
    other.script = answer
    listener = await asyncio.start_server(other.connected, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    assert (await http("GET", f"/api/v1/nodes/n1:{port}/proxy/x"))[2] == "other"
    assert (await http("GET", "/api/v1/nodes/n1/proxy/x"))[0] == 403, "the kubelet's"
    assert len(other.heads) == len(backend.heads) == 1
    assert (await http("GET", "/api/v1/nodes/n1:ssh/proxy/x"))[0] == 400
    listener.close()
    await listener.wait_closed()


async def test_service_proxy_picks_a_ready_endpoint(
    http: Http, server: TestServer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ok(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")

    backend.script = ok
    client: Any = server.registry.client()
    pod = server.registry.read(resources.PODS, "p", "default")
    assert pod is not None
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    ports = [{"name": "http", "port": 80, "targetPort": port}]
    await client.create(resources.SERVICES, {"metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": ports}})
    path = "/api/v1/namespaces/default/services/s:http/proxy/"
    status, _, body = await http("GET", path)
    assert (status, body["message"]) == (503, 'no endpoints available for service "s"')
    # Validation keeps loopback addresses out of real slices, and a test has no others.
    piece = {
        "metadata": {"name": "s-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "s"}},
        "ports": [{"name": "http", "port": port}],
        "endpoints": [
            {"addresses": ["127.0.0.1"], "conditions": {"ready": True}},
            {"addresses": ["192.0.2.1"], "conditions": {"ready": False}},
        ],
    }
    monkeypatch.setattr(server.registry, "read_all", lambda resource, namespace="": iter([piece]))
    assert (await http("GET", path))[0::2] == (200, "ok")
    assert (await http("GET", "/api/v1/namespaces/default/services/s:80/proxy/"))[0] == 200
