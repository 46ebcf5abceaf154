"""The parent's loop: owns the listening sockets, starts the children in order, restarts what dies, speaks to systemd.

Standard library only (``sdnotify`` is a single pure module), because this process is resident on every node. Nothing here
knows what the children do. Signals only wake the loop; every change of state happens in ``_turn``.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from k3sd.procs.child import Child, Spec

STOP_SECONDS = 80.0
"""All children together must be gone by then; below the units' TimeoutStopSec."""


def say(message: str, level: int = 6) -> None:
    """One line to the journal (with its priority prefix) or the terminal."""
    prefix = f"<{level}>" if os.environ.get("JOURNAL_STREAM") else time.strftime("%Y-%m-%dT%H:%M:%S ") + "k3sd: "
    print(prefix + message, file=sys.stderr, flush=True)


class Notifier:
    """sd_notify towards systemd; silent without it."""

    def __init__(self) -> None:
        self._send: Callable[[str], None] | None = None
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify

            self._send = sdnotify.SystemdNotifier().notify
        micros = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(micros) / 1e6 if micros.isdigit() and mine else 0.0

    def __call__(self, *lines: str) -> None:
        if self._send is not None:
            self._send("\n".join(lines))


def inherited_listeners() -> dict[str, socket.socket]:
    """Sockets from systemd (sd_listen_fds(3)) by their FileDescriptorName."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return {(names[i] if i < len(names) else f"fd{i}"): socket.socket(fileno=3 + i) for i in range(count)}


def bind_listener(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError naming address and port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"cannot listen on {host}:{port}: {error.strerror}; stop what uses the port or choose another"
        ) from error
    return listener


class Plan:
    """What to run: children in start order, listeners to bind, the settings text handed to them, the pid file."""

    def __init__(self, settings: str, children: Sequence[Spec], listen: dict[str, tuple[str, int]]) -> None:
        self.settings = settings
        self.children = list(children)
        self.listen = listen

    @classmethod
    def from_json(cls, text: str) -> Plan:
        raw: dict[str, Any] = json.loads(text)
        listen = {name: (host, int(port)) for name, (host, port) in raw["listen"].items()}
        return cls(raw["settings"], [Spec.from_json(c) for c in raw["children"]], listen)

    def to_json(self) -> str:
        return json.dumps({"settings": self.settings, "children": [c.to_json() for c in self.children], "listen": self.listen})


class Parent:
    """Runs a plan until SIGTERM or SIGINT. ``reload`` makes a new plan on SIGHUP, or None to keep the old one."""

    def __init__(self, plan: Plan, reload: Callable[[], Plan | None]) -> None:
        self.plan = plan
        self.notify = Notifier()
        self.children = [Child(spec) for spec in plan.children]
        self._reload = reload
        self._sockets = inherited_listeners()
        self._selector = selectors.DefaultSelector()
        self._signals: set[int] = set()
        self._stop_by: float | None = None
        self._ready = False
        self._exit_code = 0
        self._status = ""
        self._watchdog_at: float | None = None
        self._settings_fd = self._settings_file(plan.settings)

    @staticmethod
    def _settings_file(text: str) -> int:
        descriptor = os.memfd_create("k3sd-settings")
        os.write(descriptor, text.encode())
        return descriptor

    def run(self) -> int:
        """Returns the exit code. Raises OSError when a port cannot be bound; nothing has been started then."""
        for name, (host, port) in self.plan.listen.items():
            if name not in self._sockets:
                self._sockets[name] = bind_listener(host, port)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda n, _frame: self._signals.add(n))
        self._selector.register(wake_read, selectors.EVENT_READ)
        if self.notify.watchdog_seconds:
            self._watchdog_at = time.monotonic() + self.notify.watchdog_seconds / 2
        for child in self.children:
            self._start(child)
        while not self._finished():
            for key, _ in self._selector.select(self._patience()):
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
            self._turn()
        say("stopped")
        return self._exit_code

    def _finished(self) -> bool:
        return self._stop_by is not None and not any(c.process for c in self.children)

    def _patience(self) -> float | None:
        """Seconds until the next clock-driven duty; None sleeps until something happens."""
        moments = [d for c in self.children if (d := c.deadline) is not None]
        moments += [m for m in (self._watchdog_at, self._stop_by) if m is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _turn(self) -> None:
        signals, self._signals = self._signals, set()
        if {signal.SIGTERM, signal.SIGINT} & signals:
            self._begin_stop()
        if signal.SIGHUP in signals and self._stop_by is None:
            self._do_reload()
        now = time.monotonic()
        for child in self.children:
            self._hear(child)
            if why := child.exited():
                self._forget(child)
                if child.refused and not child.worked:
                    # It said why: who started us shall see that it failed.
                    self._exit_code = 1
                    self._begin_stop()
                    continue
                say(f"{child.spec.name} {why}", 6 if not child.wanted else 4)
            if why := child.kill_if_due(now):
                say(f"{child.spec.name} {why}", 4)
            if child.start_at is not None and now >= child.start_at:
                self._start(child)
        if self._stop_by is not None:
            self._continue_stop(now)
        elif self._watchdog_at is not None and now >= self._watchdog_at:
            self._watchdog_at = now + self.notify.watchdog_seconds / 2
            self.notify("WATCHDOG=1")
        self._report()

    def _start(self, child: Child) -> None:
        try:
            child.start(self._sockets, self._settings_fd, self.notify.watchdog_seconds)
        except OSError as error:
            say(f"{child.spec.name} cannot be started: {error}", 3)
            child.wanted = True
            child.plan_start(0)
            return
        assert child.notify is not None
        self._selector.register(child.notify, selectors.EVENT_READ)

    def _hear(self, child: Child) -> None:
        if child.notify is None:
            return
        for line in child.messages():
            key, _, value = line.partition("=")
            if key == "READY" and value == "1":
                child.ready = child.worked = True
            elif key == "STATUS":
                child.status = value
            elif key == "WATCHDOG" and self.notify.watchdog_seconds:
                child.alive_by = time.monotonic() + self.notify.watchdog_seconds

    def _forget(self, child: Child) -> None:
        if child.notify is not None:
            self._selector.unregister(child.notify)
            child.notify.close()
            child.notify = None

    def _report(self) -> None:
        waiting = [c for c in self.children if not c.ready and c.spec.reports]
        if not waiting and not self._ready and self._stop_by is None:
            self._ready = True
            say("ready")
            self.notify("READY=1")
        status = "; ".join(f"{c.spec.name}: {c.status or 'starting'}" for c in self.children if c.spec.reports)
        if status != self._status:
            self._status = status
            self.notify(f"STATUS={status}")

    def _begin_stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + STOP_SECONDS
        self.notify("STOPPING=1", "STATUS=stopping")
        say("stopping; pods keep running")

    def _continue_stop(self, now: float) -> None:
        """Stop in reverse order, the next one when the one after it is gone."""
        for child in reversed(self.children):
            if child.process is not None:
                child.stop()
                break
            child.wanted, child.start_at = False, None
        if self._stop_by is not None and now >= self._stop_by:
            for child in self.children:
                if child.process is not None:
                    child.process.kill()
            self._stop_by = now + 5

    def _do_reload(self) -> None:
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        plan = self._reload()
        if plan is not None:
            changed = plan.settings != self.plan.settings
            os.ftruncate(self._settings_fd, 0)
            os.pwrite(self._settings_fd, plan.settings.encode(), 0)
            specs = {spec.name: spec for spec in plan.children}
            for child in self.children:
                spec = specs.get(child.spec.name, child.spec)
                if child.spec.reports and (changed or spec.to_json() != child.spec.to_json()):
                    child.spec = spec
                    child.restart()
            self.plan = plan
            say("reloaded" + ("; settings changed, components start again" if changed else ""))
        self.notify("READY=1")
