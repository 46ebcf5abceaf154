"""Content negotiation: what a client accepts, what a body is. Pure and cached by header text.

Source: ``apiserver/pkg/endpoints/handlers/negotiation``. Answers are JSON, YAML or protobuf, Tables JSON or YAML. A client that
lists protobuf and JSON gets JSON, whatever it prefers: that is what the store holds. Protobuf is for who reads nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from k3sd.apimachinery.errors import StatusError, not_acceptable, unsupported_media_type

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"

Convert = Literal["", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"]


@dataclass(frozen=True, slots=True)
class MediaType:
    """One answer form. ``convert`` is the ``as=`` parameter (meta.k8s.io) and ``version`` its ``v=``."""

    type: str = JSON
    convert: Convert = ""
    version: str = "v1"
    pretty: bool = False

    @property
    def plain(self) -> bool:
        """Stored bytes may be handed out as they are."""
        return self.type == JSON and not self.convert and not self.pretty


PLAIN = MediaType()
_SUPPORTED = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
NOT_ACCEPTABLE = "only the following media types are accepted: " + _SUPPORTED


def parse_accept(header: str) -> list[tuple[str, dict[str, str]]]:
    """Clauses sorted by quality, then as written."""
    clauses: list[tuple[float, int, str, dict[str, str]]] = []
    for index, clause in enumerate(header.split(",")):
        parts = [p.strip() for p in clause.split(";")]
        if not parts[0]:
            continue
        params: dict[str, str] = {}
        for part in parts[1:]:
            key, _, value = part.partition("=")
            params[key.strip().lower()] = value.strip().strip('"')
        try:
            quality = float(params.pop("q", "1"))
        except ValueError:
            quality = 0.0
        clauses.append((-quality, index, parts[0].lower(), params))
    return [(media, params) for _, _, media, params in sorted(clauses, key=lambda c: c[:2])]


@lru_cache(maxsize=256)
def negotiate(accept: str, pretty: bool, allow_table: bool = True) -> MediaType:
    """The form to answer in. Raises 406 when nothing the client accepts can be produced."""
    if not accept:
        return MediaType(pretty=pretty) if pretty else PLAIN
    fallback: MediaType | None = None
    for media, params in parse_accept(accept):
        convert = params.get("as", "")
        if convert and not _can_convert(convert, params, allow_table):
            continue
        pretty_here = pretty or params.get("pretty") == "1"
        if media in (JSON, "*/*", "application/*"):
            if params.get("stream") == "watch" or not convert:
                return MediaType(pretty=pretty_here) if pretty_here else PLAIN
            return MediaType(JSON, convert, params.get("v", "v1"), pretty_here)  # type: ignore[arg-type]
        if media in (YAML, "application/x-yaml", "text/yaml"):
            return MediaType(YAML, convert, params.get("v", "v1"))  # type: ignore[arg-type]
        if media == PROTOBUF and convert != "Table" and fallback is None:
            fallback = MediaType(PROTOBUF, convert, params.get("v", "v1"))  # type: ignore[arg-type]
    if fallback is not None:
        return fallback
    raise not_acceptable(NOT_ACCEPTABLE)


def _can_convert(convert: str, params: dict[str, str], allow_table: bool) -> bool:
    if params.get("g", "") != "meta.k8s.io":
        return False
    if convert == "Table":
        return allow_table and params.get("v") in ("v1", "v1beta1")
    return convert in ("PartialObjectMetadata", "PartialObjectMetadataList") and params.get("v") in ("v1", "v1beta1")


@lru_cache(maxsize=128)
def body_type(content_type: str) -> str:
    """JSON, YAML or PROTOBUF for a request body. Raises 415."""
    media = content_type.partition(";")[0].strip().lower()
    if media in ("", JSON):
        return JSON
    if media in (YAML, "application/x-yaml", "text/yaml"):
        return YAML
    if media == PROTOBUF:
        return PROTOBUF
    raise unsupported(media, (JSON, YAML, PROTOBUF))


def unsupported(media: str, supported: tuple[str, ...]) -> StatusError:
    return unsupported_media_type(
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(supported)}"
    )
