"""What pod workers share, and what they ask of the parts that others of this package make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from k3sd.kubelet import backoff
from k3sd.kubelet.cgroups import CgroupManager
from k3sd.kubelet.images import ImageManager
from k3sd.kubelet.layout import Layout
from k3sd.kubelet.pleg import PodCache
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.runtime import PodRuntime, Recorder
from k3sd.kubelet.status import Verdict
from k3sd.kubelet.statuswriter import StatusWriter


class Volumes(Protocol):
    """What a pod needs before its first container and gives back after its last. ``mount`` and ``changed`` raise StartError."""

    async def mount(self, pod: Obj) -> None: ...

    async def changed(self, pod: Obj) -> None: ...

    async def unmount(self, uid: str) -> None: ...

    async def remove(self, uid: str) -> None: ...


class Probes(Protocol):
    """As ``probes.ProbeManager``; results are by container id."""

    def start(
        self,
        pod: Obj,
        container: Obj,
        container_id: str,
        started_at: float,
        pod_ip: str,
        *,
        was_started: bool = False,
        was_ready: bool = False,
    ) -> None: ...

    def started(self, container_id: str) -> bool: ...

    def ready(self, container_id: str) -> bool: ...

    def stop(self, container_id: str) -> None: ...

    def pod_terminating(self, uid: str) -> None: ...

    def stop_pod(self, uid: str) -> None: ...


@dataclass(slots=True)
class Services:
    """What workers share."""

    runtime: PodRuntime
    cache: PodCache
    statuses: StatusWriter
    images: ImageManager
    probes: Probes
    volumes: Volumes
    cgroups: CgroupManager
    recorder: Recorder
    layout: Layout
    host_ips: Sequence[str]
    admit: Callable[[Obj], Verdict | None]
    limit_slice: Callable[[Obj], Awaitable[None]]
    """With systemd's cgroups: give the pod's slice its limits, once there is a sandbox in it."""
    check_resize: Callable[[Obj], Verdict | None]
    holders: Callable[[], list[Obj]]
    """Pods that hold resources of the node now."""
    network_ready: Callable[[], str]
    restarts: backoff.Backoff
