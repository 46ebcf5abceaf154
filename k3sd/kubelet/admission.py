"""The node's own last word on a pod: does it fit here, may it run here. Pure.

Source: Kubernetes 1.36 ``pkg/kubelet/lifecycle/predicate.go``, ``pkg/kubelet/sysctl/allowlist.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from k3sd.apimachinery import quantity
from k3sd.apimachinery.quantity import Quantity
from k3sd.kubelet import podinfo
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.status import Verdict

SAFE_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
)
_NETWORK_SYSCTLS = ("net.",)
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def _reject(reason: str, message: str) -> Verdict:
    return Verdict(reason, f"Pod was rejected: {message}")


def admit(pod: Obj, node: Obj, others: Iterable[Obj], allowed_sysctls: Sequence[str] = ()) -> Verdict | None:
    """None when the pod may start, else how it ends. ``others`` are the pods that hold resources here now."""
    neighbours = [p for p in others if podinfo.uid(p) != podinfo.uid(pod)]
    return (
        _check_sysctls(pod, (*SAFE_SYSCTLS, *allowed_sysctls))
        or _check_os(pod)
        or _check_selector(pod, node)
        or _check_taints(pod, node)
        or _check_ports(pod, neighbours)
        or _check_resources(pod, node, neighbours)
    )


def _check_sysctls(pod: Obj, allowed: Sequence[str]) -> Verdict | None:
    for entry in (pod["spec"].get("securityContext") or {}).get("sysctls") or ():
        name = str(entry["name"]).replace("/", ".")
        listed = any(name == a or (a.endswith("*") and name.startswith(a[:-1])) for a in allowed)
        if not listed:
            return _reject("SysctlForbidden", f'forbidden sysctl: "{name}" not allowlisted')
        if pod["spec"].get("hostNetwork") and name.startswith(_NETWORK_SYSCTLS):
            return _reject("SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host net enabled')
        if pod["spec"].get("hostIPC") and name.startswith(_IPC_SYSCTLS):
            return _reject("SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host ipc enabled')
    return None


def _check_os(pod: Obj) -> Verdict | None:
    wanted = (pod["spec"].get("os") or {}).get("name")
    if wanted and wanted != "linux":
        return _reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    selected = (pod["spec"].get("nodeSelector") or {}).get("kubernetes.io/os")
    if selected and selected != "linux":
        return _reject(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    return None


def _check_selector(pod: Obj, node: Obj) -> Verdict | None:
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    simple = all(labels.get(k) == v for k, v in (pod["spec"].get("nodeSelector") or {}).items())
    required = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if simple and (not required or _matches_terms(required.get("nodeSelectorTerms") or (), labels, node)):
        return None
    return _reject("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")


def _matches_terms(terms: Iterable[Obj], labels: Mapping[str, str], node: Obj) -> bool:
    fields = {"metadata.name": podinfo.name(node)}
    for term in terms:
        expressions, field_rules = term.get("matchExpressions") or (), term.get("matchFields") or ()
        if not expressions and not field_rules:
            continue
        if all(_matches(r, labels) for r in expressions) and all(_matches(r, fields) for r in field_rules):
            return True
    return False


def _matches(rule: Obj, values: Mapping[str, str]) -> bool:
    value = values.get(rule["key"])
    listed: Sequence[str] = rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator:
            try:
                left, right = int(value or ""), int(listed[0])
            except (ValueError, IndexError):
                return False
            return left > right if operator == "Gt" else left < right


def _check_taints(pod: Obj, node: Obj) -> Verdict | None:
    """Only NoExecute taints count here, and not for static pods."""
    if podinfo.is_static(pod):
        return None
    for taint in node["spec"].get("taints") or ():
        if taint.get("effect") == "NoExecute" and not any(_tolerates(t, taint) for t in pod["spec"].get("tolerations") or ()):
            return _reject("TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint(s)")
    return None


def _tolerates(toleration: Obj, taint: Obj) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def _host_ports(pod: Obj) -> list[tuple[str, str, int]]:
    containers = [*podinfo.spec_containers(pod), *filter(podinfo.is_sidecar, podinfo.init_containers(pod))]
    return [
        (port.get("protocol") or "TCP", port.get("hostIP") or "0.0.0.0", int(port["hostPort"]))
        for container in containers
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


def _check_ports(pod: Obj, neighbours: Sequence[Obj]) -> Verdict | None:
    wanted = _host_ports(pod)
    if not wanted:
        return None
    taken = [entry for other in neighbours for entry in _host_ports(other)]
    wild = ("0.0.0.0", "::")
    for protocol, address, port in wanted:
        if any(p == protocol and n == port and (a == address or a in wild or address in wild) for p, a, n in taken):
            return _reject(
                "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            )
    return None


def check_resize(pod: Obj, node: Obj, others: Iterable[Obj]) -> Verdict | None:
    """Whether a running pod may have what its spec asks for now: reason Infeasible for never, Deferred for not now."""
    allocatable: Mapping[str, str] = (node.get("status") or {}).get("allocatable") or {}
    neighbours = [p for p in others if podinfo.uid(p) != podinfo.uid(pod)]
    requests = podinfo.pod_resources(pod, "requests")
    for name in ("cpu", "memory"):
        if name not in requests or name not in allocatable:
            continue
        wanted, capacity = requests[name], quantity.parse(allocatable[name])
        used = sum((podinfo.pod_resources(p, "requests").get(name, Quantity(0)) for p in neighbours), Quantity(0))
        asked, taken, there = (q.milli() if name == "cpu" else q.value() for q in (wanted, used, capacity))
        if capacity < wanted:
            message = f"Node didn't have enough capacity: {name}, requested: {asked}, capacity: {there}"
            return Verdict("Infeasible", message)
        if capacity < used + wanted:
            message = f"Node didn't have enough resource: {name}, requested: {asked}, used: {taken}, capacity: {there}"
            return Verdict("Deferred", message)
    return None


def _check_resources(pod: Obj, node: Obj, neighbours: Sequence[Obj]) -> Verdict | None:
    allocatable: Mapping[str, str] = (node.get("status") or {}).get("allocatable") or {}
    limit = quantity.parse(allocatable.get("pods", "110")).value()
    if len(neighbours) + 1 > limit:
        return _reject(
            "OutOfpods", f"Node didn't have enough resource: pods, requested: 1, used: {len(neighbours)}, capacity: {limit}"
        )
    for name, wanted in podinfo.pod_resources(pod, "requests").items():
        # Extended resources that the node does not have are the scheduler's business alone.
        if wanted.is_zero() or name not in allocatable:
            continue
        capacity = quantity.parse(allocatable[name])
        used = sum((podinfo.pod_resources(p, "requests").get(name, Quantity(0)) for p in neighbours), Quantity(0))
        if capacity < used + wanted:
            asked, taken, there = (q.milli() if name == "cpu" else q.value() for q in (wanted, used, capacity))
            return _reject(
                f"OutOf{name}",
                f"Node didn't have enough resource: {name}, requested: {asked}, used: {taken}, capacity: {there}",
            )
    return None
