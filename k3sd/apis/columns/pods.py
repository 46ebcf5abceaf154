"""The cells of a pod. Source: ``printPod``; every branch decides what an operator reads in the STATUS column."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, has_condition, is_deleted, name, since, spec, status


def _finished(container: Obj) -> str:
    """When the container's last run ended; "" if it has had none."""
    return str(((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or "")


def _ended(terminated: Obj, prefix: str = "") -> str:
    if terminated.get("reason"):
        return f"{prefix}{terminated['reason']}"
    if terminated.get("signal"):
        return f"{prefix}Signal:{terminated['signal']}"
    return f"{prefix}ExitCode:{terminated.get('exitCode', 0)}"


class _Summary:
    """What the two passes over the container statuses gather."""

    def __init__(self, obj: Obj) -> None:
        self.obj = obj
        self.reason = status(obj).get("reason") or status(obj).get("phase") or ""
        for condition in status(obj).get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
                self.reason = "SchedulingGated"
        self.inits = {c.get("name"): c for c in spec(obj).get("initContainers") or ()}
        self.ready = 0
        self.restarts = 0
        self.last_restart = ""

    def _restartable(self, container: Obj) -> bool:
        return (self.inits.get(container.get("name")) or {}).get("restartPolicy") == "Always"

    @property
    def total(self) -> int:
        sidecars = [c for c in self.inits.values() if c.get("restartPolicy") == "Always"]
        containers: list[Obj] = spec(self.obj).get("containers") or []
        return len(containers) + len(sidecars)

    def init_containers(self) -> bool:
        """True while the pod is still initializing. Restarts then count those of init containers."""
        sidecar_restarts, sidecar_last = 0, ""
        for i, container in enumerate(status(self.obj).get("initContainerStatuses") or ()):
            restarts = container.get("restartCount") or 0
            self.restarts += restarts
            self.last_restart = max(self.last_restart, _finished(container))
            sidecar = self._restartable(container)
            if sidecar:
                sidecar_restarts += restarts
                sidecar_last = max(sidecar_last, _finished(container))
            state = container.get("state") or {}
            terminated, waiting = state.get("terminated"), (state.get("waiting") or {}).get("reason")
            if terminated is not None and not terminated.get("exitCode"):
                continue
            if sidecar and container.get("started"):
                self.ready += bool(container.get("ready"))
                continue
            if terminated is not None:
                self.reason = _ended(terminated, "Init:")
            elif waiting and waiting != "PodInitializing":
                self.reason = f"Init:{waiting}"
            else:
                self.reason = f"Init:{i}/{len(self.inits)}"
            if not has_condition(status(self.obj).get("conditions"), "Initialized"):
                return True
            break
        self.restarts, self.last_restart = sidecar_restarts, sidecar_last
        return False

    def app_containers(self) -> None:
        running, error = False, ""
        for container in reversed(status(self.obj).get("containerStatuses") or []):
            self.restarts += container.get("restartCount") or 0
            self.last_restart = max(self.last_restart, _finished(container))
            state = container.get("state") or {}
            if waiting := (state.get("waiting") or {}).get("reason"):
                self.reason = waiting
            elif (terminated := state.get("terminated")) is not None:
                self.reason = _ended(terminated)
                if terminated.get("exitCode"):
                    error = self.reason
            elif container.get("ready") and state.get("running") is not None:
                running = True
                self.ready += 1
        if self.reason == "Completed":
            if running and has_condition(status(self.obj).get("conditions"), "Ready"):
                self.reason = "Running"
            elif error:
                self.reason = error
            elif running:
                self.reason = "NotReady"


def pod(obj: Obj, now: float) -> list[Any]:
    summary = _Summary(obj)
    if not summary.init_containers():
        summary.app_containers()
    reason = summary.reason
    if is_deleted(obj):
        if status(obj).get("reason") == "NodeLost":
            reason = "Unknown"
        elif status(obj).get("phase") not in ("Succeeded", "Failed"):
            reason = "Terminating"
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        restarts = f"{restarts} ({since(summary.last_restart, now)} ago)"
    addresses = status(obj).get("podIPs") or ()
    gates = spec(obj).get("readinessGates") or ()
    met = sum(has_condition(status(obj).get("conditions"), gate.get("conditionType", "")) for gate in gates)
    return [
        name(obj),
        f"{summary.ready}/{summary.total}",
        reason,
        restarts,
        age(obj, now),
        (addresses[0].get("ip") if addresses else "") or "<none>",
        spec(obj).get("nodeName") or "<none>",
        status(obj).get("nominatedNodeName") or "<none>",
        f"{met}/{len(gates)}" if gates else "<none>",
    ]
