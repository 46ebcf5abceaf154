"""Watch: the cache's changes as a client asked to see them.

Adds to the cache's watchers what the API promises: initial events, selector transitions, bookmarks, conversion between
versions, the end after ``timeoutSeconds``. Upstream: ``storage/cacher/cache_watcher.go``, KEP-3157 (watch-list), KEP-956
(bookmarks).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Literal

from k3sd.apimachinery.errors import Obj, StatusError, gone
from k3sd.apiserver.endpoint import Endpoint, Item, Rendered
from k3sd.apiserver.listing import Match, matcher, too_large
from k3sd.apiserver.options import ListOptions
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.watchcache import CacheEvent, Entry, Expired, Watcher
from k3sd.datastore.backend import Compacted

BOOKMARK_SECONDS = 60.0
MIN_TIMEOUT_SECONDS = 1800
INITIAL_EVENTS_END = "k8s.io/initial-events-end"

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
Change = tuple[EventType, Item]

_FRAME = {name: b'{"type":"%b","object":' % name.encode() for name in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")}


def frame(type_: str, raw: bytes) -> bytes:
    """One line of a watch stream."""
    return b"%b%b}\n" % (_FRAME[type_], raw)


def encode_frame(event: CacheEvent) -> bytes:
    """The line every plain watcher gets; the cache keeps it."""
    return b"%b%b}\n" % (_FRAME[event.type], event.entry.raw)


class Watch:
    """One open watch. ``next`` gives changes as (type, item), ``next_frames`` as lines; use one of them. Close it."""

    def __init__(
        self, ep: Endpoint, watcher: Watcher, match: Match | None, options: ListOptions, initial: Sequence[Entry] | None
    ) -> None:
        self._ep = ep
        self._watcher = watcher
        self._match = match
        self._bookmarks = options.allow_bookmarks
        self._initial = initial
        self._initial_revision = ep.registry.cache.revision
        self._mark_end = bool(options.send_initial_events) and options.allow_bookmarks
        self._told = 0
        loop = asyncio.get_running_loop()
        seconds: float = options.timeout_seconds or MIN_TIMEOUT_SECONDS * (1 + random.random())
        if options.endless:
            seconds = math.inf
        self._deadline = loop.time() + seconds
        self._loop = loop

    @property
    def plain(self) -> bool:
        """Every change of the cache goes out as it is."""
        return self._match is None and self._ep.reader is None

    def close(self) -> None:
        """End the watch; whoever waits in ``next`` gets an empty batch. Idempotent."""
        self._watcher.close()

    async def next(self) -> list[Change]:
        """The next changes, at least one; empty when the watch is over. Raises StatusError(410) when it cannot be continued."""
        ep = self._ep
        if self._initial is not None:
            await ep.prepare(self._initial)
            return self._first() or await self.next()
        while True:
            events = await self._wait()
            if events is None:
                return [("BOOKMARK", self._bookmark(self._watcher.progress()))]
            if not events:
                return []
            if ep.views is not None:
                await ep.prepare([entry for e in events for entry in (e.entry, e.prev) if entry is not None])
            changes = [c for e in events if (c := self._seen(e)) is not None]
            if changes:
                return changes

    async def next_frames(self) -> bytes:
        """The same as lines of JSON; empty bytes when the watch is over. Only for ``plain`` watches."""
        if self._initial is not None:
            return b"".join([frame(t, item.raw) for t, item in self._first()]) or await self.next_frames()
        events = await self._wait()
        if events is None:
            return frame("BOOKMARK", self._bookmark(self._watcher.progress()).raw)
        if len(events) == 1:
            return events[0].frame(encode_frame)
        return b"".join([e.frame(encode_frame) for e in events])

    async def _wait(self) -> list[CacheEvent] | None:
        """Changes of the cache; empty at the end; None when it is time for a bookmark."""
        while True:
            left = self._deadline - self._loop.time()
            if left <= 0:
                return []
            pause = min(left, BOOKMARK_SECONDS) if self._bookmarks else left
            try:
                async with asyncio.timeout(None if pause == math.inf else pause):
                    return await self._watcher.batch()
            except TimeoutError:
                progress = self._watcher.progress()
                if self._bookmarks and pause < left and progress > self._told:
                    self._told = progress
                    return None
            except Compacted as error:
                raise _too_old(error.revision, error.compact_revision) from None
            except Expired as error:
                raise gone(str(error)) from None

    def _first(self) -> list[Change]:
        """The state at the start as ADDED, and the bookmark that ends it."""
        entries = self._initial or ()
        self._initial = None
        match, view = self._match, self._ep.view
        out: list[Change] = [("ADDED", view(e)) for e in entries if match is None or match(e)]
        if self._mark_end:
            self._told = self._initial_revision
            out.append(("BOOKMARK", self._bookmark(self._initial_revision, end=True)))
        return out

    def _bookmark(self, revision: int, end: bool = False) -> Item:
        resource = self._ep.resource
        meta: Obj = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end:
            meta["annotations"] = {INITIAL_EVENTS_END: "true"}
        return Rendered({"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta})

    def _seen(self, event: CacheEvent) -> Change | None:
        """What this watcher's selectors make of a change."""
        match, view = self._match, self._ep.view
        if match is None:
            return event.type, view(event.entry)
        if event.type == "ADDED":
            return ("ADDED", view(event.entry)) if match(event.entry) else None
        if event.type == "DELETED":
            return ("DELETED", view(event.entry)) if match(event.entry) else None
        was = event.prev is not None and match(event.prev)
        if match(event.entry):
            return ("MODIFIED" if was else "ADDED"), view(event.entry)
        if not was or event.prev is None:
            return None
        last = view(event.prev).obj
        meta = {**last["metadata"], "resourceVersion": str(event.revision)}
        return "DELETED", Rendered({**last, "metadata": meta})


def _too_old(revision: int, oldest: int) -> StatusError:
    return gone(f"too old resource version: {revision} ({oldest})")


def open_watch(ep: Endpoint, ctx: RequestContext, options: ListOptions) -> Watch:
    """Start a watch. Raises 400 for selectors, 504 for a revision from the future, 410 for one that is too old."""
    current = ep.registry.cache.revision
    asked = options.revision()
    if asked > current:
        raise too_large(asked, current)
    match = matcher(ep, options)
    scope = ep.scope(ctx.namespace)
    name = single_name(options)
    if name and (ctx.namespace or not ep.resource.namespaced):
        scope = ep.key(ctx.namespace, name)
        if options.labels is None:
            match = None
    initial: Sequence[Entry] | None = None
    if options.send_initial_events or (options.send_initial_events is None and asked <= 0):
        initial = entries_in(ep, scope)
        asked = current
    try:
        watcher = ep.cache.watch(max(asked, 0), scope)
    except Compacted as error:
        raise _too_old(error.revision, error.compact_revision) from None
    return Watch(ep, watcher, match, options, initial)


def single_name(options: ListOptions) -> str:
    """The name when the field selector is exactly ``metadata.name=x``."""
    if options.fields is None or len(options.fields.requirements) != 1:
        return ""
    field, op, value = options.fields.requirements[0]
    return value if field == "metadata.name" and op in ("=", "==") else ""


def entries_in(ep: Endpoint, scope: str) -> Sequence[Entry]:
    """Entries of a scope: a prefix or one key."""
    if scope.endswith("/"):
        return ep.cache.list(scope)
    entry = ep.cache.get(scope)
    return [] if entry is None else [entry]
