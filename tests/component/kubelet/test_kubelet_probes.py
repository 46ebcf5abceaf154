"""Probes against real local servers."""

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from k3sd.kubelet import httpget
from k3sd.kubelet.cri.client import CRIError
from k3sd.kubelet.probes import ProbeChange, ProbeManager, go_duration, kill_grace_seconds, probe_grpc, probe_http, probe_tcp

Obj = dict[str, Any]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Web:
    """Answers each path with fixed bytes and remembers the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head)
        answer = self.answers.get(head.split(" ")[1], b"HTTP/1.1 404 Not Found\r\n\r\n")
        if answer != b"hang":
            writer.write(answer)
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    yield web
    server.close()
    await server.wait_closed()


def answer(status: int, body: str = "", *headers: str) -> bytes:
    return ("\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]) + "\r\n\r\n" + body).encode()


@pytest.mark.parametrize(
    ("path", "outcome", "text"),
    [
        ("/ok", "success", "fine"),
        ("/no-content", "success", ""),
        ("/chunked", "success", "hello world"),
        ("/bad", "failure", "HTTP probe failed with statuscode: 500"),
        ("/missing", "failure", "HTTP probe failed with statuscode: 404"),
        ("/here", "success", "fine"),
        ("/relative/x", "success", "fine"),
        ("/away", "warning", "Probe terminated redirects, Response body: gone"),
        ("/to-bad", "failure", "HTTP probe failed with statuscode: 500"),
    ],
)
async def test_http(web: Web, path: str, outcome: str, text: str) -> None:
    web.answers = {
        "/ok": answer(200, "fine"),
        "/no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\n\r\n",
        "/bad": answer(500, "x"),
        "/here": answer(302, "", f"Location: http://127.0.0.1:{web.port}/ok"),
        "/relative/x": answer(307, "", "Location: ../ok"),
        "/away": answer(301, "gone", "Location: http://192.0.2.1/"),
        "/to-bad": answer(303, "", "Location: /bad"),
    }
    assert await probe_http(f"http://127.0.0.1:{web.port}{path}", [], 5) == (outcome, text)


async def test_http_request_headers(web: Web) -> None:
    web.answers["/p%20a?q=1&r=a%20b"] = answer(200)
    container = {"name": "c", "ports": [{"name": "web", "containerPort": web.port}]}
    action = {
        "port": "web",
        "path": "p a?q=1&r=a b",
        "httpHeaders": [{"name": "Host", "value": "example.org"}, {"name": "X-A", "value": "1"}, {"name": "X-A", "value": "2"}],
    }
    url = httpget.action_url(action, container, "127.0.0.1")
    assert await probe_http(url, httpget.action_headers(action, "kube-probe/1.36"), 5) == ("success", "")
    lines = web.requests[0].split("\r\n")
    assert {"Host: example.org", "Connection: close", "X-A: 1", "X-A: 2", "User-Agent: kube-probe/1.36", "Accept: */*"} <= set(
        lines
    )
    assert not any(line.startswith("Host: 127") for line in lines)


async def test_only_ten_kilobytes_are_read_and_loops_end(web: Web) -> None:
    web.answers = {"/big": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, "/loop": answer(302, "", "Location: /loop")}
    assert (await probe_http(f"http://127.0.0.1:{web.port}/big", [], 5))[1] == "x" * 10240
    assert await probe_http(f"http://127.0.0.1:{web.port}/loop", [], 5) == (
        "failure",
        f'Get "http://127.0.0.1:{web.port}/loop": stopped after 10 redirects',
    )


async def test_http_failures_read_as_gos(web: Web, unused: int) -> None:
    web.answers = {"/hang": b"hang", "/empty": b"", "/junk": b"SSH-2.0-x\r\n\r\n"}
    base = f"http://127.0.0.1:{web.port}"
    assert await probe_http(f"http://127.0.0.1:{unused}/", [], 5) == (
        "failure",
        f'Get "http://127.0.0.1:{unused}/": dial tcp 127.0.0.1:{unused}: connect: connection refused',
    )
    assert await probe_http(f"{base}/hang", [], 0.05) == (
        "failure",
        f'Get "{base}/hang": context deadline exceeded (Client.Timeout exceeded while awaiting headers)',
    )
    assert await probe_http(f"{base}/empty", [], 5) == ("failure", f'Get "{base}/empty": EOF')
    assert 'malformed HTTP response "SSH-2.0-x"' in (await probe_http(f"{base}/junk", [], 5))[1]
    assert "invalid header field value" in (await probe_http(f"{base}/x", [("A", "b\r\nC: d")], 5))[1]


@pytest.fixture
async def unused() -> int:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_https_takes_any_certificate(web: Web, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anything")])
    start = datetime.datetime(2020, 1, 1)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=1)).sign(
        key, hashes.SHA256()
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    web.answers["/"] = answer(200, "secure")
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    assert await probe_http(f"https://127.0.0.1:{port}/", [], 5) == ("success", "secure")
    assert (await probe_http(f"https://127.0.0.1:{web.port}/", [], 0.1))[0] == "failure"
    server.close()
    await server.wait_closed()


async def test_tcp(web: Web, unused: int) -> None:
    assert await probe_tcp("127.0.0.1", web.port, 5) == ("success", "")
    assert await probe_tcp("127.0.0.1", unused, 5) == ("failure", f"dial tcp 127.0.0.1:{unused}: connect: connection refused")


async def test_grpc(unused: int) -> None:
    import grpc

    served: list[bytes] = []
    reply = b"\x08\x01"

    async def check(request: bytes, context: Any) -> bytes:
        served.append(request)
        return reply

    server = grpc.aio.server()
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert (await probe_grpc("127.0.0.1", port, "svc", 5))[0] == "success" and served == [b"\x0a\x03svc"]
    reply = b"\x08\x02"
    assert await probe_grpc("127.0.0.1", port, "", 5) == ("failure", 'service unhealthy (responded with "NOT_SERVING")')
    await server.stop(None)
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    assert (await probe_grpc("127.0.0.1", port, "", 5))[1].startswith(
        "error: this server does not implement the grpc health protocol"
    )
    await other.stop(None)
    assert f'failed to connect service at "127.0.0.1:{unused}"' in (await probe_grpc("127.0.0.1", unused, "", 5))[1]


# -- the manager: exec probes with scripted results


class Rig:
    def __init__(self) -> None:
        self.changes: asyncio.Queue[ProbeChange] = asyncio.Queue()
        self.events: list[tuple[str, str]] = []
        self.events_seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.script: dict[str, list[int | Exception]] = {}
        self.runs: list[str] = []
        self.manager = ProbeManager(self.run, self.changes.put_nowait, self.event)

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> tuple[int, bytes]:
        self.runs.append(command[0])
        steps = self.script[command[0]]
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, Exception):
            raise step
        return step, b"output"

    def event(self, pod: Obj, container: Obj, reason: str, message: str) -> None:
        self.events.append((reason, message))
        self.events_seen.put_nowait((reason, message))

    def start(self, container_id: str = "id1", ago: float = 0.0, uid: str = "u", **probes: Any) -> None:
        container = {"name": "c", **{f"{kind}Probe": probe for kind, probe in probes.items()}}
        pod = {"metadata": {"name": "p", "namespace": "ns", "uid": uid}, "spec": {}}
        self.manager.start(pod, container, container_id, time.time() - ago, "127.0.0.1")

    async def change(self) -> tuple[str, bool]:
        change = await asyncio.wait_for(self.changes.get(), 5)
        return change.kind, change.success


def command(name: str, **fields: Any) -> Obj:
    return {"exec": {"command": [name]}, "periodSeconds": 0.01, **fields}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.manager.close()


async def test_without_probes_a_container_is_ready_at_once(rig: Rig) -> None:
    rig.start()
    assert rig.manager.started("id1") and rig.manager.ready("id1")
    assert not rig.manager.ready("unknown")
    rig.manager.stop("id1")
    assert not rig.manager.ready("id1")


async def test_readiness_goes_both_ways_with_thresholds(rig: Rig) -> None:
    rig.script["r"] = [1, 0, 0, 1, 1, 0]
    rig.start(readiness=command("r", successThreshold=2, failureThreshold=2))
    assert not rig.manager.ready("id1") and rig.manager.started("id1")
    assert await rig.change() == ("Readiness", True) and rig.manager.ready("id1") and len(rig.runs) == 3
    assert await rig.change() == ("Readiness", False) and not rig.manager.ready("id1") and len(rig.runs) == 5
    assert rig.events[0] == ("Unhealthy", "Readiness probe failed: output")


async def test_liveness_failure_is_told_once(rig: Rig) -> None:
    rig.script["l"] = [0, 1]
    rig.start(liveness=command("l", failureThreshold=3))
    assert await rig.change() == ("Liveness", False)
    runs = len(rig.runs)
    await asyncio.gather(*rig.manager._containers["id1"].tasks.values())
    assert len(rig.runs) == runs == 4
    rig.manager.stop("id1")
    rig.script["l"] = [1]
    rig.start("id2", liveness=command("l", failureThreshold=1))
    assert await rig.change() == ("Liveness", False)


async def test_startup_gates_the_others(rig: Rig) -> None:
    rig.script = {"s": [1, 1, 0], "r": [0], "l": [0]}
    rig.start(startup=command("s", failureThreshold=5), readiness=command("r"), liveness=command("l"))
    assert not rig.manager.started("id1")
    assert await rig.change() == ("Startup", True) and rig.manager.started("id1") and rig.runs[:3] == ["s"] * 3
    assert rig.manager.results("u").startup == {"id1": "success"}
    assert await rig.change() == ("Readiness", True)


async def test_startup_failure_kills(rig: Rig) -> None:
    rig.script["s"] = [1]
    rig.start(startup=command("s", failureThreshold=2), liveness=command("l"))
    assert await rig.change() == ("Startup", False) and rig.runs == ["s", "s"]
    assert rig.manager.results("u").startup == {"id1": "failure"} and rig.manager.results("other").startup == {}
    assert rig.events[-1] == ("Unhealthy", "Startup probe failed: output")


async def test_initial_delay_counts_from_the_container(rig: Rig) -> None:
    rig.script["r"] = [0]
    begun = time.monotonic()
    rig.start(readiness=command("r", initialDelaySeconds=0.2))
    assert await rig.change() == ("Readiness", True)
    assert time.monotonic() - begun >= 0.19
    rig.start("id2", ago=100, readiness=command("r", initialDelaySeconds=50))
    assert await rig.change() == ("Readiness", True)


async def test_errors_are_repeated_and_are_no_verdict(rig: Rig) -> None:
    broken = CRIError("ExecSync", "Unavailable", "gone")
    rig.script["r"] = [broken, broken, broken, broken, 0]
    rig.start(readiness=command("r"))
    assert await rig.change() == ("Readiness", True) and len(rig.runs) == 5
    assert rig.events == [
        ("Unhealthy", "Readiness probe errored and resulted in unknown state: rpc error: code = Unavailable desc = gone")
    ]


async def test_exec_timeout_is_a_failure(rig: Rig) -> None:
    rig.script["sleep"] = [TimeoutError()]
    rig.start(liveness=command("sleep", failureThreshold=1, timeoutSeconds=2))
    assert await rig.change() == ("Liveness", False)
    assert rig.events == [("Unhealthy", 'Liveness probe failed: command timed out: "sleep" timed out after 2s')]


async def test_a_terminating_pod_is_not_restarted_for_its_health(rig: Rig) -> None:
    rig.script = {"l": [1], "r": [0, 1]}
    rig.start(liveness=command("l", initialDelaySeconds=0.05, failureThreshold=1), readiness=command("r", failureThreshold=1))
    rig.manager.pod_terminating("u")
    assert [await rig.change(), await rig.change()] == [("Readiness", True), ("Readiness", False)]
    assert rig.runs[:2] == ["r", "r"] and "l" not in rig.runs
    rig.manager.stop_pod("u")
    assert not rig.manager.started("id1")


async def test_takeover_keeps_what_was_known(rig: Rig) -> None:
    rig.script["r"] = [1]
    pod = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {}}
    container = {"name": "c", "readinessProbe": command("r", failureThreshold=1), "startupProbe": command("s")}
    rig.manager.start(pod, container, "id1", time.time() - 100, "127.0.0.1", was_started=True, was_ready=True)
    assert rig.manager.ready("id1")
    assert await rig.change() == ("Readiness", False)


async def test_no_handler_is_told(rig: Rig) -> None:
    rig.script["x"] = [0]
    rig.start(readiness={"httpGet": {"port": "nope"}, "periodSeconds": 0.01})
    assert (await asyncio.wait_for(rig.events_seen.get(), 5))[
        1
    ] == "Readiness probe errored and resulted in unknown state: couldn't find port: nope in container c"


def test_grace_and_durations() -> None:
    pod: Obj = {"spec": {"terminationGracePeriodSeconds": 60}}
    assert kill_grace_seconds(pod, {"livenessProbe": {"terminationGracePeriodSeconds": 5}}, "Liveness") == 5
    assert kill_grace_seconds(pod, {"livenessProbe": {}}, "Liveness") == 60
    assert kill_grace_seconds({}, {}, "Startup") == 30
    assert [go_duration(n) for n in (1, 90, 3600)] == ["1s", "1m30s", "1h0m0s"]
