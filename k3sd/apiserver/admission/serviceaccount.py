"""ServiceAccount: every pod has an account, its token mounted where it should be, its pull secrets.

Source: ``plugin/pkg/admission/serviceaccount``.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from k3sd.apimachinery.errors import forbidden
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry
    from k3sd.config.settings import Settings

Obj = dict[str, Any]
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
"""An hour and seven seconds: upstream's mark that the API server, not a person, asked for this token."""
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class ServiceAccount(Plugin):
    name = "ServiceAccount"
    resources = (resources.PODS,)

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._legacy_reference = "kubernetes.io/enforce-mountable-secrets"

    async def admit(self, attrs: Attributes) -> None:
        pod = attrs.obj
        assert pod is not None
        spec: Obj = pod["spec"]
        if MIRROR_ANNOTATION in (pod["metadata"].get("annotations") or {}):
            return
        if not spec.get("serviceAccountName"):
            spec["serviceAccountName"] = "default"
        spec["serviceAccount"] = spec["serviceAccountName"]
        account = self._account(attrs, spec["serviceAccountName"])
        if wants_token(spec, account):
            mount_token(spec)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(s) for s in account["imagePullSecrets"]]

    async def validate(self, attrs: Attributes) -> None:
        pod = attrs.obj
        assert pod is not None
        spec: Obj = pod["spec"]
        if MIRROR_ANNOTATION in (pod["metadata"].get("annotations") or {}):
            if spec.get("serviceAccountName"):
                raise self._refuse(attrs, "a mirror pod may not reference service accounts")
            for volume in spec.get("volumes") or ():
                for source in ("secret", "persistentVolumeClaim"):
                    if source in volume:
                        kind = "secrets" if source == "secret" else "persistent volume claims"
                        raise self._refuse(attrs, f"a mirror pod may not reference {kind}")
            return
        self._account(attrs, spec["serviceAccountName"])

    def _account(self, attrs: Attributes, name: str) -> Obj:
        namespace = attrs.ctx.namespace
        account = self._registry.read(resources.SERVICEACCOUNTS, name, namespace)
        if account is None:
            detail = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
            raise self._refuse(attrs, detail)
        return account

    @staticmethod
    def _refuse(attrs: Attributes, detail: str) -> Exception:
        meta = (attrs.obj or {}).get("metadata") or {}
        return forbidden("", "pods", meta.get("name", ""), detail)


def wants_token(spec: Obj, account: Obj) -> bool:
    """The pod's word counts before the account's; nobody's word means yes."""
    if spec.get("automountServiceAccountToken") is not None:
        return bool(spec["automountServiceAccountToken"])
    return account.get("automountServiceAccountToken") is not False


def mount_token(spec: Obj) -> None:
    """Add the projected volume and mount it in every container that has nothing at its path."""
    volumes: list[Obj] = spec.setdefault("volumes", [])
    existing = next((v["name"] for v in volumes if v.get("name", "").startswith("kube-api-access-") and "projected" in v), "")
    name = existing or "kube-api-access-" + "".join(secrets.choice(_ALPHABET) for _ in range(5))
    used = False
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        mounts: list[Obj] = container.setdefault("volumeMounts", [])
        if not any(mount.get("mountPath") == TOKEN_PATH for mount in mounts):
            mounts.append({"name": name, "readOnly": True, "mountPath": TOKEN_PATH})
            used = True
    if used and not existing:
        volumes.append({"name": name, "projected": token_projection()})
    if not volumes:
        del spec["volumes"]


def token_projection() -> Obj:
    """``TokenVolumeSource``: token, CA bundle, namespace."""
    fields = [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
    return {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": fields}},
        ],
    }
