"""PodResizeValidator: no resize beyond what the pod's node could ever give. Source: ``plugin/pkg/admission/podresize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import StatusError, forbidden
from k3sd.apimachinery.podresources import add
from k3sd.apis import resources
from k3sd.apiserver.admission.limits import amounts, pod_total
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

Obj = dict[str, Any]


class PodResizeValidator(Plugin):
    name = "PodResizeValidator"
    resources = (resources.PODS,)
    operations = ("UPDATE",)
    subresources = ("resize",)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def validate(self, attrs: Attributes) -> None:
        pod, old = attrs.obj, attrs.old
        assert pod is not None and old is not None
        name = pod["spec"].get("nodeName")
        if not name or pod["metadata"].get("generation") == old["metadata"].get("generation"):
            return
        node = self._registry.read(resources.NODES, name)
        if node is None:
            raise _refusal(pod, f'node "{name}" not found')
        system = (node["metadata"].get("labels") or {}).get("kubernetes.io/os", "linux")
        if system != "linux":
            text = f'pod resize is only supported on linux nodes, node "{name}" is "{system}"'
            raise _refusal(pod, text, "UnsupportedPlatform")
        if problems := _beyond(pod, node):
            raise _refusal(pod, f"node didn't have enough allocatable resources: {'; '.join(problems)}", "NodeCapacity")


def _beyond(pod: Obj, node: Obj) -> list[str]:
    """What is asked for beyond the whole node, as upstream says it."""
    allocatable = amounts((node.get("status") or {}).get("allocatable"))
    asked = pod_total(pod, "requests")
    asked |= amounts((pod["spec"].get("resources") or {}).get("requests"))
    add(asked, amounts(pod["spec"].get("overhead")))
    none = quantity.Quantity(0)
    problems: list[str] = []
    for name in ("cpu", "memory"):
        wanted, there = asked.get(name, none), allocatable.get(name, none)
        if wanted > there:
            left, right = (q.milli() if name == "cpu" else q.value() for q in (wanted, there))
            problems.append(f"{name}, requested: {left}, allocatable: {right}")
    return problems


def _refusal(pod: Obj, text: str, cause: str = "") -> StatusError:
    error = forbidden("", "pods", pod["metadata"]["name"], text)
    if cause:
        error.details["causes"] = [{"reason": cause}]
    return error
