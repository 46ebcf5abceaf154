"""What the API server itself provides: system PriorityClasses, the default ServiceCIDR, flow schemas, what extension servers
trust.

Upstream: ``pkg/registry/scheduling/rest`` (``AddSystemPriorityClasses``), ``controlplane/controller/defaultservicecidr``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.conform import conform
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver import flowbootstrap
from k3sd.apiserver.kinds.rules import clone
from k3sd.apiserver.kinds.scheduling import system_priority_classes
from k3sd.apiserver.request import LOOPBACK, RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry


async def make_system_objects(registry: Registry) -> None:
    """Idempotent: creates what is missing, leaves the rest alone."""
    # Together, so that they share a commit of the store.
    await asyncio.gather(
        *(_ensure(registry, resources.PRIORITYCLASSES, obj) for obj in system_priority_classes()),
        *(_ensure(registry, resources.PRIORITYLEVELCONFIGURATIONS, obj) for obj in flowbootstrap.priority_levels()),
        *(_ensure(registry, resources.FLOWSCHEMAS, obj) for obj in flowbootstrap.flow_schemas()),
        _default_cidr(registry),
        _publish_authentication(registry),
    )


async def _default_cidr(registry: Registry) -> None:
    cidrs = [c.strip() for c in registry.settings.service_cidr.split(",") if c.strip()]
    await _ensure(
        registry,
        resources.SERVICECIDRS,
        {
            "kind": "ServiceCIDR",
            "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": cidrs},
        },
    )
    await _mark_ready(registry)


async def _publish_authentication(registry: Registry) -> None:
    """``kube-system/extension-apiserver-authentication``: by which certificates extension servers know users and this server.

    Upstream: ``controlplane/controller/clusterauthenticationtrust``."""
    tls = registry.settings.paths.tls
    clients, proxies = tls / "client-ca.crt", tls / "request-header-ca.crt"
    if not clients.exists() or not proxies.exists():
        return
    data = {
        "client-ca-file": clients.read_text(),
        "requestheader-allowed-names": '["system:auth-proxy"]',
        "requestheader-client-ca-file": proxies.read_text(),
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-uid-headers": '["X-Remote-Uid"]',
        "requestheader-username-headers": '["X-Remote-User"]',
    }
    name, namespace = "extension-apiserver-authentication", "kube-system"
    obj: Obj = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace}, "data": data}
    await _ensure(registry, resources.CONFIGMAPS, obj, namespace)
    live = registry.read(resources.CONFIGMAPS, name, namespace)
    if live is not None and live.get("data") != data:
        new: Obj = clone(live)
        new["data"] = data
        ctx = RequestContext(LOOPBACK, "update", resources.CONFIGMAPS, namespace=namespace, name=name, privileged=True)
        await registry.update(ctx, new)


async def _ensure(registry: Registry, resource: Resource, obj: Obj, namespace: str = "") -> None:
    name = obj["metadata"]["name"]
    if registry.read(resource, name, namespace) is not None:
        return
    ctx = RequestContext(LOOPBACK, "create", resource, namespace=namespace, name=name, privileged=True)
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
    conform(obj, resource.type_name)
    try:
        await registry.create(ctx, obj)
    except StatusError as error:
        if error.reason != "AlreadyExists":
            raise


async def _mark_ready(registry: Registry) -> None:
    live = registry.read(resources.SERVICECIDRS, "kubernetes")
    if live is None or any(c.get("type") == "Ready" for c in (live.get("status") or {}).get("conditions") or []):
        return
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": timefmt.now(),
    }

    def change(current: Obj) -> Obj:
        new: Obj = clone(current)
        new["metadata"].pop("resourceVersion", None)
        new["status"] = {"conditions": [condition]}
        return new

    ctx = RequestContext(LOOPBACK, "update", resources.SERVICECIDRS, subresource="status", name="kubernetes", privileged=True)
    await registry.modify(ctx, change)
