"""Gives every active namespace its ``default`` ServiceAccount. Source: ``pkg/controller/serviceaccount``."""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import is_deleting

ACCOUNT = "default"


class ServiceAccountController(Controller):
    name = "serviceaccount-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.namespaces = self.informer(resources.NAMESPACES, self.enqueue, self.enqueue_update)
        self.accounts = self.informer(
            resources.SERVICEACCOUNTS, on_delete=self._deleted, field_selector=f"metadata.name={ACCOUNT}"
        )

    def _deleted(self, account: Obj) -> None:
        self.queue.add(account["metadata"]["namespace"])

    async def reconcile(self, key: str) -> None:
        namespace = self.namespaces.get(key)
        if namespace is None or is_deleting(namespace) or self.accounts.get(f"{key}/{ACCOUNT}") is not None:
            return
        account: Obj = {
            "kind": "ServiceAccount",
            "apiVersion": "v1",
            "metadata": {"name": ACCOUNT, "namespace": key},
        }
        await create_in_namespace(self, account, key)


async def create_in_namespace(controller: Controller, obj: Obj, namespace: str) -> None:
    """Create one of the objects every namespace has; it may exist already, and the namespace may be on its way out."""
    resource = resources.by_kind(obj["apiVersion"], obj["kind"])
    assert resource is not None
    try:
        await controller.client.create(resource, obj, namespace)
    except StatusError as e:
        if e.reason == "AlreadyExists" or e.code == 404:
            return
        terminating = any(c.get("reason") == "NamespaceTerminating" for c in e.details.get("causes") or ())
        if not terminating:
            raise
