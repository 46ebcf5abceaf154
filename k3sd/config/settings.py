"""What the components need to know, as frozen values computed once from the options.

The parent resolves options to ``Settings`` and hands them to its children as JSON over an inherited descriptor, so secrets
never reach argv or the environment. A component takes ``Settings`` (or the part of it that it names), never raw options.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from k3sd.config.paths import Paths

Role = Literal["server", "agent"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved configuration of one node. Lists are tuples; addresses and CIDRs are text already checked for syntax."""

    role: Role = "server"
    debug: bool = False
    data_dir: str = "/var/lib/rancher/k3s"
    # listener, cluster
    bind_address: str = "0.0.0.0"
    https_listen_port: int = 6443
    advertise_address: str = ""
    advertise_port: int = 6443
    tls_sans: tuple[str, ...] = ()
    token: str = ""
    agent_token: str = ""
    server_url: str = ""
    write_kubeconfig: str = ""
    write_kubeconfig_mode: int = 0o600
    write_kubeconfig_group: str = ""
    # networking
    cluster_cidr: str = "10.42.0.0/16"
    service_cidr: str = "10.43.0.0/16"
    service_node_port_range: tuple[int, int] = (30000, 32767)
    cluster_dns: str = "10.43.0.10"
    cluster_domain: str = "cluster.local"
    flannel_backend: str = "vxlan"
    resolv_conf: str = ""
    disable_kube_proxy: bool = False
    disable: tuple[str, ...] = ()
    disable_agent: bool = False
    # datastore
    datastore_endpoint: str = ""
    datastore_cafile: str = ""
    datastore_certfile: str = ""
    datastore_keyfile: str = ""
    # node
    node_name: str = ""
    node_ips: tuple[str, ...] = ()
    node_external_ips: tuple[str, ...] = ()
    node_internal_dns: tuple[str, ...] = ()
    node_external_dns: tuple[str, ...] = ()
    node_labels: tuple[str, ...] = ()
    node_taints: tuple[str, ...] = ()
    protect_kernel_defaults: bool = False
    container_runtime_endpoint: str = ""
    pause_image: str = "docker.io/rancher/mirrored-pause:3.6"
    snapshotter: str = "overlayfs"
    default_runtime: str = "runc"
    kubelet_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    apiserver_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    controller_manager_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scheduler_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kube_proxy_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # how this node was started, for its annotations: option and value in turn, and K3S_*; secrets are masked
    node_args: tuple[str, ...] = ()
    node_env: dict[str, str] = field(default_factory=dict)
    # facts of this machine, found by the preflight
    restrict_oom_score_adj: bool = False
    systemd_cgroup: bool = False

    @property
    def paths(self) -> Paths:
        return Paths(Path(self.data_dir))

    @property
    def node_ip(self) -> str:
        """The primary node address."""
        return self.node_ips[0]

    @property
    def containerd_socket(self) -> str:
        """Path of the CRI socket, without scheme."""
        return self.container_runtime_endpoint.removeprefix("unix://") or "/run/k3s/containerd/containerd.sock"

    @property
    def service_account_issuer(self) -> str:
        return f"https://kubernetes.default.svc.{self.cluster_domain}"

    @property
    def api_audiences(self) -> tuple[str, ...]:
        return (self.service_account_issuer, "k3s")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        raw: dict[str, Any] = json.loads(text)
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
        for name in ("kubelet_args", "apiserver_args", "controller_manager_args", "scheduler_args", "kube_proxy_args"):
            values[name] = {k: tuple(v) for k, v in values.get(name, {}).items()}
        return cls(**values)
