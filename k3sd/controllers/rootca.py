"""Puts the cluster's CA certificate into every namespace as ConfigMap ``kube-root-ca.crt`` and puts it back when changed.

Source: ``pkg/controller/certificates/rootcacertpublisher``.
"""

from __future__ import annotations

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.client.retry import update_with_retry
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import is_deleting
from k3sd.controllers.serviceaccount import create_in_namespace

CONFIG_MAP = "kube-root-ca.crt"
_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


class RootCACertPublisher(Controller):
    name = "root-ca-certificate-publisher-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.certificate = (ctx.settings.paths.tls / "server-ca.crt").read_text()
        self.namespaces = self.informer(resources.NAMESPACES, self.enqueue, self.enqueue_update)
        self.maps = self.informer(
            resources.CONFIGMAPS,
            None,
            lambda _, new: self._changed(new),
            self._changed,
            field_selector=f"metadata.name={CONFIG_MAP}",
        )

    def _changed(self, config_map: Obj) -> None:
        self.queue.add(config_map["metadata"]["namespace"])

    async def reconcile(self, key: str) -> None:
        namespace = self.namespaces.get(key)
        if namespace is None or is_deleting(namespace):
            return
        data = {"ca.crt": self.certificate}
        current = self.maps.get(f"{key}/{CONFIG_MAP}")
        if current is None:
            annotations = {"kubernetes.io/description": _DESCRIPTION}
            metadata = {"name": CONFIG_MAP, "namespace": key, "annotations": annotations}
            await create_in_namespace(self, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data}, key)
        elif current.get("data") != data:
            await update_with_retry(
                self.client, resources.CONFIGMAPS, CONFIG_MAP, key, lambda o: o.update(data=data), initial=current
            )
