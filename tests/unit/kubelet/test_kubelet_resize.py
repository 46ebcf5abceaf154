"""How a change of resources is granted and shown, without a runtime."""

import json
from typing import Any

import pytest

from k3sd.kubelet.cgroups import Limits, pod_limits
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.resize import Resizer
from k3sd.kubelet.status import StatusInput, Verdict, compute_status
from tests.unit.kubelet.kubelet_pods import Obj, container, pod, record, state


def asking(cpu: str, generation: int, **fields: Any) -> Obj:
    out = pod(container("a", resources={"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi", "cpu": cpu}}, **fields))
    out["metadata"]["generation"] = generation
    return out


def granted(_pod: Obj) -> None:
    return None


def conditions(resizer: Resizer) -> list[tuple[str, str, int]]:
    return [(c["type"], c.get("reason", ""), c["observedGeneration"]) for c in resizer.conditions()]


@pytest.fixture
def resizer() -> Resizer:
    out = Resizer(asking("1", 1))
    out.started("a-0", asking("1", 1)["spec"]["containers"][0])
    assert out.allocate(asking("1", 1), state(record("a")), granted) == []
    return out


def test_a_resize_is_in_progress_from_its_generation_on_until_it_is_in_force(resizer: Resizer) -> None:
    new, running = asking("2", 2), state(record("a"))
    (note,) = resizer.allocate(new, running, granted)
    assert (note.type, note.reason) == ("Normal", "ResizeStarted")
    prefix, _, summary = note.message.partition(": ")
    assert prefix == "Pod resize started"
    assert summary == (
        '{"containers":[{"name":"a","resources":{"limits":{"memory":"1Gi"},"requests":{"cpu":"2","memory":"1Gi"}}}],"generation":2}'
    )
    assert resizer.allocate(new, running, granted) == []
    shown = compute_status(
        new,
        running,
        StatusInput(
            {},
            resources=resizer.in_force,
            allocated=resizer.allocated,
            resize_conditions=resizer.conditions(),
            now="2026-01-01",
        ),
    )
    assert shown["observedGeneration"] == 2
    assert [c["status"] for c in shown["conditions"] if c["type"] == "PodResizeInProgress"] == ["True"]
    (entry,) = shown["containerStatuses"]
    assert (entry["allocatedResources"]["cpu"], entry["resources"]["requests"]["cpu"]) == ("2", "1")

    resizer.in_force["a-0"] = new["spec"]["containers"][0]["resources"]
    (note,) = resizer.allocate(new, running, granted)
    assert (note.reason, note.message.partition(": ")[0]) == ("ResizeCompleted", "Pod resize completed")
    assert resizer.conditions() == []


def test_a_resize_that_restarts_is_in_progress_until_the_old_container_is_down(resizer: Resizer) -> None:
    new = asking("2", 2, resizePolicy=[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])
    running = state(record("a"))
    resizer.allocate(new, running, granted)
    assert [r.id for r in resizer.restarts(new, running)] == ["a-0"]
    assert conditions(resizer) == [("PodResizeInProgress", "", 2)]
    down = state(record("a", "exited"))
    assert [n.reason for n in resizer.allocate(new, down, granted)] == ["ResizeCompleted"]
    assert resizer.conditions() == []


def test_a_container_started_before_a_change_has_the_old_resources(resizer: Resizer) -> None:
    resizer.started("a-1", asking("1", 1)["spec"]["containers"][0])
    new, running = asking("2", 2), state(record("a", "exited"), record("a", n=1))
    assert [n.reason for n in resizer.allocate(new, running, granted)] == ["ResizeStarted"]
    assert resizer.in_force["a-1"]["requests"]["cpu"] == "1"


def test_what_is_not_granted_is_pending_and_nothing_is_in_progress(resizer: Resizer) -> None:
    running = state(record("a"))
    refused = Verdict("Infeasible", "Node didn't have enough capacity: cpu, requested: 9000, capacity: 4000")
    (note,) = resizer.allocate(asking("9", 2), running, lambda _pod: refused)
    assert (note.type, note.reason) == ("Warning", "ResizeInfeasible")
    prefix, _, summary = note.message.partition(": ")
    assert (prefix, json.loads(summary)["error"]) == ("Pod resize Infeasible", refused.message)
    assert resizer.allocate(asking("9", 2), running, lambda _pod: refused) == []
    assert conditions(resizer) == [("PodResizePending", "Infeasible", 2)]
    assert resizer.allocated["a"]["cpu"] == "1"
    # Taken back: it was never in progress, so nothing is completed.
    assert resizer.allocate(asking("1", 3), running, granted) == []
    assert resizer.conditions() == []


def test_while_a_change_waits_the_granted_resources_are_what_counts(resizer: Resizer) -> None:
    """A container that ends meanwhile starts with what was granted, not with what was refused."""
    running = state(record("a"))
    resizer.allocate(asking("2", 2), running, granted)
    deferred = Verdict("Deferred", "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000")
    resizer.allocate(asking("3", 3), running, lambda _pod: deferred)
    assert resizer.is_deferred
    assert conditions(resizer) == [("PodResizePending", "Deferred", 3), ("PodResizeInProgress", "", 2)]
    effective = resizer.effective(asking("3", 3))
    assert effective["spec"]["containers"][0]["resources"]["requests"]["cpu"] == resizer.allocated["a"]["cpu"] == "2"
    resizer.in_force["a-0"] = effective["spec"]["containers"][0]["resources"]
    assert [n.reason for n in resizer.allocate(asking("3", 3), running, lambda _pod: deferred)] == ["ResizeCompleted"]
    assert conditions(resizer) == [("PodResizePending", "Deferred", 3)]
    assert [n.reason for n in resizer.allocate(asking("3", 3), running, granted)] == ["ResizeStarted"]
    assert resizer.effective(new := asking("3", 3)) is new


def test_another_kubelets_containers_have_what_they_show() -> None:
    new = asking("2", 2)
    shown = asking("1", 1)["spec"]["containers"][0]["resources"]
    entry = {"name": "a", "containerID": "containerd://a-0", "state": {"running": {}}, "resources": shown}
    new["status"] = {"containerStatuses": [entry]}
    resizer = Resizer(new)
    assert [n.reason for n in resizer.allocate(new, state(record("a")), granted)] == ["ResizeStarted"]
    assert conditions(resizer) == [("PodResizeInProgress", "", 2)]


def test_what_was_granted_is_not_asked_again(resizer: Resizer) -> None:
    asked: list[Obj] = []
    for _ in range(3):
        resizer.allocate(asking("2", 2), state(record("a")), asked.append)
    assert len(asked) == 1


def test_a_failure_is_shown_until_another_change(resizer: Resizer) -> None:
    running = state(record("a"))
    resizer.allocate(asking("2", 2), running, granted)
    (note,) = resizer.failed(asking("2", 2), "too small")
    assert (note.type, note.reason, note.message.partition(": ")[0]) == ("Warning", "ResizeError", "Pod resize error")
    assert resizer.failed(asking("2", 2), "too small") == []
    (shown,) = resizer.conditions()
    assert (shown["reason"], shown["message"], shown["observedGeneration"]) == ("Error", "too small", 2)
    assert [n.reason for n in resizer.allocate(asking("3", 3), running, granted)] == ["ResizeStarted"]
    assert conditions(resizer) == [("PodResizeInProgress", "", 3)]


class FakeNode:
    """The runtime and the cgroups of the node: what was done, in order."""

    def __init__(self, used: int = 0) -> None:
        self.used = used
        self.done: list[Any] = []

    async def resize_container(self, pod: Obj, container: Obj, id_: str) -> None:
        self.done.append(id_)

    async def memory_usage(self, id_: str) -> int:
        return self.used

    def widen_pod(self, pod: Obj, limits: Limits) -> None:
        self.done.append(("widen", limits.memory))

    def update_pod(self, pod: Obj) -> None:
        self.done.append(("update", pod_limits(pod).memory))


def limited(memory: str, generation: int = 1) -> Obj:
    out = pod(container("a", resources={"limits": {"memory": memory}, "requests": {"memory": "1Mi"}}))
    out["metadata"]["generation"] = generation
    return out


async def limited_resizer(node: Any) -> Resizer:
    out = Resizer(limited("64Mi"))
    await out.widen(limited("64Mi"), node)
    out.started("a-0", limited("64Mi")["spec"]["containers"][0])
    assert not await out.run(limited("64Mi"), state(record("a")), node, node)
    assert node.done == []
    return out


@pytest.mark.parametrize("down", [record("a", "exited", 1), None])
async def test_the_pod_has_room_for_a_container_that_starts_with_more(down: Any) -> None:
    """Nothing runs whose resources could be changed: the restart, or the back-off, takes the new ones."""
    node: Any = FakeNode()
    resizer = await limited_resizer(node)
    new, now = limited("128Mi", 2), state(*([down] if down else []))
    resizer.allocate(new, now, granted)
    await resizer.widen(new, node)
    assert node.done == [("widen", 128 << 20)]
    node.done.clear()
    assert await resizer.run(new, now, node, node)
    assert node.done == [("widen", 128 << 20), ("update", 128 << 20)]
    node.done.clear()
    await resizer.widen(new, node)
    assert not await resizer.run(new, now, node, node)
    assert node.done == []


async def test_a_limit_below_what_is_in_use_changes_nothing() -> None:
    node: Any = FakeNode(used=9 << 20)
    resizer = await limited_resizer(node)
    running, new = state(record("a")), limited("8Mi", 2)
    resizer.allocate(new, running, granted)
    with pytest.raises(StartError) as raised:
        await resizer.run(new, running, node, node)
    text = 'attempting to set container "a" memory limit (8388608) below current usage (9437184)'
    assert (raised.value.message, node.done) == (text, [])
    node.used = 7 << 20
    assert await resizer.run(new, running, node, node)
    assert node.done == [("widen", 8 << 20), "a-0", ("update", 8 << 20)]
