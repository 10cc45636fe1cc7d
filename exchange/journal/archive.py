"""Archive: finished orders, fills and postings of the ledger, in an SQLite file for queries.

It is filled from the write-ahead log some milliseconds after a commit has returned, and stores the last
frame that it contains: after a crash the rest is read from the log again. Frames that a snapshot has
replaced are in the archive alone.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from exchange.journal.frames import JournalError
from exchange.journal.sqlite import opened
from exchange.model.codec import pack, unpacker
from exchange.model.records import Fill, Order, Posting, decode_order

SCHEMA_VERSION: Final = 1
ROWS: Final = (500, 50, 5, 1)  # rows written by one statement
FOREVER: Final = 2**62  # us

_SCHEMA: Final = """
CREATE TABLE place (one INTEGER PRIMARY KEY CHECK (one = 1), frame INTEGER NOT NULL);
INSERT INTO place VALUES (1, 0);
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE orders (
    number INTEGER PRIMARY KEY, frame INTEGER NOT NULL, account INTEGER NOT NULL,
    market INTEGER NOT NULL, updated INTEGER NOT NULL, client_id TEXT, data BLOB NOT NULL);
CREATE INDEX orders_time ON orders (account, market, updated);
CREATE INDEX orders_client_id ON orders (account, client_id) WHERE client_id IS NOT NULL;
CREATE TABLE fills (
    id INTEGER PRIMARY KEY, frame INTEGER NOT NULL, account INTEGER NOT NULL,
    market INTEGER NOT NULL, time INTEGER NOT NULL, "order" INTEGER NOT NULL,
    peer INTEGER NOT NULL, take INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX fills_time ON fills (account, market, time);
CREATE INDEX fills_order ON fills ("order");
CREATE INDEX fills_peer ON fills (peer, take);
CREATE TABLE postings (
    id INTEGER PRIMARY KEY, frame INTEGER NOT NULL, holder TEXT NOT NULL,
    asset INTEGER NOT NULL, time INTEGER NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL);
CREATE INDEX postings_time ON postings (holder, asset, time);
CREATE INDEX postings_moves ON postings (holder, id) WHERE kind NOT IN ('trade', 'fee');
"""
_fill_of = unpacker(Fill).decode
_posting_of = unpacker(Posting).decode

Row = tuple[object, ...]


class Archive:
    """History of a node. One thread at a time calls `add`; all other methods may be called from any."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. An unusable file is renamed, and a new one begun.

        Raises:
            JournalError: the file can be neither used nor renamed.
        """
        self.path = path
        self.put_aside: str | None = None  # reason, if an unusable file was renamed
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        try:
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self.put_aside = str(error)
                for end in ("-wal", "-shm"):
                    path.with_name(path.name + end).unlink(missing_ok=True)
                path.replace(path.with_name(f"{path.name}.damaged"))
                self._open()
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"cannot open the archive {path}: {error}") from error

    def _open(self) -> None:
        with opened(self.path, _SCHEMA, SCHEMA_VERSION, 2) as connections:
            self._writer, self._reader = connections
            db = self._writer
            (at,) = db.execute("SELECT frame FROM place").fetchone()
            self.at: int = at  # the last frame in it
            self._names: dict[str, int] = dict(
                db.execute("SELECT name, id FROM names ORDER BY id").fetchall()
            )
            self._named = len(self._names)  # number of names that are in the file
            self._next = {
                table: db.execute(f"SELECT ifnull(max(id), 0) + 1 FROM {table}").fetchone()[0]  # noqa: S608
                for table in ("fills", "postings")
            }

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        with self._writing:
            self._writer.close()

    # Writing

    def add(
        self,
        orders: Iterable[tuple[int, Order]],
        fills: Iterable[tuple[int, Fill]],
        postings: Iterable[tuple[int, Posting]],
        at: int,
    ) -> None:
        """Add the rows of the frames up to `at`, each with its frame's number; all or none.

        Raises:
            JournalError: nothing was written.
        """
        name = self._name
        following = dict(self._next)
        rows: dict[str, list[Row]] = {
            "orders": [
                (o.number, frame, o.account, name(o.market), o.updated, o.client_id, pack(o))
                for frame, o in {order.number: (frame, order) for frame, order in orders}.values()
            ],
            "fills": [
                (
                    *(number, frame, f.account, name(f.market), f.time, f.order),
                    *(name(f.counterparty), f.take, pack(f)),
                )
                for number, (frame, f) in enumerate(fills, following["fills"])
            ],
            "postings": [
                (number, frame, p.holder, name(p.asset), p.time, p.kind, pack(p))
                for number, (frame, p) in enumerate(postings, following["postings"])
            ],
        }
        names = list(self._names.items())[self._named :]
        with self._transaction() as db:
            _insert(db, "names", [(number, name) for name, number in names])
            for table, values in rows.items():
                _insert(db, table, values)
            db.execute("UPDATE place SET frame = ?", (at,))
        self.at = at
        self._named += len(names)
        for table in self._next:
            self._next[table] += len(rows[table])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._writer
        with self._writing:
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OverflowError) as error:
                raise JournalError(f"cannot write the archive {self.path}: {error}") from error

    def _name(self, name: str) -> int:
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = len(self._names) + 1
        return number

    def count_after(self, frame: int) -> int:
        """Count the rows of later frames. Reads every row."""
        count = 0
        for table in ("orders", "fills", "postings"):
            text = f"SELECT count(*) FROM {table} WHERE frame > ?"  # noqa: S608
            count += self._ask(text, (frame,))[0][0]
        return count

    def set_aside_after(self, frame: int) -> None:
        """Move the rows of later frames into the table `lost`: the log has lost these frames and
        will use their numbers again.

        Raises:
            JournalError: the archive cannot be written.
        """
        with self._transaction() as db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS lost (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, "
                "frame INTEGER NOT NULL, data BLOB NOT NULL)"
            )
            for table in ("orders", "fills", "postings"):
                db.execute(
                    f"INSERT INTO lost (kind, frame, data) SELECT '{table}', frame, data FROM {table} "  # noqa: S608
                    "WHERE frame > ?",
                    (frame,),
                )
                db.execute(f"DELETE FROM {table} WHERE frame > ?", (frame,))  # noqa: S608
            db.execute("UPDATE place SET frame = ?", (frame,))
        self.at = frame

    def flush(self) -> int:
        """Flush the archive to the disk. Returns the frame up to which it is durable, 0 if unknown."""
        at = self.at
        with self._writing, suppress(sqlite3.Error):  # on errors the log keeps the frames longer
            busy, length, moved = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy and length == moved:
                return at
        return 0

    # Queries. Times in us, inclusive.

    def order(self, number: int) -> Order | None:
        rows = self._ask("SELECT data FROM orders WHERE number = ?", (number,))
        return decode_order(rows[0][0]) if rows else None

    def by_client_id(self, client_id: str, account: int) -> Order | None:
        """Find the latest finished order with a client id."""
        rows = self._ask(
            "SELECT data FROM orders WHERE account = ? AND client_id = ? ORDER BY number DESC LIMIT 1",
            (account, client_id),
        )
        return decode_order(rows[0][0]) if rows else None

    def past_orders(
        self,
        account: int,
        *,
        market: str | None = None,
        start: int = 0,
        end: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
        skip: int = 0,
    ) -> list[Order]:
        """List finished orders of an account by their last change, then by number."""
        where = ("orders", "account", account, "market", market, "updated", "number")
        return [
            decode_order(data) for data in self._part(where, start, end, limit, newest_first, skip)
        ]

    def fills_of(
        self,
        account: int,
        *,
        market: str | None = None,
        order: int | None = None,
        start: int = 0,
        end: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
        skip: int = 0,
    ) -> list[Fill]:
        """List fills of an account's orders by time, then in the order of writing."""
        if order is None:
            where = ("fills", "account", account, "market", market, "time", "id")
            return [
                _fill_of(data) for data in self._part(where, start, end, limit, newest_first, skip)
            ]
        way = "DESC" if newest_first else "ASC"
        rows = self._ask(
            f'SELECT data FROM fills WHERE "order" = ? AND account = ? AND time BETWEEN ? AND ? '  # noqa: S608
            f"AND ifnull(market = ?, 1) ORDER BY time {way}, id {way} LIMIT ? OFFSET ?",
            (
                *(order, account, start, FOREVER if end is None else end),
                *(None if market is None else self._names.get(market, 0), limit, skip),
            ),
        )
        return [_fill_of(data) for (data,) in rows]

    def postings(
        self,
        holder: str,
        *,
        asset: str | None = None,
        start: int = 0,
        end: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
        skip: int = 0,
    ) -> list[Posting]:
        """List postings of a holder by time, then in the order of writing."""
        where = ("postings", "holder", holder, "asset", asset, "time", "id")
        return [
            _posting_of(data) for data in self._part(where, start, end, limit, newest_first, skip)
        ]

    def orders(self, *, market: str | None = None, limit: int) -> list[Order]:
        """List finished orders of all accounts, greatest numbers first."""
        return [decode_order(data) for data in self._newest("orders", "number", market, limit)]

    def fills(self, *, market: str | None = None, limit: int) -> list[Fill]:
        """List fills of all accounts, latest first. `limit` -1: all."""
        return [_fill_of(data) for data in self._newest("fills", "id", market, limit)]

    def ledger(self, *, limit: int) -> list[Posting]:
        """List postings of all holders, latest first. `limit` -1: all."""
        return [_posting_of(data) for data in self._newest("postings", "id", None, limit)]

    # Fills and postings with another node. A cut stays the same: later rows have greater numbers.

    def cut(self) -> tuple[int, int]:
        """Return the numbers of the last fill and the last posting."""
        rows = self._ask(
            "SELECT (SELECT ifnull(max(id), 0) FROM fills), (SELECT ifnull(max(id), 0) FROM postings)",
            (),
        )
        fills, postings = rows[0]
        return fills, postings

    def fills_with(
        self,
        counterparty: str,
        upto: int,
        *,
        first: int = 0,
        last: int = FOREVER,
        page: int = 1000,
    ) -> Iterator[Fill]:
        """Yield fills with another node up to a number of `cut`, with take numbers from `first` to `last`,
        by take. `page` fills are in memory at a time."""
        at = (first, 0)
        while True:
            rows = self._ask(
                "SELECT take, id, data FROM fills WHERE peer = ? AND take BETWEEN ? AND ? "
                "AND (take, id) > (?, ?) AND id <= ? ORDER BY take, id LIMIT ?",
                (self._names.get(counterparty, 0), at[0], last, *at, upto, page),
            )
            for take, number, data in rows:
                yield _fill_of(data)
                at = (take, number)
            if len(rows) < page:
                return

    def last_postings(self, holder: str, upto: int) -> list[Posting]:
        """List a holder's last posting in each asset, up to a number of `cut`; it has the balance."""
        rows = self._ask(
            "SELECT data FROM postings WHERE id IN "
            "(SELECT max(id) FROM postings WHERE holder = ? AND id <= ? GROUP BY asset)",
            (holder, upto),
        )
        return [_posting_of(data) for (data,) in rows]

    def moves_of(self, holder: str, upto: int) -> list[Posting]:
        """List a holder's postings that are not of trades, latest first, up to a number of `cut`."""
        rows = self._ask(
            "SELECT data FROM postings WHERE holder = ? AND id <= ? "
            "AND kind NOT IN ('trade', 'fee') ORDER BY id DESC",
            (holder, upto),
        )
        return [_posting_of(data) for (data,) in rows]

    def _newest(self, table: str, key: str, market: str | None, limit: int) -> list[bytes]:
        where = "" if market is None else "WHERE market = ?2"
        rows = self._ask(
            f"SELECT data FROM {table} {where} ORDER BY {key} DESC LIMIT ?1",  # noqa: S608
            (limit,) if market is None else (limit, self._names.get(market, 0)),
        )
        return [data for (data,) in rows]

    def _part(
        self,
        where: tuple[str, str, object, str, str | None, str, str],
        start: int,
        end: int | None,
        limit: int,
        newest_first: bool,
        skip: int,
    ) -> list[bytes]:
        """Query each market (or asset) alone by time, so that one index serves one market and all. `skip`: rows left
        out at the beginning."""
        table, whose, holder, of, name, time, key = where
        way = "DESC" if newest_first else "ASC"
        text = (
            f"SELECT {time}, {key}, data FROM {table} WHERE {whose} = ? AND {of} = ? "  # noqa: S608
            f"AND {time} BETWEEN ? AND ? ORDER BY {time} {way}, {key} {way} LIMIT ?"
        )
        names = list(self._names.values()) if name is None else [self._names.get(name, 0)]
        rows: list[tuple[int, int, bytes]] = []
        for number in names:
            rows += self._ask(
                text, (holder, number, start, FOREVER if end is None else end, limit + skip)
            )
        rows.sort(key=lambda row: row[:2], reverse=newest_first)
        return [data for _, _, data in rows[skip:][:limit]]

    def _ask(self, text: str, values: Sequence[object]) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(text, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"cannot read the archive {self.path}: {error}") from error


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    """Insert rows, many in one statement: SQLite releases the interpreter lock for each statement, and
    getting it back from a busy thread takes 5 ms; single rows would be 200 a second then."""
    done = 0
    for many in ROWS:
        while len(rows) - done >= many:
            part = rows[done : done + many]
            marks = f"({', '.join('?' * len(part[0]))})"
            db.execute(
                f"INSERT OR REPLACE INTO {table} VALUES {', '.join([marks] * many)}",  # noqa: S608
                [value for row in part for value in row],
            )
            done += many
