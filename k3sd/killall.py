"""``k3sd killall``: remove every process, mount, namespace, link and nft table that k3sd made here, and nothing else.

What belongs to k3sd is proved, not guessed by name: processes by their command line and mount namespace (a k3sd inside a
container on this host is somebody else's), network namespaces by the CNI plugins' own records, mounts by where they are.
Data, certificates and images stay. Source of the list: K3s ``k3s-killall.sh``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from k3sd.config import paths
from k3sd.lib import mounts
from k3sd.lib.processes import command_line, parents, shares_mounts

UNITS = ("k3sd-server.socket", "k3sd-agent.socket", "k3sd-server.service", "k3sd-agent.service")
STOP_SECONDS = 60.0


def main() -> int:
    """Returns 0 when everything is gone, 1 when something stayed; says both."""
    if os.geteuid() != 0:
        print("k3sd killall: not running as root; start it with sudo", file=sys.stderr)
        return 1
    stop_units()
    stop_parent()
    removed = [f"process {pid}" for pid in kill_trees(find_ours())]
    namespaces = recorded_namespaces()
    removed += [f"mount {point}" for point in detach(our_mounts(mounts.mount_points()))]
    removed += [f"network namespace {path.name}" for path in namespaces if remove_namespace(path)]
    from k3sd.network.cleanup import cleanup

    removed += cleanup()
    removed += [f"cgroup {path}" for path in remove_cgroups(cgroup_roots())]
    stuck = [str(d) for d in (paths.RUN_DIR, paths.KUBELET_ROOT / "pods", paths.POD_LOGS) if not wait(partial(emptied, d), 10)]
    left = [*stuck, *find_ours(), *our_mounts(mounts.mount_points())]
    print(f"removed {len(removed)} things that k3sd made" if removed else "nothing of k3sd was running")
    for item in left:
        print(f"k3sd killall: {item} could not be removed; see dmesg, or reboot", file=sys.stderr)
    return 1 if left else 0


def emptied(directory: Path) -> bool:
    """Remove what is in the directory, and the directory unless the operator mounted something there. False while a process
    that was just killed still lets go of something."""
    try:
        for entry in directory.iterdir() if directory.is_dir() else ():
            mounts.remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if directory.is_dir() and not mounts.is_mount_point(str(directory)):
            directory.rmdir()
    except OSError:
        return False
    return True


def stop_units() -> None:
    """Under systemd the units would start everything again."""
    if Path("/run/systemd/system").is_dir() and shutil.which("systemctl"):
        subprocess.run(["systemctl", "stop", *UNITS], check=False, stderr=subprocess.DEVNULL)


def stop_parent() -> None:
    """Ask a parent that runs outside systemd to stop, so that it closes its datastore in peace."""
    if pid := find_parent():
        os.kill(pid, signal.SIGTERM)
        wait(lambda: not command_line(pid), STOP_SECONDS)  # a zombie has none


def find_parent() -> int:
    """Process id of a running ``k3sd server`` or ``k3sd agent``, 0 without."""
    try:
        pid = int((paths.RUN_DIR / "k3sd.pid").read_text())
    except (OSError, ValueError):
        return 0
    return pid if "k3sd" in command_line(pid) and shares_mounts(pid) else 0


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# processes


def is_ours(line: str) -> bool:
    """Whether a command line is one of k3sd's processes or of its containerd's shims."""
    words = line.split()
    if not words:
        return False
    if "containerd-shim" in words[0]:
        return str(paths.CONTAINERD_SOCKET) in words
    if Path(words[0]).name == "containerd" or "containerd" in words[:5]:
        return any(word.endswith("/agent/etc/containerd/config.toml") for word in words)
    roles = ("server", "agent", "_control-plane", "_node")
    return any(words[i : i + 2] == ["-m", "k3sd"] and words[i + 2] in roles for i in range(len(words) - 2))


def find_ours() -> list[int]:
    """Process ids of k3sd's own processes, not of what they started."""
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and is_ours(command_line(pid)) and shares_mounts(pid)]


def with_descendants(roots: Iterable[int], table: dict[int, int]) -> set[int]:
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in table.items() if parent in found and pid not in found}
        found |= more
        grown = bool(more)
    return found - {os.getpid()}


def kill_trees(roots: list[int]) -> set[int]:
    """SIGKILL the processes and all their descendants: a shim's descendants are a pod's. Returns them."""
    doomed = with_descendants(roots, parents())
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait(lambda: not any(Path(f"/proc/{pid}/exe").exists() and command_line(pid) for pid in doomed), 10)
    return doomed


# mounts


def our_mounts(points: Iterable[str]) -> list[str]:
    """Those below directories that only k3sd uses."""
    roots = (str(paths.RUN_DIR), str(paths.KUBELET_ROOT / "pods"), str(paths.KUBELET_ROOT / "plugins"), "/var/run/k3s")
    return [point for point in points if any(point.startswith(root + "/") for root in roots)]


def detach(points: list[str]) -> list[str]:
    """Unmount, the newest first. Returns what is gone."""
    gone = []
    for point in reversed(points):
        try:
            mounts.unmount(point)
        except mounts.MountError as error:
            print(f"k3sd killall: {error}", file=sys.stderr)
            continue
        gone.append(point)
    return gone


# network namespaces


def recorded_namespaces() -> list[Path]:
    """Network namespaces of pods, from the CNI library's result cache of our network (``cbr0-*``)."""
    found: dict[Path, None] = {}
    for record in (paths.CNI_STATE / "results").glob("cbr0-*"):
        try:
            for path in _namespaces_of(json.loads(record.read_bytes())):
                if path.name.startswith("cni-") and path.exists():
                    found[path] = None
        except (OSError, ValueError, TypeError, AttributeError):
            continue  # damaged, or of another program
    return list(found)


def _namespaces_of(record: dict[str, Any]) -> list[Path]:
    """Newer libraries name the namespace; all record the result, whose container interfaces name it."""
    texts = [record.get("netns")]
    texts += [interface.get("sandbox") for interface in (record.get("result") or {}).get("interfaces") or ()]
    return [Path(text) for text in texts if text]


def remove_namespace(path: Path) -> bool:
    try:
        mounts.unmount(os.path.realpath(path))
        path.unlink()
    except OSError:
        return False
    return True


# cgroups


def cgroup_roots() -> list[str]:
    """The kubelet's ``cgroup-root`` of every start since the machine's; the default where none is known."""
    try:
        return paths.CGROUP_ROOTS.read_text().splitlines()
    except OSError:
        return ["/"]


def remove_cgroups(roots: list[str], mount: Path = Path("/sys/fs/cgroup")) -> list[str]:
    """Empty ``kubepods`` cgroups below the roots in every hierarchy, leaves first, and roots with nothing else in them."""
    removed = []
    unified = (mount / "cgroup.controllers").exists()
    for hierarchy in [mount] if unified else [entry for entry in mount.glob("*") if entry.is_dir() and not entry.is_symlink()]:
        for root in roots:
            top = hierarchy / root.strip("/")
            for kubepods in sorted(top.glob("kubepods*")):
                for directory, _, _ in os.walk(kubepods, topdown=False):
                    if _emptied_cgroup(Path(directory)) and directory == str(kubepods):
                        removed.append(directory)
            while top != hierarchy and _emptied_cgroup(top):
                removed.append(str(top))
                top = top.parent
    return removed


def _emptied_cgroup(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False  # somebody else's pods use it, or it is not there
    return True
