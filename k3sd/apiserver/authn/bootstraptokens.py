"""Bootstrap tokens: ``id.secret`` of a Secret in kube-system. Source: ``plugin/pkg/auth/authenticator/token/bootstrap``."""

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

PATTERN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
SECRET_TYPE = "bootstrap.kubernetes.io/token"
_EXTRA_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


def authenticate(registry: Registry, token: str) -> UserInfo | None:
    """The identity of a live bootstrap token, None for anything else."""
    match = PATTERN.fullmatch(token)
    if match is None:
        return None
    token_id, secret_text = match[1], match[2]
    secret = registry.read(resources.SECRETS, f"bootstrap-token-{token_id}", "kube-system")
    if secret is None or secret.get("type") != SECRET_TYPE or secret["metadata"].get("deletionTimestamp"):
        return None
    data = {k: base64.b64decode(v).decode(errors="replace") for k, v in (secret.get("data") or {}).items()}
    if not hmac.compare_digest(data.get("token-secret", ""), secret_text) or data.get("token-id") != token_id:
        return None
    if data.get("usage-bootstrap-authentication") != "true" or _expired(data.get("expiration", "")):
        return None
    groups = {"system:bootstrappers"}
    for group in filter(None, (g.strip() for g in data.get("auth-extra-groups", "").split(","))):
        if not _EXTRA_GROUP.fullmatch(group):
            return None
        groups.add(group)
    return UserInfo(f"system:bootstrap:{token_id}", (*sorted(groups), "system:authenticated"))


def _expired(expiration: str) -> bool:
    if not expiration:
        return False
    try:
        return timefmt.parse(expiration) <= time.time()
    except ValueError:
        return True
