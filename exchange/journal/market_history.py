"""Market history: public trades and candles in a SQLite file beside the journal.

All of it is derived data: a save does not wait for the disk, and an unreadable file is replaced by an
empty one. Trades that were not saved before a crash are replayed from the journal; the table `counted`
has each maker's last number in the candles, so that no trade is counted twice.

A full table of trades is pruned in shares (`exchange.market.history_shares`), so it keeps trades of every maker.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from exchange.journal.sqlite import opened
from exchange.market.candles import TIMEFRAMES, Candle, TradeRecord
from exchange.market.history_shares import excess

SCHEMA_VERSION: Final = 1
TRADES_KEPT: Final = 500_000  # of each market; about 60 MB
CANDLES_KEPT: Final = 50_000  # of each market and length; five weeks of one-minute candles
PRUNE_EVERY: Final = 10  # prune after additions of a tenth of the rows kept

_SCHEMA: Final = """
CREATE TABLE markets (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE trades (
    market INTEGER NOT NULL, time INTEGER NOT NULL, maker TEXT NOT NULL, number INTEGER NOT NULL,
    side INTEGER NOT NULL, price INTEGER NOT NULL, quantity INTEGER NOT NULL, taker TEXT NOT NULL,
    take INTEGER NOT NULL, PRIMARY KEY (market, time, maker, number)) WITHOUT ROWID;
CREATE TABLE candles (
    market INTEGER NOT NULL, frame TEXT NOT NULL, start INTEGER NOT NULL, open INTEGER NOT NULL,
    close INTEGER NOT NULL, high INTEGER NOT NULL, low INTEGER NOT NULL, volume INTEGER NOT NULL,
    trades INTEGER NOT NULL, first_time INTEGER NOT NULL, first_maker TEXT NOT NULL,
    first_number INTEGER NOT NULL, last_time INTEGER NOT NULL, last_maker TEXT NOT NULL,
    last_number INTEGER NOT NULL, PRIMARY KEY (market, frame, start)) WITHOUT ROWID;
CREATE TABLE counted (
    market INTEGER NOT NULL, maker TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (market, maker)) WITHOUT ROWID;
"""
_TRADE: Final = "time, maker, number, side, price, quantity, taker, take"
_OWN: Final = ""  # stands for this node, as maker or taker, among the holders of trades
_HOLDER: Final = f"CASE WHEN maker = ?2 OR taker = ?2 THEN '{_OWN}' ELSE maker END"
_COUNT: Final = f"SELECT {_HOLDER}, COUNT(*) FROM trades WHERE market = ?1 GROUP BY 1"  # noqa: S608
_OLDEST: Final = (
    f"SELECT {_HOLDER} AS holder, time, maker, number FROM trades WHERE market = ?1 "  # noqa: S608
    "AND holder IN (SELECT holder FROM over) ORDER BY time, maker, number"
)
_CANDLE: Final = (
    "start, open, close, high, low, volume, trades, first_time, first_maker, first_number, "
    "last_time, last_maker, last_number"
)


class HistoryError(Exception):
    """Failure to open, read or write the history. The text names the file and the reason."""


class Addition(msgspec.Struct):
    """Content of one save, written all or nothing. By market key."""

    trades: dict[str, list[TradeRecord]]
    candles: dict[str, list[tuple[str, Candle]]]  # timeframe, its candle so far
    counted: dict[tuple[str, str], int]  # (market, maker) -> number in the maker's feed


class MarketHistory:
    """Trades and candles by market key.

    Threads: `save` belongs to one thread; `trades` and `candles` may be called from any thread, one call
    at a time; everything else belongs to the thread of the constructor.
    """

    def __init__(
        self,
        path: Path,
        node: str,
        *,
        trades_kept: int = TRADES_KEPT,
        candles_kept: int = CANDLES_KEPT,
    ) -> None:
        """Open or create the file; replace a file that is damaged or of another version. `node`: this node, whose
        trades stay longest.

        Raises:
            HistoryError: the file can be neither read nor replaced.
        """
        self.path = path
        self.node = node
        self.replaced: str | None = None  # reason, if an unusable file was replaced
        self._trades_kept = trades_kept
        self._candles_kept = candles_kept
        self._added: dict[str, int] = {}  # trades since the last pruning
        self._counts: dict[
            int, Counter[str]
        ] = {}  # by market: trades by holder, since the first pruning
        self._reading = threading.Lock()
        try:
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self.replaced = str(error)
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)
                self._open()
        except (sqlite3.Error, OSError) as error:
            raise HistoryError(f"cannot open the market history {path}: {error}") from error

    def _open(self) -> None:
        with opened(self.path, _SCHEMA, SCHEMA_VERSION, 3) as connections:
            # The saving thread's, the readers', the constructor's.
            self._writer, self._reader, self._own = connections
            rows = self._own.execute("SELECT key, id FROM markets").fetchall()
            self._ids: dict[str, int] = dict(rows)

    def close(self) -> None:
        for connection in (self._own, self._reader, self._writer):
            connection.close()

    # Start, and candles that are not in memory

    def add_markets(self, keys: Sequence[str]) -> None:
        """Register the markets that will be written. Call before anything else."""
        self._own.executemany(
            "INSERT OR IGNORE INTO markets (key) VALUES (?)", [(key,) for key in keys]
        )
        self._ids = dict(self._own.execute("SELECT key, id FROM markets").fetchall())
        self._added = dict.fromkeys(keys, self._trades_kept)  # the first save prunes

    def counted(self, market: str) -> dict[str, int]:
        """Return the last number of each maker's feed that is in the candles."""
        return dict(
            self._own.execute(
                "SELECT maker, number FROM counted WHERE market = ?", (self._ids[market],)
            ).fetchall()
        )

    def candle(self, market: str, frame: str, start: int) -> Candle | None:
        """Return the candle of a timeframe that begins at `start`.

        Raises:
            HistoryError: the file cannot be read.
        """
        try:
            row = self._own.execute(
                f"SELECT {_CANDLE} FROM candles WHERE market = ? AND frame = ? AND start = ?",  # noqa: S608
                (self._ids[market], frame, start),
            ).fetchone()
        except sqlite3.Error as error:
            raise HistoryError(f"cannot read the market history {self.path}: {error}") from error
        return None if row is None else _candle(row)

    # Queries

    def trades(
        self, market: str, *, start: int, end: int, limit: int, newest_first: bool
    ) -> list[TradeRecord]:
        """List trades from `start` to `end` (us, inclusive) in the order of their keys, or reversed."""
        order = "DESC" if newest_first else "ASC"
        with self._reading:
            rows = self._reader.execute(
                f"SELECT {_TRADE} FROM trades WHERE market = ? AND time BETWEEN ? AND ? "  # noqa: S608
                f"ORDER BY time {order}, maker {order}, number {order} LIMIT ?",
                (self._ids[market], start, end, limit),
            ).fetchall()
        return [TradeRecord(*row) for row in rows]

    def candles(
        self, market: str, frame: str, *, start: int, end: int, limit: int, newest_first: bool
    ) -> list[Candle]:
        """List candles that begin from `start` to `end` (us, inclusive)."""
        with self._reading:
            rows = self._reader.execute(
                f"SELECT {_CANDLE} FROM candles WHERE market = ? AND frame = ? "  # noqa: S608
                f"AND start BETWEEN ? AND ? ORDER BY start {'DESC' if newest_first else 'ASC'} LIMIT ?",
                (self._ids[market], frame, start, end, limit),
            ).fetchall()
        return [_candle(row) for row in rows]

    # Saving

    def save(self, addition: Addition) -> None:
        """Write trades and candles; existing rows with the same key are replaced.

        Raises:
            HistoryError: nothing was written.
        """
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                self._write(db, addition)
                db.execute("COMMIT")
            except BaseException:
                self._counts.clear()  # counted again
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OverflowError) as error:
            raise HistoryError(f"cannot write the market history {self.path}: {error}") from error

    def _write(self, db: sqlite3.Connection, addition: Addition) -> None:
        for market, trades in addition.trades.items():
            key = self._ids[market]
            db.executemany(
                f"INSERT OR REPLACE INTO trades (market, {_TRADE}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608
                [(key, *msgspec.structs.astuple(trade)) for trade in trades],
            )
            self._added[market] = self._added.get(market, 0) + len(trades)
            if key in self._counts:
                node = self.node
                self._counts[key].update(
                    [
                        _OWN if node in (trade.maker, trade.taker) else trade.maker
                        for trade in trades
                    ]
                )
        for market, candles in addition.candles.items():
            key = self._ids[market]
            db.executemany(
                f"INSERT OR REPLACE INTO candles (market, frame, {_CANDLE}) "  # noqa: S608
                "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                [(key, frame, *_row(candle)) for frame, candle in candles],
            )
        db.executemany(
            "INSERT OR REPLACE INTO counted VALUES (?,?,?)",
            [(self._ids[m], maker, number) for (m, maker), number in addition.counted.items()],
        )
        for market, added in self._added.items():
            if added > self._trades_kept // PRUNE_EVERY:
                self._prune(db, self._ids[market])
                self._added[market] = 0

    def _prune(self, db: sqlite3.Connection, key: int) -> None:
        self._prune_trades(db, key)
        for frame in TIMEFRAMES:
            db.execute(
                "DELETE FROM candles WHERE market = ?1 AND frame = ?2 AND start < (SELECT start "
                "FROM candles WHERE market = ?1 AND frame = ?2 "
                "ORDER BY start DESC LIMIT 1 OFFSET ?3)",
                (key, frame, self._candles_kept - 1),
            )

    def _prune_trades(self, db: sqlite3.Connection, key: int) -> None:
        """Delete the oldest trades of those that have more than their share."""
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = Counter(
                dict(db.execute(_COUNT, (key, self.node)).fetchall())
            )
        over = excess(counts, _OWN, self._trades_kept)
        if not over:
            return
        counts.subtract(over)
        db.execute("CREATE TEMP TABLE IF NOT EXISTS over (holder TEXT PRIMARY KEY)")
        db.execute("DELETE FROM over")
        db.executemany("INSERT INTO over VALUES (?)", [(who,) for who in over])
        left, gone = over.total(), []
        for who, *trade in db.execute(_OLDEST, (key, self.node)):
            if over[who]:
                over[who] -= 1
                gone.append((key, *trade))
                if len(gone) == left:
                    break
        db.executemany(
            "DELETE FROM trades WHERE market = ? AND time = ? AND maker = ? AND number = ?", gone
        )


def _candle(row: Sequence[Any]) -> Candle:
    start, opened, closed, high, low, volume, trades, *keys = row
    first, last = (keys[0], keys[1], keys[2]), (keys[3], keys[4], keys[5])
    return Candle(start, opened, closed, high, low, int(volume), trades, first, last)


def _row(candle: Candle) -> tuple[object, ...]:
    # A volume beyond the 64 bits of a column is stored as its digits, in bytes: SQLite would turn text into
    # a float here.
    volume = candle.volume if candle.volume < 2**63 else str(candle.volume).encode()
    return (
        *(candle.start, candle.open, candle.close, candle.high, candle.low),
        *(volume, candle.trades, *candle.first, *candle.last),
    )
