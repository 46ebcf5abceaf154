"""The kubelet against a real containerd and an in-memory API: what pods go through from creation to deletion."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apis import resources
from k3sd.config.paths import Paths
from k3sd.config.settings import Settings
from k3sd.kubelet.imageimport import ImageImporter
from k3sd.kubelet.kubelet import Kubelet
from k3sd.kubelet.layout import Layout
from k3sd.kubelet.ociarchive import File, build_archive
from k3sd.lib.inotify import DirectoryEvents
from tests.component.kubelet.conftest import BUSYBOX_IMAGE, Runtime
from tests.fakes.podapi import FakeAPI, eventually

pytestmark = pytest.mark.root
Obj = dict[str, Any]


def make_pod(name: str, *commands: str, **spec: Any) -> Obj:
    """One busybox container a command (shell text), called c0, c1, ..."""
    containers = [
        {
            "name": f"c{i}",
            "image": BUSYBOX_IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", text],
        }
        for i, text in enumerate(commands)
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "node1",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": containers,
            **spec,
        },
    }
    apply_defaults(pod, resources.PODS)
    return pod


class Node:
    """A running kubelet, its API, and ways to wait for what the API shows."""

    def __init__(self, api: FakeAPI, kubelet: Kubelet, layout: Layout) -> None:
        self.api = api
        self.kubelet = kubelet
        self.layout = layout

    async def run(self, pod: Obj) -> Obj:
        return await self.api.create(resources.PODS, pod, "default")

    def get(self, name: str) -> Obj | None:
        return self.api.objects.get(resources.PODS, {}).get(("default", name))

    async def wait(self, name: str, check: Callable[[Obj], Any], seconds: float = 20) -> Obj:
        pod: Obj = await self.api.wait_for(resources.PODS, "default", name, check, seconds)
        return pod

    async def wait_gone(self, name: str, seconds: float = 20) -> None:
        await self.api.wait_for(resources.PODS, "default", name, None, seconds)

    async def delete(self, name: str) -> None:
        await self.api.delete(resources.PODS, name, "default")

    def reasons(self, name: str) -> list[str]:
        events = self.api.objects.get(resources.EVENTS, {}).values()
        found = [e for e in events if e["involvedObject"]["name"] == name]
        return [e["reason"] for e in sorted(found, key=lambda e: int(e["metadata"]["resourceVersion"]))]


@pytest.fixture
async def node(node_settings: Settings, tmp_path: Path) -> AsyncIterator[Node]:
    api = FakeAPI()
    layout = Layout(tmp_path / "kubelet", tmp_path / "pods", tmp_path / "containers")
    kubelet = Kubelet(node_settings, api, layout=layout)
    await kubelet.start()
    await asyncio.wait_for(kubelet.wait_ready(), 10)
    node = Node(api, kubelet, layout)
    try:
        yield node
    finally:
        for pod in api.all(resources.PODS):
            await api.remove(resources.PODS, pod)
        await eventually(lambda: not node.kubelet.workers.pods(), 30)
        await node.kubelet.stop()


def phase(wanted: str) -> Callable[[Obj], bool]:
    return lambda pod: pod.get("status", {}).get("phase") == wanted


def ready(pod: Obj) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def state(pod: Obj, index: int = 0, key: str = "containerStatuses") -> Obj:
    return pod["status"][key][index]


def waiting(pod: Obj) -> Obj:
    """Why the first container waits; empty when it does not, or nothing is known yet."""
    found: Obj = (pod["status"].get("containerStatuses") or [{"state": {}}])[0]["state"].get("waiting") or {}
    return found


async def test_pod_runs_and_is_deleted(node: Node) -> None:
    await node.run(make_pod("plain", "echo hello; sleep 1000"))
    pod = await node.wait("plain", ready)
    status = pod["status"]
    assert status["phase"] == "Running"
    assert status["podIP"].startswith("10.234.")
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert (status["hostIP"], status["qosClass"]) == ("127.0.0.1", "BestEffort")
    assert status["startTime"] and status["observedGeneration"] == 1
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    container = state(pod)
    assert container["containerID"].startswith("containerd://")
    assert container["image"] == BUSYBOX_IMAGE
    assert (container["ready"], container["started"], container["restartCount"]) == (True, True, 0)
    logs = node.layout.log_dir(pod) / "c0" / "0.log"
    async with asyncio.timeout(10):
        # Ready without a probe is running; what the process says comes after.
        while not logs.read_text().endswith("stdout F hello\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    (link,) = node.layout.container_logs.glob("plain_default_c0-*.log")
    assert link.resolve() == logs.resolve()
    await node.delete("plain")
    await node.wait_gone("plain")
    await node.kubelet.recorder.flush()
    assert node.reasons("plain") == ["Pulled", "Created", "Started", "Killing"]
    pulled = f'Container image "{BUSYBOX_IMAGE}" already present on machine and can be accessed by the pod'
    assert [e["message"] for e in node.api.objects[resources.EVENTS].values() if e["reason"] == "Pulled"] == [pulled]
    await eventually(lambda: not node.kubelet.workers.pods())
    assert not logs.exists() and not link.is_symlink()
    assert not node.layout.pod_dir(pod["metadata"]["uid"]).exists()
    assert [s for s in await node.kubelet.cri.list_pod_sandbox() if s.metadata.name == "plain"] == []


async def test_pod_completes(node: Node) -> None:
    await node.run(make_pod("done", "echo -n bye > /dev/termination-log", "exit 0", restartPolicy="Never"))
    pod = await node.wait("done", phase("Succeeded"))
    ended = state(pod)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"], ended["message"]) == ("Completed", 0, "bye")
    assert {c["type"]: c.get("reason") for c in pod["status"]["conditions"]}["Ready"] == "PodCompleted"


async def test_pod_fails_and_its_log_is_the_message(node: Node) -> None:
    spec = make_pod("fail", "echo why; exit 3", restartPolicy="Never")
    spec["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    await node.run(spec)
    pod = await node.wait("fail", phase("Failed"))
    ended = state(pod)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"], ended["message"]) == ("Error", 3, "why\n")


async def test_container_restarts_with_backoff(node: Node) -> None:
    await node.run(make_pod("crash", "exit 1"))
    pod = await node.wait("crash", lambda p: waiting(p).get("reason") == "CrashLoopBackOff")
    container = state(pod)
    uid = pod["metadata"]["uid"]
    assert container["state"]["waiting"]["message"] == f"back-off 10s restarting failed container=c0 pod=crash_default({uid})"
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"]["exitCode"] == 1
    assert pod["status"]["phase"] == "Running"


async def test_init_containers_run_in_order(node: Node) -> None:
    spec = make_pod("init", "sleep 1000")
    base = spec["spec"]["containers"][0]
    spec["spec"]["initContainers"] = [
        {**base, "name": "first", "command": ["sh", "-c", "exit 0"]},
        {**base, "name": "side", "restartPolicy": "Always"},
        {**base, "name": "second", "command": ["sh", "-c", "exit 0"]},
    ]
    await node.run(spec)
    pod = await node.wait("init", ready)
    first, side, second = pod["status"]["initContainerStatuses"]
    assert first["state"]["terminated"]["finishedAt"] <= second["state"]["terminated"]["finishedAt"]
    assert (first["ready"], second["ready"]) == (True, True)
    assert "running" in side["state"] and side["started"]
    await node.delete("init")
    await node.wait_gone("init")


async def test_failing_init_container_keeps_the_pod_waiting(node: Node) -> None:
    spec = make_pod("badinit", "sleep 1000")
    spec["spec"]["initContainers"] = [{**spec["spec"]["containers"][0], "name": "bad", "command": ["false"]}]
    await node.run(spec)
    pod = await node.wait("badinit", lambda p: p["status"].get("initContainerStatuses", [{}])[0].get("restartCount") == 1)
    conditions = {c["type"]: c for c in pod["status"]["conditions"]}
    assert conditions["Initialized"]["message"] == "containers with incomplete status: [bad]"
    assert state(pod)["state"]["waiting"]["reason"] == "PodInitializing"
    assert pod["status"]["phase"] == "Pending"


async def test_missing_image_is_not_pulled(node: Node) -> None:
    spec = make_pod("noimage", "true")
    spec["spec"]["containers"][0].update(image="localhost:1/none:1", imagePullPolicy="Never")
    await node.run(spec)
    pod = await node.wait("noimage", lambda p: waiting(p).get("reason") not in (None, "ContainerCreating"))
    assert state(pod)["state"]["waiting"] == {
        "reason": "ErrImageNeverPull",
        "message": 'Container image "localhost:1/none:1" is not present with pull policy of Never',
    }
    await node.kubelet.recorder.flush()
    messages = [e["message"] for e in node.api.objects[resources.EVENTS].values() if e["reason"] == "Failed"]
    assert messages == ["Error: ErrImageNeverPull"]


async def test_a_name_that_is_none_is_not_looked_for(node: Node) -> None:
    spec = make_pod("badname", "true")
    spec["spec"]["containers"][0].update(image="UPPER/Bad")
    await node.run(spec)
    pod = await node.wait("badname", lambda p: waiting(p).get("reason") not in (None, "ContainerCreating"))
    text = (
        'Failed to apply default image tag "UPPER/Bad": couldn\'t parse image name "UPPER/Bad": '
        "invalid reference format: repository name (Bad) must be lowercase"
    )
    assert state(pod)["state"]["waiting"] == {"reason": "InvalidImageName", "message": text}
    await node.kubelet.recorder.flush()
    found = {e["reason"]: e["message"] for e in node.api.objects[resources.EVENTS].values()}
    assert (found["InspectFailed"], found["Failed"]) == (text, "Error: InvalidImageName")


async def test_a_command_that_does_not_exist_never_started(node: Node) -> None:
    spec = make_pod("nocommand", "", restartPolicy="Never")
    spec["spec"]["containers"][0].update(command=["/no/such"])
    await node.run(spec)
    pod = await node.wait("nocommand", phase("Failed"))
    ended = state(pod)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"], ended["startedAt"]) == ("StartError", 128, "1970-01-01T00:00:00Z")
    assert '"/no/such"' in ended["message"] and ended["finishedAt"] > "2020"


async def test_deadline_ends_the_pod(node: Node) -> None:
    await node.run(make_pod("deadline", "sleep 1000", activeDeadlineSeconds=1))
    pod = await node.wait("deadline", phase("Failed"))
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert "terminated" in state(pod)["state"]


async def test_running_pods_are_taken_over(node: Node) -> None:
    await node.run(make_pod("stay", "sleep 1000"))
    await node.run(make_pod("leave", "sleep 1000"))
    before = await node.wait("stay", ready)
    gone = await node.wait("leave", ready)
    await node.kubelet.stop()
    await node.api.remove(resources.PODS, gone)
    kubelet = Kubelet(node.kubelet._settings, node.api, layout=node.layout)
    await kubelet.start()
    node.kubelet = kubelet

    async def is_gone() -> bool:
        sandboxes = await kubelet.cri.list_pod_sandbox()
        # The directory goes after the sandbox that uses it.
        return all(s.metadata.name != "leave" for s in sandboxes) and not node.layout.pod_dir(gone["metadata"]["uid"]).exists()

    await eventually(is_gone)
    after = node.get("stay")
    assert after is not None
    assert state(after)["containerID"] == state(before)["containerID"]
    assert state(after)["restartCount"] == 0 and ready(after)


async def test_hooks_and_liveness(node: Node) -> None:
    spec = make_pod("hooks", "while [ ! -e /tmp/stop ]; do sleep 0.1; done; echo stopped; sleep 1000")
    container = spec["spec"]["containers"][0]
    container["lifecycle"] = {
        "postStart": {"exec": {"command": ["touch", "/tmp/started"]}},
        "preStop": {"exec": {"command": ["touch", "/tmp/stop"]}},
    }
    container["livenessProbe"] = {
        "exec": {"command": ["test", "-e", "/tmp/started"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    spec["spec"]["terminationGracePeriodSeconds"] = 3
    apply_defaults(spec, resources.PODS)
    await node.run(spec)
    pod = await node.wait("hooks", ready)
    answer = await node.kubelet.cri.exec_sync(state(pod)["containerID"].removeprefix("containerd://"), ["rm", "/tmp/started"])
    assert answer.exit_code == 0
    pod = await node.wait("hooks", lambda p: state(p)["restartCount"] == 1 and "running" in state(p)["state"])
    ended = state(pod)["lastState"]["terminated"]
    assert ended["exitCode"] == 137
    assert "stopped" in (node.layout.log_dir(pod) / "c0" / "0.log").read_text()


async def test_static_pod_has_a_mirror(node: Node) -> None:
    spec = make_pod("static", "sleep 1000")
    del spec["spec"]["nodeName"]
    manifest = node.kubelet._settings.paths.pod_manifests / "static.yaml"
    manifest.write_text(json.dumps(spec))
    try:
        pod = await node.wait("static-node1", ready)
        assert pod["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    finally:
        manifest.unlink()
    await node.wait_gone("static-node1")


async def test_resources_reach_the_cgroup(node: Node) -> None:
    spec = make_pod("limits", "sleep 1000")
    spec["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "200m", "memory": "64Mi"},
    }
    await node.run(spec)
    pod = await node.wait("limits", ready)
    assert state(pod)["allocatedResources"] == {"cpu": "100m", "memory": "64Mi"}
    id_ = state(pod)["containerID"].removeprefix("containerd://")
    verbose = json.loads((await node.kubelet.cri.container_status(id_, verbose=True)).info["info"])
    limits = verbose["runtimeSpec"]["linux"]["resources"]
    assert limits["memory"]["limit"] == 64 << 20
    assert (limits["cpu"]["shares"], limits["cpu"]["quota"]) == (102, 20000)
    await node.api.patch(
        resources.PODS,
        "limits",
        {
            "spec": {
                "containers": [
                    {
                        **spec["spec"]["containers"][0],
                        "resources": {
                            "requests": {"cpu": "200m", "memory": "64Mi"},
                            "limits": {"cpu": "300m", "memory": "64Mi"},
                        },
                    }
                ]
            }
        },
        "default",
    )
    pod = await node.wait("limits", lambda p: state(p).get("resources", {}).get("limits", {}).get("cpu") == "300m")
    assert state(pod)["restartCount"] == 0
    verbose = json.loads((await node.kubelet.cri.container_status(id_, verbose=True)).info["info"])


async def test_too_large_a_resize_is_refused_and_changes_nothing(node: Node) -> None:
    spec = make_pod("toolarge", "sleep 1000")
    spec["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "50m"}}
    await node.run(spec)
    pod = await node.wait("toolarge", ready)
    bigger = {**pod["spec"]["containers"][0], "resources": {"requests": {"cpu": "5000"}}}
    await node.api.patch(resources.PODS, "toolarge", {"spec": {"containers": [bigger]}}, "default")
    pod = await node.wait("toolarge", lambda p: any(c["type"] == "PodResizePending" for c in p["status"]["conditions"]))
    (pending,) = [c for c in pod["status"]["conditions"] if c["type"] == "PodResizePending"]
    assert pending["reason"] == "Infeasible"
    assert state(pod)["allocatedResources"] == state(pod)["resources"]["requests"] == {"cpu": "50m"}
    # What was refused is not held against others, nor against their resizes.
    (holder,) = node.kubelet.workers.admitted()
    assert holder["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "50m"}
    smaller = {**bigger, "resources": {"requests": {"cpu": "60m"}}}
    await node.api.patch(resources.PODS, "toolarge", {"spec": {"containers": [smaller]}}, "default")
    pod = await node.wait("toolarge", lambda p: state(p)["resources"]["requests"] == {"cpu": "60m"})
    assert not any(c["type"] == "PodResizePending" for c in pod["status"]["conditions"])
    assert state(pod)["restartCount"] == 0


async def test_a_resize_that_restarts_gets_its_room(node: Node) -> None:
    """The pod's own limit is lifted before the container starts again: a child may not have more than its parent."""
    spec = make_pod("restarts", "sleep 1000")
    (container,) = spec["spec"]["containers"]
    container["resources"] = {"requests": {"cpu": "50m"}, "limits": {"cpu": "50m", "memory": "64Mi"}}
    container["resizePolicy"] = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    await node.run(spec)
    await node.wait("restarts", ready)
    seen: list[set[str]] = []

    def restarted(pod: Obj) -> bool:
        seen.append({c["type"] for c in pod["status"]["conditions"] if c["status"] == "True"})
        return state(pod)["restartCount"] == 1 and ready(pod)

    bigger = {**container, "resources": {"requests": {"cpu": "90m"}, "limits": {"cpu": "150m", "memory": "96Mi"}}}
    await node.api.patch(resources.PODS, "restarts", {"spec": {"containers": [bigger]}}, "default")
    pod = await node.wait("restarts", restarted)
    assert any("PodResizeInProgress" in types for types in seen)
    assert "PodResizeInProgress" not in seen[-1]
    assert state(pod)["resources"]["limits"] == {"cpu": "150m", "memory": "96Mi"}
    reasons = node.reasons("restarts")
    assert reasons.index("ResizeStarted") < reasons.index("Killing") < reasons.index("ResizeCompleted")
    again = {**bigger, "resources": {"requests": {"cpu": "60m"}, "limits": {"cpu": "60m", "memory": "96Mi"}}}
    await node.api.patch(resources.PODS, "restarts", {"spec": {"containers": [again]}}, "default")
    await node.wait("restarts", lambda p: state(p)["restartCount"] == 2 and ready(p))
    # A restart for other resources is no crash: nothing was waited for.
    assert "BackOff" not in node.reasons("restarts")


async def test_dead_sandbox_is_replaced(node: Node) -> None:
    await node.run(make_pod("sandbox", "sleep 1000"))
    pod = await node.wait("sandbox", ready)
    sandbox = node.kubelet.sandbox_id(pod["metadata"]["uid"])
    assert sandbox is not None
    info = json.loads((await node.kubelet.cri.pod_sandbox_status(sandbox, verbose=True)).info["info"])
    os.kill(info["pid"], signal.SIGKILL)
    pod = await node.wait("sandbox", lambda p: ready(p) and state(p)["restartCount"] == 1)
    assert node.kubelet.sandbox_id(pod["metadata"]["uid"]) not in (None, sandbox)
    await node.kubelet.recorder.flush()
    assert "SandboxChanged" in node.reasons("sandbox")


async def test_containerd_may_restart(node: Node, runtime: Runtime) -> None:
    await node.run(make_pod("survivor", "sleep 1000"))
    before = await node.wait("survivor", ready)
    runtime.containerd.stop()
    await node.run(make_pod("late", "sleep 1000"))
    runtime.containerd.start()
    await node.wait("late", ready)
    after = node.get("survivor")
    assert after is not None and ready(after)
    assert state(after)["containerID"] == state(before)["containerID"]
    await node.delete("survivor")
    await node.wait_gone("survivor")


async def test_sidecars_end_last(node: Node) -> None:
    say = "trap 'echo end; exit 0' TERM; echo begin; while :; do sleep 0.05; done"
    spec = make_pod("order", say, terminationGracePeriodSeconds=10)
    base = spec["spec"]["containers"][0]
    spec["spec"]["initContainers"] = [{**base, "name": n, "restartPolicy": "Always"} for n in ("side1", "side2")]
    await node.run(spec)
    pod = await node.wait("order", ready)
    logs = {name: node.layout.log_dir(pod) / name / "0.log" for name in ("c0", "side2", "side1")}

    def lines(name: str, word: str) -> list[str]:
        return [line for line in logs[name].read_text().splitlines() if line.endswith(word)]

    await eventually(lambda: all(lines(name, "begin") for name in logs))
    await node.delete("order")
    await eventually(lambda: all(lines(name, "end") for name in logs))
    stamps = [lines(name, "end")[0].split()[0] for name in logs]
    assert stamps == sorted(stamps)
    await node.wait_gone("order")


async def test_force_deletion_does_not_wait(node: Node) -> None:
    await node.run(make_pod("stubborn", "trap '' TERM; while :; do sleep 1; done", terminationGracePeriodSeconds=60))
    pod = await node.wait("stubborn", ready)
    await node.delete("stubborn")
    await node.wait("stubborn", lambda p: p["metadata"].get("deletionTimestamp"))
    assert [p["metadata"]["name"] for p in node.kubelet.workers.admitted()] == ["stubborn"]
    started = time.monotonic()
    await node.api.remove(resources.PODS, pod)
    # Its place is free for the next pod at once, though it is still ending.
    await eventually(lambda: not node.kubelet.workers.admitted())
    assert node.kubelet.workers.pods()
    await eventually(lambda: not node.kubelet.workers.pods())
    assert time.monotonic() - started < 10


async def test_node_object(node: Node) -> None:
    (obj,) = node.api.all(resources.NODES)
    status = obj["status"]
    assert obj["spec"]["providerID"] == "k3s://node1"
    assert obj["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "k3s"
    assert obj["metadata"]["annotations"]["k3s.io/internal-ip"] == "127.0.0.1"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert {"cpu", "memory", "ephemeral-storage", "pods"} <= status["capacity"].keys()
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert status["addresses"] == [
        {"type": "InternalIP", "address": "127.0.0.1"},
        {"type": "Hostname", "address": "node1"},
    ]
    assert any(BUSYBOX_IMAGE in image["names"] for image in status["images"])
    await node.api.wait_for(resources.LEASES, "kube-node-lease", "node1", lambda o: o["spec"]["holderIdentity"] == "node1", 10)


async def test_images_that_come_and_go_are_shown(node: Node) -> None:
    name = "docker.io/library/k3sd-test-late:1"
    importer = ImageImporter(node.kubelet.cri, "overlayfs", Paths(node.layout.root), DirectoryEvents())
    images = Paths(node.layout.root).images
    images.mkdir(parents=True)

    def is_shown(obj: Obj) -> bool:
        return any(name in image["names"] for image in obj["status"]["images"])

    (images / "late.tar").write_bytes(build_archive(name, {"file": File(b"late")}, {"Cmd": ["/file"]}))
    await importer.import_directory()
    node.kubelet.node_status.check_now()
    await node.api.wait_for(resources.NODES, "", "node1", is_shown, 20)
    await node.kubelet.cri.remove_image(name)
    node.kubelet.node_status.check_now()
    await node.api.wait_for(resources.NODES, "", "node1", lambda o: not is_shown(o), 20)


async def test_resources_of_others_become_allocatable(node: Node) -> None:
    patch = {"status": {"capacity": {"example.com/foo": "3"}}}
    await node.api.patch(resources.NODES, "node1", patch, subresource="status")
    node.kubelet.node_status.check_now()
    obj = await node.api.wait_for(
        resources.NODES, "", "node1", lambda o: o["status"]["allocatable"].get("example.com/foo") == "3", 20
    )
    assert obj["status"]["capacity"]["example.com/foo"] == "3"


async def test_deleted_node_registers_again(node: Node) -> None:
    (before,) = node.api.all(resources.NODES)
    await node.api.remove(resources.NODES, before)

    def is_back(obj: Obj) -> bool:
        conditions = obj.get("status", {}).get("conditions", ())
        return obj["metadata"]["uid"] != before["metadata"]["uid"] and any(
            c["type"] == "Ready" and c["status"] == "True" for c in conditions
        )

    await node.api.wait_for(resources.NODES, "", "node1", is_back, 20)


async def test_thirty_pods_start_quickly(node: Node) -> None:
    started = time.monotonic()
    for index in range(30):
        await node.run(make_pod(f"many{index}", "sleep 1000"))
    for index in range(30):
        await node.wait(f"many{index}", ready, 60)
    took = time.monotonic() - started
    print(f"30 pods in {took:.2f} s")
    assert took < 30
