"""The client's side of SPDY/3.1 framing, as far as Kubernetes' stream protocols use it. Pure: bytes in, events out.

There is no flow control (spdystream, the only peer, has none) and answers' headers are not read. Source: the SPDY draft 3.1,
sections 2.2 and 2.6; github.com/moby/spdystream.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

FIN = 0x01
MAX_FRAME_BYTES = 0xFFFFFF
_CONTROL = struct.Struct(">HHI")
_DATA = struct.Struct(">II")
_SYN_STREAM, _RST_STREAM, _PING, _GOAWAY = 1, 3, 6, 7


@dataclass(frozen=True, slots=True)
class Event:
    """``data`` of a stream (``fin``: its last), ``reset`` of a stream, ``ping`` to be sent back, ``goaway``."""

    type: Literal["data", "reset", "ping", "goaway"]
    stream: int = 0
    data: bytes = b""
    fin: bool = False


class Connection:
    """Makes frames and takes frames apart; one direction's header compression lives as long as the connection."""

    def __init__(self) -> None:
        # The preset dictionary is the sender's choice: a decoder uses it only where the data names it.
        self._compress = zlib.compressobj(1)
        self._next = 1
        self._rest = b""

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> tuple[int, bytes]:
        """A new stream's id and the frame that opens it. Header names are lower case."""
        stream, self._next = self._next, self._next + 2
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.encode(), value.encode()):
                block += struct.pack(">I", len(text)) + text
        packed = self._compress.compress(block) + self._compress.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack(">IIH", stream, 0, 0) + packed
        return stream, _control(_SYN_STREAM, FIN if fin else 0, body)

    def data(self, stream: int, data: bytes, *, fin: bool = False) -> bytes:
        """``data`` must fit one frame (16 MiB)."""
        return _DATA.pack(stream, (FIN if fin else 0) << 24 | len(data)) + data

    def pong(self, event: Event) -> bytes:
        return _control(_PING, 0, event.data)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events of the frames that are complete by now. Raises ValueError for what is no SPDY."""
        buffer = self._rest + data
        offset = 0
        while len(buffer) - offset >= 8:
            first, second = _DATA.unpack_from(buffer, offset)
            end = offset + 8 + (second & MAX_FRAME_BYTES)
            if len(buffer) < end:
                break
            body = buffer[offset + 8 : end]
            offset = end
            event = _control_event(first, body) if first >> 31 else Event("data", first, body, bool(second >> 24 & FIN))
            if event is not None:
                # Kept up to date, for the caller may stop in between.
                self._rest = buffer[offset:]
                yield event
        self._rest = buffer[offset:]


def _control(type_: int, flags: int, body: bytes) -> bytes:
    return _CONTROL.pack(0x8003, type_, flags << 24 | len(body)) + body


def _control_event(first: int, body: bytes) -> Event | None:
    """None for frames that need no answer: replies, settings, headers, window updates."""
    version, type_ = first >> 16 & 0x7FFF, first & 0xFFFF
    if version != 3:
        raise ValueError(f"SPDY version {version} instead of 3")
    if type_ in (_RST_STREAM, _PING) and len(body) < 4:
        raise ValueError("SPDY frame is too short")
    if type_ == _RST_STREAM:
        return Event("reset", struct.unpack_from(">I", body)[0] & 0x7FFFFFFF)
    if type_ == _PING:
        return Event("ping", data=body[:4])
    return Event("goaway") if type_ == _GOAWAY else None
