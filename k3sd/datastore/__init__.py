"""Kubernetes's store: ``backend`` is the contract, ``open_backend`` gives a driver for K3s's ``--datastore-endpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k3sd.datastore.endpoint import TLS, driver_of, sqlite_path

if TYPE_CHECKING:
    from k3sd.datastore.backend import Backend


def open_backend(
    endpoint: str = "",
    *,
    data_dir: Path,
    cafile: str = "",
    certfile: str = "",
    keyfile: str = "",
    patience_seconds: float = 300.0,
    upkeep: bool = True,
) -> Backend:
    """The backend for ``endpoint``, not yet started. Relative SQLite paths are below ``<data_dir>/server``, as in K3s.

    ``patience_seconds`` is how long ``start`` waits for a database server that does not answer;
    without ``upkeep`` it neither expires leases nor compacts.
    Raises DatastoreError for an endpoint that names no known driver or is malformed.
    """
    from k3sd.datastore.store import LogStore

    tls = TLS(cafile, certfile, keyfile)
    driver = driver_of(endpoint)
    if driver == "memory":
        from k3sd.datastore.drivers.memory import MemoryLog

        return LogStore(MemoryLog(), upkeep=upkeep)
    if driver == "sqlite":
        from k3sd.datastore.drivers.sqlite import SqliteLog

        return LogStore(SqliteLog(sqlite_path(endpoint, data_dir)), upkeep=upkeep)
    if driver == "etcd":
        from k3sd.datastore.drivers.etcd import EtcdBackend

        return EtcdBackend(endpoint, tls, patience_seconds=patience_seconds, upkeep=upkeep)

    from k3sd.datastore.shared import SharedLog, SharedStore

    log: SharedLog
    if driver == "postgres":
        from k3sd.datastore.drivers.postgres import PostgresLog

        log = PostgresLog(endpoint, tls)
    else:
        from k3sd.datastore.drivers.mysql import MySQLLog

        log = MySQLLog(endpoint, tls)
    return SharedStore(log, patience_seconds=patience_seconds, upkeep=upkeep)
