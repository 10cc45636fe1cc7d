"""`book --watch` and `stream`: live output of a node's streams."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from types import EllipsisType
from typing import TYPE_CHECKING, Any, get_args

import click
from msgspec import UNSET

from node.cli.client_session import Session, client_options, print_json_line
from node.cli.ladder import draws_blocks, ladder
from node.cli.standard_streams import OutputLost
from node.cli.table_layout import Line, clean
from node.cli.tables import clock, echo, to_rich
from node.cli.times import TimeframeType
from node.client.book_replica import BookReplica
from node.client.exchange_client import ClientError
from node.streams.node_messages import NODE_CHANNELS
from node.streams.stream_messages import (
    FIELDS,
    BookL2,
    BookL2Snapshot,
    Channel,
    Level,
    Subscribe,
    Trades,
    TradesSnapshot,
)
from node.views.views import BookView, LevelView, Side, TradeView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from rich.text import Text

    from node.client.node_finder import FoundNode
    from node.client.streaming_client import BookSubscription, StreamingClient, Subscription

FRAME = 0.1  # seconds between two frames at most
SETTLE = 0.01  # seconds for the own orders of a change to arrive after it
PIPE_CHECK = 0.5  # seconds between checks that the output still has a reader
TRADES = 5  # latest trades below the ladder


def book_view(
    market: str, book: BookReplica[Level], own: BookReplica[Level] | None = None
) -> BookView:
    """A book as it is drawn. Its digest is empty: only the node can tell it."""

    def levels(side: Side) -> list[LevelView]:
        ours = {}
        if own is not None:
            entries = own.bids() if side == "buy" else own.asks()
            ours = {level.price: level.quantity for level in entries}
        return [
            LevelView(
                price=level.price,
                quantity=level.quantity,
                orders=level.orders,
                own=ours.get(level.price, "0"),
            )
            for level in (book.bids() if side == "buy" else book.asks())
        ]

    return BookView(
        market=market,
        sequence=book.sequence or 0,
        digest="",
        bids=levels("buy"),
        asks=levels("sell"),
        time=book.time,
    )


def describe(
    market: str, message: BookL2 | BookL2Snapshot | Trades | TradesSnapshot
) -> Iterator[str]:
    """A message as lines of text, a snapshot as none."""
    if isinstance(message, BookL2):
        sides: list[tuple[Side, list[Level]]] = [("buy", message.bids), ("sell", message.asks)]
        for side, levels in sides:
            for level in levels:
                what = f"{level.quantity} in {level.orders} orders" if level.orders else "gone"
                yield f"{market}  level {side} {level.price}: {what}"
    elif isinstance(message, Trades):
        for trade in message.trades:
            yield (
                f"{market}  trade {trade.side} {trade.quantity} @ {trade.price}  "
                f"{clock(trade.time)}"
            )


def _run(session: Session, work: Callable[[StreamingClient], Awaitable[None]]) -> None:
    """Until Ctrl-C, or until the node stops."""
    found = session.find()

    async def run() -> None:
        async with _client(session, found) as client, asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(_until_unread())
            await work(client)
            watch.cancel()

    try:
        asyncio.run(run())
    except ExceptionGroup as group:  # several feeds fail of one cause
        error = _first(group)
        if isinstance(error, ClientError):
            raise session.explain(error, found) from error
        raise error from None


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def _until_unread() -> None:
    """Raise OutputLost once standard output has no reader, even while nothing is printed."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return
    pipe = select.poll()
    pipe.register(descriptor, 0)  # the end of the pipe is reported without a request
    while not pipe.poll(0):  # noqa: ASYNC110 - the pipe has no event
        await asyncio.sleep(PIPE_CHECK)
    raise OutputLost(BrokenPipeError())


@asynccontextmanager
async def _client(session: Session, found: FoundNode) -> AsyncIterator[StreamingClient]:
    from node.client.streaming_client import StreamingClient

    key, secret = session.credentials(found)
    async with StreamingClient(
        found.url,
        node_id=found.node_id,
        key=key,
        secret=secret,
        patience=0,
        trust=session.trust(found),
    ) as client:
        yield client


def watch_book(session: Session, market: str, depth: int) -> None:
    """Shows a market's book and trades until Ctrl-C, or until the node stops."""

    async def watch(client: StreamingClient) -> None:
        if not session.as_json and sys.stdout.isatty():
            await _live(client, market, depth)
            return
        book = client.book(market, depth=25 if depth <= 25 else "full")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_print(session, book, market, depth))
            tasks.create_task(_print(session, client.trades(market), market, depth))

    _run(session, watch)


async def _print(session: Session, feed: Subscription[Any], market: str, depth: int) -> None:
    async for message in feed:
        if session.as_json:
            print_json_line(message)
        elif isinstance(message, BookL2Snapshot):
            book = BookReplica[Level]()
            book.apply(message)
            echo(ladder(book_view(market, book), depth=depth, blocks=draws_blocks()))
        else:
            for line in describe(market, message):
                click.echo(clean(line))
        sys.stdout.flush()


def frame_lines(
    view: BookView,
    tape: Sequence[TradeView],
    *,
    height: int,
    depth: int = 1000,
    blocks: bool = True,
    width: int | EllipsisType | None = ...,
) -> list[Line]:
    """Return at most `height` lines of a book and its latest trades. The best prices come first: what does
    not fit is left out, the line on how to end it first, then trades, titles, and the worst levels."""
    levels = max(len(view.bids), len(view.asks))
    room = max(0, height - 4)  # beside the title, a blank line, the names of columns, the spread
    shown = max(1, min(depth, levels, room // 2))
    lines = ladder(view, depth=shown, blocks=blocks, width=width)
    if len(lines) > height:
        lines = lines[3:]  # asks, the spread, bids
    if len(lines) > height:
        middle = len(view.asks[:shown])
        lines = lines[max(0, middle - height // 2) :][:height]
    for trade in tape[: max(0, height - len(lines))]:
        what = (f"{trade.side:4} {trade.quantity} @ {trade.price}", trade.side)
        lines.append([("trade ", "dim"), what, (f"  {clock(trade.time)}", "dim")])
    if len(lines) < height:
        lines.append([("Ctrl-C ends", "dim")])
    return lines


async def _live(client: StreamingClient, market: str, depth: int) -> None:
    """Redraws in place, at most every `FRAME`, however much happens."""
    from rich.console import Console
    from rich.live import Live

    most: Any = 25 if depth <= 25 else "full"
    book = client.book(market, depth=most, conflate_ms=int(FRAME * 500))
    own = client.book(market, depth="full", scope="own", conflate_ms=int(FRAME * 500))
    trades = client.trades(market)
    tape: list[TradeView] = []  # newest first
    changed = asyncio.Event()
    console = Console()
    blocks = draws_blocks()

    def frame() -> Text:
        view = book_view(market, book.book, own.book)
        height = max(2, console.size.height - 1)  # the cursor is below
        return to_rich(frame_lines(view, tape, height=height, depth=depth, blocks=blocks))

    async def follow(feed: BookSubscription[Any, Level]) -> None:
        async for _ in feed:
            changed.set()

    async def follow_trades() -> None:
        async for message in trades:
            if isinstance(message, Trades):
                tape[:] = [*reversed(message.trades), *tape][:TRADES]
            changed.set()

    async def draw() -> None:
        while book.book.sequence is None or own.book.sequence is None:
            changed.clear()
            await changed.wait()
        with Live(frame(), console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                await changed.wait()
                await asyncio.sleep(SETTLE)
                changed.clear()
                live.update(frame(), refresh=True)
                await asyncio.sleep(FRAME)

    async with asyncio.TaskGroup() as tasks:
        for work in (follow(book), follow(own), follow_trades(), draw()):
            tasks.create_task(work)


@click.command()
@click.argument("market", required=False)
@click.option(
    "--channel",
    type=click.Choice(get_args(Channel)),
    metavar="CHANNEL",
    default="book",
    show_default=True,
    help="book, trades, ticker, candles of a market; orders, fills, balances of the account; halts; "
    "of the node: " + ", ".join(NODE_CHANNELS) + ".",
)
@click.option("--level", type=click.Choice(["L1", "L2", "L3"]), help="Of a book.  [default: L2]")
@click.option(
    "--depth",
    type=click.Choice(["25", "100", "full"]),
    help="Levels or orders of a book, a side.  [default: 25]",
)
@click.option("--own", is_flag=True, help="The book of this node's own orders.")
@click.option("--tf", "timeframe", type=TimeframeType(), help="Of candles.  [default: 1m]")
@click.option(
    "--conflate",
    type=click.IntRange(0, 60_000),
    default=0,
    metavar="MS",
    help="At most one message in this many milliseconds, with the combined changes.",
)
@client_options
def stream(
    session: Session,
    market: str | None,
    channel: Any,
    level: Any,
    depth: str | None,
    own: bool,
    timeframe: str | None,
    conflate: int,
) -> None:
    """Print a stream's messages, one JSON document a line.

    Books are verified: when a message is missing, or the checksum is not that of the book, the
    command fails.

    \b
    Examples:
      exchange-node stream BTC-USD
      exchange-node stream BTC-USD --level L3 --depth full --own
      exchange-node stream BTC-USD --channel candles --tf 5m
      exchange-node stream --channel balances
    """
    if market is None and "market" in FIELDS[channel]:
        raise click.UsageError(f"which market? For example: {_example(channel)}")
    request = Subscribe(
        channel=channel,
        market=market.upper() if market else UNSET,
        level=level or UNSET,
        depth=_depth(depth),
        scope="own" if own else UNSET,
        timeframe=timeframe or UNSET,
        conflate_ms=conflate,
    )

    async def show(client: StreamingClient) -> None:
        async for message in client.subscribe(request):
            print_json_line(message)

    _run(session, show)


def _example(channel: str) -> str:
    flag = "" if channel == "book" else f" --channel {channel}"
    return f"exchange-node stream BTC-USD{flag}"


def _depth(text: str | None) -> Any:
    if text is None:
        return UNSET
    return text if text == "full" else int(text)
