"""CertificateSigningRequests and their approval.

Source: ``pkg/registry/certificates/certificates/strategy.go``, ``pkg/apis/certificates/validation``; the admission plugins
CertificateApproval, CertificateSigning and CertificateSubjectRestriction are checks here, where the change they guard is made.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, forbidden, forbidden_field, invalid, required
from k3sd.apis import resources
from k3sd.apiserver.authz import MASTERS
from k3sd.apiserver.authz.rules import Query
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.handlers import ObjectHandler
from k3sd.apiserver.kinds.rules import Errors, clone, spec_of
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

if TYPE_CHECKING:
    from k3sd.apiserver.kinds import SubresourceHandler
    from k3sd.apiserver.registry import Registry

GROUP = "certificates.k8s.io"
API_CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
_SIGNER = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\.[a-z0-9]([-a-z0-9]*[a-z0-9])?/[A-Za-z0-9._:-]+")
_DECISIONS = ("Approved", "Denied")
USAGES = frozenset(
    (
        "signing",
        "digital signature",
        "content commitment",
        "key encipherment",
        "key agreement",
        "data encipherment",
        "cert sign",
        "crl sign",
        "encipher only",
        "decipher only",
        "any",
        "server auth",
        "client auth",
        "code signing",
        "email protection",
        "s/mime",
        "ipsec end system",
        "ipsec tunnel",
        "ipsec user",
        "timestamping",
        "ocsp signing",
        "microsoft sgc",
        "netscape sgc",
    )
)


def may_use_signer(registry: Registry, ctx: RequestContext, verb: str, signer: str) -> bool:
    """``IsAuthorizedForSignerName``: the signer itself or its whole domain."""
    authorizer = registry.authorizer
    if authorizer is None or ctx.privileged or MASTERS in ctx.user.groups:
        return True
    names = (signer, signer.partition("/")[0] + "/*")
    return any(authorizer.check(ctx.user, Query(verb, GROUP, "signers", name=name)).allowed for name in names)


@strategy(resources.CERTIFICATESIGNINGREQUESTS)
class SigningRequestStrategy(Strategy):
    name_rule = "path-segment"

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        spec = obj.setdefault("spec", {})
        user = ctx.user
        for key, value in (
            ("username", user.name),
            ("uid", user.uid),
            ("groups", list(user.groups)),
            ("extra", {k: list(v) for k, v in user.extra.items()}),
        ):
            if value:
                spec[key] = value
            else:
                spec.pop(key, None)
        obj["status"] = {}

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        organizations = _validate_request(spec.get("request", ""), errs)
        usages = spec.get("usages") or []
        if not usages:
            errs.append(required("spec.usages"))
        for i, usage in enumerate(usages):
            if usage not in USAGES:
                errs.append(invalid(f"spec.usages[{i}]", usage, "unknown usage"))
            elif usage in usages[:i]:
                errs.append(duplicate(f"spec.usages[{i}]", usage))
        signer = spec.get("signerName", "")
        if not signer:
            errs.append(required("spec.signerName"))
        elif not _SIGNER.fullmatch(signer):
            text = 'must be a fully qualified domain and path of the form "example.com/signer-name"'
            errs.append(invalid("spec.signerName", signer, text))
        seconds = spec.get("expirationSeconds")
        if seconds is not None and seconds < 600:
            text = "may not specify a duration less than 600 seconds (10 minutes)"
            errs.append(invalid("spec.expirationSeconds", seconds, text))
        if signer == API_CLIENT_SIGNER and MASTERS in organizations:
            text = f"use of {API_CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
            raise forbidden(GROUP, "certificatesigningrequests", obj["metadata"].get("name", ""), text)
        return errs

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        new["spec"] = old.get("spec") or {}
        if ctx.subresource == "approval":
            status = dict(old.get("status") or {})
            status["conditions"] = _stamp((new.get("status") or {}).get("conditions") or [], old)
            new["status"] = status

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if ctx.subresource == "approval":
            _validate_conditions(new, errs)
            kept = {c.get("type") for c in (new.get("status") or {}).get("conditions") or []}
            for condition in (old.get("status") or {}).get("conditions") or []:
                if condition.get("type") in (*_DECISIONS, "Failed") and condition["type"] not in kept:
                    text = f'updates may not remove a condition of type "{condition["type"]}"'
                    errs.append(forbidden_field("status.conditions", text))
        return errs

    def prepare_status(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        status = new.setdefault("status", {})
        if "conditions" in status:
            status["conditions"] = _stamp(status["conditions"] or [], old)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status, previous = new.get("status") or {}, old.get("status") or {}
        _validate_conditions(new, errs)
        for kind in _DECISIONS:
            before, after = _condition(previous, kind), _condition(status, kind)
            if before is not None and after is None:
                errs.append(forbidden_field("status.conditions", f'updates may not remove a condition of type "{kind}"'))
            elif before is None and after is not None:
                errs.append(forbidden_field("status.conditions", f'updates may not add a condition of type "{kind}"'))
        certificate, old_certificate = status.get("certificate"), previous.get("certificate")
        if old_certificate and certificate != old_certificate:
            errs.append(
                forbidden_field("status.certificate", "updates may not set or change a certificate that is already set")
            )
        changed = certificate != old_certificate or _condition(status, "Failed") != _condition(previous, "Failed")
        signer = spec_of(old).get("signerName", "")
        if changed and not may_use_signer(self.registry, ctx, "sign", signer):
            name = new["metadata"].get("name", "")
            text = f'user not permitted to sign requests with signerName "{signer}"'
            raise forbidden(GROUP, "certificatesigningrequests", name, text)
        return errs

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"spec.signerName": spec_of(obj).get("signerName", "")}


def _condition(status: Obj, kind: str) -> Obj | None:
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), None)


def _stamp(conditions: list[Obj], old: Obj) -> list[Obj]:
    """``populateConditionTimestamps``."""
    out = []
    for condition in conditions:
        entry = dict(condition)
        if not entry.get("lastUpdateTime"):
            entry["lastUpdateTime"] = timefmt.now()
        if not entry.get("lastTransitionTime"):
            previous = _condition(old.get("status") or {}, entry.get("type", ""))
            same = previous is not None and previous.get("status") == entry.get("status")
            kept = previous.get("lastTransitionTime") if previous is not None and same else None
            entry["lastTransitionTime"] = kept or timefmt.now()
        out.append(entry)
    return out


def _validate_conditions(obj: Obj, errs: Errors) -> None:
    seen: set[str] = set()
    conditions = (obj.get("status") or {}).get("conditions") or []
    for i, condition in enumerate(conditions):
        kind, value = condition.get("type", ""), condition.get("status", "")
        path = f"status.conditions[{i}]"
        if not kind:
            errs.append(required(f"{path}.type"))
        if kind in (*_DECISIONS, "Failed") and value != "True":
            errs.append(
                FieldError(
                    "FieldValueNotSupported", f"{path}.status", f'Unsupported value: "{value}": supported values: "True"'
                )
            )
        elif not value:
            errs.append(required(f"{path}.status"))
        if kind in seen:
            errs.append(duplicate(f"{path}.type", kind))
        seen.add(kind)
    if set(_DECISIONS) <= seen:
        errs.append(invalid("status.conditions", "Denied", "Approved and Denied conditions are mutually exclusive"))


def _validate_request(text: str, errs: Errors) -> set[str]:
    """The PEM of ``spec.request``; returns the organizations it asks for."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        pem = base64.b64decode(text, validate=True)
        if b"-----BEGIN CERTIFICATE REQUEST-----" not in pem:
            errs.append(invalid("spec.request", text, "PEM block type must be CERTIFICATE REQUEST"))
            return set()
        request = x509.load_pem_x509_csr(pem)
        if not request.is_signature_valid:
            errs.append(invalid("spec.request", text, "signature is not valid"))
        return {str(a.value) for a in request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}
    except (ValueError, binascii.Error) as error:
        errs.append(invalid("spec.request", text, str(error)))
        return set()


class ApprovalHandler(ObjectHandler):
    """``/approval``: only the conditions, labels and annotations are taken, and only from who may approve for the signer."""

    def merge(self, current: Obj, body: Obj) -> Obj:
        new: Obj = clone(current)
        for name in ("labels", "annotations"):
            new["metadata"].pop(name, None)
            if value := (body.get("metadata") or {}).get(name):
                new["metadata"][name] = dict(value)
        new["status"] = {**(new.get("status") or {}), "conditions": clone((body.get("status") or {}).get("conditions") or [])}
        return new

    async def update(self, ctx: RequestContext, namespace: str, name: str, body: Obj) -> Obj:
        signer = spec_of(self.registry.get(ctx).obj).get("signerName", "")
        if not may_use_signer(self.registry, ctx, "approve", signer):
            text = f'user not permitted to approve requests with signerName "{signer}"'
            raise forbidden(GROUP, "certificatesigningrequests", name, text)
        return await super().update(ctx, namespace, name, body)


def handlers(registry: Registry) -> list[SubresourceHandler]:
    return [ApprovalHandler(registry, resources.CERTIFICATESIGNINGREQUESTS, "approval")]
