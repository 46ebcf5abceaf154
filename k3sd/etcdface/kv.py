"""The KV service: ranges, the transaction shapes of Kubernetes's storage, put and delete of one key, compaction.

kube-apiserver keeps a key ``compact_rev_key`` of its own to agree on compaction with its peers and compares its *version*.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import Backend, CompareFailed, DatastoreError, FutureRevision, KeyValue
from k3sd.datastore.mvcc import COMPACT_KEY
from k3sd.etcdface.call import Code
from k3sd.etcdface.encode import put_done, range_response
from k3sd.etcdface.wire import COMPACT_ALIAS, Refused, bounds, header, key_value, text, unsupported, versioned

log = logging.getLogger(__name__)

UNSUPPORTED_TXN = "etcdserver: unsupported operations in txn request"
PUT_ATTEMPTS = 20

_REFUSED_RANGE = (
    "sort_order",
    "sort_target",
    "min_mod_revision",
    "max_mod_revision",
    "min_create_revision",
    "max_create_revision",
)


class KV:
    """Each method takes a request and returns its response, a message or the bytes of one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._compaction: asyncio.Task[None] | None = None

    # Range

    async def Range(self, request: Any) -> Any:
        for name in _REFUSED_RANGE:
            if getattr(request, name):
                unsupported(name)
        start, end = bounds(request.key, request.range_end)
        if not request.range_end:
            return await self._get(start, request)
        if request.count_only:
            revision, count = await self._backend.count(start, end, revision=request.revision)
            return etcdrpc.RangeResponse(header=header(revision), count=count)
        found = await self._backend.list(
            start, end, limit=request.limit, revision=request.revision, keys_only=request.keys_only
        )
        current = found.revision if not request.revision else await self._backend.revision()
        return range_response(current, found.kvs, found.more, found.count)

    async def _get(self, key: str, request: Any) -> Any:
        if request.limit > 1:
            raise Refused("limit of a single key must be 0 or 1", Code.INVALID_ARGUMENT)
        if key == COMPACT_KEY:
            key = COMPACT_ALIAS
        revision, kv = await self._backend.get(key, request.revision)
        if kv is None:
            return range_response(revision, (), False, 0)
        if request.count_only or request.keys_only:
            kvs = [] if request.count_only else [key_value(kv, True)]
            return etcdrpc.RangeResponse(header=header(revision), kvs=kvs, count=1)
        return range_response(revision, (kv,), False, 1)

    # Txn

    async def Txn(self, request: Any) -> Any:
        compares, success, failure = request.compare, request.success, request.failure
        if not compares:
            if success and success[-1].HasField("request_delete_range") and not failure:
                if len(success) == 1:
                    return await self._delete_anyway(success[0].request_delete_range, False)
                if len(success) == 2 and success[0].HasField("request_range"):
                    return await self._delete_anyway(success[1].request_delete_range, True)
        elif len(compares) == 1 and len(success) == 1 and len(failure) <= 1:
            compare, op = compares[0], success[0]
            name = compare.key
            is_put = op.HasField("request_put")
            what = op.request_put if is_put else op.request_delete_range
            if (
                name
                and compare.result == etcdrpc.EQUAL
                and what.key == name
                and not compare.range_end
                and (not failure or failure[0].request_range.key == name)
            ):
                key = text(name)
                if key == COMPACT_KEY and compare.target == etcdrpc.VERSION and is_put:
                    return await self._put_compact_key(compare.version, what)
                revision = _expected(compare)
                if revision is not None:
                    if is_put:
                        return await self._put_if(key, revision, what, bool(failure))
                    if not what.range_end:
                        return await self._delete_if(key, revision, bool(failure))
        raise Refused(UNSUPPORTED_TXN, Code.INVALID_ARGUMENT)

    async def _put_if(self, key: str, revision: int, put: Any, read_back: bool) -> Any:
        _check_put(put)
        try:
            if revision:
                written = await self._backend.update(key, put.value, revision, put.lease)
            else:
                written = await self._backend.create(key, put.value, put.lease)
        except CompareFailed as e:
            return await self._failed(e.current, read_back)
        return put_done(written)

    async def _delete_if(self, key: str, revision: int, read_back: bool) -> Any:
        if not revision:
            raise Refused(UNSUPPORTED_TXN, Code.INVALID_ARGUMENT)
        try:
            deleted, previous = await self._backend.delete(key, revision)
        except CompareFailed as e:
            return await self._failed(e.current, read_back)
        if previous is None:
            return await self._failed(None, read_back)
        return etcdrpc.TxnResponse(header=header(deleted), succeeded=True, responses=[_delete_response(deleted, previous)])

    async def _delete_anyway(self, request: Any, read_first: bool) -> Any:
        key = _single(request)
        deleted, previous = await self._backend.delete(key)
        responses = [_delete_response(deleted, previous)]
        if read_first:
            kvs = [key_value(previous)] if previous is not None else []
            found = etcdrpc.RangeResponse(header=header(deleted), kvs=kvs, count=len(kvs))
            responses.insert(0, etcdrpc.ResponseOp(response_range=found))
        return etcdrpc.TxnResponse(header=header(deleted), succeeded=True, responses=responses)

    async def _failed(self, current: KeyValue | None, read_back: bool) -> Any:
        revision = await self._backend.revision()
        responses = []
        if read_back:
            kvs = [key_value(current)] if current is not None else []
            found = etcdrpc.RangeResponse(header=header(revision), kvs=kvs, count=len(kvs))
            responses.append(etcdrpc.ResponseOp(response_range=found))
        return etcdrpc.TxnResponse(header=header(revision), succeeded=False, responses=responses)

    # kube-apiserver's compaction key

    async def _put_compact_key(self, expected: int, put: Any) -> Any:
        _, kv = await self._backend.get(COMPACT_ALIAS)
        version = versioned(kv.value)[0] if kv is not None else 0
        if version == expected:
            stored = b"%d|%b" % (version + 1, put.value)
            try:
                if kv is None:
                    written = await self._backend.create(COMPACT_ALIAS, stored)
                else:
                    written = await self._backend.update(COMPACT_ALIAS, stored, kv.revision)
            except CompareFailed as e:
                kv = e.current
            else:
                return put_done(written)
        return await self._failed(kv, True)

    # single operations

    async def Put(self, request: Any) -> Any:
        """Unconditional, by reading and comparing until nobody came between."""
        _check_put(request)
        key = text(request.key)
        if key == COMPACT_KEY:
            unsupported(f"put of the reserved key {key!r}")
        for _ in range(PUT_ATTEMPTS):
            _, kv = await self._backend.get(key)
            try:
                if kv is None:
                    revision = await self._backend.create(key, request.value, request.lease)
                else:
                    revision = await self._backend.update(key, request.value, kv.revision, request.lease)
            except CompareFailed:
                continue
            previous = key_value(kv) if request.prev_kv and kv is not None else None
            return etcdrpc.PutResponse(header=header(revision), prev_kv=previous)
        raise Refused("etcdserver: too many requests", Code.RESOURCE_EXHAUSTED)

    async def DeleteRange(self, request: Any) -> Any:
        key = _single(request)
        revision, previous = await self._backend.delete(key)
        kvs = [key_value(previous)] if previous is not None else []
        return etcdrpc.DeleteRangeResponse(header=header(revision), deleted=len(kvs), prev_kvs=kvs if request.prev_kv else [])

    async def Compact(self, request: Any) -> Any:
        """Begin to forget history, or with ``physical`` wait for it. The store keeps its latest revisions in any case, and what
        it has forgotten of its own accord is no error."""
        revision = await self._backend.revision()
        if request.revision > revision:
            raise FutureRevision(request.revision, revision)
        if self._compaction is None or self._compaction.done():
            self._compaction = asyncio.create_task(self._compact(request.revision), name="etcd-compact")
        if request.physical:
            await asyncio.shield(self._compaction)
        return etcdrpc.CompactionResponse(header=header(revision))

    async def _compact(self, revision: int) -> None:
        try:
            await self._backend.compact(revision)
        except DatastoreError as e:
            log.warning("compacting up to revision %d failed: %s", revision, e)

    def stop(self) -> None:
        if self._compaction is not None:
            self._compaction.cancel()


def _expected(compare: Any) -> int | None:
    """The revision a compare asks for, 0 for "does not exist", None when it asks for something else."""
    if compare.target == etcdrpc.MOD:
        return int(compare.mod_revision)
    if compare.target == etcdrpc.CREATE and compare.create_revision == 0:
        return 0
    if compare.target == etcdrpc.VERSION and compare.version == 0:
        return 0
    return None


def _check_put(put: Any) -> None:
    if put.ignore_value:
        unsupported("ignore_value")
    if put.ignore_lease:
        unsupported("ignore_lease")
    if not put.key:
        raise Refused("etcdserver: key is not provided", Code.INVALID_ARGUMENT)


def _single(request: Any) -> str:
    """The key of a delete; a range would not be atomic."""
    if request.range_end:
        unsupported("delete of a range of keys")
    if not request.key:
        raise Refused("etcdserver: key is not provided", Code.INVALID_ARGUMENT)
    return text(request.key)


def _delete_response(revision: int, previous: KeyValue | None) -> Any:
    kvs = [key_value(previous)] if previous is not None else []
    deleted = etcdrpc.DeleteRangeResponse(header=header(revision), deleted=len(kvs), prev_kvs=kvs)
    return etcdrpc.ResponseOp(response_delete_range=deleted)
