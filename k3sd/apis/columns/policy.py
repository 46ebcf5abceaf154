"""Columns and cells of policy/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec, status

COLUMNS = {"PodDisruptionBudget": "Name=name|Min Available|Max Unavailable|Allowed Disruptions:integer|Age"}


def _budget(obj: Obj, now: float) -> list[Any]:
    return [
        name(obj),
        str(spec(obj).get("minAvailable", "N/A")),
        str(spec(obj).get("maxUnavailable", "N/A")),
        status(obj).get("disruptionsAllowed", 0),
        age(obj, now),
    ]


CELLS = {"PodDisruptionBudget": _budget}
