"""What the runtime says about pods: sandboxes and containers as small records, read from and written to CRI labels.

Labels and annotations are upstream's (``pkg/kubelet/kuberuntime/labels.go``): a pod started by one kubelet is taken over by
another, ours or upstream's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from k3sd.kubelet import podinfo
from k3sd.kubelet.cri.messages import ContainerState, NamespaceMode, SandboxState
from k3sd.kubelet.podinfo import Obj

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"
PRE_STOP = "io.kubernetes.container.preStopHandler"
PORTS = "io.kubernetes.container.ports"
DELETION_GRACE = "io.kubernetes.pod.deletionGracePeriod"
TERMINATION_GRACE = "io.kubernetes.pod.terminationGracePeriod"


@dataclass(slots=True)
class ContainerRecord:
    """One container instance. Times are nanoseconds since the epoch, 0 for not yet."""

    id: str
    name: str
    sandbox_id: str = ""
    state: ContainerState = ContainerState.UNKNOWN
    restart_count: int = 0
    hash: str = ""
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    log_path: str = ""
    user: tuple[int, int, tuple[int, ...]] | None = None
    stop_signal: str = ""

    @property
    def is_running(self) -> bool:
        return self.state == ContainerState.RUNNING

    @property
    def is_failed(self) -> bool:
        """``isInitContainerFailed``."""
        return (self.state == ContainerState.EXITED and self.exit_code != 0) or self.state == ContainerState.UNKNOWN


@dataclass(slots=True)
class SandboxRecord:
    """One sandbox instance; ``ips`` is empty for a pod in the host's network."""

    id: str
    attempt: int = 0
    is_ready: bool = False
    created_at: int = 0
    ips: tuple[str, ...] = ()
    is_host_network: bool = False


@dataclass(slots=True)
class PodState:
    """Everything the runtime holds of one pod, newest first."""

    uid: str
    name: str = ""
    namespace: str = ""
    sandboxes: list[SandboxRecord] = field(default_factory=list)
    containers: list[ContainerRecord] = field(default_factory=list)

    def latest(self, container: str) -> ContainerRecord | None:
        return next((c for c in self.containers if c.name == container), None)

    def running(self) -> list[ContainerRecord]:
        return [c for c in self.containers if c.is_running]

    @property
    def sandbox(self) -> SandboxRecord | None:
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ips(self) -> tuple[str, ...]:
        return next((s.ips for s in self.sandboxes if s.is_ready), ())

    @property
    def last_ips(self) -> tuple[str, ...]:
        """What the newest sandbox with addresses has or had."""
        return next((s.ips for s in self.sandboxes if s.ips), ())

    def put(self, record: ContainerRecord) -> None:
        """Add or replace by id, keeping the newest first."""
        self.containers = [c for c in self.containers if c.id != record.id] + [record]
        self.containers.sort(key=lambda c: c.created_at, reverse=True)

    def put_sandbox(self, record: SandboxRecord) -> None:
        self.sandboxes = [s for s in self.sandboxes if s.id != record.id] + [record]
        self.sandboxes.sort(key=lambda s: s.created_at, reverse=True)


def container_hash(container: Obj) -> str:
    """``HashContainer``: a running container is replaced when name or image change, and only then."""
    text = json.dumps(
        {"image": container.get("image", ""), "name": container["name"]}, separators=(",", ":"), ensure_ascii=False
    )
    # Upstream hashes Go's debug print of the JSON bytes.
    dump = "([]uint8)[" + " ".join(str(b) for b in text.encode()) + "]"
    value = 0x811C9DC5
    for byte in dump.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{value:x}"


def pod_labels(pod: Obj) -> dict[str, str]:
    """Labels of a sandbox: the pod's own and who it is."""
    return {**(pod["metadata"].get("labels") or {}), **_identity(pod)}


def _identity(pod: Obj) -> dict[str, str]:
    return {POD_NAME: podinfo.name(pod), POD_NAMESPACE: podinfo.namespace(pod), POD_UID: podinfo.uid(pod)}


def container_labels(pod: Obj, container: Obj) -> dict[str, str]:
    return {**_identity(pod), CONTAINER_NAME: container["name"]}


def container_annotations(pod: Obj, container: Obj, restart_count: int) -> dict[str, str]:
    """What a kubelet needs to know of a container whose pod is gone from the API."""
    out = {
        HASH: container_hash(container),
        RESTART_COUNT: str(restart_count),
        TERMINATION_PATH: str(container.get("terminationMessagePath") or ""),
        TERMINATION_POLICY: str(container.get("terminationMessagePolicy") or ""),
    }
    if (grace := pod["metadata"].get("deletionGracePeriodSeconds")) is not None:
        out[DELETION_GRACE] = str(grace)
    if (grace := pod["spec"].get("terminationGracePeriodSeconds")) is not None:
        out[TERMINATION_GRACE] = str(grace)
    if pre_stop := (container.get("lifecycle") or {}).get("preStop"):
        out[PRE_STOP] = json.dumps(pre_stop, separators=(",", ":"))
    if container.get("ports"):
        out[PORTS] = json.dumps(container["ports"], separators=(",", ":"))
    return out


def container_record(status: Any, sandbox_id: str) -> ContainerRecord:
    """A record from a CRI ContainerStatus. Messages are added by who may read files."""
    exited = status.state == ContainerState.EXITED
    user = status.user.linux if status.HasField("user") and status.user.HasField("linux") else None
    count = status.annotations.get(RESTART_COUNT, "")
    return ContainerRecord(
        id=status.id,
        name=status.labels.get(CONTAINER_NAME, status.metadata.name),
        sandbox_id=sandbox_id,
        state=ContainerState(status.state),
        restart_count=int(count) if count.isdigit() else int(status.metadata.attempt),
        hash=status.annotations.get(HASH, ""),
        created_at=status.created_at,
        started_at=status.started_at if status.state != ContainerState.CREATED else 0,
        finished_at=status.finished_at if exited else 0,
        exit_code=status.exit_code if exited else 0,
        reason=status.reason if exited else "",
        message=status.message if exited else "",
        image=status.image.image,
        image_ref=status.image_ref,
        log_path=status.log_path,
        user=(user.uid, user.gid, tuple(user.supplemental_groups)) if user is not None else None,
    )


def sandbox_record(status: Any) -> SandboxRecord:
    """A record from a CRI PodSandboxStatus."""
    host = status.linux.namespaces.options.network == NamespaceMode.NODE
    addresses = [status.network.ip, *(a.ip for a in status.network.additional_ips)]
    return SandboxRecord(
        id=status.id,
        attempt=int(status.metadata.attempt),
        is_ready=status.state == SandboxState.READY,
        created_at=status.created_at,
        ips=() if host else tuple(dict.fromkeys(a for a in addresses if a)),
        is_host_network=host,
    )
