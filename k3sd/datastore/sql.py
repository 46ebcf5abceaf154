"""kine's table as statements, written once with ``?`` placeholders; a driver adapts what its dialect spells differently.

Source: K3s kine, ``pkg/drivers/{sqlite,mysql,pgsql}`` and ``pkg/drivers/generic``. Column and index names are kine's: they make
the database readable by K3s, and the unique index on (name, prev_revision) is what decides between servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from k3sd.datastore import mvcc
from k3sd.datastore.backend import Event, KeyValue

COLUMNS = ("id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value")

INDEXES = (
    ("kine_name_index", False, "name"),
    ("kine_name_id_index", False, "name, id"),
    ("kine_id_deleted_index", False, "id, deleted"),
    ("kine_prev_revision_index", False, "prev_revision"),
    ("kine_name_prev_revision_uindex", True, "name, prev_revision"),
)

INSERT = "INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES "
INSERT_VALUES = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"

CURRENT_REVISION = "SELECT COALESCE(MAX(id), 0) FROM kine"
COMPACT_REVISION = f"SELECT COALESCE(MAX(prev_revision), 0) FROM kine WHERE name = '{mvcc.COMPACT_KEY}'"

HEADS = """
SELECT k.name, k.id, k.created, k.deleted, k.create_revision, k.lease FROM kine k
JOIN (SELECT MAX(id) AS id FROM kine GROUP BY name) m ON k.id = m.id"""
"""Newest row of every name."""

GET = """
SELECT name, value, id, created, create_revision, lease, deleted FROM kine
WHERE name = ? AND id <= ? ORDER BY id DESC LIMIT 1"""

_LIVE = f"""
FROM kine k WHERE k.name >= ? AND k.name < ? AND k.id <= ? AND k.deleted = 0 AND k.name != '{mvcc.COMPACT_KEY}'
AND k.id = (SELECT MAX(n.id) FROM kine n WHERE n.name = k.name AND n.id <= ?)"""
"""Live rows at a revision. The correlated form streams in index order, so LIMIT stops it early."""

LIST = f"SELECT k.name, k.value, k.id, k.created, k.create_revision, k.lease {_LIVE} ORDER BY k.name LIMIT ?"
LIST_KEYS = f"SELECT k.name, NULL, k.id, k.created, k.create_revision, k.lease {_LIVE} ORDER BY k.name LIMIT ?"
COUNT = f"""
SELECT COUNT(*) FROM (SELECT MAX(k.id) AS id FROM kine k
WHERE k.name >= ? AND k.name < ? AND k.id <= ? AND k.name != '{mvcc.COMPACT_KEY}' GROUP BY k.name) m
JOIN kine l ON l.id = m.id WHERE l.deleted = 0"""
"""The same, counted from indexes alone."""

HISTORY = f"""
SELECT k.name, k.created, k.deleted, k.create_revision, k.prev_revision, k.lease, k.value, k.old_value, k.id,
CASE WHEN k.deleted = 0 THEN 0 ELSE COALESCE(
(SELECT CASE WHEN p.created = 1 THEN p.id ELSE p.create_revision END FROM kine p WHERE p.id = k.prev_revision), 0) END
FROM kine k WHERE k.id > ? AND k.id <= ? AND k.name >= ? AND k.name < ?
AND k.name != '{mvcc.COMPACT_KEY}' AND k.name NOT LIKE '{mvcc.GAP_PREFIX}%' ORDER BY k.id LIMIT ?"""

COMPACT_SUPERSEDED = f"""
DELETE FROM kine WHERE id IN (SELECT k.prev_revision FROM kine k
WHERE k.id > ? AND k.id <= ? AND k.prev_revision != 0 AND k.name != '{mvcc.COMPACT_KEY}')"""
COMPACT_TOMBSTONES = "DELETE FROM kine WHERE id >= ? AND id < ? AND deleted = 1"
SET_COMPACT_REVISION = f"UPDATE kine SET prev_revision = ? WHERE name = '{mvcc.COMPACT_KEY}'"

UNLIMITED = 2**62


def newer_schema(where: str, unknown: Iterable[str]) -> str:
    """Columns kine did not have when this was written may carry a meaning that writing without them would break."""
    return (
        f"table kine at {where} was made by a newer version: its column {', '.join(sorted(unknown))} is not known here; "
        "use the version that made it, or migrate with its own tools"
    )


def key_value(name: str, value: bytes | None, revision: int, created: int, create_revision: int, lease: int) -> KeyValue:
    """A live row as the contract shows it."""
    return KeyValue(name, bytes(value or b""), revision, revision if created else create_revision, lease)


def events_of(rows: Sequence[tuple[object, ...]]) -> list[Event]:
    """Rows of HISTORY."""
    return [mvcc.event_of(*row) for row in rows]  # type: ignore[arg-type]
