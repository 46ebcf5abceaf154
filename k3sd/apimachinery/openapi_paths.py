"""The operations of each resource as OpenAPI path items, with the extensions clients look for.

kubectl reads the PATCH operations to learn whether a kind takes ``dryRun`` and ``fieldValidation``; generators need the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource, Subresource
from k3sd.apimachinery.schema import META

_PRODUCES = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
_WATCHED = (*_PRODUCES, "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
_PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
_CUSTOM_PATCHES = tuple(media for media in _PATCHES if "strategic" not in media)
"""kubectl looks here whether a kind takes strategic merge patches; custom resources do not."""
_QUERY = {
    "allowWatchBookmarks": ("boolean", "Send BOOKMARK events while watching."),
    "continue": ("string", "Continue a list where a former answer's token left off."),
    "dryRun": ("string", "All: run every stage but do not store the result."),
    "fieldManager": ("string", "Name of who makes the change; at most 128 printable characters."),
    "fieldSelector": ("string", "Restrict the objects by their fields."),
    "fieldValidation": ("string", "What happens to unknown and duplicate fields: Ignore, Warn or Strict."),
    "force": ("boolean", "Apply only: take over fields that others own."),
    "gracePeriodSeconds": ("integer", "Seconds before the object is deleted; 0 is at once."),
    "ignoreStoreReadErrorWithClusterBreakingPotential": ("boolean", "Delete an object that cannot be read."),
    "labelSelector": ("string", "Restrict the objects by their labels."),
    "limit": ("integer", "Most objects in one answer."),
    "orphanDependents": ("boolean", "Deprecated: use propagationPolicy."),
    "pretty": ("string", "Indent the answer."),
    "propagationPolicy": ("string", "What happens to dependents: Orphan, Background or Foreground."),
    "resourceVersion": ("string", "The version the answer is to be at, or not older than."),
    "resourceVersionMatch": ("string", "How resourceVersion is meant: Exact or NotOlderThan."),
    "sendInitialEvents": ("boolean", "Begin a watch with the state, as ADDED events."),
    "timeoutSeconds": ("integer", "End the request after so many seconds."),
    "watch": ("boolean", "Stream changes instead of listing."),
}
_LIST = (
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
)
_DELETE = (
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
)
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_METHODS = {"get": "get", "update": "put", "patch": "patch", "delete": "delete", "create": "post"}
_WORDS = {
    "get": "read",
    "list": "list",
    "post": "create",
    "put": "replace",
    "patch": "patch",
    "delete": "delete",
    "deletecollection": "delete",
    "connect": "connect",
}


def _query(name: str) -> Obj:
    kind, text = _QUERY[name]
    return {"name": name, "in": "query", "type": kind, "description": text, "uniqueItems": True}


def _path_parameter(name: str, text: str) -> Obj:
    return {
        "name": name,
        "in": "path",
        "type": "string",
        "required": True,
        "description": text,
        "uniqueItems": True,
    }


def _body(type_name: str, required: bool = True) -> Obj:
    out: Obj = {"name": "body", "in": "body", "schema": {"$ref": f"#/definitions/{type_name}"}}
    if required:
        out["required"] = True
    return out


def _answers(codes: Iterable[str], type_name: str) -> Obj:
    texts = {"200": "OK", "201": "Created", "202": "Accepted"}
    schema: Obj = {"$ref": f"#/definitions/{type_name}"} if type_name else {"type": "string"}
    out: Obj = {code: {"description": texts[code], "schema": schema} for code in codes}
    out["401"] = {"description": "Unauthorized"}
    return out


def _camel(text: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in text.replace("-", ".").split("."))


class _Paths:
    """Builds the path items of one resource."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self._patches = _PATCHES if resource.type_name.startswith("io.k8s.") else _CUSTOM_PATCHES
        group = resource.group.removesuffix(".k8s.io") or "core"
        self._id = f"{_camel(group)}{_camel(resource.version)}"
        self._tag = f"{group.replace('.', '_').replace('-', '_')}_{resource.version}"

    def _operation(
        self,
        action: str,
        codes: Iterable[str],
        type_name: str,
        parameters: list[Obj],
        *,
        scope: str,
        kind: Obj,
        suffix: str = "",
        produces: tuple[str, ...] = _PRODUCES,
        consumes: tuple[str, ...] = ("*/*",),
    ) -> Obj:
        collection = "Collection" if action == "deletecollection" else ""
        word = _WORDS[action]
        out: Obj = {
            "tags": [self._tag],
            "operationId": f"{word}{self._id}{collection}{scope}{kind['kind'] if not suffix else self._r.kind}{suffix}",
            "description": f"{word} {self._r.kind}{f' {suffix.lower()}' if suffix else ''}",
            "schemes": ["https"],
            "consumes": list(consumes),
            "produces": list(produces),
            "responses": _answers(codes, type_name),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
        }
        if parameters:
            out["parameters"] = parameters
        return out

    def _kind(self) -> Obj:
        return {"group": self._r.group, "version": self._r.version, "kind": self._r.kind}

    def items(self) -> Iterator[tuple[str, Obj]]:
        r = self._r
        base = "/api" if not r.group else f"/apis/{r.group}"
        root = f"{base}/{r.version}"
        scope = "Namespaced" if r.namespaced else ""
        shared = [_path_parameter("namespace", "object name and auth scope, such as for teams and projects")]
        common = [_query("pretty")]
        where = f"{root}/namespaces/{{namespace}}/{r.plural}" if r.namespaced else f"{root}/{r.plural}"
        if r.namespaced and "list" in r.verbs:
            everywhere = {"get": self._list("ForAllNamespaces"), "parameters": common}
            yield f"{root}/{r.plural}", everywhere
        in_scope = [*(shared if r.namespaced else ()), *common]
        collection = self._collection(scope)
        if collection:
            yield where, {**collection, "parameters": in_scope}
        named = [_path_parameter("name", f"name of the {r.kind}"), *in_scope]
        item = self._item(scope)
        if item:
            yield f"{where}/{{name}}", {**item, "parameters": named}
        for sub in r.subresources:
            yield f"{where}/{{name}}/{sub.name}", {**self._subresource(sub, scope), "parameters": named}

    def _list(self, scope: str) -> Obj:
        listed = f"{self._r.type_name}List"
        parameters = [_query(name) for name in _LIST]
        kind = self._kind()
        operation = self._operation("list", ["200"], listed, parameters, scope="", kind=kind, suffix="", produces=_WATCHED)
        operation["operationId"] = (
            f"list{self._id}{self._r.kind}{scope}" if scope == "ForAllNamespaces" else f"list{self._id}{scope}{self._r.kind}"
        )
        return operation

    def _collection(self, scope: str) -> Obj:
        r, kind, out = self._r, self._kind(), {}
        if "list" in r.verbs:
            out["get"] = self._list(scope)
        if "create" in r.verbs:
            parameters = [_body(r.type_name), *map(_query, _WRITE)]
            out["post"] = self._operation("post", ["200", "201", "202"], r.type_name, parameters, scope=scope, kind=kind)
        if "deletecollection" in r.verbs:
            names = sorted({*_DELETE, *_LIST} - {"watch", "allowWatchBookmarks"})
            parameters = [_body(f"{META}.DeleteOptions", False), *map(_query, names)]
            out["delete"] = self._operation("deletecollection", ["200"], f"{META}.Status", parameters, scope=scope, kind=kind)
        return out

    def _item(self, scope: str) -> Obj:
        r, kind, out = self._r, self._kind(), {}
        if "get" in r.verbs:
            out["get"] = self._operation("get", ["200"], r.type_name, [], scope=scope, kind=kind)
        if "update" in r.verbs:
            out["put"] = self._write("put", r.type_name, scope, kind)
        if "patch" in r.verbs:
            out["patch"] = self._write("patch", r.type_name, scope, kind)
        if "delete" in r.verbs:
            parameters = [_body(f"{META}.DeleteOptions", False), *map(_query, _DELETE)]
            out["delete"] = self._operation("delete", ["200", "202"], f"{META}.Status", parameters, scope=scope, kind=kind)
        return out

    def _write(self, action: str, type_name: str, scope: str, kind: Obj, suffix: str = "") -> Obj:
        is_patch = action == "patch"
        body = _body(f"{META}.Patch" if is_patch else type_name)
        names = (*_WRITE, "force") if is_patch else _WRITE
        return self._operation(
            action,
            ["200", "201"],
            type_name,
            [body, *map(_query, names)],
            scope=scope,
            kind=kind,
            suffix=suffix,
            consumes=self._patches if is_patch else ("*/*",),
        )

    def _subresource(self, sub: Subresource, scope: str) -> Obj:
        kind: Obj = {"group": sub.group, "version": sub.version, "kind": sub.kind}
        suffix = _camel(sub.name)
        out: Obj = {}
        for verb in sub.verbs:
            method = _METHODS[verb]
            if sub.kind.endswith("Options"):
                out[method] = self._operation("connect", ["200"], "", [], scope=scope, kind=kind, suffix=suffix)
                out[method]["operationId"] = f"connect{self._id}{method.capitalize()}{scope}{self._r.kind}{suffix}"
            elif verb in ("update", "patch"):
                out[method] = self._write(method, sub.type_name, scope, kind, suffix)
            elif verb == "create":
                parameters = [_body(sub.type_name), *map(_query, _WRITE)]
                out[method] = self._operation(
                    "post", ["200", "201", "202"], sub.type_name, parameters, scope=scope, kind=kind, suffix=suffix
                )
            else:
                answer = "" if sub.name == "log" else sub.type_name
                out[method] = self._operation("get", ["200"], answer, [], scope=scope, kind=kind, suffix=suffix)
        return out


def paths(resources: Iterable[Resource]) -> Iterator[tuple[str, Obj]]:
    """``(path, path item)`` in OpenAPI v2 form for every resource and subresource."""
    for resource in resources:
        yield from _Paths(resource).items()


# Version 3


def _move_references(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: v.replace("#/definitions/", "#/components/schemas/") if k == "$ref" else _move_references(v)
            for k, v in value.items()
        }
    return [_move_references(v) for v in value] if isinstance(value, list) else value


def _parameter_v3(parameter: Obj) -> Obj:
    out = {k: v for k, v in parameter.items() if k not in ("type", "uniqueItems")}
    out["schema"] = {"type": parameter["type"], "uniqueItems": True}
    return out


def _operation_v3(operation: Obj) -> Obj:
    out = {k: v for k, v in operation.items() if k not in ("consumes", "produces", "schemes", "parameters", "responses")}
    plain = [p for p in operation.get("parameters", ()) if p["in"] != "body"]
    if plain:
        out["parameters"] = [_parameter_v3(p) for p in plain]
    for body in operation.get("parameters", ()):
        if body["in"] == "body":
            content = {media: {"schema": body["schema"]} for media in operation["consumes"]}
            out["requestBody"] = {"content": content}
            if body.get("required"):
                out["requestBody"]["required"] = True
    responses = {}
    for code, response in operation["responses"].items():
        responses[code] = {"description": response["description"]}
        if "schema" in response:
            responses[code]["content"] = {media: {"schema": response["schema"]} for media in operation["produces"]}
    out["responses"] = responses
    return out


def to_v3(item: Obj) -> Obj:
    """A v2 path item in OpenAPI v3 form."""
    out: Obj = {}
    for key, value in item.items():
        out[key] = [_parameter_v3(p) for p in value] if key == "parameters" else _operation_v3(value)
    moved: Obj = _move_references(out)
    return moved
