"""The picture of the runtime's containers, against a runtime of records; termination messages from files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from k3sd.kubelet import pleg
from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.client import ContainerEvent, CRIError
from k3sd.kubelet.cri.messages import ContainerState
from k3sd.kubelet.pleg import PodCache


class FakeCRI:
    """One sandbox and its containers. ``lag`` is how many more reads show an ended container as running."""

    def __init__(self) -> None:
        self.containers: dict[str, int] = {}
        self.sandbox_ready = True
        self.lag = 0
        self.reads = 0

    async def list_pod_sandbox(self, labels: Any = None) -> list[Any]:
        labels = {"io.kubernetes.pod.uid": "u"}
        return [messages.PodSandbox(id="s", state=0 if self.sandbox_ready else 1, labels=labels)]

    async def list_containers(self, labels: Any = None) -> list[Any]:
        return [
            messages.Container(id=i, pod_sandbox_id="s", state=s, labels={"io.kubernetes.pod.uid": "u"})
            for i, s in self.containers.items()
        ]

    async def pod_sandbox_status(self, id_: str) -> Any:
        network = messages.PodSandboxNetworkStatus(ip="10.42.0.9" if self.sandbox_ready else "")
        metadata = messages.PodSandboxMetadata(name="p", namespace="ns")
        status = messages.PodSandboxStatus(id=id_, state=0 if self.sandbox_ready else 1, network=network, metadata=metadata)
        return messages.PodSandboxStatusResponse(status=status)

    async def container_status(self, id_: str) -> Any:
        self.reads += 1
        if id_ not in self.containers:
            raise CRIError("ContainerStatus", "NotFound", "no such container")
        state = self.containers[id_]
        if state == ContainerState.EXITED and self.lag:
            self.lag -= 1
            state = ContainerState.RUNNING
        metadata = messages.ContainerMetadata(name=id_)
        return messages.ContainerStatusResponse(status=messages.ContainerStatus(id=id_, state=state, metadata=metadata))


@pytest.fixture
async def world() -> AsyncIterator[tuple[FakeCRI, PodCache, list[str]]]:
    cri = FakeCRI()
    cri.containers = {"a": ContainerState.RUNNING, "b": ContainerState.RUNNING}
    changes: list[str] = []
    cache = PodCache(cri, changes.append)  # type: ignore[arg-type]
    await cache.relist()
    changes.clear()
    cri.reads = 0
    yield cri, cache, changes
    await cache.stop()


World = tuple[FakeCRI, PodCache, list[str]]


async def test_a_list_reads_only_what_differs(world: World) -> None:
    cri, cache, changes = world
    state = cache.get("u")
    assert (state.name, state.namespace, state.ips) == ("p", "ns", ("10.42.0.9",))
    assert {c.name for c in state.running()} == {"a", "b"}
    await cache.relist()
    assert (cri.reads, changes) == (0, [])
    cri.containers["b"] = ContainerState.EXITED
    await cache.relist()
    assert (cri.reads, changes) == (1, ["u"])
    del cri.containers["b"]
    await cache.relist()
    assert cache.find("b") is None


async def test_an_exit_is_read_until_the_runtime_agrees(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cri, cache, changes = world
    monkeypatch.setattr(pleg, "_SETTLE_DELAYS", (0.0,) * 6)
    cri.containers["a"] = ContainerState.EXITED
    cri.lag = 3
    await cache._handle(ContainerEvent("exited", "a", 1))
    await cache._settling["a"]
    record = cache.find("a")
    assert record is not None and record.state == ContainerState.EXITED
    assert changes == ["u"]


async def test_events_of_strangers_are_nobodys_business(world: World) -> None:
    cri, cache, changes = world
    await cache._handle(ContainerEvent("exited", "stranger", 1))
    assert (cri.reads, changes) == (0, [])
    cache.expect("u", "stranger")
    cri.containers["stranger"] = ContainerState.EXITED
    await cache._handle(ContainerEvent("exited", "stranger", 1))
    await cache._settling["stranger"]
    assert changes == ["u"]


async def test_a_dead_sandbox_is_seen(world: World) -> None:
    cri, cache, _ = world
    cri.sandbox_ready = False
    await cache._handle(ContainerEvent("exited", "s"))
    await cache._settling["s"]
    sandbox = cache.get("u").sandbox
    assert sandbox is not None and not sandbox.is_ready
    assert (cache.get("u").ips, cache.get("u").last_ips) == ((), ("10.42.0.9",)), "an ended pod's address stays on record"


def status(tmp_path: Path, file: bytes | None, log: bytes, policy: str = "File", code: int = 1, message: str = "") -> Any:
    (tmp_path / "log").write_bytes(log)
    if file is not None:
        (tmp_path / "message").write_bytes(file)
    return messages.ContainerStatus(
        exit_code=code,
        message=message,
        log_path=str(tmp_path / "log"),
        mounts=[messages.Mount(container_path="/dev/termination-log", host_path=str(tmp_path / "message"))],
        annotations={
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": policy,
        },
    )


LOG = b"2026-01-01T00:00:00.1Z stdout P par\n2026-01-01T00:00:00.2Z stdout F tial\n2026-01-01T00:00:00.3Z stderr F oops\n"
FALLBACK = "FallbackToLogsOnError"


@pytest.mark.parametrize(
    ("file", "policy", "code", "message", "expected"),
    [
        (b"said", "File", 0, "", "said"),
        (b"", "File", 1, "", ""),
        (None, "File", 1, "", ""),
        (b"", FALLBACK, 1, "", "partial\noops\n"),
        (b"", FALLBACK, 0, "", ""),
        (b"said", FALLBACK, 1, "", "said"),
        (b"said", "File", 1, "runtime", "runtime: said"),
        (b"x" * 5000, "File", 1, "", "x" * 4096),
    ],
)
def test_termination_message(tmp_path: Path, file: bytes | None, policy: str, code: int, message: str, expected: str) -> None:
    assert pleg._termination_message(status(tmp_path, file, LOG, policy, code, message)) == expected


def test_log_as_message_is_bounded(tmp_path: Path) -> None:
    line = b"2026-01-01T00:00:00.000000001Z stdout F " + b"y" * 99 + b"\n"
    text = pleg._termination_message(status(tmp_path, b"", line * 500, FALLBACK))
    assert len(text) == 2048 and set(text) == {"y", "\n"}
