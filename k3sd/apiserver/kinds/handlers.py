"""Bases of the subresource handlers: refusing what is not overridden, read-modify-write of the object behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import Obj, bad_request, method_not_supported
from k3sd.apimachinery.resource import Resource
from k3sd.apiserver.request import RequestContext

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

SUCCESS: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
"""What creating an action (binding, eviction) answers."""


class Handler:
    """Base of handlers: a verb that is not overridden is 405."""

    def __init__(self, registry: Registry, resource: Resource, subresource: str) -> None:
        self.registry = registry
        self.resource = resource
        self.subresource = subresource

    def _refuse(self, verb: str) -> Exception:
        return method_not_supported(self.resource.group, self.resource.plural, verb)

    async def get(self, ctx: RequestContext, namespace: str, name: str) -> Obj:
        raise self._refuse("get")

    async def create(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        raise self._refuse("create")

    async def update(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        raise self._refuse("update")


class ObjectHandler(Handler):
    """A subresource whose body is the object itself; subclasses say which part of it is taken over."""

    async def get(self, ctx: RequestContext, namespace: str, name: str) -> Obj:
        return self.registry.get(ctx).obj

    def merge(self, current: Obj, body: Obj) -> Obj:
        """The new object: ``current`` (shared, do not change) with the part of ``body`` this subresource owns."""
        raise self._refuse("update")

    async def update(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        meta = body.get("metadata") or {}
        if meta.get("name", name) != name:
            raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
        version, uid = meta.get("resourceVersion"), meta.get("uid")

        def change(current: Obj) -> Obj:
            new = self.merge(current, body)
            new_meta = new["metadata"]
            for key, value in (("resourceVersion", version), ("uid", uid)):
                if value:
                    new_meta[key] = value
                elif key == "resourceVersion":
                    new_meta.pop(key, None)
            return new

        return (await self.registry.modify(ctx, change)).obj
