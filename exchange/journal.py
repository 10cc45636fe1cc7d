"""The journal: everything an acknowledged order depends on, in one SQLite file.

Write-ahead log, one transaction for all records of a drain (group commit). With `sync="full"` a
commit is on the disk when it returns, so an acknowledged order survives power loss; with "normal"
it survives the death of the process only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

from exchange.events import Batch
from exchange.feed import Snapshot
from exchange.records import (
    Decision,
    DropDecisions,
    DropTake,
    Fill,
    Order,
    PendingTake,
    PutBatch,
    PutDecision,
    PutFill,
    PutMeta,
    PutOrder,
    PutSnapshot,
    PutTake,
    Record,
    Recovered,
    StoredFeed,
)

SCHEMA_VERSION = 1
RECENT = 10_000  # finished orders read back at the start

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE orders (
    number INTEGER PRIMARY KEY, market TEXT NOT NULL, side INTEGER NOT NULL, price INTEGER,
    quantity INTEGER NOT NULL, time INTEGER NOT NULL, client_id TEXT, filled INTEGER NOT NULL,
    pending INTEGER NOT NULL, cancelled INTEGER NOT NULL, opened INTEGER NOT NULL,
    shown INTEGER NOT NULL, value TEXT NOT NULL, done INTEGER NOT NULL);
CREATE INDEX orders_open ON orders (number) WHERE done = 0;
CREATE INDEX orders_client_id ON orders (client_id) WHERE client_id IS NOT NULL;
CREATE TABLE takes (take INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE decisions (
    taker TEXT NOT NULL, take INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (taker, take)) WITHOUT ROWID;
CREATE TABLE marks (taker TEXT PRIMARY KEY, below INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE fills (
    id INTEGER PRIMARY KEY, taker TEXT NOT NULL, take INTEGER NOT NULL, role TEXT NOT NULL,
    market TEXT NOT NULL, "order" INTEGER NOT NULL, side INTEGER NOT NULL, price INTEGER NOT NULL,
    quantity INTEGER NOT NULL, time INTEGER NOT NULL, counterparty TEXT NOT NULL,
    counterparty_order INTEGER NOT NULL, UNIQUE (taker, take, role));
CREATE TABLE batches (
    owner TEXT NOT NULL, market TEXT NOT NULL, first INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (owner, market, first)) WITHOUT ROWID;
CREATE TABLE snapshots (
    owner TEXT NOT NULL, market TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (owner, market)) WITHOUT ROWID;
"""

_pack = msgspec.msgpack.Encoder().encode
_ORDER_FIELDS = Order.__struct_fields__
_FILL_FIELDS = Fill.__struct_fields__
_ORDER_MARKS = ", ".join("?" * len(_ORDER_FIELDS))
_FILL_MARKS = ", ".join("?" * len(_FILL_FIELDS))
_FILL_COLUMNS = ", ".join('"order"' if f == "order" else f for f in _FILL_FIELDS)


_order_values = attrgetter(*(f"order.{name}" for name in _ORDER_FIELDS if name != "value"))
_ORDER_COLUMNS = ", ".join([name for name in _ORDER_FIELDS if name != "value"] + ["value"])

# What to do for each kind of record, in the order in which the kinds are written: a statement, and
# its values from a record.
_WRITES: tuple[tuple[type[Record], str, Callable[[Any], tuple[object, ...]]], ...] = (
    (PutMeta, "INSERT OR REPLACE INTO meta VALUES (?, ?)", attrgetter("name", "value")),
    (
        PutOrder,
        f"INSERT OR REPLACE INTO orders ({_ORDER_COLUMNS}) VALUES ({_ORDER_MARKS})",  # noqa: S608
        # A sum of price * quantity can exceed 64 bits, hence the text.
        lambda r: (*_order_values(r), str(r.order.value)),
    ),
    (
        PutTake,
        "INSERT OR REPLACE INTO takes VALUES (?, ?)",
        lambda r: (r.take.take, _pack(r.take)),
    ),
    (
        PutDecision,
        "INSERT INTO decisions VALUES (?, ?, ?)",
        lambda r: (r.decision.taker, r.decision.take, _pack(r.decision)),
    ),
    (
        PutFill,
        f"INSERT INTO fills ({_FILL_COLUMNS}) VALUES ({_FILL_MARKS})",  # noqa: S608
        attrgetter(*(f"fill.{name}" for name in _FILL_FIELDS)),
    ),
    (
        PutBatch,
        "INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?)",
        lambda r: (r.owner, r.batch.market, r.batch.first, _pack(r.batch)),
    ),
    (DropTake, "DELETE FROM takes WHERE take = ?", lambda r: (r.take,)),
    (
        DropDecisions,
        "DELETE FROM decisions WHERE taker = ? AND take < ?",
        attrgetter("taker", "below"),
    ),
    (DropDecisions, "INSERT OR REPLACE INTO marks VALUES (?, ?)", attrgetter("taker", "below")),
    (
        PutSnapshot,
        "DELETE FROM batches WHERE owner = ? AND market = ? AND first <= ?",
        lambda r: (r.owner, r.market, r.snapshot.batch.last),
    ),
    (
        PutSnapshot,
        "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)",
        lambda r: (r.owner, r.market, _pack(r.snapshot)),
    ),
)


class JournalError(Exception):
    """The journal cannot be opened, read or written. The text says which file and why."""


class Journal:
    """One node's journal. `commit` may be called from another thread than the constructor, one
    call at a time."""

    def __init__(
        self, path: Path, *, sync: Literal["full", "normal"] = "full", owner: str = ""
    ) -> None:
        """Open or create the journal. Feeds of others than `owner` can be fetched again, so a commit
        of nothing else does not wait for the disk.

        Raises:
            JournalError: not a journal, made by a newer version, or not writable.
        """
        self.path = path
        self._sync = sync == "full"
        self._owner = owner
        opened: list[sqlite3.Connection] = []
        try:
            path.touch(mode=0o600, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            opened.append(self._db)
            self._prepare()
            # Readers of history do not wait for a commit, nor see half of one.
            self._reader = sqlite3.connect(path, isolation_level=None)
        except (sqlite3.Error, OSError, JournalError) as error:
            for connection in opened:
                connection.close()
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"cannot open the journal {path}: {error}") from error

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'NORMAL'}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise JournalError(
                f"{self.path} has journal version {version}; this program reads version "
                f"{SCHEMA_VERSION}"
            )

    def close(self) -> None:
        self._reader.close()
        self._db.close()

    def commit(self, records: Sequence[Record]) -> None:
        """Make `records` durable, all or none.

        Raises:
            JournalError: nothing was written; the node must stop, for it cannot keep its promises.
        """
        if not records:
            return
        db = self._db
        relaxed = self._sync and all(self._can_be_fetched(record) for record in records)
        try:
            if relaxed:
                db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            try:
                self._write(records)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            if relaxed:
                db.execute("PRAGMA synchronous = FULL")
        except (sqlite3.Error, OverflowError) as error:
            raise JournalError(f"cannot write the journal {self.path}: {error}") from error

    def _can_be_fetched(self, record: Record) -> bool:
        return isinstance(record, (PutBatch, PutSnapshot)) and record.owner != self._owner

    def _write(self, records: Sequence[Record]) -> None:
        """One statement for all records of a kind. What is put goes before what is dropped, which
        gives the same as the order of the records: no key that was dropped is ever put again."""
        by_kind: dict[type[Record], list[Record]] = {}
        for record in records:
            by_kind.setdefault(type(record), []).append(record)
        for kind, statement, values in _WRITES:
            if kind in by_kind:
                self._db.executemany(statement, map(values, by_kind[kind]))

    def recover(self) -> Recovered:
        """Everything that a restarted node goes on with.

        Raises:
            JournalError: the file is damaged.
        """
        try:
            return self._recover()
        except (sqlite3.Error, msgspec.DecodeError, ValueError) as error:
            raise JournalError(f"cannot read the journal {self.path}: {error}") from error

    def _recover(self) -> Recovered:
        run = self._reader.execute
        feeds: dict[tuple[str, str], StoredFeed] = {}
        for owner, market, data in run("SELECT owner, market, data FROM snapshots"):
            snapshot = msgspec.msgpack.decode(data, type=Snapshot)
            feeds[owner, market] = StoredFeed(owner, market, snapshot)
        batch_of = msgspec.msgpack.Decoder(Batch)
        rows = run("SELECT owner, market, data FROM batches ORDER BY owner, market, first")
        for owner, market, data in rows:
            stored = feeds.get((owner, market))
            if stored is None:
                stored = feeds[owner, market] = StoredFeed(owner, market)
            batch = batch_of.decode(data)
            if stored.snapshot is None or batch.first > stored.snapshot.batch.last:
                stored.batches.append(batch)
        open_orders = self._orders("done = 0")
        done = self._orders(f"done = 1 ORDER BY number DESC LIMIT {RECENT}")
        return Recovered(
            meta=dict(run("SELECT name, value FROM meta").fetchall()),
            orders=sorted(open_orders + done, key=lambda order: order.number),
            takes=[
                msgspec.msgpack.decode(data, type=PendingTake)
                for (data,) in run("SELECT data FROM takes ORDER BY take")
            ],
            decisions=[
                msgspec.msgpack.decode(data, type=Decision)
                for (data,) in run("SELECT data FROM decisions ORDER BY taker, take")
            ],
            marks=dict(run("SELECT taker, below FROM marks").fetchall()),
            feeds=list(feeds.values()),
        )

    def _orders(self, condition: str, values: Sequence[object] = ()) -> list[Order]:
        rows = self._reader.execute(
            f"SELECT {', '.join(_ORDER_FIELDS)} FROM orders WHERE {condition}",  # noqa: S608
            values,
        )
        return [_order_of(row) for row in rows]

    # History, newest first

    def orders(self, *, market: str | None, limit: int) -> list[Order]:
        """Own orders, finished ones too."""
        return self._orders(
            "(?1 IS NULL OR market = ?1) ORDER BY number DESC LIMIT ?2", (market, limit)
        )

    def order(self, number: int) -> Order | None:
        found = self._orders("number = ?", (number,))
        return found[0] if found else None

    def by_client_id(self, client_id: str) -> Order | None:
        """The latest order with this client id."""
        found = self._orders("client_id = ? ORDER BY number DESC LIMIT 1", (client_id,))
        return found[0] if found else None

    def fills(self, *, market: str | None, limit: int) -> list[Fill]:
        """Own fills."""
        rows = self._reader.execute(
            f"SELECT {_FILL_COLUMNS} FROM fills WHERE (?1 IS NULL OR market = ?1) "  # noqa: S608
            "ORDER BY id DESC LIMIT ?2",
            (market, limit),
        )
        return [Fill(*row) for row in rows]


def _order_of(row: Sequence[object]) -> Order:
    values = dict(zip(_ORDER_FIELDS, row, strict=True))
    values["value"] = int(str(values["value"]))
    return msgspec.convert(values, Order, strict=False)
