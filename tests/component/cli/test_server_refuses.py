"""``k3sd server`` on a machine that cannot run it: one sentence with the remedy, exit code 1, and nothing changed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SERVER = "/usr/bin/python3 -m k3sd server"

pytestmark = pytest.mark.root


def refuse(tmp_path: Path, before: str, command: str = SERVER) -> str:
    """What a server says that is started in network and mounts of its own, after the shell lines ``before``."""
    data = tmp_path / "data"
    config = tmp_path / "config.yaml"
    config.write_text(f"data-dir: {data}\nnode-ip: 192.0.2.10\n")
    script = f"ip link set lo up\n{before}\n{command}\ncode=$?\nkill $(jobs -p) 2>/dev/null\nexit $code"
    environ = os.environ | {"K3S_CONFIG_FILE": str(config)}
    done = subprocess.run(
        ["unshare", "-mn", "bash", "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not data.exists()
    return done.stderr


def test_a_port_in_use_names_who_has_it(tmp_path: Path) -> None:
    listen = "import socket, time; s = socket.create_server(('', 6443)); print('up', flush=True); time.sleep(60)"
    before = f'exec 3< <(exec /usr/bin/python3 -c "{listen}"); read -u 3 _'
    said = refuse(tmp_path, f"{before}\ntrap 'pkill -P $$' EXIT")
    assert "port 6443: is in use by python3 (pid " in said
    assert "; stop it, or choose another port with --https-listen-port" in said


@pytest.mark.parametrize(
    ("program", "package"),
    [("containerd", "containerd"), ("runc", "runc"), ("catatonit", "catatonit")],
    ids=lambda value: value,
)
def test_a_missing_program(program: str, package: str, tmp_path: Path) -> None:
    said = refuse(
        tmp_path, f"for f in $(type -ap {program} | xargs -n1 readlink -f | sort -u); do mount --bind /dev/null $f; done"
    )
    assert f"{program}: is not installed; run: apt install {package}" in said


def test_missing_cni_plugins(tmp_path: Path) -> None:
    said = refuse(
        tmp_path, "for d in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do [ ! -d $d ] || mount -t tmpfs none $d; done"
    )
    assert "CNI: no plugin bridge, host-local, loopback, portmap in " in said
    assert "run: apt install containernetworking-plugins" in said


def test_read_only_cgroups(tmp_path: Path) -> None:
    said = refuse(tmp_path, "for c in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,ro $c 2>/dev/null; done; true")
    assert "read-only, so that no pod can have a control group; run: " in said


def test_no_cgroups(tmp_path: Path) -> None:
    said = refuse(tmp_path, "umount -R /sys/fs/cgroup")
    assert "/sys/fs/cgroup: no cgroup file system is mounted; boot with systemd, or run: " in said


def test_not_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    # The checkout may lie in a home that others cannot enter.
    said = refuse(
        tmp_path, f"mount --bind {ROOT} /mnt && cd /mnt", f"setpriv --reuid 65534 --regid 65534 --clear-groups {SERVER}"
    )
    assert "k3sd: is not running as root; start it with sudo" in said


def test_fewer_privileges(tmp_path: Path) -> None:
    said = refuse(tmp_path, "true", f"setpriv --bounding-set -net_admin --inh-caps -net_admin {SERVER}")
    assert "privileges: root has no CAP_NET_ADMIN here; run the surrounding container with CAP_NET_ADMIN" in said


def test_a_database_of_another_application_ends_the_start(tmp_path: Path) -> None:
    database = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE kine (a)")
    before = database.read_bytes()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data-dir: {tmp_path}/data\nnode-ip: 192.0.2.10\ndisable-agent: true\nwrite-kubeconfig: {tmp_path}/k3s.yaml\n"
        f"datastore-endpoint: sqlite://{database}\n"
    )
    command = ["unshare", "-n", "sh", "-c", f"ip link set lo up; exec {SERVER}"]
    environ = os.environ | {"K3S_CONFIG_FILE": str(config)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(f"table kine of {database} is not kine's") == 1
    assert "Traceback" not in done.stderr
    assert database.read_bytes() == before
