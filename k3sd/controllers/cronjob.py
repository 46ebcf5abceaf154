"""Starts Jobs at the times a CronJob names. Source: ``pkg/controller/cronjob/cronjob_controllerv2.go``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.informer import object_key
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.cronschedule import Schedule, ScheduleError, parse
from k3sd.controllers.objects import (
    condition_status,
    controller_of,
    controller_reference,
    has_cause,
    is_deleting,
    name_of,
    namespace_of,
    uid_of,
)
from k3sd.controllers.pods import owner_index
from k3sd.lib.jsonvalue import clone

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MISSED_LIMIT = 100
DELTA_SECONDS = 0.1


class Due(NamedTuple):
    """The latest time that is due and not yet served, how many were missed before it, and the next one."""

    latest: float | None
    missed: int
    next: float | None


def find_due(schedule: Schedule, earliest: float, deadline: int | None, now: float) -> Due:
    """Times of ``schedule`` after ``earliest`` up to ``now``; pure. Source: ``mostRecentScheduleTime``."""
    if deadline is not None:
        earliest = max(earliest, now - deadline)
    latest: float | None = None
    missed = -1
    moment = schedule.next(earliest)
    while moment is not None and moment <= now:
        latest, missed = moment, missed + 1
        if missed > MISSED_LIMIT:
            # So far behind that the exact number no longer matters: jump ahead.
            step = schedule.next(moment)
            gap = step - moment if step is not None else 0
            if gap > 0 and now - moment > 2 * gap:
                moment = schedule.next(max(moment, now - gap - 60))
                continue
        moment = schedule.next(moment)
    return Due(latest, max(0, missed), moment)


def finished(job: Obj) -> str:
    """``Complete``, ``Failed`` or empty."""
    return next((t for t in ("Complete", "Failed") if condition_status(job, t) == "True"), "")


def to_prune(jobs: Sequence[Obj], limit: int | None) -> list[Obj]:
    """The oldest beyond ``limit``."""
    if limit is None:
        return []
    ordered = sorted(jobs, key=lambda j: ((j.get("status") or {}).get("startTime") or "", name_of(j)))
    return ordered[: max(0, len(ordered) - int(limit))]


class CronJobController(Controller):
    name = "cronjob-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.recorder = ctx.recorder(self.name)
        self.crons = self.informer(resources.CRONJOBS, self.enqueue, self.enqueue_update)
        self.jobs = self.informer(resources.JOBS, self._job, lambda _, job: self._job(job), self._job)
        self.jobs.add_index("owner", owner_index)
        # Jobs we made whose events have not come yet.
        self._made: set[str] = set()

    def _job(self, job: Obj) -> None:
        self._made.discard(uid_of(job))
        reference = controller_of(job)
        if reference is not None and reference.get("kind") == "CronJob":
            self.queue.add(f"{namespace_of(job)}/{reference['name']}")

    async def reconcile(self, key: str) -> float | None:
        cron = self.crons.get(key)
        if cron is None or is_deleting(cron):
            return None
        jobs = list(self.jobs.by_index("owner", uid_of(cron)))
        status = clone(cron.get("status") or {})
        self._follow_jobs(cron, status, jobs)
        await self._prune(cron, jobs)
        again: float | None = None
        try:
            again = await self._start_due(cron, status, jobs)
        finally:
            await self._write_status(cron, status)
        return again

    def _follow_jobs(self, cron: Obj, status: Obj, jobs: Sequence[Obj]) -> None:
        """Bring ``status.active`` and ``lastSuccessfulTime`` up to date, in place."""
        by_uid = {uid_of(j): j for j in jobs}
        active: list[Obj] = []
        listed: set[str] = set()
        for reference in status.get("active") or ():
            job = by_uid.get(reference.get("uid") or "")
            if job is None:
                # Gone, or made a moment ago and not in the cache yet; a Job that is gone has sent its event.
                if reference.get("uid") in self._made:
                    active.append(reference)
                else:
                    self.recorder.event(cron, "Normal", "MissingJob", f"Active job went missing: {reference.get('name')}")
                continue
            outcome = finished(job)
            if outcome:
                message = f"Saw completed job: {name_of(job)}, condition: {outcome}"
                self.recorder.event(cron, "Normal", "SawCompletedJob", message)
            else:
                active.append(reference)
                listed.add(uid_of(job))
        for job in jobs:
            outcome = finished(job)
            if not outcome and uid_of(job) not in listed:
                active.append(job_reference(job))
            elif outcome == "Complete":
                ended = (job.get("status") or {}).get("completionTime") or ""
                if ended > (status.get("lastSuccessfulTime") or ""):
                    status["lastSuccessfulTime"] = ended
        if active:
            status["active"] = active
        else:
            status.pop("active", None)

    async def _prune(self, cron: Obj, jobs: Sequence[Obj]) -> None:
        spec = cron["spec"]
        for outcome, limit in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
            for job in to_prune([j for j in jobs if finished(j) == outcome], spec.get(limit)):
                await self._delete(cron, job)

    async def _start_due(self, cron: Obj, status: Obj, jobs: Sequence[Obj]) -> float | None:
        spec, now = cron["spec"], self.ctx.clock()
        if spec.get("suspend"):
            return None
        try:
            schedule = parse(spec["schedule"], spec.get("timeZone") or "")
        except ScheduleError as e:
            reason = "UnknownTimeZone" if "time zone" in str(e) else "UnparseableSchedule"
            self.recorder.event(cron, "Warning", reason, f"unparseable schedule: {spec['schedule']}: {e}")
            return None
        started = status.get("lastScheduleTime") or cron["metadata"].get("creationTimestamp")
        deadline = spec.get("startingDeadlineSeconds")
        due = find_due(schedule, timefmt.parse(started) if started else now, deadline, now)
        if due.missed > MISSED_LIMIT:
            message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self.recorder.event(cron, "Warning", "TooManyMissedTimes", message)
        again = due.next - now + DELTA_SECONDS if due.next is not None else None
        if due.latest is None:
            return again
        if deadline is not None and due.latest + int(deadline) < now:
            message = f"Missed scheduled time to start a job: {timefmt.from_epoch(due.latest)}"
            self.recorder.event(cron, "Warning", "MissSchedule", message)
            return again
        active = status.get("active") or []
        policy = spec.get("concurrencyPolicy", "Allow")
        name = f"{name_of(cron)}-{int(due.latest) // 60}"
        if any(r.get("name") == name for r in active):
            return again
        if policy == "Forbid" and active:
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self.recorder.event(cron, "Normal", "JobAlreadyActive", message)
            return again
        if policy == "Replace":
            for reference in list(active):
                job = next((j for j in jobs if uid_of(j) == reference.get("uid")), None)
                if job is not None:
                    await self._delete(cron, job)
            status.pop("active", None)
        await self._create(cron, status, name, due.latest)
        return again

    async def _create(self, cron: Obj, status: Obj, name: str, scheduled: float) -> None:
        template = cron["spec"]["jobTemplate"]
        source = template.get("metadata") or {}
        stamp = timefmt.from_epoch(scheduled)
        job: Obj = {
            "kind": "Job",
            "apiVersion": "batch/v1",
            "metadata": {
                "name": name,
                "namespace": namespace_of(cron),
                "labels": clone(source.get("labels") or {}),
                "annotations": {**(source.get("annotations") or {}), SCHEDULED: stamp},
                "ownerReferences": [controller_reference(cron, resources.CRONJOBS)],
            },
            "spec": clone(template["spec"]),
        }
        try:
            made = await self.client.create(resources.JOBS, job, namespace_of(cron))
        except StatusError as e:
            if has_cause(e, "NamespaceTerminating"):
                return
            if e.reason != "AlreadyExists":
                self.recorder.event(cron, "Warning", "FailedCreate", f"Error creating job: {e.message}")
                raise
            # We made it before and did not get to say so, or somebody else owns the name.
            made = await self.client.get(resources.JOBS, name, namespace_of(cron))
            reference = controller_of(made)
            if reference is None or reference.get("uid") != uid_of(cron):
                self.recorder.event(cron, "Warning", "FailedCreate", f"Error creating job: {e.message}")
                status["lastScheduleTime"] = stamp
                return
            status["lastScheduleTime"] = stamp
            if finished(made):
                return
        else:
            self.recorder.event(cron, "Normal", "SuccessfulCreate", f"Created job {name}")
        if self.jobs.get(object_key(made)) is None:
            self._made.add(uid_of(made))
        if not any(r.get("uid") == uid_of(made) for r in status.get("active") or ()):
            status["active"] = [*(status.get("active") or ()), job_reference(made)]
        status["lastScheduleTime"] = stamp

    async def _delete(self, cron: Obj, job: Obj) -> None:
        try:
            options = DeleteOptions(propagation_policy="Background", uid=uid_of(job))
            await self.client.delete(resources.JOBS, name_of(job), namespace_of(job), options)
        except StatusError as e:
            if e.code == 404:
                return
            self.recorder.event(cron, "Warning", "FailedDelete", f"Deleted job: {e.message}")
            raise
        self.recorder.event(cron, "Normal", "SuccessfulDelete", f"Deleted job {name_of(job)}")

    async def _write_status(self, cron: Obj, status: Obj) -> None:
        def change(obj: Obj) -> None:
            current = obj.setdefault("status", {})
            for field in ("active", "lastScheduleTime", "lastSuccessfulTime"):
                if field in status:
                    current[field] = status[field]
                else:
                    current.pop(field, None)

        try:
            await update_with_retry(
                self.client,
                resources.CRONJOBS,
                name_of(cron),
                namespace_of(cron),
                change,
                subresource="status",
                initial=cron,
                uid=uid_of(cron),
            )
        except StatusError as e:
            if e.code != 404:
                raise


def job_reference(job: Obj) -> Obj:
    return {
        "kind": "Job",
        "namespace": namespace_of(job),
        "name": name_of(job),
        "uid": uid_of(job),
        "apiVersion": "batch/v1",
        "resourceVersion": job["metadata"].get("resourceVersion", ""),
    }
