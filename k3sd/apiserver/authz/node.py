"""The Node authorizer: a node reads what its own pods refer to, and nothing else.

Source: ``plugin/pkg/auth/authorizer/node`` (``node_authorizer.go``, ``graph.go``), with AuthorizeNodeWithSelectors. The index
follows pods, volumes and attachments by their events: a request costs a few look-ups, whatever the size of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.selectors import parse_field_selector
from k3sd.apis import resources
from k3sd.apiserver.authz.rules import Query, Rule
from k3sd.apiserver.follow import follow
from k3sd.apiserver.request import Decision, UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

NODE_USER_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
LEASE_NAMESPACE = "kube-node-lease"

Ref = tuple[str, str, str]
"""``(resource, namespace, name)``."""


class _PodRefs(NamedTuple):
    uid: str
    generation: int
    node: str
    refs: frozenset[Ref]


def node_name(user: UserInfo) -> str:
    """The node behind an identity, "" when it is not one. ``NodeIdentifier``."""
    if user.name.startswith(NODE_USER_PREFIX) and NODES_GROUP in user.groups:
        return user.name[len(NODE_USER_PREFIX) :]
    return ""


def pod_references(pod: Obj) -> Iterator[Ref]:
    """``VisitPodSecretNames``, ``VisitPodConfigmapNames`` and the claims and service account of a pod."""
    namespace, spec = pod["metadata"].get("namespace", ""), pod.get("spec") or {}
    if spec.get("serviceAccountName"):
        yield "serviceaccounts", namespace, spec["serviceAccountName"]
    for ref in spec.get("imagePullSecrets") or ():
        yield "secrets", namespace, ref.get("name", "")
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(key) or ():
            for source in container.get("envFrom") or ():
                for field, resource in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                    if field in source:
                        yield resource, namespace, source[field].get("name", "")
            for var in container.get("env") or ():
                value = var.get("valueFrom") or {}
                for field, resource in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
                    if field in value:
                        yield resource, namespace, value[field].get("name", "")
    for volume in spec.get("volumes") or ():
        yield from _volume_references(pod["metadata"]["name"], namespace, volume)
    statuses = {c.get("name"): c.get("resourceClaimName") for c in (pod.get("status") or {}).get("resourceClaimStatuses") or ()}
    for claim in spec.get("resourceClaims") or ():
        name = claim.get("resourceClaimName") or statuses.get(claim.get("name"))
        if name:
            yield "resourceclaims", namespace, name


def _volume_references(pod_name: str, namespace: str, volume: Obj) -> Iterator[Ref]:
    for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
        if source.get("configMap"):
            yield "configmaps", namespace, source["configMap"].get("name", "")
        secret = source.get("secret")
        if secret:
            yield "secrets", namespace, secret.get("secretName") or secret.get("name", "")
    if volume.get("persistentVolumeClaim"):
        yield "persistentvolumeclaims", namespace, volume["persistentVolumeClaim"].get("claimName", "")
    if volume.get("ephemeral"):
        yield "persistentvolumeclaims", namespace, f"{pod_name}-{volume.get('name', '')}"
    for key in ("azureFile", "cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos", "cinder", "csi"):
        source = volume.get(key) or {}
        ref = source.get("secretRef") or source.get("nodePublishSecretRef")
        if isinstance(ref, dict) and ref.get("name"):
            yield "secrets", namespace, ref["name"]
        if source.get("secretName"):
            yield "secrets", namespace, source["secretName"]


class NodeGraph:
    """Which node may know of which object. ``uses[ref][node]`` counts the pods of the node that refer to it."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], _PodRefs] = {}
        self._uses: dict[Ref, dict[str, int]] = {}
        self._claims: dict[str, tuple[str, str]] = {}
        self._volume_secrets: dict[tuple[str, str], set[str]] = {}
        self._attachments: dict[str, str] = {}
        self._slices: dict[str, str] = {}

    def attach(self, registry: Registry) -> None:
        """Fill from the cache and follow it."""
        follow(registry, resources.PODS, self.on_pod)
        follow(registry, resources.PERSISTENTVOLUMES, self.on_volume)
        follow(registry, resources.VOLUMEATTACHMENTS, self.on_attachment)
        follow(registry, resources.RESOURCESLICES, self.on_slice)

    def on_pod(self, event: str, pod: Obj, old: Obj | None) -> None:
        meta, spec = pod["metadata"], pod.get("spec") or {}
        key = (meta.get("namespace", ""), meta["name"])
        known = self._pods.get(key)
        node = spec.get("nodeName", "")
        same_spec = known is not None and known[:3] == (meta.get("uid"), meta.get("generation"), node)
        if event != "DELETED" and same_spec and not spec.get("resourceClaims"):
            return
        if known is not None:
            for ref in known.refs:
                users = self._uses.get(ref, {})
                users[known.node] = users.get(known.node, 1) - 1
                if not users[known.node]:
                    del users[known.node]
                if not users:
                    self._uses.pop(ref, None)
            del self._pods[key]
        if event == "DELETED" or not node:
            return
        mirror = "kubernetes.io/config.mirror" in (meta.get("annotations") or {})
        # A mirror pod is made by the node itself: it must not open what the node could not read.
        refs = frozenset((("pods", *key),)) if mirror else frozenset((*pod_references(pod), ("pods", *key)))
        for ref in refs:
            users = self._uses.setdefault(ref, {})
            users[node] = users.get(node, 0) + 1
        self._pods[key] = _PodRefs(meta.get("uid", ""), meta.get("generation", 0), node, refs)

    def on_volume(self, event: str, volume: Obj, old: Obj | None) -> None:
        name = volume["metadata"]["name"]
        for names in self._volume_secrets.values():
            names.discard(name)
        self._claims.pop(name, None)
        if event == "DELETED":
            return
        spec = volume.get("spec") or {}
        claim = spec.get("claimRef")
        if not claim:
            return
        self._claims[name] = (claim.get("namespace", ""), claim.get("name", ""))
        for source in spec.values():
            if not isinstance(source, dict):
                continue
            for key in ("secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"):
                ref = source.get(key)
                if isinstance(ref, dict) and ref.get("name"):
                    where = (ref.get("namespace") or claim.get("namespace", ""), ref["name"])
                    self._volume_secrets.setdefault(where, set()).add(name)

    def on_attachment(self, event: str, attachment: Obj, old: Obj | None) -> None:
        name = attachment["metadata"]["name"]
        if event == "DELETED":
            self._attachments.pop(name, None)
        else:
            self._attachments[name] = (attachment.get("spec") or {}).get("nodeName", "")

    def on_slice(self, event: str, obj: Obj, old: Obj | None) -> None:
        name, node = obj["metadata"]["name"], (obj.get("spec") or {}).get("nodeName", "")
        if event == "DELETED" or not node:
            self._slices.pop(name, None)
        else:
            self._slices[name] = node

    def related(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """True when a pod of ``node`` leads to the object."""
        if resource == "persistentvolumes":
            claim = self._claims.get(name)
            return claim is not None and self.related(node, "persistentvolumeclaims", *claim)
        if resource == "volumeattachments":
            return self._attachments.get(name) == node
        if resource == "resourceslices":
            return self._slices.get(name) == node
        if node in self._uses.get((resource, namespace, name), ()):
            return True
        if resource == "secrets":
            volumes = self._volume_secrets.get((namespace, name), ())
            return any(self.related(node, "persistentvolumes", "", v) for v in volumes)
        return False


_READ = ("get", "list", "watch")
_OWN = ("get", "create", "update", "patch", "delete")


class NodeAuthorizer:
    """``Authorize`` for identities that are nodes. ``rules``: ClusterRole system:node, for what has no owner."""

    def __init__(self, graph: NodeGraph, rules: tuple[Rule, ...]) -> None:
        self.graph = graph
        self.rules = rules

    def check(self, user: UserInfo, query: Query, field_selector: str = "") -> Decision:
        """``Decision(False, "")`` means no opinion."""
        node = node_name(user)
        if not node:
            return Decision(False)
        if query.path:
            return self._by_rules(query)
        answer = self._special(node, query, field_selector)
        return self._by_rules(query) if answer is None else answer

    def _by_rules(self, query: Query) -> Decision:
        return Decision(any(rule.allows(query) for rule in self.rules))

    def _special(self, node: str, q: Query, selector: str) -> Decision | None:
        key = (q.group, q.resource)
        if key in (("", "secrets"), ("", "configmaps")):
            return self._related(node, q, _READ)
        if key == ("", "persistentvolumeclaims"):
            return self._related(node, q, ("get", "update", "patch") if q.subresource == "status" else ("get",), "status")
        if key in (
            ("", "persistentvolumes"),
            ("resource.k8s.io", "resourceclaims"),
            ("storage.k8s.io", "volumeattachments"),
        ):
            return self._related(node, q, ("get",))
        if key == ("", "serviceaccounts"):
            if q.subresource == "token":
                return self._related(node, q, ("create",), "token")
            return self._related(node, q, ("get",))
        if key == ("coordination.k8s.io", "leases"):
            return self._own_named(node, q, LEASE_NAMESPACE)
        if key == ("storage.k8s.io", "csinodes"):
            return self._own_named(node, q, "")
        if key == ("resource.k8s.io", "resourceslices"):
            return self._slices(node, q, selector)
        if key == ("", "nodes"):
            return self._nodes(node, q, selector)
        if key == ("", "pods"):
            return self._pods(node, q, selector)
        return None

    def _related(self, node: str, q: Query, verbs: tuple[str, ...], subresource: str = "") -> Decision:
        if q.verb not in verbs:
            return Decision(False, f"can only {'/'.join(verbs)} individual resources of this type")
        if q.subresource and q.subresource != subresource:
            return Decision(False, "cannot read subresource")
        if not q.name:
            return Decision(False, "No Object name found")
        if self.graph.related(node, q.resource, q.namespace, q.name):
            return Decision(True)
        return Decision(False, f"no relationship found between node '{node}' and this object")

    def _own_named(self, node: str, q: Query, namespace: str) -> Decision:
        if q.verb not in _OWN:
            return Decision(
                False, f"can only get, create, update, patch, or delete a {'node lease' if namespace else 'CSINode'}"
            )
        if q.subresource:
            return Decision(False, "cannot authorize subresources")
        if namespace and q.namespace != namespace:
            return Decision(False, f'can only access leases in the "{namespace}" system namespace')
        # A create names its object in the body, which NodeRestriction checks.
        if q.verb != "create" and q.name != node:
            return Decision(
                False, f"can only access {'node lease' if namespace else 'CSINode'} with the same name as the requesting node"
            )
        return Decision(True)

    def _slices(self, node: str, q: Query, selector: str) -> Decision:
        if q.subresource:
            return Decision(False, "cannot authorize ResourceSlice subresources")
        if q.verb == "create":
            return Decision(True)
        if q.verb in ("get", "update", "patch", "delete"):
            if self.graph.related(node, "resourceslices", "", q.name):
                return Decision(True)
            return Decision(False, f"no relationship found between node '{node}' and this object")
        if q.verb in ("watch", "list", "deletecollection") and ("spec.nodeName", "=", node) in _terms(selector):
            return Decision(True)
        return Decision(False, "can only list/watch/deletecollection resourceslices with nodeName field selector")

    def _nodes(self, node: str, q: Query, selector: str) -> Decision:
        if q.subresource == "status" and q.verb in ("update", "patch", "get"):
            own = q.name == node
            return Decision(own, "" if own else f"node '{node}' cannot {q.verb} the status of another node")
        if q.subresource:
            return Decision(False)
        if q.verb == "create":
            return Decision(True)
        if q.verb in ("get", "update", "patch"):
            return (
                Decision(True)
                if q.name == node
                else Decision(False, f"node '{node}' cannot read '{q.name}', only its own Node object")
            )
        if q.verb in ("list", "watch"):
            if q.name == node or ("metadata.name", "=", node) in _terms(selector):
                return Decision(True)
            return Decision(False, f"node '{node}' cannot read all nodes, only its own Node object")
        return Decision(False)

    def _pods(self, node: str, q: Query, selector: str) -> Decision:
        if q.subresource == "status":
            return Decision(q.verb in ("update", "patch"))
        if q.subresource == "eviction":
            return Decision(q.verb == "create")
        if q.subresource:
            return Decision(False)
        if q.verb in ("create", "delete"):
            return Decision(True)
        if q.verb == "get":
            if self.graph.related(node, "pods", q.namespace, q.name):
                return Decision(True)
            return Decision(False, f"no relationship found between node '{node}' and this object")
        if q.verb in ("list", "watch"):
            if ("spec.nodeName", "=", node) in _terms(selector):
                return Decision(True)
            return Decision(False, "can only list/watch pods with spec.nodeName field selector")
        return Decision(False)


def _terms(selector: str) -> set[tuple[str, str, str]]:
    if not selector:
        return set()
    return {
        (field, "=" if op in ("=", "==") else op, value) for field, op, value in parse_field_selector(selector).requirements
    }
