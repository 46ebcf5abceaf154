from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.controllers.cronjob import SCHEDULED, CronJobController, find_due
from k3sd.controllers.cronschedule import ScheduleError, parse
from tests.fakes.harness import Harness


def cron(**spec: Any) -> Obj:
    return {
        "kind": "CronJob",
        "apiVersion": "batch/v1",
        "metadata": {"name": "tick", "namespace": "shop"},
        "spec": {
            "schedule": "*/1 * * * ?",
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}},
            **spec,
        },
    }


async def finish(h: Harness, job: Obj, type_: str = "Complete") -> None:
    done = {"conditions": [{"type": type_, "status": "True"}], "completionTime": "2027-01-15T08:00:00Z"}
    await h.status(resources.JOBS, job, **done)


async def test_starts_a_job_each_minute_and_notes_it():
    async with Harness(CronJobController) as h:
        await h.create(resources.CRONJOBS, cron())
        await h.settle(190)
        jobs = h.all(resources.JOBS)
        assert len(jobs) == 3
        assert jobs[0]["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
        assert jobs[0]["metadata"]["annotations"][SCHEDULED].endswith(":00Z")
        status = h.only(resources.CRONJOBS)["status"]
        assert [r["name"] for r in status["active"]] == [j["metadata"]["name"] for j in jobs]
        assert status["lastScheduleTime"] == jobs[-1]["metadata"]["annotations"][SCHEDULED]
        await finish(h, jobs[0])
        await h.settle(1)
        status = h.only(resources.CRONJOBS)["status"]
        assert len(status["active"]) == 2 and status["lastSuccessfulTime"] == "2027-01-15T08:00:00Z"


@pytest.mark.parametrize(("policy", "count"), [("Forbid", 1), ("Replace", 1), ("Allow", 3)])
async def test_concurrency(policy: str, count: int):
    async with Harness(CronJobController) as h:
        await h.create(resources.CRONJOBS, cron(concurrencyPolicy=policy))
        await h.settle(70)
        first = h.only(resources.JOBS)
        await h.settle(120)
        jobs = h.all(resources.JOBS)
        assert len(jobs) == count
        assert (jobs[0]["metadata"]["uid"] == first["metadata"]["uid"]) == (policy != "Replace")


async def test_suspended_starts_nothing_and_resumes():
    async with Harness(CronJobController) as h:
        made = await h.create(resources.CRONJOBS, cron(suspend=True, startingDeadlineSeconds=30))
        await h.settle(300)
        assert h.all(resources.JOBS) == []
        await h.patch(resources.CRONJOBS, made, {"spec": {"suspend": False}})
        await h.settle(65)
        assert len(h.all(resources.JOBS)) in (1, 2)


async def test_history_limits():
    async with Harness(CronJobController) as h:
        await h.create(resources.CRONJOBS, cron(successfulJobsHistoryLimit=1, failedJobsHistoryLimit=0))
        for type_ in ("Complete", "Failed", "Complete"):
            await h.settle(60)
            for job in h.all(resources.JOBS):
                if not job.get("status"):
                    await finish(h, job, type_)
        await h.settle(1)
        assert len([j for j in h.all(resources.JOBS) if j.get("status")]) == 1


async def test_a_deleted_job_leaves_the_active_list():
    async with Harness(CronJobController) as h:
        await h.create(resources.CRONJOBS, cron(schedule="0 0 1 1 *"))
        owner = h.only(resources.CRONJOBS)
        await h.status(resources.CRONJOBS, owner, active=[{"name": "gone", "uid": "x"}])
        await h.settle(1)
        assert "active" not in h.only(resources.CRONJOBS)["status"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("expression", "zone", "after", "wanted"),
    [
        ("*/5 * * * *", "", "2026-01-01 00:01", "2026-01-01 00:05"),
        ("0 0 29 2 *", "", "2026-01-01 00:00", "2028-02-29 00:00"),
        ("30 8 * * mon-fri", "", "2026-01-03 00:00", "2026-01-05 08:30"),
        ("0 12 1 * 0", "", "2026-01-02 00:00", "2026-01-04 12:00"),
        ("@hourly", "", "2026-01-01 00:00", "2026-01-01 01:00"),
        ("@every 90s", "", "2026-01-01 00:00:00", "2026-01-01 00:01:30"),
        ("0 9 * * *", "America/New_York", "2026-01-01 00:00", "2026-01-01 14:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-30 00:30"),
        ("15/20 * * * ?", "", "2026-01-01 00:16", "2026-01-01 00:35"),
        ("0 0 31 2 *", "", "2026-01-01 00:00", None),
    ],
)
def test_next_time(expression: str, zone: str, after: str, wanted: str | None):
    assert parse(expression, zone).next(at(after)) == (at(wanted) if wanted else None)


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("* * * *", ""),
        ("60 * * * *", ""),
        ("5-2 * * * *", ""),
        ("*/0 * * * *", ""),
        ("@never", ""),
        ("x * * * *", ""),
        ("* * * * *", "No/Where"),
    ],
)
def test_bad_expressions(expression: str, zone: str):
    with pytest.raises(ScheduleError):
        parse(expression, zone)


def test_find_due_counts_what_was_missed():
    schedule = parse("* * * * *")
    due = find_due(schedule, at("2026-01-01 00:00"), None, at("2026-01-01 00:03:30"))
    assert (due.latest, due.missed, due.next) == (at("2026-01-01 00:03"), 2, at("2026-01-01 00:04"))
    far = find_due(schedule, at("2020-01-01 00:00"), None, at("2026-01-01 00:03:30"))
    assert far.latest == at("2026-01-01 00:03") and far.missed > 100
    late = find_due(schedule, at("2020-01-01 00:00"), 60, at("2026-01-01 00:03:30"))
    assert late.missed == 0
