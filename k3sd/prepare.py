"""The preparation of a start: resolve options, check the machine, make certificates and files, and plan the children.

Runs in a process forked from the tiny parent and exits, so what it imports costs nothing later. ``build_plan`` is pure; what
comes before it is idempotent. Nothing is changed before all checks have passed.
"""

from __future__ import annotations

import logging
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from k3sd.config import paths
from k3sd.config.settings import Settings
from k3sd.lib.files import ensure_directory, ensure_symlink, write_if_changed
from k3sd.procs.child import Spec
from k3sd.procs.parent import Plan, say

SERVICE_USER = "_k3sd"
"""The control plane runs as this user where the package made it."""
KUBELET_PORT = 10250


def main(role: str, argv: Sequence[str], running: bool, out: IO[str]) -> int:
    """Write the plan as JSON to ``out``. Returns the exit code: 0, 1 for a machine that cannot run it, 2 for wrong options."""
    from k3sd.config.preflight import check
    from k3sd.config.problem import ConfigError
    from k3sd.config.resolve import resolve
    from k3sd.kubelet.containerd import ContainerdConfigError
    from k3sd.kubelet.registries import RegistriesError
    from k3sd.pki.authority import PKIError
    from k3sd.tokens.join import TokenError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = resolve("agent" if role == "agent" else "server", argv, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem), 3)
        return 2
    report = check(settings, ports=not running)
    for problem in report.problems:
        say(str(problem), 3)
    if report.problems:
        return 1
    settings = replace(settings, restrict_oom_score_adj=report.restrict_oom_score_adj)
    try:
        containerd = prepare_files(settings)
    except (PKIError, TokenError, ContainerdConfigError, RegistriesError) as error:
        say(str(error), 3)
        return 1
    except OSError as error:
        say(f"{error.filename}: {error.strerror}; check the file's owner, mode and free space", 3)
        return 1
    out.write(build_plan(settings, _service_user(), containerd, sys.executable).to_json())
    return 0


def _service_user() -> tuple[int, int] | None:
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


def prepare_files(settings: Settings) -> bool:
    """Certificates, tokens, kubeconfigs, directories, containerd's configuration. Returns whether containerd is ours to run."""
    from k3sd.pki.inventory import ensure_server, give_to
    from k3sd.tokens.passwd import ensure_tokens

    where = settings.paths
    ensure_directory(where.data, 0o755)
    authorities = ensure_server(settings)
    bundle = authorities["server-ca"].bundle
    ensure_tokens(settings, bundle)
    write_kubeconfigs(settings, bundle)
    for directory in (where.db, where.manifests):
        ensure_directory(directory, 0o700)
    if (user := _service_user()) is not None:
        give_to(settings, *user)
    if settings.disable_agent:
        return False
    for directory in (where.agent_etc, where.images, where.pod_manifests, where.cni_conf_dir, where.containerd_root):
        ensure_directory(directory, 0o700)
    ensure_directory(paths.RUN_DIR, 0o711)
    remember_cgroup_root((settings.kubelet_args.get("cgroup-root") or ("",))[-1])
    if settings.container_runtime_endpoint:
        return False
    from k3sd.kubelet.containerd import write_config

    version = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout
    write_config(settings, version)
    return True


def remember_cgroup_root(root: str) -> None:
    """For ``k3sd killall``, which does not know the options of this start."""
    known = paths.CGROUP_ROOTS.read_text().splitlines() if paths.CGROUP_ROOTS.exists() else []
    name = "/" + root.strip("/")
    if name not in known:
        write_if_changed(paths.CGROUP_ROOTS, "".join(f"{line}\n" for line in [*known, name]), 0o644)


def write_kubeconfigs(settings: Settings, ca: bytes) -> None:
    """``k3s.yaml`` for people, and one file per component."""
    from k3sd.pki.kubeconfig import build_embedded, build_referring

    where = settings.paths
    tls = where.tls
    url = f"https://127.0.0.1:{settings.https_listen_port}"
    ca_file = tls / "server-ca.crt"
    for name, stem in {
        "admin": "client-admin",
        "supervisor": "client-supervisor",
        "controller": "client-controller",
        "scheduler": "client-scheduler",
        "api-server": "client-kube-apiserver",
        "cloud-controller": "client-k3s-cloud-controller",
    }.items():
        text = build_referring(url, ca_file, tls / f"{stem}.crt", tls / f"{stem}.key")
        write_if_changed(where.cred / f"{name}.kubeconfig", text, 0o600)
    for name, stem in {
        "kubelet": "client-kubelet",
        "kubeproxy": "client-kube-proxy",
        "k3scontroller": "client-k3s-controller",
    }.items():
        text = build_referring(url, where.agent / "server-ca.crt", where.agent / f"{stem}.crt", where.agent / f"{stem}.key")
        write_if_changed(where.agent / f"{name}.kubeconfig", text, 0o600)
    admin = build_embedded(url, ca, (tls / "client-admin.crt").read_bytes(), (tls / "client-admin.key").read_bytes())
    target = Path(settings.write_kubeconfig) if settings.write_kubeconfig else paths.ADMIN_KUBECONFIG
    target.parent.mkdir(parents=True, exist_ok=True)
    write_if_changed(target, admin, settings.write_kubeconfig_mode)
    if settings.write_kubeconfig_group:
        import shutil

        shutil.chown(target, group=settings.write_kubeconfig_group)
    if target != paths.ADMIN_KUBECONFIG:
        paths.ADMIN_KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
        ensure_symlink(paths.ADMIN_KUBECONFIG, str(target))


def build_plan(settings: Settings, user: tuple[int, int] | None, containerd: bool, python: str) -> Plan:
    """The children in start order and the listeners. Pure."""
    children: list[Spec] = []
    listen: dict[str, tuple[str, int]] = {}
    if containerd:
        where = settings.paths
        command = ["setpriv", "--pdeathsig", "TERM", "containerd", "--config", str(where.containerd_config)]
        log = str(where.containerd_root / "containerd.log")
        children.append(Spec("containerd", command, log=log, reports=False, environ=_containerd_environment(settings)))
    if settings.role == "server":
        listen["apiserver"] = (_listen_host(settings), settings.https_listen_port)
        children.append(Spec("control-plane", [python, "-m", "k3sd", "_control-plane"], sockets=["apiserver"], user=user))
    if not settings.disable_agent:
        listen["kubelet"] = (_listen_host(settings), KUBELET_PORT)
        children.append(Spec("node", [python, "-m", "k3sd", "_node"], sockets=["kubelet"]))
    root = str(Path(__file__).resolve().parent.parent)
    for child in children[1 if containerd else 0 :]:
        child.environ["PYTHONPATH"] = root
        child.environ["PYTHONDONTWRITEBYTECODE"] = os.environ.get("PYTHONDONTWRITEBYTECODE", "")
        # glibc keeps one arena a core and thread; two are enough for mostly single-threaded processes and save memory.
        child.environ["MALLOC_ARENA_MAX"] = "2"
    return Plan(settings.to_json(), children, listen)


def _listen_host(settings: Settings) -> str:
    """``0.0.0.0`` becomes the dual-stack wildcard where the kernel has IPv6, as Go's listeners do."""
    if settings.bind_address in ("", "0.0.0.0") and socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        return "::"
    return settings.bind_address or "0.0.0.0"


def _containerd_environment(settings: Settings) -> dict[str, str]:
    """containerd alone takes its proxy from CONTAINERD_HTTP_PROXY and friends, as with K3s."""
    out = {}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        if value := os.environ.get(f"CONTAINERD_{name}"):
            out[name] = value
    return out
