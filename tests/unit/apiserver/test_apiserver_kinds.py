"""Validation texts of the kinds, as tables: object in, upstream's wording out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from k3sd.apimachinery import schema
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources as r
from k3sd.apiserver.kinds.allocators import AddressPool, AllocationError, PortPool, ServiceAllocator
from k3sd.apiserver.kinds.batch import cron_problem
from k3sd.apiserver.kinds.pods import PodStrategy, qos_class, validate_resize, validate_spec_update
from k3sd.apiserver.kinds.podspec import validate_pod_spec
from k3sd.apiserver.kinds.services import ServiceStrategy
from k3sd.apiserver.kinds.workloads import DeploymentStrategy, StatefulSetStrategy
from k3sd.apiserver.request import LOOPBACK, RequestContext

CTX = RequestContext(LOOPBACK, "create", r.PODS)
CONTAINER = {"name": "c", "image": "busybox"}


def complete(obj: dict[str, Any], row: Resource) -> dict[str, Any]:
    """As the registry hands it to a strategy: decoded and defaulted."""
    out: dict[str, Any] = deepcopy(obj)
    conform(out, schema.types.get(row.type_name))
    apply_defaults(out, row)
    return out


def texts(errors: list[Any]) -> list[str]:
    return [str(e) for e in errors]


def pod(**spec: Any) -> dict[str, Any]:
    obj = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {"containers": [CONTAINER], **spec},
    }
    return complete(obj, r.PODS)


def container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{**CONTAINER, **fields}])


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (pod(), []),
        (pod(containers=[]), ["spec.containers: Required value"]),
        (pod(containers=[CONTAINER, CONTAINER]), ['spec.containers[1].name: Duplicate value: "c"']),
        (container(image=""), ["spec.containers[0].image: Required value"]),
        (
            container(imagePullPolicy="Sometimes"),
            [
                'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
                '"IfNotPresent", "Never"'
            ],
        ),
        (
            container(ports=[{"containerPort": 70000}]),
            ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            container(ports=[{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]),
            ['spec.containers[0].ports[1].name: Duplicate value: "a"'],
        ),
        (
            container(env=[{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            ['spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
        ),
        (
            container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.whoops"}}}]),
            [
                'spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.whoops": error converting '
                "fieldPath: field label not supported: metadata.whoops"
            ],
        ),
        (container(env=[{"name": "data-1", "value": "x"}, {"name": "a.b", "value": ""}]), []),
        (
            container(volumeMounts=[{"name": "v", "mountPath": "/x"}]),
            ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
        ),
        (
            pod(volumes=[{"name": "v"}], containers=[{**CONTAINER, "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]),
            [],
        ),
        (
            pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            pod(volumes=[{"name": "v", "hostPath": {"path": "/a/../b"}}]),
            ["spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
        ),
        (
            container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
        (
            container(resources={"requests": {"example.com/gpu": "1"}}),
            ["spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"],
        ),
        (
            container(livenessProbe={"httpGet": {"path": "/", "port": 80}, "successThreshold": 2}),
            ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (container(readinessProbe={}), ["spec.containers[0].readinessProbe: Required value: must specify a handler type"]),
        (
            container(livenessProbe={"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}),
            ["spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            pod(hostNetwork=True, containers=[{**CONTAINER, "ports": [{"containerPort": 80, "hostPort": 81}]}]),
            ["spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"],
        ),
        (
            pod(initContainers=[{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["a"]}}}]),
            [
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without "
                "restartPolicy=Always"
            ],
        ),
        (
            pod(
                initContainers=[
                    {"name": "i", "image": "x", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["a"]}}}
                ]
            ),
            [],
        ),
        (
            pod(tolerations=[{"operator": "Exists", "value": "x"}]),
            [
                'spec.tolerations[0].operator: Invalid value: {"operator":"Exists","value":"x"}: value must be empty when '
                "`operator` is 'Exists'"
            ],
        ),
        (
            pod(resources={"requests": {"cpu": "1"}}, containers=[{**CONTAINER, "resources": {"requests": {"cpu": "2"}}}]),
            [
                'spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container '
                "requests of 2"
            ],
        ),
        (
            pod(restartPolicy="Maybe"),
            ['spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "Never", "OnFailure"'],
        ),
        (
            pod(dnsPolicy="None"),
            ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            pod(securityContext={"sysctls": [{"name": "foo-", "value": "1"}]}),
            [
                'spec.securityContext.sysctls[0].name: Invalid value: "foo-": must have at most 253 characters and match regex '
                "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9]$"
            ],
        ),
        (
            pod(topologySpreadConstraints=[{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]),
            ["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
        ),
        (
            pod(activeDeadlineSeconds=0),
            ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            pod(ephemeralContainers=[{"name": "e", "image": "x"}]),
            ["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
        (
            container(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
            [
                'spec.containers[0].securityContext: Invalid value: {"privileged":true,"allowPrivilegeEscalation":false}: '
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            ],
        ),
    ],
)
def test_pod_create(obj: dict[str, Any], expected: list[str]) -> None:
    assert texts(PodStrategy(r.PODS, None).validate_create(CTX, obj)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"activeDeadlineSeconds": 10}, ""),
        ({"activeDeadlineSeconds": 10}, {"activeDeadlineSeconds": 5}, ""),
        ({"activeDeadlineSeconds": 10}, {"activeDeadlineSeconds": 20}, "must be less than or equal to previous value"),
        ({"activeDeadlineSeconds": 10}, {}, "must not update from a positive integer to nil value"),
        ({}, {"tolerations": [{"key": "a", "operator": "Exists"}]}, ""),
        (
            {"tolerations": [{"key": "a", "operator": "Exists"}]},
            {"tolerations": []},
            "existing toleration can not be modified except its tolerationSeconds",
        ),
        ({}, {"nodeName": "n"}, "pod updates may not change fields other than"),
        ({}, {"schedulingGates": [{"name": "x"}]}, "only deletion is allowed, but found new scheduling gate 'x'"),
        ({"schedulingGates": [{"name": "x"}]}, {}, ""),
        ({"schedulingGates": [{"name": "x"}]}, {"schedulingGates": [{"name": "x"}], "nodeSelector": {"a": "b"}}, ""),
        (
            {"schedulingGates": [{"name": "x"}], "nodeSelector": {"a": "b"}},
            {"schedulingGates": [{"name": "x"}], "nodeSelector": {"a": "c"}},
            "only additions are allowed (no mutations or deletions)",
        ),
        ({}, {"nodeSelector": {"a": "b"}}, "pod updates may not change fields other than"),
        ({"terminationGracePeriodSeconds": -1}, {"terminationGracePeriodSeconds": 1}, ""),
        ({}, {"containers": [CONTAINER, {**CONTAINER, "name": "d"}]}, "pod updates may not add or remove containers"),
    ],
)
def test_pod_update(old: dict[str, Any], new: dict[str, Any], expected: str) -> None:
    errors: list[Any] = []
    validate_spec_update(pod(**new)["spec"], pod(**old)["spec"], errors)
    assert (expected in str(errors[0])) if expected else not errors


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, "BestEffort"),
        ({"cpu": "1"}, {}, "Burstable"),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({"cpu": "1000m", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "2", "memory": "1Gi"}, "Burstable"),
        ({}, {"cpu": "1"}, "Burstable"),
        ({"example.com/gpu": "1"}, {"example.com/gpu": "1"}, "BestEffort"),
    ],
)
def test_qos(requests: dict[str, str], limits: dict[str, str], expected: str) -> None:
    assert qos_class({"containers": [{"resources": {"requests": requests, "limits": limits}}]}) == expected


def resized(cpu: str, **extra: Any) -> dict[str, Any]:
    out = container(resources={"requests": {"cpu": cpu}})
    out["spec"]["containers"][0].update(extra)
    return out


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (resized("2"), ""),
        (resized("1", image="other"), "only cpu and memory resources are mutable"),
        (container(), "Pod QOS Class may not change as a result of resizing"),
        (resized("1", resources={"requests": {"memory": "1Gi"}}), "resource requests cannot be removed"),
    ],
)
def test_resize(new: dict[str, Any], expected: str) -> None:
    errors: list[Any] = []
    validate_resize(new, resized("1"), errors)
    assert any(expected in str(e) for e in errors) if expected else not errors


def test_resize_says_why_not() -> None:
    """Each case: what the pod had and should have (parts of the spec), and upstream's words."""
    cpu = {"requests": {"cpu": "1"}}
    two: Any = [{"name": "a", "resources": cpu}, {"name": "b", "resources": cpu}]
    once = {"name": "i", "resources": cpu, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}
    plain = {**once, "resizePolicy": []}
    foreign = {**plain, "resources": {"requests": {"cpu": "1", "x/y": "1"}}}
    more = {**once, "resources": {"requests": {"cpu": "2"}}}
    restarts = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
    order = [f"spec.containers[{i}].name: Forbidden: containers may not be renamed or reordered on resize" for i in (0, 1)]
    cases: list[tuple[Any, Any, list[str]]] = [
        ({"containers": two}, {"containers": two[::-1]}, order),
        ({"containers": two}, {"containers": [{**c, "name": c["name"] + "2"} for c in two]}, order),
        (
            {"containers": two},
            {"containers": two[:1]},
            ["spec.containers: Forbidden: containers may not be added or removed on resize"],
        ),
        (
            {"containers": two, "initContainers": [once]},
            {"containers": two, "initContainers": [once, {**once, "name": "j"}]},
            ["spec.initContainers: Forbidden: initContainers may not be added or removed on resize"],
        ),
        (
            {"containers": two, "initContainers": [plain]},
            {"containers": two, "initContainers": [{**more, "resizePolicy": []}]},
            [],
        ),
        (
            {"containers": two, "initContainers": [once]},
            {"containers": two, "initContainers": [more]},
            ["spec.initContainers[0]: Forbidden: " + restarts],
        ),
        (
            {"containers": two, "initContainers": [once]},
            {
                "containers": two,
                "initContainers": [foreign],
            },
            [
                "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable",
            ],
        ),
        (
            {"containers": two},
            {"containers": [two[0], {"name": "b", "resources": {"requests": {"cpu": "2", "ephemeral-storage": "3"}}}]},
            ["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
        (
            {"containers": two, "resources": cpu},
            {"containers": two},
            ["spec.resources: Forbidden: pod-level resources cannot be removed"],
        ),
        (
            {"containers": two, "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}},
            {"containers": two, "resources": {"requests": {"cpu": "3"}}},
            ["spec.resources.requests: Forbidden: pod-level resource requests cannot be removed"],
        ),
        (
            {"containers": two, "resources": {"requests": {"cpu": "2"}}},
            {"containers": two, "resources": {"requests": {"cpu": "3", "hugepages-2Mi": "2Mi"}}},
            ["spec: Forbidden: only cpu and memory resources are mutable at pod-level"],
        ),
        ({"containers": two, "resources": cpu}, {"containers": two, "resources": {"requests": {"cpu": "3"}}}, []),
        ({"containers": two}, {"containers": two, "resources": {"requests": {"cpu": "3"}}}, []),
    ]
    for old, new, expected in cases:
        errors: list[Any] = []
        pods = [{"metadata": {"name": "p"}, "spec": spec, "status": {"qosClass": "Burstable"}} for spec in (new, old)]
        validate_resize(pods[0], pods[1], errors)
        assert [str(e) for e in errors] == expected, (old, new)


def test_a_node_that_cannot_resize() -> None:
    """It shows no resources of what runs."""
    errors: list[Any] = []
    old = resized("1") | {"status": {"qosClass": "Burstable", "containerStatuses": [{"name": "a", "state": {"running": {}}}]}}
    validate_resize(resized("2"), old, errors)
    assert [str(e) for e in errors] == ["spec: Forbidden: Pod running on node without support for resize"]


def service(**spec: Any) -> dict[str, Any]:
    obj = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "s", "namespace": "d"},
        "spec": {"ports": [{"port": 80}], **spec},
    }
    return complete(obj, r.SERVICES)


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (service(), []),
        (service(ports=[]), ["spec.ports: Required value"]),
        (service(ports=[], clusterIP="None", clusterIPs=["None"]), []),
        (
            service(ports=[{"port": 80}, {"port": 81}]),
            ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            service(ports=[{"port": 80, "nodePort": 30000}]),
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (service(type="ExternalName", ports=[]), ["spec.externalName: Required value"]),
        (
            service(type="NodePort", clusterIP="None", clusterIPs=["None"]),
            ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            service(sessionAffinity="Sticky"),
            ['spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"'],
        ),
        (
            service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 90000}}),
            [
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less "
                "than or equal to 86400"
            ],
        ),
        (
            service(externalTrafficPolicy="Local"),
            [
                'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services',
            ],
        ),
    ],
)
def test_service_create(obj: dict[str, Any], expected: list[str]) -> None:
    assert texts(ServiceStrategy(r.SERVICES, None).validate_create(CTX, obj)) == expected  # type: ignore[arg-type]


def deployment(**spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}
    body = {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}
    obj = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d", "namespace": "d"}, "spec": body}
    return complete(obj, r.DEPLOYMENTS)


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (deployment(), []),
        (deployment(replicas=-1), ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
        (
            deployment(selector={"matchLabels": {"a": "c"}}),
            ['spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`'],
        ),
        (deployment(selector={}), ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]),
        (
            deployment(strategy={"type": "Recreate", "rollingUpdate": {}}),
            ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        ),
        (
            deployment(strategy={"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
        ),
        (
            deployment(progressDeadlineSeconds=5, minReadySeconds=5),
            ["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
        ),
    ],
)
def test_deployment_create(obj: dict[str, Any], expected: list[str]) -> None:
    assert texts(DeploymentStrategy(r.DEPLOYMENTS, None).validate_create(CTX, obj)) == expected  # type: ignore[arg-type]


def test_stateful_set_update_is_limited() -> None:
    strategy = StatefulSetStrategy(r.STATEFULSETS, None)  # type: ignore[arg-type]
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}
    spec = {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template}
    old = complete({"metadata": {"name": "s"}, "spec": spec}, r.STATEFULSETS)
    new = deepcopy(old)
    new["spec"]["replicas"] = 9
    assert strategy.validate_update(CTX, new, old) == []
    new["spec"]["serviceName"] = "t"
    assert "updates to statefulset spec for fields other than 'replicas'" in str(strategy.validate_update(CTX, new, old)[0])


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("*/1 * * * ?", ""),
        ("0 0 1 jan sun", ""),
        ("@hourly", ""),
        ("@every 1h30m", ""),
        ("0 0 * *", "expected exactly 5 fields, found 4: [0 0 * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("@never", "unrecognized descriptor: @never"),
    ],
)
def test_cron(schedule: str, problem: str) -> None:
    assert cron_problem(schedule) == problem


def test_address_pool_is_exact() -> None:
    import ipaddress

    pool = AddressPool(ipaddress.ip_network("10.0.0.0/29"))
    taken = {pool.take_next(f"u{i}") for i in range(6)}
    assert taken == {f"10.0.0.{i}" for i in range(1, 7)}
    with pytest.raises(AllocationError, match="range is full"):
        pool.take_next("x")
    with pytest.raises(AllocationError, match=r"not in the valid range\. The range of valid IPs is 10\.0\.0\.0/29"):
        pool.take("10.0.0.7", "x")
    # Only the holder gives back.
    pool.release("10.0.0.1", "somebody else")
    with pytest.raises(AllocationError, match="already allocated"):
        pool.take("10.0.0.1", "x")


def test_port_pool_shares_within_one_service() -> None:
    pool = PortPool(30000, 30001)
    pool.take(30000, "a")
    pool.take(30000, "a")
    assert pool.take_next("b") == 30001
    with pytest.raises(AllocationError, match="range is full"):
        pool.take_next("c")


def test_allocator_follows_events() -> None:
    allocator = ServiceAllocator("10.0.0.0/24", (30000, 30010))
    one = {
        "metadata": {"uid": "1"},
        "spec": {"clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ports": [{"nodePort": 30001}]},
    }
    allocator.observe("ADDED", one, None)
    with pytest.raises(AllocationError):
        allocator.pools[0].take("10.0.0.5", "2")
    extra = {"metadata": {}, "spec": {"cidrs": ["10.1.0.0/30"]}}
    allocator.on_cidr("ADDED", extra, None)
    allocator.take("IPv4", "10.1.0.1", "3")
    allocator.on_cidr("MODIFIED", {**extra, "metadata": {"deletionTimestamp": "x"}}, extra)
    with pytest.raises(AllocationError, match="not in the valid range"):
        allocator.take("IPv4", "10.1.0.2", "3")
    changed = {"metadata": {"uid": "1"}, "spec": {"type": "ExternalName"}}
    allocator.observe("MODIFIED", changed, one)
    allocator.pools[0].take("10.0.0.5", "2")
    allocator.ports.take(30001, "2")
    allocator.observe("DELETED", changed, None)
    with pytest.raises(AllocationError):
        allocator.ports.take(30001, "3")


def test_pod_spec_of_a_server_is_accepted_again() -> None:
    errors: list[Any] = []
    spec = pod(
        volumes=[
            {
                "name": "kube-api-access-abcde",
                "projected": {
                    "defaultMode": 420,
                    "sources": [
                        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                    ],
                },
            }
        ]
    )["spec"]
    validate_pod_spec(spec, "spec", errors)
    assert errors == []
