"""Defaulting against upstream's ``defaults.go``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from k3sd.apimachinery import defaults
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.schema import types
from k3sd.apis import resources
from k3sd.apis.defaults.core import pull_policy


def defaulted(resource: Resource, **body: Any) -> dict[str, Any]:
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {"name": "x"}, **body}
    conform(obj, resource.type_name)
    defaults.apply_defaults(obj, resource)
    once = repr(obj)
    defaults.apply_defaults(obj, resource)
    assert repr(obj) == once, "defaulting must be idempotent"
    assert conform(obj, resource.type_name) == []
    return obj


def test_every_declared_default_names_a_real_field() -> None:
    for module in sorted(defaults.GROUPS):
        group, version = module.split(".")
        package = next(r.type_name for r in resources.ALL if f".{module}." in r.type_name).rpartition(".")[0]
        declared = import_module(f"k3sd.apis.defaults.{group}")
        suffix = "" if version == "v1" else f"_{version.upper()}"
        for short, values in getattr(declared, f"CONSTANTS{suffix}", {}).items():
            for name in values:
                assert name in types.get(f"{package}.{short}").fields, (short, name)
        for short in getattr(declared, f"HOOKS{suffix}", {}):
            assert types.has(f"{package}.{short}"), short


@pytest.mark.parametrize("resource", resources.ALL, ids=[f"{r.plural}.{r.api_version}" for r in resources.ALL])
def test_an_empty_object_of_every_kind_can_be_defaulted(resource: Resource) -> None:
    defaulted(resource)


def test_pod() -> None:
    container = {
        "name": "a",
        "image": "nginx",
        "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
        "livenessProbe": {"httpGet": {"port": 80}},
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    volumes = [
        {"name": "v"},
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "h", "hostPath": {"path": "/"}},
        {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ]
    spec = defaulted(resources.PODS, spec={"containers": [container], "volumes": volumes, "hostNetwork": True})["spec"]
    assert spec["restartPolicy"] == "Always" and spec["dnsPolicy"] == "ClusterFirst"
    assert spec["terminationGracePeriodSeconds"] == 30 and spec["schedulerName"] == "default-scheduler"
    assert spec["enableServiceLinks"] is True and spec["securityContext"] == {}
    found = spec["containers"][0]
    assert found["imagePullPolicy"] == "Always"
    assert found["terminationMessagePath"] == "/dev/termination-log" and found["terminationMessagePolicy"] == "File"
    assert found["ports"] == [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]
    assert found["resources"]["requests"] == {"cpu": "100m", "memory": "1Gi"}
    assert found["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert found["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert spec["volumes"][0]["emptyDir"] == {}
    assert spec["volumes"][1]["configMap"]["defaultMode"] == 420
    assert spec["volumes"][2]["hostPath"]["type"] == ""
    assert spec["volumes"][3]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600


def test_a_pod_template_gets_no_pod_defaults() -> None:
    container = {"name": "a", "image": "b:1", "resources": {"limits": {"cpu": "1"}}}
    spec = {"selector": {}, "template": {"spec": {"containers": [container]}}}
    template = defaulted(resources.DEPLOYMENTS, spec=spec)["spec"]["template"]["spec"]
    assert "enableServiceLinks" not in template
    assert "requests" not in template["containers"][0]["resources"]


def test_pod_level_requests_come_from_containers_then_limits() -> None:
    def container(name: str, cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "image": "i", "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "resources": {"limits": {"cpu": "4", "memory": "1Gi"}},
        "containers": [container("a", "500m"), container("b", "250m")],
        "initContainers": [container("side", "100m", restartPolicy="Always"), container("big", "2")],
    }
    pod = defaulted(resources.PODS, spec=spec)["spec"]["resources"]
    assert pod["requests"] == {"cpu": "2100m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.25", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("", "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_service() -> None:
    spec = defaulted(resources.SERVICES, spec={"ports": [{"port": 80}], "sessionAffinity": "ClientIP"})["spec"]
    assert spec["ports"] == [{"port": 80, "targetPort": 80, "protocol": "TCP"}]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert spec["type"] == "ClusterIP" and spec["internalTrafficPolicy"] == "Cluster"
    assert "externalTrafficPolicy" not in spec
    spec = defaulted(resources.SERVICES, spec={"type": "LoadBalancer"})["spec"]
    assert spec["externalTrafficPolicy"] == "Cluster" and spec["allocateLoadBalancerNodePorts"] is True
    assert "internalTrafficPolicy" not in defaulted(resources.SERVICES, spec={"type": "ExternalName"})["spec"]


def test_workloads() -> None:
    spec = defaulted(resources.DEPLOYMENTS, spec={"strategy": {"type": "Recreate"}, "replicas": 0})["spec"]
    assert spec["strategy"] == {"type": "Recreate"} and spec["replicas"] == 0
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    job = defaulted(resources.JOBS, spec={"template": template, "parallelism": 2})
    assert job["metadata"]["labels"] == {"a": "b"}
    assert "completions" not in job["spec"] and job["spec"]["backoffLimit"] == 6
    stateful = defaulted(resources.STATEFULSETS, spec={"updateStrategy": {"type": "RollingUpdate"}})["spec"]
    assert stateful["updateStrategy"] == {"type": "RollingUpdate"}
    rc = defaulted(resources.REPLICATIONCONTROLLERS, spec={"template": template})
    assert rc["spec"]["selector"] == {"a": "b"} and rc["metadata"]["labels"] == {"a": "b"}


def test_small_kinds() -> None:
    assert defaulted(resources.SECRETS)["type"] == "Opaque"
    assert defaulted(resources.NAMESPACES)["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    policy = defaulted(resources.NETWORKPOLICIES, spec={"egress": [{"ports": [{"port": 53}]}]})["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"][0]["ports"][0]["protocol"] == "TCP"
    binding = defaulted(resources.ROLEBINDINGS, subjects=[{"kind": "User", "name": "u"}], roleRef={"kind": "Role"})
    assert binding["subjects"][0]["apiGroup"] == binding["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"
    item = {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}
    limits = defaulted(resources.LIMITRANGES, spec={"limits": [item]})["spec"]["limits"][0]
    assert limits["default"] == {"cpu": "2"} and limits["defaultRequest"] == {"memory": "1Mi", "cpu": "2"}
    hook = {"name": "a.b.c", "rules": [{"operations": ["*"]}], "clientConfig": {"service": {"name": "s"}}}
    webhook = defaulted(resources.VALIDATINGWEBHOOKCONFIGURATIONS, webhooks=[hook])["webhooks"][0]
    assert webhook["failurePolicy"] == "Fail" and webhook["rules"][0]["scope"] == "*"
    assert webhook["clientConfig"]["service"]["port"] == 443 and webhook["namespaceSelector"] == {}
