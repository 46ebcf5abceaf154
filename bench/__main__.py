"""``make bench``: every line of the budget, for k3sd and, in the same run, for a peer's binary where one is given.

    python3 -m bench [--peer-k3s FILE] [--peer-kube-apiserver FILE] [--only LINE ...] [--idle-seconds 60]

Needs root, wrk and kubectl. Each server runs on a machine of its own (namespaces), load goes over its loopback.
A kube-apiserver is no whole server: it and our API server are measured alone, each on its store, by ``bench.apiserver``.
"""

from __future__ import annotations

import argparse
import compileall
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.machine import ROOT, Machine, Server, wait_for

IMAGE = "docker.io/library/web:1"
CREATES = 12_000
"""At least so many before the memory is looked at."""
CREATE_LUA = """
local body = '{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"generateName":"load-"}},"data":{{"k":"' .. string.rep("x",
1024) .. '"}}}}'
request = function()
  return wrk.format("POST", "/api/v1/namespaces/{namespace}/configmaps", {{["Content-Type"]="application/json",
  ["Authorization"]="Bearer {token}"}}, body)
end
local bad = 0
response = function(status) if status ~= 201 then bad = bad + 1 end end
done = function(summary, latency, requests) end
"""


class Bench:
    """One server under measurement; ``lines`` collects (name, figure, unit)."""

    def __init__(self, name: str, server: Server, pids: Callable[[], list[int]]) -> None:
        self.name = name
        self.server = server
        self.pids = pids

    def say(self, what: str, value: float, unit: str) -> None:
        print(f"{self.name:8} {what:62} {value:10.2f} {unit}", flush=True)

    # memory and CPU

    def pss_mb(self) -> float:
        """Proportional set size of the server's own processes, without containerd and shims."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / 100

    def idle(self, seconds: float) -> None:
        time.sleep(5)
        before, start = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        used = self.cpu_seconds() - before
        self.say(f"CPU, idle, {seconds:.0f} s mean", 100 * used / (time.monotonic() - start), "% of a core")
        self.say("memory, idle server with its node, without containerd (PSS)", self.pss_mb(), "MB")

    # API throughput

    def token(self) -> str:
        self.server.kubectl("create", "serviceaccount", "load", check=False)
        self.server.kubectl(
            "create", "clusterrolebinding", "load", "--clusterrole=cluster-admin", "--serviceaccount=default:load", check=False
        )
        return self.server.kubectl("create", "token", "load", "--duration=1h").strip()

    def wrk(self, path: str, seconds: int, token: str, script: str = "") -> float:
        """Requests a second over 8 connections."""
        argv = ["wrk", "-t1", "-c8", f"-d{seconds}s", "-H", f"Authorization: Bearer {token}"]
        if script:
            argv += ["-s", script]
        out = self.server.machine.run([*argv, f"https://127.0.0.1:6443{path}"], timeout=seconds + 60)
        if "Non-2xx" in out:
            print(out, file=sys.stderr)
        line = next(line for line in out.splitlines() if line.startswith("Requests/sec"))
        return float(line.split()[1])

    def throughput(self) -> None:
        token = self.token()
        self.server.kubectl("create", "namespace", "load", check=False)
        self.server.kubectl("create", "namespace", "list", check=False)
        items = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"c{i}", "namespace": "list"},
                "data": {"k": "x" * 1024},
            }
            for i in range(1000)
        ]
        self.server.kubectl(
            "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), timeout=300
        )
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(CREATE_LUA.format(namespace="load", token=token))
            script.flush()
            rate = self.wrk("/", 6, token, script.name)
            self.say("create ConfigMap 1 KiB, 8 connections, durable", rate, "/s")
            if (left := CREATES - 6 * rate) > 0:
                self.wrk("/", math.ceil(left / rate), token, script.name)
        self.say("GET, 8 connections", self.wrk("/api/v1/namespaces/list/configmaps/c1", 5, token), "/s")
        path = "/api/v1/namespaces/list/configmaps?resourceVersion=0"
        self.say("LIST of 1,000 ConfigMaps (1.3 MB), 8 connections", self.wrk(path, 5, token), "/s")
        count = len(self.server.kubectl("get", "configmaps", "-n", "load", "-o", "name", timeout=300).splitlines())
        self.say(f"memory after {count} creates and 1,000-object lists (PSS)", self.pss_mb(), "MB")

    # pods

    def floor(self, pods: int) -> float:
        """Seconds for as many pods while the server stands still."""
        argv = [sys.executable, "-m", "bench.floor", "/run/k3s/containerd/containerd.sock", IMAGE, str(pods)]
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            return float(self.server.machine.run(argv, timeout=300))
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def pod_manifest(self, name: str) -> str:
        spec = {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "3600"], "imagePullPolicy": "Never"}],
        }
        return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def pods(self, rounds: int = 7) -> None:
        """Created to Running, as a watch sees it."""
        times = []
        for i in range(rounds):
            name = f"one{i}"
            argv = ["kubectl", "--kubeconfig", "/etc/rancher/k3s/k3s.yaml", "get", "pods", "-w", "--output-watch-events", "-o",
                    'jsonpath={.type} {.object.metadata.name} {.object.status.phase}{"\\n"}']  # fmt: skip
            watch = subprocess.Popen(self.server.machine.enter(argv), stdout=subprocess.PIPE, text=True)
            assert watch.stdout is not None
            os.set_blocking(watch.stdout.fileno(), True)
            time.sleep(0.5)
            creating = subprocess.Popen(
                self.server.machine.enter(["kubectl", "--kubeconfig", "/etc/rancher/k3s/k3s.yaml", "create", "-f", "-"]),
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert creating.stdin is not None
            creating.stdin.write(self.pod_manifest(name))
            creating.stdin.close()
            added = 0.0
            for line in watch.stdout:
                words = line.split()
                if name in words and "ADDED" in words:
                    added = time.monotonic()
                if name in words and "Running" in words:
                    times.append(time.monotonic() - added)
                    break
            watch.kill()
            watch.wait()
            creating.wait()
            self.server.kubectl("delete", "pod", name, "--wait=true")
        self.say("pod created to Running, median, image present", statistics.median(times), "s")
        floors = [self.floor(1) for _ in range(rounds)]
        self.say("  of it containerd's, asked by hand", statistics.median(floors), "s")

    def deployment(self, replicas: int = 30) -> None:
        spec = json.loads(self.pod_manifest("x"))["spec"]
        labels = {"app": "many"}
        manifest = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": spec}},
        }  # fmt: skip
        self.server.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        start = time.monotonic()
        self.server.kubectl("rollout", "status", "deployment/many", "--timeout=300s", timeout=310)
        self.say(f"Deployment of {replicas} replicas, all ready", time.monotonic() - start, "s")
        self.server.kubectl("delete", "deployment", "many", "--wait=true")
        wait_for(lambda: not self.server.get("pods")["items"], 120)
        self.say("  of it containerd's, asked by hand", min(self.floor(replicas) for _ in range(2)), "s")


def image_archive(target: Path) -> None:
    """The sample application's image: static busybox."""
    builder = ROOT / "docs/examples/web/build_image.py"
    subprocess.run([sys.executable, builder, "/bin/busybox", target], check=True, stdout=subprocess.DEVNULL)


def measure(bench: Bench, only: set[str], idle_seconds: float) -> None:
    server = bench.server
    images = server.machine.base / "1" / "k3s" / "agent" / "images"
    images.mkdir(parents=True, exist_ok=True)
    image_archive(images / "bench.tar")
    try:
        server.start()
        ready = server.wait_ready(300)
        bench.say("empty data directory to node Ready", ready, "s")
        if "idle" in only:
            bench.idle(idle_seconds)
        if "pods" in only:
            bench.pods()
            bench.deployment()
        if "restart" in only:
            server.stop()
            server.start()
            bench.say("restart with data to node Ready", server.wait_ready(300), "s")
        if "api" in only:
            bench.throughput()
    finally:
        server.stop(seconds=120)


LINES = ("idle", "pods", "restart", "api")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="print the figures of the budget, one a line")
    parser.add_argument("--peer-k3s", metavar="BINARY", help="a K3s binary to measure in the same run")
    parser.add_argument("--peer-kube-apiserver", metavar="BINARY", help="a kube-apiserver to measure in the same run")
    parser.add_argument("--only", action="append", choices=LINES, help="only these groups")
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    options = parser.parse_args()
    for program in ("wrk", "kubectl"):
        if shutil.which(program) is None:
            parser.error(
                f"{program} is not installed; run: apt install {'kubernetes-client' if program == 'kubectl' else program}"
            )
    only = set(options.only or LINES)
    # As in an installed package.
    compileall.compile_dir(ROOT / "k3sd", quiet=1)
    with tempfile.TemporaryDirectory(prefix="k3sd-bench-") as base:
        machine = Machine(Path(base) / "k3sd", "192.0.2.21")
        try:
            server = Server(machine)

            def own() -> list[int]:
                children = server.children()
                return [server.parent_pid(), *(children[n] for n in ("control-plane", "node") if n in children)]

            measure(Bench("k3sd", server, own), only, options.idle_seconds)
            machine.run([sys.executable, "-m", "k3sd", "killall"])
        finally:
            machine.close()
        if options.peer_k3s:
            machine = Machine(Path(base) / "peer", "192.0.2.22")
            try:
                peer = PeerK3s(machine, options.peer_k3s)
                # All of K3s but containerd is one process.
                measure(Bench("k3s", peer, lambda: [peer.parent_pid()]), only, options.idle_seconds)
            finally:
                machine.close()
    if options.peer_kube_apiserver:
        argv = [sys.executable, "-m", "bench.apiserver", "--peer-kube-apiserver", options.peer_kube_apiserver]
        subprocess.run(argv, cwd=ROOT, check=True)
    return 0


class PeerK3s(Server):
    """A stock K3s with its add-ons off."""

    def __init__(self, machine: Machine, binary: str) -> None:
        super().__init__(machine)
        self.binary = binary

    def start(self) -> None:
        self.started = time.monotonic()
        off = [f"--disable={name}" for name in ("coredns", "servicelb", "traefik", "local-storage", "metrics-server")]
        self.process = self.machine.start([self.binary, "server", *off], self.log)


if __name__ == "__main__":
    sys.exit(main())
