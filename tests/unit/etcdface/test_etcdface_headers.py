"""Header blocks as a connection meets them, and what must not be remembered of them."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k3sd.etcdface.headers import MAX_HEADER_BYTES, Decoder, HeaderError, literal


def block(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_requests_with_the_dynamic_table() -> None:
    """RFC 7541, Appendix C.4: three requests of one connection."""
    decoder = Decoder()
    common = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert decoder.decode(block("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")) == common
    assert decoder.decode(block("8286 84be 5886 a8eb 1064 9cbf")) == [*common, (b"cache-control", b"no-cache")]
    https = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), common[3]]
    last = decoder.decode(block("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"))
    assert last == [*https, (b"custom-key", b"custom-value")]
    assert decoder.decode(block("be")) == [(b"custom-key", b"custom-value")]


def test_eviction() -> None:
    decoder = Decoder()
    decoder.decode(b"\x20")  # a table of no bytes, as we ask for
    assert decoder.decode(b"\x40\x01a\x01b") == [(b"a", b"b")]
    with pytest.raises(HeaderError):
        decoder.decode(b"\xbe")


def test_a_block_is_remembered_only_when_the_table_has_no_part_in_it() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for size in (4096, 0, 4096, 60, 0, 4096):
        encoder.header_table_size = size
        for value in (b"a", b"b", b"a", b"a", b"c", b"a", b"b"):
            fields = [(b"x-one", b"1"), (b"x-two", value)]
            assert decoder.decode(encoder.encode(fields)) == fields


@pytest.mark.parametrize(
    "wrong",
    [b"\x80", b"\xbe", b"\x40", b"\x00\x05a", b"\x3f\xe2\x1f", b"\x0f", b"\x00\x01", literal(b"x", bytes(MAX_HEADER_BYTES))],
)
def test_what_is_not_valid(wrong: bytes) -> None:
    with pytest.raises(HeaderError):
        Decoder().decode(wrong)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=500)), max_size=100))
def test_literals_come_back(fields: list[tuple[bytes, bytes]]) -> None:
    assert Decoder().decode(b"".join(literal(*f) for f in fields)) == fields


@given(st.binary(max_size=200))
def test_any_bytes_give_fields_or_an_error(data: bytes) -> None:
    try:
        fields = Decoder().decode(data)
    except HeaderError:
        return
    assert all(isinstance(name, bytes) and isinstance(value, bytes) for name, value in fields)
