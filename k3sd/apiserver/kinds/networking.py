"""NetworkPolicies, Ingresses, IngressClasses, IPAddresses, ServiceCIDRs. Source: ``pkg/apis/networking/validation``."""

from __future__ import annotations

import ipaddress

from k3sd.apimachinery import validation as names
from k3sd.apimachinery.errors import FieldError, Obj, forbidden_field, invalid, not_supported, required
from k3sd.apis import resources
from k3sd.apiserver.kinds import strategy
from k3sd.apiserver.kinds.containers import PROTOCOLS
from k3sd.apiserver.kinds.rules import (
    Errors,
    ip_problem,
    spec_of,
    validate_cidr,
    validate_immutable,
    validate_label_selector,
    validate_names,
    validate_port,
    validate_port_or_name,
)
from k3sd.apiserver.request import RequestContext
from k3sd.apiserver.strategy import Strategy

PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")


@strategy(resources.NETWORKPOLICIES)
class NetworkPolicyStrategy(Strategy):
    has_status = False
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        validate_label_selector(spec.get("podSelector"), "spec.podSelector", errs)
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for i, rule in enumerate(spec.get(direction) or []):
                path = f"spec.{direction}[{i}]"
                for j, port in enumerate(rule.get("ports") or []):
                    _validate_policy_port(port, f"{path}.ports[{j}]", errs)
                for j, peer in enumerate(rule.get(peers) or []):
                    _validate_peer(peer, f"{path}.{peers}[{j}]", errs)
        kinds = spec.get("policyTypes") or []
        if len(kinds) > 2:
            errs.append(invalid("spec.policyTypes", kinds, "may not specify more than two policyTypes"))
        for i, kind in enumerate(kinds):
            if kind not in ("Ingress", "Egress"):
                errs.append(not_supported(f"spec.policyTypes[{i}]", kind, ["Egress", "Ingress"]))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        return self.validate_create(ctx, new)


def _validate_policy_port(port: Obj, path: str, errs: Errors) -> None:
    protocol, number, end = port.get("protocol"), port.get("port"), port.get("endPort")
    if protocol is not None and protocol not in PROTOCOLS:
        errs.append(not_supported(f"{path}.protocol", protocol, PROTOCOLS))
    if number is None:
        if end is not None:
            errs.append(invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified"))
        return
    if isinstance(number, str):
        if end is not None:
            errs.append(invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric"))
        validate_names(names.port_name, number, f"{path}.port", errs)
        return
    validate_port(number, f"{path}.port", errs)
    if end is not None:
        if end < number:
            errs.append(invalid(f"{path}.endPort", end, "must be greater than or equal to `port`"))
        validate_port(end, f"{path}.endPort", errs)


def _validate_peer(peer: Obj, path: str, errs: Errors) -> None:
    selects = [k for k in ("podSelector", "namespaceSelector") if peer.get(k) is not None]
    for key in selects:
        validate_label_selector(peer[key], f"{path}.{key}", errs)
    block = peer.get("ipBlock")
    if block is not None:
        cidr = block.get("cidr", "")
        if not cidr:
            errs.append(required(f"{path}.ipBlock.cidr"))
        else:
            validate_cidr(cidr, f"{path}.ipBlock.cidr", errs)
        for i, inner in enumerate(block.get("except") or []):
            before = len(errs)
            validate_cidr(inner, f"{path}.ipBlock.except[{i}]", errs)
            if len(errs) == before and "/" in cidr and not _is_strictly_inside(inner, cidr):
                errs.append(invalid(f"{path}.ipBlock.except[{i}]", inner, "must be a strict subset of `cidr`"))
        if selects:
            errs.append(forbidden_field(path, "may not specify both ipBlock and another peer"))
    elif not selects:
        errs.append(required(path, "must specify a peer"))


def _is_strictly_inside(inner: str, outer: str) -> bool:
    a, b = ipaddress.ip_network(inner, strict=False), ipaddress.ip_network(outer, strict=False)
    return a.version == b.version and a.prefixlen > b.prefixlen and a.network_address in b


@strategy(resources.INGRESSES)
class IngressStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        annotations = obj["metadata"].get("annotations") or {}
        if "kubernetes.io/ingress.class" in annotations and spec_of(obj).get("ingressClassName") is not None:
            errs.append(
                invalid(
                    "annotations.kubernetes.io/ingress.class",
                    annotations["kubernetes.io/ingress.class"],
                    "can not be set when the class field is also set",
                )
            )
        self._validate(obj, errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        self._validate(new, errs)
        return errs

    def _validate(self, obj: Obj, errs: Errors) -> None:
        spec = spec_of(obj)
        backend = spec.get("defaultBackend")
        if not spec.get("rules") and backend is None:
            errs.append(invalid("spec", spec.get("rules") or [], "either `defaultBackend` or `rules` must be specified"))
        if backend is not None:
            _validate_backend(backend, "spec.defaultBackend", errs)
        for i, rule in enumerate(spec.get("rules") or []):
            _validate_rule(rule, f"spec.rules[{i}]", errs)
        for i, tls in enumerate(spec.get("tls") or []):
            for j, host in enumerate(tls.get("hosts") or []):
                _validate_host(host, f"spec.tls[{i}].hosts[{j}]", errs)
            if tls.get("secretName"):
                validate_names(names.dns1123_subdomain, tls["secretName"], f"spec.tls[{i}].secretName", errs)
        if spec.get("ingressClassName") is not None:
            validate_names(names.dns1123_subdomain, spec["ingressClassName"], "spec.ingressClassName", errs)

    def validate_status(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        for i, entry in enumerate(((new.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []):
            path = f"status.loadBalancer.ingress[{i}]"
            if entry.get("ip") and (problem := ip_problem(entry["ip"])):
                errs.append(invalid(f"{path}.ip", entry["ip"], problem))
            if entry.get("hostname"):
                validate_names(names.dns1123_subdomain, entry["hostname"], f"{path}.hostname", errs)
        return errs


def _validate_host(host: str, path: str, errs: Errors) -> None:
    rule = names.wildcard_dns1123_subdomain if "*" in host else names.dns1123_subdomain
    validate_names(rule, host, path, errs)


def _validate_rule(rule: Obj, path: str, errs: Errors) -> None:
    host = rule.get("host", "")
    if host:
        if not ip_problem(host):
            errs.append(invalid(f"{path}.host", host, "must be a DNS name, not an IP address"))
        _validate_host(host, f"{path}.host", errs)
    http = rule.get("http")
    if http is None:
        return
    if not http.get("paths"):
        errs.append(required(f"{path}.http.paths"))
    for i, entry in enumerate(http.get("paths") or []):
        where = f"{path}.http.paths[{i}]"
        kind, text = entry.get("pathType"), entry.get("path", "")
        if not kind:
            errs.append(required(f"{where}.pathType", "pathType must be specified"))
        elif kind not in PATH_TYPES:
            errs.append(not_supported(f"{where}.pathType", kind, PATH_TYPES))
        elif kind in ("Exact", "Prefix"):
            if not text.startswith("/"):
                errs.append(invalid(f"{where}.path", text, "must be an absolute path"))
            for bad in ("//", "/./", "/../", "%2f", "%2F"):
                if bad in text:
                    errs.append(invalid(f"{where}.path", text, f"must not contain '{bad}'"))
            for bad in ("/..", "/."):
                if text.endswith(bad):
                    errs.append(invalid(f"{where}.path", text, f"cannot end with '{bad}'"))
        elif text and not text.startswith("/"):
            errs.append(invalid(f"{where}.path", text, "must be an absolute path"))
        _validate_backend(entry.get("backend") or {}, f"{where}.backend", errs)


def _validate_backend(backend: Obj, path: str, errs: Errors) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if resource is not None and service is not None:
        errs.append(invalid(path, "", "cannot set both resource and service backends"))
    elif resource is not None:
        for key in ("kind", "name"):
            if not resource.get(key):
                errs.append(required(f"{path}.resource.{key}"))
    elif service is None:
        errs.append(required(path, "resource or service backend is required"))
    else:
        if not service.get("name"):
            errs.append(required(f"{path}.service.name"))
        else:
            validate_names(names.dns1035_label, service["name"], f"{path}.service.name", errs)
        port = service.get("port") or {}
        if port.get("name") and port.get("number"):
            errs.append(invalid(path, "", "cannot set both port name & port number"))
        elif not port.get("name") and not port.get("number"):
            errs.append(required(path, "port name or number is required"))
        else:
            field = "name" if port.get("name") else "number"
            validate_port_or_name(port.get("name") or port["number"], f"{path}.service.port.{field}", errs)


@strategy(resources.INGRESSCLASSES)
class IngressClassStrategy(Strategy):
    has_status = False
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        spec = spec_of(obj)
        controller = spec.get("controller", "")
        if not controller:
            errs.append(required("spec.controller"))
        else:
            if len(controller) > 250:
                errs.append(FieldError("FieldValueTooLong", "spec.controller", "Too long: may not be more than 250 bytes"))
            errs += names.domain_prefixed_path(controller, "spec.controller")
        params = spec.get("parameters")
        if params is not None:
            path = "spec.parameters"
            for key in ("kind", "name"):
                if not params.get(key):
                    errs.append(required(f"{path}.{key}"))
            scope, namespace = params.get("scope"), params.get("namespace")
            if not scope:
                errs.append(required(f"{path}.scope"))
            elif scope not in ("Cluster", "Namespace"):
                errs.append(not_supported(f"{path}.scope", scope, ["Cluster", "Namespace"]))
            elif scope == "Namespace" and not namespace:
                errs.append(required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'"))
            elif scope == "Cluster" and namespace:
                errs.append(forbidden_field(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'"))
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(spec_of(new).get("controller"), spec_of(old).get("controller"), "spec.controller", errs)
        return errs + self.validate_create(ctx, new)


@strategy(resources.IPADDRESSES)
class IPAddressStrategy(Strategy):
    has_status = False
    has_generation = True
    name_rule = "path-segment"

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        name = obj["metadata"].get("name", "")
        problem = ip_problem(name)
        if problem:
            errs.append(invalid("metadata.name", name, problem))
        elif str(ipaddress.ip_address(name)) != name:
            errs.append(invalid("metadata.name", name, "must be a canonical format IP address"))
        ref = spec_of(obj).get("parentRef")
        if ref is None:
            errs.append(required("spec.parentRef"))
            return errs
        for key in ("resource", "name"):
            if not ref.get(key):
                errs.append(required(f"spec.parentRef.{key}"))
            else:
                validate_names(names.path_segment_name, ref[key], f"spec.parentRef.{key}", errs)
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        validate_immutable(spec_of(new).get("parentRef"), spec_of(old).get("parentRef"), "spec.parentRef", errs)
        return errs

    def selectable_fields(self, obj: Obj) -> dict[str, str]:
        ref = spec_of(obj).get("parentRef") or {}
        return {f"spec.parentRef.{k}": ref.get(k, "") for k in ("group", "resource", "namespace", "name")}


@strategy(resources.SERVICECIDRS)
class ServiceCIDRStrategy(Strategy):
    has_generation = True

    def validate_create(self, ctx: RequestContext, obj: Obj) -> list[FieldError]:
        errs: Errors = []
        cidrs = spec_of(obj).get("cidrs") or []
        if not cidrs:
            errs.append(required("spec.cidrs", "at least one CIDR required"))
        if len(cidrs) > 2:
            errs.append(invalid("spec", spec_of(obj), "may only hold up to 2 values"))
        for i, cidr in enumerate(cidrs):
            before = len(errs)
            validate_cidr(cidr, f"spec.cidrs[{i}]", errs)
            if len(errs) == before and str(ipaddress.ip_network(cidr, strict=False)) != cidr:
                text = f"must be in canonical form ({ipaddress.ip_network(cidr, strict=False)!s})"
                errs.append(invalid(f"spec.cidrs[{i}]", cidr, text))
        if len(cidrs) == 2 and (":" in cidrs[0]) == (":" in cidrs[1]):
            errs.append(
                invalid(
                    "spec.cidrs",
                    cidrs,
                    "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96",
                )
            )
        return errs

    def validate_update(self, ctx: RequestContext, new: Obj, old: Obj) -> list[FieldError]:
        errs: Errors = []
        cidrs, before = spec_of(new).get("cidrs") or [], spec_of(old).get("cidrs") or []
        if len(cidrs) > len(before) == 1 and cidrs[0] == before[0]:
            return self.validate_create(ctx, new)
        for i, cidr in enumerate(before):
            validate_immutable(cidrs[i] if i < len(cidrs) else None, cidr, f"spec.cidrs[{i}]", errs)
        return errs
