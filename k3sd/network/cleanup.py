"""Remove all networking that k3sd made: its table, its links, the portmap plugin's chains, CNI state. Nothing else.

Source of the list: K3s's killall script, without its sweep over foreign iptables rules.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

from k3sd.config import paths
from k3sd.network import nft
from k3sd.network.links import remove_links


def cleanup() -> list[str]:
    """Returns what was removed, for people. Idempotent; safe when nothing is there."""
    removed = []
    if nft.delete_table():
        removed.append("nftables table inet k3sd")
    removed += [f"link {name}" for name in remove_links()]
    removed += _portmap_chains()
    for directory in (paths.CNI_STATE, paths.FLANNEL_SUBNET_ENV.parent):
        if directory.is_dir():
            _remove(directory)
            removed.append(str(directory))
    return removed


def _remove(directory: Path) -> None:
    """Delete the content and, unless something is mounted there, the directory."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()


def _portmap_chains() -> list[str]:
    """The portmap plugin's chains (``CNI-*``) in the iptables nat tables; a table it alone filled goes with them."""
    removed = []
    for command in ("iptables", "ip6tables"):
        save = shutil.which(f"{command}-save")
        restore = shutil.which(f"{command}-restore")
        if save is None or restore is None:
            continue
        text = subprocess.run([save, "-t", "nat"], capture_output=True, text=True, check=False).stdout
        kept = [line for line in text.splitlines() if "CNI-" not in line and not line.startswith("#")]
        if "CNI-" not in text:
            continue
        subprocess.run([restore, "-T", "nat"], input="\n".join(kept) + "\n", text=True, check=False)
        removed.append(f"{command} chains CNI-*")
        family = "ip" if command == "iptables" else "ip6"
        if not any(line.startswith("-A") for line in kept):
            # Only the base chains that iptables itself made are left, all empty: the table was not there before us.
            nft._open().cmd(f"delete table {family} nat")
    return removed


def cni_namespaces() -> list[Path]:
    """Network namespaces that containerd made for pods."""
    root = Path("/run/netns")
    return sorted(root.glob("cni-*")) if root.is_dir() else []
