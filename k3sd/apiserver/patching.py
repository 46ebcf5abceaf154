"""PATCH: the four patch types on top of the write path.

Upstream: ``apiserver/pkg/endpoints/handlers/patch.go``. The patch is applied to the current object; a lost race is retried
with the newer object unless the patch itself names a ``resourceVersion``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import (
    Obj,
    StatusError,
    bad_request,
    go_value,
    invalid_object,
    unsupported_media_type,
)
from k3sd.apimachinery.errors import (
    invalid as invalid_field,
)
from k3sd.apiserver import writes
from k3sd.apiserver.endpoint import Endpoint, Item
from k3sd.apiserver.request import RequestContext

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY)
MAX_JSON_PATCH_OPERATIONS = 10000


@dataclass(slots=True)
class Patch:
    """A patch decoded from its body. ``duplicates`` are the duplicate-field texts found in it."""

    type: str
    body: Any
    force: bool = False
    duplicates: tuple[str, ...] = ()


def parse(content_type: str, body: bytes, force: bool) -> Patch:
    """Raises 415 for other types, 400 for a body that is not JSON or YAML."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in TYPES:
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(TYPES)}"
        )
    if media == APPLY:
        value, duplicates = codec.decode_yaml(body)
        return Patch(media, value, force, tuple(duplicates))
    if media == JSON_PATCH:
        try:
            operations = codec.loads(body)
        except ValueError as error:
            raise bad_request(f"error decoding patch: {error}") from None
        if not isinstance(operations, list):
            raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
        if len(operations) > MAX_JSON_PATCH_OPERATIONS:
            raise StatusError(
                413,
                "RequestEntityTooLarge",
                f"The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {len(operations)}",
            )
        return Patch(media, operations, force)
    value, duplicates = codec.decode_json(body)
    return Patch(media, value, force, tuple(duplicates))


def transform(ep: Endpoint, ctx: RequestContext, patch: Patch, type_: Any) -> Callable[[Obj], Obj]:
    """The function from the current object to the patched, conformed one (every type but apply)."""
    from k3sd.apimachinery import patch as machinery

    if patch.type == STRATEGIC and not ep.resource.type_name.startswith("io.k8s."):
        media = ", ".join(t for t in TYPES if t != STRATEGIC)
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {media}"
        )

    def change(old: Obj) -> Obj:
        old = dict(old)
        if patch.type == JSON_PATCH:
            new = machinery.json_patch(old, patch.body)
        elif patch.type == MERGE_PATCH:
            new = machinery.merge_patch(old, patch.body)
        else:
            new = machinery.strategic_merge_patch(old, patch.body, type_)
        if not isinstance(new, dict):
            raise bad_request("the patch does not result in an object")
        texts = [*patch.duplicates, *codec.conform(new, type_)]
        if texts:
            report(ctx, texts, lambda: _invalid_patch(new if patch.type != STRATEGIC else patch.body, texts))
        return new

    return change


def _invalid_patch(value: Any, texts: list[str]) -> StatusError:
    detail = "strict decoding error: " + ", ".join(dict.fromkeys(texts))
    shown = codec.encode(value).decode()
    return invalid_object("", "", "", [invalid_field("patch", shown, detail)])


def report(ctx: RequestContext, texts: list[str], error: Callable[[], StatusError]) -> None:
    """Unknown and duplicate fields as ``fieldValidation`` wants them: an error, warnings, or nothing."""
    if ctx.field_validation == "Strict":
        raise error()
    if ctx.field_validation == "Warn":
        ctx.warnings += dict.fromkeys(texts)


async def patch_object(ep: Endpoint, ctx: RequestContext, patch: Patch) -> tuple[Item, bool]:
    """Patch the main resource or ``/status``. Returns the object and whether it was created (apply only)."""
    if patch.type == APPLY:
        from k3sd.apiserver import applying

        return await applying.apply_object(ep, ctx, patch)
    conditional = isinstance(patch.body, dict) and bool((patch.body.get("metadata") or {}).get("resourceVersion"))
    return await writes.modify(ep, ctx, transform(ep, ctx, patch, ep.type_), patch=True, conditional=conditional)


def check_apply_target(ep: Endpoint, ctx: RequestContext, applied: Obj) -> None:
    """``kind``, ``apiVersion`` and ``metadata.name`` of an apply body against the URL."""
    del ctx
    kind, version = applied.get("kind", ""), applied.get("apiVersion", "")
    if not kind or not version:
        missing = "kind" if not kind else "apiVersion"
        raise bad_request(f"Object '{missing.capitalize()}' is missing in {go_value(codec.encode(applied).decode())}")
    if kind != ep.resource.kind or version != ep.resource.api_version:
        raise bad_request(
            f"the API version in the data ({version}, Kind={kind}) does not match the expected API version "
            f"({ep.resource.api_version}, Kind={ep.resource.kind})"
        )
