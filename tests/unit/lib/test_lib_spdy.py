import struct
import zlib

import pytest

from k3sd.lib.spdy import Connection, Event


def test_a_stream_is_opened_with_compressed_headers() -> None:
    connection = Connection()
    decompress = zlib.decompressobj()
    for number, name in ((1, "error"), (3, "stdin")):
        stream, frame = connection.open({"streamtype": name}, fin=number == 3)
        assert stream == number
        version, type_, rest = struct.unpack_from(">HHI", frame)
        assert (version, type_, rest >> 24, rest & 0xFFFFFF) == (0x8003, 1, number == 3, len(frame) - 8)
        assert struct.unpack_from(">IIH", frame, 8) == (number, 0, 0)
        block = decompress.decompress(frame[18:])
        value = name.encode()
        assert block == struct.pack(">II", 1, 10) + b"streamtype" + struct.pack(">I", len(value)) + value


def test_data_frames_in_any_pieces() -> None:
    connection = Connection()
    wire = (
        connection.data(5, b"abc")
        + b"\x80\x03\x00\x02\x00\x00\x00\x04abcd"  # SYN_REPLY, of no interest
        + b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x02"
        + connection.data(5, b"", fin=True)
        + b"\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x07\x00\x00\x00\x01"
        + b"\x80\x03\x00\x07\x00\x00\x00\x08\x00\x00\x00\x07\x00\x00\x00\x00"
    )
    expected = [
        Event("data", 5, b"abc"),
        Event("ping", data=b"\x00\x00\x00\x02"),
        Event("data", 5, b"", True),
        Event("reset", 7),
        Event("goaway"),
    ]
    for size in (1, 7, len(wire)):
        reader = Connection()
        found = [e for at in range(0, len(wire), size) for e in reader.feed(wire[at : at + size])]
        assert found == expected
    assert connection.pong(expected[1]) == wire[23:35]


@pytest.mark.parametrize("data", [b"\x80\x02\x00\x01\x00\x00\x00\x00", b"\x80\x03\x00\x03\x00\x00\x00\x02ab"])
def test_what_is_no_spdy_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="SPDY"):
        list(Connection().feed(data))
