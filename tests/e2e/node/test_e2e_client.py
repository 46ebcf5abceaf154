"""Python's own Kubernetes client: list, watch, exec."""

from __future__ import annotations

import pytest

from tests.support.machine import Server

pytestmark = pytest.mark.root

SCRIPT = """
import threading
from kubernetes import client, config, watch
from kubernetes.stream import stream
config.load_kube_config("/etc/rancher/k3s/k3s.yaml")
v1 = client.CoreV1Api()
print("nodes", len(v1.list_node().items))
start = v1.list_namespaced_pod("default").metadata.resource_version
pod = {"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
    {"name": "c", "image": "docker.io/library/web:1", "command": ["sleep", "3600"]}]}}
v1.create_namespaced_pod("default", pod)
phases = []
w = watch.Watch()
for event in w.stream(v1.list_namespaced_pod, "default", resource_version=start, timeout_seconds=60):
    phases.append(event["object"].status.phase)
    if phases[-1] == "Running":
        w.stop()
print("phases", sorted(set(phases)))
out = stream(v1.connect_get_namespaced_pod_exec, "p", "default", command=["sh", "-c", "echo out; echo err >&2"],
             stderr=True, stdin=False, stdout=True, tty=False)
print("exec", sorted(out.split()))
v1.delete_namespaced_pod("p", "default")
"""


def test_list_watch_exec(server: Server) -> None:
    out = server.machine.run(["/usr/bin/python3", "-W", "ignore", "-c", SCRIPT], timeout=120)
    assert out.splitlines() == ["nodes 1", "phases ['Pending', 'Running']", "exec ['err', 'out']"]
