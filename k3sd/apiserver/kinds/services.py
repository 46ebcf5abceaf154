"""Services. Source: ``pkg/registry/core/service/{strategy,storage/{storage,alloc}}.go``, ``ValidateService*``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import (
    FieldError,
    Obj,
    duplicate,
    forbidden_field,
    invalid,
    invalid_object,
    not_supported,
    required,
)
from k3sd.apimachinery.resource import Resource
from k3sd.apis import resources
from k3sd.apiserver.follow import follow
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.addresses import AddressClaims
from k3sd.apiserver.kinds.allocators import (
    AllocationError,
    ServiceAllocator,
    cluster_ips,
    node_ports,
    owner_of,
)
from k3sd.apiserver.kinds.containers import PROTOCOLS
from k3sd.apiserver.kinds.rules import (
    Errors,
    ip_problem,
    spec_of,
    validate_cidr,
    validate_enum,
    validate_immutable,
    validate_ip,
    validate_labels,
    validate_names,
    validate_port,
    validate_port_or_name,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy, Undo

if TYPE_CHECKING:
    from k3sd.apiserver.registry import Registry

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_POLICIES = ("Cluster", "Local")
_FAMILY_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
_MAX_AFFINITY_SECONDS = 86400
_CLAIM_ATTEMPTS = 16


def needs_cluster_ip(spec: Obj) -> bool:
    return spec.get("type") != "ExternalName"


def needs_node_port(spec: Obj) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True))


def needs_health_port(spec: Obj) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def is_headless(spec: Obj) -> bool:
    return bool(spec.get("clusterIP") == "None")


@strategy(resources.SERVICES)
class ServiceStrategy(Strategy):
    name_rule = "dns1035-label"

    def __init__(self, resource: Resource, registry: Registry) -> None:
        super().__init__(resource, registry)
        self._allocator: ServiceAllocator | None = None
        self.claims = AddressClaims(registry)

    @property
    def allocator(self) -> ServiceAllocator:
        """Filled from the cache when first needed; follows its events from then on."""
        if self._allocator is None:
            settings = self.registry.settings
            low, high = settings.service_node_port_range
            allocator = ServiceAllocator(settings.service_cidr, (low, high))

            def on_service(event: str, obj: Obj, old: Obj | None) -> None:
                allocator.observe(event, obj, old)
                self.claims.on_service(event, obj, old)

            follow(self.registry, self.resource, on_service, with_old=True)
            follow(self.registry, resources.SERVICECIDRS, allocator.on_cidr)
            self._allocator = allocator
        return self._allocator

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        _normalize_cluster_ips(spec_of(obj), None)

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_service(obj, errs)
        return errs

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        spec, old_spec = spec_of(new), spec_of(old)
        _patch_allocated(spec, old_spec)
        _normalize_cluster_ips(spec, old_spec)
        _drop_type_dependent(spec, old_spec)

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        spec, old_spec = spec_of(new), spec_of(old)
        if needs_cluster_ip(old_spec) and needs_cluster_ip(spec):
            current, previous = spec.get("clusterIPs") or [], old_spec.get("clusterIPs") or []
            if previous and previous[0] != (current[0] if current else ""):
                errs.append(invalid("spec.clusterIPs[0]", current, "may not change once set"))
        if old_spec.get("type") == "LoadBalancer" == spec.get("type"):
            before = old_spec.get("loadBalancerClass")
            if before is not None or spec.get("loadBalancerClass") is None:
                validate_immutable(spec.get("loadBalancerClass"), before, "spec.loadBalancerClass", errs)
        validate_service(new, errs)
        return errs

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        ingress = ((new.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        for i, entry in enumerate(ingress):
            path = f"status.loadBalancer.ingress[{i}]"
            if entry.get("ip"):
                validate_ip(entry["ip"], f"{path}.ip", errs)
            if entry.get("hostname"):
                validate_names(names.dns1123_subdomain, entry["hostname"], f"{path}.hostname", errs)
        return errs

    def prepare_status(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        status = new.setdefault("status", {})
        status.setdefault("loadBalancer", {})

    async def begin_create(self, ctx: RequestContext, obj: Obj) -> Undo | None:
        return await self._allocate(ctx, obj, None)

    async def begin_update(self, ctx: RequestContext, new: Obj, old: Obj) -> Undo | None:
        if spec_of(new) == spec_of(old):
            return None
        return await self._allocate(ctx, new, old)

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        spec = spec_of(obj)
        return {"spec.clusterIP": spec.get("clusterIP", ""), "spec.type": spec.get("type", "")}

    async def _allocate(self, ctx: RequestContext, obj: Obj, old: Obj | None) -> Undo | None:
        """Reserve what the new Service needs beyond the old one; what it no longer needs is freed by the write's own event."""
        owner = owner_of(obj)
        held_ips = cluster_ips(old) if old is not None else set()
        held_ports = node_ports(old) if old is not None else set()
        taken: list[tuple[str, str | int]] = []
        done = False
        try:
            self._allocate_families(obj, old)
            self._allocate_ports(obj, held_ports, owner, taken)
            await self._allocate_ips(ctx, obj, held_ips, owner, taken)
            done = not ctx.dry_run
        finally:
            if not done:
                await self._return(ctx, obj, taken)

        async def undo() -> None:
            await self._return(ctx, obj, taken)

        return undo if taken and done else None

    async def _return(self, ctx: RequestContext, obj: Obj, taken: list[tuple[str, str | int]]) -> None:
        ips = {str(v) for kind, v in taken if kind == "ip"}
        ports = {int(v) for kind, v in taken if kind == "port"}
        self.allocator.release(owner_of(obj), ips, ports)
        if not ctx.dry_run:
            for ip in ips:
                await self.claims.release(ip, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])

    def _fail(self, obj: Obj, error: FieldError) -> Exception:
        return invalid_object("", "Service", obj["metadata"].get("name", ""), [error])

    def _allocate_families(self, obj: Obj, old: Obj | None) -> None:
        """``initIPFamilyFields``: policy and families from what is given and what the cluster has."""
        spec = spec_of(obj)
        if not needs_cluster_ip(spec):
            return
        available = self.allocator.families
        ips = [ip for ip in spec.get("clusterIPs") or [] if ip != "None"]
        families = list(spec.get("ipFamilies") or [])
        for i, ip in enumerate(ips):
            family = "IPv6" if ":" in ip else "IPv4"
            if i >= len(families):
                families.append(family)
            elif families[i] != family:
                text = f"expected an {families[i]} value as indicated by `ipFamilies[{i}]`"
                raise self._fail(obj, invalid(f"spec.clusterIPs[{i}]", spec["clusterIPs"], text))
        policy = spec.get("ipFamilyPolicy")
        headless_free = is_headless(spec) and not spec.get("selector")
        if policy is None:
            policy = "RequireDualStack" if headless_free and not families else "SingleStack"
            if len(families) > 1 or len(ips) > 1:
                policy = "RequireDualStack"
        for i, family in enumerate(families):
            if family not in available and not headless_free:
                raise self._fail(obj, invalid(f"spec.ipFamilies[{i}]", family, "not configured on this cluster"))
        if policy == "RequireDualStack" and len(available) < 2 and not headless_free:
            raise self._fail(
                obj, invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
            )
        if not families:
            families = [available[0]]
        wanted = 1 if policy == "SingleStack" else 2
        if len(families) < wanted:
            other = "IPv6" if families[0] == "IPv4" else "IPv4"
            if other in available or headless_free:
                families.append(other)
        if old is not None and policy == "SingleStack":
            families = families[:1]
            spec["clusterIPs"] = (spec.get("clusterIPs") or [])[:1]
        if headless_free and spec.get("ipFamilyPolicy") is None and not spec.get("ipFamilies") and len(available) < 2:
            policy, families = "SingleStack", families[:1]
        spec["ipFamilyPolicy"], spec["ipFamilies"] = policy, families

    async def _allocate_ips(
        self, ctx: RequestContext, obj: Obj, held: set[str], owner: str, taken: list[tuple[str, str | int]]
    ) -> None:
        spec = spec_of(obj)
        if not needs_cluster_ip(spec) or is_headless(spec):
            return
        given = list(spec.get("clusterIPs") or [])
        result: list[str] = []
        for i, family in enumerate(spec["ipFamilies"]):
            wanted = given[i] if i < len(given) else ""
            if wanted in held:
                result.append(wanted)
                continue
            if family not in self.allocator.families:
                continue
            try:
                result.append(await self._take_ip(ctx, obj, family, wanted, owner, taken))
            except AllocationError as error:
                text = f"failed to allocate IP {wanted}: {error}" if wanted else f"failed to allocate a serviceIP: {error}"
                raise self._fail(obj, invalid("spec.clusterIPs", [wanted] if wanted else [], text)) from None
        spec["clusterIPs"], spec["clusterIP"] = result, result[0]

    async def _take_ip(
        self, ctx: RequestContext, obj: Obj, family: str, wanted: str, owner: str, taken: list[tuple[str, str | int]]
    ) -> str:
        """Reserve here, then in the store, where another server may have been faster. Raises AllocationError."""
        meta = obj["metadata"]
        for _ in range(_CLAIM_ATTEMPTS):
            if wanted:
                self.allocator.take(family, wanted, owner)
            ip = wanted or self.allocator.take_next(family, owner)
            if ctx.dry_run or await self.claims.claim(ip, meta.get("namespace", ""), meta["name"]):
                taken.append(("ip", ip))
                return ip
            self.allocator.release(owner, {ip}, set())
            if wanted:
                raise AllocationError("provided IP is already allocated")
        raise AllocationError("range is full")

    def _allocate_ports(self, obj: Obj, held: set[int], owner: str, taken: list[tuple[str, str | int]]) -> None:
        spec = spec_of(obj)
        mine = set(held)
        ports = self.allocator.ports
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            by_number: dict[int, int] = {}
            for i, port in enumerate(spec.get("ports") or []):
                number = port.get("nodePort") or 0
                if not number and not needs_node_port(spec):
                    continue
                if not number:
                    # TCP and UDP of one port number share one node port where the other one is known.
                    number = by_number.get(port["port"], 0)
                    if not number or any(
                        p.get("nodePort") == number and p.get("protocol") == port.get("protocol") for p in spec["ports"]
                    ):
                        number = 0
                try:
                    if not number:
                        number = ports.take_next(owner)
                        taken.append(("port", number))
                    elif number not in mine:
                        ports.take(number, owner)
                        taken.append(("port", number))
                except AllocationError as error:
                    raise self._fail(obj, invalid(f"spec.ports[{i}].nodePort", number, str(error))) from None
                mine.add(number)
                port["nodePort"] = number
                by_number.setdefault(port["port"], number)
        if needs_health_port(spec):
            number = spec.get("healthCheckNodePort") or 0
            if number not in mine:
                try:
                    if number:
                        ports.take(number, owner)
                    else:
                        number = ports.take_next(owner)
                except AllocationError as error:
                    raise self._fail(obj, invalid("spec.healthCheckNodePort", number, str(error))) from None
                taken.append(("port", number))
                spec["healthCheckNodePort"] = number


def _normalize_cluster_ips(spec: Obj, old: Obj | None) -> None:
    """``normalizeClusterIPs``: clusterIP and clusterIPs follow each other."""
    ip, ips = spec.get("clusterIP", ""), spec.get("clusterIPs") or []
    if old is None:
        if ip and not ips:
            spec["clusterIPs"] = [ip]
        return
    old_ip, old_ips = old.get("clusterIP", ""), old.get("clusterIPs") or []
    if old_ip and not ip and ips == old_ips:
        spec.pop("clusterIPs", None)
    elif (old_ip and ip and ip != old_ip and ips == old_ips) or (not old_ip and ip and not ips):
        spec["clusterIPs"] = [ip]


def _patch_allocated(spec: Obj, old: Obj) -> None:
    """``patchAllocatedValues``: what a client left out of an update stays."""
    if needs_cluster_ip(spec) and needs_cluster_ip(old):
        if not spec.get("clusterIP") and old.get("clusterIP"):
            spec["clusterIP"] = old["clusterIP"]
        if not spec.get("clusterIPs") and spec.get("clusterIP") == old.get("clusterIP") and old.get("clusterIPs"):
            spec["clusterIPs"] = list(old["clusterIPs"])
        for key in ("ipFamilyPolicy", "ipFamilies"):
            if not spec.get(key) and old.get(key) and spec.get("clusterIPs") == old.get("clusterIPs"):
                spec[key] = old[key]
    if needs_node_port(spec) and needs_node_port(old):
        used = {p.get("nodePort") for p in spec.get("ports") or []}
        by_key = {(p.get("protocol", "TCP"), p.get("port")): p.get("nodePort") for p in old.get("ports") or []}
        for port in spec.get("ports") or []:
            number = by_key.get((port.get("protocol", "TCP"), port.get("port")))
            if not port.get("nodePort") and number and number not in used:
                port["nodePort"] = number
    health = "healthCheckNodePort"
    if needs_health_port(spec) and needs_health_port(old) and not spec.get(health) and old.get(health):
        spec[health] = old[health]


def _drop_type_dependent(spec: Obj, old: Obj) -> None:
    """``dropTypeDependentFields``: a change of type drops what the old type had and the client did not touch."""
    if needs_cluster_ip(old) and not needs_cluster_ip(spec):
        if spec.get("clusterIP") == old.get("clusterIP") and (spec.get("clusterIPs") or []) == (old.get("clusterIPs") or []):
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
        _drop_unchanged(spec, old, "ipFamilies")
        _drop_unchanged(spec, old, "ipFamilyPolicy")
    if needs_node_port(old) and not needs_node_port(spec):
        numbers = [p.get("nodePort") for p in spec.get("ports") or []]
        if numbers == [p.get("nodePort") for p in old.get("ports") or []] or set(numbers) <= node_ports({"spec": old}):
            for port in spec.get("ports") or []:
                port.pop("nodePort", None)
    if needs_health_port(old) and not needs_health_port(spec):
        _drop_unchanged(spec, old, "healthCheckNodePort")
    if old.get("type") == "LoadBalancer" != spec.get("type"):
        _drop_unchanged(spec, old, "allocateLoadBalancerNodePorts")
        _drop_unchanged(spec, old, "loadBalancerClass")
    external = ("NodePort", "LoadBalancer")
    if old.get("type") in external and spec.get("type") not in external and not spec.get("externalIPs"):
        _drop_unchanged(spec, old, "externalTrafficPolicy")
    if spec.get("type") == "ExternalName" and old.get("type") != "ExternalName":
        _drop_unchanged(spec, old, "internalTrafficPolicy")


def _drop_unchanged(spec: Obj, old: Obj, key: str) -> None:
    if spec.get(key) == old.get(key):
        spec.pop(key, None)


def validate_service(service: Obj, errs: Errors) -> None:
    """``ValidateService``."""
    spec = spec_of(service)
    kind = spec.get("type", "")
    if not spec.get("ports") and not is_headless(spec) and kind != "ExternalName":
        errs.append(required("spec.ports"))
    if kind in ("LoadBalancer", "NodePort", "ClusterIP"):
        if is_headless(spec) and kind != "ClusterIP":
            name = "LoadBalancer" if kind == "LoadBalancer" else "NodePort"
            errs.append(invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {name} services"))
    elif kind == "ExternalName":
        _validate_external_name(spec, errs)
    validate_enum(kind, TYPES, "spec.type", errs)
    _validate_ports(spec, errs)
    validate_labels(spec.get("selector"), "spec.selector", errs)
    _validate_affinity(spec, errs)
    if needs_cluster_ip(spec):
        _validate_cluster_ips(spec, errs)
    for i, ip in enumerate(spec.get("externalIPs") or []):
        path = f"spec.externalIPs[{i}]"
        if problem := ip_problem(ip):
            errs.append(invalid(path, ip, problem))
        elif ip.startswith(("127.", "169.254.", "224.0.0.")) or ip in ("0.0.0.0", "::", "::1"):
            errs.append(
                invalid(path, ip, "may not be unspecified, loopback or link-local (0.0.0.0, 127.0.0.0/8, 169.254.0.0/16)")
            )
    if spec.get("loadBalancerSourceRanges"):
        if kind != "LoadBalancer":
            errs.append(forbidden_field("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"))
        for i, cidr in enumerate(spec["loadBalancerSourceRanges"]):
            validate_cidr(cidr.strip(), f"spec.loadBalancerSourceRanges[{i}]", errs)
    if kind != "LoadBalancer":
        for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(key) is not None:
                errs.append(forbidden_field(f"spec.{key}", "may only be used when `type` is 'LoadBalancer'"))
    elif spec.get("loadBalancerClass"):
        validate_names(names.qualified_name, spec["loadBalancerClass"], "spec.loadBalancerClass", errs)
    _validate_traffic(spec, kind, errs)


def _validate_external_name(spec: Obj, errs: Errors) -> None:
    for key in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(key):
            field = "spec.clusterIPs" if key == "clusterIPs" else f"spec.{key}"
            errs.append(forbidden_field(field, "may not be set for ExternalName services"))
    name = (spec.get("externalName") or "").removesuffix(".")
    if not name:
        errs.append(required("spec.externalName"))
    else:
        validate_names(names.dns1123_subdomain, name, "spec.externalName", errs)


def _validate_ports(spec: Obj, errs: Errors) -> None:
    ports = spec.get("ports") or []
    kind = spec.get("type", "")
    seen_names: set[str] = set()
    seen: set[tuple[str, int]] = set()
    seen_node: set[tuple[str, int]] = set()
    for i, port in enumerate(ports):
        path = f"spec.ports[{i}]"
        name, number, protocol = port.get("name", ""), port.get("port", 0), port.get("protocol", "")
        if not name:
            if len(ports) > 1:
                errs.append(required(f"{path}.name"))
        else:
            validate_names(names.dns1123_label, name, f"{path}.name", errs)
            if name in seen_names:
                errs.append(duplicate(f"{path}.name", name))
            seen_names.add(name)
        validate_port(number, f"{path}.port", errs)
        validate_enum(protocol, PROTOCOLS, f"{path}.protocol", errs)
        if "targetPort" in port:
            validate_port_or_name(port["targetPort"], f"{path}.targetPort", errs)
        if port.get("appProtocol"):
            validate_names(names.qualified_name, port["appProtocol"], f"{path}.appProtocol", errs)
        if (protocol, number) in seen:
            errs.append(duplicate(path, {"port": number, "protocol": protocol}))
        seen.add((protocol, number))
        node_port = port.get("nodePort") or 0
        if not node_port:
            continue
        if kind in ("ClusterIP", "ExternalName"):
            errs.append(forbidden_field(f"{path}.nodePort", f"may not be used when `type` is '{kind}'"))
        if (protocol, node_port) in seen_node:
            errs.append(duplicate(f"{path}.nodePort", node_port))
        seen_node.add((protocol, node_port))


def _validate_affinity(spec: Obj, errs: Errors) -> None:
    affinity = spec.get("sessionAffinity")
    validate_enum(affinity, ("ClientIP", "None"), "spec.sessionAffinity", errs)
    config = spec.get("sessionAffinityConfig")
    if affinity == "None" and config is not None:
        errs.append(forbidden_field("spec.sessionAffinityConfig", "must not be set when session affinity is None"))
    if affinity == "ClientIP" and config is not None:
        client = config.get("clientIP")
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        if client is None or client.get("timeoutSeconds") is None:
            errs.append(required(path, "when session affinity type is ClientIP"))
        elif not 0 < client["timeoutSeconds"] <= _MAX_AFFINITY_SECONDS:
            text = f"must be greater than 0 and less than or equal to {_MAX_AFFINITY_SECONDS}"
            errs.append(invalid(path, client["timeoutSeconds"], text))


def _validate_cluster_ips(spec: Obj, errs: Errors) -> None:
    """``ValidateServiceClusterIPsRelatedFields``."""
    ips, families = spec.get("clusterIPs") or [], spec.get("ipFamilies") or []
    for i, family in enumerate(families):
        if family not in ("IPv4", "IPv6"):
            errs.append(not_supported(f"spec.ipFamilies[{i}]", family, ["IPv4", "IPv6"]))
        elif family in families[:i]:
            errs.append(duplicate(f"spec.ipFamilies[{i}]", family))
    if spec.get("ipFamilyPolicy") and spec["ipFamilyPolicy"] not in _FAMILY_POLICIES:
        errs.append(not_supported("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], _FAMILY_POLICIES))
    if len(ips) > 1 and spec.get("ipFamilyPolicy") == "SingleStack":
        errs.append(
            invalid(
                "spec.ipFamilyPolicy",
                "SingleStack",
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple `clusterIPs` are specified",
            )
        )
    if spec.get("clusterIP") and ips and spec["clusterIP"] != ips[0]:
        errs.append(invalid("spec.clusterIP", spec["clusterIP"], "must match `clusterIPs[0]`"))
    elif spec.get("clusterIP") and not ips:
        errs.append(required("spec.clusterIPs"))
    if len(ips) > 1 and "None" in ips:
        errs.append(invalid("spec.clusterIPs", ips, "'None' must be the first and only value"))
        return
    if len(ips) > 2:
        errs.append(invalid("spec.clusterIPs", ips, "may only hold up to 2 values"))
    for i, ip in enumerate(ips):
        if ip != "None" and (problem := ip_problem(ip)):
            errs.append(invalid(f"spec.clusterIPs[{i}]", ip, problem))


def _validate_traffic(spec: Obj, kind: str, errs: Errors) -> None:
    external = spec.get("externalTrafficPolicy")
    facing = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))
    if external:
        if not facing:
            errs.append(invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services"))
        elif external not in _POLICIES:
            errs.append(not_supported("spec.externalTrafficPolicy", external, _POLICIES))
    elif facing:
        errs.append(required("spec.externalTrafficPolicy", "must be set for externally-accessible services"))
    health = spec.get("healthCheckNodePort")
    if health and not needs_health_port(spec):
        text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        errs.append(invalid("spec.healthCheckNodePort", health, text))
    internal = spec.get("internalTrafficPolicy")
    if kind in ("NodePort", "LoadBalancer", "ClusterIP"):
        validate_enum(internal, _POLICIES, "spec.internalTrafficPolicy", errs)
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        errs.append(
            not_supported("spec.trafficDistribution", distribution, ["PreferClose", "PreferSameNode", "PreferSameZone"])
        )
