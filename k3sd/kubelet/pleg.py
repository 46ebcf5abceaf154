"""The node's picture of sandboxes and containers, kept by containerd's events instead of relisting.

Named after upstream's pod lifecycle event generator. Own actions are recorded as they happen; foreign and late ones arrive as
events. A list is compared at start, after a broken event stream, and rarely for safety.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k3sd.kubelet.cri.client import ContainerEvent, CRIClient, CRIError
from k3sd.kubelet.cri.messages import ContainerState, SandboxState
from k3sd.kubelet.state import (
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    TERMINATION_PATH,
    TERMINATION_POLICY,
    ContainerRecord,
    PodState,
    container_record,
    sandbox_record,
)

log = logging.getLogger(__name__)

SAFETY_RELIST_SECONDS = 300.0
MESSAGE_LIMIT = 4096
LOG_TAIL_BYTES = 2048
LOG_TAIL_LINES = 80
# After an exit event the runtime needs a moment until its own record says so.
_SETTLE_DELAYS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)


class PodCache:
    """``on_change`` is called with a pod's uid after its state changed; states are shared and changed in place."""

    def __init__(self, cri: CRIClient, on_change: Callable[[str], None]) -> None:
        self._cri = cri
        self._on_change = on_change
        self._pods: dict[str, PodState] = {}
        self._owner: dict[str, str] = {}
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # reading

    def get(self, uid: str) -> PodState:
        """The pod's state, empty when the runtime has nothing of it."""
        return self._pods.get(uid) or PodState(uid)

    def find(self, container_id: str) -> ContainerRecord | None:
        state = self._pods.get(self._owner.get(container_id, ""))
        return next((c for c in state.containers if c.id == container_id), None) if state is not None else None

    def pods(self) -> list[PodState]:
        return list(self._pods.values())

    # life

    async def start(self) -> None:
        """List everything, then follow events. Raises CRIError when the runtime does not answer."""
        await self.relist()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(), name="pleg-events"),
            loop.create_task(self._relist_rarely(), name="pleg-relist"),
        ]

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._settling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async for event in self._cri.get_container_events():
            try:
                await self._handle(event)
            except CRIError as error:
                log.warning("cannot look after containerd's event %s: %s", event, error)

    async def _relist_rarely(self) -> None:
        while True:
            await asyncio.sleep(SAFETY_RELIST_SECONDS)
            try:
                await self.relist()
            except CRIError as error:
                log.warning("cannot list the runtime's containers: %s", error)

    async def _handle(self, event: ContainerEvent) -> None:
        if event.type == "resync":
            await self.relist()
            return
        uid = self._owner.get(event.container_id)
        if uid is None:
            return
        if event.type == "removed":
            self._drop(uid, event.container_id)
        elif event.type in ("exited", "deleted", "oom") and event.container_id not in self._settling:
            task = asyncio.get_running_loop().create_task(
                self._settle(uid, event.container_id, must_end=event.type != "oom"), name=f"settle {event.container_id[:12]}"
            )
            self._settling[event.container_id] = task
            task.add_done_callback(lambda _: self._settling.pop(event.container_id, None))

    async def _settle(self, uid: str, id_: str, must_end: bool) -> None:
        """Read until the runtime's record shows the end that its event announced."""
        is_sandbox = any(s.id == id_ for s in self.get(uid).sandboxes)
        for delay in _SETTLE_DELAYS:
            try:
                if is_sandbox:
                    ended = not await self.refresh_sandbox(uid, id_)
                else:
                    ended = await self.refresh_container(uid, id_) == ContainerState.EXITED
            except CRIError as error:
                if not error.unavailable:
                    log.warning("cannot read state of %s: %s", id_, error)
                return
            if ended or not must_end:
                return
            await asyncio.sleep(delay)

    # writing

    async def refresh_container(self, uid: str, id_: str, sandbox_id: str = "") -> ContainerState:
        """Read one container anew. ``sandbox_id`` is needed the first time; a vanished one counts as exited."""
        state = self._pods.setdefault(uid, PodState(uid))
        old = next((c for c in state.containers if c.id == id_), None)
        self._owner[id_] = uid
        try:
            answer = await self._cri.container_status(id_)
        except CRIError as error:
            if not error.not_found:
                raise
            self._drop(uid, id_)
            return ContainerState.EXITED
        record = container_record(answer.status, sandbox_id or (old.sandbox_id if old else ""))
        if record.state == ContainerState.EXITED:
            if old is not None and old.state == ContainerState.EXITED:
                record.message = old.message
            else:
                record.message = await asyncio.to_thread(_termination_message, answer.status)
        if record != old:
            state.put(record)
            self._on_change(uid)
        return record.state

    async def refresh_sandbox(self, uid: str, id_: str) -> bool:
        """Read one sandbox anew; whether it is ready."""
        state = self._pods.setdefault(uid, PodState(uid))
        old = next((s for s in state.sandboxes if s.id == id_), None)
        self._owner[id_] = uid
        try:
            answer = await self._cri.pod_sandbox_status(id_)
        except CRIError as error:
            if not error.not_found:
                raise
            self._drop(uid, id_)
            return False
        record = sandbox_record(answer.status)
        if old is not None and not record.is_ready:
            record.ips = record.ips or old.ips  # a stopped sandbox has none, and the ended pod's stay on record
        state.name = state.name or answer.status.labels.get(POD_NAME, answer.status.metadata.name)
        state.namespace = state.namespace or answer.status.labels.get(POD_NAMESPACE, answer.status.metadata.namespace)
        if record != old:
            state.put_sandbox(record)
            self._on_change(uid)
        return record.is_ready

    async def refresh_pod(self, uid: str) -> None:
        """Find what an interrupted action may have left behind. Raises CRIError."""
        labels = {POD_UID: uid}
        for sandbox in await self._cri.list_pod_sandbox(labels):
            await self.refresh_sandbox(uid, sandbox.id)
        for container in await self._cri.list_containers(labels):
            await self.refresh_container(uid, container.id, container.pod_sandbox_id)

    def expect(self, uid: str, id_: str) -> None:
        """A container was just created: its events are the pod's from now on."""
        self._owner[id_] = uid

    def _drop(self, uid: str, id_: str) -> None:
        self._owner.pop(id_, None)
        state = self._pods.get(uid)
        if state is None:
            return
        before = len(state.containers) + len(state.sandboxes)
        state.containers = [c for c in state.containers if c.id != id_]
        state.sandboxes = [s for s in state.sandboxes if s.id != id_]
        if not state.containers and not state.sandboxes:
            del self._pods[uid]
        if len(state.containers) + len(state.sandboxes) != before:
            self._on_change(uid)

    async def relist(self) -> None:
        """Compare with the runtime's lists; only what differs is read in full."""
        sandboxes = await self._cri.list_pod_sandbox()
        containers = await self._cri.list_containers()
        known = {s.id: s.is_ready for p in self._pods.values() for s in p.sandboxes}
        states = {c.id: c.state for p in self._pods.values() for c in p.containers}
        reads: list[Any] = []
        for item in sandboxes:
            if known.get(item.id) != (item.state == SandboxState.READY):
                reads.append(self.refresh_sandbox(item.labels.get(POD_UID, item.metadata.uid), item.id))
        owners = {s.id: s.labels.get(POD_UID, s.metadata.uid) for s in sandboxes}
        for item in containers:
            uid = item.labels.get(POD_UID) or owners.get(item.pod_sandbox_id, "")
            if uid and states.get(item.id) != item.state:
                reads.append(self.refresh_container(uid, item.id, item.pod_sandbox_id))
        listed = {item.id for item in [*sandboxes, *containers]}
        # Not in the list: gone, or made while we listed. Reading tells.
        for pod in list(self._pods.values()):
            reads.extend(self.refresh_sandbox(pod.uid, s.id) for s in pod.sandboxes if s.id not in listed)
            reads.extend(self.refresh_container(pod.uid, c.id) for c in pod.containers if c.id not in listed)
        limit = asyncio.Semaphore(16)

        async def read(job: Any) -> None:
            async with limit:
                await job

        await asyncio.gather(*(read(job) for job in reads))


def _termination_message(status: Any) -> str:
    """The runtime's own message and what the container left at its terminationMessagePath, or the end of its log
    (``getTerminationMessage``). Blocks on files."""
    path = status.annotations.get(TERMINATION_PATH, "")
    fallback = status.annotations.get(TERMINATION_POLICY) == "FallbackToLogsOnError" and status.exit_code != 0
    text = ""
    file = next((m.host_path for m in status.mounts if path and m.container_path == path), "")
    if file:
        try:
            text = _tail(file, MESSAGE_LIMIT).decode(errors="replace")
        except FileNotFoundError:
            text = ""
        except OSError as error:
            text, fallback = f"Error on reading termination log {file}: {error}", False
    if not text and fallback:
        text = _log_tail(status.log_path)
    return ": ".join(part for part in (str(status.message), text) if part)


def _tail(path: str, limit: int) -> bytes:
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - limit, 0))
        return file.read(limit)


def _log_tail(path: str) -> str:
    """The last lines of a CRI log, without their stamps."""
    try:
        # Stamps and tags take about 45 bytes a line on top of the content.
        data = _tail(path, LOG_TAIL_BYTES + LOG_TAIL_LINES * 45)
    except OSError as error:
        return f"Error reading termination message from logs: {error}"
    lines = data.splitlines()[-LOG_TAIL_LINES:]
    out: list[bytes] = []
    for line in lines:
        parts = line.split(b" ", 3)
        if len(parts) == 4 and parts[1] in (b"stdout", b"stderr"):
            out.append(parts[3] + (b"" if parts[2].startswith(b"P") else b"\n"))
    return b"".join(out)[-LOG_TAIL_BYTES:].decode(errors="replace")
