"""Who owns whom, from object metadata. Pure: events go in, names of nodes to look at come out.

Only what matters is kept: objects that have owners, objects that are owned, and objects whose deletion waits for the
collector. An owner nobody has told us about is *virtual* until seen. Source: ``garbagecollector/graph_builder.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class Owner(NamedTuple):
    """One owner reference."""

    uid: str
    api_version: str
    kind: str
    name: str
    blocks: bool

    @classmethod
    def of(cls, reference: Obj) -> Owner:
        return cls(
            str(reference.get("uid") or ""),
            str(reference.get("apiVersion") or ""),
            str(reference.get("kind") or ""),
            str(reference.get("name") or ""),
            bool(reference.get("blockOwnerDeletion")),
        )


class Node:
    """One object. ``resource`` is None while it is virtual and unknown."""

    __slots__ = (
        "deleting",
        "dependents",
        "foreground",
        "name",
        "namespace",
        "observed",
        "owners",
        "resource",
        "uid",
        "verified",
    )

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.resource: Resource | None = None
        self.namespace = ""
        self.name = ""
        self.owners: tuple[Owner, ...] = ()
        self.dependents: dict[str, Node] = {}
        self.observed = False
        """Seen by a watch, not only named by a dependent."""
        self.verified = False
        """Virtual, but a read has shown that it exists; the watch will report its end."""
        self.deleting = False
        self.foreground = False
        """Its deletion waits for the dependents that block it."""

    def blocks(self, owner_uid: str) -> bool:
        return any(o.uid == owner_uid and o.blocks for o in self.owners)

    @property
    def blocking_dependents(self) -> list[Node]:
        return [d for d in self.dependents.values() if d.blocks(self.uid)]


class OwnerGraph:
    """``look`` is called with the uid of a node whose right to exist must be checked, ``orphan`` with that of an owner whose
    dependents shall be set free."""

    def __init__(self, look: Callable[[str], object], orphan: Callable[[str], object]) -> None:
        self.nodes: dict[str, Node] = {}
        self._look = look
        self._orphan = orphan
        self._by_resource: dict[Resource, set[str]] = {}

    def of_resource(self, resource: Resource) -> set[str]:
        return set(self._by_resource.get(resource, ()))

    def seen(self, resource: Resource, obj: Obj) -> None:
        """The object exists and looks like this now."""
        metadata = obj["metadata"]
        uid = str(metadata["uid"])
        finalizers: Sequence[str] = metadata.get("finalizers") or ()
        deleting = bool(metadata.get("deletionTimestamp"))
        foreground, orphaning = deleting and FOREGROUND in finalizers, deleting and ORPHAN in finalizers
        references = metadata.get("ownerReferences") or ()
        node = self.nodes.get(uid)
        if node is None:
            if not references and not foreground and not orphaning:
                return
            node = self.nodes[uid] = Node(uid)
        self._place(node, resource, str(metadata.get("namespace") or ""), str(metadata["name"]))
        node.observed = True
        node.deleting = deleting
        was_foreground, node.foreground = node.foreground, foreground
        self._relink(node, tuple(Owner.of(r) for r in references))
        if orphaning:
            self._orphan(uid)
        elif foreground:
            if not was_foreground:
                for dependent in node.dependents:
                    self._look(dependent)
            self._look(uid)
        self._prune(node)

    def gone(self, uid: str) -> None:
        """The object does not exist (any more)."""
        node = self.nodes.pop(uid, None)
        if node is None:
            return
        if node.resource is not None:
            self._by_resource[node.resource].discard(uid)
        for owner in node.owners:
            self._unlink(owner.uid, node)
        for dependent in list(node.dependents):
            self._look(dependent)

    def verify(self, node: Node, resource: Resource, namespace: str, name: str) -> None:
        """A read found the virtual ``node``: later dependents need not ask again."""
        if self.nodes.get(node.uid) is node and not node.observed:
            self._place(node, resource, namespace, name)
            node.verified = True

    def replace(self, resource: Resource, items: Iterable[Obj]) -> None:
        """These are all objects of ``resource``: what we know besides them is gone."""
        present: set[str] = set()
        for obj in items:
            present.add(str(obj["metadata"]["uid"]))
            self.seen(resource, obj)
        for uid in self.of_resource(resource) - present:
            self.gone(uid)

    def _place(self, node: Node, resource: Resource, namespace: str, name: str) -> None:
        if node.resource is not resource:
            if node.resource is not None:
                self._by_resource[node.resource].discard(node.uid)
            node.resource = resource
            self._by_resource.setdefault(resource, set()).add(node.uid)
        node.namespace, node.name = namespace, name

    def _relink(self, node: Node, owners: tuple[Owner, ...]) -> None:
        before, node.owners = node.owners, owners
        if before == owners:
            return
        uids = {o.uid for o in owners}
        for owner in before:
            if owner.uid not in uids:
                self._unlink(owner.uid, node)
            elif owner.blocks and not node.blocks(owner.uid):
                self._wake(owner.uid)
        known = {o.uid for o in before}
        for owner in owners:
            if owner.uid in known:
                continue
            parent = self.nodes.get(owner.uid)
            if parent is None:
                parent = self.nodes[owner.uid] = Node(owner.uid)
            parent.dependents[node.uid] = node
            # A dependent of an owner that may not exist, or that is being deleted with its dependents, must be judged.
            if not (parent.observed or parent.verified) or parent.foreground:
                self._look(node.uid)

    def _unlink(self, owner_uid: str, node: Node) -> None:
        parent = self.nodes.get(owner_uid)
        if parent is None:
            return
        parent.dependents.pop(node.uid, None)
        self._wake(owner_uid)
        self._prune(parent)

    def _wake(self, owner_uid: str) -> None:
        """A dependent less: an owner that waits for them may be free."""
        parent = self.nodes.get(owner_uid)
        if parent is not None and parent.foreground:
            self._look(owner_uid)

    def _prune(self, node: Node) -> None:
        """Forget what has become uninteresting."""
        if not node.owners and not node.dependents and not node.deleting and self.nodes.get(node.uid) is node:
            del self.nodes[node.uid]
            if node.resource is not None:
                self._by_resource[node.resource].discard(node.uid)
