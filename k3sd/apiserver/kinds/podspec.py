"""Pod specs and pod templates: ``ValidatePodSpec`` and ``ValidatePodTemplateSpec`` of ``pkg/apis/core/validation``."""

from __future__ import annotations

import re
from typing import Any

from k3sd.apimachinery import quantity
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import (
    Obj,
    duplicate,
    field_not_found,
    forbidden_field,
    invalid,
    not_supported,
    required,
)
from k3sd.apiserver.kinds.containers import validate_container, validate_profiles, validate_resources
from k3sd.apiserver.kinds.rules import (
    MAX_INT32,
    Errors,
    ip_problem,
    validate_enum,
    validate_ip,
    validate_label_name,
    validate_label_selector,
    validate_labels,
    validate_names,
    validate_non_negative,
    validate_resource_name,
    validate_selector_requirement,
)
from k3sd.apiserver.kinds.volumes import validate_volumes

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_INCLUSION = ("Ignore", "Honor")


def validate_pod_spec(spec: Obj, field: str, errs: Errors, *, pod_name: str = "") -> None:
    """A whole spec. ``pod_name`` names generated claims."""
    volumes = spec.get("volumes") or []
    validate_volumes(volumes, f"{field}.volumes", pod_name, errs)
    by_name = {v.get("name", ""): v for v in volumes}
    claims = _validate_claims(spec.get("resourceClaims") or [], f"{field}.resourceClaims", errs)
    _validate_containers(spec, field, by_name, claims, errs)
    if level := spec.get("resources"):
        _validate_pod_resources(spec, level, f"{field}.resources", errs)
    validate_enum(spec.get("restartPolicy"), RESTART_POLICIES, f"{field}.restartPolicy", errs)
    validate_enum(spec.get("dnsPolicy"), DNS_POLICIES, f"{field}.dnsPolicy", errs)
    validate_labels(spec.get("nodeSelector"), f"{field}.nodeSelector", errs)
    if context := spec.get("securityContext"):
        _validate_pod_security(context, spec, f"{field}.securityContext", errs)
    for i, ref in enumerate(spec.get("imagePullSecrets") or []):
        if not ref.get("name"):
            errs.append(required(f"{field}.imagePullSecrets[{i}].name"))
    if affinity := spec.get("affinity"):
        validate_affinity(affinity, f"{field}.affinity", errs)
    _validate_dns(spec, field, errs)
    for i, gate in enumerate(spec.get("readinessGates") or []):
        validate_names(names.qualified_name, gate.get("conditionType", ""), f"{field}.readinessGates[{i}].conditionType", errs)
    for key, rule in (
        ("serviceAccountName", names.dns1123_subdomain),
        ("nodeName", names.dns1123_subdomain),
        ("hostname", names.dns1123_label),
        ("subdomain", names.dns1123_label),
        ("priorityClassName", names.dns1123_subdomain),
        ("runtimeClassName", names.dns1123_subdomain),
        ("schedulerName", None),
    ):
        if rule is not None and spec.get(key):
            validate_names(rule, spec[key], f"{field}.{key}", errs)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        errs.append(invalid(f"{field}.activeDeadlineSeconds", deadline, f"must be between 1 and {MAX_INT32}, inclusive"))
    validate_non_negative(spec.get("terminationGracePeriodSeconds"), f"{field}.terminationGracePeriodSeconds", errs)
    if spec.get("preemptionPolicy"):
        validate_enum(spec["preemptionPolicy"], ("Never", "PreemptLowerPriority"), f"{field}.preemptionPolicy", errs)
    validate_tolerations(spec.get("tolerations") or [], f"{field}.tolerations", errs)
    for i, alias in enumerate(spec.get("hostAliases") or []):
        validate_ip(alias.get("ip", ""), f"{field}.hostAliases[{i}].ip", errs)
        for name in alias.get("hostnames") or []:
            validate_names(names.dns1123_subdomain, name, f"{field}.hostAliases[{i}].hostnames", errs)
    for name in spec.get("overhead") or {}:
        validate_resource_name(name, f"{field}.overhead", errs)
    _validate_spread(spec.get("topologySpreadConstraints") or [], f"{field}.topologySpreadConstraints", errs)
    seen: set[str] = set()
    for i, gate in enumerate(spec.get("schedulingGates") or []):
        name = gate.get("name", "")
        validate_names(names.qualified_name, name, f"{field}.schedulingGates[{i}]", errs)
        if name in seen:
            errs.append(duplicate(f"{field}.schedulingGates[{i}]", name))
        seen.add(name)
    system = (spec.get("os") or {}).get("name")
    if "os" in spec and system not in ("linux", "windows"):
        errs.append(not_supported(f"{field}.os.name", system or "", ["linux", "windows"]))


def validate_template(template: Obj, field: str, errs: Errors) -> None:
    """``ValidatePodTemplateSpec``: labels, annotations, spec; no ephemeral containers."""
    spec = template.get("spec") or {}
    validate_template_metadata(template, field, errs)
    validate_pod_spec(spec, f"{field}.spec", errs)
    if spec.get("ephemeralContainers"):
        errs.append(forbidden_field(f"{field}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template"))


def validate_template_metadata(template: Obj, field: str, errs: Errors) -> None:
    meta = template.get("metadata") or {}
    validate_labels(meta.get("labels"), f"{field}.metadata.labels", errs)
    if meta.get("annotations"):
        errs += names.validate_annotations(meta["annotations"], f"{field}.metadata.annotations")


def _validate_containers(spec: Obj, field: str, volumes: dict[str, Obj], claims: set[str], errs: Errors) -> None:
    grace = spec.get("terminationGracePeriodSeconds", 30)
    taken: set[str] = set()
    containers = spec.get("containers") or []
    if not containers:
        errs.append(required(f"{field}.containers"))
    for key, kind in (("containers", "container"), ("initContainers", "init"), ("ephemeralContainers", "ephemeral")):
        host_ports: set[tuple[str, str, int]] = set()
        for i, container in enumerate(spec.get(key) or []):
            path = f"{field}.{key}[{i}]"
            validate_container(container, path, volumes, claims, grace, errs, kind=kind)
            name = container.get("name", "")
            if name in taken:
                errs.append(duplicate(f"{path}.name", name))
            taken.add(name)
            for j, port in enumerate(container.get("ports") or []):
                _validate_host_port(port, f"{path}.ports[{j}]", bool(spec.get("hostNetwork")), host_ports, errs)
    app = {c.get("name") for c in (*containers, *(spec.get("initContainers") or []))}
    for i, container in enumerate(spec.get("ephemeralContainers") or []):
        target = container.get("targetContainerName")
        if target and target not in app:
            errs.append(field_not_found(f"{field}.ephemeralContainers[{i}].targetContainerName", target))


def _validate_host_port(port: Obj, path: str, host_network: bool, seen: set[tuple[str, str, int]], errs: Errors) -> None:
    number = port.get("hostPort") or 0
    if host_network and number != port.get("containerPort"):
        errs.append(invalid(f"{path}.hostPort", number, "must match `containerPort` when `hostNetwork` is true"))
    if number:
        key = (port.get("protocol", "TCP"), port.get("hostIP", ""), number)
        if key in seen:
            errs.append(duplicate(f"{path}.hostPort", f"{key[0]}/{key[1]}/{key[2]}"))
        seen.add(key)
    host_ip = port.get("hostIP")
    if host_ip and ip_problem(host_ip):
        errs.append(invalid(f"{path}.hostIP", host_ip, ip_problem(host_ip)))


def _validate_claims(claims: list[Obj], field: str, errs: Errors) -> set[str]:
    taken: set[str] = set()
    for i, claim in enumerate(claims):
        path, name = f"{field}[{i}]", claim.get("name", "")
        if not name:
            errs.append(required(f"{path}.name"))
        else:
            validate_names(names.dns1123_label, name, f"{path}.name", errs)
        if name in taken:
            errs.append(duplicate(f"{path}.name", name))
        taken.add(name)
        claim_name, template = claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName")
        if claim_name and template:
            errs.append(
                invalid(path, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
            )
        if not claim_name and not template:
            errs.append(invalid(path, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
    return taken


def _validate_pod_security(context: Obj, spec: Obj, field: str, errs: Errors) -> None:
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        value = context.get(key)
        if value is not None and not 0 <= value <= MAX_INT32:
            errs.append(invalid(f"{field}.{key}", value, "must be between 0 and 2147483647, inclusive"))
    for i, group in enumerate(context.get("supplementalGroups") or []):
        if not 0 <= group <= MAX_INT32:
            errs.append(invalid(f"{field}.supplementalGroups[{i}]", group, "must be between 0 and 2147483647, inclusive"))
    for key, values in (
        ("fsGroupChangePolicy", ("OnRootMismatch", "Always")),
        ("supplementalGroupsPolicy", ("Merge", "Strict")),
        ("seLinuxChangePolicy", ("Recursive", "MountOption")),
    ):
        if context.get(key) and context[key] not in values:
            errs.append(not_supported(f"{field}.{key}", context[key], values))
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        errs.append(invalid(f"{field}.shareProcessNamespace", True, "ShareProcessNamespace and HostPID cannot both be enabled"))
    seen: set[str] = set()
    for i, sysctl in enumerate(context.get("sysctls") or []):
        name = sysctl.get("name", "")
        path = f"{field}.sysctls[{i}].name"
        if not name:
            errs.append(required(path))
        elif len(name) > 253 or not _SYSCTL.fullmatch(name):
            errs.append(
                invalid(
                    path,
                    name,
                    "must have at most 253 characters and match regex "
                    "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9]$",
                )
            )
        elif name in seen:
            errs.append(duplicate(path, name))
        seen.add(name)
    validate_profiles(context, field, errs)


def _validate_pod_resources(spec: Obj, level: Obj, field: str, errs: Errors) -> None:
    """``validatePodResources``: cpu, memory and huge pages, at least what the containers ask for together."""
    for part in ("limits", "requests"):
        for name in level.get(part) or {}:
            if name not in ("cpu", "memory") and not name.startswith("hugepages-"):
                errs.append(not_supported(f"{field}.{part}[{name}]", name, ["cpu", "memory"]))
    if level.get("claims"):
        errs.append(forbidden_field(f"{field}.claims", "claims may not be set at the pod level"))
    validate_resources(level, field, (), errs)
    for name, value in (level.get("requests") or {}).items():
        total = quantity.parse(0)
        for container in spec.get("containers") or []:
            asked = ((container.get("resources") or {}).get("requests") or {}).get(name)
            total = total + quantity.parse(asked) if asked is not None else total
        if total > quantity.parse(value):
            text = f"must be greater than or equal to aggregate container requests of {total}"
            errs.append(invalid(f"{field}.requests[{name}]", str(value), text))


def _validate_dns(spec: Obj, field: str, errs: Errors) -> None:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            errs.append(required(f"{field}.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None"))
            return
        if not config.get("nameservers"):
            errs.append(
                required(f"{field}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None")
            )
    if config is None:
        return
    servers = config.get("nameservers") or []
    if len(servers) > 3:
        errs.append(invalid(f"{field}.dnsConfig.nameservers", servers, "must not have more than 3 nameservers"))
    for i, server in enumerate(servers):
        validate_ip(server, f"{field}.dnsConfig.nameservers[{i}]", errs)
    searches = config.get("searches") or []
    if len(searches) > 32:
        errs.append(invalid(f"{field}.dnsConfig.searches", searches, "must not have more than 32 search paths"))
    if len(" ".join(searches)) > 2048:
        errs.append(
            invalid(
                f"{field}.dnsConfig.searches",
                searches,
                "must not have more than 2048 characters (including spaces) in the search list",
            )
        )
    for i, search in enumerate(searches):
        trimmed = search.removesuffix(".")
        if trimmed or search != ".":
            # Upstream allows underscores here (RelaxedDNSSearchValidation).
            validate_names(names.dns1123_subdomain, trimmed.replace("_", "a"), f"{field}.dnsConfig.searches[{i}]", errs)
    for i, option in enumerate(config.get("options") or []):
        if not option.get("name"):
            errs.append(required(f"{field}.dnsConfig.options[{i}]", "must not be empty"))


def validate_tolerations(tolerations: list[Obj], field: str, errs: Errors) -> None:
    """``ValidateTolerations``."""
    for i, toleration in enumerate(tolerations):
        path = f"{field}[{i}]"
        key, op, value = toleration.get("key", ""), toleration.get("operator", ""), toleration.get("value", "")
        effect = toleration.get("effect", "")
        if key:
            validate_label_name(key, f"{path}.key", errs)
        if not key and op != "Exists":
            errs.append(
                invalid(
                    f"{path}.operator",
                    op,
                    'operator must be Exists when `key` is empty, which means "match all values and all keys"',
                )
            )
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            errs.append(invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
        if op in ("Equal", ""):
            for text in names.label_value(value):
                errs.append(invalid(f"{path}.operator", value, text))
        elif op == "Exists":
            if value:
                errs.append(invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
        else:
            errs.append(not_supported(f"{path}.operator", op, ["Equal", "Exists"]))
        if effect and effect not in TAINT_EFFECTS:
            errs.append(not_supported(f"{path}.effect", effect, TAINT_EFFECTS))


def validate_node_selector_term(term: Obj, field: str, errs: Errors) -> None:
    """``ValidateNodeSelectorTerm``."""
    for i, req in enumerate(term.get("matchExpressions") or []):
        path, op = f"{field}.matchExpressions[{i}]", req.get("operator", "")
        if op in ("Gt", "Lt"):
            values = req.get("values") or []
            if len(values) != 1:
                errs.append(required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'"))
            validate_label_name(req.get("key", ""), f"{path}.key", errs)
        else:
            validate_selector_requirement(req, path, errs)
    for i, req in enumerate(term.get("matchFields") or []):
        path, op, values = f"{field}.matchFields[{i}]", req.get("operator", ""), req.get("values") or []
        if op not in ("In", "NotIn"):
            errs.append(invalid(f"{path}.operator", op, "not a valid selector operator"))
        elif len(values) != 1:
            errs.append(
                required(f"{path}.values", "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
            )
        if req.get("key") != "metadata.name":
            errs.append(invalid(f"{path}.key", req.get("key", ""), "not a valid field selector key"))
        for j, value in enumerate(values):
            validate_names(names.dns1123_subdomain, value, f"{path}.values[{j}]", errs)


def validate_node_selector(selector: Obj, field: str, errs: Errors) -> None:
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        errs.append(required(f"{field}.nodeSelectorTerms", "must have at least one node selector term"))
    for i, term in enumerate(terms):
        validate_node_selector_term(term, f"{field}.nodeSelectorTerms[{i}]", errs)


def validate_affinity(affinity: Obj, field: str, errs: Errors) -> None:
    """``validateAffinity``."""
    if node := affinity.get("nodeAffinity"):
        path = f"{field}.nodeAffinity"
        if hard := node.get("requiredDuringSchedulingIgnoredDuringExecution"):
            validate_node_selector(hard, f"{path}.requiredDuringSchedulingIgnoredDuringExecution", errs)
        for i, soft in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
            item = f"{path}.preferredDuringSchedulingIgnoredDuringExecution[{i}]"
            _validate_weight(soft, item, errs)
            validate_node_selector_term(soft.get("preference") or {}, f"{item}.preference", errs)
    for kind in ("podAffinity", "podAntiAffinity"):
        if value := affinity.get(kind):
            for i, term in enumerate(value.get("requiredDuringSchedulingIgnoredDuringExecution") or []):
                _validate_pod_term(term, f"{field}.{kind}.requiredDuringSchedulingIgnoredDuringExecution[{i}]", errs)
            for i, soft in enumerate(value.get("preferredDuringSchedulingIgnoredDuringExecution") or []):
                item = f"{field}.{kind}.preferredDuringSchedulingIgnoredDuringExecution[{i}]"
                _validate_weight(soft, item, errs)
                _validate_pod_term(soft.get("podAffinityTerm") or {}, f"{item}.podAffinityTerm", errs)


def _validate_weight(soft: Obj, field: str, errs: Errors) -> None:
    weight = soft.get("weight", 0)
    if not 1 <= weight <= 100:
        errs.append(invalid(f"{field}.weight", weight, "must be in the range 1-100"))


def _validate_pod_term(term: Obj, field: str, errs: Errors) -> None:
    validate_label_selector(term.get("labelSelector"), f"{field}.labelSelector", errs)
    validate_label_selector(term.get("namespaceSelector"), f"{field}.namespaceSelector", errs)
    for name in term.get("namespaces") or []:
        for text in names.dns1123_label(name):
            errs.append(invalid(f"{field}.namespaces", name, text))
    key = term.get("topologyKey", "")
    if not key:
        errs.append(required(f"{field}.topologyKey", "can not be empty"))
    validate_label_name(key, f"{field}.topologyKey", errs)
    for name in ("matchLabelKeys", "mismatchLabelKeys"):
        if term.get(name) and term.get("labelSelector") is None:
            errs.append(forbidden_field(f"{field}.{name}", "must not be specified when labelSelector is not set"))


def _validate_spread(constraints: list[Obj], field: str, errs: Errors) -> None:
    seen: set[tuple[Any, Any]] = set()
    for i, constraint in enumerate(constraints):
        path = f"{field}[{i}]"
        skew = constraint.get("maxSkew", 0)
        if skew <= 0:
            errs.append(invalid(f"{path}.maxSkew", skew, "must be greater than zero"))
        key, when = constraint.get("topologyKey", ""), constraint.get("whenUnsatisfiable", "")
        if not key:
            errs.append(required(f"{path}.topologyKey", "can not be empty"))
        else:
            validate_label_name(key, f"{path}.topologyKey", errs)
        if when not in ("DoNotSchedule", "ScheduleAnyway"):
            errs.append(not_supported(f"{path}.whenUnsatisfiable", when, ["DoNotSchedule", "ScheduleAnyway"]))
        if (key, when) in seen:
            errs.append(duplicate(f"{path}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {when}}}"))
        seen.add((key, when))
        domains = constraint.get("minDomains")
        if domains is not None:
            if domains <= 0:
                errs.append(invalid(f"{path}.minDomains", domains, "must be greater than zero"))
            if when != "DoNotSchedule":
                errs.append(
                    invalid(
                        f"{path}.minDomains",
                        domains,
                        f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}",
                    )
                )
        for name in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if constraint.get(name) and constraint[name] not in _INCLUSION:
                errs.append(not_supported(f"{path}.{name}", constraint[name], _INCLUSION))
        validate_label_selector(constraint.get("labelSelector"), f"{path}.labelSelector", errs)
