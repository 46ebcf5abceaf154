"""Whatever is owned by whom and deleted how: what remains must be right."""

from __future__ import annotations

import asyncio
import random

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.controllers.garbagecollector import GarbageCollector
from tests.fakes.harness import Harness

POLICIES = (None, "Background", "Foreground", "Orphan")


@pytest.mark.parametrize("seed", range(30))
async def test_random_families(seed: int):
    rng = random.Random(seed)
    async with Harness(GarbageCollector) as h:
        made = []
        h.client.watch_lag = lambda: rng.choice((0.0, 0.0, 0.01, 0.3))
        for i in range(15):
            parents = rng.sample(made, min(len(made), rng.choice((0, 1, 1, 2))))
            references = [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": p["metadata"]["name"],
                    "uid": p["metadata"]["uid"] if rng.random() > 0.05 else "stale",
                    "blockOwnerDeletion": rng.random() < 0.7,
                }
                for p in parents
            ]
            metadata = {"name": f"o{i}", "namespace": "shop", "ownerReferences": references}
            made.append(await h.create(resources.CONFIGMAPS, {"metadata": metadata}))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random())
        for victim in rng.sample(made, 7):
            try:
                await h.delete(resources.CONFIGMAPS, victim, propagation_policy=rng.choice(POLICIES))
            except StatusError as e:
                assert e.code == 404
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.01)
        await h.settle(600)
        left = {o["metadata"]["uid"]: o for o in h.all(resources.CONFIGMAPS)}
        for obj in left.values():
            metadata = obj["metadata"]
            assert not metadata.get("deletionTimestamp"), f"{metadata['name']} is stuck in deletion"
            owners = [r["uid"] for r in metadata.get("ownerReferences") or ()]
            assert not owners or any(u in left for u in owners), f"{metadata['name']} has lost all its owners"
        gc = h.controllers[0]
        assert isinstance(gc, GarbageCollector)
        owned = {u for o in left.values() for u in [r["uid"] for r in o["metadata"].get("ownerReferences") or ()]}
        dependents = {u for u, o in left.items() if o["metadata"].get("ownerReferences")}
        assert {u for u, n in gc.graph.nodes.items() if n.observed or n.verified} <= owned | dependents
