"""Marks the server's own node as a control plane. A kubelet may not say so itself (NodeRestriction), its server may.

Source: K3s ``pkg/server/server.go`` (``setNodeLabelsAndAnnotations``).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client
from k3sd.client.informer import InformerFactory
from k3sd.config.settings import Settings

log = logging.getLogger(__name__)

LABELS = {"node-role.kubernetes.io/control-plane": "true"}


async def run(client: Client, informers: InformerFactory, settings: Settings) -> None:
    """Label the node whenever it appears without the labels. Runs until cancelled; does nothing while nothing changes."""
    nodes = informers.informer(resources.NODES)
    changed = asyncio.Event()

    def look(node: dict[str, Any]) -> None:
        if node["metadata"]["name"] == settings.node_name:
            changed.set()

    nodes.add_handler(look, lambda _old, new: look(new), lambda _node: None)
    nodes.start()
    while True:
        await changed.wait()
        changed.clear()
        node = nodes.get(settings.node_name)
        labels = (node or {}).get("metadata", {}).get("labels") or {}
        if node is None or all(labels.get(key) == value for key, value in LABELS.items()):
            continue
        try:
            await client.patch(resources.NODES, settings.node_name, {"metadata": {"labels": LABELS}})
        except StatusError as error:
            log.warning("node %s could not be labelled as control plane: %s", settings.node_name, error)
