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

from exchange.feeds.feed import FeedState
from exchange.model.events import Amended, Checkpoint, Closed, Event, Filled, Moved, Opened
from exchange.model.records import PutBatch, PutSnapshot
from node.annexes.export.tables import BookRow, MarketTradeRow, Row, moment
from node.views.order_mapping import side_word
from node.views.scales import Scale


class MarketRows:
    """Rows of `book` and `market_trades`."""

    def __init__(
        self, node: str, put: Callable[[str, Row], None], scale: Callable[[str], Scale]
    ) -> None:
        self._node = node
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
        row = BookRow(
            node=self._node,
            owner=owner,
            feed=scale.key,
            number=number,
            line=0,
            market=scale.symbol,
            event=kind,
            order_number=None if isinstance(event, Checkpoint) else event.order,
            side=None if side is None else side_word(side),
            price=None if price is None else Decimal(scale.price(price)),
            quantity=None if shown is None else Decimal(scale.amount(shown)),
            orders=None,
            reason=reason,
            time=None if time is None else moment(time),
            frame=frame,
        )
        self._put("book", row)
        if isinstance(event, Filled):
            trade = MarketTradeRow(
                node=self._node,
                owner=owner,
                feed=scale.key,
                number=number,
                market=scale.symbol,
                order_number=event.order,
                taker=event.taker,
                take=event.take,
                side=side_word(-event.side),
                price=Decimal(scale.price(event.price)),
                quantity=Decimal(scale.amount(event.quantity)),
                time=moment(event.time),
                frame=frame,
            )
            self._put("market_trades", trade)

    def add_snapshot(self, record: PutSnapshot, frame: int) -> None:
        """Add the orders of a snapshot, unless later events are known."""
        feed = record.owner, record.market
        number = record.snapshot.batch.last
        if number < self._last.get(feed, 0):
            return
        self._last[feed] = number
        scale = self._scale(record.market)
        orders = FeedState.restore(record.snapshot).orders
        head = BookRow(
            node=self._node,
            owner=record.owner,
            feed=scale.key,
            number=number,
            line=1,
            market=scale.symbol,
            event="snapshot",
            order_number=None,
            side=None,
            price=None,
            quantity=None,
            orders=len(orders),
            reason=None,
            time=None,
            frame=frame,
        )
        self._put("book", head)
        for line, (order, shown) in enumerate(orders.items(), 2):
            row = head._replace(
                line=line,
                event="opened",
                order_number=order,
                side=side_word(shown.side),
                price=Decimal(scale.price(shown.price)),
                quantity=Decimal(scale.amount(shown.shown)),
                orders=None,
                time=moment(shown.time),
            )
            self._put("book", row)


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
