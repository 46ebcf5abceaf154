"""Connecting subresources: ``pods/log``, ``exec``, ``attach``, ``portforward`` to the kubelet, and ``proxy`` of pods,
services and nodes.

Upstream: ``pkg/registry/core/{pod,service,node}/strategy.go`` (LogLocation, ExecLocation, ResourceLocation),
``rest/subresources.go``.
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from aiohttp import web

from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    bad_request,
    internal,
    invalid,
    invalid_object,
    not_found,
)
from k3sd.apis import resources
from k3sd.apiserver import proxying, serviceresolver
from k3sd.apiserver.request import Attributes, RequestContext
from k3sd.apiserver.requestinfo import RequestInfo, is_true, parse_query_multi
from k3sd.apiserver.tunnel import Target, TunnelError, upgrade

if TYPE_CHECKING:
    from k3sd.apiserver.http import APIServer

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
KUBELET_PORT = 10250
ADDRESS_TYPES = ("InternalIP", "ExternalIP", "Hostname")
"""K3s's ``--kubelet-preferred-address-types``."""

_OPTIONS_KIND = {
    ("pods", "exec"): "PodExecOptions",
    ("pods", "attach"): "PodAttachOptions",
    ("pods", "portforward"): "PodPortForwardOptions",
    ("pods", "proxy"): "PodProxyOptions",
    ("services", "proxy"): "ServiceProxyOptions",
    ("nodes", "proxy"): "NodeProxyOptions",
}


async def connect(server: APIServer, request: web.BaseRequest, ctx: RequestContext, info: RequestInfo, query_text: str) -> Any:
    """Answer one connecting request. Raises StatusError."""
    query = parse_query_multi(query_text)
    if ctx.subresource in ("exec", "attach", "portforward") and request.method == "GET":
        # KEP 5214: a websocket upgrade is a GET, but what it does is a create.
        server.authorize(_as_create(ctx))
    try:
        if ctx.subresource == "log":
            return await _log(server, request, ctx, query)
        await _admit(server, ctx, query)
        if ctx.subresource == "proxy":
            return await _proxy(server, request, ctx, info, query_text)
        return await _stream(server, request, ctx, query)
    except TunnelError as error:
        raise internal(str(error)) from None


def _as_create(ctx: RequestContext) -> RequestContext:
    return RequestContext(ctx.user, "create", ctx.resource, ctx.subresource, ctx.namespace, ctx.name, privileged=ctx.privileged)


async def _admit(server: APIServer, ctx: RequestContext, query: list[tuple[str, str]]) -> None:
    assert ctx.resource is not None
    plugins = server.registry.endpoint(ctx.resource).plugins(ctx.subresource, "CONNECT")
    if not plugins:
        return
    options: Obj = {"kind": _OPTIONS_KIND[(ctx.resource.plural, ctx.subresource)], "apiVersion": "v1"}
    for name, value in query:
        if name == "command":
            options.setdefault("command", []).append(value)
        elif name in ("stdin", "stdout", "stderr", "tty"):
            options[name] = is_true(value)
        else:
            options[name] = value
    attrs = Attributes(ctx, "CONNECT", options, None)
    for plugin in plugins:
        await plugin.admit(attrs)
    for plugin in plugins:
        await plugin.validate(attrs)


def _pod(server: APIServer, ctx: RequestContext) -> Obj:
    pod = server.registry.read(resources.PODS, ctx.name, ctx.namespace)
    if pod is None:
        raise not_found("", "pods", ctx.name)
    return pod


def pick_container(pod: Obj, asked: str) -> str:
    """The container meant, checked. Source: ``validateContainer``; the annotation is kubectl's default."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    containers = [c["name"] for c in spec.get("containers") or ()]
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    ephemeral = [c["name"] for c in spec.get("ephemeralContainers") or ()]
    everyone = {*containers, *inits, *ephemeral}
    if asked:
        if asked not in everyone:
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(containers) == 1:
        return str(containers[0])
    preferred = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER)
    if preferred in everyone:
        return str(preferred)
    if not containers:
        raise bad_request(f"a container name must be specified for pod {name}")
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise bad_request(text)


class Kubelets:
    """Finds nodes' kubelets and proves who is calling."""

    def __init__(self, server: APIServer) -> None:
        self._server = server
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """TLS with the API server's client certificate; the kubelet's must come from the cluster's CA. Raises 500 when the
        files cannot be read."""
        if self._context is None:
            tls = self._server.registry.settings.paths.tls
            try:
                context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
                context.load_cert_chain(tls / "client-kube-apiserver.crt", tls / "client-kube-apiserver.key")
            except OSError as error:
                raise internal(f"the client certificate for kubelets cannot be read: {error}") from None
            self._context = context
        return self._context

    def target(self, node_name: str) -> Target:
        """Raises 404 for a node that does not exist, 500 for one without address."""
        dialer = self._server.node_dialer
        if dialer is not None:
            host, port = dialer(node_name)
            return Target(host, port, self.context())
        node = self._server.registry.read(resources.NODES, node_name)
        if node is None:
            raise not_found("", "nodes", node_name)
        status = node.get("status") or {}
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or KUBELET_PORT
        addresses = status.get("addresses") or ()
        for kind in ADDRESS_TYPES:
            for address in addresses:
                if address.get("type") == kind:
                    return Target(address["address"], port, self.context())
        raise internal(f"no preferred addresses found; known addresses: {[a.get('address') for a in addresses]}")


def _pairs(query: list[tuple[str, str]], names: dict[str, str]) -> list[tuple[str, str]]:
    """Boolean options that are set, renamed for the kubelet."""
    return [(names[k], "1") for k, v in query if k in names and is_true(v)]


async def _stream(server: APIServer, request: web.BaseRequest, ctx: RequestContext, query: list[tuple[str, str]]) -> Any:
    """exec, attach, portforward: a raw tunnel to the kubelet."""
    pod = _pod(server, ctx)
    node = pod["spec"].get("nodeName")
    if not node:
        raise bad_request(f"pod {ctx.name} does not have a host assigned")
    base = f"{quote(ctx.namespace)}/{quote(ctx.name)}"
    if ctx.subresource == "portforward":
        wanted = [(k, v) for k, v in query if k in ("port", "ports")]
        path = f"/portForward/{base}"
        wanted = [("port", v) for _, v in wanted]
    else:
        asked = next((v for k, v in query if k == "container"), "")
        container = pick_container(pod, asked)
        wanted = _pairs(query, {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"})
        if ctx.subresource == "exec":
            wanted += [("command", v) for k, v in query if k == "command"]
            if not any(k == "command" for k, _ in wanted):
                raise bad_request("you must specify at least 1 command for the container")
        if not any(k in ("input", "output", "error") for k, _ in wanted):
            raise bad_request("you must specify at least one of stdin, stdout, stderr")
        path = f"/{ctx.subresource}/{base}/{quote(container)}"
    if "Upgrade" not in request.headers:
        raise bad_request("Upgrade request required")
    if wanted:
        path += "?" + urlencode(wanted)
    return await upgrade(request, server.kubelets.target(node), path)


_LOG_OPTIONS = frozenset({"follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"})


def check_log_options(query: dict[str, str]) -> None:
    """``ValidatePodLogOptions``. Raises 422."""
    errors: list[FieldError] = []
    for name, least, text in (
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ):
        if name in query:
            try:
                value = int(query[name])
            except ValueError:
                raise bad_request(f'strconv.ParseInt: parsing "{query[name]}": invalid syntax') from None
            if value < least:
                errors.append(invalid(name, value, text))
    if "sinceSeconds" in query and "sinceTime" in query:
        text = "at most one of `sinceTime` or `sinceSeconds` may be specified"
        errors.append(FieldError("FieldValueForbidden", "", f"Forbidden: {text}"))
    if errors:
        raise invalid_object("", "PodLogOptions", "", errors)


async def _log(server: APIServer, request: web.BaseRequest, ctx: RequestContext, query: list[tuple[str, str]]) -> Any:
    options = dict(reversed(query))
    check_log_options(options)
    pod = _pod(server, ctx)
    container = pick_container(pod, options.get("container", ""))
    node = pod["spec"].get("nodeName")
    if not node:
        return proxying.empty_log()
    wanted = {k: v for k, v in options.items() if k in _LOG_OPTIONS}
    path = f"/containerLogs/{quote(ctx.namespace)}/{quote(ctx.name)}/{quote(container)}"
    if wanted:
        path += "?" + urlencode(wanted)
    return await proxying.log(request, server.kubelets.target(node), path)


async def _proxy(server: APIServer, request: web.BaseRequest, ctx: RequestContext, info: RequestInfo, query_text: str) -> Any:
    """``proxy``: the request goes to the pod, an endpoint of the service, or the kubelet."""
    assert ctx.resource is not None
    raw = request.raw_path.partition("?")[0]
    rest = "/" + info.remainder if info.remainder else ""
    if raw.endswith("/") and not rest.endswith("/"):
        rest += "/"
    path_option = next((v for k, v in parse_query_multi(query_text) if k == "path"), "")
    if not rest and path_option:
        rest = "/" + path_option.lstrip("/")
    if not rest and request.method in ("GET", "HEAD") and "Upgrade" not in request.headers:
        location = raw + "/" + (f"?{query_text}" if query_text else "")
        return proxying.redirect(location)
    scheme, name, port = split_scheme_name_port(ctx.name)
    match ctx.resource.plural:
        case "nodes":
            target = _node_target(server, name, port, scheme)
        case "pods":
            target = _pod_target(server, ctx.namespace, name, port, scheme)
        case _:
            target = _service_target(server, ctx.namespace, name, port, scheme)
    prefix = raw[: len(raw) - len(rest)] if rest and raw.endswith(rest) else raw
    path = (rest or "/") + (f"?{query_text}" if query_text else "")
    return await proxying.forward(request, target, path, prefix)


def split_scheme_name_port(text: str) -> tuple[str, str, str]:
    """``[scheme:]name[:port]``. Source: ``util/net.SplitSchemeNamePort``. Raises 400."""
    parts = text.split(":")
    if len(parts) == 1:
        scheme, name, port = "", parts[0], ""
    elif len(parts) == 2:
        scheme, name, port = "", parts[0], parts[1]
    elif len(parts) == 3:
        scheme, name, port = parts
    else:
        raise bad_request(f'invalid request "{text}"')
    if not name or scheme not in ("", "http", "https"):
        raise bad_request(f'invalid request "{text}"')
    return scheme, name, port


def _insecure() -> ssl.SSLContext:
    """Proxied https backends have certificates of their own making; upstream does not check them either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_proxyable(address: str) -> None:
    """Only what may be another machine is dialled for a client, whatever a status says: never this one's loopback or its
    neighbours' metadata services. Raises 400. Source: ``proxyutil.IsProxyableIP``."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise bad_request("address not allowed") from None  # a node that has a name only
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or address == "255.255.255.255":
        raise bad_request("address not allowed")


def _node_target(server: APIServer, name: str, port: str, scheme: str) -> Target:
    """The kubelet, unless another port of the node is asked for. Source: ``node.ResourceLocation``."""
    kubelet = server.kubelets.target(name)
    if not port or port == str(kubelet.port):
        return kubelet
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise bad_request(f'invalid node request "{name}:{port}"')
    check_proxyable(kubelet.host)
    return Target(kubelet.host, int(port), _insecure() if scheme == "https" else None)


def _pod_target(server: APIServer, namespace: str, name: str, port: str, scheme: str) -> Target:
    pod = server.registry.read(resources.PODS, name, namespace)
    if pod is None:
        raise not_found("", "pods", name)
    address = (pod.get("status") or {}).get("podIP")
    if not address:
        raise bad_request(f"address not allowed: pod {name} has no IP yet")
    check_proxyable(address)
    if not port or port == "0":
        ports = [p["containerPort"] for c in pod["spec"].get("containers") or () for p in c.get("ports") or ()]
        number = ports[0] if ports else (443 if scheme == "https" else 80)
    elif port.isdigit():
        number = int(port)
    else:
        raise bad_request(f'invalid pod request "{name}:{port}"')
    return Target(address, number, _insecure() if scheme == "https" else None)


def _service_target(server: APIServer, namespace: str, name: str, port: str, scheme: str) -> Target:
    host, number = serviceresolver.resolve(server.registry, namespace, name, port)
    return Target(host, number, _insecure() if scheme == "https" else None)
