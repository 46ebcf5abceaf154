"""The gRPC server: services, listeners, errors. ``serve`` runs the face alone."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from k3sd.datastore import etcdrpc, open_backend
from k3sd.datastore.backend import Backend, DatastoreError
from k3sd.etcdface.call import Call, Code, Methods
from k3sd.etcdface.grpcserver import GrpcServer
from k3sd.etcdface.kv import KV
from k3sd.etcdface.watch import Encoder, Stream
from k3sd.etcdface.wire import MEMBER_ID, Refused, header, status_of, unsupported

log = logging.getLogger(__name__)

VERSION = "3.6.11"
"""What kube-apiserver's feature probe must see to use progress requests."""
STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """PEM file names. With ``client_ca`` clients need a certificate of it."""

    cert: str
    key: str
    client_ca: str = ""


class EtcdFace:
    """Serves a started backend. ``listen`` is ``unix:///path``, ``http://host:port``, or with ``tls`` ``https://host:port``."""

    def __init__(self, backend: Backend, listen: str, tls: ServerTLS | None = None) -> None:
        self._backend = backend
        self._listen = listen
        self._tls = tls
        self._kv = KV(backend)
        self._encoder = Encoder()
        self._server: GrpcServer | None = None

    async def start(self) -> None:
        """Listen. Raises DatastoreError with the address when that is not possible."""
        scheme, _, address = self._listen.partition("://")
        if scheme not in ("unix", "http", "https") or not address:
            raise DatastoreError(
                f"cannot listen on {self._listen!r}: write unix:///path, http://host:port or https://host:port"
            )
        server = GrpcServer(self._methods())
        try:
            if scheme == "unix":
                await server.listen_unix(address)
            else:
                host, _, port = address.rpartition(":")
                if not port.isdecimal():
                    raise DatastoreError(f"cannot listen on {self._listen!r}: the port is missing")
                context = self._context() if scheme == "https" else None
                host = host.strip("[]")
                if (context is None or context.verify_mode != ssl.CERT_REQUIRED) and not _is_loopback(host):
                    raise DatastoreError(
                        f"cannot listen on {self._listen!r}: everybody who reaches it could read and change the cluster; use "
                        "https with --cert, --key and --client-ca, or listen on unix:///path or 127.0.0.1"
                    )
                await server.listen_tcp(host or None, int(port), context)
        except OSError as e:
            raise DatastoreError(f"cannot listen on {self._listen!r}: {e.strerror or e}") from e
        self._server = server

    async def stop(self) -> None:
        self._kv.stop()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
            self._server = None

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            raise DatastoreError(f"cannot listen on {self._listen!r}: a certificate and a key are needed")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        name = self._tls.cert
        try:
            context.load_cert_chain(self._tls.cert, self._tls.key)
            if self._tls.client_ca:
                name = self._tls.client_ca
                context.load_verify_locations(name)
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as e:
            reason = e.reason or "it is not PEM"
            raise DatastoreError(f"cannot use {name} to listen on {self._listen!r}: {reason}") from e
        except OSError as e:
            raise DatastoreError(f"cannot read {e.filename or name} to listen on {self._listen!r}: {e.strerror}") from e
        return context

    def _methods(self) -> Methods:
        unary, streams = {}, {}
        for service, methods in etcdrpc.METHODS.items():
            for method, names in methods.items():
                path = etcdrpc.path(service, method).encode()
                request, _ = (etcdrpc.messages[name] for name in names)
                implementation = getattr(self._kv if service == "KV" else self, method, None)
                if method in etcdrpc.STREAMS:
                    streams[path] = implementation or _refusing_stream(method)
                else:
                    unary[path] = _unary(implementation or _refusing(method), request.FromString)
        return Methods(unary, streams)

    # Watch

    async def Watch(self, call: Call) -> None:
        await Stream(self._backend, self._encoder, call).run()

    # Lease

    async def LeaseGrant(self, request: Any) -> Any:
        """A lease is its time to live in seconds, and so is its id, whatever id was wished for (as in kine)."""
        if request.TTL <= 0:
            raise Refused("etcdserver: too small lease TTL", Code.OUT_OF_RANGE)
        revision = await self._backend.revision()
        return etcdrpc.LeaseGrantResponse(header=header(revision), ID=request.TTL, TTL=request.TTL)

    async def LeaseRevoke(self, request: Any) -> Any:
        """Would end the keys of everybody who chose the same time to live."""
        unsupported("LeaseRevoke")

    async def LeaseKeepAlive(self, call: Call) -> None:
        """Renews every key whose time to live is this lease's: they cannot be told apart."""
        async for message in call:
            lease = _parse(etcdrpc.LeaseKeepAliveRequest.FromString, message).ID
            try:
                await self._backend.renew(lease)
                revision = await self._backend.revision()
            except DatastoreError as e:
                raise status_of(e) from e
            call.send(etcdrpc.LeaseKeepAliveResponse(header=header(revision), ID=lease, TTL=lease).SerializeToString())
            await call.drain()

    async def LeaseTimeToLive(self, request: Any) -> Any:
        if request.keys:
            unsupported("listing the keys of a lease")
        revision = await self._backend.revision()
        return etcdrpc.LeaseTimeToLiveResponse(header=header(revision), ID=request.ID, TTL=request.ID, grantedTTL=request.ID)

    # Cluster, Maintenance

    async def MemberList(self, request: Any) -> Any:
        member = etcdrpc.Member(ID=MEMBER_ID, name="k3sd", clientURLs=[self._listen], peerURLs=[])
        return etcdrpc.MemberListResponse(header=header(await self._backend.revision()), members=[member])

    async def Status(self, request: Any) -> Any:
        size = await self._backend.size()
        revision = await self._backend.revision()
        return etcdrpc.StatusResponse(
            header=header(revision),
            version=VERSION,
            dbSize=size,
            dbSizeInUse=size,
            leader=MEMBER_ID,
            raftIndex=revision,
            raftTerm=1,
            raftAppliedIndex=revision,
            errors=[self._backend.problem] if self._backend.problem else [],
        )

    async def Alarm(self, request: Any) -> Any:
        if request.action != 0:
            unsupported("setting and clearing alarms")
        return etcdrpc.AlarmResponse(header=header(await self._backend.revision()))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(parse: Callable[[bytes], Any], message: bytes) -> Any:
    try:
        return parse(message)
    except DecodeError as e:
        raise Refused(f"the request is no message of etcd: {e}", Code.INTERNAL) from e


def _unary(function: Callable[[Any], Awaitable[Any]], parse: Callable[[bytes], Any]) -> Callable[[bytes], Awaitable[bytes]]:
    async def call(message: bytes) -> bytes:
        request = _parse(parse, message)
        try:
            response = await function(request)
        except DatastoreError as e:
            raise status_of(e) from e
        encoded: bytes = response if isinstance(response, bytes) else response.SerializeToString()
        return encoded

    return call


def _refusing(method: str) -> Callable[[Any], Awaitable[Any]]:
    async def refuse(request: Any) -> Any:
        unsupported(method)

    return refuse


def _refusing_stream(method: str) -> Callable[[Call], Awaitable[None]]:
    async def refuse(call: Call) -> None:
        unsupported(method)

    return refuse


async def serve(
    endpoint: str,
    listen: str,
    *,
    data_dir: Path,
    cafile: str = "",
    certfile: str = "",
    keyfile: str = "",
    tls: ServerTLS | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """``k3sd datastore serve``: open the datastore and serve it until cancelled. Raises DatastoreError."""
    backend = open_backend(endpoint, data_dir=data_dir, cafile=cafile, certfile=certfile, keyfile=keyfile)
    await backend.start()
    try:
        face = EtcdFace(backend, listen, tls)
        await face.start()
        try:
            log.info("serving the datastore as etcd on %s", listen)
            if ready is not None:
                ready()
            await asyncio.get_running_loop().create_future()
        finally:
            await face.stop()
    finally:
        await backend.stop()
