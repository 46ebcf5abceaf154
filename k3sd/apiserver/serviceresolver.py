"""Where a Service's traffic goes: one ready endpoint, chosen at random.

The API server dials endpoints itself (service proxy requests, webhooks), so that it needs no proxy rules on its own host.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import not_found, service_unavailable
from k3sd.apis import resources

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry


def resolve(registry: Registry, namespace: str, name: str, port: str = "") -> tuple[str, int]:
    """``(address, port)``. ``port`` is a service port's name or number; empty means the only one, or the one without a name.
    Raises 404 or 503."""
    service = registry.read(resources.SERVICES, name, namespace)
    if service is None:
        raise not_found("", "services", name)
    ports = service["spec"].get("ports") or []
    wanted = next((p for p in ports if port in (p.get("name"), str(p["port"]))), None) if port else None
    if port and wanted is None:
        raise service_unavailable(f'no service port "{port}" found for service "{name}"')
    if wanted is None:
        if len(ports) > 1 and any(p.get("name") for p in ports):
            wanted = next((p for p in ports if not p.get("name")), None)
        elif ports:
            wanted = ports[0]
        if wanted is None:
            raise service_unavailable(f'no endpoints available for service "{name}"')
    port_name = wanted.get("name") or ""
    candidates: list[tuple[str, int]] = []
    for piece in registry.read_all(resources.ENDPOINTSLICES, namespace):
        labels = piece["metadata"].get("labels") or {}
        if labels.get("kubernetes.io/service-name") != name:
            continue
        for entry in piece.get("ports") or ():
            if (entry.get("name") or "") != port_name or not entry.get("port"):
                continue
            for endpoint in piece.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    candidates.append((endpoint["addresses"][0], entry["port"]))
    if not candidates:
        raise service_unavailable(f'no endpoints available for service "{name}"')
    return random.choice(candidates)
