from __future__ import annotations

import asyncio
import itertools

import pytest

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.informer import InformerFactory, Reflector, object_key, split_key
from tests.fakes.client import FakeClient


def pod(name: str, namespace: str = "default", node: str = "") -> Obj:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node}}


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.mark.parametrize(("key", "parts"), [("ns/web", ("ns", "web")), ("node-1", ("", "node-1"))])
def test_split_key(key: str, parts: tuple[str, str]):
    assert split_key(key) == parts


async def test_lists_then_follows_and_keeps_indexes(client: FakeClient):
    await client.create(resources.PODS, pod("a", node="n1"), "default")
    factory = InformerFactory(client)
    informer = factory.informer(resources.PODS)
    informer.add_index("node", lambda o: [o["spec"]["nodeName"]])
    log: list[tuple[str, ...]] = []
    informer.add_handler(
        lambda o: log.append(("add", object_key(o))),
        lambda old, new: log.append(("update", object_key(new), old["spec"]["nodeName"], new["spec"]["nodeName"])),
        lambda o: log.append(("delete", object_key(o))),
    )
    factory.start()
    await factory.wait_synced()
    assert [object_key(o) for o in informer.by_index("node", "n1")] == ["default/a"]
    b = await client.create(resources.PODS, pod("b", "other", "n1"), "other")
    await asyncio.sleep(1)
    assert len(informer) == 2 and len(informer.by_index("node", "n1")) == 2
    assert [object_key(o) for o in informer.list("other")] == ["other/b"]
    await client.update(resources.PODS, {**b, "spec": {"nodeName": "n2"}})
    await asyncio.sleep(1)
    assert [object_key(o) for o in informer.by_index("node", "n2")] == ["other/b"]
    await client.delete(resources.PODS, "a", "default")
    await asyncio.sleep(1)
    assert log[:3] == [("add", "default/a"), ("add", "other/b"), ("update", "other/b", "n1", "n2")]
    await factory.stop()


async def test_informers_are_shared_and_late_handlers_hear_of_everything(client: FakeClient):
    await client.create(resources.PODS, pod("a"), "default")
    factory = InformerFactory(client)
    assert factory.informer(resources.PODS) is factory.informer(resources.PODS)
    assert factory.informer(resources.PODS) is not factory.informer(resources.PODS, "default")
    informer = factory.informer(resources.PODS)
    factory.start()
    await informer.wait_synced()
    seen: list[str] = []
    remove = informer.add_handler(on_add=lambda o: seen.append(object_key(o)))
    assert seen == ["default/a"]
    remove()
    await client.create(resources.PODS, pod("b"), "default")
    await asyncio.sleep(1)
    assert seen == ["default/a"] and informer.get("default/b") is not None
    await factory.stop()


async def test_a_closed_watch_resumes_without_listing_again(client: FakeClient):
    factory = InformerFactory(client)
    informer = factory.informer(resources.PODS)
    factory.start()
    await informer.wait_synced()
    lists = 0
    original = client.list

    async def counting(*args, **kwargs):
        nonlocal lists
        lists += 1
        return await original(*args, **kwargs)

    client.list = counting  # type: ignore[method-assign]
    for i in range(3):
        client.close_watches(resources.PODS)
        await client.create(resources.PODS, pod(f"p{i}"), "default")
        await asyncio.sleep(2)
    assert len(informer) == 3 and lists == 0
    await factory.stop()


async def test_an_expired_version_lists_again_and_reports_what_was_missed(client: FakeClient):
    await client.create(resources.PODS, pod("gone"), "default")
    kept = await client.create(resources.PODS, pod("kept"), "default")
    await client.create(resources.PODS, pod("same"), "default")
    factory = InformerFactory(client)
    informer = factory.informer(resources.PODS)
    log: list[tuple[str, str]] = []
    informer.add_handler(
        lambda o: log.append(("add", object_key(o))),
        lambda old, new: log.append(("update", object_key(new))),
        lambda o: log.append(("delete", object_key(o))),
    )
    factory.start()
    await informer.wait_synced()
    log.clear()
    # Everything below happens between two watches, and the history is lost.
    watch = client.watch

    def broken(*args, **kwargs):
        raise ConnectionError("server is away")

    client.watch = broken  # type: ignore[method-assign]
    client.close_watches(resources.PODS)
    await asyncio.sleep(0.01)
    await client.delete(resources.PODS, "gone", "default")
    await client.update(resources.PODS, {**kept, "spec": {"nodeName": "n9"}})
    await client.create(resources.PODS, pod("new"), "default")
    client.compact()
    client.watch = watch  # type: ignore[method-assign]
    await asyncio.sleep(60)
    assert sorted(log) == [("add", "default/new"), ("delete", "default/gone"), ("update", "default/kept")]
    await factory.stop()


async def test_recreated_between_lists_is_a_delete_and_an_add(client: FakeClient):
    informer = InformerFactory(client).informer(resources.PODS)
    log: list[tuple[str, str]] = []
    informer.add_handler(
        lambda o: log.append(("add", o["metadata"]["uid"])), None, lambda o: log.append(("delete", o["metadata"]["uid"]))
    )
    informer.replace([{"metadata": {"name": "a", "uid": "1", "resourceVersion": "1"}}])
    informer.replace([{"metadata": {"name": "a", "uid": "2", "resourceVersion": "5"}}])
    assert log == [("add", "1"), ("delete", "1"), ("add", "2")]


async def test_retries_with_growing_pauses_while_the_server_is_away(client: FakeClient):
    attempts: list[float] = []

    async def away(*args, **kwargs):
        attempts.append(asyncio.get_running_loop().time())
        raise ConnectionError("connection refused")

    client.list = away  # type: ignore[method-assign]
    informer = InformerFactory(client).informer(resources.PODS)
    informer.start()
    await asyncio.sleep(300)
    assert not informer.synced
    assert 12 < len(attempts) < 40
    assert max(b - a for a, b in itertools.pairwise(attempts)) <= 45
    await informer.stop()


async def test_a_failing_handler_does_not_stop_the_others(client: FakeClient):
    informer = InformerFactory(client).informer(resources.PODS)
    seen: list[str] = []

    def bad(obj: Obj) -> None:
        raise ValueError("bug")

    informer.add_handler(on_add=bad)
    informer.add_handler(on_add=lambda o: seen.append(object_key(o)))
    informer.start()
    await informer.wait_synced()
    await client.create(resources.PODS, pod("a"), "default")
    await asyncio.sleep(1)
    assert seen == ["default/a"]
    await informer.stop()


async def test_a_watch_that_closes_at_once_does_not_spin(client: FakeClient):
    opened = 0

    async def empty(*args, **kwargs):
        nonlocal opened
        opened += 1
        return
        yield

    client.watch = empty  # type: ignore[method-assign]

    class Nothing:
        def replace(self, items) -> None: ...
        def apply(self, type_, obj) -> None: ...

    task = asyncio.create_task(Reflector(client, resources.PODS, Nothing()).run())
    await asyncio.sleep(60)
    task.cancel()
    assert opened < 20


async def test_a_status_error_event_is_retried(client: FakeClient):
    real, failed = client.watch, []

    async def watch(*args, **kwargs):
        if not failed:
            failed.append(1)
            raise StatusError(500, "InternalError", "boom")
        async for event in real(*args, **kwargs):
            yield event

    client.watch = watch  # type: ignore[method-assign]
    informer = InformerFactory(client).informer(resources.PODS)
    informer.start()
    await informer.wait_synced()
    await client.create(resources.PODS, pod("a"), "default")
    await asyncio.sleep(5)
    assert informer.get("default/a") is not None
    await informer.stop()


async def test_a_sink_that_fails_is_filled_anew(client: FakeClient):
    await client.create(resources.PODS, pod("a"), "default")

    class Fragile:
        lists = 0

        def replace(self, items) -> None:
            Fragile.lists += 1

        def apply(self, type_, obj) -> None:
            raise KeyError("bug")

    task = asyncio.create_task(Reflector(client, resources.PODS, Fragile()).run())
    await asyncio.sleep(1)
    await client.create(resources.PODS, pod("b"), "default")
    await asyncio.sleep(5)
    task.cancel()
    assert Fragile.lists == 2
