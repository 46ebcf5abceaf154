"""ControllerRevisions: the past templates of StatefulSets and DaemonSets.

Revisions are equal when their data are. Source: ``pkg/controller/history/controller_history.go``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.client.api import Client, DeleteOptions
from k3sd.client.retry import update_with_retry
from k3sd.controllers.objects import annotations_of, controller_reference, is_controlled_by, name_of, namespace_of, uid_of
from k3sd.lib.jsonvalue import clone

HASH = "controller.kubernetes.io/hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_patch(owner: Obj) -> Obj:
    """What a revision keeps: a strategic merge patch that brings the template back. In Go's order of keys: clients find
    the present revision by comparing bytes."""
    return {"spec": {"template": in_order({"$patch": "replace", **owner["spec"]["template"]})}}


def apply_revision(owner: Obj, revision: Obj) -> Obj:
    """``owner`` with the template of ``revision``."""
    template = clone(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return {**owner, "spec": {**owner["spec"], "template": template}}


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def in_order(value: Any) -> Any:
    """A copy with sorted keys."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(item) for item in value] if isinstance(value, list) else value


def same_data(a: Obj, b: Obj) -> bool:
    return canonical(a.get("data")) == canonical(b.get("data"))


def revision_hash(data: Any, collisions: int | None) -> str:
    # A count of zero is written beside the first revision: it must not change the name.
    text = canonical(data) + (str(collisions) if collisions else "")
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    out = []
    for _ in range(10):
        number, digit = divmod(number, len(_ALPHABET))
        out.append(_ALPHABET[digit])
    return "".join(out)


def order(revision: Obj) -> tuple[int, str, str]:
    """Sort key: oldest first."""
    metadata = revision["metadata"]
    return int(revision.get("revision") or 0), metadata.get("creationTimestamp") or "", metadata["name"]


def next_number(revisions: Iterable[Obj]) -> int:
    return max((int(r.get("revision") or 0) for r in revisions), default=0) + 1


def build_revision(
    owner: Obj, resource: Resource, labels: Mapping[str, str], number: int, hash_label: str, collisions: int | None
) -> Obj:
    """The revision of the owner's present template, with the owner's annotations (``kubectl rollout history`` shows one)."""
    data = template_patch(owner)
    hashed = revision_hash(data, collisions)
    name = f"{name_of(owner)[:223]}-{hashed}"
    metadata: Obj = {
        "name": name,
        "namespace": namespace_of(owner),
        "labels": {**labels, hash_label: hashed},
        "ownerReferences": [controller_reference(owner, resource)],
    }
    if annotations := annotations_of(owner):
        metadata["annotations"] = dict(annotations)
    return {
        "kind": "ControllerRevision",
        "apiVersion": "apps/v1",
        "metadata": metadata,
        "data": data,
        "revision": number,
    }


async def create_revision(client: Client, owner: Obj, revision: Obj, rehash: Any) -> tuple[Obj, int | None]:
    """Create ``revision``; ``rehash(collisions)`` builds it anew when another content has its name.

    Returns the stored revision and the owner's collision count.
    """
    collisions = (owner.get("status") or {}).get("collisionCount")
    while True:
        try:
            return await client.create(resources.CONTROLLERREVISIONS, revision, namespace_of(owner)), collisions
        except StatusError as e:
            if e.reason != "AlreadyExists":
                raise
        existing = await client.get(resources.CONTROLLERREVISIONS, name_of(revision), namespace_of(owner))
        if is_controlled_by(existing, owner) and same_data(existing, revision):
            return existing, collisions
        collisions = int(collisions or 0) + 1
        revision = rehash(collisions)


async def set_number(client: Client, revision: Obj, number: int) -> Obj:
    return await update_with_retry(
        client,
        resources.CONTROLLERREVISIONS,
        name_of(revision),
        namespace_of(revision),
        lambda r: r.update(revision=number),
        initial=revision,
        uid=uid_of(revision),
    )


async def truncate(client: Client, revisions: Sequence[Obj], live: set[str], limit: int) -> None:
    """Delete the oldest revisions beyond ``limit`` whose names are not ``live``."""
    old = sorted((r for r in revisions if name_of(r) not in live), key=order)
    for revision in old[: max(0, len(old) - limit)]:
        try:
            options = DeleteOptions(uid=uid_of(revision))
            await client.delete(resources.CONTROLLERREVISIONS, name_of(revision), namespace_of(revision), options)
        except StatusError as e:
            if e.code != 404:
                raise
