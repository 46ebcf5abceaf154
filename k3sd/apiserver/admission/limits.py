"""LimitRanger: a namespace's defaults and bounds for containers, pods and claims. Source:
``plugin/pkg/admission/limitranger``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import forbidden
from k3sd.apimachinery.podresources import aggregate
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

Obj = dict[str, Any]
Amounts = dict[str, quantity.Quantity]


class LimitRanger(Plugin):
    name = "LimitRanger"
    resources = (resources.PODS, resources.PERSISTENTVOLUMECLAIMS)
    operations = ("CREATE", "UPDATE")
    subresources = ("", "resize")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def _items(self, attrs: Attributes) -> Iterator[tuple[Obj, Obj]]:
        for limits in self._registry.read_all(resources.LIMITRANGES, attrs.ctx.namespace):
            for item in (limits.get("spec") or {}).get("limits") or ():
                yield limits, item

    def _skips(self, attrs: Attributes) -> bool:
        """An update of a pod changes nothing that limits speak of, unless it resizes it."""
        return attrs.ctx.resource is resources.PODS and attrs.operation == "UPDATE" and attrs.ctx.subresource != "resize"

    async def admit(self, attrs: Attributes) -> None:
        if attrs.ctx.resource is not resources.PODS or attrs.operation != "CREATE":
            return
        pod = attrs.obj
        assert pod is not None
        told: list[str] = []
        for limits, item in self._items(attrs):
            if item.get("type") == "Container":
                told += apply_container_defaults(pod, limits, item)
        if told:
            annotations = pod["metadata"].setdefault("annotations", {})
            annotations["kubernetes.io/limit-ranger"] = "LimitRanger plugin set: " + "; ".join(told)

    async def validate(self, attrs: Attributes) -> None:
        if self._skips(attrs):
            return
        obj = attrs.obj
        assert obj is not None
        problems: list[str] = []
        for _, item in self._items(attrs):
            kind = item.get("type")
            if attrs.ctx.resource is resources.PERSISTENTVOLUMECLAIMS:
                if kind == "PersistentVolumeClaim":
                    requests = (obj["spec"].get("resources") or {}).get("requests") or {}
                    problems += bound_problems(item, kind, amounts(requests), {}, only_requests=True)
            elif kind == "Container":
                for container in (*(obj["spec"].get("initContainers") or ()), *obj["spec"]["containers"]):
                    wanted = container.get("resources") or {}
                    problems += bound_problems(item, kind, amounts(wanted.get("requests")), amounts(wanted.get("limits")))
            elif kind == "Pod":
                problems += bound_problems(item, kind, pod_total(obj, "requests"), pod_total(obj, "limits"))
        if problems:
            meta = obj["metadata"]
            text = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
            resource = attrs.ctx.resource
            assert resource is not None
            raise forbidden("", resource.plural, meta.get("name") or meta.get("generateName") or "", text)


def amounts(values: Obj | None) -> Amounts:
    return {name: quantity.parse(value) for name, value in (values or {}).items()}


def apply_container_defaults(pod: Obj, limits: Obj, item: Obj) -> list[str]:
    """Fill in what containers do not say. Returns what was set, in the words of upstream's annotation."""
    told = []
    spec = pod["spec"]
    for word, containers in (("container", spec["containers"]), ("init container", spec.get("initContainers") or ())):
        for container in containers:
            wanted: Obj = container.setdefault("resources", {})
            for field, text in (("defaultRequest", "request"), ("default", "limit")):
                table: Obj = dict(wanted.get(f"{text}s") or {})
                added = sorted(name for name in item.get(field) or {} if name not in table)
                for name in added:
                    table[name] = item[field][name]
                if table:
                    wanted[f"{text}s"] = table
                if added:
                    told.append(f"{', '.join(added)} {text} for {word} {container['name']}")
    return told


def pod_total(pod: Obj, field: str) -> Amounts:
    return aggregate(pod["spec"], lambda container: amounts((container.get("resources") or {}).get(field)))


def bound_problems(item: Obj, kind: str, requests: Amounts, limits: Amounts, *, only_requests: bool = False) -> Iterable[str]:
    """Upstream's sentences for every bound broken (``minConstraint``, ``maxConstraint``, ``limitRequestRatioConstraint``)."""
    for name, text in (item.get("min") or {}).items():
        bound, request, limit = quantity.parse(text), requests.get(name), limits.get(name)
        if request is None and limit is None:
            yield f"minimum {name} usage per {kind} is {text}.  No request is specified"
        elif request is not None and request < bound:
            yield f"minimum {name} usage per {kind} is {text}, but request is {request}"
        elif limit is not None and limit < bound:
            yield f"minimum {name} usage per {kind} is {text}, but limit is {limit}"
    for name, text in (item.get("max") or {}).items():
        bound, request, limit = quantity.parse(text), requests.get(name), limits.get(name)
        if only_requests:
            if request is not None and bound < request:
                yield f"maximum {name} usage per {kind} is {text}, but request is {request}"
        elif limit is None:
            yield f"maximum {name} usage per {kind} is {text}.  No limit is specified"
        elif bound < limit:
            yield f"maximum {name} usage per {kind} is {text}, but limit is {limit}"
        elif request is not None and bound < request:
            yield f"maximum {name} usage per {kind} is {text}, but request is {request}"
    for name, text in (item.get("maxLimitRequestRatio") or {}).items():
        bound, request, limit = quantity.parse(text), requests.get(name), limits.get(name)
        if request is None or request.is_zero():
            yield f"{name} max limit to request ratio per {kind} is {text}, but no request is specified or request is 0"
        elif limit is None or limit.is_zero():
            yield f"{name} max limit to request ratio per {kind} is {text}, but no limit is specified or limit is 0"
        elif bound.milli() < limit.milli() / request.milli() * 1000:
            ratio = limit.milli() / request.milli()
            yield f"{name} max limit to request ratio per {kind} is {text}, but provided ratio is {ratio:f}"
