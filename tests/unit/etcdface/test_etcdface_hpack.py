"""Header compression against the examples of RFC 7541, Appendix C."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k3sd.etcdface.hpack import STATIC, Decoder, HeaderError, huffman, integer, literal


def block(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_the_static_table() -> None:
    assert len(STATIC) == 61
    assert STATIC[2] == (b":method", b"POST") and STATIC[15] == (b"accept-encoding", b"gzip, deflate")
    assert STATIC[60] == (b"www-authenticate", b"")


@pytest.mark.parametrize(
    ("coded", "plain"),
    [
        ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", b"www.example.com"),
        ("a8eb 1064 9cbf", b"no-cache"),
        ("25a8 49e9 5bb8 e8b4 bf", b"custom-value"),
        ("d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (
            "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ),
        ("", b""),
    ],
)
def test_huffman(coded: str, plain: bytes) -> None:
    assert huffman(block(coded)) == plain


@pytest.mark.parametrize("coded", ["ff", "ffffffff", "00", "a8eb10649cbfff"])
def test_wrong_padding_is_refused(coded: str) -> None:
    with pytest.raises(HeaderError):
        huffman(block(coded))


def test_integers() -> None:
    assert integer(b"\x0a", 0, 5) == (10, 1)
    assert integer(b"\x1f\x9a\x0a", 0, 5) == (1337, 3)
    assert integer(b"\x00\x2a", 1, 8) == (42, 2)
    with pytest.raises(HeaderError):
        integer(b"\x1f\xff\xff\xff\xff\x0f", 0, 5)


def test_requests_with_the_dynamic_table() -> None:
    """Appendix C.4: three requests of one connection."""
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
    with pytest.raises(HeaderError, match="in no table"):
        decoder.decode(b"\xbe")


@pytest.mark.parametrize(
    "wrong", [b"\x80", b"\xbe", b"\x40", b"\x00\x05a", b"\x3f\xe2\x1f", b"\x0f", b"\x00\x01", b"\x82" * 200]
)
def test_what_is_not_valid(wrong: bytes) -> None:
    with pytest.raises(HeaderError):
        Decoder().decode(wrong)


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=500)), max_size=100))
def test_literals_come_back(fields: list[tuple[bytes, bytes]]) -> None:
    assert Decoder().decode(b"".join(literal(*f) for f in fields)) == fields


@given(st.binary(max_size=200))
def test_any_bytes_give_fields_or_an_error(data: bytes) -> None:
    try:
        fields = Decoder().decode(data)
    except HeaderError:
        return
    assert all(isinstance(name, bytes) and isinstance(value, bytes) for name, value in fields)
