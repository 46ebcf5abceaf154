"""``/openapi/v2`` and ``/openapi/v3``: documents built from the schema when first asked for, in a thread, and kept compressed.

Upstream: ``kube-openapi/pkg/{handler,handler3}``.
"""

from __future__ import annotations

import asyncio
import gzip as gz
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import StatusError, not_acceptable
from k3sd.apiserver.customresources import CustomResources
from k3sd.apiserver.negotiation import parse_accept
from k3sd.apiserver.responses import Answer
from k3sd.apiserver.served import ServedResources

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
V2_PROTOBUF_ANSWER = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""Go cannot parse the media type its clients ask for, so upstream answers with this one."""
V3_PROTOBUF = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"


@dataclass(frozen=True, slots=True)
class Document:
    """One document, gzip-compressed, with its strong ETag (quoted) and hash."""

    packed: bytes
    digest: str

    @classmethod
    def of(cls, body: bytes) -> Document:
        return cls(gz.compress(body, 6, mtime=0), hashlib.sha256(body).hexdigest().upper())

    @property
    def etag(self) -> str:
        return f'"{self.digest}"'


class OpenAPI:
    """The documents of the served resources."""

    def __init__(self, served: ServedResources, custom: CustomResources) -> None:
        self._served = served
        self._custom = custom
        self._generation = 0
        self._documents: dict[str, Document] = {}
        self._building: dict[str, asyncio.Future[Document]] = {}

    async def answer(self, path: str, accept: str, headers: Mapping[str, str]) -> Answer:
        """``path`` without trailing slash. Raises 404, 406."""
        if self._generation != self._served.generation:
            self._documents.clear()
            self._building.clear()
            self._generation = self._served.generation
        if path == "/openapi/v2":
            if _wants(accept, V2_PROTOBUF) or _wants(accept, V2_PROTOBUF_ANSWER):
                return await self._document(f"{path}.pb", self._v2(protobuf=True), headers, V2_PROTOBUF_ANSWER)
            return await self._document(path, self._v2(), headers)
        if path == "/openapi/v3":
            return await self._index()
        if path.startswith("/openapi/v3/"):
            if _wants(accept, V3_PROTOBUF):
                raise not_acceptable(f"{V3_PROTOBUF} is not served: accept application/json")
            group, version = self._group_version(path[len("/openapi/v3/") :])
            return await self._document(path, self._v3(group, version), headers)
        raise _missing()

    def _v2(self, *, protobuf: bool = False) -> Callable[[], bytes]:
        """The builder of the document as it is now; it runs in a thread, on copies."""
        from k3sd.apimachinery import openapi

        rows, extra = list(self._served), list(self._custom.schemas())
        return lambda: openapi.build_v2(rows, extra, protobuf=protobuf)

    def _v3(self, group: str, version: str) -> Callable[[], bytes]:
        from k3sd.apimachinery import openapi

        rows, extra = list(self._served.in_version(group, version)), list(self._custom.schemas(group, version, v3=True))
        return lambda: openapi.build_v3(group, version, rows, extra)

    def _group_version(self, name: str) -> tuple[str, str]:
        match name.split("/"):
            case ["api", version] if self._served.in_version("", version):
                return "", version
            case ["apis", group, version] if self._served.in_version(group, version):
                return group, version
        raise _missing()

    async def _index(self) -> Answer:
        """Every group version with the address of its document; the hash makes it cacheable for ever."""
        paths = {}
        for group, versions in self._served.groups.items():
            for version in versions:
                name = f"apis/{group}/{version}" if group else f"api/{version}"
                mark = hashlib.sha256(f"{name} {self._served.generation}".encode()).hexdigest().upper()
                paths[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={mark}"}
        return Answer(200, codec.encode({"paths": paths}))

    async def _document(
        self, path: str, build: Callable[[], bytes], headers: Mapping[str, str], media: str = "application/json"
    ) -> Answer:
        document = self._documents.get(path)
        if document is None:
            building = self._building.get(path)
            if building is None:
                building = asyncio.ensure_future(self._build(path, build))
                self._building[path] = building
            document = await asyncio.shield(building)
        extra = [("ETag", document.etag), ("Vary", "Accept")]
        if document.etag in headers.get("If-None-Match", ""):
            return Answer(304, b"", media, extra)
        if "gzip" in headers.get("Accept-Encoding", ""):
            return Answer(200, document.packed, media, [*extra, ("Content-Encoding", "gzip")])
        body = await asyncio.get_running_loop().run_in_executor(None, gz.decompress, document.packed)
        return Answer(200, body, media, extra)

    async def _build(self, path: str, build: Callable[[], bytes]) -> Document:
        try:
            document = await asyncio.get_running_loop().run_in_executor(None, lambda: Document.of(build()))
        finally:
            self._building.pop(path, None)
        self._documents[path] = document
        return document


def _missing() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def _wants(accept: str, media: str) -> bool:
    """The client accepts only ``media``."""
    clauses = [m for m, _ in parse_accept(accept)]
    return bool(clauses) and all(m == media for m in clauses)
