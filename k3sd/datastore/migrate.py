"""Moving a cluster's data between any two datastores: live keys, in the order of their revisions, resumable and verified.

The target says with one marker key that it is being filled, so an interrupted run goes on and a foreign database is not
overwritten. Revisions are new on the target (as with K3s's own migration), but their order is kept. Nothing may write to the
source meanwhile; what changed nevertheless is copied in a further round.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k3sd.datastore import mvcc, open_backend
from k3sd.datastore.backend import Backend, DatastoreError, KeyValue
from k3sd.datastore.backup import find
from k3sd.datastore.endpoint import TLS, driver_of
from k3sd.datastore.store import LogStore

log = logging.getLogger(__name__)

MARKER = "/k3sd/migration"
INTERNAL = frozenset({MARKER, mvcc.HEALTH_KEY, mvcc.COMPACT_KEY, "compact_rev_key_apiserver"})
"""Keys that belong to a store rather than to the cluster."""
PAGE = 500
IN_FLIGHT = 128
ROUNDS = 3
PATIENCE_SECONDS = 10.0

Progress = Callable[[int, int], None]
"""``(keys done, keys in all)``."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a migration did: ``copied`` were written, ``kept`` were there already (a resumed run), ``removed`` left over."""

    keys: int
    copied: int
    kept: int
    removed: int
    digest: str


async def migrate(
    source: str,
    target: str,
    *,
    data_dir: Path,
    source_tls: TLS | None = None,
    target_tls: TLS | None = None,
    progress: Progress | None = None,
) -> Report:
    """Copy everything from one endpoint to the other (K3s's endpoint syntax). Raises DatastoreError; run it again to go on."""
    if "memory" in (driver_of(source), driver_of(target)):
        raise DatastoreError("a memory datastore cannot be migrated: it lives in its own process only")
    if source == target:
        raise DatastoreError("source and target of the migration are the same datastore")
    if driver_of(source) != "etcd":
        await find(source, data_dir=data_dir, tls=source_tls)  # opening it would make one
    async with _opened(source, data_dir, source_tls) as old, _opened(target, data_dir, target_tls) as new:
        if not (await _some_keys(old))[1]:
            raise DatastoreError("the source of the migration holds no keys; check its URL")
        await _claim(new)
        copied = kept = removed = 0
        for _ in range(ROUNDS):
            revision, now_copied, kept, now_removed = await _copy(old, new, progress)
            copied += now_copied
            removed += now_removed
            if await old.revision() == revision:
                break
        else:
            raise DatastoreError("the source of the migration is still being written; stop its servers, then run it again")
        (count, wanted), (found, digest) = await fingerprint(old), await fingerprint(new)
        if (count, wanted) != (found, digest):
            raise DatastoreError(
                f"verification failed: the source has {count} keys (sha256 {wanted}), the target {found} (sha256 {digest}); "
                "run the migration again"
            )
        await new.delete(MARKER)
        return Report(count, copied, kept, removed, digest)


class _opened:
    """A backend that leaves the data alone, open for a while."""

    def __init__(self, endpoint: str, data_dir: Path, tls: TLS | None) -> None:
        tls = tls or TLS()
        self._backend = open_backend(
            endpoint,
            data_dir=data_dir,
            cafile=tls.cafile,
            certfile=tls.certfile,
            keyfile=tls.keyfile,
            patience_seconds=PATIENCE_SECONDS,
            upkeep=False,
        )

    async def __aenter__(self) -> Backend:
        await self._backend.start()
        return self._backend

    async def __aexit__(self, *_: object) -> None:
        await self._backend.stop()


async def _claim(target: Backend) -> None:
    """Mark the target as being filled. Raises when it holds something else."""
    _, marker = await target.get(MARKER)
    if marker is not None:
        log.info("going on with an interrupted migration")
        return
    count, others = await _some_keys(target)
    if others:
        raise DatastoreError(
            f"the target of the migration holds {count} keys already (such as {others[0]!r}); name an empty database"
        )
    await target.create(MARKER, json.dumps({"state": "filling"}).encode())


async def _some_keys(store: Backend) -> tuple[int, list[str]]:
    """How many keys there are, and a few that belong to the cluster."""
    first = await store.list("\0", mvcc.LAST_KEY, limit=len(INTERNAL) + 1, keys_only=True)
    return first.count, [kv.key for kv in first.kvs if kv.key not in INTERNAL]


async def _pages(store: Backend, *, keys_only: bool, revision: int = 0) -> AsyncIterator[tuple[int, list[KeyValue]]]:
    """``(revision, keys)`` of the whole store at one revision, in key order, without internal keys."""
    start = "\0"
    while True:
        page = await store.list(start, mvcc.LAST_KEY, limit=PAGE, revision=revision, keys_only=keys_only, counted=False)
        revision = page.revision
        yield revision, [kv for kv in page.kvs if kv.key not in INTERNAL]
        if not page.more:
            return
        start = page.kvs[-1].key + "\0"


async def _copy(source: Backend, target: Backend, progress: Progress | None) -> tuple[int, int, int, int]:
    """One round: ``(source revision, copied, kept, removed)``."""
    order: list[tuple[int, str]] = []
    revision = 0
    async for at, kvs in _pages(source, keys_only=True):
        revision = at
        order += [(kv.revision, kv.key) for kv in kvs]
    wanted = {key for _, key in order}
    order.sort()
    removed = 0
    async for _, kvs in _pages(target, keys_only=True):
        for kv in kvs:
            if kv.key not in wanted:
                await target.delete(kv.key, kv.revision)
                removed += 1
    copied = kept = 0
    for i in range(0, len(order), IN_FLIGHT):
        keys = [key for _, key in order[i : i + IN_FLIGHT]]
        old = await asyncio.gather(*(source.get(key, revision) for key in keys))
        new = await asyncio.gather(*(target.get(key) for key in keys))
        writes: list[Coroutine[Any, Any, int]] = []
        for key, (_, wanted_kv), (_, there) in zip(keys, old, new, strict=True):
            if wanted_kv is None:
                raise DatastoreError(
                    f"key {key!r} of the source cannot be read at revision {revision}; run the migration again"
                )
            value, lease = wanted_kv.value, wanted_kv.lease_seconds
            if there is None:
                writes.append(target.create(key, value, lease))
            elif (there.value, there.lease_seconds) != (value, lease):
                writes.append(target.update(key, value, there.revision, lease))
        copied += len(writes)
        kept += len(keys) - len(writes)
        if isinstance(target, LogStore):  # commits in the order of the calls
            await asyncio.gather(*writes)
        else:
            for write in writes:
                await write
        if progress is not None:
            progress(i + len(keys), len(order))
    return revision, copied, kept, removed


async def fingerprint(store: Backend) -> tuple[int, str]:
    """``(number of keys, sha256)`` over all keys with value and lease, the same for equal content on every driver."""
    digest = hashlib.sha256()
    count = 0
    async for _, kvs in _pages(store, keys_only=False):
        for kv in kvs:
            key = kv.key.encode()
            digest.update(b"%d %d %d\n" % (len(key), len(kv.value), kv.lease_seconds))
            digest.update(key)
            digest.update(kv.value)
        count += len(kvs)
    return count, digest.hexdigest()
