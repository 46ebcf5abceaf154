"""From a Pod to the runtime's sandbox and container configurations. Pure: everything found elsewhere comes as arguments.

Source: Kubernetes 1.36 ``pkg/kubelet/kuberuntime/`` (``kuberuntime_sandbox.go``, ``kuberuntime_container.go``,
``kuberuntime_container_linux.go``, ``security_context.go``), ``pkg/securitycontext/util.go``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.kubelet import cgroups, podinfo
from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.messages import NamespaceMode, ProfileType
from k3sd.kubelet.env import expand
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.state import container_annotations, container_labels, pod_labels

# Upstream's list; thermal_throttle of each CPU is added where it exists.
_MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class ConfigError(Exception):
    """The container cannot be configured as asked; it waits with CreateContainerConfigError and this text."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What of this machine goes into configurations. ``seccomp_root`` holds Localhost profiles."""

    memory_capacity: int
    seccomp_root: Path
    cgroup_unified: bool = False
    swap_available: bool = False
    cpu_quota: bool = True


@dataclass(frozen=True, slots=True)
class DNS:
    """As ``hosts.DNSConfig``."""

    servers: Sequence[str] = ()
    searches: Sequence[str] = ()
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ImageUser:
    """Who the image runs as: a number, else a name; root when it says nothing."""

    uid: int | None = 0
    name: str = ""


# sandbox


def build_sandbox_config(pod: Obj, attempt: int, *, hostname: str, dns: DNS, log_directory: str, cgroup_parent: str) -> Any:
    """``generatePodSandboxConfig``; ``hostname`` is ignored in the host's network."""
    context: Obj = pod["spec"].get("securityContext") or {}
    security = messages.LinuxSandboxSecurityContext(
        namespace_options=namespaces(pod),
        privileged=any((c.get("securityContext") or {}).get("privileged") for _, c in podinfo.all_containers(pod)),
        seccomp=messages.SecurityProfile(profile_type=ProfileType.RUNTIME_DEFAULT),
        supplemental_groups=supplemental_groups(context),
        selinux_options=_selinux(context.get("seLinuxOptions")),
    )
    if context.get("runAsUser") is not None:
        security.run_as_user.value = context["runAsUser"]
    if context.get("runAsGroup") is not None:
        security.run_as_group.value = context["runAsGroup"]
    return messages.PodSandboxConfig(
        metadata=messages.PodSandboxMetadata(
            name=podinfo.name(pod), namespace=podinfo.namespace(pod), uid=podinfo.uid(pod), attempt=attempt
        ),
        hostname="" if podinfo.is_host_network(pod) else hostname,
        log_directory=log_directory,
        dns_config=messages.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options),
        port_mappings=[] if podinfo.is_host_network(pod) else _port_mappings(pod),
        labels=pod_labels(pod),
        annotations=pod["metadata"].get("annotations") or {},
        linux=messages.LinuxPodSandboxConfig(
            cgroup_parent=cgroup_parent,
            security_context=security,
            sysctls={s["name"].replace("/", "."): s["value"] for s in context.get("sysctls") or ()},
        ),
    )


def _port_mappings(pod: Obj) -> list[Any]:
    return [
        messages.PortMapping(
            protocol=messages.PROTOCOLS[port.get("protocol") or "TCP"],
            container_port=port["containerPort"],
            host_port=port["hostPort"],
            host_ip=port.get("hostIP") or "",
        )
        for container in [*podinfo.spec_containers(pod), *filter(podinfo.is_sidecar, podinfo.init_containers(pod))]
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


def namespaces(pod: Obj) -> Any:
    """``NamespacesForPod``."""
    spec = pod["spec"]
    pid = NamespaceMode.CONTAINER
    if spec.get("hostPID"):
        pid = NamespaceMode.NODE
    elif spec.get("shareProcessNamespace"):
        pid = NamespaceMode.POD
    return messages.NamespaceOption(
        network=NamespaceMode.NODE if spec.get("hostNetwork") else NamespaceMode.POD,
        ipc=NamespaceMode.NODE if spec.get("hostIPC") else NamespaceMode.POD,
        pid=pid,
    )


def supplemental_groups(context: Obj) -> list[int]:
    groups = list(context.get("supplementalGroups") or ())
    return [context["fsGroup"], *groups] if context.get("fsGroup") is not None else groups


def _selinux(options: Obj | None) -> Any:
    if not options:
        return None
    return messages.SELinuxOption(**{key: options.get(key, "") for key in ("user", "role", "type", "level")})


# containers


def effective_context(pod: Obj, container: Obj) -> Obj:
    """The container's securityContext over what the pod's lends it (``DetermineEffectiveSecurityContext``)."""
    pod_context: Obj = pod["spec"].get("securityContext") or {}
    inherited = ("seLinuxOptions", "runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile", "appArmorProfile")
    out = {key: pod_context[key] for key in inherited if pod_context.get(key) is not None}
    own: Obj = container.get("securityContext") or {}
    out.update({key: value for key, value in own.items() if value is not None})
    return out


def check_non_root(pod: Obj, container: Obj, user: ImageUser) -> None:
    """``verifyRunAsNonRoot``."""
    context = effective_context(pod, container)
    if not context.get("runAsNonRoot"):
        return
    where = f'(pod: "{podinfo.describe(pod)}", container: {container["name"]})'
    if context.get("runAsUser") is not None:
        if context["runAsUser"] == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    if user.uid == 0:
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
    if user.uid is None and user.name:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({user.name}), cannot verify user is non-root {where}"
        )


def build_container_config(
    pod: Obj,
    container: Obj,
    *,
    restart_count: int,
    image_ref: str,
    user: ImageUser,
    env: Sequence[tuple[str, str]],
    mounts: Sequence[Any],
    facts: NodeFacts,
    target_id: str = "",
) -> Any:
    """``generateContainerConfig``. ``mounts`` are CRI mounts; ``target_id`` is the container whose processes an ephemeral
    container is to see. Raises ConfigError."""
    check_non_root(pod, container, user)
    if pod["spec"].get("hostUsers") is False:
        raise ConfigError("user namespaces (hostUsers: false) are not supported by this container runtime")
    values = dict(env)
    name = container["name"]
    config = messages.ContainerConfig(
        metadata=messages.ContainerMetadata(name=name, attempt=restart_count),
        image=messages.ImageSpec(image=image_ref, user_specified_image=container.get("image", "")),
        command=[expand(text, values) for text in container.get("command") or ()],
        args=[expand(text, values) for text in container.get("args") or ()],
        working_dir=container.get("workingDir") or "",
        envs=[messages.KeyValue(key=key, value=value.encode()) for key, value in env],
        mounts=mounts,
        labels=container_labels(pod, container),
        annotations=container_annotations(pod, container, restart_count),
        log_path=f"{name}/{restart_count}.log",
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        tty=bool(container.get("tty")),
        linux=messages.LinuxContainerConfig(
            resources=build_resources(pod, container, facts),
            security_context=_security_context(pod, container, user, facts, target_id),
        ),
    )
    if signal := (container.get("lifecycle") or {}).get("stopSignal"):
        config.stop_signal = messages.SIGNALS.index(signal)
    return config


def build_resources(pod: Obj, container: Obj, facts: NodeFacts) -> Any:
    """``generateLinuxContainerResources``."""
    limits = cgroups.container_limits(pod, container)
    out = messages.LinuxContainerResources(
        cpu_shares=limits.cpu_shares,
        memory_limit_in_bytes=limits.memory or 0,
        oom_score_adj=cgroups.oom_score_adj(pod, container, facts.memory_capacity),
    )
    if facts.cpu_quota:
        out.cpu_period = cgroups.QUOTA_PERIOD
        out.cpu_quota = limits.cpu_quota or 0
    if facts.swap_available:
        if facts.cgroup_unified:
            out.unified["memory.swap.max"] = "0"
        elif limits.memory:
            out.memory_swap_limit_in_bytes = limits.memory
    for kind, value in ((container.get("resources") or {}).get("limits") or {}).items():
        if kind.startswith("hugepages-"):
            size = re.sub(r"([KMGT])i$", r"\1B", kind.removeprefix("hugepages-"))
            amount = quantity.parse(value).value()
            out.hugepage_limits.add(page_size=size, limit=amount)
    return out


def _security_context(pod: Obj, container: Obj, user: ImageUser, facts: NodeFacts, target_id: str) -> Any:
    context = effective_context(pod, container)
    unmasked = context.get("procMount") == "Unmasked"
    capabilities: Obj = context.get("capabilities") or {}
    out = messages.LinuxContainerSecurityContext(
        capabilities=messages.Capability(
            add_capabilities=capabilities.get("add") or (), drop_capabilities=capabilities.get("drop") or ()
        ),
        privileged=bool(context.get("privileged")),
        namespace_options=namespaces(pod),
        selinux_options=_selinux(context.get("seLinuxOptions")),
        readonly_rootfs=bool(context.get("readOnlyRootFilesystem")),
        supplemental_groups=supplemental_groups(pod["spec"].get("securityContext") or {}),
        no_new_privs=context.get("allowPrivilegeEscalation") is False,
        masked_paths=() if unmasked else masked_paths(),
        readonly_paths=() if unmasked else _READONLY_PATHS,
        seccomp=_profile(context.get("seccompProfile"), str(facts.seccomp_root)),
        apparmor=_profile(context.get("appArmorProfile"), "") if context.get("appArmorProfile") else None,
    )
    policy = (pod["spec"].get("securityContext") or {}).get("supplementalGroupsPolicy")
    out.supplemental_groups_policy = 1 if policy == "Strict" else 0
    if context.get("runAsUser") is not None:
        out.run_as_user.value = context["runAsUser"]
    else:
        if user.uid is not None:
            out.run_as_user.value = user.uid
        out.run_as_username = user.name
    if context.get("runAsGroup") is not None:
        out.run_as_group.value = context["runAsGroup"]
    if target_id and out.namespace_options.pid == NamespaceMode.CONTAINER:
        out.namespace_options.pid = NamespaceMode.TARGET
        out.namespace_options.target_id = target_id
    return out


def _profile(profile: Obj | None, root: str) -> Any:
    kind = (profile or {}).get("type", "Unconfined")
    if kind == "RuntimeDefault":
        return messages.SecurityProfile(profile_type=ProfileType.RUNTIME_DEFAULT)
    if kind == "Localhost":
        name = str((profile or {}).get("localhostProfile") or "")
        reference = f"{root}/{name}" if root else name
        return messages.SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref=reference)
    return messages.SecurityProfile(profile_type=ProfileType.UNCONFINED)


@cache
def masked_paths() -> tuple[str, ...]:
    throttles = sorted(str(p) for p in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"))
    return (*_MASKED_PATHS, *throttles)
