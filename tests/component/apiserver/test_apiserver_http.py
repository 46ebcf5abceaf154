"""The API over real TLS: what clients rely on, one behaviour a test."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from k3sd.apimachinery import codec, protobuf, wire
from k3sd.apis import resources
from k3sd.apiserver import http as http_module
from k3sd.apiserver import listing, responses, writes
from k3sd.datastore import mvcc
from tests.component.apiserver.conftest import Http
from tests.support.apiserver import TOKEN, TestServer

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": name}}, "data": data}


def pod(name: str, node: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "busybox"}]}
    if node:
        spec["nodeName"] = node
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}


class Stream:
    """A watch: lines as they come."""

    def __init__(self, http: Http, path: str) -> None:
        self._request = http.session.get(http.url + path)

    async def __aenter__(self) -> Stream:
        self._answer = await self._request.__aenter__()
        self.status = self._answer.status
        return self

    async def __aexit__(self, *error: object) -> None:
        self._answer.close()

    async def event(self) -> tuple[str, dict[str, Any]]:
        line = await asyncio.wait_for(self._answer.content.readline(), 10)
        assert line, "the watch ended"
        event = json.loads(line)
        return event["type"], event["object"]

    async def ended(self) -> bool:
        return await asyncio.wait_for(self._answer.content.readline(), 10) == b""


async def test_no_credentials_no_answer(http: Http) -> None:
    status, _, body = await http("GET", CONFIGMAPS, headers={"Authorization": ""})
    assert (status, body["reason"], body["code"]) == (401, "Unauthorized", 401)


async def test_create_get_and_conflicts(http: Http) -> None:
    status, headers, made = await http("POST", CONFIGMAPS, configmap("a", k="v"))
    assert status == 201
    assert headers["Audit-Id"]
    meta = made["metadata"]
    assert meta["namespace"] == "default"
    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 0
    status, _, again = await http("POST", CONFIGMAPS, configmap("a"))
    assert (status, again["reason"]) == (409, "AlreadyExists")
    assert again["message"] == 'configmaps "a" already exists'
    _, _, got = await http("GET", f"{CONFIGMAPS}/a")
    assert got == made


async def test_missing_object(http: Http) -> None:
    status, _, body = await http("GET", f"{CONFIGMAPS}/none")
    assert status == 404
    assert body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'configmaps "none" not found',
        "reason": "NotFound",
        "details": {"name": "none", "kind": "configmaps"},
        "code": 404,
    }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/nonsense", 404),
        ("/apis/apps/v9/deployments", 404),
        ("/api/v1/namespaces/default/pods/x/nonsense", 404),
        ("/nonsense", 404),
    ],
)
async def test_unknown_paths(http: Http, path: str, code: int) -> None:
    status, _, body = await http("GET", path)
    assert (status, body["code"]) == (code, code)


async def test_head_has_no_body(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a"))
    for path, code in ((f"{CONFIGMAPS}/a", 200), (CONFIGMAPS + "?watch=1", 405), (f"{CONFIGMAPS}/none", 404)):
        status, _, _ = await http("HEAD", path)
        assert status == code
        assert (await http("GET", f"{CONFIGMAPS}/a"))[0] == 200, "nothing was left on the connection"


async def test_generate_name(http: Http) -> None:
    body = configmap("x")
    body["metadata"] = {"generateName": "made-"}
    names = set()
    for _ in range(3):
        status, _, made = await http("POST", CONFIGMAPS, body)
        assert status == 201
        name = made["metadata"]["name"]
        assert name.startswith("made-")
        assert len(name) == 10
        names.add(name)
    assert len(names) == 3


async def test_a_generated_name_that_is_taken_is_made_again(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(["made-aaaaa", "made-aaaaa", "made-bbbbb", *["made-aaaaa"] * 8])
    monkeypatch.setattr(writes, "generate_name", lambda base: next(made))
    body = configmap("x")
    body["metadata"] = {"generateName": "made-"}
    for name in ("made-aaaaa", "made-bbbbb"):
        status, _, answer = await http("POST", CONFIGMAPS, body)
        assert (status, answer["metadata"]["name"]) == (201, name)
    status, _, answer = await http("POST", CONFIGMAPS, body)
    assert (status, answer["reason"]) == (409, "AlreadyExists")
    assert answer["message"].endswith("the server was not able to generate a unique name for the object")


async def test_names_are_validated(http: Http) -> None:
    status, _, body = await http("POST", CONFIGMAPS, configmap("Not_Good"))
    assert (status, body["reason"]) == (422, "Invalid")
    assert body["details"]["causes"][0]["field"] == "metadata.name"
    nameless = configmap("x")
    nameless["metadata"] = {}
    _, _, body = await http("POST", CONFIGMAPS, nameless)
    assert "metadata.name: Required value: name or generateName is required" in body["message"]


async def test_namespace_must_match(http: Http) -> None:
    body = configmap("a")
    body["metadata"]["namespace"] = "kube-system"
    status, _, answer = await http("POST", CONFIGMAPS, body)
    assert status == 400
    assert answer["message"] == "the namespace of the provided object does not match the namespace sent on the request"


@pytest.mark.parametrize(
    ("mode", "code", "warned"), [("Strict", 400, False), ("Warn", 201, True), ("Ignore", 201, False), ("", 201, True)]
)
async def test_unknown_fields(http: Http, mode: str, code: int, warned: bool) -> None:
    body = {**configmap("a", k="v"), "unknown": 1}
    status, headers, answer = await http("POST", CONFIGMAPS + (f"?fieldValidation={mode}" if mode else ""), body)
    assert status == code
    assert ("Warning" in headers) == warned
    if warned:
        assert headers["Warning"] == '299 - "unknown field \\"unknown\\""'
    if code == 400:
        assert answer["message"].endswith('strict decoding error: unknown field "unknown"')


async def test_deprecated_kinds_say_so_in_every_answer(http: Http) -> None:
    text = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
    path = "/api/v1/namespaces/default/endpoints"
    created = await http("POST", path, {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}})
    answers = [created] + [await http("GET", p) for p in (path, f"{path}/e", path, f"{path}/e")]
    assert [headers.getall("Warning") for _, headers, _ in answers] == [[text]] * 5
    _, headers, answer = await http(
        "GET", "/api/v1/componentstatuses", headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    )
    assert headers["Warning"] == '299 - "v1 ComponentStatus is deprecated in v1.19+"'
    assert [row["cells"] for row in answer["rows"]] == [["etcd-0", "Healthy", "ok", ""]]


async def test_duplicate_fields(http: Http) -> None:
    text = '{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"1","k":"2"}}'
    status, _, body = await http(
        "POST", CONFIGMAPS + "?fieldValidation=Strict", data=text, headers={"Content-Type": "application/json"}
    )
    assert status == 400
    assert 'duplicate field "data.k"' in body["message"]


async def test_body_limits_and_formats(http: Http) -> None:
    big = io.BytesIO(json.dumps(configmap("big", k="x" * (3 * 1024 * 1024))).encode())
    status, _, body = await http("POST", CONFIGMAPS, data=big, headers={"Content-Type": "application/json"})
    assert (status, body["reason"]) == (413, "RequestEntityTooLarge")
    assert body["message"] == "Request entity too large: limit is 3145728"
    status, _, body = await http("POST", CONFIGMAPS, data=b"{", headers={"Content-Type": "application/json"})
    assert (status, body["reason"]) == (400, "BadRequest")
    status, _, body = await http("POST", CONFIGMAPS, data=b"x", headers={"Content-Type": "text/csv"})
    assert status == 415
    text = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: yaml}\ndata: {k: v}\n"
    status, _, body = await http("POST", CONFIGMAPS, data=text, headers={"Content-Type": "application/yaml"})
    assert (status, body["data"]) == (201, {"k": "v"})


async def test_wrong_kind(http: Http) -> None:
    status, _, body = await http("POST", CONFIGMAPS, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}})
    assert status == 400
    assert body["message"].startswith('Secret in version "v1" cannot be handled as a ConfigMap')


async def test_update_rules(http: Http) -> None:
    _, _, made = await http("POST", CONFIGMAPS, configmap("a", k="1"))
    first = made["metadata"]["resourceVersion"]
    status, _, same = await http("PUT", f"{CONFIGMAPS}/a", made)
    assert (status, same["metadata"]["resourceVersion"]) == (200, first), "a write that changes nothing keeps the version"
    made["data"]["k"] = "2"
    _, _, changed = await http("PUT", f"{CONFIGMAPS}/a", made)
    assert int(changed["metadata"]["resourceVersion"]) > int(first)
    status, _, body = await http("PUT", f"{CONFIGMAPS}/a", {**made, "data": {"k": "3"}})
    assert (status, body["reason"]) == (409, "Conflict")
    assert body["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the '
        "latest version and try again"
    )
    unconditional = configmap("a", k="4")
    status, _, body = await http("PUT", f"{CONFIGMAPS}/a", unconditional)
    assert (status, body["data"]) == (200, {"k": "4"})
    assert body["metadata"]["uid"] == made["metadata"]["uid"]
    unconditional["metadata"]["uid"] = "other"
    status, _, body = await http("PUT", f"{CONFIGMAPS}/a", unconditional)
    assert status == 409
    assert "Precondition failed: UID in precondition: other" in body["message"]
    status, _, body = await http("PUT", f"{CONFIGMAPS}/b", unconditional)
    assert (status, body["message"]) == (400, "the name of the object (a) does not match the name on the URL (b)")


async def test_patches(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a", k="1"))
    for content_type, patch in (
        ("application/merge-patch+json", {"data": {"m": "1"}}),
        ("application/strategic-merge-patch+json", {"data": {"s": "1"}}),
        ("application/json-patch+json", [{"op": "add", "path": "/data/j", "value": "1"}]),
    ):
        status, _, body = await http("PATCH", f"{CONFIGMAPS}/a", data=json.dumps(patch), headers={"Content-Type": content_type})
        assert status == 200, body
    assert body["data"] == {"k": "1", "m": "1", "s": "1", "j": "1"}
    status, _, body = await http("PATCH", f"{CONFIGMAPS}/a", data="{}", headers={"Content-Type": "application/json"})
    assert status == 415
    patch = '{"metadata":{"resourceVersion":"1"},"data":{"z":"1"}}'
    status, _, body = await http(
        "PATCH", f"{CONFIGMAPS}/a", data=patch, headers={"Content-Type": "application/merge-patch+json"}
    )
    assert (status, body["reason"]) == (409, "Conflict")


async def test_lists_without_their_keys_are_no_reason_to_fail(http: Http) -> None:
    """``secrets`` is a list by name; upstream's managed fields give up on such an object quietly."""
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "odd"}, "secrets": [{}, {}]}
    status, _, body = await http("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    assert status == 201, body
    assert "managedFields" not in body["metadata"]


async def test_concurrent_patches_all_land(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a"))

    async def one(number: int) -> int:
        status, _, _ = await http(
            "PATCH",
            f"{CONFIGMAPS}/a",
            data=json.dumps({"data": {f"k{number}": "v"}}),
            headers={"Content-Type": "application/merge-patch+json"},
        )
        return status

    assert set(await asyncio.gather(*(one(i) for i in range(5)))) == {200}
    _, _, body = await http("GET", f"{CONFIGMAPS}/a")
    assert len(body["data"]) == 5


async def test_dry_run_changes_nothing(http: Http, server: TestServer) -> None:
    before = server.registry.cache.revision
    status, _, made = await http("POST", CONFIGMAPS + "?dryRun=All", configmap("a"))
    assert status == 201
    assert "resourceVersion" not in made["metadata"]
    status, _, _ = await http("GET", f"{CONFIGMAPS}/a")
    assert status == 404
    assert server.registry.cache.revision == before
    status, _, _ = await http("POST", CONFIGMAPS + "?dryRun=Some", configmap("a"))
    assert status == 422


async def test_status_and_spec_are_apart(http: Http) -> None:
    _, _, made = await http("POST", PODS, {**pod("p"), "status": {"phase": "Running"}})
    assert made["status"]["phase"] == "Pending"
    generation = made["metadata"]["generation"]
    changed = json.loads(json.dumps(made))
    changed["status"]["phase"] = "Running"
    changed["spec"]["containers"][0]["image"] = "other"
    status, _, body = await http("PUT", f"{PODS}/p/status", changed)
    assert (status, body["status"]["phase"]) == (200, "Running")
    assert body["spec"]["containers"][0]["image"] == "busybox"
    assert body["metadata"]["generation"] == generation
    changed["metadata"].pop("resourceVersion")
    changed["status"]["phase"] = "Failed"
    _, _, body = await http("PUT", f"{PODS}/p", changed)
    assert body["status"]["phase"] == "Running"
    assert body["spec"]["containers"][0]["image"] == "other"
    assert body["metadata"]["generation"] == generation + 1


async def test_chunks_share_a_revision(http: Http) -> None:
    for number in range(5):
        await http("POST", CONFIGMAPS, configmap(f"c{number}"))
    _, _, first = await http("GET", CONFIGMAPS + "?limit=2")
    assert [i["metadata"]["name"] for i in first["items"]] == ["c0", "c1"]
    assert first["metadata"]["remainingItemCount"] == 3
    await http("DELETE", f"{CONFIGMAPS}/c3")
    names, token = ["c0", "c1"], first["metadata"]["continue"]
    while token:
        _, _, chunk = await http("GET", CONFIGMAPS + f"?limit=2&continue={token}")
        assert chunk["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [i["metadata"]["name"] for i in chunk["items"]]
        token = chunk["metadata"].get("continue", "")
    assert names == ["c0", "c1", "c2", "c3", "c4"], "the deleted object is still in the list at the first chunk's revision"
    status, _, body = await http("GET", CONFIGMAPS + "?limit=2&continue=nonsense")
    assert status == 400
    assert body["message"].startswith("continue key is not valid: ")


async def test_an_expired_continue_token_comes_with_a_fresh_one(
    http: Http, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mvcc, "compact_target", lambda revision, current: revision)
    for number in range(4):
        await http("POST", CONFIGMAPS, configmap(f"c{number}"))
    _, _, first = await http("GET", CONFIGMAPS + "?limit=2")
    await http("POST", CONFIGMAPS, configmap("later"))
    await server.registry.backend.compact(server.registry.cache.revision)
    status, _, body = await http("GET", CONFIGMAPS + f"?limit=2&continue={first['metadata']['continue']}")
    assert (status, body["reason"]) == (410, "Expired")
    _, _, rest = await http("GET", CONFIGMAPS + f"?continue={body['metadata']['continue']}")
    assert [i["metadata"]["name"] for i in rest["items"]] == ["c2", "c3", "later"]


async def test_a_continue_token_expires_in_time(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        await http("POST", CONFIGMAPS, configmap(f"c{number}"))
    _, _, first = await http("GET", CONFIGMAPS + "?limit=2")
    token = first["metadata"]["continue"]
    now = time.time()
    monkeypatch.setattr(listing, "time", SimpleNamespace(time=lambda: now + 299))
    status, _, _ = await http("GET", CONFIGMAPS + f"?limit=1&continue={token}")
    assert status == 200
    monkeypatch.setattr(listing, "time", SimpleNamespace(time=lambda: now + 302))
    status, _, body = await http("GET", CONFIGMAPS + f"?limit=1&continue={token}")
    assert (status, body["reason"]) == (410, "Expired")
    _, _, rest = await http("GET", CONFIGMAPS + f"?continue={body['metadata']['continue']}")
    assert [i["metadata"]["name"] for i in rest["items"]] == ["c2", "c3"]


async def test_resource_version_rules_of_lists(http: Http) -> None:
    _, _, made = await http("POST", CONFIGMAPS, configmap("a"))
    version = made["metadata"]["resourceVersion"]
    await http("POST", CONFIGMAPS, configmap("b"))
    _, _, exact = await http("GET", CONFIGMAPS + f"?resourceVersion={version}&resourceVersionMatch=Exact")
    assert [i["metadata"]["name"] for i in exact["items"]] == ["a"]
    _, _, newer = await http("GET", CONFIGMAPS + f"?resourceVersion={version}&resourceVersionMatch=NotOlderThan")
    assert len(newer["items"]) == 2
    _, _, any_ = await http("GET", CONFIGMAPS + "?resourceVersion=0&limit=1")
    assert len(any_["items"]) == 2
    status, _, body = await http("GET", CONFIGMAPS + "?resourceVersion=999999")
    assert (status, body["reason"]) == (504, "Timeout")
    assert "Too large resource version: 999999, current: " in body["message"]
    status, _, body = await http("GET", CONFIGMAPS + "?resourceVersionMatch=Exact")
    assert status == 422
    assert "resourceVersionMatch is forbidden unless resourceVersion is provided" in body["message"]


async def test_selectors(http: Http) -> None:
    for name in ("a", "b", "c"):
        await http("POST", CONFIGMAPS, configmap(name))
    _, _, some = await http("GET", CONFIGMAPS + "?labelSelector=app+in+(a,b),app!%3Db")
    assert [i["metadata"]["name"] for i in some["items"]] == ["a"]
    _, _, some = await http("GET", CONFIGMAPS + "?fieldSelector=metadata.name%3Db")
    assert [i["metadata"]["name"] for i in some["items"]] == ["b"]
    status, _, body = await http("GET", CONFIGMAPS + "?fieldSelector=data.k%3Db")
    assert status == 400
    assert body["message"] == '"data.k" is not a known field selector: only "metadata.name", "metadata.namespace"'
    await http("POST", PODS, pod("here", "n1"))
    await http("POST", PODS, pod("there", "n2"))
    _, _, some = await http("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")
    assert [i["metadata"]["name"] for i in some["items"]] == ["here"]
    status, _, body = await http("GET", "/api/v1/pods?fieldSelector=spec.nonsense%3Dn1")
    assert (status, body["message"]) == (400, "field label not supported: spec.nonsense")


async def test_watch_from_a_version(http: Http) -> None:
    _, _, made = await http("POST", CONFIGMAPS, configmap("a"))
    async with Stream(http, CONFIGMAPS + f"?watch=1&resourceVersion={made['metadata']['resourceVersion']}") as watch:
        _, _, second = await http("POST", CONFIGMAPS, configmap("b", k="1"))
        assert await watch.event() == ("ADDED", second)
        _, _, changed = await http("PUT", f"{CONFIGMAPS}/b", configmap("b", k="2"))
        assert await watch.event() == ("MODIFIED", changed)
        await http("DELETE", f"{CONFIGMAPS}/b")
        kind, last = await watch.event()
        assert kind == "DELETED"
        assert last["data"] == {"k": "2"}
        assert int(last["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])


async def test_watch_list_ends_with_a_bookmark(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a"))
    query = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with Stream(http, CONFIGMAPS + query) as watch:
        kind, obj = await watch.event()
        assert (kind, obj["metadata"]["name"]) == ("ADDED", "a")
        kind, mark = await watch.event()
        assert (kind, mark["kind"]) == ("BOOKMARK", "ConfigMap")
        assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        _, _, made = await http("POST", CONFIGMAPS, configmap("b"))
        assert await watch.event() == ("ADDED", made)
    status, _, body = await http("GET", CONFIGMAPS + "?watch=1&sendInitialEvents=true")
    assert status == 422
    assert "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan" in body["message"]


async def test_selector_transitions(http: Http) -> None:
    async with Stream(http, CONFIGMAPS + "?watch=1&labelSelector=state%3Don") as watch:
        body = configmap("a", k="1")
        await http("POST", CONFIGMAPS, body)
        body["metadata"]["labels"]["state"] = "on"
        _, _, on = await http("PUT", f"{CONFIGMAPS}/a", body)
        assert await watch.event() == ("ADDED", on)
        body["metadata"]["labels"]["state"] = "off"
        body["data"] = {"k": "2"}
        _, _, off = await http("PUT", f"{CONFIGMAPS}/a", body)
        kind, last = await watch.event()
        assert (kind, last["data"], last["metadata"]["labels"]["state"]) == ("DELETED", {"k": "1"}, "on")
        assert last["metadata"]["resourceVersion"] == off["metadata"]["resourceVersion"]


async def test_legacy_watch_of_one_object(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a"))
    await http("POST", CONFIGMAPS, configmap("b"))
    async with Stream(http, "/api/v1/watch/namespaces/default/configmaps/b?timeoutSeconds=1") as watch:
        kind, obj = await watch.event()
        assert (kind, obj["metadata"]["name"]) == ("ADDED", "b")
        assert await watch.ended()


async def test_a_client_that_does_not_read_is_cut_and_stalls_nobody(
    http: Http, server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "SLOW_CLIENT_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=server.client_context(), server_hostname="localhost", limit=1024
    )
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(
        f"GET {CONFIGMAPS}?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    cache = server.registry.endpoint(resources.CONFIGMAPS).cache
    assert cache.watchers == 1
    big = configmap("big", k="x" * 500_000)
    await http("POST", CONFIGMAPS, big)
    for number in range(100):
        big["data"]["n"] = str(number)
        status, _, _ = await asyncio.wait_for(http("PUT", f"{CONFIGMAPS}/big", big), 5)
        assert status == 200
        if not cache.watchers:
            break
        await asyncio.sleep(0.05)
    assert cache.watchers == 0, "the watch of the client that does not read is still open"
    writer.transport.abort()


async def test_stopping_ends_watches_and_finishes_writes(http: Http, server: TestServer) -> None:
    async with Stream(http, CONFIGMAPS + "?watch=1&resourceVersion=0") as watch:
        writing = asyncio.ensure_future(http("POST", CONFIGMAPS, configmap("last")))
        kind, _ = await watch.event()  # the write is in the store, its answer may still be on its way
        await server.server.stop(2)
        assert kind == "ADDED"
        assert await watch.ended()
        status, _, _ = await writing
        assert status == 201


async def test_watch_ends_in_time(http: Http) -> None:
    async with Stream(http, CONFIGMAPS + "?watch=1&resourceVersion=0&timeoutSeconds=1") as watch:
        assert await watch.ended()


async def test_a_version_that_is_gone(http: Http, server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mvcc, "compact_target", lambda revision, current: revision)
    await http("POST", CONFIGMAPS, configmap("a"))
    await server.registry.backend.compact(server.registry.cache.revision)
    cache = server.registry.endpoint(resources.CONFIGMAPS).cache
    cache._floor = server.registry.cache.revision  # as if the cache's own, longer history were gone too
    async with Stream(http, CONFIGMAPS + "?watch=1&resourceVersion=1") as watch:
        kind, status = await watch.event()
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
        assert status["message"].startswith("too old resource version: 1 (")


async def test_a_client_that_leaves_ends_its_watch(http: Http, server: TestServer) -> None:
    cache = server.registry.endpoint(resources.CONFIGMAPS).cache
    before = cache.watchers
    async with Stream(http, CONFIGMAPS + "?watch=1&resourceVersion=0"):
        assert cache.watchers == before + 1
    for _ in range(100):
        if cache.watchers == before:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the watch is still open")


async def test_a_watch_whose_client_left_unnoticed_ends_without_an_error(
    http: Http, server: TestServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The transport closes some turns before the server hears of it; an event may be written in between."""
    cache = server.registry.endpoint(resources.CONFIGMAPS).cache
    before = cache.watchers

    def gone(self: responses.Stream, data: bytes) -> None:
        raise ConnectionResetError("the client is gone")

    async with Stream(http, CONFIGMAPS + "?watch=1"):
        monkeypatch.setattr(responses.Stream, "write", gone)
        await http("POST", CONFIGMAPS, configmap("a"))
        for _ in range(100):
            if cache.watchers == before:
                break
            await asyncio.sleep(0.02)
    assert (await http("GET", CONFIGMAPS + "/a"))[0] == 200
    assert cache.watchers == before
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_delete_answers(http: Http) -> None:
    _, _, made = await http("POST", CONFIGMAPS, configmap("a"))
    bad = {"preconditions": {"uid": "other"}}
    status, _, body = await http("DELETE", f"{CONFIGMAPS}/a", bad)
    assert (status, body["reason"]) == (409, "Conflict")
    assert "the UID in the precondition (other) does not match the UID in record" in body["message"]
    status, _, body = await http("DELETE", f"{CONFIGMAPS}/a")
    assert (status, body["status"]) == (200, "Success")
    assert body["details"] == {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    status, _, _ = await http("DELETE", f"{CONFIGMAPS}/a")
    assert status == 404


async def test_finalizers_hold_an_object(http: Http) -> None:
    body = configmap("a")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await http("POST", CONFIGMAPS, body)
    status, _, marked = await http("DELETE", f"{CONFIGMAPS}/a")
    assert status == 200
    assert marked["metadata"]["deletionTimestamp"]
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    more = json.loads(json.dumps(marked))
    more["metadata"]["finalizers"].append("example.com/late")
    status, _, answer = await http("PUT", f"{CONFIGMAPS}/a", more)
    assert status == 422
    assert "no new finalizers can be added if the object is being deleted" in answer["message"]
    marked["metadata"]["finalizers"] = []
    status, _, _ = await http("PUT", f"{CONFIGMAPS}/a", marked)
    assert status == 200
    status, _, _ = await http("GET", f"{CONFIGMAPS}/a")
    assert status == 404


@pytest.mark.parametrize(
    ("query", "finalizers"),
    [("propagationPolicy=Foreground", ["foregroundDeletion"]), ("propagationPolicy=Orphan", ["orphan"])],
)
async def test_propagation_policies(http: Http, query: str, finalizers: list[str]) -> None:
    await http("POST", CONFIGMAPS, configmap("a"))
    _, _, body = await http("DELETE", f"{CONFIGMAPS}/a?{query}")
    assert body["metadata"]["finalizers"] == finalizers
    _, _, again = await http("DELETE", f"{CONFIGMAPS}/a?propagationPolicy=Background")
    assert again["status"] == "Success", "the last policy counts"


async def test_pods_are_deleted_gracefully(http: Http) -> None:
    await http("POST", PODS, pod("p", "n1"))
    _, _, marked = await http("DELETE", f"{PODS}/p?gracePeriodSeconds=20")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 20
    _, _, same = await http("DELETE", f"{PODS}/p?gracePeriodSeconds=25")
    assert same["metadata"] == marked["metadata"]
    _, _, gone = await http("DELETE", f"{PODS}/p?gracePeriodSeconds=0")
    assert gone["kind"] == "Pod"
    status, _, _ = await http("GET", f"{PODS}/p")
    assert status == 404


async def test_delete_collection(http: Http) -> None:
    for name in ("a", "b", "c"):
        await http("POST", CONFIGMAPS, configmap(name))
    status, _, body = await http("DELETE", CONFIGMAPS + "?labelSelector=app+in+(a,b)")
    assert (status, body["kind"]) == (200, "ConfigMapList")
    assert [i["metadata"]["name"] for i in body["items"]] == ["a", "b"]
    _, _, left = await http("GET", CONFIGMAPS)
    assert [i["metadata"]["name"] for i in left["items"]] == ["c"]
    status, _, body = await http("DELETE", "/api/v1/configmaps")
    assert (status, body["reason"]) == (405, "MethodNotAllowed")


async def test_discovery_names_the_servers_address(http: Http, server: TestServer) -> None:
    _, _, body = await http("GET", "/api")
    settings = server.registry.settings
    address = f"{settings.advertise_address or settings.node_ip}:{settings.advertise_port}"
    assert body["serverAddressByClientCIDRs"] == [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]


async def test_tables(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a", k="v"))
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    _, _, table = await http("GET", CONFIGMAPS, headers=accept)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["a", 1]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    _, _, full = await http("GET", CONFIGMAPS + "?includeObject=Object", headers=accept)
    assert full["rows"][0]["object"]["kind"] == "ConfigMap"
    _, _, bare = await http("GET", CONFIGMAPS + "?includeObject=None", headers=accept)
    assert "object" not in bare["rows"][0]


async def test_partial_metadata_and_yaml(http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("a", k="v"))
    partial = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    _, _, body = await http("GET", CONFIGMAPS, headers=partial)
    assert body["kind"] == "PartialObjectMetadataList"
    assert "data" not in body["items"][0]
    _, headers, text = await http("GET", f"{CONFIGMAPS}/a", headers={"Accept": "application/yaml"})
    assert headers["Content-Type"] == "application/yaml"
    assert "apiVersion: v1\n" in text


async def test_discovery(http: Http) -> None:
    _, _, groups = await http("GET", "/apis")
    assert {"apps", "batch", "events.k8s.io"} <= {g["name"] for g in groups["groups"]}
    _, _, core = await http("GET", "/api/v1")
    assert {"pods", "pods/status", "pods/log"} <= {r["name"] for r in core["resources"]}
    accept = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
    _, headers, found = await http("GET", "/apis", headers=accept)
    assert headers["Content-Type"] == accept["Accept"]
    assert found["items"][0]["versions"][0]["freshness"] == "Current"
    status, _, _ = await http("GET", "/apis", headers={**accept, "If-None-Match": headers["ETag"]})
    assert status == 304


async def test_health_and_version(http: Http) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/readyz/etcd"):
        assert (await http("GET", path))[0::2] == (200, "ok")
    _, _, text = await http("GET", "/readyz?verbose&exclude=etcd")
    assert "[+]etcd excluded: ok\n" in text
    assert text.endswith("readyz check passed\n")
    assert (await http("GET", "/readyz/nonsense"))[0] == 404
    _, _, version = await http("GET", "/version")
    assert version["gitVersion"].startswith("v1.36.2")


async def test_openapi(http: Http) -> None:
    status, headers, v2 = await http("GET", "/openapi/v2")
    assert status == 200
    assert "io.k8s.api.core.v1.Pod" in v2["definitions"]
    status, _, _ = await http("GET", "/openapi/v2", headers={"If-None-Match": headers["ETag"]})
    assert status == 304
    _, _, index = await http("GET", "/openapi/v3")
    status, _, v3 = await http("GET", index["paths"]["apis/apps/v1"]["serverRelativeURL"])
    assert status == 200
    assert "io.k8s.api.apps.v1.Deployment" in v3["components"]["schemas"]


async def test_two_faces_of_events(http: Http) -> None:
    event = {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started",
        "message": "it runs",
        "type": "Normal",
    }
    status, _, body = await http("POST", "/api/v1/namespaces/default/events", event)
    assert status == 201, body
    _, _, other = await http("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (other["apiVersion"], other["note"], other["regarding"]["name"]) == ("events.k8s.io/v1", "it runs", "p")
    _, _, listed = await http("GET", "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name%3Dp")
    assert listed["items"] == [other]


async def test_requests_are_counted(http: Http) -> None:
    await http("GET", CONFIGMAPS)
    _, _, text = await http("GET", "/metrics")
    assert 'apiserver_request_total{code="200",verb="GET"}' in text


APPLY = {"Content-Type": "application/apply-patch+yaml"}
SCALED = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "scaled"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    },
}


async def test_apply_to_scale_honours_conflicts(http: Http) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments/scaled"
    assert (await http("PATCH", f"{path}?fieldManager=one", SCALED, headers=APPLY))[0] == 201
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "scaled"}, "spec": {"replicas": 5}}
    status, _, answer = await http("PATCH", f"{path}/scale?fieldManager=two", scale, headers=APPLY)
    assert (status, answer["message"]) == (409, 'Apply failed with 1 conflict: conflict with "one": .spec.replicas')
    status, _, answer = await http("PATCH", f"{path}/scale?fieldManager=two&force=true", scale, headers=APPLY)
    assert status == 200 and answer["spec"] == {"replicas": 5}
    _, _, live = await http("GET", path)
    assert live["spec"]["replicas"] == 5 and live["metadata"]["generation"] == 2
    owners = {
        (e["manager"], e["operation"], e.get("subresource", ""), e["apiVersion"]): e for e in live["metadata"]["managedFields"]
    }
    two = owners["two", "Apply", "scale", "apps/v1"]
    assert two["fieldsV1"] == {"f:spec": {"f:replicas": {}}}
    one = owners["one", "Apply", "", "apps/v1"]
    assert "f:replicas" not in one["fieldsV1"]["f:spec"] and "f:template" in one["fieldsV1"]["f:spec"]
    await http("PATCH", f"{path}/scale?fieldManager=two", scale, headers=APPLY)
    assert (await http("GET", path))[2]["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
    status, _, answer = await http("PATCH", f"{path}?fieldManager=one", SCALED, headers=APPLY)
    assert status == 409 and answer["message"].endswith('conflict with "two" with subresource "scale": .spec.replicas')


async def test_apply_names_the_list_without_keys(http: Http) -> None:
    broken = json.loads(json.dumps(SCALED))
    broken["spec"]["template"]["spec"]["containers"][0].pop("name")
    status, _, answer = await http(
        "PATCH", "/apis/apps/v1/namespaces/default/deployments/scaled?fieldManager=one", broken, headers=APPLY
    )
    # A plain error upstream, which becomes a 500 without a reason there too.
    assert (status, answer.get("reason", "")) == (500, "")
    assert answer["message"] == (
        "failed to create typed patch object (/scaled; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: "
        'associative list with keys has an element that omits all key fields ["name"] '
        "(and doesn't have default values for any key fields)"
    )


PROTOBUF = {"Accept": "application/vnd.kubernetes.protobuf"}


def decoded(body: bytes) -> dict[str, Any]:
    obj = protobuf.decode_object(body)
    type_ = protobuf.type_of(obj["apiVersion"], obj["kind"])
    assert type_ is not None
    codec.conform(obj, type_)
    return obj


async def protobuf_of(http: Http, path: str) -> tuple[int, str, bytes]:
    async with http.session.get(http.url + path, headers=PROTOBUF) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.read()


async def test_protobuf_for_clients_that_read_nothing_else(server: TestServer, http: Http) -> None:
    _, _, made = await http("POST", "/apis/apps/v1/namespaces/default/deployments", SCALED)
    status, kind, body = await protobuf_of(http, "/apis/apps/v1/namespaces/default/deployments/scaled")
    assert (status, kind) == (200, "application/vnd.kubernetes.protobuf")
    assert decoded(body) == made
    _, _, body = await protobuf_of(http, "/apis/apps/v1/namespaces/default/deployments")
    listed = decoded(body)
    assert listed["kind"] == "DeploymentList" and listed["items"][0]["spec"] == made["spec"]
    assert listed["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    both = {"Accept": "application/vnd.kubernetes.protobuf, application/json"}
    _, headers, _ = await http("GET", "/apis/apps/v1/namespaces/default/deployments/scaled", headers=both)
    assert headers["Content-Type"] == "application/json"
    data = protobuf.encode_object(configmap("pb", a="1"))
    head = {**PROTOBUF, "Content-Type": "application/vnd.kubernetes.protobuf"}
    async with http.session.post(http.url + CONFIGMAPS, data=data, headers=head) as answer:
        assert answer.status == 201 and protobuf.decode_object(await answer.read())["data"] == {"a": "1"}
    async with http.session.delete(f"{http.url}{CONFIGMAPS}/pb", headers=PROTOBUF) as answer:
        assert protobuf.decode_object(await answer.read())["status"] == "Success"


async def test_protobuf_watch(server: TestServer, http: Http) -> None:
    await http("POST", CONFIGMAPS, configmap("seen", a="1"))
    url = f"{http.url}{CONFIGMAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with http.session.get(url, headers=PROTOBUF) as answer:
        assert answer.headers["Content-Type"] == "application/vnd.kubernetes.protobuf;stream=watch"
        found = []
        for _ in range(2):
            size = int.from_bytes(await answer.content.readexactly(4), "big")
            event = {n: v for n, _, v in wire.fields(await answer.content.readexactly(size))}
            inner = {n: v for n, _, v in wire.fields(event[2])}
            found.append((bytes(event[1]).decode(), protobuf.decode_object(bytes(inner[1]))))
        (first, obj), (last, mark) = found
        assert first == "ADDED" and obj["data"] == {"a": "1"}
        assert last == "BOOKMARK" and mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_watch_over_a_websocket(server: TestServer, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    await http("POST", CONFIGMAPS, configmap("first", a="1"))
    url = f"{http.url}{CONFIGMAPS}?watch=1"
    async with http.session.ws_connect(url, protocols=("base64url.bearer.authorization.k8s.io.x", "any")) as ws:
        assert ws.protocol == "any"
        event = await ws.receive_json(timeout=5)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "first")
        await http("DELETE", f"{CONFIGMAPS}/first")
        event = await ws.receive_json(timeout=5)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "first")
        (watch,) = server.server._watches
        closed, close = asyncio.Event(), watch.close
        monkeypatch.setattr(watch, "close", lambda: (close(), closed.set()))
    await asyncio.wait_for(closed.wait(), 5)
    async with http.session.ws_connect(f"{url}&timeoutSeconds=1") as ws:
        assert (await ws.receive(timeout=5)).type == aiohttp.WSMsgType.CLOSE
    with pytest.raises(aiohttp.WSServerHandshakeError) as failed:
        await http.session.ws_connect(f"{url}&fieldSelector=no.such=1")
    assert failed.value.status == 400
