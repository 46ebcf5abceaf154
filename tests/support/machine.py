"""A machine of its own for tests: a network and mount namespace with private K3s directories, as many as wanted side by side.

Commands enter with nsenter. (`ip netns exec` would remount /sys and hide the cgroups.) Everything the namespace holds is in one
directory, which `close` removes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support import kubectl

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")

PRIVATE = ("/etc/rancher", "/var/lib/rancher", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
MEMORY = ("/run/k3s", "/run/netns", "/run/flannel")

SETUP = """
set -e
i=0
for d in {private}; do mkdir -p $d {base}/$i; mount --bind {base}/$i $d; i=$((i+1)); done
for d in {memory}; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
mount --make-shared /run/netns
ip link set lo up
ip link add eth0 type bridge
ip addr add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {gateway}
echo ready
exec sleep infinity
"""


ASK = """
import http.client, json, ssl, sys
how = json.loads(sys.stdin.readline())
tls = "/var/lib/rancher/k3s/server/tls/"
context = ssl.create_default_context(cafile=tls + "server-ca.crt")
headers = {"Content-Type": "application/json"}
if how["token"]:
    headers["Authorization"] = "Bearer " + how["token"]
else:
    context.load_cert_chain(tls + "client-admin.crt", tls + "client-admin.key")
connection = http.client.HTTPSConnection("127.0.0.1", 6443, context=context, timeout=30)
connection.request(how["method"], how["path"], sys.stdin.read() or None, headers)
answer = connection.getresponse()
print(answer.status)
print(answer.read().decode())
"""


def wait_for(what: Callable[[], T | None], seconds: float = 60, every: float = 0.05, why: str = "") -> T:
    """The first value that is neither None nor False. Raises AssertionError with ``why`` after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value is not None and value is not False:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {why or what}")
        time.sleep(every)


class Machine:
    """Namespaces kept by a sleeping process. ``address`` is the node's only address (from TEST-NET-1)."""

    def __init__(self, base: Path, address: str = "192.0.2.10") -> None:
        self.base = base
        self.address = address
        base.mkdir(parents=True, exist_ok=True)
        gateway = address.rsplit(".", 1)[0] + ".1"
        script = SETUP.format(private=" ".join(PRIVATE), memory=" ".join(MEMORY), base=base, address=address, gateway=gateway)
        self.holder = subprocess.Popen(
            ["unshare", "-n", "-m", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout is not None
        line = self.holder.stdout.readline()
        assert line == "ready\n", "the machine's namespaces could not be made; tests need root"

    def enter(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-n", "-m", f"--wd={ROOT}", "--", *argv]

    def run(self, argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float = 120) -> str:
        """Standard output of a command on the machine. Raises AssertionError with its error output."""
        done = subprocess.run(self.enter(argv), capture_output=True, text=True, input=stdin, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def start(self, argv: Sequence[str], log: Path, **environ: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(self.enter(argv), stdout=out, stderr=out, env=os.environ | environ, start_new_session=True)

    def close(self) -> None:
        if self.holder.poll() is None:
            self.run(["sh", "-c", "umount -R /run/netns 2>/dev/null; true"], check=False)
            self.holder.kill()
            self.holder.wait()
        assert self.holder.stdout is not None
        self.holder.stdout.close()
        shutil.rmtree(self.base, ignore_errors=True)


class Server:
    """``k3sd server`` on a machine. ``kubectl`` is a program name or path."""

    def __init__(self, machine: Machine, *flags: str, kubectl: str = "kubectl") -> None:
        self.machine = machine
        self.flags = flags
        self.kubectl_program = kubectl
        self.log = machine.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def start(self) -> None:
        self.started = time.monotonic()
        # Machines share one kernel's cgroups; a node removes pods it does not know from its own part of them.
        own = f"--kubelet-arg=cgroup-root=/k3sd-{os.getpid()}-{self.machine.address}"
        argv = [sys.executable, "-m", "k3sd", "server", own, *self.flags]
        self.process = self.machine.start(argv, self.log, PYTHONDONTWRITEBYTECODE="")

    def stop(self, sig: int = signal.SIGTERM, seconds: float = 60) -> None:
        """End the parent and wait for it."""
        if self.process is not None:
            pid = self.parent_pid()
            if pid:
                os.kill(pid, sig)
            self.process.wait(seconds)
            self.process = None

    def parent_pid(self) -> int:
        """nsenter forks nothing here, so the process we started is the parent itself."""
        assert self.process is not None
        return self.process.pid if self.process.poll() is None else 0

    def children(self) -> dict[str, int]:
        """Process ids of the control plane, the node and containerd."""
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (OSError, IndexError, ValueError):
                continue
            if parent != self.parent_pid():
                continue
            for word, name in (("_control-plane", "control-plane"), ("_node", "node"), ("--config", "containerd")):
                if word in words:
                    found[name] = int(entry.name)
        return found

    def kubectl(self, *argv: str, check: bool = True, stdin: str | None = None, timeout: float = 120) -> str:
        command = [self.kubectl_program, "--kubeconfig", "/etc/rancher/k3s/k3s.yaml", *argv]
        return self.machine.run(command, check=check, stdin=stdin, timeout=timeout)

    def ask(self, method: str, path: str, body: str = "", *, token: str = "") -> tuple[int, str]:
        """Status and body of the API server's answer to the bearer of ``token``, or to the admin."""
        how = json.dumps({"method": method, "path": path, "token": token})
        out = self.machine.run(["/usr/bin/python3", "-c", ASK], stdin=f"{how}\n{body}")
        status, _, text = out.partition("\n")
        return int(status), text

    def token(self, account: str) -> str:
        """A token for a service account, made with the verb where kubectl has it."""
        if kubectl.version(self.kubectl_program) >= kubectl.CREATES_TOKENS:
            return self.kubectl("create", "token", account).strip()
        namespace = self.kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}") or "default"
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        out = self.kubectl("create", "--raw", path, "-f", "-", stdin="{}")
        return str(json.loads(out)["status"]["token"])

    def get(self, *argv: str) -> Any:
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def node_ready(self) -> bool:
        text = self.kubectl("get", "nodes", "-o", "json", check=False)
        try:
            nodes = json.loads(text)["items"]
        except (ValueError, KeyError):
            return False
        conditions = [c for n in nodes for c in n["status"].get("conditions", ()) if c["type"] == "Ready"]
        return bool(conditions) and all(c["status"] == "True" for c in conditions)

    def wait_ready(self, seconds: float = 60) -> float:
        """Seconds from ``start`` to the node's Ready."""

        def check() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-4000:]}"
            return self.node_ready()

        try:
            wait_for(check, seconds, why="node Ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()[-6000:]}") from error
        return time.monotonic() - self.started

    def context(self) -> ssl.SSLContext:
        """TLS for requests as the admin, from the machine's own certificates."""
        tls = self.machine.base / "1" / "k3s" / "server" / "tls"
        context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
        context.check_hostname = False
        context.load_cert_chain(tls / "client-admin.crt", tls / "client-admin.key")
        return context


def fetch(url: str, context: ssl.SSLContext) -> bytes:
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        return bytes(answer.read())
