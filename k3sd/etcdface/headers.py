"""Header blocks of HTTP/2: what a client sent becomes ``(name, value)`` pairs, and what is said back becomes bytes.

Source: RFC 7541, by the library hpack.
"""

from __future__ import annotations

import hpack

Fields = list[tuple[bytes, bytes]]

MAX_HEADER_BYTES = 64 << 10
"""Of one block, as RFC 9113 counts them."""
MAX_CACHED = 256


class HeaderError(Exception):
    """A header block that is not valid; the connection cannot go on after it."""


class Decoder:
    """The header blocks of one connection, in their order."""

    __slots__ = ("_blocks", "_hpack")

    def __init__(self) -> None:
        self._hpack = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._blocks: dict[bytes, Fields] = {}

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises HeaderError. A block that has nothing to do with the dynamic table, as none has of a
        client that was asked to do without, is decoded once."""
        known = self._blocks.get(block)
        if known is not None:
            return known
        table = self._hpack.header_table
        alone = not table.dynamic_entries
        size = self._hpack.header_table_size
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._hpack.decode(block, raw=True)]
        except hpack.HPACKError as e:
            raise HeaderError(str(e)) from None
        if self._hpack.header_table_size != size or len(self._blocks) >= MAX_CACHED:
            self._blocks.clear()  # what went through a table of no bytes may stay in the new one
        elif alone and not table.dynamic_entries:
            self._blocks[block] = fields
        return fields


def literal(name: bytes, value: bytes) -> bytes:
    """A field as it may always be written: without the dynamic table and the Huffman code."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(name, value)], huffman=False))
