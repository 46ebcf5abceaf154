"""The control plane process: datastore, watch cache, API server, controllers, scheduler on one event loop.

Composition root: what is built, in which order, what ready means. No policy. Ready is K3s's: the API server serves, its
start-up objects exist, the datastore answers; the node object is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from typing import TYPE_CHECKING

from k3sd.config.settings import Settings
from k3sd.procs.inherit import Reporter, component, inherit, until_stopped

if TYPE_CHECKING:
    from k3sd.client.api import Client
    from k3sd.client.informer import InformerFactory

log = logging.getLogger(__name__)

DRAIN_SECONDS = 3.0


def main() -> int:
    """Returns the exit code, with one clear line when the datastore cannot be used: ``REFUSED`` unless it may work later."""
    settings, sockets = inherit("control-plane")
    import uvloop

    from k3sd.datastore.backend import DatastoreError, Unavailable
    from k3sd.procs.child import REFUSED

    reporter = Reporter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(until_stopped(serve(settings, sockets["apiserver"], reporter)))
        except DatastoreError as error:
            log.error("%s", error)
            reporter.status(f"datastore: {error}")
            return 1 if isinstance(error, Unavailable) else REFUSED
    return 0


def tls_context(settings: Settings) -> ssl.SSLContext:
    """The listener's certificate; client certificates are asked for, not required."""
    tls = settings.paths.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.load_cert_chain(tls / "dynamic-cert.crt", tls / "dynamic-cert.key")
    context.load_verify_locations(tls / "client-ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


async def serve(settings: Settings, listener: socket.socket, reporter: Reporter) -> None:
    """Run until cancelled. Raises DatastoreError when the store cannot be opened."""
    from k3sd.apiserver.authn import build_authenticator
    from k3sd.apiserver.authz import build_authorizer
    from k3sd.apiserver.http import build_server
    from k3sd.apiserver.registry import Registry
    from k3sd.apiserver.watchcache import WatchCache
    from k3sd.client.informer import InformerFactory
    from k3sd.datastore import open_backend
    from k3sd.lib import garbage
    from k3sd.supervisor import noderoles
    from k3sd.supervisor.routes import build_routes

    garbage.begin()
    reporter.status("opening the datastore")
    backend = open_backend(
        settings.datastore_endpoint,
        data_dir=settings.paths.data,
        cafile=settings.datastore_cafile,
        certfile=settings.datastore_certfile,
        keyfile=settings.datastore_keyfile,
    )
    async with contextlib.AsyncExitStack() as stack:
        await backend.start()
        stack.push_async_callback(backend.stop)
        reporter.status("filling the watch cache")
        cache = WatchCache(backend)
        await cache.start()
        stack.callback(cache.stop)
        registry = Registry(backend, cache, settings)
        registry.load()
        stack.push_async_callback(registry.close)
        authenticator = build_authenticator(settings, registry)
        authorizer = build_authorizer(settings, registry)
        server = build_server(registry, authenticator, authorizer, extra_routes=build_routes(settings))
        # Before the first request is accepted: who connects meanwhile waits in the listener's queue and never sees a
        # cluster without its roles.
        reporter.status("making start-up objects")
        await server.bootstrap()
        await server.serve(listener, tls_context(settings))
        stack.push_async_callback(server.stop, DRAIN_SECONDS)
        client = registry.client()
        informers = InformerFactory(client)
        stack.push_async_callback(informers.stop)
        async with asyncio.TaskGroup() as group:
            group.create_task(component("datastore", backend.lost()), name="datastore")
            group.create_task(component("controllers", _controllers(client, informers, settings)), name="controllers")
            group.create_task(component("scheduler", _scheduler(client, informers, settings)), name="scheduler")
            group.create_task(component("node roles", noderoles.run(client, informers, settings)), name="noderoles")
            reporter.ready("serving the API")


async def _controllers(client: Client, informers: InformerFactory, settings: Settings) -> None:
    from k3sd.controllers import run_controllers

    await run_controllers(client, informers, settings)


async def _scheduler(client: Client, informers: InformerFactory, settings: Settings) -> None:
    from k3sd.client.leaderelection import is_shared, run_elected
    from k3sd.scheduler.scheduler import Scheduler

    async def work() -> None:
        await Scheduler(client, informers, settings).run()

    if is_shared(settings.datastore_endpoint):
        await run_elected(client, "kube-scheduler", settings.node_name, work)
    else:
        await work()


if __name__ == "__main__":
    sys.exit(main())
