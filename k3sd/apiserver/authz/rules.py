"""RBAC policy rules: do they allow a request, do they cover other rules.

Pure. Source: ``pkg/registry/rbac/validation`` (``Covers``, ``rule.go``), ``pkg/apis/rbac/v1/evaluation_helpers.go``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from k3sd.apimachinery.errors import Obj


class Query(NamedTuple):
    """What is asked, without the asker. ``path`` is set for non-resource requests only."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Rule:
    """One PolicyRule, prepared for matching."""

    __slots__ = ("groups", "names", "resources", "urls", "verbs")

    def __init__(
        self,
        verbs: Iterable[str],
        groups: Iterable[str] = (),
        resources: Iterable[str] = (),
        names: Iterable[str] = (),
        urls: Iterable[str] = (),
    ) -> None:
        self.verbs = tuple(verbs)
        self.groups = tuple(groups)
        self.resources = tuple(resources)
        self.names = tuple(names)
        self.urls = tuple(urls)

    @classmethod
    def of(cls, rule: Obj) -> Rule:
        return cls(
            rule.get("verbs") or (),
            rule.get("apiGroups") or (),
            rule.get("resources") or (),
            rule.get("resourceNames") or (),
            rule.get("nonResourceURLs") or (),
        )

    def to_obj(self) -> Obj:
        out: Obj = {"verbs": list(self.verbs)}
        for key, value in (
            ("apiGroups", self.groups),
            ("resources", self.resources),
            ("resourceNames", self.names),
            ("nonResourceURLs", self.urls),
        ):
            if value:
                out[key] = list(value)
        return out

    def allows(self, query: Query) -> bool:
        """``RuleAllows``."""
        if query.verb not in self.verbs and "*" not in self.verbs:
            return False
        if query.path:
            return any(_url_matches(url, query.path) for url in self.urls)
        if query.group not in self.groups and "*" not in self.groups:
            return False
        resources = self.resources
        if query.subresource:
            wanted = f"{query.resource}/{query.subresource}"
            if wanted not in resources and "*" not in resources and f"*/{query.subresource}" not in resources:
                return False
        elif query.resource not in resources and "*" not in resources:
            return False
        return not self.names or query.name in self.names

    def __str__(self) -> str:
        """``CompactString``: ``{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}``."""
        parts = [
            f"{name}:[{' '.join(_quote(v) for v in values)}]"
            for name, values in (
                ("APIGroups", self.groups),
                ("Resources", self.resources),
                ("NonResourceURLs", self.urls),
                ("ResourceNames", self.names),
                ("Verbs", self.verbs),
            )
            if values
        ]
        return "{" + ", ".join(parts) + "}"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _url_matches(url: str, path: str) -> bool:
    return url in ("*", path) or (url.endswith("*") and path.startswith(url.rstrip("*")))


def covers(owner: Sequence[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """``Covers``: the parts of ``wanted`` that ``owner`` does not grant; empty when all is covered."""
    missing: list[Rule] = []
    for rule in wanted:
        for part in _break_down(rule):
            if not any(_covers_part(mine, part) for mine in owner):
                missing.append(part)
    return missing


def _break_down(rule: Rule) -> Iterator[Rule]:
    """``BreakdownRule``: one verb, group, resource, name or URL each."""
    for verb in rule.verbs:
        for group in rule.groups:
            for resource in rule.resources:
                if rule.names:
                    for name in rule.names:
                        yield Rule((verb,), (group,), (resource,), (name,))
                else:
                    yield Rule((verb,), (group,), (resource,))
        for url in rule.urls:
            yield Rule((verb,), urls=(url,))


def _covers_part(mine: Rule, part: Rule) -> bool:
    verb = part.verbs[0]
    if verb not in mine.verbs and "*" not in mine.verbs:
        return False
    if part.urls:
        return any(_url_matches(url, part.urls[0]) for url in mine.urls)
    if part.groups[0] not in mine.groups and "*" not in mine.groups:
        return False
    resource = part.resources[0]
    _, _, sub = resource.partition("/")
    if resource not in mine.resources and "*" not in mine.resources and not (sub and f"*/{sub}" in mine.resources):
        return False
    if not mine.names:
        return True
    return bool(part.names) and part.names[0] in mine.names


def compact(rules: Iterable[Rule]) -> list[Rule]:
    """``CompactRules``: rules that differ in verbs only become one; duplicates go. For messages."""
    merged: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for rule in rules:
        verbs = merged.setdefault((rule.groups, rule.resources, rule.names, rule.urls), [])
        verbs += [v for v in rule.verbs if v not in verbs]
    return [Rule(verbs, *key) for key, verbs in merged.items()]
