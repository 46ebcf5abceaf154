"""Join tokens: parse, format, pin the CA. Source: K3s ``pkg/clientaccess/token.go``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

PREFIX = "K10"
_BOOTSTRAP = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")


class TokenError(ValueError):
    """A token that cannot be used; K3s's wording."""


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token. Either ``bearer`` (a bootstrap token) or ``username`` and ``password`` is set."""

    ca_hash: str = ""
    username: str = ""
    password: str = ""
    bearer: str = ""


def parse_token(text: str) -> Token:
    """K3s's parser, exactly, including its treatment of short passwords that begin with ``K10``. Raises TokenError."""
    if not text:
        raise TokenError("token must not be empty")
    if not text.startswith(PREFIX):
        text = (f"{PREFIX}::" if _BOOTSTRAP.fullmatch(text) else f"{PREFIX}:::") + text
    ca_hash, separator, credentials = text[len(PREFIX) :].partition("::")
    if not separator:
        ca_hash, credentials = "", ca_hash
    if len(ca_hash) not in (0, 64):
        raise TokenError("invalid token CA hash length")
    if _BOOTSTRAP.fullmatch(credentials):
        return Token(ca_hash, bearer=credentials)
    username, separator, password = credentials.partition(":")
    if not separator or not password:
        raise TokenError("invalid token format")
    return Token(ca_hash, username, password)


def format_token(ca_bundle: bytes, username: str, password: str) -> str:
    """The secure form ``K10<CA hash>::<user>:<password>``."""
    return f"{PREFIX}{ca_hash(ca_bundle)}::{username}:{password}"


def ca_hash(ca_bundle: bytes) -> str:
    """What a token pins: the sha256 of the bytes of ``/cacerts`` when it holds one certificate, else of the DER of the root
    that verifies the first certificate; of the raw bytes again when no chain verifies."""
    if ca_bundle.count(b"-----BEGIN CERTIFICATE-----") > 1 and (root := _root_der(ca_bundle)) is not None:
        return hashlib.sha256(root).hexdigest()
    return hashlib.sha256(ca_bundle).hexdigest()


def _root_der(ca_bundle: bytes) -> bytes | None:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import Encoding

    from k3sd.pki.authority import split_pem

    def issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
        key, algorithm = parent.public_key(), child.signature_hash_algorithm
        if child.issuer != parent.subject or algorithm is None:
            return False
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(child.signature, child.tbs_certificate_bytes, ec.ECDSA(algorithm))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(child.signature, child.tbs_certificate_bytes, padding.PKCS1v15(), algorithm)
            else:
                return False
        except InvalidSignature:
            return False
        return True

    try:
        certificates = split_pem(ca_bundle)
    except ValueError:
        return None
    current, seen = certificates[0], 0
    while seen <= len(certificates):
        if issued(current, current):
            return current.public_bytes(Encoding.DER)
        parent = next((c for c in certificates[1:] if c != current and issued(current, c)), None)
        if parent is None:
            return None
        current, seen = parent, seen + 1
    return None
