"""How much of a quota an object uses: pure; shared by admission, which charges, and the controller, which counts.

Source: ``pkg/quota/v1/evaluator/core``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.podresources import aggregate

Obj = dict[str, Any]
Usage = dict[str, quantity.Quantity]
COMPUTE = ("cpu", "memory", "ephemeral-storage")
LEGACY_COUNTS = {
    "pods", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims", "resourcequotas",
}  # fmt: skip
_ONE = quantity.parse(1)


def charged_on_update(group: str, plural: str) -> bool:
    """Only these can come to use more without being new."""
    return group == "" and plural in ("pods", "services", "persistentvolumeclaims")


def usage(group: str, plural: str, obj: Obj) -> Usage:
    """Everything the object counts for, by quota resource name."""
    count = f"count/{plural}.{group}" if group else f"count/{plural}"
    if group == "" and plural == "pods":
        return _pod(obj)
    found: Usage = {count: _ONE}
    if group == "" and plural in LEGACY_COUNTS:
        found[plural] = _ONE
    if group == "" and plural == "services":
        found |= _service(obj)
    elif group == "" and plural == "persistentvolumeclaims":
        found |= _claim(obj)
    return found


def is_terminal(pod: Obj) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _pod(pod: Obj) -> Usage:
    found: Usage = {"count/pods": _ONE}
    if is_terminal(pod):
        return found
    found["pods"] = _ONE
    requests, limits = _total(pod, "requests"), _total(pod, "limits")
    for name, value in requests.items():
        found[f"requests.{name}"] = value
        if name in COMPUTE or name.startswith("hugepages-"):
            found[name] = value
    for name, value in limits.items():
        found[f"limits.{name}"] = value
    return found


def _total(pod: Obj, field: str) -> Usage:
    spec = pod.get("spec") or {}
    total = aggregate(spec, lambda container: _amounts(container, field))
    for name, text in (spec.get("overhead") or {}).items():
        if name in total:
            total[name] = total[name] + quantity.parse(text)
    return total


def _amounts(container: Obj, field: str) -> Usage:
    return {name: quantity.parse(text) for name, text in ((container.get("resources") or {}).get(field) or {}).items()}


def _service(service: Obj) -> Usage:
    spec = service.get("spec") or {}
    kind = spec.get("type")
    ports = len(spec.get("ports") or ())
    if kind == "NodePort":
        return {"services.nodeports": quantity.parse(ports)}
    if kind == "LoadBalancer":
        allocated = ports if spec.get("allocateLoadBalancerNodePorts") is not False else 0
        return {"services.nodeports": quantity.parse(allocated), "services.loadbalancers": _ONE}
    return {}


def _claim(claim: Obj) -> Usage:
    spec = claim.get("spec") or {}
    text = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    found: Usage = {}
    name = spec.get("storageClassName")
    if name:
        found[f"{name}.storageclass.storage.k8s.io/persistentvolumeclaims"] = _ONE
    if text is not None:
        size = quantity.parse(text)
        found["requests.storage"] = size
        if name:
            found[f"{name}.storageclass.storage.k8s.io/requests.storage"] = size
    return found


def in_scope(quota: Obj, obj: Obj) -> bool:
    """Whether the quota's scopes speak of the object. Scopes exist for pods only."""
    spec = quota.get("spec") or {}
    scopes = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not scopes:
        return True
    if "containers" not in (obj.get("spec") or {}):
        return False
    return all(_scope_matches(scope, obj) for scope in scopes)


def _scope_matches(scope: Mapping[str, Any], pod: Obj) -> bool:
    spec = pod["spec"]
    name = scope["scopeName"]
    if name == "Terminating":
        return spec.get("activeDeadlineSeconds") is not None
    if name == "NotTerminating":
        return spec.get("activeDeadlineSeconds") is None
    if name in ("BestEffort", "NotBestEffort"):
        bare = not any(
            (c.get("resources") or {}).get(f)
            for c in (*spec["containers"], *(spec.get("initContainers") or ()))
            for f in ("requests", "limits")
        )
        return bool(bare == (name == "BestEffort"))
    if name == "PriorityClass":
        value = spec.get("priorityClassName") or ""
        match scope.get("operator"):
            case "In":
                return value in (scope.get("values") or ())
            case "NotIn":
                return value not in (scope.get("values") or ())
            case "DoesNotExist":
                return not value
        return bool(value)
    if name == "CrossNamespacePodAffinity":
        return _crosses_namespaces(spec.get("affinity") or {})
    return False


def _crosses_namespaces(affinity: Obj) -> bool:
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        terms += [p["podAffinityTerm"] for p in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()]
        if any(t.get("namespaces") or t.get("namespaceSelector") is not None for t in terms):
            return True
    return False


def missing_compute(pod: Obj, hard: Mapping[str, Any]) -> str:
    """Upstream's ``cpu for: a; memory for: a,b`` when the quota bounds what containers do not state; empty when all is said."""
    wanted = {name: ("requests", name) for name in ("cpu", "memory") if name in hard}
    for name in hard:
        for field in ("requests", "limits"):
            if name.startswith(f"{field}.") and name.removeprefix(f"{field}.") in ("cpu", "memory"):
                wanted[name] = (field, name.removeprefix(f"{field}."))
    spec = pod["spec"]
    parts = []
    for quota_name, (field, name) in sorted(wanted.items()):
        lacking = [
            c["name"]
            for c in (*spec["containers"], *(spec.get("initContainers") or ()))
            if name not in ((c.get("resources") or {}).get(field) or {})
        ]
        if lacking:
            parts.append(f"{quota_name} for: {','.join(sorted(lacking))}")
    return "; ".join(parts)
