"""Exporter: the loop that brings a sink up to date with a journal, and keeps it so.

Rules of this file:
- The sink's position is the only memory. Whatever fails, the next attempt asks for it and goes on from there.
- What a sink cannot take is set aside, and the position goes on.
- Frames are delivered in the order of the journal, rows of the archive before them.
- A journal that does not contain the frame at the sink's position, or another one under its number, is an earlier copy:
  nothing is delivered, because rows of lost commits are in the sink.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from exchange.journal.frames import JournalError
from exchange.journal.write_ahead_log import Tail
from node.annexes.export import position_file
from node.annexes.export.journal_source import JournalSource
from node.annexes.export.position_file import ExportProgress
from node.annexes.export.rows import RowBuilder
from node.annexes.export.rows_aside import RowsAside
from node.annexes.export.sink import CatchUp, Delivery, Position, Sink, SinkError
from node.annexes.export.tables import ARCHIVED

log = logging.getLogger(__name__)

ROWS: Final = 5000  # in a delivery, about
READ: Final = 1 << 20  # bytes of log read at a time
POLL: Final = 0.1  # s between looks at a journal of which everything was delivered
IDLE: Final = 1.0  # s in which frames without rows are gathered
NOTE: Final = 0.5  # s between writes of the progress
RETRY: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # s after a failure, after the next ...
LAST_CHANCE: Final = 5.0  # s to deliver the rest after the end was asked for


class Diverged(Exception):
    """The sink has commits that the journal does not have. The text says what to do."""


class _LogGone(Exception):
    """The log begins after the position: the archive has to catch up."""


class Exporter:
    """One journal and one sink. `open_sink` raises `SinkError`; `clock` counts seconds."""

    def __init__(
        self,
        source: JournalSource,
        open_sink: Callable[[], Sink],
        progress: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        advance: Callable[[float], None] = lambda part: None,
    ) -> None:
        """`progress`: file that shows the node how far the sink is. `advance` is called with the part of the work
        that is done, 0 to 1.
        """
        self.source = source
        self.rows = 0  # delivered
        self._open_sink = open_sink
        self._progress = progress
        self._aside = RowsAside(progress.with_suffix(".aside"))
        self._clock = clock
        self._advance = advance
        self._stop = threading.Event()
        self._stopped_at = 0.0
        self._position = Position()
        self._error = ""
        self._current = 0.0  # unix time when the sink last had everything
        self._noted = -NOTE

    def stop(self) -> None:
        """End `run` soon, with the rest delivered if the sink takes it. May be called from any thread."""
        self._stopped_at = self._clock()
        self._stop.set()

    def run(self, *, until_current: bool = False) -> None:
        """Export until `stop`, or until the sink has what the journal has now. An absent sink is waited for, unless
        `until_current`.

        Raises:
            Diverged: the sink has commits that the journal does not have.
            JournalError: the journal cannot be read.
            SinkError: with `until_current`, the sink cannot be used.
        """
        failures = 0
        while not self._stop.is_set() or failures == 0:
            began = self._position.frame
            try:
                sink = self._open_sink()
                try:
                    self._follow(sink, until_current)
                    return
                finally:
                    sink.close()
            except _LogGone:
                continue
            except SinkError as error:
                if until_current:
                    raise
                failures = 1 if self._position.frame > began else failures + 1
                if str(error) != self._error:
                    log.warning("export: %s; tried again until it works", error)
                self._error = str(error)
                self._note(self._clock(), force=True)
                if self._stop.wait(RETRY[min(failures, len(RETRY)) - 1]):
                    return

    def _follow(self, sink: Sink, until_current: bool) -> None:
        found = sink.position(self.source.owner)
        self._position = found or Position()
        if self._error:
            log.warning("export: the sink is back")
            self._error = ""
        self._check(self._position)
        if self._position.frame + 1 < self.source.first or self._position.catch_up is not None:
            found = self._catch_up(sink, found)
        self._tail(sink, found, until_current)

    def _check(self, position: Position) -> None:
        """Raises `Diverged` if the journal does not have what the sink has."""
        if not position.frame or position.catch_up is not None:
            return
        last = self.source.written  # a node that was started anew may wait for its standby again
        checksum = self.source.checksum(position.frame)
        if last < position.frame or (checksum is not None and checksum != position.checksum):
            raise Diverged(
                f"the sink has commits up to {position.frame:,} that this journal (last commit {last:,}) does not "
                "have: it was restored or repaired. 'exchange-node export backfill --replace' deletes this node's "
                "rows in the sink and exports the journal anew"
            )

    # The archive

    def _catch_up(self, sink: Sink, found: Position | None) -> Position:
        """Deliver what the archive has before the log's first frame, then the state."""
        source, position = self.source, self._position
        first = source.first
        _, state = source.state()
        units = source.units()
        builder = self._builder(sink, units.at(first - 1))
        builder.add_state(first - 1, state)
        under_way = position.catch_up
        if under_way is None:
            under_way = CatchUp(first - 1)
        elif under_way.upto != first - 1:  # finished orders are rows that may have moved meanwhile
            under_way = CatchUp(first - 1, {**under_way.done, "orders": 0})
        gap = (position.frame + 1, first - 1)
        for table in (name for name in ARCHIVED if name in sink.tables):
            while True:
                rows = source.archived(
                    table,
                    after=position.frame,
                    upto=under_way.upto,
                    done=under_way.done.get(table, 0),
                    limit=ROWS,
                )
                if not rows:
                    break
                archived = self._builder(sink, {})
                for _, frame, line, item in rows:
                    archived.decimals = units.at(frame)
                    archived.add_archived(frame, item, line)
                under_way = CatchUp(under_way.upto, {**under_way.done, table: rows[-1][0]})
                after = Position(position.frame, position.checksum, position.decimals, under_way)
                found = self._deliver(sink, found, after, archived)
                if self._stop.is_set() and self._late():
                    return after
        return self._deliver(sink, found, Position(first - 1, 0, builder.decimals), builder, gap)

    # The log

    def _tail(self, sink: Sink, found: Position | None, until_current: bool) -> None:
        source = self.source
        builder = self._builder(sink, self._position.decimals)
        tail = source.tail(self._position.frame)
        checksum, since = 0, self._clock()
        goal = source.last
        try:
            while True:
                last = source.last
                at = self._position.frame
                if tail.at < last:
                    for number, payload in self._take(tail, last):
                        builder.add(number, source.records(number, payload))
                        checksum = zlib.crc32(payload)
                current = tail.at >= last
                now = self._clock()
                ending = until_current or self._stop.is_set()
                if tail.at > at and (
                    builder.count >= ROWS
                    or (current and (builder.count or now - since >= IDLE or ending))
                ):
                    after = Position(tail.at, checksum, dict(builder.decimals))
                    found = self._deliver(sink, found, after, builder)
                    since = now
                if current and self._position.frame >= last:
                    self._current = time.time()
                self._note(now)
                self._advance(min(1.0, tail.at / max(1, goal)))
                if until_current and self._position.frame >= goal:
                    self._note(now, force=True)
                    return
                if self._stop.is_set() and (self._position.frame >= last or self._late()):
                    self._note(now, force=True)
                    return
                if current:
                    self._stop.wait(POLL)
        finally:
            tail.close()

    def _builder(self, sink: Sink, decimals: dict[str, int]) -> RowBuilder:
        return RowBuilder(self.source.owner, decimals, sink.tables, versions=sink.versions)

    def _take(self, tail: Tail, last: int) -> list[tuple[int, bytes]]:
        try:
            return tail.take(last, READ)
        except (JournalError, FileNotFoundError):
            if tail.at + 1 < self.source.first:
                raise _LogGone from None
            raise

    def _late(self) -> bool:
        return self._clock() - self._stopped_at > LAST_CHANCE

    def _deliver(
        self,
        sink: Sink,
        before: Position | None,
        after: Position,
        builder: RowBuilder,
        gap: tuple[int, int] | None = None,
    ) -> Position:
        count = builder.count
        refused = sink.deliver(Delivery(self.source.owner, before, after, builder.take(), gap))
        self._aside.put([*builder.set_aside(), *refused])
        self.rows += count - len(refused)
        self._position = after
        return after

    def _note(self, now: float, *, force: bool = False) -> None:
        if not force and now - self._noted < NOTE:
            return
        self._noted = now
        position_file.write(
            self._progress,
            ExportProgress(
                frame=self._position.frame,
                rows=self.rows,
                written=time.time(),
                delivered=self._current,
                error=self._error,
                process=os.getpid(),
                aside=self._aside.count,
            ),
        )
