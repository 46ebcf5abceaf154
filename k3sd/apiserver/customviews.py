"""``Views``: how one version of a custom resource reads what is stored.

Stored bytes are served as they are where they must be right: one version, and a definition that never changed. Otherwise an
object is made to fit when it is first read - converted to the version, pruned, filled with the defaults its schema gained - and
kept beside its cache entry, so that every revision is worked on once a version and schema. Sources:
``apiextensions-apiserver/pkg/apiserver/customresource_handler.go`` (``schemaCoercingDecoder``), ``pkg/apiserver/conversion``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery import codec, custom, validation
from k3sd.apimachinery.errors import Obj, internal
from k3sd.apiserver.watchcache import Entry
from k3sd.apiserver.webhookclient import CallFailed

if TYPE_CHECKING:
    from k3sd.apimachinery.resource import Resource
    from k3sd.apiserver.endpoint import Item
    from k3sd.apiserver.registry import Registry

WEBHOOK_SECONDS = 30
MAX_ANSWER_BYTES = 64 << 20
_UNSEEN: Any = object()


class Views:
    """What one version of a definition makes of stored objects. ``changed`` is True when the definition may be newer than
    objects in the store. Replaced as a whole when the definition changes."""

    def __init__(self, row: Resource, schema: Obj | None, hook: ConversionHook | None, changed: bool) -> None:
        self._row = row
        self._schema = schema
        self.hook = hook
        self._changed = changed
        self._mark = f'"apiVersion":"{row.api_version}",'.encode()
        self.stale = False

    def read(self, item: Item) -> Item:
        """The item in this version. With a webhook, ``prepare`` must have been awaited in the same turn."""
        entry: Entry = item  # type: ignore[assignment]  # what is read comes from the cache or the store
        found = entry.views.get(self, _UNSEEN) if entry.views is not None else _UNSEEN
        if found is _UNSEEN:
            if self.hook is not None and not self._is_mine(entry.raw):
                raise internal(f"object {entry.key} has not been converted to {self._row.api_version}")
            found = self._keep(entry, codec.loads(entry.raw))
        return entry if found is None else found

    async def prepare(self, entries: Iterable[Entry]) -> None:
        """Convert what the webhook has not been asked about yet, in one call. Raises 500 when it fails."""
        if self.hook is None:
            return
        waiting = [e for e in entries if (e.views is None or self not in e.views) and not self._is_mine(e.raw)]
        if not waiting:
            return
        objects = await self.hook.convert([codec.loads(e.raw) for e in waiting], self._row.api_version)
        for entry, obj in zip(waiting, objects, strict=True):
            self._keep(entry, obj)

    def _is_mine(self, raw: bytes) -> bool:
        return raw.startswith(self._mark, raw.find(b'"apiVersion":'))  # the first is the object's own

    def _keep(self, entry: Entry, obj: Obj) -> Entry | None:
        """Make the object fit and remember it; None when the stored bytes fit as they are."""
        if obj.get("apiVersion") != self._row.api_version:
            obj["apiVersion"] = self._row.api_version
        if self._changed or self.hook is not None:
            custom.prune(obj, self._schema)
            if self._schema is not None:
                custom.set_defaults(obj, self._schema)
        raw = codec.encode(obj)
        view = None if raw == entry.raw else Entry(entry.resource, entry.key, raw, entry.revision, entry.create_revision)
        entry.views = {v: kept for v, kept in (entry.views or {}).items() if not v.stale}
        entry.views[self] = view
        return view

    async def to_storage(self, obj: Obj, api_version: str) -> Obj:
        """A written object as the store keeps it. Raises 500 when the webhook fails."""
        if self.hook is None:
            return {**obj, "apiVersion": api_version}
        (converted,) = await self.hook.convert([obj], api_version)
        return converted


class ConversionHook:
    """``spec.conversion.webhook`` of a definition."""

    def __init__(self, registry: Registry, config: Obj) -> None:
        self._registry = registry
        self._client: Obj = config.get("clientConfig") or {}
        self._versions: list[str] = config.get("conversionReviewVersions") or []

    async def convert(self, objects: Sequence[Obj], api_version: str) -> list[Obj]:
        """The objects in ``api_version``, in order; those that are in it already are not sent. Raises 500."""
        foreign = [obj for obj in objects if obj.get("apiVersion") != api_version]
        if not foreign:
            return list(objects)
        kind = f"{foreign[0].get('apiVersion', '')}, Kind={foreign[0].get('kind', '')}"
        answered = iter(await self._ask(foreign, api_version, kind))
        return [obj if obj.get("apiVersion") == api_version else next(answered) for obj in objects]

    async def _ask(self, objects: list[Obj], api_version: str, kind: str) -> list[Obj]:
        version = next((v for v in self._versions if v in ("v1", "v1beta1")), "v1")
        uid = str(uuid.uuid4())
        request = {"uid": uid, "desiredAPIVersion": api_version, "objects": objects}
        review = {"kind": "ConversionReview", "apiVersion": f"apiextensions.k8s.io/{version}", "request": request}
        try:
            body = await self._registry.webhooks.post(self._client, review, WEBHOOK_SECONDS, MAX_ANSWER_BYTES)
            converted = _parse(body, uid, version)
        except CallFailed as error:
            raise internal(f"conversion webhook for {kind} failed: {error}") from error
        if len(converted) != len(objects):
            raise internal(f"conversion webhook for {kind} returned {len(converted)} objects, expected {len(objects)}")
        for index, (old, new) in enumerate(zip(objects, converted, strict=True)):
            problem = _check(old, new, api_version)
            if problem:
                raise internal(f"conversion webhook for {kind} returned invalid converted object at index {index}: {problem}")
            problem = _restore_metadata(old, new)
            if problem:
                raise internal(f"conversion webhook for {kind} returned invalid metadata: {problem}")
        return converted


def _parse(body: bytes, uid: str, version: str) -> list[Any]:
    """``getConvertedObjectsFromResponse``. Raises CallFailed."""
    try:
        review = codec.loads(body)
    except ValueError as error:
        raise CallFailed(f"couldn't decode the answer: {error}") from error
    if not isinstance(review, dict) or not isinstance(review.get("response"), dict):
        raise CallFailed("no response provided")
    found = f"{review.get('apiVersion', '')}, Kind={review.get('kind', '')}"
    expected = f"apiextensions.k8s.io/{version}, Kind=ConversionReview"
    if found != expected:
        raise CallFailed(f"expected webhook response of {expected}, got {found}")
    response: Obj = review["response"]
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    result = response.get("result") or {}
    status = result.get("status", "")
    if status != "Success":
        raise CallFailed(result.get("message") or f"response.result.status was '{status}', expected 'Success'")
    return list(response.get("convertedObjects") or ())


def _check(old: Obj, new: Any, api_version: str) -> str:
    """``validateConvertedObject``; empty when the object is what was asked for."""
    if not isinstance(new, dict):
        return "it is no object"
    if new.get("apiVersion") != api_version:
        return f"invalid groupVersion (expected {api_version}, received {new.get('apiVersion', '')})"
    if new.get("kind") != old.get("kind"):
        return f"invalid kind (expected {old.get('kind')}, received {new.get('kind', '')})"
    if not isinstance(new.get("metadata"), dict):
        return "missing metadata"
    for field in ("name", "namespace", "uid"):
        was, now = old["metadata"].get(field, ""), new["metadata"].get(field, "")
        if was != now:
            text = "UID" if field == "uid" else field
            return f"must have the same {text}: {was} != {now}"
    return ""


def _restore_metadata(old: Obj, new: Obj) -> str:
    """``restoreObjectMeta``: a webhook decides about labels and annotations, nothing else. The order of fields is the store's:
    kind, apiVersion, metadata."""
    given = new["metadata"]
    metadata = {key: value for key, value in old["metadata"].items() if key not in ("labels", "annotations")}
    for field in ("labels", "annotations"):
        values = given.get(field)
        if values is None:
            continue
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            return f"metadata.{field}: must be a map of strings"
        metadata[field] = values
    problems = validation.validate_labels(metadata.get("labels"), "metadata.labels")
    problems += validation.validate_annotations(metadata.get("annotations"), "metadata.annotations")
    if problems:
        return "; ".join(map(str, problems))
    rest = {key: value for key, value in new.items() if key not in ("kind", "apiVersion", "metadata")}
    head = {"kind": new["kind"], "apiVersion": new["apiVersion"], "metadata": metadata}
    new.clear()
    new.update(head, **rest)
    return ""
