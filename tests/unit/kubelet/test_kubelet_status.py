"""The status of a pod as a table of what is known of it."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.kubelet.plan import ProbeResults
from k3sd.kubelet.state import PodState
from k3sd.kubelet.status import StatusInput, Verdict, Waiting, compute_status, terminate_status
from tests.unit.kubelet.kubelet_pods import container, pod, record, state

Obj = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
SIDE = container("side", restartPolicy="Always")
INIT = [container("i1"), container("i2")]


def status_of(spec: Obj, runtime: PodState, **fields: Any) -> Obj:
    given = {"old": {}, "host_ips": ("192.0.2.1",), "now": NOW, **fields}
    return compute_status(spec, runtime, StatusInput(**given))


def condition(status: Obj, kind: str) -> Obj:
    return next(c for c in status["conditions"] if c["type"] == kind)


NEVER = pod(restartPolicy="Never")
ON_FAILURE = pod(restartPolicy="OnFailure")
PHASES = {
    "nothing": (pod(), state(sandbox=None), "Pending"),
    "running": (pod(), state(record("a")), "Running"),
    "one of two": (pod(container("a"), container("b")), state(record("a")), "Pending"),
    "one ended": (pod(container("a"), container("b")), state(record("a"), record("b", "exited", 1)), "Running"),
    "always, ended": (pod(), state(record("a", "exited")), "Running"),
    "never, succeeded": (NEVER, state(record("a", "exited")), "Succeeded"),
    "never, failed": (NEVER, state(record("a", "exited", 1)), "Failed"),
    "never, one runs on": (
        pod(container("a"), container("b"), restartPolicy="Never"),
        state(record("a", "exited", 1), record("b")),
        "Running",
    ),
    "on failure, failed": (ON_FAILURE, state(record("a", "exited", 1)), "Running"),
    "on failure, succeeded": (ON_FAILURE, state(record("a", "exited")), "Succeeded"),
    "init runs": (pod(init=INIT), state(record("i1")), "Pending"),
    "init failed, never": (pod(init=INIT, restartPolicy="Never"), state(record("i1", "exited", 1)), "Failed"),
    "init failed, always": (pod(init=INIT), state(record("i1", "exited", 1)), "Pending"),
    "inits done": (pod(init=INIT), state(record("i1", "exited"), record("i2", "exited"), record("a")), "Running"),
    "sidecar and app": (pod(init=[SIDE]), state(record("side"), record("a")), "Running"),
    "sidecar only": (pod(init=[SIDE]), state(record("side")), "Pending"),
}


@pytest.mark.parametrize(("spec", "runtime", "phase"), PHASES.values(), ids=PHASES.keys())
def test_phase(spec: Obj, runtime: PodState, phase: str) -> None:
    assert status_of(spec, runtime)["phase"] == phase


def test_new_pod() -> None:
    status = status_of(pod(), state(sandbox=None))
    assert status == {
        "phase": "Pending",
        "qosClass": "BestEffort",
        "observedGeneration": 1,
        "startTime": NOW,
        "hostIP": "192.0.2.1",
        "hostIPs": [{"ip": "192.0.2.1"}],
        "containerStatuses": [
            {
                "name": "a",
                "image": "img:1",
                "imageID": "",
                "restartCount": 0,
                "ready": False,
                "started": False,
                "state": {"waiting": {"reason": "ContainerCreating"}},
                "lastState": {},
            }
        ],
        "conditions": status["conditions"],
    }
    assert {c["type"]: (c["status"], c.get("reason"), c.get("message")) for c in status["conditions"]} == {
        "PodReadyToStartContainers": ("False", None, None),
        "Initialized": ("True", None, None),
        "Ready": ("False", "ContainersNotReady", "containers with unready status: [a]"),
        "ContainersReady": ("False", "ContainersNotReady", "containers with unready status: [a]"),
        "PodScheduled": ("True", None, None),
    }


def test_running_container() -> None:
    status = status_of(pod(container("a", resources={"requests": {"cpu": "1"}})), state(record("a")))
    assert (status["podIP"], status["podIPs"]) == ("10.42.0.5", [{"ip": "10.42.0.5"}])
    assert status["containerStatuses"] == [
        {
            "name": "a",
            "image": "docker.io/library/img:1",
            "imageID": "sha256:1",
            "containerID": "containerd://a-0",
            "restartCount": 0,
            "ready": True,
            "started": True,
            "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}},
            "lastState": {},
            "resources": {"requests": {"cpu": "1"}},
            "allocatedResources": {"cpu": "1"},
        }
    ]
    assert condition(status, "Ready")["status"] == "True"


def test_restarted_container_has_its_last_state() -> None:
    status = status_of(pod(), state(record("a", "exited", 3), record("a", n=1)))
    (entry,) = status["containerStatuses"]
    assert entry["restartCount"] == 1
    assert entry["lastState"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "startedAt": "2023-11-14T22:13:20Z",
        "finishedAt": "2023-11-14T22:13:50Z",
        "containerID": "containerd://a-0",
    }


def test_crash_loop_waits_and_keeps_the_end() -> None:
    status = status_of(pod(), state(record("a", "exited", 1)), waiting={"a": Waiting("CrashLoopBackOff", "back-off 10s")})
    (entry,) = status["containerStatuses"]
    assert entry["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    assert entry["lastState"]["terminated"]["exitCode"] == 1
    assert status["phase"] == "Running"


def test_statuses_are_sorted_by_name_and_inits_by_spec() -> None:
    spec = pod(container("b"), container("a"), init=[container("z"), container("y")])
    status = status_of(spec, state())
    assert [s["name"] for s in status["containerStatuses"]] == ["a", "b"]
    assert [s["name"] for s in status["initContainerStatuses"]] == ["z", "y"]


def test_init_messages_are_upstreams() -> None:
    status = status_of(pod(init=INIT), state(record("i1")))
    initialized = condition(status, "Initialized")
    assert (initialized["reason"], initialized["message"]) == (
        "ContainersNotInitialized",
        "containers with incomplete status: [i1 i2]",
    )
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_forgotten_init_container_counts_as_done() -> None:
    status = status_of(pod(init=INIT), state(record("a")))
    assert {s["state"]["terminated"]["reason"] for s in status["initContainerStatuses"]} == {"Completed"}
    assert status["phase"] == "Running"


def test_probes_decide_started_and_ready() -> None:
    spec = pod(container("a", readinessProbe={"exec": {}}, startupProbe={"exec": {}}))
    runtime = state(record("a"))
    seen = []
    for probes in (
        ProbeResults(),
        ProbeResults(startup={"a-0": "success"}),
        ProbeResults(startup={"a-0": "success"}, readiness={"a-0": "success"}),
        ProbeResults(startup={"a-0": "failure"}, readiness={"a-0": "success"}),
    ):
        (entry,) = status_of(spec, runtime, probes=probes)["containerStatuses"]
        seen.append((entry["started"], entry["ready"]))
    assert seen == [(False, False), (True, False), (True, True), (False, False)]


def test_container_has_not_started_before_its_hook_ended() -> None:
    (entry,) = status_of(pod(), state(record("a")), starting="a")["containerStatuses"]
    assert ("running" in entry["state"], entry["started"], entry["ready"]) == (True, False, False)


def test_readiness_gates() -> None:
    spec = pod(readinessGates=[{"conditionType": "x/y"}])
    ready = condition(status_of(spec, state(record("a"))), "Ready")
    assert ready["reason"] == "ReadinessGatesNotReady"
    assert ready["message"] == 'corresponding condition of pod readiness gate "x/y" does not exist.'
    spec["status"]["conditions"] = [{"type": "x/y", "status": "False"}]
    ready = condition(status_of(spec, state(record("a"))), "Ready")
    assert ready["message"] == 'the status of pod readiness gate "x/y" is not "True", but False'
    spec["status"]["conditions"] = [{"type": "x/y", "status": "True"}]
    assert condition(status_of(spec, state(record("a"))), "Ready")["status"] == "True"


def test_transition_times_stay_while_the_status_does() -> None:
    old = status_of(pod(), state())
    new = compute_status(pod(), state(record("a")), StatusInput(old=old, now="2026-01-01T00:00:09Z"))
    assert condition(new, "Ready")["lastTransitionTime"] == "2026-01-01T00:00:09Z"
    assert condition(new, "PodScheduled")["lastTransitionTime"] == NOW
    assert new["startTime"] == NOW


def test_final_phase_is_final() -> None:
    old = status_of(NEVER, state(record("a", "exited")))
    again = compute_status({**NEVER, "status": old}, state(), StatusInput(old=old, now=NOW))
    assert again["phase"] == "Succeeded"
    assert again["containerStatuses"][0]["state"] == old["containerStatuses"][0]["state"]


def test_verdict_ends_the_pod_and_the_address_stays() -> None:
    old = status_of(pod(), state(record("a")))
    verdict = Verdict("DeadlineExceeded", "too long")
    runtime = state(record("a", "exited", 137), sandbox=False)
    status = compute_status(pod(), runtime, StatusInput(old=old, is_terminal=True, verdict=verdict, now=NOW))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "too long")
    assert status["podIP"] == "10.42.0.5"
    assert condition(status, "ContainersReady")["reason"] == "PodFailed"


def test_a_pod_that_ended_before_its_first_status_keeps_its_address() -> None:
    runtime = state(record("a", "exited"), sandbox=False)
    status = compute_status(NEVER, runtime, StatusInput(old={}, host_ips=("192.0.2.1",), is_terminal=True, now=NOW))
    assert (status["phase"], status["podIPs"]) == ("Succeeded", [{"ip": "10.42.0.5"}])


def test_lost_container_of_a_terminated_pod() -> None:
    running = status_of(pod(), state(record("a")))
    final = terminate_status(pod(), running)
    assert final["phase"] == "Failed"
    assert final["containerStatuses"][0]["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert final["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_container_that_vanished_from_the_runtime() -> None:
    old = status_of(pod(), state(record("a")))
    (entry,) = status_of(pod(), state(), old=old)["containerStatuses"]
    assert entry["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert entry["restartCount"] == 1


def test_host_network_pod_has_the_nodes_addresses() -> None:
    status = status_of(pod(hostNetwork=True), state(record("a")), host_ips=("192.0.2.1", "2001:db8::1"))
    assert [e["ip"] for e in status["podIPs"]] == ["192.0.2.1", "2001:db8::1"]
