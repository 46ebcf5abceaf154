"""Columns and cells of flowcontrol.apiserver.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec, status

COLUMNS = {
    "FlowSchema": "Name=name|PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL",
    "PriorityLevelConfiguration": "Name=name|Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age",
}


def _flow_schema(obj: Obj, now: float) -> list[Any]:
    dangling = [c.get("status", "") for c in status(obj).get("conditions") or () if c.get("type") == "Dangling"]
    return [
        name(obj),
        (spec(obj).get("priorityLevelConfiguration") or {}).get("name", ""),
        spec(obj).get("matchingPrecedence", 0),
        (spec(obj).get("distinguisherMethod") or {}).get("type", "<none>"),
        age(obj, now),
        dangling[0] if dangling else "?",
    ]


def _priority_level(obj: Obj, now: float) -> list[Any]:
    limited = spec(obj).get("limited") or {}
    queuing = (limited.get("limitResponse") or {}).get("queuing") or {}
    return [
        name(obj),
        spec(obj).get("type", ""),
        limited.get("nominalConcurrencyShares", "<none>"),
        *(queuing.get(key, "<none>") for key in ("queues", "handSize", "queueLengthLimit")),
        age(obj, now),
    ]


CELLS = {"FlowSchema": _flow_schema, "PriorityLevelConfiguration": _priority_level}
