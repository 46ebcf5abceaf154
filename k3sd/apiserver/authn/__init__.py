"""Authentication: client certificate, K3s's passwd, service account and bootstrap tokens.

K3s runs ``--anonymous-auth=false``: without credentials a request is nobody's (401), whatever its path.
Verified tokens are remembered by their hash until they expire or an object behind them goes (signatures are slow to check).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from k3sd.apiserver.authn import bootstraptokens
from k3sd.apiserver.authn.accounts import AccountTokens, Verified
from k3sd.apiserver.authn.certificates import CertificateAuthenticator
from k3sd.apiserver.authn.tokens import TokenInvalid, TokenSigner
from k3sd.apiserver.request import ANONYMOUS, UserInfo
from k3sd.tokens.join import TokenError
from k3sd.tokens.passwd import User, read_passwd

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.config.settings import Settings

log = logging.getLogger(__name__)

_MAX_REMEMBERED = 4096
_REMEMBER_SECONDS = 3600.0


class PasswdFile:
    """K3s's ``server/cred/passwd``, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._users: dict[str, User] = {}

    def check(self, name: str, password: str) -> UserInfo | None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if stamp != self._stamp:
            try:
                self._users = read_passwd(self._path)
            except TokenError as error:
                log.warning("%s; the users known before stay in force", error)
            self._stamp = stamp
        user = self._users.get(name)
        known = user.password if user is not None else "\0"
        if not hmac.compare_digest(known.encode(), password.encode()) or user is None:
            return None
        return UserInfo(user.name, (*user.groups, "system:authenticated"), user.uid)


class Authenticator:
    """Who is behind a request. ``signer`` is also what TokenRequest mints with."""

    def __init__(
        self,
        registry: Registry,
        signer: TokenSigner,
        audiences: tuple[str, ...],
        certificates: CertificateAuthenticator,
        passwd: PasswdFile,
        *,
        anonymous: bool = False,
    ) -> None:
        self.signer = signer
        self.audiences = audiences
        self._registry = registry
        self._accounts = AccountTokens(registry, signer, audiences)
        self._certificates = certificates
        self._passwd = passwd
        self._anonymous = anonymous
        self._remembered: dict[bytes, tuple[float, Verified]] = {}

    async def authenticate(
        self, headers: Mapping[str, str], peer_cert_der: bytes | None, peer_cert_dict: object = None
    ) -> UserInfo | None:
        """The identity of a request, None means 401. ``headers`` look up without regard to case. Impersonation comes after."""
        if peer_cert_der:
            user = self._certificates.authenticate(peer_cert_der, headers)
            if user is not None:
                return user
        text = headers.get("Authorization", "")
        kind, _, value = text.partition(" ")
        kind, value = kind.lower(), value.strip()
        if kind == "bearer" and value:
            found = self.authenticate_token(value)
            return found[0] if found is not None else None
        if kind == "basic" and value:
            return self._basic(value)
        if text:
            return None
        protocols = headers.get("Sec-WebSocket-Protocol", "")
        if "base64url.bearer.authorization.k8s.io." in protocols:
            token = _websocket_token(protocols)
            found = self.authenticate_token(token) if token else None
            return found[0] if found is not None else None
        return ANONYMOUS if self._anonymous else None

    def _basic(self, value: str) -> UserInfo | None:
        try:
            name, found, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return self._passwd.check(name, password) if found and password else None

    def authenticate_token(self, token: str, audiences: tuple[str, ...] = ()) -> tuple[UserInfo, tuple[str, ...]] | None:
        """Identity and the audiences both sides accept; ``audiences`` empty means the API server's own. None when refused."""
        wanted = audiences or self.audiences
        if "." in token and token.count(".") == 1:
            user = bootstraptokens.authenticate(self._registry, token)
            return (user, wanted) if user is not None else None
        verified = self._verify(token)
        if verified is None:
            return None
        matched = tuple(a for a in verified.audiences if a in wanted)
        return (verified.user, matched) if matched else None

    def _verify(self, token: str) -> Verified | None:
        key = hashlib.sha256(token.encode()).digest()
        now = time.time()
        found = self._remembered.get(key)
        if found is not None:
            if now < found[0] and self._accounts.still_valid(found[1]):
                return found[1]
            del self._remembered[key]
        try:
            verified = self._accounts.verify(token)
        except TokenInvalid as error:
            log.debug("token refused: %s", error)
            return None
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        until = min(now + _REMEMBER_SECONDS, verified.expires or now + _REMEMBER_SECONDS)
        self._remembered[key] = (until, verified)
        return verified


def _websocket_token(protocols: str) -> str:
    """``request/websocket``: browsers cannot set Authorization on a websocket."""
    prefix = "base64url.bearer.authorization.k8s.io."
    for item in protocols.split(","):
        item = item.strip()
        if item.startswith(prefix):
            text = item[len(prefix) :]
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                return ""
    return ""


def build_authenticator(settings: Settings, registry: Registry) -> Authenticator:
    """From the files of K3s's data directory. The result is ``registry.authenticator`` too. Raises OSError or ValueError
    naming the key file that is missing or damaged."""
    paths = settings.paths
    issuers = settings.apiserver_args.get("service-account-issuer", ())
    issuer = issuers[0] if issuers else settings.service_account_issuer
    audiences = settings.apiserver_args.get("api-audiences", ())
    known = tuple(a for text in audiences for a in text.split(",") if a) or settings.api_audiences
    authenticator = Authenticator(
        registry,
        TokenSigner.load(paths.tls, issuer),
        known,
        CertificateAuthenticator(paths.tls / "request-header-ca.crt"),
        PasswdFile(paths.passwd),
        anonymous=settings.apiserver_args.get("anonymous-auth", ("false",))[-1] == "true",
    )
    registry.authenticator = authenticator
    return authenticator
