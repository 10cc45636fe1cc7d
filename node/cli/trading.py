"""Commands for orders, fills and books."""

from __future__ import annotations

from typing import Any

import click

from exchange.candles import TIMEFRAMES
from node.cli.render import (
    Cell,
    Column,
    Line,
    candle_table,
    draws_blocks,
    echo,
    fill_table,
    is_terminal,
    ladder,
    order_table,
    table,
    trade_table,
)
from node.cli.session import Session, client_options, print_json
from node.views import OrderRequest, OrderView, Side

OUTCOME_WAIT = 1.0  # seconds: a maker that can be reached answers well within it


class _OrderGroup(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0].lower() in ("buy", "sell"):
            return super().resolve_command(ctx, [args[0].lower(), *args[1:]])
        sides = [word.lower() for word in args if word.lower() in ("buy", "sell")]
        side = sides[0] if sides else "buy|sell"
        rest = " ".join(word for word in args if word.lower() != side)
        return ctx.fail(f"say buy or sell first: exchange-node order {side} {rest}")


@click.group(cls=_OrderGroup)
def order() -> None:
    """Place an order: buy or sell.

    \b
    Examples:
      exchange-node order buy BTC-USD 0.5 @ 30000     limit order
      exchange-node order sell BTC-USD 0.5            market order
    """


def _place(
    session: Session, side: Side, words: tuple[str, ...], price: str | None, client_id: str | None
) -> None:
    from node.cli.ordertext import OrderTextError, parse_order

    for word in words:
        if word.startswith("--"):  # unknown options pass the parser, so that it lets -0.5 through
            raise _no_such_option(word, click.get_current_context())
    try:
        typed = parse_order(side, list(words), price)
    except OrderTextError as error:
        raise click.UsageError(str(error), ctx=click.get_current_context()) from None
    request = OrderRequest(
        market=typed.market,
        side=side,
        quantity=typed.quantity,
        price=typed.price,
        client_id=client_id,
    )
    view = _outcome(session, session.ask(lambda client: client.submit(request)))
    if session.as_json:
        print_json(view)
    else:
        echo(describe_order(view))


def _outcome(session: Session, view: OrderView) -> OrderView:
    """The order once other nodes have answered what was asked of them, or after a moment."""
    import time

    deadline = time.monotonic() + OUTCOME_WAIT
    order_id = view.id
    while view.pending.strip("0.") and time.monotonic() < deadline:
        time.sleep(0.02)
        view = session.ask(lambda client: client.order(order_id))
    return view


def _no_such_option(word: str, ctx: click.Context) -> click.NoSuchOption:
    import difflib

    known = [name for param in ctx.command.params for name in param.opts if name.startswith("--")]
    close = difflib.get_close_matches(word.partition("=")[0], known, n=2)
    return click.NoSuchOption(word, possibilities=close, ctx=ctx)


def describe_order(view: OrderView) -> list[Line]:
    """What became of an order, in a line or two."""
    price = f"@ {view.price}" if view.price is not None else "at market"
    name = view.number if is_terminal() else view.id
    lines: list[Line] = [
        [
            (f"order {name}: ", ""),
            (view.side, view.side),
            (f" {view.quantity} {view.market} {price}: ", ""),
            (view.status, "bold"),
        ]
    ]
    parts = []
    if view.average_price is not None:
        parts.append(f"filled {view.filled} at {view.average_price} on average")
    if view.status == "pending":
        parts.append(f"{view.pending} asked of other nodes, outcome not known yet")
    if view.status in ("open", "pending") and view.remaining.strip("0."):
        parts.append(f"{view.remaining} rests in the book")
    if view.status == "cancelled":
        parts.append("the rest is cancelled" if view.average_price else "nothing was filled")
    if parts:
        lines.append([("  " + ", ".join(parts), "")])
    return lines


def _order_command(side: Side) -> click.Command:
    other = "ask" if side == "buy" else "bid"

    @client_options
    def place(
        session: Session, words: tuple[str, ...], price: str | None, client_id: str | None
    ) -> None:
        _place(session, side, words, price, client_id)

    place.__doc__ = f"""{side.capitalize()} QTY in MARKET, at PRICE or better.

    What does not trade at once rests in the book until it does, or is cancelled. Without a price
    it is a market order: it trades with the best {other}s there are, and what is left is cancelled.

    \b
    Examples:
      exchange-node order {side} BTC-USD 0.5 @ 30000
      exchange-node order {side} BTC-USD 0.5@30000
      exchange-node order {side} BTC-USD 0.5 --price 30000
      exchange-node order {side} BTC-USD 0.5                        market order
      exchange-node order {side} BTC-USD 1 @ 29000 --client-id a1   safe to repeat
    """
    place = click.option(
        "--client-id", metavar="ID", help="Your own id: the same one again places nothing new."
    )(place)
    place = click.option("--price", metavar="PRICE", help="The same as @ PRICE.")(place)
    place = click.argument("words", nargs=-1, metavar="MARKET QTY [@ PRICE]")(place)
    return click.command(side, context_settings={"ignore_unknown_options": True})(place)


order.add_command(_order_command("buy"))
order.add_command(_order_command("sell"))


@click.command()
@click.argument("order_id", metavar="ID|NUMBER")
@client_options
def cancel(session: Session, order_id: str) -> None:
    """Cancel an order.

    By its number or its full id, as 'orders' shows them. What is already filled stays filled.

    \b
    Examples:
      exchange-node cancel 12
    """
    view = session.ask(lambda client: client.cancel(order_id))
    if session.as_json:
        print_json(view)
    else:
        echo(describe_order(view))


def _limit(command: Any) -> Any:
    return click.option(
        "--limit",
        type=click.IntRange(1, 1000),
        default=100,
        show_default=True,
        help="At most so many, the newest.",
    )(command)


def _upper(market: str | None) -> str | None:
    return None if market is None else market.upper()


@click.command()
@click.argument("market", required=False)
@click.option("--all", "everything", is_flag=True, help="Filled and cancelled ones too.")
@_limit
@client_options
def orders(session: Session, market: str | None, everything: bool, limit: int) -> None:
    """List this node's orders, newest first.

    \b
    Examples:
      exchange-node orders
      exchange-node orders BTC-USD --all
      exchange-node orders --json | jq -r '.[].id'
    """
    views = session.ask(
        lambda client: client.orders(market=_upper(market), open_only=not everything, limit=limit)
    )
    if session.as_json:
        print_json(views)
    elif views:
        echo(order_table(views, full=not is_terminal()))
    else:
        click.echo(
            "no orders" if everything else "no open orders (--all shows finished ones)", err=True
        )


@click.command()
@click.argument("market", required=False)
@click.option("--public", is_flag=True, help="All trades of the network, not only own fills.")
@_limit
@client_options
def trades(session: Session, market: str | None, public: bool, limit: int) -> None:
    """List this node's fills, or all public trades, newest first.

    \b
    Examples:
      exchange-node trades
      exchange-node trades BTC-USD --public
    """
    name = _upper(market)
    if public:
        tape = session.ask(lambda client: client.trades(market=name, limit=limit))
        empty, lines = not tape, trade_table(tape, full=not is_terminal())
        document: Any = tape
    else:
        fills = session.ask(lambda client: client.fills(market=name, limit=limit))
        own = next((fill.order_id.rpartition("-")[0] for fill in fills), None)
        empty, lines = not fills, fill_table(fills, own, full=not is_terminal())
        document = fills
    if session.as_json:
        print_json(document)
    elif empty:
        click.echo("no trades" if public else "no fills (--public shows others' trades)", err=True)
    else:
        echo(lines)


@click.command()
@click.argument("market")
@click.option(
    "--depth", type=click.IntRange(1, 1000), default=10, show_default=True, help="Levels a side."
)
@click.option("--watch", is_flag=True, help="Stay and show changes as they happen; Ctrl-C ends.")
@client_options
def book(session: Session, market: str, depth: int, watch: bool) -> None:
    """Show a market's order book.

    Asks are above, bids below, levels with own orders are marked with *. 'total' is the quantity up to that level. With --watch it updates in place; with --watch --json
    every event of the stream is printed as one line of JSON.

    \b
    Examples:
      exchange-node book BTC-USD
      exchange-node book BTC-USD --watch --depth 15
      exchange-node book BTC-USD --watch --json | jq 'select(.event == "trade")'
    """
    name = market.upper()
    if watch:
        from node.cli.watch import watch_book

        watch_book(session, name, depth)
        return
    view = session.ask(lambda client: client.book(name, depth=depth))
    if session.as_json:
        print_json(view)
    else:
        echo(ladder(view, blocks=draws_blocks()))


@click.command()
@click.argument("market")
@click.option(
    "--tf",
    "timeframe",
    type=click.Choice(list(TIMEFRAMES)),
    default="1h",
    show_default=True,
    help="The length of a candle.",
)
@click.option("--start", metavar="TIME", help="Not before: 2026-01-02T03:04:05Z, or milliseconds.")
@click.option("--end", metavar="TIME", help="Not after.")
@_limit
@client_options
def candles(
    session: Session, market: str, timeframe: str, start: str | None, end: str | None, limit: int
) -> None:
    """Show a market's candles, the newest last.

    From the trades of the whole network that the node has seen. A stretch without trades has none.

    \b
    Examples:
      exchange-node candles BTC-USD
      exchange-node candles BTC-USD --tf 5m --limit 20
      exchange-node candles BTC-USD --tf 1D --json | jq -r '.[].close'
    """
    name = market.upper()
    views = session.ask(
        lambda client: client.candles(name, timeframe, start=start, end=end, limit=limit)
    )[::-1]
    if session.as_json:
        print_json(views)
    elif views:
        echo(candle_table(views))
    else:
        click.echo("no trades there", err=True)


@click.command()
@client_options
def markets(session: Session) -> None:
    """List the markets: steps, best prices, the last 24 hours.

    \b
    Examples:
      exchange-node markets
    """
    views = session.ask(lambda client: client.markets())
    if session.as_json:
        print_json(views)
        return
    titles = ["market", "tick", "lot", "bid", "ask", "last", "change", "volume"]
    rows: list[list[Cell]] = [
        [
            (view.symbol, "bold"),
            view.tick,
            view.lot,
            (view.bid or "-", "buy"),
            (view.ask or "-", "sell"),
            view.last or "-",
            (view.change, "sell" if view.change.startswith("-") else "buy"),
            view.volume,
        ]
        for view in views
    ]
    echo(table([Column(title, number=title != "market") for title in titles], rows))
