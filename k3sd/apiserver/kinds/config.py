"""ConfigMaps, Secrets, ServiceAccounts. Source: ``ValidateConfigMap``, ``ValidateSecret``, ``pkg/registry/core/secret``."""

from __future__ import annotations

import base64
import binascii
import json

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.rules import Errors, validate_immutable
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

MAX_DATA_BYTES = 1 << 20
_IMMUTABLE_SET = "field is immutable when `immutable` is set"


def _validate_keys(data: Obj, field: str, errs: Errors) -> None:
    for key in data:
        for text in names.config_map_key(key):
            errs.append(invalid(f"{field}[{key}]", key, text))


def _too_long(field: str) -> FieldError:
    return FieldError("FieldValueTooLong", field, f"Too long: may not be more than {MAX_DATA_BYTES} bytes")


@strategy(resources.CONFIGMAPS)
class ConfigMapStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        for key in data:
            problems = names.config_map_key(key)
            errs += [invalid(f"data[{key}]", key, text) for text in problems]
            if key in binary:
                errs.append(invalid(f"data[{key}]", key, f'duplicate of key present in binaryData for key "{key}"'))
        _validate_keys(binary, "binaryData", errs)
        size = sum(len(v) if v.isascii() else len(v.encode()) for v in data.values())
        size += sum(len(v) * 3 // 4 for v in binary.values())
        if size > MAX_DATA_BYTES:
            errs.append(_too_long(""))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if old.get("immutable"):
            if not new.get("immutable"):
                errs.append(forbidden_field("immutable", _IMMUTABLE_SET))
            for key in ("data", "binaryData"):
                if (new.get(key) or {}) != (old.get(key) or {}):
                    errs.append(forbidden_field(key, _IMMUTABLE_SET))
        return errs + self.validate_create(ctx, new)


_REQUIRED_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_JSON_TYPES = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")


@strategy(resources.SECRETS)
class SecretStrategy(Strategy):
    has_status = False

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        _fold_string_data(obj)

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        _fold_string_data(new)
        if not new.get("type"):
            new["type"] = old.get("type", "Opaque")

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        data = obj.get("data") or {}
        _validate_keys(data, "data", errs)
        if sum(len(v) * 3 // 4 for v in data.values()) > MAX_DATA_BYTES:
            errs.append(_too_long("data"))
        kind = obj.get("type", "")
        if kind == "kubernetes.io/service-account-token":
            account = (obj["metadata"].get("annotations") or {}).get("kubernetes.io/service-account.name")
            if not account:
                errs.append(required("metadata.annotations[kubernetes.io/service-account.name]"))
        elif kind == "kubernetes.io/basic-auth" and "username" not in data and "password" not in data:
            errs.append(required("data[username]"))
            errs.append(required("data[password]"))
        for key in _REQUIRED_KEYS.get(kind, ()):
            if key not in data:
                errs.append(required(f"data[{key}]"))
            elif kind in _JSON_TYPES and not _is_json(data[key]):
                errs.append(invalid(f"data[{key}]", "<secret contents redacted>", "invalid character in JSON"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(new.get("type"), old.get("type"), "type", errs)
        if old.get("immutable"):
            if not new.get("immutable"):
                errs.append(forbidden_field("immutable", _IMMUTABLE_SET))
            if (new.get("data") or {}) != (old.get("data") or {}):
                errs.append(forbidden_field("data", _IMMUTABLE_SET))
        return errs + self.validate_create(ctx, new)

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        return {"type": obj.get("type", "")}


def _fold_string_data(secret: Obj) -> None:
    """``stringData`` is write-only: it wins over ``data`` and vanishes."""
    strings = secret.pop("stringData", None)
    if strings:
        data = secret["data"] = dict(secret.get("data") or {})
        for key, value in strings.items():
            data[key] = base64.b64encode(value.encode()).decode()


def _is_json(value: str) -> bool:
    try:
        json.loads(base64.b64decode(value))
    except (ValueError, binascii.Error):
        return False
    return True


@strategy(resources.SERVICEACCOUNTS)
class ServiceAccountStrategy(Strategy):
    """``serviceaccount`` strategy: references to Secrets need no validation upstream either."""

    has_status = False

    def warnings(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> list[str]:
        annotations = obj["metadata"].get("annotations") or {}
        if "kubernetes.io/enforce-mountable-secrets" in annotations and old is None:
            return [
                "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate "
                "namespaces to isolate access to mounted secrets"
            ]
        return []
