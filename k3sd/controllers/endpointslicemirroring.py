"""Mirrors hand-made Endpoints of Services without a selector into EndpointSlices.

Source: ``pkg/controller/endpointslicemirroring``.
"""

from __future__ import annotations

from collections.abc import Iterable

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers import slices
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.endpointslice import SliceWriter, service_of_slice, skeleton
from k3sd.controllers.objects import annotations_of, controller_reference, is_deleting, labels_of, name_of
from k3sd.controllers.slices import Group, group_of

CONTROLLER = "endpointslicemirroring-controller.k8s.io"
LEADER = "control-plane.alpha.kubernetes.io/leader"
_NOT_COPIED = ("kubectl.kubernetes.io/last-applied-configuration", slices.TRIGGER_TIME)
MAX_PER_SUBSET = 1000


def is_mirrored(endpoints: Obj, service: Obj | None) -> bool:
    """Source: ``shouldMirror`` and ``syncEndpoints``."""
    if labels_of(endpoints).get(slices.SKIP_MIRROR) == "true" or LEADER in annotations_of(endpoints):
        return False
    return service is not None and not service["spec"].get("selector") and not is_deleting(service)


def mirror(subsets: Iterable[Obj]) -> dict[Group, list[Obj]]:
    """The endpoints of all subsets, grouped as slices need them."""
    wanted: dict[Group, list[Obj]] = {}
    for subset in subsets:
        ports = [{"name": "", "protocol": "TCP", **port} for port in subset.get("ports") or ()]
        left = MAX_PER_SUBSET
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in (subset.get(field) or ())[:left]:
                left -= 1
                endpoint: Obj = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
                for key in ("hostname", "nodeName", "targetRef"):
                    if address.get(key):
                        endpoint[key] = address[key]
                wanted.setdefault(group_of(slices.address_type(address["ip"]), ports), []).append(endpoint)
    return wanted


class EndpointSliceMirroringController(Controller):
    name = "endpointslice-mirroring-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.writer = SliceWriter(self)
        self.endpoints = self.informer(resources.ENDPOINTS, self.enqueue, self.enqueue_update, self.enqueue)
        self.services = self.informer(resources.SERVICES, self.enqueue, self.enqueue_update, self.enqueue)
        self.slices = self.informer(resources.ENDPOINTSLICES, self._slice, lambda _, one: self._slice(one), self._slice_deleted)
        self.slices.add_index("service", service_of_slice)

    def _slice(self, one: Obj) -> None:
        if labels_of(one).get(slices.MANAGED_BY) == CONTROLLER:
            for key in service_of_slice(one):
                self.queue.add(key)

    def _slice_deleted(self, one: Obj) -> None:
        for key in service_of_slice(one):
            self.writer.observed_deletion(key, one)
        self._slice(one)

    async def reconcile(self, key: str) -> None:
        endpoints, service = self.endpoints.get(key), self.services.get(key)
        cached = [s for s in self.slices.by_index("service", key) if labels_of(s).get(slices.MANAGED_BY) == CONTROLLER]
        existing = self.writer.fresh(key, cached)
        if existing is None:
            return
        if endpoints is None or not is_mirrored(endpoints, service):
            await self.writer.write(key, slices.Plan([], [], existing))
            self.writer.forget(key)
            return
        reference = controller_reference(endpoints, resources.ENDPOINTS)
        metadata = skeleton(endpoints, reference, CONTROLLER, name_of(endpoints), labels_of(endpoints))
        metadata["labels"].pop(slices.SKIP_MIRROR, None)
        annotations = {k: v for k, v in annotations_of(endpoints).items() if k not in _NOT_COPIED}
        if annotations:
            metadata["annotations"] = annotations
        wanted = mirror(endpoints.get("subsets") or ())
        types = sorted({g.address_type for g in wanted})
        await self.writer.write(key, slices.plan(existing, wanted, metadata, types))
