"""Doing to pods what ``plan`` decided: sandboxes and containers through CRI, with upstream's events, order and messages.

Holds no state of its own: what exists is in the ``PodCache``. Source: Kubernetes 1.36 ``pkg/kubelet/kuberuntime``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from k3sd.kubelet import podinfo
from k3sd.kubelet.containerconfig import (
    DNS,
    ConfigError,
    NodeFacts,
    build_container_config,
    build_resources,
    build_sandbox_config,
)
from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.hooks import HookError, run_hook
from k3sd.kubelet.images import ImageManager
from k3sd.kubelet.layout import Layout, next_restart_count
from k3sd.kubelet.pleg import PodCache
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.state import ContainerRecord, PodState

log = logging.getLogger(__name__)
T = TypeVar("T")

MINIMUM_GRACE_SECONDS = 2
"""A container always gets this much between SIGTERM and SIGKILL."""


class PodEnvironment(Protocol):
    """What a pod needs besides the runtime. Every method may raise StartError with upstream's reason and message."""

    def sandbox_inputs(self, pod: Obj) -> tuple[str, DNS]:
        """Hostname and resolver configuration."""
        ...

    async def container_inputs(
        self, pod: Obj, container: Obj, pod_ips: Sequence[str]
    ) -> tuple[list[tuple[str, str]], list[Any]]:
        """Environment, and CRI mounts of volumes and ``/etc/hosts``."""
        ...


class Recorder(Protocol):
    """As ``client.events.EventRecorder``."""

    def event(self, obj: Obj, type_: str, reason: str, message: str, *, field_path: str = "") -> None: ...


@dataclass(slots=True)
class Grace:
    """How long a kill may take. ``override`` replaces what the pod's spec and deletion say, as an eviction does."""

    override: int | None = None

    def seconds(self, pod: Obj, container: Obj | None, reason: str) -> int:
        """``setTerminationGracePeriod``: a deletion's own wins, then the failed probe's, then the spec's."""
        if self.override is not None:
            return self.override
        if pod["metadata"].get("deletionGracePeriodSeconds") is None and container is not None and reason:
            probe = container.get(f"{reason}Probe") or {}
            if (value := probe.get("terminationGracePeriodSeconds")) is not None:
                return int(value)
        return podinfo.grace_period_seconds(pod)


async def to_the_end(job: Coroutine[Any, Any, T]) -> T:
    """Await a call that changes the runtime. When we are cancelled meanwhile, it is still waited for: abandoned half-way it
    would leave something nobody knows of."""
    task = asyncio.ensure_future(job)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("call ended after its pod's worker was told to stop: %s", error)
        raise


class PodRuntime:
    """Actions on single pods. Calls for one pod must not overlap, except that kills of different containers may."""

    def __init__(
        self,
        cri: CRIClient,
        cache: PodCache,
        images: ImageManager,
        environment: PodEnvironment,
        recorder: Recorder,
        layout: Layout,
        facts: NodeFacts,
        host_ips: Sequence[str],
        runtime_handler: Callable[[Obj], Awaitable[str]],
    ) -> None:
        self._cri = cri
        self._cache = cache
        self._images = images
        self._environment = environment
        self._recorder = recorder
        self._layout = layout
        self._facts = facts
        self._host_ips = host_ips
        self._runtime_handler = runtime_handler

    # sandboxes

    def sandbox_config(self, pod: Obj, attempt: int, cgroup_parent: str) -> Any:
        hostname, dns = self._environment.sandbox_inputs(pod)
        return build_sandbox_config(
            pod,
            attempt,
            hostname=hostname,
            dns=dns,
            log_directory=str(self._layout.log_dir(pod)),
            cgroup_parent=cgroup_parent,
        )

    async def create_sandbox(self, pod: Obj, config: Any) -> None:
        """Raises StartError with reason FailedCreatePodSandBox."""
        self._layout.log_dir(pod).mkdir(mode=0o755, parents=True, exist_ok=True)
        handler = await self._runtime_handler(pod)
        try:
            id_ = await to_the_end(self._cri.run_pod_sandbox(config, handler))
            await self._cache.refresh_sandbox(podinfo.uid(pod), id_)
        except CRIError as error:
            message = f"Failed to create pod sandbox: {error}"
            self._recorder.event(pod, "Warning", "FailedCreatePodSandBox", message)
            raise StartError("FailedCreatePodSandBox", message) from error

    def pod_ips(self, pod: Obj) -> tuple[str, ...]:
        if podinfo.is_host_network(pod):
            return tuple(self._host_ips)
        return self._cache.get(podinfo.uid(pod)).ips

    # starting

    async def start_container(self, pod: Obj, container: Obj, sandbox_config: Any) -> None:
        """Image, create, start, postStart (``startContainer``). Raises StartError."""
        uid, name = podinfo.uid(pod), container["name"]
        state = self._cache.get(uid)
        sandbox = state.sandbox
        if sandbox is None or not sandbox.is_ready:
            raise StartError("CreateContainerError", "the pod's sandbox is gone", 0.0)
        record = self._recorder_of(pod, container)
        try:
            image = await self._images.ensure(pod, container, sandbox_config, record)
        except StartError as error:
            record("Warning", "Failed", f"Error: {error.reason}")
            raise
        config = await self._container_config(pod, container, state, image, record)
        try:
            id_ = await to_the_end(self._create(uid, sandbox.id, config, sandbox_config))
        except CRIError as error:
            record("Warning", "Failed", f"Error: {error.message}")
            raise StartError("CreateContainerError", error.message) from error
        record("Normal", "Created", "Container created")
        try:
            await to_the_end(self._cri.start_container(id_))
        except CRIError as error:
            record("Warning", "Failed", f"Error: {error.message}")
            await self._cache.refresh_container(uid, id_, sandbox.id)
            raise StartError("RunContainerError", error.message) from error
        await self._cache.refresh_container(uid, id_, sandbox.id)
        record("Normal", "Started", "Container started")
        self._link_log(pod, name, id_, config.log_path)
        await self._forget_old_instances(uid, name)
        await self._forget_old_sandboxes(uid)
        if handler := (container.get("lifecycle") or {}).get("postStart"):
            await self._post_start(pod, container, id_, handler)

    async def _create(self, uid: str, sandbox_id: str, config: Any, sandbox_config: Any) -> str:
        id_ = await self._cri.create_container(sandbox_id, config, sandbox_config)
        self._cache.expect(uid, id_)
        return id_

    async def _container_config(self, pod: Obj, container: Obj, state: PodState, image: Any, record: Any) -> Any:
        uid, name = podinfo.uid(pod), container["name"]
        log_dir = self._layout.log_dir(pod) / name
        last = state.latest(name)
        restart_count = last.restart_count + 1 if last is not None else next_restart_count(log_dir)
        try:
            target = self._target(container, state)
            env, mounts = await self._environment.container_inputs(pod, container, self.pod_ips(pod))
            mounts = [*mounts, self._termination_mount(uid, container)]
            log_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            return build_container_config(
                pod,
                container,
                restart_count=restart_count,
                image_ref=image.ref,
                user=image.user,
                env=env,
                mounts=mounts,
                facts=self._facts,
                target_id=target,
            )
        except (ConfigError, OSError) as error:
            record("Warning", "Failed", f"Error: {error}")
            raise StartError("CreateContainerConfigError", str(error)) from error
        except StartError as error:
            record("Warning", "Failed", f"Error: {error.message}")
            raise

    def _target(self, container: Obj, state: PodState) -> str:
        """Id of the container an ephemeral one looks into. Raises ConfigError."""
        name = container.get("targetContainerName")
        if not name:
            return ""
        found = state.latest(name)
        if found is None:
            raise ConfigError(f'unable to find target container "{name}"')
        return found.id

    def _termination_mount(self, uid: str, container: Obj) -> Any:
        """An empty file of our own at the container's terminationMessagePath; any user may write to it."""
        directory = self._layout.container_dir(uid, container["name"])
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        file = directory / secrets.token_hex(4)
        file.touch()
        file.chmod(0o666)
        target = container.get("terminationMessagePath") or "/dev/termination-log"
        return messages.Mount(container_path=target, host_path=str(file))

    def _link_log(self, pod: Obj, name: str, id_: str, log_path: str) -> None:
        link = self._layout.legacy_log_link(pod, name, id_)
        try:
            link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            link.symlink_to(self._layout.log_dir(pod) / log_path)
        except OSError as error:
            log.warning("cannot link log of container %s: %s", id_, error)

    async def _post_start(self, pod: Obj, container: Obj, id_: str, handler: Obj) -> None:
        try:
            await run_hook(self._cri, container, id_, handler, next(iter(self.pod_ips(pod)), ""))
        except HookError as error:
            self._recorder_of(pod, container)("Warning", "FailedPostStartHook", "PostStartHook failed")
            started = self._cache.get(podinfo.uid(pod)).latest(container["name"])
            if started is not None and started.id == id_:
                await self.kill_container(pod, started, Grace(), message="FailedPostStartHook")
            raise StartError("PostStartHookError", str(error)) from error

    async def resize_container(self, pod: Obj, container: Obj, id_: str) -> None:
        """Apply changed resources to a running container. Raises CRIError."""
        await to_the_end(self._cri.update_container_resources(id_, build_resources(pod, container, self._facts)))

    async def memory_usage(self, id_: str) -> int:
        """Bytes that a running container uses, its cache included. Raises CRIError."""
        return int((await self._cri.container_stats(id_)).memory.usage_bytes.value)

    # stopping

    async def kill_container(
        self,
        pod: Obj,
        record: ContainerRecord,
        grace: Grace,
        *,
        message: str = "",
        reason: str = "",
        turn: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """preStop, SIGTERM, SIGKILL (``killContainer``). ``turn`` is awaited between hook and signal, within the grace period.

        Returns when the container is down. Raises CRIError.
        """
        container = podinfo.find_container(pod, record.name) or {"name": record.name}
        seconds = float(grace.seconds(pod, container, reason))
        self._recorder_of(pod, container)("Normal", "Killing", message or f"Stopping container {record.name}")
        deadline = time.monotonic() + seconds
        handler = (container.get("lifecycle") or {}).get("preStop")
        if handler and seconds > 0:
            await self._pre_stop(pod, container, record.id, handler, seconds)
        if turn is not None and seconds > 0:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    await turn()
            except TimeoutError:
                log.debug("container %s did not get its turn to stop within the grace period", record.id)
        left = max(int(deadline - time.monotonic() + 0.5), MINIMUM_GRACE_SECONDS)
        uid = podinfo.uid(pod)
        try:
            await self._cri.stop_container(record.id, left)
        except CRIError as error:
            # runc may stumble over a container that ends by itself in this very moment; what counts is that it has ended.
            if not error.not_found and await self._cache.refresh_container(uid, record.id) != messages.ContainerState.EXITED:
                raise
        await self._cache.refresh_container(uid, record.id, record.sandbox_id)

    async def _pre_stop(self, pod: Obj, container: Obj, id_: str, handler: Obj, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await run_hook(self._cri, container, id_, handler, next(iter(self.pod_ips(pod)), ""))
        except TimeoutError:
            log.info("pod %s: preStop hook of %s not done in the grace period", podinfo.describe(pod), container["name"])
        except HookError as error:
            log.warning("pod %s: preStop hook: %s", podinfo.describe(pod), error)
            self._recorder_of(pod, container)("Warning", "FailedPreStopHook", "PreStopHook failed")

    async def kill_pod(self, pod: Obj, grace: Grace) -> None:
        """Stop every container in parallel, sidecars after the others and in reverse order, then the sandboxes.

        Raises CRIError when something would not stop.
        """
        state = self._cache.get(podinfo.uid(pod))
        alive = [c for c in state.containers if c.state in (messages.ContainerState.RUNNING, messages.ContainerState.UNKNOWN)]
        sidecars = [c["name"] for c in podinfo.init_containers(pod) if podinfo.is_sidecar(c)]
        done = {c.name: asyncio.Event() for c in alive}

        def turn_of(name: str) -> Callable[[], Coroutine[Any, Any, None]] | None:
            if name not in sidecars:
                return None
            after = sidecars[sidecars.index(name) + 1 :]
            waits = [event for other, event in done.items() if other not in sidecars or other in after]

            async def wait() -> None:
                for event in waits:
                    await event.wait()

            return wait

        async def kill(record: ContainerRecord) -> None:
            try:
                await self.kill_container(pod, record, grace, turn=turn_of(record.name))
            finally:
                done[record.name].set()

        results = await asyncio.gather(*(kill(c) for c in alive), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        await self.stop_sandboxes(pod)

    async def stop_sandboxes(self, pod: Obj) -> None:
        uid = podinfo.uid(pod)
        for sandbox in list(self._cache.get(uid).sandboxes):
            if not sandbox.is_ready:
                continue
            try:
                await to_the_end(self._cri.stop_pod_sandbox(sandbox.id))
            except CRIError as error:
                if not error.not_found:
                    self._recorder.event(pod, "Warning", "FailedKillPod", f"error killing pod: {error}")
                    raise
            await self._cache.refresh_sandbox(uid, sandbox.id)

    # removing

    async def _forget_old_instances(self, uid: str, name: str) -> None:
        """Keep the last dead instance of a container: for ``logs --previous`` and the status' lastState."""
        instances = [c for c in self._cache.get(uid).containers if c.name == name]
        dead = [c for c in instances[1:] if not c.is_running]
        for record in dead[1:]:
            await self.remove_container(uid, record)

    async def _forget_old_sandboxes(self, uid: str) -> None:
        """A sandbox that was replaced goes when no container is left in it: with it the runtime removes those."""
        state = self._cache.get(uid)
        for sandbox in state.sandboxes[1:]:
            if sandbox.is_ready or any(c.sandbox_id == sandbox.id for c in state.containers):
                continue
            try:
                await to_the_end(self._cri.remove_pod_sandbox(sandbox.id))
            except CRIError as error:
                log.warning("cannot remove sandbox %s: %s", sandbox.id, error)
                continue
            await self._cache.refresh_sandbox(uid, sandbox.id)

    async def remove_container(self, uid: str, record: ContainerRecord, keep_log: bool = False) -> None:
        try:
            await to_the_end(self._cri.remove_container(record.id))
        except CRIError as error:
            log.warning("cannot remove container %s: %s", record.id, error)
            return
        await self._cache.refresh_container(uid, record.id)
        for link in self._layout.container_logs.glob(f"*-{record.id}.log"):
            link.unlink(missing_ok=True)
        if record.log_path and not keep_log:
            for file in Path(record.log_path).parent.glob(f"{Path(record.log_path).name}*"):
                file.unlink(missing_ok=True)

    async def remove_init_containers(self, pod: Obj) -> None:
        """A new sandbox starts from the beginning: what ran in the old one must not count as done (``purgeInitContainers``)."""
        names = {c["name"] for c in podinfo.init_containers(pod)}
        for record in list(self._cache.get(podinfo.uid(pod)).containers):
            if record.name in names and not record.is_running:
                await self.remove_container(podinfo.uid(pod), record)

    async def remove_pod(self, pod: Obj) -> None:
        """Everything of a pod that no longer exists: containers, sandboxes, logs. Failures are logged: the orphan sweep of the
        next start tries again."""
        uid = podinfo.uid(pod)
        state = self._cache.get(uid)
        ids = [c.id for c in state.containers]
        for sandbox in list(state.sandboxes):
            try:
                await to_the_end(self._cri.remove_pod_sandbox(sandbox.id))
            except CRIError as error:
                log.warning("cannot remove sandbox %s: %s", sandbox.id, error)
                continue
            await self._cache.refresh_sandbox(uid, sandbox.id)
        for record in list(self._cache.get(uid).containers):
            await self._cache.refresh_container(uid, record.id)
        await asyncio.to_thread(self._remove_logs, pod, ids)

    def _remove_logs(self, pod: Obj, ids: Sequence[str]) -> None:
        if self._layout.container_logs.is_dir():
            with os.scandir(self._layout.container_logs) as entries:
                for entry in entries:
                    if any(entry.name.endswith(f"-{id_}.log") for id_ in ids):
                        os.unlink(entry.path)
        shutil.rmtree(self._layout.log_dir(pod), ignore_errors=True)

    def _recorder_of(self, pod: Obj, container: Obj) -> Callable[[str, str, str], None]:
        path = podinfo.field_path(pod, container["name"])

        def record(type_: str, reason: str, message: str) -> None:
            self._recorder.event(pod, type_, reason, message, field_path=path)

        return record


def orphan_pod(state: PodState, annotations: dict[str, dict[str, str]] | None = None) -> Obj:
    """A Pod object for what runs without one in the API: enough to stop it decently.

    ``annotations`` by container name, as ``state.container_annotations`` wrote them: hooks and grace period live on in them.
    """
    from k3sd.kubelet.state import PORTS, PRE_STOP, TERMINATION_GRACE

    containers: list[Obj] = []
    grace = 30
    for name in dict.fromkeys(c.name for c in state.containers):
        container: Obj = {"name": name}
        values = (annotations or {}).get(name, {})
        if values.get(PRE_STOP):
            container["lifecycle"] = {"preStop": json.loads(values[PRE_STOP])}
        if values.get(PORTS):
            container["ports"] = json.loads(values[PORTS])
        if values.get(TERMINATION_GRACE, "").isdigit():
            grace = int(values[TERMINATION_GRACE])
        containers.append(container)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": state.name, "namespace": state.namespace, "uid": state.uid},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": grace},
        "status": {"phase": "Running"},
    }
