"""Local, indexed, event-driven copies of the API's objects. Source: client-go ``tools/cache`` (reflector, shared informer).

A ``Reflector`` lists once and then follows a watch: a closed watch resumes after the last version it saw (bookmarks count),
an expired version lists again. An ``Informer`` is a reflector with a store; all users of one (resource, namespace, selectors)
share it through ``InformerFactory``. Handlers run synchronously in the event loop after the store has changed, in the order of
the events of one object, so they must be quick: put a key on a queue. There is no periodic resync.
With the in-process client the objects are those of the API server's cache, not copies.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apimachinery.resource import Resource
from k3sd.client.api import Client, List

log = logging.getLogger(__name__)

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 30.0
SHORT_WATCH_SECONDS = 1.0
PAGE_SIZE = 500

AddHandler = Callable[[Obj], object]
UpdateHandler = Callable[[Obj, Obj], object]
IndexFunction = Callable[[Obj], Iterable[str]]


def object_key(obj: Obj) -> str:
    """``namespace/name``, or ``name`` for cluster scope."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def split_key(key: str) -> tuple[str, str]:
    """``(namespace, name)`` of an ``object_key``; the namespace is empty for cluster scope."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


class Sink(Protocol):
    """Where a reflector puts what it learns. Both are called in the event loop and must not raise."""

    def replace(self, items: Sequence[Obj]) -> None:
        """All objects as of now; what is not among them is gone."""
        ...

    def apply(self, type_: str, obj: Obj) -> None:
        """One change: ADDED, MODIFIED or DELETED."""
        ...


class Reflector:
    """Keeps a ``Sink`` up to date with one resource until cancelled."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        sink: Sink,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self.client = client
        self.resource = resource
        self.namespace = namespace
        self.label_selector = label_selector
        self.field_selector = field_selector
        self.synced = asyncio.Event()
        self.resource_version = ""
        """The version up to which the sink knows everything."""
        self._sink = sink

    async def run(self) -> None:
        delay = BACKOFF_FIRST_SECONDS
        # "0" allows the first list from any cache; a later one must not step back in time.
        list_from = "0"
        listed = False
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                if not listed:
                    self.resource_version = await self._relist(list_from)
                    listed = True
                    self.synced.set()
                progressed = await self._follow()
            except StatusError as e:
                progressed = False
                if e.code == 410 or e.reason in ("Expired", "Gone"):
                    log.debug("%s: version %s expired, listing again", self.resource.qualified, self.resource_version)
                    list_from, listed = "", False
                else:
                    log.warning("watching %s: %s", self.resource.qualified, e.message)
                    if e.reason == "Timeout":
                        list_from, listed = "", False
            except (ConnectionError, TimeoutError) as e:
                progressed = False
                log.warning("watching %s: %s", self.resource.qualified, e)
            except Exception:
                # What the sink made of an event is unknown: begin anew rather than follow on with a wrong picture.
                progressed = False
                log.exception("watching %s failed", self.resource.qualified)
                list_from, listed = "", False
            if progressed or loop.time() - started > SHORT_WATCH_SECONDS:
                delay = BACKOFF_FIRST_SECONDS
                if progressed:
                    continue
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(delay * 2, BACKOFF_CAP_SECONDS)

    async def _relist(self, version: str) -> str:
        items: list[Obj] = []
        page = List([], "")
        while True:
            page = await self.client.list(
                self.resource,
                self.namespace,
                label_selector=self.label_selector,
                field_selector=self.field_selector,
                resource_version="" if page.continue_ else version,
                limit=PAGE_SIZE,
                continue_=page.continue_,
            )
            items += page.items
            if not page.continue_:
                break
        self._sink.replace(items)
        return page.resource_version

    async def _follow(self) -> bool:
        """One watch until it closes; whether it brought anything."""
        progressed = False
        async for event in self.client.watch(
            self.resource,
            self.namespace,
            resource_version=self.resource_version,
            label_selector=self.label_selector,
            field_selector=self.field_selector,
        ):
            if event.type == "ERROR":
                raise StatusError.from_status(event.object)
            if event.type != "BOOKMARK":
                self._sink.apply(event.type, event.object)
            progressed = True
            self.resource_version = event.object["metadata"]["resourceVersion"]
        return progressed


@dataclass(slots=True, eq=False)
class _Handler:
    on_add: AddHandler | None
    on_update: UpdateHandler | None
    on_delete: AddHandler | None


class Informer:
    """The store of one resource (or a selection of it). Objects are shared: read only.

    ``get`` and ``list`` answer from memory; before ``wait_synced`` they are incomplete.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self.resource = resource
        self._reflector = Reflector(
            client, resource, self, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        self._objects: dict[str, Obj] = {}
        self._namespaces: dict[str, dict[str, Obj]] = {}
        self._index_functions: dict[str, IndexFunction] = {}
        self._indexes: dict[str, dict[str, dict[str, Obj]]] = {}
        self._handlers: tuple[_Handler, ...] = ()
        self._task: asyncio.Task[None] | None = None

    # -- life

    def start(self) -> None:
        """Begin to follow; idempotent. The task is ours and ends with ``stop``."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._reflector.run(), name=f"informer {self.resource.qualified}"
            )

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def synced(self) -> bool:
        """The first list is in the store and was handed to the handlers."""
        return self._reflector.synced.is_set()

    async def wait_synced(self) -> None:
        """Wait for ``synced``; raises what ended the informer when it died before."""
        if self.synced or self._task is None:
            await self._reflector.synced.wait()
            return
        waiter = asyncio.ensure_future(self._reflector.synced.wait())
        try:
            await asyncio.wait({waiter, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if self._task is not None and self._task.done() and not self.synced:
                self._task.result()
                raise ConnectionError(f"informer for {self.resource.qualified} was stopped")
        finally:
            waiter.cancel()

    # -- reading

    @property
    def resource_version(self) -> str:
        """The store reflects everything up to this version."""
        return self._reflector.resource_version

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str) -> Obj | None:
        """By ``namespace/name`` (``name`` for cluster scope)."""
        return self._objects.get(key)

    def list(self, namespace: str | None = None) -> Collection[Obj]:
        """A live view, in no useful order: copy it before anything awaits."""
        if namespace is None:
            return self._objects.values()
        return self._namespaces.get(namespace, {}).values()

    def by_index(self, name: str, value: str) -> Collection[Obj]:
        """A live view of the objects that index ``name`` files under ``value``."""
        return self._indexes[name].get(value, {}).values()

    # -- shaping

    def add_index(self, name: str, fn: IndexFunction) -> None:
        """File each object under the values ``fn`` names. The first definition of a name stays."""
        if name in self._index_functions:
            return
        self._index_functions[name] = fn
        index = self._indexes[name] = {}
        for key, obj in self._objects.items():
            for value in fn(obj):
                index.setdefault(value, {})[key] = obj

    def add_handler(
        self,
        on_add: AddHandler | None = None,
        on_update: UpdateHandler | None = None,
        on_delete: AddHandler | None = None,
    ) -> Callable[[], None]:
        """Call these on changes; ``on_add`` at once for each object already here. Returns the remover."""
        handler = _Handler(on_add, on_update, on_delete)
        self._handlers += (handler,)
        if on_add is not None:
            for obj in list(self._objects.values()):
                self._call(on_add, obj)

        def remove() -> None:
            self._handlers = tuple(h for h in self._handlers if h is not handler)

        return remove

    # -- Sink

    def replace(self, items: Sequence[Obj]) -> None:
        fresh = {object_key(obj): obj for obj in items}
        for key in [key for key in self._objects if key not in fresh]:
            self.apply("DELETED", self._objects[key])
        for key, obj in fresh.items():
            old = self._objects.get(key)
            if old is not None and old["metadata"].get("uid") != obj["metadata"].get("uid"):
                self.apply("DELETED", old)
            elif old is not None and old["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
                continue
            self.apply("ADDED", obj)

    def apply(self, type_: str, obj: Obj) -> None:
        key = object_key(obj)
        old = self._objects.get(key)
        if old is not None:
            self._unfile(key, old)
        if type_ == "DELETED":
            if old is not None:
                for handler in self._handlers:
                    if handler.on_delete is not None:
                        self._call(handler.on_delete, obj)
            return
        self._file(key, obj)
        for handler in self._handlers:
            if old is None:
                if handler.on_add is not None:
                    self._call(handler.on_add, obj)
            elif handler.on_update is not None:
                self._call(handler.on_update, old, obj)

    def _file(self, key: str, obj: Obj) -> None:
        self._objects[key] = obj
        namespace = obj["metadata"].get("namespace")
        if namespace:
            self._namespaces.setdefault(namespace, {})[key] = obj
        for name, fn in self._index_functions.items():
            for value in fn(obj):
                self._indexes[name].setdefault(value, {})[key] = obj

    def _unfile(self, key: str, old: Obj) -> None:
        del self._objects[key]
        namespace = old["metadata"].get("namespace")
        if namespace:
            _discard(self._namespaces, namespace, key)
        for name, fn in self._index_functions.items():
            for value in fn(old):
                _discard(self._indexes[name], value, key)

    def _call(self, handler: Callable[..., object], *objects: Obj) -> None:
        try:
            handler(*objects)
        except Exception:
            log.exception("%s: a handler failed on %s", self.resource.qualified, object_key(objects[-1]))


def _discard(index: dict[str, dict[str, Obj]], value: str, key: str) -> None:
    bucket = index.get(value)
    if bucket is not None:
        bucket.pop(key, None)
        if not bucket:
            del index[value]


class InformerFactory:
    """One informer a (resource, namespace, selectors), shared by all who ask."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._informers: dict[tuple[Resource, str | None, str, str], Informer] = {}

    def informer(
        self, resource: Resource, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> Informer:
        """The shared informer, made on the first call; add handlers and indexes, then ``start`` it."""
        key = (resource, namespace, label_selector, field_selector)
        informer = self._informers.get(key)
        if informer is None:
            informer = Informer(self.client, resource, namespace, label_selector, field_selector)
            self._informers[key] = informer
        return informer

    def start(self) -> None:
        """Start all that are not running yet."""
        for informer in list(self._informers.values()):
            informer.start()

    async def wait_synced(self) -> None:
        for informer in list(self._informers.values()):
            await informer.wait_synced()

    async def stop(self) -> None:
        await asyncio.gather(*(informer.stop() for informer in self._informers.values()))
