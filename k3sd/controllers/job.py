"""Runs pods to completion. The rules are in ``jobrules``, what they say together in ``jobstate``.

Pods carry a finalizer until the Job's status has counted them: first their uids go into ``status.uncountedTerminatedPods``,
then the finalizer is removed, then they move into the counters, so that no crash counts a pod twice or never.
Source: ``pkg/controller/job/job_controller.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.selectors import label_selector_from
from k3sd.apis import resources
from k3sd.client.informer import object_key
from k3sd.client.retry import update_with_retry
from k3sd.controllers import jobrules as rules
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.expectations import Expectations
from k3sd.controllers.jobstate import Sync, attempts, deadline_in, is_over, judge, look, set_job_condition
from k3sd.controllers.objects import (
    controller_of,
    controller_reference,
    has_cause,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    set_count,
    uid_of,
    version_of,
)
from k3sd.controllers.podcontrol import PodControl, claim, claimable, owner_in, slow_start
from k3sd.controllers.pods import (
    deletion_order,
    earliest,
    is_finished,
    is_ready,
    name_prefix,
    owner_index,
    pod_from_template,
)
from k3sd.lib.jsonvalue import clone

MANAGER = "kubernetes.io/job-controller"
BURST = 500
STRAY = "stray "
"""Prefix of queue keys of pods whose Job is gone but which still carry our finalizer."""


class JobController(Controller):
    name = "job-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.expectations = Expectations()
        self.recorder = ctx.recorder(self.name)
        self.pod_control = PodControl(self.client, self.recorder)
        self._latest: dict[str, Obj] = {}
        self._freed: dict[str, set[str]] = {}
        self._failures: dict[str, tuple[int, float, set[str]]] = {}
        self.jobs = self.informer(resources.JOBS, self.enqueue, self.enqueue_update, self._job_deleted)
        self.pods = self.informer(resources.PODS, self._pod_added, self._pod_updated, self._pod_deleted)
        self.pods.add_index("owner", owner_index)

    # -- events

    def _job_deleted(self, job: Obj) -> None:
        key = object_key(job)
        self.expectations.forget(key)
        for memory in (self._latest, self._freed, self._failures):
            memory.pop(key, None)
        for pod in self.pods.by_index("owner", uid_of(job)):
            self._stray(pod)

    def _stray(self, pod: Obj) -> None:
        if rules.FINALIZER in (pod["metadata"].get("finalizers") or ()):
            self.queue.add(STRAY + object_key(pod))

    def _owner_of(self, pod: Obj) -> Obj | None:
        return owner_in(self.jobs, "Job", pod)

    def _enqueue_matching(self, pod: Obj) -> None:
        for job in list(self.jobs.list(namespace_of(pod))):
            if label_selector_from(job["spec"].get("selector")).matches(labels_of(pod)):
                self.enqueue(job)

    def _pod_added(self, pod: Obj) -> None:
        if is_deleting(pod):
            self._pod_deleted(pod)
            return
        owner = self._owner_of(pod)
        if owner is not None:
            self.expectations.creation_observed(object_key(owner))
            self.enqueue(owner)
        else:
            self._stray(pod)
            if controller_of(pod) is None:
                self._enqueue_matching(pod)

    def _pod_updated(self, old: Obj, pod: Obj) -> None:
        owner = self._owner_of(pod)
        if is_deleting(pod) and owner is not None:
            self.expectations.deletion_observed(object_key(owner), uid_of(pod))
        reference, before = controller_of(pod), controller_of(old)
        if before != reference:
            previous = self._owner_of(old)
            if previous is not None:
                self.enqueue(previous)
        if owner is not None:
            self.enqueue(owner)
        else:
            self._stray(pod)
            if reference is None and (before is not None or labels_of(old) != labels_of(pod)):
                self._enqueue_matching(pod)

    def _pod_deleted(self, pod: Obj) -> None:
        owner = self._owner_of(pod)
        if owner is not None:
            self.expectations.deletion_observed(object_key(owner), uid_of(pod))
            self.enqueue(owner)
        elif is_deleting(pod):
            self._stray(pod)

    # -- work

    async def reconcile(self, key: str) -> float | None:
        if key.startswith(STRAY):
            await self._free_stray(key.removeprefix(STRAY))
            return None
        job = self._current(key)
        if job is None or is_over(job) or job["spec"].get("managedBy", MANAGER) != MANAGER:
            if job is not None:
                await self._free_leftovers(key, job)
            return None
        pods = await self._claim(job)
        satisfied = self.expectations.satisfied(key)
        now = self.ctx.clock()
        sync = look(job, pods, self._prune_freed(key, pods), now)
        status = clone(job.get("status") or {})
        started = self._start(job, status)
        again: float | None = None
        if started:
            sync.job = {**job, "status": status}
            sync.verdict = judge(sync, now)
        wait = self._backoff(key, sync)
        error: StatusError | None = None
        if not is_deleting(job) and satisfied:
            if sync.verdict is not None:
                error = await self._delete(key, sync, sync.active)
            else:
                error, again = await self._manage(key, sync, wait)
        deadline = deadline_in(sync.job, now) if not job["spec"].get("suspend") else None
        if sync.verdict is None and deadline is not None:
            again = min(again, deadline) if again is not None else deadline
        await self._account(key, job, sync, status)
        if error is not None:
            raise error
        return earliest([again, self.expectations.overdue_in(key)])

    def _current(self, key: str) -> Obj | None:
        """The Job as of our own last write, when the cache has not caught up yet."""
        cached, latest = self.jobs.get(key), self._latest.get(key)
        if cached is None or latest is None or uid_of(cached) != uid_of(latest):
            self._latest.pop(key, None)
            return cached
        if int(version_of(cached)) >= int(version_of(latest)):
            del self._latest[key]
            return cached
        return latest

    def _prune_freed(self, key: str, pods: Sequence[Obj]) -> set[str]:
        """Pods we freed and the cache still shows with the finalizer."""
        freed = self._freed.get(key)
        if not freed:
            return set()
        shown = {uid_of(p) for p in pods if rules.FINALIZER in (p["metadata"].get("finalizers") or ())}
        freed &= shown
        return freed

    async def _claim(self, job: Obj) -> list[Obj]:
        candidates = claimable(self.pods, job)
        return await claim(
            self.client,
            resources.JOBS,
            job,
            resources.PODS,
            candidates,
            label_selector_from(job["spec"].get("selector")),
            finalizer=rules.FINALIZER,
        )

    def _start(self, job: Obj, status: Obj) -> bool:
        """Note start, suspension and resumption; whether the start time changed."""
        now = self.ctx.now()
        if is_deleting(job):
            return False
        if job["spec"].get("suspend"):
            if set_job_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now):
                self.recorder.event(job, "Normal", "Suspended", "Job suspended")
            return status.pop("startTime", None) is not None
        if set_job_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now):
            self.recorder.event(job, "Normal", "Resumed", "Job resumed")
            status["startTime"] = now
            return True
        if not status.get("startTime"):
            status["startTime"] = now
            return True
        return False

    async def _manage(self, key: str, sync: Sync, wait: float) -> tuple[StatusError | None, float | None]:
        """Create or delete pods; a failure, and seconds to wait before more may be created. Source: ``manageJob``."""
        job, active = sync.job, sync.active
        if job["spec"].get("suspend"):
            return await self._delete(key, sync, active), None
        done = sync.succeeded_indexes | sync.failed_indexes
        remove: list[Obj] = []
        rest = list(active)
        if rules.is_indexed(job):
            remove, rest = rules.surplus_of_indexes(job, active, done)
        wanted = rules.want_active(job, sync.succeeded, len(active))
        if rules.is_indexed(job):
            wanted = min(wanted, max(0, (rules.completions_of(job) or 0) - len(done)))
        surplus = len(rest) - wanted
        if surplus > 0:
            rest.sort(key=lambda p: deletion_order(p, 0, self.ctx.clock()))
            remove, rest = remove + rest[:surplus], rest[surplus:]
        if remove:
            return await self._delete(key, sync, remove), None
        missing = wanted - len(active)
        if rules.only_replace_failed(job):
            missing -= sum(is_deleting(p) and not is_finished(p) for p in sync.pods)
        if missing <= 0:
            return None, None
        if rules.is_indexed(job):
            return await self._create_indexed(key, sync, done, missing, wait)
        if wait > 0:
            return None, wait
        return await self._create(key, sync, [None] * min(missing, BURST)), None

    def _backoff(self, key: str, sync: Sync) -> float:
        """Failures since the last success delay new pods. Source: ``backoffStore``."""
        failures, last, seen = self._failures.get(key, (0, 0.0, set()))
        for pod in sync.newly_failed:
            if uid_of(pod) not in seen:
                failures, last = failures + 1, max(last, rules.finish_time(pod))
                seen.add(uid_of(pod))
        if max((rules.finish_time(p) for p in sync.newly_succeeded), default=0.0) > last:
            failures = 0
        seen.intersection_update(uid_of(p) for p in sync.pods)
        if failures or key in self._failures:
            self._failures[key] = (failures, last, seen)
        return rules.backoff(failures, last, self.ctx.clock())

    async def _create_indexed(
        self, key: str, sync: Sync, done: set[int], missing: int, wait: float
    ) -> tuple[StatusError | None, float | None]:
        job, now = sync.job, self.ctx.clock()
        limit = min(missing, BURST)
        if rules.only_replace_failed(job):
            stopping = (p for p in sync.pods if is_deleting(p) and not is_finished(p))
            done = done | {i for p in stopping if (i := rules.index_of(p)) is not None}
        if job["spec"].get("backoffLimitPerIndex") is None:
            if wait > 0:
                return None, wait
            return await self._create(key, sync, list(rules.pending_indexes(job, sync.active, done, limit))), None
        # Each index waits for itself.
        ready: list[int | None] = []
        waits: list[float] = []
        for index in rules.pending_indexes(job, sync.active, done, rules.completions_of(job) or 0):
            failed = sync.delayed.get(index)
            left = rules.backoff(attempts(failed) + 1, rules.finish_time(failed), now) if failed is not None else 0.0
            if left > 0:
                waits.append(left)
            elif len(ready) < limit:
                ready.append(index)
        error = await self._create(key, sync, ready) if ready else None
        return error, min(waits, default=None)

    async def _create(self, key: str, sync: Sync, indexes: Sequence[int | None]) -> StatusError | None:
        job, count = sync.job, len(indexes)
        self.expectations.expect_creations(key, count)

        async def one(i: int) -> None:
            await self.pod_control.create(self._build(job, indexes[i], sync.delayed), job)

        try:
            succeeded, error = await slow_start(count, one)
        except BaseException:
            self.expectations.forget(key)
            raise
        sync.created = succeeded
        self.expectations.creation_observed(key, count - succeeded)
        if error is None:
            return None
        if not isinstance(error, StatusError):
            raise error
        return None if has_cause(error, "NamespaceTerminating") else error

    def _build(self, job: Obj, index: int | None, replaced: dict[int, Obj]) -> Obj:
        pod = pod_from_template(job["spec"]["template"], job, controller_reference(job, resources.JOBS))
        metadata, spec = pod["metadata"], pod["spec"]
        finalizers = [f for f in metadata.get("finalizers") or () if f != rules.FINALIZER]
        metadata["finalizers"] = [*finalizers, rules.FINALIZER]
        if index is None:
            return pod
        metadata.setdefault("annotations", {})[rules.INDEX] = str(index)
        metadata.setdefault("labels", {})[rules.INDEX] = str(index)
        metadata["generateName"] = name_prefix(f"{name_of(job)}-{index}")
        spec["hostname"] = f"{name_of(job)}-{index}"
        if job["spec"].get("backoffLimitPerIndex") is not None:
            failures, ignored = rules.next_counts(job, replaced.get(index))
            metadata["annotations"][rules.FAILURES] = str(failures)
            if ignored:
                metadata["annotations"][rules.IGNORED_FAILURES] = str(ignored)
        source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{rules.INDEX}']"}}
        for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
            env = container.setdefault("env", [])
            if not any(e.get("name") == "JOB_COMPLETION_INDEX" for e in env):
                env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
        return pod

    async def _delete(self, key: str, sync: Sync, pods: Sequence[Obj]) -> StatusError | None:
        chosen = list(pods)[:BURST]
        if not chosen:
            return None
        self.expectations.expect_deletions(key, (uid_of(p) for p in chosen))
        errors: list[StatusError] = []

        async def one(pod: Obj) -> None:
            try:
                await self.pod_control.delete(pod, sync.job)
                sync.deleted.add(uid_of(pod))
            except StatusError as e:
                self.expectations.deletion_observed(key, uid_of(pod))
                errors.append(e)

        try:
            await asyncio.gather(*map(one, chosen))
        except BaseException:
            self.expectations.forget(key)
            raise
        return errors[0] if errors else None

    # -- counting

    async def _account(self, key: str, job: Obj, sync: Sync, status: Obj) -> None:
        """Count finished pods, free them, and end the Job. Source: ``trackJobStatusAndRemoveFinalizers``.

        ``job`` is as it is stored, ``status`` what its status becomes.
        """
        ending = sync.verdict is not None or is_deleting(job)
        uncounted = status.setdefault("uncountedTerminatedPods", {})
        free: list[Obj] = []
        succeeded_now: list[str] = list(uncounted.get("succeeded") or ())
        failed_now: list[str] = list(uncounted.get("failed") or ())
        known = {*succeeded_now, *failed_now}
        for pod in sync.newly_succeeded:
            free.append(pod)
            if not rules.is_indexed(job):
                succeeded_now.append(uid_of(pod))
        for pod in sync.newly_failed:
            index = rules.index_of(pod)
            if not ending and index is not None and sync.delayed.get(index) is pod:
                continue
            free.append(pod)
            if rules.match_failure_policy(job, pod).counts:
                failed_now.append(uid_of(pod))
        freed = self._freed.setdefault(key, set())
        listed = {uid_of(p) for p in free}
        for pod in sync.pods:
            if uid_of(pod) in listed or uid_of(pod) in freed:
                continue
            if rules.FINALIZER not in (pod["metadata"].get("finalizers") or ()):
                continue
            # Already counted before a crash, outside the indexes, or stopped because the Job ends.
            if uid_of(pod) in known or is_finished(pod) or (ending and is_deleting(pod)) or is_deleting(job):
                index = rules.index_of(pod)
                if ending or index is None or sync.delayed.get(index) is not pod:
                    free.append(pod)
        _set_uids(uncounted, "succeeded", succeeded_now)
        _set_uids(uncounted, "failed", failed_now)
        self._fill(sync, status)
        job = await self._write(key, job, status)
        counted_before = await self._free(key, free) - known
        # What has no finalizer any more moves from the list into the counters.
        held = {
            uid_of(p)
            for p in sync.pods
            if rules.FINALIZER in (p["metadata"].get("finalizers") or ()) and uid_of(p) not in self._freed.get(key, set())
        }
        status = clone(job["status"])
        uncounted = status.setdefault("uncountedTerminatedPods", {})
        for field_name in ("succeeded", "failed"):
            uids = uncounted.get(field_name) or []
            gone = [u for u in uids if u not in held]
            if not (field_name == "succeeded" and rules.is_indexed(job)):
                fresh = [u for u in gone if u not in counted_before]
                set_count(status, field_name, int(status.get(field_name) or 0) + len(fresh))
            _set_uids(uncounted, field_name, [u for u in uids if u in held])
        self._finish(sync, status, uncounted)
        await self._write(key, job, status)

    def _fill(self, sync: Sync, status: Obj) -> None:
        """The fields that follow from the pods, and the interim condition of a Job that ends."""
        job = sync.job
        active = [p for p in sync.active if uid_of(p) not in sync.deleted]
        set_count(status, "active", len(active) + sync.created)
        status["ready"] = sum(is_ready(p) for p in active)
        stopping = [p for p in sync.pods if is_deleting(p) and not is_finished(p)]
        status["terminating"] = len(stopping) + len(sync.deleted)
        if rules.is_indexed(job):
            set_count(status, "succeeded", len(sync.succeeded_indexes))
            completed = rules.format_indexes(sync.succeeded_indexes)
            if completed:
                status["completedIndexes"] = completed
            else:
                status.pop("completedIndexes", None)
            if job["spec"].get("backoffLimitPerIndex") is not None:
                status["failedIndexes"] = rules.format_indexes(sync.failed_indexes)
        if sync.verdict is not None:
            type_ = "FailureTarget" if sync.verdict.failed else "SuccessCriteriaMet"
            set_job_condition(status, type_, "True", sync.verdict.reason, sync.verdict.message, self.ctx.now())

    def _finish(self, sync: Sync, status: Obj, uncounted: Obj) -> None:
        """The terminal condition, once every pod is gone or has ended and all are counted."""
        verdict = sync.verdict
        if verdict is None or is_deleting(sync.job):
            return
        if any(not is_finished(p) for p in sync.pods) or uncounted.get("succeeded") or uncounted.get("failed"):
            return
        now = self.ctx.now()
        set_count(status, "active", 0)
        status["ready"] = status["terminating"] = 0
        type_ = "Failed" if verdict.failed else "Complete"
        if not set_job_condition(status, type_, "True", verdict.reason, verdict.message, now):
            return
        if verdict.failed:
            self.recorder.event(sync.job, "Warning", verdict.reason, verdict.message)
        else:
            status["completionTime"] = now
            self.recorder.event(sync.job, "Normal", "Completed", "Job completed")

    async def _write(self, key: str, job: Obj, status: Obj) -> Obj:
        """Write the status on exactly the version it was computed from: counting on top of another one would be wrong."""
        if status == (job.get("status") or {}):
            return job
        written = await self.client.update(resources.JOBS, {**job, "status": status}, subresource="status")
        self._latest[key] = written
        return written

    async def _free(self, key: str, pods: Sequence[Obj]) -> set[str]:
        """Remove the finalizers; returns the uids of pods that had none any more.

        Those the cache showed too late: unless their uids were on record, a predecessor of ours has counted them.
        """
        freed = self._freed.setdefault(key, set())
        absent: set[str] = set()

        async def one(pod: Obj) -> None:
            held = False

            def drop(obj: Obj) -> None:
                nonlocal held
                held = rules.FINALIZER in (obj["metadata"].get("finalizers") or ())
                _drop_finalizer(obj)

            gone = not await self._edit(pod, drop)
            freed.add(uid_of(pod))
            if gone or not held:
                absent.add(uid_of(pod))

        await asyncio.gather(*map(one, pods))
        return absent

    async def _free_leftovers(self, key: str, job: Obj) -> None:
        """A finished Job holds no pod; one that was adopted or edited late may still carry the finalizer."""
        pods = [p for p in self.pods.by_index("owner", uid_of(job)) if is_finished(p) or is_deleting(p)]
        held = [p for p in pods if rules.FINALIZER in (p["metadata"].get("finalizers") or ())]
        await self._free(key, [p for p in held if uid_of(p) not in self._freed.get(key, set())])

    async def _free_stray(self, key: str) -> None:
        """Source: ``syncOrphanPod``."""
        pod = self.pods.get(key)
        if pod is None or self._owner_of(pod) is not None:
            return
        reference = controller_of(pod)
        if reference is not None and reference.get("kind") == "Job":
            try:
                job = await self.client.get(resources.JOBS, reference["name"], namespace_of(pod))
            except StatusError as e:
                if e.code != 404:
                    raise
            else:
                if uid_of(job) == reference.get("uid"):
                    return
        elif reference is not None:
            return
        await self._edit(pod, _drop_finalizer)

    async def _edit(self, pod: Obj, change: Callable[[Obj], object]) -> bool:
        """Whether the pod still exists."""
        try:
            await update_with_retry(
                self.client, resources.PODS, name_of(pod), namespace_of(pod), change, initial=pod, uid=uid_of(pod)
            )
        except StatusError as e:
            if e.code != 404:
                raise
            return False
        return True


def _set_uids(uncounted: Obj, field_name: str, uids: Sequence[str]) -> None:
    if uids:
        uncounted[field_name] = list(uids)
    else:
        uncounted.pop(field_name, None)


def _drop_finalizer(pod: Obj) -> None:
    metadata = pod["metadata"]
    kept = [f for f in metadata.get("finalizers") or () if f != rules.FINALIZER]
    if kept:
        metadata["finalizers"] = kept
    else:
        metadata.pop("finalizers", None)
