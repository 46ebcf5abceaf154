"""HTTP/2 on the wire: frames, their flags and errors.

Source: RFC 9113.
"""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16384
"""The largest frame that either side sends unless it is told otherwise."""
FIRST_WINDOW = 65535
MAX_WINDOW = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
REFUSED_STREAM, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 9, 11
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4

HEAD = struct.Struct(">HBBBL")
"""Of a frame: length in two parts, kind, flags, stream."""
SETTING = struct.Struct(">HL")
WORD = struct.Struct(">L")


class ConnectionFailed(Exception):
    """The peer broke the protocol; the connection ends with ``code``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def word(payload: bytes) -> int:
    """The payload of a frame that is one number."""
    if len(payload) != WORD.size:
        raise ConnectionFailed(FRAME_SIZE_ERROR, "a frame of a wrong size")
    return int(WORD.unpack(payload)[0]) & MAX_WINDOW


def unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailed(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
