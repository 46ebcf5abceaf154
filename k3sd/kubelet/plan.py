"""What a pod needs done next: a pure decision from spec, runtime state and probe results.

Source: Kubernetes 1.36 ``pkg/kubelet/kuberuntime/kuberuntime_manager.go`` (``computePodActions``,
``computeInitContainerActions``), ``pkg/kubelet/kuberuntime/util/util.go`` (``PodSandboxChanged``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from k3sd.kubelet import podinfo
from k3sd.kubelet.cri.messages import ContainerState
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.state import ContainerRecord, PodState, container_hash

Verdict = Literal["success", "failure"]


@dataclass(slots=True)
class ProbeResults:
    """Results by container id; a container not in a mapping has no result yet (or no such probe)."""

    liveness: Mapping[str, Verdict] = field(default_factory=dict)
    startup: Mapping[str, Verdict] = field(default_factory=dict)
    readiness: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class Kill:
    """A container to stop first. ``reason`` is liveness, startup or empty; ``message`` goes into the Killing event."""

    record: ContainerRecord
    message: str
    reason: str = ""


@dataclass(slots=True)
class Actions:
    """In this order: kill the whole pod (sandbox too) or single containers; create a sandbox; start containers."""

    kill_pod: bool = False
    create_sandbox: bool = False
    attempt: int = 0
    kills: list[Kill] = field(default_factory=list)
    start_ephemeral: list[Obj] = field(default_factory=list)
    start_init: list[Obj] = field(default_factory=list)
    start: list[Obj] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.kill_pod or self.create_sandbox or self.kills or self.starts)

    @property
    def starts(self) -> list[Obj]:
        return [*self.start_ephemeral, *self.start_init, *self.start]


def sandbox_changed(pod: Obj, state: PodState) -> tuple[bool, int]:
    """Whether a new sandbox is needed, and its attempt number."""
    newest = state.sandbox
    if newest is None:
        return True, 0
    ready = sum(1 for s in state.sandboxes if s.is_ready)
    wrong = (
        ready > 1
        or not newest.is_ready
        or newest.is_host_network != podinfo.is_host_network(pod)
        or (not podinfo.is_host_network(pod) and not newest.ips)
    )
    return wrong, newest.attempt + 1 if wrong else newest.attempt


def should_start(container: Obj, pod: Obj, state: PodState) -> bool:
    """Whether a container that is not running is to run (``ShouldContainerBeRestarted``)."""
    if podinfo.is_deleted(pod):
        return False
    record = state.latest(container["name"])
    if record is None:
        return True
    if record.is_running:
        return False
    if record.state in (ContainerState.UNKNOWN, ContainerState.CREATED):
        return True
    return podinfo.container_should_restart(container, pod, record.exit_code)


def compute_actions(pod: Obj, state: PodState, probes: ProbeResults) -> Actions:
    """``computePodActions``."""
    changed, attempt = sandbox_changed(pod, state)
    actions = Actions(kill_pod=changed and bool(state.sandboxes), create_sandbox=changed, attempt=attempt)
    if changed:
        return _plan_new_sandbox(pod, state, actions)
    actions.start_ephemeral = [c for c in podinfo.ephemeral_containers(pod) if state.latest(c["name"]) is None]
    initialized = _plan_init(pod, state, probes, actions)
    if actions.kill_pod or not initialized:
        return actions
    kept = 0
    for container in podinfo.spec_containers(pod):
        record = state.latest(container["name"])
        if record is None or not record.is_running:
            if should_start(container, pod, state):
                actions.start.append(container)
                if record is not None and record.state == ContainerState.UNKNOWN:
                    actions.kills.append(Kill(record, 'Container is in "unknown" state, try killing it before restart'))
            continue
        kill = _kill_of_running(container, record, probes)
        if kill is None:
            kept += 1
            continue
        policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy") or "Always"
        if policy != "Never" or not kill.reason:
            kill.message += ", will be restarted"
            actions.start.append(container)
        actions.kills.append(kill)
    if not kept and not actions.start:
        actions.kill_pod = True
        actions.start_init = []
    return actions


def _kill_of_running(container: Obj, record: ContainerRecord, probes: ProbeResults) -> Kill | None:
    name = container["name"]
    if record.hash and record.hash != container_hash(container):
        return Kill(record, f"Container {name} definition changed")
    for kind in ("liveness", "startup"):
        if getattr(probes, kind).get(record.id) == "failure":
            return Kill(record, f"Container {name} failed {kind} probe", kind)
    return None


def _plan_new_sandbox(pod: Obj, state: PodState, actions: Actions) -> Actions:
    if pod["spec"].get("restartPolicy") == "Never" and actions.attempt and state.containers:
        # The pod has run: it is not started again, only cleaned up.
        actions.create_sandbox = False
        return actions
    wanted = [c for c in podinfo.spec_containers(pod) if not _succeeded_for_good(c, pod, state)]
    names = {c["name"] for c in podinfo.spec_containers(pod)}
    if not wanted and any(c.name in names for c in state.containers):
        actions.create_sandbox = False
        return actions
    if podinfo.init_containers(pod):
        actions.start_init = podinfo.init_containers(pod)[:1]
    else:
        actions.start = wanted
    return actions


def _succeeded_for_good(container: Obj, pod: Obj, state: PodState) -> bool:
    policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy")
    record = state.latest(container["name"])
    return policy == "OnFailure" and record is not None and record.state == ContainerState.EXITED and record.exit_code == 0


def has_started_regular(pod: Obj, state: PodState) -> bool:
    """A regular container is created or running: the init containers are over, whatever the runtime still knows of them."""
    records = (state.latest(c["name"]) for c in podinfo.spec_containers(pod))
    return any(r is not None and r.state in (ContainerState.CREATED, ContainerState.RUNNING) for r in records)


def _plan_init(pod: Obj, state: PodState, probes: ProbeResults, actions: Actions) -> bool:
    """Fill ``start_init``; True when the regular containers may start.

    From last to first: the latest init container that has run tells where we are, as earlier ones may be gone from the runtime.
    """
    containers = podinfo.init_containers(pod)
    if not containers:
        return True
    initialized = has_started_regular(pod, state)
    previously = initialized
    starts: list[Obj] = []
    last = len(containers) - 1
    for index in range(last, -1, -1):
        container = containers[index]
        sidecar = podinfo.is_sidecar(container)
        record = state.latest(container["name"])
        if record is None:
            if previously and sidecar:
                starts.append(container)
            continue
        if previously and not sidecar:
            continue
        done = False
        if record.state == ContainerState.CREATED:
            starts.append(container)
        elif record.state == ContainerState.RUNNING:
            if sidecar:
                done = _check_running_sidecar(container, record, probes, actions, starts)
        elif record.state == ContainerState.EXITED and sidecar:
            starts.append(container)
        elif record.is_failed:
            if not _restarts_init(container, pod, record):
                actions.kill_pod = True
                actions.start_init = []
                return False
            if record.state == ContainerState.UNKNOWN:
                actions.kills.append(Kill(record, 'Init container is in "unknown" state, try killing it before restart'))
            starts.append(container)
        else:
            done = True
        if done:
            if index == last:
                initialized = True
            elif not previously:
                starts.append(containers[index + 1])
        previously = True
    if not previously:
        starts.append(containers[0])
    order = {c["name"]: i for i, c in enumerate(containers)}
    actions.start_init = sorted({c["name"]: c for c in starts}.values(), key=lambda c: order[c["name"]])
    return initialized


def _restarts_init(container: Obj, pod: Obj, record: ContainerRecord) -> bool:
    if record.state == ContainerState.UNKNOWN:
        policy: str | None = container.get("restartPolicy") or pod["spec"].get("restartPolicy")
        return policy != "Never"
    return not podinfo.is_deleted(pod) and podinfo.container_should_restart(container, pod, record.exit_code)


def _check_running_sidecar(
    container: Obj, record: ContainerRecord, probes: ProbeResults, actions: Actions, starts: list[Obj]
) -> bool:
    """True when it counts as started. A failed probe or a changed definition restarts it."""
    name = container["name"]
    if container.get("startupProbe"):
        verdict = probes.startup.get(record.id)
        if verdict == "failure":
            actions.kills.append(Kill(record, f"Init container {name} failed startup probe", "startup"))
            starts.append(container)
        if verdict != "success":
            return False
    if record.hash and record.hash != container_hash(container):
        actions.kills.append(Kill(record, f"Init container {name} definition changed"))
        starts.append(container)
    elif container.get("livenessProbe") and probes.liveness.get(record.id) == "failure":
        actions.kills.append(Kill(record, f"Init container {name} failed liveness probe", "liveness"))
        starts.append(container)
    return True
