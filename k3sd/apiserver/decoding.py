"""From a request body to a conformed object of the kind the URL names. Upstream: ``transformDecodeError``,
``serializer/json``."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj, bad_request
from k3sd.apiserver.negotiation import JSON, PROTOBUF, body_type
from k3sd.apiserver.patching import report
from k3sd.apiserver.request import RequestContext


def read(body: bytes, content_type: str) -> tuple[Any, list[str]]:
    """The value of a body in one of the accepted formats, and duplicate-field texts."""
    media = body_type(content_type)
    if media == JSON:
        return codec.decode_json(body)
    if media == PROTOBUF:
        from k3sd.apimachinery import protobuf

        return protobuf.decode_object(body), []
    return codec.decode_yaml(body)


def decode(ctx: RequestContext, body: bytes, content_type: str, kind: str, api_version: str, type_: Any) -> Obj:
    """An object of exactly this kind and version: canonical, unknown fields dropped and reported as ``fieldValidation``
    asks."""
    if not body:
        raise bad_request("unexpected end of JSON input: the request has no body")
    value, texts = read(body, content_type)
    obj = typed(value, kind, api_version)
    texts += codec.conform(obj, type_)
    if texts:
        if len(texts) > 1 and body_type(content_type) == JSON:
            texts = codec.in_document_order(body, texts)
        version = api_version.rpartition("/")[2]
        report(ctx, texts, lambda: codec.strict_error(kind, version, texts))
    return obj


def typed(value: Any, kind: str, api_version: str) -> Obj:
    """Fill in or check ``kind`` and ``apiVersion``."""
    given_kind = value.get("kind") or kind
    given_version = value.get("apiVersion") or api_version
    if given_version != api_version:
        raise bad_request(
            f"the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )
    if given_kind != kind:
        version = api_version.rpartition("/")[2]
        raise codec.decode_error(
            given_kind, version, kind, f"converting ({version}.{given_kind}) to ({version}.{kind}): unknown conversion"
        )
    if value.get("kind") != kind or value.get("apiVersion") != api_version:
        value["kind"], value["apiVersion"] = kind, api_version
    return value  # type: ignore[no-any-return]
