"""Export of a journal's contents: its records in the order of writing, archived ones first.

Rules of this file:
- The journal may belong to a running node; nothing is changed.
- Secrets of API keys are never among the results.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from exchange.journal.frames import FrameFault, JournalError
from exchange.journal.journal_reader import Advance, JournalReader, no_progress
from exchange.model.codec import unpacker
from exchange.model.records import (
    Account,
    ApiKey,
    Fill,
    Order,
    Posting,
    Transaction,
    decode_order,
    unfolded,
)

KINDS: Final = ("order", "fill", "posting", "account", "key")
Exported = Order | Fill | Posting | Account | ApiKey
_TABLES: Final[dict[str, tuple[str, Any]]] = {
    "order": ("orders", decode_order),
    "fill": ("fills", unpacker(Fill).decode),
    "posting": ("postings", unpacker(Posting).decode),
}


class JournalExport:
    """Contents of a journal at one moment. Use it as a context manager."""

    def __init__(self, path: Path, advance: Advance = no_progress) -> None:
        """Read the log; the archive is read by `items`.

        Raises:
            JournalError: there is no journal, or it is damaged.
            OSError: a file cannot be read.
        """
        self._db: sqlite3.Connection | None = None
        self._late: list[tuple[int, Exported]] = []  # by frame: not in the archive yet
        archive, archived = path / "archive.sqlite3", 0
        with JournalReader(path) as reader:
            if archive.exists():
                try:
                    self._db = sqlite3.connect(archive)
                    self._db.execute("BEGIN")  # one moment for all tables
                    (archived,) = self._db.execute("SELECT frame FROM place").fetchone()
                except sqlite3.Error as error:
                    self.close()
                    raise JournalError(f"cannot read the archive {archive}: {error}") from error
            reader.refresh()
            found = reader.anchor()
            self.owner = "" if found is None else found[0]
            state = reader.state()
            for frame in reader.frames(
                min(reader.snapshot, archived), found[1] if found is not None else None, advance
            ):
                try:
                    records = frame.records()
                except FrameFault as fault:
                    raise JournalError(f"{path}: {fault}") from fault
                if frame.number > reader.snapshot:
                    state.apply(records)
                if frame.number > archived:
                    self._late += [
                        (frame.number, item)
                        for record in unfolded(records)
                        for item in _items(record)
                    ]
        self.state = state.recovered()

    def __enter__(self) -> JournalExport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def items(self, kinds: Collection[str]) -> Iterator[Exported]:
        """Yield accounts and keys, then finished orders, fills and postings in the order of writing, then
        the open orders. Keys have no secret.

        Raises:
            JournalError: the archive cannot be read.
        """
        if "account" in kinds:
            yield from self.state.accounts
        if "key" in kinds:
            for key in self.state.keys:
                yield msgspec.structs.replace(key, secret="")
        if self._db is not None:
            try:
                yield from _archived(self._db, kinds)
            except sqlite3.Error as error:
                raise JournalError(f"cannot read the archive: {error}") from error
        for _, item in self._late:
            if _kind(item) in kinds:
                yield item
        if "order" in kinds:
            yield from (order for order in self.state.orders if not order.done)


def _items(record: object) -> list[Exported]:
    if isinstance(record, Order):
        return [record] if record.done else []
    if isinstance(record, Fill):
        return [record]
    if isinstance(record, Transaction):
        return list(record.postings())
    return []


def _kind(item: Exported) -> str:
    return {Order: "order", Fill: "fill", Posting: "posting"}.get(type(item), "")


def _archived(db: sqlite3.Connection, kinds: Collection[str]) -> Iterator[Exported]:
    """Yield the archived rows of all tables by frame."""
    streams = [_rows(db, *_TABLES[kind]) for kind in kinds if kind in _TABLES]
    for _, _, item in heapq.merge(*streams, key=lambda row: row[:2]):
        yield item


def _rows(db: sqlite3.Connection, table: str, decode: Any) -> Iterator[tuple[int, str, Exported]]:
    key = "number" if table == "orders" else "id"
    text = f"SELECT frame, data FROM {table} ORDER BY frame, {key}"  # noqa: S608
    for frame, data in db.execute(text):
        yield frame, table, decode(data)
