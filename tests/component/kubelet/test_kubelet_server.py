"""The kubelet's server: routes and rights without a runtime, streams with a real containerd and real kubectl."""

from __future__ import annotations

import asyncio
import ctypes
import datetime
import json
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from k3sd.config.settings import Settings
from k3sd.kubelet.authz import Authorizer, Unauthenticated, User, certificate_user, subresources
from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.client import CRIClient
from k3sd.kubelet.logs import LogReader
from k3sd.kubelet.server import KubeletServer, log_container_id, server_tls
from k3sd.lib.inotify import DirectoryEvents
from k3sd.lib.upgrade import forward_upgrade
from tests.component.kubelet.conftest import BUSYBOX_IMAGE
from tests.support import kubectl

uvloop = pytest.importorskip("uvloop")
Obj = dict[str, Any]


@pytest.fixture
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop the node runs on: its transports are not asyncio's own."""
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


class FakePods:
    def __init__(self) -> None:
        self.known: list[Obj] = []
        self.sandboxes: dict[str, str] = {}
        self.exited = asyncio.Event()

    def pods(self) -> list[Obj]:
        return self.known

    def pod(self, namespace: str, name: str) -> Obj | None:
        return next((p for p in self.known if (p["metadata"]["namespace"], p["metadata"]["name"]) == (namespace, name)), None)

    def sandbox_id(self, uid: str) -> str | None:
        return self.sandboxes.get(uid)

    async def wait_exited(self, container_id: str) -> None:
        await self.exited.wait()


class FakeCRI:
    """Container statuses with a log path."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}

    async def container_status(self, container_id: str) -> Any:
        status = messages.ContainerStatus(id=container_id, log_path=self.paths[container_id])
        return messages.ContainerStatusResponse(status=status)

    async def list_container_stats(self) -> list[Any]:
        labels = {
            "io.kubernetes.pod.namespace": "ns",
            "io.kubernetes.pod.name": "p",
            "io.kubernetes.pod.uid": "u",
            "io.kubernetes.container.name": "c",
        }
        return [
            messages.ContainerStats(
                attributes=messages.ContainerAttributes(
                    id=f"id{attempt}", labels=labels, metadata=messages.ContainerMetadata(name="c", attempt=attempt)
                ),
                cpu=messages.CpuUsage(usage_core_nano_seconds=messages.UInt64Value(value=attempt * 1_500_000_000)),
                memory=messages.MemoryUsage(working_set_bytes=messages.UInt64Value(value=attempt * 4096)),
            )
            for attempt in (1, 0)
        ]


class FakeAPI:
    """TokenReview and SubjectAccessReview: token ``good`` is alice, who may what ``allowed`` says."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.asked: list[str] = []

    async def create(self, resource: Any, obj: Obj, namespace: str | None = None, **_: Any) -> Obj:
        if obj["kind"] == "TokenReview":
            self.asked.append("token")
            good = obj["spec"]["token"] == "good"
            return {"status": {"authenticated": good, "user": {"username": "alice", "groups": ["dev"], "extra": {"k": ["v"]}}}}
        attributes = obj["spec"]["resourceAttributes"]
        assert (obj["spec"]["user"], attributes["name"]) == ("alice", "n1")
        self.asked.append(f"{attributes['verb']} {attributes['resource']}/{attributes['subresource']}")
        return {"status": {"allowed": attributes["subresource"] in self.allowed}}


def pod(**status: Any) -> Obj:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "c"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", **status}]},
    }


RUNNING = {"state": {"running": {}}, "containerID": "containerd://id1"}


# -- who may


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/stats/summary", ("stats",)),
        ("/metrics/resource", ("metrics",)),
        ("/metrics", ("metrics",)),
        ("/logs/", ("log",)),
        ("/pods", ("pods", "proxy")),
        ("/healthz", ("healthz", "proxy")),
        ("/exec/ns/p/c", ("proxy",)),
        ("/containerLogs/ns/p/c", ("proxy",)),
        ("/metricsx", ("proxy",)),
    ],
)
def test_subresources(path: str, expected: tuple[str, ...]) -> None:
    assert subresources(path) == expected


async def test_decisions_are_kept_for_a_while() -> None:
    api = FakeAPI()
    now = 0.0
    authorizer = Authorizer(api, "n1", now=lambda: now)  # type: ignore[arg-type]
    alice = await authorizer.authenticate(None, "Bearer good")
    assert alice == await authorizer.authenticate(None, "bearer good") and api.asked == ["token"]
    api.allowed = {"proxy"}
    assert await authorizer.authorize(alice, "POST", "/exec/a/b/c") == (True, "proxy")
    api.allowed = {"metrics"}
    assert await authorizer.authorize(alice, "POST", "/exec/a/b/c") == (True, "proxy")
    assert api.asked[1:] == ["create nodes/proxy"]
    now = 301.0
    assert await authorizer.authorize(alice, "POST", "/exec/a/b/c") == (False, "proxy")
    assert await authorizer.authorize(alice, "GET", "/pods") == (False, "proxy")
    api.allowed = {"pods"}
    now = 340.0
    assert await authorizer.authorize(alice, "GET", "/pods") == (True, "pods")
    for header in ("", "Basic x", "Bearer ", "Bearer bad"):
        with pytest.raises(Unauthenticated):
            await authorizer.authenticate(None, header)


def test_certificate_user() -> None:
    subject = ((("organizationName", "system:masters"),), (("organizationName", "x"),), (("commonName", "system:apiserver"),))
    assert certificate_user({"subject": subject}) == User(
        "system:apiserver", groups=("system:masters", "x", "system:authenticated")
    )
    assert certificate_user({}) is None and certificate_user({"subject": ((("organizationName", "x"),),)}) is None


# -- routes over TLS


def issue(ca: Any, name: str, organization: str = "", *, path: Path) -> Any:
    """A certificate signed by ``ca`` (pair of certificate and key, None for a new CA), in ``path`` with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]
    if organization:
        attributes.append(x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organization))
    subject = x509.Name(attributes)
    issuer = ca[0].subject if ca else subject
    start = datetime.datetime.utcnow() - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), start)
    builder = builder.not_valid_after(start + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca is None, None), critical=True)
    certificate = builder.sign(ca[1] if ca else key, hashes.SHA256())
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, key


class Rig:
    def __init__(self, tmp_path: Path) -> None:
        self.pods = FakePods()
        self.cri = FakeCRI()
        self.api = FakeAPI()
        self.events = DirectoryEvents()
        self.reader = LogReader(self.events)
        self.node_logs = tmp_path / "node-logs"
        self.node_logs.mkdir()
        self.server = KubeletServer(
            self.pods,
            self.cri,  # type: ignore[arg-type]
            self.api,  # type: ignore[arg-type]
            "n1",
            self.reader,
            node_logs=self.node_logs,
        )
        self.tmp_path = tmp_path
        self.base = ""

    async def start(self) -> None:
        ca = issue(None, "ca", path=self.tmp_path / "ca.pem")
        issue(ca, "n1", path=self.tmp_path / "server.pem")
        issue(ca, "system:apiserver", "system:masters", path=self.tmp_path / "admin.pem")
        issue(ca, "alice", "dev", path=self.tmp_path / "alice.pem")
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.base = f"https://127.0.0.1:{sock.getsockname()[1]}"
        pem = self.tmp_path / "server.pem"
        await self.server.start(sock, server_tls(pem, pem, self.tmp_path / "ca.pem"))

    def session(self, certificate: str = "") -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=str(self.tmp_path / "ca.pem"))
        context.check_hostname = False
        if certificate:
            context.load_cert_chain(self.tmp_path / certificate)
        return aiohttp.ClientSession(self.base, connector=aiohttp.TCPConnector(ssl=context))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.start()
    yield rig
    await rig.server.stop()
    rig.reader.close()
    rig.events.close()


async def fetch(session: aiohttp.ClientSession, path: str, **options: Any) -> tuple[int, str]:
    async with session.get(path, **options) as response:
        return response.status, await response.text()


async def test_rights_are_checked(rig: Rig) -> None:
    async with rig.session() as session:
        assert await fetch(session, "/pods") == (401, "Unauthorized")
        headers = {"Authorization": "Bearer good"}
        assert await fetch(session, "/pods", headers=headers) == (
            403,
            "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[proxy])",
        )
    async with rig.session("alice.pem") as session:
        rig.api.allowed = {"metrics"}
        assert (await fetch(session, "/metrics"))[0] == 200
        assert (await fetch(session, "/logs/"))[0] == 403
    async with rig.session("admin.pem") as session:
        assert await fetch(session, "/healthz") == (200, "ok")
        asked = len(rig.api.asked)
        assert await fetch(session, "/nothing") == (404, "404 page not found") and len(rig.api.asked) == asked


async def test_pods_and_stats(rig: Rig) -> None:
    rig.pods.known = [pod(**RUNNING)]
    async with rig.session("admin.pem") as session:
        listed = json.loads((await fetch(session, "/pods"))[1])
        assert listed["kind"] == "PodList" and listed["items"][0]["metadata"]["name"] == "p"
        summary = json.loads((await fetch(session, "/stats/summary"))[1])
        assert summary["node"]["nodeName"] == "n1" and summary["node"]["cpu"]["usageCoreNanoSeconds"] > 0
        (entry,) = summary["pods"]
        assert entry["podRef"]["name"] == "p" and entry["memory"]["workingSetBytes"] == 4096
        assert entry["containers"][0]["cpu"]["usageCoreNanoSeconds"] == 1_500_000_000
        resource = (await fetch(session, "/metrics/resource"))[1]
        assert (
            'container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5\n' in resource
            and resource.count('container="c"') == 2
        )
        assert 'pod_memory_working_set_bytes{namespace="ns",pod="p"} 4096\n' in resource
        assert "process_resident_memory_bytes" in (await fetch(session, "/metrics"))[1]


async def test_container_logs(rig: Rig, tmp_path: Path) -> None:
    rig.pods.known = [pod(**RUNNING)]
    log = tmp_path / "0.log"
    log.write_text("2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stdout F two\n")
    rig.cri.paths["id1"] = str(log)
    async with rig.session("admin.pem") as session:
        assert await fetch(session, "/containerLogs/ns/p/c") == (200, "one\ntwo\n")
        assert await fetch(session, "/containerLogs/ns/p/c?tailLines=1") == (200, "two\n")
        assert await fetch(session, "/containerLogs/ns/none/c") == (404, "pod does not exist")
        assert await fetch(session, "/containerLogs/ns/p/x") == (404, 'container "x" not found in pod "p"')
        assert await fetch(session, "/containerLogs/ns/p/c?previous=true") == (
            400,
            'previous terminated container "c" in pod "p" not found',
        )
        assert (await fetch(session, "/containerLogs/ns/p/c?tailLines=x"))[0] == 400
        async with session.get("/containerLogs/ns/p/c?follow=true") as response:
            assert await response.content.readline() == b"one\n"
            assert await response.content.readline() == b"two\n"
            with log.open("a") as file:
                file.write("2026-01-01T00:00:02Z stdout F three\n")
            assert await response.content.readline() == b"three\n"
            rig.pods.exited.set()
            assert await response.content.read() == b""
        log.unlink()
        assert "no such file or directory" in (await fetch(session, "/containerLogs/ns/p/c"))[1]


async def test_a_follower_that_leaves_is_noticed(rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig.pods.known = [pod(**RUNNING)]
    log = tmp_path / "0.log"
    log.write_text("2026-01-01T00:00:00Z stdout F one\n")
    rig.cri.paths["id1"] = str(log)
    async with rig.session("admin.pem") as session, session.get("/containerLogs/ns/p/c?follow=true") as response:
        assert await response.content.readline() == b"one\n"
        assert rig.events._watches
    async with asyncio.timeout(5):
        while rig.events._watches:  # noqa: ASYNC110 - what the other end of a closed connection does has no event for us
            await asyncio.sleep(0.01)
    await rig.server.stop()
    assert not caplog.records


@pytest.mark.parametrize(
    ("status", "previous", "expected"),
    [
        (RUNNING, False, "id1"),
        ({"state": {"terminated": {"containerID": "containerd://id2"}}}, False, "id2"),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"containerID": "containerd://id3"}},
            },
            False,
            "id3",
        ),
        ({**RUNNING, "lastState": {"terminated": {"containerID": "containerd://id3"}}}, True, "id3"),
        (
            {"state": {"waiting": {"reason": "ContainerCreating"}}},
            False,
            'container "c" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff"}}},
            False,
            'container "c" in pod "p" is waiting to start: trying and failing to pull image',
        ),
        ({"state": {"terminated": {}}}, False, 'container "c" in pod "p" is terminated'),
        ({}, False, 'container "c" in pod "p" is waiting to start - no logs yet'),
    ],
)
def test_which_containers_log(status: Obj, previous: bool, expected: str) -> None:
    try:
        found = log_container_id(pod(**status), "c", previous)
    except ValueError as error:
        found = str(error)
    assert found == expected


async def test_node_logs_stay_in_their_directory(rig: Rig) -> None:
    (rig.node_logs / "dir").mkdir()
    (rig.node_logs / "dir/<f>").write_text("content")
    os.symlink("/etc/passwd", rig.node_logs / "evil")
    async with rig.session("admin.pem") as session:
        listing = await fetch(session, "/logs/")
        assert listing[0] == 200 and '<a href="dir/">dir/</a>' in listing[1]
        assert '<a href="%3Cf%3E">&lt;f&gt;</a>' in (await fetch(session, "/logs/dir"))[1]
        assert await fetch(session, "/logs/dir/%3Cf%3E") == (200, "content")
        for path in ("/logs/evil", "/logs/none", "/logs/%2e%2e/ca.pem", "/logs/..%2fca.pem"):
            assert (await fetch(session, path))[0] == 404, path


async def test_streams_without_a_container_or_upgrade(rig: Rig) -> None:
    rig.pods.known = [pod(state={"waiting": {}})]
    async with rig.session("admin.pem") as session:
        assert await fetch(session, "/exec/ns/p/c?command=x&output=1") == (500, 'container not found ("c")')
        assert await fetch(session, "/exec/ns/p/u2/c?command=x&output=1") == (404, "pod does not exist")
        assert (await fetch(session, "/portForward/ns/p"))[0] == 500
        rig.pods.known = [pod(**RUNNING)]
        assert await fetch(session, "/exec/ns/p/c?command=x") == (
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        )


# -- with containerd


def _setns(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def runtime_network(node_settings: Settings) -> Iterator[None]:
    """Enter the network namespace of the test's containerd, where its streaming server listens."""
    wanted = str(node_settings.paths.containerd_config).encode()
    found = [
        p for p in Path("/proc").glob("[0-9]*/cmdline") if wanted in p.read_bytes() and p.read_bytes().startswith(b"containerd")
    ]
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    target = os.open(found[0].parent / "ns/net", os.O_RDONLY)
    _setns(target)
    yield
    _setns(own)
    os.close(own)
    os.close(target)


class Streams:
    """A running container, the kubelet's server before it, and an API server that only forwards."""

    def __init__(self) -> None:
        self.pods = FakePods()
        self.kubelet = ""
        self.api = ""
        self.port = 0
        self.upgrades: list[str] = []
        self.server: KubeletServer

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """As much of an API server as kubectl exec and port-forward want."""
        path = request.path
        if path == "/api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        if path == "/api/v1":
            pods = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
            return web.json_response({"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]})
        if path == "/api/v1/namespaces/default/pods/p":
            return web.json_response(self.pods.known[0])
        prefix, _, what = path.rpartition("/")
        if prefix == "/api/v1/namespaces/default/pods/p" and what in ("exec", "attach", "portforward"):
            self.upgrades.append(f"{request.method} {request.headers['Upgrade']}")
            query = request.rel_url.raw_query_string
            for theirs, ours in (
                ("stdin=true", "input=1"),
                ("stdout=true", "output=1"),
                ("stderr=true", "error=1"),
                ("tty=true", "tty=1"),
            ):
                query = query.replace(theirs, ours)
            target = {"exec": "exec/default/p/c", "attach": "attach/default/p/c", "portforward": "portForward/default/p"}[what]
            return await forward_upgrade(request, "127.0.0.1", self.port, f"/{target}?{query}")
        return web.Response(status=404)

    async def kubectl(self, binary: str, *args: str, stdin: bytes = b"") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            binary,
            f"--server={self.api}",
            f"--cache-dir={tempfile.gettempdir()}/k3sd-kubectl-{os.getpid()}",
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        )
        out, err = await asyncio.wait_for(process.communicate(stdin), 30)
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def streams(node_settings: Settings, runtime_network: None, tmp_path: Path) -> AsyncIterator[Streams]:
    streams = Streams()
    async with CRIClient(node_settings.containerd_socket) as cri:
        sandbox_config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(name=tmp_path.name, uid=tmp_path.name, namespace="default"),
            log_directory=str(tmp_path),
            linux=messages.LinuxPodSandboxConfig(cgroup_parent=f"/k3sdtest/{tmp_path.name}"),
        )
        sandbox = await cri.run_pod_sandbox(sandbox_config)
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name="c"),
            image=messages.ImageSpec(image=BUSYBOX_IMAGE),
            command=["sh", "-c", "while true; do nc -l -p 8080 -e echo hello from the pod; done"],
            log_path="c.log",
            linux=messages.LinuxContainerConfig(),
        )
        container = await cri.create_container(sandbox, config, sandbox_config)
        await cri.start_container(container)
        known = pod(state={"running": {}}, containerID=f"containerd://{container}")
        known["metadata"]["namespace"] = "default"
        known["spec"]["containers"][0]["ports"] = [{"containerPort": 8080}]
        streams.pods.known = [known]
        streams.pods.sandboxes["u"] = sandbox
        events = DirectoryEvents()
        reader = LogReader(events)
        server = streams.server = KubeletServer(streams.pods, cri, FakeAPI(), "n1", reader)  # type: ignore[arg-type]
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        streams.port = sock.getsockname()[1]
        streams.kubelet = f"http://127.0.0.1:{streams.port}"
        await server.start(sock, None)
        handler = web.Server(streams.serve, access_log=None)  # type: ignore[arg-type]
        api = await asyncio.get_running_loop().create_server(handler, "127.0.0.1", 0)
        streams.api = f"http://127.0.0.1:{api.sockets[0].getsockname()[1]}"
        yield streams
        api.close()
        await handler.shutdown(1)
        await server.stop()
        reader.close()
        events.close()
        await cri.stop_pod_sandbox(sandbox)
        await cri.remove_pod_sandbox(sandbox)
    shutil.rmtree(f"{tempfile.gettempdir()}/k3sd-kubectl-{os.getpid()}", ignore_errors=True)


@pytest.mark.root
async def test_exec_over_the_old_websocket(streams: Streams) -> None:
    target = "/exec/default/p/c?command=sh&command=-c&command=echo+out;+echo+err+%3E%262;+exit+3&output=1&error=1"
    async with (
        aiohttp.ClientSession(streams.kubelet) as session,
        session.ws_connect(target, protocols=["v4.channel.k8s.io"]) as ws,
    ):
        assert ws.protocol == "v4.channel.k8s.io"
        got: dict[int, bytes] = {}
        async for message in ws:
            got[message.data[0]] = got.get(message.data[0], b"") + message.data[1:]
    assert got[1] == b"out\n" and got[2] == b"err\n"
    status = json.loads(got[3])
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


@pytest.mark.root
async def test_a_refused_protocol_is_an_ordinary_answer(streams: Streams) -> None:
    async with aiohttp.ClientSession(streams.kubelet) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect("/exec/default/p/c?command=true&output=1", protocols=["v9.channel.k8s.io"])
        assert 400 <= caught.value.status < 500
        # The connection is still one of ours.
        async with session.get("/healthz") as response:
            assert await response.text() == "ok"


@pytest.mark.root
async def test_exec_v5_ends_input_and_keeps_the_order_of_output(streams: Streams) -> None:
    script = "cat; echo err >&2; exit 3"
    target = URL.build(
        path="/exec/default/p/c",
        query=[("command", c) for c in ("sh", "-c", script)] + [("input", "1"), ("output", "1"), ("error", "1")],
    )
    data = os.urandom(300_000)
    async with (
        aiohttp.ClientSession(streams.kubelet) as session,
        session.ws_connect(target, protocols=["v5.channel.k8s.io", "v4.channel.k8s.io"]) as ws,
    ):
        assert ws.protocol == "v5.channel.k8s.io"
        for start in range(0, len(data), 32768):
            await ws.send_bytes(b"\0" + data[start : start + 32768])
        await ws.send_bytes(b"\xff\0")
        got: dict[int, bytes] = {}
        async with asyncio.timeout(20):
            async for message in ws:
                got[message.data[0]] = got.get(message.data[0], b"") + message.data[1:]
        assert ws.close_code == 1000
    assert got[1] == data and got[2] == b"err\n"
    assert json.loads(got[3])["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]


@pytest.mark.root
async def test_exec_v5_with_a_terminal(streams: Streams) -> None:
    target = "/exec/default/p/c?command=sh&input=1&output=1&tty=1"
    async with (
        aiohttp.ClientSession(streams.kubelet) as session,
        session.ws_connect(target, protocols=["v5.channel.k8s.io"]) as ws,
    ):
        await ws.send_bytes(b'\x04{"Width":123,"Height":45}')
        await ws.send_bytes(b"\0stty size; exit\n")
        out = b""
        async with asyncio.timeout(20):
            async for message in ws:
                if message.data[0] == 1:
                    out += message.data[1:]
    assert b"45 123" in out


@pytest.mark.root
async def test_a_v5_client_that_leaves_ends_the_runtimes_stream(streams: Streams) -> None:
    target = "/exec/default/p/c?command=cat&input=1&output=1"
    async with aiohttp.ClientSession(streams.kubelet) as session:
        async with session.ws_connect(target, protocols=["v5.channel.k8s.io"]) as ws:
            await ws.send_bytes(b"\0x")
            assert (await ws.receive_bytes())[1:] == b"x"
        async with asyncio.timeout(5):
            while [task for task in asyncio.all_tasks() if task.get_name().startswith("exec ")]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def first_upgrade(program: str) -> str:
    """Today's kubectl gets what it asks for first, an old one what it knows."""
    return "GET websocket" if kubectl.version(program) >= kubectl.SPEAKS_WEBSOCKET else "POST SPDY/3.1"


@pytest.mark.root
@pytest.mark.parametrize("program", kubectl.find(), ids=kubectl.name)
async def test_kubectl_exec(streams: Streams, program: str) -> None:
    assert await streams.kubectl(program, "exec", "p", "--", "echo", "hi") == (0, "hi\n", "")
    assert streams.upgrades == [first_upgrade(program)]
    # A megabyte there and back, and the end of input is heard.
    data = os.urandom(512 * 1024).hex().encode()
    code, out, err = await streams.kubectl(program, "exec", "-i", "p", "--", "cat", stdin=data)
    assert (code, out, err) == (0, data.decode(), "")
    code, _, err = await streams.kubectl(program, "exec", "p", "--", "sh", "-c", "exit 7")
    assert (code, err) == (7, "command terminated with exit code 7\n")


@pytest.mark.root
@pytest.mark.parametrize("program", kubectl.find(), ids=kubectl.name)
async def test_kubectl_port_forward(streams: Streams, program: str) -> None:
    process = await asyncio.create_subprocess_exec(
        program,
        f"--server={streams.api}",
        "port-forward",
        "p",
        ":8080",
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        port = int(line.split("127.0.0.1:")[1].split()[0])
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 10) == b"hello from the pod\n"
            writer.close()
        assert streams.upgrades == [first_upgrade(program)]
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.root
async def test_stopping_the_server_ends_its_tunnels(streams: Streams) -> None:
    target = "/exec/default/p/c?command=sleep&command=1000&output=1"
    async with (
        aiohttp.ClientSession(streams.kubelet) as session,
        session.ws_connect(target, protocols=["v4.channel.k8s.io"]) as ws,
    ):
        await streams.server.stop()
        async with asyncio.timeout(5):
            # Empty frames that announce the channels come first.
            assert [message async for message in ws if len(message.data) > 1] == []
