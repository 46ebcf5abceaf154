"""What is put together as bytes is what the messages would give."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k3sd.datastore import etcdrpc
from k3sd.datastore.backend import KeyValue
from k3sd.etcdface import encode, wire

numbers = st.integers(0, 2**63 - 1)
pairs = st.builds(
    KeyValue,
    key=st.text(min_size=1, max_size=300),
    value=st.binary(max_size=300),
    revision=st.integers(1, 2**63 - 1),
    create_revision=numbers,
    lease_seconds=numbers,
)
rev_key = KeyValue(wire.COMPACT_ALIAS, b"3|77", 9, 4)


@given(numbers)
def test_a_put(revision: int) -> None:
    response = etcdrpc.ResponseOp(response_put=etcdrpc.PutResponse(header=wire.header(revision)))
    expected = etcdrpc.TxnResponse(header=wire.header(revision), succeeded=True, responses=[response])
    assert etcdrpc.TxnResponse.FromString(encode.put_done(revision)) == expected


@given(numbers, st.integers(1, 2**63 - 1), st.lists(st.binary(max_size=50)))
def test_events_behind_the_head_of_a_watch_response(revision: int, number: int, values: list[bytes]) -> None:
    events = [etcdrpc.Event(type=etcdrpc.DELETE, kv=etcdrpc.KeyValue(value=value)) for value in values]
    parts = [etcdrpc.WatchResponse(events=[event]).SerializeToString() for event in events]
    expected = etcdrpc.WatchResponse(header=wire.header(revision), watch_id=number, events=events)
    assert etcdrpc.WatchResponse.FromString(encode.watch_head(revision, number) + b"".join(parts)) == expected


@given(numbers, st.lists(st.one_of(pairs, st.just(rev_key)), max_size=5), st.booleans(), numbers)
def test_a_range(revision: int, kvs: list[KeyValue], more: bool, count: int) -> None:
    expected = etcdrpc.RangeResponse(header=wire.header(revision), kvs=map(wire.key_value, kvs), more=more, count=count)
    assert etcdrpc.RangeResponse.FromString(encode.range_response(revision, kvs, more, count)) == expected
