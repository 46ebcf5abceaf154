"""This machine's architecture, and where the kubelet keeps things of a pod on it.

The layout is upstream's, so either kubelet finds the other's."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from k3sd.config.paths import CONTAINER_LOGS, KUBELET_ROOT, POD_LOGS
from k3sd.kubelet import podinfo
from k3sd.kubelet.podinfo import Obj

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}


def architecture(machine: str = "") -> str:
    """Go's name of this machine's architecture (``kubernetes.io/arch``)."""
    machine = machine or os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


@dataclass(frozen=True, slots=True)
class Layout:
    """``root`` holds pod directories and volumes; logs are in two places, the second one links to the first."""

    root: Path = KUBELET_ROOT
    pod_logs: Path = POD_LOGS
    container_logs: Path = CONTAINER_LOGS

    def pod_dir(self, pod_uid: str) -> Path:
        return self.root / "pods" / pod_uid

    def container_dir(self, pod_uid: str, container: str) -> Path:
        return self.pod_dir(pod_uid) / "containers" / container

    def log_dir(self, pod: Obj) -> Path:
        """``<namespace>_<name>_<uid>``."""
        return self.pod_logs / f"{podinfo.namespace(pod)}_{podinfo.name(pod)}_{podinfo.uid(pod)}"

    def legacy_log_link(self, pod: Obj, container: str, container_id: str) -> Path:
        """``<pod>_<namespace>_<container>-<id>.log``, where log shippers look."""
        name = f"{podinfo.name(pod)}_{podinfo.namespace(pod)}_{container}"
        return self.container_logs / f"{name[: 255 - len(container_id) - 5]}-{container_id}.log"


def next_restart_count(log_dir: Path) -> int:
    """One more than the last ``<n>.log`` (rotated ones included): the count survives a runtime that lost its containers
    (``calcRestartCountByLogDir``)."""
    if not log_dir.is_dir():
        return 0
    found = (re.match(r"(\d+)\.log(\.|$)", entry.name) for entry in log_dir.iterdir())
    return max((int(m[1]) + 1 for m in found if m), default=0)
