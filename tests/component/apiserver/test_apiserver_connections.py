"""Bytes on one connection: however they are cut or joined, each request gets its own answer, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from k3sd.apiserver import connections
from k3sd.apiserver.connections import Connection
from k3sd.lib import patience
from tests.support.apiserver import TOKEN, TestServer

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


class Wire:
    """A raw connection that reads whole answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, Any]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        at = head.index(b"Content-Length: ") + 16
        body = await self.reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        return int(head[9:12]), json.loads(body)


@pytest.fixture
async def wire(server: TestServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=server.client_context(), server_hostname="localhost"
    )
    yield Wire(reader, writer)
    writer.close()


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each request took: ``fast``, ``light`` or ``long``."""
    taken: list[str] = []
    original = Connection._answer_at_once

    def spy(self: Connection, data: bytes, at: int) -> bool:
        done = original(self, data, at)
        if done or at >= 0:
            taken.append(("light" if self._running is not None else "fast") if done else "long")
        return done

    monkeypatch.setattr(Connection, "_answer_at_once", spy)
    return taken


def get(path: str, token: str = TOKEN) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nUser-Agent: t/1\r\n\r\n".encode()


def post(name: str, data: str = "v", token: str = TOKEN) -> bytes:
    body = json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"k": data}}).encode()
    return (
        f"POST {CONFIGMAPS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nUser-Agent: t/1\r\n\r\n"
    ).encode() + body


async def test_repeated_requests_take_the_short_ways(wire: Wire, ways: list[str]) -> None:
    for name, size in (("a", 1), ("b", 10), ("c", 5000)):
        wire.send(post(name, "x" * size))
        status, made = await wire.answer()
        assert (status, made["metadata"]["name"], len(made["data"]["k"])) == (201, name, size)
    for name in ("a", "b", "c"):
        wire.send(get(f"{CONFIGMAPS}/{name}"))
        status, got = await wire.answer()
        assert (status, got["metadata"]["name"]) == (200, name)
    wire.send(get(CONFIGMAPS))
    status, listed = await wire.answer()
    assert [i["metadata"]["name"] for i in listed["items"]] == ["a", "b", "c"]
    assert ways == ["long", "light", "light", "long", "fast", "fast", "fast"]


async def test_errors_are_worded_the_same_on_both_ways(wire: Wire, ways: list[str]) -> None:
    wire.send(get(CONFIGMAPS))
    await wire.answer()
    wire.send(get(f"{CONFIGMAPS}/none"))
    status, body = await wire.answer()
    assert (status, body["message"]) == (404, 'configmaps "none" not found')
    wire.send(post("a"))
    await wire.answer()
    wire.send(post("a"))
    status, body = await wire.answer()
    assert (status, body["message"]) == (409, 'configmaps "a" already exists')
    assert ways == ["long", "long", "long", "light"]


async def test_other_credentials_are_looked_at(wire: Wire) -> None:
    for request in (get(CONFIGMAPS), post("a")):
        wire.send(request)
        assert (await wire.answer())[0] in (200, 201)
    for request in (get(CONFIGMAPS, "wrong"), post("b", token="wrong")):
        wire.send(request)
        assert (await wire.answer())[0] == 401


async def test_a_list_after_a_write_shows_it(wire: Wire) -> None:
    for number in range(4):
        wire.send(post(f"c{number}"))
        await wire.answer()
        for _ in range(3):
            wire.send(get(CONFIGMAPS))
            _, listed = await wire.answer()
            assert len(listed["items"]) == number + 1
            assert int(listed["metadata"]["resourceVersion"]) >= int(listed["items"][-1]["metadata"]["resourceVersion"])


async def test_pipelined_requests(wire: Wire) -> None:
    wire.send(get(CONFIGMAPS))
    await wire.answer()
    wire.send(post("a"))
    await wire.answer()
    wire.send(post("b") + get(f"{CONFIGMAPS}/b") + post("c") + get(f"{CONFIGMAPS}/c"))
    answers = [await wire.answer() for _ in range(4)]
    assert [status for status, _ in answers] == [201, 200, 201, 200]
    assert [obj["metadata"]["name"] for _, obj in answers] == ["b", "b", "c", "c"]
    wire.send(post("d"))
    wire.send(get(f"{CONFIGMAPS}/d"))
    assert [(await wire.answer())[0] for _ in range(2)] == [201, 200]


async def test_requests_in_pieces(wire: Wire) -> None:
    wire.send(get(CONFIGMAPS))
    await wire.answer()
    wire.send(post("warm"))
    await wire.answer()
    for number, cut in enumerate((1, 20, 60, 120, 150, 180, 200)):
        request = post(f"p{number}")
        wire.send(request[:cut])
        await wire.writer.drain()
        await asyncio.sleep(0.01)
        wire.send(request[cut:])
        assert (await wire.answer())[0] == 201
        read = get(f"{CONFIGMAPS}/p{number}")
        wire.send(read[: cut % len(read)])
        await asyncio.sleep(0.01)
        wire.send(read[cut % len(read) :])
        status, obj = await wire.answer()
        assert (status, obj["metadata"]["name"]) == (200, f"p{number}")


async def test_a_smuggled_request_line_in_a_cut_head_is_not_answered(wire: Wire) -> None:
    """Bytes that look like a whole request but continue a head that has begun belong to that head."""
    wire.send(get(CONFIGMAPS))
    await wire.answer()
    wire.send(b"GET /version HTTP/1.1\r\nX-Part: ")
    await wire.writer.drain()
    await asyncio.sleep(0.05)
    wire.send(get(CONFIGMAPS))
    status, body = await wire.answer()
    assert (status, body.get("major")) == (200, "1"), "the answer is that of the request whose head began first"


async def test_who_does_not_finish_a_head_is_cut_and_a_watch_is_not(
    server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.3)

    async def ends(*parts: bytes) -> tuple[bytes, float]:
        """What comes on a connection until it is closed, and after how long."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=server.client_context(), server_hostname="localhost"
        )
        begun = asyncio.get_running_loop().time()
        received = b""
        for part in parts:
            writer.write(part)
            if part.endswith(b"\r\n\r\n"):
                received += await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                await asyncio.sleep(0.1)  # the connection is idle, or the watch runs
        try:
            received += await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            pass
        writer.close()
        return received, asyncio.get_running_loop().time() - begun

    silent, half, second, watching = await asyncio.gather(
        ends(),
        ends(b"GET /version HT"),
        ends(get("/version"), b"GET /ver"),
        ends(get(CONFIGMAPS + "?watch=1&resourceVersion=0&timeoutSeconds=1").replace(b"Host", b"Connection: close\r\nHost")),
    )
    assert silent[0] == half[0] == b""
    assert silent[1] < 5 and half[1] < 5
    assert second[0].startswith(b"HTTP/1.1 200") and second[1] < 5
    assert watching[0].endswith(b"0\r\n\r\n") and watching[1] >= 1


async def test_nonsense_fills_no_log(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    wire.send(b"POST /version HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
    head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 10)
    assert b" 400 Bad Request\r\n" in head
    assert caplog.text == ""


async def test_idle_connections_are_closed_and_busy_ones_left_alone(
    wire: Wire, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    original = Connection._process_keepalive

    def count(self: Connection) -> None:
        nonlocal looks
        looks += 1
        original(self)

    monkeypatch.setattr(Connection, "_process_keepalive", count)
    monkeypatch.setattr(connections, "KEEPALIVE_SECONDS", 0.3)
    assert server.server._http is not None
    server.server._http._kwargs["keepalive_timeout"] = 0.3
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=server.client_context(), server_hostname="localhost"
    )
    other = Wire(reader, writer)
    other.send(get(CONFIGMAPS))
    await other.answer()
    other.send(get(CONFIGMAPS + "?watch=1&resourceVersion=0&timeoutSeconds=2"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10), "the watch lives longer than an idle connection"
    assert looks < 12, "nobody looks at a busy connection all the time"
    assert await asyncio.wait_for(reader.read(), 10) == b"", "then it is idle and is closed"
    writer.close()
