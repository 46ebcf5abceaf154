"""Keeping the node's disks usable: below the threshold images go first, then pods. K3s's thresholds.

Memory is left to the kernel and the OOM scores, as in K3s, whose ``evictionHard`` names only disks. Source: Kubernetes 1.36
``pkg/kubelet/eviction``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from k3sd.apimachinery import timefmt
from k3sd.kubelet import podinfo
from k3sd.kubelet.nodeobject import Health
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.status import Verdict

log = logging.getLogger(__name__)

IMAGE_GC_FREE_PERCENT = 15
"""Below this unused images are removed, long before pods suffer."""
IMAGE_GC_SECONDS = 300.0
MIN_FREE_PERCENT = 5
TRANSITION_SECONDS = 300.0
PID_RESERVE_PERCENT = 5
_QOS_ORDER = {"BestEffort": 0, "Burstable": 1, "Guaranteed": 2}


def free_percent(path: Path) -> int:
    """Free space of the filesystem that holds ``path`` or its nearest existing parent; the scarcer of bytes and inodes."""
    place = next(p for p in (path, *path.parents) if p.exists())
    info = os.statvfs(place)
    space = info.f_bavail * 100 // max(info.f_blocks, 1)
    return min(space, info.f_favail * 100 // info.f_files) if info.f_files else space


def rank(pods: Sequence[Obj]) -> list[Obj]:
    """Whom to evict first: low priority, then weak QoS, then young. Critical pods never."""

    def key(pod: Obj) -> tuple[int, int, float]:
        started = (pod.get("status") or {}).get("startTime")
        age = timefmt.parse(started) if started else time.time()
        return int(pod["spec"].get("priority") or 0), _QOS_ORDER[podinfo.qos_class(pod)], -age

    return sorted((p for p in pods if not podinfo.is_critical(p)), key=key)


class EvictionManager:
    """``look`` is called by the node's heartbeat; what it starts runs on its own."""

    def __init__(
        self,
        paths: Sequence[Path],
        reclaim: Callable[[], None],
        evict: Callable[[Verdict], bool],
        *,
        measure: Callable[[Path], int] = free_percent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``reclaim`` begins to remove unused images; ``evict`` ends one pod and says whether there was one."""
        self._paths = paths
        self._reclaim = reclaim
        self._evict = evict
        self._measure = measure
        self._clock = clock
        self._pressed_at: float | None = None
        self._reclaimed = False
        self._images_at: float | None = None

    def look(self) -> Health:
        """The pressures of this moment; a pressure stays on record for five minutes after it ended."""
        now = self._clock()
        free = min(self._measure(path) for path in self._paths)
        if free < MIN_FREE_PERCENT:
            self._relieve(free)
            self._pressed_at = now
        elif free < IMAGE_GC_FREE_PERCENT:
            if self._images_at is None or now - self._images_at >= IMAGE_GC_SECONDS:
                self._images_at = now
                self._reclaim()
        else:
            self._reclaimed = False
        pressed = self._pressed_at is not None and now - self._pressed_at < TRANSITION_SECONDS
        return Health(disk_pressure=pressed, pid_pressure=_pids_short())

    def _relieve(self, free: int) -> None:
        if not self._reclaimed:
            self._reclaimed = True
            log.warning("only %d %% of the disk is free: removing unused images", free)
            self._reclaim()
            return
        message = "The node was low on resource: ephemeral-storage. "
        message += f"Threshold quantity: {MIN_FREE_PERCENT}%, available: {free}%. "
        if not self._evict(Verdict("Evicted", message)):
            log.warning("only %d %% of the disk is free, and there is no pod that may be evicted", free)


def _pids_short() -> bool:
    try:
        limit = int(Path("/proc/sys/kernel/pid_max").read_text())
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return False
    return running > limit * (100 - PID_RESERVE_PERCENT) // 100
