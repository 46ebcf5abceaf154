"""Accept headers as real clients send them."""

from __future__ import annotations

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apiserver.discovery import _aggregated_version
from k3sd.apiserver.negotiation import JSON, PROTOBUF, YAML, body_type, negotiate

KUBECTL_GET = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


@pytest.mark.parametrize("accept", ["", "*/*", JSON, f"{PROTOBUF},{JSON}", f"{PROTOBUF}, */*", "text/html, */*;q=0.5"])
def test_plain_json(accept: str) -> None:
    assert negotiate(accept, False).plain


def test_table_and_partial_metadata() -> None:
    table = negotiate(KUBECTL_GET, False)
    assert (table.convert, table.version, table.plain) == ("Table", "v1", False)
    assert negotiate(METADATA, False).convert == "PartialObjectMetadataList"


def test_table_is_skipped_where_there_is_none() -> None:
    assert negotiate(KUBECTL_GET, False, False).plain
    with pytest.raises(StatusError) as failed:
        negotiate("application/json;as=Table;v=v1;g=meta.k8s.io", False, False)
    assert failed.value.code == 406


def test_protobuf_only_for_who_reads_nothing_else() -> None:
    assert negotiate(PROTOBUF, False).type == PROTOBUF
    assert negotiate(f"{PROTOBUF}, application/json", False).plain
    assert negotiate(f"{PROTOBUF}, */*", False).plain


def test_yaml() -> None:
    assert negotiate("application/yaml", False).type == YAML


@pytest.mark.parametrize(
    "accept", ["text/html", f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v9;g=meta.k8s.io"]
)
def test_not_acceptable(accept: str) -> None:
    with pytest.raises(StatusError) as failed:
        negotiate(accept, False)
    assert (failed.value.code, failed.value.reason) == (406, "NotAcceptable")


@pytest.mark.parametrize(
    ("header", "media"),
    [("", JSON), ("application/json; charset=utf-8", JSON), ("application/yaml", YAML), (PROTOBUF, PROTOBUF)],
)
def test_bodies(header: str, media: str) -> None:
    assert body_type(header) == media


def test_unsupported_body() -> None:
    with pytest.raises(StatusError) as failed:
        body_type("text/csv")
    assert failed.value.code == 415


@pytest.mark.parametrize(
    ("accept", "version"),
    [
        ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "v2"),
        (
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
            "v2beta1",
        ),
        ("application/json,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", ""),
        ("", ""),
    ],
)
def test_aggregated_discovery(accept: str, version: str) -> None:
    assert _aggregated_version(accept) == version
