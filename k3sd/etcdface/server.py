"""The gRPC server: services, listeners, errors. ``serve`` runs the face alone."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from k3sd.datastore import etcdrpc, open_backend
from k3sd.datastore.backend import Backend, DatastoreError
from k3sd.etcdface.kv import KV
from k3sd.etcdface.watch import Stream
from k3sd.etcdface.wire import MEMBER_ID, Refused, header, status_of, unsupported

log = logging.getLogger(__name__)

VERSION = "3.6.11"
"""What kube-apiserver's feature probe must see to use progress requests."""
MAX_RECEIVE_BYTES = 16 << 20
STOP_SECONDS = 2.0
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
]


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
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises DatastoreError with the address when that is not possible."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(
                    f"etcdserverpb.{service}", {method: self._handler(service, method) for method in methods}
                )
                for service, methods in etcdrpc.METHODS.items()
            )
        )
        scheme, _, address = self._listen.partition("://")
        if scheme not in ("unix", "http", "https") or not address:
            raise DatastoreError(
                f"cannot listen on {self._listen!r}: write unix:///path, http://host:port or https://host:port"
            )
        if scheme == "https" and self._tls is None:
            raise DatastoreError(f"cannot listen on {self._listen!r}: a certificate and a key are needed")
        target = f"unix:{address}" if scheme == "unix" else address
        if scheme == "unix":
            Path(address).unlink(missing_ok=True)
        try:
            if scheme == "https":
                server.add_secure_port(target, self._credentials())
            else:
                server.add_insecure_port(target)
        except RuntimeError as e:
            raise DatastoreError(f"cannot listen on {self._listen!r}: is the address in use?") from e
        if scheme == "unix":
            os.chmod(address, 0o600)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
            self._server = None

    def _credentials(self) -> grpc.ServerCredentials:
        assert self._tls is not None
        try:
            pair = (Path(self._tls.key).read_bytes(), Path(self._tls.cert).read_bytes())
            ca = Path(self._tls.client_ca).read_bytes() if self._tls.client_ca else None
        except OSError as e:
            raise DatastoreError(f"cannot read {e.filename} to listen on {self._listen!r}: {e.strerror}") from e
        return grpc.ssl_server_credentials([pair], ca, ca is not None)

    def _handler(self, service: str, method: str) -> grpc.RpcMethodHandler:
        request, response = (etcdrpc.messages[name] for name in etcdrpc.METHODS[service][method])
        implementation = getattr(self._kv if service == "KV" else self, method, None)
        streams = etcdrpc.STREAMS.get(method, (False, False))
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[streams]
        if implementation is None:
            wrapped: Any = _refusing_stream(method) if streams[1] else _unary(_refusing(method))
        else:
            wrapped = _stream(implementation) if streams[1] else _unary(implementation)
        return make(wrapped, request_deserializer=request.FromString, response_serializer=response.SerializeToString)

    # Watch

    async def Watch(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for response in Stream(self._backend, requests).responses():
            yield response

    # Lease

    async def LeaseGrant(self, request: Any) -> Any:
        """A lease is its time to live in seconds, and so is its id, whatever id was wished for (as in kine)."""
        if request.TTL <= 0:
            raise Refused("etcdserver: too small lease TTL", grpc.StatusCode.OUT_OF_RANGE)
        revision = await self._backend.revision()
        return etcdrpc.LeaseGrantResponse(header=header(revision), ID=request.TTL, TTL=request.TTL)

    async def LeaseKeepAlive(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Renews every key whose time to live is this lease's: they cannot be told apart."""
        async for request in requests:
            await self._backend.renew(request.ID)
            revision = await self._backend.revision()
            yield etcdrpc.LeaseKeepAliveResponse(header=header(revision), ID=request.ID, TTL=request.ID)

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


Unary = Callable[[Any], Awaitable[Any]]


def _refusing(method: str) -> Unary:
    async def refuse(request: Any) -> Any:
        unsupported(method)

    return refuse


def _refusing_stream(method: str) -> Any:
    async def refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented by k3sd")
        yield None

    return refuse


def _unary(function: Unary) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await function(request)
        except Refused as e:
            await context.abort(e.code, str(e))
        except DatastoreError as e:
            await context.abort(*status_of(e))

    return call


def _stream(function: Callable[[Any], AsyncIterator[Any]]) -> Any:
    async def call(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in function(requests):
                yield response
        except Refused as e:
            await context.abort(e.code, str(e))
        except DatastoreError as e:
            await context.abort(*status_of(e))

    return call


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
