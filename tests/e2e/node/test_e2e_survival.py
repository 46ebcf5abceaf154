"""Killing things: pods live on, nothing acknowledged is lost, and one command removes everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.machine import ROOT, Server, wait_for

pytestmark = pytest.mark.root
WEB = str(ROOT / "docs/examples/web/web.yaml")
VIEWS = {
    "links": ["ip", "-o", "link"],
    "namespaces": ["ls", "/run/netns"],
    "rules": ["nft", "list", "ruleset"],
    "mounts": ["cat", "/proc/mounts"],
}

WRITER = """
import json, ssl, sys, time, urllib.request
base, url, tag = sys.argv[1:4]
def context():
    c = ssl.create_default_context(cafile=base + "/server-ca.crt"); c.check_hostname = False
    c.load_cert_chain(base + "/client-admin.crt", base + "/client-admin.key"); return c
tls, i = context(), 0
while True:
    item = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": f"w-{tag}-{i}"}, "data": {"n": str(i)}}
    body = json.dumps(item).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, context=tls, timeout=20) as answer:
            if answer.status == 201:
                print(f"w-{tag}-{i}", flush=True)
    except Exception:
        time.sleep(0.05)
    i += 1
"""


class Writer:
    """Creates ConfigMaps as fast as it can and remembers which were acknowledged."""

    def __init__(self, server: Server, tag: str) -> None:
        tls = "/var/lib/rancher/k3s/server/tls"
        url = "https://127.0.0.1:6443/api/v1/namespaces/default/configmaps"
        argv = server.machine.enter([sys.executable, "-c", WRITER, tls, url, tag])
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.acknowledged: list[str] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.acknowledged.append(line.strip())

    def more(self, count: int) -> None:
        target = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= target, 60, why=f"{count} more acknowledged writes")

    def stop(self) -> list[str]:
        self.process.kill()
        self.process.wait()
        self.thread.join()
        return self.acknowledged


def running(server: Server) -> dict[str, tuple[str, int]]:
    """Container id and restarts of every web pod."""
    pods = server.get("pods", "-l", "app=web")["items"]
    return {
        p["metadata"]["name"]: (
            p["status"]["containerStatuses"][0]["containerID"],
            p["status"]["containerStatuses"][0]["restartCount"],
        )
        for p in pods
    }


@pytest.fixture(scope="module")
def web(server: Server) -> dict[str, tuple[str, int]]:
    server.kubectl("apply", "-f", WEB)
    server.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    return running(server)


def check_alive(server: Server, web: dict[str, tuple[str, int]], acknowledged: list[str]) -> None:
    """The same containers run, the service answers, and what was acknowledged is there."""
    wait_for(server.node_ready, 60, why="node Ready again")
    names = set(server.kubectl("get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}").split())
    assert not set(acknowledged) - names, "acknowledged writes are missing"
    wait_for(lambda: running(server) == web, 30, why=f"the same containers as before: {web}")
    ip = server.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert "Hello" in server.machine.run(["busybox", "wget", "-q", "-O-", f"http://{ip}/"])


@pytest.mark.parametrize("child", ["control-plane", "node", "containerd"])
def test_killing_a_child_under_load(server: Server, web: dict[str, tuple[str, int]], child: str) -> None:
    writer = Writer(server, child)
    writer.more(50)
    old = server.children()[child]
    os.kill(old, signal.SIGKILL)
    new = wait_for(lambda: (pid := server.children().get(child, old)) != old and pid, 30, why=f"{child} started again")
    writer.more(50)
    check_alive(server, web, writer.stop())
    assert server.children()[child] == new, "it stays up"


def test_killing_the_parent_under_load(server: Server, web: dict[str, tuple[str, int]]) -> None:
    writer = Writer(server, "parent")
    writer.more(50)
    server.stop(signal.SIGKILL)
    server.start()
    server.wait_ready()
    writer.more(50)
    check_alive(server, web, writer.stop())


def test_stop_leaves_pods_running(server: Server, web: dict[str, tuple[str, int]]) -> None:
    ip = server.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
    server.stop()
    assert "Hello" in server.machine.run(["busybox", "wget", "-q", "-O-", f"http://{ip}:8080/"])
    server.start()
    server.wait_ready()
    check_alive(server, web, [])


def test_check_config_knows_its_own_server(server: Server) -> None:
    out = server.machine.run([sys.executable, "-m", "k3sd", "check-config"], check=False)
    assert f"ports: not tried: k3sd runs (pid {server.parent_pid()}) and has its own" in out
    assert "in use" not in out


def test_bad_requests_are_answered_like_upstream(server: Server) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    code, text = server.ask("POST", path, "x" * (3 * 1024 * 1024 + 1))
    assert (code, json.loads(text)["reason"]) == (413, "RequestEntityTooLarge")
    code, text = server.ask("POST", path, "{")
    assert (code, json.loads(text)["reason"]) == (400, "BadRequest")


def test_killall_leaves_the_machine_as_it_was(server: Server, web: dict[str, tuple[str, int]]) -> None:
    """Compared with a machine that never ran anything."""
    machine = server.machine
    container = {"name": "web", "ports": [{"containerPort": 8080, "hostPort": 8088}]}
    strategy = {"$retainKeys": ["type"], "type": "Recreate"}
    spec = {"template": {"spec": {"containers": [container]}}, "replicas": 1, "strategy": strategy}
    server.kubectl("patch", "deployment", "web", "-p", json.dumps({"spec": spec}))
    server.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert "Hello" in machine.run(["busybox", "wget", "-q", "-O-", f"http://{machine.address}:8088/"])
    out = machine.run([sys.executable, "-m", "k3sd", "killall"])
    assert "removed" in out
    assert server.process is not None
    server.process.wait(30)
    server.process = None
    links = {line.split(": ")[1].partition("@")[0] for line in machine.run(VIEWS["links"]).splitlines()}
    assert links == {"lo", "eth0"}
    assert machine.run(VIEWS["namespaces"]) == ""
    assert machine.run(VIEWS["rules"]) == ""
    mounts = set(machine.run(VIEWS["mounts"]).splitlines()) - set(Path("/proc/mounts").read_text().splitlines())
    assert [m for m in mounts if m.split()[1].startswith(("/run/k3s/", "/var/lib/kubelet/", "/run/netns/"))] == []
    assert processes(server) == []
    server.start()
    server.wait_ready()
    server.kubectl("rollout", "status", "deployment/web", "--timeout=60s")


def processes(server: Server) -> list[str]:
    """Command lines of k3sd's processes and shims on the machine."""
    home = os.readlink(f"/proc/{server.machine.holder.pid}/ns/mnt")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                here = os.readlink(entry / "ns/mnt")
            except OSError:
                continue
            if here == home and ("containerd" in line or "-m k3sd" in line):
                found.append(line)
    return found
