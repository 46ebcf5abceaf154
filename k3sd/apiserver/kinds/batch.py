"""Jobs and CronJobs. Source: ``pkg/apis/batch/validation``, ``pkg/registry/batch/{job,cronjob}/strategy.go``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.pods import template_warnings
from k3sd.apiserver.kinds.podspec import validate_template
from k3sd.apiserver.kinds.rules import (
    IMMUTABLE,
    Errors,
    clone,
    same,
    spec_diff,
    spec_of,
    validate_enum,
    validate_immutable,
    validate_label_selector,
    validate_non_negative,
    validate_template_labels,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy, Undo

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
LEGACY_CONTROLLER_UID = "controller-uid"
LEGACY_JOB_NAME = "job-name"
MAX_INDEXED_PARALLELISM = 100_000
MAX_FAILED_INDEXES = 100_000
_MUTABLE_SUSPENDED = ("nodeSelector", "affinity", "tolerations", "schedulingGates")
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")


@strategy(resources.JOBS)
class JobStrategy(Strategy):
    has_generation = True

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["status"] = {}
        if not spec_of(obj).get("manualSelector"):
            generate_selector(obj)

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        _validate_generated_selector(obj, errs)
        validate_job_spec(spec, "spec", errs)
        selector = spec.get("selector")
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
        if selector is None:
            errs.append(required("spec.selector"))
        else:
            validate_label_selector(selector, "spec.selector", errs)
            validate_template_labels(selector, labels, errs)
        if spec.get("completionMode") == "Indexed" and (spec.get("completions") or 0) > 0:
            host = f"{obj['metadata'].get('name', '')}-{spec['completions'] - 1}"
            for text in names.dns1123_label(host):
                text = f"will not able to create pod with invalid DNS hostname: {host}" if text else text
                errs.append(invalid("metadata.name", obj["metadata"].get("name", ""), text))
        return errs

    async def begin_create(self, ctx: RequestContext, obj: Obj) -> Undo | None:
        """A name that collided was generated anew: the labels follow it."""
        if obj["metadata"].get("generateName") and not spec_of(obj).get("manualSelector"):
            labels = obj["spec"]["template"]["metadata"]["labels"]
            for where in (labels, obj["metadata"].get("labels") or {}):
                if JOB_NAME in where:
                    where[JOB_NAME] = where[LEGACY_JOB_NAME] = obj["metadata"]["name"]
        return None

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        spec, old_spec = spec_of(new), spec_of(old)
        if spec == old_spec:
            return errs
        validate_job_spec(spec, "spec", errs)
        _validate_completions(spec, old_spec, errs)
        for key in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
            validate_immutable(spec.get(key), old_spec.get(key), f"spec.{key}", errs)
        _validate_template_update(new, old, errs)
        return errs

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status, previous = new.get("status") or {}, old.get("status") or {}
        for key in ("active", "succeeded", "failed", "ready", "terminating"):
            validate_non_negative(status.get(key), f"status.{key}", errs)
        kinds = {c.get("type") for c in status.get("conditions") or [] if c.get("status") == "True"}
        if {"Complete", "Failed"} <= kinds:
            errs.append(
                invalid(
                    "status.conditions", status["conditions"], "cannot set Complete=True and Failed=True conditions at once"
                )
            )
        if previous.get("completionTime") and not same(status.get("completionTime"), previous["completionTime"]):
            errs.append(invalid("status.completionTime", status.get("completionTime"), "completionTime cannot be mutated"))
        return errs

    def default_orphan(self, obj: Obj) -> bool:
        return True

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"status.successful": str((obj.get("status") or {}).get("succeeded") or 0)}

    def warnings(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> list[str]:
        if old is not None:
            return []
        pod = (spec_of(obj).get("template") or {}).get("spec") or {}
        return template_warnings(pod, "spec.template.spec")


def generate_selector(job: Obj) -> None:
    """``generateSelector``: labels that only this Job's pods carry. Values a user set are left for validation to refuse."""
    uid, name = job["metadata"]["uid"], job["metadata"].get("name", "")
    spec = job.setdefault("spec", {})
    template = spec.setdefault("template", {})
    labels = template.setdefault("metadata", {}).setdefault("labels", {}) or {}
    template["metadata"]["labels"] = labels
    for key, value in ((LEGACY_JOB_NAME, name), (JOB_NAME, name), (LEGACY_CONTROLLER_UID, uid), (CONTROLLER_UID, uid)):
        labels.setdefault(key, value)
    selector = spec.setdefault("selector", {})
    selector.setdefault("matchLabels", {}).setdefault(CONTROLLER_UID, uid)
    if not job["metadata"].get("labels"):
        # Defaulting gives a Job without labels those of its pods; upstream shows it when the stored Job is read.
        job["metadata"]["labels"] = dict(labels)


def _validate_generated_selector(job: Obj, errs: Errors) -> None:
    spec = spec_of(job)
    if spec.get("manualSelector"):
        return
    uid, name = job["metadata"].get("uid", ""), job["metadata"].get("name", "")
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    for key, value in ((CONTROLLER_UID, uid), (JOB_NAME, name), (LEGACY_CONTROLLER_UID, uid), (LEGACY_JOB_NAME, name)):
        if labels.get(key) != value:
            errs.append(invalid(f"spec.template.metadata.labels[{key}]", labels.get(key, ""), f"must be '{value}'"))
    if (spec.get("selector") or {}).get("matchLabels") != {CONTROLLER_UID: uid}:
        errs.append(invalid("spec.selector", spec.get("selector"), "`selector` not auto-generated"))


def validate_job_spec(spec: Obj, field: str, errs: Errors) -> None:
    """``validateJobSpec``."""
    for key in (
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        validate_non_negative(spec.get(key), f"{field}.{key}", errs)
    mode = spec.get("completionMode")
    indexed = mode == "Indexed"
    if mode is not None and mode not in ("NonIndexed", "Indexed"):
        errs.append(not_supported(f"{field}.completionMode", mode, ["Indexed", "NonIndexed"]))
    completions, parallelism = spec.get("completions"), spec.get("parallelism")
    if indexed:
        if completions is None:
            errs.append(required(f"{field}.completions", "when completion mode is Indexed"))
        if parallelism is not None and parallelism > MAX_INDEXED_PARALLELISM:
            errs.append(
                invalid(
                    f"{field}.parallelism",
                    parallelism,
                    f"must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed",
                )
            )
    _validate_index_limits(spec, field, indexed, errs)
    if spec.get("podFailurePolicy") is not None:
        _validate_failure_policy(spec, field, indexed, errs)
    if spec.get("successPolicy") is not None:
        _validate_success_policy(spec["successPolicy"], f"{field}.successPolicy", indexed, completions or 0, errs)
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        if spec.get("podFailurePolicy") is not None:
            validate_enum(replacement, ("Failed",), f"{field}.podReplacementPolicy", errs)
        else:
            validate_enum(replacement, ("Failed", "TerminatingOrFailed"), f"{field}.podReplacementPolicy", errs)
    managed = spec.get("managedBy")
    if managed is not None:
        errs += names.domain_prefixed_path(managed, f"{field}.managedBy")
    template = spec.get("template") or {}
    validate_template(template, f"{field}.template", errs)
    restart = (template.get("spec") or {}).get("restartPolicy")
    path = f"{field}.template.spec.restartPolicy"
    if restart in (None, "", "Always"):
        errs.append(required(path, 'valid values: "OnFailure", "Never"'))
    elif restart not in ("OnFailure", "Never"):
        errs.append(not_supported(path, restart, ["Never", "OnFailure"]))
    elif spec.get("podFailurePolicy") is not None and restart != "Never":
        errs.append(invalid(path, restart, 'only "Never" is supported when podFailurePolicy is specified'))


def _validate_index_limits(spec: Obj, field: str, indexed: bool, errs: Errors) -> None:
    per_index, max_failed = spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes")
    completions = spec.get("completions")
    if per_index is not None and not indexed:
        errs.append(invalid(f"{field}.backoffLimitPerIndex", per_index, "requires indexed completion mode"))
    if max_failed is None:
        if per_index is not None and completions is not None and completions > MAX_INDEXED_PARALLELISM:
            errs.append(required(f"{field}.maxFailedIndexes", "must be specified when completions is above 100000"))
        return
    if per_index is None:
        errs.append(required(f"{field}.backoffLimitPerIndex", "when maxFailedIndexes is specified"))
    if not indexed:
        errs.append(invalid(f"{field}.maxFailedIndexes", max_failed, "requires indexed completion mode"))
    if max_failed > MAX_FAILED_INDEXES:
        errs.append(invalid(f"{field}.maxFailedIndexes", max_failed, f"must be less than or equal to {MAX_FAILED_INDEXES}"))
    if completions is not None and max_failed > completions:
        errs.append(invalid(f"{field}.maxFailedIndexes", max_failed, "must be less than or equal to completions"))


def _validate_failure_policy(spec: Obj, field: str, indexed: bool, errs: Errors) -> None:
    containers = {
        c.get("name")
        for key in ("containers", "initContainers")
        for c in ((spec.get("template") or {}).get("spec") or {}).get(key) or []
    }
    rules = spec["podFailurePolicy"].get("rules") or []
    if len(rules) > 20:
        errs.append(
            FieldError(
                "FieldValueTooMany", f"{field}.podFailurePolicy.rules", f"Too many: {len(rules)}: must have at most 20 items"
            )
        )
    for i, rule in enumerate(rules):
        path = f"{field}.podFailurePolicy.rules[{i}]"
        action = rule.get("action")
        if not action:
            errs.append(required(f"{path}.action", "valid values: " + ", ".join(f'"{a}"' for a in _ACTIONS)))
        elif action not in _ACTIONS:
            errs.append(not_supported(f"{path}.action", action, _ACTIONS))
        elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            errs.append(invalid(f"{path}.action", action, "requires the backoffLimitPerIndex to be set"))
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
        if codes is not None and conditions:
            errs.append(invalid(path, rule, "specifying both OnExitCodes and OnPodConditions is not supported"))
        if codes is None and not conditions:
            errs.append(invalid(path, rule, "specifying one of OnExitCodes and OnPodConditions is required"))
        if codes is not None:
            _validate_exit_codes(codes, f"{path}.onExitCodes", containers, errs)
        for j, condition in enumerate(conditions):
            where = f"{path}.onPodConditions[{j}]"
            errs += [
                invalid(f"{where}.type", condition.get("type", ""), t) for t in names.qualified_name(condition.get("type", ""))
            ]
            validate_enum(condition.get("status"), ("True", "False", "Unknown"), f"{where}.status", errs)


def _validate_exit_codes(codes: Obj, path: str, containers: set[str | None], errs: Errors) -> None:
    name = codes.get("containerName")
    if name is not None and name not in containers:
        errs.append(
            invalid(f"{path}.containerName", name, "must be one of the container or initContainer names in the pod template")
        )
    operator = codes.get("operator")
    if not operator:
        errs.append(required(f"{path}.operator", 'valid values: "In", "NotIn"'))
    elif operator not in ("In", "NotIn"):
        errs.append(not_supported(f"{path}.operator", operator, ["In", "NotIn"]))
    values = codes.get("values") or []
    if not values:
        errs.append(invalid(f"{path}.values", values, "at least one value is required"))
    if len(values) > 255:
        errs.append(FieldError("FieldValueTooMany", f"{path}.values", f"Too many: {len(values)}: must have at most 255 items"))
    for i, value in enumerate(values):
        if operator == "In" and value == 0:
            errs.append(invalid(f"{path}.values[{i}]", value, "must not be 0 for the In operator"))
        if value in values[:i]:
            errs.append(duplicate(f"{path}.values[{i}]", value))
        elif i and value < values[i - 1]:
            errs.append(invalid(f"{path}.values", values, "must be ordered"))


_INDEX_RANGE = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def _validate_success_policy(policy: Obj, path: str, indexed: bool, completions: int, errs: Errors) -> None:
    if not indexed:
        errs.append(invalid(path, policy, "requires indexed completion mode"))
    rules = policy.get("rules") or []
    if not rules:
        errs.append(required(f"{path}.rules", "at least one rule must be specified"))
    for i, rule in enumerate(rules):
        where = f"{path}.rules[{i}]"
        indexes, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if indexes is None and count is None:
            errs.append(required(where, "at least one of succeededCount or succeededIndexes must be specified"))
        if indexes is not None and not _INDEX_RANGE.fullmatch(indexes):
            errs.append(invalid(f"{where}.succeededIndexes", indexes, "error parsing succeededIndexes"))
        elif indexes is not None and max(int(n) for n in re.findall(r"\d+", indexes)) >= completions:
            errs.append(invalid(f"{where}.succeededIndexes", indexes, "too large index"))
        if count is not None:
            validate_non_negative(count, f"{where}.succeededCount", errs)
            if count > completions:
                errs.append(
                    invalid(
                        f"{where}.succeededCount",
                        count,
                        f"must be less than or equal to {completions} (the number of specified completions)",
                    )
                )


def _validate_completions(spec: Obj, old: Obj, errs: Errors) -> None:
    """``validateCompletions``: an Indexed Job may be scaled when completions and parallelism move together."""
    if same(spec.get("completions"), old.get("completions")):
        return
    if spec.get("completionMode") != "Indexed" or spec.get("completions") is None:
        errs.append(invalid("spec.completions", spec.get("completions"), IMMUTABLE))
    elif spec.get("completions") != spec.get("parallelism"):
        text = "can only be modified in tandem with spec.parallelism"
        errs.append(invalid("spec.completions", spec.get("completions"), text))


def _validate_template_update(new: Obj, old: Obj, errs: Errors) -> None:
    """``validatePodTemplateUpdate``: scheduling directives and resources may change while a Job waits suspended."""
    template, old_template = spec_of(new).get("template") or {}, spec_of(old).get("template") or {}
    if template == old_template:
        return
    munged: Obj = clone(template)
    status = old.get("status") or {}
    if spec_of(old).get("suspend") and not status.get("startTime"):
        meta, old_meta = munged.setdefault("metadata", {}), old_template.get("metadata") or {}
        pod, old_pod = munged.setdefault("spec", {}), old_template.get("spec") or {}
        for holder, previous, keys in ((meta, old_meta, ("labels", "annotations")), (pod, old_pod, _MUTABLE_SUSPENDED)):
            for key in keys:
                if key in previous:
                    holder[key] = previous[key]
                else:
                    holder.pop(key, None)
        for key in ("containers", "initContainers"):
            for a, b in zip(pod.get(key) or [], old_pod.get(key) or [], strict=False):
                if "resources" in b:
                    a["resources"] = b["resources"]
                else:
                    a.pop("resources", None)
    if munged != old_template:
        errs.append(invalid("spec.template", template, f"{IMMUTABLE}\n{spec_diff(old_template, munged)}"))


@strategy(resources.CRONJOBS)
class CronJobStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        name = obj["metadata"].get("name", "")
        if len(name) > 52:
            errs.append(invalid("metadata.name", name, "must be no more than 52 characters"))
        _validate_cron_spec(spec_of(obj), None, errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if spec_of(new) != spec_of(old):
            _validate_cron_spec(spec_of(new), spec_of(old), errs)
        return errs

    def warnings(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> list[str]:
        spec = spec_of(obj)
        if "TZ" in spec.get("schedule", "") and (old is None or spec_of(old).get("schedule") != spec["schedule"]):
            return [
                "spec.schedule: CRON_TZ or TZ in schedule is not officially supported and will be rejected in a future version"
            ]
        return []


def _validate_cron_spec(spec: Obj, old: Obj | None, errs: Errors) -> None:
    schedule, zone = spec.get("schedule", ""), spec.get("timeZone")
    if not schedule:
        errs.append(required("spec.schedule"))
    else:
        if "TZ" in schedule and (old is None or old.get("schedule") != schedule):
            errs.append(invalid("spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
        problem = cron_problem(schedule)
        if problem:
            errs.append(invalid("spec.schedule", schedule, problem))
    if zone is not None:
        if not zone:
            errs.append(invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string"))
        elif zone.lower() == "local":
            errs.append(
                invalid(
                    "spec.timeZone",
                    zone,
                    "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
                )
            )
        elif not _is_zone(zone):
            errs.append(invalid("spec.timeZone", zone, f"unknown time zone {zone}"))
    validate_non_negative(spec.get("startingDeadlineSeconds"), "spec.startingDeadlineSeconds", errs)
    policy = spec.get("concurrencyPolicy")
    if not policy:
        errs.append(required("spec.concurrencyPolicy"))
    elif policy not in ("Allow", "Forbid", "Replace"):
        errs.append(not_supported("spec.concurrencyPolicy", policy, ["Allow", "Forbid", "Replace"]))
    job = spec.get("jobTemplate") or {}
    validate_job_spec(job.get("spec") or {}, "spec.jobTemplate.spec", errs)
    if (job.get("spec") or {}).get("manualSelector"):
        errs.append(not_supported("spec.jobTemplate.spec.manualSelector", True, ["nil", "false"]))
    for key in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        validate_non_negative(spec.get(key), f"spec.{key}", errs)


@cache
def _is_zone(name: str) -> bool:
    if ".." in name or name.startswith("/") or "\\" in name:
        return False
    return name == "UTC" or Path("/usr/share/zoneinfo", name).is_file()


_CRON_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_CRON_TERM = re.compile(r"([*?]|[0-9a-z]+(?:-[0-9a-z]+)?)(?:/(\d+))?")


def cron_problem(text: str) -> str:
    """ "" for a schedule that robfig/cron's standard parser takes, else its complaint."""
    if text.startswith(("TZ=", "CRON_TZ=")):
        text = text.partition(" ")[2]
    text = text.strip()
    if text.startswith("@"):
        if text in _MACROS or re.fullmatch(r"@every ([0-9.]+(ns|us|ms|s|m|h))+", text):
            return ""
        return f"unrecognized descriptor: {text}"
    fields = text.split()
    if len(fields) != 5:
        return f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
    for value, (_, low, high, words) in zip(fields, _CRON_FIELDS, strict=True):
        for term in value.split(","):
            problem = _cron_term_problem(term.lower(), low, high, words)
            if problem:
                return problem
    return ""


def _cron_term_problem(term: str, low: int, high: int, words: tuple[str, ...]) -> str:
    match = _CRON_TERM.fullmatch(term)
    if match is None:
        return f'failed to parse int from {term}: strconv.Atoi: parsing "{term}": invalid syntax'
    if match[2] == "0":
        return f"step of range should be a positive number: {term}"
    if match[1] in "*?":
        return ""
    numbers = []
    for part in match[1].split("-"):
        if part in words:
            numbers.append(words.index(part) + low)
        elif part.isdigit():
            numbers.append(int(part))
        else:
            return f'failed to parse int from {part}: strconv.Atoi: parsing "{part}": invalid syntax'
    if numbers[0] < low:
        return f"beginning of range ({numbers[0]}) below minimum ({low}): {term}"
    if numbers[-1] > high:
        return f"end of range ({numbers[-1]}) above maximum ({high}): {term}"
    if numbers[0] > numbers[-1]:
        return f"beginning of range ({numbers[0]}) beyond end of range ({numbers[-1]}): {term}"
    return ""
