"""Which plan a volume needs: reads what the volume refers to and computes the plan, without touching the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from k3sd.apimachinery import quantity
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client
from k3sd.kubelet.downward import DownwardError, all_containers
from k3sd.kubelet.sources import Sources
from k3sd.kubelet.tokens import TokenManager, TokenRequest
from k3sd.kubelet.volumes import payload
from k3sd.kubelet.volumes.plan import EmptyDir, Files, HostPath, ImageVolume, LayerMount, LocalVolume, Plan, VolumeError

Obj = dict[str, Any]

DEFAULT_TOKEN_SECONDS = 3600
IMAGE_PLUGIN = "kubernetes.io~image"
_FILE_PLUGINS = {
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "downwardAPI": "kubernetes.io~downward-api",
    "projected": "kubernetes.io~projected",
}


class ImageSource(Protocol):
    """Where image volumes come from."""

    async def view(self, pod: Obj, volume_name: str, source: Obj) -> LayerMount:
        """Have the image of an ``image`` volume source here, by its pull policy, and how to mount it. Raises VolumeError."""
        ...

    async def drop(self, uid: str, volume_name: str) -> None:
        """The volume is unmounted for good. Raises OSError; may be repeated."""
        ...


class Planner:
    """Stateless but for its sources. Errors are VolumeError with the text that follows ``MountVolume.SetUp failed ...``."""

    def __init__(
        self,
        client: Client,
        sources: Sources,
        node_name: str,
        tokens: TokenManager,
        node_allocatable: Callable[[], Mapping[str, str]],
        images: ImageSource | None = None,
    ) -> None:
        self._images = images
        self._client = client
        self._sources = sources
        self._node_name = node_name
        self._tokens = tokens
        self._node_allocatable = node_allocatable

    async def plan(self, pod: Obj, volume: Obj, pod_dir: Path) -> Plan:
        """The plan of one entry of ``spec.volumes``."""
        name = str(volume["name"])
        volumes = pod_dir / "volumes"
        for key, plugin in _FILE_PLUGINS.items():
            if volume.get(key) is not None:
                files = await self._files(pod, key, volume[key])
                group = payload.fs_group(pod)
                return Files(volumes / plugin / name, files, key != "configMap", group)
        if volume.get("hostPath") is not None:
            source = volume["hostPath"]
            return HostPath(str(source.get("path", "")), str(source.get("type") or ""))
        if volume.get("image") is not None and self._images is not None:
            mount = await self._images.view(pod, name, volume["image"])
            return ImageVolume(volumes / IMAGE_PLUGIN / name, mount)
        if volume.get("persistentVolumeClaim") is not None:
            claim = volume["persistentVolumeClaim"]
            return await self._claim(pod, str(claim["claimName"]), bool(claim.get("readOnly")), volumes)
        if volume.get("ephemeral") is not None:
            return await self._claim(pod, f"{pod['metadata']['name']}-{name}", False, volumes, owned=True)
        others = [key for key in volume if key not in ("name", "emptyDir")]
        if others:
            raise VolumeError("FailedMount", f"no volume plugin matched name: kubernetes.io/{others[0]}")
        source = volume.get("emptyDir") or {}
        path = volumes / "kubernetes.io~empty-dir" / name
        return empty_dir(path, source, pod, self._node_allocatable())

    # -- files

    async def _files(self, pod: Obj, key: str, source: Obj) -> payload.Files:
        mode = payload.mode_of(source)
        try:
            if key == "projected":
                return await self._projected(pod, source, mode)
            return await self._projection(pod, key, source, mode)
        except (payload.PayloadKeyError, DownwardError, TimeoutError) as error:
            raise VolumeError("FailedMount", str(error)) from error

    async def _projected(self, pod: Obj, source: Obj, mode: int) -> payload.Files:
        """Later sources win; all problems are told at once."""
        pairs = [(key, part) for entry in source.get("sources") or () for key, part in entry.items() if part is not None]
        results = await asyncio.gather(*(self._projection(pod, key, part, mode) for key, part in pairs), return_exceptions=True)
        files: payload.Files = {}
        problems: list[str] = []
        for result in results:
            if isinstance(result, dict):
                files.update(result)
            elif isinstance(result, VolumeError | StatusError):
                problems.append(result.message)
            elif isinstance(result, payload.PayloadKeyError | DownwardError | TimeoutError | ConnectionError):
                problems.append(str(result))
            else:
                raise result
        if problems:
            text = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
            raise VolumeError("FailedMount", text)
        return files

    async def _projection(self, pod: Obj, key: str, source: Obj, mode: int) -> payload.Files:
        namespace = str(pod["metadata"]["namespace"])
        match key:
            case "configMap":
                obj = await _optional(self._sources.get_config_map, namespace, str(source.get("name", "")), source)
                return payload.config_map_files(source, obj, mode)
            case "secret":
                name = str(source.get("secretName") or source.get("name") or "")
                obj = await _optional(self._sources.get_secret, namespace, name, source)
                return payload.secret_files(source, obj, mode)
            case "downwardAPI":
                return payload.downward_files(source.get("items") or (), pod, mode, self._node_allocatable())
            case "serviceAccountToken":
                return await self._token(pod, source, mode)
        raise VolumeError("FailedMount", f"projected volume source {key!r} is not supported by this node")

    async def _token(self, pod: Obj, source: Obj, mode: int) -> payload.Files:
        metadata, spec = pod["metadata"], pod["spec"]
        request = TokenRequest(
            str(metadata["namespace"]),
            str(spec.get("serviceAccountName") or "default"),
            str(metadata["name"]),
            str(metadata["uid"]),
            str(source.get("audience") or ""),
            int(source.get("expirationSeconds") or DEFAULT_TOKEN_SECONDS),
        )
        try:
            token = await self._tokens.get(request)
        except StatusError as error:
            raise VolumeError("FailedMount", f"failed to fetch token: {error.message}") from error
        except (ConnectionError, TimeoutError) as error:
            raise VolumeError("FailedMount", f"failed to fetch token: {error}") from error
        return payload.token_file(source, token, mode, payload.fs_user(pod), payload.fs_group(pod))

    # -- claims

    async def _claim(self, pod: Obj, name: str, read_only: bool, volumes: Path, *, owned: bool = False) -> Plan:
        """A claim's volume, when claim and volume are bound to each other and the volume is of this node."""
        namespace = str(pod["metadata"]["namespace"])
        prefix = f"error processing PVC {namespace}/{name}: "
        claim = await self._client.get(resources.PERSISTENTVOLUMECLAIMS, name, namespace)
        if owned and not _is_owned(claim, pod):
            raise VolumeError(
                "FailedMount", f"{prefix}PVC {namespace}/{name} was not created for pod {pod['metadata']['name']}"
            )
        volume_name = str((claim.get("spec") or {}).get("volumeName") or "")
        if (claim.get("status") or {}).get("phase") != "Bound" or not volume_name:
            raise VolumeError("FailedMount", f"{prefix}PVC is not bound")
        volume = await self._client.get(resources.PERSISTENTVOLUMES, volume_name)
        spec: Obj = volume.get("spec") or {}
        if (spec.get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
            raise VolumeError(
                "FailedMount",
                f"{prefix}PV {volume_name} is not bound to PVC {namespace}/{name} with uid {claim['metadata']['uid']}",
            )
        if spec.get("volumeMode") == "Block":
            raise VolumeError(
                "FailedMount", f"{prefix}volume {volume_name} has volumeMode Block, but is specified in volumeMounts"
            )
        if source := spec.get("hostPath"):
            return HostPath(str(source["path"]), str(source.get("type") or ""), read_only)
        if source := spec.get("local"):
            policy = ((pod.get("spec") or {}).get("securityContext") or {}).get("fsGroupChangePolicy")
            return LocalVolume(
                str(source["path"]),
                volumes / "kubernetes.io~local-volume" / volume_name,
                payload.fs_group(pod),
                policy == "OnRootMismatch",
                read_only,
            )
        raise VolumeError("FailedMount", f"{prefix}no volume plugin matched PersistentVolume {volume_name}")


def _is_owned(claim: Obj, pod: Obj) -> bool:
    owners = claim["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == pod["metadata"]["uid"] for owner in owners)


async def _optional(get: Callable[[str, str], Any], namespace: str, name: str, source: Obj) -> Obj | None:
    try:
        found: Obj = await get(namespace, name)
        return found
    except StatusError as error:
        if error.code == 404 and source.get("optional"):
            return None
        raise


def empty_dir(path: Path, source: Obj, pod: Obj, node_allocatable: Mapping[str, str]) -> EmptyDir:
    """The plan of an emptyDir by its medium."""
    medium = str(source.get("medium") or "")
    group = payload.fs_group(pod)
    if medium == "Memory":
        return EmptyDir(path, group, "tmpfs", memory_size(source, pod, node_allocatable))
    if medium == "HugePages" or medium.startswith("HugePages-"):
        size = medium.removeprefix("HugePages").removeprefix("-") or _page_size(pod)
        return EmptyDir(path, group, "hugetlbfs", 0, f"pagesize={quantity.parse(size).value()}")
    if medium:
        raise VolumeError("FailedMount", f'unknown storage medium "{medium}"')
    return EmptyDir(path, group)


def memory_size(source: Obj, pod: Obj, node_allocatable: Mapping[str, str]) -> int:
    """Bytes of a memory emptyDir: the least of its limit, the pod's memory limit and the node's memory; 0 when none is known
    (``calculateEmptyDirMemorySize``)."""
    candidates = [quantity.parse(node_allocatable.get("memory", "0")).value(), _pod_memory_limit(pod)]
    if source.get("sizeLimit") is not None:
        candidates.append(quantity.parse(source["sizeLimit"]).value())
    return min((c for c in candidates if c > 0), default=0)


def _pod_memory_limit(pod: Obj) -> int:
    """The sum of the containers' memory limits, 0 when one has none."""
    spec: Obj = pod.get("spec") or {}
    own = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
    if own is not None:
        return quantity.parse(own).value()
    limits = [_memory_limit(container) for container in spec.get("containers") or ()]
    if not all(limits):
        return 0
    return max(sum(limits), *(_memory_limit(container) for container in spec.get("initContainers") or ()), 0)


def _memory_limit(container: Obj) -> int:
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return 0 if limit is None else quantity.parse(limit).value()


def _page_size(pod: Obj) -> str:
    """The one huge page size the pod asks for."""
    sizes: set[str] = {
        key.removeprefix("hugepages-")
        for container in all_containers(pod)
        for key in ((container.get("resources") or {}).get("limits") or {})
        if key.startswith("hugepages-")
    }
    if len(sizes) != 1:
        raise VolumeError(
            "FailedMount", f"medium HugePages needs exactly one huge page size in the pod's limits, found {sorted(sizes)}"
        )
    return sizes.pop()
