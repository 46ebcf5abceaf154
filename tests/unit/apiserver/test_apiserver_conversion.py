"""Two faces of one store, continue tokens, names and proxied pages: the pure parts."""

from __future__ import annotations

from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver.connecting import pick_container, split_scheme_name_port
from k3sd.apiserver.conversion import converter, event_from_events, event_to_events, hpa_v1_to_v2, hpa_v2_to_v1
from k3sd.apiserver.listing import decode_continue, encode_continue
from k3sd.apiserver.proxying import rewrite_links, rewrite_location
from k3sd.apiserver.served import VersionKey
from k3sd.apiserver.tunnel import Target
from k3sd.apiserver.writes import generate_name, splice


def test_events_both_ways() -> None:
    core = {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": "e"},
        "involvedObject": {"name": "p"},
        "message": "m",
        "source": {"component": "kubelet"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": None,
        "count": 2,
        "eventTime": None,
        "reportingComponent": "",
        "reportingInstance": "",
    }
    other = event_to_events(core)
    assert other["regarding"] == {"name": "p"}
    assert (other["note"], other["deprecatedCount"], other["deprecatedSource"]) == ("m", 2, {"component": "kubelet"})
    assert event_from_events(other) == core


def test_autoscalers_both_ways() -> None:
    v2: dict[str, Any] = {
        "kind": "HorizontalPodAutoscaler",
        "apiVersion": "autoscaling/v2",
        "metadata": {"name": "h"},
        "spec": {
            "maxReplicas": 5,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                },
                {"type": "Pods", "pods": {"metric": {"name": "m"}}},
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 1}},
        },
        "status": {"conditions": [{"type": "AbleToScale"}]},
    }
    v1 = hpa_v2_to_v1(v2)
    assert v1["spec"] == {"maxReplicas": 5, "targetCPUUtilizationPercentage": 80}
    assert hpa_v1_to_v2(v1) == v2


def test_versions_with_equal_fields_are_relabelled() -> None:
    convert = converter("Thing", "example.com/v1", "example.com/v2")
    assert convert is not None
    assert convert({"apiVersion": "example.com/v1", "spec": {}}) == {"apiVersion": "example.com/v2", "spec": {}}
    assert converter("Thing", "v1", "v1") is None


def test_continue_tokens() -> None:
    token = encode_continue(7, "default/a\0")
    assert decode_continue(token, "/registry/pods/") == (7, "/registry/pods/default/a\0", 0)
    for bad in ("", "!!", encode_continue(0, "a"), encode_continue(1, ""), encode_continue(1, "../secrets/a")):
        with pytest.raises(StatusError) as failed:
            decode_continue(bad, "/registry/pods/")
        assert failed.value.message.startswith("continue key is not valid: ")


def test_splice() -> None:
    assert splice(b'{"kind":"A","metadata":{"name":"a"}}', 7) == b'{"kind":"A","metadata":{"resourceVersion":"7","name":"a"}}'
    assert splice(b'{"kind":"A","metadata":{}}', 7) == b'{"kind":"A","metadata":{"resourceVersion":"7"}}'


def test_generated_names() -> None:
    assert len(generate_name("x" * 100)) == 63
    assert generate_name("web-")[4:].isalnum()


def test_versions_are_ordered_as_kubernetes_orders_them() -> None:
    versions = ["v1alpha1", "v1", "v2beta1", "v10", "v2", "v1beta2", "foo"]
    assert sorted(versions, key=VersionKey.of) == ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web", ("", "web", "")),
        ("web:80", ("", "web", "80")),
        ("https:web:443", ("https", "web", "443")),
        (":web:http", ("", "web", "http")),
        ("https:web:", ("https", "web", "")),
    ],
)
def test_proxy_names(text: str, parts: tuple[str, str, str]) -> None:
    assert split_scheme_name_port(text) == parts


@pytest.mark.parametrize("text", ["", "ftp:web:21", "a:b:c:d", "http::80"])
def test_bad_proxy_names(text: str) -> None:
    with pytest.raises(StatusError):
        split_scheme_name_port(text)


def test_the_annotated_container_is_the_default() -> None:
    pod: dict[str, Any] = {
        "metadata": {"name": "p", "annotations": {"kubectl.kubernetes.io/default-container": "b"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
    }
    assert pick_container(pod, "") == "b"
    assert pick_container(pod, "a") == "a"


def test_links_of_proxied_pages() -> None:
    page = b'<a href="/x">1</a> <a href=\'/p/y\'>2</a> <img src="//other/z"> <a href="z">3</a>'
    assert rewrite_links(page, "/p") == b'<a href="/p/x">1</a> <a href=\'/p/y\'>2</a> <img src="//other/z"> <a href="z">3</a>'
    target = Target("10.0.0.1", 80)
    assert rewrite_location("/login?x=1", target, "/p") == "/p/login?x=1"
    assert rewrite_location("http://10.0.0.1/login", target, "/p") == "/p/login"
    assert rewrite_location("https://example.com/", target, "/p") == "https://example.com/"
