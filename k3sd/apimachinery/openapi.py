"""OpenAPI v2 and v3 documents from the declarations.

Documents are put together one definition and one path at a time and only ever exist as bytes: nothing here is kept. Sources:
``kube-openapi``, ``api/openapi-spec`` (the shapes), gnostic's ``OpenAPIv2.proto`` (the protobuf form).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from k3sd.apimachinery import openapi_paths
from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.apimachinery.schema import CORE, META, Field, Type, types, walk

V2_JSON = "application/json"
V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What is answered; old clients ask for ``...v2@v1.0+protobuf``, which Go itself cannot parse as a content type."""
_SCALARS: dict[str, Obj] = {
    "string": {"type": "string"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "format": "byte"},
    "double": {"type": "number", "format": "double"},
    "any": {},
    "object": {"type": "object"},
}
_EVERYWHERE = ("DeleteOptions", "WatchEvent")
"""Types that belong to every group version."""
COMMON = {
    "apiVersion": "APIVersion defines the version of the schema this object is written in, such as v1 or apps/v1.",
    "kind": "The kind of this object, in CamelCase. It cannot be changed.",
    "metadata": "Standard object's metadata: name, namespace, labels and what the system keeps.",
    "spec": "What is wanted.",
    "status": "What was last observed. Written by the system.",
    "items": "The objects of the list.",
}

Definitions = Iterable[tuple[str, Obj]]


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _all_resources() -> Sequence[Resource]:
    rows: Sequence[Resource] = import_module("k3sd.apis.resources").ALL
    return rows


# Definitions


def _reference(name: str, v3: bool) -> Obj:
    return {"$ref": f"#/components/schemas/{name}" if v3 else f"#/definitions/{name}"}


def _value(field: Field, v3: bool) -> Obj:
    """One value of the field, apart from its container."""
    if field.type in _SCALARS:
        return dict(_SCALARS[field.type])
    return _reference(field.type, v3)


def _property(field: Field, description: str, v3: bool) -> Obj:
    value = _value(field, v3)
    out: Obj
    if field.container == "list":
        out = {"type": "array", "items": _item(value, v3)}
    elif field.container == "map":
        out = {"type": "object", "additionalProperties": _item(value, v3)}
    elif field.container == "maplist":
        out = {"type": "object", "additionalProperties": {"type": "array", "items": value}}
    elif "$ref" in value and v3:
        out = {"allOf": [value]}
        if not field.pointer and not types.get(field.type).scalar:
            out["default"] = {}
    else:
        out = value
    if description:
        out["description"] = description
    if field.default is not None and v3:
        out["default"] = field.default
    if field.list_type:
        is_list = field.container == "list" or field.type == "bytes"
        out["x-kubernetes-list-type" if is_list else "x-kubernetes-map-type"] = field.list_type
    if field.keys:
        out["x-kubernetes-list-map-keys"] = list(field.keys)
    if field.strategy:
        out["x-kubernetes-patch-strategy"] = ",".join(field.strategy)
    if field.merge_key:
        out["x-kubernetes-patch-merge-key"] = field.merge_key
    return out


def _item(value: Obj, v3: bool) -> Obj:
    return {"allOf": [value], "default": {}} if v3 and "$ref" in value else value


def definition(type_: Type, kinds: Sequence[Obj], v3: bool) -> Obj:
    """The schema of one type; ``kinds`` are its group/version/kind triples."""
    texts = types.descriptions(type_.name)
    out: Obj = {}
    if text := texts.get(""):
        out["description"] = text
    if type_.scalar:
        out.update(_scalar_definition(type_, v3))
    else:
        out["type"] = "object"
        if type_.fields:
            out["properties"] = {
                field.name: _property(field, texts.get(field.name) or COMMON.get(field.name, ""), v3)
                for field in sorted(type_.fields.values(), key=lambda f: f.name)
            }
        if required := sorted(f.name for f in type_.fields.values() if f.required):
            out["required"] = required
    if kinds:
        out["x-kubernetes-group-version-kind"] = list(kinds)
    if type_.atomic:
        out["x-kubernetes-map-type"] = "atomic"
    return out


def _scalar_definition(type_: Type, v3: bool) -> Obj:
    if v3 and type_.short == "IntOrString":
        return {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
    if v3 and type_.short == "Quantity":
        return {"oneOf": [{"type": "string"}, {"type": "number"}]}
    kind, _, format_ = type_.scalar.partition(":")
    out: Obj = {} if kind == "any" else {"type": kind}
    if format_:
        out["format"] = format_
    return out


def list_kind(kind: str) -> str:
    return f"{kind}List"


def _roots(resources: Iterable[Resource]) -> dict[str, list[Obj]]:
    """Type names to start from, each with its group/version/kind."""
    roots: dict[str, list[Obj]] = {f"{META}.Status": [{"group": "", "version": "v1", "kind": "Status"}]}
    versions: dict[tuple[str, str], None] = {}
    for r in resources:
        versions[r.group, r.version] = None
        if r.type_name.startswith("io.k8s."):
            roots[r.type_name] = [_kind(r.group, r.version, r.kind)]
            listed = list_kind(r.type_name)
            if "list" in r.verbs and types.has(listed):
                roots[listed] = [_kind(r.group, r.version, list_kind(r.kind))]
        for sub in r.subresources:
            if sub.type_name.startswith("io.k8s.") and not sub.kind.endswith("Options"):
                roots.setdefault(sub.type_name, [_kind(sub.group, sub.version, sub.kind)])
    every = sorted(versions)
    for short in _EVERYWHERE:
        roots[f"{META}.{short}"] = [_kind(group, version, short) for group, version in every]
    for short in ("APIGroup", "APIGroupList", "APIResourceList", "APIVersions"):
        roots[f"{META}.{short}"] = [_kind("", "v1", short)]
    for short in ("Patch", "ObjectMeta", "ListMeta"):
        roots[f"{META}.{short}"] = []
    return roots


def _kind(group: str, version: str, kind: str) -> Obj:
    return {"group": group, "version": version, "kind": kind}


def definitions(resources: Iterable[Resource], v3: bool) -> Iterator[tuple[str, Obj]]:
    """Every type reachable from these resources, sorted by name."""
    roots = _roots(resources)
    found: dict[str, Type] = {}
    for root in roots:
        if root not in found:
            found.update((t.name, t) for t in walk(root))
    for name in sorted(found):
        yield name, definition(found[name], roots.get(name, ()), v3)


# Documents


def _version_text() -> str:
    """The ``info.version`` of the documents: upstream writes the server's version here."""
    return "v1.36.2+k3sd1"


def _merged(own: Definitions, extra: Definitions) -> Iterator[tuple[str, Obj]]:
    seen = set()
    for name, schema in own:
        seen.add(name)
        yield name, schema
    for name, schema in extra:
        if name not in seen:
            yield name, schema


def build_v2(resources: Iterable[Resource] | None = None, extra: Definitions = (), *, protobuf: bool = False) -> bytes:
    """``/openapi/v2``. ``resources`` may include custom ones, whose schemas ``extra`` then holds by ``type_name``."""
    rows = list(_all_resources() if resources is None else resources)
    schemas = _merged(definitions(rows, False), extra)
    if protobuf:
        from k3sd.apimachinery import openapi_proto

        return openapi_proto.document(_version_text(), openapi_paths.paths(rows), schemas)
    info = {"title": "Kubernetes", "version": _version_text()}
    head = f'{{"swagger":"2.0","info":{_dumps(info)},"paths":{{'
    security = {
        "BearerToken": {
            "description": "Bearer Token authentication",
            "type": "apiKey",
            "name": "authorization",
            "in": "header",
        }
    }
    parts = [head, _members(openapi_paths.paths(rows)), '},"definitions":{', _members(schemas), "},"]
    parts.append(f'"securityDefinitions":{_dumps(security)},"security":[{{"BearerToken":[]}}]}}')
    return "".join(parts).encode()


def _members(pairs: Iterable[tuple[str, Obj]]) -> str:
    return ",".join(f"{_dumps(name)}:{_dumps(value)}" for name, value in pairs)


def build_v3(group: str, version: str, resources: Iterable[Resource] | None = None, extra: Definitions = ()) -> bytes:
    """``/openapi/v3/apis/<group>/<version>`` (or ``/api/v1``). ``resources`` and ``extra`` as for ``build_v2``."""
    every = _all_resources() if resources is None else resources
    rows = [r for r in every if (r.group, r.version) == (group, version)]
    info = {"title": "Kubernetes", "version": _version_text()}
    paths = ((path, openapi_paths.to_v3(item)) for path, item in openapi_paths.paths(rows))
    schemas = _merged(definitions(rows, True), extra)
    security = {
        "BearerToken": {
            "description": "Bearer Token authentication",
            "type": "apiKey",
            "name": "authorization",
            "in": "header",
        }
    }
    parts = [f'{{"openapi":"3.0.0","info":{_dumps(info)},"paths":{{', _members(paths)]
    parts += ['},"components":{"schemas":{', _members(schemas)]
    parts.append(f'}},"securitySchemes":{_dumps(security)}}}}}')
    return "".join(parts).encode()


def v3_path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def v3_hash(group: str, version: str, resources: Iterable[Resource] | None = None, extra: bytes = b"") -> str:
    """Changes when the document of this group version does, without building it. ``extra`` stands for custom schemas."""
    every = _all_resources() if resources is None else resources
    rows = [r for r in every if (r.group, r.version) == (group, version)]
    digest = hashlib.sha512(_version_text().encode() + extra)
    packages = {META, CORE, *(r.type_name.rpartition(".")[0] for r in rows)}
    for package in sorted(packages):
        digest.update(types.text(package).encode())
    digest.update(repr(rows).encode())
    return digest.hexdigest()[:128].upper()


def v3_index(resources: Iterable[Resource] | None = None, extra: dict[tuple[str, str], bytes] | None = None) -> bytes:
    """``/openapi/v3``: where each group version's document is. ``extra``: bytes standing for its custom schemas."""
    rows = list(_all_resources() if resources is None else resources)
    paths = {}
    for group, version in sorted({(r.group, r.version) for r in rows}):
        path = v3_path(group, version)
        value = v3_hash(group, version, rows, (extra or {}).get((group, version), b""))
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={value}"}
    return _dumps({"paths": paths}).encode()
