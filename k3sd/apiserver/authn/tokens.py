"""Service account tokens: minting, verifying, and the documents by which others verify them.

Source: ``pkg/serviceaccount`` (``jwt.go``, ``claims.go``, ``openidmetadata.go``). The first signing key signs, every
key of ``service.key`` verifies; ``kid`` is the unpadded base64url SHA-256 of the public key's DER.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from k3sd.apimachinery.errors import Obj

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

LEGACY_ISSUER = "kubernetes/serviceaccount"
EXTENDED_SECONDS = 365 * 24 * 3600
WARN_AFTER_SECONDS = 3607
"""The projected API token's odd lifetime, by which upstream knows it (``WarnOnlyBoundTokenExpiration``)."""
_CURVES: dict[str, tuple[str, hashes.HashAlgorithm, int]] = {
    "secp256r1": ("ES256", hashes.SHA256(), 32),
    "secp384r1": ("ES384", hashes.SHA384(), 48),
    "secp521r1": ("ES512", hashes.SHA512(), 66),
}


class TokenInvalid(Exception):
    """Why a token is refused. The text never holds the token."""


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _int_b64(value: int, size: int = 0) -> str:
    return _b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class VerifyKey:
    """One public key with its algorithm and id."""

    def __init__(self, key: PublicKey) -> None:
        self.key = key
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.kid = _b64(hashlib.sha256(der).digest())
        self.algorithm = "RS256" if isinstance(key, rsa.RSAPublicKey) else _CURVES[key.curve.name][0]

    def verify(self, data: bytes, signature: bytes) -> bool:
        try:
            if isinstance(self.key, rsa.RSAPublicKey):
                self.key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            else:
                _, digest, size = _CURVES[self.key.curve.name]
                if len(signature) != 2 * size:
                    return False
                r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
                self.key.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(digest))
        except InvalidSignature:
            return False
        return True

    @property
    def jwk(self) -> Obj:
        out: Obj = {"use": "sig", "kty": "RSA", "kid": self.kid, "alg": self.algorithm}
        numbers = self.key.public_numbers()
        if isinstance(numbers, rsa.RSAPublicNumbers):
            return {**out, "n": _int_b64(numbers.n), "e": _int_b64(numbers.e)}
        size = _CURVES[numbers.curve.name][2]
        curve = {32: "P-256", 48: "P-384", 66: "P-521"}[size]
        return {**out, "kty": "EC", "crv": curve, "x": _int_b64(numbers.x, size), "y": _int_b64(numbers.y, size)}


def load_keys(path: Path) -> list[PrivateKey | PublicKey]:
    """All PEM keys of a file, private or public. Raises ValueError naming the file."""
    keys: list[PrivateKey | PublicKey] = []
    for block in path.read_bytes().split(b"-----BEGIN ")[1:]:
        pem = b"-----BEGIN " + block
        if b"EC PARAMETERS" in pem[:32]:
            continue
        key: Any
        if b"PUBLIC KEY" in pem[:40]:
            key = serialization.load_pem_public_key(pem)
        else:
            key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, PrivateKey | PublicKey):
            raise ValueError(f"{path}: service account keys must be RSA or ECDSA")
        keys.append(key)
    if not keys:
        raise ValueError(f"{path}: no service account key found")
    return keys


class TokenSigner:
    """Signs and verifies with the cluster's keys. ``clock`` returns epoch seconds."""

    def __init__(
        self, signing: PrivateKey, verifying: Sequence[PublicKey], issuer: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._signing = signing
        self.issuer = issuer
        self._clock = clock
        own = VerifyKey(signing.public_key())
        self._algorithm, self._kid = own.algorithm, own.kid
        self.keys = {own.kid: own}
        for key in verifying:
            found = VerifyKey(key)
            self.keys.setdefault(found.kid, found)

    @classmethod
    def load(cls, tls: Path, issuer: str) -> TokenSigner:
        """From K3s's ``service.key`` (verifies) and ``service.current.key`` (signs; absent in older data directories)."""
        service, current = tls / "service.key", tls / "service.current.key"
        loaded = load_keys(service)
        # Usually the same: checking an RSA key takes the library long.
        is_same = not current.exists() or current.read_bytes() == service.read_bytes()
        signing = (loaded if is_same else load_keys(current))[0]
        if not isinstance(signing, PrivateKey):
            raise ValueError(f"{current}: the signing key must be a private key")
        return cls(signing, [k.public_key() if isinstance(k, PrivateKey) else k for k in loaded], issuer)

    def sign(self, claims: Obj) -> str:
        head = _b64(json.dumps({"alg": self._algorithm, "kid": self._kid}, separators=(",", ":")).encode())
        data = f"{head}.{_b64(json.dumps(claims, separators=(',', ':')).encode())}"
        key = self._signing
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(data.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            _, digest, size = _CURVES[key.curve.name]
            r, s = utils.decode_dss_signature(key.sign(data.encode(), ec.ECDSA(digest)))
            signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
        return f"{data}.{_b64(signature)}"

    def mint(
        self,
        account: Obj,
        audiences: Sequence[str],
        seconds: int,
        *,
        warn_after: int = 0,
        bound: dict[str, Obj] | None = None,
    ) -> tuple[str, int]:
        """A token for a ServiceAccount. ``bound`` maps ``pod``, ``secret``, ``node`` to objects. Returns it and its expiry in
        epoch seconds. ``Claims``."""
        now = int(self._clock())
        meta = account["metadata"]
        private: Obj = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        for kind, obj in (bound or {}).items():
            private[kind] = {"name": obj["metadata"]["name"], "uid": obj["metadata"].get("uid", "")}
            if not private[kind]["uid"]:
                del private[kind]["uid"]
        if warn_after:
            private["warnafter"] = now + warn_after
        claims: Obj = {
            "aud": list(audiences),
            "exp": now + seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }
        return self.sign(claims), now + seconds

    def verify(self, token: str) -> Obj:
        """The claims of a token that one of our keys signed and whose time is now. Raises TokenInvalid."""
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenInvalid("token is not a JWT")
        try:
            head = json.loads(_unb64(parts[0]))
            signature = _unb64(parts[2])
            claims: Any = json.loads(_unb64(parts[1]))
        except ValueError as error:
            raise TokenInvalid("token is not a JWT") from error
        if not isinstance(head, dict) or not isinstance(claims, dict):
            raise TokenInvalid("token is not a JWT")
        data = f"{parts[0]}.{parts[1]}".encode()
        named = self.keys.get(str(head.get("kid", "")))
        for key in (named,) if named is not None else self.keys.values():
            if head.get("alg") == key.algorithm and key.verify(data, signature):
                break
        else:
            raise TokenInvalid("invalid signature")
        self._check_times(claims)
        return claims

    def _check_times(self, claims: Obj) -> None:
        now = self._clock()
        for name in ("exp", "nbf", "iat"):
            if not isinstance(claims.get(name, 0), int | float):
                raise TokenInvalid(f"{name} is not a number")
        if "exp" in claims and now >= claims["exp"]:
            raise TokenInvalid("service account token has expired")
        if now < claims.get("nbf", 0):
            raise TokenInvalid("service account token is not valid yet")

    def jwks(self) -> Obj:
        """``/openid/v1/jwks``."""
        return {"keys": [key.jwk for key in self.keys.values()]}

    def openid_configuration(self, jwks_uri: str) -> Obj:
        """``/.well-known/openid-configuration``."""
        return {
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self.keys.values()}),
        }
