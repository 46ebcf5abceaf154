"""The child's side of the parent's contract: settings, listeners, readiness, watchdog, logging, and dying with the parent."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

from k3sd.config.settings import Settings

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def inherit(name: str) -> tuple[Settings, dict[str, socket.socket]]:
    """Take over what the parent left: ``(settings, listeners by name)``. Also sets up logging and ties our life to the
    parent's: a parent killed with SIGKILL must not leave us holding ports while its successor starts. Exits when run by hand.
    """
    descriptor = os.environ.pop("K3SD_SETTINGS_FD", "")
    if not descriptor:
        sys.exit(f"k3sd: _{name} is started by `k3sd server`; run that instead")
    die_with_parent(int(os.environ.pop("K3SD_PARENT", "0")))
    fd = int(descriptor)
    settings = Settings.from_json(os.pread(fd, os.fstat(fd).st_size, 0).decode())
    os.close(fd)
    listen = os.environ.pop("K3SD_LISTEN", "")
    sockets: dict[str, socket.socket] = {}
    for item in filter(None, listen.split(",")):
        key, _, number = item.partition("=")
        sockets[key] = socket.socket(fileno=int(number))
        sockets[key].setblocking(False)
    setup_logging(name, settings.debug)
    return settings, sockets


def die_with_parent(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent and os.getppid() != parent:
        sys.exit("k3sd: the parent is gone")


def setup_logging(name: str, debug: bool) -> None:
    """To the journal with priorities where stderr is the journal, else readable lines on stderr."""
    level = logging.DEBUG if debug else logging.INFO
    if os.environ.get("JOURNAL_STREAM"):
        logging.basicConfig(level=level, handlers=[_journal_handler(name)])
    else:
        logging.basicConfig(
            level=level, format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )
    for noisy in ("asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _journal_handler(name: str) -> logging.Handler:
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        return logging.StreamHandler()
    handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER=f"k3sd-{name}")
    return handler


class Reporter:
    """Tells the parent how we are, in sd_notify's format."""

    def __init__(self) -> None:
        descriptor = os.environ.pop("K3SD_NOTIFY_FD", "")
        self._socket = socket.socket(fileno=int(descriptor)) if descriptor else None
        self._watchdog_seconds = float(os.environ.pop("K3SD_WATCHDOG_SECONDS", "0"))
        self._timer: asyncio.TimerHandle | None = None

    def _send(self, line: str) -> None:
        if self._socket is not None:
            try:
                self._socket.send(line.encode())
            except OSError:
                self._socket = None

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def ready(self, text: str = "ready") -> None:
        """The role truly serves. Watchdog pings start here, from the loop that does the work."""
        self._send(f"STATUS={text}")
        self._send("READY=1")
        if self._watchdog_seconds and self._timer is None:
            self._ping()

    def _ping(self) -> None:
        self._send("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self._watchdog_seconds, self._ping)


async def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, which never ends by itself, until SIGTERM or SIGINT cancels it, wherever it is; its errors pass through."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="main")
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise


async def component(name: str, work: Awaitable[None]) -> None:
    """Await a component. One that fails takes the process down, so that the parent starts it afresh; being cancelled is a
    normal end."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("%s failed", name)
        raise
