"""What a pod needs next, as a table: spec, runtime state, probe results > actions."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.kubelet.plan import ProbeResults, compute_actions
from k3sd.kubelet.state import PodState, container_hash
from tests.unit.kubelet.kubelet_pods import container, pod, record, state

Obj = dict[str, Any]
SIDE = container("side", restartPolicy="Always")
INIT = [container("i1"), container("i2")]


def summary(spec: Obj, runtime: PodState, probes: ProbeResults | None = None) -> str:
    """``kill-pod sandbox0 kill:a init:i1 start:a,b`` with what does not apply left out."""
    actions = compute_actions(spec, runtime, probes or ProbeResults())
    parts = ["kill-pod"] if actions.kill_pod else []
    if actions.create_sandbox:
        parts.append(f"sandbox{actions.attempt}")
    for word, names in (
        ("kill", [k.record.name for k in actions.kills]),
        ("ephemeral", [c["name"] for c in actions.start_ephemeral]),
        ("init", [c["name"] for c in actions.start_init]),
        ("start", [c["name"] for c in actions.start]),
    ):
        if names:
            parts.append(f"{word}:{','.join(names)}")
    return " ".join(parts)


TWO = pod(container("a"), container("b"))
CASES = {
    "nothing yet": (TWO, state(sandbox=None), "sandbox0 start:a,b"),
    "all run": (TWO, state(record("a"), record("b")), ""),
    "one ended": (TWO, state(record("a"), record("b", "exited", 1)), "start:b"),
    "sandbox died": (TWO, state(record("a", "exited"), record("b"), sandbox=False), "kill-pod sandbox1 start:a,b"),
    "created is started anew": (TWO, state(record("a"), record("b", "created")), "start:b"),
    "unknown is killed first": (TWO, state(record("a"), record("b", "unknown")), "kill:b start:b"),
    "never, done": (pod(restartPolicy="Never"), state(record("a", "exited")), "kill-pod"),
    "never, sandbox gone": (pod(restartPolicy="Never"), state(record("a", "exited"), sandbox=False), "kill-pod"),
    "on failure, failed": (pod(restartPolicy="OnFailure"), state(record("a", "exited", 2)), "start:a"),
    "on failure, succeeded": (pod(restartPolicy="OnFailure"), state(record("a", "exited")), "kill-pod"),
    "on failure, one done, sandbox gone": (
        pod(container("a"), container("b"), restartPolicy="OnFailure"),
        state(record("a", "exited"), record("b", "exited", 1), sandbox=False),
        "kill-pod sandbox1 start:b",
    ),
    "first init": (pod(init=INIT), state(), "init:i1"),
    "init with new sandbox": (pod(init=INIT), state(sandbox=None), "sandbox0 init:i1"),
    "init runs": (pod(init=INIT), state(record("i1")), ""),
    "next init": (pod(init=INIT), state(record("i1", "exited")), "init:i2"),
    "init failed": (pod(init=INIT), state(record("i1", "exited", 1)), "init:i1"),
    "init failed, never": (pod(init=INIT, restartPolicy="Never"), state(record("i1", "exited", 1)), "kill-pod"),
    "inits done": (pod(init=INIT), state(record("i1", "exited"), record("i2", "exited")), "start:a"),
    "earlier init forgotten": (pod(init=INIT), state(record("i2", "exited")), "start:a"),
    "app runs, inits forgotten": (pod(init=INIT), state(record("a")), ""),
    "sidecar first": (pod(init=[SIDE, *INIT]), state(), "init:side"),
    "sidecar started": (pod(init=[SIDE, *INIT]), state(record("side")), "init:i1"),
    "sidecar last": (pod(init=[SIDE]), state(record("side")), "start:a"),
    "sidecar ended": (pod(init=[SIDE]), state(record("side", "exited"), record("a")), "init:side"),
    "sidecar does not keep a pod": (
        pod(init=[SIDE], restartPolicy="Never"),
        state(record("side"), record("a", "exited")),
        "kill-pod",
    ),
    "sidecar waits for its startup probe": (
        pod(init=[{**SIDE, "startupProbe": {"exec": {}}}]),
        state(record("side")),
        "",
    ),
    "ephemeral": (pod(ephemeralContainers=[container("e")]), state(record("a")), "ephemeral:e"),
    "ephemeral is not restarted": (pod(ephemeralContainers=[container("e")]), state(record("a"), record("e", "exited")), ""),
    "own rule": (
        pod(
            container("a", restartPolicyRules=[{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]),
            restartPolicy="Never",
        ),
        state(record("a", "exited", 42)),
        "start:a",
    ),
}


@pytest.mark.parametrize(("spec", "runtime", "expected"), CASES.values(), ids=CASES.keys())
def test_actions(spec: Obj, runtime: PodState, expected: str) -> None:
    assert summary(spec, runtime) == expected


@pytest.mark.parametrize("kind", ["liveness", "startup"])
def test_failed_probe_restarts(kind: str) -> None:
    probes = ProbeResults(**{kind: {"a-0": "failure"}})
    assert summary(pod(), state(record("a")), probes) == "kill:a start:a"
    (kill,) = compute_actions(pod(), state(record("a")), probes).kills
    assert (kill.message, kill.reason) == (f"Container a failed {kind} probe, will be restarted", kind)


def test_failed_probe_of_a_pod_that_never_restarts() -> None:
    probes = ProbeResults(liveness={"a-0": "failure"})
    actions = compute_actions(pod(restartPolicy="Never"), state(record("a")), probes)
    assert ([k.message for k in actions.kills], actions.start) == (["Container a failed liveness probe"], [])


def test_changed_image_restarts() -> None:
    changed = pod(container("a", image="img:2"), restartPolicy="Never")
    (kill,) = compute_actions(changed, state(record("a")), ProbeResults()).kills
    assert kill.message == "Container a definition changed, will be restarted"


def test_deleted_pod_starts_nothing() -> None:
    deleted = pod()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert compute_actions(deleted, state(record("a", "exited", 1)), ProbeResults()).start == []


def test_hash_is_upstreams() -> None:
    """Expected value: upstream's TestHashContainer."""
    assert container_hash({"name": "test_container", "image": "foo/image:v1"}) == "8e45cbd0"
