"""What a pod finds around it on a whole node: volumes that follow the API, probes, logs, exec; also after a node restart."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.support.machine import Server, wait_for

pytestmark = pytest.mark.root
Obj = dict[str, Any]
IMAGE = {"image": "docker.io/library/web:1", "imagePullPolicy": "IfNotPresent"}

OBJECTS: list[Obj] = [
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "1", "conf": "x=1"}},
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec"}, "stringData": {"pw": "hunter2"}},
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "p"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "hostAliases": [{"ip": "192.0.2.99", "hostnames": ["foo", "bar"]}],
            "securityContext": {"fsGroup": 1234},
            "containers": [
                {
                    **IMAGE,
                    "name": "c",
                    "command": ["sh", "-c", "i=0; while true; do echo line $i; i=$((i+1)); busybox sleep 0.2; done"],
                    "env": [
                        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
                        {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "pw"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "REF", "value": "$(A)/$$(A)/$(NOPE)"},
                    ],
                    "readinessProbe": {"exec": {"command": ["busybox", "test", "-e", "/cache/ready"]}, "periodSeconds": 1},
                    "volumeMounts": [
                        {"name": "cm", "mountPath": "/cm"},
                        {"name": "cm", "mountPath": "/etc/one", "subPath": "conf"},
                        {"name": "sec", "mountPath": "/sec"},
                        {"name": "cache", "mountPath": "/cache"},
                        {"name": "cache", "mountPath": "/sub", "subPathExpr": "d/$(A)"},
                        {"name": "mem", "mountPath": "/mem"},
                        {"name": "info", "mountPath": "/info"},
                        {"name": "img", "mountPath": "/img"},
                    ],
                }
            ],
            "volumes": [
                {"name": "cm", "configMap": {"name": "cm"}},
                {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o400}},
                {"name": "cache", "emptyDir": {}},
                {"name": "img", "image": {"reference": IMAGE["image"], "pullPolicy": "IfNotPresent"}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {
                    "name": "info",
                    "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]},
                },
            ],
        },
    },
]


@pytest.fixture(scope="module")
def k(server: Server) -> Server:
    server.kubectl("create", "namespace", "podenv")
    server.kubectl("config", "set-context", "--current", "--namespace", "podenv")
    server.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": OBJECTS}))
    wait_for(lambda: server.kubectl("get", "pod", "p", "-o", "jsonpath={.status.phase}") == "Running")
    return server


def sh(k: Server, script: str) -> str:
    return k.kubectl("exec", "p", "--", "sh", "-c", script)


def is_ready(k: Server) -> bool:
    return k.kubectl("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].ready}") == "true"


def test_environment_and_hosts(k: Server) -> None:
    ip = k.kubectl("get", "pod", "p", "-o", "jsonpath={.status.podIP}")
    assert sh(k, 'echo "$A $PW $IP $REF $KUBERNETES_SERVICE_PORT"') == f"1 hunter2 {ip} 1/$(A)/$(NOPE) 443\n"
    hosts = sh(k, "cat /etc/hosts")
    assert hosts.startswith("# Kubernetes-managed hosts file.\n") and f"\n{ip}\tp\n" in hosts
    assert hosts.endswith("\n192.0.2.99\tfoo\tbar\n")
    assert "search podenv.svc.cluster.local svc.cluster.local cluster.local" in sh(k, "cat /etc/resolv.conf")


def test_volumes(k: Server) -> None:
    assert sh(k, "cat /etc/one /sec/pw /info/labels") == 'x=1hunter2app="p"'
    assert sh(k, "busybox stat -L -c '%a %g' /sec/pw /cache").split() == ["440", "1234", "2777", "1234"]
    assert sh(k, "busybox df -k /mem").split("\n")[1].split()[:2] == ["tmpfs", "1024"]
    assert sh(k, "echo x > /sub/y; cat /cache/d/1/y") == "x\n"
    assert sh(k, "cat /img/www/index.html") == "starting\n"
    assert "ca.crt" in sh(k, "ls /var/run/secrets/kubernetes.io/serviceaccount")
    for path in ("/cm/new", "/var/run/secrets/kubernetes.io/serviceaccount/x"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            sh(k, f"echo x > {path}")


def test_logs(k: Server) -> None:
    lines = k.kubectl("logs", "p").splitlines()
    assert lines[0] == "line 0"
    assert k.kubectl("logs", "p", "--limit-bytes=9") == "line 0\nli"
    (last,) = k.kubectl("logs", "p", "--tail=1", "--timestamps").splitlines()
    assert last.split(" ")[0].endswith("Z") and last.split(" ")[1] == "line"


def test_readiness_follows_its_probe(k: Server) -> None:
    assert not is_ready(k)
    sh(k, "echo > /cache/ready")
    wait_for(lambda: is_ready(k), 10)
    assert "Readiness probe failed" in k.kubectl("get", "events", "--field-selector", "reason=Unhealthy")


def test_updates_arrive_also_after_the_node_process_was_killed(k: Server) -> None:
    k.kubectl("patch", "configmap", "cm", "-p", '{"data":{"a":"2"}}')
    k.kubectl("label", "pod", "p", "extra=1")
    wait_for(lambda: sh(k, "cat /cm/a /info/labels") == '2app="p"\nextra="1"', 5)
    before = k.kubectl("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
    node = k.children()["node"]
    os.kill(node, signal.SIGKILL)
    wait_for(lambda: k.children().get("node", node) != node, 30)
    k.kubectl("patch", "configmap", "cm", "-p", '{"data":{"a":"3"}}')
    wait_for(lambda: k.kubectl("exec", "p", "--", "cat", "/cm/a", check=False) == "3", 30)
    assert is_ready(k)
    assert k.kubectl("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].containerID}") == before


def test_nothing_of_a_deleted_pod_stays(k: Server) -> None:
    uid = k.kubectl("get", "pod", "p", "-o", "jsonpath={.metadata.uid}")
    assert uid in k.machine.run(["cat", "/proc/self/mountinfo"])
    k.kubectl("delete", "pod", "p")
    wait_for(lambda: uid not in k.machine.run(["ls", "/var/lib/kubelet/pods"]), 10)
    assert uid not in k.machine.run(["cat", "/proc/self/mountinfo"])


def ask_kubelet(k: Server, path: str, token: str = "") -> str:
    """Status and body of the kubelet's answer."""
    script = (
        "import ssl, sys, urllib.request as u, urllib.error as e\n"
        "r = u.Request('https://127.0.0.1:10250' + sys.argv[1])\n"
        "t = sys.stdin.read()\n"
        "t and r.add_header('Authorization', 'Bearer ' + t)\n"
        "try: a = u.urlopen(r, context=ssl._create_unverified_context(), timeout=10)\n"
        "except e.HTTPError as x: a = x\n"
        "print(a.status, a.read().decode())\n"
    )
    return k.machine.run(["/usr/bin/python3", "-c", script, path], stdin=token)


def test_the_kubelet_asks_the_api_server_who_may(k: Server) -> None:
    for name in ("reader", "stranger"):
        k.kubectl("create", "serviceaccount", name)
    k.kubectl("create", "clusterrole", "reads-metrics", "--verb=get", "--resource=nodes/metrics")
    k.kubectl("create", "clusterrolebinding", "reads-metrics", "--clusterrole=reads-metrics", "--serviceaccount=podenv:reader")
    reader, stranger = (k.token(name) for name in ("reader", "stranger"))
    metrics = ask_kubelet(k, "/metrics/resource", reader)
    assert metrics.startswith("200 # TYPE ")
    assert "# TYPE node_cpu_usage_seconds_total counter" in metrics
    assert ask_kubelet(k, "/pods", reader).startswith("403 Forbidden (user=system:serviceaccount:podenv:reader, verb=get")
    assert ask_kubelet(k, "/metrics/resource", stranger).startswith("403 ")
    assert ask_kubelet(k, "/metrics/resource", stranger + "x").startswith("401 ")
    assert ask_kubelet(k, "/metrics/resource").startswith("401 ")
