"""A CRI v1 client on the runtime's unix socket, and containerd's event stream on the same connection.

Answers are protobuf messages of ``messages``; ids and URLs are plain text. Every failure is a ``CRIError``.
Cancelling a call cancels it in the runtime.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from k3sd.kubelet.cri import messages

log = logging.getLogger(__name__)
_RUNTIME = "/runtime.v1.RuntimeService/"
_IMAGE = "/runtime.v1.ImageService/"
_EVENTS = "/containerd.services.events.v1.Events/"
_SNAPSHOTS = "/containerd.services.snapshots.v1.Snapshots/"
_NAMESPACE = (("containerd-namespace", "k8s.io"),)
# Our own event, see get_container_events.
_MARKER_TOPIC = "/k3sd/subscribed"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Upstream kubelet's limit for one answer."""
REQUEST_TIMEOUT_SECONDS = 120.0
"""K3s's runtimeRequestTimeout. Sandbox creation gets twice as much, as upstream."""
PULL_TIMEOUT_SECONDS = 3600.0


class CRIError(Exception):
    """A call the runtime refused or did not answer. ``code`` is the gRPC status name, ``message`` the runtime's own text."""

    def __init__(self, method: str, code: str, message: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {message}")
        self.method = method
        self.code = code
        self.message = message

    @property
    def not_found(self) -> bool:
        return self.code == "NotFound"

    @property
    def unavailable(self) -> bool:
        """The runtime is not there (restarting, not started yet); a retry may succeed."""
        return self.code == "Unavailable"


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """A change in containerd. ``type``: started, exited, deleted (both after the task is gone), oom, removed.

    ``resync`` has no container: the stream was interrupted and events may have been missed.
    """

    type: str
    container_id: str
    exit_code: int = 0


_TOPICS = {
    "/tasks/start": ("started", "TaskStart"),
    "/tasks/exit": ("exited", "TaskExit"),
    "/tasks/delete": ("deleted", "TaskDelete"),
    "/tasks/oom": ("oom", "TaskOOM"),
    "/containers/delete": ("removed", "ContainerDelete"),
}


def _code_name(error: Any) -> str:
    """gRPC status in Go's spelling: ``NOT_FOUND`` > ``NotFound``."""
    return "".join(part.capitalize() for part in error.code().name.split("_"))


class CRIClient:
    """``async with`` or ``await close()``. One channel, opened at first use; safe for any number of concurrent calls."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    async def __aenter__(self) -> CRIClient:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        self._calls.clear()
        if channel is not None:
            await channel.close(None)

    def _open(self) -> Any:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"unix://{self.socket}",
                options=(
                    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.default_authority", "localhost"),
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.min_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", 1000),
                ),
            )
        return self._channel

    def _call(self, path: str) -> Any:
        call = self._calls.get(path)
        if call is None:
            name = path.rsplit("/", 1)[1]
            call = self._calls[path] = self._open().unary_unary(
                path,
                request_serializer=getattr(messages, f"{name}Request").SerializeToString,
                response_deserializer=getattr(messages, f"{name}Response").FromString,
            )
        return call

    async def _invoke(
        self,
        path: str,
        request: Any,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        wait_for_ready: bool = False,
        metadata: Any = None,
    ) -> Any:
        try:
            return await self._call(path)(request, timeout=timeout, wait_for_ready=wait_for_ready, metadata=metadata)
        except grpc.RpcError as error:
            raise CRIError(path.rsplit("/", 1)[1], _code_name(error), error.details() or "") from error

    # runtime

    async def version(self, timeout: float = REQUEST_TIMEOUT_SECONDS, wait_for_ready: bool = False) -> Any:
        """``wait_for_ready``: keep trying to connect until ``timeout`` instead of failing at once."""
        return await self._invoke(_RUNTIME + "Version", messages.VersionRequest(), timeout, wait_for_ready)

    async def status(self, verbose: bool = False) -> Any:
        return await self._invoke(_RUNTIME + "Status", messages.StatusRequest(verbose=verbose))

    async def update_runtime_config(self, pod_cidr: str) -> None:
        config = messages.RuntimeConfig(network_config=messages.NetworkConfig(pod_cidr=pod_cidr))
        await self._invoke(_RUNTIME + "UpdateRuntimeConfig", messages.UpdateRuntimeConfigRequest(runtime_config=config))

    async def run_pod_sandbox(self, config: Any, runtime_handler: str = "") -> str:
        request = messages.RunPodSandboxRequest(config=config, runtime_handler=runtime_handler)
        answer = await self._invoke(_RUNTIME + "RunPodSandbox", request, 2 * REQUEST_TIMEOUT_SECONDS)
        return str(answer.pod_sandbox_id)

    async def stop_pod_sandbox(self, pod_sandbox_id: str) -> None:
        await self._invoke(_RUNTIME + "StopPodSandbox", messages.StopPodSandboxRequest(pod_sandbox_id=pod_sandbox_id))

    async def remove_pod_sandbox(self, pod_sandbox_id: str) -> None:
        await self._invoke(_RUNTIME + "RemovePodSandbox", messages.RemovePodSandboxRequest(pod_sandbox_id=pod_sandbox_id))

    async def pod_sandbox_status(self, pod_sandbox_id: str, verbose: bool = False) -> Any:
        request = messages.PodSandboxStatusRequest(pod_sandbox_id=pod_sandbox_id, verbose=verbose)
        return await self._invoke(_RUNTIME + "PodSandboxStatus", request)

    async def list_pod_sandbox(self, labels: dict[str, str] | None = None) -> list[Any]:
        request = messages.ListPodSandboxRequest(filter=messages.PodSandboxFilter(label_selector=labels or {}))
        return list((await self._invoke(_RUNTIME + "ListPodSandbox", request)).items)

    async def create_container(self, pod_sandbox_id: str, config: Any, sandbox_config: Any) -> str:
        request = messages.CreateContainerRequest(pod_sandbox_id=pod_sandbox_id, config=config, sandbox_config=sandbox_config)
        return str((await self._invoke(_RUNTIME + "CreateContainer", request)).container_id)

    async def start_container(self, container_id: str) -> None:
        await self._invoke(_RUNTIME + "StartContainer", messages.StartContainerRequest(container_id=container_id))

    async def stop_container(self, container_id: str, timeout_seconds: int) -> None:
        """SIGTERM (or the image's stop signal), SIGKILL after ``timeout_seconds``; returns when the container is down."""
        request = messages.StopContainerRequest(container_id=container_id, timeout=timeout_seconds)
        await self._invoke(_RUNTIME + "StopContainer", request, REQUEST_TIMEOUT_SECONDS + timeout_seconds)

    async def remove_container(self, container_id: str) -> None:
        await self._invoke(_RUNTIME + "RemoveContainer", messages.RemoveContainerRequest(container_id=container_id))

    async def list_containers(self, labels: dict[str, str] | None = None, pod_sandbox_id: str = "") -> list[Any]:
        filter_ = messages.ContainerFilter(pod_sandbox_id=pod_sandbox_id, label_selector=labels or {})
        answer = await self._invoke(_RUNTIME + "ListContainers", messages.ListContainersRequest(filter=filter_))
        return list(answer.containers)

    async def container_status(self, container_id: str, verbose: bool = False) -> Any:
        """A ``ContainerStatusResponse``; ``info["info"]`` is JSON with pid and runtime spec when ``verbose``."""
        request = messages.ContainerStatusRequest(container_id=container_id, verbose=verbose)
        return await self._invoke(_RUNTIME + "ContainerStatus", request)

    async def update_container_resources(self, container_id: str, linux: Any) -> None:
        request = messages.UpdateContainerResourcesRequest(container_id=container_id, linux=linux)
        await self._invoke(_RUNTIME + "UpdateContainerResources", request)

    async def reopen_container_log(self, container_id: str) -> None:
        await self._invoke(_RUNTIME + "ReopenContainerLog", messages.ReopenContainerLogRequest(container_id=container_id))

    async def exec_sync(self, container_id: str, cmd: Iterable[str], timeout_seconds: int = 0) -> Any:
        """``stdout``, ``stderr`` (bytes) and ``exit_code``. 0 seconds means no limit; exceeding it is CRIError DeadlineExceeded
        (or Unknown with containerd's own text)."""
        request = messages.ExecSyncRequest(container_id=container_id, cmd=list(cmd), timeout=timeout_seconds)
        limit = REQUEST_TIMEOUT_SECONDS + timeout_seconds if timeout_seconds else 86400.0
        return await self._invoke(_RUNTIME + "ExecSync", request, limit)

    async def exec(
        self,
        container_id: str,
        cmd: Iterable[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> str:
        """URL of the runtime's streaming server for this one exec."""
        request = messages.ExecRequest(
            container_id=container_id, cmd=list(cmd), tty=tty, stdin=stdin, stdout=stdout, stderr=stderr
        )
        return str((await self._invoke(_RUNTIME + "Exec", request)).url)

    async def attach(
        self, container_id: str, *, tty: bool = False, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> str:
        request = messages.AttachRequest(container_id=container_id, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr)
        return str((await self._invoke(_RUNTIME + "Attach", request)).url)

    async def port_forward(self, pod_sandbox_id: str, ports: Iterable[int] = ()) -> str:
        request = messages.PortForwardRequest(pod_sandbox_id=pod_sandbox_id, port=list(ports))
        return str((await self._invoke(_RUNTIME + "PortForward", request)).url)

    async def container_stats(self, container_id: str) -> Any:
        request = messages.ContainerStatsRequest(container_id=container_id)
        return (await self._invoke(_RUNTIME + "ContainerStats", request)).stats

    async def list_container_stats(self, labels: dict[str, str] | None = None) -> list[Any]:
        request = messages.ListContainerStatsRequest(filter=messages.ContainerStatsFilter(label_selector=labels or {}))
        return list((await self._invoke(_RUNTIME + "ListContainerStats", request)).stats)

    async def list_pod_sandbox_stats(self) -> list[Any]:
        request = messages.ListPodSandboxStatsRequest()
        return list((await self._invoke(_RUNTIME + "ListPodSandboxStats", request)).stats)

    # images

    async def list_images(self) -> list[Any]:
        return list((await self._invoke(_IMAGE + "ListImages", messages.ListImagesRequest())).images)

    async def image_status(self, image: str) -> Any | None:
        """The ``Image``, or None when it is not on this node."""
        request = messages.ImageStatusRequest(image=messages.ImageSpec(image=image))
        answer = await self._invoke(_IMAGE + "ImageStatus", request)
        return answer.image if answer.image.id else None

    async def image_chain_id(self, image: str) -> str:
        """The name of the image's unpacked layers in the snapshotter. Raises CRIError NotFound."""
        request = messages.ImageStatusRequest(image=messages.ImageSpec(image=image), verbose=True)
        answer = await self._invoke(_IMAGE + "ImageStatus", request)
        if not answer.image.id:
            raise CRIError("ImageStatus", "NotFound", f"image {image!r} is not on this node")
        return str(json.loads(answer.info["info"])["chainID"])

    async def pull_image(self, image: str, auth: Any = None, sandbox_config: Any = None) -> str:
        request = messages.PullImageRequest(image=messages.ImageSpec(image=image), auth=auth, sandbox_config=sandbox_config)
        return str((await self._invoke(_IMAGE + "PullImage", request, PULL_TIMEOUT_SECONDS)).image_ref)

    async def remove_image(self, image: str) -> None:
        request = messages.RemoveImageRequest(image=messages.ImageSpec(image=image))
        await self._invoke(_IMAGE + "RemoveImage", request)

    async def image_fs_info(self) -> Any:
        return await self._invoke(_IMAGE + "ImageFsInfo", messages.ImageFsInfoRequest())

    # snapshots (containerd's own API)

    async def view_snapshot(self, snapshotter: str, key: str, parent: str) -> list[Any]:
        """Mounts (``type``, ``source``, ``options``) that show the layers ``parent`` read-only.

        They are kept under ``key`` until ``remove_snapshot``; asked again with the same key, the same.
        """
        labels = {"containerd.io/gc.root": "k3sd"}
        request = messages.ViewRequest(snapshotter=snapshotter, key=key, parent=parent, labels=labels)
        try:
            answer = await self._invoke(_SNAPSHOTS + "View", request, metadata=_NAMESPACE)
        except CRIError as error:
            if error.code != "AlreadyExists":
                raise
            request = messages.MountsRequest(snapshotter=snapshotter, key=key)
            answer = await self._invoke(_SNAPSHOTS + "Mounts", request, metadata=_NAMESPACE)
        return list(answer.mounts)

    async def remove_snapshot(self, snapshotter: str, key: str) -> None:
        """One that is not there is no error."""
        request = messages.RemoveRequest(snapshotter=snapshotter, key=key)
        try:
            await self._invoke(_SNAPSHOTS + "Remove", request, metadata=_NAMESPACE)
        except CRIError as error:
            if not error.not_found:
                raise

    # events

    async def get_container_events(self) -> AsyncIterator[ContainerEvent]:
        """Changes of containers and sandboxes, forever; reconnects, and says ``resync`` at each (re)connect.

        From containerd's own events service, which every supported containerd has; CRI's GetContainerEvents exists from
        1.7 on and carries the same.
        """
        filters = [f'namespace==k8s.io,topic=="{topic}"' for topic in (*_TOPICS, _MARKER_TOPIC)]
        delay = 0.1
        while True:
            stream = self._open().unary_stream(
                _EVENTS + "Subscribe",
                request_serializer=messages.SubscribeRequest.SerializeToString,
                response_deserializer=messages.Envelope.FromString,
            )(messages.SubscribeRequest(filters=filters), wait_for_ready=True)
            marker = asyncio.create_task(self._publish_marker(), name="cri-event-marker")
            try:
                async for envelope in stream:
                    delay = 0.1
                    if envelope.topic == _MARKER_TOPIC:
                        if not marker.done():
                            marker.cancel()
                            yield ContainerEvent("resync", "")
                        continue
                    event = _parse_envelope(envelope)
                    if event is not None:
                        yield event
            except grpc.RpcError:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            finally:
                marker.cancel()
                stream.cancel()

    async def _publish_marker(self) -> None:
        """containerd does not answer a subscription before its first event, so we send one ourselves until it is seen:
        from then on a list and the stream together miss nothing."""
        publish = self._open().unary_unary(
            _EVENTS + "Publish",
            request_serializer=messages.PublishRequest.SerializeToString,
            response_deserializer=messages.PublishResponse.FromString,
        )
        request = messages.PublishRequest(topic=_MARKER_TOPIC, event=messages.AnyValue(type_url="k3sd.marker"))
        while True:
            try:
                await publish(request, metadata=_NAMESPACE, timeout=5.0, wait_for_ready=True)
            except grpc.RpcError as error:
                log.debug("cannot publish to containerd's events: %s", error)
            await asyncio.sleep(0.05)


def _parse_envelope(envelope: Any) -> ContainerEvent | None:
    """None for what is no change of a container: the exit of an exec'd process, a topic we do not know."""
    kind, name = _TOPICS.get(envelope.topic, ("", ""))
    if not kind:
        return None
    body = getattr(messages, name).FromString(envelope.event.value)
    if name == "ContainerDelete":
        return ContainerEvent(kind, body.id)
    if name in ("TaskExit", "TaskDelete") and body.id not in ("", body.container_id):
        return None
    return ContainerEvent(kind, body.container_id, getattr(body, "exit_status", 0))
