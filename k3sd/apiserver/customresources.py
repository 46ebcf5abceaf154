"""Custom resources: what CustomResourceDefinitions add to the API while the server runs.

Every definition is followed in the turn of the loop that writes it: before its writer is answered, its versions are served,
listed in discovery and published in OpenAPI. A deleted definition keeps its finalizer until its objects are gone. How a
version reads what another one or another schema has stored is in ``customviews``. Sources:
``apiextensions-apiserver/pkg/apiserver``, ``pkg/controller/{establish,finalizer,status}``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import custom, timefmt
from k3sd.apimachinery.errors import FieldError, Obj, StatusError
from k3sd.apimachinery.openapi import COMMON
from k3sd.apimachinery.resource import Resource, Subresource
from k3sd.apis import columns, resources
from k3sd.apiserver import storage
from k3sd.apiserver.customviews import ConversionHook, Views
from k3sd.apiserver.follow import follow
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

if TYPE_CHECKING:
    from k3sd.apimachinery.customrules import Rules
    from k3sd.apiserver.registry import Registry

log = logging.getLogger(__name__)

CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_CRUD = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_SUB = ("get", "patch", "update")
_SCALE = "io.k8s.api.autoscaling.v1.Scale"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"


def type_name(group: str, version: str, kind: str) -> str:
    """``com.example.v1.Widget``, as upstream names the OpenAPI definition."""
    return ".".join([*reversed(group.split(".")), version, kind])


class CustomStrategy(Strategy):
    """Rules of a custom resource: those of its schema. Without a status subresource."""

    has_status = False
    has_generation = True
    allow_unconditional_update = False

    def __init__(self, resource: Resource, registry: Registry, version: Obj) -> None:
        super().__init__(resource, registry)
        self.version = version
        self._rules: tuple[Obj, Rules | None] | None = None

    @property
    def schema(self) -> Obj | None:
        found: Obj | None = (self.version.get("schema") or {}).get("openAPIV3Schema")
        return found

    @property
    def rules(self) -> Rules | None:
        """The schema's CEL rules, compiled when first needed."""
        if self._rules is None or self._rules[0] is not self.version:
            from k3sd.apimachinery import customrules

            self._rules = (self.version, customrules.compile_rules(self.schema))
        return self._rules[1]

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        return self._validate(obj, None)

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self._validate(new, old)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self._validate(new, old)

    def _validate(self, new: Obj, old: Obj | None) -> list[FieldError]:
        errors = custom.validate(new, self.schema)
        if self.rules is not None:
            from k3sd.apimachinery import customrules

            if any(error.type in customrules.BLOCKING for error in errors):
                errors.append(customrules.NOT_CHECKED)
            else:
                errors += customrules.validate(self.rules, new, old)
        return errors

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        from k3sd.apis.columns.custom import evaluate

        found = {}
        for field in self.version.get("selectableFields") or ():
            path = field.get("jsonPath", "")
            values = evaluate(path, obj)
            found[path.removeprefix(".")] = _text(values[0]) if values else ""
        return found


class CustomStrategyWithStatus(CustomStrategy):
    has_status = True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def row_of(crd: Obj, version: Obj) -> Resource:
    """The row of one version of a definition."""
    spec = crd["spec"]
    names = (crd.get("status") or {}).get("acceptedNames") or spec["names"]
    group, kind = spec["group"], names["kind"]
    full = type_name(group, version["name"], kind)
    subs = []
    if "status" in (version.get("subresources") or {}):
        subs.append(Subresource("status", kind, _SUB, group, version["name"], full))
    if "scale" in (version.get("subresources") or {}):
        subs.append(Subresource("scale", "Scale", _SUB, "autoscaling", "v1", _SCALE))
    return Resource(
        group,
        version["name"],
        names["plural"],
        kind,
        spec.get("scope") == "Namespaced",
        _CRUD,
        full,
        names.get("singular") or kind.lower(),
        tuple(names.get("shortNames") or ()),
        tuple(names.get("categories") or ()),
        tuple(subs),
    )


def _same_row(a: Resource, b: Resource) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in Resource.__slots__)


def accepted(crd: Obj) -> Obj:
    """The status of a definition whose names are free: accepted and established at once."""
    now = timefmt.now()
    spec_names = dict(crd["spec"].get("names") or {})
    conditions = [
        {
            "type": "NamesAccepted",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "NoConflicts",
            "message": "no conflicts found",
        },
        {
            "type": "Established",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
        },
    ]
    return {"conditions": conditions, "acceptedNames": spec_names}


class CustomResources:
    """Serves the definitions of one registry. ``start`` needs the started cache and a running loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rows: dict[str, dict[str, Resource]] = {}
        self._stored: dict[tuple[str, str], str] = {}
        self._cleanups: dict[str, asyncio.Task[None]] = {}
        self._views: dict[Resource, Views] = {}
        self._holders: dict[tuple[str, str], Resource] = {}
        self._definitions: dict[str, tuple[Obj, list[str], tuple[Resource, ...]]] = {}

    def views(self, row: Resource) -> Views | None:
        """How this version reads what is stored; None where stored bytes must be right, and for what is not custom."""
        return self._views.get(row)

    def stored(self, row: Resource) -> Resource | None:
        """The row of the version in the store; None for what is not custom."""
        return self._holders.get((row.group, row.plural))

    def start(self) -> None:
        follow(self._registry, resources.CUSTOMRESOURCEDEFINITIONS, self._observe)

    def _observe(self, event: str, crd: Obj, _old: Obj | None) -> None:
        name = crd["metadata"]["name"]
        if event == "DELETED":
            for row in self._rows.get(name, {}).values():
                self._registry.endpoint(row).cache.close()  # ends the watches of what is no more
            self._withdraw(name, list(self._rows.get(name, ())))
            return
        self._serve(name, crd)
        metadata = crd["metadata"]
        if metadata.get("deletionTimestamp") and CLEANUP_FINALIZER in (metadata.get("finalizers") or ()):
            self._clean_up(name)

    def _serve(self, name: str, crd: Obj) -> None:
        conditions = (crd.get("status") or {}).get("conditions") or ()
        if not any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
            return
        rows = self._rows.setdefault(name, {})
        served = {v["name"]: v for v in crd["spec"].get("versions") or () if v.get("served")}
        self._withdraw(name, [version for version in rows if version not in served])
        registry = self._registry
        self._store_as(crd)
        for version, definition in served.items():
            row = row_of(crd, definition)
            if version in rows and _same_row(rows[version], row):
                row = rows[version]
            elif version in rows:
                self._withdraw(name, [version])
            schema = (definition.get("schema") or {}).get("openAPIV3Schema")
            has_status = any(sub.name == "status" for sub in row.subresources)
            custom.register(row.type_name, schema, has_status=has_status)
            columns.register(row.type_name, definition.get("additionalPrinterColumns"))
            make = CustomStrategyWithStatus if has_status else CustomStrategy
            known = registry.strategies.get(row)
            if isinstance(known, CustomStrategy):
                known.version = definition
            else:
                registry.strategies[row] = make(row, registry, definition)
            if scale := (definition.get("subresources") or {}).get("scale"):
                from k3sd.apiserver.customscale import CustomScale

                registry.handlers[row, "scale"] = CustomScale(registry, row, scale)
            rows[version] = row
            registry.served.add(row)
        self._rows[name] = rows
        self._view(rows, crd)

    def _view(self, rows: dict[str, Resource], crd: Obj) -> None:
        """Say how each version reads the store. What has not changed keeps its views, which remember what they made."""
        spec = crd["spec"]
        kept = list((crd.get("status") or {}).get("storedVersions") or ())
        facts = (spec, kept, tuple(rows.values()))
        name = crd["metadata"]["name"]
        if self._definitions.get(name) == facts:
            return
        self._definitions[name] = facts
        conversion = spec.get("conversion") or {}
        hook = None
        if conversion.get("strategy") == "Webhook":
            hook = ConversionHook(self._registry, conversion.get("webhook") or {})
        changed = (crd["metadata"].get("generation") or 1) > 1
        stored = next(v for v in spec["versions"] if v.get("storage"))
        holder = rows.get(stored["name"]) or row_of(crd, stored)  # the storage version need not be served
        self._holders[holder.group, holder.plural] = holder
        for version, row in rows.items():
            self._drop_views(row)
            if changed or hook is not None or kept != [version]:
                schema = self._registry.strategies[row].schema  # type: ignore[attr-defined]
                self._views[row] = Views(row, schema, hook, changed)
            if (built := self._registry.built(row)) is not None:
                built.store_as(holder, self.views(row))

    def _drop_views(self, row: Resource) -> None:
        if (views := self._views.pop(row, None)) is not None:
            views.stale = True

    def _store_as(self, crd: Obj) -> None:
        """Note the storage version."""
        stored = next((v["name"] for v in crd["spec"]["versions"] if v.get("storage")), "")
        key = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        if self._stored.get(key) != stored:
            self._stored[key] = stored
            storage.STORAGE_VERSIONS[key] = (key[0], stored)

    def _withdraw(self, name: str, versions: list[str]) -> None:
        rows = self._rows.get(name, {})
        for version in versions:
            row = rows.pop(version)
            self._registry.served.remove(row)
            self._registry.strategies.pop(row, None)
            self._registry.handlers.pop((row, "scale"), None)
            self._registry.forget(row)
            self._drop_views(row)
            custom.unregister(row.type_name)
            columns.unregister(row.type_name)
            if not rows:
                self._rows.pop(name, None)
                self._definitions.pop(name, None)
                self._stored.pop((row.group, row.plural), None)
                self._holders.pop((row.group, row.plural), None)
                storage.STORAGE_VERSIONS.pop((row.group, row.plural), None)

    def _clean_up(self, name: str) -> None:
        """Delete the objects of a definition that is being deleted, then let it go. One task a definition."""
        if name not in self._cleanups:
            task = asyncio.get_running_loop().create_task(self._finish(name), name=f"clean up {name}")
            self._cleanups[name] = task
            task.add_done_callback(lambda _: self._cleanups.pop(name, None))

    async def _finish(self, name: str) -> None:
        client = self._registry.client()
        row = next(iter(self._rows.get(name, {}).values()), None)
        try:
            if row is not None:
                await self._empty(row)
            crd = await client.get(resources.CUSTOMRESOURCEDEFINITIONS, name)
            left = [f for f in crd["metadata"].get("finalizers") or () if f != CLEANUP_FINALIZER]
            await client.update(
                resources.CUSTOMRESOURCEDEFINITIONS, {**crd, "metadata": {**crd["metadata"], "finalizers": left}}
            )
        except StatusError as error:
            if error.reason not in ("NotFound", "Conflict"):
                log.warning("cannot remove the objects of %s: %s", name, error.message)
            elif error.reason == "Conflict":
                asyncio.get_running_loop().call_soon(self._clean_up, name)

    async def _empty(self, row: Resource) -> None:
        """Delete every object and wait until the last one is gone; finalizers of their own may take their time."""
        client, gone = self._registry.client(), asyncio.Event()
        cache = self._registry.endpoint(row).cache

        def note(_: object) -> None:
            if not len(cache):
                gone.set()

        follower = cache.follow(note)
        try:
            for entry in cache.list():
                metadata = entry.obj["metadata"]
                try:
                    await client.delete(row, metadata["name"], metadata.get("namespace"))
                except StatusError as error:
                    if error.reason != "NotFound":
                        raise
            if len(cache):
                await gone.wait()
        finally:
            follower.close()

    def schemas(self, group: str = "", version: str = "", *, v3: bool = False) -> Iterator[tuple[str, Obj]]:
        """The OpenAPI definitions of the custom resources (of one group version)."""
        for rows in self._rows.values():
            for row in rows.values():
                if group and (row.group, row.version) != (group, version):
                    continue
                strategy = self._registry.strategies[row]
                schema = strategy.schema if isinstance(strategy, CustomStrategy) else None
                yield from published(row, schema, v3)


def published(row: Resource, schema: Obj | None, v3: bool) -> Iterator[tuple[str, Obj]]:
    """The definition of a kind and of its list. Version 2 leaves out what it cannot say."""
    base = "#/components/schemas/" if v3 else "#/definitions/"
    kind = {"group": row.group, "version": row.version, "kind": row.kind}
    body = dict(schema or {"type": "object"})
    if not v3:
        # Version 2 cannot say "anything goes" at the top: upstream publishes such a kind without its schema.
        body = {"type": "object"} if body.get("x-kubernetes-preserve-unknown-fields") else _v2(body)
    if body.get("properties"):
        reference = {"$ref": f"{base}{_META}.ObjectMeta"}
        head = {
            "apiVersion": {"type": "string", "description": COMMON["apiVersion"]},
            "kind": {"type": "string", "description": COMMON["kind"]},
            "metadata": {"description": COMMON["metadata"], **({"allOf": [reference]} if v3 else reference)},
        }
        body["properties"] = {**body.get("properties", {}), **head}
    body["x-kubernetes-group-version-kind"] = [kind]
    yield row.type_name, body
    listed = {
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "items": {"type": "array", "items": {"$ref": f"{base}{row.type_name}"}},
            "kind": {"type": "string"},
            "metadata": {"$ref": f"{base}{_META}.ListMeta"},
        },
        "x-kubernetes-group-version-kind": [{**kind, "kind": f"{row.kind}List"}],
    }
    yield f"{row.type_name}List", listed


_ONLY_V3 = frozenset(("oneOf", "anyOf", "not", "nullable", "x-kubernetes-validations"))


def _v2(schema: Any) -> Any:
    """Source: ``ToStructuralOpenAPIV2``: what version 2 does not know goes; open objects lose their properties."""
    if isinstance(schema, list):
        return [_v2(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: value for key, value in schema.items() if key not in _ONLY_V3}
    if schema.get("x-kubernetes-int-or-string") or schema.get("nullable"):
        out.pop("type", None)
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        out.pop("properties", None)
        out.pop("items", None)
    if isinstance(out.get("properties"), dict):
        out["properties"] = {key: _v2(value) for key, value in out["properties"].items()}
    for key in ("items", "additionalProperties", "allOf"):
        if key in out:
            out[key] = _v2(out[key])
    return out
