"""What a pod gets from this node besides the runtime: volumes, environment, hosts file, resolver. Joins the parts of this
package that make them and turns their failures into ``StartError``."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from k3sd.apimachinery.errors import StatusError
from k3sd.kubelet import hosts, podinfo
from k3sd.kubelet.containerconfig import DNS
from k3sd.kubelet.cri import messages
from k3sd.kubelet.env import EnvError, build_environment
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.layout import Layout
from k3sd.kubelet.podinfo import Obj
from k3sd.kubelet.sources import Sources
from k3sd.kubelet.volumes.manager import VolumeManager
from k3sd.kubelet.volumes.plan import VolumeError

log = logging.getLogger(__name__)


class NodeEnvironment:
    """The node's side of every pod. ``allocatable`` is the node's ``status.allocatable``, for the downward API."""

    def __init__(
        self,
        volumes: VolumeManager,
        sources: Sources,
        layout: Layout,
        *,
        cluster_dns: Sequence[str],
        cluster_domain: str,
        resolv_conf: Path | None,
        host_ips: Sequence[str],
        allocatable: Callable[[], Mapping[str, str]],
        warn: Callable[[Obj, str, str], None],
    ) -> None:
        self._volumes = volumes
        self._sources = sources
        self._layout = layout
        self._cluster_dns = cluster_dns
        self._cluster_domain = cluster_domain
        self._resolv_conf = resolv_conf
        self._host_ips = host_ips
        self._allocatable = allocatable
        self._warn = warn

    # volumes

    async def mount(self, pod: Obj) -> None:
        try:
            await self._volumes.mount_pod(pod)
        except VolumeError as error:
            raise StartError(error.reason, error.message) from error

    async def changed(self, pod: Obj) -> None:
        await self._volumes.pod_changed(pod)

    async def unmount(self, uid: str) -> None:
        await self._volumes.unmount_pod(uid)

    async def remove(self, uid: str) -> None:
        await self._volumes.remove_pod(uid)

    # sandbox and containers

    def sandbox_inputs(self, pod: Obj) -> tuple[str, DNS]:
        hostname, domain = hosts.pod_hostname(pod, self._cluster_domain)
        try:
            kernel_name = hosts.kernel_hostname(pod, hostname, domain)
        except hosts.HostnameError as error:
            raise StartError("FailedCreatePodSandBox", str(error)) from error
        dns = hosts.pod_dns(pod, self._cluster_dns, self._cluster_domain, self._read_resolv_conf())
        for warning in dns.warnings:
            self._warn(pod, "DNSConfigForming", warning)
        return kernel_name, DNS(dns.servers, dns.searches, dns.options)

    def _read_resolv_conf(self) -> str:
        if self._resolv_conf is None:
            return ""
        try:
            return self._resolv_conf.read_text()
        except OSError as error:
            raise StartError("FailedCreatePodSandBox", f"cannot read the resolver configuration: {error}") from error

    async def container_inputs(
        self, pod: Obj, container: Obj, pod_ips: Sequence[str]
    ) -> tuple[list[tuple[str, str]], list[Any]]:
        try:
            env = await build_environment(
                pod, container, self._sources, self._allocatable(), pod_ips=pod_ips, host_ips=self._host_ips
            )
            volumes = await self._volumes.container_mounts(pod, container, env)
        except EnvError as error:
            raise StartError(error.reason, str(error)) from error
        except VolumeError as error:
            raise StartError(error.reason, error.message) from error
        except (StatusError, TimeoutError, ConnectionError) as error:
            raise StartError("CreateContainerConfigError", str(error)) from error
        mounts = [
            messages.Mount(
                container_path=m.container_path,
                host_path=m.host_path,
                readonly=m.read_only,
                propagation=m.propagation,
                recursive_read_only=m.recursive_read_only,
            )
            for m in volumes
        ]
        if hosts.wants_hosts_mount(container):
            path = await asyncio.to_thread(self._write_hosts, pod, pod_ips)
            read_only = bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem"))
            mounts.append(messages.Mount(container_path="/etc/hosts", host_path=str(path), readonly=read_only))
        return env, mounts

    def _write_hosts(self, pod: Obj, pod_ips: Sequence[str]) -> Path:
        hostname, domain = hosts.pod_hostname(pod, self._cluster_domain)
        node_hosts = ""
        if podinfo.is_host_network(pod):
            hostname = socket.gethostname()
            node_hosts = Path("/etc/hosts").read_text()
        text = hosts.hosts_file(pod, pod_ips, hostname, domain, node_hosts)
        return hosts.write_hosts_file(self._layout.pod_dir(podinfo.uid(pod)), text)
