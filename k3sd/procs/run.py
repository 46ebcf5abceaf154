"""The one door for short-lived commands: clean environment, bounded output, an error that can be pasted into a shell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

OUTPUT_LIMIT_BYTES = 64 * 1024


class CommandError(Exception):
    """A command failed; the message has the command, how it ended and the end of what it said."""

    def __init__(self, argv: Sequence[str], how: str, output: str) -> None:
        text = output.strip()[-2000:]
        super().__init__(f"{shlex.join(argv)}: {how}" + (f": {text}" if text else ""))
        self.output = output


async def run(
    argv: Sequence[str], *, stdin: bytes | None = None, environ: Mapping[str, str] | None = None, timeout_seconds: float = 60.0
) -> str:  # fmt: skip
    """Run to the end, return its standard output (bounded). Secrets go through ``stdin``, never argv.

    Raises CommandError (not found, non-zero exit, time-out). Cancellation kills the process.
    """
    clean = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")} | dict(environ or {})
    clean.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    log.debug("run %s", shlex.join(argv))
    try:
        process = await asyncio.to_thread(_start, argv, clean, stdin is not None)
    except FileNotFoundError as error:
        raise CommandError(argv, f"{argv[0]} is not installed", "") from error
    talk = asyncio.get_running_loop().run_in_executor(None, process.communicate, stdin)
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await asyncio.shield(talk)
    except TimeoutError as error:
        raise CommandError(argv, f"not done after {timeout_seconds:.0f} s: killed", "") from error
    finally:
        if not talk.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await talk
    if process.returncode:
        from k3sd.procs.child import describe_exit

        raise CommandError(argv, describe_exit(process.returncode), (err or out)[-OUTPUT_LIMIT_BYTES:].decode(errors="replace"))
    return out[:OUTPUT_LIMIT_BYTES].decode(errors="replace")


def _start(argv: Sequence[str], environ: Mapping[str, str], has_input: bool) -> subprocess.Popen[bytes]:
    """In a session of its own. Not through the event loop: libuv forks, which gRPC holds up while a channel is open, whereas
    ``subprocess`` uses vfork and runs no such handlers."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )
