"""Server-side Tables. Upstream: ``registry/rest/table.go``, ``meta/v1`` Table; the columns are ``k3sd.apis.columns``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from k3sd.apimachinery.errors import Obj, bad_request
from k3sd.apimachinery.resource import Resource
from k3sd.apis import columns as printer

INCLUDE = ("None", "Metadata", "Object")


def check_include(value: str) -> str:
    """``includeObject`` of the query. Raises 400."""
    if value and value not in INCLUDE:
        raise bad_request(f'unrecognized includeObject value: "{value}"')
    return value or "Metadata"


def table(
    resource: Resource, objects: Sequence[Obj], metadata: Obj, version: str, include: str = "", columns: bool = True
) -> Obj:
    """Rows for ``objects``. ``columns=False`` leaves the definitions out (later events of a watch)."""
    now = time.time()
    rows = []
    for obj in objects:
        row: Obj = {"cells": printer.cells(resource, obj, now)}
        conditions = printer.row_conditions(resource, obj)
        if conditions:
            row["conditions"] = conditions
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": f"meta.k8s.io/{version}",
                "metadata": obj.get("metadata", {}),
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": printer.table_columns(resource) if columns else [],
        "rows": rows,
    }


def bookmark(metadata: Obj, version: str, annotations: Obj | None) -> Obj:
    """A BOOKMARK of a Table watch: one row without cells whose object says the resource version."""
    row_meta = dict(metadata)
    if annotations:
        row_meta["annotations"] = annotations
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": [],
        "rows": [
            {
                "cells": [],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": f"meta.k8s.io/{version}",
                    "metadata": row_meta,
                },
            }
        ],
    }
