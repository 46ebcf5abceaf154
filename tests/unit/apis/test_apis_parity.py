"""The type declarations against upstream's published OpenAPI and protobuf definitions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from k3sd.apimachinery.schema import META, MODULES, Field, types
from k3sd.apis import resources

TABLE = Path(__file__).parents[4] / "shared/reference/upstream/api-fields.tsv"
SHARED = re.compile(r"io\.k8s\.apimachinery\.pkg\.(api\.resource|runtime|util\.intstr|version)$")
JSON = {
    "bool": "boolean",
    "int32": "integer:int32",
    "int64": "integer:int64",
    "bytes": "string:byte",
    "double": "number:double",
}
PREFIX = {"": "", "list": "[]", "map": "map[string]", "maplist": "map[string][]"}
OWN_TYPES = {
    f"{name}{suffix}"
    for suffix, names in (
        ("Options", "PodAttach PodExec PodLog PodPortForward PodProxy NodeProxy ServiceProxy Create Update Patch Get List"),
        ("", "PartialObjectMetadata PartialObjectMetadataList List"),
    )
    for name in names.split()
}
"""Query options and list shapes: part of the API, not of the OpenAPI definitions."""
DEFAULTED = {("ContainerPort", "protocol"), ("ServicePort", "protocol")}
"""Upstream's OpenAPI v2 leaves defaults out; those of list map keys are needed for server-side apply."""
needs_table = pytest.mark.skipif(not TABLE.exists(), reason="upstream reference tables are not beside the repository")


def _json_type(field: Field) -> str:
    return PREFIX[field.container] + JSON.get(field.type, field.type)


def _proto_type(field: Field) -> str:
    name = field.type.rpartition(".")[2]
    if field.container == "maplist":
        return "map<string, ExtraValue>" if field.wrapped else "?"
    if field.container == "map":
        return f"map<string, {name}>"
    if field.wrapped:
        return "optional Verbs"
    return f"{'repeated' if field.container == 'list' else 'optional'} {name}"


def _strategy(field: Field) -> str:
    text = ",".join(field.strategy)
    return f"{text}/{field.merge_key}" if field.merge_key else text


def _rows() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for line in TABLE.read_text().splitlines()[2:]:
        cells = (line + "\t" * 10).split("\t")[:10]
        package = cells[0].rpartition(".")[0]
        if re.search(r"\.v[12]$", package) or SHARED.match(package):
            found.setdefault(cells[0], {})[cells[1]] = cells
    return found


@needs_table
def test_types_equal_upstream() -> None:
    for name, rows in _rows().items():
        ours = types.get(name)
        theirs = {key: row for key, row in rows.items() if key != "."}
        assert set(ours.fields) == set(theirs), name
        whole = rows.get(".")
        assert ours.is_kind == bool(whole and whole[9]), name
        if whole and not theirs:
            assert (ours.scalar or "object") == whole[2], name
        for key, row in theirs.items():
            field = ours.fields[key]
            where = f"{name}.{key}"
            assert _json_type(field) == row[2], where
            assert field.required == (row[5] == "req"), where
            assert field.list_type == row[7] and ",".join(field.keys) == row[8], where
            assert _strategy(field) == row[9], where
            if (ours.short, key) not in DEFAULTED:
                assert (field.default or "") == row[6], where
            if row[3]:
                assert field.number == (int(row[3]),), where
                plain = re.sub(r"\.k8s\.io[\w.-]*\.(\w+)", r"\1", row[4])
                assert _proto_type(field) == plain, where
            elif key in ("kind", "apiVersion") or name.endswith(".version.Info"):
                assert field.number == (), where
            else:
                assert field.number, where


@needs_table
def test_group_version_kinds_equal_upstream() -> None:
    for name, rows in _rows().items():
        if "." in rows and rows["."][9]:
            gvk = json.loads(rows["."][9])[0]
            expected = META if name.startswith(META) else resources.package(gvk["group"], gvk["version"])
            assert name == f"{expected}.{gvk['kind']}"


@needs_table
def test_nothing_is_declared_beyond_upstream() -> None:
    known = set(_rows())
    for module in MODULES:
        package = {"meta.v1": META}.get(module) or next(
            n.rpartition(".")[0] for n in known if n.rpartition(".")[0].endswith(f".{module}")
        )
        extra = {name for name in types.names(package) if name not in known}
        assert {name.rpartition(".")[2] for name in extra} <= OWN_TYPES, module


def test_every_reference_resolves() -> None:
    for resource in resources.ALL:
        names = [resource.type_name, *(s.type_name for s in resource.subresources)]
        for name in names:
            assert types.get(name).is_kind, name


def test_numbers_are_unique() -> None:
    for resource in resources.ALL:
        package = resource.type_name.rpartition(".")[0]
        for name in types.names(package):
            numbers = [f.number for f in types.get(name).fields.values() if f.number]
            assert len(numbers) == len(set(numbers)), name
