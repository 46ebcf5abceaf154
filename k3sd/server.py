"""``k3sd server`` and ``k3sd agent``: the tiny parent. Standard library only; see ``k3sd.procs.parent`` for the loop.

Everything that needs more (options, certificates, checks) runs in a forked preparation that hands back a plan as JSON and
exits: its memory goes with it. In start order a server is containerd, control plane, node; ``k3sd.prepare`` lists them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from k3sd.procs.parent import Parent, Plan, say

PID_FILE = "/run/k3s/k3sd.pid"
SECRET_FLAGS = frozenset(
    {
        "token",
        "t",
        "agent-token",
        "cluster-secret",
        "datastore-endpoint",
        "vpn-auth",
        "etcd-s3-access-key",
        "etcd-s3-secret-key",
        "etcd-s3-session-token",
    }
)
_HIDDEN = "K3SD_ARGV_FD"


def hide_secrets(argv: Sequence[str]) -> Sequence[str]:
    """Start again without flags where one of them is a secret, which everybody could read in the process list meanwhile; they
    travel in a file that only this process has. Returns the flags. (K3s writes over its own command line.)"""
    if descriptor := os.environ.pop(_HIDDEN, ""):
        with os.fdopen(int(descriptor), "rb") as file:
            file.seek(0)
            hidden: list[str] = json.load(file)
        return hidden
    names = {word.lstrip("-").partition("=")[0] for word in argv if word.startswith("-")}
    if not names & SECRET_FLAGS:
        return argv
    command = sys.orig_argv[: len(sys.orig_argv) - len(argv)]
    store = os.memfd_create("k3sd-argv", 0)
    os.write(store, json.dumps(list(argv)).encode())
    os.environ[_HIDDEN] = str(store)
    sys.stderr.flush()
    os.execv(sys.executable, command)


def prepare(role: str, argv: Sequence[str], running: bool) -> tuple[int, Plan | None]:
    """Run ``k3sd.prepare.prepare`` in a fork. Returns ``(exit code, plan)``; the plan is None when the code is not 0.
    ``running`` says that our own ports are already open."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            from k3sd.prepare import main

            with os.fdopen(write, "w") as out:
                code = main(role, argv, running, out)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as source:
        text = source.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        return (code if code > 0 else 1), None
    return 0, (Plan.from_json(text) if text else None)


def _write_pid() -> None:
    Path(PID_FILE).parent.mkdir(parents=True, exist_ok=True)
    Path(PID_FILE).write_text(f"{os.getpid()}\n")


def main(role: str, argv: Sequence[str]) -> int:
    """Returns the exit code: 0 stopped as asked, 1 failed, 2 wrong options (a unit must not restart on that)."""
    argv = hide_secrets(argv)
    code, plan = prepare(role, argv, running=False)
    if plan is None:
        return code

    def reload() -> Plan | None:
        _, again = prepare(role, argv, running=True)
        if again is None:
            say("reload refused; the running configuration stays", 4)
        return again

    try:
        parent = Parent(plan, reload)
        _write_pid()
        return parent.run()
    except OSError as error:
        say(str(error.strerror or error), 3)
        return 1
    finally:
        Path(PID_FILE).unlink(missing_ok=True)
