"""A private containerd per test session: own root, state, socket, network namespace and CNI bridge; nothing of the host's."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from k3sd.config.settings import Settings
from k3sd.kubelet import containerd
from k3sd.kubelet.ociarchive import File, build_archive, build_pause_archive

BUSYBOX_IMAGE = "docker.io/library/k3sd-test-busybox:1"
_NEEDED = ("containerd", "runc", "catatonit", "ctr")


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in _NEEDED if not shutil.which(name)]
    return f"needs {', '.join(absent)}" if absent else ""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Containerd:
    """The process, in a network namespace that outlives its restarts."""

    def __init__(self, root: Path, socket: Path, config: Path) -> None:
        self._socket = socket
        self._config = config
        self._log = (root / "containerd.log").open("wb")
        self._namespace = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        assert self._namespace.stdout is not None
        self._namespace.stdout.readline()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["nsenter", "-t", str(self._namespace.pid), "-n", "containerd", "-c", str(self._config)],
            stdout=self._log,
            stderr=self._log,
            preexec_fn=_die_with_parent,
        )
        deadline = time.monotonic() + 20
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"containerd did not start; see {self._log.name}")
            time.sleep(0.02)  # its socket is the only sign it gives

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def close(self) -> None:
        self.stop()
        self._namespace.kill()
        self._namespace.communicate()
        self._log.close()


@dataclass(frozen=True)
class Runtime:
    settings: Settings
    containerd: Containerd


@pytest.fixture(scope="session")
def node_settings(runtime: Runtime) -> Settings:
    return runtime.settings


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """A node whose containerd runs below a temporary directory; images for sandbox and busybox are imported."""
    reason = _missing()
    if reason:
        pytest.skip(reason)
    root = Path(tempfile.mkdtemp(prefix="k3sd-kubelet-"))
    socket = root / "run" / "containerd.sock"
    settings = Settings(
        data_dir=str(root / "data"),
        node_name="node1",
        node_ips=("127.0.0.1",),
        container_runtime_endpoint=f"unix://{socket}",
        restrict_oom_score_adj=True,
        kubelet_args={"cgroup-root": (f"/{root.name}",)},
    )
    settings.paths.cni_conf_dir.mkdir(parents=True)
    plugins = [
        {
            "type": "bridge",
            "bridge": "k3sdtest0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.234.0.0/16"}]], "dataDir": str(root / "ipam")},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    conflist = {"name": "k3sdtest", "cniVersion": "1.0.0", "plugins": plugins}
    (settings.paths.cni_conf_dir / "10-test.conflist").write_text(json.dumps(conflist))
    version = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout
    config = containerd.write_config(settings, version, stream_port=0)
    # Network namespaces in a directory of our own, out of reach of whatever cleans up /run/netns meanwhile.
    text = config.read_text()
    config.write_text(
        text.replace("  restrict_oom_score_adj", "  netns_mounts_under_state_dir = true\n  restrict_oom_score_adj")
    )
    containerd_process = Containerd(root, socket, config)
    containerd_process.start()
    try:
        archive = root / "images.tar"
        for data in (
            build_pause_archive(settings.pause_image, Path(shutil.which("catatonit") or "")),
            build_archive(
                BUSYBOX_IMAGE,
                {
                    "bin/busybox": File(Path("/bin/busybox").read_bytes(), 0o755),
                    **{f"bin/{name}": File(link="busybox") for name in _applets()},
                    "etc/passwd": File(b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
                    "etc/group": File(b"root:x:0:\nnogroup:x:65534:\n"),
                    "tmp/.keep": File(),
                },
                {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            ),
        ):
            archive.write_bytes(data)
            _import(socket, archive)
        archive.unlink()
        yield Runtime(settings, containerd_process)
    finally:
        try:
            _remove_everything(socket)
        finally:
            containerd_process.close()
            _unmount_below(root)
            shutil.rmtree(root)
            _remove_cgroups(root.name)


def _applets() -> list[str]:
    out = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
    return [name for name in out.split() if name != "busybox" and "/" not in name]


def _import(socket: Path, archive: Path) -> None:
    subprocess.run(
        ["ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive)], check=True, capture_output=True
    )


def _remove_everything(socket: Path) -> None:
    import asyncio

    from k3sd.kubelet.cri.client import CRIClient

    async def remove() -> None:
        async with CRIClient(str(socket)) as cri:
            for sandbox in await cri.list_pod_sandbox():
                await cri.stop_pod_sandbox(sandbox.id)
                await cri.remove_pod_sandbox(sandbox.id)

    asyncio.run(remove())


def _unmount_below(root: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(str(root))]):
        subprocess.run(["umount", "-l", mount], check=False)


def _remove_cgroups(name: str) -> None:
    for top in [Path("/sys/fs/cgroup") / name, *Path("/sys/fs/cgroup").glob(f"*/{name}")]:
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)
