"""Credentials of every kind, good and bad."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from k3sd.apimachinery.errors import StatusError
from k3sd.apis import resources
from k3sd.apiserver.authn import Authenticator
from k3sd.apiserver.authn.bootstraptoken import BootstrapTokens
from k3sd.apiserver.authn.impersonation import impersonate
from k3sd.apiserver.authn.passwords import PasswordFile
from k3sd.apiserver.authn.serviceaccount import ServiceAccountTokens
from k3sd.apiserver.authn.tokens import TokenIssuer, load_keys
from k3sd.apiserver.request import Decision, RequestContext, UserInfo
from k3sd.pki.authority import new_ec_key_pem, new_rsa_key_pem

Obj = dict[str, Any]
ISSUER = "https://kubernetes.default.svc.cluster.local"
ACCOUNT: Obj = {"metadata": {"namespace": "ns", "name": "robot", "uid": "u1"}}
POD: Obj = {"metadata": {"namespace": "ns", "name": "web", "uid": "p1"}}
NODE: Obj = {"metadata": {"name": "box", "uid": "n1"}}


@dataclass
class FakeRegistry:
    objects: dict[tuple[Any, str, str], Obj] = field(default_factory=dict)

    def read(self, resource: Any, name: str, namespace: str = "") -> Obj | None:
        return self.objects.get((resource, name, namespace))


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry({(resources.SERVICEACCOUNTS, "robot", "ns"): ACCOUNT, (resources.PODS, "web", "ns"): POD})


@pytest.fixture(scope="module")
def issuer() -> TokenIssuer:
    return TokenIssuer(ISSUER, load_keys(new_rsa_key_pem() + new_ec_key_pem()), (ISSUER, "k3s"))


@pytest.fixture
def chain(issuer: TokenIssuer, registry: FakeRegistry, tmp_path: Path) -> Authenticator:
    (tmp_path / "passwd").write_text('secret,server,server,k3s:server\nother,node,node,"k3s:agent,x"\n')
    tokens = ServiceAccountTokens(issuer, (ISSUER, "k3s"), registry)  # type: ignore[arg-type]
    return Authenticator(PasswordFile(tmp_path / "passwd"), tokens, BootstrapTokens(registry))  # type: ignore[arg-type]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_pod_token_names_pod_and_node(chain: Authenticator, issuer: TokenIssuer) -> None:
    token = issuer.sign(issuer.claims(ACCOUNT, ("k3s",), 600, pod=POD, node=NODE))
    user = await chain.authenticate(bearer(token))
    assert user is not None
    assert user.name == "system:serviceaccount:ns:robot"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated")
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("web",)
    assert user.extra["authentication.kubernetes.io/node-uid"] == ("n1",)
    assert user.extra["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")


@pytest.mark.parametrize(
    "gone", [(resources.PODS, "web", "ns"), (resources.SERVICEACCOUNTS, "robot", "ns")], ids=["pod", "account"]
)
async def test_token_ends_with_what_it_is_bound_to(
    chain: Authenticator, issuer: TokenIssuer, registry: FakeRegistry, gone: tuple[Any, str, str]
) -> None:
    token = issuer.sign(issuer.claims(ACCOUNT, ("k3s",), 600, pod=POD))
    assert await chain.authenticate(bearer(token)) is not None
    del registry.objects[gone]
    with pytest.raises(StatusError) as error:
        await chain.authenticate(bearer(token))
    assert error.value.code == 401


@pytest.mark.parametrize(
    "claims",
    [{"aud": ["vault"]}, {"exp": int(time.time()) - 60}, {"nbf": int(time.time()) + 600}, {"iss": "https://elsewhere"}],
    ids=["audience", "expired", "not-yet", "issuer"],
)
async def test_wrong_claims_are_refused(chain: Authenticator, issuer: TokenIssuer, claims: Obj) -> None:
    token = issuer.sign(issuer.claims(ACCOUNT, ("k3s",), 600) | claims)
    with pytest.raises(StatusError, match="Unauthorized"):
        await chain.authenticate(bearer(token))


async def test_foreign_key_is_refused(chain: Authenticator) -> None:
    other = TokenIssuer(ISSUER, load_keys(new_rsa_key_pem()), ("k3s",))
    with pytest.raises(StatusError, match="Unauthorized"):
        await chain.authenticate(bearer(other.sign(other.claims(ACCOUNT, ("k3s",), 600))))


def test_any_of_the_keys_verifies_and_is_published(issuer: TokenIssuer) -> None:
    ec = TokenIssuer(ISSUER, [key for key in issuer._keys.values() if key.algorithm == "ES256"], ("k3s",))
    assert issuer.verify(ec.sign(ec.claims(ACCOUNT, ("k3s",), 60))) is not None
    assert [k["kty"] for k in __import__("json").loads(issuer.jwks())["keys"]] == ["RSA", "EC"]


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


async def test_passwords(chain: Authenticator, tmp_path: Path) -> None:
    user = await chain.authenticate(basic("node:other"))
    assert user is not None
    assert user.groups == ("k3s:agent", "x", "system:authenticated")
    for wrong in ("node:secret", "nobody:x", "node:"):
        with pytest.raises(StatusError, match="Unauthorized"):
            await chain.authenticate(basic(wrong))
    (tmp_path / "passwd").write_text("new,node,node,k3s:agent\n")
    assert await chain.authenticate(basic("node:new")) is not None


@pytest.mark.parametrize("header", ["Bearer x", "Digest abc", "Basic !!!", "Bearer abcdef.0123456789abcdef"])
async def test_bad_credentials_are_not_anonymous(chain: Authenticator, header: str) -> None:
    with pytest.raises(StatusError, match="Unauthorized"):
        await chain.authenticate({"Authorization": header})


async def test_no_credentials(chain: Authenticator) -> None:
    assert await chain.authenticate({}) is None


class Allow:
    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def authorize(self, ctx: RequestContext) -> Decision:
        assert ctx.resource is not None
        return Decision(f"{ctx.resource.plural}/{ctx.name}" in self.allowed)


def test_impersonation_checks_every_part() -> None:
    me = UserInfo("me")
    headers = [("Impersonate-User", "bob"), ("Impersonate-Group", "dev"), ("Impersonate-Extra-scopes", "a")]
    with pytest.raises(StatusError, match='cannot impersonate resource "groups" in API group "" at the cluster scope'):
        impersonate(me, headers, Allow("users/bob"))
    user = impersonate(me, headers, Allow("users/bob", "groups/dev", "userextras/a"))
    assert user == UserInfo("bob", ("dev", "system:authenticated"), "", {"scopes": ("a",)})
    assert impersonate(me, [("Accept", "x")], Allow()) is me
    with pytest.raises(StatusError, match="without impersonating a user"):
        impersonate(me, [("Impersonate-Group", "dev")], Allow())
