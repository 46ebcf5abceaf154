"""Objects that exist in every cluster before anybody asks: the system namespaces and the ``kubernetes`` Service.

Upstream: ``controlplane/controller/{systemnamespaces,kubernetesservice}``. Bootstrap RBAC is ``authz.bootstrap``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


async def make_startup_objects(registry: Registry) -> None:
    """Idempotent: creates what is missing, corrects what is wrong."""
    from k3sd.apiserver import kubernetes_service
    from k3sd.apiserver.authz import bootstrap
    from k3sd.apiserver.systemobjects import make_system_objects

    registry.custom.start()
    await make_namespaces(registry)
    await make_system_objects(registry)
    await bootstrap.reconcile(registry)
    await kubernetes_service.reconcile(registry)
    registry.kubernetes = kubernetes_service.Keeper(registry)
    registry.kubernetes.start()


async def make_namespaces(registry: Registry) -> None:
    client = registry.client()
    for name in NAMESPACES:
        if registry.read(resources.NAMESPACES, name) is None:
            try:
                await client.create(resources.NAMESPACES, {"metadata": {"name": name}})
            except StatusError as error:
                if error.reason != "AlreadyExists":
                    raise
