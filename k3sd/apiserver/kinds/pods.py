"""Pods and PodTemplates. Source: ``pkg/registry/core/pod/strategy.go``, ``ValidatePod*`` in ``pkg/apis/core/validation``."""

from __future__ import annotations

from k3sd.apimachinery import quantity, timefmt
from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.podspec import validate_pod_spec, validate_template
from k3sd.apiserver.kinds.rules import (
    MAX_INT32,
    Errors,
    clone,
    ip_problem,
    same,
    spec_diff,
    spec_of,
    validate_names,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

PHASES_FINISHED = frozenset(("Succeeded", "Failed"))
UPDATE_FORBIDDEN = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
RESIZE_FORBIDDEN = "only cpu and memory resources are mutable"
_ALL_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def qos_class(spec: Obj) -> str:
    """``ComputePodQOS``: Guaranteed, Burstable or BestEffort from cpu and memory of all containers (or the pod level)."""
    zero = quantity.parse(0)
    level = spec.get("resources") or {}
    holders = (
        [spec]
        if level.get("requests") or level.get("limits")
        else [c for key in ("containers", "initContainers") for c in spec.get(key) or []]
    )
    any_set, guaranteed = False, True
    for holder in holders:
        need = holder.get("resources") or {}
        requests, limits = need.get("requests") or {}, need.get("limits") or {}
        for name in ("cpu", "memory"):
            limit = quantity.parse(limits.get(name, 0))
            request = quantity.parse(requests.get(name, 0))
            if request > zero or limit > zero:
                any_set = True
            if limit == zero or (request > zero and request != limit):
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def with_condition(status: Obj, condition: Obj) -> Obj:
    """``status`` with the condition of that type set; its transition time moves only when its value does."""
    current = next((c for c in status.get("conditions") or [] if c.get("type") == condition["type"]), None)
    entry = dict(condition)
    if current is not None and current.get("status") == entry["status"]:
        entry["lastTransitionTime"] = current.get("lastTransitionTime") or timefmt.now()
    else:
        entry["lastTransitionTime"] = timefmt.now()
    kept = [entry if c is current else c for c in status.get("conditions") or []]
    return {**status, "conditions": kept if current is not None else [*kept, entry]}


def is_finished(pod: Obj) -> bool:
    return (pod.get("status") or {}).get("phase") in PHASES_FINISHED


def is_static(pod: Obj) -> bool:
    return "kubernetes.io/config.mirror" in ((pod.get("metadata") or {}).get("annotations") or {})


@strategy(resources.PODS)
class PodStrategy(Strategy):
    """Counts ``metadata.generation`` itself: binding changes the spec without bumping it (KEP-5067)."""

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        spec = obj.setdefault("spec", {})
        status: Obj = {"phase": "Pending", "qosClass": qos_class(spec)}
        obj["metadata"]["generation"] = 1
        if spec.get("schedulingGates"):
            status["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                    "lastTransitionTime": timefmt.now(),
                }
            ]
        obj["status"] = status

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        meta, spec = obj["metadata"], spec_of(obj)
        validate_pod_spec(spec, "spec", errs, pod_name=meta.get("name", ""))
        if spec.get("ephemeralContainers"):
            errs.append(forbidden_field("spec.ephemeralContainers", "cannot be set on create"))
        if spec.get("schedulingGates") and spec.get("nodeName"):
            errs.append(forbidden_field("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
        _validate_mirror(obj, errs)
        return errs

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        if ctx.subresource != "binding" and spec_of(new) != spec_of(old):
            new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1
        if ctx.subresource == "binding":
            new["status"] = with_condition(old.get("status") or {}, {"type": "PodScheduled", "status": "True"})

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        if ctx.subresource == "binding" or spec_of(new) == spec_of(old):
            return errs
        validate_pod_spec(spec_of(new), "spec", errs, pod_name=new["metadata"].get("name", ""))
        if ctx.subresource == "ephemeralcontainers":
            validate_ephemeral_update(spec_of(new), spec_of(old), errs)
            return errs
        if ctx.subresource == "resize":
            validate_resize(new, old, errs)
            return errs
        validate_spec_update(spec_of(new), spec_of(old), errs)
        if spec_of(new).get("nodeName") != spec_of(old).get("nodeName") and spec_of(new).get("schedulingGates"):
            errs.append(forbidden_field("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
        return errs

    def prepare_status(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        status = new.setdefault("status", {})
        old_status = old.get("status") or {}
        # Owner references and deletion timestamps are not for status writers; QoS is the server's.
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds"):
            _carry(new["metadata"], old["metadata"], key)
        _carry(new["metadata"], old["metadata"], "ownerReferences")
        if old_status.get("qosClass"):
            status["qosClass"] = old_status["qosClass"]

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        status, old_status = new.get("status") or {}, old.get("status") or {}
        if nominated := status.get("nominatedNodeName"):
            validate_names(names.dns1123_subdomain, nominated, "status.nominatedNodeName", errs)
        for i, condition in enumerate(status.get("conditions") or []):
            if "/" in condition.get("type", ""):
                validate_names(names.qualified_name, condition["type"], f"status.conditions[{i}].type", errs)
        old_hosts, hosts = old_status.get("hostIPs") or [], status.get("hostIPs") or []
        for i, entry in enumerate(hosts):
            if entry not in old_hosts and ip_problem(entry.get("ip", "")):
                errs.append(invalid(f"status.hostIPs[{i}].ip", entry.get("ip", ""), ip_problem(entry.get("ip", ""))))
        ips = status.get("podIPs") or []
        if len(ips) > 2:
            errs.append(invalid("status.podIPs", ips, "may specify no more than one IP for each IP family"))
        for i, entry in enumerate(ips):
            if ip_problem(entry.get("ip", "")):
                errs.append(invalid(f"status.podIPs[{i}].ip", entry.get("ip", ""), ip_problem(entry.get("ip", ""))))
        if status.get("resourceClaimStatuses"):
            declared = {c.get("name") for c in spec_of(new).get("resourceClaims") or []}
            for i, claim in enumerate(status["resourceClaimStatuses"]):
                if claim.get("name") not in declared:
                    errs.append(
                        invalid(
                            f"status.resourceClaimStatuses[{i}].name",
                            claim.get("name", ""),
                            "must match the name of an entry in `spec.resourceClaims`",
                        )
                    )
        _validate_restarts(status, old_status, spec_of(new), errs)
        return errs

    def graceful_seconds(self, ctx: RequestContext, obj: Obj, requested: int | None) -> int:
        """``podStrategy.CheckGracefulDelete``: at once when nobody runs it, else spec's period, never negative."""
        period = requested
        if period is None:
            period = spec_of(obj).get("terminationGracePeriodSeconds")
            period = 30 if period is None else period
        if not spec_of(obj).get("nodeName") or is_finished(obj):
            return 0
        return 1 if period < 0 else int(period)

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        ips = [entry.get("ip", "") for entry in status.get("podIPs") or []]
        return {
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.restartPolicy": spec.get("restartPolicy", ""),
            "spec.schedulerName": spec.get("schedulerName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
            "status.phase": status.get("phase", ""),
            "status.podIP": ips[0] if ips else status.get("podIP", ""),
            "status.podIPs": ",".join(ips),
            "status.nominatedNodeName": status.get("nominatedNodeName", ""),
        }

    def warnings(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> list[str]:
        return template_warnings(spec_of(obj), "spec") if old is None else []


def _carry(new: Obj, old: Obj, key: str) -> None:
    if key in old:
        new[key] = old[key]
    else:
        new.pop(key, None)


def _validate_mirror(pod: Obj, errs: Errors) -> None:
    annotations = pod["metadata"].get("annotations") or {}
    if "kubernetes.io/config.mirror" in annotations and not spec_of(pod).get("nodeName"):
        errs.append(
            invalid(
                "metadata.annotations[kubernetes.io/config.mirror]",
                annotations["kubernetes.io/config.mirror"],
                "must set spec.nodeName if mirror pod annotation is set",
            )
        )


def _validate_restarts(status: Obj, old: Obj, spec: Obj, errs: Errors) -> None:
    """``ValidateContainerStateTransition``: what ended for good does not run again."""
    policy = spec.get("restartPolicy", "Always")
    if policy == "Always":
        return
    by_name = {c.get("name"): c for c in status.get("containerStatuses") or []}
    rules = {c.get("name") for c in spec.get("containers") or [] if c.get("restartPolicy") or c.get("restartPolicyRules")}
    for i, previous in enumerate(old.get("containerStatuses") or []):
        ended = (previous.get("state") or {}).get("terminated")
        current = by_name.get(previous.get("name"))
        if ended is None or current is None or previous.get("name") in rules:
            continue
        if policy == "OnFailure" and ended.get("exitCode", 0) != 0:
            continue
        if "terminated" not in (current.get("state") or {}):
            errs.append(
                forbidden_field(f"status.containerStatuses[{i}].state", "may not be transitioned to non-terminated state")
            )


def validate_spec_update(new: Obj, old: Obj, errs: Errors) -> None:
    """``ValidatePodUpdate``: the few fields of a running pod's spec that may change."""
    before = len(errs)
    for key in ("containers", "initContainers"):
        if len(new.get(key) or []) != len(old.get(key) or []):
            errs.append(forbidden_field(f"spec.{key}", "pod updates may not add or remove containers"))
    if len(errs) > before:
        return
    _validate_deadline_update(new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds"), errs)
    _validate_tolerations_update(new.get("tolerations") or [], old.get("tolerations") or [], errs)
    old_gates = {g.get("name") for g in old.get("schedulingGates") or []}
    for i, gate in enumerate(new.get("schedulingGates") or []):
        if gate.get("name") not in old_gates:
            errs.append(
                forbidden_field(
                    f"spec.schedulingGates[{i}].name",
                    f"only deletion is allowed, but found new scheduling gate '{gate.get('name')}'",
                )
            )
    if len(errs) > before:
        return
    munged: Obj = clone(new)
    for key in ("containers", "initContainers"):
        for container, previous in zip(munged.get(key) or [], old.get(key) or [], strict=True):
            container["image"] = previous.get("image", "")
    for key in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        _carry(munged, old, key)
    old_grace = old.get("terminationGracePeriodSeconds")
    if old_grace is not None and old_grace < 0 and munged.get("terminationGracePeriodSeconds") == 1:
        munged["terminationGracePeriodSeconds"] = old_grace
    if old_gates:
        _validate_gated(munged, old, errs)
    if not _equal_specs(munged, old):
        errs.append(forbidden_field("spec", f"{UPDATE_FORBIDDEN}\n{spec_diff(old, munged)}"))


def _equal_specs(a: Obj, b: Obj) -> bool:
    keys = {*a, *b} - {"serviceAccount"}
    return all(same(a.get(k), b.get(k)) for k in keys)


def _validate_deadline_update(new: int | None, old: int | None, errs: Errors) -> None:
    field = "spec.activeDeadlineSeconds"
    if new is not None:
        if not 0 <= new <= MAX_INT32:
            errs.append(invalid(field, new, f"must be between 0 and {MAX_INT32}, inclusive"))
        elif old is not None and old < new:
            errs.append(invalid(field, new, "must be less than or equal to previous value"))
    elif old is not None:
        errs.append(invalid(field, new, "must not update from a positive integer to nil value"))


def _validate_tolerations_update(new: list[Obj], old: list[Obj], errs: Errors) -> None:
    """Old tolerations stay (their seconds may change), new ones may be added."""

    def stripped(toleration: Obj) -> Obj:
        return {k: v for k, v in toleration.items() if k != "tolerationSeconds"}

    remaining = [stripped(t) for t in new]
    for toleration in old:
        if stripped(toleration) not in remaining:
            errs.append(
                forbidden_field("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
            )
            return


def _validate_gated(munged: Obj, old: Obj, errs: Errors) -> None:
    """A gated pod may be narrowed to fewer nodes: selectors grow, node affinity gains terms."""
    old_selector, selector = old.get("nodeSelector") or {}, munged.get("nodeSelector") or {}
    if selector != old_selector:
        if all(selector.get(k) == v for k, v in old_selector.items()):
            _carry(munged, old, "nodeSelector")
        else:
            errs.append(invalid("spec.nodeSelector", selector, "only additions are allowed (no mutations or deletions)"))
    path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    hard = "requiredDuringSchedulingIgnoredDuringExecution"
    old_node = (old.get("affinity") or {}).get("nodeAffinity") or {}
    node = (munged.get("affinity") or {}).get("nodeAffinity") or {}
    old_terms = (old_node.get(hard) or {}).get("nodeSelectorTerms") or []
    terms = (node.get(hard) or {}).get("nodeSelectorTerms") or []
    if old_terms:
        if len(terms) != len(old_terms):
            errs.append(invalid(path, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
        for i, (term, previous) in enumerate(zip(terms, old_terms, strict=False)):
            grown = all(
                (term.get(key) or [])[: len(previous.get(key) or [])] == (previous.get(key) or [])
                for key in ("matchExpressions", "matchFields")
            )
            empty = not (previous.get("matchExpressions") or previous.get("matchFields"))
            if term != previous and (empty or not grown):
                errs.append(invalid(f"{path}[{i}]", term, "only additions are allowed (no mutations or deletions)"))
    affinity = {k: v for k, v in (munged.get("affinity") or {}).items() if k != "nodeAffinity"}
    if old_node:
        affinity["nodeAffinity"] = old_node
    if affinity:
        munged["affinity"] = affinity
    else:
        _carry(munged, old, "affinity")


def validate_ephemeral_update(new: Obj, old: Obj, errs: Errors) -> None:
    """``ValidatePodEphemeralContainersUpdate``: additions only."""
    path = "spec.ephemeralContainers"
    added = {c.get("name"): c for c in new.get("ephemeralContainers") or []}
    for container in old.get("ephemeralContainers") or []:
        name = container.get("name", "")
        current = added.get(name)
        if current is None:
            errs.append(forbidden_field(path, f'existing ephemeral containers "{name}" may not be removed\n'))
        elif current != container:
            errs.append(
                forbidden_field(
                    path, f'existing ephemeral containers "{name}" may not be changed\n{spec_diff(container, current)}'
                )
            )


def validate_resize(new: Obj, old: Obj, errs: Errors) -> None:
    """``ValidatePodResize``: cpu and memory of containers (and of the pod level), QoS unchanged."""
    spec, old_spec = spec_of(new), spec_of(old)
    if is_static(old):
        errs.append(forbidden_field("", "static pods cannot be resized"))
        return
    if (spec.get("os") or {}).get("name") == "windows":
        errs.append(forbidden_field("", "windows pods cannot be resized"))
        return
    before = len(errs)
    shown_qos = (new.get("status") or {}).get("qosClass") or ""
    if qos_class(spec) != ((old.get("status") or {}).get("qosClass") or qos_class(old_spec)):
        errs.append(invalid("spec", shown_qos, "Pod QOS Class may not change as a result of resizing"))
    if not _can_be_resized(old):
        errs.append(forbidden_field("spec", "Pod running on node without support for resize"))
    _validate_pod_level_resize(spec, old_spec, errs)
    if order := [e for key in ("containers", "initContainers") for e in _same_containers(key, spec, old_spec)]:
        errs.extend(order)
        return
    for key in ("initContainers", "containers"):
        for i, (a, b) in enumerate(zip(spec.get(key) or (), old_spec.get(key) or (), strict=True)):
            path = f"spec.{key}[{i}].resources"
            _validate_kept(a.get("resources") or {}, b.get("resources") or {}, path, "resource", errs)
    munged: Obj = clone(spec)
    for key in ("containers", "initContainers"):
        for i, (a, b) in enumerate(zip(munged.get(key) or (), old_spec.get(key) or (), strict=True)):
            is_changed = not _equal_specs(a, b)
            _restore_cpu_memory(a, b)
            is_foreign = not _equal_specs(a, b)
            if key == "containers":
                if is_foreign:
                    errs.append(forbidden_field("spec", RESIZE_FORBIDDEN))
                continue
            path = f"spec.initContainers[{i}]"
            if is_foreign:
                errs.append(forbidden_field(path, "only cpu and memory resources for init or sidecar containers are mutable"))
            if is_changed and a.get("restartPolicy") != "Always":
                text = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
                policies = a.get("resizePolicy") or ()
                errs.extend(forbidden_field(path, text) for p in policies if p.get("restartPolicy") == "RestartContainer")
    if len(errs) > before:
        return
    if "resources" in munged or "resources" in old_spec:
        _restore_cpu_memory(munged, old_spec)
    if not _equal_specs(munged, old_spec):
        errs.append(forbidden_field("spec", RESIZE_FORBIDDEN))


def _can_be_resized(pod: Obj) -> bool:
    """``isPodResizeRequestSupported``: a kubelet that can shows the resources of what runs."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    running = next((s for s in statuses if (s.get("state") or {}).get("running") is not None), None)
    return running is None or "resources" in running


def _validate_pod_level_resize(spec: Obj, old: Obj, errs: Errors) -> None:
    """``validatePodLevelResourcesResize``."""
    need, had = spec.get("resources"), old.get("resources")
    if had is not None and need is None:
        errs.append(forbidden_field("spec.resources", "pod-level resources cannot be removed"))
        return
    _validate_kept(need or {}, had or {}, "spec.resources", "pod-level resource", errs)
    holder: Obj = {"resources": clone(need or {})}
    _restore_cpu_memory(holder, {"resources": had or {}})
    if not _equal_specs(holder["resources"], had or {}):
        errs.append(forbidden_field("spec", f"{RESIZE_FORBIDDEN} at pod-level"))


def _validate_kept(need: Obj, had: Obj, path: str, what: str, errs: Errors) -> None:
    """No request and no limit may go."""
    for part in ("requests", "limits"):
        if (had.get(part) or {}).keys() - (need.get(part) or {}).keys():
            errs.append(forbidden_field(f"{path}.{part}", f"{what} {part} cannot be removed"))


def _same_containers(key: str, spec: Obj, old: Obj) -> list[FieldError]:
    """``validatePodResizeContainerOrdering``."""
    current, previous = spec.get(key) or [], old.get(key) or []
    if len(current) != len(previous):
        return [forbidden_field(f"spec.{key}", f"{key} may not be added or removed on resize")]
    return [
        forbidden_field(f"spec.{key}[{i}].name", f"{key} may not be renamed or reordered on resize")
        for i, (a, b) in enumerate(zip(current, previous, strict=True))
        if a.get("name") != b.get("name")
    ]


def _restore_cpu_memory(holder: Obj, old: Obj) -> None:
    need, had = holder.setdefault("resources", {}), old.get("resources") or {}
    for part in ("limits", "requests"):
        values = {k: v for k, v in (need.get(part) or {}).items() if k not in ("cpu", "memory")}
        values |= {k: v for k, v in (had.get(part) or {}).items() if k in ("cpu", "memory")}
        if values:
            need[part] = values
        else:
            need.pop(part, None)
    if not need and "resources" not in old:
        del holder["resources"]


def template_warnings(spec: Obj, field: str) -> list[str]:
    """The commonest of ``pod.GetWarningsForPodTemplate``."""
    out: list[str] = []
    for label in spec.get("nodeSelector") or {}:
        if label in ("beta.kubernetes.io/arch", "beta.kubernetes.io/os"):
            use = label.removeprefix("beta.")
            out.append(f'{field}.nodeSelector[{label}]: deprecated since v1.14; use "{use}" instead')
    for key in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(key) or []):
            seen: set[str] = set()
            for j, var in enumerate(container.get("env") or []):
                name = var.get("name", "")
                if name in seen:
                    out.append(f'{field}.{key}[{i}].env[{j}]: hides previous definition of "{name}", which may be unexpected')
                seen.add(name)
            for part in ("requests", "limits"):
                for name, value in ((container.get("resources") or {}).get(part) or {}).items():
                    if name in ("memory", "ephemeral-storage") and quantity.parse(value).milli() % 1000:
                        out.append(
                            f'{field}.{key}[{i}].resources.{part}[{name}]: fractional byte value "{value}" is invalid, '
                            "must be an integer"
                        )
    return out


def validate_binding(binding: Obj) -> list[FieldError]:
    """``ValidatePodBinding``."""
    errs: Errors = []
    target = binding.get("target") or {}
    if target.get("kind") not in ("", None, "Node"):
        errs.append(not_supported("target.kind", target["kind"], ["Node", "<empty>"]))
    if not target.get("name"):
        errs.append(required("target.name"))
    return errs


@strategy(resources.PODTEMPLATES)
class PodTemplateStrategy(Strategy):
    has_status = False

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["metadata"]["generation"] = 1

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_template(obj.get("template") or {}, "template", errs)
        return errs

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        generation = int(old["metadata"].get("generation") or 1)
        new["metadata"]["generation"] = generation + (new.get("template") != old.get("template"))

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)
