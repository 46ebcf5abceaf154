"""The client that the face is for: an upstream kube-apiserver, named by K3SD_TEST_KUBE_APISERVER."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from datastore_certificates import authority
from kube_apiserver import BINARY, Face, Gone, KubeAPIServer, Object

from tests.support.datastore_servers import SERVERS
from tests.support.ports import free_port

pytestmark = pytest.mark.skipif(not BINARY, reason="K3SD_TEST_KUBE_APISERVER names no kube-apiserver")

MERGE = "application/merge-patch+json"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


class Cluster:
    """A face and the way to it."""

    def __init__(self, directory: Path, face: Face, etcd: list[str]) -> None:
        self.directory = directory
        self.face = face
        self._etcd = etcd
        self.servers: list[KubeAPIServer] = []

    async def server(self, **flags: str) -> KubeAPIServer:
        server = KubeAPIServer(f"kube-apiserver-{len(self.servers)}", self.directory, self._etcd, **flags)
        self.servers.append(server)
        await server.start()
        return server


@asynccontextmanager
async def cluster_on(driver: str, directory: Path) -> AsyncIterator[Cluster]:
    """SQLite is reached through a unix socket, the others through TLS with client certificates."""
    with ExitStack() as stack:
        if driver == "sqlite":
            socket = f"unix://{directory}/kine.sock"
            cluster = Cluster(directory, Face(directory, "", socket), [f"--etcd-servers={socket}"])
        else:
            endpoint = stack.enter_context(SERVERS[driver]()).endpoint.format(db="kubernetes")
            authority(directory, "etcd")
            listen = f"https://127.0.0.1:{free_port()}"
            ca, cert, key = (str(directory / f"etcd{end}") for end in ("-ca.crt", ".crt", ".key"))
            face = Face(directory, endpoint, listen, "--cert", cert, "--key", key, "--client-ca", ca)
            options = [f"--etcd-cafile={ca}", f"--etcd-certfile={cert}", f"--etcd-keyfile={key}"]
            cluster = Cluster(directory, face, [f"--etcd-servers={listen}", *options])
        cluster.face.start()
        try:
            yield cluster
        finally:
            for server in cluster.servers:
                await server.stop()
            cluster.face.end()


@pytest.fixture(params=["sqlite", "postgres", "etcd"])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster_on(request.param, tmp_path) as cluster:
        yield cluster


def configmap(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def event(name: str) -> Object:
    about = {"kind": "Pod", "namespace": "default", "name": "x"}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": about, "reason": "Test"}


def deployment(name: str) -> Object:
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def crd() -> Object:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "kind": "Thing"}
    spec = {"group": "test.example", "scope": "Namespaced", "names": names, "versions": [version]}
    metadata = {"name": "things.test.example"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


def version(of: Object) -> str:
    found: str = of["metadata"]["resourceVersion"]
    return found


def metric(text: str, name: str, **labels: str) -> float:
    total = 0.0
    for line in text.splitlines():
        if re.match(rf"{name}[{{ ]", line) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


async def eventually(check: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(0.2)


async def test_everyday_work(cluster: Cluster) -> None:
    api = await cluster.server()
    # every kind of write, read back
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    path = "/api/v1/namespaces/shop/configmaps"
    made = await api.call("POST", path, configmap("a", k="1"))
    assert await api.status("POST", path, configmap("a", k="2")) == 409
    changed = await api.call("PUT", f"{path}/a", {**made, "data": {"k": "2"}})
    assert int(version(changed)) > int(version(made))
    assert await api.status("PUT", f"{path}/a", {**made, "data": {"k": "3"}}) == 409
    await asyncio.gather(*(api.call("PATCH", f"{path}/a", {"data": {f"p{i}": "x"}}, MERGE) for i in range(10)))
    assert len((await api.get(f"{path}/a"))["data"]) == 11
    await api.call("POST", "/apis/apps/v1/namespaces/shop/deployments", deployment("web"))
    scale = await api.get("/apis/apps/v1/namespaces/shop/deployments/web/scale")
    await api.call("PUT", "/apis/apps/v1/namespaces/shop/deployments/web/scale", {**scale, "spec": {"replicas": 3}})
    await api.call("DELETE", f"{path}/a")
    assert await api.status("GET", f"{path}/a") == 404
    # custom resources
    await api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd())
    things = "/apis/test.example/v1/namespaces/shop/things"

    async def served() -> bool:
        return await api.status("GET", things) == 200

    await eventually(served)
    thing = {"apiVersion": "test.example/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"a": [1, {"b": "c"}]}}
    await api.call("POST", things, thing)
    async with aclosing(api.watch(f"{things}?watch=1&resourceVersion=0")) as watch:
        assert (await anext(watch))[0] == "ADDED"
        await api.call("DELETE", f"{things}/t")
        assert (await anext(watch))[0] == "DELETED"
    # an event ends with its lease
    await api.call("POST", "/api/v1/namespaces/default/events", event("short"))
    assert await api.status("GET", "/api/v1/namespaces/default/events/short") == 200

    async def expired() -> bool:
        return await api.status("GET", "/api/v1/namespaces/default/events/short") == 404

    await eventually(expired)
    # what the server asks etcd for itself
    assert "[+]etcd ok" in await api.text("/livez?verbose=1")

    async def measured() -> bool:
        return metric(await api.text("/metrics"), "apiserver_storage_size_bytes") > 0

    await eventually(measured, 60)
    assert "unsupported" not in cluster.face.log.read_text()


async def test_lists_and_watches(cluster: Cluster) -> None:
    api = await cluster.server()
    gate = asyncio.Semaphore(16)

    async def create(i: int) -> None:
        async with gate:
            await api.call("POST", CONFIGMAPS, configmap(f"c{i:04}", k="x" * 200))

    seen: list[str] = []
    begin = version(await api.get(CONFIGMAPS))

    async def follow() -> None:
        async with aclosing(api.watch(f"{CONFIGMAPS}?watch=1&resourceVersion={begin}")) as watch:
            async for what, obj in watch:
                assert what == "ADDED"
                seen.append(version(obj))
                if len(seen) == 1200:
                    return

    following = asyncio.create_task(follow())
    await asyncio.gather(*(create(i) for i in range(1200)))
    async with asyncio.timeout(30):
        await following
    assert seen == sorted(seen, key=int)
    # pages are of one revision
    page = await api.get(f"{CONFIGMAPS}?limit=500")
    names = [item["metadata"]["name"] for item in page["items"]]
    assert page["metadata"]["remainingItemCount"] >= 700
    await api.call("DELETE", f"{CONFIGMAPS}/c1199")
    while token := page["metadata"].get("continue"):
        page = await api.get(f"{CONFIGMAPS}?limit=500&continue={token}")
        names += [item["metadata"]["name"] for item in page["items"]]
    assert [n for n in names if n.startswith("c")] == [f"c{i:04}" for i in range(1200)]
    # an exact revision, the newest, whatever there is
    exact = await api.get(f"{CONFIGMAPS}?limit=2000&resourceVersionMatch=Exact&resourceVersion={seen[9]}")
    assert sum(item["metadata"]["name"].startswith("c") for item in exact["items"]) == 10
    newest = await api.get(CONFIGMAPS)
    assert sum(item["metadata"]["name"].startswith("c") for item in newest["items"]) == 1199
    consistent = "apiserver_watch_cache_consistent_read_total"
    before = metric(await api.text("/metrics"), consistent, success="true", fallback="false", resource="configmaps")
    for i in range(5):  # what was just written is in a list from the cache
        await api.call("POST", CONFIGMAPS, configmap(f"fresh{i}"))
        await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"other{i}"}})  # progress, not an event, tells
        assert f"fresh{i}" in {item["metadata"]["name"] for item in (await api.get(CONFIGMAPS))["items"]}
    metrics = await api.text("/metrics")
    assert metric(metrics, consistent, success="true", fallback="false", resource="configmaps") >= before + 5
    assert metric(metrics, consistent, success="false") == 0
    # a watch from the middle, and one that begins with what there is
    async with aclosing(api.watch(f"{CONFIGMAPS}?watch=1&resourceVersion={seen[1000]}")) as watch:
        assert [version((await anext(watch))[1]) for _ in range(199)] == seen[1001:]
    listing = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with aclosing(api.watch(f"{CONFIGMAPS}?{listing}")) as watch:
        got = [await anext(watch) for _ in range(len(newest["items"]) + 6)]
    what, bookmark = got[-1]
    assert what == "BOOKMARK" and bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"


async def test_compaction(cluster: Cluster) -> None:
    api = await cluster.server()
    await api.call("POST", CONFIGMAPS, configmap("a"))
    old = version(await api.get(CONFIGMAPS))
    gate = asyncio.Semaphore(16)

    async def create(i: int) -> None:
        async with gate:
            await api.call("POST", CONFIGMAPS, configmap(f"c{i}"))

    await asyncio.gather(*(create(i) for i in range(1300)))  # the store keeps the last thousand

    async def gone() -> bool:
        try:
            await api.get(f"{CONFIGMAPS}?limit=1&resourceVersionMatch=Exact&resourceVersion={old}")
        except Gone:
            return True
        return False

    await eventually(gone)
    again = await cluster.server()  # its watch cache begins now
    with pytest.raises(Gone):
        async with aclosing(again.watch(f"{CONFIGMAPS}?watch=1&resourceVersion={old}")) as watch:
            await anext(watch)
    assert "compact failed" not in api.log.read_text()


async def test_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    """The face is killed again and again under a writing and watching server, which goes on without a restart."""
    api = await cluster.server()
    written: list[str] = []
    seen: list[str] = []
    done = False
    state = {"from": version(await api.get(CONFIGMAPS))}

    async def write(writer: int) -> None:
        i = 0
        while not done:
            name, i = f"w{writer}-{i}", i + 1
            try:
                if await api.status("POST", CONFIGMAPS, configmap(name)) == 201:
                    written.append(name)
            except (TimeoutError, aiohttp.ClientError):
                continue

    async def follow() -> None:
        while True:
            try:
                async with aclosing(api.watch(f"{CONFIGMAPS}?watch=1&resourceVersion={state['from']}")) as watch:
                    async for _, obj in watch:
                        state["from"] = version(obj)
                        seen.append(obj["metadata"]["name"])
                        if seen[-1] == "last":
                            return
            except aiohttp.ClientError:
                continue

    writers = [asyncio.create_task(write(i)) for i in range(4)]
    following = asyncio.create_task(follow())
    for _ in range(4):
        await asyncio.sleep(1.5)
        cluster.face.end()
        cluster.face.start()
        count = len(written)

        async def goes_on(count: int = count) -> bool:
            return len(written) > count + 20

        await eventually(goes_on, 60)
    done = True
    await asyncio.gather(*writers)
    names = {item["metadata"]["name"] for item in (await api.get(f"{CONFIGMAPS}?limit=100000"))["items"]}
    assert set(written) <= names
    await api.call("POST", CONFIGMAPS, configmap("last"))
    async with asyncio.timeout(30):
        await following
    assert not set(written) - set(seen)
    assert len(seen) == len(set(seen))
    # and after a restart of the server
    await api.stop()
    await api.start()
    assert set(written) <= {item["metadata"]["name"] for item in (await api.get(CONFIGMAPS))["items"]}


async def test_two_servers(tmp_path: Path) -> None:
    async with cluster_on("sqlite", tmp_path) as cluster:
        one, two = await cluster.server(), await cluster.server(advertise_address="10.99.0.2")
        for i in range(20):  # what one acknowledged, a list of the other has
            await one.call("POST", CONFIGMAPS, configmap(f"a{i}"))
            assert f"a{i}" in {item["metadata"]["name"] for item in (await two.get(CONFIGMAPS))["items"]}
        await asyncio.gather(
            *(
                s.call("PATCH", f"{CONFIGMAPS}/a0", {"data": {f"{n}{i}": ""}}, MERGE)
                for i in range(10)
                for n, s in (("x", one), ("y", two))
            )
        )
        assert len((await one.get(f"{CONFIGMAPS}/a0"))["data"]) == 20

        async def both() -> bool:
            endpoints = await one.get("/api/v1/namespaces/default/endpoints/kubernetes")
            return {a["ip"] for s in endpoints["subsets"] for a in s["addresses"]} == {"10.99.0.1", "10.99.0.2"}

        await eventually(both)
        await two.stop()

        async def left() -> bool:  # its lease is not renewed
            endpoints = await one.get("/api/v1/namespaces/default/endpoints/kubernetes")
            return {a["ip"] for s in endpoints["subsets"] for a in s["addresses"]} == {"10.99.0.1"}

        await eventually(left, 60)
