"""What ``kubectl get`` shows: the Table columns of each kind as data, and the cells as small functions, one module a group.

Source: ``pkg/printers/internalversion/printers.go``. A column is written ``Name[=format][:type][+]``; ``+`` shows only with
``-o wide``. Kinds without columns of their own get upstream's default: the name and the time of creation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource

Cells = Callable[[Obj, float], list[Any]]
_GROUPS = frozenset(
    (
        "admissionregistration",
        "apiregistration",
        "apps",
        "autoscaling",
        "batch",
        "certificates",
        "coordination",
        "core",
        "discovery",
        "events",
        "flowcontrol",
        "networking",
        "node",
        "policy",
        "rbac",
        "resource",
        "scheduling",
        "storage",
    )
)
_DEFAULT = "Name=name|Created At:date"
_DESCRIPTIONS = {
    "Name": "Name must be unique within a namespace.",
    "Age": "Time since the object was created.",
    "Created At": "The time the object was created.",
}


def _default_cells(obj: Obj, now: float) -> list[Any]:
    metadata = obj.get("metadata") or {}
    return [metadata.get("name", ""), metadata.get("creationTimestamp")]


_custom: dict[str, list[Obj] | None] = {}


def register(type_name: str, columns: list[Obj] | None) -> None:
    """Show a custom resource with its ``additionalPrinterColumns`` (None: with its age)."""
    _custom[type_name] = columns


def unregister(type_name: str) -> None:
    _custom.pop(type_name, None)


def _module(type_name: str) -> Any:
    """The module of a built-in type's group; None for groups without columns and for custom resources."""
    group = type_name.split(".")[-3]
    if group not in _GROUPS or not type_name.startswith("io.k8s."):
        return None
    return import_module(f"k3sd.apis.columns.{group}")


@cache
def parse_columns(text: str) -> tuple[Obj, ...]:
    """``TableColumnDefinition`` objects of a declaration."""
    out = []
    for word in text.split("|"):
        wide = word.endswith("+")
        name, _, type_ = word.removesuffix("+").partition(":")
        name, _, format_ = name.partition("=")
        out.append(
            {
                "name": name,
                "type": type_ or "string",
                "format": format_,
                "description": _DESCRIPTIONS.get(name, ""),
                "priority": 1 if wide else 0,
            }
        )
    return tuple(out)


def table_columns(resource: Resource, type_name: str = "") -> list[Obj]:
    """The columns of the resource; ``type_name`` names another type it returns (``Scale``). Shared: do not change them."""
    type_name = type_name or resource.type_name
    if type_name in _custom:
        from k3sd.apis.columns import custom

        return custom.definitions(_custom[type_name])
    module = _module(type_name)
    kind = type_name.rpartition(".")[2]
    return list(parse_columns(module.COLUMNS.get(kind, _DEFAULT) if module else _DEFAULT))


def cells(resource: Resource, obj: Obj, now: float, type_name: str = "") -> list[Any]:
    """The cells of one object, one for each column; ``now`` is seconds since 1970."""
    type_name = type_name or resource.type_name
    if type_name in _custom:
        from k3sd.apis.columns import custom

        return custom.cells(_custom[type_name], obj, now)
    module = _module(type_name)
    make: Cells = module.CELLS.get(type_name.rpartition(".")[2], _default_cells) if module else _default_cells
    return make(obj, now)


def row_conditions(resource: Resource, obj: Obj) -> list[Obj]:
    """``TableRowCondition`` objects: finished pods are marked completed."""
    phase = (obj.get("status") or {}).get("phase")
    if resource.type_name != "io.k8s.api.core.v1.Pod" or phase not in ("Succeeded", "Failed"):
        return []
    message = "The pod has completed successfully." if phase == "Succeeded" else "The pod failed."
    return [{"type": "Completed", "status": "True", "reason": phase, "message": message}]
