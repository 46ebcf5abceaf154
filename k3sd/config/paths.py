"""Every file location, once. ``<data>`` is K3s's data directory; the layout is K3s's (reference: K3s 1.36, ``pkg/daemons``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATA_DIR = Path("/var/lib/rancher/k3s")
CONFIG_FILE = Path("/etc/rancher/k3s/config.yaml")
ADMIN_KUBECONFIG = Path("/etc/rancher/k3s/k3s.yaml")
REGISTRIES_FILE = Path("/etc/rancher/k3s/registries.yaml")
NODE_DIR = Path("/etc/rancher/node")
NODE_PASSWORD = NODE_DIR / "password"
NODE_ID = NODE_DIR / "id"
RUN_DIR = Path("/run/k3s")
CONTAINERD_STATE = RUN_DIR / "containerd"
CONTAINERD_SOCKET = CONTAINERD_STATE / "containerd.sock"
CGROUP_ROOTS = RUN_DIR / "cgroup-roots"
"""The kubelet's ``cgroup-root`` of each start, one a line: ``killall`` removes what is below them."""
KUBELET_ROOT = Path("/var/lib/kubelet")
POD_LOGS = Path("/var/log/pods")
CONTAINER_LOGS = Path("/var/log/containers")
CNI_STATE = Path("/var/lib/cni")
CNI_PLUGIN_DIRS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
"""Where distributions put the CNI plugins: Debian, upstream, Fedora."""
FLANNEL_SUBNET_ENV = Path("/run/flannel/subnet.env")


@dataclass(frozen=True, slots=True)
class Paths:
    """Locations below one data directory."""

    data: Path = DEFAULT_DATA_DIR

    @property
    def server(self) -> Path:
        return self.data / "server"

    @property
    def tls(self) -> Path:
        return self.server / "tls"

    @property
    def cred(self) -> Path:
        return self.server / "cred"

    @property
    def passwd(self) -> Path:
        return self.cred / "passwd"

    @property
    def token(self) -> Path:
        return self.server / "token"

    @property
    def node_token(self) -> Path:
        return self.server / "node-token"

    @property
    def agent_token(self) -> Path:
        return self.server / "agent-token"

    @property
    def db(self) -> Path:
        return self.server / "db"

    @property
    def sqlite(self) -> Path:
        return self.db / "state.db"

    @property
    def etcd(self) -> Path:
        return self.db / "etcd"

    @property
    def manifests(self) -> Path:
        return self.server / "manifests"

    @property
    def agent(self) -> Path:
        return self.data / "agent"

    @property
    def agent_etc(self) -> Path:
        return self.agent / "etc"

    @property
    def images(self) -> Path:
        return self.agent / "images"

    @property
    def containerd_root(self) -> Path:
        return self.agent / "containerd"

    @property
    def containerd_config(self) -> Path:
        return self.agent_etc / "containerd" / "config.toml"

    @property
    def cni_conf_dir(self) -> Path:
        return self.agent_etc / "cni" / "net.d"

    @property
    def pod_manifests(self) -> Path:
        return self.agent / "pod-manifests"

    @property
    def kubelet_kubeconfig(self) -> Path:
        return self.agent / "kubelet.kubeconfig"

    @property
    def storage(self) -> Path:
        return self.data / "storage"
