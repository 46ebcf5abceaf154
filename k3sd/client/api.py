"""The client contract: one interface, two transports (in-process registry, HTTPS), one error type (``StatusError``).

Objects are wire-shaped dicts. An object that came from a list, watch or informer is shared and read-only: copy before change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource

PatchType = Literal[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
]
EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]


@dataclass(slots=True)
class List:
    """A list and the opaque resource version at which it holds; ``continue_`` is non-empty when more follows."""

    items: list[Obj]
    resource_version: str
    continue_: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. For ERROR ``object`` is a Status; the stream ends after it."""

    type: EventType
    object: Obj


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Upstream's DeleteOptions; None means "not given". ``propagation_policy``: Orphan, Background or Foreground."""

    grace_period_seconds: int | None = None
    propagation_policy: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class Client(Protocol):
    """CRUD and watch on any resource. ``namespace`` is None for cluster scope or, in lists and watches, for all namespaces.

    ``resource`` is a row of ``k3sd.apis.resources`` (``resources.PODS``). Raises StatusError; transport failures are
    ``ConnectionError`` or ``TimeoutError``.
    """

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj: ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> List: ...

    async def create(
        self,
        resource: Resource,
        obj: Obj,
        namespace: str | None = None,
        *,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
    ) -> Obj:
        """POST. ``name`` and ``subresource`` address e.g. ``pods/NAME/binding`` or ``serviceaccounts/NAME/token``."""
        ...

    async def update(
        self, resource: Resource, obj: Obj, *, subresource: str = "", dry_run: bool = False, field_manager: str = ""
    ) -> Obj:
        """PUT; name, namespace and the precondition (resourceVersion) come from ``obj.metadata``."""
        ...

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        patch_type: PatchType = "application/merge-patch+json",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Obj: ...

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, options: DeleteOptions | None = None
    ) -> Obj:
        """Returns the object when deletion is graceful or waits for finalizers, else a Status."""
        ...

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str | None = None,
        options: DeleteOptions | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None: ...

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = True,
        timeout_seconds: int = 0,
    ) -> AsyncIterator[WatchEvent]:
        """Events after ``resource_version``. Ends when the server closes the stream; an expired version raises
        StatusError(410)."""
        ...

    async def close(self) -> None: ...
