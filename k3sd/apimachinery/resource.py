"""``Resource``: one row a served resource, the only place where group, version, plural, kind, scope and verbs are written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """A served resource, compared and hashed by identity (it is the key of every per-request lookup; a field-wise hash costs
    microseconds). ``subresources`` are the rows below it; ``type_name`` is the schema definition
    (``io.k8s.api.core.v1.Pod``). Two rows may share one store (events and events.k8s.io, autoscaling/v1 and v2): which row is
    the stored one, and the conversion, is the API server's business. ``deprecation`` is the warning every answer carries."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    type_name: str
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    deprecation: str = ""

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``, as in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``deployments.apps``, as in messages and RBAC."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The REST path, without query."""
        parts = ["/api" if not self.group else f"/apis/{self.group}", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Subresource:
    """``name`` such as ``status`` or ``scale``; ``kind`` with its ``group`` and ``version`` is what it reads and writes."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = "v1"
    type_name: str = ""
