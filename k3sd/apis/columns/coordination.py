"""Columns and cells of coordination.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec

COLUMNS = {"Lease": "Name=name|Holder|Age"}


def _lease(obj: Obj, now: float) -> list[Any]:
    return [name(obj), spec(obj).get("holderIdentity", ""), age(obj, now)]


CELLS = {"Lease": _lease}
