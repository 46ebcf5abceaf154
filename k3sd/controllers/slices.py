"""Which EndpointSlices to create, change and delete so that they say what is wanted with few writes. Pure.

Source: ``staging/src/k8s.io/endpointslice/reconciler.go`` (``reconcileByPortMapping``).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from k3sd.apimachinery.errors import Obj
from k3sd.controllers.objects import labels_of

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
HEADLESS = "service.kubernetes.io/headless"
MAX_ENDPOINTS = 100


class Group(NamedTuple):
    """Endpoints that may share a slice: one address type, one list of ports (as canonical JSON)."""

    address_type: str
    ports: str


class Plan(NamedTuple):
    """Full objects to create and update, existing ones to delete."""

    create: list[Obj]
    update: list[Obj]
    delete: list[Obj]


def address_type(address: str) -> str:
    """``IPv4`` or ``IPv6``."""
    return "IPv6" if ":" in address else "IPv4"


def group_of(address_type: str, ports: Iterable[Obj]) -> Group:
    canonical = sorted(ports, key=lambda p: (p.get("name") or "", int(p.get("port") or 0), p.get("protocol") or ""))
    return Group(address_type, json.dumps(canonical, sort_keys=True, separators=(",", ":")))


def identity(endpoint: Obj) -> tuple[str, ...]:
    """What makes two endpoints the same one, possibly changed."""
    target = endpoint.get("targetRef") or {}
    return (target.get("uid") or "", *(endpoint.get("addresses") or ()))


def plan(
    existing: Sequence[Obj],
    wanted: Mapping[Group, Sequence[Obj]],
    skeleton: Obj,
    address_types: Sequence[str],
    max_endpoints: int = MAX_ENDPOINTS,
) -> Plan:
    """``existing`` are all slices we manage for one Service; ``skeleton`` is the metadata every one of them must carry.

    An address type without endpoints keeps one empty slice, so that readers see that there is nothing.
    """
    out = Plan([], [], [])
    by_group: dict[Group, list[Obj]] = {}
    for one in existing:
        if one["addressType"] not in address_types:
            out.delete.append(one)
        else:
            by_group.setdefault(group_of(one["addressType"], one.get("ports") or ()), []).append(one)
    for type_ in address_types:
        groups = {g: e for g, e in wanted.items() if g.address_type == type_ and e}
        if not groups:
            groups = {Group(type_, "[]"): []}
        for group, slices in by_group.items():
            if group.address_type == type_ and group not in groups:
                out.delete.extend(slices)
        for group, endpoints in groups.items():
            _plan_group(group, by_group.get(group, []), endpoints, skeleton, max_endpoints, out)
    return _reuse(out)


def _plan_group(
    group: Group, slices: Sequence[Obj], endpoints: Sequence[Obj], skeleton: Obj, max_endpoints: int, out: Plan
) -> None:
    missing = {identity(e): e for e in endpoints}
    kept: list[tuple[Obj, list[Obj]]] = []
    for one in sorted(slices, key=lambda s: str(s["metadata"]["name"])):
        own = [missing.pop(i) for e in one.get("endpoints") or () if (i := identity(e)) in missing]
        kept.append((one, own))
    left = list(missing.values())
    # First fill slices that change anyway; what then fits into one more slice goes there, the rest into new ones.
    for one, own in kept:
        if left and not _unchanged(one, own, skeleton):
            room = max(0, max_endpoints - len(own))
            own.extend(left[:room])
            left = left[room:]
    roomy = [own for _, own in kept if len(own) + len(left) <= max_endpoints]
    if left and roomy:
        max(roomy, key=len).extend(left)
        left = []
    empty_kept = not endpoints and not left
    for one, own in kept:
        if not own and not empty_kept:
            out.delete.append(one)
            continue
        if not own:
            empty_kept = False  # one placeholder is enough
        if not _unchanged(one, own, skeleton):
            out.update.append(_build(one, group, own, skeleton))
    if not kept and not left:
        out.create.append(_build(None, group, [], skeleton))
    for start in range(0, len(left), max_endpoints):
        out.create.append(_build(None, group, left[start : start + max_endpoints], skeleton))


def _reuse(out: Plan) -> Plan:
    """Turn a deletion and a creation of the same address type into one update."""
    creations: list[Obj] = []
    deletions = list(out.delete)
    for new in out.create:
        old = next((d for d in deletions if d["addressType"] == new["addressType"]), None)
        if old is None:
            creations.append(new)
            continue
        deletions.remove(old)
        metadata = {**old["metadata"], **{k: v for k, v in new["metadata"].items() if k != "generateName"}}
        out.update.append({**old, **new, "metadata": metadata})
    return Plan(creations, out.update, deletions)


def _unchanged(one: Obj, endpoints: Sequence[Obj], skeleton: Obj) -> bool:
    if (one.get("endpoints") or []) != list(endpoints):
        return False
    metadata = one["metadata"]
    if dict(labels_of(one)) != skeleton["labels"]:
        return False
    if (metadata.get("ownerReferences") or []) != skeleton["ownerReferences"]:
        return False
    annotations = metadata.get("annotations") or {}
    return all(annotations.get(k) == v for k, v in (skeleton.get("annotations") or {}).items() if k != TRIGGER_TIME)


def _build(one: Obj | None, group: Group, endpoints: Sequence[Obj], skeleton: Obj) -> Obj:
    metadata: Obj
    if one is None:
        metadata = dict(skeleton)
    else:
        metadata = {**one["metadata"], "labels": skeleton["labels"], "ownerReferences": skeleton["ownerReferences"]}
        if skeleton.get("annotations"):
            metadata["annotations"] = {**(metadata.get("annotations") or {}), **skeleton["annotations"]}
    return {
        **(one or {}),
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": group.address_type,
        "endpoints": list(endpoints),
        "ports": json.loads(group.ports),
    }


TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


def sort_key(address: str) -> bytes:
    """Orders addresses by family and number."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address).rjust(17, b"\0")
    except OSError:
        return b""
