"""What a request is to the layers behind HTTP: who asks (``UserInfo``), what for (``RequestContext``), and how it is answered.

The HTTP face and the in-process client both build a ``RequestContext`` and call ``k3sd.apiserver.registry``; authorization and
admission read it. Nothing behind this line knows about HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource

Verb = Literal["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect", "proxy"]


@dataclass(frozen=True, slots=True)
class UserInfo:
    """An authenticated identity; ``authentication.k8s.io/v1 UserInfo``."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)


ANONYMOUS = UserInfo("system:anonymous", ("system:unauthenticated",))
LOOPBACK = UserInfo("system:apiserver", ("system:masters", "system:authenticated"))
"""The API server's own in-process identity."""


@dataclass(slots=True)
class RequestContext:
    """One API request. For non-resource requests ``resource`` is None and ``path`` is what RBAC looks at.

    ``verb`` is the authorization verb. ``warnings`` are texts for ``Warning: 299`` headers. ``user_agent`` is the default
    field manager source. ``field_selector`` is the text of a list or watch (nodes may only select their own pods).
    ``privileged`` requests (in-process components) skip authorization but not admission.
    """

    user: UserInfo
    verb: str
    resource: Resource | None = None
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    dry_run: bool = False
    field_manager: str = ""
    field_validation: Literal["Ignore", "Warn", "Strict"] = "Warn"
    user_agent: str = ""
    privileged: bool = False
    field_selector: str = ""
    warnings: list[str] = field(default_factory=list)


class Decision(NamedTuple):
    """An authorizer's answer; ``reason`` is appended to the Forbidden message."""

    allowed: bool
    reason: str = ""


class Authorizer(Protocol):
    def authorize(self, ctx: RequestContext) -> Decision:
        """Decide from cached rules, no I/O. Takes effect of an RBAC write as soon as the write was answered."""
        ...


@dataclass(slots=True)
class Attributes:
    """What admission sees: the object after decoding and defaulting (None for delete), the stored one (None for create)."""

    ctx: RequestContext
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    obj: Obj | None
    old: Obj | None
    options: Obj = field(default_factory=dict)


class AdmissionPlugin(Protocol):
    """One admission plugin. Mutators run in order, then validation of the kind, then validators.

    ``handles`` is asked once per (resource, subresource, operation) and cached, so a plugin costs nothing where it has no say.
    Both raise StatusError to refuse.
    """

    name: str

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool: ...
    async def admit(self, attrs: Attributes) -> None: ...
    async def validate(self, attrs: Attributes) -> None: ...
    async def close(self) -> None: ...
