"""``VolumeManager``: the volumes of this node's pods, from the API's objects to directories, kept current and removed.

Deciding happens in the event loop (``planner``), doing in two threads, one pod at a time. Changes arrive as events: a
referenced object changed, the pod changed, a token was renewed. Nothing polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from k3sd.apimachinery.errors import StatusError
from k3sd.client.api import Client
from k3sd.kubelet.downward import all_containers
from k3sd.kubelet.env import EnvError, expand_strict
from k3sd.kubelet.sources import Change, Sources
from k3sd.kubelet.tokens import TokenManager
from k3sd.kubelet.volumes import subpath
from k3sd.kubelet.volumes.atomic_writer import PayloadError
from k3sd.kubelet.volumes.plan import Files, Plan, VolumeError
from k3sd.kubelet.volumes.planner import IMAGE_PLUGIN, ImageSource, Planner
from k3sd.lib import mounts

Obj = dict[str, Any]
T = TypeVar("T")

log = logging.getLogger(__name__)

THREADS = 2
"""Two, so that one hanging network filesystem leaves a way for the other pods."""
PROPAGATION = {"None": 0, "HostToContainer": 1, "Bidirectional": 2}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as CRI takes it; ``propagation`` is CRI's number."""

    container_path: str
    host_path: str
    read_only: bool
    propagation: int = 0
    recursive_read_only: bool = False


class _PodVolumes:
    """What is known of one pod. ``plans`` and ``paths`` are by volume name, filled by a mount that succeeded."""

    __slots__ = ("dirty", "lock", "paths", "plans", "pod", "refresh")

    def __init__(self, pod: Obj) -> None:
        self.pod = pod
        self.plans: dict[str, Plan] = {}
        self.paths: dict[str, str] = {}
        self.lock = asyncio.Lock()
        self.dirty = False
        self.refresh: asyncio.Task[None] | None = None


class VolumeManager:
    """One a node. ``root`` is the kubelet's (``/var/lib/kubelet``), ``node_allocatable`` the node's ``status.allocatable``.

    ``on_retry`` gets the uid of a pod whose mount failed when something it lacked has changed; ``on_refresh_failed`` the
    pod and the error when an update of a mounted volume failed, which keeps the old content.
    """

    def __init__(
        self,
        client: Client,
        sources: Sources,
        node_name: str,
        root: Path,
        tokens: TokenManager,
        *,
        node_allocatable: Callable[[], Mapping[str, str]] = dict,
        recursive_read_only: bool = False,
        images: ImageSource | None = None,
    ) -> None:
        self._images = images
        self._sources = sources
        self._tokens = tokens
        self._root = root
        self._planner = Planner(client, sources, node_name, tokens, node_allocatable, images)
        self._recursive_read_only = recursive_read_only
        self._pods: dict[str, _PodVolumes] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="volumes")
        self.on_retry: Callable[[str], None] | None = None
        self.on_refresh_failed: Callable[[Obj, VolumeError], None] | None = None
        sources.subscribe(self._source_changed)
        tokens.on_renewed = self._refresh

    def pod_dir(self, uid: str) -> Path:
        return self._root / "pods" / uid

    async def mount_pod(self, pod: Obj) -> dict[str, str]:
        """Set up every volume that a container uses; idempotent, and takes over what an earlier kubelet left.

        Returns volume name -> host path. Raises VolumeError for the first volume that cannot be had, after trying all.
        """
        uid = str(pod["metadata"]["uid"])
        self._sources.add_pod(pod)
        state = self._pods.setdefault(uid, _PodVolumes(pod))
        async with state.lock:
            state.pod = pod
            wanted = used_volumes(pod)
            results = await asyncio.gather(*(self._set_up(pod, uid, volume) for volume in wanted), return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            missed, state.dirty = state.dirty, False
            if failures:
                if missed and self.on_retry is not None:
                    asyncio.get_running_loop().call_soon(self.on_retry, uid)
                raise failures[0]
            for volume, result in zip(wanted, results, strict=True):
                assert not isinstance(result, BaseException)
                state.plans[volume["name"]], state.paths[volume["name"]] = result
            return dict(state.paths)

    async def container_mounts(self, pod: Obj, container: Obj, environment: Sequence[tuple[str, str]] = ()) -> list[Mount]:
        """The mounts of ``container`` in its own order (``makeMounts``); binds its subPaths.

        ``environment`` is the container's, for ``subPathExpr``. Raises VolumeError with reason CreateContainerConfigError.
        """
        uid = str(pod["metadata"]["uid"])
        state = self._pods.get(uid)
        variables = dict(environment)
        out: list[Mount] = []
        for index, mount in enumerate(container.get("volumeMounts") or ()):
            name = str(mount["name"])
            if state is None or name not in state.paths:
                raise _config_error(f"cannot find volume {_quote(name)} to mount into container {_quote(container['name'])}")
            host_path = state.paths[name]
            sub_path = _sub_path(mount, variables)
            if sub_path:
                host_path = await self._bind_sub_path(uid, mount, host_path, sub_path, container, index)
            target = str(mount["mountPath"])
            read_only = bool(mount.get("readOnly")) or state.plans[name].read_only
            out.append(
                Mount(
                    target if target.startswith("/") else "/" + target,
                    host_path,
                    read_only,
                    PROPAGATION.get(mount.get("mountPropagation") or "None", 0),
                    read_only and self._wants_recursive(mount),
                )
            )
        return out

    async def pod_changed(self, pod: Obj) -> None:
        """The pod's object changed: follow its references and rewrite what shows its labels and annotations."""
        uid = str(pod["metadata"]["uid"])
        state = self._pods.get(uid)
        if state is None:
            return
        before, state.pod = state.pod, pod
        self._sources.add_pod(pod)
        if any(before["metadata"].get(k) != pod["metadata"].get(k) for k in ("labels", "annotations")) or before.get(
            "spec"
        ) != pod.get("spec"):
            self._refresh(uid)

    async def unmount_pod(self, uid: str) -> None:
        """All containers are gone: unmount and delete the volumes. The rest of the pod's directory stays for ``remove_pod``."""
        state = self._pods.get(uid)
        async with state.lock if state is not None else contextlib.nullcontext():
            await self._forget(uid)
            for name in await self._run(_unmount_volumes, self.pod_dir(uid)):
                if self._images is not None:
                    await self._images.drop(uid, name)
            await self._run(_remove_volumes, self.pod_dir(uid))

    async def remove_pod(self, uid: str) -> None:
        """The pod is gone from the API: delete its whole directory, volumes included."""
        await self.unmount_pod(uid)
        await self._run(mounts.remove_tree, self.pod_dir(uid))

    async def cleanup_orphans(self, uids: Container[str]) -> list[str]:
        """Remove the directories of pods other than ``uids``; returns whose. One that cannot be removed is logged and left."""
        pods = self._root / "pods"
        present = await self._run(lambda: os.listdir(pods) if pods.is_dir() else [])
        removed: list[str] = []
        for uid in present:
            if uid in uids or uid in self._pods:
                continue
            try:
                await self.remove_pod(uid)
                removed.append(uid)
            except OSError as error:
                log.warning("removing the directory of pod %s, which no longer exists: %s", uid, error)
        return removed

    async def stop(self) -> None:
        """Stop following; volumes stay mounted, since pods outlive the kubelet."""
        tasks = [state.refresh for state in self._pods.values() if state.refresh is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pods.clear()
        self._threads.shutdown(wait=False)

    # -- setting up

    async def _set_up(self, pod: Obj, uid: str, volume: Obj) -> tuple[Plan, str]:
        """Raises VolumeError in upstream's wording."""
        try:
            plan = await self._planner.plan(pod, volume, self.pod_dir(uid))
            path = await self._run(plan.set_up)
            if path.startswith(f"{self.pod_dir(uid)}/") and _propagates(pod, str(volume["name"])):
                # Without systemd the root is private, and the runtime would refuse.
                await self._run(mounts.make_shared, os.path.realpath(path))
            return plan, path
        except (VolumeError, StatusError, PayloadError, OSError) as error:
            if isinstance(error, VolumeError) and error.reason != "FailedMount":
                raise
            text = error.message if isinstance(error, VolumeError | StatusError) else str(error)
            message = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {text}'
            raise VolumeError("FailedMount", message) from error

    async def _bind_sub_path(self, uid: str, mount: Obj, volume_path: str, sub_path: str, container: Obj, index: int) -> str:
        name, container_name = str(mount["name"]), str(container["name"])
        try:
            subpath.check(sub_path)
        except subpath.SubPathError as error:
            raise _config_error(str(error)) from error
        try:
            return await self._run(subpath.bind_sub_path, self.pod_dir(uid), name, volume_path, sub_path, container_name, index)
        except (subpath.SubPathError, OSError) as error:
            log.warning("pod %s: container %s: subPath of volume %s: %s", uid, container_name, name, error)
            raise _config_error(
                f"failed to prepare subPath for volumeMount {_quote(name)} of container {_quote(container_name)}"
            ) from error

    def _wants_recursive(self, mount: Obj) -> bool:
        mode = mount.get("recursiveReadOnly") or "Disabled"
        if mode == "Enabled" and not self._recursive_read_only:
            raise _config_error(
                f"volume {_quote(mount['name'])} requested recursive read-only mode, but it is not supported by the runtime"
            )
        return mode != "Disabled" and self._recursive_read_only

    # -- keeping current

    def _source_changed(self, change: Change) -> None:
        for uid in change.pods:
            state = self._pods.get(uid)
            if state is None:
                continue
            if state.paths:
                self._refresh(uid)
            elif state.lock.locked():
                state.dirty = True  # the mount under way tells when it has failed
            elif self.on_retry is not None:
                self.on_retry(uid)

    def _refresh(self, uid: str) -> None:
        """Rewrite the pod's file volumes soon; calls while that is under way make it run once more."""
        state = self._pods.get(uid)
        if state is None or not state.paths:
            return
        state.dirty = True
        if state.refresh is None:
            state.refresh = asyncio.get_running_loop().create_task(self._rewrite(uid, state), name=f"volumes of pod {uid}")

    async def _rewrite(self, uid: str, state: _PodVolumes) -> None:
        try:
            while state.dirty and self._pods.get(uid) is state:
                state.dirty = False
                async with state.lock:
                    if self._pods.get(uid) is not state:
                        return
                    pod = state.pod
                    for volume in used_volumes(pod):
                        if isinstance(state.plans.get(volume["name"]), Files):
                            await self._rewrite_one(pod, uid, volume)
        finally:
            state.refresh = None

    async def _rewrite_one(self, pod: Obj, uid: str, volume: Obj) -> None:
        try:
            await self._set_up(pod, uid, volume)
        except VolumeError as error:
            if self.on_refresh_failed is not None:
                self.on_refresh_failed(pod, error)
            else:
                log.warning("pod %s/%s: %s", pod["metadata"].get("namespace"), pod["metadata"]["name"], error.message)

    # -- removing

    async def _forget(self, uid: str) -> None:
        state = self._pods.pop(uid, None)
        self._sources.remove_pod(uid)
        self._tokens.forget(uid)
        if state is not None and state.refresh is not None:
            # It holds or waits for the lock we have; cancelling is the only way to end it before the directory goes.
            state.refresh.cancel()

    async def _run(self, fn: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, fn, *args)


def used_volumes(pod: Obj) -> list[Obj]:
    """The pod's volumes that a container mounts; others are not set up (``GetPodVolumeNames``)."""
    names = {m["name"] for c in all_containers(pod) for m in c.get("volumeMounts") or ()}
    return [volume for volume in (pod.get("spec") or {}).get("volumes") or () if volume["name"] in names]


def _propagates(pod: Obj, name: str) -> bool:
    """A container shares mounts made inside the volume."""
    return any(
        mount["name"] == name and mount.get("mountPropagation", "None") != "None"
        for container in all_containers(pod)
        for mount in container.get("volumeMounts") or ()
    )


def _sub_path(mount: Obj, variables: Mapping[str, str]) -> str:
    try:
        if mount.get("subPathExpr"):
            return expand_strict(str(mount["subPathExpr"]), variables)
    except EnvError as error:
        raise _config_error(str(error)) from error
    return str(mount.get("subPath") or "")


def _quote(name: object) -> str:
    return f'"{name}"'


def _config_error(message: str) -> VolumeError:
    return VolumeError("CreateContainerConfigError", message)


def _unmount_volumes(pod_dir: Path) -> list[str]:
    """The names of the image volumes among them."""
    if not pod_dir.is_dir():
        return []
    images = pod_dir / "volumes" / IMAGE_PLUGIN
    names = os.listdir(images) if images.is_dir() else []
    mounts.unmount_below(os.path.realpath(pod_dir))
    return names


def _remove_volumes(pod_dir: Path) -> None:
    if not pod_dir.is_dir():
        return
    for name in ("volume-subpaths", "volumes"):
        mounts.remove_tree(pod_dir / name)
    shutil.rmtree(pod_dir / "plugins", ignore_errors=True)
