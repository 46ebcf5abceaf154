"""What a pod's resolver sees: hostname, ``/etc/hosts``, DNS configuration. Pure functions and one writer.

Source: Kubernetes 1.36, ``pkg/kubelet/kubelet_pods.go`` (``ensureHostsFile``, ``GeneratePodHostNameAndDomain``) and
``pkg/kubelet/network/dns/dns.go`` (``Configurer``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Obj = dict[str, Any]

MAX_SEARCH_PATHS = 32
MAX_SEARCH_CHARS = 2048
MAX_NAMESERVERS = 3
MAX_HOSTNAME = 63
MAX_FQDN = 64
MANAGED_HEADER = "# Kubernetes-managed hosts file.\n"
MANAGED_HEADER_HOST_NETWORK = "# Kubernetes-managed hosts file (host network).\n"


class HostnameError(Exception):
    """The pod cannot have the hostname it asks for; the text is upstream's."""


@dataclass(slots=True)
class DNSConfig:
    """A pod's resolver configuration as CRI takes it. ``warnings`` become ``DNSConfigForming`` events."""

    servers: list[str] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def pod_hostname(pod: Obj, cluster_domain: str, node_hostname: str = "") -> tuple[str, str]:
    """The pod's short hostname and its domain ("" without subdomain) (``GeneratePodHostNameAndDomain``).

    ``node_hostname`` is what a pod in the host's network has; leave it empty to get the pod's own name in any case.
    """
    spec: Obj = pod.get("spec") or {}
    if spec.get("hostnameOverride"):
        return str(spec["hostnameOverride"]), ""
    if spec.get("hostNetwork") and node_hostname:
        return node_hostname, ""
    name = str(spec.get("hostname") or pod["metadata"]["name"])
    if not spec.get("hostname"):
        # Pod names may be longer than a hostname; a cut name must not end in a separator.
        name = name[:MAX_HOSTNAME].rstrip("-.")
    subdomain = spec.get("subdomain")
    domain = f"{subdomain}.{pod['metadata']['namespace']}.svc.{cluster_domain}" if subdomain else ""
    return name, domain


def kernel_hostname(pod: Obj, hostname: str, domain: str) -> str:
    """What ``hostname`` prints in the pod: the FQDN with ``setHostnameAsFQDN``. Raises HostnameError over 64 bytes."""
    if not (pod.get("spec") or {}).get("setHostnameAsFQDN") or not domain:
        return hostname
    fqdn = f"{hostname}.{domain}"
    if len(fqdn) > MAX_FQDN:
        raise HostnameError(
            f"Failed to construct FQDN from Pod hostname and cluster domain, FQDN {fqdn} is too long "
            f"({MAX_FQDN} characters is the max, {len(fqdn)} characters requested)"
        )
    return fqdn


def hosts_file(pod: Obj, pod_ips: Sequence[str], hostname: str, domain: str, node_hosts: str = "") -> str:
    """The text of the pod's ``/etc/hosts``. ``node_hosts`` is the node's own file, used by pods in the host's network."""
    spec: Obj = pod.get("spec") or {}
    if spec.get("hostNetwork"):
        text = MANAGED_HEADER_HOST_NETWORK + node_hosts
    else:
        names = f"{hostname}.{domain}\t{hostname}" if domain else hostname
        text = (
            MANAGED_HEADER
            + "127.0.0.1\tlocalhost\n"
            + "::1\tlocalhost ip6-localhost ip6-loopback\n"
            + "fe00::0\tip6-localnet\n"
            + "fe00::0\tip6-mcastprefix\n"
            + "fe00::1\tip6-allnodes\n"
            + "fe00::2\tip6-allrouters\n"
            + "".join(f"{ip}\t{names}\n" for ip in pod_ips)
        )
    aliases: list[Obj] = spec.get("hostAliases") or []
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join("\t".join([alias.get("ip", ""), *(alias.get("hostnames") or ())]) + "\n" for alias in aliases)
    return text


def wants_hosts_mount(container: Obj) -> bool:
    """The kubelet's file is mounted, with the host's network too, unless the container mounts its own there."""
    mounts: list[Obj] = container.get("volumeMounts") or []
    return all(mount.get("mountPath") != "/etc/hosts" for mount in mounts)


def write_hosts_file(pod_dir: Path, text: str) -> Path:
    """Write ``<pod_dir>/etc-hosts``. It is bind mounted into containers, so the inode must stay: no rename."""
    path = pod_dir / "etc-hosts"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        data = text.encode()
        os.fchmod(descriptor, 0o644)
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], written)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
    return path


def parse_resolv_conf(text: str) -> DNSConfig:
    """Servers, search domains and options of a ``resolv.conf``; the last ``search`` line wins (``parseResolvConf``)."""
    out = DNSConfig()
    options: dict[str, str] = {}
    for line in text.splitlines():
        line = line.split("#", 1)[0].split(";", 1)[0]
        fields = line.split()
        if not fields:
            continue
        match fields[0]:
            case "nameserver" if len(fields) >= 2:
                out.servers.append(fields[1])
            case "search":
                # A search list of one dot stands for the root and adds nothing.
                out.searches = [] if fields[1:] == ["."] else [f if f == "." else f.removesuffix(".") for f in fields[1:]]
            case "options":
                options.update((option.partition(":")[0], option) for option in fields[1:])
    out.options = list(options.values())
    return out


def pod_dns(pod: Obj, cluster_dns: Sequence[str], cluster_domain: str, host_resolv_conf: str) -> DNSConfig:
    """The resolver configuration of a pod (``Configurer.GetPodDNS``).

    ``host_resolv_conf`` is the text of the node's file. With no ``cluster_dns`` the ClusterFirst policies fall back to Default
    and say so in ``warnings``.
    """
    spec: Obj = pod.get("spec") or {}
    policy = str(spec.get("dnsPolicy") or "ClusterFirst")
    in_host_network = bool(spec.get("hostNetwork"))
    cluster_first = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not in_host_network)
    host = parse_resolv_conf(host_resolv_conf)
    if policy == "None":
        out = DNSConfig()
    elif cluster_first and cluster_dns:
        namespace = pod["metadata"]["namespace"]
        own = [f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain] if cluster_domain else []
        out = DNSConfig(list(cluster_dns), _unique(own + host.searches), ["ndots:5"])
    else:
        # No file at all (--resolv-conf=""): a resolver that answers nothing, rather than the runtime's own choice.
        out = host if host_resolv_conf else DNSConfig(["127.0.0.1"], ["."])
        if cluster_first:
            out.warnings.append(
                "kubelet does not have ClusterDNS IP configured and cannot create Pod using "
                f'"{policy}" policy. Falling back to "Default" policy.'
            )
    if extra := spec.get("dnsConfig"):
        out.servers = _unique(out.servers + (extra.get("nameservers") or []))
        out.searches = _unique(out.searches + (extra.get("searches") or []))
        out.options = _merge_options(out.options, extra.get("options") or [])
    _apply_limits(out)
    return out


def _unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _merge_options(existing: Sequence[str], extra: Sequence[Obj]) -> list[str]:
    """Options by name, ``dnsConfig`` overriding."""
    merged = {option.partition(":")[0]: option for option in existing}
    for option in extra:
        name, value = str(option.get("name", "")), option.get("value")
        merged[name] = f"{name}:{value}" if value else name
    return list(merged.values())


def _apply_limits(config: DNSConfig) -> None:
    """What glibc would not read is dropped, aloud (``formDNSSearchFitsLimits``, ``formDNSNameserversFitsLimits``)."""
    if len(config.servers) > MAX_NAMESERVERS:
        config.servers = config.servers[:MAX_NAMESERVERS]
        config.warnings.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(config.servers)
        )
    fitting: list[str] = []
    for domain in config.searches:
        if len(fitting) == MAX_SEARCH_PATHS or len(" ".join([*fitting, domain])) > MAX_SEARCH_CHARS:
            break
        fitting.append(domain)
    if len(fitting) < len(config.searches):
        config.searches = fitting
        config.warnings.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(fitting)
        )
