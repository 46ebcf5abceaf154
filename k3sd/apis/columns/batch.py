"""Columns and cells of batch/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import (
    age,
    boolean,
    containers,
    has_condition,
    is_deleted,
    name,
    selector,
    since,
    spec,
    status,
    template_containers,
)

COLUMNS = {
    "CronJob": ("Name=name|Schedule|Timezone|Suspend:boolean|Active:integer|Last Schedule|Age|Containers+|Images+|Selector+"),
    "Job": "Name=name|Status|Completions|Duration|Age|Containers+|Images+|Selector+",
}


def _state(obj: Obj) -> str:
    conditions = status(obj).get("conditions")
    for kind, text in (("Complete", "Complete"), ("Failed", "Failed")):
        if has_condition(conditions, kind):
            return text
    if is_deleted(obj):
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if has_condition(conditions, kind):
            return kind
    return "Running"


def _job(obj: Obj, now: float) -> list[Any]:
    succeeded, completions = status(obj).get("succeeded", 0), spec(obj).get("completions")
    parallelism = spec(obj).get("parallelism") or 0
    if completions is not None:
        done = f"{succeeded}/{completions}"
    else:
        done = f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"
    took = ""
    if started := status(obj).get("startTime"):
        ended = status(obj).get("completionTime")
        took = timefmt.human_duration((timefmt.parse(ended) if ended else now) - timefmt.parse(started))
    return [
        name(obj),
        _state(obj),
        done,
        took,
        age(obj, now),
        *template_containers(obj),
        selector(spec(obj).get("selector")),
    ]


def _cron_job(obj: Obj, now: float) -> list[Any]:
    last = status(obj).get("lastScheduleTime")
    job = (spec(obj).get("jobTemplate") or {}).get("spec") or {}
    return [
        name(obj),
        spec(obj).get("schedule", ""),
        spec(obj).get("timeZone", "<none>"),
        boolean(spec(obj).get("suspend")),
        len(status(obj).get("active") or ()),
        since(last, now) if last else "<none>",
        age(obj, now),
        *containers((job.get("template") or {}).get("spec")),
        selector(job.get("selector")),
    ]


CELLS = {"CronJob": _cron_job, "Job": _job}
