"""What every controller is made of: a context to reach the cluster, a queue of keys, and one reconcile function.

A controller subscribes to informers in its constructor (handlers put keys on its queue) and is run by
``k3sd.controllers.manager``, which starts it anew when it fails. Decisions belong into pure functions; the class around them
only reads caches, calls them and writes. Status is written only when it changes, and only the fields that are its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import Client
from k3sd.client.events import EventRecorder
from k3sd.client.informer import AddHandler, Informer, InformerFactory, UpdateHandler, object_key
from k3sd.client.retry import update_with_retry
from k3sd.client.workqueue import WorkQueue
from k3sd.config.settings import Settings


@dataclass(slots=True)
class Context:
    """What controllers share. ``clock`` is epoch seconds."""

    client: Client
    informers: InformerFactory
    settings: Settings
    clock: Callable[[], float] = time.time
    recorders: dict[str, EventRecorder] = field(default_factory=dict)

    def now(self) -> str:
        """The current time as the API writes it."""
        return timefmt.from_epoch(self.clock())

    def recorder(self, component: str) -> EventRecorder:
        """The event recorder of ``component``, one for all who ask, so that equal events are counted together."""
        if component not in self.recorders:
            self.recorders[component] = EventRecorder(self.client, component, clock=self.clock)
        return self.recorders[component]


class Controller:
    """One reconciler. Subclasses set ``name``, subscribe in ``__init__`` and implement ``reconcile``."""

    name: ClassVar[str]
    """As kube-controller-manager names it."""
    workers: ClassVar[int] = 5

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.client = ctx.client
        self.queue: WorkQueue[str] = WorkQueue(self.name)
        self._informers: list[Informer] = []
        self._subscriptions: list[Callable[[], Callable[[], None]]] = []
        self._removers: list[Callable[[], None]] = []

    def informer(
        self,
        resource: Resource,
        on_add: AddHandler | None = None,
        on_update: UpdateHandler | None = None,
        on_delete: AddHandler | None = None,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Informer:
        """The shared informer. Its handlers join in ``run`` (a full cache calls them at once, when a constructor has not yet
        made all they need) and leave with ``close``."""
        informer = self.ctx.informers.informer(resource, namespace, label_selector, field_selector)
        if informer not in self._informers:
            self._informers.append(informer)
        if on_add or on_update or on_delete:
            self._subscriptions.append(partial(informer.add_handler, on_add, on_update, on_delete))
        return informer

    def enqueue(self, obj: Obj) -> None:
        self.queue.add(object_key(obj))

    def enqueue_update(self, old: Obj, new: Obj) -> None:
        self.queue.add(object_key(new))

    async def run(self) -> None:
        """Work until cancelled, once every cache has its first list."""
        self._removers += [subscribe() for subscribe in self._subscriptions]
        for informer in self._informers:
            informer.start()
        for informer in self._informers:
            await informer.wait_synced()
        background = asyncio.create_task(self.background(), name=f"{self.name} background")
        try:
            queue = asyncio.create_task(self.queue.run(self.reconcile, self.workers), name=f"{self.name} queue")
            try:
                done, _ = await asyncio.wait({queue, background}, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                queue.cancel()
                await asyncio.gather(queue, return_exceptions=True)
        finally:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)

    async def write_status(self, resource: Resource, owner: Obj, change: Callable[[Obj], object]) -> Obj:
        """Let ``change`` edit the object's status and write it when that changed it. ``owner`` as it is where it has gone."""
        try:
            return await update_with_retry(
                self.client,
                resource,
                owner["metadata"]["name"],
                owner["metadata"].get("namespace"),
                change,
                subresource="status",
                initial=owner,
                uid=owner["metadata"]["uid"],
            )
        except StatusError as e:
            if e.code != 404:
                raise
            return owner

    async def background(self) -> None:
        """Work that follows no key (timers); may return at once."""

    async def reconcile(self, key: str) -> float | None:
        """Bring ``key`` closer to its desired state; seconds after which to look again, or None."""
        raise TypeError(f"{type(self).__name__} must define reconcile")

    def close(self) -> None:
        """End all subscriptions."""
        for remove in self._removers:
            remove()
        self._removers.clear()
