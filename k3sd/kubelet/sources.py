"""ConfigMaps, Secrets and Services that this node's pods use, kept current by watches.

A node may read a ConfigMap or Secret only while one of its pods refers to it, and only by name: one watch an object, shared by
all pods that refer to it, ended with the last of them. Immutable objects are read once and not watched.
Source: Kubernetes 1.36, ``pkg/kubelet/util/manager/watch_based_manager.go``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from k3sd.apimachinery.errors import StatusError, not_found
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.client.api import Client
from k3sd.client.informer import InformerFactory, Reflector
from k3sd.kubelet.downward import all_containers

Obj = dict[str, Any]
Kind = Literal["ConfigMap", "Secret"]

log = logging.getLogger(__name__)

SYNC_TIMEOUT_SECONDS = 5.0
_RESOURCES: dict[Kind, Resource] = {"ConfigMap": resources.CONFIGMAPS, "Secret": resources.SECRETS}


@dataclass(frozen=True, slots=True)
class Reference:
    """One object a pod refers to. The namespace is the pod's."""

    kind: Kind
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """A referenced object appeared, changed or vanished. ``pods`` are the uids that refer to it."""

    reference: Reference
    pods: frozenset[str]


class _Watched:
    """One object, its watch and who needs it. ``object`` is None while it does not exist."""

    __slots__ = ("object", "on_change", "pods", "reflector", "task")

    def __init__(self, client: Client, reference: Reference, on_change: Callable[[], None]) -> None:
        self.object: Obj | None = None
        self.pods: set[str] = set()
        self.on_change = on_change
        self.reflector = Reflector(
            client,
            _RESOURCES[reference.kind],
            self,
            namespace=reference.namespace,
            field_selector=f"metadata.name={reference.name}",
        )
        self.task = asyncio.get_running_loop().create_task(
            self.reflector.run(), name=f"watch {reference.kind} {reference.namespace}/{reference.name}"
        )

    def replace(self, items: Sequence[Obj]) -> None:
        fresh = items[0] if items else None
        if _version(fresh) != _version(self.object):
            self._set(fresh)

    def apply(self, type_: str, obj: Obj) -> None:
        self._set(None if type_ == "DELETED" else obj)

    def _set(self, obj: Obj | None) -> None:
        self.object = obj
        if obj is not None and obj.get("immutable"):
            # The reflector calls us from inside its task: let it finish its list, then end it.
            asyncio.get_running_loop().call_soon(self.task.cancel)
            self.reflector.synced.set()
        self.on_change()


def _version(obj: Obj | None) -> str | None:
    return None if obj is None else obj["metadata"].get("resourceVersion")


def references(pod: Obj) -> set[Reference]:
    """Every ConfigMap and Secret that the pod's volumes, environments and image pulls name."""
    namespace = str(pod["metadata"]["namespace"])
    return {Reference(kind, namespace, name) for kind, name in _names(pod) if name}


def _names(pod: Obj) -> Iterator[tuple[Kind, str]]:
    spec: Obj = pod.get("spec") or {}
    for secret in spec.get("imagePullSecrets") or ():
        yield "Secret", secret.get("name", "")
    for container in all_containers(pod):
        for source in container.get("envFrom") or ():
            yield "ConfigMap", (source.get("configMapRef") or {}).get("name", "")
            yield "Secret", (source.get("secretRef") or {}).get("name", "")
        for variable in container.get("env") or ():
            value: Obj = variable.get("valueFrom") or {}
            yield "ConfigMap", (value.get("configMapKeyRef") or {}).get("name", "")
            yield "Secret", (value.get("secretKeyRef") or {}).get("name", "")
    for volume in spec.get("volumes") or ():
        yield from volume_names(volume)


def volume_names(volume: Obj) -> Iterator[tuple[Kind, str]]:
    """What one volume refers to; names may be empty."""
    yield "ConfigMap", (volume.get("configMap") or {}).get("name", "")
    yield "Secret", (volume.get("secret") or {}).get("secretName", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield "ConfigMap", (source.get("configMap") or {}).get("name", "")
        yield "Secret", (source.get("secret") or {}).get("name", "")


class Sources:
    """The node's view of what its pods refer to. Objects are shared: read only. All calls are made in the event loop."""

    def __init__(self, client: Client, informers: InformerFactory | None = None) -> None:
        self._client = client
        self._informers = informers or InformerFactory(client)
        self._watched: dict[Reference, _Watched] = {}
        self._pods: dict[str, set[Reference]] = {}
        self._listeners: list[Callable[[Change], None]] = []

    def add_pod(self, pod: Obj) -> None:
        """Begin to watch what the pod refers to. Call again when the pod changed; the difference is what happens."""
        uid = str(pod["metadata"]["uid"])
        wanted = references(pod)
        known = self._pods.get(uid, set())
        self._pods[uid] = wanted
        for reference in wanted - known:
            watched = self._watched.get(reference)
            if watched is None:
                watched = self._watched[reference] = _Watched(self._client, reference, self._notifier(reference))
            watched.pods.add(uid)
        self._release(uid, known - wanted)

    def remove_pod(self, uid: str) -> None:
        self._release(uid, self._pods.pop(uid, set()))

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """Call ``listener`` in the event loop after each change of a referenced object, first sight included."""
        self._listeners.append(listener)

    async def get_config_map(self, namespace: str, name: str) -> Obj:
        """Raises StatusError 404 with upstream's text, or TimeoutError while the API cannot be reached."""
        return await self._get(Reference("ConfigMap", namespace, name))

    async def get_secret(self, namespace: str, name: str) -> Obj:
        """As ``get_config_map``."""
        return await self._get(Reference("Secret", namespace, name))

    async def services(self, namespace: str) -> Collection[Obj]:
        """The namespace's Services and ``default/kubernetes``. The first call begins to watch Services."""
        informer = self._informers.informer(resources.SERVICES)
        informer.start()
        try:
            await asyncio.wait_for(informer.wait_synced(), SYNC_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise TimeoutError("services have not yet been read at least once, cannot construct envvars") from error
        found = list(informer.list(namespace))
        api = informer.get("default/kubernetes")
        if api is not None and namespace != "default":
            found.append(api)
        return found

    async def stop(self) -> None:
        """End every watch of ConfigMaps and Secrets; the informers belong to whoever made the factory."""
        tasks = [watched.task for watched in self._watched.values()]
        self._watched.clear()
        self._pods.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _get(self, reference: Reference) -> Obj:
        watched = self._watched.get(reference)
        singular = reference.kind.lower()
        if watched is None:
            # Asked for outside a registered pod: an ordinary read.
            try:
                return await self._client.get(_RESOURCES[reference.kind], reference.name, reference.namespace)
            except StatusError as error:
                raise not_found("", singular, reference.name) if error.code == 404 else error from error
        try:
            await asyncio.wait_for(watched.reflector.synced.wait(), SYNC_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"failed to sync {singular} cache: timed out waiting for the condition") from error
        if watched.object is None:
            raise not_found("", singular, reference.name)
        return watched.object

    def _release(self, uid: str, gone: set[Reference]) -> None:
        for reference in gone:
            watched = self._watched[reference]
            watched.pods.discard(uid)
            if not watched.pods:
                del self._watched[reference]
                watched.task.cancel()

    def _notifier(self, reference: Reference) -> Callable[[], None]:
        def notify() -> None:
            watched = self._watched.get(reference)
            if watched is None:
                return
            change = Change(reference, frozenset(watched.pods))
            for listener in self._listeners:
                listener(change)

        return notify
