"""Comparison of a journal with a sink, row by row.

Both sides are read as streams of rows; for each table, sums of the rows' digests by bucket of their keys are compared,
and the rows of buckets that differ are compared one by one. Memory grows with the log that is kept, not with the
history.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec

from exchange.journal.frames import JournalError
from exchange.model.decimals import plain_decimal
from node.annexes.export.journal_source import JournalSource
from node.annexes.export.rows import RowBuilder
from node.annexes.export.sink import Sink, SinkError
from node.annexes.export.tables import ARCHIVED, Row, Table, Value

BUCKETS: Final = 4096
ATTEMPTS: Final = 5
SHOWN: Final = 20  # differing rows that a report lists for each table
READ: Final = 1 << 20
ROWS: Final = 5000
# Tables of which the journal has no more than its log has.
LOG_ONLY: Final = ("decisions", "trades", "book", "market_trades")

Key = tuple[str, ...]


class TableReport(msgspec.Struct, frozen=True):
    """Comparison of one table. `missing` in the sink, `extra` there, `different`: keys, some of each."""

    table: str
    rows: int  # compared, of the journal
    missing: list[str] = []
    extra: list[str] = []
    different: list[str] = []

    @property
    def ok(self) -> bool:
        return not (self.missing or self.extra or self.different)


class Report(msgspec.Struct, frozen=True):
    """Comparison up to a frame; decisions and public trades from `first`, the log's first frame, on."""

    node: str
    first: int
    frame: int
    tables: list[TableReport]

    @property
    def ok(self) -> bool:
        return all(table.ok for table in self.tables)


def _text(value: Value) -> str:
    if isinstance(value, Decimal):
        return plain_decimal(value)
    if isinstance(value, datetime):
        return str(int(value.timestamp()) * 1_000_000 + value.microsecond)
    return "" if value is None else str(value)


def _key(table: Table, row: Row) -> Key:
    return tuple(_text(value) for value in row[1 : table.key])


def _digest(row: Row) -> int:
    """Digest of a row without its frame."""
    text = "\x1f".join(_text(value) for value in row[:-1])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _bucket(key: Key) -> int:
    return zlib.crc32("\x1f".join(key).encode()) % BUCKETS


class _Sums:
    def __init__(self) -> None:
        self.count = 0
        self.buckets = [0] * BUCKETS

    def add(self, key: Key, digest: int) -> None:
        self.count += 1
        at = _bucket(key)
        self.buckets[at] = (self.buckets[at] + digest) & 0xFFFF_FFFF_FFFF_FFFF


def verify(
    source: JournalSource, sink: Sink, advance: Callable[[float], None] = lambda part: None
) -> Report:
    """Compare what a sink has of a journal with it. Begins anew when a running node drops a part of the log meanwhile.

    Raises:
        SinkError: the sink does not answer, or does not have all of the journal yet.
        JournalError: the journal cannot be read.
    """
    for _ in range(ATTEMPTS):
        first = source.first
        try:
            return Verification(source, sink, advance).run()
        except (JournalError, FileNotFoundError):
            if source.first == first:
                raise
    raise JournalError(
        f"the log of {source.path} is dropped faster than it can be compared: try later"
    )


class Verification:
    """Comparison of what a sink has of a journal with that journal up to the sink's position."""

    def __init__(
        self,
        source: JournalSource,
        sink: Sink,
        advance: Callable[[float], None] = lambda part: None,
    ) -> None:
        """`advance` gets the part that is done, 0 to 1."""
        self._source = source
        self._sink = sink
        self._first = source.first
        self._last = source.last
        self._frame = 0
        self._units = source.units()
        _, self._state = source.state()
        self._advance = advance
        self._kept: datetime | None = None  # of the table that is being compared

    def run(self) -> Report:
        """Compare. A part of the log that is dropped meanwhile is a `JournalError` or a missing file.

        Raises:
            SinkError: the sink does not answer.
            JournalError: the journal cannot be read.
        """
        with self._sink.moment(self._source.owner) as position:
            if position is None or position.catch_up is not None:
                raise SinkError(
                    f"the sink does not have all of the journal of {self._source.owner} yet"
                )
            self._frame = position.frame
            if self._frame + 1 < self._first or self._frame > self._last:
                raise SinkError(
                    f"the sink is at commit {self._frame:,}, and the log has {self._first:,} to {self._last:,}"
                )
            reports = []
            tables = self._sink.tables.values()
            for done, table in enumerate(tables):
                reports.append(self._compare(table))
                self._advance((done + 1) / len(tables))
        return Report(self._source.owner, self._first, self._frame, reports)

    def _compare(self, table: Table) -> TableReport:
        self._kept = self._sink.kept_from(table.name) if table.dated else None
        logged = self._logged(table)
        # The state may be later than the sink: what changed since cannot be compared.
        late = self._changed_later(table) if table.latest else set()
        wrong, count = self._differing(table, logged, late)
        if not wrong:
            return TableReport(table.name, count)
        mine = {
            key: digest
            for key, digest in self._journal(table, logged, late)
            if _bucket(key) in wrong
        }
        theirs = {
            key: digest for key, digest in self._copy(table, logged, late) if _bucket(key) in wrong
        }
        changed = {key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]}
        return TableReport(
            table.name,
            count,
            missing=_shown(mine.keys() - theirs.keys()),
            extra=_shown(theirs.keys() - mine.keys()),
            different=_shown(changed),
        )

    def _differing(
        self, table: Table, logged: Mapping[Key, int | None], late: set[Key]
    ) -> tuple[set[int], int]:
        """Return the buckets that differ, and the number of the journal's rows."""
        ours, theirs = _Sums(), _Sums()
        for key, digest in self._journal(table, logged, late):
            ours.add(key, digest)
        for key, digest in self._copy(table, logged, late):
            theirs.add(key, digest)
        differing = {at for at in range(BUCKETS) if ours.buckets[at] != theirs.buckets[at]}
        if not differing and ours.count != theirs.count:
            differing = set(range(BUCKETS))
        return differing, ours.count

    # The journal's side

    def _journal(
        self, table: Table, logged: Mapping[Key, int | None], late: set[Key]
    ) -> Iterator[tuple[Key, int]]:
        for key, digest in logged.items():
            if digest is not None:
                yield key, digest
        if table.name in ARCHIVED:
            for row in self._archived(table):
                if (key := _key(table, row)) not in logged and not self._dropped(table, row):
                    yield key, _digest(row)
        if table.latest and table.name not in LOG_ONLY:
            builder = RowBuilder(self._source.owner, self._units.at(self._first - 1))
            builder.add_state(self._first - 1, self._state)
            for row in builder.take().get(table.name, []):
                if (key := _key(table, row)) not in logged and key not in late:
                    yield key, _digest(row)

    def _dropped(self, table: Table, row: Row) -> bool:
        """Report if the sink has dropped the part of a table that a row is in."""
        if self._kept is None:
            return False
        moment = row[table.names.index("time")]
        return isinstance(moment, datetime) and moment < self._kept

    def _archived(self, table: Table) -> Iterator[Row]:
        builder = RowBuilder(self._source.owner, {})
        for frame, line, item in self._source.archive_rows(table.name, self._first - 1):
            builder.decimals = self._units.at(frame)
            builder.add_archived(frame, item, line)
            if builder.count >= ROWS:
                yield from builder.take()[table.name]
        yield from builder.take().get(table.name, [])

    def _logged(self, table: Table) -> dict[Key, int | None]:
        """Return the digests of the log's rows by key, of latest rows the last one's; None: of one that is over."""
        found: dict[Key, int | None] = {}
        for row in self._log_rows(table, self._first - 1, self._frame):
            over = _ended(table, row) or self._dropped(table, row)
            found[_key(table, row)] = None if over else _digest(row)
        return found

    def _changed_later(self, table: Table) -> set[Key]:
        return {_key(table, row) for row in self._log_rows(table, self._frame, self._last)}

    def _log_rows(self, table: Table, after: int, upto: int) -> Iterator[Row]:
        units = self._units.at(self._first - 1)
        builder = RowBuilder(self._source.owner, units, self._sink.tables)
        with closing(self._source.tail(self._first - 1)) as tail:
            while tail.at < upto:
                for number, payload in tail.take(upto, READ):
                    builder.add(number, self._source.records(number, payload))
                rows = builder.take().get(table.name, [])
                yield from (row for row in rows if int(str(row[-1])) > after)

    # The sink's side

    def _copy(
        self, table: Table, logged: Mapping[Key, int | None], late: set[Key]
    ) -> Iterator[tuple[Key, int]]:
        for row in self._sink.rows(table.name, self._source.owner):
            key = _key(table, row)
            if table.name in LOG_ONLY and int(str(row[-1])) < self._first and key not in logged:
                continue
            if (
                _ended(table, row)
                or self._dropped(table, row)
                or (key in late and key not in logged)
            ):
                continue
            yield key, _digest(row)


def _ended(table: Table, row: Row) -> bool:
    """Report if a row says that something is over: journal states do not have such halts."""
    return table.name == "halts" and row[2] is None


def _shown(keys: set[Key]) -> list[str]:
    return [" ".join(key) for key in sorted(keys)[:SHOWN]]
