"""Liveness, readiness and startup probes: one task a probe, results per container id.

Source: Kubernetes 1.36, ``pkg/kubelet/prober`` and ``pkg/probe``. A container without a readiness probe is ready as soon as
it has started; without a startup probe it has started at once. A new container id starts from nothing; a container taken over
from an earlier kubelet keeps what was known of it until its probes say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from k3sd.kubelet import httpget
from k3sd.kubelet.cri.client import CRIError
from k3sd.kubelet.plan import ProbeResults, Verdict

Obj = dict[str, Any]
Kind = Literal["Liveness", "Readiness", "Startup"]
Outcome = Literal["success", "warning", "failure"]

log = logging.getLogger(__name__)

USER_AGENT = "kube-probe/1.36"
ATTEMPTS = 3
"""A probe that could not be carried out (unlike one that failed) is repeated this often, then forgotten."""
CONCURRENT_EXECS = 16
MAX_OUTPUT_BYTES = 10 * 1024
_FIELDS: dict[Kind, str] = {"Liveness": "livenessProbe", "Readiness": "readinessProbe", "Startup": "startupProbe"}

ExecProbe = Callable[[str, Sequence[str], float], Awaitable[tuple[int, bytes]]]
"""Runs a command in a container id, bounded by seconds: exit code and output. Raises TimeoutError or CRIError."""


class ProbeError(Exception):
    """The probe could not be carried out, which says nothing of the container."""


@dataclass(frozen=True, slots=True)
class ProbeChange:
    """A probe passed a threshold. Liveness or Startup without ``success`` means: kill the container."""

    pod_uid: str
    container_name: str
    container_id: str
    kind: Kind
    success: bool
    message: str = ""


class _Probed:
    """One container's probes."""

    __slots__ = ("container", "id", "ip", "pod", "ready", "started", "started_at", "tasks", "verdicts")

    def __init__(self, pod: Obj, container: Obj, container_id: str, started_at: float, ip: str) -> None:
        self.pod = pod
        self.container = container
        self.id = container_id
        self.started_at = started_at
        self.ip = ip
        self.started = False
        self.ready = False
        self.tasks: dict[Kind, asyncio.Task[None]] = {}
        self.verdicts: dict[Kind, Verdict] = {}


class ProbeManager:
    """``on_change`` is called in the event loop, at once, with each change; ``on_event`` gets pod, container, reason and
    message for the pod's events (``Unhealthy``, ``ProbeWarning``)."""

    def __init__(
        self,
        exec_probe: ExecProbe,
        on_change: Callable[[ProbeChange], None],
        on_event: Callable[[Obj, Obj, str, str], None] = lambda pod, container, reason, message: None,
    ) -> None:
        self._exec = exec_probe
        self._on_change = on_change
        self._on_event = on_event
        self._execs = asyncio.Semaphore(CONCURRENT_EXECS)
        self._containers: dict[str, _Probed] = {}
        self._since = time.time()

    def start(
        self,
        pod: Obj,
        container: Obj,
        container_id: str,
        started_at: float,
        pod_ip: str,
        *,
        was_started: bool = False,
        was_ready: bool = False,
    ) -> None:
        """A container runs: begin to probe it. Idempotent by container id.

        ``was_started`` and ``was_ready`` are what the API says of a container that is taken over.
        """
        if container_id in self._containers:
            return
        probed = self._containers[container_id] = _Probed(pod, container, container_id, started_at, pod_ip)
        if container.get("startupProbe") and not was_started:
            self._begin(probed, "Startup")
        else:
            probed.ready = was_ready
            if container.get("startupProbe"):
                probed.verdicts["Startup"] = "success"
            self._has_started(probed)

    def started(self, container_id: str) -> bool:
        """Its startup probe has succeeded, or it has none. False for an unknown container."""
        probed = self._containers.get(container_id)
        return probed is not None and probed.started

    def ready(self, container_id: str) -> bool:
        """Started, and its readiness probe last said yes, or it has none. False for an unknown container."""
        probed = self._containers.get(container_id)
        return probed is not None and probed.started and probed.ready

    def results(self, pod_uid: str) -> ProbeResults:
        """What the probes of a pod's containers have said so far, by container id."""
        probed = [p for p in self._containers.values() if p.pod["metadata"]["uid"] == pod_uid]
        return ProbeResults(
            liveness={p.id: p.verdicts["Liveness"] for p in probed if "Liveness" in p.verdicts},
            startup={p.id: p.verdicts["Startup"] for p in probed if "Startup" in p.verdicts},
            readiness={p.id: "success" if p.ready else "failure" for p in probed},
        )

    def stop(self, container_id: str) -> None:
        """The container has ended: forget it."""
        probed = self._containers.pop(container_id, None)
        if probed is not None:
            for task in probed.tasks.values():
                task.cancel()

    def pod_terminating(self, uid: str) -> None:
        """The pod is being stopped: it must not be restarted for its health any more, but its readiness still counts."""
        for probed in self._containers.values():
            if probed.pod["metadata"]["uid"] == uid:
                for kind in ("Liveness", "Startup"):
                    if task := probed.tasks.pop(kind, None):
                        task.cancel()

    def stop_pod(self, uid: str) -> None:
        for container_id in [p.id for p in self._containers.values() if p.pod["metadata"]["uid"] == uid]:
            self.stop(container_id)

    async def close(self) -> None:
        tasks = [task for probed in self._containers.values() for task in probed.tasks.values()]
        for container_id in list(self._containers):
            self.stop(container_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one container

    def _has_started(self, probed: _Probed) -> None:
        probed.started = True
        if probed.container.get("readinessProbe"):
            self._begin(probed, "Readiness")
        else:
            probed.ready = True
        if probed.container.get("livenessProbe"):
            self._begin(probed, "Liveness")

    def _begin(self, probed: _Probed, kind: Kind) -> None:
        probed.tasks[kind] = asyncio.get_running_loop().create_task(
            self._run(probed, kind), name=f"{kind.lower()} probe of {probed.container['name']}"
        )

    async def _run(self, probed: _Probed, kind: Kind) -> None:
        """Probe until the verdict is final: a startup success, or a failure that will kill the container (``doProbe``)."""
        spec: Obj = probed.container[_FIELDS[kind]]
        period = float(spec.get("periodSeconds") or 10)
        thresholds = {True: int(spec.get("successThreshold") or 1), False: int(spec.get("failureThreshold") or 3)}
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._first_delay(probed, spec, period))
        last: bool | None = None
        run = 0
        while True:
            begun = loop.time()
            verdict = await self._attempt(probed, kind, spec)
            if verdict is not None:
                success, message = verdict
                run = run + 1 if success == last else 1
                last = success
                if run >= thresholds[success] and self._settled(probed, kind, success, message):
                    return
            await asyncio.sleep(max(begun + period - loop.time(), 0.0))

    def _first_delay(self, probed: _Probed, spec: Obj, period: float) -> float:
        now = time.time()
        delay = max(probed.started_at + float(spec.get("initialDelaySeconds") or 0) - now, 0.0)
        if probed.started_at < self._since and now - self._since < period:
            # All containers of an earlier kubelet are taken over at once: spread them.
            delay = max(delay, random.random() * period)
        return delay

    def _settled(self, probed: _Probed, kind: Kind, success: bool, message: str) -> bool:
        """Record a verdict; whether the probe has nothing more to say."""
        if self._containers.get(probed.id) is not probed:
            return True
        probed.verdicts[kind] = "success" if success else "failure"
        changed = True
        if kind == "Readiness":
            changed, probed.ready = probed.ready != success, success
        elif kind == "Startup" and success:
            self._has_started(probed)
        elif success:
            changed = False
        if changed:
            name, uid = str(probed.container["name"]), str(probed.pod["metadata"]["uid"])
            self._on_change(ProbeChange(uid, name, probed.id, kind, success, message))
        return kind == "Startup" or (kind == "Liveness" and not success)

    async def _attempt(self, probed: _Probed, kind: Kind, spec: Obj) -> tuple[bool, str] | None:
        """One verdict and its text; None when there is none."""
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                outcome, text = await self._probe(probed, spec)
            except ProbeError as error:
                problem = str(error)
                continue
            if outcome == "warning":
                self._on_event(probed.pod, probed.container, "ProbeWarning", f"{kind} probe warning: {text}")
            elif outcome == "failure":
                self._on_event(probed.pod, probed.container, "Unhealthy", f"{kind} probe failed: {text}")
            return outcome != "failure", text
        message = f"{kind} probe errored and resulted in unknown state: {problem}"
        self._on_event(probed.pod, probed.container, "Unhealthy", message)
        return None

    async def _probe(self, probed: _Probed, spec: Obj) -> tuple[Outcome, str]:
        timeout = float(spec.get("timeoutSeconds") or 1)
        try:
            if action := spec.get("exec"):
                return await self._probe_exec(probed, [str(a) for a in action.get("command") or ()], timeout)
            if action := spec.get("httpGet"):
                url = httpget.action_url(action, probed.container, probed.ip)
                return await probe_http(url, httpget.action_headers(action, USER_AGENT), timeout)
            if action := spec.get("tcpSocket"):
                port = httpget.resolve_port(action.get("port", 0), probed.container)
                return await probe_tcp(str(action.get("host") or probed.ip), port, timeout)
            if action := spec.get("grpc"):
                return await probe_grpc(probed.ip, int(action["port"]), str(action.get("service") or ""), timeout)
        except ValueError as error:
            raise ProbeError(str(error)) from error
        raise ProbeError(f"missing probe handler for {probed.pod['metadata']['name']}:{probed.container['name']}")

    async def _probe_exec(self, probed: _Probed, command: list[str], timeout: float) -> tuple[Outcome, str]:
        async with self._execs:
            try:
                code, output = await self._exec(probed.id, command, timeout)
            except TimeoutError:
                return "failure", f'command timed out: "{" ".join(command)}" timed out after {go_duration(timeout)}'
            except CRIError as error:
                raise ProbeError(str(error)) from error
        return "success" if code == 0 else "failure", output[:MAX_OUTPUT_BYTES].decode(errors="replace")


def go_duration(seconds: float) -> str:
    """Whole seconds as Go prints a duration: ``1s``, ``1m30s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"


def kill_grace_seconds(pod: Obj, container: Obj, kind: Kind) -> int:
    """How long a container killed by its probe may take: the probe's own ``terminationGracePeriodSeconds`` before the pod's."""
    own = (container.get(_FIELDS[kind]) or {}).get("terminationGracePeriodSeconds")
    whole = (pod.get("spec") or {}).get("terminationGracePeriodSeconds")
    return int(own if own is not None else 30 if whole is None else whole)


async def probe_http(url: str, headers: httpget.Headers, timeout: float) -> tuple[Outcome, str]:
    """Source: ``DoHTTPProbe``."""
    try:
        response = await httpget.get(url, headers, timeout)
    except httpget.GetError as error:
        return "failure", str(error)
    body = response.body.decode(errors="replace")
    if 200 <= response.status < 300:
        return "success", body
    if 300 <= response.status < 400:
        return "warning", f"Probe terminated redirects, Response body: {body}"
    return "failure", f"HTTP probe failed with statuscode: {response.status}"


async def probe_tcp(host: str, port: int, timeout: float) -> tuple[Outcome, str]:
    address = httpget.join_host_port(host, port)
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return "failure", f"dial tcp {address}: i/o timeout"
    except OSError as error:
        return "failure", f"dial tcp {address}: connect: {httpget.dial_reason(error)}"
    writer.close()
    return "success", ""


_SERVING = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


async def probe_grpc(host: str, port: int, service: str, timeout: float) -> tuple[Outcome, str]:
    """``grpc.health.v1.Health/Check``; its two messages are small enough to write by hand."""
    import grpc

    name = service.encode()
    request = b"" if not name else b"\x0a" + _varint(len(name)) + name
    options = (("grpc.primary_user_agent", USER_AGENT), ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    address = httpget.join_host_port(host, port)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        try:
            answer: bytes = await channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return "failure", _grpc_problem(error, address, timeout)
    status = _serving_status(answer)
    if status == "SERVING":
        return "success", "service healthy"
    return "failure", f'service unhealthy (responded with "{status}")'


def _grpc_problem(error: Any, address: str, timeout: float) -> str:
    details = error.details() or ""
    match error.code().name:
        case "UNIMPLEMENTED":
            return f"error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {details}"
        case "DEADLINE_EXCEEDED":
            return f"timeout: health rpc did not complete within {go_duration(timeout)}"
        case "UNAVAILABLE":
            return f'error: failed to connect service at "{address}": {details}'
    return f"error: health rpc probe failed: {details}"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _serving_status(answer: bytes) -> str:
    """Field 1 of HealthCheckResponse, an enum; absent means UNKNOWN."""
    number = answer[1] if len(answer) >= 2 and answer[0] == 0x08 else 0
    return _SERVING.get(number, str(number))
