"""Interface of a sink: an engine outside that holds a copy of journals.

A sink for another engine is one module with a class of these methods; `tests/unit/kits/sink_conformance.py` checks
it. Methods may block, and are called by one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

import msgspec

from node.annexes.export.rows_aside import AsideRow
from node.annexes.export.tables import Row, Table


class CatchUp(msgspec.Struct, frozen=True):
    """Progress through the archive: its rows of frames up to `upto`, by table those up to a key."""

    upto: int
    done: dict[str, int] = {}


class Position(msgspec.Struct, frozen=True):
    """Place in a node's journal up to which a sink has everything.

    `checksum` is the CRC of that frame, which shows if a journal was replaced by an earlier copy. `decimals` are
    those in which the journal counts each asset after it.
    """

    frame: int = 0
    checksum: int = 0
    decimals: dict[str, int] = {}
    catch_up: CatchUp | None = None


class Delivery(msgspec.Struct, frozen=True):
    """Rows by table that bring a sink from one position to another. A table's rows have distinct keys; for a sink
    with `versions`, distinct keys and frames.

    `gap`: first and last frame of which the journal has nothing but archived orders, fills and postings any more.
    """

    node: str
    before: Position | None
    after: Position
    rows: Mapping[str, Sequence[Row]]
    gap: tuple[int, int] | None = None


class SinkError(Exception):
    """The sink cannot be used now. The text says why, and has no credentials."""


class PositionMoved(SinkError):
    """The sink is at another position than the delivery begins at: another process writes to it."""


class Sink(Protocol):
    """An open connection to an engine. `tables`: those that it takes, by name. `versions`: it takes the row of every
    commit; otherwise, of rows with one key in a delivery, the last one."""

    @property
    def tables(self) -> Mapping[str, Table]: ...

    @property
    def versions(self) -> bool: ...

    def position(self, node: str) -> Position | None:
        """Return the position of a node's journal; None if it has nothing of it.

        Raises:
            SinkError: the engine does not answer.
        """

    def deliver(self, delivery: Delivery) -> Sequence[AsideRow]:
        """Store rows and position, all or none, if the position is still that before. A row whose key is there
        replaces the other one in a table of latest rows if its frame is not lower, and changes nothing elsewhere.
        Return the rows whose values the engine refuses: they are left out, and all others stored.

        Raises:
            PositionMoved: it is not.
            SinkError: it is not known if the delivery was stored; `position` says it.
        """

    def moment(self, node: str) -> AbstractContextManager[Position | None]:
        """Return a context with a node's position, in which `rows` has what belongs to that position.

        Raises:
            SinkError: the engine does not answer.
        """

    def rows(self, table: str, node: str) -> Iterator[Row]:
        """Yield all rows of a node. Used inside of `moment`.

        Raises:
            SinkError: the engine does not answer.
        """

    def kept_from(self, table: str) -> datetime | None:
        """Return the time before which the engine has dropped rows of a dated table; None: it has all.

        Raises:
            SinkError: the engine does not answer.
        """

    def forget(self, node: str) -> None:
        """Delete all rows and the position of a node.

        Raises:
            SinkError: the engine does not answer.
        """

    def close(self) -> None:
        """End the connection."""
