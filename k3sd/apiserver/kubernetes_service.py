"""``default/kubernetes``: the Service, Endpoints and EndpointSlice by which pods reach this API server.

Upstream: ``controlplane/controller/kubernetesservice`` and ``controlplane/reconcilers``. Written at start, and again when
somebody deletes or alters them. Servers that share a store add themselves to what is there: the addresses of others stay, until
a server starts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.config.settings import Settings
from k3sd.datastore.backend import DatastoreError

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.apiserver.watchcache import CacheEvent, Follower

log = logging.getLogger(__name__)

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


def server_address(settings: Settings) -> str:
    """``host:port`` for discovery; "" when the settings name no address."""
    if not _is_configured(settings):
        return ""
    host = advertised(settings)
    return f"[{host}]:{settings.advertise_port}" if ":" in host else f"{host}:{settings.advertise_port}"


def _is_configured(settings: Settings) -> bool:
    return bool(settings.advertise_address or settings.node_ips)


async def reconcile(registry: Registry, *, add: bool = False) -> None:
    """Make the three objects say what the settings say. A Service somebody changed keeps its cluster IP. With ``add`` the
    addresses of other servers stay."""
    settings = registry.settings
    if not _is_configured(settings):
        return
    await _ensure(registry, resources.SERVICES, build_service(settings), ("spec.ports", "spec.type"))
    endpoints, piece = build_endpoints(settings), build_slice(settings)
    if add:
        _keep_others(registry, endpoints, piece)
    await _ensure(registry, resources.ENDPOINTS, endpoints, ("subsets",))
    await _ensure(registry, resources.ENDPOINTSLICES, piece, ("endpoints", "ports"))


def _keep_others(registry: Registry, endpoints: Obj, piece: Obj) -> None:
    """Add the addresses of the stored objects to ours."""
    own = piece["endpoints"][0]["addresses"][0]
    live = registry.read(resources.ENDPOINTS, NAME, NAMESPACE) or {}
    found = {a["ip"] for subset in live.get("subsets") or () for a in subset.get("addresses") or ()}
    endpoints["subsets"][0]["addresses"] = [{"ip": ip} for ip in sorted({own, *found})]
    live = registry.read(resources.ENDPOINTSLICES, NAME, NAMESPACE) or {}
    if live.get("addressType") == piece["addressType"]:
        others = {e["addresses"][0] for e in live.get("endpoints") or () if e.get("addresses")}
        piece["endpoints"] = [{"addresses": [ip], "conditions": {"ready": True}} for ip in sorted({own, *others})]


class Keeper:
    """Puts the three objects right again when they change. Costs nothing while nobody touches them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._followers: list[Follower] = []

    def start(self) -> None:
        """Needs the started cache and a running loop."""
        if not _is_configured(self._registry.settings):
            return
        for resource in (resources.SERVICES, resources.ENDPOINTS, resources.ENDPOINTSLICES):
            ep = self._registry.endpoint(resource)
            self._followers.append(ep.cache.follow(self._changed, ep.key(NAMESPACE, NAME)))

    async def stop(self) -> None:
        """Idempotent."""
        for follower in self._followers:
            follower.close()
        self._followers.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _changed(self, event: CacheEvent) -> None:
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._mend(), name="keep default/kubernetes")

    async def _mend(self) -> None:
        delay = 1.0
        while self._again:
            self._again = False
            try:
                await reconcile(self._registry, add=True)
                delay = 1.0
            except (StatusError, DatastoreError) as error:
                log.warning("cannot put default/kubernetes right, trying again in %.0f s: %s", delay, error)
                self._again = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, 60.0)


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
