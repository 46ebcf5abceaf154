"""``default/kubernetes``: the Service, Endpoints and EndpointSlice by which pods reach this API server.

Upstream: ``controlplane/controller/kubernetesservice`` and ``controlplane/reconcilers``. Written at start, and only when
something differs.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.config.settings import Settings

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

NAME, NAMESPACE = "kubernetes", "default"


def build_service(settings: Settings) -> Obj:
    first = next(ipaddress.ip_network(settings.service_cidr.split(",")[0], strict=False).hosts())
    return {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": str(first),
            "clusterIPs": [str(first)],
            "ipFamilyPolicy": "SingleStack",
            "ipFamilies": [f"IPv{first.version}"],
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": settings.advertise_port}],
        },
    }


def build_endpoints(settings: Settings) -> Obj:
    return {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": advertised(settings)}],
                "ports": [{"name": "https", "port": settings.advertise_port, "protocol": "TCP"}],
            }
        ],
    }


def build_slice(settings: Settings) -> Obj:
    address = ipaddress.ip_address(advertised(settings))
    return {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": f"IPv{address.version}",
        "endpoints": [{"addresses": [str(address)], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": settings.advertise_port, "protocol": "TCP"}],
    }


def advertised(settings: Settings) -> str:
    """The address pods are sent to."""
    return settings.advertise_address or settings.node_ip


async def reconcile(registry: Registry) -> None:
    """Make the three objects say what the settings say. A Service somebody changed keeps its cluster IP."""
    settings = registry.settings
    if not (settings.advertise_address or settings.node_ips):
        return
    await _ensure(registry, resources.SERVICES, build_service(settings), ("spec.ports", "spec.type"))
    await _ensure(registry, resources.ENDPOINTS, build_endpoints(settings), ("subsets",))
    await _ensure(registry, resources.ENDPOINTSLICES, build_slice(settings), ("endpoints", "ports"))


async def _ensure(registry: Registry, resource: Resource, wanted: Obj, paths: tuple[str, ...]) -> None:
    client = registry.client()
    live = registry.read(resource, NAME, NAMESPACE)
    if live is not None and resource is resources.ENDPOINTSLICES and live["addressType"] != wanted["addressType"]:
        await client.delete(resource, NAME, NAMESPACE)  # the address type cannot be changed
        live = None
    if live is None:
        try:
            await client.create(resource, wanted)
            return
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise
            live = registry.read(resource, NAME, NAMESPACE)
            if live is None:
                raise
    patch: Obj = {}
    for path in paths:
        *folders, field = path.split(".")
        have, want, into = live, wanted, patch
        for folder in folders:
            have, want, into = have.get(folder, {}), want[folder], into.setdefault(folder, {})
        into[field] = want[field]
    labels = wanted["metadata"]["labels"]
    if _differs(live, patch) or any(live["metadata"].get("labels", {}).get(k) != v for k, v in labels.items()):
        patch["metadata"] = {"labels": labels}
        await client.patch(resource, NAME, patch, NAMESPACE)


def _differs(live: object, wanted: object) -> bool:
    """Whether ``wanted`` says something that ``live`` does not (defaults in ``live`` do not count)."""
    if isinstance(wanted, dict):
        return not isinstance(live, dict) or any(_differs(live.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(live, list) or len(live) != len(wanted):
            return True
        return any(_differs(a, b) for a, b in zip(live, wanted, strict=True))
    return live != wanted
