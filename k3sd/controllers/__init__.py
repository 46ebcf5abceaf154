"""The controllers: each watches objects and moves the cluster towards what they ask for.

One module a controller, named as kube-controller-manager names it; ``base`` is what they share, ``manager`` the table of all of
them. Source: ``pkg/controller`` of Kubernetes.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k3sd.client.api import Client
    from k3sd.client.informer import InformerFactory
    from k3sd.config.settings import Settings


async def run_controllers(client: Client, informers: InformerFactory, settings: Settings) -> None:
    """Run all enabled controllers until cancelled. ``settings.controller_manager_args["controllers"]`` selects them.

    Where several servers share a datastore only one of them works at a time, unless ``leader-elect=false`` is given.
    """
    from k3sd.client.leaderelection import is_shared, run_elected
    from k3sd.controllers.base import Context

    # Beside the loop: nodes that waited for the API server are answered meanwhile.
    manager = await asyncio.to_thread(importlib.import_module, "k3sd.controllers.manager")

    async def work() -> None:
        await manager.run(Context(client, informers, settings))

    elect = settings.controller_manager_args.get("leader-elect", ("true",))[-1] != "false"
    if elect and is_shared(settings.datastore_endpoint):
        await run_elected(client, "kube-controller-manager", settings.node_name, work)
    else:
        await work()
