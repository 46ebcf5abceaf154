"""Objects, lists and changes in the form that was negotiated: bytes as stored, pretty, YAML, protobuf, Table, partial.

Upstream: ``apiserver/pkg/endpoints/handlers/response.go``, KEP-1040 and ``meta/v1`` Table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj, StatusError, not_acceptable
from k3sd.apiserver import tables
from k3sd.apiserver.endpoint import Endpoint, Item
from k3sd.apiserver.listing import ListAnswer
from k3sd.apiserver.negotiation import JSON, NOT_ACCEPTABLE, PROTOBUF, YAML, MediaType
from k3sd.apiserver.responses import Answer, Headers
from k3sd.apiserver.watching import frame


def encode(obj: Any, media: MediaType) -> bytes:
    if media.type == YAML:
        return to_yaml(obj)
    if media.type == PROTOBUF:
        from k3sd.apimachinery import protobuf

        return protobuf.encode_object(obj)
    if media.pretty:
        return (json.dumps(obj, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    return codec.encode(obj)


def to_yaml(obj: Any) -> bytes:
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # Through JSON once: cache objects are dict subclasses, which the safe dumper refuses.
    plain = codec.loads(codec.encode(obj))
    text: str = yaml.dump(plain, Dumper=dumper, default_flow_style=False, allow_unicode=True, sort_keys=True)
    return text.encode()


def check(ep: Endpoint, media: MediaType) -> None:
    """Raises 406 when objects of this resource have no such form: before anything is done."""
    if media.type == PROTOBUF and not ep.resource.type_name.startswith("io.k8s."):
        raise not_acceptable("only the following media types are accepted: application/json, application/yaml")


def content_type(media: MediaType) -> str:
    return media.type


def stream_type(media: MediaType) -> str:
    """The content type of a watch."""
    return f"{PROTOBUF};stream=watch" if media.type == PROTOBUF else JSON


def partial(obj: Obj, version: str) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": obj.get("metadata", {})}


def object_answer(
    ep: Endpoint, item: Item, media: MediaType, status: int = 200, headers: Headers = (), include: str = ""
) -> Answer:
    """One object (or a Status in its place)."""
    if media.plain:
        return Answer(status, item.raw, JSON, headers)
    obj = item.obj
    if media.convert and obj.get("kind") != "Status":
        obj = convert_object(ep, obj, media, include)
    return Answer(status, encode(obj, media), content_type(media), headers)


def convert_object(ep: Endpoint, obj: Obj, media: MediaType, include: str) -> Obj:
    if media.convert == "Table":
        objects = obj["items"] if obj.get("kind") == f"{ep.resource.kind}List" else [obj]
        meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        return tables.table(ep.resource, objects, meta, media.version, include)
    if media.convert == "PartialObjectMetadata":
        return partial(obj, media.version)
    raise not_acceptable(NOT_ACCEPTABLE)


def list_answer(answer: ListAnswer, media: MediaType, headers: Headers = (), include: str = "") -> Answer:
    if media.plain:
        return Answer(200, answer.raw, JSON, headers)
    if media.convert == "Table":
        objects = [i.obj for i in answer.items]
        obj = tables.table(answer.endpoint.resource, objects, answer.metadata, media.version, include)
    elif media.convert == "PartialObjectMetadataList":
        obj = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{media.version}",
            "metadata": answer.metadata,
            "items": [partial(i.obj, media.version) for i in answer.items],
        }
    elif media.convert:
        raise not_acceptable(NOT_ACCEPTABLE)
    else:
        obj = answer.obj
    return Answer(200, encode(obj, media), content_type(media), headers)


def change_encoder(ep: Endpoint, media: MediaType, include: str) -> Callable[[str, Item], bytes]:
    """How a watch stream writes a change. A Table stream names the columns in its first event only."""
    if media.type == PROTOBUF:
        return _protobuf_encoder(media)
    if not media.convert:
        return lambda type_, item: frame(type_, item.raw)
    if media.convert == "Table":
        first = True

        def as_table(type_: str, item: Item) -> bytes:
            nonlocal first
            meta = {"resourceVersion": item.obj["metadata"].get("resourceVersion", "")}
            if type_ == "BOOKMARK":
                annotations = item.obj["metadata"].get("annotations")
                obj = tables.bookmark(meta, media.version, annotations)
            else:
                obj = tables.table(ep.resource, [item.obj], meta, media.version, include, columns=first)
                first = False
            return frame(type_, codec.encode(obj))

        return as_table

    def as_partial(type_: str, item: Item) -> bytes:
        return frame(type_, codec.encode(partial(item.obj, media.version)))

    return as_partial


def _protobuf_encoder(media: MediaType) -> Callable[[str, Item], bytes]:
    from k3sd.apimachinery import protobuf

    def as_protobuf(type_: str, item: Item) -> bytes:
        return protobuf.watch_event(type_, partial(item.obj, media.version) if media.convert else item.obj)

    return as_protobuf


def error_frame(error: StatusError, media: MediaType) -> bytes:
    if media.type == PROTOBUF:
        from k3sd.apimachinery import protobuf

        return protobuf.watch_event("ERROR", error.status)
    return frame("ERROR", codec.encode(error.status))
