"""etcd v3 messages and methods as one table, for the etcd driver and the etcd face.

Source: etcd 3.5 ``api/etcdserverpb/rpc.proto``, ``api/mvccpb/kv.proto``. Classes are built at import into a pool of their own,
so that etcd's generated modules may live in the same process. A oneof is a plain field here, which is the same on the wire.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# One message a line: "Name field:number:type ...". Types: s string, y bytes, b bool, i/I int32/int64, u/U uint32/uint64,
# "*" before a type is repeated, anything else is a message of this table.
_TABLE = """
ResponseHeader cluster_id:1:U member_id:2:U revision:3:I raft_term:4:U
KeyValue key:1:y create_revision:2:I mod_revision:3:I version:4:I value:5:y lease:6:I
Event type:1:i kv:2:KeyValue prev_kv:3:KeyValue
RangeRequest key:1:y range_end:2:y limit:3:I revision:4:I sort_order:5:i sort_target:6:i serializable:7:b keys_only:8:b \
 count_only:9:b min_mod_revision:10:I max_mod_revision:11:I min_create_revision:12:I max_create_revision:13:I
RangeResponse header:1:ResponseHeader kvs:2:*KeyValue more:3:b count:4:I
PutRequest key:1:y value:2:y lease:3:I prev_kv:4:b ignore_value:5:b ignore_lease:6:b
PutResponse header:1:ResponseHeader prev_kv:2:KeyValue
DeleteRangeRequest key:1:y range_end:2:y prev_kv:3:b
DeleteRangeResponse header:1:ResponseHeader deleted:2:I prev_kvs:3:*KeyValue
RequestOp request_range:1:RangeRequest request_put:2:PutRequest request_delete_range:3:DeleteRangeRequest \
 request_txn:4:TxnRequest
ResponseOp response_range:1:RangeResponse response_put:2:PutResponse response_delete_range:3:DeleteRangeResponse \
 response_txn:4:TxnResponse
Compare result:1:i target:2:i key:3:y version:4:I create_revision:5:I mod_revision:6:I value:7:y lease:8:I range_end:64:y
TxnRequest compare:1:*Compare success:2:*RequestOp failure:3:*RequestOp
TxnResponse header:1:ResponseHeader succeeded:2:b responses:3:*ResponseOp
CompactionRequest revision:1:I physical:2:b
CompactionResponse header:1:ResponseHeader
WatchRequest create_request:1:WatchCreateRequest cancel_request:2:WatchCancelRequest progress_request:3:WatchProgressRequest
WatchCreateRequest key:1:y range_end:2:y start_revision:3:I progress_notify:4:b filters:5:*i prev_kv:6:b watch_id:7:I \
 fragment:8:b
WatchCancelRequest watch_id:1:I
WatchProgressRequest
WatchResponse header:1:ResponseHeader watch_id:2:I created:3:b canceled:4:b compact_revision:5:I cancel_reason:6:s \
 fragment:7:b events:11:*Event
LeaseGrantRequest TTL:1:I ID:2:I
LeaseGrantResponse header:1:ResponseHeader ID:2:I TTL:3:I error:4:s
LeaseRevokeRequest ID:1:I
LeaseRevokeResponse header:1:ResponseHeader
LeaseKeepAliveRequest ID:1:I
LeaseKeepAliveResponse header:1:ResponseHeader ID:2:I TTL:3:I
LeaseTimeToLiveRequest ID:1:I keys:2:b
LeaseTimeToLiveResponse header:1:ResponseHeader ID:2:I TTL:3:I grantedTTL:4:I keys:5:*y
LeaseLeasesRequest
LeaseStatus ID:1:I
LeaseLeasesResponse header:1:ResponseHeader leases:2:*LeaseStatus
Member ID:1:U name:2:s peerURLs:3:*s clientURLs:4:*s isLearner:5:b
MemberListRequest linearizable:1:b
MemberListResponse header:1:ResponseHeader members:2:*Member
StatusRequest
StatusResponse header:1:ResponseHeader version:2:s dbSize:3:I leader:4:U raftIndex:5:U raftTerm:6:U raftAppliedIndex:7:U \
 errors:8:*s dbSizeInUse:9:I isLearner:10:b
AlarmRequest action:1:i memberID:2:U alarm:3:i
AlarmMember memberID:1:U alarm:2:i
AlarmResponse header:1:ResponseHeader alarms:2:*AlarmMember
DefragmentRequest
DefragmentResponse header:1:ResponseHeader
SnapshotRequest
SnapshotResponse header:1:ResponseHeader remaining_bytes:2:U blob:3:y
Empty
"""

METHODS = {
    "KV": {
        "Range": ("RangeRequest", "RangeResponse"),
        "Put": ("PutRequest", "PutResponse"),
        "DeleteRange": ("DeleteRangeRequest", "DeleteRangeResponse"),
        "Txn": ("TxnRequest", "TxnResponse"),
        "Compact": ("CompactionRequest", "CompactionResponse"),
    },
    "Watch": {"Watch": ("WatchRequest", "WatchResponse")},
    "Lease": {
        "LeaseGrant": ("LeaseGrantRequest", "LeaseGrantResponse"),
        "LeaseRevoke": ("LeaseRevokeRequest", "LeaseRevokeResponse"),
        "LeaseKeepAlive": ("LeaseKeepAliveRequest", "LeaseKeepAliveResponse"),
        "LeaseTimeToLive": ("LeaseTimeToLiveRequest", "LeaseTimeToLiveResponse"),
        "LeaseLeases": ("LeaseLeasesRequest", "LeaseLeasesResponse"),
    },
    "Cluster": {
        "MemberList": ("MemberListRequest", "MemberListResponse"),
        "MemberAdd": ("Empty", "Empty"),
        "MemberRemove": ("Empty", "Empty"),
        "MemberUpdate": ("Empty", "Empty"),
        "MemberPromote": ("Empty", "Empty"),
    },
    "Maintenance": {
        "Status": ("StatusRequest", "StatusResponse"),
        "Alarm": ("AlarmRequest", "AlarmResponse"),
        "Defragment": ("DefragmentRequest", "DefragmentResponse"),
        "Snapshot": ("SnapshotRequest", "SnapshotResponse"),
        "Hash": ("Empty", "Empty"),
        "HashKV": ("Empty", "Empty"),
        "MoveLeader": ("Empty", "Empty"),
    },
}
"""Services of ``etcdserverpb``: method -> (request, response). Methods with ``Empty`` are only known by name."""

STREAMS = {"Watch": (True, True), "LeaseKeepAlive": (True, True), "Snapshot": (False, True)}
"""Methods that stream: (requests, responses)."""

PUT, DELETE = 0, 1
EQUAL, GREATER, LESS, NOT_EQUAL = 0, 1, 2, 3
VERSION, CREATE, MOD, VALUE, LEASE = 0, 1, 2, 3, 4

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


def _build() -> dict[str, Any]:
    scalar = descriptor_pb2.FieldDescriptorProto
    types = {
        "s": scalar.TYPE_STRING,
        "y": scalar.TYPE_BYTES,
        "b": scalar.TYPE_BOOL,
        "i": scalar.TYPE_INT32,
        "I": scalar.TYPE_INT64,
        "u": scalar.TYPE_UINT32,
        "U": scalar.TYPE_UINT64,
    }
    package = "etcdserverpb"
    file = descriptor_pb2.FileDescriptorProto(name="k3sd/etcd.proto", package=package, syntax="proto3")
    for line in _TABLE.replace("\\\n", "").strip().splitlines():
        name, *fields = line.split()
        message = file.message_type.add(name=name)
        for text in fields:
            field_name, number, kind = text.split(":")
            field = message.field.add(name=field_name, number=int(number), label=scalar.LABEL_OPTIONAL)
            if kind.startswith("*"):
                field.label = scalar.LABEL_REPEATED
                kind = kind[1:]
            if kind in types:
                field.type = types[kind]
            else:
                field.type = scalar.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    get_class = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return {m.name: get_class(pool.FindMessageTypeByName(f"{package}.{m.name}")) for m in file.message_type}


messages: dict[str, Any] = _build()


def __getattr__(name: str) -> Any:
    """``etcdrpc.RangeRequest`` is a message class."""
    try:
        return messages[name]
    except KeyError:
        raise AttributeError(name) from None


def path(service: str, method: str) -> str:
    return f"/etcdserverpb.{service}/{method}"


def range_end(end: str) -> bytes:
    """The wire form of a range's end; ``\\0`` means "to the last key"."""
    return b"\0" if end == "\U0010ffff" else end.encode()
