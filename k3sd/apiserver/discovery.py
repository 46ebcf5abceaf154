"""Discovery documents: legacy lists and the aggregated form, built once a change of the served resources.

Upstream: ``endpoints/discovery``, ``endpoints/discovery/aggregated`` (KEP-3352).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from k3sd.apimachinery import codec
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.negotiation import negotiate, parse_accept
from k3sd.apiserver.responses import Answer
from k3sd.apiserver.served import ServedResources

AGGREGATED_GROUP = "apidiscovery.k8s.io"


class Discovery:
    """Answers ``/api``, ``/apis`` and below. ``address`` is where clients reach the server, as ``host:port``."""

    def __init__(self, served: ServedResources, address: str = "") -> None:
        self._served = served
        self._addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}] if address else []
        self._generation = 0
        self._cache: dict[tuple[str, str], tuple[bytes, str]] = {}

    def answer(self, path: str, accept: str, headers: Mapping[str, str]) -> Answer:
        """``path`` has no trailing slash. Raises StatusError(404)."""
        if self._generation != self._served.generation:
            self._cache.clear()
            self._generation = self._served.generation
        version = _aggregated_version(accept) if path in ("/api", "/apis") else ""
        if not version:
            negotiate(accept, False, False)
        key = (path, version)
        found = self._cache.get(key)
        if found is None:
            body = codec.encode(self._build(path, version))
            found = self._cache[key] = (body, f'"{hashlib.sha256(body).hexdigest().upper()}"')
        body, etag = found
        if not version:
            return Answer(200, body, headers=[("Vary", "Accept")])
        extra = [("ETag", etag), ("Vary", "Accept")]
        content_type = f"application/json;g={AGGREGATED_GROUP};v={version};as=APIGroupDiscoveryList"
        if headers.get("If-None-Match", "") == etag:
            return Answer(304, b"", content_type, extra)
        return Answer(200, body, content_type, extra)

    def _build(self, path: str, version: str) -> Obj:
        parts = path.strip("/").split("/")
        if version:
            return self._aggregated(parts[0] == "api", version)
        match parts:
            case ["api"]:
                return {
                    "kind": "APIVersions",
                    "versions": list(self._served.groups.get("", ())),
                    "serverAddressByClientCIDRs": self._addresses,
                }
            case ["apis"]:
                groups = [self._group(g) for g in self._served.groups if g]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
            case ["apis", group] if group in self._served.groups:
                return {"kind": "APIGroup", "apiVersion": "v1", **self._group(group)}
            case ["api", api_version]:
                return self._resources("", api_version)
            case ["apis", group, api_version]:
                return self._resources(group, api_version)
        raise _missing()

    def _group(self, group: str) -> Obj:
        versions = [{"groupVersion": f"{group}/{v}", "version": v} for v in self._served.groups[group]]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    def _resources(self, group: str, version: str) -> Obj:
        rows = self._served.in_version(group, version)
        if not rows:
            raise _missing()
        out: list[Obj] = []
        for row in rows:
            out.append(_resource(row))
            out += [
                {
                    "name": f"{row.plural}/{sub.name}",
                    "singularName": "",
                    "namespaced": row.namespaced,
                    **({"group": sub.group, "version": sub.version} if (sub.group, sub.version) != (group, version) else {}),
                    "kind": sub.kind,
                    "verbs": sorted(sub.verbs),
                }
                for sub in sorted(row.subresources, key=lambda s: s.name)
            ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": out,
        }

    def _aggregated(self, core: bool, form: str) -> Obj:
        items = []
        for group, versions in self._served.groups.items():
            if core == bool(group):
                continue
            items.append(
                {
                    "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
                    "versions": [
                        {
                            "version": v,
                            "resources": [_aggregated_resource(r) for r in self._served.in_version(group, v)],
                            "freshness": "Current",
                        }
                        for v in versions
                    ],
                }
            )
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"{AGGREGATED_GROUP}/{form}",
            "metadata": {},
            "items": items,
        }


def _missing() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def _aggregated_version(accept: str) -> str:
    """The aggregated form the client prefers over the plain one, or "". A plain clause in front of it wins."""
    for media, params in parse_accept(accept):
        if media not in ("application/json", "*/*", "application/*"):
            continue
        if params.get("as") == "APIGroupDiscoveryList" and params.get("g") == AGGREGATED_GROUP:
            if params.get("v") in ("v2", "v2beta1"):
                return params["v"]
        elif "as" not in params:
            return ""
    return ""


def _resource(row: Resource) -> Obj:
    out: Obj = {
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": sorted(row.verbs),
    }
    if row.short_names:
        out["shortNames"] = list(row.short_names)
    if row.categories:
        out["categories"] = list(row.categories)
    return out


def _aggregated_resource(row: Resource) -> Obj:
    out: Obj = {
        "resource": row.plural,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": sorted(row.verbs),
    }
    if row.short_names:
        out["shortNames"] = list(row.short_names)
    if row.categories:
        out["categories"] = list(row.categories)
    if row.subresources:
        out["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sorted(sub.verbs),
            }
            for sub in sorted(row.subresources, key=lambda s: s.name)
        ]
    return out
