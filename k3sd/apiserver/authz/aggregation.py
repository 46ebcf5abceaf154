"""ClusterRole aggregation: a role with an ``aggregationRule`` is the sum of the roles its selectors choose.

Source: ``pkg/controller/clusterroleaggregation``. It lives with the authorizer: ``admin``, ``edit`` and ``view`` are empty
without it. Changes of ClusterRoles lead to one pass over the aggregated roles; a pass that finds nothing to do writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from k3sd.apimachinery import selectors
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.apiserver.follow import follow
from k3sd.apiserver.kinds.rules import clone
from k3sd.apiserver.request import LOOPBACK, RequestContext
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


def compute_rules(role: Obj, others: list[Obj]) -> list[Obj]:
    """The rules of an aggregated role: those of the chosen ones in order of name, each once."""
    rules: list[Obj] = []
    chosen = [selectors.label_selector_from(s) for s in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()]
    for other in sorted(others, key=lambda o: str(o["metadata"]["name"])):
        if other["metadata"]["name"] == role["metadata"]["name"]:
            continue
        labels = other["metadata"].get("labels")
        if any(s.matches(labels) for s in chosen):
            rules += [r for r in other.get("rules") or () if r not in rules]
    return rules


class RoleAggregator:
    """Writes aggregated rules soon after what they are made of changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._aggregated: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._dirty = False

    def attach(self) -> None:
        """Follow ClusterRoles. Needs a running event loop."""
        follow(self._registry, resources.CLUSTERROLES, self._on_role)

    def _on_role(self, event: str, obj: Obj, old: Obj | None) -> None:
        name = obj["metadata"]["name"]
        if event != "DELETED" and obj.get("aggregationRule"):
            self._aggregated.add(name)
        else:
            self._aggregated.discard(name)
        if not self._aggregated:
            return
        self._dirty = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="clusterrole-aggregation")

    async def _run(self) -> None:
        while self._dirty:
            self._dirty = False
            try:
                await self._pass()
            except (StatusError, DatastoreError) as error:
                log.info("aggregating cluster roles failed, next try in %s s: %s", _RETRY_SECONDS, error)
                self._dirty = True
                await asyncio.sleep(_RETRY_SECONDS)

    async def _pass(self) -> None:
        for name in sorted(self._aggregated):
            # A sum may be part of another sum (edit in admin): always from what is stored now.
            roles = list(self._registry.read_all(resources.CLUSTERROLES))
            role = next((r for r in roles if r["metadata"]["name"] == name), None)
            if role is None:
                continue
            rules = compute_rules(role, roles)
            if rules != (role.get("rules") or []):
                new: Obj = clone(role)
                new["rules"] = rules
                ctx = RequestContext(LOOPBACK, "update", resources.CLUSTERROLES, name=name, privileged=True)
                ctx.field_manager = "clusterrole-aggregation-controller"
                await self._registry.update(ctx, new)

    async def stop(self) -> None:
        """Give up a pass that waits. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
