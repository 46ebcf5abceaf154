"""Resource quantities, exact. Source: ``apimachinery/pkg/api/resource/quantity.go``.

A quantity is an integer number of nanos and a format; canonical text keeps the value and the format family, uses the largest
suffix that leaves no fraction, and rounds up what is finer than a nano, as upstream does.
"""

from __future__ import annotations

import re
from functools import lru_cache, total_ordering
from typing import Literal

Format = Literal["DecimalSI", "BinarySI", "DecimalExponent"]

_GRAMMAR = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?\Z")
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_NANO = 10**9
_MAX = (2**63 - 1) * _NANO
_WRONG = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _ceil(numerator: int, denominator: int) -> int:
    """Quotient rounded away from zero, as upstream rounds up magnitudes."""
    quotient = -(-abs(numerator) // denominator)
    return quotient if numerator >= 0 else -quotient


@total_ordering
class Quantity:
    """An exact amount. Compare, add, subtract and negate; the left operand's format is kept."""

    __slots__ = ("format", "nanos")

    def __init__(self, nanos: int, format_: Format = "DecimalSI") -> None:
        self.nanos = nanos
        self.format: Format = format_

    def value(self) -> int:
        """The integer value, rounded up (away from zero)."""
        return _ceil(self.nanos, _NANO)

    def milli(self) -> int:
        """Thousandths, rounded up (away from zero)."""
        return _ceil(self.nanos, 10**6)

    def is_zero(self) -> bool:
        return self.nanos == 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.nanos == other.nanos

    def __lt__(self, other: Quantity) -> bool:
        return self.nanos < other.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)

    def _with(self, nanos: int, other: Quantity) -> Quantity:
        return Quantity(nanos, self.format if self.nanos else other.format)

    def __add__(self, other: Quantity) -> Quantity:
        return self._with(self.nanos + other.nanos, other)

    def __sub__(self, other: Quantity) -> Quantity:
        return self._with(self.nanos - other.nanos, other)

    def __neg__(self) -> Quantity:
        return Quantity(-self.nanos, self.format)

    def __repr__(self) -> str:
        return f"Quantity({format(self)!r})"

    def __format__(self, _spec: str) -> str:
        return _format(self)

    def __str__(self) -> str:
        return _format(self)


def parse(text: str | int | float) -> Quantity:
    """The quantity written as ``text``; numbers are read as their decimal text. ValueError with upstream's wording."""
    if isinstance(text, Quantity):
        return text
    return _parse(text if isinstance(text, str) else repr(text))


@lru_cache(maxsize=512)
def _parse(text: str) -> Quantity:
    match = _GRAMMAR.match(text)
    if not match:
        raise ValueError(_WRONG)
    sign, number, suffix = match[1], match[2], match[3] or ""
    whole, _, fraction = number.partition(".")
    digits = int((whole + fraction) or "0")
    places = len(fraction)
    format_: Format
    if suffix in _BINARY:
        format_, scaled, exponent = "BinarySI", digits * _BINARY[suffix], 0
    elif suffix in _DECIMAL:
        format_, scaled, exponent = "DecimalSI", digits, _DECIMAL[suffix]
    else:
        format_, scaled, exponent = "DecimalExponent", digits, int(suffix[1:])
        if abs(exponent) > 1000:
            raise ValueError("unable to parse quantity's suffix")
    power = exponent + 9 - places
    nanos = scaled * 10**power if power >= 0 else _ceil(scaled, 10**-power)
    if format_ == "BinarySI":
        nanos = min(nanos, _MAX)
        if nanos < _NANO:
            format_ = "DecimalSI"
    return Quantity(-nanos if sign == "-" else nanos, format_)


def _format(quantity: Quantity) -> str:
    """Source: ``Quantity.CanonicalizeBytes``."""
    nanos, format_ = quantity.nanos, quantity.format
    if nanos == 0:
        return "0"
    if format_ == "BinarySI":
        # A binary format below 1Ki, or with a fraction, is written in decimal.
        if abs(nanos) < 1024 * _NANO or nanos % _NANO:
            format_ = "DecimalSI"
        else:
            value, suffix = nanos // _NANO, ""
            for name, factor in _BINARY.items():
                if (nanos // _NANO) % factor:
                    break
                value, suffix = nanos // _NANO // factor, name
            return f"{value}{suffix}"
    exponent = -9
    while (exponent < 18 or format_ == "DecimalExponent") and nanos % 1000 == 0:
        nanos //= 1000
        exponent += 3
    if format_ == "DecimalExponent":
        return f"{nanos}e{exponent}" if exponent else str(nanos)
    return f"{nanos}{_SUFFIX[exponent]}"


@lru_cache(maxsize=512)
def canonical(text: str) -> str:
    """``text`` as the server stores it: ``1000m`` is ``1``, ``0.5`` is ``500m``, ``1024Mi`` is ``1Gi``."""
    return _format(_parse(text))


def from_int(value: int, format_: Format = "DecimalSI") -> Quantity:
    return Quantity(value * _NANO, format_)


def from_milli(value: int) -> Quantity:
    return Quantity(value * 10**6)
