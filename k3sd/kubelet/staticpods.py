"""Pods from manifest files in ``agent/pod-manifests``, and the mirror pods that show them in the API.

Source: Kubernetes 1.36 ``pkg/kubelet/config`` (``file.go``, ``common.go``), ``pkg/kubelet/pod/mirror_client.go``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.defaults import apply_defaults
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client, DeleteOptions
from k3sd.kubelet import podinfo
from k3sd.kubelet.podinfo import Obj
from k3sd.lib.inotify import DirectoryEvents, Watch
from k3sd.lib.jsonvalue import clone

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.1
"""An editor writes a file in several steps; each event starts the wait anew."""
MAX_MANIFEST_BYTES = 10 * 1024 * 1024


class ManifestError(Exception):
    """A manifest is not a pod this node can run; names the file."""


def parse_manifest(data: bytes, file: str, node_name: str) -> Obj:
    """The pod of one manifest, completed as a static pod of this node (``applyDefaults``). Raises ManifestError."""
    import yaml

    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{file}: larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        pod: Any = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: neither valid YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(pod, dict) or pod.get("kind") != "Pod" or pod.get("apiVersion") != "v1":
        raise ManifestError(f"{file}: must hold one object of apiVersion v1, kind Pod")
    meta, spec = pod.get("metadata"), pod.get("spec")
    if not isinstance(meta, dict) or not meta.get("name") or not isinstance(spec, dict) or not spec.get("containers"):
        raise ManifestError(f"{file}: metadata.name and spec.containers are required")
    for name in ("serviceAccountName", "serviceAccount"):
        if spec.get(name):
            raise ManifestError(f"{file}: spec.{name}: a static pod cannot use a service account; leave it out")
    pod = clone(pod)
    meta, spec = pod["metadata"], pod["spec"]
    digest = hashlib.md5(f"host:{node_name}file:{file}".encode() + data, usedforsecurity=False).hexdigest()
    meta["uid"] = meta.get("uid") or digest
    meta["name"] = f"{meta['name']}-{node_name.lower()}"
    meta["namespace"] = meta.get("namespace") or "default"
    meta["annotations"] = {
        **(meta.get("annotations") or {}),
        podinfo.CONFIG_HASH: digest,
        podinfo.CONFIG_SOURCE: "file",
        "kubernetes.io/config.seen": timefmt.now(),
    }
    spec["nodeName"] = node_name
    spec["tolerations"] = [*(spec.get("tolerations") or ()), {"operator": "Exists", "effect": "NoExecute"}]
    pod["status"] = {"phase": "Pending"}
    try:
        apply_defaults(pod, resources.PODS)
    except (StatusError, AttributeError, TypeError, ValueError) as error:
        raise ManifestError(f"{file}: {error}") from error
    return dict(pod)


def build_mirror(pod: Obj, node: Obj) -> Obj:
    """The API object that shows a static pod: the same, owned by the node."""
    meta = {k: clone(v) for k, v in pod["metadata"].items() if k in ("name", "namespace", "labels", "annotations")}
    meta["annotations"][podinfo.CONFIG_MIRROR] = pod["metadata"]["annotations"][podinfo.CONFIG_HASH]
    if uid := node["metadata"].get("uid"):
        owner = {"apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"], "uid": uid, "controller": True}
        meta["ownerReferences"] = [owner]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": clone(pod["spec"])}


class StaticPods:
    """Follows the directory. ``on_pod`` and ``on_removed`` tell the workers; mirrors are told by the pod informer."""

    def __init__(
        self,
        directory: Path,
        node_name: str,
        client: Client,
        events: DirectoryEvents,
        node: Callable[[], Obj],
        on_pod: Callable[[Obj], None],
        on_removed: Callable[[str], None],
        on_mirror: Callable[[Obj], None],
    ) -> None:
        self._directory = directory
        self._node_name = node_name
        self._client = client
        self._events = events
        self._node = node
        self._on_pod = on_pod
        self._on_removed = on_removed
        self._on_mirror = on_mirror
        self._files: dict[str, Obj] = {}
        self._mirrors: dict[tuple[str, str], Obj] = {}
        self._watch: Watch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._is_synced = False

    def start(self) -> None:
        """Read what is there and follow changes."""
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._watch = self._events.watch(str(self._directory), self._changed, removals=True)
        self.read()

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
        for job in self._jobs.values():
            job.cancel()
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    def _changed(self, _name: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.read)

    def read(self) -> None:
        """Compare the directory with what runs."""
        found: dict[str, Obj] = {}
        try:
            files = sorted(f for f in self._directory.iterdir() if f.is_file() and not f.name.startswith("."))
        except FileNotFoundError:
            files = []
        for file in files:
            try:
                found[str(file)] = parse_manifest(file.read_bytes(), str(file), self._node_name)
            except (ManifestError, OSError) as error:
                log.error("static pod: %s", error)
        before = {podinfo.uid(p): p for p in self._files.values()}
        after = {podinfo.uid(p): p for p in found.values()}
        self._files = found
        for uid in before.keys() - after.keys():
            log.info("static pod %s is gone", podinfo.describe(before[uid]))
            self._on_removed(uid)
            self._reconcile(_key(before[uid]))
        for uid in after.keys() - before.keys():
            self._on_pod(after[uid])
            self._reconcile(_key(after[uid]))

    # mirrors

    def mirror_of(self, pod: Obj) -> Obj | None:
        """The API object of a static pod, when it exists and belongs to this very version of it."""
        mirror = self._mirrors.get(_key(pod))
        return mirror if mirror is not None and _belongs(mirror, pod) else None

    def mirror_seen(self, mirror: Obj) -> None:
        """The informer has a mirror pod of this node."""
        known = self._mirrors.get(_key(mirror))
        self._mirrors[_key(mirror)] = mirror
        pod = self._pod(_key(mirror))
        if pod is not None and _belongs(mirror, pod) and (known is None or podinfo.uid(known) != podinfo.uid(mirror)):
            self._on_mirror(pod)
        self._reconcile(_key(mirror))

    def mirror_gone(self, mirror: Obj) -> None:
        self._mirrors.pop(_key(mirror), None)
        self._reconcile(_key(mirror))

    def synced(self) -> None:
        """The API's pods are known and the node is registered: mirrors may be made and removed from now on."""
        self._is_synced = True
        for key in {*self._mirrors, *(_key(p) for p in self._files.values())}:
            self._reconcile(key)

    def _pod(self, key: tuple[str, str]) -> Obj | None:
        return next((p for p in self._files.values() if _key(p) == key), None)

    def _reconcile(self, key: tuple[str, str]) -> None:
        if not self._is_synced or key in self._jobs:
            return
        job = asyncio.get_running_loop().create_task(self._fix(key), name=f"mirror pod {'/'.join(key)}")
        self._jobs[key] = job
        job.add_done_callback(lambda _: self._jobs.pop(key, None))

    async def _fix(self, key: tuple[str, str]) -> None:
        """Make or remove one mirror, until it is right."""
        delay = 0.5
        while True:
            pod, mirror = self._pod(key), self._mirrors.get(key)
            try:
                if mirror is not None and (pod is None or not _belongs(mirror, pod) or podinfo.is_deleted(mirror)):
                    options = DeleteOptions(grace_period_seconds=0, uid=podinfo.uid(mirror))
                    await self._client.delete(resources.PODS, key[1], key[0], options)
                    self._mirrors.pop(key, None)
                elif mirror is None and pod is not None:
                    self.mirror_seen(await self._client.create(resources.PODS, build_mirror(pod, self._node()), key[0]))
                else:
                    return
                continue
            except StatusError as error:
                if error.code == 404 and mirror is not None:
                    self._mirrors.pop(key, None)
                    continue
                log.log(logging.DEBUG if error.code == 409 else logging.WARNING, "mirror pod %s: %s", "/".join(key), error)
            except (ConnectionError, TimeoutError) as error:
                log.debug("mirror pod %s: %s", "/".join(key), error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)


def _key(pod: Obj) -> tuple[str, str]:
    return podinfo.namespace(pod), podinfo.name(pod)


def _belongs(mirror: Obj, pod: Obj) -> bool:
    return bool(
        (mirror["metadata"].get("annotations") or {}).get(podinfo.CONFIG_MIRROR)
        == pod["metadata"]["annotations"][podinfo.CONFIG_HASH]
    )
