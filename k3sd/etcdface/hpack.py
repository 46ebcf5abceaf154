"""Header compression of HTTP/2, the reading side: what a client sent becomes ``(name, value)`` pairs.

Source: RFC 7541. The Huffman code is canonical, so the symbols of each length say everything (Appendix B).
"""

from __future__ import annotations

from collections import deque

STATIC: tuple[tuple[bytes, bytes], ...] = tuple(
    (name, value)
    for name, _, value in (
        line.partition(b" ")
        for line in b"""\
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200|:status 204|:status 206\
|:status 304|:status 400|:status 404|:status 500|accept-charset|accept-encoding gzip, deflate|accept-language|accept-ranges\
|accept|access-control-allow-origin|age|allow|authorization|cache-control|content-disposition|content-encoding\
|content-language|content-length|content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host\
|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards\
|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|strict-transport-security\
|transfer-encoding|user-agent|vary|via|www-authenticate""".split(b"|")
    )
)
"""Appendix A; its index 1 is the first."""

_SYMBOLS = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\0$@[]~",
    14: b"^}",
    15: b"<`{",
    19: bytes.fromhex("5cc3d0"),
    20: bytes.fromhex("808283a2b8c2e0e2"),
    21: bytes.fromhex("99a1a7acb0b1b3d1d8d9e3e5e6"),
    22: bytes.fromhex("8184858688929a9ca0a3a4a9aaadb2b5b9babbbdbec4c6e4e8e9"),
    23: bytes.fromhex("0187898a8b8c8d8f93959697989b9d9ea5a6a8aeafb4b6b7bcbfc5e7ef"),
    24: bytes.fromhex("098e9091949fabced7e1eced"),
    25: bytes.fromhex("c7cfeaeb"),
    26: bytes.fromhex("c0c1c8c9cacdd2d5dadbeef0f2f3ff"),
    27: bytes.fromhex("cbccd3d4d6dddedff1f4f5f6f7f8fafbfcfdfe"),
    28: bytes.fromhex("020304050607080b0c0e0f1011121314151718191a1b1c1d1e1f7fdcf9"),
    30: bytes.fromhex("0a0d16"),
}


def _code() -> tuple[tuple[int, int, bytes], ...]:
    """For each length: the length, the first code of it, the symbols in order of their codes."""
    code, last, rows = 0, 0, []
    for length, symbols in _SYMBOLS.items():
        code <<= length - last
        rows.append((length, code, symbols))
        code += len(symbols)
        last = length
    return tuple(rows)


_CODE = _code()
TABLE_BYTES = 4096
"""Of the dynamic table, until the client has seen that we want none."""
MAX_CACHED = 256
MAX_FIELDS = 128


class HeaderError(Exception):
    """A header block that is not valid; the connection cannot go on after it."""


def huffman(data: bytes) -> bytes:
    """Decode a Huffman-coded string."""
    bits, left = int.from_bytes(data, "big"), len(data) * 8
    out = bytearray()
    while left:
        for length, first, symbols in _CODE:
            if length > left:  # what is left can only be padding: fewer than 8 ones
                if left < 8 and bits == (1 << left) - 1:
                    return bytes(out)
                raise HeaderError("a header's padding is wrong")
            at = (bits >> (left - length)) - first
            if at < len(symbols):
                out.append(symbols[at])
                left -= length
                bits &= (1 << left) - 1
                break
        else:
            raise HeaderError("a header holds the end-of-string code")
    return bytes(out)


Fields = list[tuple[bytes, bytes]]


class Decoder:
    """The header blocks of one connection, in their order."""

    __slots__ = ("_blocks", "_bytes", "_limit", "_strings", "_table", "_touched")

    def __init__(self) -> None:
        self._table: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._limit = TABLE_BYTES
        self._touched = False
        self._blocks: dict[bytes, Fields] = {}
        self._strings: dict[bytes, bytes] = {}

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises HeaderError. A block that has nothing to do with the dynamic table is decoded once."""
        known = self._blocks.get(block)
        if known is not None:
            return known
        self._touched = False
        try:
            fields = self._decode(block)
        except IndexError:
            raise HeaderError("a header block ends too early") from None
        if not self._touched:
            if len(self._blocks) >= MAX_CACHED:
                self._blocks.clear()
            self._blocks[block] = fields
        return fields

    def _decode(self, block: bytes) -> Fields:
        fields: Fields = []
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:  # indexed field
                index, at = integer(block, at, 7)
                fields.append(self._entry(index))
            elif first & 0xE0 == 0x20:  # new size of the dynamic table
                self._limit, at = integer(block, at, 5)
                if self._limit > TABLE_BYTES:
                    raise HeaderError(f"a header table of {self._limit} bytes is not allowed")
                self._touched = True
                self._evict()
            else:  # literal, 0x40: which goes into the table
                index, at = integer(block, at, 6 if first & 0x40 else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = self._string(block, at)
                value, at = self._string(block, at)
                fields.append((name, value))
                if first & 0x40:
                    self._touched = True
                    self._table.appendleft((name, value))
                    self._bytes += len(name) + len(value) + 32
                    self._evict()
            if len(fields) > MAX_FIELDS:
                raise HeaderError("too many header fields")
        return fields

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        self._touched = True
        if index == 0 or index - len(STATIC) > len(self._table):
            raise HeaderError(f"header {index} is in no table")
        return self._table[index - len(STATIC) - 1]

    def _evict(self) -> None:
        while self._bytes > self._limit:
            name, value = self._table.pop()
            self._bytes -= len(name) + len(value) + 32

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        coded = block[at] & 0x80
        length, at = integer(block, at, 7)
        end = at + length
        if end > len(block):
            raise HeaderError("a header block ends too early")
        raw = block[at:end]
        if not coded:
            return raw, end
        value = self._strings.get(raw)
        if value is None:
            value = huffman(raw)
            if len(self._strings) >= MAX_CACHED:
                self._strings.clear()
            self._strings[raw] = value
        return value, end


def integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """``(value, position behind it)`` of an integer in the last ``prefix`` bits of ``block[at]`` and after."""
    full = (1 << prefix) - 1
    value = block[at] & full
    at += 1
    if value < full:
        return value, at
    for shift in range(0, 28, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HeaderError("an integer of a header is too large")


def literal(name: bytes, value: bytes) -> bytes:
    """A field as it may always be written: no table, no Huffman code."""
    return b"\0" + _counted(name) + _counted(value)


def _counted(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    length -= 127
    out = bytearray((127,))
    while length > 127:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + text
