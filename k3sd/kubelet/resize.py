"""In-place resize: bringing running containers to the resources their spec asks for now.

What is in force is kept by container id; after a restart of the kubelet it is read from the pod's status, which is where the
last one wrote it. Source: Kubernetes 1.36 ``pkg/kubelet/allocation``, ``kuberuntime_manager.go`` (``doPodResizeAction``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from k3sd.apimachinery import quantity
from k3sd.kubelet import podinfo
from k3sd.kubelet.cgroups import CgroupManager, Limits, container_limits, pod_limits
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.runtime import PodRuntime
from k3sd.kubelet.state import ContainerRecord, PodState
from k3sd.kubelet.status import Verdict
from k3sd.lib.jsonvalue import clone


@dataclass(frozen=True, slots=True)
class Note:
    """An event to record."""

    type: str
    reason: str
    message: str


class Resizer:
    """One a pod. ``in_force`` maps a container id to its resources, ``allocated`` a container's name to what was granted."""

    def __init__(self, pod: Obj) -> None:
        status = pod.get("status") or {}
        running = [
            entry
            for key in ("containerStatuses", "initContainerStatuses")
            for entry in status.get(key) or ()
            if entry.get("containerID") and "running" in (entry.get("state") or {})
        ]
        self.in_force: dict[str, Obj] = {
            str(entry["containerID"]).removeprefix("containerd://"): entry["resources"]
            for entry in running
            if "resources" in entry
        }
        self.allocated: dict[str, Obj] = {}
        self._granted: dict[str, Obj] = {}
        self._pending: Verdict | None = None
        self._pending_generation = 0
        self._progress: int | None = None
        """The generation whose resources are not in force everywhere yet."""
        self._error = ""
        self._limits: Limits | None = None
        """What the pod's cgroup was last given."""

    @property
    def is_deferred(self) -> bool:
        return self._pending is not None and self._pending.reason == "Deferred"

    def conditions(self) -> list[Obj]:
        """PodResizePending while the node will not grant it, PodResizeInProgress from the grant until it is in force."""
        out: list[Obj] = []
        if (pending := self._pending) is not None:
            out.append(_condition("PodResizePending", self._pending_generation, pending.reason, pending.message))
        if self._progress is not None:
            out.append(_condition("PodResizeInProgress", self._progress, "Error" if self._error else "", self._error))
        return out

    def started(self, id_: str, container: Obj) -> None:
        """A container was started with what its spec said then, which need not be what it says now."""
        self.in_force.setdefault(id_, clone(container.get("resources") or {}))

    def effective(self, pod: Obj) -> Obj:
        """The pod with the resources that were granted: what is acted on (``UpdatePodFromAllocation``)."""
        if self._pending is None:
            return pod
        spec = dict(pod["spec"])
        for key in ("initContainers", "containers"):
            if key in spec:
                spec[key] = [self._with_granted(container) for container in spec[key]]
        return {**pod, "spec": spec}

    def _with_granted(self, container: Obj) -> Obj:
        return {**container, "resources": self._granted[container["name"]]}

    def restarts(self, pod: Obj, state: PodState) -> list[ContainerRecord]:
        """Running containers whose change of resources needs a restart (``resizePolicy``). ``pod`` is ``effective``."""
        found: list[ContainerRecord] = []
        for container, record in _running(pod, state):
            known, wanted = self.in_force.get(record.id), container.get("resources") or {}
            if known is None or _same(known, wanted):
                continue
            strict = {
                p["resourceName"] for p in container.get("resizePolicy") or () if p.get("restartPolicy") == "RestartContainer"
            }
            if strict & _changed(known, wanted):
                found.append(record)
        return found

    def allocate(self, pod: Obj, state: PodState, check: Callable[[Obj], Verdict | None]) -> list[Note]:
        """Grant what the spec asks for, unless the node refuses a change of it; see how far an earlier grant is.

        Call before each status that shows the pod's generation: with the generation goes that the resize is not over.
        """
        generation = int(pod["metadata"].get("generation") or 0)
        wanted: dict[str, Obj] = {c["name"]: c.get("resources") or {} for _, c in podinfo.all_containers(pod)}
        running = {record.name: self.in_force[record.id] for _, record in _running(pod, state) if record.id in self.in_force}
        for name, need in wanted.items():
            # What is new was admitted as it is; what another kubelet started has what it shows.
            self._granted.setdefault(name, running.get(name, need))
        notes: list[Note] = []
        before, since = self._pending, self._pending_generation
        is_changed = any(not _same(self._granted[name], need) for name, need in wanted.items())
        self._pending = check(pod) if is_changed else None
        if self._pending is not None:
            self._pending_generation = generation
            if (self._pending, generation) != (before, since):
                reason, text = self._pending.reason, self._pending.message
                notes.append(Note("Warning", f"Resize{reason}", _message(f"Pod resize {reason}", pod, generation, text)))
        else:
            self._granted = wanted
            if is_changed:
                self._progress, self._error = generation, ""
                notes.append(Note("Normal", "ResizeStarted", _message("Pod resize started", pod, generation)))
        self.allocated = {name: need.get("requests") or {} for name, need in self._granted.items()}
        if any(not _same(known, self._granted[name]) for name, known in running.items()):
            self._progress = generation if self._progress is None else self._progress
        elif self._progress is not None:
            done, self._progress, self._error = self._progress, None, ""
            notes.append(Note("Normal", "ResizeCompleted", _message("Pod resize completed", self.effective(pod), done)))
        return notes

    def failed(self, pod: Obj, error: str) -> list[Note]:
        """It did not get through."""
        if self._progress is None or self._error == error:
            return []
        self._error = error
        return [Note("Warning", "ResizeError", _message("Pod resize error", pod, self._progress, error))]

    async def widen(self, pod: Obj, cgroups: CgroupManager) -> None:
        """Before containers start: what they were granted may be more than the pod's cgroup was made for."""
        wanted = pod_limits(pod)
        if self._limits is None:
            # The cgroup was just made, for this spec.
            self._limits = wanted
        elif self._limits != wanted:
            await asyncio.to_thread(cgroups.widen_pod, pod, wanted)

    async def run(self, pod: Obj, state: PodState, runtime: PodRuntime, cgroups: CgroupManager) -> bool:
        """Update what differs: the pod's cgroup is widened before its containers and narrowed after them. Whether anything did.

        ``pod`` is ``effective``. Call ``widen`` before.
        Raises CRIError, and StartError where a memory limit is less than what is in use.
        """
        pending: list[tuple[str, Obj]] = []
        alive: set[str] = set()
        for container, record in _running(pod, state):
            alive.add(record.id)
            wanted = container.get("resources") or {}
            if not _same(self.in_force.setdefault(record.id, clone(wanted)), wanted):
                pending.append((record.id, container))
        for id_ in self.in_force.keys() - alive:
            del self.in_force[id_]
        limits = pod_limits(pod)
        if not pending and limits == self._limits:
            return False
        await self._check_usage(pod, pending, runtime)
        await asyncio.to_thread(cgroups.widen_pod, pod, limits)
        for id_, container in pending:
            await runtime.resize_container(pod, container, id_)
            self.in_force[id_] = clone(container.get("resources") or {})
        await asyncio.to_thread(cgroups.update_pod, pod)
        self._limits = limits
        return True

    async def _check_usage(self, pod: Obj, pending: list[tuple[str, Obj]], runtime: PodRuntime) -> None:
        """``validateMemoryResizeAction``: no limit below what is in use, before anything is changed."""
        errors: list[str] = []
        for id_, container in pending:
            wanted = container_limits(pod, container).memory
            before = container_limits(pod, {**container, "resources": self.in_force[id_]}).memory
            if wanted and (not before or wanted < before) and (used := await runtime.memory_usage(id_)) >= wanted:
                name = json.dumps(container["name"])
                errors.append(f"attempting to set container {name} memory limit ({wanted}) below current usage ({used})")
        if errors:
            raise StartError("ResizeError", errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")


def _condition(type_: str, generation: int, reason: str, message: str) -> Obj:
    out: Obj = {"type": type_, "status": "True"}
    if reason:
        out |= {"reason": reason, "message": message}
    return {**out, "observedGeneration": generation} if generation else out


def _message(prefix: str, pod: Obj, generation: int, error: str = "") -> str:
    """With the resources asked for, as upstream's events have them."""
    summary: Obj = {}
    for key in ("initContainers", "containers"):
        if containers := pod["spec"].get(key):
            summary[key] = [{"name": c["name"], "resources": _ordered(c.get("resources") or {})} for c in containers]
    summary["generation"] = generation
    if error:
        summary["error"] = error
    return f"{prefix}: {json.dumps(summary, separators=(',', ':'), ensure_ascii=False)}"


def _ordered(need: Obj) -> Obj:
    return {part: dict(sorted(need[part].items())) for part in ("limits", "requests") if need.get(part)}


def _running(pod: Obj, state: PodState) -> Iterator[tuple[Obj, ContainerRecord]]:
    for _, container in podinfo.all_containers(pod):
        record = state.latest(container["name"])
        if record is not None and record.is_running:
            yield container, record


def _changed(left: Obj, right: Obj) -> set[str]:
    """Names of the resources that differ."""
    names = {n for side in (left, right) for kind in ("requests", "limits") for n in side.get(kind) or {}}

    def part(side: Obj, name: str) -> Obj:
        return {kind: {name: side[kind][name]} for kind in ("requests", "limits") if name in (side.get(kind) or {})}

    return {n for n in names if not _same(part(left, n), part(right, n))}


def _same(left: Obj, right: Obj) -> bool:
    """Equal amounts, however they are spelled."""
    if left == right:
        return True
    for kind in ("requests", "limits"):
        a, b = left.get(kind) or {}, right.get(kind) or {}
        if a.keys() != b.keys() or any(quantity.parse(a[k]) != quantity.parse(b[k]) for k in a):
            return False
    return True
