"""Lifecycle hooks of containers: exec, httpGet, sleep. Source: Kubernetes 1.36 ``pkg/kubelet/lifecycle/handlers.go``."""

from __future__ import annotations

import asyncio

from k3sd.kubelet import httpget
from k3sd.kubelet.cri.client import CRIClient, CRIError
from k3sd.kubelet.podinfo import Obj

HTTP_TIMEOUT_SECONDS = 30.0


class HookError(Exception):
    """The hook failed; the text is the waiting container's message."""


async def run_hook(cri: CRIClient, container: Obj, container_id: str, handler: Obj, pod_ip: str) -> None:
    """Run to its end; the caller limits the time. Raises HookError."""
    name = container["name"]
    if action := handler.get("exec"):
        command = action.get("command") or []
        try:
            answer = await cri.exec_sync(container_id, command)
        except CRIError as error:
            raise HookError(f"Exec lifecycle hook ({command}) for Container {name!r} failed - error: {error}") from error
        if answer.exit_code:
            output = (answer.stdout + answer.stderr)[:1024].decode(errors="replace")
            raise HookError(
                f"Exec lifecycle hook ({command}) for Container {name!r} failed - error: command exited with "
                f"{answer.exit_code}, message: {output!r}"
            )
    elif action := handler.get("httpGet"):
        await _http(container, action, pod_ip)
    elif action := handler.get("sleep"):
        await asyncio.sleep(action.get("seconds") or 0)


async def _http(container: Obj, action: Obj, pod_ip: str) -> None:
    """Any answer is a success. An HTTPS hook whose server speaks plain HTTP is asked again that way, as upstream does."""
    path = action.get("path") or "/"
    headers = httpget.action_headers(action, "kube-lifecycle/1.36")
    try:
        url = httpget.action_url(action, container, pod_ip)
        try:
            await httpget.get(url, headers, HTTP_TIMEOUT_SECONDS)
        except httpget.GetError as error:
            if not url.startswith("https://") or ": tls: " not in str(error):
                raise
            await httpget.get("http" + url.removeprefix("https"), headers, HTTP_TIMEOUT_SECONDS)
    except (httpget.GetError, ValueError) as error:
        message = f'HTTP lifecycle hook ({path}) for Container "{container["name"]}" failed - error: {error}'
        raise HookError(message) from error
