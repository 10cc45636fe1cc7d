"""Public market data as rows: the events of all feeds that the journal holds, own ones and those of other nodes.

Rules of this file:
- A number of a feed is a row at most once, in rising order. A feed that the node gave up and holds again repeats its
  numbers in the journal.
- Every number is a row, checkpoints too, so that a reader sees a gap.
- A snapshot restarts a feed: its orders replace all earlier ones. Numbers that it skips are in no row.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Protocol

from exchange.feeds.feed import FeedState
from exchange.model.events import Amended, Checkpoint, Closed, Event, Filled, Moved, Opened
from exchange.model.records import PutBatch, PutSnapshot
from node.annexes.export.tables import Value, moment
from node.views.order_mapping import side_word
from node.views.scales import Scale


class Put(Protocol):
    """Adds a row to a table."""

    def __call__(self, table: str, frame: int, *values: Value) -> None: ...


class MarketRows:
    """Rows of `book` and `market_trades`."""

    def __init__(self, put: Put, scale: Callable[[str], Scale]) -> None:
        self._put = put
        self._scale = scale
        self._last: dict[tuple[str, str], int] = {}  # number by feed

    def add_batch(self, record: PutBatch, frame: int) -> None:
        """Add the events of a batch that are not known yet."""
        batch = record.batch
        feed = record.owner, batch.market
        known = self._last.get(feed, 0)
        if batch.last <= known:
            return
        self._last[feed] = batch.last
        scale = self._scale(batch.market)
        for number, event in enumerate(batch.events, batch.first):
            if number > known:
                self._event(frame, record.owner, scale, number, event)

    def _event(self, frame: int, owner: str, scale: Scale, number: int, event: Event) -> None:
        kind, side, price, shown, reason, time = _parts(event)
        self._put(
            "book",
            frame,
            owner,
            scale.key,
            number,
            0,
            scale.symbol,
            kind,
            None if isinstance(event, Checkpoint) else event.order,
            None if side is None else side_word(side),
            None if price is None else Decimal(scale.price(price)),
            None if shown is None else Decimal(scale.amount(shown)),
            None,
            reason,
            None if time is None else moment(time),
        )
        if isinstance(event, Filled):
            self._put(
                "market_trades",
                frame,
                owner,
                scale.key,
                number,
                scale.symbol,
                event.order,
                event.taker,
                event.take,
                side_word(-event.side),
                Decimal(scale.price(event.price)),
                Decimal(scale.amount(event.quantity)),
                moment(event.time),
            )

    def add_snapshot(self, record: PutSnapshot, frame: int) -> None:
        """Add the orders of a snapshot, unless later events are known."""
        feed = record.owner, record.market
        number = record.snapshot.batch.last
        if number < self._last.get(feed, 0):
            return
        self._last[feed] = number
        scale = self._scale(record.market)
        orders = FeedState.restore(record.snapshot).orders
        head = (record.owner, scale.key, number)
        empty = (None, None, None, None)
        self._put(
            "book", frame, *head, 1, scale.symbol, "snapshot", *empty, len(orders), None, None
        )
        for line, (order, shown) in enumerate(orders.items(), 2):
            self._put(
                "book",
                frame,
                *head,
                line,
                scale.symbol,
                "opened",
                order,
                side_word(shown.side),
                Decimal(scale.price(shown.price)),
                Decimal(scale.amount(shown.shown)),
                None,
                None,
                moment(shown.time),
            )


Parts = tuple[str, int | None, int | None, int | None, str | None, int | None]


def _parts(event: Event) -> Parts:
    """Return kind, side, price, displayed quantity, reason and time of an event."""
    match event:
        case Opened():
            return "opened", event.side, event.price, event.shown, None, event.time
        case Filled():
            return "filled", event.side, event.price, event.shown, None, event.time
        case Amended():
            return "amended", None, None, event.shown, None, None
        case Moved():
            return "moved", None, event.price, event.shown, None, event.time
        case Closed():
            return "closed", None, None, 0, event.reason, None
        case _:
            return "checkpoint", None, None, None, None, None
