"""NamespaceLifecycle: nothing is created in a namespace that is missing or going away; the built-in ones stay.

Source: ``apiserver/pkg/admission/plugin/namespace/lifecycle``. (The label kubernetes.io/metadata.name is the kind's own
default.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj, forbidden, not_found
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

PROTECTED = ("default", "kube-system", "kube-public")
_MAX_HELD = 256
REVIEWS = ("localsubjectaccessreviews",)


class NamespaceLifecycle(Plugin):
    name = "NamespaceLifecycle"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # The cache parses an object again when nobody holds it: the namespaces in use are held.
        self._held: dict[str, Obj] = {}

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        if resource is resources.NAMESPACES:
            return operation == "DELETE"
        return operation == "CREATE" and resource.namespaced and resource.plural not in REVIEWS

    async def admit(self, attrs: Attributes) -> None:
        ctx = attrs.ctx
        assert ctx.resource is not None
        if attrs.operation == "DELETE":
            if ctx.name in PROTECTED:
                raise forbidden("", "namespaces", ctx.name, "this namespace may not be deleted")
            return
        namespace = self._registry.read(resources.NAMESPACES, ctx.namespace)
        if namespace is None:
            raise not_found("", "namespaces", ctx.namespace)
        if len(self._held) >= _MAX_HELD:
            self._held.clear()
        self._held[ctx.namespace] = namespace
        if "deletionTimestamp" not in namespace["metadata"] and (namespace.get("status") or {}).get("phase") != "Terminating":
            return
        name = ctx.name or ((attrs.obj or {}).get("metadata") or {}).get("name", "")
        text = f"unable to create new content in namespace {ctx.namespace} because it is being terminated"
        error = forbidden(ctx.resource.group, ctx.resource.plural, name, text)
        message = f"namespace {ctx.namespace} is being terminated"
        error.details["causes"] = [{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}]
        raise error
