"""Facts of this machine that option resolution needs: host name, addresses, init system. Standard library only.

``Machine`` is what ``resolve`` takes, so that tests can describe another one.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
_IF_INET6 = Path("/proc/net/if_inet6")
_SCOPE_GLOBAL = 0
# Interfaces made for containers never carry the node's address.
_CONTAINER_LINKS = ("lo", "cni", "flannel", "docker", "veth", "br-", "virbr", "kube-", "dummy-k3sd")


class Machine:
    """The machine this process runs on."""

    def hostname(self) -> str:
        return socket.gethostname()

    def default_address(self, family: int) -> str:
        """The source address of packets to the internet, or "" without a default route. Sends nothing."""
        target = "192.0.2.1" if family == 4 else "2001:db8::1"
        with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                return ""
            address = str(probe.getsockname()[0])
        return "" if ipaddress.ip_address(address).is_loopback else address

    def interface_addresses(self, interface: str) -> list[str]:
        """The interface's primary IPv4 address and its global IPv6 addresses."""
        found = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
            except OSError:
                pass  # the interface has no IPv4 address, or does not exist
        return found + [address for name, address in self._ipv6_addresses() if name == interface]

    def global_addresses(self) -> list[str]:
        """Addresses a node could have although there is no default route, in the order of the interfaces."""
        found = []
        for _, name in socket.if_nameindex():
            if not name.startswith(_CONTAINER_LINKS):
                found.extend(self.interface_addresses(name))
        return [address for address in found if not _is_local(address)]

    def is_systemd(self) -> bool:
        """Whether systemd is process 1."""
        return Path("/run/systemd/system").is_dir()

    def is_root(self) -> bool:
        return os.geteuid() == 0

    @staticmethod
    def _ipv6_addresses() -> list[tuple[str, str]]:
        try:
            lines = _IF_INET6.read_text().splitlines()
        except FileNotFoundError:
            return []  # the kernel has no IPv6
        rows = [line.split() for line in lines]
        return [(row[5], str(ipaddress.IPv6Address(bytes.fromhex(row[0])))) for row in rows if int(row[3], 16) == _SCOPE_GLOBAL]


def _is_local(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_link_local
