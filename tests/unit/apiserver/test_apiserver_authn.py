"""Tokens, certificates, passwd, bootstrap tokens, impersonation."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.apiserver.authn import Authenticator, PasswdFile
from k3sd.apiserver.authn.certificates import CertificateAuthenticator
from k3sd.apiserver.authn.impersonation import impersonate
from k3sd.apiserver.authn.tokens import TokenInvalid, TokenSigner
from k3sd.apiserver.authz import ChainAuthorizer
from k3sd.apiserver.authz.node import NodeAuthorizer, NodeGraph
from k3sd.apiserver.authz.rbac import RuleIndex
from k3sd.apiserver.request import UserInfo

ISSUER = "https://kubernetes.default.svc.cluster.local"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ACCOUNT = {"metadata": {"name": "web", "namespace": "a", "uid": "u1"}}
POD = {"metadata": {"name": "p", "namespace": "a", "uid": "u2"}}


class FakeCache(dict):
    """Key to entry, as the watch cache answers ``get``."""


class FakeRegistry:
    """The part of the registry that authentication reads."""

    def __init__(self) -> None:
        self.caches: dict[Any, FakeCache] = {}
        self.authorizer: ChainAuthorizer | None = None
        self._revision = 0

    def endpoint(self, resource: Any) -> SimpleNamespace:
        cache = self.caches.setdefault(resource, FakeCache())
        return SimpleNamespace(cache=cache, key=lambda ns, name: f"{ns}/{name}")

    def put(self, resource: Any, obj: dict) -> None:
        self._revision += 1
        meta = obj["metadata"]
        entry = SimpleNamespace(obj=obj, revision=self._revision, create_revision=self._revision)
        self.endpoint(resource).cache[f"{meta.get('namespace', '')}/{meta['name']}"] = entry

    def drop(self, resource: Any, key: str) -> None:
        del self.caches[resource][key]

    def read(self, resource: Any, name: str, namespace: str = "") -> dict | None:
        entry = self.endpoint(resource).cache.get(f"{namespace}/{name}")
        return entry.obj if entry else None


def build(tmp_path: Path, key: Any = RSA_KEY) -> tuple[Authenticator, FakeRegistry, TokenSigner]:
    registry = FakeRegistry()
    registry.put(resources.SERVICEACCOUNTS, ACCOUNT)
    registry.put(resources.PODS, POD)
    signer = TokenSigner(key, [RSA_KEY.public_key(), EC_KEY.public_key()], ISSUER)
    certificates = CertificateAuthenticator(tmp_path / "request-header-ca.crt")
    passwd = PasswdFile(tmp_path / "passwd")
    return Authenticator(registry, signer, (ISSUER, "k3s"), certificates, passwd), registry, signer  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY], ids=["RS256", "ES256"])
async def test_pod_bound_token(tmp_path: Path, key: Any) -> None:
    authenticator, registry, signer = build(tmp_path, key)
    token, _ = signer.mint(ACCOUNT, [ISSUER], 3600, bound={"pod": POD, "node": {"metadata": {"name": "n", "uid": "u3"}}})
    headers = {"Authorization": f"Bearer {token}"}
    user = await authenticator.authenticate(headers, None)
    assert user is not None
    assert user.name == "system:serviceaccount:a:web"
    assert user.uid == "u1"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    assert user.extra["authentication.kubernetes.io/node-uid"] == ("u3",)
    jti = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["jti"]
    assert user.extra["authentication.kubernetes.io/credential-id"] == (f"JTI={jti}",)
    # The answer is remembered, but not beyond the life of what it rests on.
    registry.drop(resources.PODS, "a/p")
    assert await authenticator.authenticate(headers, None) is None
    registry.put(resources.PODS, {"metadata": {**POD["metadata"], "uid": "other"}})
    assert await authenticator.authenticate(headers, None) is None


async def test_account_recreated(tmp_path: Path) -> None:
    authenticator, registry, signer = build(tmp_path)
    token, _ = signer.mint(ACCOUNT, [ISSUER], 3600)
    assert authenticator.authenticate_token(token)
    registry.put(resources.SERVICEACCOUNTS, {"metadata": {**ACCOUNT["metadata"], "uid": "new"}})
    assert authenticator.authenticate_token(token) is None


@pytest.mark.parametrize(
    ("audiences", "asked", "matched"),
    [
        ([ISSUER], (), (ISSUER,)),
        (["k3s"], (), ("k3s",)),
        (["vault"], (), None),
        (["vault", "x"], ("vault",), ("vault",)),
        ([ISSUER], ("vault",), None),
    ],
)
def test_audiences(tmp_path: Path, audiences: list[str], asked: tuple[str, ...], matched: tuple[str, ...] | None) -> None:
    authenticator, _, signer = build(tmp_path)
    token, _ = signer.mint(ACCOUNT, audiences, 3600)
    found = authenticator.authenticate_token(token, asked)
    assert (found[1] if found else None) == matched


def test_legacy_token_lives_with_its_secret(tmp_path: Path) -> None:
    authenticator, registry, signer = build(tmp_path)
    prefix = "kubernetes.io/serviceaccount/"
    claims = {
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:a:web",
        prefix + "namespace": "a",
        prefix + "secret.name": "t",
        prefix + "service-account.name": "web",
        prefix + "service-account.uid": "u1",
    }
    token = signer.sign(claims)
    assert authenticator.authenticate_token(token) is None
    secret = {"metadata": {"name": "t", "namespace": "a"}, "data": {"token": b64(token)}}
    registry.put(resources.SECRETS, secret)
    found = authenticator.authenticate_token(token)
    assert found is not None
    assert found[0].name == "system:serviceaccount:a:web"
    registry.put(resources.SECRETS, {**secret, "data": {"token": b64("rotated")}})
    assert authenticator.authenticate_token(token) is None


def test_refused_tokens(tmp_path: Path) -> None:
    now = [1000.0]
    signer = TokenSigner(RSA_KEY, [], ISSUER, clock=lambda: now[0])
    token, expires = signer.mint(ACCOUNT, [ISSUER], 600)
    assert expires == 1600
    assert signer.verify(token)["sub"] == "system:serviceaccount:a:web"
    now[0] = 1601
    with pytest.raises(TokenInvalid, match="expired"):
        signer.verify(token)
    now[0] = 999
    with pytest.raises(TokenInvalid, match="not valid yet"):
        signer.verify(token)
    now[0] = 1001
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["sub"] = "system:serviceaccount:kube-system:admin"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    for bad in (f"{head}.{forged}.{signature}", f"{none}.{body}.", f"{none}.{body}.{signature}", "a.b.c", "x", ".."):
        with pytest.raises(TokenInvalid):
            signer.verify(bad)
    with pytest.raises(TokenInvalid, match="signature"):
        TokenSigner(EC_KEY, [], ISSUER, clock=lambda: now[0]).verify(token)


def test_documents() -> None:
    signer = TokenSigner(RSA_KEY, [EC_KEY.public_key()], ISSUER)
    keys = signer.jwks()["keys"]
    assert [k["alg"] for k in keys] == ["RS256", "ES256"]
    assert keys[0].keys() == {"use", "kty", "kid", "alg", "n", "e"}
    assert keys[1].keys() == {"use", "kty", "kid", "alg", "crv", "x", "y"}
    document = signer.openid_configuration("https://10.0.0.1:6443/openid/v1/jwks")
    assert document["issuer"] == ISSUER
    assert document["id_token_signing_alg_values_supported"] == ["ES256", "RS256"]


def certificate(common_name: str, organizations: list[str], days: int = 1) -> bytes:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    names += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    start = datetime.datetime(2000, 1, 1) if days < 0 else datetime.datetime.utcnow() - datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
        .public_key(EC_KEY.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=2))
        .sign(EC_KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


async def test_client_certificate(tmp_path: Path) -> None:
    authenticator, _, _ = build(tmp_path)
    user = await authenticator.authenticate({}, certificate("system:admin", ["system:masters"]))
    assert user is not None
    assert (user.name, user.groups) == ("system:admin", ("system:masters", "system:authenticated"))
    assert await authenticator.authenticate({}, certificate("system:admin", ["system:masters"], -1)) is None
    assert await authenticator.authenticate({}, None) is None


async def test_passwd(tmp_path: Path) -> None:
    authenticator, _, _ = build(tmp_path)
    path = tmp_path / "passwd"
    headers = {"Authorization": "Basic " + base64.b64encode(b"node:s:3").decode()}
    assert await authenticator.authenticate(headers, None) is None
    path.write_text("s:3,node,node,k3s:agent\n")
    user = await authenticator.authenticate(headers, None)
    assert user == UserInfo("node", ("k3s:agent", "system:authenticated"), "node")
    path.write_text("other-password,node,node,k3s:agent\n")
    assert await authenticator.authenticate(headers, None) is None
    bad = {"Authorization": "Basic " + base64.b64encode(b"nobody:").decode()}
    assert await authenticator.authenticate(bad, None) is None
    assert await authenticator.authenticate({"Authorization": "Basic !!!"}, None) is None


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({}, True),
        ({"usage-bootstrap-authentication": "false"}, False),
        ({"expiration": "2001-01-01T00:00:00Z"}, False),
        ({"token-secret": "fedcba9876543210"}, False),
        ({"auth-extra-groups": "system:masters"}, False),
    ],
)
async def test_bootstrap_token(tmp_path: Path, change: dict[str, str], accepted: bool) -> None:
    authenticator, registry, _ = build(tmp_path)
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:k3s:default-node-token",
        **change,
    }
    secret = {
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {k: b64(v) for k, v in data.items()},
    }
    registry.put(resources.SECRETS, secret)
    user = await authenticator.authenticate({"Authorization": "Bearer abcdef.0123456789abcdef"}, None)
    assert (user is not None) is accepted
    if user is not None:
        assert user.name == "system:bootstrap:abcdef"
        assert "system:bootstrappers:k3s:default-node-token" in user.groups


ADMIN = UserInfo("admin", ("system:masters", "system:authenticated"))


def chain() -> ChainAuthorizer:
    return ChainAuthorizer(RuleIndex(), NodeAuthorizer(NodeGraph(), ()))


def test_impersonation() -> None:
    headers = [("impersonate-user", "bob"), ("Impersonate-Group", "devs"), ("Impersonate-Group", "ops")]
    assert impersonate(ADMIN, headers, chain()) == UserInfo("bob", ("devs", "ops", "system:authenticated"))
    user = impersonate(ADMIN, [("Impersonate-User", "system:serviceaccount:a:b")], chain())
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
    user = impersonate(ADMIN, [("Impersonate-User", "bob"), ("Impersonate-Extra-Scopes%2fx", "view")], chain())
    assert user.extra == {"scopes/x": ("view",)}
    assert impersonate(ADMIN, [("Accept", "*/*")], chain()) is ADMIN


@pytest.mark.parametrize(
    ("user", "headers", "message"),
    [
        (
            UserInfo("eve"),
            [("Impersonate-User", "bob")],
            'users "bob" is forbidden: User "eve" cannot impersonate resource "users" in API group "" at the cluster scope',
        ),
        (ADMIN, [("Impersonate-Group", "x")], "requested groups, uid or extra without impersonating a user"),
    ],
)
def test_impersonation_refused(user: UserInfo, headers: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(StatusError) as caught:
        impersonate(user, headers, chain())
    assert caught.value.message == message
