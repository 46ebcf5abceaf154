"""K3s's passwd file as an authenticator for HTTP Basic; read again when the file changes."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from k3sd.apiserver.request import UserInfo
from k3sd.tokens.join import TokenError
from k3sd.tokens.passwd import User, read_passwd

log = logging.getLogger(__name__)


class PasswordFile:
    """Users of ``cred/passwd``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._users: dict[str, User] = {}

    def user(self, name: str, password: str) -> UserInfo | None:
        """None for an unknown name or a wrong password; the comparison takes the same time for both."""
        self._refresh()
        entry = self._users.get(name)
        expected = entry.password if entry is not None else "\0" * 32
        right = hmac.compare_digest(expected.encode(), password.encode())
        return UserInfo(entry.name, entry.groups, entry.uid) if right and entry is not None else None

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._users = read_passwd(self._path)
                self._stamp = stamp
        except FileNotFoundError:
            self._users, self._stamp = {}, None
        except TokenError as error:
            log.warning("%s; the users read before stay", error)
