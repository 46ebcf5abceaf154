"""Services and names as pods, the node and its neighbours see them, in the real kernel of a whole node."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.machine import Server, wait_for

pytestmark = pytest.mark.root
Obj = dict[str, Any]

CONTAINER = {"name": "c", "image": "docker.io/library/web:1", "imagePullPolicy": "IfNotPresent"}
POD = {"terminationGracePeriodSeconds": 0, "containers": [{**CONTAINER, "ports": [{"name": "http", "containerPort": 8080}]}]}
WEB_PORT = {"name": "http", "port": 80, "targetPort": "http"}

CLIENT = """
import socket, sys
def ask(address, port):
    try:
        with socket.create_connection((address, port), timeout=5) as c:
            c.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answer = b""
            while part := c.recv(1000): answer += part
            return answer.decode().split()[-1]
    except OSError as error: return type(error).__name__
"""

ECHO = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("", 9000))
while True:
    data, peer = s.recvfrom(100)
    s.sendto(data + b" from " + sys.argv[1].encode(), peer)
"""

IN_CLUSTER = """
import json, ssl, sys, urllib.request
given = json.load(sys.stdin)
context = ssl.create_default_context(cadata=given["ca"])
request = urllib.request.Request(given["url"], headers={"Authorization": "Bearer " + given["token"]})
with urllib.request.urlopen(request, context=context, timeout=10) as answer: print(json.load(answer)["kind"])
"""


def service(name: str, app: str, **spec: Any) -> Obj:
    body = {"selector": {"app": app}, "ports": [WEB_PORT], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


OBJECTS: list[Obj] = [
    {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db",
            "replicas": 2,
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": POD},
        },
    },
    service("db", "db", clusterIP="None"),
    service("plain", "db", type="NodePort"),
    service("sticky", "db", type="NodePort", sessionAffinity="ClientIP"),
    service("nobody", "nobody", type="NodePort"),
    service("echo", "db", type="NodePort", ports=[{"port": 9000, "protocol": "UDP"}]),
    service("elsewhere", "", type="ExternalName", externalName="elsewhere.example", selector=None, ports=None),
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "solo", "labels": {"app": "solo"}}, "spec": POD},
    service("solo", "solo"),
]


@pytest.fixture(scope="module")
def k(server: Server) -> Server:
    server.kubectl("create", "namespace", "net")
    server.kubectl("config", "set-context", "--current", "--namespace", "net")
    server.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": OBJECTS}))
    server.kubectl("rollout", "status", "statefulset/db", "--timeout=60s")
    server.kubectl("wait", "pod/solo", "--for=condition=Ready", "--timeout=60s")
    return server


def inside(k: Server, *words: str, pod: str = "solo") -> str:
    return k.kubectl("exec", pod, "--", *words, check=False)


def network_of(k: Server, pod: str) -> list[str]:
    """How to run a program of the machine in the network of a pod."""
    address = pod_ip(k, pod)
    for name in k.machine.run(["ls", "/run/netns"]).split():
        enter = ["nsenter", f"--net=/run/netns/{name}", "--"]
        if f" {address}/" in k.machine.run([*enter, "ip", "-o", "address"]):
            return enter
    raise AssertionError(f"no network namespace has {address}")


def pod_ip(k: Server, pod: str) -> str:
    return k.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")


def cluster_ip(k: Server, name: str) -> str:
    return k.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")


def node_port(k: Server, name: str) -> int:
    return int(k.kubectl("get", "service", name, "-o", "jsonpath={.spec.ports[0].nodePort}"))


def ask(k: Server, address: str, port: int, times: int = 1, enter: list[str] | None = None) -> tuple[set[str], float]:
    """The different answers of ``times`` requests, and the longest one's seconds."""
    script = (
        f"{CLIENT}\nimport json, time\nseen, longest = set(), 0.0\nfor _ in range({times}):\n"
        f"    begun = time.monotonic(); seen.add(ask({address!r}, {port})); longest = max(longest, time.monotonic() - begun)\n"
        "print(json.dumps([sorted(seen), longest]))"
    )
    seen, longest = json.loads(k.machine.run([*(enter or []), sys.executable, "-c", script]))
    return set(seen), longest


def test_a_service_spreads_and_remembers_clients(k: Server) -> None:
    wait_for(lambda: ask(k, cluster_ip(k, "plain"), 80, 30)[0] == {"db-0", "db-1"})
    for address, port in (
        (cluster_ip(k, "sticky"), 80),
        (k.machine.address, node_port(k, "sticky")),
        ("127.0.0.1", node_port(k, "sticky")),
    ):
        assert len(ask(k, address, port, 20)[0]) == 1
    assert ask(k, k.machine.address, node_port(k, "plain"), 30)[0] == {"db-0", "db-1"}


def test_a_pod_reaches_itself_through_its_service(k: Server) -> None:
    enter = network_of(k, "solo")
    assert wait_for(lambda: ask(k, cluster_ip(k, "solo"), 80, 5, enter)[0] == {"solo"})


def test_without_endpoints_a_connection_is_refused_at_once(k: Server) -> None:
    enter = network_of(k, "solo")
    unused = "10.43.255.254"
    for address, port in (
        (cluster_ip(k, "nobody"), 80),
        (k.machine.address, node_port(k, "nobody")),
        (cluster_ip(k, "plain"), 81),
        (unused, 80),
    ):
        for where in (None, enter):
            answers, seconds = ask(k, address, port, 3, where)
            assert answers == {"ConnectionRefusedError"}, (address, port, where)
            assert seconds < 0.9, "the second SYN goes out after one"


@pytest.fixture
def echo(k: Server, tmp_path: Any) -> Iterator[None]:
    started = [
        k.machine.start([*network_of(k, pod), sys.executable, "-c", ECHO, pod], tmp_path / "log") for pod in ("db-0", "db-1")
    ]
    yield
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("echo")
def test_datagrams_through_cluster_ip_and_node_port(k: Server) -> None:
    script = (
        "import socket, sys\ns = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1)\n"
        "s.connect((sys.argv[1], int(sys.argv[2]))); s.send(b'hi')\n"
        "try: print(s.recv(100).decode())\nexcept OSError as error: print(type(error).__name__)"
    )
    for address, port in ((cluster_ip(k, "echo"), 9000), (k.machine.address, node_port(k, "echo"))):
        for enter in ([], network_of(k, "solo")):

            def answers(words: tuple[str, ...] = (*enter, sys.executable, "-c", script, address, str(port))) -> bool:
                return k.machine.run(words).strip() in ("hi from db-0", "hi from db-1")

            wait_for(answers, 20)
    k.kubectl("patch", "service", "echo", "-p", '{"spec":{"selector":{"app":"nobody"}}}')
    nobody = [*network_of(k, "solo"), sys.executable, "-c", script, cluster_ip(k, "echo"), "9000"]
    wait_for(lambda: k.machine.run(nobody).strip() == "ConnectionRefusedError", 20)


def test_names(k: Server) -> None:
    pods = [pod_ip(k, "db-0"), pod_ip(k, "db-1")]
    domain = "net.svc.cluster.local"
    assert cluster_ip(k, "plain") in inside(k, "nslookup", f"plain.{domain}")
    wait_for(lambda: all(pod in inside(k, "nslookup", f"db.{domain}") for pod in pods), 20)
    assert pods[0] in inside(k, "nslookup", f"db-0.db.{domain}")
    services = inside(k, "nslookup", "-type=srv", f"_http._tcp.db.{domain}")
    assert f"service = 0 50 8080 db-0.db.{domain}" in services and f"8080 db-1.db.{domain}" in services
    assert f"service = 0 100 80 plain.{domain}" in inside(k, "nslookup", "-type=srv", f"_http._tcp.plain.{domain}")
    assert "name = kubernetes.default.svc.cluster.local" in inside(k, "nslookup", "10.43.0.1")
    assert f"name = db-0.db.{domain}" in inside(k, "nslookup", pods[0])
    assert "canonical name = elsewhere.example" in inside(k, "nslookup", f"elsewhere.{domain}")
    assert "NXDOMAIN" in inside(k, "nslookup", f"no-such.{domain}")


def test_a_pod_asks_the_api_with_its_own_credentials(k: Server) -> None:
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    k.kubectl("create", "rolebinding", "reads", "--clusterrole=view", "--serviceaccount=net:default")
    host, port = inside(k, "sh", "-c", "echo $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT").split()
    assert host in inside(k, "nslookup", "kubernetes.default.svc.cluster.local")
    given = {
        "ca": inside(k, "cat", f"{where}/ca.crt"),
        "token": inside(k, "cat", f"{where}/token"),
        "url": f"https://{host}:{port}/api/v1/namespaces/net/pods",
    }
    found = k.machine.run([*network_of(k, "solo"), sys.executable, "-c", IN_CLUSTER], stdin=json.dumps(given))
    assert found == "PodList\n"
