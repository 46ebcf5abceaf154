"""Objects made at start: flow schemas, and default/kubernetes, which is put right again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from k3sd.apis import resources as r
from k3sd.apiserver.registry import Registry
from k3sd.apiserver.startup import make_startup_objects
from k3sd.config.settings import Settings
from tests.support.apiserver import open_registry, until

ADDRESS = "192.0.2.7"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with open_registry(Settings(data_dir=str(tmp_path), advertise_address=ADDRESS)) as registry:
        await make_startup_objects(registry)
        yield registry


async def test_flow_schemas_refer_to_levels_that_exist(registry: Registry) -> None:
    levels = {o["metadata"]["name"]: o for o in registry.read_all(r.PRIORITYLEVELCONFIGURATIONS)}
    schemas = list(registry.read_all(r.FLOWSCHEMAS))
    assert len(levels) == 8 and len(schemas) == 13
    assert {s["spec"]["priorityLevelConfiguration"]["name"] for s in schemas} <= levels.keys()
    assert levels["exempt"]["spec"]["type"] == "Exempt"
    assert levels["catch-all"]["spec"]["limited"]["limitResponse"] == {"type": "Reject"}
    revision = registry.cache.revision
    await make_startup_objects(registry)
    assert registry.cache.revision == revision, "a second start writes nothing"


@pytest.mark.parametrize("resource", [r.SERVICES, r.ENDPOINTS, r.ENDPOINTSLICES], ids=lambda row: row.plural)
async def test_a_deleted_object_comes_back(registry: Registry, resource: r.Resource) -> None:
    before = registry.read(resource, "kubernetes", "default")
    assert before is not None
    await registry.client().delete(resource, "kubernetes", "default")
    await until(registry, resource, lambda: registry.read(resource, "kubernetes", "default") is not None)
    after = registry.read(resource, "kubernetes", "default")
    assert after is not None and after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after.get("spec") == before.get("spec") and after.get("endpoints") == before.get("endpoints")


async def test_what_was_altered_is_put_right(registry: Registry) -> None:
    client = registry.client()

    def addresses() -> list[str]:
        piece = registry.read(r.ENDPOINTSLICES, "kubernetes", "default")
        return [e["addresses"][0] for e in (piece or {}).get("endpoints") or ()]

    other = [{"addresses": ["192.0.2.8"], "conditions": {"ready": True}}]
    await client.patch(r.ENDPOINTSLICES, "kubernetes", {"endpoints": other}, "default")
    await until(registry, r.ENDPOINTSLICES, lambda: ADDRESS in addresses())
    assert addresses() == [ADDRESS, "192.0.2.8"], "another server's address stays"

    def port() -> int:
        service = registry.read(r.SERVICES, "kubernetes", "default")
        return int(service["spec"]["ports"][0]["port"]) if service else 0

    live = registry.read(r.SERVICES, "kubernetes", "default")
    assert live is not None
    changed = [{**live["spec"]["ports"][0], "port": 444}]
    await client.patch(r.SERVICES, "kubernetes", {"spec": {"ports": changed}}, "default")
    await until(registry, r.SERVICES, lambda: port() == 443)
