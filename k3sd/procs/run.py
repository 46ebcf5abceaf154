"""The one door for short-lived commands: clean environment, bounded output, an error that can be pasted into a shell."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
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
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandError(argv, f"{argv[0]} is not installed", "") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await process.communicate(stdin)
    except TimeoutError as error:
        raise CommandError(argv, f"not done after {timeout_seconds:.0f} s: killed", "") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        from k3sd.procs.child import describe_exit

        raise CommandError(argv, describe_exit(process.returncode), (err or out)[-OUTPUT_LIMIT_BYTES:].decode(errors="replace"))
    return out[:OUTPUT_LIMIT_BYTES].decode(errors="replace")
