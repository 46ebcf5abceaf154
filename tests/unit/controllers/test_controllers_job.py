from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers import jobrules as rules
from k3sd.controllers.job import JobController
from k3sd.controllers.objects import find_condition
from k3sd.controllers.ttlafterfinished import TTLAfterFinishedController
from tests.fakes.clock import wall_clock
from tests.fakes.harness import Harness


def job(**spec: Any) -> Obj:
    return {
        "kind": "Job",
        "apiVersion": "batch/v1",
        "metadata": {"name": "work", "namespace": "shop"},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"job": "work"}},
            "template": {
                "metadata": {"labels": {"job": "work"}},
                "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"},
            },
            **spec,
        },
    }


async def end(h: Harness, pod: Obj, code: int = 0, conditions: list[Obj] | None = None) -> None:
    """The pod's container exits."""
    finished = timefmt.from_epoch(wall_clock())
    state = {"terminated": {"exitCode": code, "finishedAt": finished}}
    await h.status(
        resources.PODS,
        pod,
        phase="Succeeded" if code == 0 else "Failed",
        containerStatuses=[{"name": "c", "state": state}],
        conditions=conditions or [],
    )


def live(h: Harness) -> list[Obj]:
    return [p for p in h.all_pods() if p["status"]["phase"] in ("Pending", "Running")]


def status(h: Harness) -> Obj:
    return h.only(resources.JOBS)["status"]


def reasons(h: Harness) -> list[tuple[str, str]]:
    return [(c["type"], c["reason"]) for c in status(h)["conditions"] if c["status"] == "True"]


def free_of_finalizers(h: Harness) -> bool:
    return not any(rules.FINALIZER in (p["metadata"].get("finalizers") or ()) for p in h.all(resources.PODS))


async def test_runs_to_completion_and_counts_each_pod_once():
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(completions=5, parallelism=2))
        for done in range(5):
            await h.settle()
            assert len(live(h)) == min(2, 5 - done)
            assert status(h)["active"] == min(2, 5 - done)
            assert rules.FINALIZER in live(h)[0]["metadata"]["finalizers"]
            await end(h, live(h)[0])
        await h.settle()
        assert status(h)["succeeded"] == 5 and "active" not in status(h) and "failed" not in status(h)
        assert reasons(h) == [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]
        assert status(h)["completionTime"] and status(h)["startTime"]
        assert status(h)["uncountedTerminatedPods"] == {} and status(h)["terminating"] == 0
        assert free_of_finalizers(h)
        h.client.actions.clear()
        await h.settle(3600)
        assert h.client.actions == []


async def test_failures_back_off_and_reach_the_limit():
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(backoffLimit=2))
        await h.settle()
        await end(h, live(h)[0], 1)
        await h.settle(5)
        assert live(h) == []
        await h.settle(6)
        await end(h, live(h)[0], 1)
        await h.settle(15)
        assert live(h) == [] and status(h)["failed"] == 2
        await h.settle(10)
        await end(h, live(h)[0], 1)
        await h.settle(2)
        assert reasons(h) == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
        assert status(h)["failed"] == 3 and free_of_finalizers(h)


async def test_failing_stops_the_other_pods_and_waits_for_them():
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(parallelism=3, completions=3, backoffLimit=0))
        await h.settle()
        await h.make_ready(live(h))
        await h.settle()
        assert status(h)["ready"] == 3
        await end(h, live(h)[0], 1)
        await h.settle()
        assert reasons(h) == [("FailureTarget", "BackoffLimitExceeded")]
        assert status(h)["terminating"] == 2 and "active" not in status(h)
        for pod in h.all(resources.PODS):
            if pod["metadata"].get("deletionTimestamp"):
                await h.delete(resources.PODS, pod, grace_period_seconds=0)
        await h.settle()
        assert reasons(h)[-1] == ("Failed", "BackoffLimitExceeded")
        assert status(h)["failed"] == 3 and status(h)["terminating"] == 0


async def test_indexed_jobs_give_every_index_its_pod():
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(completionMode="Indexed", completions=4, parallelism=3))
        await h.settle()
        by_index = {rules.index_of(p): p for p in live(h)}
        assert sorted(by_index) == [0, 1, 2]
        pod = by_index[1]
        assert pod["metadata"]["labels"][rules.INDEX] == "1" and pod["spec"]["hostname"] == "work-1"
        assert pod["metadata"]["generateName"] == "work-1-"
        assert pod["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"
        await end(h, by_index[0])
        await end(h, by_index[2])
        await h.settle()
        assert status(h)["completedIndexes"] == "0,2" and status(h)["succeeded"] == 2
        assert sorted(rules.index_of(p) for p in live(h)) == [1, 3]
        await end(h, by_index[1], 1)
        await h.settle(15)
        for pod in live(h):
            await end(h, pod)
        await h.settle()
        assert status(h)["completedIndexes"] == "0-3" and status(h)["failed"] == 1
        assert reasons(h)[-1] == ("Complete", "CompletionsReached")


async def test_backoff_limit_per_index_fails_only_the_index():
    async with Harness(JobController) as h:
        limits = {"backoffLimitPerIndex": 1, "backoffLimit": 2**31 - 1}
        await h.create(resources.JOBS, job(completionMode="Indexed", completions=2, parallelism=2, **limits))
        await h.settle()
        for attempt in range(2):
            for pod in live(h):
                await end(h, pod, 0 if rules.index_of(pod) == 0 else 1)
            await h.settle(25)
            if attempt == 0:
                (again,) = live(h)
                assert again["metadata"]["annotations"][rules.FAILURES] == "1"
        assert status(h)["completedIndexes"] == "0" and status(h)["failedIndexes"] == "1"
        assert status(h)["failed"] == 2 and status(h)["succeeded"] == 1
        assert reasons(h) == [("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]
        assert free_of_finalizers(h)


async def test_max_failed_indexes():
    async with Harness(JobController) as h:
        limits = {"backoffLimitPerIndex": 0, "maxFailedIndexes": 1, "backoffLimit": 2**31 - 1}
        await h.create(resources.JOBS, job(completionMode="Indexed", completions=4, parallelism=2, **limits))
        await h.settle()
        for _ in range(2):
            await end(h, live(h)[0], 1)
            await h.settle(15)
        assert ("FailureTarget", "MaxFailedIndexesExceeded") in reasons(h)


@pytest.mark.parametrize(
    ("rule", "code", "conditions", "outcome"),
    [
        ({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}, 42, [], "PodFailurePolicy"),
        ({"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [42]}}, 42, [], "retried"),
        (
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            1,
            [{"type": "DisruptionTarget", "status": "True"}],
            "ignored",
        ),
        ({"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}}, 1, [], "retried"),
    ],
)
async def test_pod_failure_policy(rule: Obj, code: int, conditions: list[Obj], outcome: str):
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(podFailurePolicy={"rules": [rule]}))
        await h.settle()
        await end(h, live(h)[0], code, conditions)
        await h.settle(15)
        if outcome == "PodFailurePolicy":
            assert reasons(h)[-1] == ("Failed", "PodFailurePolicy")
            condition = find_condition(h.only(resources.JOBS), "Failed")
            assert condition is not None
            assert "failed with exit code 42 matching FailJob rule at index 0" in condition["message"]
        else:
            assert status(h).get("failed", 0) == (0 if outcome == "ignored" else 1)
            assert len(live(h)) == 1


async def test_success_policy_ends_the_job_early_and_waits_for_pods():
    async with Harness(JobController) as h:
        policy = {"rules": [{"succeededIndexes": "0"}]}
        await h.create(resources.JOBS, job(completionMode="Indexed", completions=3, parallelism=3, successPolicy=policy))
        await h.settle()
        await h.make_ready(live(h))
        await end(h, next(p for p in live(h) if rules.index_of(p) == 0))
        await h.settle()
        assert reasons(h) == [("SuccessCriteriaMet", "SuccessPolicy")]
        for pod in h.all(resources.PODS):
            if pod["metadata"].get("deletionTimestamp"):
                await h.delete(resources.PODS, pod, grace_period_seconds=0)
        await h.settle()
        assert reasons(h)[-1] == ("Complete", "SuccessPolicy")
        assert status(h)["completedIndexes"] == "0" and status(h)["ready"] == 0 and status(h)["terminating"] == 0


async def test_suspend_and_resume():
    async with Harness(JobController) as h:
        made = await h.create(resources.JOBS, job(suspend=True))
        await h.settle()
        assert live(h) == [] and reasons(h) == [("Suspended", "JobSuspended")] and "startTime" not in status(h)
        await h.patch(resources.JOBS, made, {"spec": {"suspend": False}})
        await h.settle()
        condition = find_condition(h.only(resources.JOBS), "Suspended")
        assert condition is not None and (condition["status"], condition["reason"]) == ("False", "JobResumed")
        assert len(live(h)) == 1 and status(h)["startTime"]
        await h.patch(resources.JOBS, made, {"spec": {"suspend": True}})
        await h.settle()
        assert live(h) == [] and "active" not in status(h) and "startTime" not in status(h)


async def test_active_deadline():
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(activeDeadlineSeconds=30))
        await h.settle(25)
        assert len(live(h)) == 1
        await h.settle(10)
        assert reasons(h) == [("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")]


async def test_restarts_count_with_on_failure():
    async with Harness(JobController) as h:
        made = job(backoffLimit=3)
        made["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
        await h.create(resources.JOBS, made)
        await h.settle()
        await h.status(resources.PODS, live(h)[0], phase="Running", containerStatuses=[{"restartCount": 3}])
        await h.settle()
        assert reasons(h)[0] == ("FailureTarget", "BackoffLimitExceeded")


@pytest.mark.parametrize("policy", [None, "Failed"])
async def test_replacement_of_terminating_pods(policy: str | None):
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(**({"podReplacementPolicy": policy} if policy else {})))
        await h.settle()
        await h.make_ready()
        (pod,) = live(h)
        await h.delete(resources.PODS, pod)
        await h.settle(15)
        assert len(live(h)) == (0 if policy else 1)
        assert status(h)["terminating"] == 1
        await end(h, pod, 137)
        await h.settle(15)
        assert len(live(h)) == 1 and status(h)["failed"] == 1


async def test_pods_of_a_job_that_is_gone_are_let_go():
    async with Harness(JobController) as h:
        made = await h.create(resources.JOBS, job())
        await h.settle()
        await h.delete(resources.JOBS, made)
        await h.settle()
        assert free_of_finalizers(h)


async def test_a_job_of_another_manager_is_left_alone():
    async with Harness(JobController) as h:
        await h.create(resources.JOBS, job(managedBy="example.com/other"))
        await h.settle(10)
        assert h.all_pods() == [] and "status" not in h.only(resources.JOBS)


async def test_ttl_after_finished():
    async with Harness(JobController, TTLAfterFinishedController) as h:
        await h.create(resources.JOBS, job(ttlSecondsAfterFinished=60))
        await h.settle()
        await end(h, live(h)[0])
        await h.settle(55)
        assert len(h.all(resources.JOBS)) == 1
        await h.settle(10)
        assert h.only(resources.JOBS)["metadata"]["finalizers"] == ["foregroundDeletion"]


@pytest.mark.parametrize(
    ("text", "indexes"),
    [("", set()), ("1", {1}), ("1,2", {1, 2}), ("0-3,7", {0, 1, 2, 3, 7}), ("1,3-5,9,10", {1, 3, 4, 5, 9, 10})],
)
def test_indexes_round_trip(text: str, indexes: set[int]):
    assert rules.parse_indexes(text) == indexes
    assert rules.format_indexes(indexes) == text


@pytest.mark.parametrize(
    ("rule", "succeeded", "met"),
    [
        ({"succeededCount": 2}, {5, 9}, True),
        ({"succeededIndexes": "0-2"}, {0, 1}, False),
        ({"succeededIndexes": "0-2", "succeededCount": 2}, {0, 1}, True),
        ({"succeededIndexes": "0-2", "succeededCount": 2}, {0, 7}, False),
    ],
)
def test_success_policy_rules(rule: Obj, succeeded: set[int], met: bool):
    assert bool(rules.match_success_policy(job(successPolicy={"rules": [rule]}), succeeded)) is met
