"""The CRI client and the event stream against a real containerd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from k3sd.config.settings import Settings
from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.client import ContainerEvent, CRIClient, CRIError
from tests.component.kubelet.conftest import BUSYBOX_IMAGE

pytestmark = pytest.mark.root


@pytest.fixture
async def cri(node_settings: Settings) -> AsyncIterator[CRIClient]:
    async with CRIClient(node_settings.containerd_socket) as client:
        await client.version(10, wait_for_ready=True)
        yield client


def _sandbox_config(name: str) -> object:
    return messages.PodSandboxConfig(
        metadata=messages.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        hostname=name,
        log_directory="/tmp",
        labels={"io.kubernetes.pod.uid": f"uid-{name}"},
        linux=messages.LinuxPodSandboxConfig(cgroup_parent=f"/k3sdtest/{name}"),
    )


async def test_cri_container_lives_and_its_exit_is_an_event(cri: CRIClient) -> None:
    events: asyncio.Queue[ContainerEvent] = asyncio.Queue()

    async def follow() -> None:
        async for event in cri.get_container_events():
            events.put_nowait(event)

    follower = asyncio.create_task(follow())
    async with asyncio.timeout(30):
        assert (await events.get()).type == "resync"
        config = _sandbox_config("cri1")
        sandbox = await cri.run_pod_sandbox(config)
        status = await cri.pod_sandbox_status(sandbox)
        assert status.status.network.ip.startswith("10.234.")
        container = await cri.create_container(
            sandbox,
            messages.ContainerConfig(
                metadata=messages.ContainerMetadata(name="c"),
                image=messages.ImageSpec(image=BUSYBOX_IMAGE),
                command=["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"],
                log_path="cri1.log",
                linux=messages.LinuxContainerConfig(),
            ),
            config,
        )
        await cri.start_container(container)
        answer = await cri.exec_sync(container, ["sh", "-c", "echo out; echo err >&2; exit 3"], 5)
        assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
        assert (await cri.exec(container, ["sh"])).startswith("http://127.0.0.1:")
        await cri.stop_container(container, 5)
        while (event := await events.get()) != ContainerEvent("exited", container, 7):
            assert event.container_id in (sandbox, container)
        assert (await cri.container_status(container)).status.state == messages.ContainerState.EXITED
        assert [c.id for c in await cri.list_containers({"io.kubernetes.pod.uid": "other"})] == []
        await cri.stop_pod_sandbox(sandbox)
        await cri.remove_pod_sandbox(sandbox)
    follower.cancel()


async def test_cri_errors_carry_the_runtimes_code(cri: CRIClient) -> None:
    with pytest.raises(CRIError) as caught:
        await cri.container_status("0123456789")
    assert caught.value.not_found
    assert str(caught.value).startswith("rpc error: code = NotFound desc = ")


async def test_cri_images(cri: CRIClient) -> None:
    image = await cri.image_status(BUSYBOX_IMAGE)
    assert image is not None and list(image.repo_tags) == [BUSYBOX_IMAGE]
    assert await cri.image_status("docker.io/library/absent:1") is None
    assert BUSYBOX_IMAGE in [tag for i in await cri.list_images() for tag in i.repo_tags]


async def test_cri_absent_runtime_is_unavailable() -> None:
    async with CRIClient("/nonexistent/containerd.sock") as client:
        with pytest.raises(CRIError) as caught:
            await client.version(1)
    assert caught.value.unavailable
