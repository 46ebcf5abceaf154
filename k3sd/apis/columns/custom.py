"""Columns of custom resources: ``additionalPrinterColumns``, read with simple JSON paths.

Source: ``apiextensions-apiserver/pkg/registry/customresource/tableconvertor``. Paths may use fields, ``['quoted']`` names,
indices, ``[*]`` and filters such as ``[?(@.type=="Ready")]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.text import age, name, since

_TOKEN = re.compile(
    r"\.(?P<field>(?:\\.|[^.\[\]\\])+)"
    r"|\[(?P<quote>['\"])(?P<quoted>.*?)(?P=quote)\]"
    r"|\[(?P<index>-?\d+)\]"
    r"|\[(?P<star>\*)\]"
    r"|\[\?\(@\.(?P<key>[^=\s]+)\s*==\s*(?P<value>\"[^\"]*\"|'[^']*'|[^)]+)\)\]"
)


def evaluate(path: str, obj: Any) -> list[Any]:
    """The values the path leads to; none where it is malformed or leads nowhere."""
    path = path.strip().removeprefix("{").removesuffix("}")
    path = path if path.startswith((".", "[")) else f".{path}"
    values, at = [obj], 0
    while at < len(path):
        token = _TOKEN.match(path, at)
        if token is None:
            return []
        values = [found for value in values for found in _step(token, value)]
        at = token.end()
    return values


def _step(token: re.Match[str], value: Any) -> list[Any]:
    key = (token["field"] or token["quoted"] or "").replace("\\.", ".")
    if key:
        return [value[key]] if isinstance(value, dict) and key in value else []
    if not isinstance(value, list):
        return []
    if token["star"]:
        return list(value)
    if token["index"]:
        index = int(token["index"])
        return [value[index]] if -len(value) <= index < len(value) else []
    wanted = token["value"].strip("\"'")
    return [item for item in value if any(str(found) == wanted for found in evaluate(token["key"], item))]


def definitions(columns: Sequence[Obj] | None) -> list[Obj]:
    """The Table's column definitions of a version's ``additionalPrinterColumns``."""
    shown = columns if columns is not None else _AGE
    return [
        {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
        *(
            {
                "name": column.get("name", ""),
                "type": column.get("type", "string"),
                "format": column.get("format", ""),
                "description": column.get("description", ""),
                "priority": column.get("priority", 0),
            }
            for column in shown
        ),
    ]


_AGE: list[Obj] = [{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]


def cells(columns: Sequence[Obj] | None, obj: Obj, now: float) -> list[Any]:
    """The cells of one object. Dates become ages, other values what their column's type asks for."""
    if columns is None:
        return [name(obj), age(obj, now)]
    return [name(obj), *(_cell(column, obj, now) for column in columns)]


def _cell(column: Obj, obj: Obj, now: float) -> Any:
    values = evaluate(column.get("jsonPath", ""), obj)
    if not values or values[0] is None:
        return None
    value, kind = values[0], column.get("type", "string")
    if kind == "date":
        try:
            return since(str(value), now)
        except ValueError:
            return "<invalid>"
    if kind in ("integer", "number", "boolean") and isinstance(value, bool | int | float):
        return value
    if kind in ("integer", "number"):
        return None
    if len(values) > 1:
        return ",".join(v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for v in values)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
