"""Columns and cells of apiregistration.k8s.io/v1. Source: ``kube-aggregator/pkg/registry/apiservice/etcd``."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, spec, status

COLUMNS = {"APIService": "Name=name|Service|Available|Age"}


def _api_service(obj: Obj, now: float) -> list[Any]:
    service = spec(obj).get("service")
    where = f"{service.get('namespace', '')}/{service.get('name', '')}" if service else "Local"
    available = "Unknown"
    for condition in status(obj).get("conditions") or ():
        if condition.get("type") == "Available":
            available = condition.get("status", "")
            if available != "True":
                available = f"{available} ({condition.get('reason', '')})"
    return [name(obj), where, available, age(obj, now)]


CELLS = {"APIService": _api_service}
