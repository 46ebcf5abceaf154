"""Between the contract's values and etcd's messages; errors with etcd's codes and texts."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import Compacted, DatastoreError, Event, FutureRevision, KeyValue, Unavailable
from k3sd.datastore.mvcc import LAST_KEY

MEMBER_ID = 1
CLUSTER_ID = 1


class Refused(Exception):
    """A request outside of the subset, or malformed."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNIMPLEMENTED) -> None:
        super().__init__(message)
        self.code = code


def unsupported(what: str) -> NoReturn:
    raise Refused(f"{what} is not implemented by k3sd")


def status_of(error: DatastoreError) -> tuple[grpc.StatusCode, str]:
    """The gRPC status a datastore error is answered with; clients compare etcd's texts."""
    if isinstance(error, Compacted | FutureRevision):
        return grpc.StatusCode.OUT_OF_RANGE, str(error)
    if isinstance(error, Unavailable):
        return grpc.StatusCode.UNAVAILABLE, str(error)
    return grpc.StatusCode.UNKNOWN, str(error)


def header(revision: int) -> Any:
    return etcdrpc.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=revision, raft_term=1)


def text(key: bytes) -> str:
    """A key as the store has it."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Refused(f"key {key[:64]!r} is not UTF-8 text", grpc.StatusCode.INVALID_ARGUMENT) from None


def bounds(key: bytes, range_end: bytes) -> tuple[str, str]:
    """``(start, end)`` of a range request; without ``range_end`` just the key."""
    if not key:
        raise Refused("etcdserver: key is not provided", grpc.StatusCode.INVALID_ARGUMENT)
    start = text(key)
    if not range_end:
        return start, start + "\0"
    if range_end == b"\0":
        return start, LAST_KEY
    return start, text(range_end)


def key_value(kv: KeyValue, keys_only: bool = False) -> Any:
    """``version`` is not tracked; a lease's id is its time to live."""
    return etcdrpc.KeyValue(
        key=kv.key.encode(),
        value=b"" if keys_only else kv.value,
        mod_revision=kv.revision,
        create_revision=kv.create_revision,
        lease=kv.lease_seconds,
    )


def event(change: Event) -> Any:
    prev = key_value(change.prev) if change.prev is not None else None
    if change.deleted:
        gone = etcdrpc.KeyValue(key=change.kv.key.encode(), mod_revision=change.kv.revision)
        return etcdrpc.Event(type=etcdrpc.DELETE, kv=gone, prev_kv=prev)
    return etcdrpc.Event(type=etcdrpc.PUT, kv=key_value(change.kv), prev_kv=prev)
