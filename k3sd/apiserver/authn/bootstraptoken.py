"""Bootstrap tokens ``<id>.<secret>``, kept in Secrets of kube-system. Source:
``plugin/pkg/auth/authenticator/token/bootstrap``."""

from __future__ import annotations

import base64
import hmac
import re
import time
from typing import TYPE_CHECKING

from k3sd.apimachinery import timefmt
from k3sd.apis import resources
from k3sd.apiserver.request import UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
SECRET_TYPE = "bootstrap.kubernetes.io/token"


class BootstrapTokens:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def user(self, token: str) -> UserInfo | None:
        """``system:bootstrap:<id>``, or None when the Secret is missing, expired or not meant for authentication."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        identity, secret = match.groups()
        stored = self._registry.read(resources.SECRETS, f"bootstrap-token-{identity}", "kube-system")
        if stored is None or stored.get("type") != SECRET_TYPE or "deletionTimestamp" in stored["metadata"]:
            return None
        data = {key: base64.b64decode(value).decode(errors="replace") for key, value in (stored.get("data") or {}).items()}
        if not hmac.compare_digest(data.get("token-secret", "").encode(), secret.encode()) or data.get("token-id") != identity:
            return None
        if data.get("usage-bootstrap-authentication") != "true":
            return None
        try:
            if data.get("expiration") and timefmt.parse(data["expiration"]) <= time.time():
                return None
        except ValueError:
            return None
        extra = [g.strip() for g in data.get("auth-extra-groups", "").split(",") if g.strip()]
        return UserInfo(f"system:bootstrap:{identity}", ("system:bootstrappers", *extra))
