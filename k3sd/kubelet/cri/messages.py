"""CRI v1 messages (and containerd's events) as one table of names, numbers and types.

Source: ``k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`` (Kubernetes 1.36) and containerd's ``api/services/events/v1``,
``api/events/task.proto``, ``api/events/container.proto``. Classes are built from the table at first use; windows-only
messages are left out, enums are plain integers (the same on the wire) with the constants below.

``messages.PodSandboxConfig(...)`` is a protobuf message class.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Any

# One message a line: "Name field:number:type ...". Types: s string, y bytes, b bool, i/I int32/int64, u/U uint32/uint64,
# d double, m map<string, string>, "*" before a type is repeated, anything else is a message of this table.
_TABLE = """
VersionRequest version:1:s
VersionResponse version:1:s runtime_name:2:s runtime_version:3:s runtime_api_version:4:s
DNSConfig servers:1:*s searches:2:*s options:3:*s
PortMapping protocol:1:i container_port:2:i host_port:3:i host_ip:4:s
IDMapping host_id:1:u container_id:2:u length:3:u
Mount container_path:1:s host_path:2:s readonly:3:b selinux_relabel:4:b propagation:5:i uidMappings:6:*IDMapping \
 gidMappings:7:*IDMapping recursive_read_only:8:b image:9:ImageSpec image_sub_path:10:s mount_options:11:*s
UserNamespace mode:1:i uids:2:*IDMapping gids:3:*IDMapping
NamespaceOption network:1:i pid:2:i ipc:3:i target_id:4:s userns_options:5:UserNamespace
Int64Value value:1:I
UInt64Value value:1:U
SecurityProfile profile_type:1:i localhost_ref:2:s
SELinuxOption user:1:s role:2:s type:3:s level:4:s
LinuxSandboxSecurityContext namespace_options:1:NamespaceOption selinux_options:2:SELinuxOption run_as_user:3:Int64Value \
 readonly_rootfs:4:b supplemental_groups:5:*I privileged:6:b seccomp_profile_path:7:s run_as_group:8:Int64Value \
 seccomp:9:SecurityProfile apparmor:10:SecurityProfile supplemental_groups_policy:11:i
LinuxPodSandboxConfig cgroup_parent:1:s security_context:2:LinuxSandboxSecurityContext sysctls:3:m \
 overhead:4:LinuxContainerResources resources:5:LinuxContainerResources
PodSandboxMetadata name:1:s uid:2:s namespace:3:s attempt:4:u
PodSandboxConfig metadata:1:PodSandboxMetadata hostname:2:s log_directory:3:s dns_config:4:DNSConfig \
 port_mappings:5:*PortMapping labels:6:m annotations:7:m linux:8:LinuxPodSandboxConfig
RunPodSandboxRequest config:1:PodSandboxConfig runtime_handler:2:s
RunPodSandboxResponse pod_sandbox_id:1:s
StopPodSandboxRequest pod_sandbox_id:1:s
StopPodSandboxResponse
RemovePodSandboxRequest pod_sandbox_id:1:s
RemovePodSandboxResponse
PodSandboxStatusRequest pod_sandbox_id:1:s verbose:2:b
PodIP ip:1:s
PodSandboxNetworkStatus ip:1:s additional_ips:2:*PodIP
Namespace options:2:NamespaceOption
LinuxPodSandboxStatus namespaces:1:Namespace
PodSandboxStatus id:1:s metadata:2:PodSandboxMetadata state:3:i created_at:4:I network:5:PodSandboxNetworkStatus \
 linux:6:LinuxPodSandboxStatus labels:7:m annotations:8:m runtime_handler:9:s
PodSandboxStatusResponse status:1:PodSandboxStatus info:2:m containers_statuses:3:*ContainerStatus timestamp:4:I
PodSandboxStateValue state:1:i
PodSandboxFilter id:1:s state:2:PodSandboxStateValue label_selector:3:m
ListPodSandboxRequest filter:1:PodSandboxFilter
PodSandbox id:1:s metadata:2:PodSandboxMetadata state:3:i created_at:4:I labels:5:m annotations:6:m runtime_handler:7:s
ListPodSandboxResponse items:1:*PodSandbox
ImageSpec image:1:s annotations:2:m user_specified_image:18:s runtime_handler:19:s image_ref:20:s
KeyValue key:1:s value:2:y
HugepageLimit page_size:1:s limit:2:U
LinuxContainerResources cpu_period:1:I cpu_quota:2:I cpu_shares:3:I memory_limit_in_bytes:4:I oom_score_adj:5:I \
 cpuset_cpus:6:s cpuset_mems:7:s hugepage_limits:8:*HugepageLimit unified:9:m memory_swap_limit_in_bytes:10:I
Capability add_capabilities:1:*s drop_capabilities:2:*s add_ambient_capabilities:3:*s
LinuxContainerSecurityContext capabilities:1:Capability privileged:2:b namespace_options:3:NamespaceOption \
 selinux_options:4:SELinuxOption run_as_user:5:Int64Value run_as_username:6:s readonly_rootfs:7:b supplemental_groups:8:*I \
 apparmor_profile:9:s seccomp_profile_path:10:s no_new_privs:11:b run_as_group:12:Int64Value masked_paths:13:*s \
 readonly_paths:14:*s seccomp:15:SecurityProfile apparmor:16:SecurityProfile supplemental_groups_policy:17:i
LinuxContainerConfig resources:1:LinuxContainerResources security_context:2:LinuxContainerSecurityContext
LinuxContainerUser uid:1:I gid:2:I supplemental_groups:3:*I
ContainerMetadata name:1:s attempt:2:u
Device container_path:1:s host_path:2:s permissions:3:s
CDIDevice name:1:s
ContainerConfig metadata:1:ContainerMetadata image:2:ImageSpec command:3:*s args:4:*s working_dir:5:s envs:6:*KeyValue \
 mounts:7:*Mount devices:8:*Device labels:9:m annotations:10:m log_path:11:s stdin:12:b stdin_once:13:b tty:14:b \
 linux:15:LinuxContainerConfig CDI_devices:17:*CDIDevice stop_signal:18:i
CreateContainerRequest pod_sandbox_id:1:s config:2:ContainerConfig sandbox_config:3:PodSandboxConfig
CreateContainerResponse container_id:1:s
StartContainerRequest container_id:1:s
StartContainerResponse
StopContainerRequest container_id:1:s timeout:2:I
StopContainerResponse
RemoveContainerRequest container_id:1:s
RemoveContainerResponse
ContainerStateValue state:1:i
ContainerFilter id:1:s state:2:ContainerStateValue pod_sandbox_id:3:s label_selector:4:m
ListContainersRequest filter:1:ContainerFilter
Container id:1:s pod_sandbox_id:2:s metadata:3:ContainerMetadata image:4:ImageSpec image_ref:5:s state:6:i created_at:7:I \
 labels:8:m annotations:9:m image_id:10:s
ListContainersResponse containers:1:*Container
ContainerStatusRequest container_id:1:s verbose:2:b
ContainerUser linux:1:LinuxContainerUser
ContainerResources linux:1:LinuxContainerResources
ContainerStatus id:1:s metadata:2:ContainerMetadata state:3:i created_at:4:I started_at:5:I finished_at:6:I exit_code:7:i \
 image:8:ImageSpec image_ref:9:s reason:10:s message:11:s labels:12:m annotations:13:m mounts:14:*Mount log_path:15:s \
 resources:16:ContainerResources image_id:17:s user:18:ContainerUser stop_signal:19:i
ContainerStatusResponse status:1:ContainerStatus info:2:m
UpdateContainerResourcesRequest container_id:1:s linux:2:LinuxContainerResources annotations:4:m
UpdateContainerResourcesResponse
ReopenContainerLogRequest container_id:1:s
ReopenContainerLogResponse
ExecSyncRequest container_id:1:s cmd:2:*s timeout:3:I
ExecSyncResponse stdout:1:y stderr:2:y exit_code:3:i
ExecRequest container_id:1:s cmd:2:*s tty:3:b stdin:4:b stdout:5:b stderr:6:b
ExecResponse url:1:s
AttachRequest container_id:1:s stdin:2:b tty:3:b stdout:4:b stderr:5:b
AttachResponse url:1:s
PortForwardRequest pod_sandbox_id:1:s port:2:*i
PortForwardResponse url:1:s
ImageFilter image:1:ImageSpec
ListImagesRequest filter:1:ImageFilter
Image id:1:s repo_tags:2:*s repo_digests:3:*s size:4:U uid:5:Int64Value username:6:s spec:7:ImageSpec pinned:8:b
ListImagesResponse images:1:*Image
ImageStatusRequest image:1:ImageSpec verbose:2:b
ImageStatusResponse image:1:Image info:2:m
AuthConfig username:1:s password:2:s auth:3:s server_address:4:s identity_token:5:s registry_token:6:s
PullImageRequest image:1:ImageSpec auth:2:AuthConfig sandbox_config:3:PodSandboxConfig
PullImageResponse image_ref:1:s
RemoveImageRequest image:1:ImageSpec
RemoveImageResponse
NetworkConfig pod_cidr:1:s
RuntimeConfig network_config:1:NetworkConfig
UpdateRuntimeConfigRequest runtime_config:1:RuntimeConfig
UpdateRuntimeConfigResponse
RuntimeCondition type:1:s status:2:b reason:3:s message:4:s
RuntimeStatus conditions:1:*RuntimeCondition
StatusRequest verbose:1:b
RuntimeHandlerFeatures recursive_read_only_mounts:1:b user_namespaces:2:b
RuntimeHandler name:1:s features:2:RuntimeHandlerFeatures
RuntimeFeatures supplemental_groups_policy:1:b user_namespaces_host_network:2:b mount_options:3:b
StatusResponse status:1:RuntimeStatus info:2:m runtime_handlers:3:*RuntimeHandler features:4:RuntimeFeatures
ImageFsInfoRequest
FilesystemIdentifier mountpoint:1:s
FilesystemUsage timestamp:1:I fs_id:2:FilesystemIdentifier used_bytes:3:UInt64Value inodes_used:4:UInt64Value
ImageFsInfoResponse image_filesystems:1:*FilesystemUsage container_filesystems:2:*FilesystemUsage
ContainerStatsRequest container_id:1:s
ContainerStatsResponse stats:1:ContainerStats
ContainerStatsFilter id:1:s pod_sandbox_id:2:s label_selector:3:m
ListContainerStatsRequest filter:1:ContainerStatsFilter
ListContainerStatsResponse stats:1:*ContainerStats
ContainerAttributes id:1:s metadata:2:ContainerMetadata labels:3:m annotations:4:m
ContainerStats attributes:1:ContainerAttributes cpu:2:CpuUsage memory:3:MemoryUsage writable_layer:4:FilesystemUsage \
 swap:5:SwapUsage
CpuUsage timestamp:1:I usage_core_nano_seconds:2:UInt64Value usage_nano_cores:3:UInt64Value
MemoryUsage timestamp:1:I working_set_bytes:2:UInt64Value available_bytes:3:UInt64Value usage_bytes:4:UInt64Value \
 rss_bytes:5:UInt64Value page_faults:6:UInt64Value major_page_faults:7:UInt64Value
SwapUsage timestamp:1:I swap_available_bytes:2:UInt64Value swap_usage_bytes:3:UInt64Value
PodSandboxAttributes id:1:s metadata:2:PodSandboxMetadata labels:3:m annotations:4:m
NetworkInterfaceUsage name:1:s rx_bytes:2:UInt64Value rx_errors:3:UInt64Value tx_bytes:4:UInt64Value tx_errors:5:UInt64Value
NetworkUsage timestamp:1:I default_interface:2:NetworkInterfaceUsage interfaces:3:*NetworkInterfaceUsage
ProcessUsage timestamp:1:I process_count:2:UInt64Value
LinuxPodSandboxStats cpu:1:CpuUsage memory:2:MemoryUsage network:3:NetworkUsage process:4:ProcessUsage \
 containers:5:*ContainerStats
PodSandboxStats attributes:1:PodSandboxAttributes linux:2:LinuxPodSandboxStats
PodSandboxStatsFilter id:1:s label_selector:2:m
ListPodSandboxStatsRequest filter:1:PodSandboxStatsFilter
ListPodSandboxStatsResponse stats:1:*PodSandboxStats
Timestamp seconds:1:I nanos:2:i
AnyValue type_url:1:s value:2:y
SubscribeRequest filters:1:*s
PublishRequest topic:1:s event:2:AnyValue
PublishResponse
Envelope timestamp:1:Timestamp namespace:2:s topic:3:s event:4:AnyValue
TaskStart container_id:1:s pid:2:u
TaskExit container_id:1:s id:2:s pid:3:u exit_status:4:u exited_at:5:Timestamp
TaskDelete container_id:1:s pid:2:u exit_status:3:u exited_at:4:Timestamp id:5:s
TaskOOM container_id:1:s
ContainerDelete id:1:s
SnapshotMount type:1:s source:2:s target:3:s options:4:*s
ViewRequest snapshotter:1:s key:2:s parent:3:s labels:4:m
ViewResponse mounts:1:*SnapshotMount
MountsRequest snapshotter:1:s key:2:s
MountsResponse mounts:1:*SnapshotMount
RemoveRequest snapshotter:1:s key:2:s
RemoveResponse
"""


class NamespaceMode(IntEnum):
    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class SandboxState(IntEnum):
    READY = 0
    NOTREADY = 1


class ContainerState(IntEnum):
    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


class ProfileType(IntEnum):
    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


PROTOCOLS = {"TCP": 0, "UDP": 1, "SCTP": 2}
PROPAGATIONS = {"None": 0, "HostToContainer": 1, "Bidirectional": 2}
# SIGRTMIN+n and SIGRTMAX-n are the enum's tail; the order is the protocol's.
_SIGNAL_NAMES = """ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM
TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN"""
SIGNALS: tuple[str, ...] = (
    "",
    *(f"SIG{name}" for name in _SIGNAL_NAMES.split()),
    *(f"SIGRTMIN+{n}" for n in range(1, 16)),
    *(f"SIGRTMAX-{n}" for n in range(14, 0, -1)),
    "SIGRTMAX",
)

_SCALARS = {"s": 9, "y": 12, "b": 8, "i": 5, "I": 3, "u": 13, "U": 4, "d": 1}  # FieldDescriptorProto.Type
_OPTIONAL, _REPEATED = 1, 3  # FieldDescriptorProto.Label
_MESSAGE = 11
_PACKAGE = "k3sd.cri"


@cache
def _classes() -> dict[str, Any]:
    """Every message class by name, in a pool of its own so that no other library's CRI descriptors collide."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="k3sd/cri.proto", package=_PACKAGE, syntax="proto3")
    names: list[str] = []
    for line in _TABLE.replace("\\\n", "").strip().splitlines():
        name, *fields = line.split()
        names.append(name)
        message = file.message_type.add(name=name)
        for field in fields:
            field_name, number, kind = field.split(":")
            label = _OPTIONAL
            if kind.startswith("*"):
                label, kind = _REPEATED, kind[1:]
            row = message.field.add(name=field_name, number=int(number), label=label)
            if kind == "m":
                entry = message.nested_type.add(name="".join(p.capitalize() for p in field_name.split("_")) + "Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=_OPTIONAL, type=9)
                entry.field.add(name="value", number=2, label=_OPTIONAL, type=9)
                row.label, row.type, row.type_name = _REPEATED, _MESSAGE, f".{_PACKAGE}.{name}.{entry.name}"
            elif kind in _SCALARS:
                row.type = _SCALARS[kind]
            else:
                row.type, row.type_name = _MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    # GetMessageClass appeared in protobuf 4.22; Debian 12 ships 4.21.
    get_class = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return {name: get_class(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        return _classes()[name]
    except KeyError:
        raise AttributeError(f"no CRI message {name!r} in the table") from None
