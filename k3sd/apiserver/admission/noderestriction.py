"""NodeRestriction: a kubelet changes its own Node, its own pods and its own lease, and little about them.

Source: ``plugin/pkg/admission/noderestriction``. Authorization has already limited verbs and resources (Node authorizer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k3sd.apimachinery.errors import Obj, StatusError, forbidden
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes, UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

KUBELET_LABELS = frozenset(
    {
        "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch", "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type", "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
    }
)  # fmt: skip
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


def node_name_of(user: UserInfo) -> str | None:
    """The node a user is; empty for a member of system:nodes without a name; None for anybody else."""
    if "system:nodes" not in user.groups:
        return None
    return user.name.removeprefix("system:node:") if user.name.startswith("system:node:") else ""


class NodeRestriction(Plugin):
    name = "NodeRestriction"
    operations = ("CREATE", "UPDATE", "DELETE")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        return resource in (
            resources.PODS, resources.NODES, resources.PERSISTENTVOLUMECLAIMS, resources.SERVICEACCOUNTS,
            resources.LEASES, resources.CSINODES, resources.RESOURCESLICES,
        )  # fmt: skip

    async def admit(self, attrs: Attributes) -> None:
        node = node_name_of(attrs.ctx.user)
        if node is None:
            return
        if not node:
            raise self._refuse(attrs, f'could not determine node from user "{attrs.ctx.user.name}"')
        resource = attrs.ctx.resource
        if resource is resources.PODS:
            self._pod(attrs, node)
        elif resource is resources.NODES:
            self._node(attrs, node)
        elif resource is resources.SERVICEACCOUNTS:
            self._token(attrs, node)
        elif resource is resources.LEASES:
            self._own(attrs, node, "lease", attrs.ctx.namespace == "kube-node-lease")
        elif resource is resources.CSINODES:
            self._own(attrs, node, "csinode", True)
        elif resource is resources.RESOURCESLICES:
            self._slice(attrs, node)

    @staticmethod
    def _refuse(attrs: Attributes, detail: str) -> StatusError:
        resource = attrs.ctx.resource
        assert resource is not None
        name = attrs.ctx.name or ((attrs.obj or {}).get("metadata") or {}).get("name", "")
        return forbidden(resource.group, resource.plural, name, detail)

    def _own(self, attrs: Attributes, node: str, what: str, right_place: bool) -> None:
        name = attrs.ctx.name or ((attrs.obj or {}).get("metadata") or {}).get("name", "")
        if name != node or not right_place:
            raise self._refuse(attrs, f'node "{node}" can only access {what} with the same name as the requesting node')

    def _slice(self, attrs: Attributes, node: str) -> None:
        """A driver on a node publishes the devices of that node only."""
        slice_ = attrs.obj or attrs.old or self._registry.read(resources.RESOURCESLICES, attrs.ctx.name) or {}
        if (slice_.get("spec") or {}).get("nodeName") != node:
            what = "delete" if attrs.operation == "DELETE" else attrs.operation.lower()
            raise self._refuse(attrs, f"can only {what} ResourceSlice with the same NodeName as the requesting node")

    def _pod(self, attrs: Attributes, node: str) -> None:
        subresource, pod, old = attrs.ctx.subresource, attrs.obj or {}, attrs.old or {}
        if subresource == "" and attrs.operation == "CREATE":
            self._mirror_pod(attrs, node, pod)
        elif subresource == "" and attrs.operation == "DELETE":
            current = old or self._registry.read(resources.PODS, attrs.ctx.name, attrs.ctx.namespace) or {}
            if current and (current.get("spec") or {}).get("nodeName") != node:
                raise self._refuse(attrs, f'node "{node}" can only delete pods with spec.nodeName set to itself')
        elif subresource == "status":
            if (old.get("spec") or {}).get("nodeName") != node:
                raise self._refuse(attrs, f'node "{node}" can only update pod status for pods with spec.nodeName set to itself')
            if (pod.get("metadata") or {}).get("labels", {}) != (old.get("metadata") or {}).get("labels", {}):
                raise self._refuse(attrs, f'node "{node}" cannot update labels through pod status')
        elif subresource == "eviction":
            current = self._registry.read(resources.PODS, attrs.ctx.name, attrs.ctx.namespace) or {}
            if (current.get("spec") or {}).get("nodeName") != node:
                raise self._refuse(attrs, f"node {node} can only evict pods with spec.nodeName set to itself")
        else:
            text = f'unexpected operation "{attrs.operation}", node "{node}" can only create and delete mirror pods'
            raise self._refuse(attrs, text)

    def _mirror_pod(self, attrs: Attributes, node: str, pod: Obj) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        if MIRROR_ANNOTATION not in (meta.get("annotations") or {}):
            text = f'pod does not have "{MIRROR_ANNOTATION}" annotation, node "{node}" can only create mirror pods'
            raise self._refuse(attrs, text)
        if spec.get("nodeName") != node:
            raise self._refuse(attrs, f'node "{node}" can only create pods with spec.nodeName set to itself')
        owners: list[Obj] = meta.get("ownerReferences") or []
        mine = len(owners) == 1 and owners[0].get("kind") == "Node" and owners[0].get("name") == node
        if not mine or not owners[0].get("controller"):
            text = f'node "{node}" can only create pods with an owner reference set to itself'
            raise self._refuse(attrs, text)
        current = self._registry.read(resources.NODES, node)
        if current is None or current["metadata"].get("uid") != owners[0].get("uid"):
            raise self._refuse(attrs, f"node {node} UID mismatch")
        if spec.get("serviceAccountName"):
            raise self._refuse(attrs, f'node "{node}" can not create pods that reference a service account')
        for volume in spec.get("volumes") or ():
            for source in ("secret", "configMap", "persistentVolumeClaim", "projected"):
                if source in volume:
                    raise self._refuse(attrs, f'node "{node}" can not create pods that reference {source.lower()}s')

    def _node(self, attrs: Attributes, node: str) -> None:
        new, old = attrs.obj or {}, attrs.old or {}
        name = attrs.ctx.name or (new.get("metadata") or {}).get("name", "")
        if name != node:
            raise self._refuse(attrs, f'node "{node}" is not allowed to modify node "{name}"')
        if attrs.operation == "CREATE":
            labels, before = _labels(new), {}
            if (new.get("spec") or {}).get("configSource"):
                raise self._refuse(attrs, f'node "{node}" is not allowed to create pods with a non-nil configSource')
        elif attrs.operation == "UPDATE":
            labels, before = _labels(new), _labels(old)
            if (new.get("spec") or {}).get("taints") != (old.get("spec") or {}).get("taints"):
                raise self._refuse(attrs, f'node "{node}" is not allowed to modify taints')
            if new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences"):
                raise self._refuse(attrs, f'node "{node}" is not allowed to modify its ownerReferences')
        else:
            return
        changed = {key for key in labels.keys() | before.keys() if labels.get(key) != before.get(key)}
        denied = sorted(key for key in changed if not label_allowed(key))
        if denied:
            raise self._refuse(attrs, f"is not allowed to modify labels: {', '.join(denied)}")

    def _token(self, attrs: Attributes, node: str) -> None:
        """A node asks for tokens of its own pods only."""
        if attrs.ctx.subresource != "token" or attrs.operation != "CREATE":
            return
        bound: dict[str, Any] = ((attrs.obj or {}).get("spec") or {}).get("boundObjectRef") or {}
        if bound.get("kind") != "Pod" or bound.get("apiVersion") != "v1":
            raise self._refuse(attrs, "node requested token not bound to a pod")
        pod = self._registry.read(resources.PODS, bound.get("name", ""), attrs.ctx.namespace)
        if pod is None or pod["metadata"].get("uid") != bound.get("uid"):
            raise self._refuse(attrs, "node requested token with a different UID than the pod it is bound to")
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise self._refuse(attrs, "node requested token bound to a pod scheduled on a different node")


def _labels(obj: Obj) -> dict[str, str]:
    return (obj.get("metadata") or {}).get("labels") or {}


def label_allowed(key: str) -> bool:
    """Labels of kubernetes.io are the cluster's, but for a few and the kubelet's own namespaces. K3s's role labels are set by
    the server's own components, not with the kubelet's identity."""
    domain, found, _ = key.partition("/")
    if not found:
        return True
    if domain == "node-restriction.kubernetes.io" or domain.endswith(".node-restriction.kubernetes.io"):
        return False
    if not any(domain == d or domain.endswith("." + d) for d in ("kubernetes.io", "k8s.io")):
        return True
    if key in KUBELET_LABELS:
        return True
    own = ("kubelet.kubernetes.io", "node.kubernetes.io")
    return any(domain == d or domain.endswith("." + d) for d in own)
