"""Notices nodes that fall silent and taints nodes by their conditions.

A node lives as long as its Lease, or its Ready condition's heartbeat, changes; ages are measured by our own clock from when we
saw the change. Source: ``pkg/controller/nodelifecycle``.
"""

from __future__ import annotations

import asyncio

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers import nodehealth
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import condition_status, find_condition, is_deleting, name_of, namespace_of, uid_of

GRACE_SECONDS = 40.0
STARTUP_SECONDS = 60.0
LEASES = "kube-node-lease"


def node_index(pod: Obj) -> tuple[str, ...]:
    """Index function: the node a pod is bound to."""
    node = (pod.get("spec") or {}).get("nodeName")
    return (node,) if node else ()


def duration_argument(ctx: Context, name: str, default: float) -> float:
    values = ctx.settings.controller_manager_args.get(name, ())
    return timefmt.parse_duration(values[-1]) if values else default


class _Health:
    """When we last saw a sign of life, and what it looked like."""

    __slots__ = ("heartbeat", "renewed", "seen")

    def __init__(self) -> None:
        self.renewed = ""
        self.heartbeat = ""
        self.seen = 0.0


class NodeLifecycleController(Controller):
    name = "node-lifecycle-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder("node-controller")
        self.grace = duration_argument(ctx, "node-monitor-grace-period", GRACE_SECONDS)
        self.startup = duration_argument(ctx, "node-startup-grace-period", STARTUP_SECONDS)
        self._health: dict[str, _Health] = {}
        self._evicted_at: dict[str, float] = {}
        self.nodes = self.informer(resources.NODES, self._node_added, self._node_updated, self._node_deleted)
        self.leases = self.informer(resources.LEASES, self._lease, lambda _, lease: self._lease(lease), namespace=LEASES)
        self.pods = self.informer(resources.PODS)
        self.pods.add_index("node", node_index)

    # -- signs of life

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _health_of(self, name: str) -> _Health:
        health = self._health.get(name)
        if health is None:
            health = self._health[name] = _Health()
            health.seen = self._now()
        return health

    def _lease(self, lease: Obj) -> None:
        renewed = str((lease.get("spec") or {}).get("renewTime") or "")
        health = self._health_of(name_of(lease))
        if renewed == health.renewed:
            return
        health.renewed, health.seen = renewed, self._now()
        node = self.nodes.get(name_of(lease))
        # A silent node that speaks again posts its own status; only the timer is ours.
        if node is not None and condition_status(node, "Ready") == "Unknown":
            self.queue.add(name_of(lease))

    def _node(self, node: Obj) -> None:
        condition = find_condition(node, "Ready")
        heartbeat = str(condition.get("lastHeartbeatTime") or "") if condition else ""
        health = self._health_of(name_of(node))
        if heartbeat != health.heartbeat:
            health.heartbeat, health.seen = heartbeat, self._now()
        self.enqueue(node)

    def _node_added(self, node: Obj) -> None:
        self._node(node)
        self.recorder.event(
            node, "Normal", "RegisteredNode", f"Node {name_of(node)} event: Registered Node {name_of(node)} in Controller"
        )

    def _node_updated(self, old: Obj, node: Obj) -> None:
        self._node(node)
        if condition_status(old, "Ready") != condition_status(node, "Ready"):
            # Whether others may be evicted depends on how many are well.
            for other in self.nodes.list():
                if condition_status(other, "Ready") != "True":
                    self.enqueue(other)

    def _node_deleted(self, node: Obj) -> None:
        self._health.pop(name_of(node), None)
        self._evicted_at.pop(name_of(node), None)
        self.recorder.event(
            node, "Normal", "RemovingNode", f"Node {name_of(node)} event: Removing Node {name_of(node)} from Controller"
        )

    # -- work

    async def reconcile(self, key: str) -> float | None:
        node = self.nodes.get(key)
        if node is None or is_deleting(node):
            return None
        health = self._health_of(key)
        grace = self.grace if find_condition(node, "Ready") is not None else self.startup
        silent = self._now() - health.seen
        again: float | None = grace - silent + 0.1
        was = condition_status(node, "Ready")
        if silent >= grace:
            again = None
            if was != "Unknown":
                node = await self._mark_unknown(node)
        wait = await self._taint(node)
        if condition_status(node, "Ready") in ("False", "Unknown"):
            await self._mark_pods_not_ready(node)
        return min((t for t in (again, wait) if t is not None), default=None)

    async def _mark_unknown(self, node: Obj) -> Obj:
        now = self.ctx.now()
        self.recorder.event(node, "Normal", "NodeNotReady", f"Node {name_of(node)} status is now: NodeNotReady")

        def change(obj: Obj) -> None:
            obj.setdefault("status", {})["conditions"] = nodehealth.unknown_conditions(obj, now)

        return await update_with_retry(
            self.client,
            resources.NODES,
            name_of(node),
            None,
            change,
            subresource="status",
            initial=node,
            uid=uid_of(node),
        )

    async def _taint(self, node: Obj) -> float | None:
        """Exchange the managed taints; seconds after which this node may be evicted, when that has to wait."""
        evict, wait = self._may_evict(node)
        wanted = nodehealth.wanted_taints(node, evict)
        now = self.ctx.now()

        def change(obj: Obj) -> None:
            spec = obj.setdefault("spec", {})
            taints = nodehealth.merge_taints(spec.get("taints") or (), wanted, now)
            if taints:
                spec["taints"] = taints
            else:
                spec.pop("taints", None)

        # The status may be newer than the cache, the spec is not: read again only when something changes.
        cached = self.nodes.get(name_of(node))
        current = (cached or node).get("spec", {}).get("taints") or []
        if nodehealth.merge_taints(current, wanted, now) != current:
            await update_with_retry(self.client, resources.NODES, name_of(node), None, change, uid=uid_of(node))
        return wait

    def _may_evict(self, node: Obj) -> tuple[bool, float | None]:
        """Whether the node may carry NoExecute taints. Source: ``handleDisruption`` and the zones' rate limiters."""
        name = name_of(node)
        if condition_status(node, "Ready") == "True":
            self._evicted_at.pop(name, None)
            return False, None
        others = [node if name_of(n) == name else n for n in self.nodes.list()]
        if not any(condition_status(n, "Ready") == "True" for n in others):
            # No node is well: more likely we are cut off than all of them are gone.
            self._evicted_at.pop(name, None)
            return False, None
        if name in self._evicted_at:
            return True, None
        zone = [n for n in others if nodehealth.zone_of(n) == nodehealth.zone_of(node)]
        interval = nodehealth.eviction_interval(zone)
        if interval == float("inf"):
            return False, None
        last = max((self._evicted_at.get(name_of(n), float("-inf")) for n in zone), default=float("-inf"))
        wait = last + interval - self._now()
        if wait > 0:
            return False, wait
        self._evicted_at[name] = self._now()
        return True, None

    async def _mark_pods_not_ready(self, node: Obj) -> None:
        """A node that is not ready has no ready pods, whatever its silent kubelet last said. Source: ``MarkPodsNotReady``."""
        now = self.ctx.now()

        def change(pod: Obj) -> None:
            conditions = (pod.get("status") or {}).get("conditions") or []
            pod["status"]["conditions"] = [
                {**c, "status": "False", "lastTransitionTime": now}
                if c.get("type") == "Ready" and c.get("status") == "True"
                else c
                for c in conditions
            ]

        for pod in list(self.pods.by_index("node", name_of(node))):
            if condition_status(pod, "Ready") != "True":
                continue
            try:
                await update_with_retry(
                    self.client,
                    resources.PODS,
                    name_of(pod),
                    namespace_of(pod),
                    change,
                    subresource="status",
                    initial=pod,
                    uid=uid_of(pod),
                )
            except StatusError as e:
                if e.code != 404:
                    raise
            else:
                self.recorder.event(pod, "Warning", "NodeNotReady", "Node is not ready")
