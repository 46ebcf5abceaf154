"""Service account tokens of this node's pods: requested once, renewed before they end, each by its own timer.

Source: Kubernetes 1.36, ``pkg/kubelet/token/token_manager.go``. A token is renewed when 80 % of its life or 24 hours have gone;
while renewal fails the old one stays in use until it ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.client.api import Client

Obj = dict[str, Any]

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 24 * 3600.0
LIFE_USED = 0.8
JITTER_SECONDS = 10.0
RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a token is asked for. ``audience`` empty means the API server's own."""

    namespace: str
    service_account: str
    pod_name: str
    pod_uid: str
    audience: str
    expiration_seconds: int

    def body(self) -> Obj:
        spec: Obj = {
            "expirationSeconds": self.expiration_seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": self.pod_name, "uid": self.pod_uid},
        }
        if self.audience:
            spec["audiences"] = [self.audience]
        return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec}


@dataclass(slots=True)
class _Token:
    text: str
    expires: float
    refresh_at: float
    timer: asyncio.TimerHandle | None = None


def refresh_time(issued: float, expires: float, jitter: float) -> float:
    """When to renew, in the clock of the arguments. ``jitter`` spreads nodes that started together."""
    return min(issued + (expires - issued) * LIFE_USED, issued + MAX_AGE_SECONDS) - jitter


class TokenManager:
    """Cache of tokens. ``on_renewed`` gets the pod's uid after a token was replaced, so that its volume is rewritten."""

    def __init__(self, client: Client, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._now = now
        self._tokens: dict[TokenRequest, _Token] = {}
        self._asking: dict[TokenRequest, asyncio.Task[_Token]] = {}
        # The event loop holds tasks only weakly.
        self._renewals: set[asyncio.Task[None]] = set()
        self.on_renewed: Callable[[str], None] | None = None

    async def get(self, request: TokenRequest) -> str:
        """A valid token. Raises StatusError or ConnectionError when there is none and none can be had."""
        token = self._tokens.get(request)
        if token is not None and self._now() < token.refresh_at:
            return token.text
        try:
            return (await self._ask(request)).text
        except (StatusError, ConnectionError, TimeoutError) as error:
            if token is None or self._now() >= token.expires:
                raise
            log.warning("renewing the token of service account %s/%s: %s", request.namespace, request.service_account, error)
            self._arm(request, token, RETRY_SECONDS)
            return token.text

    def forget(self, pod_uid: str) -> None:
        """Drop a pod's tokens and timers."""
        for request in [r for r in self._tokens if r.pod_uid == pod_uid]:
            token = self._tokens.pop(request)
            if token.timer is not None:
                token.timer.cancel()
        # Requests under way answer those who wait for them, but leave nothing behind.
        for request in [r for r in self._asking if r.pod_uid == pod_uid]:
            del self._asking[request]

    def stop(self) -> None:
        """Drop all tokens and timers, and cancel what is under way."""
        for task in (*self._asking.values(), *self._renewals):
            task.cancel()
        for uid in {r.pod_uid for r in (*self._tokens, *self._asking)}:
            self.forget(uid)

    async def _ask(self, request: TokenRequest) -> _Token:
        """One request to the API at a time for one token; all who wait share its answer."""
        task = self._asking.get(request)
        if task is None:
            task = self._asking[request] = asyncio.get_running_loop().create_task(
                self._request(request), name=f"token for pod {request.namespace}/{request.pod_name}"
            )
            task.add_done_callback(lambda done: self._asked(request, done))
        return await asyncio.shield(task)

    def _asked(self, request: TokenRequest, done: asyncio.Task[_Token]) -> None:
        if self._asking.get(request) is done:
            del self._asking[request]
        if not done.cancelled():
            done.exception()  # taken, so that a failure nobody waits for any more is no noise

    async def _request(self, request: TokenRequest) -> _Token:
        answer = await self._client.create(
            resources.SERVICEACCOUNTS,
            request.body(),
            request.namespace,
            name=request.service_account,
            subresource="token",
        )
        now = self._now()
        status: Obj = answer["status"]
        expires = timefmt.parse(status["expirationTimestamp"])
        life = int((answer.get("spec") or {}).get("expirationSeconds") or request.expiration_seconds)
        # A short life must leave the jitter room, or the token would be renewed over and over.
        jitter = random.random() * min(JITTER_SECONDS, life * 0.05)
        token = _Token(status["token"], expires, refresh_time(expires - life, expires, jitter))
        if self._asking.get(request) is not asyncio.current_task():
            return token  # forgotten meanwhile
        previous = self._tokens.get(request)
        if previous is not None and previous.timer is not None:
            previous.timer.cancel()
        self._tokens[request] = token
        self._arm(request, token, max(token.refresh_at - now, 1.0))
        return token

    def _arm(self, request: TokenRequest, token: _Token, seconds: float) -> None:
        if self._tokens.get(request) is not token:
            return
        if token.timer is not None:
            token.timer.cancel()
        token.timer = asyncio.get_running_loop().call_later(seconds, self._due, request)

    def _due(self, request: TokenRequest) -> None:
        if request not in self._asking and request in self._tokens:
            task = asyncio.get_running_loop().create_task(self._renew(request), name="token renewal")
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew(self, request: TokenRequest) -> None:
        token = self._tokens.get(request)
        try:
            await self._ask(request)
        except (StatusError, ConnectionError, TimeoutError) as error:
            log.warning("renewing the token of service account %s/%s: %s", request.namespace, request.service_account, error)
            if token is not None:
                self._arm(request, token, RETRY_SECONDS * (1 + random.random()))
            return
        if self.on_renewed is not None:
            self.on_renewed(request.pod_uid)
