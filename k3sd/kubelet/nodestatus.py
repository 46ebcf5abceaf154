"""This machine's Node object: registration, capacity, conditions, addresses, images, and the heartbeat lease.

Conditions and images are looked at every 10 seconds and written when they change, else every 5 minutes; the lease is the only
periodic write. Source: Kubernetes 1.36 ``pkg/kubelet/kubelet_node_status.go``, ``nodestatus/setters.go``; K3s 1.36
``pkg/agent/run.go``, ``pkg/cloudprovider``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from k3sd import KUBERNETES_VERSION
from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client
from k3sd.config.settings import Settings
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.layout import architecture
from k3sd.kubelet.nodeobject import (
    Health,
    MachineFacts,
    build_addresses,
    build_allocatable,
    build_annotations,
    build_capacity,
    build_conditions,
    build_images,
    build_labels,
    merge_resources,
    parse_reserved,
    parse_taint,
)
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.runtime import Recorder
from k3sd.lib.jsonvalue import clone

log = logging.getLogger(__name__)

CHECK_SECONDS = 10.0
REPORT_SECONDS = 300.0
LEASE_SECONDS = 40
FIRST_CHECK_SECONDS = 0.02
NOT_READY_CHECK_SECONDS = 0.5
"""From the first to the longest wait while the node is not ready. While the runtime's network is being set up nothing tells us
when it is; later changes are found by the heartbeat."""
KUBELET_PORT = 10250
DEFAULT_MAX_PODS = 110
_OWN_CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")


class NodeStatus:
    """Registers the node and keeps its object true. ``health`` adds what the eviction manager knows."""

    def __init__(
        self,
        client: Client,
        cri: CRIClient,
        settings: Settings,
        recorder: Recorder,
        facts: MachineFacts,
        *,
        pressure: Callable[[], Health] = Health,
        on_network_ready: Callable[[], None] = lambda: None,
        kubelet_port: int = KUBELET_PORT,
    ) -> None:
        self._client = client
        self._cri = cri
        self._settings = settings
        self._recorder = recorder
        self._facts = facts
        self._pressure = pressure
        self._on_network_ready = on_network_ready
        self._annotations = build_annotations(settings)
        self._port = kubelet_port
        self._runtime_version = ""
        self._reported_at = 0.0
        self._lease: Obj | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._check_now = asyncio.Event()
        self.network_problem = "the node is starting"
        self.node: Obj = {"metadata": {"name": settings.node_name}, "spec": {}, "status": {}}
        self.ready = asyncio.Event()
        max_pods = int((settings.kubelet_args.get("max-pods") or (str(DEFAULT_MAX_PODS),))[-1])
        reserved = parse_reserved(
            [*settings.kubelet_args.get("kube-reserved", ()), *settings.kubelet_args.get("system-reserved", ())]
        )
        self.capacity = build_capacity(facts, max_pods)
        self.allocatable = build_allocatable(self.capacity, reserved)

    async def start(self) -> None:
        """Register, retrying while the API is not there, then keep reporting. Raises CRIError without a runtime."""
        version = await self._cri.version()
        self._runtime_version = f"{version.runtime_name}://{version.runtime_version}"
        await self._check()
        await self._register()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._report_forever(), name="node-status"),
            loop.create_task(self._renew_forever(), name="node-lease"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_now(self) -> None:
        """Something that the conditions depend on has changed."""
        self._check_now.set()

    def observed(self, node: Obj) -> None:
        """The Node object as it is now, from a watch: labels and taints are needed for admission."""
        self.node = node

    def vanished(self) -> None:
        """Somebody deleted the Node object: this machine is still here and says so again."""
        log.warning("node %s was deleted from the API: registering again", self._settings.node_name)
        self.node = {"metadata": {"name": self._settings.node_name}, "spec": {}, "status": {}}
        self._lease = None
        self.check_now()

    # registration

    async def _register(self) -> None:
        delay = 0.05
        while True:
            try:
                await self._register_once()
                return
            except (StatusError, ConnectionError, TimeoutError) as error:
                if isinstance(error, StatusError) and error.code in (403, 422):
                    log.error("node %s is refused by the API server: %s", self._settings.node_name, error)
                else:
                    log.debug("node not registered yet: %s", error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 7.0)

    async def _register_once(self) -> None:
        name = self._settings.node_name
        labels = build_labels(self._settings, architecture())
        try:
            node = await self._client.get(resources.NODES, name)
        except StatusError as error:
            if error.code != 404:
                raise
            taints = [parse_taint(t) for t in self._settings.node_taints]
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels, "annotations": self._annotations},
                "spec": {"providerID": f"k3s://{name}", **({"taints": taints} if taints else {})},
            }
            node["status"] = await self._build_status(node, await self._check())
            self.node = await self._client.create(resources.NODES, node)
            self._recorder.event(self._reference(), "Normal", "Starting", "Starting kubelet.")
            await self._report(await self._check())
            return
        meta = node["metadata"]
        wanted: Obj = {}
        for key, values in (("labels", labels), ("annotations", self._annotations)):
            missing = {k: v for k, v in values.items() if (meta.get(key) or {}).get(k) != v}
            if missing:
                wanted[key] = missing
        patch: Obj = {"metadata": wanted} if wanted else {}
        if not node["spec"].get("providerID"):
            patch["spec"] = {"providerID": f"k3s://{name}"}
        if patch:
            node = await self._client.patch(resources.NODES, name, patch)
        boot = ((node.get("status") or {}).get("nodeInfo") or {}).get("bootID")
        self.node = node
        self._recorder.event(self._reference(), "Normal", "Starting", "Starting kubelet.")
        if boot and boot != self._facts.boot_id:
            text = f"Node {name} has been rebooted, boot id: {self._facts.boot_id}"
            self._recorder.event(self._reference(), "Warning", "Rebooted", text)
        await self._report(await self._check())

    def _reference(self) -> Obj:
        """Events of a node are filed under its name as uid, as upstream does."""
        name = self._settings.node_name
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}}

    # status

    async def _check(self) -> Health:
        health = self._pressure()
        try:
            status = (await self._cri.status()).status
        except CRIError as error:
            self.network_problem = f"container runtime is down: {error.message}"
            health.problem = "container runtime is down"
            return health
        conditions = {c.type: c for c in status.conditions}
        problems: list[str] = []
        for kind, text in (("RuntimeReady", "container runtime status check may not have completed yet"), ("NetworkReady", "")):
            condition = conditions.get(kind)
            if condition is None:
                problems.append(text or "network plugin is not ready")
            elif not condition.status:
                what = "container runtime not ready" if kind == "RuntimeReady" else "container runtime network not ready"
                problems.append(f"{what}: {kind}=false reason:{condition.reason} message:{condition.message}")
        network = conditions.get("NetworkReady")
        ok = network is not None and network.status
        before = self.network_problem
        self.network_problem = "" if ok else (problems[-1] if problems else "network plugin is not ready")
        if before and ok:
            self._on_network_ready()
        health.problem = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]" if problems else ""
        return health

    async def _build_status(self, node: Obj, health: Health) -> Obj:
        facts, shown = self._facts, node.get("status") or {}
        info: Obj = {
            "machineID": facts.machine_id,
            "systemUUID": facts.system_uuid,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "containerRuntimeVersion": self._runtime_version,
            "kubeletVersion": f"{KUBERNETES_VERSION}+k3sd1",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        }
        if facts.swap:
            info["swap"] = {"capacity": facts.swap}
        capacity = merge_resources(self.capacity, shown.get("capacity") or {})
        # A resource that somebody added to the capacity is there to be used.
        foreign = {k: v for k, v in capacity.items() if k not in self.capacity}
        return {
            "capacity": capacity,
            "allocatable": {**foreign, **self.allocatable},
            "conditions": build_conditions(health, shown.get("conditions") or [], timefmt.now()),
            "addresses": build_addresses(self._settings),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "nodeInfo": info,
            "images": await self._images() or [],
        }

    async def _images(self) -> list[Obj] | None:
        """As ``status.images``; None when the runtime does not say."""
        try:
            return build_images(await self._cri.list_images())
        except CRIError:
            return None

    async def _report(self, health: Health) -> None:
        """Write the whole status. Conditions of others stay: the patch merges by type."""
        status = await self._build_status(self.node, health)
        patch = {"status": {**status, "addresses": [*status["addresses"], {"$patch": "replace"}]}}
        self.node = await self._client.patch(
            resources.NODES,
            self._settings.node_name,
            patch,
            patch_type="application/strategic-merge-patch+json",
            subresource="status",
            field_manager="kubelet",
        )
        self._reported_at = time.monotonic()
        if health.problem:
            self.ready.clear()
        elif not self.ready.is_set():
            self.ready.set()
            name = self._settings.node_name
            self._recorder.event(self._reference(), "Normal", "NodeReady", f"Node {name} status is now: NodeReady")

    def _is_changed(self, health: Health) -> bool:
        shown = {c["type"]: c for c in (self.node.get("status") or {}).get("conditions") or ()}
        for condition in build_conditions(health, [], ""):
            known = shown.get(condition["type"], {})
            if any(known.get(k) != condition[k] for k in ("status", "reason", "message")):
                return True
        status = self.node.get("status") or {}
        capacity = status.get("capacity") or {}
        return any(capacity.get(k) != v for k, v in self.capacity.items()) or any(
            k not in (status.get("allocatable") or {}) for k in capacity
        )

    async def _has_other_images(self) -> bool:
        images = await self._images()
        return images is not None and images != ((self.node.get("status") or {}).get("images") or [])

    async def _report_forever(self) -> None:
        impatience = FIRST_CHECK_SECONDS
        while True:
            if self.ready.is_set():
                wait, impatience = CHECK_SECONDS, FIRST_CHECK_SECONDS
            else:
                wait, impatience = impatience, min(impatience * 2, NOT_READY_CHECK_SECONDS)
            self._check_now.clear()
            try:
                await asyncio.wait_for(self._check_now.wait(), wait)
            except TimeoutError:
                pass
            if not self.node["metadata"].get("uid"):
                await self._register()
                continue
            health = await self._check()
            if time.monotonic() - self._reported_at < REPORT_SECONDS and not (
                self._is_changed(health) or await self._has_other_images()
            ):
                continue
            try:
                await self._report(health)
            except StatusError as error:
                log.warning("node status not written: %s", error)
                if error.code == 404:
                    await self._register()
                await asyncio.sleep(1.0)
            except (ConnectionError, TimeoutError) as error:
                log.debug("node status not written: %s", error)
                await asyncio.sleep(1.0)

    # lease

    async def _renew_forever(self) -> None:
        delay = 0.2
        while True:
            try:
                await self._renew()
                delay = 0.2
                await asyncio.sleep(CHECK_SECONDS)
            except (StatusError, ConnectionError, TimeoutError) as error:
                log.debug("node lease not renewed: %s", error)
                self._lease = None
                await asyncio.sleep(delay)
                delay = min(delay * 2, 7.0)

    async def _renew(self) -> None:
        """One write; a lease that somebody else changed is read again."""
        name = self._settings.node_name
        if self._lease is None:
            try:
                self._lease = await self._client.get(resources.LEASES, name, "kube-node-lease")
            except StatusError as error:
                if error.code != 404:
                    raise
                self._lease = await self._client.create(resources.LEASES, self._new_lease(), "kube-node-lease")
                return
        lease = clone(self._lease)
        lease["spec"] = {
            **(lease.get("spec") or {}),
            "holderIdentity": name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": timefmt.now_micro(),
        }
        self._lease = await self._client.update(resources.LEASES, lease)

    def _new_lease(self) -> Obj:
        name = self._settings.node_name
        meta: Obj = {"name": name, "namespace": "kube-node-lease"}
        if uid := self.node["metadata"].get("uid"):
            meta["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": timefmt.now_micro()},
        }
