"""`book --watch`: a book kept current from the stream, and its display."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from decimal import Decimal

import click

from node.cli.render import clean, clock, draws_blocks, echo, ladder, to_rich
from node.cli.session import Session, print_json_line
from node.client import ClientError, ExchangeClient
from node.views import (
    BookReset,
    BookView,
    LevelChange,
    LevelView,
    OrderEvent,
    OrderView,
    Side,
    StreamEvent,
    TradeEvent,
    TradeView,
)

FRAME = 0.1  # seconds between two frames at most
TRADES = 5  # latest trades below the ladder


class BookTracker:
    """A market's book, kept current from the events of its stream."""

    def __init__(self, orders: list[OrderView]) -> None:
        self._orders: dict[str, OrderView] = {}
        self._sides: dict[Side, dict[Decimal, LevelChange]] = {"buy": {}, "sell": {}}
        self._market = ""
        self._sequence = -1
        self.time = ""
        self.trades: list[TradeView] = []  # newest first
        for order in orders:
            self._own(order)

    def apply(self, event: StreamEvent) -> None:
        """Takes one event over."""
        if isinstance(event, BookReset):
            self._reset(event.book)
        elif isinstance(event, LevelChange):
            self._change(event)
        elif isinstance(event, OrderEvent):
            self._own(event.order)
        elif isinstance(event, TradeEvent):
            self.time = max(self.time, event.trade.time)
            self.trades = [event.trade, *self.trades][:TRADES]

    def _reset(self, book: BookView) -> None:
        self._market, self._sequence, self.time = book.market, book.sequence, book.time
        sides: list[tuple[Side, list[LevelView]]] = [("buy", book.bids), ("sell", book.asks)]
        for side, levels in sides:
            self._sides[side] = {
                Decimal(level.price): LevelChange(
                    market=book.market,
                    sequence=book.sequence,
                    side=side,
                    price=level.price,
                    quantity=level.quantity,
                    orders=level.orders,
                )
                for level in levels
            }

    def _change(self, change: LevelChange) -> None:
        if change.sequence < self._sequence:
            return  # from before the snapshot
        self._sequence = change.sequence
        levels = self._sides[change.side]
        if Decimal(change.quantity):
            levels[Decimal(change.price)] = change
        else:
            levels.pop(Decimal(change.price), None)

    def _own(self, order: OrderView) -> None:
        if order.price is not None and order.status in ("open", "pending"):
            self._orders[order.id] = order
        else:
            self._orders.pop(order.id, None)

    def book(self) -> BookView:
        """The book now. Its digest is empty: only the node can tell it."""
        return BookView(
            market=self._market,
            sequence=self._sequence,
            digest="",
            bids=self._levels("buy"),
            asks=self._levels("sell"),
            time=self.time,
        )

    def _levels(self, side: Side) -> list[LevelView]:
        own: dict[Decimal, Decimal] = {}
        for order in self._orders.values():
            if order.side == side and order.price is not None:
                price = Decimal(order.price)
                own[price] = own.get(price, Decimal(0)) + Decimal(order.remaining)
        return [
            LevelView(
                price=change.price,
                quantity=change.quantity,
                orders=change.orders,
                own=f"{own.get(price, Decimal(0)):f}",
            )
            for price, change in sorted(self._sides[side].items(), reverse=side == "buy")
        ]


def describe_event(event: StreamEvent) -> str:
    """One event as one line of text."""
    if isinstance(event, LevelChange):
        what = f"{event.quantity} in {event.orders} orders" if Decimal(event.quantity) else "gone"
        return f"{event.market}  level {event.side} {event.price}: {what}"
    if isinstance(event, TradeEvent):
        trade = event.trade
        return f"{event.market}  trade {trade.side} {trade.quantity} @ {trade.price}  {clock(trade.time)}"
    if isinstance(event, OrderEvent):
        order = event.order
        return (
            f"{event.market}  own order {order.number} {order.status}: "
            f"filled {order.filled} of {order.quantity}"
        )
    return f"{event.market}  book at sequence {event.book.sequence}"


def watch_book(session: Session, market: str, depth: int) -> None:
    """Shows a market until Ctrl-C, or until the node stops."""
    found = session.find()

    async def run() -> None:
        async with ExchangeClient(found.url, node_id=found.node_id) as client:
            stream = client.subscribe(market)
            async with contextlib.aclosing(stream):
                if session.as_json:
                    async for event in stream:
                        print_json_line(event)
                elif sys.stdout.isatty():
                    await _live(client, stream, market, depth)
                else:
                    await _lines(stream, depth)

    try:
        asyncio.run(run())
    except ClientError as error:
        raise session.explain(error, found) from error


async def _lines(stream: AsyncGenerator[StreamEvent, None], depth: int) -> None:
    async for event in stream:
        if isinstance(event, BookReset):
            echo(ladder(event.book, depth=depth, blocks=draws_blocks()))
        else:
            click.echo(clean(describe_event(event)))
        sys.stdout.flush()


async def _live(
    client: ExchangeClient,
    stream: AsyncGenerator[StreamEvent, None],
    market: str,
    depth: int,
) -> None:
    """Redraws in place, at most every `FRAME`, however many events arrive."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    first = await anext(stream)  # subscribed before the orders are read, so that none is missed
    tracker = BookTracker(await client.orders(market=market, limit=1000))
    tracker.apply(first)
    changed = asyncio.Event()
    changed.set()

    console = Console()
    blocks = draws_blocks()

    def frame() -> Group:
        fits = max(1, (console.size.height - 6 - len(tracker.trades)) // 2)
        lines = ladder(tracker.book(), depth=min(depth, fits), blocks=blocks)
        tape = [
            [
                ("trade ", "dim"),
                (f"{trade.side:4} {trade.quantity} @ {trade.price}", trade.side),
                (f"  {clock(trade.time)}", "dim"),
            ]
            for trade in tracker.trades
        ]
        return Group(to_rich([*lines, *tape]), Text("Ctrl-C ends", "dim"))

    async def follow() -> None:
        async for event in stream:
            tracker.apply(event)
            changed.set()

    with Live(frame(), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        follower = asyncio.create_task(follow())
        try:
            while not follower.done():
                waiter = asyncio.create_task(changed.wait())
                await asyncio.wait({waiter, follower}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                changed.clear()
                live.update(frame(), refresh=True)
                await asyncio.sleep(FRAME)
            follower.result()
        finally:
            follower.cancel()
            await asyncio.wait({follower})
