"""RestClient against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.kubeconfig import ClientConfig
from k3sd.client.rest import RestClient


class Server:
    """Answers every request with the next of ``answers`` and keeps what was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], str]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[web.StreamResponse | list[bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        self.requests.append((request.method, request.path, dict(request.query), body))
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0)
        if isinstance(answer, list):
            response = web.StreamResponse()
            await response.prepare(request)
            for chunk in answer:
                await response.write(chunk)
            return response
        return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    out = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", out.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    out.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield out
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RestClient]:
    out = RestClient(ClientConfig(server.url, token="secret"))
    yield out
    await out.close()


async def test_paths_queries_and_bodies(server: Server, client: RestClient):
    ok = {"kind": "Pod", "metadata": {"name": "web"}}
    server.answers = [web.json_response(ok) for _ in range(6)]
    await client.get(resources.PODS, "web", "shop")
    await client.create(resources.PODS, {"metadata": {"namespace": "shop"}}, dry_run=True, field_manager="me")
    await client.create(resources.PODS, {"kind": "Eviction"}, "shop", name="web", subresource="eviction")
    await client.update(resources.NODES, {"metadata": {"name": "n1"}}, subresource="status")
    await client.patch(resources.NODES, "n1", {"a": None}, patch_type="application/apply-patch+yaml", force=True)
    await client.delete(
        resources.PODS, "web", "shop", DeleteOptions(grace_period_seconds=0, uid="u1", propagation_policy="Orphan")
    )
    assert server.requests == [
        ("GET", "/api/v1/namespaces/shop/pods/web", {}, ""),
        (
            "POST",
            "/api/v1/namespaces/shop/pods",
            {"dryRun": "All", "fieldManager": "me"},
            '{"metadata":{"namespace":"shop"}}',
        ),
        ("POST", "/api/v1/namespaces/shop/pods/web/eviction", {}, '{"kind":"Eviction"}'),
        ("PUT", "/api/v1/nodes/n1/status", {}, '{"metadata":{"name":"n1"}}'),
        ("PATCH", "/api/v1/nodes/n1", {"force": "true"}, '{"a":null}'),
        (
            "DELETE",
            "/api/v1/namespaces/shop/pods/web",
            {},
            '{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"propagationPolicy":"Orphan",'
            '"preconditions":{"uid":"u1"}}',
        ),
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.headers[4]["Content-Type"] == "application/apply-patch+yaml"


async def test_lists_fill_in_kind_and_page(server: Server, client: RestClient):
    server.answers = [
        web.json_response({"metadata": {"resourceVersion": "9", "continue": "tok"}, "items": [{"metadata": {"name": "a"}}]})
    ]
    page = await client.list(resources.DEPLOYMENTS, "shop", label_selector="a in (b,c)", limit=5)
    assert page.resource_version == "9" and page.continue_ == "tok"
    assert page.items[0]["kind"] == "Deployment" and page.items[0]["apiVersion"] == "apps/v1"
    assert server.requests[0][2] == {"labelSelector": "a in (b,c)", "limit": "5"}


async def test_errors_become_status_errors(server: Server, client: RestClient):
    status = {"kind": "Status", "message": "no", "reason": "AlreadyExists", "code": 409, "details": {"name": "x"}}
    server.answers = [web.json_response(status, status=409), web.Response(text="bad gateway", status=502)]
    with pytest.raises(StatusError) as error:
        await client.create(resources.PODS, {"metadata": {"name": "x"}}, "shop")
    assert (error.value.code, error.value.reason, error.value.details) == (409, "AlreadyExists", {"name": "x"})
    with pytest.raises(StatusError) as error:
        await client.get(resources.PODS, "x", "shop")
    assert (error.value.code, error.value.message) == (502, "bad gateway")


async def test_retry_after_is_obeyed(server: Server, client: RestClient):
    server.answers = [
        web.json_response({}, status=429, headers={"Retry-After": "0"}),
        web.json_response({"kind": "Pod"}),
    ]
    assert await client.get(resources.PODS, "x", "shop") == {"kind": "Pod"}
    assert len(server.requests) == 2


async def test_watch_parses_lines_split_anywhere_and_megabytes_long(server: Server, client: RestClient):
    big = {"metadata": {"name": "b", "resourceVersion": "2"}, "data": {"x": "y" * 3_000_000}}
    lines = b"".join(
        json.dumps({"type": t, "object": o}).encode() + b"\n"
        for t, o in [("ADDED", {"metadata": {"name": "ä", "resourceVersion": "1"}}), ("MODIFIED", big)]
    )
    server.answers = [[lines[:10], lines[10:40], lines[40:2_000_000], lines[2_000_000:]]]
    events = [e async for e in client.watch(resources.CONFIGMAPS, resource_version="0")]
    assert [e.type for e in events] == ["ADDED", "MODIFIED"]
    assert events[1].object == big
    query = server.requests[0][2]
    assert query["watch"] == "true" and query["allowWatchBookmarks"] == "true" and 300 <= int(query["timeoutSeconds"]) <= 600


async def test_an_expired_watch_raises(server: Server, client: RestClient):
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    server.answers = [[json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"]]
    with pytest.raises(StatusError, match="too old"):
        async for _ in client.watch(resources.PODS, resource_version="5"):
            pass


async def test_no_server_is_a_connection_error():
    client = RestClient("http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        await client.get(resources.NODES, "n1")
    with pytest.raises(ConnectionError):
        async for _ in client.watch(resources.NODES):
            pass
    await client.close()


async def test_a_watch_can_be_left_while_it_waits(server: Server, client: RestClient):
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}}\n')
        await release.wait()
        return response

    server.handle = slow  # type: ignore[method-assign]
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    other = RestClient(f"http://127.0.0.1:{runner.addresses[0][1]}")
    seen = asyncio.Event()

    async def follow() -> None:
        async for _ in other.watch(resources.PODS):
            seen.set()

    task = asyncio.create_task(follow())
    await asyncio.wait_for(seen.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await other.close()
    await runner.cleanup()
