"""PostgreSQL as a sink. Needs the extra `[postgres]`.

A delivery is one transaction: the node's position is locked and compared, the rows are copied into temporary tables and
merged from there, and the position is moved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final, cast

import msgspec
import psycopg

from node.annexes.export.postgres_months import MONTHS
from node.annexes.export.postgres_schema import EARLIER, SCHEMA, TYPES
from node.annexes.export.rows_aside import AsideRow
from node.annexes.export.sink import Delivery, Position, PositionMoved, SinkError
from node.annexes.export.tables import TABLES, Row, Table

MIGRATIONS: Final = (*EARLIER, MONTHS)
PRUNE: Final = 3600.0  # s between looks for months to drop
CONNECT_TIMEOUT: Final = 5  # s
STATEMENT_TIMEOUT: Final = 120_000  # ms; a delivery takes some 0.1 s
LOCK_TIMEOUT: Final = 5000  # ms
PAGE: Final = 5000  # rows that are read at a time
_REFUSED: Final = (  # errors of a row's values, not of the connection
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    ValueError,
    OverflowError,
)
_MIGRATION_LOCK: Final = 0x65786368  # of the database, so that two nodes do not migrate together


class PostgresSink:
    """A connection to a database. Implements `node.annexes.export.sink.Sink`."""

    tables = TABLES
    versions = False

    def __init__(self, url: str, keep_days: int = 0) -> None:
        """Connect, and bring the tables up to date. Months that ended more than `keep_days` ago are dropped; 0: none.

        Raises:
            SinkError: the database does not answer or refuses, or its tables are of a later version.
        """
        with _explained():
            self._db = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT,
                application_name="exchange-node export",
                options=f"-c statement_timeout={STATEMENT_TIMEOUT} -c lock_timeout={LOCK_TIMEOUT}",
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=30_000,
            )
        try:
            with _explained():
                self._migrate()
                for table in TABLES.values():
                    columns = ", ".join(f"{name} {TYPES[kind]}" for name, kind in table.columns)
                    text = f"CREATE TEMPORARY TABLE staging_{table.name} ({columns}) ON COMMIT DELETE ROWS"
                    self._db.execute(text.encode())
                self._keep_days = keep_days
                self._months: set[tuple[str, int, int]] = set()
                self._kept: dict[str, datetime] = {}
                self._pruned = -PRUNE
                self._prune()
        except BaseException:
            self._db.close()
            raise

    def _migrate(self) -> None:
        with self._db.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            known = self._db.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.migrations",)).fetchone()
            if known == (None,):
                self._db.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                self._db.execute(
                    f"CREATE TABLE {SCHEMA}.migrations (number integer PRIMARY KEY, "
                    "made timestamptz NOT NULL DEFAULT clock_timestamp())"
                )
            row = self._db.execute(
                f"SELECT coalesce(max(number), 0) FROM {SCHEMA}.migrations"  # noqa: S608
            ).fetchone()
            found: int = row[0] if row is not None else 0
            if found > len(MIGRATIONS):
                raise SinkError(
                    f"the database's tables have version {found}, and this program knows versions up to "
                    f"{len(MIGRATIONS)}: update exchange-node"
                )
            for number, text in enumerate(MIGRATIONS[found:], found + 1):
                self._db.execute(text.encode())
                self._db.execute(
                    f"INSERT INTO {SCHEMA}.migrations (number) VALUES (%s)",  # noqa: S608
                    (number,),
                )

    def position(self, node: str) -> Position | None:
        with _explained():
            return self._position(node, "")

    def _position(self, node: str, lock: str) -> Position | None:
        text = f"SELECT frame, checksum, detail FROM {SCHEMA}.positions WHERE node = %s{lock}"  # noqa: S608
        row = self._db.execute(text.encode(), (node,)).fetchone()
        if row is None:
            return None
        frame, checksum, detail = row
        return msgspec.convert({**detail, "frame": frame, "checksum": checksum}, Position)

    # Months

    def _prune(self) -> None:
        """Drop old months, once an hour. A table in use is left until the next time."""
        now = time.monotonic()
        if now - self._pruned < PRUNE:
            return
        self._pruned = now
        if self._keep_days:
            with suppress(psycopg.errors.LockNotAvailable):
                self._db.execute(
                    f"SELECT {SCHEMA}.drop_months(now() - make_interval(days => %s))",
                    (self._keep_days,),
                )
        self._kept = dict(
            self._db.execute(f"SELECT table_name, kept_from FROM {SCHEMA}.retention").fetchall()  # noqa: S608
        )
        self._months.clear()

    def _dated(self, table: Table, rows: Sequence[Row]) -> Sequence[Row]:
        """Make the parts for the months of rows, and return the rows that are not of dropped ones."""
        at = table.names.index("time")
        kept = self._kept.get(table.name)
        if kept is not None:
            dropped = [row for row in rows if cast(datetime, row[at]) < kept]
            if dropped and table.name == "postings":
                self._open_balances(dropped)
            rows = [row for row in rows if cast(datetime, row[at]) >= kept] if dropped else rows
        for moment in {cast(datetime, row[at]).replace(day=1) for row in rows}:
            month = table.name, moment.year, moment.month
            if month not in self._months:
                text = f"SELECT {SCHEMA}.month(%s, %s)"
                self._db.execute(text.encode(), (table.name, moment))
                self._months.add(month)
        return rows

    def _open_balances(self, rows: Sequence[Row]) -> None:
        names = TABLES["postings"].names
        columns = ("node", "holder", "asset", "balance", "time", "transaction", "line")
        places = [names.index(name) for name in columns]
        last = {(row[0], row[places[1]], row[places[2]]): row for row in rows}
        with self._db.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {SCHEMA}.opening_balances AS old ({', '.join(columns)}) "  # noqa: S608
                "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (node, holder, asset) DO UPDATE SET "
                "balance = excluded.balance, time = excluded.time, transaction = excluded.transaction, "
                "line = excluded.line WHERE (old.transaction, old.line) < (excluded.transaction, excluded.line)",
                [tuple(row[place] for place in places) for row in last.values()],
            )

    def kept_from(self, table: str) -> datetime | None:
        with _explained():
            row = self._db.execute(
                f"SELECT kept_from FROM {SCHEMA}.retention WHERE table_name = %s",  # noqa: S608
                (table,),
            ).fetchone()
        return None if row is None else row[0]

    # Rows

    def deliver(self, delivery: Delivery) -> list[AsideRow]:
        aside: list[AsideRow] = []
        with _explained():
            self._prune()
        with _explained(), self._db.transaction():
            if self._position(delivery.node, " FOR UPDATE") != delivery.before:
                raise PositionMoved(f"another process exports the journal of {delivery.node}")
            for name, rows in delivery.rows.items():
                if rows:
                    aside += self._merge(TABLES[name], rows)
            if delivery.gap is not None:
                self._db.execute(
                    f"INSERT INTO {SCHEMA}.gaps (node, first_frame, last_frame) VALUES (%s, %s, %s) "  # noqa: S608
                    "ON CONFLICT DO NOTHING",
                    (delivery.node, *delivery.gap),
                )
            after = delivery.after
            detail = msgspec.to_builtins(after)
            del detail["frame"], detail["checksum"]
            values = (
                delivery.node,
                after.frame,
                after.checksum,
                msgspec.json.encode(detail).decode(),
            )
            done = self._db.execute(
                f"INSERT INTO {SCHEMA}.positions (node, frame, checksum, detail) VALUES (%s, %s, %s, %s) "  # noqa: S608
                + (
                    "ON CONFLICT DO NOTHING"
                    if delivery.before is None
                    else "ON CONFLICT (node) DO UPDATE SET frame = excluded.frame, "
                    "checksum = excluded.checksum, detail = excluded.detail, updated = clock_timestamp()"
                ),
                values,
            )
            if not done.rowcount:
                raise PositionMoved(f"another process exports the journal of {delivery.node}")
        return aside

    def _merge(self, table: Table, rows: Sequence[Row]) -> list[AsideRow]:
        """Merge rows into a table, and return those whose values the database refuses."""
        months = set(self._months)
        try:
            with self._db.transaction():  # a savepoint
                self._store(table, rows)
        except _REFUSED as error:
            self._months = months  # those that were made are gone again
            if len(rows) == 1:
                return [AsideRow(table.name, rows[0], " ".join(str(error).split()))]
        else:
            return []
        half = len(rows) // 2
        aside = self._merge(table, rows[:half])
        self._db.execute(f"TRUNCATE staging_{table.name}".encode())
        return aside + self._merge(table, rows[half:])

    def _store(self, table: Table, rows: Sequence[Row]) -> None:
        if table.dated:
            rows = self._dated(table, rows)
        names = ", ".join(table.names)
        staging = f"staging_{table.name}"
        with (
            self._db.cursor() as cursor,
            cursor.copy(f"COPY {staging} ({names}) FROM STDIN".encode()) as copy,
        ):
            for row in rows:
                copy.write_row(row)
        key = ", ".join(table.names[: table.key])
        if table.latest:
            changed = ", ".join(f"{name} = excluded.{name}" for name in table.names[table.key :])
            conflict = f"({key}) DO UPDATE SET {changed} WHERE mine.frame <= excluded.frame"
        else:
            conflict = "DO NOTHING"
        self._db.execute(
            f"INSERT INTO {SCHEMA}.{table.name} AS mine ({names}) SELECT {names} FROM {staging} "  # noqa: S608
            f"ON CONFLICT {conflict}".encode()
        )

    @contextmanager
    def moment(self, node: str) -> Iterator[Position | None]:
        with _explained(), self._db.transaction():
            self._db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield self._position(node, "")

    def rows(self, table: str, node: str) -> Iterator[Row]:
        with _explained(), self._db.cursor(name="export_rows") as cursor:
            cursor.itersize = PAGE
            names = ", ".join(TABLES[table].names)
            cursor.execute(
                f"SELECT {names} FROM {SCHEMA}.{table} WHERE node = %s".encode(),  # noqa: S608
                (node,),
            )
            yield from cast(Iterator[Row], cursor)

    def forget(self, node: str) -> None:
        with _explained(), self._db.transaction():
            for name in (*TABLES, "gaps", "opening_balances", "positions"):
                self._db.execute(
                    f"DELETE FROM {SCHEMA}.{name} WHERE node = %s".encode(),  # noqa: S608
                    (node,),
                )

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._db.close()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the library's errors into a `SinkError` of one line."""
    try:
        yield
    except psycopg.Error as error:
        text = str(error).strip() or type(error).__name__
        raise SinkError(f"PostgreSQL: {' '.join(text.split())}") from error
