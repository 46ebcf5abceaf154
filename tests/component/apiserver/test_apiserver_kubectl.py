"""The real kubectl, newest and Debian's own, against the server alone (no controllers)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from k3sd.apis import resources
from tests.support import kubectl
from tests.support.apiserver import TestServer, run_server

MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {app: x}}
data: {k: v}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: busybox, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec: {containers: [{name: c, image: busybox}]}
"""


@pytest.fixture(params=kubectl.find(), ids=kubectl.name)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(tmp_path: Path, store: str) -> AsyncIterator[TestServer]:
    async with run_server(tmp_path, store) as running:
        await running.registry.client().create(
            resources.SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": "default"}}
        )
        yield running


async def test_a_session(server: TestServer, program: str, tmp_path: Path) -> None:
    """apply, get, patch, scale, label, delete: the daily verbs, in the order somebody would use them."""

    async def kubectl(*args: str, stdin: str = "") -> str:
        _, out, _ = await server.kubectl(*args, stdin=stdin, program=program)
        return out

    manifest = tmp_path / "app.yaml"
    manifest.write_text(MANIFEST)
    out = await kubectl("apply", "-f", str(manifest))
    assert out.splitlines() == ["configmap/a created", "deployment.apps/web created", "service/web created", "pod/p created"]
    out = await kubectl("apply", "-f", str(manifest))
    assert all(line.endswith(" unchanged") for line in out.splitlines())
    out = await kubectl("get", "deployments,services,pods", "-o", "wide")
    assert "deployment.apps/web" in out
    assert "0/2" in out
    await kubectl("scale", "deployment", "web", "--replicas=5")
    await kubectl("set", "image", "deployment/web", "c=other")
    await kubectl("label", "configmap", "a", "z=1")
    await kubectl("annotate", "configmap", "a", "note=1")
    await kubectl("patch", "configmap", "a", "--type=merge", "-p", '{"data":{"m":"1"}}')
    deployment = json.loads(await kubectl("get", "deployment", "web", "-o", "json"))
    assert deployment["spec"]["replicas"] == 5
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "other"
    assert deployment["metadata"]["generation"] == 3
    configmap = json.loads(await kubectl("get", "cm", "a", "-o", "json"))
    assert configmap["data"] == {"k": "v", "m": "1"}
    assert configmap["metadata"]["labels"] == {"app": "x", "z": "1"}
    assert await kubectl("get", "pods", "-l", "app=web", "-o", "name") == "pod/p\n"
    out = await kubectl("create", "configmap", "b", "--from-literal=x=y")
    assert out == "configmap/b created\n"
    await kubectl("describe", "configmap", "b")
    await kubectl("delete", "-f", str(manifest), "--grace-period=0", "--force")
    assert await kubectl("get", "configmaps", "-o", "name") == "configmap/b\n"


async def test_explain_and_api_resources(server: TestServer, program: str) -> None:
    _, out, _ = await server.kubectl("explain", "pods.spec.containers.image", program=program)
    assert "image" in out
    _, out, _ = await server.kubectl("explain", "pods.spec.containers.securityContext.runAsNonRoot", program=program)
    assert "boolean" in out and "Refuse to run as root." in out
    _, out, _ = await server.kubectl("explain", "deployment.spec.template.spec.affinity", program=program)
    assert "Which pods it wants to be near." in out
    _, out, _ = await server.kubectl("api-resources", program=program)
    assert "deployments" in out
    _, out, _ = await server.kubectl("version", program=program)
    assert "v1.36.2" in out


async def test_watch_prints_changes(server: TestServer, program: str) -> None:
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        "configmaps",
        "-w",
        "--no-headers",
        env={"KUBECONFIG": str(server.kubeconfig), "HOME": str(server.folder)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        cache = server.registry.endpoint(resources.CONFIGMAPS).cache
        for _ in range(500):
            if cache.watchers:
                break
            await asyncio.sleep(0.02)
        await server.registry.client().create(
            resources.CONFIGMAPS, {"metadata": {"name": "seen", "namespace": "default"}, "data": {"a": "b"}}
        )
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        assert line.split()[:2] == [b"seen", b"1"]
    finally:
        process.kill()
        await process.wait()


async def test_wrong_input_is_refused(server: TestServer, program: str) -> None:
    code, _, err = await server.kubectl("get", "nonsense", program=program, check=False)
    assert code == 1
    assert "the server doesn't have a resource type" in err
    code, _, err = await server.kubectl(
        "create", "-f", "-", stdin=MANIFEST.replace("data: {k: v}", "datax: {k: v}"), program=program, check=False
    )
    assert code == 1
    if kubectl.version(program) >= kubectl.SERVER_CHECKS_FIELDS:
        assert 'strict decoding error: unknown field "datax"' in err
    else:
        assert 'ValidationError(ConfigMap): unknown field "datax" in io.k8s.api.core.v1.ConfigMap' in err
