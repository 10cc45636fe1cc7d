"""Commands about markets: books, candles, and halts."""

from __future__ import annotations

import click

from node.cli.client_session import Session, client_options, common_options, print_json
from node.cli.command_groups import Group, limit_option, span_options
from node.cli.ladder import draws_blocks, ladder
from node.cli.table_layout import Cell, Column, table
from node.cli.tables import candle_table, echo
from node.cli.times import TimeframeType
from node.views.account_views import HaltView, MarketStepsView


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
    every message of its book and its trades is printed as one line of JSON; see also 'stream'.

    \b
    Examples:
      exchange-node book BTC-USD
      exchange-node book BTC-USD --watch --depth 15
      exchange-node book BTC-USD --watch --json | jq 'select(.event == "trades")'
    """
    name = market.upper()
    if watch:
        from node.cli.commands.watch_commands import watch_book

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
    type=TimeframeType(),
    default="1h",
    show_default=True,
    help="The length of a candle.",
)
@span_options
@limit_option
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
    ranks = {"tick": 3, "lot": 2, "change": 1}
    echo(table([Column(t, number=t != "market", rank=ranks.get(t, 0)) for t in titles], rows))


@common_options
@click.group(cls=Group)
def market() -> None:
    """Halt a market on this node, or resume it.

    For the operator. Other nodes go on trading it among themselves.

    \b
    Examples:
      exchange-node market halt BTC-USD --reason 'prices in doubt'
      exchange-node market resume BTC-USD
      exchange-node market list
      exchange-node market steps
    """


@market.command()
@click.argument("name", metavar="MARKET")
@click.option("--reason", required=True, metavar="TEXT", help="Reason, shown to clients.")
@client_options
def halt(session: Session, name: str, reason: str) -> None:
    """Halt a market: new orders are refused, open ones can be cancelled and are not filled.

    \b
    Examples:
      exchange-node market halt BTC-USD --reason 'prices in doubt'
    """
    _show_halt(session, session.ask(lambda client: client.halt(name.upper(), reason)))


@market.command()
@click.argument("name", metavar="MARKET")
@client_options
def resume(session: Session, name: str) -> None:
    """End a halt.

    \b
    Examples:
      exchange-node market resume BTC-USD
    """
    _show_halt(session, session.ask(lambda client: client.resume(name.upper())))


@market.command("list")
@client_options
def list_halts(session: Session) -> None:
    """List which markets are halted.

    \b
    Examples:
      exchange-node market list
    """
    views = session.ask(lambda client: client.halts())
    if session.as_json:
        print_json(views)
        return
    rows: list[list[Cell]] = [
        [(view.market, "bold"), ("halted", "warn") if view.halted else "open", view.reason or "-"]
        for view in views
    ]
    echo(table([Column("market"), Column("state"), Column("reason")], rows))


@market.command("steps")
@client_options
def list_steps(session: Session) -> None:
    """List price and quantity steps, in use and configured.

    Nodes trade a market with each other only when they agree on both. A data directory keeps its steps
    when the defaults or INSTRUMENTS_FILE change, until change-steps.

    \b
    Examples:
      exchange-node market steps
    """
    views = session.ask(lambda client: client.market_steps())
    if session.as_json:
        print_json(views)
        return
    rows: list[list[Cell]] = [
        [
            (view.market, "bold"),
            view.tick,
            view.lot,
            view.configured_tick,
            view.configured_lot,
            _note(view),
        ]
        for view in views
    ]
    titles = ("tick", "lot", "configured tick", "configured lot")
    columns = [Column("market"), *(Column(title, number=True) for title in titles), Column("")]
    echo(table(columns, rows))


def _note(view: MarketStepsView) -> Cell:
    if (view.tick, view.lot) == (view.configured_tick, view.configured_lot):
        return "-"
    return ("from the next start", "warn") if view.at_next_start else ("change-steps", "warn")


@market.command("change-steps")
@click.argument("name", metavar="MARKET")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@client_options
def change_steps(session: Session, name: str, *, yes: bool) -> None:
    """Use a market's configured steps from the next start on.

    The market is halted at once and its open orders, of all accounts, are cancelled: they are counted in
    the old steps. Prices and quantities of past orders and trades stay as they were; candles begin anew.

    \b
    Examples:
      exchange-node market change-steps BTC-USD
    """
    if not yes and not session.as_json:
        click.confirm(
            f"Halt {name.upper()} and cancel its open orders, of all accounts?",
            abort=True,
            err=True,
        )
    orders = session.ask(lambda client: client.change_market_steps(name.upper()))
    if session.as_json:
        print_json(orders)
        return
    for order in orders:
        click.echo(
            f"cancelled {order.number}: {order.side} {order.quantity} {order.market}, filled {order.filled}"
        )
    click.echo(f"{name.upper()} is halted; it has the new steps when the node is started again.")


def _show_halt(session: Session, view: HaltView) -> None:
    if session.as_json:
        print_json(view)
    elif view.halted:
        click.echo(f"{view.market} is halted: {view.reason}")
    else:
        click.echo(f"{view.market} is open")
