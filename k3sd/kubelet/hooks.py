"""Lifecycle hooks of containers: exec, httpGet, sleep. Source: Kubernetes 1.36 ``pkg/kubelet/lifecycle/handlers.go``."""

from __future__ import annotations

import asyncio

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


def resolve_port(container: Obj, port: int | str) -> int:
    """A number, or the name of one of the container's ports. Raises HookError."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    raise HookError(f"couldn't find port: {port} in {container['name']}")


async def _http(container: Obj, action: Obj, pod_ip: str) -> None:
    """Any answer is a success; only no answer is a failure."""
    import ssl

    import aiohttp

    host = action.get("host") or pod_ip
    host = f"[{host}]" if ":" in host else host
    scheme = (action.get("scheme") or "HTTP").lower()
    path = action.get("path") or "/"
    url = f"{scheme}://{host}:{resolve_port(container, action['port'])}{path if path.startswith('/') else '/' + path}"
    headers = {h["name"]: h.get("value", "") for h in action.get("httpHeaders") or ()}
    headers.setdefault("User-Agent", "kube-lifecycle/1.36")
    headers.setdefault("Accept", "*/*")
    # Like upstream: the certificate of a container's own hook endpoint is not checked.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers, ssl=context, allow_redirects=False) as answer,
        ):
            await answer.content.read(10240)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise HookError(f'HTTP lifecycle hook ({path}) for Container "{container["name"]}" failed - error: {error}') from error
