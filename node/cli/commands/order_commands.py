"""Commands about orders and fills."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click
import msgspec

from exchange.model.commands import SelfTrade
from node.cli.client_session import (
    CommandFailure,
    Session,
    client_options,
    common_options,
    node_options,
    print_json,
)
from node.cli.command_groups import (
    LENIENT,
    Group,
    account_option,
    check_words,
    limit_option,
    upper,
    wrong_text,
)
from node.cli.order_check import confirm_amendment, confirm_order, yes_option
from node.cli.order_text import OrderTextError, decimal, parse_order
from node.cli.tables import (
    WORKING,
    describe_order,
    echo,
    fill_table,
    is_terminal,
    order_table,
    trade_table,
)
from node.cli.times import TimeTextError, parse_expiry
from node.views.views import AmendRequest, OrderRequest, OrderView, Side

T = TypeVar("T")
OUTCOME_WAIT = 1.0  # seconds: a maker that can be reached answers well within it


class _OrderGroup(Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0].lower() in ("buy", "sell", "help"):
            return super().resolve_command(ctx, [args[0].lower(), *args[1:]])
        sides = [word.lower() for word in args if word.lower() in ("buy", "sell")]
        side = sides[0] if sides else "buy|sell"
        rest = shlex.join(word for word in args if word.lower() != side)
        return ctx.fail(
            f"missing 'buy' or 'sell': write exchange-node order {side} {rest}{node_options()}"
        )


@common_options
@click.group(cls=_OrderGroup)
def order() -> None:
    """Place an order: buy or sell.

    \b
    Examples:
      exchange-node order buy BTC-USD 0.5 @ 30000     limit order
      exchange-node order sell BTC-USD 0.5            market order
    """


def _place(
    session: Session,
    side: Side,
    words: tuple[str, ...],
    price: str | None,
    account: str | None,
    yes: bool,
    **options: Any,
) -> None:
    check_words(words)
    try:
        typed = parse_order(side, list(words), price)
        request = _request(side, typed.market, typed.quantity, typed.price, options)
    except (OrderTextError, TimeTextError) as error:
        raise wrong_text(error) from None
    if not yes:
        confirm_order(session, request)
    view = session.ask(lambda client: client.submit(request, account=account))
    view = _outcome(session, view, account)
    if session.as_json:
        print_json(view)
    else:
        echo(describe_order(view))


def _request(
    side: Side, market: str, quantity: str, price: str | None, options: dict[str, Any]
) -> OrderRequest:
    """Raises `OrderTextError`, `TimeTextError` for numbers and times that are none."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("display_quantity", "stop", "trailing_offset", "oco_stop", "worst_price"):
        if name in given:
            given[name] = decimal(given[name], name.replace("_", "-"))
    if "expires" in given:
        given["expires"] = parse_expiry(given["expires"], int(time.time() * 1000))
        given.setdefault("tif", "gtd")
    return OrderRequest(market=market, side=side, quantity=quantity, price=price, **given)


def _outcome(session: Session, view: OrderView, account: str | None) -> OrderView:
    """The order once other nodes have answered what was asked of them, or after a moment."""
    deadline = time.monotonic() + OUTCOME_WAIT
    order_id = view.id
    try:
        while view.pending.strip("0.") and time.monotonic() < deadline:
            time.sleep(0.02)
            view = session.ask(lambda client: client.order(order_id, account=account))
    except (CommandFailure, KeyboardInterrupt):
        pass  # the order is placed: its last known state is the answer
    return view


def _without_ended_link(session: Session, view: OrderView, account: str | None) -> OrderView:
    """The order, as one of a pair only while the other one can still trade."""
    linked = view.linked_order_id
    if linked is None:
        return view
    try:
        other = session.ask(lambda client: client.order(linked, account=account))
    except CommandFailure:  # the amendment is done: the node's answer to it is shown
        return view
    return view if other.status in WORKING else msgspec.structs.replace(view, linked_order_id=None)


def _order_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options of an order beside market, quantity and price."""
    for option in reversed(
        (
            click.option("--price", metavar="PRICE", help="The same as @ PRICE."),
            click.option(
                "--tif",
                type=click.Choice(["gtc", "ioc", "fok", "gtd"], case_sensitive=False),
                help="gtc: until cancelled (default); ioc: immediate or cancel; fok: fill or "
                "kill, all at once or nothing; gtd: until --expires.",
            ),
            click.option(
                "--expires",
                metavar="TIME",
                help="Ends then: 30s, 10m, 2h, 1d, or a time with its zone, such as 2026-01-02T03:04:05Z.",
            ),
            click.option(
                "--post-only", is_flag=True, default=None, help="Never trade at once, only rest."
            ),
            click.option(
                "--hidden",
                is_flag=True,
                default=None,
                help="Hidden order: rest without being displayed.",
            ),
            click.option(
                "--display-quantity", metavar="QTY", help="Iceberg: show so much at a time."
            ),
            click.option(
                "--stop",
                metavar="PRICE",
                help="Wait until the market trades there; then limit order, or market order "
                "without @ PRICE.",
            ),
            click.option(
                "--trailing-offset", metavar="DISTANCE", help="A stop that follows the market."
            ),
            click.option(
                "--oco-stop",
                metavar="PRICE",
                help="Place a stop order there too: one cancels the other.",
            ),
            click.option(
                "--reduce-only", is_flag=True, default=None, help="Never open a position."
            ),
            click.option(
                "--worst-price",
                metavar="PRICE",
                help="Of a market order: the worst price it accepts.",
            ),
            click.option(
                "--self-trade",
                type=click.Choice(get_args(SelfTrade)),
                help="When it would trade with an order of the same account.",
            ),
            click.option(
                "--client-id",
                metavar="ID",
                help="Your own id: the same one again places nothing new.",
            ),
            click.option(
                "--group", type=click.IntRange(0), metavar="N", help="For cancelling together."
            ),
            account_option,
            yes_option,
        )
    ):
        command = option(command)
    return command


def _order_command(side: Side) -> click.Command:
    other = "ask" if side == "buy" else "bid"
    beyond = ("29500", "31000") if side == "buy" else ("31000", "29500")

    @client_options
    def place(session: Session, words: tuple[str, ...], **options: Any) -> None:
        _place(session, side, words, **options)

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
      exchange-node order {side} BTC-USD 1 @ 30000 --tif ioc --account alice
      exchange-node order {side} BTC-USD 1 --stop {beyond[1]}             stop order
      exchange-node order {side} BTC-USD 1 @ {beyond[0]} --oco-stop {beyond[1]}
      exchange-node order {side} BTC-USD 9 @ 30000 --display-quantity 1 --expires 2h
    """
    place = _order_options(place)
    place = click.argument("words", nargs=-1, metavar="MARKET QTY [@ PRICE]")(place)
    return click.command(side, context_settings=LENIENT)(place)


order.add_command(_order_command("buy"))
order.add_command(_order_command("sell"))


@click.command(context_settings=LENIENT)
@click.argument("order_id", metavar="ID|NUMBER")
@click.option("--price", metavar="PRICE")
@click.option("--quantity", metavar="QTY", help="Total quantity, filled part included.")
@click.option("--stop", metavar="PRICE")
@click.option("--trailing-offset", metavar="DISTANCE")
@click.option("--display-quantity", metavar="QTY")
@click.option(
    "--expires", metavar="TIME", help="30s, 10m, 2h, 1d from now, or a time with its zone."
)
@account_option
@yes_option
@client_options
def amend(
    session: Session, order_id: str, account: str | None, yes: bool, **options: str | None
) -> None:
    """Change an open order.

    A smaller quantity keeps the order's place in the book; a greater one or another price does not.

    \b
    Examples:
      exchange-node amend 12 --price 29900
      exchange-node amend 12 --quantity 0.25
    """
    check_words([order_id])
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        raise click.UsageError(
            "Nothing to change: give --price 29900 or --quantity 0.25, for example.",
            ctx=click.get_current_context(),
        )
    try:
        for name, value in given.items():
            if name == "expires":
                given[name] = parse_expiry(value, int(time.time() * 1000))
            else:
                given[name] = decimal(value, name)
    except (OrderTextError, TimeTextError) as error:
        raise wrong_text(error) from None
    changes = AmendRequest(**given)
    if not yes and (changes.price is not None or changes.quantity is not None):
        confirm_amendment(session, order_id, changes, account)
    view = session.ask(lambda client: client.amend(order_id, changes, account=account))
    view = _outcome(session, view, account)
    if session.as_json:
        print_json(view)
    else:
        echo(describe_order(_without_ended_link(session, view, account)))


@click.command()
@click.argument("order_id", metavar="[ID|NUMBER]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every open order.")
@click.option("--market", metavar="MARKET", help="Those of this market.")
@click.option("--group", type=click.IntRange(0), metavar="N", help="Those of this group.")
@click.option("--client-id", metavar="ID", help="The one with this id of your own.")
@account_option
@client_options
def cancel(
    session: Session,
    order_id: str | None,
    everything: bool,
    market: str | None,
    group: int | None,
    client_id: str | None,
    account: str | None,
) -> None:
    """Cancel an order, or several.

    By its number or its full id, as 'orders' shows them. What is already filled stays filled.

    \b
    Examples:
      exchange-node cancel 12
      exchange-node cancel --market BTC-USD
      exchange-node cancel --group 7 --account alice
      exchange-node cancel --all
    """
    some = everything or market is not None or group is not None or client_id is not None
    if (order_id is None) is not some:
        what = "Which order?" if order_id is None else "One order, or several?"
        raise click.UsageError(
            f"{what} Give its number, or one of --all, --market, --group and --client-id.",
            ctx=click.get_current_context(),
        )
    if order_id is not None:
        number = order_id
        view = session.ask(lambda client: client.cancel(number, account=account))
        if session.as_json:
            print_json(view)
        else:
            echo(describe_order(view))
        return
    views = session.ask(
        lambda client: client.cancel_many(
            market=upper(market), group=group, client_id=client_id, account=account
        )
    )
    if session.as_json:
        print_json(views)
    elif views:
        echo([line for view in views for line in describe_order(view)])
    else:
        click.echo("no open order fits", err=True)


@click.command()
@click.argument("market", required=False)
@click.option("--all", "everything", is_flag=True, help="Filled and cancelled ones too.")
@limit_option
@account_option
@client_options
def orders(
    session: Session, market: str | None, everything: bool, limit: int, account: str | None
) -> None:
    """List the orders of the house or of an account.

    \b
    Examples:
      exchange-node orders
      exchange-node orders BTC-USD --all
      exchange-node orders --account alice
      exchange-node orders --json | jq -r '.[].id'
    """
    views = session.ask(
        lambda client: client.orders(
            market=upper(market), open_only=not everything, limit=limit, account=account
        )
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
@limit_option
@account_option
@client_options
def trades(
    session: Session, market: str | None, public: bool, limit: int, account: str | None
) -> None:
    """List fills, or all public trades, newest first.

    \b
    Examples:
      exchange-node trades
      exchange-node trades BTC-USD --public
    """
    name = upper(market)
    if public:
        tape = session.ask(lambda client: client.trades(market=name, limit=limit))
        empty, lines = not tape, trade_table(tape, full=not is_terminal())
        document: Any = tape
    else:
        fills = session.ask(lambda client: client.fills(market=name, limit=limit, account=account))
        own = next((fill.order_id.rpartition("-")[0] for fill in fills), None)
        full = not is_terminal()
        known = {} if full or own is None else {own: "ourselves"}
        empty, lines = not fills, fill_table(fills, known, full=full)
        document = fills
    if session.as_json:
        print_json(document)
    elif empty:
        click.echo("no trades" if public else "no fills (--public shows others' trades)", err=True)
    else:
        echo(lines)
