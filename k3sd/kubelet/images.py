"""Images of containers: pull policy, pulls with credentials and backoff, and removal when the disk fills up.

Source: Kubernetes 1.36 ``pkg/kubelet/images/image_manager.go``, ``image_gc_manager.go``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from k3sd.kubelet import backoff, credentials, podinfo
from k3sd.kubelet.containerconfig import ImageUser
from k3sd.kubelet.cri import messages
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.failures import StartError
from k3sd.kubelet.podinfo import Obj

log = logging.getLogger(__name__)

GC_HIGH_PERCENT = 85
GC_LOW_PERCENT = 80
GC_MIN_AGE_SECONDS = 120.0
"""K3s's imageMinimumGCAge and upstream's thresholds."""

Event = Callable[[str, str, str], None]
"""Records an event of the container: type, reason, message."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this node: what a container is created from, and who it runs as."""

    ref: str
    user: ImageUser


def _image(status: Any) -> Image:
    if status.HasField("uid"):
        return Image(status.id, ImageUser(status.uid.value))
    if status.username:
        return Image(status.id, ImageUser(None, status.username))
    return Image(status.id, ImageUser(0))


class ImageManager:
    """One a node. ``secrets`` reads a pull secret by namespace and name."""

    def __init__(self, cri: CRIClient, secrets: Callable[[str, str], Awaitable[Obj]]) -> None:
        self._cri = cri
        self._secrets = secrets
        self._backoff = backoff.Backoff()
        self._last_error: dict[str, str] = {}
        self._pulling: dict[tuple[str, str], asyncio.Lock] = {}
        self._last_used: dict[str, float] = {}

    async def ensure(self, pod: Obj, container: Obj, sandbox_config: Any, event: Event) -> Image:
        """The container's image, pulled where its policy says so (``EnsureImageExists``). Raises StartError."""
        name = str(container.get("image") or "")
        policy = container.get("imagePullPolicy") or "IfNotPresent"
        if wrong := credentials.name_error(name):
            message = f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {wrong}'
            event("Warning", "InspectFailed", message)
            raise StartError("InvalidImageName", message)
        found = None
        if policy != "Always":
            found = await self._inspect(name, event)
            if found is not None:
                event("Normal", "Pulled", f'Container image "{name}" already present on machine and can be accessed by the pod')
                return found
        if policy == "Never":
            message = f'Container image "{name}" is not present with pull policy of Never'
            event("Warning", "ErrImageNeverPull", message)
            raise StartError("ErrImageNeverPull", message)
        return await self._pull(pod, name, sandbox_config, event)

    async def _inspect(self, name: str, event: Event) -> Image | None:
        try:
            status = await self._cri.image_status(credentials.normalize(name))
        except CRIError as error:
            message = f'Failed to inspect image "{name}": {error}'
            event("Warning", "InspectFailed", message)
            raise StartError("ImageInspectError", message) from error
        if status is None:
            return None
        self._last_used[status.id] = time.time()
        return _image(status)

    async def _pull(self, pod: Obj, name: str, sandbox_config: Any, event: Event) -> Image:
        key = f"{podinfo.uid(pod)}_{name}"
        wait = self._backoff.remaining_since_update(key)
        if wait > 0:
            message = f'Back-off pulling image "{name}"'
            event("Normal", "BackOff", message)
            last = self._last_error.get(key)
            raise StartError("ImagePullBackOff", f"{message}: {last}" if last else message, wait)
        event("Normal", "Pulling", f'Pulling image "{name}"')
        started = time.monotonic()
        try:
            auths = await self._auths(pod, name)
            # Two pods of one namespace wanting the same image: the second waits and finds the layers there.
            async with self._pulling.setdefault((podinfo.namespace(pod), name), asyncio.Lock()):
                pulling = time.monotonic()
                status = await self._pull_with(name, auths, sandbox_config)
                took = time.monotonic() - pulling
        except (CRIError, ValueError) as error:
            event("Warning", "Failed", f'Failed to pull image "{name}": {error}')
            self._backoff.next(key, time.time())
            self._last_error[key] = f"ErrImagePull: {error}"
            raise StartError("ErrImagePull", str(error), self._backoff.get(key)) from error
        finally:
            lock = self._pulling.get((podinfo.namespace(pod), name))
            if lock is not None and not lock.locked():
                del self._pulling[(podinfo.namespace(pod), name)]
        total = time.monotonic() - started
        size = f"Image size: {status.size} bytes."
        event(
            "Normal",
            "Pulled",
            f'Successfully pulled image "{name}" in {_seconds(took)} ({_seconds(total)} including waiting). {size}',
        )
        self._last_error.pop(key, None)
        self._last_used[status.id] = time.time()
        return _image(status)

    async def _pull_with(self, name: str, auths: Sequence[Any], sandbox_config: Any) -> Any:
        errors: list[str] = []
        for auth in auths or (None,):
            try:
                ref = await self._cri.pull_image(credentials.normalize(name), auth, sandbox_config)
            except CRIError as error:
                if error.unavailable:
                    raise
                errors.append(error.message)
                last = error
                continue
            status = await self._cri.image_status(ref)
            if status is None:
                raise CRIError("PullImage", "NotFound", f"image {name!r} is gone right after it was pulled")
            return status
        if len(errors) == 1:
            raise last
        raise CRIError("PullImage", last.code, "[" + ", ".join(errors) + "]")

    async def _auths(self, pod: Obj, name: str) -> list[Any]:
        """Raises ValueError for a malformed Secret; a missing one is skipped, as upstream does."""
        from k3sd.apimachinery.errors import StatusError

        found: list[credentials.Credential] = []
        for reference in pod["spec"].get("imagePullSecrets") or ():
            try:
                secret = await self._secrets(podinfo.namespace(pod), reference.get("name", ""))
            except (StatusError, TimeoutError) as error:
                log.warning("pod %s: image pull secret: %s", podinfo.describe(pod), error)
                continue
            found.extend(credentials.parse_secret(secret))
        return [
            messages.AuthConfig(username=c.username, password=c.password, identity_token=c.identity_token)
            for c in credentials.matching(name, found)
        ]

    def forget_pod(self, uid: str) -> None:
        self._backoff.forget(f"{uid}_")
        for key in [k for k in self._last_error if k.startswith(f"{uid}_")]:
            del self._last_error[key]

    # garbage collection

    async def collect_garbage(self, path: str, in_use: Collection[str], keep: Collection[str]) -> int:
        """When the filesystem of ``path`` is fuller than the high threshold, remove images that no container uses, the longest
        unused first, down to the low one. ``in_use`` are image ids, ``keep`` tags. Returns the bytes freed."""
        usage = os.statvfs(path)
        used_percent = 100 - usage.f_bavail * 100 // max(usage.f_blocks, 1)
        if used_percent < GC_HIGH_PERCENT:
            return 0
        wanted = (used_percent - GC_LOW_PERCENT) * usage.f_blocks * usage.f_frsize // 100
        now = time.time()
        images = await self._cri.list_images()
        free = [
            i
            for i in images
            if i.id not in in_use
            and not i.pinned
            and not set(i.repo_tags) & set(keep)
            and now - self._last_used.setdefault(i.id, now - GC_MIN_AGE_SECONDS) >= GC_MIN_AGE_SECONDS
        ]
        freed = 0
        for image in sorted(free, key=lambda i: self._last_used[i.id]):
            if freed >= wanted:
                break
            try:
                await self._cri.remove_image(image.id)
            except CRIError as error:
                log.warning("cannot remove unused image %s: %s", image.id, error)
                continue
            log.info("removed unused image %s (%d bytes): disk is %d %% full", image.id, image.size, used_percent)
            self._last_used.pop(image.id, None)
            freed += image.size
        return freed


def _seconds(value: float) -> str:
    """Go's Duration, cut to milliseconds."""
    return f"{int(value * 1000)}ms" if value < 1 else f"{value:.3f}".rstrip("0").rstrip(".") + "s"
