"""Certificate authorities and leaves by K3s's rules.

Source: rancher/dynamiclistener ``cert`` and K3s ``pkg/daemons/control/deps``. Keys are ECDSA P-256 in SEC1 form, the
service-account key RSA 2048 in PKCS#1. A CA lives 10 x 365 days, a leaf 365 (``CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS``).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from k3sd.lib.files import write_atomic

CA_DAYS = 3650
LEAF_DAYS = 365
RENEW_DAYS = 120
"""A leaf with this many days or fewer left is signed anew at start (K3s releases since May 2025)."""

Usage = Literal["client", "server"]
_USAGE_OID = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


class PKIError(Exception):
    """A certificate or key on disk cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its bundle as PEM (first certificate signs), the parsed first certificate and its key."""

    bundle: bytes
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a leaf certificate must say."""

    common_name: str
    organizations: tuple[str, ...] = ()
    sans: tuple[str, ...] = ()
    usages: tuple[Usage, ...] = ("client",)


def _now() -> datetime.datetime:
    """UTC without a zone, as certificates of cryptography 38 have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0, tzinfo=None)


def validity(certificate: x509.Certificate) -> tuple[datetime.datetime, datetime.datetime]:
    """``(not before, not after)`` in UTC without a zone. cryptography 42 warns of the properties that 38 has alone."""
    before: datetime.datetime | None = getattr(certificate, "not_valid_before_utc", None)
    after: datetime.datetime | None = getattr(certificate, "not_valid_after_utc", None)
    if before is None or after is None:
        return certificate.not_valid_before, certificate.not_valid_after
    return before.replace(tzinfo=None), after.replace(tzinfo=None)


def leaf_days() -> int:
    text = os.environ.get("CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS", "")
    return int(text) if text.isdigit() and int(text) > 0 else LEAF_DAYS


def new_ec_key_pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def new_rsa_key_pem() -> bytes:
    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def load_ec_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises PKIError for a file that is not an unencrypted EC key."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise PKIError(
            f"{path}: not a readable private key ({error}); restore it from a backup, or remove it with its "
            "certificate to have both made anew"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PKIError(
            f"{path}: the key is not an ECDSA key; replace it by one made with `openssl ecparam -name prime256v1 -genkey`"
        )
    return key


def split_pem(bundle: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM bundle, in order."""
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", bundle, re.S)
    return [x509.load_pem_x509_certificate(block) for block in blocks]


def ensure_key(path: Path, make: bytes | None = None) -> None:
    """Make an EC key file, 0600, unless it is there (``make``: content to write instead)."""
    if not path.exists():
        write_atomic(path, make if make is not None else new_ec_key_pem(), 0o600)


def ensure_authority(prefix: str, certificate: Path, key: Path) -> Authority:
    """Load the CA, or make a self-signed one with CN ``<prefix>@<unix seconds>``. A CA is never renewed.

    Raises PKIError when only one of the two files is there or they do not belong together.
    """
    if certificate.exists() != key.exists():
        missing = key if certificate.exists() else certificate
        raise PKIError(
            f"{missing}: missing while its counterpart exists; restore it from a backup (a new CA would lock out every node)"
        )
    if not certificate.exists():
        ensure_key(key)
        private = load_ec_key(key)
        now = _now()
        name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"{prefix}@{int(now.replace(tzinfo=datetime.UTC).timestamp())}")]
        )
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            # Go's NewSelfSignedCACert uses serial 0, which this library refuses to write; 1 is as unique for a root.
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
            .add_extension(_key_usage(sign=True), critical=True)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
            .sign(private, hashes.SHA256())
        )
        write_atomic(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    bundle = certificate.read_bytes()
    try:
        first = split_pem(bundle)[0]
    except (IndexError, ValueError) as error:
        raise PKIError(f"{certificate}: no PEM certificate in it; restore the file from a backup") from error
    private = load_ec_key(key)
    if first.public_key().public_bytes(*_SPKI) != private.public_key().public_bytes(*_SPKI):
        raise PKIError(f"{certificate}: does not belong to the key {key}; restore both from the same backup")
    return Authority(bundle, first, private)


_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_usage(sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def sign(authority: Authority, leaf: Leaf, public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Sign ``leaf`` for ``public_key``. Returns leaf PEM followed by the CA bundle, as K3s writes it."""
    now = _now()
    before = max(now - datetime.timedelta(hours=1), validity(authority.certificate)[0])
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in leaf.organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(int.from_bytes(os.urandom(8), "big") >> 1 or 1)
        .not_valid_before(before)
        .not_valid_after(now + datetime.timedelta(days=leaf_days()))
        .add_extension(_key_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE_OID[u] for u in leaf.usages]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if leaf.sans:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_san(s) for s in dict.fromkeys(leaf.sans)]), critical=False
        )
    made = builder.sign(authority.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM) + authority.bundle


def certificate_sans(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    names = set(extension.get_values_for_type(x509.DNSName))
    return names | {str(ip) for ip in extension.get_values_for_type(x509.IPAddress)}


def renewal_reason(pem: bytes, authority: Authority, leaf: Leaf, key: ec.EllipticCurvePrivateKey) -> str:
    """Why a leaf on disk must be signed anew; empty when it is good. K3s's rule: 120 days or fewer left, another CN or O,
    missing SANs (extra ones are tolerated), another CA, another key."""
    try:
        certificate = split_pem(pem)[0]
    except (IndexError, ValueError):
        return "is not a certificate"
    _, after = validity(certificate)
    if after - _now() <= datetime.timedelta(days=min(RENEW_DAYS, leaf_days() // 3)):
        return f"expires {after:%Y-%m-%d}"
    subject = certificate.subject
    if [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] != [leaf.common_name]:
        return "has another common name"
    if {a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)} != set(leaf.organizations):
        return "has another organization"
    if missing := {str(_san(s).value) for s in leaf.sans} - certificate_sans(certificate):
        return f"lacks {', '.join(sorted(missing))}"
    if certificate.public_key().public_bytes(*_SPKI) != key.public_key().public_bytes(*_SPKI):
        return "belongs to another key"
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        return "has no known signature"
    try:
        authority.key.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        return "is signed by another CA"
    return ""


def ensure_leaf(authority: Authority, leaf: Leaf, certificate: Path, key: Path, mode: int = 0o644) -> str:
    """Make or renew one leaf. Returns the reason when it was signed (``"is missing"``, ...), else an empty string."""
    ensure_key(key)
    private = load_ec_key(key)
    reason = renewal_reason(certificate.read_bytes(), authority, leaf, private) if certificate.exists() else "is missing"
    if reason:
        write_atomic(certificate, sign(authority, leaf, private.public_key()), mode)
    return reason


def merge_sans(wanted: Iterable[str], present: Iterable[str]) -> tuple[str, ...]:
    """Wanted first, then those already in the certificate, so that a renewal never drops a name clients use."""
    return tuple(dict.fromkeys((*wanted, *present)))
