"""What a Service and a pod make of each other: addresses, ports, readiness. Shared by Endpoints and EndpointSlices.

Source: ``staging/src/k8s.io/endpointslice/util``, ``pkg/controller/util/endpoint``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.client.informer import Informer
from k3sd.controllers.base import Controller
from k3sd.controllers.objects import is_deleting, labels_of, name_of, namespace_of, uid_of
from k3sd.controllers.pods import is_finished, is_ready
from k3sd.controllers.slices import address_type


def selects(service: Obj, pod: Obj) -> bool:
    selector: Mapping[str, str] = service["spec"].get("selector") or {}
    labels = labels_of(pod)
    return bool(selector) and all(labels.get(k) == v for k, v in selector.items())


def is_headless(service: Obj) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def pod_addresses(pod: Obj) -> list[str]:
    status = pod.get("status") or {}
    found = [str(entry["ip"]) for entry in status.get("podIPs") or () if entry.get("ip")]
    return found or ([str(status["podIP"])] if status.get("podIP") else [])


def belongs(pod: Obj, *, include_terminating: bool) -> bool:
    """Whether the pod is listed at all, ready or not. Source: ``ShouldPodBeInEndpoints``."""
    if is_finished(pod) or not pod_addresses(pod):
        return False
    return include_terminating or not is_deleting(pod)


def address_of(pod: Obj, type_: str) -> str:
    """The pod's address of this family, or empty."""
    return next((a for a in pod_addresses(pod) if address_type(a) == type_), "")


def resolve_port(pod: Obj, service_port: Obj) -> int | None:
    """The pod's number behind a service port; None when it has no port of that name. Source: ``FindPort``."""
    target = service_port.get("targetPort")
    if target is None or target in (0, ""):
        return int(service_port["port"])
    if isinstance(target, int):
        return target
    protocol = service_port.get("protocol", "TCP")
    for container in _serving_containers(pod):
        for port in container.get("ports") or ():
            if port.get("name") == target and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _serving_containers(pod: Obj) -> Iterable[Obj]:
    yield from pod["spec"].get("containers") or ()
    for container in pod["spec"].get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            yield container


def endpoint_ports(service: Obj, pod: Obj) -> list[Obj]:
    """The ports of the pod as EndpointSlices and Endpoints list them."""
    out: list[Obj] = []
    for port in service["spec"].get("ports") or ():
        number = resolve_port(pod, port)
        if number is None:
            continue
        entry: Obj = {"name": port.get("name", ""), "protocol": port.get("protocol", "TCP"), "port": number}
        if port.get("appProtocol"):
            entry["appProtocol"] = port["appProtocol"]
        out.append(entry)
    return out


def hostname_of(service: Obj, pod: Obj) -> str:
    """The pod's own name below the Service, when it asks for one."""
    spec = pod["spec"]
    if spec.get("hostname") and spec.get("subdomain") == name_of(service):
        return str(spec["hostname"])
    return ""


def pod_reference(pod: Obj) -> Obj:
    return {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)}


def relevant(pod: Obj) -> tuple[Any, ...]:
    """All that an endpoint shows of a pod: equal means that no Service can notice the difference."""
    spec = pod["spec"]
    return (
        is_deleting(pod),
        is_finished(pod),
        is_ready(pod),
        pod_addresses(pod),
        spec.get("nodeName"),
        spec.get("hostname"),
        spec.get("subdomain"),
    )


class ServiceController(Controller):
    """One that looks at a Service again when a pod that it selects changes. ``services`` is set by its constructor."""

    services: Informer

    def pod_seen(self, pod: Obj) -> None:
        for service in self.services.list(namespace_of(pod)):
            if selects(service, pod):
                self.enqueue(service)

    def pod_updated(self, old: Obj, pod: Obj) -> None:
        if labels_of(old) != labels_of(pod):
            self.pod_seen(old)
            self.pod_seen(pod)
        elif relevant(old) != relevant(pod):
            self.pod_seen(pod)
