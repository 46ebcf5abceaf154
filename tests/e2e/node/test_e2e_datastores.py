"""A whole server on each external datastore, which goes away under it and comes back."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

import pytest

from tests.support import datastore_servers
from tests.support.machine import ROOT, Machine, Server, wait_for

pytestmark = pytest.mark.root


@contextlib.contextmanager
def database(driver: str, machine: Machine) -> Iterator[datastore_servers.Server]:
    """On unix sockets, which the machine shares with us; etcd, which has none here, on the machine's loopback."""
    if driver != "etcd":
        with datastore_servers.SERVERS[driver]() as running:
            yield running
        return
    with datastore_servers.directory_for("") as path:
        client, peer = "http://127.0.0.1:23790", "http://127.0.0.1:23800"
        etcd = datastore_servers.etcd_member("default", path, client, peer, f"default={peer}")
        etcd.command = machine.enter(etcd.command)
        with datastore_servers.running(etcd, machine.enter(datastore_servers.etcd_ready(client))):
            yield etcd


@pytest.mark.parametrize("driver", datastore_servers.SERVERS)
def test_a_cluster_on_an_external_datastore(driver: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"), f"192.0.2.{20 + list(datastore_servers.SERVERS).index(driver)}")
    server: Server | None = None
    try:
        with database(driver, machine) as store:
            server = Server(machine, f"--datastore-endpoint={store.endpoint.format(db='cluster')}")
            images = machine.base / "1" / "k3s" / "agent" / "images"
            images.mkdir(parents=True)
            machine.run([sys.executable, "docs/examples/web/build_image.py", "/bin/busybox", str(images / "web.tar")])
            server.start()
            server.wait_ready()
            server.kubectl("apply", "-f", str(ROOT / "docs/examples/web/web.yaml"))
            server.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
            assert not (machine.base / "1/k3s/server/db/state.db").exists(), "nothing is kept here"
            pods, process = containers(server), server.children()["control-plane"]

            store.kill()
            refused = server.kubectl("create", "configmap", "meanwhile", "--request-timeout=20s", check=False)
            assert "created" not in refused
            assert "etcd failed" in unready(server)
            for part in ("kube-scheduler", "kube-controller-manager"):
                wait_for(lambda lost=f"{part}: .* lost the lease": re.search(lost, server.log.read_text()), 40, why="it ends")
            assert "deployment.apps/web" in server.kubectl("get", "deployments", "-o", "name"), "reads go on"
            store.revive()
            wait_for(lambda: "created" in server.kubectl("create", "configmap", "after", check=False), 60, why="a write")
            wait_for(lambda: not unready(server), 60, why="readyz")
            server.kubectl("scale", "deployment", "web", "--replicas=3")
            server.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
            assert pods.items() <= containers(server).items(), "the same containers, never restarted"
            assert server.children()["control-plane"] == process, "nothing died of it"

            pods = containers(server)
            server.stop()
            server.start()
            server.wait_ready()
            assert "after" in server.kubectl("get", "configmaps", "-o", "name")
            assert containers(server) == pods, "found again and taken over"
    finally:
        if server is not None:
            server.stop()
        machine.run([sys.executable, "-m", "k3sd", "killall"], check=False)
        machine.close()


def containers(server: Server) -> dict[str, tuple[str, int]]:
    """Container id and restarts by pod."""
    found = {}
    for pod in server.get("pods")["items"]:
        status = pod["status"]["containerStatuses"][0]
        found[pod["metadata"]["name"]] = (status["containerID"], status["restartCount"])
    return found


def unready(server: Server) -> str:
    """Empty, or what readyz says against the server."""
    command = "kubectl --kubeconfig /etc/rancher/k3s/k3s.yaml get --raw '/readyz?verbose' 2>&1"
    said = server.machine.run(["sh", "-c", command], check=False)
    return "" if "readyz check passed" in said else said
