"""Pod and node plugins: priority, default tolerations, runtime class, taint of a new node.

Sources: ``plugin/pkg/admission/{priority,defaulttolerationseconds,runtimeclass,nodetaint}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import forbidden
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

Obj = dict[str, Any]
TOLERATION_SECONDS = 300
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
NODE_CRITICAL, CLUSTER_CRITICAL = 2000001000, 2000000000
SYSTEM_CLASSES = {"system-node-critical": NODE_CRITICAL, "system-cluster-critical": CLUSTER_CRITICAL}


def _pod_name(pod: Obj) -> str:
    meta = pod["metadata"]
    return str(meta.get("name") or meta.get("generateName") or "")


class PodPriority(Plugin):
    """``spec.priority`` and ``preemptionPolicy`` come from the class, the class from the pod or the default."""

    name = "Priority"
    resources = (resources.PODS, resources.PRIORITYCLASSES)
    operations = ("CREATE", "UPDATE")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def admit(self, attrs: Attributes) -> None:
        if attrs.ctx.resource is not resources.PODS:
            return
        pod = attrs.obj
        assert pod is not None
        spec: Obj = pod["spec"]
        if attrs.operation == "UPDATE":
            old = (attrs.old or {}).get("spec") or {}
            if spec.get("priority") is None and old.get("priority") is not None:
                spec["priority"] = old["priority"]
            if spec.get("preemptionPolicy") is None and old.get("preemptionPolicy") is not None:
                spec["preemptionPolicy"] = old["preemptionPolicy"]
            return
        found = self._class_of(pod, spec)
        value = found["value"] if found is not None else 0
        policy = (found or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        if found is not None:
            spec["priorityClassName"] = found["metadata"]["name"]
        for field, what, computed in (
            ("priority", "integer value of priority", value),
            ("preemptionPolicy", "string value of PreemptionPolicy", policy),
        ):
            if spec.get(field) is not None and spec[field] != computed:
                text = f"the {what} ({spec[field]}) must not be provided in pod spec; priority admission controller computed "
                raise forbidden("", "pods", _pod_name(pod), f"{text}{computed} from the given PriorityClass name")
        spec["priority"] = value
        spec["preemptionPolicy"] = policy

    def _class_of(self, pod: Obj, spec: Obj) -> Obj | None:
        name = spec.get("priorityClassName") or ""
        if name:
            found = self._registry.read(resources.PRIORITYCLASSES, name)
            if found is None:
                raise forbidden("", "pods", _pod_name(pod), f"no PriorityClass with name {name} was found")
            return found
        defaults = [c for c in self._registry.read_all(resources.PRIORITYCLASSES) if c.get("globalDefault")]
        return min(defaults, key=lambda c: int(c["value"])) if defaults else None

    async def validate(self, attrs: Attributes) -> None:
        if attrs.ctx.resource is not resources.PRIORITYCLASSES:
            return
        obj = attrs.obj
        assert obj is not None
        if not obj.get("globalDefault"):
            return
        for other in self._registry.read_all(resources.PRIORITYCLASSES):
            if other.get("globalDefault") and other["metadata"]["name"] != obj["metadata"]["name"]:
                text = f"PriorityClass {other['metadata']['name']} is already marked as default. Only one default can exist"
                raise forbidden("scheduling.k8s.io", "priorityclasses", obj["metadata"]["name"], text)


class DefaultTolerationSeconds(Plugin):
    """A pod stays five minutes on a node that is not ready or cannot be reached, unless it says otherwise."""

    name = "DefaultTolerationSeconds"
    resources = (resources.PODS,)
    operations = ("CREATE", "UPDATE")

    async def admit(self, attrs: Attributes) -> None:
        pod = attrs.obj
        assert pod is not None
        tolerations: list[Obj] = pod["spec"].get("tolerations") or []
        for key in (NOT_READY, UNREACHABLE):
            covered = any(
                t.get("key", "") in (key, "")
                and t.get("effect", "") in ("NoExecute", "")
                and (t.get("key") or t.get("operator") == "Exists")
                for t in tolerations
            )
            if not covered:
                entry = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}
                tolerations = [*tolerations, entry]
        pod["spec"]["tolerations"] = tolerations


class RuntimeClass(Plugin):
    """Overhead and scheduling rules of the class become the pod's."""

    name = "RuntimeClass"
    resources = (resources.PODS,)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def _class_of(self, pod: Obj) -> Obj | None:
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return None
        found = self._registry.read(resources.RUNTIMECLASSES, name)
        if found is None:
            raise forbidden("", "pods", _pod_name(pod), f'pod rejected: RuntimeClass "{name}" not found')
        return found

    async def admit(self, attrs: Attributes) -> None:
        pod = attrs.obj
        assert pod is not None
        found = self._class_of(pod)
        spec: Obj = pod["spec"]
        if found is None:
            return
        fixed = (found.get("overhead") or {}).get("podFixed")
        if fixed:
            if spec.get("overhead") and not same_resources(spec["overhead"], fixed):
                text = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                raise forbidden("", "pods", _pod_name(pod), text)
            spec["overhead"] = dict(fixed)
        rules = found.get("scheduling") or {}
        selector = dict(spec.get("nodeSelector") or {})
        for key, value in (rules.get("nodeSelector") or {}).items():
            if selector.get(key, value) != value:
                clash = f"{key}={value} vs {key}={selector[key]}"
                text = f"conflict: cannot merge RuntimeClass nodeSelector with pod nodeSelector: {clash}"
                raise forbidden("", "pods", _pod_name(pod), text)
            selector[key] = value
        if selector:
            spec["nodeSelector"] = selector
        extra = [t for t in rules.get("tolerations") or () if t not in (spec.get("tolerations") or ())]
        if extra:
            spec["tolerations"] = [*(spec.get("tolerations") or ()), *(dict(t) for t in extra)]

    async def validate(self, attrs: Attributes) -> None:
        pod = attrs.obj
        assert pod is not None
        found = self._class_of(pod)
        overhead = pod["spec"].get("overhead")
        if overhead and not ((found or {}).get("overhead") or {}).get("podFixed"):
            text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise forbidden("", "pods", _pod_name(pod), text)


def same_resources(one: Obj, other: Obj) -> bool:
    return one.keys() == other.keys() and all(quantity.parse(one[k]) == quantity.parse(other[k]) for k in one)


class TaintNodesByCondition(Plugin):
    """A new node is tainted not-ready; the node lifecycle controller takes the taint away when the node says it is ready."""

    name = "TaintNodesByCondition"
    resources = (resources.NODES,)

    async def admit(self, attrs: Attributes) -> None:
        node = attrs.obj
        assert node is not None
        spec: Obj = node.setdefault("spec", {})
        taint = {"key": NOT_READY, "effect": "NoSchedule"}
        taints: list[Obj] = spec.setdefault("taints", [])
        if not any(t.get("key") == NOT_READY and t.get("effect") == "NoSchedule" for t in taints):
            taints.append(taint)
