"""Columns and cells of networking.k8s.io/v1."""

from __future__ import annotations

from typing import Any

from k3sd.apimachinery.errors import Obj
from k3sd.apis.columns.core import load_balancer
from k3sd.apis.columns.text import age, name, selector, spec, status

COLUMNS = {
    "IPAddress": "Name=name|ParentRef|Age",
    "Ingress": "Name=name|Class|Hosts|Address|Ports|Age",
    "IngressClass": "Name=name|Controller|Parameters|Age",
    "NetworkPolicy": "Name=name|Pod-Selector|Age",
    "ServiceCIDR": "Name=name|CIDRs|Age",
}


def _ip_address(obj: Obj, now: float) -> list[Any]:
    parent = spec(obj).get("parentRef")
    text = "<none>"
    if parent:
        group = f".{parent['group']}" if parent.get("group") else ""
        parts = [f"{parent.get('resource', '')}{group}".lower(), parent.get("namespace"), parent.get("name", "")]
        text = "/".join(part for part in parts if part is not None and part != "")
    return [name(obj), text, age(obj, now)]


def _hosts(rules: list[Obj]) -> str:
    """``formatHosts``."""
    shown: list[str] = []
    cut = False
    for rule in rules:
        cut = cut or len(shown) == 3
        if not cut and rule.get("host"):
            shown.append(rule["host"])
    if not shown:
        return "*"
    return f"{','.join(shown)} + {len(rules) - 3} more..." if cut else ",".join(shown)


def _ingress(obj: Obj, now: float) -> list[Any]:
    return [
        name(obj),
        spec(obj).get("ingressClassName", "<none>"),
        _hosts(spec(obj).get("rules") or []),
        load_balancer(status(obj).get("loadBalancer")),
        "80, 443" if spec(obj).get("tls") else "80",
        age(obj, now),
    ]


def _ingress_class(obj: Obj, now: float) -> list[Any]:
    annotations = obj.get("metadata", {}).get("annotations") or {}
    default = annotations.get("ingressclass.kubernetes.io/is-default-class") == "true"
    parameters = spec(obj).get("parameters")
    text = "<none>"
    if parameters:
        group = f".{parameters['apiGroup']}" if parameters.get("apiGroup") is not None else ""
        text = f"{parameters.get('kind', '')}{group}/{parameters.get('name', '')}"
    shown = f"{name(obj)} (default)" if default else name(obj)
    return [shown, spec(obj).get("controller", ""), text, age(obj, now)]


def _network_policy(obj: Obj, now: float) -> list[Any]:
    return [name(obj), selector(spec(obj).get("podSelector")), age(obj, now)]


def _service_cidr(obj: Obj, now: float) -> list[Any]:
    return [name(obj), ",".join(spec(obj).get("cidrs") or ()), age(obj, now)]


CELLS = {
    "IPAddress": _ip_address,
    "Ingress": _ingress,
    "IngressClass": _ingress_class,
    "NetworkPolicy": _network_policy,
    "ServiceCIDR": _service_cidr,
}
