"""The node process: kubelet, service proxy, DNS and CNI configuration on one event loop.

Composition root: what is built, in which order, what ready means. It is ready when the kubelet runs and the node's network has
its configuration; pods keep running when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k3sd.config.settings import Settings
from k3sd.procs.inherit import Reporter, component, inherit, until_stopped

if TYPE_CHECKING:
    from k3sd.client.informer import Informer

log = logging.getLogger(__name__)


def main() -> int:
    """Returns the exit code."""
    settings, sockets = inherit("node")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(until_stopped(serve(settings, sockets["kubelet"], Reporter())))
        except OSError as error:
            log.error("the node cannot go on: %s", error, exc_info=settings.debug)
            return 1
    return 0


async def serve(settings: Settings, listener: socket.socket, reporter: Reporter) -> None:
    """Run until cancelled."""
    from k3sd.apis import resources
    from k3sd.client.informer import InformerFactory
    from k3sd.client.rest import RestClient
    from k3sd.kubelet.kubelet import Kubelet
    from k3sd.lib import garbage
    from k3sd.network.dns import DNSServer
    from k3sd.network.proxy import ServiceProxy

    garbage.begin()
    reporter.status("preparing the network")
    links = asyncio.get_running_loop().create_task(prepare_links(settings), name="links")
    async with contextlib.AsyncExitStack() as stack:
        # Two identities, as with K3s: the node's own for its pods, kube-proxy's for services.
        client = RestClient(settings.paths.kubelet_kubeconfig)
        stack.push_async_callback(client.close)
        proxy_client = RestClient(settings.paths.agent / "kubeproxy.kubeconfig")
        stack.push_async_callback(proxy_client.close)
        informers = InformerFactory(proxy_client)
        stack.push_async_callback(informers.stop)
        services, slices = informers.informer(resources.SERVICES), informers.informer(resources.ENDPOINTSLICES)
        nodes = informers.informer(resources.NODES)
        dns = DNSServer(settings, services, slices, nodes)
        proxy = ServiceProxy(settings, services, slices)
        kubelet = Kubelet(settings, client, informers=informers, listener=listener, tls=tls_context(settings))
        informers.start()
        mtu = await links
        await dns.start()
        stack.callback(dns.close)
        async with asyncio.TaskGroup() as group:
            group.create_task(component("network", configure_cni(settings, nodes, mtu)), name="cni")
            if not settings.disable_kube_proxy:
                group.create_task(component("service proxy", proxy.run()), name="proxy")
            reporter.status("starting the kubelet")
            await kubelet.start()
            stack.push_async_callback(kubelet.stop)
            reporter.ready("running pods")


def tls_context(settings: Settings) -> ssl.SSLContext:
    """The kubelet's serving certificate; whoever asks must show a certificate of the cluster or a token."""
    agent = settings.paths.agent
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(agent / "serving-kubelet.crt", agent / "serving-kubelet.key")
    context.load_verify_locations(agent / "client-ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def prepare_links(settings: Settings) -> int:
    """Sysctls and the service link, by a short-lived command. Returns the MTU for pods; 0 leaves it to the kernel."""
    from k3sd.procs.run import run

    root = str(Path(__file__).resolve().parent.parent)
    argv = [sys.executable, "-m", "k3sd.network.links", "ensure", settings.cluster_dns, settings.service_cidr, settings.node_ip]
    result: dict[str, Any] = json.loads(await run(argv, environ={"PYTHONPATH": root}))
    for problem in result["failed"]:
        log.warning("sysctl %s; set it on the host if pods cannot reach services", problem)
    return int(result["mtu"])


async def configure_cni(settings: Settings, nodes: Informer, mtu: int) -> None:
    """Write the CNI configuration when the node has its pod CIDR, and again should it ever change."""
    from k3sd.network.cni import write_cni_config

    changed = asyncio.Event()

    def look(node: dict[str, Any]) -> None:
        if node["metadata"]["name"] == settings.node_name:
            changed.set()

    nodes.add_handler(look, lambda _old, new: look(new), lambda _node: None)
    written = ""
    while True:
        await changed.wait()
        changed.clear()
        node = nodes.get(settings.node_name)
        cidr = ((node or {}).get("spec") or {}).get("podCIDR") or ""
        if cidr and cidr != written:
            await asyncio.to_thread(write_cni_config, settings, cidr, mtu)
            written = cidr


if __name__ == "__main__":
    sys.exit(main())
