"""Client certificates. The TLS layer has verified the chain; here the subject becomes an identity.

Source: ``apiserver/pkg/authentication/request/x509`` (``CommonNameUserConversion``) and ``request/headerrequest``.
"""

from __future__ import annotations

import calendar
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from cryptography import x509
from cryptography.x509.oid import NameOID

from k3sd.apiserver.authn.accounts import CREDENTIAL_ID
from k3sd.apiserver.request import UserInfo
from k3sd.pki.authority import validity

_MAX_KNOWN = 512


class _Known(NamedTuple):
    issuer: bytes
    user: UserInfo
    not_before: float
    not_after: float


class CertificateAuthenticator:
    """Parses each distinct certificate once. ``proxy_ca`` is the request-header CA file: its certificates identify a proxy that
    names the user in headers, never a user themselves."""

    def __init__(self, proxy_ca: Path, proxy_names: tuple[str, ...] = ("system:auth-proxy",)) -> None:
        self._known: dict[bytes, _Known] = {}
        self._proxy_names = proxy_names
        self._proxy_issuers: frozenset[bytes] = frozenset()
        if proxy_ca.exists():
            blocks = proxy_ca.read_bytes().split(b"-----BEGIN CERTIFICATE-----")[1:]
            certificates = [x509.load_pem_x509_certificate(b"-----BEGIN CERTIFICATE-----" + b) for b in blocks]
            self._proxy_issuers = frozenset(c.subject.public_bytes() for c in certificates)

    def authenticate(self, der: bytes, headers: Mapping[str, str]) -> UserInfo | None:
        known = self._known.get(der)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[der] = _parse(der)
        if not known.not_before <= time.time() <= known.not_after:
            return None
        if known.issuer in self._proxy_issuers:
            return self._from_headers(known.user.name, headers)
        return known.user if known.user.name else None

    def _from_headers(self, proxy: str, headers: Mapping[str, str]) -> UserInfo | None:
        name = headers.get("X-Remote-User", "")
        if proxy not in self._proxy_names or not name:
            return None
        extra: dict[str, tuple[str, ...]] = {}
        for key in headers:
            if key.lower().startswith("x-remote-extra-"):
                extra[unquote(key[len("x-remote-extra-") :].lower())] = all_values(headers, key)
        groups = (*all_values(headers, "X-Remote-Group"), "system:authenticated")
        return UserInfo(name, tuple(dict.fromkeys(groups)), headers.get("X-Remote-Uid", ""), extra)


def all_values(headers: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Every value of a repeated header; a plain mapping has one."""
    getall = getattr(headers, "getall", None)
    if getall is not None:
        return tuple(getall(name, ()))
    value = headers.get(name)
    return () if value is None else (value,)


def _parse(der: bytes) -> _Known:
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if "system:authenticated" not in groups:
        groups.append("system:authenticated")
    extra: dict[str, tuple[str, ...]] = {CREDENTIAL_ID: (f"X509SHA256={hashlib.sha256(der).hexdigest()}",)}
    user = UserInfo(str(names[0].value) if names else "", tuple(groups), "", extra)
    before, after = validity(certificate)
    issuer = certificate.issuer.public_bytes()
    return _Known(issuer, user, calendar.timegm(before.timetuple()), calendar.timegm(after.timetuple()))
