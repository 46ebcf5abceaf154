"""Columns and cells of apps/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, labels, name, replica_counts, selector, spec, status, template_containers

COLUMNS = {
    "ControllerRevision": "Name=name|Controller|Revision|Age",
    "DaemonSet": (
        "Name=name|Desired:integer|Current:integer|Ready:integer|Up-to-date:integer|Available:integer|Node Selector|Age|"
        "Containers+|Images+|Selector+"
    ),
    "Deployment": "Name=name|Ready|Up-to-date|Available|Age|Containers+|Images+|Selector+",
    "ReplicaSet": "Name=name|Desired:integer|Current:integer|Ready:integer|Age|Containers+|Images+|Selector+",
    "StatefulSet": "Name=name|Ready|Age|Containers+|Images+",
}


def _controller_revision(obj: Obj, now: float) -> list[Any]:
    owner = "<none>"
    for reference in obj.get("metadata", {}).get("ownerReferences") or ():
        if reference.get("controller"):
            group = reference.get("apiVersion", "").rpartition("/")[0]
            kind = reference.get("kind", "") + (f".{group}" if group else "")
            owner = f"{kind.lower()}/{reference.get('name', '')}"
            break
    return [name(obj), owner, obj.get("revision", 0), age(obj, now)]


def _daemon_set(obj: Obj, now: float) -> list[Any]:
    counts = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    template = (spec(obj).get("template") or {}).get("spec") or {}
    return [
        name(obj),
        *(status(obj).get(count, 0) for count in counts),
        labels(template.get("nodeSelector")),
        age(obj, now),
        *template_containers(obj),
        selector(spec(obj).get("selector")),
    ]


def _deployment(obj: Obj, now: float) -> list[Any]:
    return [
        name(obj),
        f"{status(obj).get('readyReplicas', 0)}/{spec(obj).get('replicas', 0)}",
        status(obj).get("updatedReplicas", 0),
        status(obj).get("availableReplicas", 0),
        age(obj, now),
        *template_containers(obj),
        selector(spec(obj).get("selector"), "", "<invalid>"),
    ]


def _replica_set(obj: Obj, now: float) -> list[Any]:
    return [*replica_counts(obj, now), selector(spec(obj).get("selector"))]


def _stateful_set(obj: Obj, now: float) -> list[Any]:
    ready = f"{status(obj).get('readyReplicas', 0)}/{spec(obj).get('replicas', 0)}"
    return [name(obj), ready, age(obj, now), *template_containers(obj)]


CELLS = {
    "ControllerRevision": _controller_revision,
    "DaemonSet": _daemon_set,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
}
