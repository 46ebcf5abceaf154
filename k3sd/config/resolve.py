"""From options to ``Settings``: defaults that depend on the machine or on other options, and every check of values together.

Reads files that options name (tokens) and changes nothing. Source: K3s 1.36, ``pkg/cli/server/server.go`` and
``pkg/agent/config/config.go``.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from k3sd.config.component_args import check_component_args, parse_component_args
from k3sd.config.load import Loaded, load, start_arguments, start_environment
from k3sd.config.machine import Machine
from k3sd.config.options import Role
from k3sd.config.paths import ADMIN_KUBECONFIG, CONTAINERD_SOCKET, Paths
from k3sd.config.problem import ConfigError, Problem
from k3sd.config.settings import Settings

log = logging.getLogger(__name__)

_LABEL_NAME = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_DATASTORE = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE)
DATASTORE_SCHEMES = ("sqlite", "memory", "postgres", "postgresql", "mysql", "http", "https")
"""Schemes whose driver exists."""
_LATER_SCHEMES = ("nats", "t4", "litestream")
_MIN_PREFIX = {4: 12, 6: 112}
"""Largest service network allowed, by family."""

DERIVED: dict[str, Callable[[Settings], str]] = {
    "bind-address": lambda s: s.bind_address,
    "advertise-address": lambda s: s.advertise_address,
    "advertise-port": lambda s: str(s.advertise_port),
    "cluster-cidr": lambda s: s.cluster_cidr,
    "service-cidr": lambda s: s.service_cidr,
    "cluster-dns": lambda s: s.cluster_dns,
    "node-ip": lambda s: ",".join(s.node_ips),
    "node-name": lambda s: s.node_name,
    "write-kubeconfig": lambda s: s.write_kubeconfig,
    "pause-image": lambda s: s.pause_image,
}
"""Options whose default depends on the machine or on other options, and what came out."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_T = TypeVar("_T", Network, Address)


def resolve(role: Role, argv: Sequence[str], environ: Mapping[str, str], machine: Machine | None = None) -> Settings:
    """The settings of a node. Raises ``ConfigError`` with every problem; warnings are logged."""
    loaded = load(role, argv, environ)
    settings, problems = resolve_loaded(loaded, environ, machine or Machine())
    for problem in problems:
        if not problem.fatal:
            log.warning("%s", problem)
    if any(problem.fatal for problem in problems):
        raise ConfigError([problem for problem in problems if problem.fatal])
    return settings


def resolve_loaded(loaded: Loaded, environ: Mapping[str, str], machine: Machine) -> tuple[Settings, list[Problem]]:
    """``(settings, problems)``; the settings are usable only where no problem is fatal."""
    return _Resolver(loaded, environ, machine).run()


class _Resolver:
    def __init__(self, loaded: Loaded, environ: Mapping[str, str], machine: Machine) -> None:
        self.loaded = loaded
        self.environ = environ
        self.machine = machine
        self.problems = list(loaded.problems)

    def run(self) -> tuple[Settings, list[Problem]]:
        if self.loaded.role == "agent":
            self.problem("k3sd agent", "joining a server is not there yet", "run k3sd server, which has a node of its own")
            return Settings(role="agent"), self.problems
        loaded = self.loaded
        node_ips = self.node_ips()
        cluster_cidrs = self.networks("cluster-cidr", node_ips, "10.42.0.0/16", "fd00:42::/56")
        service_cidrs = self.networks("service-cidr", node_ips, "10.43.0.0/16", "fd00:43::/112")
        self.check_families(node_ips, cluster_cidrs, service_cidrs)
        external = self.addresses("node-external-ip")
        port = self.port("https-listen-port") or 6443
        data_dir = str(Path(loaded.text("data-dir")).absolute())
        settings = Settings(
            role="server",
            debug=loaded.flag("debug") or loaded.number("v") >= 4,
            data_dir=data_dir,
            bind_address=self.bind_address(node_ips),
            https_listen_port=port,
            advertise_address=self.advertise_address(external, node_ips),
            advertise_port=self.port("advertise-port") or port,
            tls_sans=self.tls_sans(),
            token=self.token("token", "token-file"),
            agent_token=self.token("agent-token", "agent-token-file"),
            write_kubeconfig=loaded.text("write-kubeconfig") or str(ADMIN_KUBECONFIG),
            write_kubeconfig_mode=self.mode("write-kubeconfig-mode"),
            write_kubeconfig_group=self.group("write-kubeconfig-group"),
            cluster_cidr=",".join(str(cidr) for cidr in cluster_cidrs),
            service_cidr=",".join(str(cidr) for cidr in service_cidrs),
            service_node_port_range=self.port_range("service-node-port-range"),
            cluster_dns=self.cluster_dns(service_cidrs),
            cluster_domain=self.domain("cluster-domain"),
            flannel_backend=loaded.text("flannel-backend"),
            resolv_conf=self.existing_file("resolv-conf"),
            disable_kube_proxy=loaded.flag("disable-kube-proxy"),
            disable=self.disable(),
            disable_agent=loaded.flag("disable-agent"),
            datastore_endpoint=self.datastore_endpoint(),
            datastore_cafile=self.existing_file("datastore-cafile"),
            datastore_certfile=self.existing_file("datastore-certfile"),
            datastore_keyfile=self.existing_file("datastore-keyfile"),
            node_name=self.node_name(),
            node_ips=tuple(str(ip) for ip in node_ips),
            node_external_ips=tuple(str(ip) for ip in external),
            node_internal_dns=self.host_names("node-internal-dns"),
            node_external_dns=self.host_names("node-external-dns"),
            node_labels=self.labels("node-label"),
            node_taints=self.taints("node-taint"),
            protect_kernel_defaults=loaded.flag("protect-kernel-defaults"),
            container_runtime_endpoint=self.runtime_endpoint(),
            pause_image=self.pause_image(),
            snapshotter=loaded.text("snapshotter"),
            default_runtime=loaded.text("default-runtime"),
            kubelet_args=self.component_args("kubelet-arg"),
            apiserver_args=self.component_args("kube-apiserver-arg"),
            controller_manager_args=self.component_args("kube-controller-manager-arg", "kube-controller-arg"),
            scheduler_args=self.component_args("kube-scheduler-arg"),
            kube_proxy_args=self.component_args("kube-proxy-arg"),
            node_args=start_arguments(loaded),
            node_env=start_environment(loaded, self.environ),
            systemd_cgroup=self.systemd_cgroup(),
        )
        self.check_combinations()
        self.check_secrecy()
        return settings, self.problems

    # helpers

    def problem(self, where: str, what: str, remedy: str, fatal: bool = True) -> None:
        self.problems.append(Problem(where, what, remedy, fatal))

    def origin(self, name: str, item: str = "") -> str:
        origin = self.loaded.origin(name, item)
        return f"--{name}" if origin == "default" else origin

    def is_set(self, name: str) -> bool:
        value = self.loaded.values.get(name)
        return value is not None and value.explicit and value.value not in (None, "", (), False)

    def parse_each(self, name: str, parse: Callable[[str], _T], noun: str, example: str) -> list[_T]:
        result = []
        for text in self.loaded.items(name):
            try:
                result.append(parse(text))
            except ValueError as error:
                self.problem(
                    self.origin(name, text),
                    f"{name} is {text!r}, which is no {noun} ({error})",
                    f"write one such as {example}",
                )
        return result

    # addresses

    def addresses(self, name: str) -> list[Address]:
        return self.parse_each(name, ipaddress.ip_address, "address", "192.0.2.10")

    def node_ips(self) -> list[Address]:
        interface = self.loaded.text("flannel-iface")
        if self.loaded.items("node-ip"):
            found = self.addresses("node-ip")
            families = [ip.version for ip in found]
            if len(families) != len(set(families)):
                self.problem(self.origin("node-ip"), "node-ip has two addresses of one family", "give one per family")
            for ip in found:
                self.check_reachable("node-ip", ip)
            return found or [ipaddress.ip_address("127.0.0.1")]
        if interface:
            candidates = self.machine.interface_addresses(interface)
            if not candidates:
                self.problem(
                    self.origin("flannel-iface"),
                    f"interface {interface!r} has no address or does not exist",
                    "name an interface that `ip address` shows with an address",
                )
        else:
            candidates = [address for family in (4, 6) if (address := self.machine.default_address(family))]
            candidates = candidates or self.machine.global_addresses()
            if not candidates:
                self.problem(
                    "network",
                    "no interface has an address that a node could have",
                    "configure the network, or choose the address with --node-ip",
                )
        for family in (4, 6):
            for parsed in map(ipaddress.ip_address, candidates):
                if parsed.version == family:
                    return [parsed]
        return [ipaddress.ip_address("127.0.0.1")]

    def networks(self, name: str, node_ips: list[Address], default4: str, default6: str) -> list[Network]:
        if not self.loaded.items(name):
            return [ipaddress.ip_network(default4 if ip.version == 4 else default6) for ip in node_ips]
        found = self.parse_each(name, ipaddress.ip_network, "network", default4)
        versions = [network.version for network in found]
        if len(versions) != len(set(versions)):
            self.problem(self.origin(name), f"{name} has two networks of one family", "give one per family")
        if name == "service-cidr":
            for network in found:
                smallest = _MIN_PREFIX[network.version]
                if network.prefixlen < smallest:
                    self.problem(self.origin(name), f"service-cidr {network} is too large", f"give a /{smallest} or smaller")
                elif network.num_addresses < 16:
                    self.problem(
                        self.origin(name),
                        f"service-cidr {network} is too small for the cluster's DNS, its tenth address",
                        "give a /28 or larger",
                    )
        if name == "cluster-cidr":
            for network in found:
                node_prefix = 24 if network.version == 4 else 64
                if network.prefixlen > node_prefix:
                    self.problem(
                        self.origin(name),
                        f"cluster-cidr {network} is smaller than one node's /{node_prefix}",
                        f"give a /{node_prefix} or larger",
                    )
        return found

    def check_families(self, node_ips: list[Address], cluster: list[Network], service: list[Network]) -> None:
        node = {ip.version for ip in node_ips}
        families = {"cluster-cidr": {n.version for n in cluster}, "service-cidr": {n.version for n in service}, "node-ip": node}
        if 6 in set().union(*families.values()):
            name = next(name for name, versions in families.items() if 6 in versions)
            self.problem(self.origin(name), "IPv6 for pods and services is not there yet", "give IPv4 addresses and networks")
        for name in ("cluster-cidr", "service-cidr"):
            if families[name] and families[name] != node:
                self.problem(
                    self.origin(name),
                    f"{name} and node-ip have different address families ({_families(families[name])} and {_families(node)})",
                    "give both the same families",
                )
        for a in cluster:
            for b in service:
                if a.version == b.version and a.overlaps(b):
                    self.problem(
                        self.origin("service-cidr"), f"service-cidr {b} overlaps cluster-cidr {a}", "choose apart networks"
                    )

    def bind_address(self, node_ips: list[Address]) -> str:
        text = self.loaded.text("bind-address")
        if not text:
            return "0.0.0.0" if node_ips[0].version == 4 else "::"
        self.check_address("bind-address", text)
        return text

    def advertise_address(self, external: list[Address], node_ips: list[Address]) -> str:
        text = self.loaded.text("advertise-address")
        if not text:
            return str((external or node_ips)[0])
        if (ip := self.check_address("advertise-address", text)) is not None:
            self.check_reachable("advertise-address", ip)
        return text

    def check_address(self, name: str, text: str) -> Address | None:
        try:
            return ipaddress.ip_address(text)
        except ValueError:
            self.problem(self.origin(name), f"{name} is {text!r}, which is no address", "write one such as 192.0.2.10")
            return None

    def check_reachable(self, name: str, ip: Address) -> None:
        """What the endpoints of a service may be (``ValidateNonSpecialIP``): pods and other nodes have to reach it."""
        kinds = {"loopback": ip.is_loopback, "unspecified": ip.is_unspecified, "multicast": ip.is_multicast,
                 "link-local": ip.is_link_local}  # fmt: skip
        for kind in (kind for kind, found in kinds.items() if found):
            where = self.origin(name, str(ip))
            self.problem(where, f"{name} is {ip} ({kind}), which pods cannot reach", "give an address of a network card")
            return

    def cluster_dns(self, service: list[Network]) -> str:
        given = self.addresses("cluster-dns")
        if given:
            if len({address.version for address in given}) < len(given):
                self.problem(self.origin("cluster-dns"), "cluster-dns has two addresses of one family", "give one per family")
            for address in given:
                if service and not any(address in network for network in service):
                    self.problem(
                        self.origin("cluster-dns"),
                        f"cluster-dns {address} is outside of the service network {', '.join(map(str, service))}",
                        "choose an address inside, or leave the option out",
                    )
                if any(address == network[1] for network in service if network.num_addresses > 1):
                    self.problem(
                        self.origin("cluster-dns"),
                        f"cluster-dns {address} is the address of the service kubernetes",
                        "choose another, or leave the option out",
                    )
            return ",".join(map(str, given))
        return ",".join(str(network[10]) for network in service if network.num_addresses > 10)

    def tls_sans(self) -> tuple[str, ...]:
        names = []
        for text in self.loaded.items("tls-san"):
            name = text.lower()
            if not _is_host(name.removeprefix("*.")):
                self.problem(
                    self.origin("tls-san", text),
                    f"tls-san {text!r} is no host name or address",
                    "write one such as k3s.example.com",
                )
            names.append(name)
        return tuple(dict.fromkeys(names))

    def host_names(self, name: str) -> tuple[str, ...]:
        for text in self.loaded.items(name):
            if not _is_subdomain(text):
                self.problem(self.origin(name, text), f"{name} {text!r} is no host name", "write one such as node1.example.com")
        return self.loaded.items(name)

    def domain(self, name: str) -> str:
        text = self.loaded.text(name).rstrip(".").lower()
        if not _is_subdomain(text):
            self.problem(self.origin(name), f"{name} {text!r} is no DNS domain", "write one such as cluster.local")
        return text

    def port(self, name: str) -> int:
        number = self.loaded.number(name)
        if not 0 <= number <= 65535:
            self.problem(self.origin(name), f"{name} is {number}", "give a port from 1 to 65535")
        return number

    def port_range(self, name: str) -> tuple[int, int]:
        text = self.loaded.text(name)
        match = re.fullmatch(r"(\d+)(?:([-+])(\d+))?", text)
        if match:
            first = int(match[1])
            last = first if match[3] is None else int(match[3]) if match[2] == "-" else first + int(match[3])
            if 0 < first <= last <= 65535:
                return first, last
        self.problem(self.origin(name), f"{name} is {text!r}", "write a range of ports such as 30000-32767")
        return 30000, 32767

    # cluster, files

    def token(self, name: str, file_name: str) -> str:
        text = self.loaded.text(name)
        path = self.loaded.text(file_name)
        if not text and path:
            try:
                text = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not text"
                self.problem(
                    self.origin(file_name),
                    f"{file_name} {path} cannot be read: {reason}",
                    "mend the file or leave the option out",
                )
                return ""
            if not text:
                self.problem(self.origin(file_name), f"{file_name} {path} is empty", "write the token into it")
            name = file_name
        text = text.strip()
        if any(character in text for character in '\r\n," '):
            # The password file is CSV, and a token travels in HTTP basic authentication.
            self.problem(
                self.origin(name), "the token contains a blank, comma or quote", "choose a token of letters and digits"
            )
        if text.startswith("K10") and not re.fullmatch(r"K10(?:[0-9a-f]{64})?::.+", text):
            self.problem(
                self.origin(name),
                "the token starts with K10 but is not K10<64 hex digits>::<user>:<password>",
                "copy the whole line of <data>/server/token, or choose a token that does not start with K10",
            )
        return text

    def mode(self, name: str) -> int:
        text = self.loaded.text(name)
        if re.fullmatch(r"(?:0o?)?[0-7]{3,4}", text):
            return int(text.removeprefix("0o"), 8)
        self.problem(self.origin(name), f"{name} is {text!r}", 'write an octal mode such as "0640"')
        return 0o600

    def group(self, name: str) -> str:
        text = self.loaded.text(name)
        if text and not text.isdigit():
            import grp  # rarely used

            try:
                grp.getgrnam(text)
            except KeyError:
                self.problem(self.origin(name), f"{name}: there is no group {text!r}", f"create it with: groupadd {text}")
        return text

    def existing_file(self, name: str) -> str:
        text = self.loaded.text(name)
        if text and not Path(text).is_file():
            self.problem(self.origin(name), f"{name}: there is no file {text}", "name an existing file")
        return text

    def datastore_endpoint(self) -> str:
        text = self.loaded.text("datastore-endpoint")
        if not text or text == "memory":
            return text
        where = self.origin("datastore-endpoint")
        if not _DATASTORE.fullmatch(text):
            self.problem(
                where, "invalid datastore endpoint", "endpoint should be a DSN URI in the format <scheme>://<authority>"
            )
            return text
        scheme = text.partition("://")[0].lower()
        if scheme in DATASTORE_SCHEMES:
            return text
        known = ", ".join(f"{scheme}://" for scheme in DATASTORE_SCHEMES)
        if scheme in _LATER_SCHEMES:
            self.problem(
                where, f"the {scheme} datastore is not there yet", f"use one of {known}, or leave the option out for SQLite"
            )
        else:
            self.problem(where, f"there is no datastore {scheme}://", f"use one of {known}, or leave the option out for SQLite")
        return text

    def disable(self) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(self.loaded.items("disable")))
        if "coredns" in names:
            self.problem(
                self.origin("disable"), "the cluster DNS is part of k3sd and cannot be disabled yet", "leave coredns out"
            )
        return names

    # node

    def node_name(self) -> str:
        given = self.loaded.text("node-name")
        name = (given or self.machine.hostname()).lower()
        where = self.origin("node-name") if given else "host name"
        if not _is_subdomain(name):
            self.problem(where, f"{name!r} cannot be a node's name", "choose one of letters, digits, - and . with --node-name")
        elif not given and name in ("localhost", "localhost.localdomain"):
            self.problem(
                where, f"{name!r} does not tell nodes apart", "set one with hostnamectl, or with --node-name", fatal=False
            )
        return name

    def labels(self, name: str) -> tuple[str, ...]:
        for text in self.loaded.items(name):
            key, equals, value = text.partition("=")
            if not equals or not _is_label_key(key) or (value and not _is_label_value(value)):
                self.problem(self.origin(name, text), f"{name} {text!r} is no label", "write key=value, such as disk=ssd")
        return self.loaded.items(name)

    def taints(self, name: str) -> tuple[str, ...]:
        for text in self.loaded.items(name):
            head, _, effect = text.rpartition(":")
            key, _, value = head.partition("=")
            if effect not in _TAINT_EFFECTS or not _is_label_key(key) or (value and not _is_label_value(value)):
                effects = ", ".join(_TAINT_EFFECTS)
                self.problem(
                    self.origin(name, text),
                    f"{name} {text!r} is no taint",
                    f"write key=value:EFFECT with EFFECT one of {effects}",
                )
        return self.loaded.items(name)

    def runtime_endpoint(self) -> str:
        text = self.loaded.text("container-runtime-endpoint")
        if text == str(CONTAINERD_SOCKET):
            # Paths.containerd_socket is what Settings falls back to; naming it would switch k3sd's own containerd off.
            return ""
        if text and text.removeprefix("unix://")[:1] != "/":
            self.problem(
                self.origin("container-runtime-endpoint"),
                f"container-runtime-endpoint is {text!r}",
                "write a socket such as unix:///run/containerd/containerd.sock",
            )
        return text

    def pause_image(self) -> str:
        image = self.loaded.text("pause-image")
        registry = self.loaded.text("system-default-registry").strip("/")
        if registry and not self.loaded.values["pause-image"].explicit:
            return f"{registry}/{image}"
        first, slash, _ = image.partition("/")
        if not slash:
            return f"docker.io/library/{image}"
        return image if "." in first or ":" in first or first == "localhost" else f"docker.io/{image}"

    def component_args(self, *names: str) -> dict[str, tuple[str, ...]]:
        result: dict[str, tuple[str, ...]] = {}
        for name in names:
            if name not in self.loaded.values:
                continue
            for item in self.loaded.items(name):
                parsed, problems = parse_component_args(name, [item], self.origin(name, item))
                self.problems.extend(problems)
                self.problems.extend(check_component_args(names[0], parsed, self.origin(name, item)))
                for key, values in parsed.items():
                    result[key] = result.get(key, ()) + values
        return result

    def systemd_cgroup(self) -> bool:
        """K3s's rule: the systemd cgroup driver where systemd started us. ``kubelet-arg=cgroup-driver=`` overrides it."""
        drivers = [v.partition("=")[2] for v in self.loaded.items("kubelet-arg") if v.partition("=")[0] == "cgroup-driver"]
        return bool(drivers) and drivers[-1] == "systemd"

    def check_secrecy(self) -> None:
        """Secrets in files that others can read."""
        for value in self.loaded.values.values():
            path = Path(value.origin.rpartition(":")[0])
            if value.option.secret and value.value and path.is_file() and path.stat().st_mode & 0o044:
                self.problem(value.origin, f"everyone can read the {value.option.name}", f"run: chmod 600 {path}", fatal=False)

    def check_combinations(self) -> None:
        """Fatal combinations of options whose parts exist or not: refused options are reported by the loader alone."""
        if self.is_set("cluster-reset-restore-path") and not self.loaded.flag("cluster-reset"):
            self.problem(
                self.origin("cluster-reset-restore-path"),
                "invalid flag use; --cluster-reset required with --cluster-reset-restore-path",
                "give both",
            )
        if self.loaded.flag("cluster-reset") and self.is_set("server"):
            self.problem(
                self.origin("cluster-reset"),
                "cannot perform cluster-reset while server URL is set",
                "remove server from configuration before resetting",
            )
        if self.loaded.flag("disable-etcd") and not self.is_set("server"):
            self.problem(self.origin("disable-etcd"), "invalid flag use; --server is required with --disable-etcd", "give both")
        for name in ("disable-etcd", "disable-apiserver"):
            if self.loaded.flag(name) and self.is_set("datastore-endpoint"):
                self.problem(
                    self.origin(name), f"invalid flag use; cannot use --{name} with --datastore-endpoint", "give only one"
                )
        if self.loaded.flag("cluster-init") and self.is_set("datastore-endpoint"):
            self.problem(
                self.origin("cluster-init"),
                "cluster-init starts embedded etcd, but datastore-endpoint names a database",
                "give only one",
            )
        if self.is_set("datastore-certfile") != self.is_set("datastore-keyfile"):
            name = "datastore-certfile" if self.is_set("datastore-certfile") else "datastore-keyfile"
            self.problem(self.origin(name), "datastore-certfile and datastore-keyfile belong together", "give both")
        if (self.is_set("vpn-auth") or self.is_set("vpn-auth-file")) and self.loaded.text("flannel-backend") == "none":
            self.problem(self.origin("flannel-backend"), "vpn-auth requires flannel", "choose another flannel-backend")
        if self.loaded.flag("rootless") and not self.loaded.flag("disable-agent") and not self.machine.is_root():
            return  # refused by the loader already
        data = Path(self.loaded.text("data-dir"))
        if data.exists() and not data.is_dir():
            self.problem(self.origin("data-dir"), f"{data} is not a directory", "name a directory")
        if not self.loaded.text("datastore-endpoint") and (Paths(data).etcd / "member").is_dir():
            self.problem(
                self.origin("data-dir"),
                f"{data} holds a cluster on embedded etcd, which is not there yet",
                "name another --data-dir, or run K3s on this one",
            )


def _families(versions: Collection[int]) -> str:
    return " and ".join(f"IPv{version}" for version in sorted(versions))


def _is_subdomain(text: str) -> bool:
    return len(text) <= 253 and bool(_SUBDOMAIN.fullmatch(text))


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _is_subdomain(text)
    return True


def _is_label_key(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    return bool(_LABEL_NAME.fullmatch(name)) and (not slash or _is_subdomain(prefix))


def _is_label_value(text: str) -> bool:
    return bool(_LABEL_NAME.fullmatch(text))
