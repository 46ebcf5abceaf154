"""Columns and cells of node.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name

COLUMNS = {"RuntimeClass": "Name=name|Handler|Age"}


def _runtime_class(obj: Obj, now: float) -> list[Any]:
    return [name(obj), obj.get("handler", ""), age(obj, now)]


CELLS = {"RuntimeClass": _runtime_class}
