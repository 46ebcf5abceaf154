"""Service account tokens: making them, checking them, publishing the keys.

Source: ``pkg/serviceaccount/{claims,jwt,openidmetadata}.go``. The first key of ``service.key`` signs; all verify.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k3sd.tokens.join import TokenError

if TYPE_CHECKING:
    from k3sd.config.settings import Settings

Obj = dict[str, Any]
JWKS_PATH = "/openid/v1/jwks"
LEEWAY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Key:
    """A verification key; ``private`` is None for one that only verifies."""

    kid: str
    algorithm: str
    public: Any
    private: Any


def key_id(public: Any) -> str:
    """Upstream's ``keyIDFromPublicKey``: base64url of the sha256 of the DER SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def load_keys(pem: bytes) -> list[Key]:
    """Every key of a bundle, in order. Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    keys = []
    for block in re.findall(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", pem, re.S):
        if b"EC PARAMETERS" in block:
            continue
        private: Any = None
        if b"PRIVATE KEY" in block:
            private = load_pem_private_key(block, password=None)
            public: Any = private.public_key()
        else:
            public = load_pem_public_key(block)
        if isinstance(public, rsa.RSAPublicKey):
            algorithm = "RS256"
        elif isinstance(public, ec.EllipticCurvePublicKey):
            algorithm = {256: "ES256", 384: "ES384", 521: "ES512"}[public.curve.key_size]
        else:
            raise ValueError("a key is neither RSA nor ECDSA")
        keys.append(Key(key_id(public), algorithm, public, private))
    return keys


class TokenIssuer:
    """Signs and verifies with the server's service account keys."""

    def __init__(self, issuer: str, keys: list[Key], audiences: tuple[str, ...]) -> None:
        self.issuer = issuer
        self.audiences = audiences
        self._keys = {key.kid: key for key in keys}
        self._signer = keys[0]

    @classmethod
    def load(cls, settings: Settings) -> TokenIssuer:
        """From ``server/tls/service.key``. Raises TokenError naming the file."""
        path = settings.paths.tls / "service.key"
        try:
            keys = load_keys(path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise TokenError(f"{path}: no usable service account key ({error}); restore the file from a backup") from error
        if not keys or keys[0].private is None:
            raise TokenError(f"{path}: the first key must be a private key; restore the file from a backup")
        return cls(settings.service_account_issuer, keys, settings.api_audiences)

    def sign(self, claims: Obj) -> str:
        import jwt

        key = self._signer
        return str(jwt.encode(claims, key.private, algorithm=key.algorithm, headers={"kid": key.kid}))

    def claims(
        self,
        account: Obj,
        audiences: tuple[str, ...],
        seconds: int,
        *,
        pod: Obj | None = None,
        secret: Obj | None = None,
        node: Obj | None = None,
        warn_after_seconds: int = 0,
        now: float | None = None,
    ) -> Obj:
        """The claims of a bound token for a ServiceAccount (``pkg/serviceaccount/claims.go::Claims``). ``pod``, ``secret`` and
        ``node`` bind it; a pod's token also names the node that runs it."""
        issued = int(time.time() if now is None else now)
        meta = account["metadata"]
        private: Obj = {
            "namespace": meta["namespace"],
            "serviceaccount": {"name": meta["name"], "uid": meta.get("uid", "")},
        }
        for name, bound in (("node", node), ("pod", pod), ("secret", secret)):
            if bound is not None:
                private[name] = {"name": bound["metadata"]["name"], "uid": bound["metadata"].get("uid", "")}
        if warn_after_seconds:
            private["warnafter"] = issued + warn_after_seconds
        return {
            "aud": list(audiences),
            "exp": issued + seconds,
            "iat": issued,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": issued,
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }

    def verify(self, token: str) -> Obj | None:
        """The claims of a token signed by one of our keys for our issuer and valid now, audience unchecked; None otherwise.
        Legacy
        secret tokens (issuer ``kubernetes/serviceaccount``) have no expiry."""
        import jwt

        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            return None
        candidates = [self._keys[kid]] if kid in self._keys else list(self._keys.values()) if not kid else []
        for key in candidates:
            try:
                claims: Obj = jwt.decode(
                    token, key.public, algorithms=[key.algorithm], leeway=LEEWAY_SECONDS, options={"verify_aud": False}
                )
            except jwt.PyJWTError:
                continue
            if claims.get("iss") in (self.issuer, "kubernetes/serviceaccount"):
                return claims
        return None

    def jwks(self) -> bytes:
        """``/openid/v1/jwks``."""
        import jwt

        keys = []
        for key in self._keys.values():
            algorithm = jwt.algorithms.get_default_algorithms()[key.algorithm]
            raw = algorithm.to_jwk(key.public) if key.algorithm.startswith("RS") else json.dumps(_ec_jwk(key.public))
            jwk = json.loads(raw) if isinstance(raw, str) else raw
            jwk.pop("key_ops", None)
            keys.append({"use": "sig", **jwk, "kid": key.kid, "alg": key.algorithm})
        return json.dumps({"keys": keys}, separators=(",", ":")).encode()

    def discovery(self, base_url: str) -> bytes:
        """``/.well-known/openid-configuration``; ``base_url`` is where clients reach this server."""
        document = {
            "issuer": self.issuer,
            "jwks_uri": base_url.rstrip("/") + JWKS_PATH,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self._keys.values()}),
        }
        return json.dumps(document, separators=(",", ":")).encode()


def _ec_jwk(public: Any) -> Obj:
    numbers = public.public_numbers()
    size = (public.curve.key_size + 7) // 8

    def part(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes(size, "big")).rstrip(b"=").decode()

    names = {256: "P-256", 384: "P-384", 521: "P-521"}
    return {"kty": "EC", "crv": names[public.curve.key_size], "x": part(numbers.x), "y": part(numbers.y)}
