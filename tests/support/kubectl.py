"""Every kubectl there is, and what each can do: Debian 12's is 1.20, today's asks for other things."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

CREATES_TOKENS = (1, 24)
SERVER_CHECKS_FIELDS = (1, 25)
"""From here on the server names unknown fields; older ones compare with the schema themselves."""
SPEAKS_WEBSOCKET = (1, 31)
"""From here on exec and port-forward ask for a websocket first."""


@functools.cache
def find() -> list[str]:
    """The one in PATH and Debian's own, unpacked if another one is installed."""
    found = [path] if (path := shutil.which("kubectl")) else []
    debian = _unpack_debian()
    return found + ([debian] if debian and debian not in found else [])


def _unpack_debian() -> str:
    """Debian's kubernetes-client without installing it over another kubectl; "" where the archive cannot be reached."""
    if shutil.which("dpkg") is None:
        return ""
    owner = subprocess.run(["dpkg", "-s", "kubernetes-client"], capture_output=True, text=True, check=False)
    if owner.returncode == 0:
        return ""
    cache = Path("/var/cache/k3sd-tests")
    program = cache / "usr/bin/kubectl"
    if not program.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            return ""
        done = subprocess.run(["apt-get", "-q", "download", "kubernetes-client"], cwd=cache, capture_output=True, check=False)
        packages = sorted(cache.glob("kubernetes-client_*.deb"))
        if done.returncode or not packages:
            return ""
        subprocess.run(["dpkg-deb", "-x", packages[-1], cache], check=True)
    return str(program)


@functools.cache
def version(program: str) -> tuple[int, int]:
    """Major and minor, as (1, 20)."""
    out = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, text=True, check=True).stdout
    found = re.search(r'"gitVersion": "v(\d+)\.(\d+)', out)
    assert found, f"{program} version: {out}"
    return int(found[1]), int(found[2])


def name(program: str) -> str:
    """A test id such as ``kubectl-1.20``."""
    major, minor = version(program)
    return f"kubectl-{major}.{minor}"
