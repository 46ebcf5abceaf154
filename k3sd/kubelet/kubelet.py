"""The kubelet: makes the pods bound to this node real and tells the API how they are.

Composition root of this package: builds the parts, connects them, starts and stops them in order. No policy.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client
from k3sd.client.events import EventRecorder
from k3sd.client.informer import Informer, InformerFactory
from k3sd.config.settings import Settings
from k3sd.kubelet import admission, cgroups, eviction, nodeobject, nodestatus, podinfo
from k3sd.kubelet.backoff import Backoff
from k3sd.kubelet.containerconfig import NodeFacts
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.cri.messages import ContainerState
from k3sd.kubelet.environment import NodeEnvironment
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.imageimport import ImageImporter
from k3sd.kubelet.images import ImageManager
from k3sd.kubelet.imagevolumes import ImageVolumes
from k3sd.kubelet.layout import Layout
from k3sd.kubelet.logs import LogReader, LogRotator
from k3sd.kubelet.pleg import PodCache
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.podworkers import PodWorkers
from k3sd.kubelet.probes import ProbeChange, ProbeManager
from k3sd.kubelet.runtime import PodRuntime, orphan_pod
from k3sd.kubelet.services import Services
from k3sd.kubelet.sources import Sources
from k3sd.kubelet.staticpods import StaticPods
from k3sd.kubelet.status import Verdict
from k3sd.kubelet.statuswriter import StatusWriter
from k3sd.kubelet.tokens import TokenManager
from k3sd.kubelet.volumes.manager import VolumeManager
from k3sd.kubelet.volumes.plan import VolumeError
from k3sd.lib.inotify import DirectoryEvents
from k3sd.procs.run import CommandError, run

log = logging.getLogger(__name__)

RUNTIME_START_SECONDS = 60.0
# K3s allows these unless its service load balancer is disabled.
_LOAD_BALANCER_SYSCTLS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


class Kubelet:
    """One a node. ``client`` speaks as ``system:node:<name>``. ``listener`` is its HTTPS server's (none without)."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        *,
        informers: InformerFactory | None = None,
        layout: Layout | None = None,
        listener: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._client = client
        self._listener = listener
        self._tls = tls
        self._layout = layout or Layout()
        self._own_informers = InformerFactory(client) if informers is None else None
        informers = informers or self._own_informers
        assert informers is not None
        self.cri = CRIClient(settings.containerd_socket)
        self.recorder = EventRecorder(client, "kubelet", settings.node_name)
        self._events = DirectoryEvents()
        self._machine = nodeobject.read_machine(self._layout.root)
        self.cache = PodCache(self.cri, self._runtime_changed)
        self.sources = Sources(client, informers)
        self.images = ImageManager(self.cri, self.sources.get_secret)
        self._tokens = TokenManager(client)
        self._volumes = VolumeManager(
            client,
            self.sources,
            settings.node_name,
            self._layout.root,
            self._tokens,
            node_allocatable=lambda: self.node_status.allocatable,
            images=ImageVolumes(self.cri, self.images, settings.snapshotter, self.recorder.event),
        )
        self._volumes.on_retry = self._retry
        self._volumes.on_refresh_failed = self._refresh_failed
        self._probes = ProbeManager(self._exec_probe, self._probe_changed, self._probe_event)
        self._cgroups = cgroups.CgroupManager(
            settings.systemd_cgroup, top=(settings.kubelet_args.get("cgroup-root") or ("",))[-1]
        )
        self._eviction = eviction.EvictionManager(
            [self._layout.root, settings.paths.containerd_root], self._reclaim_images, self._evict_one
        )
        self.node_status = nodestatus.NodeStatus(
            client,
            self.cri,
            settings,
            self.recorder,
            self._machine,
            pressure=self._eviction.look,
            on_network_ready=self._retry_all,
        )
        self._static = StaticPods(
            settings.paths.pod_manifests,
            settings.node_name,
            client,
            self._events,
            node=lambda: self.node_status.node,
            on_pod=lambda pod: self.workers.update(pod),
            on_removed=lambda uid: self.workers.remove(uid),
            on_mirror=lambda pod: self.statuses.retry(pod),
        )
        self.statuses = StatusWriter(client, self._status_target)
        self.workers = PodWorkers(self._build_services())
        self._log_reader = LogReader(self._events)
        self._rotator = LogRotator(self._events, self.cri.reopen_container_log)
        self._pods = Informer(client, resources.PODS, field_selector=f"spec.nodeName={settings.node_name}")
        self._nodes = Informer(client, resources.NODES, field_selector=f"metadata.name={settings.node_name}")
        self._importer = ImageImporter(self.cri, settings.snapshotter, settings.paths, self._events)
        self._exits: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: object | None = None

    def _build_services(self) -> Services:
        settings = self._settings
        facts = NodeFacts(
            memory_capacity=self._machine.memory,
            seccomp_root=self._layout.root / "seccomp",
            cgroup_unified=self._cgroups.unified,
            swap_available=bool(self._machine.swap) and self._cgroups.has_swap(),
            cpu_quota=self._cgroups.has_controller("cpu"),
        )
        resolv_conf = Path(settings.resolv_conf or "/etc/resolv.conf")
        environment = NodeEnvironment(
            self._volumes,
            self.sources,
            self._layout,
            cluster_dns=[ip for ip in settings.cluster_dns.split(",") if ip],
            cluster_domain=settings.cluster_domain,
            resolv_conf=resolv_conf if resolv_conf.exists() else None,
            host_ips=settings.node_ips,
            allocatable=lambda: self.node_status.allocatable,
            warn=lambda pod, reason, message: self.recorder.event(pod, "Warning", reason, message),
        )
        runtime = PodRuntime(
            self.cri,
            self.cache,
            self.images,
            environment,
            self.recorder,
            self._layout,
            facts,
            settings.node_ips,
            self._runtime_handler,
        )
        self._runtime = runtime
        return Services(
            runtime=runtime,
            cache=self.cache,
            statuses=self.statuses,
            images=self.images,
            probes=self._probes,
            volumes=environment,
            cgroups=self._cgroups,
            recorder=self.recorder,
            layout=self._layout,
            host_ips=settings.node_ips,
            admit=self._admit,
            limit_slice=self._limit_slice,
            check_resize=lambda pod: admission.check_resize(pod, self._node_object(), self.workers.admitted()),
            holders=lambda: self.workers.admitted(),
            network_ready=lambda: self.node_status.network_problem,
            restarts=Backoff(),
        )

    # life

    async def start(self) -> None:
        """Return when the node is registered and its pods are in hand. Raises CRIError when containerd does not answer."""
        await self.cri.version(RUNTIME_START_SECONDS, wait_for_ready=True)
        await asyncio.to_thread(self._prepare_disk)
        await self._serve()
        # The node need not wait for its images, its pods do.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._prepare_runtime(), name="images")
            group.create_task(self.node_status.start(), name="register node")
        self._nodes.add_handler(
            self.node_status.observed,
            lambda _, node: self.node_status.observed(node),
            lambda _node: self.node_status.vanished(),
        )
        self._pods.add_handler(self._pod_added, self._pod_updated, self._pod_deleted)
        self._nodes.start()
        self._pods.start()
        await self._pods.wait_synced()
        self._static.synced()
        self._spawn(self._clean_up(), "orphans")

    async def _prepare_runtime(self) -> None:
        """What exists, the sandbox image, the operator's images; then pods from files, which wait for no API."""
        await self.cache.start()
        await self._importer.ensure_pause_image(self._settings.pause_image)
        await self._importer.import_directory()
        self._spawn(self._importer.watch_directory(), "image archives")
        self._static.start()

    async def stop(self) -> None:
        """Let go of everything; pods keep running."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.stop()  # type: ignore[attr-defined]
        for informer in (self._pods, self._nodes):
            await informer.stop()
        await self._static.stop()
        await self.workers.stop()
        await self._probes.close()
        await self.node_status.stop()
        await self.statuses.stop()
        await self.cache.stop()
        await self._rotator.close()
        self._log_reader.close()
        await self._volumes.stop()
        await self.sources.stop()
        if self._own_informers is not None:
            await self._own_informers.stop()
        self._tokens.stop()
        await self.recorder.stop()
        self._events.close()
        await self.cri.close()

    async def wait_ready(self) -> None:
        """The node's Ready condition is True in the API."""
        await self.node_status.ready.wait()

    def _prepare_disk(self) -> None:
        for path, mode in ((self._layout.root, 0o750), (self._layout.root / "pods", 0o750), (self._layout.pod_logs, 0o755)):
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        self._layout.container_logs.mkdir(mode=0o755, parents=True, exist_ok=True)
        allocatable = {name: quantity.parse(value) for name, value in self.node_status.allocatable.items()}
        shares = cgroups.cpu_shares(allocatable["cpu"].milli())
        self._cgroups.setup(cgroups.Limits(shares, memory=allocatable["memory"].value()))

    async def _serve(self) -> None:
        if self._listener is None:
            return
        from k3sd.kubelet.server import KubeletServer, server_tls

        agent = self._settings.paths.agent
        context = self._tls or server_tls(agent / "serving-kubelet.crt", agent / "serving-kubelet.key", agent / "client-ca.crt")
        server = KubeletServer(self, self.cri, self._client, self._settings.node_name, self._log_reader)
        await server.start(self._listener, context)
        self._server = server

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(job, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # pods from the API

    def _pod_added(self, pod: Obj) -> None:
        if podinfo.is_mirror(pod):
            self._static.mirror_seen(pod)
        else:
            self.workers.update(pod)

    def _pod_updated(self, old: Obj, new: Obj) -> None:
        if podinfo.uid(old) != podinfo.uid(new):
            self._pod_deleted(old)
        self._pod_added(new)

    def _pod_deleted(self, pod: Obj) -> None:
        if podinfo.is_mirror(pod):
            self._static.mirror_gone(pod)
        else:
            self.workers.remove(podinfo.uid(pod), forced=True)

    def _status_target(self, pod: Obj) -> Obj | None:
        return self._static.mirror_of(pod) if podinfo.is_static(pod) else pod

    def _node_object(self) -> Obj:
        """The Node as the API has it; before it does, with what it will say of this machine."""
        node = self.node_status.node
        if (node.get("status") or {}).get("allocatable"):
            return node
        return {**node, "status": {"allocatable": self.node_status.allocatable}}

    def _admit(self, pod: Obj) -> Verdict | None:
        allowed: Sequence[str] = [
            name for text in self._settings.kubelet_args.get("allowed-unsafe-sysctls", ()) for name in text.split(",")
        ]
        if "servicelb" not in self._settings.disable:
            allowed = [*allowed, *_LOAD_BALANCER_SYSCTLS]
        return admission.admit(pod, self._node_object(), self.workers.admitted(), allowed)

    async def _limit_slice(self, pod: Obj) -> None:
        if not self._settings.systemd_cgroup or podinfo.qos_class(pod) == "BestEffort":
            return
        slice_ = cgroups.pod_cgroup(podinfo.uid(pod), podinfo.qos_class(pod), systemd=True)
        try:
            await run(["systemctl", "set-property", "--runtime", slice_, *cgroups.systemd_properties(cgroups.pod_limits(pod))])
        except CommandError as error:
            # Each container has its own limits all the same.
            log.warning("pod %s: its slice has no limits: %s", podinfo.describe(pod), error)

    async def _runtime_handler(self, pod: Obj) -> str:
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return ""
        try:
            return str((await self._client.get(resources.RUNTIMECLASSES, name)).get("handler") or "")
        except (StatusError, ConnectionError, TimeoutError) as error:
            message = f'Failed to create pod sandbox: failed to get runtime handler of RuntimeClass "{name}": {error}'
            self.recorder.event(pod, "Warning", "FailedCreatePodSandBox", message)
            raise StartError("FailedCreatePodSandBox", message) from error

    # what was left behind

    async def _clean_up(self) -> None:
        """End what runs without a pod in the API, and remove what pods that are gone left on disk."""
        known = {podinfo.uid(pod) for pod in self.workers.pods()}
        for state in self.cache.pods():
            if state.uid in known:
                continue
            annotations: dict[str, dict[str, str]] = {}
            for record in state.containers:
                try:
                    status = (await self.cri.container_status(record.id)).status
                except CRIError as error:
                    log.debug("container %s is gone before it was read: %s", record.id, error)
                    continue
                annotations.setdefault(record.name, dict(status.annotations))
            pod = orphan_pod(state, annotations)
            log.info("pod %s runs here but does not exist any more: it is ended", podinfo.describe(pod))
            self.workers.update(pod)
            self.workers.remove(state.uid)
        # Asked anew for each: pods keep arriving while this goes on.
        await self._volumes.cleanup_orphans(self.workers)
        for uid in await asyncio.to_thread(self._cgroups.pods):
            if uid not in self.workers:
                await asyncio.to_thread(self._cgroups.remove_pod, uid)

    # events of the parts

    def _runtime_changed(self, uid: str) -> None:
        for record in self.cache.get(uid).containers:
            if record.state == ContainerState.RUNNING:
                self._rotator.add(record.id, record.log_path)
            else:
                self._rotator.remove(record.id)
                self._tell_exit(record.id)
        for id_ in [i for i in self._exits if self.cache.find(i) is None]:
            self._tell_exit(id_)
        self.workers.runtime_changed(uid)

    def _tell_exit(self, id_: str) -> None:
        event = self._exits.pop(id_, None)
        if event is not None:
            event.set()

    def _retry(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.retry()

    def _retry_all(self) -> None:
        for worker in self.workers.all():
            worker.retry()

    def _refresh_failed(self, pod: Obj, error: VolumeError) -> None:
        self.recorder.event(pod, "Warning", error.reason, error.message)

    async def _exec_probe(self, container_id: str, command: Sequence[str], seconds: float) -> tuple[int, bytes]:
        try:
            answer = await self.cri.exec_sync(container_id, command, max(math.ceil(seconds), 1))
        except CRIError as error:
            if error.code == "DeadlineExceeded" or ("timeout" in error.message and "exceeded" in error.message):
                raise TimeoutError(error.message) from error
            raise
        return int(answer.exit_code), bytes(answer.stdout + answer.stderr)

    def _probe_changed(self, change: ProbeChange) -> None:
        worker = self.workers.get(change.pod_uid)
        if worker is None:
            return
        if change.kind != "Readiness" and not change.success:
            worker.probe_failed(change.container_id, change.kind.lower())
        else:
            worker.probe_changed()

    def _probe_event(self, pod: Obj, container: Obj, reason: str, message: str) -> None:
        self.recorder.event(pod, "Warning", reason, message, field_path=podinfo.field_path(pod, container["name"]))

    def _reclaim_images(self) -> None:
        self._spawn(self._collect_images(), "image garbage")

    async def _collect_images(self) -> None:
        in_use = {c.image_id or c.image_ref for c in await self.cri.list_containers()}
        try:
            root = str(self._settings.paths.containerd_root)
            await self.images.collect_garbage(root, in_use, [self._settings.pause_image])
        except CRIError as error:
            log.warning("cannot remove unused images: %s", error)

    def _evict_one(self, verdict: Verdict) -> bool:
        for pod in eviction.rank(self.workers.admitted()):
            worker = self.workers.get(podinfo.uid(pod))
            if worker is not None and not worker.is_ending:
                self.recorder.event(pod, "Warning", verdict.reason, verdict.message)
                worker.evict(verdict, 1)
                return True
        return False

    # what the HTTPS server asks

    def pods(self) -> list[Obj]:
        """All pods of this node, each with the status as it is known now."""
        return [{**pod, "status": {**(pod.get("status") or {}), **self.statuses.get(pod)}} for pod in self.workers.pods()]

    def pod(self, namespace: str, name: str) -> Obj | None:
        return next((p for p in self.pods() if podinfo.namespace(p) == namespace and podinfo.name(p) == name), None)

    def sandbox_id(self, uid: str) -> str | None:
        return next((s.id for s in self.cache.get(uid).sandboxes if s.is_ready), None)

    async def wait_exited(self, container_id: str) -> None:
        """Return when the container runs no more; at once for an unknown one."""
        record = self.cache.find(container_id)
        if record is None or not record.is_running:
            return
        await self._exits.setdefault(container_id, asyncio.Event()).wait()
