"""Columns and cells of scheduling.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name

COLUMNS = {"PriorityClass": "Name=name|Value:integer|Global-Default:boolean|Age|PreemptionPolicy"}


def _priority_class(obj: Obj, now: float) -> list[Any]:
    return [
        name(obj),
        obj.get("value", 0),
        obj.get("globalDefault", False),
        age(obj, now),
        obj.get("preemptionPolicy", ""),
    ]


CELLS = {"PriorityClass": _priority_class}
