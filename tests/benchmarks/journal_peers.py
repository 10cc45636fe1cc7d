"""The way that journals usually go, for comparison: the same records into SQLite, a transaction for each
commit and one `executemany` for each kind of record."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from exchange.model.records import Fill, Order, PutBatch, PutMeta, PutSnapshot, Record, Transaction

_pack = msgspec.msgpack.Encoder().encode

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
CREATE TABLE orders (number INTEGER PRIMARY KEY, market TEXT, client_id TEXT, done INTEGER, data BLOB);
CREATE INDEX orders_open ON orders (number) WHERE done = 0;
CREATE INDEX orders_client_id ON orders (client_id) WHERE client_id IS NOT NULL;
CREATE TABLE fills (
    id INTEGER PRIMARY KEY, taker TEXT, take INTEGER, role TEXT, market TEXT, data BLOB,
    UNIQUE (taker, take, role));
CREATE TABLE transactions (number INTEGER PRIMARY KEY, time INTEGER, data BLOB);
CREATE TABLE batches (
    owner TEXT, market TEXT, first INTEGER, data BLOB, PRIMARY KEY (owner, market, first)
    ) WITHOUT ROWID;
CREATE TABLE snapshots (owner TEXT, market TEXT, data BLOB, PRIMARY KEY (owner, market)) WITHOUT ROWID;
"""
_WRITES: dict[type, tuple[str, Callable[[Any], tuple[object, ...]]]] = {
    PutMeta: ("INSERT OR REPLACE INTO meta VALUES (?, ?)", lambda r: (r.name, r.value)),
    Order: (
        "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?)",
        lambda r: (
            *(r.number, r.market, r.client_id, r.done),
            _pack(r),
        ),
    ),
    Fill: (
        "INSERT INTO fills VALUES (NULL, ?, ?, ?, ?, ?)",
        lambda r: (r.taker, r.take, r.role, r.market, _pack(r)),
    ),
    Transaction: (
        "INSERT INTO transactions VALUES (?, ?, ?)",
        lambda r: (r.number, r.time, _pack(r)),
    ),
    PutBatch: (
        "INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?)",
        lambda r: (r.owner, r.batch.market, r.batch.first, _pack(r.batch)),
    ),
    PutSnapshot: (
        "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)",
        lambda r: (r.owner, r.market, _pack(r.snapshot)),
    ),
}


class SqliteJournal:
    """Commits only."""

    def __init__(self, path: Path, *, sync: Literal["full", "normal"]) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {sync}")
        self._db.executescript(_SCHEMA)

    def commit(self, records: Sequence[Record]) -> None:
        by_kind: dict[type, list[Record]] = {}
        for record in records:
            by_kind.setdefault(type(record), []).append(record)
        self._db.execute("BEGIN IMMEDIATE")
        for kind, found in by_kind.items():
            statement, values = _WRITES[kind]
            self._db.executemany(statement, map(values, found))
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
