"""``python3 -m bench.floor SOCKET IMAGE PODS``: seconds until containerd has started so many pods, asked by nobody but us.

What any kubelet pays on this machine: a sandbox with its network and one container for each pod, a few at once, nothing else.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid

from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.client import CRIClient

AT_ONCE = 4
"""More keep two cores no busier."""


async def start(cri: CRIClient, image: str, sandboxes: list[str]) -> None:
    uid = str(uuid.uuid4())
    pod = messages.PodSandboxConfig(
        metadata=messages.PodSandboxMetadata(name=f"floor-{uid}", uid=uid, namespace="floor"), hostname="floor"
    )
    pod.linux.cgroup_parent = f"/k3sd-floor/{uid}"
    sandboxes.append(await cri.run_pod_sandbox(pod))
    container = messages.ContainerConfig(
        metadata=messages.ContainerMetadata(name="c"), image=messages.ImageSpec(image=image), command=["sleep", "3600"]
    )
    await cri.start_container(await cri.create_container(sandboxes[-1], container, pod))


async def measure(socket: str, image: str, pods: int) -> float:
    """Seconds; what was started is removed again."""
    sandboxes: list[str] = []
    slots = asyncio.Semaphore(AT_ONCE)
    async with CRIClient(socket) as cri:

        async def one() -> None:
            async with slots:
                await start(cri, image, sandboxes)

        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(pods)))
        took = time.monotonic() - began
        for sandbox in sandboxes:
            await cri.stop_pod_sandbox(sandbox)
            await cri.remove_pod_sandbox(sandbox)
    return took


if __name__ == "__main__":
    print(asyncio.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
