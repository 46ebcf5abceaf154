"""K3s's ``--datastore-endpoint`` syntax. Source: K3s kine, ``pkg/endpoint`` and the drivers' DSN parsing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from k3sd.datastore.backend import DatastoreError

SCHEMES = {
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "mysql": "mysql",
    "http": "etcd",
    "https": "etcd",
    "unix": "etcd",
    "unixs": "etcd",
    "memory": "memory",
}


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM file names; empty means not given."""

    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""

    def __bool__(self) -> bool:
        return bool(self.cafile or self.certfile or self.keyfile)

    def check(self) -> None:
        """Raise DatastoreError for a file that cannot be read, and for a certificate without its key or the reverse: the
        database libraries say little about either, or take none instead."""
        for option in ("cafile", "certfile", "keyfile"):
            if name := getattr(self, option):
                try:
                    with open(name, "rb"):
                        pass
                except OSError as e:
                    raise DatastoreError(f"--datastore-{option} {name}: {e.strerror}") from e
        if bool(self.certfile) != bool(self.keyfile):
            raise DatastoreError("--datastore-certfile and --datastore-keyfile belong together: name both or neither")


TLS_HINT = "; check --datastore-cafile, -certfile and -keyfile"


def driver_of(endpoint: str) -> str:
    """The driver's name for an endpoint; ``sqlite`` when it is empty. Never quotes the rest, which may hold a password."""
    if not endpoint:
        return "sqlite"
    scheme, found, _ = endpoint.partition("://")
    if endpoint == "memory":
        return "memory"
    if not found:
        raise DatastoreError("invalid datastore endpoint; endpoint should be a DSN URI in the format <scheme>://<authority>")
    driver = SCHEMES.get(scheme.lower())
    if driver is None:
        known = ", ".join(sorted(SCHEMES))
        raise DatastoreError(f"datastore endpoint has the unknown scheme {scheme[:32]!r}; known are {known}")
    return driver


def sqlite_path(endpoint: str, data_dir: Path) -> Path:
    """The file of a ``sqlite://`` endpoint; relative names are below ``<data_dir>/server``, as in K3s."""
    path = endpoint.partition("://")[2].partition("?")[0]
    return data_dir / "server" / (path or "db/state.db")
