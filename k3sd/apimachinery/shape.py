"""How server-side apply sees a type: what is owned as a whole and what is owned piece by piece.

A ``Shape`` is made from a declared type, or from a custom resource's OpenAPI schema, one level at a time, as it is walked into.
Source: ``structured-merge-diff/schema``, ``kube-openapi/pkg/schemaconv``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.schema import META, SCALARS, Field, types

Kind = Literal["scalar", "atomic", "set", "listmap", "map", "any", "server"]
"""``atomic`` is a list or map owned as a whole; ``any`` is decided by the value; ``server`` fields nobody owns."""

_SERVER_TOP = frozenset(("kind", "apiVersion"))
_SERVER_META = frozenset(
    (
        "creationTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)


class Shape:
    """``fields`` are the declared fields of a struct; ``element`` is what other keys, or the items of a list, have."""

    __slots__ = ("_expand", "_fields", "element", "json", "key_defaults", "keys", "kind", "present")

    def __init__(
        self,
        kind: Kind,
        *,
        expand: Callable[[], Mapping[str, Shape]] | None = None,
        element: Shape | None = None,
        keys: tuple[str, ...] = (),
        key_defaults: Mapping[str, Any] | None = None,
        json: str = "",
        present: bool = False,
    ) -> None:
        self.kind: Kind = kind
        self.element = element
        self.keys = keys
        self.key_defaults = key_defaults or {}
        self.json = json
        """The JSON type a value must have: string, number, boolean, list, map, or "" for any."""
        self.present = present
        """Go writes it even when empty, as null."""
        self._expand = expand
        self._fields: Mapping[str, Shape] | None = None if expand else {}

    @property
    def fields(self) -> Mapping[str, Shape]:
        if self._fields is None:
            assert self._expand is not None
            self._fields = self._expand()
        return self._fields

    def child(self, key: str) -> Shape | None:
        """The shape of a field; None where the type has no such field."""
        found = self.fields.get(key)
        return found if found is not None else self.element


ANY = Shape("any")
SERVER = Shape("server")
_ATOMIC_ANY = Shape("atomic")
_JSON = {"string": "string", "bytes": "string", "bool": "boolean", "int32": "number", "int64": "number", "double": "number"}
_SCALARS: dict[str, Shape] = {name: Shape("scalar", json=json) for name, json in _JSON.items()}
_UNTYPED = Shape("scalar")
_shapes: dict[str, Shape] = {}


def of_type(type_name: str) -> Shape:
    """The shape of a declared type."""
    found = _shapes.get(type_name)
    if found is None:
        found = _shapes[type_name] = _make(type_name)
    return found


def register(type_name: str, shape: Shape) -> None:
    """Give a type that is not declared its shape."""
    _shapes[type_name] = shape


def unregister(type_name: str) -> None:
    _shapes.pop(type_name, None)


def _make(type_name: str) -> Shape:
    declared = types.get(type_name)
    if declared.scalar:
        if declared.scalar in ("object", "any"):
            return ANY
        return _SCALARS["string"] if declared.scalar == "string:date-time" else _UNTYPED
    if declared.atomic:
        return Shape("atomic", json="map")

    def expand() -> Mapping[str, Shape]:
        skip = _SERVER_META if type_name == f"{META}.ObjectMeta" else _SERVER_TOP if declared.is_kind else ()
        return {f.name: SERVER if f.name in skip else _of_field(f) for f in declared.fields.values()}

    return Shape("map", expand=expand, json="map")


def _of_field(field: Field) -> Shape:
    value = _value(field)
    if field.container == "list":
        if field.list_type == "map":
            item = types.get(field.type)
            defaults = {k: item.fields[k].default for k in field.keys if item.fields[k].default is not None}
            return Shape("listmap", element=value, keys=field.keys, key_defaults=defaults, json="list", present=field.always)
        return Shape("set" if field.list_type == "set" else "atomic", element=value, json="list", present=field.always)
    if field.container:
        if field.list_type == "atomic":
            return Shape("atomic", json="map")
        element = Shape("atomic", json="list") if field.container == "maplist" else value
        return Shape("map", element=element, json="map", present=field.always)
    if field.list_type == "atomic" and field.type not in SCALARS:
        return Shape("atomic", json="map")
    return value


def _value(field: Field) -> Shape:
    if field.type in ("any", "object"):
        return ANY
    return _SCALARS[field.type] if field.type in SCALARS else of_type(field.type)


def of_schema(schema: Obj | None) -> Shape:
    """The shape of a custom resource from its structural schema (``openAPIV3Schema``); None: everything goes."""

    def expand() -> Mapping[str, Shape]:
        fields = {name: _of_schema(value) for name, value in ((schema or {}).get("properties") or {}).items()}
        return {**fields, "kind": SERVER, "apiVersion": SERVER, "metadata": of_type(f"{META}.ObjectMeta")}

    open_ended = not schema or schema.get("x-kubernetes-preserve-unknown-fields")
    return Shape("map", expand=expand, element=ANY if open_ended else None, json="map")


def _of_schema(schema: Obj) -> Shape:
    if schema.get("x-kubernetes-int-or-string"):
        return _UNTYPED
    kind = schema.get("type")
    if kind == "object":
        return _of_object(schema)
    if kind == "array":
        items = schema.get("items") or {}
        element = _of_schema(items) if isinstance(items, dict) else ANY
        list_type = schema.get("x-kubernetes-list-type", "atomic")
        if list_type == "map":
            properties = items.get("properties") or {}
            keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
            defaults = {k: properties[k]["default"] for k in keys if "default" in (properties.get(k) or {})}
            return Shape("listmap", element=element, keys=keys, key_defaults=defaults, json="list")
        return Shape("set" if list_type == "set" else "atomic", element=element, json="list")
    if kind in ("string", "boolean"):
        return Shape("scalar", json=kind)
    if kind in ("integer", "number"):
        return Shape("scalar", json="number")
    return ANY


def _of_object(schema: Obj) -> Shape:
    if schema.get("x-kubernetes-map-type") == "atomic":
        return Shape("atomic", json="map")
    if schema.get("x-kubernetes-embedded-resource"):
        return of_schema(schema)
    properties, extra = schema.get("properties"), schema.get("additionalProperties")
    element = None
    if schema.get("x-kubernetes-preserve-unknown-fields") or extra is True or (not properties and extra is None):
        element = ANY
    elif isinstance(extra, dict):
        element = _of_schema(extra)
    return Shape("map", expand=lambda: {n: _of_schema(v) for n, v in (properties or {}).items()}, element=element, json="map")
