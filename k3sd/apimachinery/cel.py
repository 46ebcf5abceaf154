"""CEL as Kubernetes extends it: quantities, URLs, IP addresses, semantic versions, named formats.

``compile_expression`` is the one door for admission and custom resources. Source: ``apiserver/pkg/cel/library``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from k3sd.apimachinery import quantity, timefmt, validation
from k3sd.lib import cel
from k3sd.lib.cel import CompileError, EvaluationError, Program
from k3sd.lib.cel.functions import need
from k3sd.lib.cel.values import NONE, Opaque, Optional

__all__ = ["CompileError", "EvaluationError", "Program", "compile_expression"]


class _Quantity(Opaque):
    type = "kubernetes.Quantity"
    __slots__ = ("amount",)

    def __init__(self, amount: quantity.Quantity) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Quantity) and self.amount == other.amount

    def __hash__(self) -> int:
        return hash(self.amount)

    def __str__(self) -> str:
        return str(self.amount)

    def compare(self, other: _Quantity) -> int:
        return (self.amount > other.amount) - (self.amount < other.amount)


class _URL(Opaque):
    type = "kubernetes.URL"
    __slots__ = ("parts", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts: SplitResult = urlsplit(text)
        absolute = bool(self.parts.scheme and self.parts.netloc) or text.startswith("/")
        if not absolute or any(c.isspace() or ord(c) < 32 for c in text):
            raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
        _ = self.parts.port  # raises ValueError for what is no port

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _URL) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class _IP(Opaque):
    type = "net.IP"
    __slots__ = ("address",)

    def __init__(self, text: str) -> None:
        if "%" in text:
            raise ValueError("IP Address with zone value is not allowed")
        self.address = ipaddress.ip_address(text)
        if isinstance(self.address, ipaddress.IPv6Address) and self.address.ipv4_mapped is not None:
            raise ValueError("IPv4-mapped IPv6 address is not allowed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _IP) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __str__(self) -> str:
        return str(self.address)


class _CIDR(Opaque):
    type = "net.CIDR"
    __slots__ = ("interface",)

    def __init__(self, text: str) -> None:
        if "/" not in text:
            raise ValueError(text)
        self.interface = ipaddress.ip_interface(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CIDR) and self.interface == other.interface

    def __hash__(self) -> int:
        return hash(self.interface)

    def __str__(self) -> str:
        return str(self.interface)

    def contains_ip(self, other: Any) -> bool:
        found = _IP(other) if isinstance(other, str) else need(other, _IP)
        return found.address in self.interface.network

    def contains_cidr(self, other: Any) -> bool:
        found = _CIDR(other) if isinstance(other, str) else need(other, _CIDR)
        mine, theirs = self.interface.network, found.interface.network
        return mine.version == theirs.version and theirs.subnet_of(mine)  # type: ignore[arg-type]  # versions are equal


_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z.-]+))?"
)


class _Semver(Opaque):
    type = "kubernetes.Semver"
    __slots__ = ("key", "numbers", "text")

    def __init__(self, text: str) -> None:
        found = _SEMVER.fullmatch(text)
        if found is None:
            raise ValueError(text)
        self.text = text
        self.numbers = int(found[1]), int(found[2]), int(found[3])
        parts = (found[4] or "").split(".") if found[4] else []
        # A release comes after its pre-releases; numbers before words.
        rank = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
        self.key = (*self.numbers, not parts, rank)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Semver) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.text)

    def compare(self, other: _Semver) -> int:
        return (self.key > other.key) - (self.key < other.key)


class _Format(Opaque):
    """``format.dns1123Label()``: a check with a name."""

    type = "kubernetes.NamedFormat"
    __slots__ = ("check",)

    def __init__(self, check: Callable[[str], list[str]]) -> None:
        self.check = check


def _raises(parse: Callable[[str], object], text: str) -> Callable[[str], list[str]]:
    def check(value: str) -> list[str]:
        return [] if _parses(parse)(value) else [text]

    return check


def _parses(parse: Callable[[str], object]) -> Callable[[Any], bool]:
    """Whether a string can be parsed."""

    def test(value: Any) -> bool:
        try:
            parse(need(value, str))
        except ValueError:
            return False
        return True

    return test


def _parsed(parse: Callable[[str], object]) -> Callable[[Any], object]:
    def run(value: Any) -> object:
        text = need(value, str)
        try:
            return parse(text)
        except ValueError as error:
            raise EvaluationError(str(error) or f"cannot parse {text!r}") from error

    return run


def _prefixed(check: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """A name that goes before a generated suffix may end in a dash."""
    return lambda value: check(value[:-1] + "a" if value.endswith("-") else value)


def _uuid(text: str) -> object:
    import uuid

    return uuid.UUID(text)


def _byte(text: str) -> object:
    import base64

    return base64.b64decode(text, validate=True)


def _date(text: str) -> object:
    from datetime import date

    return date.fromisoformat(text)


FORMATS: dict[str, Callable[[str], list[str]]] = {
    "dns1123Label": validation.dns1123_label,
    "dns1123Subdomain": validation.dns1123_subdomain,
    "dns1035Label": validation.dns1035_label,
    "qualifiedName": validation.qualified_name,
    "dns1123LabelPrefix": _prefixed(validation.dns1123_label),
    "dns1123SubdomainPrefix": _prefixed(validation.dns1123_subdomain),
    "dns1035LabelPrefix": _prefixed(validation.dns1035_label),
    "labelValue": validation.label_value,
    "uri": _raises(_URL, "invalid URI"),
    "uuid": _raises(_uuid, "does not match the UUID format"),
    "byte": _raises(_byte, "invalid base64"),
    "date": _raises(_date, "invalid date"),
    "datetime": _raises(timefmt.parse, "invalid datetime"),
}


def _named(name: Any) -> Optional:
    found = {key.lower(): check for key, check in FORMATS.items()}.get(need(name, str).lower())
    return Optional(_Format(found)) if found else NONE


def _validate(value: Any, text: Any) -> Optional:
    problems = need(value, _Format).check(need(text, str))
    return Optional(problems) if problems else NONE


def _query(value: Any) -> dict[str, list[str]]:
    return parse_qs(need(value, _URL).parts.query, keep_blank_values=True)


def _compared(test: Callable[[int], Any]) -> Callable[[Any, Any], Any]:
    def run(a: Any, b: Any) -> Any:
        if type(a) is not type(b) or not isinstance(a, _Quantity | _Semver):
            raise TypeError("compare")
        return test(a.compare(b))

    return run


def _sum(sign: int) -> Callable[[Any, Any], _Quantity]:
    def run(a: Any, b: Any) -> _Quantity:
        other = quantity.from_int(b) if isinstance(b, int) else need(b, _Quantity).amount
        mine = need(a, _Quantity).amount
        return _Quantity(mine + other if sign > 0 else mine - other)

    return run


def _amount(get: Callable[[quantity.Quantity], Any]) -> Callable[[Any], Any]:
    return lambda value: get(need(value, _Quantity).amount)


def _integer(amount: quantity.Quantity) -> int:
    if amount.nanos % 10**9:
        raise EvaluationError("cannot convert value to integer")
    return amount.value()


def _address(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: get(need(value, _IP).address)


def _global_unicast(address: Any) -> bool:
    broadcast = str(address) == "255.255.255.255"
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not (special or broadcast)


def _link_local_multicast(address: Any) -> bool:
    if address.version == 4:
        return address in ipaddress.ip_network("224.0.0.0/24")
    return address.is_multicast and address.packed[1] & 0x0F == 2  # type: ignore[no-any-return]


def _canonical(text: Any) -> bool:
    return bool(str(_parsed(_IP)(text)) == text)


def _network_ip(value: Any) -> _IP:
    return _IP(str(need(value, _CIDR).interface.ip))


def _family(value: Any) -> int:
    return int(need(value, _IP).address.version)


def _escape_key(text: Any) -> str:
    return str(need(text, str).replace("~", "~0").replace("/", "~1"))


def _parse_quantity(text: str) -> _Quantity:
    return _Quantity(quantity.parse(text))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quantity": _parsed(_parse_quantity),
    "isQuantity": _parses(_parse_quantity),
    "url": _parsed(_URL),
    "isURL": _parses(_URL),
    "ip": _parsed(_IP),
    "isIP": _parses(_IP),
    "ip.isCanonical": _canonical,
    "cidr": _parsed(_CIDR),
    "isCIDR": _parses(_CIDR),
    "semver": _parsed(_Semver),
    "isSemver": _parses(_Semver),
    "format.named": _named,
    "jsonpatch.escapeKey": _escape_key,
    **{f"format.{name}": lambda check=check: _Format(check) for name, check in FORMATS.items()},
}
_METHODS: dict[str, Callable[..., Any]] = {
    "add": _sum(1),
    "sub": _sum(-1),
    "sign": _amount(lambda q: (q.nanos > 0) - (q.nanos < 0)),
    "isInteger": _amount(lambda q: q.nanos % 10**9 == 0),
    "asInteger": _amount(_integer),
    "asApproximateFloat": _amount(lambda q: q.nanos / 10**9),
    "compareTo": _compared(lambda order: order),
    "isGreaterThan": _compared(lambda order: order > 0),
    "isLessThan": _compared(lambda order: order < 0),
    "major": lambda value: need(value, _Semver).numbers[0],
    "minor": lambda value: need(value, _Semver).numbers[1],
    "patch": lambda value: need(value, _Semver).numbers[2],
    "getScheme": lambda value: need(value, _URL).parts.scheme,
    "getHost": lambda value: need(value, _URL).parts.netloc.rpartition("@")[2],
    "getHostname": lambda value: need(value, _URL).parts.hostname or "",
    "getPort": lambda value: str(need(value, _URL).parts.port or ""),
    "getEscapedPath": lambda value: need(value, _URL).parts.path,
    "getQuery": _query,
    "family": _family,
    "isUnspecified": _address(lambda a: a.is_unspecified),
    "isLoopback": _address(lambda a: a.is_loopback),
    "isLinkLocalMulticast": _address(_link_local_multicast),
    "isLinkLocalUnicast": _address(lambda a: a.is_link_local),
    "isGlobalUnicast": _address(_global_unicast),
    "containsIP": lambda value, other: need(value, _CIDR).contains_ip(other),
    "containsCIDR": lambda value, other: need(value, _CIDR).contains_cidr(other),
    "ip": _network_ip,
    "masked": lambda value: _CIDR(str(need(value, _CIDR).interface.network)),
    "prefixLength": lambda value: need(value, _CIDR).interface.network.prefixlen,
    "validate": _validate,
}

LIBRARY = cel.Library({**cel.STANDARD.functions, **_FUNCTIONS}, {**cel.STANDARD.methods, **_METHODS})
MUTATIONS = LIBRARY._replace(messages=frozenset(("Object", "JSONPatch")))
"""Expressions of mutating policies build objects and patches as well."""


def compile_expression(text: str, names: Sequence[str], library: cel.Library = LIBRARY) -> Program:
    """``names`` are the variables that exist. Raises CompileError."""
    return cel.compile_expression(text, names, library)
