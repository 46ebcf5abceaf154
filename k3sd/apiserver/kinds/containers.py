"""Containers of a pod: ports, environment, probes, mounts, resources. Source: ``pkg/apis/core/validation``."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import Obj, duplicate, field_not_found, forbidden_field, invalid, not_supported, required
from k3sd.apiserver.kinds.rules import (
    Errors,
    is_extended_resource,
    validate_container_resource_name,
    validate_enum,
    validate_names,
    validate_non_negative,
    validate_port,
    validate_port_or_name,
    validate_quantity,
)

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
PROTOCOLS = ("TCP", "UDP", "SCTP")
MOUNT_PROPAGATION = ("None", "HostToContainer", "Bidirectional")
FIELD_PATHS = frozenset(
    [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ]
)
VOLUME_FIELD_PATHS = frozenset(
    ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"]
)
RESOURCE_FIELDS = frozenset(
    ["limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage"]
)
VOLUME_RESOURCE_FIELDS = RESOURCE_FIELDS
_DIVISORS = {
    "cpu": ("1m", "1"),
    "memory": ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"),
}
_SUBSCRIPT = re.compile(r"(metadata\.(?:annotations|labels))\['(.*)'\]")
_HEADER_NAME = re.compile(r"[-A-Za-z0-9]+")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
EPHEMERAL_FORBIDDEN = {
    "lifecycle": "Lifecycle",
    "livenessProbe": "LivenessProbe",
    "readinessProbe": "ReadinessProbe",
    "startupProbe": "StartupProbe",
    "ports": "Ports",
    "resources": "Resources",
    "resizePolicy": "ResizePolicy",
}


def validate_container(
    container: Obj,
    field: str,
    volumes: Mapping[str, Obj],
    claims: Collection[str],
    grace: int | None,
    errs: Errors,
    *,
    kind: str,
) -> None:
    """One container. ``kind``: container, init or ephemeral; ``claims`` are the names in spec.resourceClaims."""
    name = container.get("name", "")
    if not name:
        errs.append(required(f"{field}.name"))
    else:
        validate_names(names.dns1123_label, name, f"{field}.name", errs)
    image = container.get("image", "")
    if not image:
        errs.append(required(f"{field}.image"))
    elif image != image.strip():
        errs.append(invalid(f"{field}.image", image, "must not have leading or trailing whitespace"))
    validate_enum(container.get("imagePullPolicy"), PULL_POLICIES, f"{field}.imagePullPolicy", errs)
    validate_enum(
        container.get("terminationMessagePolicy"),
        ("File", "FallbackToLogsOnError"),
        f"{field}.terminationMessagePolicy",
        errs,
        optional=True,
    )
    if ports := container.get("ports"):
        _validate_ports(ports, f"{field}.ports", errs)
    if env := container.get("env"):
        _validate_env(env, f"{field}.env", errs)
    if sources := container.get("envFrom"):
        _validate_env_from(sources, f"{field}.envFrom", errs)
    _validate_mounts(container, field, volumes, errs)
    if resources := container.get("resources"):
        validate_resources(resources, f"{field}.resources", claims, errs)
    if policies := container.get("resizePolicy"):
        _validate_resize_policy(policies, f"{field}.resizePolicy", container.get("restartPolicy", ""), errs)
    if context := container.get("securityContext"):
        validate_security_context(context, f"{field}.securityContext", errs)
    if kind == "ephemeral":
        _validate_ephemeral_rules(container, field, errs)
        return
    restart = container.get("restartPolicy")
    sidecar = kind == "init" and restart == "Always"
    if restart and restart not in ("Always", "OnFailure", "Never"):
        errs.append(not_supported(f"{field}.restartPolicy", restart, ["Always", "Never", "OnFailure"]))
    _validate_restart_rules(container, field, errs)
    if kind == "init" and not sidecar:
        for probe in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(probe):
                errs.append(
                    forbidden_field(f"{field}.{probe}", "may not be set for init containers without restartPolicy=Always")
                )
        return
    if lifecycle := container.get("lifecycle"):
        for hook in ("postStart", "preStop"):
            if hook in lifecycle:
                _validate_handler(lifecycle[hook], f"{field}.lifecycle.{hook}", errs, grace=grace, lifecycle=True)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            _validate_probe(container[probe], f"{field}.{probe}", errs, kind=probe)


def _validate_restart_rules(container: Obj, field: str, errs: Errors) -> None:
    rules = container.get("restartPolicyRules") or []
    if rules and not container.get("restartPolicy"):
        errs.append(required(f"{field}.restartPolicy", "must specify restartPolicy when restart rules are used"))
    if len(rules) > 20:
        errs.append(invalid(f"{field}.restartPolicyRules", len(rules), "must have at most 20 rules"))
    for i, rule in enumerate(rules):
        path = f"{field}.restartPolicyRules[{i}]"
        validate_enum(rule.get("action"), ("Restart", "RestartAllContainers"), f"{path}.action", errs)
        codes = rule.get("exitCodes")
        if codes is None:
            errs.append(required(f"{path}.exitCodes", "must be specified"))
            continue
        validate_enum(codes.get("operator"), ("In", "NotIn"), f"{path}.exitCodes.operator", errs)
        if len(codes.get("values") or []) > 255:
            errs.append(invalid(f"{path}.exitCodes.values", len(codes["values"]), "must have at most 255 values"))


def _validate_ephemeral_rules(container: Obj, field: str, errs: Errors) -> None:
    for key in EPHEMERAL_FORBIDDEN:
        if container.get(key):
            errs.append(forbidden_field(f"{field}.{key}", "cannot be set for an Ephemeral Container"))
    if container.get("restartPolicy"):
        errs.append(forbidden_field(f"{field}.restartPolicy", "may not be set for non-init containers"))
    for i, mount in enumerate(container.get("volumeMounts") or []):
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                errs.append(forbidden_field(f"{field}.volumeMounts[{i}].{key}", "cannot be set for an Ephemeral Container"))


def _validate_ports(ports: list[Obj], field: str, errs: Errors) -> None:
    seen: set[str] = set()
    for i, port in enumerate(ports):
        path = f"{field}[{i}]"
        if name := port.get("name"):
            validate_names(names.port_name, name, f"{path}.name", errs)
            if name in seen:
                errs.append(duplicate(f"{path}.name", name))
            seen.add(name)
        number = port.get("containerPort", 0)
        if not number:
            errs.append(required(f"{path}.containerPort"))
        else:
            validate_port(number, f"{path}.containerPort", errs)
        if port.get("hostPort"):
            validate_port(port["hostPort"], f"{path}.hostPort", errs)
        validate_enum(port.get("protocol"), PROTOCOLS, f"{path}.protocol", errs)


def _validate_env(env: list[Obj], field: str, errs: Errors) -> None:
    for i, var in enumerate(env):
        path = f"{field}[{i}]"
        name = var.get("name", "")
        if not name:
            errs.append(required(f"{path}.name"))
        else:
            validate_names(names.relaxed_env_var_name, name, f"{path}.name", errs)
        if source := var.get("valueFrom"):
            _validate_env_source(var, source, f"{path}.valueFrom", errs)
        elif "valueFrom" in var:
            errs.append(
                invalid(
                    f"{path}.valueFrom",
                    "",
                    "must specify one of: `configMapKeyRef`, `fieldRef`, `fileKeyRef`, `resourceFieldRef` or `secretKeyRef`",
                )
            )


def _validate_env_source(var: Obj, source: Obj, field: str, errs: Errors) -> None:
    if len(source) > 1:
        errs.append(invalid(field, "", "may not have more than one field specified at a time"))
    elif var.get("value"):
        errs.append(invalid(field, "", "may not be specified when `value` is not empty"))
    if ref := source.get("fieldRef"):
        validate_field_ref(ref, FIELD_PATHS, f"{field}.fieldRef", errs)
    if ref := source.get("resourceFieldRef"):
        validate_resource_field_ref(ref, RESOURCE_FIELDS, f"{field}.resourceFieldRef", errs, volume=False)
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if kind in source:
            ref = source[kind]
            path = f"{field}.{kind}"
            validate_names(names.dns1123_subdomain, ref.get("name", ""), f"{path}.name", errs)
            if not ref.get("key"):
                errs.append(required(f"{path}.key"))
            else:
                validate_names(names.config_map_key, ref["key"], f"{path}.key", errs)


def validate_field_ref(ref: Obj, allowed: Collection[str], field: str, errs: Errors) -> None:
    """``validateObjectFieldSelector``; a subscript such as ``metadata.labels['a']`` is allowed in both uses."""
    if not ref.get("apiVersion"):
        errs.append(required(f"{field}.apiVersion"))
        return
    path = ref.get("fieldPath", "")
    if not path:
        errs.append(required(f"{field}.fieldPath"))
        return
    if ref["apiVersion"] != "v1":
        errs.append(
            invalid(f"{field}.fieldPath", path, f"error converting fieldPath: unsupported pod version: {ref['apiVersion']}")
        )
        return
    if match := _SUBSCRIPT.fullmatch(path):
        rule = names.qualified_name
        key = match[2].lower() if match[1].endswith("annotations") else match[2]
        validate_names(rule, key, field, errs)
        return
    if path not in FIELD_PATHS | VOLUME_FIELD_PATHS:
        errs.append(invalid(f"{field}.fieldPath", path, f"error converting fieldPath: field label not supported: {path}"))
    elif path not in allowed:
        errs.append(not_supported(f"{field}.fieldPath", path, sorted(allowed)))


def validate_resource_field_ref(ref: Obj, allowed: Collection[str], field: str, errs: Errors, *, volume: bool) -> None:
    """``validateContainerResourceFieldSelector``."""
    resource = ref.get("resource", "")
    if volume and not ref.get("containerName"):
        errs.append(required(f"{field}.containerName"))
    elif not resource:
        errs.append(required(f"{field}.resource"))
    elif resource not in allowed and not re.fullmatch(r"(limits|requests)\.hugepages-.+", resource):
        errs.append(not_supported(f"{field}.resource", resource, sorted(allowed)))
    divisor = str(ref.get("divisor") or "0")
    if quantity.parse(divisor) == quantity.parse(0):
        return
    kind = "cpu" if resource.endswith(".cpu") else "memory"
    if divisor not in _DIVISORS[kind]:
        errs.append(
            invalid(
                f"{field}.divisor",
                divisor,
                "only divisor's values 1m and 1 are supported with the cpu resource"
                if kind == "cpu"
                else "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the "
                + resource.partition(".")[2]
                + " resource",
            )
        )


def _validate_env_from(sources: list[Obj], field: str, errs: Errors) -> None:
    for i, source in enumerate(sources):
        path = f"{field}[{i}]"
        if source.get("prefix"):
            validate_names(names.relaxed_env_var_name, source["prefix"], f"{path}.prefix", errs)
        refs = [key for key in ("configMapRef", "secretRef") if key in source]
        for key in refs:
            name = source[key].get("name", "")
            if not name:
                errs.append(required(f"{path}.{key}.name"))
            else:
                validate_names(names.dns1123_subdomain, name, f"{path}.{key}.name", errs)
        if not refs:
            errs.append(invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(refs) > 1:
            errs.append(invalid(path, "", "may not have more than one field specified at a time"))


def local_path(path: str) -> list[str]:
    """``validateLocalNonReservedPath`` and friends: relative, no ``..``."""
    errs = []
    if posixpath.isabs(path):
        errs.append("must be a relative path")
    if ".." in path.split("/"):
        errs.append("must not contain '..'")
    return errs


def _validate_mounts(container: Obj, field: str, volumes: Mapping[str, Obj], errs: Errors) -> None:
    seen: set[str] = set()
    privileged = bool((container.get("securityContext") or {}).get("privileged"))
    device_names = {d.get("name") for d in container.get("volumeDevices") or []}
    for i, mount in enumerate(container.get("volumeMounts") or []):
        path = f"{field}.volumeMounts[{i}]"
        name, target = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            errs.append(required(f"{path}.name"))
        elif name not in volumes:
            errs.append(field_not_found(f"{path}.name", name))
        if not target:
            errs.append(required(f"{path}.mountPath"))
        elif target in seen:
            errs.append(invalid(f"{path}.mountPath", target, "must be unique"))
        seen.add(target)
        if name in device_names:
            errs.append(invalid(f"{path}.name", name, "must not already exist in volumeDevices"))
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                validate_names(local_path, mount[key], f"{path}.{key}", errs)
        if mount.get("subPath") and mount.get("subPathExpr"):
            errs.append(invalid(f"{path}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"))
        _validate_propagation(mount, path, privileged, errs)
    paths: set[str] = set()
    for i, device in enumerate(container.get("volumeDevices") or []):
        path = f"{field}.volumeDevices[{i}]"
        name, target = device.get("name", ""), device.get("devicePath", "")
        if not name:
            errs.append(required(f"{path}.name"))
        elif name not in volumes:
            errs.append(field_not_found(f"{path}.name", name))
        elif not {"persistentVolumeClaim", "ephemeral"} & volumes[name].keys():
            errs.append(
                invalid(
                    f"{path}.name", name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
                )
            )
        if not target:
            errs.append(required(f"{path}.devicePath"))
        elif target in paths:
            errs.append(invalid(f"{path}.devicePath", target, "must be unique"))
        paths.add(target)


def _validate_propagation(mount: Obj, path: str, privileged: bool, errs: Errors) -> None:
    propagation = mount.get("mountPropagation")
    if propagation:
        if propagation not in MOUNT_PROPAGATION:
            errs.append(not_supported(f"{path}.mountPropagation", propagation, MOUNT_PROPAGATION))
        if propagation == "Bidirectional" and not privileged:
            errs.append(
                forbidden_field(
                    f"{path}.mountPropagation", "Bidirectional mount propagation is available only to privileged containers"
                )
            )
    recursive = mount.get("recursiveReadOnly")
    if recursive in (None, "Disabled"):
        return
    if recursive not in ("Enabled", "IfPossible"):
        errs.append(not_supported(f"{path}.recursiveReadOnly", recursive, ["Disabled", "Enabled", "IfPossible"]))
        return
    if not mount.get("readOnly"):
        errs.append(forbidden_field(f"{path}.recursiveReadOnly", "may only be specified when readOnly is true"))
    if propagation not in (None, "None"):
        errs.append(
            forbidden_field(f"{path}.recursiveReadOnly", "may only be specified when mountPropagation is None or not specified")
        )


def _validate_probe(probe: Obj, field: str, errs: Errors, *, kind: str) -> None:
    _validate_handler(probe, field, errs)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        validate_non_negative(probe.get(key), f"{field}.{key}", errs)
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None:
        if kind == "readinessProbe":
            errs.append(invalid(f"{field}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes"))
        elif grace <= 0:
            errs.append(invalid(f"{field}.terminationGracePeriodSeconds", grace, "must be greater than 0"))
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        errs.append(invalid(f"{field}.successThreshold", probe["successThreshold"], "must be 1"))


def _validate_handler(handler: Obj, field: str, errs: Errors, *, grace: int | None = None, lifecycle: bool = False) -> None:
    present = [h for h in _HANDLERS if handler.get(h) is not None and (lifecycle or h != "sleep")]
    for kind in present[1:]:
        errs.append(forbidden_field(f"{field}.{kind}", "may not specify more than 1 handler type"))
    if not present:
        errs.append(required(field, "must specify a handler type"))
        return
    kind = present[0]
    value = handler[kind]
    path = f"{field}.{kind}"
    if kind == "exec":
        if not value.get("command"):
            errs.append(required(f"{path}.command"))
    elif kind == "httpGet":
        _validate_http_get(value, path, errs)
    elif kind == "tcpSocket":
        validate_port_or_name(value.get("port", 0), f"{path}.port", errs)
    elif kind == "grpc":
        validate_port(value.get("port", 0), f"{path}.port", errs)
    elif grace is not None and not 0 <= value.get("seconds", 0) <= grace:
        errs.append(
            invalid(
                path,
                value.get("seconds", 0),
                f"must be non-negative and less than terminationGracePeriodSeconds ({grace}). "
                "Enable AllowPodLifecycleSleepActionZeroValue feature gate for zero sleep.",
            )
        )


def _validate_http_get(value: Obj, path: str, errs: Errors) -> None:
    if not value.get("path"):
        errs.append(required(f"{path}.path"))
    validate_port_or_name(value.get("port", 0), f"{path}.port", errs)
    validate_enum(value.get("scheme", "HTTP"), ("HTTP", "HTTPS"), f"{path}.scheme", errs)
    for header in value.get("httpHeaders") or []:
        name = header.get("name", "")
        if not _HEADER_NAME.fullmatch(name):
            errs.append(
                invalid(
                    f"{path}.httpHeaders",
                    name,
                    "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', "
                    "regex used for validation is '[-A-Za-z0-9]+')",
                )
            )


def validate_resources(resources: Obj, field: str, claims: Collection[str], errs: Errors) -> None:
    """``ValidateContainerResourceRequirements``."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in limits.items():
        validate_container_resource_name(name, f"{field}.limits", errs)
        validate_resource_value(name, value, f"{field}.limits[{name}]", errs)
    for name, value in requests.items():
        path = f"{field}.requests[{name}]"
        validate_container_resource_name(name, path, errs)
        validate_resource_value(name, value, path, errs)
        limit = limits.get(name)
        if limit is None:
            if is_extended_resource(name) or name.startswith("hugepages-"):
                errs.append(required(f"{field}.limits", "Limit must be set for non overcommitable resources"))
        elif (is_extended_resource(name) or name.startswith("hugepages-")) and quantity.parse(value) != quantity.parse(limit):
            errs.append(invalid(f"{field}.requests", str(value), f"must be equal to {name} limit of {limit}"))
        elif quantity.parse(value) > quantity.parse(limit):
            errs.append(invalid(f"{field}.requests", str(value), f"must be less than or equal to {name} limit of {limit}"))
    huge = any(n.startswith("hugepages-") for n in (*limits, *requests))
    if huge and not {"cpu", "memory"} & {*limits, *requests}:
        errs.append(forbidden_field(field, "HugePages require cpu or memory"))
    seen: set[tuple[str, str]] = set()
    for i, claim in enumerate(resources.get("claims") or []):
        key = (claim.get("name", ""), claim.get("request", ""))
        if not key[0]:
            errs.append(required(f"{field}.claims[{i}].name"))
        elif key in seen:
            errs.append(duplicate(f"{field}.claims[{i}]", key[0]))
        elif key[0] not in claims:
            errs.append(field_not_found(f"{field}.claims[{i}].name", key[0]))
        seen.add(key)


def validate_resource_value(name: str, value: Any, field: str, errs: Errors) -> None:
    """``ValidateResourceQuantityValue``: not negative, whole for resources that are counted."""
    validate_quantity(value, field, errs)
    if is_extended_resource(name) and quantity.parse(value).milli() % 1000:
        errs.append(invalid(field, str(value), "must be an integer"))


def _validate_resize_policy(policies: list[Obj], field: str, restart: str, errs: Errors) -> None:
    seen: set[str] = set()
    for i, policy in enumerate(policies):
        name = policy.get("resourceName", "")
        if name in seen:
            errs.append(duplicate(f"{field}[{i}]", name))
        seen.add(name)
        if name not in ("cpu", "memory"):
            errs.append(not_supported(f"{field}[{i}]", name, ["cpu", "memory"]))
        value = policy.get("restartPolicy", "")
        if value not in ("NotRequired", "RestartContainer"):
            errs.append(not_supported(f"{field}[{i}]", value, ["NotRequired", "RestartContainer"]))


def validate_security_context(context: Obj, field: str, errs: Errors) -> None:
    """``ValidateSecurityContext``."""
    for key in ("runAsUser", "runAsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= 2**31 - 1:
            errs.append(invalid(f"{field}.{key}", value, "must be between 0 and 2147483647, inclusive"))
    proc = context.get("procMount")
    if proc is not None and proc not in ("Default", "Unmasked"):
        errs.append(not_supported(f"{field}.procMount", proc, ["Default", "Unmasked"]))
    validate_profiles(context, field, errs)
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            errs.append(invalid(field, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or []):
            errs.append(
                invalid(field, context, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
            )


def validate_profiles(context: Obj, field: str, errs: Errors) -> None:
    """Seccomp, AppArmor and Windows parts that pod and container contexts share."""
    for key, values in (("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")):
        profile = context.get(key)
        if profile is None:
            continue
        kind = profile.get("type", "")
        local = profile.get("localhostProfile")
        if kind not in ("Localhost", "RuntimeDefault", "Unconfined"):
            errs.append(
                not_supported(f"{field}.{key}.type", kind, ["Localhost", "RuntimeDefault", "Unconfined"])
                if kind
                else required(
                    f"{field}.{key}.type", "type is required when seccompProfile is set" if values == "seccomp" else ""
                )
            )
        elif kind == "Localhost" and not local:
            errs.append(required(f"{field}.{key}.localhostProfile", f"must be set when {values} type is Localhost"))
        elif kind != "Localhost" and local is not None:
            errs.append(invalid(f"{field}.{key}.localhostProfile", local, f"can only be set when {values} type is Localhost"))
        elif local is not None:
            validate_names(local_path, local, f"{field}.{key}.localhostProfile", errs)
    windows = context.get("windowsOptions")
    if windows:
        user = windows.get("runAsUserName")
        if user is not None and not user:
            errs.append(invalid(f"{field}.windowsOptions.runAsUserName", user, "runAsUserName cannot be an empty string"))
