"""One supervised process: start, watch, restart with backoff, stop on a clock. Standard library only; no I/O loop of its own.

The decisions (when to start again, when to kill) are functions of the clock, so that the parent's loop only asks ``deadline``
and calls ``tick``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""A child that ran this long starts again from the first backoff."""
REFUSED = 78
"""The exit code (EX_CONFIG) of a child that said why it cannot work and that trying again will not help."""


def next_backoff(previous_seconds: float, ran_seconds: float) -> float:
    """Seconds to wait before the next start, after a run of ``ran_seconds``."""
    if ran_seconds >= STABLE_SECONDS or previous_seconds <= 0:
        return BACKOFF_FIRST_SECONDS
    return min(previous_seconds * 2, BACKOFF_CAP_SECONDS)


def describe_exit(returncode: int) -> str:
    """How a process ended, for people: ``exited with status 1`` or ``was killed by SIGKILL``."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


class Spec:
    """What a child is. ``sockets`` names the inherited listeners it gets; ``user`` is (uid, gid) or None for the parent's own;
    ``log`` a file for its output, else the parent's; ``reports`` says that it sends READY itself (else ready when started)."""

    __slots__ = ("argv", "environ", "log", "name", "reports", "sockets", "stop_seconds", "user")

    def __init__(
        self, name: str, argv: Sequence[str], *, sockets: Sequence[str] = (), user: tuple[int, int] | None = None,
        log: str = "", environ: Mapping[str, str] | None = None, reports: bool = True, stop_seconds: float = 20.0,
    ) -> None:  # fmt: skip
        self.name = name
        self.argv = list(argv)
        self.sockets = list(sockets)
        self.user = user
        self.log = log
        self.environ = dict(environ or {})
        self.reports = reports
        self.stop_seconds = stop_seconds

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Spec:
        user = raw.pop("user", None)
        return cls(raw.pop("name"), raw.pop("argv"), user=tuple(user) if user else None, **raw)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Child:
    """A running, waiting or stopped instance of a ``Spec``."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.notify: socket.socket | None = None
        self.ready = False
        self.worked = False
        """It was ready at least once."""
        self.refused = False
        self.status = ""
        self.wanted = False
        self.backoff_seconds = 0.0
        self.start_at: float | None = None
        self.kill_at: float | None = None
        self.alive_by: float | None = None
        self._started = 0.0

    def __repr__(self) -> str:
        state = f"pid {self.process.pid}" if self.process else f"starts at {self.start_at}" if self.start_at else "stopped"
        return f"<Child {self.spec.name} {state}{' ready' if self.ready else ''}>"

    @property
    def deadline(self) -> float | None:
        """The next monotonic moment at which ``tick`` has something to do."""
        moments = [m for m in (self.start_at, self.kill_at, self.alive_by) if m is not None]
        return min(moments) if moments else None

    def start(self, sockets: Mapping[str, socket.socket], settings_fd: int, watchdog_seconds: float) -> None:
        """Spawn now. The child inherits its listeners, the settings and a notification socket, nothing else. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        listeners = {name: sockets[name].fileno() for name in self.spec.sockets if name in sockets}
        environ = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        environ.update(self.spec.environ)
        inherited: tuple[int, ...] = tuple(listeners.values())
        if self.spec.reports:
            # A distribution's binary gets neither the settings, which hold secrets, nor our readiness socket.
            inherited += (settings_fd, theirs.fileno())
            environ["K3SD_PARENT"] = str(os.getpid())
            environ["K3SD_SETTINGS_FD"] = str(settings_fd)
            environ["K3SD_NOTIFY_FD"] = str(theirs.fileno())
            environ["K3SD_LISTEN"] = ",".join(f"{name}={fd}" for name, fd in listeners.items())
            if watchdog_seconds:
                environ["K3SD_WATCHDOG_SECONDS"] = str(watchdog_seconds / 3)
        output: IO[bytes] | None = open(self.spec.log, "ab") if self.spec.log else None  # noqa: SIM115
        identity: dict[str, Any] = {}
        if self.spec.user is not None:
            identity = {"user": self.spec.user[0], "group": self.spec.user[1], "extra_groups": []}
        try:
            self.process = subprocess.Popen(
                self.spec.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, start_new_session=True,
                pass_fds=inherited, **identity,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if output is not None:
                output.close()
        self.notify = ours
        self.wanted, self.start_at, self.ready, self._started = True, None, not self.spec.reports, time.monotonic()
        self.alive_by = None

    def exited(self) -> str:
        """Reap if the process is gone. Returns how it ended, or an empty string while it lives. Plans the next start;
        the caller takes ``notify`` out of its selector and closes it."""
        if self.process is None or (code := self.process.poll()) is None:
            return ""
        ran = time.monotonic() - self._started
        self.process = None
        self.ready, self.kill_at, self.alive_by = False, None, None
        self.refused = code == REFUSED
        if self.wanted:
            self.plan_start(ran)
        return describe_exit(code)

    def plan_start(self, ran_seconds: float) -> None:
        self.backoff_seconds = next_backoff(self.backoff_seconds, ran_seconds)
        self.start_at = time.monotonic() + self.backoff_seconds

    def stop(self) -> None:
        """Ask it to end; after ``stop_seconds`` ``tick`` kills it. Idempotent."""
        self.wanted, self.start_at = False, None
        self._terminate()

    def restart(self) -> None:
        """End it and start it again at once."""
        self.backoff_seconds = 0.0
        self._terminate()

    def _terminate(self) -> None:
        if self.process is not None and self.kill_at is None:
            self.process.send_signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + self.spec.stop_seconds

    def kill_if_due(self, now: float) -> str:
        """Kill a process that ignored SIGTERM or missed its watchdog. Returns why, or an empty string."""
        if self.process is None:
            return ""
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            self.process.kill()
            return f"did not stop within {self.spec.stop_seconds:.0f} s: killed"
        if self.alive_by is not None and now >= self.alive_by:
            self.alive_by = None
            self.process.send_signal(signal.SIGABRT)
            self.kill_at = now + 2
            return "missed its watchdog: aborted"
        return ""

    def messages(self) -> list[str]:
        """Notifications waiting from the child, one ``KEY=value`` line each."""
        lines: list[str] = []
        while self.notify is not None:
            try:
                data = self.notify.recv(4096)
            except (BlockingIOError, ConnectionError):
                break
            if not data:
                break
            lines += data.decode(errors="replace").splitlines()
        return lines


_NOT_INHERITED = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "K3S_TOKEN",
     "K3S_AGENT_TOKEN", "K3S_DATASTORE_ENDPOINT", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "K3S_VPN_AUTH"}
)  # fmt: skip
"""What systemd addresses to the parent alone, and secrets that the settings already carry."""
