"""The scheduling loop: events in, one pure cycle a pod, bindings out. Source: ``pkg/scheduler/scheduler.go``,
``schedule_one.go``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client, DeleteOptions, PatchType
from k3sd.client.events import EventRecorder
from k3sd.client.informer import InformerFactory
from k3sd.config.settings import Settings
from k3sd.scheduler import preemption
from k3sd.scheduler.framework import Unschedulable, schedule
from k3sd.scheduler.nodeinfo import Cache, NodeInfo
from k3sd.scheduler.plugins import default_plugins
from k3sd.scheduler.podinfo import PodInfo, is_terminal, pod_requests
from k3sd.scheduler.queue import SchedulingQueue

log = logging.getLogger(__name__)

Obj = dict[str, Any]
SCHEDULER_NAME = "default-scheduler"
STRATEGIC: PatchType = "application/strategic-merge-patch+json"


class Scheduler:
    """``await run()`` until cancelled. Shares the informers on pods, nodes and disruption budgets."""

    def __init__(self, client: Client, informers: InformerFactory, settings: Settings) -> None:
        self._client = client
        self._pods = informers.informer(resources.PODS)
        self._nodes = informers.informer(resources.NODES)
        self._budgets = informers.informer(resources.PODDISRUPTIONBUDGETS)
        self._events = EventRecorder(client, SCHEDULER_NAME)
        self._plugins = default_plugins()
        self._cache = Cache()
        self._queue = SchedulingQueue()
        self._nominated: dict[str, tuple[str, PodInfo]] = {}
        self._bindings: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        handlers = [
            self._nodes.add_handler(self._node_set, self._node_changed, self._node_gone),
            self._pods.add_handler(self._pod_added, self._pod_updated, self._pod_gone),
        ]
        for informer in (self._pods, self._nodes, self._budgets):
            informer.start()
            await informer.wait_synced()
        try:
            while True:
                await self._one(await self._queue.pop())
        finally:
            for remove in handlers:
                remove()
            self._queue.close()
            for task in self._bindings:
                task.cancel()
            await self._events.stop()

    # -- events

    def _node_set(self, node: Obj) -> None:
        self._cache.set_node(node)
        self._queue.move_all()

    def _node_changed(self, old: Obj, new: Obj) -> None:
        self._cache.set_node(new)
        if _scheduling_view(old) != _scheduling_view(new):
            self._queue.move_all()

    def _node_gone(self, node: Obj) -> None:
        self._cache.remove_node(node["metadata"]["name"])

    def _pod_added(self, pod: Obj) -> None:
        if pod["spec"].get("nodeName"):
            self._cache.set_pod(pod)
            # A running pod can be what another one's affinity waits for.
            self._queue.move_all(lambda waiting: bool(waiting.pod["spec"].get("affinity")))
        elif _is_mine(pod):
            self._queue.add(PodInfo(pod))

    def _pod_updated(self, old: Obj, new: Obj) -> None:
        uid = new["metadata"]["uid"]
        if new["spec"].get("nodeName"):
            self._queue.remove(uid)
            self._nominated.pop(uid, None)
            self._cache.set_pod(new)
            if (is_terminal(new) and not is_terminal(old)) or _is_smaller(new, old):
                self._queue.move_all()
            elif old["metadata"].get("labels") != new["metadata"].get("labels"):
                self._queue.move_all(lambda waiting: bool(waiting.pod["spec"].get("affinity")))
        elif not _is_mine(new):
            self._queue.remove(uid)
        elif not self._cache.has(uid):
            changed = old["spec"] != new["spec"] or old["metadata"].get("labels") != new["metadata"].get("labels")
            self._queue.update(PodInfo(new), changed or not _is_mine(old))

    def _pod_gone(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        self._queue.remove(uid)
        self._nominated.pop(uid, None)
        self._cache.remove_pod(uid)
        if pod["spec"].get("nodeName"):
            self._queue.move_all()

    # -- one cycle

    def _world(self, pod: PodInfo) -> list[NodeInfo]:
        """All nodes; where a pod of at least this priority was promised room, that room counts as taken."""
        nodes = list(self._cache)
        promised: dict[str, list[PodInfo]] = {}
        for uid, (name, other) in self._nominated.items():
            if uid != pod.uid and other.priority >= pod.priority:
                promised.setdefault(name, []).append(other)
        for index, node in enumerate(nodes):
            if node.name in promised:
                nodes[index] = node.copy()
                for other in promised[node.name]:
                    nodes[index].add(other)
        return nodes

    async def _one(self, pod: PodInfo) -> None:
        moves = self._queue.moves
        nodes = self._world(pod)
        try:
            chosen = schedule(pod, nodes, self._plugins)
        except Unschedulable as failure:
            self._spawn(self._failed(pod, nodes, failure, moves), f"unschedulable {pod.key}")
            return
        self._cache.assume(pod, chosen)
        self._nominated.pop(pod.uid, None)
        self._spawn(self._bind(pod, chosen), f"bind {pod.key}")

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._bindings.add(task)
        task.add_done_callback(self._bindings.discard)

    async def _bind(self, pod: PodInfo, node: str) -> None:
        meta = pod.pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.create(resources.PODS, binding, meta["namespace"], name=meta["name"], subresource="binding")
        except (StatusError, ConnectionError, TimeoutError) as error:
            self._cache.forget(pod.uid)
            if isinstance(error, StatusError) and error.code in (404, 409):
                log.debug("binding of %s refused: %s", pod.key, error)
            else:
                log.warning("binding of %s to %s failed, trying again: %s", pod.key, node, error)
            current = self._pods.get(pod.key)
            if current is not None and current["metadata"].get("uid") == pod.uid and _is_mine(current):
                self._queue.retry(PodInfo(current))
            return
        self._queue.done(pod.uid)
        self._events.event(pod.pod, "Normal", "Scheduled", f"Successfully assigned {pod.key} to {node}")

    async def _failed(self, pod: PodInfo, nodes: list[NodeInfo], failure: Unschedulable, moves: int) -> None:
        candidate = preemption.find(pod, nodes, failure, self._plugins, list(self._budgets.list()))
        nominated = candidate.node if candidate is not None else ""
        message = failure.message
        if failure.total and candidate is None:
            message += f" preemption: {_preemption_message(failure)}"
        if candidate is not None:
            self._nominated[pod.uid] = (candidate.node, pod)
        self._queue.park(pod, moves)
        await self._tell(pod, message, nominated)
        if candidate is not None:
            await asyncio.gather(*(self._evict(victim, pod, candidate.node) for victim in candidate.victims))

    async def _tell(self, pod: PodInfo, message: str, nominated: str) -> None:
        self._events.event(pod.pod, "Warning", "FailedScheduling", message)
        status = pod.pod.get("status") or {}
        old = next((c for c in status.get("conditions") or () if c["type"] == "PodScheduled"), None)
        if (
            old
            and old.get("message") == message
            and old["status"] == "False"
            and status.get("nominatedNodeName", "") == nominated
        ):
            return
        now = timefmt.now()
        since = old.get("lastTransitionTime", now) if old and old["status"] == "False" else now
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": since,
        }
        body: Obj = {"status": {"conditions": [condition]}}
        if nominated or status.get("nominatedNodeName"):
            body["status"]["nominatedNodeName"] = nominated or None
        await self._patch_status(pod, body)

    async def _patch_status(self, pod: PodInfo, body: Obj) -> None:
        meta = pod.pod["metadata"]
        try:
            await self._client.patch(
                resources.PODS, meta["name"], body, meta["namespace"], patch_type=STRATEGIC, subresource="status"
            )
        except StatusError as error:
            if error.code != 404:
                log.warning("status of %s could not be written: %s", pod.key, error)
        except (ConnectionError, TimeoutError) as error:
            log.warning("status of %s could not be written: %s", pod.key, error)

    async def _evict(self, victim: PodInfo, pod: PodInfo, node: str) -> None:
        meta = victim.pod["metadata"]
        text = f"{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": text,
            "lastTransitionTime": timefmt.now(),
        }
        await self._patch_status(victim, {"status": {"conditions": [condition]}})
        try:
            await self._client.delete(resources.PODS, meta["name"], meta["namespace"], DeleteOptions(uid=victim.uid))
        except (StatusError, ConnectionError, TimeoutError) as error:
            log.warning("preempted pod %s could not be deleted: %s", victim.key, error)
            return
        self._events.event(victim.pod, "Normal", "Preempted", f"Preempted by pod {pod.uid} on node {node}")


def _is_smaller(new: Obj, old: Obj) -> bool:
    """A resize gave something back (``PodScaleDown``)."""
    if new["spec"] == old["spec"]:
        return False
    now = pod_requests(new)
    return any(now.get(name, 0) < amount for name, amount in pod_requests(old).items())


def _is_mine(pod: Obj) -> bool:
    """Waiting for this scheduler: not bound, not gated, not finished, not going away."""
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and (spec.get("schedulerName") or SCHEDULER_NAME) == SCHEDULER_NAME
        and not spec.get("schedulingGates")
        and "deletionTimestamp" not in pod["metadata"]
        and not is_terminal(pod)
    )


def _scheduling_view(node: Obj) -> Any:
    """What of a node can make a parked pod fit; a heartbeat changes none of it."""
    spec = node.get("spec") or {}
    status = node.get("status") or {}
    ready = [c.get("status") for c in status.get("conditions") or () if c.get("type") == "Ready"]
    return spec.get("unschedulable"), spec.get("taints"), node["metadata"].get("labels"), status.get("allocatable"), ready


def _preemption_message(failure: Unschedulable) -> str:
    """Upstream's sentence on why nothing was preempted."""
    helpless = sum(1 for plugin, _ in failure.reasons.values() if not plugin.resolvable)
    parts = []
    if failure.total - helpless:
        parts.append(f"{failure.total - helpless} No preemption victims found for incoming pod")
    if helpless:
        parts.append(f"{helpless} Preemption is not helpful for scheduling")
    return f"0/{failure.total} nodes are available: {', '.join(sorted(parts))}."
