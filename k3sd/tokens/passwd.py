"""The server's password file ``cred/passwd`` and the token files, by K3s's rules.

Source: K3s ``pkg/passwd`` and ``pkg/daemons/control/deps`` (``genUsers``). CSV rows ``password,name,uid,groups``.
"""

from __future__ import annotations

import csv
import io
import secrets
from dataclasses import dataclass
from pathlib import Path

from k3sd.config.settings import Settings
from k3sd.lib.files import ensure_symlink, write_if_changed
from k3sd.tokens.join import TokenError, format_token, parse_token


@dataclass(frozen=True, slots=True)
class User:
    """One row of the file."""

    password: str
    name: str
    uid: str
    groups: tuple[str, ...]


def read_passwd(path: Path) -> dict[str, User]:
    """Users by name; an absent file has none. Raises TokenError naming file and line for a damaged row."""
    users: dict[str, User] = {}
    try:
        text = path.read_text()
    except FileNotFoundError:
        return users
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not row:
            continue
        if len(row) < 3 or not row[0] or not row[1]:
            raise TokenError(f"{path}:{number}: a row must be password,name,uid,groups; remove or mend the line")
        groups = tuple(g.strip() for g in row[3].split(",") if g.strip()) if len(row) > 3 else ()
        users[row[1]] = User(row[0], row[1], row[2], groups)
    return users


def format_passwd(users: dict[str, User]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for user in users.values():
        writer.writerow([user.password, user.name, user.uid, ",".join(user.groups)])
    return out.getvalue()


def bare_password(token: str) -> str:
    """The password part of a token in any form. Raises TokenError for a bootstrap token."""
    parsed = parse_token(token)
    if parsed.bearer:
        raise TokenError("a bootstrap token cannot be the server's token; use a password or a K10 token")
    return parsed.password


def ensure_tokens(settings: Settings, ca_bundle: bytes) -> None:
    """Write ``cred/passwd``, ``token``, ``node-token`` and ``agent-token``. Raises TokenError, OSError.

    The server's password is the configured one, else the stored one, else new; the agents' is ``agent_token``, else the same.
    """
    paths = settings.paths
    users = read_passwd(paths.passwd)
    if settings.token:
        server = bare_password(settings.token)
    elif "server" in users:
        server = users["server"].password
    else:
        server = secrets.token_hex(16)
    node = bare_password(settings.agent_token) if settings.agent_token else server
    users["node"] = User(node, "node", "node", ("k3s:agent",))
    users["server"] = User(server, "server", "server", ("k3s:server",))
    write_if_changed(paths.passwd, format_passwd(users), 0o600)
    write_if_changed(paths.token, format_token(ca_bundle, "server", server) + "\n", 0o600)
    ensure_symlink(paths.node_token, "token")
    if settings.agent_token:
        paths.agent_token.unlink(missing_ok=True) if paths.agent_token.is_symlink() else None
        write_if_changed(paths.agent_token, format_token(ca_bundle, "node", node) + "\n", 0o600)
    else:
        ensure_symlink(paths.agent_token, "token")
