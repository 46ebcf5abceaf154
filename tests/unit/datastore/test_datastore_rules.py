from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k3sd.datastore import open_backend
from k3sd.datastore.backend import DatastoreError
from k3sd.datastore.endpoint import TLS, driver_of
from k3sd.datastore.mvcc import Kind, Verdict, judge, prefix_end
from k3sd.datastore.shared import Sequencer


@pytest.mark.parametrize(
    ("kind", "wanted", "head", "verdict"),
    [
        (Kind.CREATE, 0, None, Verdict.WRITE),
        (Kind.CREATE, 0, (5, 0, 0), Verdict.WRITE),
        (Kind.CREATE, 0, (5, 3, 0), Verdict.FAIL),
        (Kind.UPDATE, 5, (5, 3, 0), Verdict.WRITE),
        (Kind.UPDATE, 4, (5, 3, 0), Verdict.FAIL),
        (Kind.UPDATE, 5, (5, 0, 0), Verdict.FAIL),
        (Kind.UPDATE, 0, None, Verdict.FAIL),
        (Kind.DELETE, 0, (5, 3, 0), Verdict.WRITE),
        (Kind.DELETE, 5, (5, 3, 0), Verdict.WRITE),
        (Kind.DELETE, 4, (5, 3, 0), Verdict.FAIL),
        (Kind.DELETE, 4, None, Verdict.NOTHING),
        (Kind.DELETE, 5, (5, 0, 0), Verdict.NOTHING),
    ],
)
def test_preconditions(kind: Kind, wanted: int, head: tuple[int, int, int] | None, verdict: Verdict) -> None:
    assert judge(kind, wanted, head) is verdict


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("/registry/pods/", "/registry/pods0"), ("a", "b"), ("a\U0010ffff", "b"), ("", "\U0010ffff"), ("\ud7ff", "\ue000")],
)
def test_prefix_end(prefix: str, end: str) -> None:
    assert prefix_end(prefix) == end


def test_revisions_are_put_in_order() -> None:
    order = Sequencer(5)
    order.add([(7, None), (8, None), (4, None)])
    assert order.take() == [] and order.hole == (6, 6)
    order.add([(6, None), (7, None)])
    assert order.take() == [] and order.revision == 8 and order.hole is None
    order.add([(20, None)])
    order.skip(19)
    order.take()
    assert order.revision == 20


@pytest.mark.parametrize(
    ("endpoint", "driver"),
    [
        ("", "sqlite"),
        ("sqlite://./db/other.db?cache=shared", "sqlite"),
        ("postgresql://h/db", "postgres"),
        ("mysql://u@tcp(h)/db", "mysql"),
        ("https://h:2379,https://h2:2379", "etcd"),
        ("memory", "memory"),
    ],
)
def test_endpoints_name_drivers(endpoint: str, driver: str) -> None:
    assert driver_of(endpoint) == driver


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("db.example.org", "invalid datastore endpoint; endpoint should be a DSN URI in the format <scheme>://<authority>"),
        ("nats://h", "unknown scheme 'nats'"),
        ("mysql://root@h", "not a MySQL DSN"),
        ("mysql://root@pipe(x)/db", "protocol 'pipe' is not known"),
        ("postgres://u:p@[h/db", "not a PostgreSQL URI"),
        ("postgres://u:p@h:port/db", "not a PostgreSQL URI"),
        ("postgres://u:secret/word@h/db", "such as / # [?] @ of the password as %2F %23 %3F %40"),
        ("postgres://u:secret#word@h/db", "not a PostgreSQL URI"),
    ],
)
def test_endpoints_that_are_wrong(endpoint: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatastoreError, match=message) as caught:
        open_backend(endpoint, data_dir=tmp_path)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


CERTS = TLS("/ca", "/cert", "/key")


@pytest.mark.parametrize(
    ("endpoint", "tls", "dsn"),
    [
        ("postgres://", TLS(), "postgres://postgres:postgres@localhost/kubernetes"),
        ("postgresql://u:p@h:5433/MyDB", TLS(), "postgres://u:p@h:5433/mydb"),
        ("postgres://u@h/db?sslmode=require", TLS(), "postgres://u@h/db?sslmode=require"),
        ("postgres://u@h/db", CERTS, "postgres://u@h/db?sslcert=/cert&sslkey=/key&sslrootcert=/ca&sslmode=verify-full"),
    ],
)
def test_postgres_endpoints(endpoint: str, tls: TLS, dsn: str) -> None:
    postgres = pytest.importorskip("k3sd.datastore.drivers.postgres")
    assert postgres.parse_dsn(endpoint, tls).replace("%2F", "/") == dsn


@pytest.mark.parametrize(
    ("endpoint", "tls", "args"),
    [
        ("mysql://", TLS(), {"user": "root", "unix_socket": "/var/run/mysqld/mysqld.sock", "db": "kubernetes"}),
        (
            "mysql://u:p@ss/w@tcp(db.example.org:3307)/k3s?parseTime=true",
            TLS(),
            {"user": "u", "passwd": "p@ss/w", "host": "db.example.org", "port": 3307, "db": "k3s"},
        ),
        ("mysql://u@tcp([::1]:3306)/", TLS(), {"user": "u", "host": "::1", "port": 3306, "db": "kubernetes"}),
        (
            "mysql://u@tcp(h)/db",
            CERTS,
            {
                "user": "u",
                "host": "h",
                "port": 3306,
                "db": "db",
                "ssl": {"ca": "/ca", "cert": "/cert", "key": "/key"},
                "tls": "true",
            },
        ),
        (
            "mysql://u@tcp(h)/db?tls=skip-verify",
            TLS(),
            {"user": "u", "host": "h", "port": 3306, "db": "db", "tls": "skip-verify"},
        ),
    ],
)
def test_mysql_endpoints(endpoint: str, tls: TLS, args: dict[str, Any]) -> None:
    mysql = pytest.importorskip("k3sd.datastore.drivers.mysql")
    assert mysql.parse_dsn(endpoint, tls) == args
