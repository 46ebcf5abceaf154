"""Between the contract's values and etcd's messages; errors with etcd's codes and texts."""

from __future__ import annotations

from typing import Any, NoReturn

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import Compacted, DatastoreError, Event, FutureRevision, KeyValue, Unavailable
from k3sd.datastore.mvcc import COMPACT_KEY, LAST_KEY
from k3sd.etcdface.call import Code, Status

MEMBER_ID = 1
CLUSTER_ID = 1
COMPACT_ALIAS = "compact_rev_key_apiserver"
"""Where kube-apiserver's key ``compact_rev_key`` is kept: the name itself is kine's own. Its value is ``<version>|<value>``."""


class Refused(Status):
    """A request outside of the subset, or malformed."""

    def __init__(self, message: str, code: Code = Code.UNIMPLEMENTED) -> None:
        super().__init__(code, message)


def unsupported(what: str) -> NoReturn:
    raise Refused(f"{what} is not implemented by k3sd")


def status_of(error: DatastoreError) -> Status:
    """What a datastore error is answered with; clients compare etcd's texts."""
    if isinstance(error, Compacted | FutureRevision):
        return Status(Code.OUT_OF_RANGE, str(error))
    if isinstance(error, Unavailable):
        return Status(Code.UNAVAILABLE, str(error))
    return Status(Code.UNKNOWN, str(error))


def header(revision: int) -> Any:
    return etcdrpc.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=revision, raft_term=1)


def text(key: bytes) -> str:
    """A key as the store has it."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Refused(f"key {key[:64]!r} is not UTF-8 text", Code.INVALID_ARGUMENT) from None


def bounds(key: bytes, range_end: bytes) -> tuple[str, str]:
    """``(start, end)`` of a range request; without ``range_end`` just the key."""
    if not key:
        raise Refused("etcdserver: key is not provided", Code.INVALID_ARGUMENT)
    start = text(key)
    if not range_end:
        return start, start + "\0"
    if range_end == b"\0":
        return start, LAST_KEY
    return start, text(range_end)


def versioned(value: bytes) -> tuple[int, bytes]:
    """``(version, value)`` of kube-apiserver's compaction key; kine once kept the version alone."""
    version, bar, rest = value.partition(b"|")
    return int(version), rest if bar else b"0"


def key_value(kv: KeyValue, keys_only: bool = False) -> Any:
    """``version`` is not tracked but for kube-apiserver's compaction key; a lease's id is its time to live."""
    key, value, version = kv.key, kv.value, 0
    if key == COMPACT_ALIAS:
        key = COMPACT_KEY
        version, value = versioned(value) if value else (0, b"")
    return etcdrpc.KeyValue(
        key=key.encode(),
        value=b"" if keys_only else value,
        mod_revision=kv.revision,
        create_revision=kv.create_revision,
        version=version,
        lease=kv.lease_seconds,
    )


def event(change: Event, with_previous: bool) -> Any:
    prev = key_value(change.prev) if with_previous and change.prev is not None else None
    if change.deleted:
        gone = etcdrpc.KeyValue(key=change.kv.key.encode(), mod_revision=change.kv.revision)
        return etcdrpc.Event(type=etcdrpc.DELETE, kv=gone, prev_kv=prev)
    return etcdrpc.Event(type=etcdrpc.PUT, kv=key_value(change.kv), prev_kv=prev)
