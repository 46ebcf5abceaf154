"""Defaulting: ``k3sd.apis.defaults.<group>`` says what, this engine finds where.

A defaults module has ``CONSTANTS`` (type short name to field values) and ``HOOKS`` (type short name to a function changing the
object in place). For each root type the paths that lead to a defaulted type are computed once; everything else is never looked
at. A type's constants are set first, then its hook runs, then its fields are visited, parents before children as upstream does.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.schema import SCALARS, types

Step = Callable[[Obj], None]
GROUPS = frozenset(
    [
        "admissionregistration.v1",
        "apiextensions.v1",
        "apiregistration.v1",
        "apps.v1",
        "authentication.v1",
        "autoscaling.v1",
        "autoscaling.v2",
        "batch.v1",
        "core.v1",
        "discovery.v1",
        "flowcontrol.v1",
        "networking.v1",
        "rbac.v1",
        "resource.v1",
        "scheduling.v1",
        "storage.v1",
    ]
)

_plans: dict[str, Step | None] = {}
_open: set[str] = set()


def apply_defaults(obj: Obj, resource: Resource) -> None:
    """Set what upstream's defaulting sets for this resource, in place. ``obj`` has gone through ``conform``."""
    default_type(obj, resource.type_name)


def default_type(obj: Obj, type_name: str) -> None:
    """The same for a type that is not a resource of its own (``TokenRequest``, ``PodTemplateSpec``)."""
    plan = _plans[type_name] if type_name in _plans else _plan(type_name)
    if plan is not None:
        plan(obj)


def register(type_name: str, step: Step) -> None:
    """Default a type that is not declared by this step."""
    _plans[type_name] = step


def unregister(type_name: str) -> None:
    _plans.pop(type_name, None)


def _own(type_name: str) -> tuple[dict[str, Any], Step | None]:
    package, _, short = type_name.rpartition(".")
    group, version = package.split(".")[-2:]
    if f"{group}.{version}" not in GROUPS:
        return {}, None
    module = import_module(f"k3sd.apis.defaults.{group}")
    suffix = "" if version == "v1" else f"_{version.upper()}"
    constants = getattr(module, f"CONSTANTS{suffix}", {})
    hooks = getattr(module, f"HOOKS{suffix}", {})
    return constants.get(short, {}), hooks.get(short)


def _plan(type_name: str) -> Step | None:
    """The compiled step of a type, or None when nothing in it is defaulted."""
    if type_name in _plans:
        return _plans[type_name]
    if type_name in _open:
        return None  # a type that contains itself: only JSON schemas do, and they have no defaults
    _open.add(type_name)
    declared = types.get(type_name)
    constants, hook = _own(type_name)
    values = [
        (name, value, declared.fields[name].pointer or bool(declared.fields[name].container))
        for name, value in constants.items()
    ]
    children: list[tuple[str, str, Step]] = []
    for field in declared.fields.values():
        if field.type in SCALARS or field.name == "metadata":
            continue
        step = _plan(field.type)
        if step is not None:
            children.append((field.name, field.container, step))
    _open.discard(type_name)
    plan = _compile(values, hook, children) if values or hook or children else None
    _plans[type_name] = plan
    return plan


def _compile(values: list[tuple[str, Any, bool]], hook: Step | None, children: list[tuple[str, str, Step]]) -> Step:
    def run(obj: Obj) -> None:
        for name, value, keeps_zero in values:
            if name not in obj or not (keeps_zero or obj[name]):
                obj[name] = deepcopy(value) if isinstance(value, dict | list) else value
        if hook is not None:
            hook(obj)
        for name, container, step in children:
            value = obj.get(name)
            if not value and (value is None or container):
                continue
            if container == "list":
                for item in value:
                    step(item)
            elif container == "map":
                for item in value.values():
                    step(item)
            elif not container:
                step(value)

    return run
