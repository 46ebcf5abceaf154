"""CNI configuration for the distribution's plugins: bridge, host-local, portmap (and bandwidth where installed).

Names are K3s's, so that its cleanup and its users find them: file ``10-flannel.conflist``, network ``cbr0``, bridge ``cni0``,
leases in ``/var/lib/cni/networks/cbr0``. Masquerading is not the plugin's: one nftables table does it for the node.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from k3sd.config import paths
from k3sd.config.settings import Settings
from k3sd.lib.files import ensure_directory, write_if_changed

CONFLIST = "10-flannel.conflist"
BRIDGE = "cni0"
VXLAN_OVERHEAD_BYTES = 50


def plugin_dir() -> Path | None:
    """Where this distribution keeps the CNI plugins, or None when the bridge plugin is not installed."""
    return next((directory for directory in paths.CNI_PLUGIN_DIRS if (directory / "bridge").exists()), None)


def build_conflist(pod_cidr: str, mtu: int, bandwidth: bool) -> dict[str, Any]:
    """The network of one node's pods; ``mtu`` 0 leaves it to the kernel."""
    bridge: dict[str, Any] = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isDefaultGateway": True,
        "forceAddress": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_cidr}]]},
    }
    if mtu:
        bridge["mtu"] = mtu
    plugins: list[dict[str, Any]] = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]
    if bandwidth:
        plugins.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    return {"name": "cbr0", "cniVersion": "0.4.0", "plugins": plugins}


def write_cni_config(settings: Settings, pod_cidr: str, mtu: int = 0) -> None:
    """Write the conflist (containerd picks it up at once) and ``/run/flannel/subnet.env``. Raises OSError."""
    directory = settings.paths.cni_conf_dir
    ensure_directory(directory, 0o700)
    plugins = plugin_dir()
    bandwidth = plugins is not None and (plugins / "bandwidth").exists()
    text = json.dumps(build_conflist(pod_cidr, mtu, bandwidth), indent=2) + "\n"
    write_if_changed(directory / CONFLIST, text, 0o600)
    import ipaddress

    gateway = ipaddress.ip_network(pod_cidr)[1]
    prefix = pod_cidr.partition("/")[2]
    paths.FLANNEL_SUBNET_ENV.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "FLANNEL_NETWORK": settings.cluster_cidr,
        "FLANNEL_SUBNET": f"{gateway}/{prefix}",
        "FLANNEL_MTU": str(mtu or 1500),
        "FLANNEL_IPMASQ": "true",
    }
    env = "".join(f"{key}={value}\n" for key, value in values.items())
    write_if_changed(paths.FLANNEL_SUBNET_ENV, env, 0o644)
