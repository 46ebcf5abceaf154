"""Who is asking: client certificates, K3s's passwd file, service account tokens, bootstrap tokens, impersonation.

``build_authenticator`` gives the chain; each part answers for the credentials it knows and leaves the others to the next.
Credentials
that are there but wrong are refused, not treated as anonymous. K3s runs with ``anonymous-auth=false``, and so do we.
Source: ``apiserver/pkg/authentication``, K3s ``pkg/authenticator``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from k3sd.apimachinery.errors import unauthorized
from k3sd.apiserver.authn.bootstraptoken import BootstrapTokens
from k3sd.apiserver.authn.passwords import PasswordFile
from k3sd.apiserver.authn.serviceaccount import ServiceAccountTokens
from k3sd.apiserver.authn.x509 import user_of_certificate
from k3sd.apiserver.request import UserInfo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.config.settings import Settings

AUTHENTICATED = "system:authenticated"


class Authenticator:
    """The chain. ``authenticate`` is cheap for a certificate (cached by the caller per connection) and for a token seen
    before."""

    def __init__(self, passwords: PasswordFile, tokens: ServiceAccountTokens, bootstrap: BootstrapTokens) -> None:
        self.passwords = passwords
        self.tokens = tokens
        self.bootstrap = bootstrap

    async def authenticate(
        self, headers: Mapping[str, str], peer_cert_der: bytes | None = None, peer_cert_dict: object = None
    ) -> UserInfo | None:
        """The identity behind a request; None when it carries no credentials. Raises StatusError 401 for bad ones.

        A certificate speaks before a header, as upstream orders them. ``peer_cert_dict`` is not needed: the chain was
        verified by TLS.
        """
        if peer_cert_der and (user := user_of_certificate(peer_cert_der)) is not None:
            return with_authenticated(user)
        header = headers.get("Authorization", "")
        if not header:
            return None
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer":
            return with_authenticated(self.bearer(rest.strip()))
        if scheme.lower() == "basic":
            return with_authenticated(self._basic(rest.strip()))
        raise unauthorized()

    def bearer(self, token: str) -> UserInfo:
        """The identity of a bearer token for the API server's own audiences. Raises StatusError 401."""
        user = self.tokens.user(token) if token.count(".") == 2 else self.bootstrap.user(token)
        if user is None:
            raise unauthorized()
        return user

    def _basic(self, text: str) -> UserInfo:
        try:
            name, found, password = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise unauthorized() from None
        user = self.passwords.user(name, password) if found else None
        if user is None:
            raise unauthorized()
        return user


def with_authenticated(user: UserInfo) -> UserInfo:
    """Everybody with an identity is in ``system:authenticated``."""
    if AUTHENTICATED in user.groups:
        return user
    return replace(user, groups=(*user.groups, AUTHENTICATED))


def build_authenticator(settings: Settings, registry: Registry) -> Authenticator:
    """The chain for this server. Raises TokenError or OSError when its keys cannot be read."""
    from k3sd.apiserver.authn.tokens import TokenIssuer

    issuer = TokenIssuer.load(settings)
    tokens = ServiceAccountTokens(issuer, settings.api_audiences, registry)
    return Authenticator(PasswordFile(settings.paths.passwd), tokens, BootstrapTokens(registry))
