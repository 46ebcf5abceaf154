"""Deletes bootstrap tokens when they expire. Source: ``pkg/controller/bootstrap/tokencleaner.go``."""

from __future__ import annotations

import base64
import binascii
import logging

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import is_deleting, name_of, uid_of

log = logging.getLogger(__name__)

NAMESPACE = "kube-system"
TYPE = "bootstrap.kubernetes.io/token"


def expires_in(secret: Obj, now: float) -> float | None:
    """Seconds until the token expires; None when it never does. What cannot be read counts as expired. Pure."""
    encoded = (secret.get("data") or {}).get("expiration")
    if not encoded:
        return None
    try:
        return timefmt.parse(base64.b64decode(encoded, validate=True).decode()) - now
    except (binascii.Error, ValueError):
        log.warning("secret %s/%s: data.expiration is not an RFC 3339 time: the token is deleted", NAMESPACE, name_of(secret))
        return 0.0


class TokenCleaner(Controller):
    name = "token-cleaner-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.secrets = self.informer(
            resources.SECRETS, self.enqueue, self.enqueue_update, namespace=NAMESPACE, field_selector=f"type={TYPE}"
        )

    async def reconcile(self, key: str) -> float | None:
        secret = self.secrets.get(key)
        if secret is None or is_deleting(secret):
            return None
        left = expires_in(secret, self.ctx.clock())
        if left is None or left > 0:
            return left
        try:
            await self.client.delete(resources.SECRETS, name_of(secret), NAMESPACE, DeleteOptions(uid=uid_of(secret)))
        except StatusError as e:
            if e.code != 404:
                raise
        return None
