"""Writes EndpointSlices for Services with a selector.

Source: ``pkg/controller/endpointslice``, ``staging/src/k8s.io/endpointslice``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.controllers import slices
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import (
    controller_reference,
    has_cause,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
    version_of,
)
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
from k3sd.controllers.slices import Group, Plan, group_of

CONTROLLER = "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"


def build_endpoint(service: Obj, pod: Obj, address: str, zone: str) -> Obj:
    """Source: ``podToEndpoint``."""
    serving, terminating = is_ready(pod), is_deleting(pod)
    ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not terminating)
    out: Obj = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": pod_reference(pod),
    }
    if pod["spec"].get("nodeName"):
        out["nodeName"] = pod["spec"]["nodeName"]
    if zone:
        out["zone"] = zone
    hostname = hostname_of(service, pod)
    if hostname:
        out["hostname"] = hostname
    return out


def address_types(service: Obj) -> list[str]:
    """The Service's families; of one that names none, its addresses'. Source: ``getAddressTypesForService``."""
    spec = service["spec"]
    families = [f for f in spec.get("ipFamilies") or () if f]
    if families:
        return families
    addresses = [a for a in spec.get("clusterIPs") or [spec.get("clusterIP")] if a and a != "None"]
    return list(dict.fromkeys(slices.address_type(a) for a in addresses)) or ["IPv4"]


def skeleton(owner: Obj, owner_resource_reference: Obj, manager: str, service_name: str, labels: Mapping[str, str]) -> Obj:
    """The metadata every slice of a Service carries."""
    return {
        "generateName": f"{service_name}-",
        "namespace": namespace_of(owner),
        "labels": {**labels, slices.SERVICE_NAME: service_name, slices.MANAGED_BY: manager},
        "ownerReferences": [owner_resource_reference],
    }


class SliceWriter:
    """Carries out plans, and knows when the cache has not yet seen what was written. Source: ``EndpointSliceTracker``."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._written: dict[str, dict[str, int]] = {}
        self._deleted: set[str] = set()

    def fresh(self, key: str, cached: list[Obj]) -> list[Obj] | None:
        """The slices as of our last write for ``key``; None while the cache is behind (its event comes)."""
        expected = self._written.get(key, {})
        versions = {name_of(s): int(version_of(s)) for s in cached}
        for name, version in list(expected.items()):
            if versions.get(name, -1) < version:
                return None
            del expected[name]
        return [s for s in cached if uid_of(s) not in self._deleted and not is_deleting(s)]

    def forget(self, key: str) -> None:
        self._written.pop(key, None)

    def observed_deletion(self, key: str, one: Obj) -> None:
        self._deleted.discard(uid_of(one))
        self._written.get(key, {}).pop(name_of(one), None)

    async def write(self, key: str, plan: Plan) -> None:
        client = self._controller.client
        expected = self._written.setdefault(key, {})

        async def create(one: Obj) -> None:
            made = await client.create(resources.ENDPOINTSLICES, one, namespace_of(one))
            expected[name_of(made)] = int(version_of(made))

        async def update(one: Obj) -> None:
            made = await client.update(resources.ENDPOINTSLICES, one)
            expected[name_of(made)] = int(version_of(made))

        async def delete(one: Obj) -> None:
            try:
                self._deleted.add(uid_of(one))
                await client.delete(resources.ENDPOINTSLICES, name_of(one), namespace_of(one), DeleteOptions(uid=uid_of(one)))
            except StatusError as e:
                self._deleted.discard(uid_of(one))
                if e.code != 404:
                    raise

        work = [*map(create, plan.create), *map(update, plan.update), *map(delete, plan.delete)]
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, StatusError) and has_cause(result, "NamespaceTerminating"):
                continue
            if isinstance(result, BaseException):
                raise result


class EndpointSliceController(ServiceController):
    name = "endpointslice-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.writer = SliceWriter(self)
        self.services = self.informer(resources.SERVICES, self.enqueue, self.enqueue_update, self.enqueue)
        self.pods = self.informer(resources.PODS, self.pod_seen, self.pod_updated, self.pod_seen)
        self.nodes = self.informer(resources.NODES, None, self._node_updated, None)
        self.slices = self.informer(resources.ENDPOINTSLICES, self._slice, self._slice_updated, self._slice_deleted)
        self.slices.add_index("service", service_of_slice)

    def _node_updated(self, old: Obj, node: Obj) -> None:
        if labels_of(old).get(ZONE) != labels_of(node).get(ZONE):
            for service in self.services.list():
                self.enqueue(service)

    def _slice(self, one: Obj) -> None:
        if labels_of(one).get(slices.MANAGED_BY) == CONTROLLER:
            for key in service_of_slice(one):
                self.queue.add(key)

    def _slice_updated(self, old: Obj, one: Obj) -> None:
        self._slice(one)
        if service_of_slice(old) != service_of_slice(one) or labels_of(old).get(slices.MANAGED_BY) == CONTROLLER:
            self._slice(old)

    def _slice_deleted(self, one: Obj) -> None:
        for key in service_of_slice(one):
            self.writer.observed_deletion(key, one)
        self._slice(one)

    async def reconcile(self, key: str) -> None:
        service = self.services.get(key)
        if service is None:
            self.writer.forget(key)
            return
        # Without a selector somebody else writes the slices.
        if is_deleting(service) or not service["spec"].get("selector"):
            return
        cached = [s for s in self.slices.by_index("service", key) if labels_of(s).get(slices.MANAGED_BY) == CONTROLLER]
        existing = self.writer.fresh(key, cached)
        if existing is None:
            return
        types = [] if service["spec"].get("type") == "ExternalName" else address_types(service)
        wanted = self._wanted(service, types)
        labels = {k: v for k, v in labels_of(service).items() if k != slices.HEADLESS}
        if is_headless(service):
            labels[slices.HEADLESS] = ""
        reference = controller_reference(service, resources.SERVICES)
        metadata = skeleton(service, reference, CONTROLLER, name_of(service), labels)
        await self.writer.write(key, slices.plan(existing, wanted, metadata, types))

    def _wanted(self, service: Obj, types: list[str]) -> dict[Group, list[Obj]]:
        wanted: dict[Group, list[Obj]] = {}
        for pod in self.pods.list(namespace_of(service)):
            if not selects(service, pod) or not belongs(pod, include_terminating=True):
                continue
            ports = endpoint_ports(service, pod)
            node = self.nodes.get(pod["spec"].get("nodeName") or "")
            zone = labels_of(node).get(ZONE, "") if node is not None else ""
            for type_ in types:
                address = address_of(pod, type_)
                if address:
                    endpoint = build_endpoint(service, pod, address, zone)
                    wanted.setdefault(group_of(type_, ports), []).append(endpoint)
        return wanted


def service_of_slice(one: Obj) -> tuple[str, ...]:
    """Index function: the key of the Service a slice belongs to."""
    name = labels_of(one).get(slices.SERVICE_NAME)
    return (f"{namespace_of(one)}/{name}",) if name else ()
