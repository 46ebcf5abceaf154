"""What paths mean. The table is upstream's ``TestGetAPIRequestInfo`` in short."""

from __future__ import annotations

import pytest

from k3sd.apiserver.requestinfo import RequestInfo, is_true, parse, parse_query

CASES = [
    ("GET", "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
    ("GET", "/api/v1/namespaces/other", "get", "", "other", "namespaces", "other", ""),
    ("GET", "/api/v1/namespaces/other/pods", "list", "", "other", "pods", "", ""),
    ("GET", "/api/v1/namespaces/other/pods/foo", "get", "", "other", "pods", "foo", ""),
    ("HEAD", "/api/v1/namespaces/other/pods/foo", "get", "", "other", "pods", "foo", ""),
    ("GET", "/api/v1/pods", "list", "", "", "pods", "", ""),
    ("GET", "/api/v1/watch/pods", "watch", "", "", "pods", "", ""),
    ("GET", "/api/v1/watch/namespaces/other/pods", "watch", "", "other", "pods", "", ""),
    ("PUT", "/api/v1/namespaces/other/finalize", "update", "", "other", "namespaces", "other", "finalize"),
    ("PUT", "/api/v1/namespaces/other/status", "update", "", "other", "namespaces", "other", "status"),
    ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection", "", "other", "pods", "", ""),
    ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete", "", "other", "pods", "foo", ""),
    ("POST", "/apis/apps/v1/namespaces/x/deployments", "create", "apps", "x", "deployments", "", ""),
    ("PATCH", "/apis/apps/v1/namespaces/x/deployments/d/scale", "patch", "apps", "x", "deployments", "d", "scale"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "get", "rbac.authorization.k8s.io", "",
     "clusterroles", "system:node", ""),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "get", "rbac.authorization.k8s.io", "",
     "clusterroles", "system:node", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_resource_paths(case: tuple[str, ...]) -> None:
    method, path, verb, group, namespace, plural, name, subresource = case
    info = parse(method, path, {})
    assert info.is_resource
    assert (info.verb, info.group, info.namespace, info.plural, info.name, info.subresource) == (
        verb,
        group,
        namespace,
        plural,
        name,
        subresource,
    )


@pytest.mark.parametrize("path", ["/", "/version", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz/ping"])
def test_other_paths(path: str) -> None:
    info = parse("GET", path, {})
    assert not info.is_resource
    assert info.verb == "get"


@pytest.mark.parametrize(
    ("path", "remainder"),
    [
        ("/api/v1/namespaces/n/pods/p/proxy", ""),
        ("/api/v1/namespaces/n/pods/p/proxy/a/b", "a/b"),
        ("/api/v1/namespaces/n/pods/p/proxy/a/", "a/"),
        ("/api/v1/namespaces/n/services/https:s:web/proxy/a%2Fb/c", "a%2Fb/c"),
        ("/api/v1/nodes/n1/proxy/metrics/cadvisor", "metrics/cadvisor"),
    ],
)
def test_proxy_remainder_stays_quoted(path: str, remainder: str) -> None:
    info = parse("GET", path, {})
    assert info.subresource == "proxy"
    assert info.remainder == remainder


def test_watch_and_single_name_come_from_the_query() -> None:
    info = parse("GET", "/api/v1/pods", parse_query("watch=true&fieldSelector=metadata.name%3Dweb"))
    assert (info.verb, info.name) == ("watch", "web")
    assert parse("GET", "/api/v1/pods", parse_query("watch=0")).verb == "list"
    assert parse("GET", "/api/v1/pods", {"fieldSelector": "metadata.name=a,spec.nodeName=b"}).name == ""


@pytest.mark.parametrize(
    ("text", "truth"), [(None, False), ("", True), ("1", True), ("true", True), ("0", False), ("False", False)]
)
def test_truth(text: str | None, truth: bool) -> None:
    assert is_true(text) is truth


def test_info_defaults() -> None:
    assert RequestInfo("/x", "get").is_resource is False
