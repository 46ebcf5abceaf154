"""Typed checking of decoded objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from k3sd.apimachinery import codec
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import StatusError

DEPLOYMENT = "io.k8s.api.apps.v1.Deployment"
POD = "io.k8s.api.core.v1.Pod"


def deployment(**spec: Any) -> dict[str, Any]:
    container = {"name": "a", "image": "b"}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
    base = {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}
    return {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"}, "spec": base}


def test_structs_that_go_always_writes_are_added() -> None:
    obj = deployment()
    assert conform(obj, DEPLOYMENT) == []
    assert obj["status"] == {}
    assert obj["spec"]["strategy"] == {}
    assert obj["spec"]["template"]["spec"]["containers"][0]["resources"] == {}
    pod: dict[str, Any] = {"kind": "Pod", "apiVersion": "v1", "metadata": None}
    conform(pod, POD)
    assert pod == {"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {}, "status": {}}


def test_nulls_and_empty_values_go_and_pointers_stay() -> None:
    obj = deployment(replicas=0, paused=False, minReadySeconds=0)
    obj["metadata"].update(creationTimestamp=None, labels={}, generateName="")
    conform(obj, DEPLOYMENT)
    assert obj["metadata"] == {"name": "d"}
    assert obj["spec"]["replicas"] == 0
    assert "paused" not in obj["spec"] and "minReadySeconds" not in obj["spec"]


def test_scalars_become_canonical() -> None:
    pod = {
        "spec": {
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "1000m", "memory": 1024, "x/y": 0.5}}}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1024Mi"}}],
        },
        "metadata": {"creationTimestamp": "2026-01-01T01:00:00.5+01:00"},
    }
    assert conform(pod, POD) == []
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "1024", "x/y": "500m"}
    assert pod["spec"]["volumes"][0]["emptyDir"] == {"sizeLimit": "1Gi"}
    assert pod["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"


def test_unknown_fields_are_dropped_and_named() -> None:
    obj = deployment(foo=1)
    obj["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "x"}, {"name": "y", "valu": "z"}]
    obj["metadata"]["unknownMeta"] = "x"
    assert conform(obj, DEPLOYMENT) == [
        'unknown field "metadata.unknownMeta"',
        'unknown field "spec.template.spec.containers[0].env[1].valu"',
        'unknown field "spec.foo"',
    ]
    clean = copy.deepcopy(obj)
    assert conform(obj, DEPLOYMENT) == [] and obj == clean


PREFIX = 'Deployment in version "v1" cannot be handled as a Deployment: '
WRONG = [
    (
        {"replicas": "3"},
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    ),
    (
        {"replicas": 1.5},
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    ),
    (
        {"replicas": 2**31},
        "json: cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32",
    ),
    (
        {"paused": "yes"},
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
    ),
    (
        {"template": []},
        "json: cannot unmarshal array into Go struct field DeploymentSpec.spec.template of type v1.PodTemplateSpec",
    ),
    (
        {"template": {"spec": {"containers": {}}}},
        "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
    ),
    (
        {"template": {"metadata": {"labels": {"a": 1}}}},
        "json: cannot unmarshal number into Go struct field ObjectMeta.spec.template.metadata.labels of type string",
    ),
    (
        {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}},
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    ),
]


@pytest.mark.parametrize(("spec", "message"), WRONG, ids=[str(w[0])[:40] for w in WRONG])
def test_wrong_types_read_as_upstream(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(StatusError) as caught:
        conform(deployment(**spec), DEPLOYMENT)
    assert (caught.value.code, caught.value.message) == (400, PREFIX + message)


def test_whole_object_of_the_wrong_type() -> None:
    for wrong in (None, 1, [], "x"):
        with pytest.raises(StatusError):
            conform(wrong, POD)


def test_secret_bytes_are_checked() -> None:
    secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "data": {"a": "YWJj", "e": ""}}
    assert conform(secret, "io.k8s.api.core.v1.Secret") == []
    assert secret["data"] == {"a": "YWJj", "e": ""}
    secret["data"]["b"] = "@@@"
    with pytest.raises(StatusError, match="illegal base64 data at input byte 0"):
        conform(secret, "io.k8s.api.core.v1.Secret")


def test_nulls_inside_lists_are_zero_values() -> None:
    obj = {"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [None, {"name": "a", "args": ["x", None]}]}}
    assert conform(obj, POD) == []
    assert obj["spec"]["containers"] == [{"name": "", "resources": {}}, {"name": "a", "args": ["x", ""], "resources": {}}]


def test_crd_schemas_are_walked() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "string", "bogus": 1, "default": {"any": None}}},
        "additionalProperties": False,
        "items": [{"type": "string"}],
    }
    crd = {
        "kind": "CustomResourceDefinition",
        "apiVersion": "apiextensions.k8s.io/v1",
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]},
    }
    unknown = conform(crd, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")
    assert unknown == ['unknown field "spec.versions[0].schema.openAPIV3Schema.properties.a.bogus"']
    assert schema["properties"]["a"]["default"] == {"any": None}


def test_strict_error_reads_as_upstream() -> None:
    error = codec.strict_error("Deployment", "v1", ['unknown field "spec.a"', 'duplicate field "spec.b"'])
    assert error.message == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
        'unknown field "spec.a", duplicate field "spec.b"'
    )


def test_strict_texts_come_in_document_order() -> None:
    body = (
        b'{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d","unknownMeta":"x"},'
        b'"spec":{"unknownField":"foo","replicas":1,"replicas":2,"template":{"spec":{"containers":[{"a":1},{"b":1}]}}}}'
    )
    obj, texts = codec.decode_json(body)
    texts += conform(obj, DEPLOYMENT)
    assert codec.in_document_order(body, texts) == [
        'unknown field "metadata.unknownMeta"',
        'unknown field "spec.unknownField"',
        'duplicate field "spec.replicas"',
        'unknown field "spec.template.spec.containers[0].a"',
        'unknown field "spec.template.spec.containers[1].b"',
    ]
