"""Runs controllers against the fake client in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apimachinery.resource import Resource
from k3sd.client.informer import InformerFactory
from k3sd.config.settings import Settings
from k3sd.controllers.base import Context, Controller
from k3sd.lib.jsonvalue import clone
from tests.fakes.client import FakeClient
from tests.fakes.clock import wall_clock


class Harness:
    """``async with Harness(A, B) as h`` runs controllers A and B; ``await h.settle()`` lets them react."""

    def __init__(self, *controllers: type[Controller], settings: Settings | None = None, data_dir: Path | None = None) -> None:
        if settings is None:
            settings = Settings(data_dir=str(data_dir)) if data_dir else Settings()
        self.client = FakeClient(wall_clock)
        self.informers = InformerFactory(self.client)
        self.ctx = Context(self.client, self.informers, settings, wall_clock)
        self.classes = controllers
        self.controllers: list[Controller] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Harness:
        for cls in self.classes:
            controller = cls(self.ctx)
            self.controllers.append(controller)
            self._tasks.append(asyncio.create_task(controller.run()))
        await self.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        failed = [t for t in self._tasks if t.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.informers.stop()
        for recorder in self.ctx.recorders.values():
            await recorder.stop()
        for task in failed:
            task.result()

    async def settle(self, seconds: float = 1.0) -> None:
        """Virtual time passes; everything that can happen does."""
        await asyncio.sleep(seconds)

    async def create(self, resource: Resource, obj: Obj) -> Obj:
        return await self.client.create(resource, obj, obj["metadata"].get("namespace"))

    async def status(self, resource: Resource, obj: Obj, **fields: Any) -> Obj:
        """Merge ``fields`` into the object's status, as its kubelet or another controller would."""
        live = await self.client.get(resource, obj["metadata"]["name"], obj["metadata"].get("namespace"))
        changed = clone(live)
        changed["status"] = {**changed.get("status", {}), **fields}
        return await self.client.update(resource, changed, subresource="status")

    async def patch(self, resource: Resource, obj: Obj, patch: Obj) -> Obj:
        return await self.client.patch(resource, obj["metadata"]["name"], patch, obj["metadata"].get("namespace"))

    async def delete(self, resource: Resource, obj: Obj, **options: Any) -> Obj:
        from k3sd.client.api import DeleteOptions

        metadata = obj["metadata"]
        return await self.client.delete(resource, metadata["name"], metadata.get("namespace"), DeleteOptions(**options))

    def all(self, resource: Resource, namespace: str | None = None) -> list[Obj]:
        return self.client.all(resource, namespace)

    def only(self, resource: Resource, namespace: str | None = None) -> Obj:
        (obj,) = self.client.all(resource, namespace)
        return obj

    async def make_ready(self, pods: Sequence[Obj] | None = None, node: str = "n1") -> None:
        """Run pods as a kubelet would: bound, Running, Ready."""
        for pod in pods if pods is not None else self.all_pods():
            live = await self.client.get(_pods(), pod["metadata"]["name"], pod["metadata"]["namespace"])
            if not live["spec"].get("nodeName"):
                await self.patch(_pods(), live, {"spec": {"nodeName": node}})
            await self.status(_pods(), live, **ready_status())

    def all_pods(self, namespace: str | None = None) -> list[Obj]:
        return [p for p in self.client.all(_pods(), namespace) if not p["metadata"].get("deletionTimestamp")]


def ready_status(ready: bool = True, phase: str = "Running", ip: str = "10.42.0.9") -> Obj:
    from k3sd.apimachinery import timefmt

    now = timefmt.from_epoch(wall_clock())
    return {
        "phase": phase,
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": now}],
    }


def _pods() -> Resource:
    from k3sd.apis import resources

    return resources.PODS
