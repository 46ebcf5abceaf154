"""The parent with real processes: ready, restart, stop, sockets that survive, children that die with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]

CHILD = """
import os, signal, socket, sys, ctypes
sys.path.insert(0, {root!r})
from k3sd.procs.inherit import die_with_parent, Reporter
die_with_parent(int(os.environ["K3SD_PARENT"]))
listen = dict(x.split("=") for x in os.environ["K3SD_LISTEN"].split(",") if x)
s = socket.socket(fileno=int(listen["apiserver"]))
s.setblocking(True)
Reporter().ready("serving")
while True:
    c, _ = s.accept()
    c.sendall(str(os.getpid()).encode())
    c.close()
"""

PARENT = """
import sys
sys.path.insert(0, {root!r})
from k3sd.procs.parent import Parent, Plan
from k3sd.procs.child import Spec
web = Spec("web", [sys.executable, "-c", {child!r}], sockets=["apiserver"], stop_seconds=5)
plan = Plan("{{}}", [web], {{"apiserver": ("127.0.0.1", {port})}})
sys.exit(Parent(plan, lambda: None).run())
"""


def wait_for(what: Callable[[], object], seconds: float = 10) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (value := what()) is not None and value is not False:
            return value
        time.sleep(0.02)
    raise AssertionError("timed out")


class Running:
    def __init__(self, tmp_path: Path) -> None:
        self.port = free_port()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(tmp_path / "notify"))
        self.notify.settimeout(10)
        child = CHILD.format(root=str(ROOT))
        code = PARENT.format(root=str(ROOT), child=child, port=self.port)
        environ = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        self.process = subprocess.Popen([sys.executable, "-c", code], env=environ)
        self.heard = ""

    def hear(self, text: str) -> None:
        while text not in self.heard:
            self.heard += self.notify.recv(4096).decode() + "\n"

    def ask(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as s:
            s.settimeout(10)
            return int(s.recv(100))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    it = Running(tmp_path)
    it.hear("READY=1")
    yield it
    if it.process.poll() is None:
        it.process.kill()
    it.process.wait()
    it.notify.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False  # reaped, before the file was opened or before it was read


def test_a_killed_child_refuses_no_connection(running: Running) -> None:
    first = running.ask()
    os.kill(first, signal.SIGKILL)
    # One that dies may still have taken a connection with it; from its end on none is lost.
    while alive(first):
        time.sleep(0.001)
    second = running.ask()
    assert second != first


def test_sigterm_stops_children_then_parent(running: Running) -> None:
    child = running.ask()
    running.process.terminate()
    assert running.process.wait(10) == 0
    running.hear("STOPPING=1")
    assert not alive(child)


def test_children_die_with_a_killed_parent(running: Running) -> None:
    child = running.ask()
    running.process.kill()
    running.process.wait()
    wait_for(lambda: not alive(child))


def test_reload_that_fails_keeps_running(running: Running) -> None:
    child = running.ask()
    running.process.send_signal(signal.SIGHUP)
    running.hear("RELOADING=1\nMONOTONIC_USEC=")
    assert running.ask() == child


HANGS = """
import asyncio, os, sys, time
sys.path.insert(0, {root!r})
from k3sd.procs.inherit import Reporter
async def main():
    print("started", flush=True)
    Reporter().ready("serving")
    await asyncio.sleep(0.5)
    time.sleep(60)  # the loop that does the work does not turn any more
asyncio.run(main())
"""


def test_a_child_that_hangs_is_ended_and_the_parent_pings_for_itself(tmp_path: Path) -> None:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(10)
    code = PARENT.format(root=str(ROOT), child=HANGS.format(root=str(ROOT)), port=free_port())
    environ = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2, "it is started again"
        heard = ""
        while heard.count("WATCHDOG=1") < 3:
            heard += notify.recv(4096).decode() + "\n"
        process.terminate()
        assert process.wait(15) == 0
        said = process.stderr.read()
        assert "web missed its watchdog: aborted" in said and "web was killed by SIGABRT" in said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        notify.close()


REFUSES = """
import os, sys
sys.path.insert(0, {root!r})
from k3sd.procs.child import REFUSED
from k3sd.procs.inherit import Reporter
if os.path.exists({flag!r}):
    Reporter().ready("serving")
    os.remove({flag!r})
print("refused", flush=True)
sys.exit(REFUSED)
"""


def test_a_child_that_cannot_ever_work_ends_the_start(tmp_path: Path) -> None:
    child = REFUSES.format(root=str(ROOT), flag=str(tmp_path / "flag"))
    code = PARENT.format(root=str(ROOT), child=child, port=free_port())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, "refused\n")


def test_what_worked_once_is_tried_again_whatever_a_child_says(tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    child = REFUSES.format(root=str(ROOT), flag=str(tmp_path / "flag"))
    code = PARENT.format(root=str(ROOT), child=child, port=free_port())
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["refused\n"] * 3
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


def test_a_used_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code = PARENT.format(root=str(ROOT), child="", port=port)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
