import asyncio
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.kubelet.sources import Change, Reference, Sources, references
from k3sd.kubelet.tokens import TokenManager, TokenRequest, refresh_time
from tests.support.fakeclient import FakeClient, settle

Obj = dict[str, Any]


def pod(uid: str = "u1", **spec: Any) -> Obj:
    return {"metadata": {"name": "p", "namespace": "ns", "uid": uid}, "spec": spec}


USES_CM = {"volumes": [{"name": "v", "configMap": {"name": "cm"}}]}


def test_references_of_a_pod() -> None:
    a_pod = pod(
        imagePullSecrets=[{"name": "pull"}],
        initContainers=[{"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}}]}],
        containers=[{"envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "c1"}}]}],
        ephemeralContainers=[{"env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
        volumes=[
            {"name": "a", "secret": {"secretName": "s3"}},
            {
                "name": "b",
                "projected": {"sources": [{"configMap": {"name": "c2"}}, {"secret": {"name": "s4"}}, {"downwardAPI": {}}]},
            },
            {"name": "c", "emptyDir": {}},
        ],
    )
    secrets = {Reference("Secret", "ns", n) for n in ("pull", "s1", "s2", "s3", "s4")}
    assert references(a_pod) == secrets | {Reference("ConfigMap", "ns", n) for n in ("c1", "c2")}


async def test_one_watch_serves_all_pods_and_ends_with_the_last() -> None:
    client = FakeClient()
    client.put("configmaps", "ns", "cm", data={"a": "1"})
    sources = Sources(client)  # type: ignore[arg-type]
    changes: list[Change] = []
    sources.subscribe(changes.append)
    sources.add_pod(pod("u1", **USES_CM))
    sources.add_pod(pod("u2", **USES_CM))
    assert (await sources.get_config_map("ns", "cm"))["data"] == {"a": "1"}
    await settle()
    assert client.lists == ["configmaps ns metadata.name=cm"] and client.watches("configmaps", "ns", "cm") == 1
    changes.clear()
    client.put("configmaps", "ns", "cm", data={"a": "2"})
    await settle()
    assert changes == [Change(Reference("ConfigMap", "ns", "cm"), frozenset({"u1", "u2"}))]
    assert (await sources.get_config_map("ns", "cm"))["data"] == {"a": "2"}
    sources.remove_pod("u1")
    await settle()
    assert client.watches("configmaps", "ns", "cm") == 1
    sources.remove_pod("u2")
    await settle()
    assert client.watches("configmaps", "ns", "cm") == 0
    await sources.stop()


async def test_missing_then_created_then_deleted() -> None:
    client = FakeClient()
    sources = Sources(client)  # type: ignore[arg-type]
    changes: list[Change] = []
    sources.subscribe(changes.append)
    sources.add_pod(pod(**USES_CM))
    with pytest.raises(StatusError) as caught:
        await sources.get_config_map("ns", "cm")
    assert (caught.value.code, caught.value.message) == (404, 'configmap "cm" not found') and not changes
    await settle()
    client.put("configmaps", "ns", "cm", data={})
    await settle()
    assert len(changes) == 1 and await sources.get_config_map("ns", "cm")
    client.drop("configmaps", "ns", "cm")
    await settle()
    assert len(changes) == 2
    with pytest.raises(StatusError):
        await sources.get_config_map("ns", "cm")
    await sources.stop()


async def test_immutable_objects_are_not_watched() -> None:
    client = FakeClient()
    client.put("configmaps", "ns", "cm", immutable=True, data={"a": "1"})
    sources = Sources(client)  # type: ignore[arg-type]
    sources.add_pod(pod(**USES_CM))
    assert (await sources.get_config_map("ns", "cm"))["data"] == {"a": "1"}
    await settle()
    assert client.watches("configmaps", "ns", "cm") == 0
    assert (await sources.get_config_map("ns", "cm"))["data"] == {"a": "1"}
    await sources.stop()


async def test_services_of_a_namespace_and_the_api() -> None:
    client = FakeClient()
    for namespace, name in (("ns", "web"), ("other", "x"), ("default", "kubernetes"), ("default", "y")):
        client.put("services", namespace, name)
    sources = Sources(client)  # type: ignore[arg-type]
    assert {s["metadata"]["name"] for s in await sources.services("ns")} == {"web", "kubernetes"}
    assert {s["metadata"]["name"] for s in await sources.services("default")} == {"kubernetes", "y"}
    await sources._informers.stop()


@pytest.mark.parametrize(("life", "after"), [(3600, 2880), (600, 480), (72 * 3600, 24 * 3600)])
def test_refresh_time(life: int, after: int) -> None:
    assert refresh_time(1000.0, 1000.0 + life, 0.0) == 1000.0 + after


REQUEST = TokenRequest("ns", "default", "p", "u1", "", 3607)


async def test_tokens_are_cached_and_bound() -> None:
    client = FakeClient()
    tokens = TokenManager(client, now=lambda: client.now)  # type: ignore[arg-type]
    assert [await tokens.get(REQUEST), await tokens.get(REQUEST)] == ["t1", "t1"]
    assert (
        await asyncio.gather(*(tokens.get(TokenRequest("ns", "sa", "p", "u2", "vault", 600)) for _ in range(3))) == ["t2"] * 3
    )
    assert client.token_requests[0] == (
        "ns",
        "default",
        {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "spec": {
                "expirationSeconds": 3607,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u1"},
            },
        },
    )
    assert client.token_requests[1][2]["spec"]["audiences"] == ["vault"]
    tokens.forget("u1")
    assert await tokens.get(REQUEST) == "t3"
    tokens.stop()


async def test_an_old_token_is_replaced_and_a_failed_renewal_keeps_it_while_valid() -> None:
    client = FakeClient()
    tokens = TokenManager(client, now=lambda: client.now)  # type: ignore[arg-type]
    assert await tokens.get(REQUEST) == "t1"
    client.now += 3000
    client.token_error = ConnectionError("refused")
    assert await tokens.get(REQUEST) == "t1"
    client.token_error = None
    assert await tokens.get(REQUEST) == "t3"
    client.now += 3700
    client.token_error = ConnectionError("refused")
    with pytest.raises(ConnectionError):
        await tokens.get(REQUEST)
    tokens.stop()


async def test_the_timer_renews_and_tells() -> None:
    client = FakeClient()
    tokens = TokenManager(client, now=lambda: client.now)  # type: ignore[arg-type]
    renewed: asyncio.Queue[str] = asyncio.Queue()
    tokens.on_renewed = renewed.put_nowait
    await tokens.get(REQUEST)
    client.now += 2881
    tokens._due(REQUEST)
    assert await asyncio.wait_for(renewed.get(), 5) == "u1"
    assert await tokens.get(REQUEST) == "t2"
    tokens.stop()
