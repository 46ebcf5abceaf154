"""``kubectl``, ``crictl`` and ``ctr``: the distribution's programs, pointed at this node."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from k3sd.config.paths import ADMIN_KUBECONFIG, CONTAINERD_SOCKET
from k3sd.config.preflight import SYSTEM_PATH

_MISSING = {
    "kubectl": "install one: apt install kubernetes-client, or the newest from https://dl.k8s.io",
    "crictl": "install cri-tools from https://github.com/kubernetes-sigs/cri-tools, or use ctr, which comes with containerd",
    "ctr": "install it: apt install containerd",
}


def kubectl(argv: Sequence[str]) -> int:
    """Uses ``$KUBECONFIG``, else the admin's kubeconfig where it is readable, else kubectl's own default."""
    return _run("kubectl", argv, kubectl_environment(os.environ))


def kubectl_environment(environ: Mapping[str, str]) -> dict[str, str]:
    result = dict(environ)
    if not result.get("KUBECONFIG") and os.access(ADMIN_KUBECONFIG, os.R_OK):
        result["KUBECONFIG"] = str(ADMIN_KUBECONFIG)
    return result


def crictl(argv: Sequence[str]) -> int:
    """Talks to k3sd's containerd unless the environment names another runtime."""
    return _run("crictl", argv, {"CONTAINER_RUNTIME_ENDPOINT": f"unix://{CONTAINERD_SOCKET}", **os.environ})


def ctr(argv: Sequence[str]) -> int:
    """Talks to k3sd's containerd in the namespace of Kubernetes."""
    return _run("ctr", argv, {"CONTAINERD_ADDRESS": str(CONTAINERD_SOCKET), "CONTAINERD_NAMESPACE": "k8s.io", **os.environ})


def find_tool(name: str) -> str | None:
    """The first program of this name that is not k3sd itself under another name."""
    own = Path(sys.argv[0]).resolve()
    for directory in (os.environ.get("PATH", "") + ":" + SYSTEM_PATH).split(":"):
        found = shutil.which(name, path=directory) if directory else None
        if found and Path(found).resolve() != own:
            return found
    return None


def _run(name: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    program = find_tool(name)
    if program is None:
        print(f"k3sd {name}: {name} is not installed; {_MISSING[name]}", file=sys.stderr)
        return 1
    _exec(program, [name, *argv], environ)


def _exec(program: str, argv: list[str], environ: Mapping[str, str]) -> NoReturn:
    sys.stdout.flush()
    os.execve(program, argv, environ)
