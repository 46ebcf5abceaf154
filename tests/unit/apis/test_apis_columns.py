"""What kubectl get shows: columns against upstream's table, cells against upstream's own examples (printers_test.go)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery import timefmt
from k3sd.apis import columns, resources

TABLE = Path(__file__).parents[4] / "shared/reference/upstream/printer-columns.tsv"
NOW = timefmt.parse("2026-01-02T00:00:00Z")
YESTERDAY = "2026-01-01T00:00:00Z"
ODD_NAMES = {
    "endpoint": "Endpoints",
    "roleBindings": "RoleBinding",
    "clusterRoleBindings": "ClusterRoleBinding",
    "mutatingWebhook": "MutatingWebhookConfiguration",
    "validatingWebhook": "ValidatingWebhookConfiguration",
    "priorityLevel": "PriorityLevelConfiguration",
    "nodeResourceSlice": "ResourceSlice",
}
EXTENDED = {"CSIDriver", "IPAddress"}
"""Upstream appends columns to these in a second step, which the table does not show."""


@pytest.mark.skipif(not TABLE.exists(), reason="upstream reference tables are not beside the repository")
def test_columns_equal_upstream() -> None:
    theirs: dict[str, list[tuple[str, str, int]]] = {}
    for line in TABLE.read_text().splitlines()[2:]:
        kind, _, name, type_, _, priority = line.split("\t")
        theirs.setdefault(kind, []).append((name, type_, int(priority)))
    by_kind = {r.kind.lower(): r for r in resources.ALL}
    compared = 0
    for kind, expected in theirs.items():
        resource = by_kind.get(ODD_NAMES.get(kind, kind).lower())
        if resource is None:
            continue  # alpha and beta kinds, and types that are no resource
        ours = [(c["name"], c["type"], c["priority"]) for c in columns.table_columns(resource)]
        assert (ours[: len(expected)] if resource.kind in EXTENDED else ours) == expected, kind
        compared += 1
    assert compared > 45


@pytest.mark.parametrize("resource", resources.ALL, ids=[f"{r.plural}.{r.api_version}" for r in resources.ALL])
def test_every_kind_has_a_cell_for_each_column_of_an_empty_object(resource: Any) -> None:
    obj = {"metadata": {"name": "x", "creationTimestamp": YESTERDAY}}
    cells = columns.cells(resource, obj, NOW)
    assert len(cells) == len(columns.table_columns(resource))
    assert "x" in cells


def pod(status: dict[str, Any], inits: int = 0, containers: int = 1, **more: Any) -> list[Any]:
    spec = {"containers": [{"name": f"c{i}"} for i in range(containers)]}
    spec["initContainers"] = [{"name": f"i{i}"} for i in range(inits)]
    metadata = {"name": "p", "creationTimestamp": YESTERDAY, **more.pop("metadata", {})}
    spec.update(more)
    return columns.cells(resources.PODS, {"metadata": metadata, "spec": spec, "status": status}, NOW)


RUNNING = {"state": {"running": {}}, "ready": True}
PODS: list[tuple[str, dict[str, Any], dict[str, Any], list[Any]]] = [
    ("pending", {"phase": "Pending"}, {}, ["p", "0/1", "Pending", "0", "24h"]),
    (
        "running",
        {"phase": "Running", "containerStatuses": [{**RUNNING, "restartCount": 3}]},
        {},
        ["p", "1/1", "Running", "3", "24h"],
    ),
    (
        "restarted",
        {
            "phase": "Running",
            "containerStatuses": [
                {
                    **RUNNING,
                    "restartCount": 3,
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T23:54:50Z"}},
                }
            ],
        },
        {},
        ["p", "1/1", "Running", "3 (5m10s ago)", "24h"],
    ),
    (
        "crash loop",
        {
            "phase": "Running",
            "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1}],
        },
        {},
        ["p", "0/1", "CrashLoopBackOff", "1", "24h"],
    ),
    (
        "init waiting",
        {"phase": "Pending", "initContainerStatuses": [{"name": "i0", "state": {"waiting": {}}}]},
        {"inits": 2},
        ["p", "0/1", "Init:0/2", "0", "24h"],
    ),
    (
        "second init",
        {
            "phase": "Pending",
            "initContainerStatuses": [
                {"name": "i0", "state": {"terminated": {"exitCode": 0}}},
                {"name": "i1", "state": {"waiting": {"reason": "PodInitializing"}}},
            ],
        },
        {"inits": 2},
        ["p", "0/1", "Init:1/2", "0", "24h"],
    ),
    (
        "init failed",
        {
            "phase": "Pending",
            "initContainerStatuses": [{"name": "i0", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}],
        },
        {"inits": 1},
        ["p", "0/1", "Init:Error", "0", "24h"],
    ),
    (
        "completed",
        {
            "phase": "Succeeded",
            "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
        },
        {},
        ["p", "0/1", "Completed", "0", "24h"],
    ),
    (
        "exit code",
        {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 7}}}]},
        {},
        ["p", "0/1", "ExitCode:7", "0", "24h"],
    ),
    (
        "one completed, one running and ready",
        {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, RUNNING],
        },
        {"containers": 2},
        ["p", "1/2", "Running", "0", "24h"],
    ),
    (
        "one completed, one running and not ready",
        {
            "phase": "Running",
            "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, RUNNING],
        },
        {"containers": 2},
        ["p", "1/2", "NotReady", "0", "24h"],
    ),
    (
        "terminating",
        {"phase": "Running", "containerStatuses": [RUNNING]},
        {"metadata": {"deletionTimestamp": YESTERDAY}},
        ["p", "1/1", "Terminating", "0", "24h"],
    ),
    (
        "node lost",
        {"phase": "Running", "reason": "NodeLost"},
        {"metadata": {"deletionTimestamp": YESTERDAY}},
        ["p", "0/1", "Unknown", "0", "24h"],
    ),
    ("evicted", {"phase": "Failed", "reason": "Evicted"}, {}, ["p", "0/1", "Evicted", "0", "24h"]),
    (
        "gated",
        {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]},
        {},
        ["p", "0/1", "SchedulingGated", "0", "24h"],
    ),
]


@pytest.mark.parametrize(("status", "options", "expected"), [p[1:] for p in PODS], ids=[p[0] for p in PODS])
def test_pod(status: dict[str, Any], options: dict[str, Any], expected: list[Any]) -> None:
    assert pod(status, **options)[:5] == expected


def test_pod_sidecars_count_as_containers() -> None:
    status = {
        "phase": "Running",
        "initContainerStatuses": [{"name": "s", "started": True, "ready": True, "state": {"running": {}}}],
        "containerStatuses": [RUNNING],
    }
    obj = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
        "status": status,
    }
    assert columns.cells(resources.PODS, obj, NOW)[:5] == ["p", "2/2", "Running", "0", "<unknown>"]


def test_pod_wide() -> None:
    status = {"phase": "Running", "podIPs": [{"ip": "10.1.1.1"}], "conditions": [{"type": "g", "status": "True"}]}
    cells = pod(status, nodeName="n", readinessGates=[{"conditionType": "g"}, {"conditionType": "h"}])
    assert cells[5:] == ["10.1.1.1", "n", "<none>", "1/2"]


def test_finished_pods_are_marked() -> None:
    assert columns.row_conditions(resources.PODS, {"status": {"phase": "Running"}}) == []
    marked = columns.row_conditions(resources.PODS, {"status": {"phase": "Succeeded"}})
    assert marked[0]["type"] == "Completed" and marked[0]["reason"] == "Succeeded"


def cells(resource: Any, **body: Any) -> list[Any]:
    metadata = {"name": "x", "creationTimestamp": YESTERDAY, **body.pop("metadata", {})}
    return columns.cells(resource, {"metadata": metadata, **body}, NOW)


def test_node() -> None:
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kubeletVersion": "v1", "kernelVersion": "6", "architecture": "amd64"},
        "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}, {"type": "Hostname", "address": "h"}],
    }
    labels = {"node-role.kubernetes.io/control-plane": "true", "kubernetes.io/role": "x", "other": ""}
    found = cells(resources.NODES, metadata={"labels": labels}, spec={"unschedulable": True}, status=status)
    assert found == [
        "x",
        "Ready,SchedulingDisabled",
        "control-plane,x",
        "24h",
        "v1",
        "1.2.3.4",
        "<none>",
        "<unknown>",
        "6 (amd64)",
        "<unknown>",
    ]


def test_service() -> None:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    spec = {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": ports, "selector": {"b": "2", "a": "1"}}
    found = cells(resources.SERVICES, spec=spec)
    assert found == ["x", "LoadBalancer", "10.0.0.1", "<pending>", "80:30080/TCP,53/UDP", "24h", "a=1,b=2"]
    balancer = {"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}, {"hostname": "a.b"}]}}
    assert cells(resources.SERVICES, spec=spec, status=balancer)[3] == "9.9.9.9,a.b"


def test_workloads() -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "b:1"}, {"name": "c", "image": "d"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template}
    found = cells(resources.DEPLOYMENTS, spec=spec, status={"readyReplicas": 1, "updatedReplicas": 2})
    assert found == ["x", "1/2", 2, 0, "24h", "a,c", "b:1,d", "app=x"]
    job = {"completions": 3, "template": template}
    status = {"startTime": YESTERDAY, "completionTime": "2026-01-01T00:02:05Z", "succeeded": 3}
    done = {**status, "conditions": [{"type": "Complete", "status": "True"}]}
    assert cells(resources.JOBS, spec=job, status=done)[:5] == ["x", "Complete", "3/3", "2m5s", "24h"]


def test_events_of_both_groups_read_alike() -> None:
    core = {
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec"},
        "source": {"component": "kubelet", "host": "n"},
        "lastTimestamp": "2026-01-01T23:59:00Z",
        "firstTimestamp": YESTERDAY,
        "count": 4,
        "type": "Normal",
        "reason": "Pulled",
        "message": " done ",
    }
    expected = ["60s", "Normal", "Pulled", "pod/p", "spec", "kubelet, n", "done", "24h", 4, "x"]
    assert cells(resources.EVENTS, **core) == expected
    new = {
        "regarding": {"kind": "Pod", "name": "p", "fieldPath": "spec"},
        "reportingController": "kubelet",
        "reportingInstance": "n",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "series": {"count": 4, "lastObservedTime": "2026-01-01T23:59:00.000000Z"},
        "type": "Normal",
        "reason": "Pulled",
        "note": "done",
    }
    assert cells(resources.EVENTS_EVENTS, **new) == expected


def test_lists_are_cut() -> None:
    subsets = [{"addresses": [{"ip": f"10.0.0.{i}"} for i in range(5)], "ports": [{"port": 80}]}]
    expected = "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more..."
    assert cells(resources.ENDPOINTS, subsets=subsets) == ["x", expected, "24h"]
    endpoints = [{"addresses": [f"10.0.0.{i}"]} for i in range(4)]
    found = cells(resources.ENDPOINTSLICES, addressType="IPv4", endpoints=endpoints, ports=[{"port": 80}])
    assert found == ["x", "IPv4", "80", "10.0.0.0,10.0.0.1,10.0.0.2 + 1 more...", "24h"]
    assert cells(resources.INGRESSES, spec={"rules": [{}]})[2] == "*"


def test_default_columns() -> None:
    assert cells(resources.CLUSTERROLES) == ["x", YESTERDAY]
    assert [c["name"] for c in columns.table_columns(resources.LIMITRANGES)] == ["Name", "Created At"]
