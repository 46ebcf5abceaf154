"""The kubelet's HTTPS server: logs, exec, attach, port-forward, stats, for the API server and those RBAC lets.

Source: Kubernetes 1.36, ``pkg/kubelet/server/server.go``. exec, attach and port-forward ask the runtime for a streaming URL and
``streaming`` joins it with the client's upgraded connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from aiohttp import web

from k3sd.apimachinery.errors import StatusError
from k3sd.client.api import Client
from k3sd.kubelet import logs, stats, streaming
from k3sd.kubelet.authz import Authorizer, Unauthenticated
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.downward import find_container
from k3sd.kubelet.volumes import subpath
from k3sd.lib.patience import PatientServer
from k3sd.lib.upgrade import BackendError

Obj = dict[str, Any]
log = logging.getLogger(__name__)

NODE_LOGS = Path("/var/log")
FILE_CHUNK_BYTES = 256 * 1024
RUN_SECONDS = 600


class Pods(Protocol):
    """What the server needs of the kubelet."""

    def pods(self) -> list[Obj]:
        """All pods of this node, each with its status as the kubelet knows it now."""
        ...

    def pod(self, namespace: str, name: str) -> Obj | None:
        """One of them."""
        ...

    def sandbox_id(self, uid: str) -> str | None:
        """The pod's ready sandbox."""
        ...

    async def wait_exited(self, container_id: str) -> None:
        """Return when the container runs no more and its log is complete; at once for an unknown one."""
        ...


class RequestError(Exception):
    """Answered as plain text with ``code``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _Request(web.BaseRequest):
    """A request that knows when its client has gone."""

    def _cancel(self, exc: BaseException) -> None:
        super()._cancel(exc)
        if gone := self.get("gone"):
            gone.set()


def server_tls(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """The kubelet's TLS: a client certificate is verified where one is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


Handler = Callable[["KubeletServer", _Request, list[str]], Awaitable[web.StreamResponse]]


class KubeletServer:
    """``start`` serves on a given listening socket. ``log_reader`` and ``pods`` belong to the kubelet."""

    def __init__(
        self,
        pods: Pods,
        cri: CRIClient,
        client: Client,
        node_name: str,
        log_reader: logs.LogReader,
        *,
        node_logs: Path = NODE_LOGS,
    ) -> None:
        self._pods = pods
        self._cri = cri
        self._authorizer = Authorizer(client, node_name)
        self._node_name = node_name
        self._logs = log_reader
        self._node_logs = node_logs
        self._web: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._is_open = False

    async def start(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """``context`` None means no TLS and no authentication: for tests on a unix socket."""
        self._web = PatientServer(
            self._handle, request_factory=_make_request, access_log=None, keepalive_timeout=90.0, tcp_keepalive=True
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._web, sock=sock, ssl=context)
        self._is_open = context is None

    async def stop(self) -> None:
        """Close the listener and every connection, tunnels included."""
        if self._server is not None:
            self._server.close()
        if self._web is not None:
            await self._web.shutdown(1.0)
        if self._server is not None:
            await self._server.wait_closed()
        self._server = self._web = None

    # -- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, _Request)
        request["gone"] = asyncio.Event()
        try:
            if not self._is_open:
                await self._admit(request)
            handler, parts = _route(request)
            return await handler(self, request, parts)
        except RequestError as error:
            return web.Response(status=error.code, text=error.text)
        except StatusError as error:
            return web.Response(status=500, text=f"asking the API server: {error.message}")
        except (ConnectionError, TimeoutError) as error:
            # Where the client itself has gone, this goes nowhere.
            return web.Response(status=500, text=f"Internal Error: {error or type(error).__name__}")
        except (CRIError, BackendError) as error:
            return web.Response(status=500, text=str(error))

    async def _admit(self, request: _Request) -> None:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        try:
            user = await self._authorizer.authenticate(certificate, request.headers.get("Authorization", ""))
        except Unauthenticated as error:
            raise RequestError(401, "Unauthorized") from error
        allowed, subresource = await self._authorizer.authorize(user, request.method, request.path)
        if not allowed:
            verb = {"POST": "create", "GET": "get"}.get(request.method, request.method.lower())
            raise RequestError(
                403, f"Forbidden (user={user.name}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])"
            )

    async def healthz(self, _request: _Request, _parts: list[str]) -> web.StreamResponse:
        return web.Response(text="ok")

    async def list_pods(self, _request: _Request, _parts: list[str]) -> web.StreamResponse:
        items = [{k: v for k, v in pod.items() if k not in ("kind", "apiVersion")} for pod in self._pods.pods()]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def summary(self, _request: _Request, _parts: list[str]) -> web.StreamResponse:
        containers = await self._cri.list_container_stats()
        return web.json_response(stats.summary(self._node_name, containers, self._pods.pods()))

    async def metrics(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        if parts and parts[0] not in ("resource", "cadvisor", "probes"):
            raise RequestError(404, "404 page not found")
        if not parts or parts[0] == "probes":
            text = stats.process_metrics(len(self._pods.pods()))
        else:
            text = stats.resource_metrics(await self._cri.list_container_stats())
        return web.Response(text=text, content_type="text/plain")

    # -- logs

    async def container_logs(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        namespace, name, container = _three(parts)
        pod = self._find(namespace, name)
        if find_container(pod, container) is None:
            raise RequestError(404, f'container "{container}" not found in pod "{name}"')
        try:
            options = logs.parse_options(request.query)
            container_id = log_container_id(pod, container, options.previous)
        except ValueError as error:
            raise RequestError(400, str(error)) from error
        try:
            status = await self._cri.container_status(container_id)
        except CRIError as error:
            raise RequestError(400, f"unable to retrieve container logs for containerd://{container_id}") from error
        return await self._stream_log(request, str(status.status.log_path), options, container_id)

    async def _stream_log(
        self, request: _Request, path: str, options: logs.LogOptions, container_id: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        response.enable_chunked_encoding()

        async def write(data: bytes) -> None:
            if not response.prepared:
                await response.prepare(request)
            await response.write(data)

        if options.follow and os.path.exists(path):
            # A client that follows wants to know that it does, before the first line.
            await response.prepare(request)
        reading = asyncio.ensure_future(self._logs.stream(path, options, write, lambda: self._pods.wait_exited(container_id)))
        gone = asyncio.ensure_future(request["gone"].wait())
        try:
            await asyncio.wait({reading, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ConnectionResetError("client went away")
            reading.result()
        except FileNotFoundError as error:
            text = f'failed to try resolving symlinks in path "{path}": lstat {path}: no such file or directory'
            raise RequestError(400, text) from error
        finally:
            gone.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def node_logs(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        """Files below the node's log directory; links that lead out of it are refused."""
        relative = "/".join(parts)
        try:
            descriptor = subpath.open_beneath(str(self._node_logs), relative)
        except (subpath.SubPathError, OSError) as error:
            raise RequestError(404, "404 page not found") from error
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                return web.Response(text=_listing(descriptor), content_type="text/html")
            if not stat.S_ISREG(mode):
                raise RequestError(404, "404 page not found")
            return await _send_file(request, descriptor)
        finally:
            os.close(descriptor)

    # -- streams

    async def exec(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        _, container_id = self._running(parts)
        command = request.query.getall("command", [])
        wanted = _stream_options(request.query)
        _need_upgrade(request)
        return await streaming.forward(request, await self._cri.exec(container_id, command, **wanted), wanted)

    async def attach(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        container, container_id = self._running(parts)
        wanted = _stream_options(request.query)
        # How the process was started decides, not what the client asks for.
        wanted["tty"] = bool(container.get("tty"))
        if wanted["tty"]:
            wanted["stderr"] = False
        _need_upgrade(request)
        return await streaming.forward(request, await self._cri.attach(container_id, **wanted), wanted)

    async def port_forward(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        if len(parts) not in (2, 3):
            raise RequestError(404, "404 page not found")
        pod = self._find(parts[0], parts[1], parts[2] if len(parts) == 3 else "")
        sandbox_id = self._pods.sandbox_id(str(pod["metadata"]["uid"]))
        if sandbox_id is None:
            raise RequestError(500, f"failed to find sandbox for pod {parts[1]}_{parts[0]}")
        try:
            ports = [int(port) for text in request.query.getall("port", []) for port in text.split(",") if port]
        except ValueError as error:
            raise RequestError(400, f"invalid port in query {request.query_string!r}") from error
        _need_upgrade(request)
        return await streaming.forward(request, await self._cri.port_forward(sandbox_id, ports))

    async def run(self, request: _Request, parts: list[str]) -> web.StreamResponse:
        if request.method != "POST":
            raise RequestError(405, "405: Method Not Allowed")
        _, container_id = self._running(parts)
        command = request.query.getall("command", []) or request.query.get("cmd", "").split(" ")
        result = await self._cri.exec_sync(container_id, command, RUN_SECONDS)
        if result.exit_code:
            output = (result.stdout + result.stderr).decode(errors="replace")
            text = f"error executing command in container: command exited with {result.exit_code}: {output}"
            raise RequestError(500, text)
        return web.Response(body=result.stdout + result.stderr, content_type="text/plain")

    # -- finding

    def _find(self, namespace: str, name: str, uid: str = "") -> Obj:
        pod = self._pods.pod(namespace, name)
        if pod is None or (uid and pod["metadata"]["uid"] != uid):
            raise RequestError(404, "pod does not exist")
        return pod

    def _running(self, parts: list[str]) -> tuple[Obj, str]:
        """The container named by ``namespace/pod[/uid]/container`` and its running id."""
        if len(parts) not in (3, 4):
            raise RequestError(404, "404 page not found")
        pod = self._find(parts[0], parts[1], parts[2] if len(parts) == 4 else "")
        container = find_container(pod, parts[-1])
        status = _status_of(pod, parts[-1])
        if container is None or status is None or (status.get("state") or {}).get("running") is None:
            raise RequestError(500, f'container not found ("{parts[-1]}")')
        return container, _bare(status.get("containerID"))


_ROUTES: dict[str, Handler] = {
    "healthz": KubeletServer.healthz,
    "pods": KubeletServer.list_pods,
    "runningpods": KubeletServer.list_pods,
    "metrics": KubeletServer.metrics,
    "containerLogs": KubeletServer.container_logs,
    "exec": KubeletServer.exec,
    "attach": KubeletServer.attach,
    "portForward": KubeletServer.port_forward,
    "run": KubeletServer.run,
    "logs": KubeletServer.node_logs,
}
_POSTED = ("exec", "attach", "portForward", "run")


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> _Request:
    return _Request(message, payload, protocol, writer, task, asyncio.get_running_loop())


def _route(request: _Request) -> tuple[Handler, list[str]]:
    """The handler and the rest of the path, decoded by component."""
    parts = [part for part in request.path.split("/") if part]
    handler: Handler | None = None
    if parts[:2] == ["stats", "summary"] or parts == ["stats"]:
        handler = KubeletServer.summary
    elif parts:
        handler = _ROUTES.get(parts[0])
    if handler is None:
        raise RequestError(404, "404 page not found")
    if request.method not in ("GET", "HEAD") and not (request.method == "POST" and parts[0] in _POSTED):
        raise RequestError(405, "405: Method Not Allowed")
    return handler, parts[1:]


def _three(parts: list[str]) -> tuple[str, str, str]:
    if len(parts) != 3:
        raise RequestError(404, "404 page not found")
    return parts[0], parts[1], parts[2]


def _need_upgrade(request: _Request) -> None:
    if not request.headers.get("Upgrade"):
        raise RequestError(400, "Upgrade request required")


def _stream_options(query: Mapping[str, str]) -> dict[str, bool]:
    """Source: ``remotecommand.NewOptions``."""
    tty = query.get("tty") in ("1", "true")
    out = {
        "tty": tty,
        "stdin": query.get("input") in ("1", "true"),
        "stdout": query.get("output") in ("1", "true"),
        "stderr": query.get("error") in ("1", "true") and not tty,
    }
    if not (out["stdin"] or out["stdout"] or out["stderr"]):
        raise RequestError(400, "you must specify at least 1 of stdin, stdout, stderr")
    return out


def _status_of(pod: Obj, container: str) -> Obj | None:
    status: Obj = pod.get("status") or {}
    for group in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for entry in status.get(group) or ():
            if entry.get("name") == container:
                found: Obj = entry
                return found
    return None


def _bare(container_id: object) -> str:
    """``containerd://ID`` without its scheme."""
    return str(container_id or "").rpartition("://")[2]


def log_container_id(pod: Obj, container: str, previous: bool) -> str:
    """Which container's log is meant; ValueError with upstream's text when there is none (``validateContainerLogStatus``)."""
    name = pod["metadata"]["name"]
    status = _status_of(pod, container)
    where = f'container "{container}" in pod "{name}"'
    if status is None:
        raise ValueError(f"{where} is not available")
    state: Obj = status.get("state") or {}
    last = _bare(((status.get("lastState") or {}).get("terminated") or {}).get("containerID"))
    if previous:
        if not last:
            raise ValueError(f"previous terminated {where} not found")
        return last
    if state.get("running") is not None:
        return _bare(status.get("containerID"))
    if (terminated := state.get("terminated")) is not None:
        current = _bare(terminated.get("containerID")) or last
        if not current:
            raise ValueError(f"{where} is terminated")
        return current
    if last:
        return last
    if (waiting := state.get("waiting")) is not None:
        reason = str(waiting.get("reason", ""))
        why = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}
        raise ValueError(f"{where} is waiting to start: {why.get(reason, reason)}")
    raise ValueError(f"{where} is waiting to start - no logs yet")


def _listing(descriptor: int) -> str:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        with os.scandir(directory) as entries:
            names = sorted(e.name + ("/" if e.is_dir(follow_symlinks=False) else "") for e in entries)
    finally:
        os.close(directory)
    lines = [f'<a href="{quote(name)}">{escape(name)}</a>\n' for name in names]
    return '<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n' + "".join(lines) + "</pre>\n"


async def _send_file(request: _Request, descriptor: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    with open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as file:
        while data := await asyncio.to_thread(file.read, FILE_CHUNK_BYTES):
            with contextlib.suppress(ConnectionResetError):
                await response.write(data)
                continue
            break
    return response
