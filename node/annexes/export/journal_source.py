"""Frames of a journal that another process writes, and what its archive has of earlier ones."""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from exchange.journal.anchor import NAME, Anchor
from exchange.journal.frames import JournalError
from exchange.journal.journal_reader import JournalReader, LogDirectory
from exchange.journal.write_ahead_log import Tail
from exchange.model.codec import unpacker
from exchange.model.records import (
    Fill,
    Order,
    Posting,
    Record,
    Recovered,
    decode_order,
    decode_records,
)
from exchange.orders.engine_context import stored_decimals
from node.daemon import released_position

Archived = Order | Fill | Posting
_CHANGE: Final = re.compile(r"decimals (\d+) to (\d+)")  # reference of `Ledger.rescale`
_TABLES: Final[dict[str, tuple[str, Any]]] = {
    "orders": ("number", decode_order),
    "fills": ("id", unpacker(Fill).decode),
    "postings": ("id", unpacker(Posting).decode),
}


class Units:
    """Decimals in which a journal counts assets. They grow when instruments need more; postings keep those of
    their time. `changes`: frame, asset and earlier decimals, in the order of the journal."""

    def __init__(self, latest: dict[str, int], changes: list[tuple[int, str, int]]) -> None:
        self._latest = latest
        self._changes = changes

    def at(self, frame: int) -> dict[str, int]:
        """Return the decimals, by asset, that the records of a frame have."""
        undone = {
            asset: earlier for changed, asset, earlier in reversed(self._changes) if changed > frame
        }
        return {**self._latest, **undone}


class JournalSource:
    """A journal directory. Nothing is changed in it.

    `owner` is the node whose journal it is.
    """

    def __init__(self, path: Path, data_dir: Path | None = None) -> None:
        """Open the journal. `data_dir` is the node's, whose standby may lack the last frames.

        Raises:
            JournalError: there is none, or its anchor is damaged.
        """
        self.path = path
        self._data_dir = data_dir
        self._log = LogDirectory(path)
        if not (path / NAME).exists():
            raise JournalError(
                f"{path} is no journal with a known owner: start the node on it once"
                if path.is_dir()
                else f"{path} is no journal"
            )
        self.owner, _ = self._anchor()
        if not self.owner:
            raise JournalError(f"{path} has no owner yet: start the node on it once")

    def _anchor(self) -> tuple[str, int]:
        try:
            anchor = Anchor(self.path / NAME)
        except OSError as error:
            raise JournalError(f"cannot read {self.path / NAME}: {error.strerror}") from error
        with closing(anchor):
            return anchor.owner, anchor.written

    @property
    def written(self) -> int:
        """Last frame of the log. Later ones may still be lost."""
        return self._anchor()[1]

    @property
    def last(self) -> int:
        """Last frame that may leave the node: the standby has it, if the node waits for one.

        Raises:
            JournalError: the file that says so cannot be read.
        """
        written = self.written
        try:
            released = None if self._data_dir is None else released_position.read(self._data_dir)
        except OSError as error:
            raise JournalError(f"cannot read {error.filename}: {error.strerror}") from None
        return written if released is None else min(written, released)

    @property
    def first(self) -> int:
        """First frame that the log still has.

        Raises:
            JournalError: there is no log.
        """
        segments = self._log.segments
        if not segments:
            raise JournalError(f"{self.path} has no log")
        return segments[0]

    def checksum(self, frame: int) -> int | None:
        """Return the CRC of a frame's payload; None if the log does not have it any more.

        Raises:
            JournalError: the log is damaged.
        """
        if not self.first <= frame <= self.written:
            return None
        with closing(Tail(self._log, frame - 1)) as tail:
            return zlib.crc32(tail.take(frame, 1)[0][1])

    def tail(self, after: int) -> Tail:
        """Return a reader of the frames after `after`."""
        return Tail(self._log, after)

    @staticmethod
    def records(number: int, payload: bytes) -> list[Record]:
        """Decode a frame.

        Raises:
            JournalError: it has no records of this version.
        """
        try:
            found: list[Record] = decode_records(payload)
        except msgspec.DecodeError as error:
            raise JournalError(f"frame {number}: {error}") from error
        return found

    def state(self) -> tuple[int, Recovered]:
        """Return the newest snapshot's frame and state; 0 and an empty state without a snapshot.

        Raises:
            JournalError: the snapshot is damaged.
        """
        with JournalReader(self.path) as reader:
            return reader.snapshot, reader.state().recovered()

    def units(self) -> Units:
        """Return the decimals of the assets up to the newest snapshot.

        Raises:
            JournalError: archive or snapshot cannot be read.
        """
        frame, state = self.state()
        changes: list[tuple[int, str, int]] = []
        for number, data in self._query(
            "SELECT frame, data FROM postings WHERE kind = 'transfer' AND frame <= ? ORDER BY id",
            (frame,),
        ):
            posting: Posting = _TABLES["postings"][1](data)
            if found := _CHANGE.fullmatch(posting.reference):
                changes.append((number, posting.asset, int(found[1])))
        return Units(stored_decimals(state), changes)

    def archived(
        self, table: str, *, after: int, upto: int, done: int, limit: int
    ) -> list[tuple[int, int, int, Archived]]:
        """List rows of the archive by key: (key, frame, line, item), of the frames after `after` up to `upto`, with
        keys greater than `done`. `line`: position of a posting in its transaction.

        Raises:
            JournalError: the archive cannot be read.
        """
        key, decode = _TABLES[table]
        text = (
            f"SELECT {key}, frame, data FROM {table} WHERE {key} > ? AND frame > ? AND frame <= ? "  # noqa: S608
            f"ORDER BY {key} LIMIT ?"
        )
        found = self._query(text, (done, after, upto, limit))
        rows = [(number, frame, 0, decode(data)) for number, frame, data in found]
        return self._lines(rows) if table == "postings" else rows

    def _query(self, text: str, values: tuple[int, ...]) -> list[Any]:
        path = self.path / "archive.sqlite3"
        if not path.exists():
            return []
        try:
            with closing(sqlite3.connect(path)) as db:
                return db.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"cannot read the archive {path}: {error}") from error

    def _lines(
        self, rows: list[tuple[int, int, int, Archived]]
    ) -> list[tuple[int, int, int, Archived]]:
        """Number the postings of each transaction. The first may have begun on an earlier page."""
        if not rows:
            return rows
        _, decode = _TABLES["postings"]
        first = rows[0][3]
        assert isinstance(first, Posting)  # noqa: S101
        transaction = first.transaction
        line = 0
        before = rows[0][0]
        while found := self._query(
            "SELECT id, data FROM postings WHERE id < ? ORDER BY id DESC LIMIT 100", (before,)
        ):
            same = [id_ for id_, data in found if decode(data).transaction == transaction]
            line += len(same)
            if len(same) < len(found):
                break
            before = same[-1]
        numbered: list[tuple[int, int, int, Archived]] = []
        for number, frame, _, item in rows:
            assert isinstance(item, Posting)  # noqa: S101
            line = line if item.transaction == transaction else 0
            transaction = item.transaction
            numbered.append((number, frame, line, item))
            line += 1
        return numbered

    def archive_rows(self, table: str, upto: int) -> Iterator[tuple[int, int, Archived]]:
        """Yield all (frame, line, item) of a table of frames up to `upto`, by key."""
        done = 0
        while found := self.archived(table, after=0, upto=upto, done=done, limit=5000):
            yield from (row[1:] for row in found)
            done = found[-1][0]
