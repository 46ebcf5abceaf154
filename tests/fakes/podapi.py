"""The in-memory API with what the kubelet asks of it besides: strategic merge patches, and waiting for a state."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from k3sd.apimachinery import schema
from k3sd.apimachinery.patch import strategic_merge_patch
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import DeleteOptions
from tests.fakes.client import FakeClient

Obj = dict[str, Any]


async def eventually(check: Callable[[], Awaitable[bool] | bool], seconds: float = 20) -> None:
    """For what announces itself in no way: look until ``check`` holds."""
    deadline = asyncio.get_running_loop().time() + seconds
    for _ in itertools.count():
        result = check()
        if result if isinstance(result, bool) else await result:
            return
        assert asyncio.get_running_loop().time() < deadline, f"{check} does not hold after {seconds} s"
        await asyncio.sleep(0.05)


class FakeAPI(FakeClient):
    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()
        # Unlike a counter, never the same twice on one containerd.
        self._uids = (str(uuid.uuid4()) for _ in itertools.count())

    def _publish(self, type_: str, resource: Resource, obj: Obj, old: Obj | None) -> None:
        super()._publish(type_, resource, obj, old)
        self.changed.set()

    async def patch(self, resource: Resource, name: str, patch: Any, namespace: str | None = None, **kwargs: Any) -> Obj:
        if kwargs.get("patch_type") != "application/strategic-merge-patch+json":
            return await super().patch(resource, name, patch, namespace, **kwargs)
        old = self._find(resource, namespace, name)
        uid = (patch.get("metadata") or {}).get("uid")
        new = strategic_merge_patch(old, patch, schema.types.get(resource.type_name))
        if uid:
            new["metadata"]["uid"] = uid
        return self._write("patch", resource, new, kwargs.get("subresource", ""))

    async def remove(self, resource: Resource, obj: Obj) -> None:
        """Delete at once, whatever grace the object has."""
        meta = obj["metadata"]
        if (meta.get("namespace", ""), meta["name"]) in self.objects.get(resource, {}):
            await self.delete(resource, meta["name"], meta.get("namespace"), DeleteOptions(grace_period_seconds=0))

    async def wait_for(
        self, resource: Resource, namespace: str, name: str, check: Callable[[Obj], Any] | None, seconds: float
    ) -> Any:
        """Until ``check`` holds of the object; with None until there is no such object."""
        last: Any = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    last = self.objects.get(resource, {}).get((namespace, name))
                    if check is None and last is None:
                        return None
                    if check is not None and last is not None and check(last):
                        return last
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"{resource.plural} {name} never got there; last seen: {last}") from None
