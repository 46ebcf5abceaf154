"""Approves kubelets' CertificateSigningRequests, signs what is approved, and forgets old ones.

The rules are in ``csrrules``. Source: ``pkg/controller/certificates`` (``approver``, ``signer``, ``cleaner``).
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable

from k3sd.apimachinery import timefmt
from k3sd.apimachinery.errors import Obj, StatusError
from k3sd.apis import resources
from k3sd.client.api import DeleteOptions
from k3sd.client.retry import update_with_retry
from k3sd.controllers import csrrules as rules
from k3sd.controllers.base import Context, Controller
from k3sd.controllers.objects import find_condition, is_deleting, name_of, uid_of
from k3sd.lib.jsonvalue import clone

log = logging.getLogger(__name__)

APPROVED_SECONDS = DENIED_SECONDS = 3600.0
PENDING_SECONDS = 24 * 3600.0


def has(csr: Obj, type_: str) -> bool:
    return find_condition(csr, type_) is not None


def issued(csr: Obj) -> str:
    return str((csr.get("status") or {}).get("certificate") or "")


class CSRApprovingController(Controller):
    """A node may renew its own client certificate, a bootstrapping one may get its first, if RBAC says so."""

    name = "certificatesigningrequest-approving-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.requests = self.informer(resources.CERTIFICATESIGNINGREQUESTS, self.enqueue, self.enqueue_update)

    async def reconcile(self, key: str) -> None:
        csr = self.requests.get(key)
        if csr is None or issued(csr) or has(csr, "Approved") or has(csr, "Denied"):
            return
        if csr["spec"].get("signerName") != rules.KUBELET_CLIENT:
            return
        try:
            request = rules.read(csr)
        except ValueError as e:
            log.debug("certificate signing request %s: %s", key, e)
            return
        if rules.objection(rules.KUBELET_CLIENT, csr, request):
            return
        own = csr["spec"].get("username") == request.common_name
        checks = (
            ("selfnodeclient", own, "Auto approving self kubelet client certificate after SubjectAccessReview."),
            ("nodeclient", True, "Auto approving kubelet client certificate after SubjectAccessReview."),
        )
        for subresource, applies, message in checks:
            if applies and await self._allowed(csr, subresource):
                await self._approve(csr, message)
                return

    async def _allowed(self, csr: Obj, subresource: str) -> bool:
        spec = csr["spec"]
        attributes = {
            "group": "certificates.k8s.io",
            "resource": "certificatesigningrequests",
            "verb": "create",
            "subresource": subresource,
            "version": "*",
        }
        review: Obj = {
            "kind": "SubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {
                "user": spec.get("username", ""),
                "uid": spec.get("uid", ""),
                "groups": list(spec.get("groups") or ()),
                "extra": spec.get("extra") or {},
                "resourceAttributes": attributes,
            },
        }
        answer = await self.client.create(resources.SUBJECTACCESSREVIEWS, review)
        return bool((answer.get("status") or {}).get("allowed"))

    async def _approve(self, csr: Obj, message: str) -> None:
        now = self.ctx.now()
        condition = {
            "type": "Approved",
            "status": "True",
            "reason": "AutoApproved",
            "message": message,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        changed = clone(csr)
        changed.setdefault("status", {}).setdefault("conditions", []).append(condition)
        await self.client.update(resources.CERTIFICATESIGNINGREQUESTS, changed, subresource="approval")


class CSRSigningController(Controller):
    name = "certificatesigningrequest-signing-controller"
    workers = 1

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.requests = self.informer(resources.CERTIFICATESIGNINGREQUESTS, self.enqueue, self.enqueue_update)

    async def reconcile(self, key: str) -> None:
        csr = self.requests.get(key)
        if csr is None or issued(csr) or has(csr, "Failed") or has(csr, "Denied") or not has(csr, "Approved"):
            return
        signer = str(csr["spec"].get("signerName"))
        authority = rules.SIGNERS.get(signer)
        if authority is None:
            return
        tls = self.ctx.settings.paths.tls
        try:
            text = rules.objection(signer, csr, rules.read(csr))
        except ValueError as e:
            text = str(e)
        if text:
            await self._fail(csr, f"failed to validate request: {text}")
            return
        # RSA authorities take milliseconds to sign with.
        pem = await asyncio.to_thread(rules.sign, csr, tls / f"{authority}.crt", tls / f"{authority}.key", self.ctx.clock())
        certificate = base64.b64encode(pem).decode()
        await self._write(csr, lambda status: status.update(certificate=certificate))

    async def _fail(self, csr: Obj, message: str) -> None:
        now = self.ctx.now()
        condition = {
            "type": "Failed",
            "status": "True",
            "reason": "SignerValidationFailure",
            "message": message,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        await self._write(csr, lambda status: status.setdefault("conditions", []).append(condition))

    async def _write(self, csr: Obj, change: Callable[[Obj], object]) -> None:
        await update_with_retry(
            self.client,
            resources.CERTIFICATESIGNINGREQUESTS,
            name_of(csr),
            None,
            lambda obj: change(obj.setdefault("status", {})),
            subresource="status",
            initial=csr,
            uid=uid_of(csr),
        )


def expires_in(csr: Obj, now: float) -> float:
    """Seconds until the request may be forgotten. Pure. Source: ``cleaner.go``."""
    times = [timefmt.parse(csr["metadata"]["creationTimestamp"]) + PENDING_SECONDS]
    for type_, keep in (("Approved", APPROVED_SECONDS), ("Denied", DENIED_SECONDS), ("Failed", DENIED_SECONDS)):
        condition = find_condition(csr, type_)
        if condition is not None:
            times = [timefmt.parse(condition.get("lastUpdateTime") or csr["metadata"]["creationTimestamp"]) + keep]
            break
    if issued(csr):
        try:
            times.append(rules.expiry(base64.b64decode(issued(csr))))
        except ValueError:
            log.debug("certificate signing request %s: status.certificate is not a certificate", name_of(csr))
    return min(times) - now


class CSRCleaner(Controller):
    name = "certificatesigningrequest-cleaner-controller"
    workers = 1

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.requests = self.informer(resources.CERTIFICATESIGNINGREQUESTS, self.enqueue, self.enqueue_update)

    async def reconcile(self, key: str) -> float | None:
        csr = self.requests.get(key)
        if csr is None or is_deleting(csr):
            return None
        left = expires_in(csr, self.ctx.clock())
        if left > 0:
            return left
        try:
            await self.client.delete(resources.CERTIFICATESIGNINGREQUESTS, key, None, DeleteOptions(uid=uid_of(csr)))
        except StatusError as e:
            if e.code != 404:
                raise
        return None
