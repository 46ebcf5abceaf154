"""Admission webhooks over real TLS: matching, patches, refusals, failure policy, time-outs."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources as r
from k3sd.apiserver.admission.webhookrules import rule_matches
from k3sd.apiserver.options import ListOptions
from k3sd.apiserver.registry import Registry
from k3sd.apiserver.request import LOOPBACK, RequestContext
from k3sd.apiserver.startup import make_namespaces
from k3sd.config.settings import Settings
from tests.support.apiserver import open_registry

Respond = Callable[[dict[str, Any]], dict[str, Any]]
Convert = Respond


def convert_color(request: dict[str, Any]) -> dict[str, Any]:
    """v1 says ``spec.color``, v2 ``color``; metadata as it came, but for what a webhook may not change."""
    out = []
    for obj in deepcopy(request["objects"]):
        if request["desiredAPIVersion"].endswith("v2"):
            obj["color"] = obj.pop("spec")["color"]
        else:
            obj["spec"] = {"color": obj.pop("color")}
        obj["metadata"]["annotations"] = {"converted": "to " + request["desiredAPIVersion"]}
        obj["metadata"]["generation"] = 77
        out.append({**obj, "apiVersion": request["desiredAPIVersion"]})
    return {"uid": request["uid"], "convertedObjects": out, "result": {"status": "Success"}}


class Hook:
    """A webhook server behind Service ``default/hook``; ``respond`` makes the response of a request."""

    def __init__(self, registry: Registry, bundle: str, port: int) -> None:
        self.registry = registry
        self.client = registry.client()
        self.bundle = bundle
        self.port = port
        self.requests: list[dict[str, Any]] = []
        self.respond: Respond = lambda request: {"allowed": True}
        self.delay: asyncio.Event | None = None
        self.convert: Convert = convert_color

    async def handle(self, request: web.Request) -> web.Response:
        review = await request.json()
        self.requests.append(review["request"])
        if review["kind"] == "ConversionReview":
            return web.json_response({**review, "response": self.convert(review["request"])})
        if self.delay is not None:
            await self.delay.wait()
        response = {"uid": review["request"]["uid"], **self.respond(review["request"])}
        return web.json_response({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})

    async def register(self, row: Any = r.VALIDATINGWEBHOOKCONFIGURATIONS, **fields: Any) -> None:
        hook = {
            "name": "hook.example.com",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {
                "caBundle": self.bundle,
                "service": {"name": "hook", "namespace": "default", "path": "/x", "port": 443},
            },
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            **fields,
        }
        await self.client.create(row, {"metadata": {"name": "config"}, "webhooks": [hook]})

    async def config_map(self, name: str = "c", **fields: Any) -> dict[str, Any]:
        return deepcopy(await self.client.create(r.CONFIGMAPS, {"metadata": {"name": name}, **fields}, "default"))


def certificate(directory: Path) -> tuple[ssl.SSLContext, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook")])
    now = datetime.datetime.utcnow()
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hook.default.svc")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    (directory / "tls.crt").write_bytes(pem)
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    return context, base64.b64encode(pem).decode()


@pytest.fixture
async def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hook]:
    # EndpointSlices may not name loopback addresses; the test server has no other.
    monkeypatch.setattr(ipaddress.IPv4Address, "is_loopback", False)
    async with open_registry(Settings(data_dir=str(tmp_path))) as registry:
        await make_namespaces(registry)
        client = registry.client()
        context, bundle = certificate(tmp_path)
        holder: list[Hook] = []
        app = web.Application()
        app.router.add_post("/x", lambda request: holder[0].handle(request))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        spec = {"ports": [{"name": "https", "port": 443, "targetPort": port}]}
        await client.create(r.SERVICES, {"metadata": {"name": "hook"}, "spec": spec}, "default")
        piece = {
            "metadata": {"name": "hook", "labels": {"kubernetes.io/service-name": "hook"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": port}],
        }
        await client.create(r.ENDPOINTSLICES, piece, "default")
        holder.append(Hook(registry, bundle, port))
        yield holder[0]
        await runner.cleanup()


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"allowed": True, "patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}


async def test_review_and_denial(hook: Hook) -> None:
    await hook.register()
    hook.respond = lambda request: {"allowed": False, "status": {"message": "no such thing"}, "warnings": ["mind"]}
    with pytest.raises(StatusError) as caught:
        await hook.config_map(data={"a": "b"})
    assert caught.value.message == 'admission webhook "hook.example.com" denied the request: no such thing'
    assert caught.value.code == 400
    request = hook.requests[0]
    assert request["operation"] == "CREATE"
    assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert (request["namespace"], request["name"]) == ("default", "c")
    assert request["object"]["data"] == {"a": "b"}
    assert request["oldObject"] is None
    assert request["options"]["kind"] == "CreateOptions"
    assert request["userInfo"]["username"] == "system:apiserver"


async def test_mutation_is_stored(hook: Hook) -> None:
    await hook.register(r.MUTATINGWEBHOOKCONFIGURATIONS)
    hook.respond = lambda request: patch({"op": "add", "path": "/data", "value": {"added": "yes"}})
    await hook.config_map()
    assert (await hook.client.get(r.CONFIGMAPS, "c", "default"))["data"] == {"added": "yes"}


async def test_update_and_delete_carry_the_old_object(hook: Hook) -> None:
    await hook.register()
    made = await hook.config_map(data={"a": "1"})
    made["data"] = {"a": "2"}
    await hook.client.update(r.CONFIGMAPS, made)
    await hook.client.delete(r.CONFIGMAPS, "c", "default")
    assert [q["operation"] for q in hook.requests] == ["CREATE", "UPDATE", "DELETE"]
    assert hook.requests[1]["oldObject"]["data"] == {"a": "1"}
    assert hook.requests[2]["oldObject"]["data"] == {"a": "2"}
    assert hook.requests[2]["object"] is None


@pytest.mark.parametrize(
    ("fields", "labels", "asked"),
    [
        ({}, {}, 1),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, {}, 0),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, {"a": "b"}, 1),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}, {}, 1),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, {}, 0),
    ],
)
async def test_selectors(hook: Hook, fields: dict[str, Any], labels: dict[str, str], asked: int) -> None:
    await hook.register(**fields)
    await hook.client.create(r.CONFIGMAPS, {"metadata": {"name": "c", "labels": labels}}, "default")
    assert len(hook.requests) == asked


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
async def test_time_out(hook: Hook, policy: str) -> None:
    await hook.register(failurePolicy=policy, timeoutSeconds=1)
    hook.delay = asyncio.Event()
    try:
        if policy == "Ignore":
            await hook.config_map()
        else:
            with pytest.raises(StatusError) as caught:
                await hook.config_map()
            assert caught.value.code == 500
            assert caught.value.message == (
                'Internal error occurred: failed calling webhook "hook.example.com": failed to call webhook: '
                'Post "https://hook.default.svc:443/x?timeout=1s": context deadline exceeded'
            )
    finally:
        hook.delay.set()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"uid": "other", "allowed": True}, "expected response.uid"),
        (patch({"op": "add", "path": "/data", "value": {}}), "validating webhook may not return a patch"),
    ],
)
async def test_bad_answers_fail_closed(hook: Hook, answer: dict[str, Any], text: str) -> None:
    await hook.register()
    hook.respond = lambda request: answer
    with pytest.raises(StatusError, match=text):
        await hook.config_map()


async def test_only_the_bundle_is_trusted(hook: Hook, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _, hook.bundle = certificate(other)
    await hook.register()
    with pytest.raises(StatusError, match="failed calling webhook"):
        await hook.config_map()
    assert hook.requests == []


async def test_configurations_are_never_sent_and_go_at_once(hook: Hook) -> None:
    everything = [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]
    await hook.register(rules=everything)
    hook.respond = lambda request: {"allowed": False}
    with pytest.raises(StatusError, match="denied the request without explanation"):
        await hook.config_map()
    await hook.client.delete(r.VALIDATINGWEBHOOKCONFIGURATIONS, "config")
    await hook.config_map()


async def test_dry_run_needs_a_hook_without_side_effects(hook: Hook) -> None:
    await hook.register()
    body = {"metadata": {"name": "c"}}
    await hook.client.create(r.CONFIGMAPS, body, "default", dry_run=True)
    assert hook.requests[0]["dryRun"] is True


@pytest.mark.parametrize(
    ("rule", "row", "sub", "matches"),
    [
        ({"resources": ["pods"]}, r.PODS, "", True),
        ({"resources": ["pods"]}, r.PODS, "status", False),
        ({"resources": ["pods/*"]}, r.PODS, "status", True),
        ({"resources": ["pods/status"]}, r.PODS, "status", True),
        ({"resources": ["*"]}, r.PODS, "status", False),
        ({"resources": ["*/*"]}, r.PODS, "status", True),
        ({"resources": ["*/status"]}, r.PODS, "status", True),
        ({"resources": ["*"], "scope": "Cluster"}, r.PODS, "", False),
        ({"resources": ["*"], "scope": "Cluster"}, r.NODES, "", True),
        ({"resources": ["*"], "scope": "Namespaced"}, r.NODES, "", False),
        ({"resources": ["*"], "apiGroups": ["apps"]}, r.PODS, "", False),
        ({"resources": ["*"], "operations": ["DELETE"]}, r.PODS, "", False),
        ({"resources": ["*"], "apiVersions": ["v2"]}, r.PODS, "", False),
    ],
)
def test_rules(rule: dict[str, Any], row: Any, sub: str, matches: bool) -> None:
    rule = {"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], **rule}
    assert rule_matches(rule, row, sub, "CREATE", "default" if row.namespaced else "") is matches


@pytest.mark.parametrize(("expression", "asked"), [("object.metadata.name == 'c'", 1), ("request.operation == 'DELETE'", 0)])
async def test_match_conditions(hook: Hook, expression: str, asked: int) -> None:
    await hook.register(matchConditions=[{"name": "only", "expression": expression}])
    await hook.config_map()
    assert len(hook.requests) == asked


async def test_match_conditions_must_compile_and_fail_closed(hook: Hook) -> None:
    with pytest.raises(StatusError, match="compilation failed"):
        await hook.register(matchConditions=[{"name": "only", "expression": "object."}])
    await hook.register(matchConditions=[{"name": "only", "expression": "object.nope == 1"}])
    with pytest.raises(StatusError, match="match conditions could not be evaluated"):
        await hook.config_map()
    assert hook.requests == []


PAINT = {"type": "object", "properties": {"color": {"type": "string"}}}
PAINTS = {
    "metadata": {"name": "paints.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "paints", "kind": "Paint"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": PAINT}}},
            },
            {
                "name": "v2",
                "served": True,
                "storage": False,
                "selectableFields": [{"jsonPath": ".color"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"color": {"type": "string"}, "weight": {"type": "integer", "default": 3}},
                    }
                },
            },
        ],
    },
}


async def paints(hook: Hook) -> tuple[Registry, Any, Any]:
    """The definition with conversion by the hook, and its two rows."""
    registry = hook.registry
    registry.custom.start()
    definition = deepcopy(PAINTS)
    service = {"name": "hook", "namespace": "default", "path": "/x"}
    webhook = {"clientConfig": {"caBundle": hook.bundle, "service": service}, "conversionReviewVersions": ["v1"]}
    definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
    await hook.client.create(r.CUSTOMRESOURCEDEFINITIONS, definition)
    rows = [registry.served.find("example.com", version, "paints") for version in ("v1", "v2")]
    return registry, *rows


async def test_conversion_of_reads_is_asked_once(hook: Hook) -> None:
    _, v1, v2 = await paints(hook)
    for name, color in (("a", "red"), ("b", "blue")):
        await hook.client.create(v1, {"metadata": {"name": name}, "spec": {"color": color}}, "default")
    assert not hook.requests
    found = await hook.client.get(v2, "a", "default")
    assert (found["apiVersion"], found["color"], found["weight"]) == ("example.com/v2", "red", 3)
    metadata = found["metadata"]
    assert metadata["annotations"] == {"converted": "to example.com/v2"} and metadata["generation"] == 1
    assert metadata["name"] == "a" and metadata["resourceVersion"]
    listed = await hook.client.list(v2, "default")
    assert [o["color"] for o in listed.items] == ["red", "blue"]
    assert [len(q["objects"]) for q in hook.requests] == [1, 1], "what was converted is not asked about again"
    chosen = await hook.client.list(v2, "default", field_selector="color=blue")
    assert [o["metadata"]["name"] for o in chosen.items] == ["b"]
    assert len(hook.requests) == 2


async def test_conversion_of_writes_and_watches(hook: Hook) -> None:
    registry, v1, v2 = await paints(hook)
    watch = await registry.watch(RequestContext(LOOPBACK, "watch", v2), ListOptions.from_query({}, True))
    await hook.client.create(v2, {"metadata": {"name": "a"}, "color": "red"}, "default")
    ((change, item),) = await watch.next()
    assert change == "ADDED" and item.obj["color"] == "red" and item.obj["apiVersion"] == "example.com/v2"
    stored = registry.endpoint(v1).cache.list()[0].obj
    assert (stored["apiVersion"], stored["spec"]) == ("example.com/v1", {"color": "red"})
    await hook.client.patch(v2, "a", {"color": "green"}, "default")
    ((change, item),) = await watch.next()
    assert change == "MODIFIED" and item.obj["color"] == "green"
    assert (await hook.client.get(v1, "a", "default"))["spec"] == {"color": "green"}
    await hook.client.delete(v2, "a", "default")
    ((change, item),) = await watch.next()
    assert change == "DELETED" and item.obj["color"] == "green"
    watch.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"result": {"status": "Failed", "message": "too bright"}}, "failed: too bright"),
        ({"result": {"status": "Success"}, "convertedObjects": []}, "returned 0 objects, expected 1"),
        (
            {"result": {"status": "Success"}, "convertedObjects": [{"kind": "Paint", "apiVersion": "example.com/v1"}]},
            "returned invalid converted object at index 0: invalid groupVersion (expected example.com/v2, received "
            "example.com/v1)",
        ),
    ],
)
async def test_conversion_that_fails(hook: Hook, answer: dict[str, Any], text: str) -> None:
    _, v1, v2 = await paints(hook)
    await hook.client.create(v1, {"metadata": {"name": "a"}, "spec": {"color": "red"}}, "default")
    hook.convert = lambda request: {"uid": request["uid"], **answer}
    with pytest.raises(StatusError) as caught:
        await hook.client.get(v2, "a", "default")
    assert caught.value.code == 500
    assert caught.value.message.endswith(f"conversion webhook for example.com/v1, Kind=Paint {text}")
