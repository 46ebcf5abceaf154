"""Gives every node its share of the cluster CIDR. Source: ``pkg/controller/nodeipam/ipam`` (range allocator)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import is_deleting, name_of, uid_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MASK_SIZES = {4: 24, 6: 64}


class CIDRSet:
    """The subnets of one cluster CIDR: which are taken, and the next free one. Source: ``cidrset.CidrSet``."""

    def __init__(self, cluster: str, mask_size: int | None = None) -> None:
        self.network: Network = ipaddress.ip_network(cluster)
        self.mask_size = mask_size or MASK_SIZES[self.network.version]
        if self.mask_size < self.network.prefixlen:
            raise ValueError(
                f"cluster CIDR {cluster}: a node's share of /{self.mask_size} is larger than the whole: "
                "choose a larger node-cidr-mask-size"
            )
        self.size = 1 << (self.mask_size - self.network.prefixlen)
        self._used: set[int] = set()
        self._next = 0

    def allocate(self) -> str | None:
        """A free subnet, now taken; None when there is none. Freed ones come last, so that addresses rest."""
        if len(self._used) >= self.size:
            return None
        while self._next in self._used:
            self._next = (self._next + 1) % self.size
        index, self._next = self._next, (self._next + 1) % self.size
        self._used.add(index)
        step = 1 << (self.network.max_prefixlen - self.mask_size)
        base = int(self.network.network_address) + index * step
        return f"{ipaddress.ip_address(base) if self.network.version == 4 else ipaddress.IPv6Address(base)}/{self.mask_size}"

    def occupy(self, cidr: str) -> bool:
        """Take what a node already has; False when it is not ours to give."""
        indexes = self._indexes(cidr)
        self._used.update(indexes)
        return bool(indexes)

    def release(self, cidr: str) -> None:
        self._used.difference_update(self._indexes(cidr))

    def _indexes(self, cidr: str) -> range:
        network = ipaddress.ip_network(cidr, strict=False)
        if network.version != self.network.version or not self._overlaps(network):
            return range(0)
        step = 1 << (self.network.max_prefixlen - self.mask_size)
        first = max(0, int(network.network_address) - int(self.network.network_address)) // step
        last = (int(network.broadcast_address) - int(self.network.network_address)) // step
        return range(first, min(last, self.size - 1) + 1)

    def _overlaps(self, network: Network) -> bool:
        return int(network.network_address) <= int(self.network.broadcast_address) and int(self.network.network_address) <= int(
            network.broadcast_address
        )


def node_cidrs(node: Obj) -> Sequence[str]:
    spec = node.get("spec") or {}
    return spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])


class NodeIPAMController(Controller):
    name = "node-ipam-controller"
    workers = 1

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("cidrAllocator")
        arguments = ctx.settings.controller_manager_args
        self.sets = []
        for cidr in filter(None, ctx.settings.cluster_cidr.split(",")):
            version = ipaddress.ip_network(cidr.strip()).version
            sizes = [arguments.get(name, ()) for name in (f"node-cidr-mask-size-ipv{version}", "node-cidr-mask-size")]
            size = next((int(s[-1]) for s in sizes if s), None)
            self.sets.append(CIDRSet(cidr.strip(), size))
        self.nodes = self.informer(resources.NODES, self.enqueue, self.enqueue_update, self._deleted)
        self._pending: dict[str, list[str]] = {}

    async def run(self) -> None:
        # What nodes already have is taken before the first node gets something new.
        self.nodes.start()
        await self.nodes.wait_synced()
        for node in self.nodes.list():
            self._occupy(node)
        await super().run()

    def _occupy(self, node: Obj) -> None:
        for cidr in node_cidrs(node):
            if not any(s.occupy(cidr) for s in self.sets):
                self.recorder.event(
                    node, "Warning", "CIDRNotInClusterRange", f"podCIDR {cidr} of the node is outside the cluster CIDR"
                )

    def _deleted(self, node: Obj) -> None:
        for cidr in node_cidrs(node) or self._pending.pop(name_of(node), ()):
            for one in self.sets:
                one.release(cidr)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.get(key)
        if node is None or is_deleting(node):
            return
        if node_cidrs(node):
            self._pending.pop(key, None)
            for cidr in node_cidrs(node):
                for one in self.sets:
                    one.occupy(cidr)
            return
        cidrs = self._pending.get(key)
        if cidrs is None:
            found = [one.allocate() for one in self.sets]
            cidrs = [c for c in found if c is not None]
            if len(cidrs) < len(self.sets):
                for cidr in cidrs:
                    for one in self.sets:
                        one.release(cidr)
                self.recorder.event(node, "Normal", "CIDRNotAvailable", "Node has no CIDR available: enlarge cluster-cidr")
                raise ConnectionError(f"node {key}: cluster CIDR {self.ctx.settings.cluster_cidr} is used up")
            # Kept until the node shows it, so that a retry does not take another one.
            self._pending[key] = cidrs
        chosen = cidrs

        def assign(obj: Obj) -> None:
            if not node_cidrs(obj):
                obj.setdefault("spec", {}).update(podCIDR=chosen[0], podCIDRs=list(chosen))

        await update_with_retry(self.client, resources.NODES, key, None, assign, initial=node, uid=uid_of(node))
