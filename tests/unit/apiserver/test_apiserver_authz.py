"""RBAC and Node authorization: rules, index, wording, default policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from k3sd.apiserver.authz import ChainAuthorizer, refuse
from k3sd.apiserver.authz.bootstrap import default_objects, reconcile_binding, reconcile_role
from k3sd.apiserver.authz.node import NodeAuthorizer, NodeGraph
from k3sd.apiserver.authz.rbac import RuleIndex
from k3sd.apiserver.authz.rules import Query, Rule, compact, covers
from k3sd.apiserver.request import Decision, UserInfo

UPSTREAM = Path(__file__).parents[4] / "shared/reference/upstream/rbac"


@pytest.mark.parametrize(
    ("rule", "query", "allowed"),
    [
        (Rule(["get"], [""], ["pods"]), Query("get", "", "pods"), True),
        (Rule(["get"], [""], ["pods"]), Query("list", "", "pods"), False),
        (Rule(["get"], [""], ["pods"]), Query("get", "", "pods", "log"), False),
        (Rule(["get"], [""], ["pods/log"]), Query("get", "", "pods", "log"), True),
        (Rule(["get"], [""], ["*/log"]), Query("get", "", "pods", "log"), True),
        (Rule(["*"], ["*"], ["*"]), Query("patch", "apps", "deployments", "scale"), True),
        (Rule(["get"], ["apps"], ["pods"]), Query("get", "", "pods"), False),
        (Rule(["get"], [""], ["secrets"], ["a"]), Query("get", "", "secrets", name="a"), True),
        (Rule(["get"], [""], ["secrets"], ["a"]), Query("get", "", "secrets", name="b"), False),
        (Rule(["get"], [""], ["secrets"], ["a"]), Query("list", "", "secrets"), False),
        (Rule(["get"], urls=["/healthz/*"]), Query("get", path="/healthz/etcd"), True),
        (Rule(["get"], urls=["/healthz"]), Query("get", path="/healthz/etcd"), False),
        (Rule(["get"], urls=["*"]), Query("get", path="/x"), True),
        (Rule(["*"], ["*"], ["*"]), Query("get", path="/x"), False),
    ],
)
def test_rule_allows(rule: Rule, query: Query, allowed: bool) -> None:
    assert rule.allows(query) is allowed


@pytest.mark.parametrize(
    ("owner", "wanted", "missing"),
    [
        ([Rule(["*"], ["*"], ["*"])], [Rule(["get"], [""], ["pods"])], 0),
        ([Rule(["get"], [""], ["pods"])], [Rule(["get", "list"], [""], ["pods"])], 1),
        ([Rule(["get"], [""], ["pods"], ["a"])], [Rule(["get"], [""], ["pods"])], 1),
        ([Rule(["get"], [""], ["pods"])], [Rule(["get"], [""], ["pods"], ["a"])], 0),
        ([Rule(["get"], [""], ["*/scale"])], [Rule(["get"], [""], ["x/scale"])], 0),
        ([Rule(["get"], urls=["/a/*"])], [Rule(["get"], urls=["/a/b"])], 0),
        ([Rule(["get"], [""], ["pods"]), Rule(["list"], [""], ["pods"])], [Rule(["get", "list"], [""], ["pods"])], 0),
    ],
)
def test_covers(owner: list[Rule], wanted: list[Rule], missing: int) -> None:
    assert len(covers(owner, wanted)) == missing


def test_compact_text() -> None:
    rules = compact([Rule(["get"], [""], ["pods"]), Rule(["list"], [""], ["pods"])])
    assert [str(r) for r in rules] == ['{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}']


def role(name: str, rules: list[dict], namespace: str = "") -> dict:
    meta = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"metadata": meta, "rules": rules}


def binding(name: str, kind: str, ref: str, subjects: list[dict], namespace: str = "") -> dict:
    meta = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"metadata": meta, "roleRef": {"kind": kind, "name": ref}, "subjects": subjects}


READ_PODS = [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]
ALICE = {"kind": "User", "name": "alice"}


def test_index_follows_writes_at_once() -> None:
    index = RuleIndex()
    user, query = UserInfo("alice"), Query("get", "", "pods", namespace="a", name="x")
    assert not index.check(user, query).allowed
    index.on_binding("ADDED", binding("b", "Role", "r", [ALICE], "a"), None)
    assert index.check(user, query) == Decision(False, 'RBAC: role.rbac.authorization.k8s.io "r" not found')
    index.on_role("ADDED", role("r", READ_PODS, "a"), None)
    assert index.check(user, query) == Decision(True, 'RBAC: allowed by RoleBinding "b/a" of Role "r" to User "alice"')
    assert not index.check(user, query._replace(namespace="b")).allowed
    index.on_role("MODIFIED", role("r", [], "a"), role("r", READ_PODS, "a"))
    assert not index.check(user, query).allowed
    index.on_role("MODIFIED", role("r", READ_PODS, "a"), None)
    index.on_binding("DELETED", binding("b", "Role", "r", [ALICE], "a"), binding("b", "Role", "r", [ALICE], "a"))
    assert index.check(user, query) == Decision(False)


def test_cluster_binding_of_group_and_service_account() -> None:
    index = RuleIndex()
    index.on_role("ADDED", role("reader", READ_PODS), None)
    subjects = [{"kind": "Group", "name": "devs"}, {"kind": "ServiceAccount", "name": "sa", "namespace": "a"}]
    index.on_binding("ADDED", binding("b", "ClusterRole", "reader", subjects), None)
    query = Query("get", "", "pods", namespace="z")
    assert index.check(UserInfo("x", ("devs",)), query).allowed
    assert index.check(UserInfo("system:serviceaccount:a:sa"), query).allowed
    assert not index.check(UserInfo("system:serviceaccount:b:sa"), query).allowed


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            Query("get", "", "pods", "", "default", "x"),
            'pods "x" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "default"',
        ),
        (
            Query("list", "apps", "deployments"),
            'deployments.apps is forbidden: User "u" cannot list resource "deployments" in API group "apps" '
            "at the cluster scope",
        ),
        (
            Query("create", "", "pods", "exec", "d", "x"),
            'pods "x" is forbidden: User "u" cannot create resource "pods/exec" in API group "" in the namespace "d"',
        ),
        (Query("get", path="/metrics"), 'forbidden: User "u" cannot get path "/metrics"'),
    ],
)
def test_refusal_text(query: Query, text: str) -> None:
    assert refuse(UserInfo("u"), query).message == text
    assert refuse(UserInfo("u"), query, "because").message == text + ": because"


NODE = UserInfo("system:node:n1", ("system:nodes",))


def node_chain() -> tuple[ChainAuthorizer, NodeGraph]:
    graph = NodeGraph()
    role_rules = next(o for o in default_objects() if o["metadata"]["name"] == "system:node")["rules"]
    return ChainAuthorizer(RuleIndex(), NodeAuthorizer(graph, tuple(Rule.of(r) for r in role_rules))), graph


def pod(node: str = "n1", generation: int = 1) -> dict:
    return {
        "metadata": {"name": "p", "namespace": "a", "uid": "1", "generation": generation},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}],
            "volumes": [
                {"name": "v", "configMap": {"name": "cm"}},
                {"name": "w", "persistentVolumeClaim": {"claimName": "pvc"}},
                {"name": "t", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
            ],
        },
    }


def test_node_reads_what_its_pods_use() -> None:
    chain, graph = node_chain()
    secret = Query("get", "", "secrets", "", "a", "s")
    assert chain.check(NODE, secret).reason == "no relationship found between node 'n1' and this object"
    graph.on_pod("ADDED", pod(""), None)
    assert not chain.check(NODE, secret).allowed
    graph.on_pod("MODIFIED", pod("n1"), pod(""))
    assert chain.check(NODE, secret).allowed
    assert chain.check(NODE, secret._replace(verb="watch")).allowed
    assert not chain.check(NODE, secret._replace(verb="list", name="")).allowed
    assert not chain.check(NODE, secret._replace(verb="update")).allowed
    assert not chain.check(NODE, secret._replace(namespace="b")).allowed
    assert not chain.check(UserInfo("system:node:n2", ("system:nodes",)), secret).allowed
    for resource, name in (("configmaps", "cm"), ("configmaps", "kube-root-ca.crt"), ("persistentvolumeclaims", "pvc")):
        assert chain.check(NODE, Query("get", "", resource, "", "a", name)).allowed
    assert chain.check(NODE, Query("create", "", "serviceaccounts", "token", "a", "default")).allowed
    assert not chain.check(NODE, Query("get", "", "persistentvolumes", name="pv")).allowed
    volume = {
        "metadata": {"name": "pv"},
        "spec": {
            "claimRef": {"namespace": "a", "name": "pvc"},
            "csi": {"nodePublishSecretRef": {"name": "k", "namespace": "z"}},
        },
    }
    graph.on_volume("ADDED", volume, None)
    assert chain.check(NODE, Query("get", "", "persistentvolumes", name="pv")).allowed
    assert chain.check(NODE, Query("get", "", "secrets", "", "z", "k")).allowed
    graph.on_pod("DELETED", pod(), pod())
    assert not chain.check(NODE, secret).allowed
    assert graph._uses == {}


def test_node_publishes_its_own_devices() -> None:
    chain, graph = node_chain()
    query = Query("update", "resource.k8s.io", "resourceslices", name="s")
    assert not chain.check(NODE, query).allowed
    graph.on_slice("ADDED", {"metadata": {"name": "s"}, "spec": {"nodeName": "n1"}}, None)
    assert chain.check(NODE, query).allowed
    graph.on_slice("MODIFIED", {"metadata": {"name": "s"}, "spec": {"nodeName": "n2"}}, None)
    assert not chain.check(NODE, query).allowed
    assert chain.check(NODE, query._replace(verb="list", name=""), "spec.nodeName=n1").allowed
    assert not chain.check(NODE, query._replace(verb="list", name="")).allowed


@pytest.mark.parametrize(
    ("query", "selector", "allowed"),
    [
        (Query("get", "", "nodes", name="n1"), "", True),
        (Query("get", "", "nodes", name="n2"), "", False),
        (Query("list", "", "nodes"), "", False),
        (Query("watch", "", "nodes"), "metadata.name=n1", True),
        (Query("patch", "", "nodes", "status", name="n1"), "", True),
        (Query("patch", "", "nodes", "status", name="n2"), "", False),
        (Query("delete", "", "nodes", name="n1"), "", False),
        (Query("list", "", "pods"), "spec.nodeName=n1", True),
        (Query("list", "", "pods"), "spec.nodeName=n2", False),
        (Query("list", "", "pods"), "", False),
        (Query("get", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"), "", True),
        (Query("get", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2"), "", False),
        (Query("get", "coordination.k8s.io", "leases", "", "kube-system", "n1"), "", False),
        (Query("list", "", "services"), "", True),
        (Query("create", "", "events", "", "a"), "", True),
        (Query("list", "", "secrets", "", "a"), "", False),
        (Query("create", "authentication.k8s.io", "tokenreviews"), "", True),
        (Query("list", "apps", "deployments"), "", False),
    ],
)
def test_node_requests(query: Query, selector: str, allowed: bool) -> None:
    chain, _ = node_chain()
    assert chain.check(NODE, query, selector).allowed is allowed


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="upstream policy files are not here")
def test_default_policy_is_upstreams() -> None:
    def key(obj: dict) -> tuple:
        return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

    def plain(obj: dict) -> dict:
        out = {k: v for k, v in obj.items() if v}
        if "rules" in out:
            out["rules"] = [{**r, "verbs": sorted(r["verbs"])} for r in out["rules"]]
        return out

    theirs = {key(o): plain(o) for path in UPSTREAM.glob("*.yaml") for o in yaml.safe_load(path.read_text())["items"]}
    ours = {key(o): plain(o) for o in default_objects()}
    extra = {"system:k3s-controller", "kube-apiserver-kubelet-admin"}
    assert {k: v for k, v in ours.items() if k[2] not in extra} == theirs


def test_reconcile_adds_and_keeps() -> None:
    wanted = next(o for o in default_objects() if o["metadata"]["name"] == "system:basic-user")
    live = {**wanted, "rules": [*wanted["rules"][1:], {"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]}
    new = reconcile_role(live, wanted)
    assert new is not None
    assert live["rules"][-1] in new["rules"]
    assert not covers([Rule.of(r) for r in new["rules"]], [Rule.of(r) for r in wanted["rules"]])
    assert reconcile_role(new, wanted) is None
    bound = [o for o in default_objects() if o["metadata"]["name"] == "system:basic-user"][1]
    assert reconcile_binding(bound, bound) is None
    assert reconcile_binding({**bound, "subjects": []}, bound) == bound
