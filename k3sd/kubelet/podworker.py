"""The worker of one pod: brings it to life, keeps it there, ends it, one step at a time.

A worker sleeps until something concerns its pod: the object, a container's end, a probe, a timer. Source: Kubernetes 1.36
``pkg/kubelet/pod_workers.go``, ``pkg/kubelet/kubelet.go`` (``SyncPod``, ``SyncTerminatingPod``, ``SyncTerminatedPod``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.kubelet import backoff, podinfo
from k3sd.kubelet.cri.client import CRIError
from k3sd.kubelet.cri.messages import ContainerState
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.plan import Actions, ProbeResults, compute_actions
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.resize import Note, Resizer
from k3sd.kubelet.runtime import Grace
from k3sd.kubelet.services import Services
from k3sd.kubelet.state import PodState
from k3sd.kubelet.status import StatusInput, Verdict, Waiting, compute_status, rejected_status, terminate_status

log = logging.getLogger(__name__)

FORCED_GRACE_SECONDS = 1
RETRY_SECONDS = 10.0
"""Upstream's backOffPeriod: when something that is not a restart failed."""


class PodWorker:
    """One pod of one uid, from the first sight of it to the last trace."""

    def __init__(self, services: Services, pod: Obj, on_done: Callable[[str], None]) -> None:
        self.pod = pod
        self.uid = podinfo.uid(pod)
        self.verdict: Verdict | None = None
        self.is_admitted = False
        self.is_terminated = False
        """All containers are down for good and nothing of the pod is held any more but its record."""
        self._services = services
        self._on_done = on_done
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._gone = asyncio.Event()
        self._grace_changed = asyncio.Event()
        self._kill_grace: int | None = None
        self._waiting: dict[str, Waiting] = {}
        self._starting = ""
        self._unhealthy: dict[str, str] = {}
        self._cgroup_parent = ""
        self._is_prepared = False
        self._is_final = False
        self._spec_changed = False
        self._report_soon: asyncio.Handle | None = None
        self._resizer = Resizer(pod)
        self._failures = 0
        name = f"pod {podinfo.namespace(pod)}/{podinfo.name(pod)}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    # what others tell the worker

    def update(self, pod: Obj) -> None:
        """The object changed."""
        before, self.pod = self.pod, pod
        self._services.statuses.observed(pod)
        if podinfo.is_deleted(pod):
            if podinfo.grace_period_seconds(pod) < podinfo.grace_period_seconds(before) or not podinfo.is_deleted(before):
                self._grace_changed.set()
            self._end()
        elif podinfo.is_terminal(pod) and not podinfo.is_terminal(before):
            self._end()
        elif before.get("spec") != pod.get("spec") or any(
            before["metadata"].get(k) != pod["metadata"].get(k) for k in ("labels", "annotations", "generation")
        ):
            self._spec_changed = True
            self._failures = 0
            self._allocate()
            self._wake.set()
        elif (before.get("status") or {}).get("conditions") != (pod.get("status") or {}).get("conditions"):
            self._schedule_report()

    def vanish(self, forced: bool = False) -> None:
        """The object is gone from its source; what runs is ended, and every trace removed. ``forced``: nobody waits for a
        decent end any more."""
        self._gone.set()
        if forced and self._kill_grace is None:
            self._kill_grace = FORCED_GRACE_SECONDS
            self._grace_changed.set()
        self._end()

    def evict(self, verdict: Verdict, grace_seconds: int | None = None) -> None:
        """End the pod for a reason of the node's, with that status."""
        if not self._ending.is_set():
            self.verdict = verdict
            self._kill_grace = grace_seconds
        self._end()

    def runtime_changed(self) -> None:
        """A sandbox or container changed."""
        self._wake.set()
        self._schedule_report()

    def probe_failed(self, container_id: str, kind: str) -> None:
        """A liveness or startup probe gave up on a container: ``kind`` is liveness or startup."""
        self._unhealthy[container_id] = kind
        self._wake.set()

    def probe_changed(self) -> None:
        self._wake.set()
        self._schedule_report()

    def retry(self) -> None:
        """Something the pod waited for may be there now."""
        self._failures = 0
        self._wake.set()

    def _end(self) -> None:
        self._ending.set()
        self._wake.set()

    @property
    def is_ending(self) -> bool:
        return self._ending.is_set()

    @property
    def waits_for_resources(self) -> bool:
        """A resize is deferred until the node has room."""
        return self._resizer.is_deferred

    def granted(self) -> Obj:
        """The pod with the resources that it was given, which may differ from what it asks for."""
        return self._resizer.effective(self.pod)

    @property
    def is_gone(self) -> bool:
        """Its source has it no more; the end is under way."""
        return self._gone.is_set()

    async def stop(self) -> None:
        """The kubelet stops; the pod stays as it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._report_soon is not None:
            self._report_soon.cancel()

    # the worker's life

    async def _run(self) -> None:
        try:
            if podinfo.is_deleted(self.pod) or podinfo.is_terminal(self.pod):
                self._ending.set()
            await self._live()
            await self._insist(self._terminate, "stop")
            await self._insist(self._release, "release what it holds")
            self.is_terminated = True
            await self._wait_until_gone()
            await self._insist(self._remove, "remove")
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("pod %s: worker failed", podinfo.describe(self.pod))
        finally:
            self._on_done(self.uid)

    async def _live(self) -> None:
        """Sync until the pod is to end. A sync in progress is interrupted by the end, not by anything else."""
        while not self._ending.is_set():
            self._wake.clear()
            sync = asyncio.ensure_future(self._sync_safely())
            ending = asyncio.ensure_future(self._ending.wait())
            try:
                await asyncio.wait({sync, ending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ending.cancel()
                if not sync.done():
                    sync.cancel()
                    await asyncio.wait({sync})
            if self._ending.is_set():
                if sync.cancelled():
                    await self._find_leftovers()
                return
            delay = sync.result()
            try:
                await asyncio.wait_for(self._wake.wait(), delay)
            except TimeoutError:
                continue

    async def _find_leftovers(self) -> None:
        try:
            await self._services.cache.refresh_pod(self.uid)
        except CRIError as error:
            log.warning("pod %s: cannot list its containers: %s", podinfo.describe(self.pod), error)

    async def _sync_safely(self) -> float | None:
        """Seconds until the next look without a cause, None for never."""
        try:
            delay = await self._sync()
            if delay is None or delay < RETRY_SECONDS:
                self._failures = 0
        except (StartError, CRIError, OSError) as error:
            log.info("pod %s: %s", podinfo.describe(self.pod), error)
            self._failures += 1
            given = error.retry_seconds if isinstance(error, StartError) else None
            # Early failures are often over soon (a network or an image that is just being set up).
            delay = given if given is not None else min(2.0 ** (self._failures - 1), RETRY_SECONDS) * random.uniform(0.8, 1.2)
            self.report()
        except Exception:
            # A mistake of ours must not leave the pod without its worker.
            log.exception("pod %s: sync failed", podinfo.describe(self.pod))
            delay = RETRY_SECONDS
        deadline = self._deadline_remaining()
        if deadline is not None:
            delay = deadline if delay is None else min(delay, deadline)
        return delay

    async def _sync(self) -> float | None:
        """One pass: decide and do (``SyncPod``). Returns when to look again."""
        services, pod = self._services, self.pod
        if not self.is_admitted:
            self.verdict = None if self._services.cache.get(self.uid).sandboxes else services.admit(pod)
            if self.verdict is not None:
                services.recorder.event(pod, "Warning", self.verdict.reason, self.verdict.message)
                self._end()
                return None
            self.is_admitted = True
        self._allocate()
        status = self.report()
        if status["phase"] in ("Succeeded", "Failed"):
            self._end()
            return None
        deadline = self._deadline_remaining()
        if deadline is not None and deadline <= 0:
            self.verdict = Verdict("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            services.recorder.event(pod, "Normal", "DeadlineExceeded", self.verdict.message)
            self._end()
            return None
        await self._prepare()
        pod = self._resizer.effective(pod)
        await self._resizer.widen(pod, services.cgroups)
        actions = compute_actions(pod, services.cache.get(self.uid), self._probe_results())
        retry = None if actions.is_empty else await self._act(actions)
        await self._resize()
        self.report()
        return retry

    def _deadline_remaining(self) -> float | None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        started = self._services.statuses.get(self.pod).get("startTime")
        if seconds is None or not started:
            return None
        return float(timefmt.parse(started) + seconds - time.time())

    async def _prepare(self) -> None:
        """Cgroup, directories and volumes. Raises StartError."""
        services, pod = self._services, self.pod
        if self._is_prepared:
            if self._spec_changed:
                self._spec_changed = False
                await services.volumes.changed(pod)
            return
        if not podinfo.is_host_network(pod) and (problem := services.network_ready()):
            services.recorder.event(pod, "Warning", "NetworkNotReady", f"network is not ready: {problem}")
            raise StartError("NetworkNotReady", problem)
        self._cgroup_parent = await asyncio.to_thread(self._make_places, pod)
        try:
            await services.volumes.mount(pod)
        except StartError as error:
            services.recorder.event(pod, "Warning", error.reason, error.message)
            raise
        self._is_prepared = True
        self._spec_changed = False

    def _make_places(self, pod: Obj) -> str:
        directory = self._services.layout.pod_dir(self.uid)
        for path in (directory, directory / "volumes", directory / "plugins", directory / "containers"):
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
        parent = self._services.cgroups.create_pod(pod)
        self._services.cgroups.set_burstable_shares(self._services.holders())
        return parent

    # acting

    async def _act(self, actions: Actions) -> float | None:
        """Carry the plan out; the soonest time at which something that failed may be tried again."""
        services, pod = self._services, self.pod
        runtime = services.runtime
        if actions.kill_pod:
            if actions.create_sandbox:
                message = "Pod sandbox changed, it will be killed and re-created."
                services.recorder.event(pod, "Normal", "SandboxChanged", message)
            await runtime.kill_pod(pod, Grace())
            if actions.create_sandbox:
                await runtime.remove_init_containers(pod)
        for kill in actions.kills:
            self._unhealthy.pop(kill.record.id, None)
            services.probes.stop(kill.record.id)
        if actions.kills:
            await asyncio.gather(
                *(
                    runtime.kill_container(pod, kill.record, Grace(), message=kill.message, reason=kill.reason)
                    for kill in actions.kills
                )
            )
        if not actions.create_sandbox and not actions.starts:
            return None
        config = runtime.sandbox_config(pod, actions.attempt, self._cgroup_parent)
        if actions.create_sandbox:
            await runtime.create_sandbox(pod, config)
            await services.limit_slice(pod)
        return await self._start_all(actions, config)

    async def _start_all(self, actions: Actions, config: Any) -> float | None:
        retries = [await self._start(c, config) for c in actions.start_ephemeral]
        for container in actions.start_init:
            retry = await self._start(container, config)
            retries.append(retry)
            if retry is not None and not podinfo.is_sidecar(container):
                break
        else:
            retries += [await self._start(c, config) for c in actions.start]
        return min((r for r in retries if r is not None), default=None)

    async def _start(self, container: Obj, config: Any) -> float | None:
        """None when it runs; else seconds to wait, with the reason kept for the status."""
        services, pod, name = self._services, self.pod, container["name"]
        if (container.get("lifecycle") or {}).get("postStart"):
            # It runs before its hook has ended, but is neither probed nor ready until then.
            self._starting = name
        try:
            self._check_backoff(container)
            await services.runtime.start_container(pod, container, config)
        except StartError as error:
            self._waiting[name] = Waiting(error.reason, error.message)
            self._schedule_report()
            return max(error.retry_seconds if error.retry_seconds is not None else RETRY_SECONDS, 0.01)
        finally:
            self._starting = ""
        self._waiting.pop(name, None)
        if (record := services.cache.get(self.uid).latest(name)) is not None:
            self._resizer.started(record.id, container)
            self._allocate()
        self._begin_probes(container)
        self._schedule_report()
        return None

    def _check_backoff(self, container: Obj) -> None:
        """Whether a container that ended may run again already (``doBackOff``). Raises StartError CrashLoopBackOff."""
        services, pod, name = self._services, self.pod, container["name"]
        last = services.cache.get(self.uid).latest(name)
        if last is None or last.state != ContainerState.EXITED:
            return
        # What is changed is tried at once (``GetBackoffKey``).
        definition = json.dumps([container.get("image"), container.get("resources")], sort_keys=True)
        key, ended = f"{self.uid}:{name}:{definition}", last.finished_at / 1e9
        wait = services.restarts.remaining(key, ended)
        if wait > 0:
            if self._waiting.get(name, Waiting("", "")).reason != "CrashLoopBackOff":
                services.recorder.event(
                    pod,
                    "Warning",
                    "BackOff",
                    f"Back-off restarting failed container {name} in pod {podinfo.describe(pod)}",
                    field_path=podinfo.field_path(pod, name),
                )
            delay = backoff.text(services.restarts.get(key))
            message = f"back-off {delay} restarting failed container={name} pod={podinfo.describe(pod)}"
            raise StartError("CrashLoopBackOff", message, wait)
        services.restarts.next(key, ended)

    async def _resize(self) -> None:
        """Apply changed resources to what runs, and remember how far that is."""
        services, pod = self._services, self._resizer.effective(self.pod)
        for record in self._resizer.restarts(pod, services.cache.get(self.uid)):
            message = f"Container {record.name} resize requires restart"
            services.probes.stop(record.id)
            await services.runtime.kill_container(pod, record, Grace(), message=message)
        try:
            if await self._resizer.run(pod, services.cache.get(self.uid), services.runtime, services.cgroups):
                await services.limit_slice(pod)
        except (CRIError, StartError) as error:
            message = error.message if isinstance(error, StartError) else str(error)
            self._record(self._resizer.failed(pod, message))
            raise
        self._allocate()

    def _allocate(self) -> None:
        """Before the next status: what of the spec is granted, and what of that is in force."""
        if self.is_admitted:
            state = self._services.cache.get(self.uid)
            self._record(self._resizer.allocate(self.pod, state, self._services.check_resize))

    def _record(self, notes: Iterable[Note]) -> None:
        for note in notes:
            self._services.recorder.event(self.pod, note.type, note.reason, note.message)

    # probes

    def _begin_probes(self, container: Obj, old: Obj | None = None) -> None:
        record = self._services.cache.get(self.uid).latest(container["name"])
        if record is None or not record.is_running:
            return
        taken_over = old is not None and old.get("containerID") == f"containerd://{record.id}"
        self._services.probes.start(
            self.pod,
            container,
            record.id,
            record.started_at / 1e9,
            next(iter(self._services.runtime.pod_ips(self.pod)), ""),
            was_started=bool(taken_over and old and old.get("started")),
            was_ready=bool(taken_over and old and old.get("ready")),
        )

    def _probe_results(self) -> ProbeResults:
        """Start probes of what runs without any yet (after a takeover), end those of what has ended, and read the results."""
        services, state = self._services, self._services.cache.get(self.uid)
        results = ProbeResults()
        liveness: dict[str, Any] = {}
        startup: dict[str, Any] = {}
        readiness: dict[str, Any] = {}
        shown = self.pod.get("status") or {}
        old = {s["name"]: s for k in ("containerStatuses", "initContainerStatuses") for s in shown.get(k) or ()}
        specs = {c["name"]: c for _, c in podinfo.all_containers(self.pod)}
        for record in state.containers:
            if not record.is_running:
                services.probes.stop(record.id)
                self._unhealthy.pop(record.id, None)
                continue
            if record.name in specs and record.name != self._starting:
                self._begin_probes(specs[record.name], old.get(record.name))
            if kind := self._unhealthy.get(record.id):
                (liveness if kind == "liveness" else startup)[record.id] = "failure"
            if services.probes.started(record.id):
                startup.setdefault(record.id, "success")
                # A sidecar's liveness is only looked at for failure.
                liveness.setdefault(record.id, "success")
            if services.probes.ready(record.id):
                readiness[record.id] = "success"
        results.liveness, results.startup, results.readiness = liveness, startup, readiness
        return results

    # reporting

    def _schedule_report(self) -> None:
        if self._report_soon is None and self.is_admitted:
            self._report_soon = asyncio.get_running_loop().call_soon(self._report_now)

    def _report_now(self) -> None:
        self._report_soon = None
        if not self._is_final:
            self.report()

    def report(self) -> Obj:
        """Compute the status and hand it on."""
        if self._report_soon is not None:
            self._report_soon.cancel()
            self._report_soon = None
        services = self._services
        state = services.cache.get(self.uid)
        status = self._compute(state, is_terminal=False)
        services.statuses.set(
            self.pod, status, lazy=status["phase"] == "Pending" and not state.containers and not self._waiting
        )
        return status

    def _compute(self, state: PodState, is_terminal: bool) -> Obj:
        return compute_status(
            self.pod,
            state,
            StatusInput(
                old=self._services.statuses.get(self.pod),
                probes=self._probe_results() if not is_terminal else ProbeResults(),
                waiting=self._waiting,
                starting=self._starting,
                resources=self._resizer.in_force,
                allocated=self._resizer.allocated,
                resize_conditions=self._resizer.conditions(),
                host_ips=self._services.host_ips,
                is_terminal=is_terminal,
                verdict=self.verdict if is_terminal else None,
            ),
        )

    # the end

    async def _insist(self, step: Callable[[], Any], word: str) -> None:
        """A step of the end is repeated until it succeeds: nothing may be forgotten half-way."""
        delay = 0.5
        while True:
            try:
                await step()
                return
            except (CRIError, StartError, OSError) as error:
                log.warning("pod %s: cannot %s yet: %s", podinfo.describe(self.pod), word, error)
            except Exception:
                log.exception("pod %s: cannot %s", podinfo.describe(self.pod), word)
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(delay * 2, RETRY_SECONDS)

    async def _terminate(self) -> None:
        """Kill what runs; a shorter grace period that arrives meanwhile takes over (``SyncTerminatingPod``)."""
        services = self._services
        services.probes.pod_terminating(self.uid)
        while True:
            self._grace_changed.clear()
            kill = asyncio.ensure_future(services.runtime.kill_pod(self.pod, Grace(self._kill_grace)))
            changed = asyncio.ensure_future(self._grace_changed.wait())
            try:
                await asyncio.wait({kill, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                if not kill.done():
                    kill.cancel()
                    await asyncio.wait({kill})
            if not kill.cancelled():
                kill.result()
                break
        services.probes.stop_pod(self.uid)
        self._is_final = True
        if not self._gone.is_set():
            state = services.cache.get(self.uid)
            if self.verdict is not None and not self.is_admitted:
                status = rejected_status(self.pod, self.verdict)
            else:
                status = terminate_status(self.pod, self._compute(state, is_terminal=True))
            services.statuses.set(self.pod, status)

    async def _release(self) -> None:
        """Give back volumes and cgroup (``SyncTerminatedPod``)."""
        await self._services.volumes.unmount(self.uid)
        await asyncio.to_thread(self._services.cgroups.remove_pod, self.uid)
        holders = [p for p in self._services.holders() if podinfo.uid(p) != self.uid]
        await asyncio.to_thread(self._services.cgroups.set_burstable_shares, holders)

    async def _wait_until_gone(self) -> None:
        """Confirm the deletion once it is asked for; then wait for the object to be gone."""
        while not self._gone.is_set():
            if podinfo.is_deleted(self.pod) and not podinfo.is_static(self.pod):
                await self._services.statuses.delete(self.pod)
                await self._gone.wait()
                return
            self._wake.clear()
            gone = asyncio.ensure_future(self._gone.wait())
            wake = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({gone, wake}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                wake.cancel()

    async def _remove(self) -> None:
        services = self._services
        await services.runtime.remove_pod(self.pod)
        await services.volumes.remove(self.uid)
        services.statuses.forget(self.uid)
        services.images.forget_pod(self.uid)
        services.restarts.forget(f"{self.uid}:")
