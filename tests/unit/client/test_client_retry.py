from __future__ import annotations

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from tests.fakes.client import FakeClient


async def test_reads_again_on_conflict_and_starts_from_the_cached_object():
    client = FakeClient()
    stale = await client.create(resources.CONFIGMAPS, {"metadata": {"name": "a"}, "data": {"n": "1"}}, "default")
    await client.patch(resources.CONFIGMAPS, "a", {"data": {"other": "x"}}, "default")
    out = await update_with_retry(
        client, resources.CONFIGMAPS, "a", "default", lambda o: o["data"].update(n="2"), initial=stale
    )
    assert out["data"] == {"n": "2", "other": "x"}
    assert stale["data"] == {"n": "1"}


async def test_writes_nothing_when_nothing_changes():
    client = FakeClient()
    await client.create(resources.CONFIGMAPS, {"metadata": {"name": "a"}}, "default")
    client.actions.clear()
    await update_with_retry(client, resources.CONFIGMAPS, "a", "default", lambda o: None)
    assert client.actions == []


async def test_gives_up_after_the_bound_and_leaves_successors_alone():
    client = FakeClient()
    await client.create(resources.CONFIGMAPS, {"metadata": {"name": "a"}}, "default")

    def conflict(verb, resource, obj, subresource) -> None:
        raise StatusError(409, "Conflict", "always")

    with pytest.raises(StatusError, match="uid other"):
        await update_with_retry(client, resources.CONFIGMAPS, "a", "default", lambda o: None, uid="other")
    client.on_write(conflict)
    with pytest.raises(StatusError, match="always"):
        await update_with_retry(client, resources.CONFIGMAPS, "a", "default", lambda o: o.update(data={}))
