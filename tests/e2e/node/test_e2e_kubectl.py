"""What people do with kubectl, with the newest and with Debian's own, against real containers."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.machine import ROOT, Server, wait_for

pytestmark = pytest.mark.root
WEB = str(ROOT / "docs/examples/web/web.yaml")


@pytest.fixture
def k(server: Server, kubectl_program: str) -> Iterator[Server]:
    """The server, spoken to with one kubectl in a fresh namespace."""
    server.kubectl_program = kubectl_program
    name = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", name)
    server.kubectl("config", "set-context", "--current", "--namespace", name)
    yield server
    server.kubectl("delete", "namespace", name, "--wait=false")


def deploy(k: Server) -> None:
    k.kubectl("apply", "-f", WEB)
    k.kubectl("rollout", "status", "deployment/web", "--timeout=60s")


def first_pod(k: Server) -> str:
    return k.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}").strip()


def page(k: Server, url: str) -> str:
    return k.machine.run(
        ["/usr/bin/python3", "-c", f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"]
    )


def test_application_answers_through_its_service(k: Server) -> None:
    deploy(k)
    ip = k.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert "Hello from web-" in page(k, f"http://{ip}/")
    k.kubectl("patch", "service", "web", "-p", '{"spec":{"type":"NodePort"}}')
    port = k.kubectl("get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
    wait_for(lambda: "Hello" in k.machine.run(["sh", "-c", f"busybox wget -q -O- http://{k.machine.address}:{port}/ || true"]))
    inside = k.kubectl("exec", first_pod(k), "--", "wget", "-q", "-O-", "http://web/")
    assert "Hello from web-" in inside, "the name resolves and the service answers inside a pod"


def test_get_in_every_form(k: Server) -> None:
    deploy(k)
    assert re.search(r"web\s+2/2\s+2\s+2", k.kubectl("get", "deployments"))
    assert "docker.io/library/web:1" in k.kubectl("get", "deployments", "-o", "wide")
    assert "kind: Deployment" in k.kubectl("get", "deployment", "web", "-o", "yaml")
    assert k.kubectl("get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}") == "2"
    assert "Running" in k.kubectl("get", "pods", "-L", "app", "--show-labels")
    text = k.kubectl("describe", "deployment", "web") + k.kubectl("describe", "pod", first_pod(k))
    for part in ("StrategyType:", "ScalingReplicaSet", "Successfully assigned", "Container started", "QoS Class:"):
        assert part in text


def test_scale_and_rollouts(k: Server) -> None:
    deploy(k)
    k.kubectl("scale", "deployment/web", "--replicas=3")
    k.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    k.kubectl("set", "env", "deployment/web", "COLOR=blue")
    k.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    history = k.kubectl("rollout", "history", "deployment/web")
    assert re.findall(r"^(\d+)", history, re.M) == ["1", "2"]
    k.kubectl("rollout", "undo", "deployment/web")
    k.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert "COLOR" not in k.kubectl("get", "deployment", "web", "-o", "yaml")
    before = first_pod(k)
    k.kubectl("rollout", "restart", "deployment/web")
    k.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    wait_for(lambda: before not in k.kubectl("get", "pods", "-o", "name"))
    k.kubectl("set", "image", "deployment/web", "web=docker.io/library/none:1")
    wait_for(lambda: "ImagePull" in k.kubectl("get", "pods"), 60)
    k.kubectl("rollout", "undo", "deployment/web")
    k.kubectl("rollout", "status", "deployment/web", "--timeout=60s")


def test_logs_exec_cp_and_port_forward(k: Server, tmp_path: Any) -> None:
    k.kubectl("run", "talker", "--image=docker.io/library/web:1", "--restart=Never", "--command", "--", "sh", "-c",
              "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); done; exec httpd -f -p 8080 -h /www")  # fmt: skip
    k.kubectl("wait", "pod/talker", "--for=condition=Ready", "--timeout=60s")
    assert k.kubectl("logs", "talker").splitlines() == [f"line {i}" for i in range(5)]
    assert k.kubectl("logs", "talker", "--tail=2").splitlines() == ["line 3", "line 4"]
    assert re.match(r"\d{4}-\d\d-\d\dT", k.kubectl("logs", "talker", "--timestamps", "--tail=1"))
    assert k.kubectl("exec", "talker", "--", "echo", "hi").strip() == "hi"
    assert k.kubectl("exec", "-i", "talker", "--", "cat", stdin="through stdin") == "through stdin"
    program = k.machine.enter(["script", "-qec", " ".join(terminal(k)), "/dev/null"])
    done = subprocess.run(program, input="echo $((40+2)); exit 3\n", capture_output=True, text=True, timeout=60, check=False)
    assert "42" in done.stdout
    assert done.returncode == 3
    source = k.machine.base / "copied.txt"
    source.write_text("copy me\n")
    k.kubectl("cp", str(source), "talker:/tmp/copied.txt")
    assert k.kubectl("exec", "talker", "--", "cat", "/tmp/copied.txt") == "copy me\n"
    forward = k.machine.start(
        [k.kubectl_program, "--kubeconfig", "/etc/rancher/k3s/k3s.yaml", "port-forward", "pod/talker", "18080:8080"],
        tmp_path / "log",
    )
    try:
        wait_for(lambda: "starting" in k.machine.run(["sh", "-c", "busybox wget -q -O- http://127.0.0.1:18080/ || true"]), 30)
    finally:
        forward.kill()
        forward.wait()


def terminal(k: Server) -> list[str]:
    return [k.kubectl_program, "--kubeconfig", "/etc/rancher/k3s/k3s.yaml", "exec", "-it", "talker", "--", "sh"]


def test_change_and_ask(k: Server) -> None:
    deploy(k)
    k.kubectl("label", "deployment/web", "tier=front")
    k.kubectl("annotate", "deployment/web", "note=hello")
    k.kubectl("patch", "deployment", "web", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":1}]')
    k.machine.run(
        [
            "env",
            "EDITOR=sed -i s/tier:.front/tier:\\ back/",
            k.kubectl_program,
            "--kubeconfig",
            "/etc/rancher/k3s/k3s.yaml",
            "edit",
            "deployment",
            "web",
        ]
    )
    web = k.get("deployment", "web")
    assert (web["metadata"]["labels"]["tier"], web["metadata"]["annotations"]["note"], web["spec"]["replicas"]) == (
        "back",
        "hello",
        1,
    )
    assert k.kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    denied = k.kubectl("auth", "can-i", "create", "pods", "--as=system:serviceaccount:default:default", check=False)
    assert denied.strip().startswith("no")
    assert "replicas" in k.kubectl("explain", "deployment.spec")
    assert re.search(r"deployments\s+deploy\s+apps/v1\s+true\s+Deployment", k.kubectl("api-resources"))
    assert "deployment.apps/web configured" in k.kubectl("apply", "-f", WEB)
    assert "deployment.apps/web unchanged" in k.kubectl("apply", "-f", WEB)
    k.kubectl("delete", "-f", WEB)
    wait_for(lambda: not k.get("pods")["items"], 60)


def test_watch_sees_changes(k: Server) -> None:
    argv = k.machine.enter(
        [k.kubectl_program, "--kubeconfig", "/etc/rancher/k3s/k3s.yaml", "get", "configmaps", "-w", "-o", "name"]
    )
    watch = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    assert watch.stdout.readline() == "configmap/kube-root-ca.crt\n"
    k.kubectl("create", "configmap", "seen", "--from-literal=a=b")
    assert watch.stdout.readline() == "configmap/seen\n"
    watch.kill()
    watch.wait()
    watch.stdout.close()


def test_job_runs_to_the_end(k: Server) -> None:
    k.kubectl("create", "job", "once", "--image=docker.io/library/web:1", "--", "sh", "-c", "echo done; exit 0")
    k.kubectl("wait", "job/once", "--for=condition=Complete", "--timeout=60s")
    assert k.kubectl("logs", "job/once").strip() == "done"


def test_config_reaches_pods_and_changes_follow(k: Server) -> None:
    k.kubectl("create", "configmap", "conf", "--from-literal=mode=one")
    k.kubectl("create", "secret", "generic", "sec", "--from-literal=key=hidden")
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "labels": {"a": "b"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "initContainers": [{"name": "init", "image": "docker.io/library/web:1",
                                "command": ["sh", "-c", "echo ready > /shared/init"],
                                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
            "containers": [{
                "name": "c", "image": "docker.io/library/web:1", "command": ["sleep", "3600"],
                "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "key"}}},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "volumeMounts": [{"name": "conf", "mountPath": "/conf"}, {"name": "shared", "mountPath": "/shared"}],
            }],
            "volumes": [{"name": "conf", "configMap": {"name": "conf"}}, {"name": "shared", "emptyDir": {}}],
        },
    }  # fmt: skip
    k.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    k.kubectl("wait", "pod/reader", "--for=condition=Ready", "--timeout=60s")
    seen = k.kubectl("exec", "reader", "--", "sh", "-c", "cat /conf/mode; echo; cat /shared/init; echo $KEY $IP")
    assert seen.split() == ["one", "ready", "hidden", k.get("pod", "reader")["status"]["podIP"]]
    k.kubectl("patch", "configmap", "conf", "-p", '{"data":{"mode":"two"}}')
    wait_for(lambda: k.kubectl("exec", "reader", "--", "cat", "/conf/mode") == "two", 20, every=0.5)
    api = k.kubectl("exec", "reader", "--", "sh", "-c", "ls /var/run/secrets/kubernetes.io/serviceaccount")
    assert api.split() == ["ca.crt", "namespace", "token"]


def test_token_opens_the_api(k: Server) -> None:
    assert k.ask("GET", "/version", token=k.token("default"))[0] == 200
    assert k.ask("GET", "/version", token="wrong")[0] == 401
