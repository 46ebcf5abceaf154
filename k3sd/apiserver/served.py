"""``ServedResources``: which resources this server serves now, and how a path names one.

The built-in rows come from ``k3sd.apis.resources``; custom resources are added and removed at run time. ``generation`` grows
with every change, so that discovery and OpenAPI documents are built once a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from k3sd.apimachinery.resource import Resource, Subresource


class VersionKey(NamedTuple):
    """Sort key of an API version: GA before beta before alpha, newer first. Source:
    ``util/version.CompareKubeAwareVersionStrings``."""

    stability: int
    major: int
    minor: int
    text: str

    @classmethod
    def of(cls, version: str) -> VersionKey:
        digits = version[1:]
        for rank, word in ((2, "alpha"), (1, "beta")):
            major, found, minor = digits.partition(word)
            if found and major.isdigit() and minor.isdigit():
                return cls(rank, -int(major), -int(minor), version)
        if version.startswith("v") and digits.isdigit():
            return cls(0, -int(digits), 0, version)
        return cls(3, 0, 0, version)


GROUP_ORDER = (
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
)
"""Discovery order of the built-in groups (``kube-aggregator`` priorities): the first group that knows a short name wins in
kubectl."""


class ServedResources:
    """Lookup tables over rows. All lookups are exact and cheap; the tables are rebuilt on change only."""

    def __init__(self, rows: Iterable[Resource]) -> None:
        self._rows: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in rows}
        self.generation = 1

    def __iter__(self) -> Iterator[Resource]:
        return iter(tuple(self._rows.values()))

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._rows.get((group, version, plural))

    def add(self, row: Resource) -> None:
        self._rows[(row.group, row.version, row.plural)] = row
        self._changed()

    def remove(self, row: Resource) -> None:
        self._rows.pop((row.group, row.version, row.plural), None)
        self._changed()

    def _changed(self) -> None:
        self.generation += 1
        for name in ("groups", "_by_version"):
            self.__dict__.pop(name, None)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group to its versions, preferred first; groups in discovery order."""
        found: dict[str, set[str]] = {}
        for group, version, _ in self._rows:
            found.setdefault(group, set()).add(version)
        rank = {group: i for i, group in enumerate(GROUP_ORDER)}
        ordered = sorted(found, key=lambda g: (rank.get(g, len(rank)), g))
        return {g: tuple(sorted(found[g], key=VersionKey.of)) for g in ordered}

    @cached_property
    def _by_version(self) -> dict[tuple[str, str], tuple[Resource, ...]]:
        out: dict[tuple[str, str], list[Resource]] = {}
        for row in self._rows.values():
            out.setdefault((row.group, row.version), []).append(row)
        return {k: tuple(sorted(v, key=lambda r: r.plural)) for k, v in out.items()}

    def in_version(self, group: str, version: str) -> tuple[Resource, ...]:
        """The rows of one group/version sorted by plural; empty when it is not served."""
        return self._by_version.get((group, version), ())


def subresource(row: Resource, name: str) -> Subresource | None:
    """The row's subresource of that name."""
    for sub in row.subresources:
        if sub.name == name:
            return sub
    return None
