"""What a look at a Job and its pods says: what ended, what counts, and whether the Job is over. Pure.

Source: ``pkg/controller/job/job_controller.go`` (``syncJob``); single rules are in ``jobrules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.controllers import jobrules as rules
from k3sd.controllers.objects import condition_status, find_condition, uid_of
from k3sd.controllers.pods import is_active


@dataclass(slots=True)
class Verdict:
    """Why a Job ends: ``failed`` or complete, with the condition's reason and message."""

    failed: bool
    reason: str
    message: str


@dataclass(slots=True)
class Sync:
    """One look at a Job and its pods."""

    job: Obj
    pods: list[Obj]
    active: list[Obj]
    newly_succeeded: list[Obj] = field(default_factory=list)
    newly_failed: list[Obj] = field(default_factory=list)
    succeeded_indexes: set[int] = field(default_factory=set)
    failed_indexes: set[int] = field(default_factory=set)
    succeeded: int = 0
    failed: int = 0
    verdict: Verdict | None = None
    created: int = 0
    deleted: set[str] = field(default_factory=set)
    delayed: dict[int, Obj] = field(default_factory=dict)
    """The last failed pod of an index that is still to be retried: it keeps its finalizer until it is replaced."""


def is_over(job: Obj) -> bool:
    """Complete or Failed."""
    return condition_status(job, "Complete") == "True" or condition_status(job, "Failed") == "True"


def look(job: Obj, pods: Sequence[Obj], freed: set[str], now: float) -> Sync:
    """Compare pods and status; pure. ``freed`` are pods whose finalizer we removed although the cache still shows it."""
    status = job.get("status") or {}
    spec = job["spec"]
    uncounted = status.get("uncountedTerminatedPods") or {}
    known = {*(uncounted.get("succeeded") or ()), *(uncounted.get("failed") or ())}
    out = Sync(job, list(pods), [p for p in pods if is_active(p)])
    tracked = [p for p in pods if rules.FINALIZER in (p["metadata"].get("finalizers") or ()) and uid_of(p) not in freed]
    limit = rules.completions_of(job)
    indexed = rules.is_indexed(job)
    for pod in tracked:
        index = rules.index_of(pod)
        if uid_of(pod) in known or (indexed and (index is None or index >= (limit or 0))):
            continue
        if rules.has_succeeded(pod):
            out.newly_succeeded.append(pod)
        elif rules.has_failed(job, pod):
            out.newly_failed.append(pod)
    counted = [p for p in out.newly_failed if rules.match_failure_policy(job, p).counts]
    out.failed = int(status.get("failed") or 0) + len(uncounted.get("failed") or ()) + len(counted)
    if indexed:
        out.succeeded_indexes = {i for i in rules.parse_indexes(status.get("completedIndexes")) if i < (limit or 0)}
        out.succeeded_indexes |= {i for p in out.newly_succeeded if (i := rules.index_of(p)) is not None}
        out.succeeded = len(out.succeeded_indexes)
        if spec.get("backoffLimitPerIndex") is not None:
            _look_per_index(out)
    else:
        out.succeeded = int(status.get("succeeded") or 0) + len(uncounted.get("succeeded") or ()) + len(out.newly_succeeded)
    out.verdict = judge(out, now)
    return out


def _look_per_index(sync: Sync) -> None:
    job = sync.job
    sync.failed_indexes = rules.parse_indexes((job.get("status") or {}).get("failedIndexes")) - sync.succeeded_indexes
    running = {rules.index_of(p) for p in sync.active}
    for pod in sync.newly_failed:
        index = rules.index_of(pod)
        assert index is not None
        if index in sync.succeeded_indexes:
            continue
        if rules.is_index_failed(job, pod):
            sync.failed_indexes.add(index)
        elif index not in running:
            other = sync.delayed.get(index)
            if other is None or attempts(pod) > attempts(other):
                sync.delayed[index] = pod
    for index in sync.failed_indexes:
        sync.delayed.pop(index, None)


def attempts(pod: Obj) -> int:
    return rules.failure_count(pod) + rules.ignored_count(pod)


def judge(sync: Sync, now: float) -> Verdict | None:
    """Whether and how the Job ends, in upstream's order of precedence."""
    job, spec = sync.job, sync.job["spec"]
    for type_, failed in (("FailureTarget", True), ("SuccessCriteriaMet", False)):
        condition = find_condition(job, type_)
        if condition is not None and condition.get("status") == "True":
            return Verdict(failed, condition.get("reason", ""), condition.get("message", ""))
    for pod in sync.newly_failed:
        match = rules.match_failure_policy(job, pod)
        if match.action == "FailJob":
            return Verdict(True, "PodFailurePolicy", match.message)
    if spec.get("suspend"):
        deadline = None
    else:
        deadline = deadline_in(job, now)
    if sync.failed > int(spec.get("backoffLimit", 6)) or rules.exceeds_restarts(job, sync.active):
        return Verdict(True, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if deadline is not None and deadline <= 0:
        return Verdict(True, "DeadlineExceeded", "Job was active longer than specified deadline")
    completions = rules.completions_of(job)
    if rules.is_indexed(job) and spec.get("backoffLimitPerIndex") is not None:
        most = spec.get("maxFailedIndexes")
        if most is not None and len(sync.failed_indexes) > int(most):
            text = "Job has exceeded the specified maximal number of failed indexes"
            return Verdict(True, "MaxFailedIndexesExceeded", text)
        if sync.failed_indexes and len(sync.failed_indexes) + sync.succeeded >= (completions or 0):
            return Verdict(True, "FailedIndexes", "Job has failed indexes")
    if rules.is_indexed(job) and spec.get("successPolicy"):
        text = rules.match_success_policy(job, sync.succeeded_indexes)
        if text:
            return Verdict(False, "SuccessPolicy", text)
    if completions is None:
        complete = sync.succeeded > 0 and not sync.active
    else:
        complete = sync.succeeded >= completions and not sync.active
    if complete:
        return Verdict(False, "CompletionsReached", "Reached expected number of succeeded pods")
    return None


def deadline_in(job: Obj, now: float) -> float | None:
    """Seconds until activeDeadlineSeconds are over; None without a deadline or before the start."""
    seconds, start = job["spec"].get("activeDeadlineSeconds"), (job.get("status") or {}).get("startTime")
    if seconds is None or not start:
        return None
    return timefmt.parse(start) + int(seconds) - now


def set_job_condition(status: Obj, type_: str, value: str, reason: str, message: str, now: str) -> bool:
    """Source: ``ensureJobConditionStatus``; whether anything changed. Other conditions stay as they are."""
    conditions: list[Obj] = status.setdefault("conditions", [])
    new = {
        "type": type_,
        "status": value,
        "lastProbeTime": now,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    }
    for i, old in enumerate(conditions):
        if old.get("type") == type_:
            if old.get("status") == value:
                return False
            conditions[i] = new
            return True
    if value != "True":
        if not conditions:
            del status["conditions"]
        return False
    conditions.append(new)
    return True
