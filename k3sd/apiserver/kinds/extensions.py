"""CustomResourceDefinitions and APIServices: their own objects, not what they serve.

Source: ``apiextensions-apiserver/pkg/apis/apiextensions/validation``, ``kube-aggregator/pkg/apis/apiregistration/validation``.
"""

from __future__ import annotations

import re

from k3sd.apimachinery import customrules
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.customresources import CLEANUP_FINALIZER, accepted
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.admissionregistration import validate_client_config
from k3sd.apiserver.kinds.rules import Errors, spec_of, validate_enum, validate_immutable, validate_names, validate_port
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

PROTECTED_ANNOTATION = "api-approved.kubernetes.io"
_PROTECTED = re.compile(r"(.*\.)?(k8s\.io|kubernetes\.io)")


@strategy(resources.CUSTOMRESOURCEDEFINITIONS)
class DefinitionStrategy(Strategy):
    """``status.storedVersions`` starts with, and keeps, every version that ever was the storage version."""

    has_generation = True

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        stored = [v.get("name", "") for v in spec_of(obj).get("versions") or [] if v.get("storage")]
        obj["status"] = {**accepted(obj), "storedVersions": stored[:1]}
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if CLEANUP_FINALIZER not in finalizers:
            finalizers.append(CLEANUP_FINALIZER)

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_definition(obj, errs)
        group = spec_of(obj).get("group", "")
        if _PROTECTED.fullmatch(group):
            approval = (obj["metadata"].get("annotations") or {}).get(PROTECTED_ANNOTATION, "")
            path = "metadata.annotations[api-approved.kubernetes.io]"
            see = "see https://github.com/kubernetes/enhancements/pull/1111"
            text = 'protected groups must have approval annotation "api-approved.kubernetes.io"'
            if not approval:
                errs.append(required(path, f"{text}, {see}"))
            elif not approval.startswith(("http://", "https://", "unapproved")):
                text += ' with either a URL or a reason starting with "unapproved"'
                errs.append(invalid(path, approval, f"{text}, {see}"))
        return errs

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        stored = [v.get("name", "") for v in spec_of(new).get("versions") or [] if v.get("storage")]
        known = list((new.get("status") or {}).get("storedVersions") or [])
        if stored and stored[0] not in known:
            new["status"] = {**(new.get("status") or {}), "storedVersions": [*known, stored[0]]}
        if spec_of(new).get("names") != spec_of(old).get("names"):
            new["status"] = {**(new.get("status") or {}), "acceptedNames": dict(spec_of(new).get("names") or {})}

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if spec_of(new) == spec_of(old):
            return errs
        validate_definition(new, errs)
        spec, old_spec = spec_of(new), spec_of(old)
        validate_immutable(spec.get("group"), old_spec.get("group"), "spec.group", errs)
        established = any(
            c.get("type") == "Established" and c.get("status") == "True"
            for c in (old.get("status") or {}).get("conditions") or []
        )
        if established:
            validate_immutable(spec.get("scope"), old_spec.get("scope"), "spec.scope", errs)
            kind, old_kind = (s.get("names", {}).get("kind") for s in (spec, old_spec))
            validate_immutable(kind, old_kind, "spec.names.kind", errs)
        plural, old_plural = (s.get("names", {}).get("plural") for s in (spec, old_spec))
        validate_immutable(plural, old_plural, "spec.names.plural", errs)
        served = {v.get("name") for v in spec.get("versions") or []}
        for i, version in enumerate((new.get("status") or {}).get("storedVersions") or []):
            if version not in served:
                text = (
                    f"missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions "
                    f"until a storage migration ensures no data remains persisted in {version} and removes {version} from "
                    "status.storedVersions"
                )
                errs.append(invalid(f"status.storedVersions[{i}]", version, text))
        return errs

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        stored = (new.get("status") or {}).get("storedVersions") or []
        current = [v.get("name") for v in spec_of(old).get("versions") or [] if v.get("storage")]
        if not stored:
            errs.append(invalid("status.storedVersions", stored, "must have at least one stored version"))
        elif current and current[0] not in stored:
            errs.append(invalid("status.storedVersions", stored, f"must have the storage version {current[0]}"))
        return errs


def validate_definition(obj: Obj, errs: Errors) -> None:
    """``ValidateCustomResourceDefinition``, without what only the schema compiler can say."""
    spec = spec_of(obj)
    group, kind_names = spec.get("group", ""), spec.get("names") or {}
    name, plural = obj["metadata"].get("name", ""), kind_names.get("plural", "")
    if name and name != f"{plural}.{group}":
        errs.append(invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if not group:
        errs.append(required("spec.group"))
    else:
        validate_names(names.dns1123_subdomain, group, "spec.group", errs)
        if "." not in group:
            errs.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    validate_enum(spec.get("scope"), ("Cluster", "Namespaced"), "spec.scope", errs)
    _validate_kind_names(kind_names, errs)
    versions = spec.get("versions") or []
    if not versions:
        errs.append(required("spec.versions", "must have at least one version"))
    storage = [v for v in versions if v.get("storage")]
    if versions and len(storage) != 1:
        errs.append(
            invalid(
                "spec.versions",
                [v.get("name", "") for v in versions],
                "must have exactly one version marked as storage version",
            )
        )
    listed = [v.get("name", "") for v in versions]
    if len(set(listed)) != len(listed):
        errs.append(invalid("spec.versions", listed, "must contain unique version names"))
    for i, version in enumerate(versions):
        _validate_version(version, f"spec.versions[{i}]", errs)
    conversion = spec.get("conversion") or {"strategy": "None"}
    kind = conversion.get("strategy", "")
    if kind not in ("None", "Webhook"):
        errs.append(
            not_supported("spec.conversion.strategy", kind, ["None", "Webhook"])
            if kind
            else required("spec.conversion.strategy")
        )
    webhook = conversion.get("webhook")
    if kind == "None" and webhook is not None:
        errs.append(forbidden_field("spec.conversion.webhook", "should not be set when strategy is not set to Webhook"))
    elif kind == "Webhook":
        config = (webhook or {}).get("clientConfig")
        if config is None:
            errs.append(required("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook"))
        else:
            validate_client_config(config, "spec.conversion.webhook.clientConfig", errs)
        reviews = (webhook or {}).get("conversionReviewVersions") or []
        if not reviews:
            errs.append(required("spec.conversion.webhook.conversionReviewVersions"))
        elif not {"v1", "v1beta1"} & set(reviews):
            errs.append(
                invalid("spec.conversion.webhook.conversionReviewVersions", reviews, "must include at least one of v1, v1beta1")
            )
    if spec.get("preserveUnknownFields"):
        errs.append(
            invalid(
                "spec.preserveUnknownFields",
                True,
                "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            )
        )


def _validate_kind_names(kind_names: Obj, errs: Errors) -> None:
    for key in ("plural", "singular", "kind", "listKind"):
        value = kind_names.get(key, "")
        if not value:
            if key in ("plural", "kind"):
                errs.append(required(f"spec.names.{key}"))
            continue
        for text in names.dns1035_label(value.lower() if key in ("kind", "listKind") else value):
            may_have = "may have mixed case, but should otherwise match: " if key in ("kind", "listKind") else ""
            errs.append(invalid(f"spec.names.{key}", value, may_have + text))
    if kind_names.get("kind") and kind_names.get("kind") == kind_names.get("listKind"):
        errs.append(invalid("spec.names.listKind", kind_names["listKind"], "kind and listKind may not be the same"))
    for key in ("shortNames", "categories"):
        for i, value in enumerate(kind_names.get(key) or []):
            validate_names(names.dns1035_label, value, f"spec.names.{key}[{i}]", errs)


def _validate_version(version: Obj, path: str, errs: Errors) -> None:
    validate_names(names.dns1035_label, version.get("name", ""), f"{path}.name", errs)
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if schema is None:
        errs.append(required(f"{path}.schema.openAPIV3Schema", "schemas are required"))
    elif not schema.get("type") and not schema.get("x-kubernetes-preserve-unknown-fields"):
        errs.append(required(f"{path}.schema.openAPIV3Schema.type", "must not be empty at the root"))
    elif schema.get("type", "object") != "object":
        errs.append(invalid(f"{path}.schema.openAPIV3Schema.type", schema["type"], "must be object at the root"))
    else:
        errs += customrules.problems_of(schema, f"{path}.schema.openAPIV3Schema")
    if version.get("deprecationWarning") is not None and not version.get("deprecated"):
        errs.append(
            invalid(f"{path}.deprecationWarning", version["deprecationWarning"], "can only be set for deprecated versions")
        )
    subresources = version.get("subresources") or {}
    scale = subresources.get("scale")
    if scale is not None:
        for key, root in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
            value = scale.get(key, "")
            if not value:
                errs.append(required(f"{path}.subresources.scale.{key}"))
            elif not value.startswith(root):
                errs.append(invalid(f"{path}.subresources.scale.{key}", value, f"should be a json path under {root[:-1]}"))
    for i, column in enumerate(version.get("additionalPrinterColumns") or []):
        where = f"{path}.additionalPrinterColumns[{i}]"
        for key in ("name", "type", "jsonPath"):
            if not column.get(key):
                errs.append(required(f"{where}.{key}"))
        if column.get("type") and column["type"] not in ("boolean", "date", "integer", "number", "string"):
            errs.append(invalid(f"{where}.type", column["type"], "must be one of boolean,date,integer,number,string"))


@strategy(resources.APISERVICES)
class APIServiceStrategy(Strategy):
    name_rule = "path-segment"

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        group, version, name = spec.get("group", ""), spec.get("version", ""), obj["metadata"].get("name", "")
        if name != f"{version}.{group}":
            errs.append(invalid("metadata.name", name, f'must be `spec.version+"."+spec.group`: "{version}.{group}"'))
        if group:
            validate_names(names.dns1123_subdomain, group, "spec.group", errs)
        validate_names(names.dns1035_label, version, "spec.version", errs)
        for key, high in (("groupPriorityMinimum", 20000), ("versionPriority", 1000)):
            value = spec.get(key) or 0
            if not 0 < value <= high:
                errs.append(invalid(f"spec.{key}", value, f"must be positive and less than {high}"))
        service = spec.get("service")
        if service is None:
            if spec.get("caBundle"):
                errs.append(
                    invalid("spec.caBundle", f"{len(spec['caBundle'])} bytes", "local APIServices may not have a caBundle")
                )
            if spec.get("insecureSkipTLSVerify"):
                errs.append(invalid("spec.insecureSkipTLSVerify", True, "local APIServices may not have insecureSkipTLSVerify"))
            return errs
        for key in ("namespace", "name"):
            if not service.get(key):
                errs.append(required(f"spec.service.{key}"))
        validate_port(service.get("port", 443), "spec.service.port", errs)
        if spec.get("insecureSkipTLSVerify") and spec.get("caBundle"):
            errs.append(invalid("spec.insecureSkipTLSVerify", True, "may not be true if caBundle is present"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        for i, condition in enumerate((new.get("status") or {}).get("conditions") or []):
            validate_enum(condition.get("status"), ("True", "False", "Unknown"), f"status.conditions[{i}].status", errs)
        return errs
