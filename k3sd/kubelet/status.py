"""A pod's status from what is known of it: a pure function of spec, runtime state, probe results and the previous status.

Source: Kubernetes 1.36 ``pkg/kubelet/kubelet_pods.go`` (``generateAPIPodStatus``, ``convertToAPIContainerStatuses``,
``getPhase``), ``pkg/kubelet/status/generate.go``, ``pkg/kubelet/prober/prober_manager.go`` (``UpdatePodStatus``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from k3sd.apimachinery import timefmt
from k3sd.kubelet import podinfo
from k3sd.kubelet.cri.messages import ContainerState
from k3sd.kubelet.plan import ProbeResults, sandbox_changed, should_start
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.state import ContainerRecord, PodState
from k3sd.lib.jsonvalue import clone

KUBELET_CONDITIONS = frozenset(
    {
        "PodScheduled",
        "Ready",
        "Initialized",
        "ContainersReady",
        "PodReadyToStartContainers",
        "PodResizePending",
        "PodResizeInProgress",
    }
)
UNKNOWN_REASON = "ContainerStatusUnknown"
_GONE_AT_TERMINATION = {
    "reason": UNKNOWN_REASON,
    "message": "The container could not be located when the pod was terminated",
    "exitCode": 137,
}


class Waiting(NamedTuple):
    """Why a container is not started: ``reason`` such as ImagePullBackOff, and the sentence for people."""

    reason: str
    message: str


class Verdict(NamedTuple):
    """An end of the pod that its containers do not decide: deadline, eviction, rejection."""

    reason: str
    message: str
    phase: str = "Failed"


@dataclass(slots=True)
class StatusInput:
    """Everything ``compute_status`` looks at besides pod and runtime state.

    ``old`` is the status last written (the API's at first); ``waiting`` by container name; ``starting`` is the container
    whose postStart hook has not ended, so that it runs but has not started; ``resources`` by container id:
    what is in force, ``allocated`` by container name: requests granted; each where it differs from the spec.
    """

    old: Obj
    probes: ProbeResults = field(default_factory=ProbeResults)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    starting: str = ""
    resources: Mapping[str, Obj] = field(default_factory=dict)
    allocated: Mapping[str, Obj] = field(default_factory=dict)
    resize_conditions: Sequence[Obj] = ()
    host_ips: Sequence[str] = ()
    is_terminal: bool = False
    verdict: Verdict | None = None
    now: str = ""


def compute_status(pod: Obj, state: PodState, given: StatusInput) -> Obj:
    """The kubelet's part of ``pod.status``: every field it owns; conditions of others are not in it."""
    old = given.old
    status: Obj = {"qosClass": podinfo.qos_class(pod)}
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    _set_ips(pod, state, given, status)
    for target, source, init in (
        ("initContainerStatuses", podinfo.init_containers(pod), True),
        ("containerStatuses", podinfo.spec_containers(pod), False),
        ("ephemeralContainerStatuses", podinfo.ephemeral_containers(pod), False),
    ):
        if source:
            status[target] = _container_statuses(pod, state, given, source, old.get(target) or [], is_init=init)
    _set_probe_results(pod, given, status)
    _set_phase(pod, state, given, status)
    status["conditions"] = _conditions(pod, state, given, status)
    status["startTime"] = old.get("startTime") or (pod.get("status") or {}).get("startTime") or given.now or timefmt.now()
    return status


def _set_ips(pod: Obj, state: PodState, given: StatusInput, status: Obj) -> None:
    addresses = list(_by_family(state.ips, given.host_ips))
    if given.host_ips:
        status["hostIP"] = given.host_ips[0]
        status["hostIPs"] = [{"ip": ip} for ip in given.host_ips[:2]]
        if podinfo.is_host_network(pod):
            addresses = list(given.host_ips[:2])
    if not addresses and given.is_terminal:
        # A stopped sandbox has no address any more; what the pod had stays on record (``getPodIPs`` of the PLEG).
        addresses = list(_by_family(state.last_ips, given.host_ips))
        addresses = addresses or [entry["ip"] for entry in given.old.get("podIPs") or []]
    if addresses:
        status["podIP"] = addresses[0]
        status["podIPs"] = [{"ip": ip} for ip in addresses]


def _by_family(addresses: Sequence[str], host_ips: Sequence[str]) -> list[str]:
    """At most one address a family, the node's first family first (``sortPodIPs``)."""
    six_first = bool(host_ips) and ":" in host_ips[0]
    found = [next((a for a in addresses if (":" in a) == six), "") for six in (six_first, not six_first)]
    return [a for a in found if a]


# container statuses


def _time(nanoseconds: int) -> str:
    return timefmt.from_epoch(nanoseconds // 1_000_000_000)


def _terminated(record: ContainerRecord) -> Obj:
    out: Obj = {"exitCode": record.exit_code, "containerID": container_id(record)}
    if record.reason:
        out["reason"] = record.reason
    if record.message:
        out["message"] = record.message
    # Upstream shows what never was as 1970.
    out["startedAt"] = _time(record.started_at)
    out["finishedAt"] = _time(record.finished_at)
    return out


def container_id(record: ContainerRecord) -> str:
    return f"containerd://{record.id}"


def _convert(record: ContainerRecord, old: Obj | None) -> Obj:
    status: Obj = {
        "name": record.name,
        "restartCount": record.restart_count,
        "image": record.image,
        "imageID": record.image_ref,
        "containerID": container_id(record),
        "ready": False,
        "lastState": {},
    }
    if record.state == ContainerState.RUNNING:
        status["state"] = {"running": {"startedAt": _time(record.started_at)}}
    elif record.state == ContainerState.EXITED:
        status["state"] = {"terminated": _terminated(record)}
    elif record.state == ContainerState.UNKNOWN and old is not None and "running" in (old.get("state") or {}):
        status["state"] = {"terminated": dict(_GONE_AT_TERMINATION)}
        status["restartCount"] = old.get("restartCount", 0) + 1
    else:
        status["state"] = {"waiting": {}}
    if record.user is not None:
        uid, gid, groups = record.user
        status["user"] = {"linux": {"uid": uid, "gid": gid, "supplementalGroups": list(groups)}}
    return status


def _mount_statuses(container: Obj) -> list[Obj]:
    out: list[Obj] = []
    for mount in container.get("volumeMounts") or ():
        row: Obj = {"name": mount["name"], "mountPath": mount["mountPath"]}
        if mount.get("readOnly"):
            row["readOnly"] = True
            row["recursiveReadOnly"] = "Disabled"
        out.append(row)
    return out


def _container_statuses(
    pod: Obj, state: PodState, given: StatusInput, containers: Sequence[Obj], previous: Sequence[Obj], *, is_init: bool
) -> list[Obj]:
    """``convertToAPIContainerStatuses``."""
    has_init = bool(podinfo.init_containers(pod))
    old_by_name = {s["name"]: s for s in previous}
    statuses: dict[str, Obj] = {}
    for container in containers:
        statuses[container["name"]] = _one_status(pod, state, given, container, old_by_name.get(container["name"]), has_init)
    for container in containers:
        name = container["name"]
        status = statuses[name]
        record = state.latest(name)
        if is_init:
            if record is not None and record.state == ContainerState.EXITED and record.exit_code == 0:
                continue
            if (
                record is None
                and not podinfo.is_sidecar(container)
                and "waiting" in status["state"]
                and _has_regular(pod, state)
            ):
                message = "Unable to get init container status from container runtime and pod has been initialized, "
                status["state"] = {
                    "terminated": {"reason": "Completed", "message": message + "treat it as exited normally", "exitCode": 0}
                }
                continue
        reason = given.waiting.get(name)
        if reason is None or not should_start(container, pod, state):
            continue
        if "terminated" in status["state"]:
            status["lastState"] = status["state"]
        status["state"] = {"waiting": {"reason": reason.reason, **({"message": reason.message} if reason.message else {})}}
    if is_init:
        return [statuses[c["name"]] for c in containers]
    return [statuses[name] for name in sorted(statuses)]


def _has_regular(pod: Obj, state: PodState) -> bool:
    """``HasAnyRegularContainerCreated``."""
    return any(state.latest(c["name"]) is not None for c in podinfo.spec_containers(pod))


def _has_active_regular(pod: Obj, state: PodState) -> bool:
    """A regular container of the current sandbox exists (``HasAnyActiveRegularContainerStarted``)."""
    names = {c["name"] for c in podinfo.spec_containers(pod)}
    sandbox = state.sandbox
    return sandbox is not None and any(c.name in names and c.sandbox_id == sandbox.id for c in state.containers)


def _one_status(pod: Obj, state: PodState, given: StatusInput, container: Obj, old: Obj | None, has_init: bool) -> Obj:
    name = container["name"]
    records = [c for c in state.containers if c.name == name][:2]
    if records:
        status = _convert(records[0], old)
        if len(records) > 1:
            status["lastState"] = _convert(records[1], old)["state"]
            if "terminated" not in status["lastState"]:
                status["lastState"] = {}
        elif old is not None:
            status["lastState"] = _last_state(old, status)
        resources = given.resources.get(records[0].id, container.get("resources") or {})
        status["resources"] = clone(resources)
        if requests := given.allocated.get(name, (container.get("resources") or {}).get("requests")):
            status["allocatedResources"] = dict(requests)
    else:
        status = _status_without_record(pod, container, old, has_init)
    if mounts := _mount_statuses(container):
        status["volumeMounts"] = mounts
    return status


def _last_state(old: Obj, status: Obj) -> Obj:
    """The runtime may have lost the previous instance: the API still knows how it ended."""
    terminated = (old.get("state") or {}).get("terminated")
    if terminated and old.get("containerID") != status["containerID"]:
        return {"terminated": terminated}
    return dict(old.get("lastState") or {})


def _status_without_record(pod: Obj, container: Obj, old: Obj | None, has_init: bool) -> Obj:
    reason = "PodInitializing" if has_init else "ContainerCreating"
    status: Obj = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "restartCount": 0,
        "ready": False,
        "lastState": {},
        "state": {"waiting": {"reason": reason}},
    }
    if old is None:
        return status
    old_state: Obj = old.get("state") or {}
    if "terminated" in old_state:
        return clone(old)
    status["restartCount"] = old.get("restartCount", 0)
    status["lastState"] = dict(old.get("lastState") or {})
    if "running" in old_state and "terminated" not in status["lastState"]:
        message = "The container could not be located when the pod was deleted.  The container used to be Running"
        status["lastState"] = {"terminated": {"reason": UNKNOWN_REASON, "message": message, "exitCode": 137}}
        if not podinfo.is_deleted(pod):
            status["restartCount"] += 1
    return status


def _set_probe_results(pod: Obj, given: StatusInput, status: Obj) -> None:
    """``started`` and ``ready`` of every container."""
    probes = given.probes
    for key, containers in (
        ("containerStatuses", podinfo.spec_containers(pod)),
        ("initContainerStatuses", podinfo.init_containers(pod)),
    ):
        specs = {c["name"]: c for c in containers}
        for entry in status.get(key) or ():
            spec = specs[entry["name"]]
            running = "running" in entry["state"] and entry["name"] != given.starting
            identity = str(entry.get("containerID") or "").removeprefix("containerd://")
            started = running and (not spec.get("startupProbe") or probes.startup.get(identity) == "success")
            entry["started"] = started
            if key == "initContainerStatuses" and not podinfo.is_sidecar(spec):
                entry["ready"] = (entry["state"].get("terminated") or {}).get("exitCode") == 0
            else:
                entry["ready"] = started and (not spec.get("readinessProbe") or probes.readiness.get(identity) == "success")


# phase


def _set_phase(pod: Obj, state: PodState, given: StatusInput, status: Obj) -> None:
    api: Obj = pod.get("status") or {}
    phase = compute_phase(pod, status, given.is_terminal, _has_active_regular(pod, state))
    final = ("Succeeded", "Failed")
    for known in (given.old.get("phase"), api.get("phase")):
        if phase not in final and known in final:
            phase = known
    if given.verdict is not None:
        phase = given.verdict.phase
    if api.get("phase") in final:
        phase = api["phase"]
    status["phase"] = phase
    if given.verdict is not None:
        status["reason"], status["message"] = given.verdict.reason, given.verdict.message
    elif phase == given.old.get("phase"):
        for key in ("reason", "message"):
            if value := given.old.get(key) or api.get(key):
                status[key] = value


def compute_phase(pod: Obj, status: Obj, is_terminal: bool, has_initialized: bool) -> str:
    """``getPhase``."""
    by_name = {s["name"]: s for key in ("containerStatuses", "initContainerStatuses") for s in status.get(key) or ()}
    pending_init = pending_sidecars = 0
    for container in podinfo.init_containers(pod):
        entry = by_name.get(container["name"])
        if podinfo.is_sidecar(container):
            pending_sidecars += entry is None or _is_pending_sidecar(entry)
            continue
        ended = _ended(entry)
        if ended is None:
            pending_init += 1
        elif ended and not podinfo.container_should_restart(container, pod, ended):
            return "Failed"
    running = waiting = unknown = 0
    exits: list[tuple[Obj, int]] = []
    for container in podinfo.init_containers(pod):
        entry = by_name.get(container["name"])
        if podinfo.is_sidecar(container) and entry is not None:
            running += "running" in entry["state"]
            waiting += "waiting" in entry["state"] and "terminated" not in entry["lastState"]
    for container in podinfo.spec_containers(pod):
        entry = by_name.get(container["name"])
        if entry is None:
            unknown += 1
        elif "running" in entry["state"]:
            running += 1
        elif (code := _ended(entry)) is not None:
            exits.append((container, code))
        else:
            waiting += 1
    if pending_init or (pending_sidecars and not has_initialized) or waiting:
        return "Pending"
    if running and not unknown:
        return "Running"
    if not exits or unknown:
        return "Pending"
    ended_phase = "Succeeded" if all(code == 0 for _, code in exits) else "Failed"
    if is_terminal and not podinfo.is_static(pod):
        return ended_phase
    if any(podinfo.container_should_restart(container, pod, code) for container, code in exits):
        return "Running"
    return ended_phase


def _is_pending_sidecar(entry: Obj) -> bool:
    if "running" in entry["state"]:
        return not entry.get("started")
    return "waiting" in entry["state"] and "terminated" not in entry["lastState"]


def _ended(entry: Obj | None) -> int | None:
    """Exit code of a container that has ended (and may be waiting to run again), else None."""
    if entry is None or "running" in entry["state"]:
        return None
    ended = entry["state"].get("terminated")
    if ended is None and "waiting" in entry["state"]:
        ended = entry["lastState"].get("terminated")
    return None if ended is None else int(ended.get("exitCode", 0))


# conditions


def _conditions(pod: Obj, state: PodState, given: StatusInput, status: Obj) -> list[Obj]:
    """The kubelet's own conditions; the time of transition stays while the status does."""
    old = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}
    old.update({c["type"]: c for c in given.old.get("conditions") or ()})
    foreign = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or () if c["type"] not in KUBELET_CONDITIONS}
    containers_ready = _containers_ready(pod, status)
    conditions = [
        *given.resize_conditions,
        {"type": "PodReadyToStartContainers", "status": "False" if sandbox_changed(pod, state)[0] else "True"},
        {"type": "Initialized", **_initialized(pod, status)},
        {"type": "Ready", **_ready(pod, containers_ready, foreign)},
        {"type": "ContainersReady", **containers_ready},
        {"type": "PodScheduled", "status": "True"},
    ]
    if given.verdict is not None and given.verdict.reason == "Evicted":
        conditions.append({"type": "DisruptionTarget", **_with("True", "TerminationByKubelet", given.verdict.message)})
    now = given.now or timefmt.now()
    generation = pod["metadata"].get("generation")
    for condition in conditions:
        before = old.get(condition["type"])
        same = before is not None and before.get("status") == condition["status"] and before.get("lastTransitionTime")
        condition["lastTransitionTime"] = before["lastTransitionTime"] if before is not None and same else now
        if generation:
            condition.setdefault("observedGeneration", generation)
    return conditions


def _go_list(names: Sequence[str]) -> str:
    return f"[{' '.join(names)}]"


def _with(status: str, reason: str = "", message: str = "") -> Obj:
    out: Obj = {"status": status}
    if reason:
        out["reason"] = reason
    if message:
        out["message"] = message
    return out


def _sort_out(
    containers: Sequence[Obj], by_name: Mapping[str, Obj], is_good: Mapping[str, bool], word: str
) -> tuple[list[str], str]:
    """Names without a status, and the message about them and those that are not good yet."""
    unknown = [c["name"] for c in containers if c["name"] not in by_name]
    bad = [c["name"] for c in containers if c["name"] in by_name and not is_good[c["name"]]]
    parts = [f"containers with unknown status: {_go_list(unknown)}"] if unknown else []
    if bad:
        parts.append(f"containers with {word} status: {_go_list(bad)}")
    return unknown, ", ".join(parts)


def _statuses(status: Obj) -> dict[str, Obj]:
    return {s["name"]: s for key in ("initContainerStatuses", "containerStatuses") for s in status.get(key) or ()}


def _containers_ready(pod: Obj, status: Obj) -> Obj:
    by_name = _statuses(status)
    watched = [c for c in podinfo.init_containers(pod) if podinfo.is_sidecar(c)] + podinfo.spec_containers(pod)
    unknown, message = _sort_out(watched, by_name, {n: bool(s["ready"]) for n, s in by_name.items()}, "unready")
    if status["phase"] == "Succeeded" and not unknown:
        return _with("False", "PodCompleted")
    if status["phase"] == "Failed":
        return _with("False", "PodFailed")
    return _with("False", "ContainersNotReady", message) if message else _with("True")


def _ready(pod: Obj, containers_ready: Obj, foreign: Mapping[str, Obj]) -> Obj:
    if containers_ready["status"] != "True":
        return dict(containers_ready)
    messages: list[str] = []
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        condition = foreign.get(kind)
        if condition is None:
            messages.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif condition.get("status") != "True":
            messages.append(f'the status of pod readiness gate "{kind}" is not "True", but {condition.get("status")}')
    return _with("False", "ReadinessGatesNotReady", ", ".join(messages)) if messages else _with("True")


def _initialized(pod: Obj, status: Obj) -> Obj:
    by_name = _statuses(status)
    containers = podinfo.init_containers(pod)
    sidecars = {c["name"] for c in containers if podinfo.is_sidecar(c)}
    good = {n: bool(s.get("started") if n in sidecars else s["ready"]) for n, s in by_name.items()}
    unknown, message = _sort_out(containers, by_name, good, "incomplete")
    if status["phase"] == "Succeeded" and not unknown:
        return _with("True", "PodCompleted")
    for container in podinfo.spec_containers(pod):
        entry = by_name.get(container["name"])
        if entry is not None and {"running", "terminated"} & entry["state"].keys():
            return _with("True")
    return _with("False", "ContainersNotInitialized", message) if message else _with("True")


def rejected_status(pod: Obj, verdict: Verdict) -> Obj:
    """The status of a pod that this node did not admit: nothing of it ever ran (``rejectPod``)."""
    shown: Obj = pod.get("status") or {}
    out: Obj = {
        "phase": verdict.phase,
        "reason": verdict.reason,
        "message": verdict.message,
        "qosClass": podinfo.qos_class(pod),
    }
    out["conditions"] = [c for c in shown.get("conditions") or () if c["type"] in KUBELET_CONDITIONS]
    out["startTime"] = shown.get("startTime") or timefmt.now()
    if generation := pod["metadata"].get("generation"):
        out["observedGeneration"] = generation
    return out


def terminate_status(pod: Obj, status: Obj) -> Obj:
    """The status of a pod whose containers are all gone: nothing is left running or waiting, and the phase is final
    (``TerminatePod``)."""
    out = clone(status)
    has_initialized = not podinfo.init_containers(pod) or any(
        c["type"] == "Initialized" and c["status"] == "True" for c in out.get("conditions") or ()
    )
    for key in ("containerStatuses", "initContainerStatuses"):
        for entry in out.get(key) or ():
            was_running = "running" in entry["state"]
            if "terminated" not in entry["state"] and (was_running or has_initialized):
                entry["state"] = {"terminated": dict(_GONE_AT_TERMINATION)}
            entry["started"] = False
            if key == "containerStatuses":
                entry["ready"] = False
    if out["phase"] not in ("Succeeded", "Failed") and not podinfo.is_static(pod):
        out["phase"] = "Failed"
    return out
