"""Read-only questions about a Pod object that several parts of the kubelet ask. Pure; pods are wire-shaped dicts.

Source: Kubernetes 1.36 ``pkg/api/v1/pod/util.go``, ``pkg/apis/core/v1/helper/qos/qos.go``,
``component-helpers/resource/helpers.go``, ``pkg/kubelet/types/pod_update.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.podresources import aggregate
from k3sd.apimachinery.quantity import Quantity

Obj = dict[str, Any]

CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_MIRROR = "kubernetes.io/config.mirror"
CONFIG_HASH = "kubernetes.io/config.hash"
SYSTEM_CRITICAL_PRIORITY = 2_000_000_000
_ZERO = Quantity(0)


def uid(pod: Obj) -> str:
    return str(pod["metadata"]["uid"])


def name(pod: Obj) -> str:
    return str(pod["metadata"]["name"])


def namespace(pod: Obj) -> str:
    return str(pod["metadata"].get("namespace") or "default")


def describe(pod: Obj) -> str:
    """``name_namespace(uid)``, upstream's ``format.Pod``: it is part of messages that clients see."""
    return f"{name(pod)}_{namespace(pod)}({uid(pod)})"


def spec_containers(pod: Obj) -> list[Obj]:
    return pod["spec"].get("containers") or []


def init_containers(pod: Obj) -> list[Obj]:
    return pod["spec"].get("initContainers") or []


def ephemeral_containers(pod: Obj) -> list[Obj]:
    return pod["spec"].get("ephemeralContainers") or []


def all_containers(pod: Obj) -> Iterator[tuple[str, Obj]]:
    """Field of the spec and container, in spec order: init, app, ephemeral."""
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod["spec"].get(field) or ():
            yield field, container


def find_container(pod: Obj, container_name: str) -> Obj | None:
    return next((c for _, c in all_containers(pod) if c["name"] == container_name), None)


def field_path(pod: Obj, container_name: str) -> str:
    """The container's path in the spec for an event's ``involvedObject.fieldPath``."""
    field = next((f for f, c in all_containers(pod) if c["name"] == container_name), "containers")
    return f"spec.{field}{{{container_name}}}"


def is_sidecar(container: Obj) -> bool:
    """A restartable init container. Ask only of init containers."""
    return container.get("restartPolicy") == "Always"


def is_host_network(pod: Obj) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def is_mirror(pod: Obj) -> bool:
    return CONFIG_MIRROR in (pod["metadata"].get("annotations") or {})


def is_static(pod: Obj) -> bool:
    """From a manifest file rather than from the API (the mirror of such a pod is not static)."""
    source = (pod["metadata"].get("annotations") or {}).get(CONFIG_SOURCE)
    return source is not None and source != "api" and not is_mirror(pod)


def is_critical(pod: Obj) -> bool:
    """``IsCriticalPod``."""
    return is_static(pod) or is_mirror(pod) or int(pod["spec"].get("priority") or 0) >= SYSTEM_CRITICAL_PRIORITY


def is_node_critical(pod: Obj) -> bool:
    return is_critical(pod) and pod["spec"].get("priorityClassName") == "system-node-critical"


def is_terminal(pod: Obj) -> bool:
    """The API already holds a final phase."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_deleted(pod: Obj) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def grace_period_seconds(pod: Obj) -> int:
    """What a container of the pod gets between SIGTERM and SIGKILL: the deletion's, else the spec's."""
    deletion = pod["metadata"].get("deletionGracePeriodSeconds")
    if deletion is not None:
        return int(deletion)
    wanted = pod["spec"].get("terminationGracePeriodSeconds")
    return 30 if wanted is None else int(wanted)


def container_should_restart(container: Obj, pod: Obj, exit_code: int) -> bool:
    """Whether an exited container runs again: its own rules, its own policy, the pod's policy (``ContainerShouldRestart``)."""
    for rule in container.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        listed = exit_code in (codes.get("values") or ())
        if listed == (codes.get("operator") == "In") and rule.get("action") == "Restart":
            return True
    policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy") or "Always"
    return bool(policy == "Always" or (policy == "OnFailure" and exit_code != 0))


# resources


def resource(container: Obj, kind: str, resource_name: str) -> Quantity | None:
    """``kind`` is requests or limits; None where the container does not say."""
    value = ((container.get("resources") or {}).get(kind) or {}).get(resource_name)
    return None if value is None else quantity.parse(value)


def _pod_level(pod: Obj, kind: str) -> Mapping[str, Any]:
    return (pod["spec"].get("resources") or {}).get(kind) or {}


def qos_class(pod: Obj) -> str:
    """``GetPodQOS``; the API server's own answer in the status wins, as it is immutable."""
    stored = (pod.get("status") or {}).get("qosClass")
    return str(stored) if stored else compute_qos(pod)


def compute_qos(pod: Obj) -> str:
    groups = [pod["spec"]] if pod["spec"].get("resources") else [*spec_containers(pod), *init_containers(pod)]
    requests = [((c.get("resources") or {}).get("requests") or {}) for c in groups]
    limits = [((c.get("resources") or {}).get("limits") or {}) for c in groups]

    def given(values: Mapping[str, Any]) -> dict[str, Quantity]:
        parsed = {n: quantity.parse(values[n]) for n in ("cpu", "memory") if n in values}
        return {n: q for n, q in parsed.items() if not q.is_zero()}

    wanted, capped = [given(r) for r in requests], [given(x) for x in limits]
    if not any(wanted) and not any(capped):
        return "BestEffort"
    pairs = zip(wanted, capped, strict=True)
    if all(set(c) == {"cpu", "memory"} and all(w.get(n, c[n]) == c[n] for n in c) for w, c in pairs):
        return "Guaranteed"
    return "Burstable"


def pod_resources(pod: Obj, kind: str, *, overhead: bool = True) -> dict[str, Quantity]:
    """Sum of app containers and sidecars, at least what each init container needs beside the sidecars before it, plus overhead
    (``PodRequests``, ``PodLimits``). Pod-level values take the place of the sum."""
    total = aggregate(pod["spec"], lambda container: _amounts(container, kind))
    for resource_name, value in _pod_level(pod, kind).items():
        total[resource_name] = quantity.parse(value)
    if overhead:
        for resource_name, value in (pod["spec"].get("overhead") or {}).items():
            if kind == "requests" or resource_name in total:
                total[resource_name] = total.get(resource_name, _ZERO) + quantity.parse(value)
    return total


def _amounts(container: Obj, kind: str) -> dict[str, Quantity]:
    return {name: quantity.parse(value) for name, value in ((container.get("resources") or {}).get(kind) or {}).items()}
