"""Client certificates: common name is the user, organizations are its groups. Source: ``request/x509/x509.go``."""

from __future__ import annotations

import datetime
from functools import lru_cache

from k3sd.apimachinery.errors import unauthorized
from k3sd.apiserver.request import UserInfo


@lru_cache(maxsize=256)
def _parse(der: bytes) -> tuple[UserInfo, datetime.datetime]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    certificate = x509.load_der_x509_certificate(der)
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = tuple(str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    return UserInfo(names[0] if names else "", groups), certificate.not_valid_after


def user_of_certificate(der: bytes) -> UserInfo | None:
    """The user of a certificate whose chain TLS has verified; None without a common name. Raises 401 when it has expired since
    the connection was made."""
    user, expires = _parse(der)
    if datetime.datetime.utcnow() > expires:
        raise unauthorized()
    return user if user.name else None
