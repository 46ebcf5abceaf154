"""PodSecurity: the Pod Security Standards, chosen by labels of the namespace.

Source: ``staging/src/k8s.io/pod-security-admission`` (``policy/check_*.go``, ``admission/admission.go``). ``enforce``
refuses pods, ``warn`` warns of them and of their templates. A namespace without labels is privileged, as in K3s and upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from k3sd.apimachinery.errors import FieldError, Obj, forbidden, invalid, invalid_object
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.admission.plugin import Plugin
from k3sd.apiserver.request import Attributes

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
_TEMPLATES = (
    resources.PODTEMPLATES,
    resources.REPLICATIONCONTROLLERS,
    resources.REPLICASETS,
    resources.DEPLOYMENTS,
    resources.STATEFULSETS,
    resources.DAEMONSETS,
    resources.JOBS,
    resources.CRONJOBS,
)
_BASELINE_CAPABILITIES = frozenset(
    (
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    )
)
_SYSCTLS = frozenset(
    (
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    )
)
_SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_RESTRICTED_VOLUMES = frozenset(
    ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image")
)


class Violation(NamedTuple):
    """What a check has to say: ``reason (detail)``."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})"


Check = Callable[[Obj, Obj], Violation | None]
"""``(metadata, spec)`` of a pod or template."""


def _containers(spec: Obj) -> Iterator[Obj]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(key) or ()


def _context(holder: Obj) -> Obj:
    context: Obj = holder.get("securityContext") or {}
    return context


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def _named(containers: list[str]) -> str:
    return f"container{'s' if len(containers) > 1 else ''} {_quoted(containers)}"


def _bad(spec: Obj, test: Callable[[Obj], bool]) -> list[str]:
    return [c.get("name", "") for c in _containers(spec) if test(c)]


def privileged(meta: Obj, spec: Obj) -> Violation | None:
    bad = _bad(spec, lambda c: bool(_context(c).get("privileged")))
    return Violation("privileged", f"{_named(bad)} must not set securityContext.privileged=true") if bad else None


def host_namespaces(meta: Obj, spec: Obj) -> Violation | None:
    bad = [f"{k}=true" for k in ("hostNetwork", "hostPID", "hostIPC") if spec.get(k)]
    return Violation("host namespaces", ", ".join(bad)) if bad else None


def host_path(meta: Obj, spec: Obj) -> Violation | None:
    bad = [v.get("name", "") for v in spec.get("volumes") or () if v.get("hostPath") is not None]
    return Violation("hostPath volumes", f"volume{'s' if len(bad) > 1 else ''} {_quoted(bad)}") if bad else None


def host_ports(meta: Obj, spec: Obj) -> Violation | None:
    bad, ports = [], set()
    for container in _containers(spec):
        found = [p["hostPort"] for p in container.get("ports") or () if p.get("hostPort")]
        if found:
            bad.append(container.get("name", ""))
            ports.update(found)
    if not bad:
        return None
    uses = "uses" if len(bad) == 1 else "use"
    return Violation(
        "hostPort", f"{_named(bad)} {uses} hostPort{'s' if len(ports) > 1 else ''} {', '.join(str(p) for p in sorted(ports))}"
    )


def proc_mount(meta: Obj, spec: Obj) -> Violation | None:
    bad = _bad(spec, lambda c: _context(c).get("procMount") not in (None, "Default"))
    return Violation("procMount", f'{_named(bad)} must not set securityContext.procMount to "Unmasked"') if bad else None


def _added(container: Obj) -> list[str]:
    return list((_context(container).get("capabilities") or {}).get("add") or ())


def _capabilities(spec: Obj, allowed: frozenset[str], reason: str) -> Violation | None:
    bad = _bad(spec, lambda c: bool(set(_added(c)) - allowed))
    extra = sorted({x for c in _containers(spec) for x in _added(c)} - allowed)
    if not bad:
        return None
    return Violation(reason, f"{_named(bad)} must not include {_quoted(extra)} in securityContext.capabilities.add")


def capabilities_baseline(meta: Obj, spec: Obj) -> Violation | None:
    return _capabilities(spec, _BASELINE_CAPABILITIES, "non-default capabilities")


def capabilities_restricted(meta: Obj, spec: Obj) -> Violation | None:
    details = []
    undropped = _bad(spec, lambda c: "ALL" not in ((_context(c).get("capabilities") or {}).get("drop") or ()))
    if undropped:
        details.append(f'{_named(undropped)} must set securityContext.capabilities.drop=["ALL"]')
    added = _capabilities(spec, frozenset(("NET_BIND_SERVICE",)), "")
    if added is not None:
        details.append(added.detail)
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


def app_armor(meta: Obj, spec: Obj) -> Violation | None:
    bad = []
    prefix = "container.apparmor.security.beta.kubernetes.io/"
    for key, value in sorted((meta.get("annotations") or {}).items()):
        if key.startswith(prefix) and not (value in ("", "runtime/default") or value.startswith("localhost/")):
            bad.append(f'{key}="{value}"')
    for holder in (spec, *_containers(spec)):
        if (_context(holder).get("appArmorProfile") or {}).get("type") == "Unconfined":
            bad.append('securityContext.appArmorProfile.type="Unconfined"')
    if not bad:
        return None
    return Violation(f"forbidden AppArmor profile{'s' if len(bad) > 1 else ''}", ", ".join(dict.fromkeys(bad)))


def selinux(meta: Obj, spec: Obj) -> Violation | None:
    bad = []
    for holder in (spec, *_containers(spec)):
        options = _context(holder).get("seLinuxOptions") or {}
        if options.get("type", "") not in _SELINUX_TYPES:
            bad.append(f'type "{options["type"]}"')
        bad += [f"{key} may not be set" for key in ("user", "role") if options.get(key)]
    return Violation("seLinuxOptions", "; ".join(dict.fromkeys(bad))) if bad else None


def sysctls(meta: Obj, spec: Obj) -> Violation | None:
    bad = [s.get("name", "") for s in _context(spec).get("sysctls") or () if s.get("name") not in _SYSCTLS]
    return Violation("forbidden sysctls", ", ".join(bad)) if bad else None


def host_process(meta: Obj, spec: Obj) -> Violation | None:
    def is_host(holder: Obj) -> bool:
        return bool((_context(holder).get("windowsOptions") or {}).get("hostProcess"))

    bad = _bad(spec, is_host)
    if not bad and not is_host(spec):
        return None
    who = " and ".join([*(["pod"] if is_host(spec) else []), *([_named(bad)] if bad else [])])
    return Violation("hostProcess", f"{who} must not set securityContext.windowsOptions.hostProcess=true")


def _seccomp(holder: Obj) -> str:
    kind: str = (_context(holder).get("seccompProfile") or {}).get("type", "")
    return kind


def seccomp_baseline(meta: Obj, spec: Obj) -> Violation | None:
    bad = _bad(spec, lambda c: _seccomp(c) == "Unconfined")
    who = [*(["pod"] if _seccomp(spec) == "Unconfined" else []), *([_named(bad)] if bad else [])]
    if not who:
        return None
    return Violation("seccompProfile", f'{" and ".join(who)} must not set securityContext.seccompProfile.type to "Unconfined"')


def seccomp_restricted(meta: Obj, spec: Obj) -> Violation | None:
    good = ("RuntimeDefault", "Localhost")
    pod = _seccomp(spec)
    explicit = _bad(spec, lambda c: _seccomp(c) not in ("", *good))
    implicit = _bad(spec, lambda c: not _seccomp(c)) if pod not in good else []
    if pod and pod not in good:
        return Violation("seccompProfile", 'pod must not set securityContext.seccompProfile.type to "Unconfined"')
    if explicit:
        return Violation(
            "seccompProfile", f'{_named(explicit)} must not set securityContext.seccompProfile.type to "Unconfined"'
        )
    if not implicit:
        return None
    text = f'pod or {_named(implicit)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", text)


def volumes_restricted(meta: Obj, spec: Obj) -> Violation | None:
    bad, kinds = [], set()
    for volume in spec.get("volumes") or ():
        found = [k for k in volume if k != "name" and k not in _RESTRICTED_VOLUMES]
        if found:
            bad.append(volume.get("name", ""))
            kinds.update(found)
    if not bad:
        return None
    plural = len(bad) > 1
    text = f"volume{'s' if plural else ''} {_quoted(bad)} {'use' if plural else 'uses'} restricted volume type"
    return Violation("restricted volume types", f"{text}{'s' if len(kinds) > 1 else ''} {_quoted(sorted(kinds))}")


def privilege_escalation(meta: Obj, spec: Obj) -> Violation | None:
    bad = _bad(spec, lambda c: _context(c).get("allowPrivilegeEscalation") is not False)
    text = f"{_named(bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", text) if bad else None


def run_as_non_root(meta: Obj, spec: Obj) -> Violation | None:
    pod = _context(spec).get("runAsNonRoot")
    explicit = _bad(spec, lambda c: _context(c).get("runAsNonRoot") is False)
    implicit = _bad(spec, lambda c: _context(c).get("runAsNonRoot") is None) if not pod else []
    if explicit:
        return Violation("runAsNonRoot != true", f"{_named(explicit)} must not set securityContext.runAsNonRoot=false")
    if pod is False and implicit:
        return Violation("runAsNonRoot != true", "pod must not set securityContext.runAsNonRoot=false")
    if implicit:
        return Violation("runAsNonRoot != true", f"pod or {_named(implicit)} must set securityContext.runAsNonRoot=true")
    return None


def run_as_user(meta: Obj, spec: Obj) -> Violation | None:
    bad = _bad(spec, lambda c: _context(c).get("runAsUser") == 0)
    who = [*(["pod"] if _context(spec).get("runAsUser") == 0 else []), *([_named(bad)] if bad else [])]
    return Violation("runAsUser=0", f"{' and '.join(who)} must not set runAsUser=0") if who else None


def host_in_probes(meta: Obj, spec: Obj) -> Violation | None:
    """Since 1.34: a probe or hook may not be pointed at another host."""
    bad: list[str] = []
    hosts: set[str] = set()
    for container in _containers(spec):
        lifecycle = container.get("lifecycle") or {}
        handlers = [container.get(k) for k in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [lifecycle.get("postStart"), lifecycle.get("preStop")]
        found = {(h.get(k) or {}).get("host", "") for h in handlers if h for k in ("httpGet", "tcpSocket")} - {
            "",
            "127.0.0.1",
            "::1",
        }
        if found:
            bad.append(container.get("name", ""))
            hosts |= found
    if not bad:
        return None
    uses = "uses" if len(bad) == 1 else "use"
    text = f"{_named(bad)} {uses} probe or lifecycle host{'s' if len(hosts) > 1 else ''} {_quoted(sorted(hosts))}"
    return Violation("probe or lifecycle host", text)


BASELINE: tuple[Check, ...] = (
    app_armor,
    capabilities_baseline,
    host_namespaces,
    host_path,
    host_ports,
    host_in_probes,
    privileged,
    proc_mount,
    selinux,
    seccomp_baseline,
    sysctls,
    host_process,
)
RESTRICTED: tuple[Check, ...] = (
    app_armor,
    host_namespaces,
    host_ports,
    host_in_probes,
    privileged,
    proc_mount,
    selinux,
    sysctls,
    host_process,
    privilege_escalation,
    capabilities_restricted,
    volumes_restricted,
    run_as_non_root,
    run_as_user,
    seccomp_restricted,
)


def evaluate(level: str, meta: Obj, spec: Obj) -> str:
    """The violations of a level as upstream joins them, "" when there are none."""
    checks = {"baseline": BASELINE, "restricted": RESTRICTED}.get(level, ())
    found = (check(meta, spec) for check in checks)
    return ", ".join(str(v) for v in found if v is not None)


def template_of(resource: Resource, obj: Obj) -> tuple[Obj, Obj]:
    """``(metadata, spec)`` of the pods that a workload makes."""
    spec = obj.get("spec") or {}
    if resource is resources.PODTEMPLATES:
        template = obj.get("template") or {}
    elif resource is resources.CRONJOBS:
        template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
    else:
        template = spec.get("template") or {}
    return template.get("metadata") or {}, template.get("spec") or {}


class PodSecurity(Plugin):
    name = "PodSecurity"
    operations = ("CREATE", "UPDATE")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def handles(self, resource: Resource, subresource: str, operation: str) -> bool:
        if operation not in self.operations:
            return False
        if resource is resources.PODS:
            return subresource in ("", "ephemeralcontainers")
        return subresource == "" and (resource in _TEMPLATES or resource is resources.NAMESPACES)

    async def validate(self, attrs: Attributes) -> None:
        resource, obj = attrs.ctx.resource, attrs.obj
        assert resource is not None and obj is not None
        if resource is resources.NAMESPACES:
            _validate_labels(obj, attrs.old)
            return
        namespace = self._registry.read(resources.NAMESPACES, attrs.ctx.namespace)
        labels = (namespace or {}).get("metadata", {}).get("labels") or {}
        enforce, warn = labels.get(f"{PREFIX}enforce", ""), labels.get(f"{PREFIX}warn", "")
        if enforce in ("", "privileged") and warn in ("", "privileged"):
            return
        if resource is resources.PODS:
            if attrs.old is not None and attrs.old.get("spec") == obj.get("spec"):
                return
            meta, spec = obj.get("metadata") or {}, obj.get("spec") or {}
            problems = evaluate(enforce, meta, spec)
            if problems:
                version = labels.get(f"{PREFIX}enforce-version", "latest")
                text = f'violates PodSecurity "{enforce}:{version}": {problems}'
                raise forbidden("", "pods", meta.get("name") or meta.get("generateName", ""), text)
        else:
            if attrs.old is not None and template_of(resource, attrs.old) == template_of(resource, obj):
                return
            meta, spec = template_of(resource, obj)
        if warn and (problems := evaluate(warn, meta, spec)):
            version = labels.get(f"{PREFIX}warn-version", "latest")
            attrs.ctx.warnings.append(f'would violate PodSecurity "{warn}:{version}": {problems}')


def _validate_labels(namespace: Obj, old: Obj | None) -> None:
    """A level that is not one is refused when it is written; what is stored already may stay."""
    labels = (namespace.get("metadata") or {}).get("labels") or {}
    before = ((old or {}).get("metadata") or {}).get("labels") or {}
    errors: list[FieldError] = []
    for mode in ("enforce", "audit", "warn"):
        key = PREFIX + mode
        value = labels.get(key)
        if value is not None and value not in LEVELS and before.get(key) != value:
            errors.append(invalid(f"metadata.labels[{key}]", value, f"must be one of {', '.join(LEVELS)}"))
    if errors:
        raise invalid_object("", "Namespace", namespace["metadata"].get("name", ""), errors)
