"""An API server of one process for node parts that list, watch and request tokens: what is put is stored and told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import not_found
from k3sd.apis import resources
from k3sd.client.api import List, WatchEvent

Obj = dict[str, Any]


class FakeClient:
    """One stored object a name; watches get what ``put`` and ``drop`` do. Counts what is asked."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Obj] = {}
        self.version = 1
        self.queues: dict[tuple[str, str, str], list[asyncio.Queue[WatchEvent]]] = {}
        self.lists: list[str] = []
        self.token_requests: list[tuple[str, str, Obj]] = []
        self.token_life = 3600
        self.now = 1_000_000.0
        self.token_error: Exception | None = None

    def put(self, plural: str, namespace: str, name: str, **content: Any) -> Obj:
        self.version += 1
        obj = {"metadata": {"namespace": namespace, "name": name, "uid": "u", "resourceVersion": str(self.version)}, **content}
        key = (plural, namespace, name)
        kind = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = obj
        self.tell(key, WatchEvent(kind, obj))
        return obj

    def drop(self, plural: str, namespace: str, name: str) -> None:
        key = (plural, namespace, name)
        self.tell(key, WatchEvent("DELETED", self.objects.pop(key)))

    def tell(self, key: tuple[str, str, str], event: WatchEvent) -> None:
        for queue in self.queues.get(key, []) + self.queues.get((key[0], "", ""), []):
            queue.put_nowait(event)

    async def get(self, resource: Any, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        try:
            return self.objects[(resource.plural, namespace or "", name)]
        except KeyError:
            raise not_found("", resource.plural, name) from None

    async def list(self, resource: Any, namespace: str | None = None, *, field_selector: str = "", **_: Any) -> List:
        self.lists.append(f"{resource.plural} {namespace} {field_selector}")
        name = field_selector.removeprefix("metadata.name=")
        found = [
            o
            for (plural, ns, n), o in self.objects.items()
            if plural == resource.plural and namespace in (None, ns) and name in ("", n)
        ]
        return List(found, str(self.version))

    async def watch(
        self, resource: Any, namespace: str | None = None, *, field_selector: str = "", **_: Any
    ) -> AsyncIterator[WatchEvent]:
        key = (resource.plural, namespace or "", field_selector.removeprefix("metadata.name="))
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self.queues.setdefault(key, []).append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.queues[key].remove(queue)

    def watches(self, plural: str, namespace: str, name: str) -> int:
        return len(self.queues.get((plural, namespace, name), []))

    async def create(
        self, resource: Any, obj: Obj, namespace: str | None = None, *, name: str = "", subresource: str = ""
    ) -> Obj:
        assert (resource, subresource) == (resources.SERVICEACCOUNTS, "token")
        self.token_requests.append((str(namespace), name, obj))
        if self.token_error:
            raise self.token_error
        number = len(self.token_requests)
        expires = timefmt.from_epoch(self.now + self.token_life)
        return {**obj, "status": {"token": f"t{number}", "expirationTimestamp": expires}}


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)
