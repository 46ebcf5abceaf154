"""The cluster's DNS server, one a node, on the cluster DNS address.

Answers the Kubernetes DNS specification 1.1.0 (kubernetes/dns, docs/specification.md) from the informers: services, headless
endpoints, named ports (SRV), reverse names, pods by address (CoreDNS's ``pods insecure``), node names; and forwards the rest to
the host's resolvers. ``Zone`` is pure; ``DNSServer`` does the I/O.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import random
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dnslib import AAAA, CNAME, PTR, QTYPE, RCODE, RR, SOA, SRV, A, DNSHeader, DNSRecord

from k3sd.client.informer import Informer
from k3sd.config.settings import Settings

log = logging.getLogger(__name__)

Obj = dict[str, Any]
TTL_SECONDS = 5
FORWARD_TIMEOUT_SECONDS = 2.0
CACHE_SECONDS = 30
CACHE_ENTRIES = 2000
UDP_LIMIT_BYTES = 1232
SERVICE_LABEL = "kubernetes.io/service-name"


class Zone:
    """Names of one cluster domain, looked up in the informers' stores when asked; nothing is copied.

    ``slices_of(namespace/name)`` gives the EndpointSlices of a Service; ``service`` the Service or None.
    """

    def __init__(
        self,
        domain: str,
        service: Callable[[str], Obj | None],
        namespaces: Callable[[str], bool],
        slices_of: Callable[[str], Iterable[Obj]],
        service_by_ip: Callable[[str], Iterable[Obj]],
        slices_by_ip: Callable[[str], Iterable[Obj]],
        node_ip: Callable[[str], str],
    ) -> None:
        self.domain = domain.lower().strip(".")
        self._labels = self.domain.split(".")
        self._service = service
        self._namespace_exists = namespaces
        self._slices_of = slices_of
        self._service_by_ip = service_by_ip
        self._slices_by_ip = slices_by_ip
        self._node_ip = node_ip

    def answer(self, name: str, qtype: str) -> tuple[int, list[RR]] | None:
        """``(rcode, records)``, or None when the name is not ours. ``name`` is lower case without the final dot."""
        labels = name.split(".")
        if labels[-2:] == ["in-addr", "arpa"]:
            return self._reverse(name, labels[:-2])
        if labels[-len(self._labels) :] != self._labels:
            address = self._node_ip(name)
            return (RCODE.NOERROR, _addresses(name, [address], qtype)) if address else None
        rest = labels[: -len(self._labels)]
        if not rest:
            return (RCODE.NOERROR, [self.soa()] if qtype == "SOA" else [])
        if rest == ["dns-version"]:
            return RCODE.NOERROR, []
        kind = rest[-1]
        if kind == "svc":
            return self._service_name(name, rest[:-1], qtype)
        if kind == "pod":
            return self._pod_name(name, rest[:-1], qtype)
        return RCODE.NXDOMAIN, []

    def soa(self) -> RR:
        times = (int(time.time()), 7200, 1800, 86400, TTL_SECONDS)
        record = SOA(f"ns.dns.{self.domain}.", f"hostmaster.{self.domain}.", times)
        return RR(f"{self.domain}.", QTYPE.SOA, ttl=TTL_SECONDS, rdata=record)

    def _pod_name(self, name: str, rest: list[str], qtype: str) -> tuple[int, list[RR]]:
        if len(rest) == 1:
            return (RCODE.NOERROR if self._namespace_exists(rest[0]) else RCODE.NXDOMAIN), []
        if len(rest) != 2 or not self._namespace_exists(rest[1]):
            return RCODE.NXDOMAIN, []
        try:
            address = ipaddress.IPv4Address(rest[0].replace("-", "."))
        except ValueError:
            return RCODE.NXDOMAIN, []
        return RCODE.NOERROR, _addresses(name, [str(address)], qtype)

    def _service_name(self, name: str, rest: list[str], qtype: str) -> tuple[int, list[RR]]:
        """``rest``: labels before ``svc``: [ns], [svc, ns], [host, svc, ns], [_port, _proto, svc, ns]."""
        if not rest:
            return RCODE.NOERROR, []
        if len(rest) == 1:
            return (RCODE.NOERROR if self._namespace_exists(rest[0]) else RCODE.NXDOMAIN), []
        namespace, service_name = rest[-1], rest[-2]
        service = self._service(f"{namespace}/{service_name}")
        if service is None or len(rest) > 4:
            return RCODE.NXDOMAIN, []
        spec = service.get("spec") or {}
        if len(rest) == 4 or (len(rest) == 3 and rest[0].startswith("_")):
            return self._ports(name, rest[:-2], service, qtype)
        if spec.get("type") == "ExternalName":
            if len(rest) != 2:
                return RCODE.NXDOMAIN, []
            target = str(spec.get("externalName") or "").rstrip(".") + "."
            return RCODE.NOERROR, [RR(name + ".", QTYPE.CNAME, ttl=TTL_SECONDS, rdata=CNAME(target))]
        if spec.get("clusterIP") not in (None, "", "None"):
            if len(rest) == 3:
                addresses = self._hosts(service, rest[0])
                return (RCODE.NOERROR, _addresses(name, addresses, qtype)) if addresses else (RCODE.NXDOMAIN, [])
            return RCODE.NOERROR, self._with_srv(name, service, qtype, spec.get("clusterIPs") or [spec["clusterIP"]])
        hosts = self._hosts(service, rest[0] if len(rest) == 3 else "")
        if not hosts:
            return RCODE.NXDOMAIN, []
        if qtype == "SRV" and len(rest) == 2:
            return self._ports(name, ["*", "*"], service, qtype)
        return RCODE.NOERROR, _addresses(name, hosts, qtype)

    def _with_srv(self, name: str, service: Obj, qtype: str, addresses: list[str]) -> list[RR]:
        if qtype == "SRV":
            return self._ports(name, ["*", "*"], service, qtype)[1]
        return _addresses(name, addresses, qtype)

    def _endpoints(self, service: Obj) -> Iterable[tuple[str, str, list[Obj]]]:
        """``(host label, address, ports)`` of each endpoint a name may lead to."""
        meta = service["metadata"]
        everyone = bool((service.get("spec") or {}).get("publishNotReadyAddresses"))
        for item in self._slices_of(f"{meta['namespace']}/{meta['name']}"):
            for endpoint in item.get("endpoints") or ():
                if not everyone and (endpoint.get("conditions") or {}).get("ready") is False:
                    continue
                for address in endpoint.get("addresses") or ():
                    host = endpoint.get("hostname") or address.replace(".", "-").replace(":", "-")
                    yield host, address, item.get("ports") or []

    def _hosts(self, service: Obj, host: str) -> list[str]:
        return list(dict.fromkeys(a for h, a, _ in self._endpoints(service) if not host or h == host))

    def _ports(self, name: str, want: list[str], service: Obj, qtype: str) -> tuple[int, list[RR]]:
        """SRV records. ``want`` is [_port, _protocol] or [_port]."""
        port_name = want[0].lstrip("_")
        protocol = want[1].lstrip("_") if len(want) > 1 else "*"
        meta, spec = service["metadata"], service.get("spec") or {}
        base = f"{meta['name']}.{meta['namespace']}.svc.{self.domain}."
        found: list[tuple[str, int]] = []
        if spec.get("clusterIP") not in (None, "", "None"):
            for port in spec.get("ports") or ():
                if _port_matches(port, port_name, protocol):
                    found.append((base, port["port"]))
        else:
            for host, _, ports in self._endpoints(service):
                found += [(f"{host}.{base}", port["port"]) for port in ports if _port_matches(port, port_name, protocol)]
        if not found:
            return RCODE.NXDOMAIN, []
        if qtype not in ("SRV", "ANY"):
            return RCODE.NOERROR, []
        weight = max(1, 100 // len(found))
        return RCODE.NOERROR, [
            RR(name + ".", QTYPE.SRV, ttl=TTL_SECONDS, rdata=SRV(0, weight, number, target))
            for target, number in dict.fromkeys(found)
        ]

    def _reverse(self, name: str, labels: list[str]) -> tuple[int, list[RR]] | None:
        if len(labels) != 4:
            return None
        address = ".".join(reversed(labels))
        names: list[str] = []
        for service in self._service_by_ip(address):
            meta = service["metadata"]
            names.append(f"{meta['name']}.{meta['namespace']}.svc.{self.domain}.")
        for item in self._slices_by_ip(address) if not names else ():
            meta = item["metadata"]
            owner = (meta.get("labels") or {}).get(SERVICE_LABEL)
            if not owner:
                continue
            for endpoint in item.get("endpoints") or ():
                if address in (endpoint.get("addresses") or ()):
                    host = endpoint.get("hostname") or address.replace(".", "-")
                    names.append(f"{host}.{owner}.{meta['namespace']}.svc.{self.domain}.")
        if not names:
            return None
        return RCODE.NOERROR, [RR(name + ".", QTYPE.PTR, ttl=TTL_SECONDS, rdata=PTR(n)) for n in dict.fromkeys(names)]


def _port_matches(port: Obj, name: str, protocol: str) -> bool:
    return (name == "*" or (port.get("name") or "") == name) and (
        protocol == "*" or (port.get("protocol") or "TCP").lower() == protocol
    )


def _addresses(name: str, addresses: Iterable[str], qtype: str) -> list[RR]:
    """Address records of the asked type, in random order so that clients spread."""
    records = []
    for address in addresses:
        if ":" in address and qtype in ("AAAA", "ANY"):
            records.append(RR(name + ".", QTYPE.AAAA, ttl=TTL_SECONDS, rdata=AAAA(address)))
        elif ":" not in address and qtype in ("A", "ANY"):
            records.append(RR(name + ".", QTYPE.A, ttl=TTL_SECONDS, rdata=A(address)))
    random.shuffle(records)
    return records


class Upstreams:
    """The host's resolvers, read again when the file changes (checked when asked, at most each five seconds)."""

    def __init__(self, path: str, own: str) -> None:
        self._path = Path(path or "/etc/resolv.conf")
        self._own = own
        self._checked = 0.0
        self._stamp: tuple[int, int] = (0, 0)
        self._servers: list[str] = []

    def servers(self) -> list[str]:
        now = time.monotonic()
        if now - self._checked > 5 or not self._checked:
            self._checked = now
            self._read()
        return self._servers

    def _read(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            lines = self._path.read_text().splitlines()
        except OSError:
            self._servers = []
            return
        self._stamp = stamp
        words = [line.split() for line in lines]
        self._servers = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and w[1] != self._own][:3]


class DNSServer:
    """UDP and TCP on ``address``:53. ``services``, ``slices`` and ``nodes`` are shared informers, started by the owner."""

    def __init__(
        self, settings: Settings, services: Informer, slices: Informer, nodes: Informer | None = None, port: int = 53
    ) -> None:  # fmt: skip
        self._settings = settings
        self._services = services
        self._slices = slices
        self._port = port
        services.add_index("ip", _service_ips)
        services.add_index("namespace", lambda o: [o["metadata"]["namespace"]])
        slices.add_index("service", _slice_service)
        slices.add_index("address", _slice_addresses)
        self._upstreams = Upstreams(settings.resolv_conf, settings.cluster_dns)
        self._cache: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()
        self._transport: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        if nodes is not None:
            nodes.add_index("name", lambda o: [o["metadata"]["name"].lower()])
        self._nodes = nodes
        self.zone = Zone(
            settings.cluster_domain,
            services.get,
            self._namespace_exists,
            lambda key: slices.by_index("service", key),
            lambda ip: services.by_index("ip", ip),
            lambda ip: slices.by_index("address", ip),
            self._node_address,
        )

    def _namespace_exists(self, namespace: str) -> bool:
        """A namespace is known by its services; ``default`` has one always."""
        return namespace in ("default", "kube-system") or bool(list(self._services.by_index("namespace", namespace)))

    def _node_address(self, name: str) -> str:
        if self._nodes is None or "." in name:
            return ""
        for node in self._nodes.by_index("name", name):
            for address in (node.get("status") or {}).get("addresses") or ():
                if address.get("type") == "InternalIP":
                    return str(address.get("address"))
        return ""

    async def start(self, address: str = "") -> None:
        """Listen. Raises OSError naming the address when port 53 there is taken."""
        host = address or self._settings.cluster_dns
        loop = asyncio.get_running_loop()
        datagrams, streams = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            for listener in (datagrams, streams):
                listener.setblocking(False)
                listener.bind((host, self._port))
            streams.listen()
        except OSError as error:
            datagrams.close()
            streams.close()
            raise OSError(error.errno, f"cluster DNS cannot listen on {host}:{self._port}: {error.strerror}") from error
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        self._tcp = await asyncio.start_server(self._serve_tcp, sock=streams)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in self._tasks:
            task.cancel()

    def local_answer(self, data: bytes) -> bytes | None:
        """The answer from the zone, or None when the query has to be forwarded. Bad queries get FORMERR or are dropped."""
        try:
            query = DNSRecord.parse(data)
            question = query.questions[0]
        except Exception:
            return _format_error(data)
        qtype = QTYPE.get(question.qtype, str(question.qtype))
        name = str(question.qname).rstrip(".").lower()
        found = self.zone.answer(name, qtype)
        if found is None:
            return None
        rcode, records = found
        reply = query.reply(aa=1, ra=1)
        reply.header.rcode = rcode
        reply.add_answer(*records)
        self._chase(reply, records, qtype)
        if not reply.rr:
            reply.add_auth(self.zone.soa())
        return bytes(reply.pack())

    def _chase(self, reply: DNSRecord, records: list[RR], qtype: str) -> None:
        """Follow a CNAME inside the cluster; add the addresses of SRV targets, as CoreDNS does."""
        for record in records:
            if record.rtype == QTYPE.CNAME and qtype in ("A", "AAAA"):
                inner = self.zone.answer(str(record.rdata.label).rstrip(".").lower(), qtype)
                if inner is not None:
                    reply.add_answer(*inner[1])
            elif record.rtype == QTYPE.SRV:
                inner = self.zone.answer(str(record.rdata.target).rstrip(".").lower(), "A")
                if inner is not None:
                    reply.add_ar(*inner[1])

    async def resolve(self, data: bytes, tcp: bool) -> bytes | None:
        """The answer to one query; None when it deserves none."""
        answer = self.local_answer(data)
        if answer is not None:
            if not answer:
                return None
            outside = _outside_cname(answer, self.zone.domain)
            if outside is None:
                return answer
            return await self._complete_cname(data, answer, outside, tcp)
        return await self._forward(data, tcp)

    async def _complete_cname(self, data: bytes, answer: bytes, target: str, tcp: bool) -> bytes:
        """An ExternalName leads outside: ask upstream for the target and append what it says."""
        reply = DNSRecord.parse(answer)
        query = DNSRecord.question(target, QTYPE.get(reply.questions[0].qtype))
        upstream = await self._forward(bytes(query.pack()), tcp)
        if upstream is not None:
            reply.auth.clear()
            reply.add_answer(*DNSRecord.parse(upstream).rr)
        return bytes(reply.pack())

    async def _forward(self, data: bytes, tcp: bool) -> bytes:
        query = DNSRecord.parse(data)
        key = (str(query.q.qname).lower(), f"{query.q.qtype}/{tcp}")
        now = time.monotonic()
        if (hit := self._cache.get(key)) and hit[0] > now:
            return data[:2] + hit[1][2:]
        for server in self._upstreams.servers():
            try:
                async with asyncio.timeout(FORWARD_TIMEOUT_SECONDS):
                    answer = await (_ask_tcp(server, data) if tcp else _ask_udp(server, data))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
            self._remember(key, answer, now)
            return answer
        reply = query.reply(ra=1)
        reply.header.rcode = RCODE.SERVFAIL
        return bytes(reply.pack())

    def _remember(self, key: tuple[str, str], answer: bytes, now: float) -> None:
        ttl = _shortest_ttl(answer)
        if ttl <= 0:
            return
        self._cache[key] = (now + min(ttl, CACHE_SECONDS), answer)
        self._cache.move_to_end(key)
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    def datagram(self, data: bytes, peer: Any) -> None:
        answer = self.local_answer(data)
        if answer is not None and (not answer or _outside_cname(answer, self.zone.domain) is None):
            if answer and self._transport is not None:
                self._transport.sendto(_fit(answer, data), peer)
            return
        task = asyncio.get_running_loop().create_task(self._answer_later(data, peer), name="dns-forward")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_later(self, data: bytes, peer: Any) -> None:
        answer = await self.resolve(data, tcp=False)
        if answer and self._transport is not None:
            self._transport.sendto(_fit(answer, data), peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(10):
                    size = struct.unpack("!H", await reader.readexactly(2))[0]
                    data = await reader.readexactly(size)
                answer = await self.resolve(data, tcp=True)
                if answer is None:
                    break
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DNSServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.datagram(data, addr)


def _format_error(data: bytes) -> bytes:
    """FORMERR when at least an id can be read and it is a query; else nothing, so that two servers never argue."""
    if len(data) < 12 or data[2] & 0x80:
        return b""
    return bytes(DNSRecord(DNSHeader(id=struct.unpack("!H", data[:2])[0], qr=1, rcode=RCODE.FORMERR)).pack())


def _outside_cname(answer: bytes, domain: str) -> str | None:
    """The target of a lone CNAME that leads out of the cluster and still needs an address."""
    reply = DNSRecord.parse(answer)
    if len(reply.rr) != 1 or reply.rr[0].rtype != QTYPE.CNAME or reply.q.qtype not in (QTYPE.A, QTYPE.AAAA):
        return None
    target = str(reply.rr[0].rdata.label).rstrip(".")
    return None if target.lower().endswith(domain) else target


def _fit(answer: bytes, query: bytes) -> bytes:
    """Truncate a UDP answer that is larger than the client takes (512 bytes, or what its OPT record says)."""
    if len(answer) <= 512:
        return answer
    limit = 512
    for record in DNSRecord.parse(query).ar:
        if record.rtype == QTYPE.OPT:
            limit = max(512, min(record.rclass, UDP_LIMIT_BYTES))
    return answer if len(answer) <= limit else bytes(DNSRecord.parse(answer).truncate().pack())


def _shortest_ttl(answer: bytes) -> int:
    try:
        record = DNSRecord.parse(answer)
    except Exception:
        return 0
    if record.header.rcode not in (RCODE.NOERROR, RCODE.NXDOMAIN) or record.header.tc:
        return 0
    return min((r.ttl for r in (*record.rr, *record.auth)), default=5)


async def _ask_udp(server: str, data: bytes) -> bytes:
    """One datagram from a fresh socket: its random port, with the id, is what protects against forged answers."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server, 53))
        identity = os.urandom(2)
        await loop.sock_sendall(sock, identity + data[2:])
        while True:
            answer = await loop.sock_recv(sock, 65535)
            if answer[:2] == identity:
                return data[:2] + answer[2:]


async def _ask_tcp(server: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, 53)
    try:
        writer.write(struct.pack("!H", len(data)) + data)
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        return await reader.readexactly(size)
    finally:
        writer.close()


def _service_ips(service: Obj) -> list[str]:
    spec = service.get("spec") or {}
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]


def _slice_service(item: Obj) -> list[str]:
    meta = item["metadata"]
    name = (meta.get("labels") or {}).get(SERVICE_LABEL)
    return [f"{meta['namespace']}/{name}"] if name else []


def _slice_addresses(item: Obj) -> list[str]:
    return [a for e in item.get("endpoints") or () for a in e.get("addresses") or ()]
