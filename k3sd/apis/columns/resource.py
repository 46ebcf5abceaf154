"""Columns and cells of resource.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, is_deleted, name, spec, status

COLUMNS = {
    "DeviceClass": "Name=name|Age",
    "ResourceClaim": "Name=name|State|Age",
    "ResourceClaimTemplate": "Name=name|Age",
    "ResourceSlice": "Name=name|Node|Driver|Pool|Age",
}


def _plain(obj: Obj, now: float) -> list[Any]:
    return [name(obj), age(obj, now)]


def _claim(obj: Obj, now: float) -> list[Any]:
    states = ["deleted"] if is_deleted(obj) else []
    if status(obj).get("allocation") is None:
        states += [] if states else ["pending"]
    else:
        states.append("allocated")
        if status(obj).get("reservedFor"):
            states.append("reserved")
    return [name(obj), ",".join(states), age(obj, now)]


def _slice(obj: Obj, now: float) -> list[Any]:
    pool = (spec(obj).get("pool") or {}).get("name", "")
    return [name(obj), spec(obj).get("nodeName", ""), spec(obj).get("driver", ""), pool, age(obj, now)]


CELLS = {
    "DeviceClass": _plain,
    "ResourceClaim": _claim,
    "ResourceClaimTemplate": _plain,
    "ResourceSlice": _slice,
}
