"""Protocol buffers on the wire: the few primitives that the codecs here are made of."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_ONE = [bytes([i]) for i in range(128)]


class WireError(ValueError):
    """The bytes are not a well-formed message."""


def varint(value: int) -> bytes:
    """An unsigned varint; negative numbers as 64-bit two's complement, as int32, int64 and enum fields are written."""
    if 0 <= value < 128:
        return _ONE[value]
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def field_bytes(number: int, value: bytes) -> bytes:
    """A string, bytes or message field."""
    return tag(number, BYTES) + varint(len(value)) + value


def field_text(number: int, value: str) -> bytes:
    return field_bytes(number, value.encode("utf-8", "replace"))


def field_int(number: int, value: int) -> bytes:
    return tag(number, VARINT) + varint(value)


def field_double(number: int, value: float) -> bytes:
    return tag(number, FIXED64) + struct.pack("<d", value)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The value and the next position."""
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("truncated varint")
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def signed(value: int) -> int:
    """A varint read as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """``(number, wire type, value)`` of each field: an unsigned integer for varints and fixed widths, else bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = read_varint(data, at)
        wire_type = key & 7
        value: int | bytes
        if wire_type == VARINT:
            value, at = read_varint(data, at)
        else:
            if wire_type == BYTES:
                size, at = read_varint(data, at)
            elif wire_type in (FIXED64, FIXED32):
                size = 8 if wire_type == FIXED64 else 4
            else:
                raise WireError(f"unsupported wire type {wire_type}")
            if at + size > end:
                raise WireError("truncated field")
            value = data[at : at + size]
            at += size
            if wire_type != BYTES:
                value = int.from_bytes(value, "little")
        if not key >> 3:
            raise WireError("field number 0")
        yield key >> 3, wire_type, value
