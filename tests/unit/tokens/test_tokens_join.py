"""Tokens against the vectors of K3s's own algorithms."""

from __future__ import annotations

from pathlib import Path

import pytest

from k3sd.config.settings import Settings
from k3sd.tokens.join import Token, TokenError, ca_hash, parse_token
from k3sd.tokens.passwd import ensure_tokens, read_passwd

HASH = "a" * 64


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (f"K10{HASH}::server:pw:with:colons", Token(HASH, "server", "pw:with:colons")),
        (f"K10{HASH}::abcdef.0123456789abcdef", Token(HASH, bearer="abcdef.0123456789abcdef")),
        ("plain", Token("", "", "plain")),
        ("abcdef.0123456789abcdef", Token(bearer="abcdef.0123456789abcdef")),
        ("K10::node:pw", Token("", "node", "pw")),
    ],
    ids=["secure", "secure-bootstrap", "short", "short-bootstrap", "no-hash"],
)
def test_parse(text: str, token: Token) -> None:
    assert parse_token(text) == token


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "token must not be empty"),
        ("K10abc::server:pw", "invalid token CA hash length"),
        (f"K10{HASH}::server", "invalid token format"),
        (f"K10{HASH}::server:", "invalid token format"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        parse_token(text)


def test_ca_hash_is_of_the_raw_bytes() -> None:
    pem = b"-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"
    assert ca_hash(pem) == "82628ffba3f762f93c595e667def7d85215c6dc80d4288067bd9f22d71e2cba6"


def test_tokens_are_kept_and_agent_token_can_change(tmp_path: Path) -> None:
    first = Settings(data_dir=str(tmp_path))
    first.paths.cred.mkdir(parents=True)
    ensure_tokens(first, b"ca")
    password = read_passwd(first.paths.passwd)["server"].password
    text = first.paths.token.read_text()
    assert text == f"K10{ca_hash(b'ca')}::server:{password}\n"
    assert first.paths.passwd.stat().st_mode & 0o777 == 0o600
    assert first.paths.agent_token.read_text() == text
    ensure_tokens(Settings(data_dir=str(tmp_path), agent_token="other"), b"ca")
    users = read_passwd(first.paths.passwd)
    assert users["server"].password == password
    assert users["node"].password == "other"
    assert first.paths.agent_token.read_text().endswith("::node:other\n")
    assert first.paths.node_token.read_text() == text
