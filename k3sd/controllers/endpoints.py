"""Writes the (deprecated, still conformant) Endpoints of Services with a selector.

Source: ``pkg/controller/endpoint/endpoints_controller.go``, ``pkg/api/v1/endpoints/util.go``.
"""

from __future__ import annotations

from collections.abc import Iterable

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import object_key, split_key
from k3sd.controllers import slices
from k3sd.controllers.base import Context
from k3sd.controllers.endpointslice import address_types
from k3sd.controllers.objects import has_cause, is_deleting, labels_of, name_of, namespace_of, uid_of
from k3sd.controllers.pods import is_ready
from k3sd.controllers.serviceendpoints import (
    ServiceController,
    address_of,
    belongs,
    endpoint_ports,
    hostname_of,
    is_headless,
    pod_reference,
    selects,
)

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MAX_CAPACITY = 1000


def build_subsets(service: Obj, pods: Iterable[Obj]) -> tuple[list[Obj], bool]:
    """The canonical subsets, and whether addresses had to be left out. Source: ``RepackSubsets``, ``truncateEndpoints``."""
    tolerate = bool(service["spec"].get("publishNotReadyAddresses"))
    type_ = address_types(service)[0]
    addresses: dict[tuple[str, str], Obj] = {}
    ready: dict[tuple[str, str], bool] = {}
    by_port: dict[tuple[str, int, str, str], list[tuple[str, str]]] = {}
    for pod in pods:
        address = address_of(pod, type_)
        if not address or not belongs(pod, include_terminating=tolerate):
            continue
        entry: Obj = {"ip": address, "targetRef": pod_reference(pod)}
        if pod["spec"].get("nodeName"):
            entry["nodeName"] = pod["spec"]["nodeName"]
        if hostname_of(service, pod):
            entry["hostname"] = hostname_of(service, pod)
        identity = (address, uid_of(pod))
        addresses[identity] = entry
        ready[identity] = tolerate or is_ready(pod)
        ports = endpoint_ports(service, pod)
        if not ports and not service["spec"].get("ports") and is_headless(service):
            by_port.setdefault(("", -1, "", ""), []).append(identity)
        for port in ports:
            key = (port["name"], port["port"], port["protocol"], port.get("appProtocol", ""))
            by_port.setdefault(key, []).append(identity)
    # Ports with the same addresses share a subset.
    groups: dict[tuple[tuple[str, str], ...], list[tuple[str, int, str, str]]] = {}
    for key, found in by_port.items():
        ordered = tuple(sorted(set(found), key=lambda i: (slices.sort_key(i[0]), i[1])))
        groups.setdefault(ordered, []).append(key)
    room, cut = MAX_CAPACITY, False
    subsets: list[Obj] = []
    for identities, keys in sorted(groups.items(), key=lambda item: ([slices.sort_key(i[0]) for i in item[0]], item[1])):
        subset: Obj = {}
        chosen = sorted(identities, key=lambda i: not ready[i])[:room]
        cut = cut or len(chosen) < len(identities)
        inside = set(chosen)
        room -= len(chosen)
        for field, wanted in (("addresses", True), ("notReadyAddresses", False)):
            entries = [addresses[i] for i in identities if i in inside and ready[i] is wanted]
            if entries:
                subset[field] = entries
        ports = [_port(*key) for key in sorted(keys) if key[1] >= 0]
        if ports:
            subset["ports"] = ports
        if "addresses" in subset or "notReadyAddresses" in subset:
            subsets.append(subset)
    return subsets, cut


def _port(name: str, number: int, protocol: str, app_protocol: str) -> Obj:
    out: Obj = {"name": name, "port": number, "protocol": protocol, "appProtocol": app_protocol}
    return {k: v for k, v in out.items() if v != ""}


class EndpointsController(ServiceController):
    name = "endpoints-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("endpoint-controller")
        self.services = self.informer(resources.SERVICES, self.enqueue, self.enqueue_update, self._service_deleted)
        self.pods = self.informer(resources.PODS, self.pod_seen, self.pod_updated, self.pod_seen)
        # At start this also finds Endpoints whose Service went while nobody watched.
        self.endpoints = self.informer(resources.ENDPOINTS, self.enqueue, self.enqueue_update, self.enqueue)

        self._orphaned: set[str] = set()

    def _service_deleted(self, service: Obj) -> None:
        self._orphaned.add(object_key(service))
        self.enqueue(service)

    async def reconcile(self, key: str) -> None:
        namespace, name = split_key(key)
        service = self.services.get(key)
        current = self.endpoints.get(key)
        if service is None:
            # Hand-made Endpoints go with their Service too, but may live without ever having had one.
            if current is not None and (key in self._orphaned or labels_of(current).get(MANAGED_BY) == MANAGER):
                await self._delete(current)
            self._orphaned.discard(key)
            return
        self._orphaned.discard(key)
        if is_deleting(service) or not service["spec"].get("selector") or service["spec"].get("type") == "ExternalName":
            return
        matching = [p for p in self.pods.list(namespace) if selects(service, p)]
        subsets, cut = build_subsets(service, matching)
        wanted = self._build(service, current, subsets, cut)
        if current is not None and all(current.get(k) == wanted.get(k) for k in ("subsets", "metadata")):
            return
        try:
            if current is None:
                await self.client.create(resources.ENDPOINTS, wanted, namespace)
            else:
                await self.client.update(resources.ENDPOINTS, wanted)
        except StatusError as e:
            if has_cause(e, "NamespaceTerminating"):
                return
            if e.reason == "AlreadyExists":
                # The cache is behind our own creation: its event brings us back.
                return
            if e.code != 409:
                what = "create" if current is None else "update"
                self.recorder.event(
                    current or service,
                    "Warning",
                    f"FailedTo{what.title()}Endpoint",
                    f"Failed to {what} endpoint for service {namespace}/{name}: {e.message}",
                )
            raise

    def _build(self, service: Obj, current: Obj | None, subsets: list[Obj], cut: bool) -> Obj:
        labels = {k: v for k, v in labels_of(service).items() if k != slices.HEADLESS}
        labels[MANAGED_BY] = MANAGER
        if is_headless(service):
            labels[slices.HEADLESS] = ""
        metadata: Obj = dict(current["metadata"]) if current else {"name": name_of(service), "namespace": namespace_of(service)}
        metadata["labels"] = labels
        annotations = dict(metadata.get("annotations") or {})
        if cut:
            annotations[OVER_CAPACITY] = "truncated"
        else:
            annotations.pop(OVER_CAPACITY, None)
        if annotations:
            metadata["annotations"] = annotations
        else:
            metadata.pop("annotations", None)
        out: Obj = {"kind": "Endpoints", "apiVersion": "v1", "metadata": metadata}
        if subsets:
            out["subsets"] = subsets
        return out

    async def _delete(self, endpoints: Obj) -> None:
        try:
            await self.client.delete(
                resources.ENDPOINTS, name_of(endpoints), namespace_of(endpoints), DeleteOptions(uid=uid_of(endpoints))
            )
        except StatusError as e:
            if e.code != 404:
                raise
