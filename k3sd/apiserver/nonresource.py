"""Paths that are no resources: version, health, discovery, OpenAPI, metrics, OIDC discovery.

Upstream: ``apiserver/pkg/server/{healthz,routes}``, ``endpoints/discovery``.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from k3sd import KUBERNETES_VERSION
from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apiserver.discovery import Discovery
from k3sd.apiserver.kubernetes_service import server_address
from k3sd.apiserver.metrics import Metrics
from k3sd.apiserver.openapi import OpenAPI
from k3sd.apiserver.requestinfo import Query, parse_query_multi
from k3sd.apiserver.responses import Answer, json_answer, text_answer
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.http import APIServer

log = logging.getLogger(__name__)

BUILD = "k3sd1"


def version_info() -> Obj:
    """``/version``; the Kubernetes API level this server speaks, with K3s's build suffix."""
    major, minor = KUBERNETES_VERSION[1:].split(".")[:2]
    machine = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"{KUBERNETES_VERSION}+{BUILD}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "python",
        "platform": f"linux/{machine}",
    }


class NonResource:
    """Handlers by path."""

    def __init__(self, server: APIServer) -> None:
        self._server = server
        registry = server.registry
        self.metrics = Metrics(registry)
        self.discovery = Discovery(registry.served, server_address(registry.settings))
        self.openapi = OpenAPI(registry.served, registry.custom)

    async def handle(self, request: web.BaseRequest, path: str, query: Query) -> Answer:
        """Raises StatusError(404)."""
        if request.method not in ("GET", "HEAD"):
            raise StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        accept = request.headers.get("Accept", "")
        clean = path.rstrip("/") or "/"
        first = clean.split("/", 2)[1] if clean != "/" else ""
        match first:
            case "":
                return json_answer({"paths": self._paths()})
            case "version":
                return json_answer(version_info())
            case "healthz" | "livez" | "readyz":
                return await self._health(first, clean, request.raw_path.partition("?")[2])
            case "metrics":
                return await self.metrics.answer(accept)
            case "api" | "apis":
                return self.discovery.answer(clean, accept, request.headers)
            case "openapi":
                return await self.openapi.answer(clean, accept, request.headers)
            case ".well-known" | "openid":
                return self._openid(clean)
        raise StatusError(404, "NotFound", "the server could not find the requested resource")

    def _paths(self) -> list[str]:
        served = self._server.registry.served
        out = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
        for group, versions in served.groups.items():
            if group:
                out.append(f"/apis/{group}")
                out += [f"/apis/{group}/{v}" for v in versions]
        out += ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
        return sorted(out)

    def _checks(self, endpoint: str) -> dict[str, Callable[[], Any]]:
        async def store() -> str:
            try:
                await self._server.registry.backend.revision()
            except DatastoreError as error:
                return str(error)
            return self._server.registry.backend.problem if endpoint == "readyz" else ""

        async def started() -> str:
            return "" if self._server.ready else "start-up objects are being made"

        async def fine() -> str:
            return ""

        checks: dict[str, Callable[[], Any]] = {"ping": fine, "log": fine, "etcd": store}
        if endpoint == "readyz":
            checks["poststarthook/bootstrap"] = started
            checks["informer-sync"] = fine
        elif endpoint == "healthz":
            checks["poststarthook/bootstrap"] = started
        return checks

    async def _health(self, endpoint: str, path: str, query_text: str) -> Answer:
        """Source: ``server/healthz/healthz.go``: ``ok``, or one line a check with ``?verbose`` and on failure."""
        checks = self._checks(endpoint)
        single = path[len(endpoint) + 2 :]
        if single:
            if single not in checks:
                raise StatusError(404, "NotFound", "the server could not find the requested resource")
            # The root keeps reasons back, for everybody may ask it; who may ask a check by name may know.
            problem = await checks[single]()
            return text_answer(f"internal server error: {problem}\n", 500) if problem else text_answer("ok")
        pairs = parse_query_multi(query_text)
        excluded = {v for k, v in pairs if k == "exclude"}
        lines, failed = [], []
        for name, check in checks.items():
            if name in excluded:
                excluded.discard(name)
                lines.append(f"[+]{name} excluded: ok\n")
                continue
            problem = await check()
            if problem:
                failed.append(name)
                log.info("%s check %s failed: %s", endpoint, name, problem)
                lines.append(f"[-]{name} failed: reason withheld\n")
            else:
                lines.append(f"[+]{name} ok\n")
        if excluded:
            named = ",".join(f'"{e}"' for e in sorted(excluded))
            lines.append(f"warn: some health checks cannot be excluded: no matches for {named}\n")
        if failed:
            return text_answer("".join(lines) + f"{endpoint} check failed\n", 500)
        if any(k == "verbose" for k, _ in pairs):
            return text_answer("".join(lines) + f"{endpoint} check passed\n")
        return text_answer("ok")

    def _openid(self, path: str) -> Answer:
        signer = self._server.authenticator.signer
        cached = [("Cache-Control", "public, max-age=3600")]
        if path == "/.well-known/openid-configuration":
            return json_answer(signer.openid_configuration(f"{signer.issuer}/openid/v1/jwks"), 200, cached)
        if path == "/openid/v1/jwks":
            return Answer(200, codec.encode(signer.jwks()), "application/jwk-set+json", cached)
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
