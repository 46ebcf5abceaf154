"""Endpoints, EndpointSlices, Leases. Source: ``ValidateEndpoints``, ``pkg/apis/{discovery,coordination}/validation``."""

from __future__ import annotations

import ipaddress

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, duplicate, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.containers import PROTOCOLS
from k3sd.apiserver.kinds.rules import (
    Errors,
    ip_problem,
    spec_of,
    validate_immutable,
    validate_names,
    validate_port,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
MAX_ADDRESSES = 100


def validate_endpoint_ip(value: str, field: str, errs: Errors) -> None:
    """``ValidateEndpointIP``: neither unspecified, loopback, link-local nor multicast."""
    if problem := ip_problem(value):
        errs.append(invalid(field, value, problem))
        return
    ip = ipaddress.ip_address(value)
    if ip.is_unspecified:
        errs.append(invalid(field, value, f"may not be unspecified ({value})"))
    if ip.is_loopback:
        errs.append(invalid(field, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
    if ip.is_link_local:
        errs.append(invalid(field, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
    if ip.is_multicast and ip.version == 4 and value.startswith("224.0.0."):
        errs.append(invalid(field, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))


@strategy(resources.ENDPOINTS)
class EndpointsStrategy(Strategy):
    has_status = False

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        for i, subset in enumerate(obj.get("subsets") or []):
            path = f"subsets[{i}]"
            if not subset.get("addresses") and not subset.get("notReadyAddresses"):
                errs.append(required(path, "must specify `addresses` or `notReadyAddresses`"))
            for key in ("addresses", "notReadyAddresses"):
                for j, address in enumerate(subset.get(key) or []):
                    where = f"{path}.{key}[{j}]"
                    validate_endpoint_ip(address.get("ip", ""), f"{where}.ip", errs)
                    if address.get("hostname"):
                        validate_names(names.dns1123_label, address["hostname"], f"{where}.hostname", errs)
                    if address.get("nodeName"):
                        validate_names(names.dns1123_subdomain, address["nodeName"], f"{where}.nodeName", errs)
            ports = subset.get("ports") or []
            for j, port in enumerate(ports):
                where = f"{path}.ports[{j}]"
                if not port.get("name"):
                    if len(ports) > 1:
                        errs.append(required(f"{where}.name"))
                else:
                    validate_names(names.dns1123_label, port["name"], f"{where}.name", errs)
                validate_port(port.get("port", 0), f"{where}.port", errs)
                if not port.get("protocol"):
                    errs.append(required(f"{where}.protocol"))
                elif port["protocol"] not in PROTOCOLS:
                    errs.append(not_supported(f"{where}.protocol", port["protocol"], PROTOCOLS))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return [] if new.get("subsets") == old.get("subsets") else self.validate_create(ctx, new)


@strategy(resources.ENDPOINTSLICES)
class EndpointSliceStrategy(Strategy):
    has_status = False

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        obj["metadata"]["generation"] = 1

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        """Label and annotation changes count too: consumers watch the generation for anything that matters to them."""
        generation = int(old["metadata"].get("generation") or 0)
        changed = any(new.get(k) != old.get(k) for k in ("endpoints", "ports", "addressType"))
        changed = changed or any(new["metadata"].get(k) != old["metadata"].get(k) for k in ("labels", "annotations"))
        new["metadata"]["generation"] = generation + changed

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        kind = obj.get("addressType", "")
        if not kind:
            errs.append(required("addressType"))
        elif kind not in ("IPv4", "IPv6", "FQDN"):
            errs.append(not_supported("addressType", kind, ["FQDN", "IPv4", "IPv6"]))
        _validate_endpoints(obj.get("endpoints") or [], kind, errs)
        _validate_slice_ports(obj.get("ports") or [], errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(new.get("addressType"), old.get("addressType"), "addressType", errs)
        if any(new.get(k) != old.get(k) for k in ("endpoints", "ports")):
            errs += self.validate_create(ctx, new)
        return errs


def _validate_endpoints(endpoints: list[Obj], kind: str, errs: Errors) -> None:
    if len(endpoints) > MAX_ENDPOINTS:
        errs.append(
            FieldError("FieldValueTooMany", "endpoints", f"Too many: {len(endpoints)}: must have at most {MAX_ENDPOINTS} items")
        )
        return
    for i, endpoint in enumerate(endpoints):
        path = f"endpoints[{i}]"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            errs.append(required(f"{path}.addresses", "must contain at least 1 address"))
        elif len(addresses) > MAX_ADDRESSES:
            errs.append(
                FieldError(
                    "FieldValueTooMany",
                    f"{path}.addresses",
                    f"Too many: {len(addresses)}: must have at most {MAX_ADDRESSES} items",
                )
            )
        for j, address in enumerate(addresses):
            where = f"{path}.addresses[{j}]"
            if address in addresses[:j]:
                errs.append(duplicate(where, address))
            if kind == "FQDN":
                errs += names.fully_qualified_name(address, where)
                continue
            before = len(errs)
            validate_endpoint_ip(address, where, errs)
            if len(errs) == before and (":" in address) != (kind == "IPv6"):
                errs.append(invalid(where, address, f"must be an {kind} address"))
        if endpoint.get("nodeName"):
            validate_names(names.dns1123_subdomain, endpoint["nodeName"], f"{path}.nodeName", errs)
        if endpoint.get("hostname") is not None:
            validate_names(names.dns1123_label, endpoint["hostname"], f"{path}.hostname", errs)
        if "kubernetes.io/hostname" in (endpoint.get("deprecatedTopology") or {}):
            errs.append(
                invalid(f"{path}.deprecatedTopology[kubernetes.io/hostname]", "", "may not be set unless nodeName is set")
            )


def _validate_slice_ports(ports: list[Obj], errs: Errors) -> None:
    if len(ports) > MAX_PORTS:
        errs.append(FieldError("FieldValueTooMany", "ports", f"Too many: {len(ports)}: must have at most {MAX_PORTS} items"))
        return
    seen: set[str] = set()
    for i, port in enumerate(ports):
        path = f"ports[{i}]"
        name = port.get("name") or ""
        if name:
            validate_names(names.dns1123_label, name, f"{path}.name", errs)
        if name in seen:
            errs.append(duplicate(f"{path}.name", name))
        seen.add(name)
        if port.get("port") is not None:
            validate_port(port["port"], f"{path}.port", errs)
        protocol = port.get("protocol")
        if not protocol:
            errs.append(required(f"{path}.protocol"))
        elif protocol not in PROTOCOLS:
            errs.append(not_supported(f"{path}.protocol", protocol, PROTOCOLS))
        if port.get("appProtocol"):
            validate_names(names.qualified_name, port["appProtocol"], f"{path}.appProtocol", errs)


@strategy(resources.LEASES)
class LeaseStrategy(Strategy):
    has_status = False
    allow_create_on_update = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        duration = spec.get("leaseDurationSeconds")
        if duration is not None and duration <= 0:
            errs.append(invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"))
        transitions = spec.get("leaseTransitions")
        if transitions is not None and transitions < 0:
            errs.append(invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
        kind = spec.get("strategy")
        if kind is not None and kind != "OldestEmulationVersion" and "/" not in kind:
            errs.append(not_supported("spec.strategy", kind, ["OldestEmulationVersion"]))
        if spec.get("preferredHolder") and not kind:
            errs.append(forbidden_field("spec.preferredHolder", "may only be specified if `strategy` is defined"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)
