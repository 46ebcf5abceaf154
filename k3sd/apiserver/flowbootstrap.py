"""The FlowSchemas and PriorityLevelConfigurations every cluster has. Kept for clients and tools; this server does not queue.

Source: ``pkg/apis/flowcontrol/bootstrap/default.go``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from k3sd.apimachinery.errors import Obj

_ANNOTATIONS = {"apf.kubernetes.io/autoupdate-spec": "true"}
_QUEUES = {"small": (16, 4), "middle": (64, 6), "large": (128, 6)}
_LEVELS: tuple[tuple[str, int, int, str], ...] = (
    ("catch-all", 5, 0, ""),
    ("system", 30, 33, "middle"),
    ("node-high", 40, 25, "middle"),
    ("leader-election", 10, 0, "small"),
    ("workload-high", 40, 50, "large"),
    ("workload-low", 100, 90, "large"),
    ("global-default", 20, 50, "large"),
)
"""Name, nominal concurrency shares, percentage that may be lent, queues (none: what is too much is refused)."""

_EVERYONE = ({"kind": "Group", "name": "system:unauthenticated"}, {"kind": "Group", "name": "system:authenticated"})


def _group(name: str) -> Obj:
    return {"kind": "Group", "name": name}


def _user(name: str) -> Obj:
    return {"kind": "User", "name": name}


def _account(name: str) -> Obj:
    return {"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}}


def _resources(verbs: list[str], group: str, names: list[str], *, cluster: bool = False) -> Obj:
    rule: Obj = {"verbs": verbs, "apiGroups": [group], "resources": names, "namespaces": ["*"]}
    return {**rule, "clusterScope": True} if cluster else rule


_ALL: Obj = {
    "resourceRules": [_resources(["*"], "*", ["*"], cluster=True)],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
}
_LEASES: Obj = {"resourceRules": [_resources(["get", "create", "update"], "coordination.k8s.io", ["leases"])]}
_NODES: Obj = {
    "resourceRules": [
        _resources(["*"], "", ["nodes", "nodes/status"], cluster=True),
        _resources(["*"], "coordination.k8s.io", ["leases"]),
    ]
}
_ENDPOINTS: Obj = {"resourceRules": [_resources(["get", "create", "update"], "", ["endpoints"])]}
_PROBES: Obj = {"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}
_MANAGER, _SCHEDULER = _user("system:kube-controller-manager"), _user("system:kube-scheduler")

_SCHEMAS: tuple[tuple[str, str, int, str, tuple[Obj, ...], Obj], ...] = (
    ("exempt", "exempt", 1, "", (_group("system:masters"),), _ALL),
    ("probes", "exempt", 2, "", _EVERYONE, _PROBES),
    ("system-leader-election", "leader-election", 100, "ByUser", (_MANAGER, _SCHEDULER), _LEASES),
    (
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        (_MANAGER, _account("endpoint-controller"), _account("endpointslicemirroring-controller")),
        _ENDPOINTS,
    ),
    ("workload-leader-election", "leader-election", 200, "ByUser", (_account("*"),), _LEASES),
    ("system-node-high", "node-high", 400, "ByUser", (_group("system:nodes"),), _NODES),
    ("system-nodes", "system", 500, "ByUser", (_group("system:nodes"),), _ALL),
    ("kube-controller-manager", "workload-high", 800, "ByNamespace", (_MANAGER,), _ALL),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", (_SCHEDULER,), _ALL),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", (_account("*"),), _ALL),
    ("service-accounts", "workload-low", 9000, "ByUser", (_group("system:serviceaccounts"),), _ALL),
    ("global-default", "global-default", 9900, "ByUser", _EVERYONE, _ALL),
    ("catch-all", "catch-all", 10000, "ByUser", _EVERYONE, _ALL),
)
"""Name, priority level, precedence, how flows are told apart, who, what."""


def _subject(subject: Obj) -> Obj:
    """As the API has it: the name stands in a field that is called like the kind."""
    if "serviceAccount" in subject:
        return dict(subject)
    return {"kind": subject["kind"], subject["kind"].lower(): {"name": subject["name"]}}


def priority_levels() -> Iterator[Obj]:
    exempt: Obj = {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}
    yield {"metadata": {"name": "exempt", "annotations": dict(_ANNOTATIONS)}, "spec": exempt}
    for name, shares, lendable, queues in _LEVELS:
        response: Obj = {"type": "Reject"}
        if queues:
            count, hand = _QUEUES[queues]
            response = {"type": "Queue", "queuing": {"queues": count, "handSize": hand, "queueLengthLimit": 50}}
        limited: dict[str, Any] = {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}
        yield {
            "metadata": {"name": name, "annotations": dict(_ANNOTATIONS)},
            "spec": {"type": "Limited", "limited": limited},
        }


def flow_schemas() -> Iterator[Obj]:
    for name, level, precedence, method, subjects, rules in _SCHEMAS:
        spec: Obj = {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence}
        if method:
            spec["distinguisherMethod"] = {"type": method}
        spec["rules"] = [{"subjects": [_subject(s) for s in subjects], **rules}]
        yield {"metadata": {"name": name, "annotations": dict(_ANNOTATIONS)}, "spec": spec}
