"""What the state of its pods means for a Job: indexes, failure and success policies, backoff. Pure.

Source: ``pkg/controller/job`` (``indexed_job_utils.go``, ``pod_failure_policy.go``, ``success_policy.go``,
``backoff_utils.go``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.controllers.objects import annotations_of, condition_status, is_deleting, name_of, namespace_of
from k3sd.controllers.pods import phase_of

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
BACKOFF_FIRST_SECONDS = 10.0
BACKOFF_CAP_SECONDS = 600.0


def parse_indexes(text: str | None) -> set[int]:
    """The set written as ``0,2-5``. Parts that are not numbers are left out."""
    out: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            out.update(range(int(first), int(last or first) + 1))
    return out


def format_indexes(indexes: Iterable[int]) -> str:
    """The inverse: runs of two as ``1,2``, longer ones as ``1-3``."""
    ordered = sorted(indexes)
    parts: list[str] = []
    i = 0
    while i < len(ordered):
        j = i
        while j + 1 < len(ordered) and ordered[j + 1] == ordered[j] + 1:
            j += 1
        if j == i:
            parts.append(str(ordered[i]))
        elif j == i + 1:
            parts += [str(ordered[i]), str(ordered[j])]
        else:
            parts.append(f"{ordered[i]}-{ordered[j]}")
        i = j + 1
    return ",".join(parts)


def is_indexed(job: Obj) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def index_of(pod: Obj) -> int | None:
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdigit() else None


def completions_of(job: Obj) -> int | None:
    value = job["spec"].get("completions")
    return None if value is None else int(value)


def only_replace_failed(job: Obj) -> bool:
    """Whether a terminating pod is replaced only once it has failed. Source: ``onlyReplaceFailedPods``."""
    spec = job["spec"]
    return spec.get("podReplacementPolicy") == "Failed" or spec.get("podFailurePolicy") is not None


def has_succeeded(pod: Obj) -> bool:
    return phase_of(pod) == "Succeeded"


def has_failed(job: Obj, pod: Obj) -> bool:
    """A pod being deleted counts as failed, since it may never get to say so, unless only failed ones are replaced."""
    if phase_of(pod) == "Failed":
        return True
    return is_deleting(pod) and not has_succeeded(pod) and not only_replace_failed(job)


class Match(NamedTuple):
    """What the podFailurePolicy says of a failed pod."""

    action: str
    message: str = ""

    @property
    def counts(self) -> bool:
        """Whether the failure counts towards the backoff limit."""
        return self.action != "Ignore"


def match_failure_policy(job: Obj, pod: Obj) -> Match:
    """Source: ``matchPodFailurePolicy``. Without a match the failure just counts."""
    policy = job["spec"].get("podFailurePolicy")
    for i, rule in enumerate((policy or {}).get("rules") or ()):
        action = str(rule.get("action"))
        if action == "FailIndex" and job["spec"].get("backoffLimitPerIndex") is None:
            continue
        where = f"pod {namespace_of(pod)}/{name_of(pod)}"
        codes = rule.get("onExitCodes")
        if codes is not None:
            container = _matching_exit(codes, pod)
            if container is not None:
                name, code = container
                text = f"Container {name} for {where} failed with exit code {code} matching {action} rule at index {i}"
                return Match(action, text)
        else:
            for pattern in rule.get("onPodConditions") or ():
                if condition_status(pod, pattern["type"]) == (pattern.get("status") or "True"):
                    text = (
                        f"Pod {where.removeprefix('pod ')} has condition {pattern['type']} matching {action} rule at index {i}"
                    )
                    return Match(action, text)
    return Match("Count")


def _matching_exit(codes: Obj, pod: Obj) -> tuple[str, int] | None:
    status = pod.get("status") or {}
    values = {int(v) for v in codes.get("values") or ()}
    wanted = codes.get("containerName")
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        terminated = (container.get("state") or {}).get("terminated")
        if terminated is None or (wanted and wanted != container.get("name")):
            continue
        code = int(terminated.get("exitCode") or 0)
        if code != 0 and (code in values) == (codes.get("operator") == "In"):
            return str(container.get("name")), code
    return None


def failure_count(pod: Obj) -> int:
    text = annotations_of(pod).get(FAILURES, "")
    return int(text) if text.isdigit() else 0


def ignored_count(pod: Obj) -> int:
    text = annotations_of(pod).get(IGNORED_FAILURES, "")
    return int(text) if text.isdigit() else 0


def next_counts(job: Obj, failed: Obj | None) -> tuple[int, int]:
    """``(failures, ignored failures)`` for the pod that replaces ``failed``. Source: ``getNewIndexFailureCounts``."""
    if failed is None:
        return 0, 0
    if match_failure_policy(job, failed).counts:
        return failure_count(failed) + 1, ignored_count(failed)
    return failure_count(failed), ignored_count(failed) + 1


def is_index_failed(job: Obj, pod: Obj) -> bool:
    """Whether this failed pod was its index's last. Source: ``isIndexFailed``."""
    match = match_failure_policy(job, pod)
    if match.action == "FailIndex":
        return True
    return match.counts and failure_count(pod) >= int(job["spec"].get("backoffLimitPerIndex") or 0)


def match_success_policy(job: Obj, succeeded: set[int]) -> str:
    """The message of the first rule that ``succeeded`` fulfils, empty when none does. Source: ``matchSuccessPolicy``."""
    for i, rule in enumerate((job["spec"].get("successPolicy") or {}).get("rules") or ()):
        count = rule.get("succeededCount")
        if rule.get("succeededIndexes"):
            wanted = parse_indexes(rule["succeededIndexes"])
            met = wanted & succeeded
            fulfilled = len(met) >= int(count) if count is not None else met == wanted
        else:
            fulfilled = count is not None and len(succeeded) >= int(count)
        if fulfilled:
            return f"Matched rules at index {i}"
    return ""


def exceeds_restarts(job: Obj, pods: Iterable[Obj]) -> bool:
    """With restartPolicy OnFailure container restarts count. Source: ``pastBackoffLimitOnFailure``."""
    if job["spec"]["template"]["spec"].get("restartPolicy") != "OnFailure":
        return False
    total = 0
    for pod in pods:
        if phase_of(pod) not in ("Running", "Pending"):
            continue
        status = pod.get("status") or {}
        for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            total += int(container.get("restartCount") or 0)
    limit = int(job["spec"].get("backoffLimit", 6))
    return total > 0 if limit == 0 else total >= limit


def finish_time(pod: Obj) -> float:
    """When the pod ended, as well as it can be told (epoch seconds). Source: ``getFinishedTime``."""
    status = pod.get("status") or {}
    latest = ""
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        finished = ((container.get("state") or {}).get("terminated") or {}).get("finishedAt") or ""
        latest = max(latest, finished)
    for condition in status.get("conditions") or ():
        if not latest and condition.get("type") == "Ready" and condition.get("status") == "False":
            latest = condition.get("lastTransitionTime") or ""
    metadata = pod["metadata"]
    if not latest and metadata.get("deletionTimestamp"):
        # The stamp lies in the future by the grace period.
        return timefmt.parse(metadata["deletionTimestamp"]) - int(metadata.get("deletionGracePeriodSeconds") or 0)
    latest = latest or metadata.get("creationTimestamp") or ""
    return timefmt.parse(latest) if latest else 0.0


def backoff(failures: int, last: float, now: float) -> float:
    """Seconds to wait before the next pod after ``failures`` in a row, the last at ``last``."""
    if failures <= 0:
        return 0.0
    delay = min(BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 30), BACKOFF_CAP_SECONDS)
    return max(0.0, last + delay - now)


def want_active(job: Obj, succeeded: int, active: int) -> int:
    """How many pods should run. Source: ``manageJob``."""
    parallelism = int(job["spec"].get("parallelism", 1))
    completions = completions_of(job)
    if completions is None:
        return active if succeeded > 0 else parallelism
    return max(0, min(completions - succeeded, parallelism))


def pending_indexes(job: Obj, active: Iterable[Obj], done: set[int], count: int) -> list[int]:
    """The first ``count`` indexes that neither run nor are ``done``. Source: ``firstPendingIndexes``."""
    busy = {index_of(p) for p in active} | done
    out: list[int] = []
    for index in range(completions_of(job) or 0):
        if len(out) >= count:
            break
        if index not in busy:
            out.append(index)
    return out


def surplus_of_indexes(job: Obj, active: Sequence[Obj], done: set[int]) -> tuple[list[Obj], list[Obj]]:
    """``(to remove, rest)``: second pods of one index, and pods of indexes that are done or do not exist.

    Source: ``appendDuplicatedIndexPodsForRemoval``.
    """
    taken: set[int] = set()
    remove: list[Obj] = []
    rest: list[Obj] = []
    for pod in sorted(active, key=lambda p: (p["metadata"].get("creationTimestamp") or "", name_of(p))):
        index = index_of(pod)
        if index is None or index in taken or index in done or index >= (completions_of(job) or 0):
            remove.append(pod)
        else:
            taken.add(index)
            rest.append(pod)
    return remove, rest
