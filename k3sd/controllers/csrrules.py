"""What the built-in signers ask of a CertificateSigningRequest, and the certificates they make.

Source: ``pkg/apis/certificates/helpers.go``, ``pkg/controller/certificates/signer``, ``pkg/controller/certificates/authority``.
``cryptography`` is imported with the first request.
"""

from __future__ import annotations

import base64
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from k3sd.apimachinery.errors import Obj

if TYPE_CHECKING:
    from cryptography import x509

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY = "kubernetes.io/legacy-unknown"
SIGNERS = {CLIENT: "client-ca", KUBELET_CLIENT: "client-ca", KUBELET_SERVING: "server-ca", LEGACY: "server-ca"}
"""Signer -> the authority's files below ``server/tls``, as K3s sets them."""

NODES = "system:nodes"
NODE_PREFIX = "system:node:"
DEFAULT_SECONDS = 365 * 24 * 3600
MIN_SECONDS = 600
BACKDATE_SECONDS = 300
_OPTIONAL = {"key encipherment"}


class Request(NamedTuple):
    """The PEM request, parsed."""

    common_name: str
    organizations: tuple[str, ...]
    dns: tuple[str, ...]
    addresses: tuple[str, ...]
    other: bool
    """Whether it asks for e-mail addresses or URIs."""


def parse(csr: Obj) -> x509.CertificateSigningRequest:
    """Raises ValueError unless ``spec.request`` is a PEM request signed by its own key."""
    from cryptography import x509 as lib

    pem = base64.b64decode(csr["spec"]["request"])
    request = lib.load_pem_x509_csr(pem)
    if not request.is_signature_valid:
        raise ValueError("the request is not signed by its own key")
    return request


def read(csr: Obj) -> Request:
    from cryptography import x509 as lib
    from cryptography.x509.oid import NameOID

    request = parse(csr)
    names = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    organizations = [str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    dns: list[str] = []
    addresses: list[str] = []
    other = False
    try:
        alternatives = request.extensions.get_extension_for_class(lib.SubjectAlternativeName).value
    except lib.ExtensionNotFound:
        alternatives = lib.SubjectAlternativeName([])
    for name in alternatives:
        if isinstance(name, lib.DNSName):
            dns.append(name.value)
        elif isinstance(name, lib.IPAddress):
            addresses.append(str(name.value))
        else:
            other = True
    return Request(names[0] if names else "", tuple(organizations), tuple(dns), tuple(addresses), other)


def objection(signer: str, csr: Obj, request: Request) -> str:
    """Why the signer will not sign, empty when it will."""
    usages = set(csr["spec"].get("usages") or ())
    if signer == KUBELET_CLIENT:
        return _node_objection(request) or _client_node_objection(request, usages)
    if signer == KUBELET_SERVING:
        if not request.dns and not request.addresses:
            return "DNS or IP subjectAltName is required"
        if request.other:
            return "email and URI subjectAltNames are not allowed"
        if usages - _OPTIONAL != {"digital signature", "server auth"}:
            return "usages did not match [digital signature key encipherment server auth]"
        return _node_objection(request)
    if signer == CLIENT:
        if "client auth" not in usages:
            return "usages did not match: must contain client auth"
        if "server auth" in usages:
            return "usages did not match: must not contain server auth"
    return ""


def _node_objection(request: Request) -> str:
    if request.organizations != (NODES,):
        return "subject organization is not system:nodes"
    if not request.common_name.startswith(NODE_PREFIX):
        return "subject common name does not begin with system:node:"
    return ""


def _client_node_objection(request: Request, usages: set[str]) -> str:
    if request.dns or request.addresses or request.other:
        return "subjectAltNames are not allowed"
    if usages - _OPTIONAL != {"digital signature", "client auth"}:
        return "usages did not match [key encipherment digital signature client auth]"
    return ""


def lifetime(csr: Obj) -> int:
    """Seconds the certificate is valid for."""
    wanted = csr["spec"].get("expirationSeconds")
    return DEFAULT_SECONDS if wanted is None else max(MIN_SECONDS, min(int(wanted), DEFAULT_SECONDS))


def sign(csr: Obj, certificate: Path, key: Path, now: float) -> bytes:
    """The PEM certificate by the authority in these files. Raises OSError and ValueError."""
    from cryptography import x509 as lib
    from cryptography.hazmat.primitives import hashes, serialization

    request = parse(csr)
    issuer = lib.load_pem_x509_certificate(certificate.read_bytes())
    issuer_key = serialization.load_pem_private_key(key.read_bytes(), None)
    start = datetime.datetime.fromtimestamp(now - BACKDATE_SECONDS, datetime.UTC).replace(microsecond=0)
    end = datetime.datetime.fromtimestamp(now + lifetime(csr), datetime.UTC).replace(microsecond=0)
    end = min(end, _end(issuer))
    builder = (
        lib.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(issuer.subject)
        .public_key(request.public_key())
        .serial_number(lib.random_serial_number())
        .not_valid_before(start.replace(tzinfo=None))
        .not_valid_after(end.replace(tzinfo=None))
        .add_extension(lib.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    usage, extended = _usages(csr["spec"].get("usages") or ())
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    if extended:
        builder = builder.add_extension(lib.ExtendedKeyUsage(extended), critical=False)
    try:
        identifier = issuer.extensions.get_extension_for_class(lib.SubjectKeyIdentifier).value
    except lib.ExtensionNotFound:
        pass
    else:
        authority = lib.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        builder = builder.add_extension(authority, critical=False)
    try:
        alternatives = request.extensions.get_extension_for_class(lib.SubjectAlternativeName).value
    except lib.ExtensionNotFound:
        pass
    else:
        builder = builder.add_extension(alternatives, critical=False)
    signed = builder.sign(issuer_key, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM)


def _usages(usages: object) -> tuple[x509.KeyUsage | None, list[x509.ObjectIdentifier]]:
    from cryptography import x509 as lib
    from cryptography.x509.oid import ExtendedKeyUsageOID

    chosen = set(usages) if isinstance(usages, list | tuple) else set()
    flags = {
        "digital_signature": {"digital signature", "signing"},
        "content_commitment": {"content commitment"},
        "key_encipherment": {"key encipherment"},
        "data_encipherment": {"data encipherment"},
        "key_agreement": {"key agreement"},
        "key_cert_sign": {"cert sign"},
        "crl_sign": {"crl sign"},
        "encipher_only": {"encipher only"},
        "decipher_only": {"decipher only"},
    }
    values = {name: bool(texts & chosen) for name, texts in flags.items()}
    extended = {
        "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
        "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
        "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
        "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
        "s/mime": ExtendedKeyUsageOID.EMAIL_PROTECTION,
        "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
        "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    }
    oids = list(dict.fromkeys(oid for text, oid in extended.items() if text in chosen))
    return (lib.KeyUsage(**values) if any(values.values()) else None), oids


def expiry(pem: bytes) -> float:
    """When the issued certificate ends (epoch seconds)."""
    from cryptography import x509 as lib

    return _end(lib.load_pem_x509_certificate(pem)).timestamp()


def _end(certificate: x509.Certificate) -> datetime.datetime:
    from k3sd.pki.authority import validity

    return validity(certificate)[1].replace(tzinfo=datetime.UTC)
