"""Get and list: bytes from the watch cache, chunks at one revision, selectors.

Upstream: ``storage/etcd3/store.go`` (GetList), ``storage/continue.go``, ``storage/cacher``. The cache is fed before writers
are answered, so it is never stale; only lists at an older revision ask the store.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from k3sd.apimachinery.errors import Obj, StatusError, bad_request, gone, not_found
from k3sd.apiserver.endpoint import Endpoint, Item
from k3sd.apiserver.options import ListOptions, field_label_error, parse_revision
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.watchcache import Entry
from k3sd.datastore.backend import Compacted, FutureRevision

CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
CONTINUE_SECONDS = 300
"""How long a chunked list may take: upstream compacts every five minutes, and clients must see that end here too, although the
store keeps its last thousand revisions however old they are."""
LIST_EXPIRED = "The resourceVersion for the provided list is too old."

Match = Callable[[Item], bool]


class Keyed(Item, Protocol):
    """An Item from the store."""

    @property
    def key(self) -> str: ...


@dataclass(slots=True)
class ListAnswer:
    """Items in key order at ``revision``. ``continue_`` is set when more follows; ``remaining`` only when it can be known."""

    endpoint: Endpoint
    items: Sequence[Item]
    revision: int
    continue_: str = ""
    remaining: int = 0

    @property
    def metadata(self) -> Obj:
        out: Obj = {"resourceVersion": str(self.revision)}
        if self.continue_:
            out["continue"] = self.continue_
            if self.remaining:
                out["remainingItemCount"] = self.remaining
        return out

    @property
    def raw(self) -> bytes:
        """The list as JSON: stored bytes joined."""
        head = self.endpoint.list_head
        meta = f'"resourceVersion":"{self.revision}"'
        if self.continue_:
            meta += f',"continue":"{self.continue_}"'
            if self.remaining:
                meta += f',"remainingItemCount":{self.remaining}'
        # One join: a second copy of a large list costs more in fresh pages than everything else here.
        parts = [i.raw for i in self.items]
        start = f'{head}{meta}}},"items":['.encode()
        if not parts:
            return start + b"]}"
        parts[0] = start + parts[0]
        parts[-1] += b"]}"
        return b",".join(parts)

    @property
    def obj(self) -> Obj:
        resource = self.endpoint.resource
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": self.metadata,
            "items": [i.obj for i in self.items],
        }


def too_large(asked: int, current: int) -> StatusError:
    """``storage.NewTooLargeResourceVersionError``."""
    return StatusError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def get(ep: Endpoint, ctx: RequestContext, resource_version: str = "") -> Item:
    """One object. A ``resource_version`` from the future is refused; any other is satisfied by the newest state."""
    if resource_version and resource_version != "0":
        _not_future(ep, parse_revision(resource_version))
    entry = ep.cache.get(ep.key(ctx.namespace, ctx.name))
    if entry is None:
        raise not_found(ep.resource.group, ep.resource.plural, ctx.name)
    return entry if ep.reader is None else ep.reader(entry)


def _not_future(ep: Endpoint, revision: int) -> None:
    current = ep.registry.cache.revision
    if revision > current:
        raise too_large(revision, current)


def matcher(ep: Endpoint, options: ListOptions) -> Match | None:
    """What an object must satisfy to be listed, None when everything does. Raises 400 for a field that cannot be selected
    on."""
    labels, fields = options.labels, options.fields
    if fields is not None:
        own = selectable(ep)
        for name, _, _ in fields.requirements:
            if name not in ("metadata.name", "metadata.namespace") and name not in own:
                raise field_label_error(name, bool(own))
    if labels is None and fields is None:
        return None
    strategy = ep.strategy
    read = ep.reader
    names = [value for field, op, value in fields.requirements if field == "metadata.name" and op != "!="] if fields else []
    end = f"/{names[0]}" if names else ""

    def matches(item: Item) -> bool:
        if end and isinstance(item, Entry) and not item.key.endswith(end):
            return False  # without parsing it: others' objects are most of what a watcher of one name sees
        obj = item.obj if read is None else read(item).obj
        meta = obj["metadata"]
        if labels is not None and not labels.matches(meta.get("labels")):
            return False
        if fields is None:
            return True
        values = {"metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", "")}
        values.update(strategy.selectable_fields(obj))
        return fields.matches(values)

    return matches


def selectable(ep: Endpoint) -> frozenset[str]:
    """Field labels of the kind besides name and namespace; found by asking the strategy about an empty object, once."""
    found: frozenset[str] | None = ep.fields
    if found is None:
        found = ep.fields = frozenset(ep.strategy.selectable_fields({"metadata": {}, "spec": {}, "status": {}}))
    return found


def encode_continue(revision: int, start: str, begun: int = 0) -> str:
    """Upstream's token (``{"v":..,"rv":..,"start":..}``) with one field more: when the list began, in seconds."""
    token: Obj = {"v": "meta.k8s.io/v1", "rv": revision, "start": start}
    if begun:
        token["begun"] = begun
    text = json.dumps(token, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_continue(token: str, prefix: str) -> tuple[int, str, int]:
    """``(revision, key to start from, when the list began)``; a revision of -1 means "now". Raises 400."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        data = json.loads(raw)
        version, revision, start = data.get("v"), data.get("rv"), data.get("start")
    except (ValueError, binascii.Error, AttributeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from None
    if version != "meta.k8s.io/v1":
        raise bad_request(f'continue key is not valid: server does not recognize this encoded version "{version}"')
    if not isinstance(revision, int) or revision == 0:
        raise bad_request("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    if not isinstance(start, str) or not start:
        raise bad_request("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
    if ".." in start.split("/"):
        raise bad_request(f"continue key is not valid: invalid key: {start}")
    begun = data.get("begun")
    return revision, prefix + start, begun if isinstance(begun, int) else 0


async def list_items(ep: Endpoint, ctx: RequestContext, options: ListOptions) -> ListAnswer:
    """One list or one chunk of it."""
    match = matcher(ep, options)
    scope = ep.scope(ctx.namespace)
    cache = ep.registry.cache
    start = scope
    revision = 0
    begun = int(time.time())
    if options.continue_:
        if options.resource_version and options.resource_version != "0":
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, start, begun = decode_continue(options.continue_, scope)
        if revision < 0:
            revision, begun = 0, int(time.time())
        elif begun and time.time() - begun > CONTINUE_SECONDS:
            raise _expired(options, start, scope)
    elif options.resource_version and options.resource_version != "0":
        asked = options.revision()
        if asked > cache.revision:
            await cache.fresh()
        _not_future(ep, asked)
        if options.match == "Exact" or (not options.match and options.limit > 0):
            revision = asked
    elif options.resource_version == "0" and not options.match and options.limit:
        options.limit = 0  # upstream's watch cache answers "any version" whole

    current = cache.revision
    if revision and revision != current:
        try:
            entries: Sequence[Entry] = await _list_at(ep, start, scope, revision)
        except Compacted:
            raise _expired(options, start, scope) from None
        except FutureRevision as error:
            raise too_large(revision, error.current_revision) from None
    else:
        revision = current
        entries = ep.cache.list(scope)
        if start != scope:
            entries = [e for e in entries if e.key >= start]
    if ep.views is not None:
        await ep.prepare(entries)
    return _chunk(ep, entries, match, options.limit, revision, scope, begun)


def _expired(options: ListOptions, start: str, scope: str) -> StatusError:
    if not options.continue_:
        return gone(LIST_EXPIRED)
    error = gone(CONTINUE_EXPIRED)
    error.continue_token = encode_continue(-1, start[len(scope) :])
    return error


async def _list_at(ep: Endpoint, start: str, scope: str, revision: int) -> Sequence[Entry]:
    from k3sd.apiserver.storage import prefix_end

    return (await ep.cache.list_at(revision, start, prefix_end(scope))).entries


def _chunk(
    ep: Endpoint, entries: Sequence[Keyed], match: Match | None, limit: int, revision: int, scope: str, begun: int
) -> ListAnswer:
    taken: Sequence[Item] = entries
    continue_ = ""
    remaining = 0
    if match is not None:
        found: list[Keyed] = []
        for item in entries:
            if match(item):
                if limit > 0 and len(found) == limit:
                    continue_ = _after(found[-1], scope, revision, begun)
                    break
                found.append(item)
        taken = found
    elif 0 < limit < len(entries):
        taken = entries[:limit]
        continue_ = _after(entries[limit - 1], scope, revision, begun)
        remaining = len(entries) - limit
    if ep.reader is not None:
        taken = [ep.reader(i) for i in taken]
    return ListAnswer(ep, taken, revision, continue_, remaining)


def _after(item: Keyed, scope: str, revision: int, begun: int) -> str:
    return encode_continue(revision, item.key[len(scope) :] + "\0", begun)
