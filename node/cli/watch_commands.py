"""`book --watch` and `stream`: what a node's streams say, as it happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, get_args

import click
from msgspec import UNSET

from node.cli.client_session import Session, client_options, print_json_line
from node.cli.tables import clean, clock, draws_blocks, echo, ladder, to_rich
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

    from node.cli.node_finder import FoundNode
    from node.client.streaming_client import BookSubscription, StreamingClient, Subscription

FRAME = 0.1  # seconds between two frames at most
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
        async with _client(session, found) as client:
            await work(client)

    try:
        asyncio.run(run())
    except ClientError as error:
        raise session.explain(error, found) from error
    except ExceptionGroup as group:  # several feeds fail of one cause
        first = group.exceptions[0]
        if not isinstance(first, ClientError):
            raise
        raise session.explain(first, found) from first


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
        ssl=session.trust(found).for_aiohttp(),
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


async def _live(client: StreamingClient, market: str, depth: int) -> None:
    """Redraws in place, at most every `FRAME`, however much happens."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    most: Any = 25 if depth <= 25 else "full"
    book = client.book(market, depth=most, conflate_ms=int(FRAME * 500))
    own = client.book(market, depth="full", scope="own", conflate_ms=int(FRAME * 500))
    trades = client.trades(market)
    tape: list[TradeView] = []  # newest first
    changed = asyncio.Event()
    console = Console()
    blocks = draws_blocks()

    def frame() -> Group:
        fits = max(1, (console.size.height - 6 - len(tape)) // 2)
        view = book_view(market, book.book, own.book)
        lines = ladder(view, depth=min(depth, fits), blocks=blocks)
        for trade in tape:
            what = (f"{trade.side:4} {trade.quantity} @ {trade.price}", trade.side)
            lines.append([("trade ", "dim"), what, (f"  {clock(trade.time)}", "dim")])
        return Group(to_rich(lines), Text("Ctrl-C ends", "dim"))

    async def follow(feed: BookSubscription[Any, Level]) -> None:
        async for _ in feed:
            changed.set()

    async def follow_trades() -> None:
        async for message in trades:
            if isinstance(message, Trades):
                tape[:] = [*reversed(message.trades), *tape][:TRADES]
            changed.set()

    async def draw() -> None:
        await changed.wait()
        with Live(frame(), console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                await changed.wait()
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
@click.option("--tf", "timeframe", metavar="LENGTH", help="Of candles.  [default: 1m]")
@click.option(
    "--conflate",
    type=click.IntRange(0, 60_000),
    default=0,
    metavar="MS",
    help="At most one message in so many milliseconds, with their outcome.",
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
