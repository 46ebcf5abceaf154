from __future__ import annotations

import base64
import datetime
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from k3sd.apimachinery.errors import Obj
from k3sd.apis import resources
from k3sd.config.settings import Settings
from k3sd.controllers import csrrules as rules
from k3sd.controllers.csr import CSRApprovingController, CSRCleaner, CSRSigningController
from k3sd.controllers.objects import find_condition
from tests.fakes.clock import EPOCH
from tests.fakes.harness import Harness


def name(common: str, organization: str = "") -> x509.Name:
    out = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        out.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(out)


def csr(common: str = "system:node:n1", organization: str = rules.NODES, sans: tuple[str, ...] = (), **spec: Any) -> Obj:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(common, organization))
    if sans:
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(s)) if s[0].isdigit() else x509.DNSName(s) for s in sans
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    base = {
        "request": base64.b64encode(pem).decode(),
        "signerName": rules.KUBELET_CLIENT,
        "usages": ["digital signature", "key encipherment", "client auth"],
        "username": "system:node:n1",
        "groups": [rules.NODES],
    }
    return {"metadata": {"name": "c"}, "spec": {**base, **spec}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    out = Settings(data_dir=str(tmp_path))
    out.paths.tls.mkdir(parents=True)
    for ca in ("client-ca", "server-ca"):
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC).replace(tzinfo=None)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(ca))
            .issuer_name(name(ca))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=3650))
            .sign(key, hashes.SHA256())
        )
        (out.paths.tls / f"{ca}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (out.paths.tls / f"{ca}.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return out


async def test_a_node_renews_its_certificate_and_the_request_is_forgotten(settings: Settings):
    async with Harness(CSRApprovingController, CSRCleaner, settings=settings) as h:
        original = h.client.create

        async def create(resource, obj, *args, **kwargs):
            if resource is resources.SUBJECTACCESSREVIEWS:
                allowed = obj["spec"]["resourceAttributes"]["subresource"] == "selfnodeclient"
                return {**obj, "status": {"allowed": allowed}}
            return await original(resource, obj, *args, **kwargs)

        h.client.create = create  # type: ignore[method-assign]
        update = h.client.update

        async def approval(resource, obj, *, subresource="", **kwargs):
            return await update(resource, obj, subresource="status" if subresource == "approval" else subresource, **kwargs)

        h.client.update = approval  # type: ignore[method-assign]
        await h.create(resources.CERTIFICATESIGNINGREQUESTS, csr())
        await h.settle()
        condition = find_condition(h.only(resources.CERTIFICATESIGNINGREQUESTS), "Approved")
        assert condition is not None and condition["reason"] == "AutoApproved"
        await h.settle(3500)
        assert len(h.all(resources.CERTIFICATESIGNINGREQUESTS)) == 1
        await h.settle(200)
        assert h.all(resources.CERTIFICATESIGNINGREQUESTS) == []


def test_signed_as_asked(settings: Settings):
    tls = settings.paths.tls
    request = csr(sans=("node-1", "10.0.0.7"), usages=["digital signature", "server auth"], expirationSeconds=3600)
    pem = rules.sign(request, tls / "server-ca.crt", tls / "server-ca.key", EPOCH)
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject == name("system:node:n1", rules.NODES)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1"]
    assert rules.expiry(pem) == EPOCH + 3600
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and not usage.key_encipherment
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


async def test_an_approved_request_that_breaks_the_rules_fails(settings: Settings):
    async with Harness(CSRSigningController, settings=settings) as h:
        made = await h.create(resources.CERTIFICATESIGNINGREQUESTS, csr(organization="system:masters"))
        await h.status(resources.CERTIFICATESIGNINGREQUESTS, made, conditions=[{"type": "Approved", "status": "True"}])
        await h.settle()
        condition = find_condition(h.only(resources.CERTIFICATESIGNINGREQUESTS), "Failed")
        assert condition is not None and "subject organization is not system:nodes" in condition["message"]


@pytest.mark.parametrize(
    ("signer", "request_", "message"),
    [
        (rules.KUBELET_CLIENT, csr(), ""),
        (rules.KUBELET_CLIENT, csr(sans=("x",)), "subjectAltNames are not allowed"),
        (rules.KUBELET_CLIENT, csr("admin"), "subject common name"),
        (rules.KUBELET_SERVING, csr(usages=["digital signature", "server auth"]), "DNS or IP subjectAltName is required"),
        (rules.KUBELET_SERVING, csr(sans=("10.0.0.1",), usages=["digital signature", "server auth"]), ""),
        (rules.CLIENT, csr("bob", "dev"), ""),
        (rules.CLIENT, csr("bob", "dev", usages=["server auth"]), "must contain client auth"),
    ],
)
def test_objections(signer: str, request_: Obj, message: str):
    found = rules.objection(signer, request_, rules.read(request_))
    assert (message in found) if message else found == ""
