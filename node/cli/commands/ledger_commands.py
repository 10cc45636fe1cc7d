"""`balances` and `ledger`: balances of accounts, and open positions with other nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import click
import msgspec

from exchange.ledger.statements import text_of, units
from node.cli.client_session import (
    Session,
    client_options,
    common_options,
    print_json,
    shell_command,
)
from node.cli.command_groups import (
    LENIENT,
    Group,
    account_option,
    check_words,
    limit_option,
    span_options,
    upper,
    wrong_text,
)
from node.cli.commands.reconcile_commands import reconcile, verify
from node.cli.order_text import OrderTextError, decimal, parse_amount
from node.cli.table_layout import Cell, Column, Line, table
from node.cli.tables import clock, echo, is_terminal, short
from node.views.account_views import CreditView, ObligationView, PositionView, PostingView
from node.views.views import BalanceView

NODE_ID = 32  # characters of a node id


@click.command()
@account_option
@client_options
def balances(session: Session, account: str | None) -> None:
    """Show an account's balances, and amounts held by open orders.

    Without --account it is the house's position, which may be below zero: it is what the node's
    own trading has won and lost.

    \b
    Examples:
      exchange-node balances --account alice
      EXCHANGE_NODE_KEY=KEY:SECRET exchange-node balances --api https://exchange.example.org
    """
    views = session.ask(lambda client: client.balances(account=account))
    if session.as_json:
        print_json(views)
    elif views:
        echo(balance_table(views))
    else:
        click.echo("nothing yet", err=True)


def balance_table(views: Sequence[BalanceView]) -> list[Line]:
    columns = [
        Column("asset"),
        Column("total", number=True),
        Column("held", number=True),
        Column("available", number=True),
    ]
    rows: list[list[Cell]] = [
        [(view.asset, "bold"), view.total, view.held, view.available] for view in views
    ]
    return table(columns, rows)


@common_options
@click.group(cls=Group)
def ledger() -> None:
    """The node's ledger, and positions with other nodes.

    A trade with another node's order is posted against that node: each side's position says what
    it owes. Payments that even it out are made outside, and recorded here by 'settle'.

    \b
    Examples:
      exchange-node ledger positions
      exchange-node ledger obligations
      exchange-node ledger credit USD 10000
      exchange-node ledger reconcile q7ymtujkw5
    """


ledger.add_command(reconcile)
ledger.add_command(verify)


@ledger.command()
@click.argument("holder", default="outside")
@click.option("--asset", metavar="ASSET", help="Only this asset.")
@span_options
@limit_option
@client_options
def entries(
    session: Session,
    holder: str,
    asset: str | None,
    start: str | None,
    end: str | None,
    limit: int,
) -> None:
    """List lines of the ledger, newest first.

    HOLDER is account:NAME, peer:NODE, fees, or outside (the default): what came in and left.

    \b
    Examples:
      exchange-node ledger entries
      exchange-node ledger entries account:alice --asset USD
      exchange-node ledger entries fees --json
    """
    views = session.ask(
        lambda client: client.postings(
            holder, asset=upper(asset), start=start, end=end, limit=limit
        )
    )
    if session.as_json:
        print_json(views)
    elif views:
        echo(posting_table(views))
    else:
        click.echo(f"nothing was ever moved to or from {holder}", err=True)


def _about(reference: str) -> str:
    """The reference of a transaction; on a terminal with a short node id."""
    node, slash, number = reference.partition("/")
    if slash and len(node) == NODE_ID and is_terminal():
        return f"{short(node, False)}/{number}"
    return reference or "-"


def posting_table(views: Sequence[PostingView]) -> list[Line]:
    columns = [
        Column("time"),
        Column("transaction", number=True, rank=1),
        Column("kind"),
        Column("asset"),
        Column("amount", number=True),
        Column("balance", number=True),
        Column("about"),
    ]
    rows: list[list[Cell]] = [
        [
            clock(view.time),
            str(view.transaction),
            view.kind,
            view.asset,
            (view.amount, "sell" if view.amount.startswith("-") else "buy"),
            view.balance,
            _about(view.reference),
        ]
        for view in views
    ]
    return table(columns, rows)


@ledger.command()
@client_options
def positions(session: Session) -> None:
    """Show the positions with other nodes.

    A balance above zero is owed by this node, one below zero is owed to it. 'room' is how much more
    the other may come to owe.

    \b
    Examples:
      exchange-node ledger positions
    """
    views = session.ask(lambda client: client.positions())
    if session.as_json:
        print_json(views)
    elif views:
        echo(position_table(views, full=not is_terminal()))
    else:
        click.echo("nothing is open with any node", err=True)


def position_table(views: Sequence[PositionView], *, full: bool) -> list[Line]:
    columns = [
        Column("node"),
        Column("asset"),
        Column("balance", number=True),
        Column("limit", number=True),
        Column("room", number=True),
    ]
    rows: list[list[Cell]] = [
        [
            short(view.peer, full),
            view.asset,
            (view.balance, "sell" if view.balance.startswith("-") else "buy"),
            view.limit or "none",
            view.room or "any",
        ]
        for view in views
    ]
    return table(columns, rows)


@ledger.command()
@client_options
def obligations(session: Session) -> None:
    """Show the payments that would even out everything with other nodes, and their totals.

    'limit' is how much the other node may come to owe, 'room' how much more that is.

    \b
    Examples:
      exchange-node ledger obligations
      exchange-node ledger obligations --json
    """
    views = session.ask(lambda client: client.obligations())
    if session.as_json:
        print_json({"obligations": views, "totals": obligation_totals(views)})
    elif views:
        echo(obligation_lines(views, full=not is_terminal()))
    else:
        click.echo("nothing is open with any node", err=True)


class Total(msgspec.Struct, kw_only=True):
    """Sums of the obligations in one asset. `net`: negative if payments exceed receipts."""

    asset: str
    pay: str
    collect: str
    net: str


def obligation_totals(views: Sequence[ObligationView]) -> list[Total]:
    sums: dict[str, dict[str, int]] = {}
    for view in views:
        of = sums.setdefault(view.asset, {"pay": 0, "collect": 0})
        of[view.direction] += units(view.amount)
    return [
        Total(
            asset=asset,
            pay=text_of(of["pay"]),
            collect=text_of(of["collect"]),
            net=text_of(of["collect"] - of["pay"]),
        )
        for asset, of in sorted(sums.items())
    ]


def obligation_lines(views: Sequence[ObligationView], *, full: bool) -> list[Line]:
    columns = [
        Column("asset"),
        Column("amount", number=True),
        Column(""),
        Column("node"),
        Column("limit", number=True),
        Column("room", number=True),
    ]
    rows: list[list[Cell]] = [
        [
            (view.asset, "bold"),
            (view.amount, "sell" if view.direction == "pay" else "buy"),
            "pay to" if view.direction == "pay" else "collect from",
            short(view.peer, full),
            view.limit or "none",
            view.room or "any",
        ]
        for view in views
    ]
    totals = [Column("total"), *(Column(name, number=True) for name in ("pay", "collect", "net"))]
    sums: list[list[Cell]] = [
        [(total.asset, "bold"), total.pay, total.collect, total.net]
        for total in obligation_totals(views)
    ]
    return [*table(columns, rows), [], *table(totals, sums)]


@ledger.command(context_settings=LENIENT)
@click.argument("peer", metavar="NODE")
@click.argument("direction", metavar="paid|received", type=click.Choice(["paid", "received"]))
@click.argument("words", nargs=-1, metavar="AMOUNT ASSET")
@click.option("--note", default="", metavar="TEXT", help="Note in the ledger.")
@client_options
def settle(
    session: Session,
    peer: str,
    direction: Literal["paid", "received"],
    words: tuple[str, ...],
    note: str,
) -> None:
    """Record a payment between this node and another, made outside.

    \b
    Examples:
      exchange-node ledger settle q7ymtujkw5 paid 1200.50 USD
      exchange-node ledger settle q7ymtujkw5 received 0.5 BTC --note 'on-chain, 3 confirmations'
    """
    check_words(words)
    try:
        usage = f"exchange-node ledger settle {peer} {direction} 1200.50 USD"
        amount, asset = parse_amount(list(words), usage, "'paid' and 'received'")
    except OrderTextError as error:
        raise wrong_text(error) from None
    view = session.ask(lambda client: client.settle(peer, asset, amount, direction, note=note))
    if session.as_json:
        print_json(view)
        return
    left = view.balance.lstrip("-")
    who = "they are even"
    if view.balance != "0":
        who = f"it owes {left}" if view.balance.startswith("-") else f"{left} are owed to it"
    click.echo(
        f"{direction} {amount} {asset} (transaction {view.transaction}): node "
        f"{short(view.peer, not is_terminal())}: {who}"
    )


@ledger.command(context_settings=LENIENT)
@click.argument("asset", required=False)
@click.argument("limit", required=False, metavar="LIMIT|none")
@click.option("--peer", metavar="NODE", help="Of this node.  [default: every one without its own]")
@client_options
def credit(session: Session, asset: str | None, limit: str | None, peer: str | None) -> None:
    """Show or set how much other nodes may come to owe.

    A trade that would take a node beyond its limit is refused. Without a limit any amount is
    granted; 'none' takes a limit away.

    \b
    Examples:
      exchange-node ledger credit
      exchange-node ledger credit USD 10000
      exchange-node ledger credit BTC 0.5 --peer q7ymtujkw5
      exchange-node ledger credit USD none
    """
    if asset is None:
        views = session.ask(lambda client: client.credit())
        if session.as_json:
            print_json(views)
        elif views:
            echo(_credit_table(views))
        else:
            click.echo("no limits: every node may come to owe any amount", err=True)
        return
    check_words([word for word in (asset, limit) if word is not None])
    if limit is None:
        raise click.UsageError(
            f"how much? A number or none, for example: {shell_command('ledger', 'credit', asset, '10000')}",
            ctx=click.get_current_context(),
        )
    wanted: str | None = None
    if limit.lower() != "none":
        try:
            wanted = limit if limit.strip("0.") == "" else decimal(limit, "limit")
        except OrderTextError as error:
            raise wrong_text(error) from None
    view = session.ask(lambda client: client.set_credit(asset.upper(), wanted, peer=peer))
    if session.as_json:
        print_json(view)
    else:
        echo(_credit_table([view]))


def _credit_table(views: Sequence[CreditView]) -> list[Line]:
    columns = [Column("node"), Column("asset"), Column("limit", number=True)]
    columns += [Column("owed", number=True), Column("together at most", number=True)]
    rows: list[list[Cell]] = [
        [short(view.peer, not is_terminal()), view.asset, view.limit or "none", "-", "-"]
        if view.peer
        else [
            "every other",
            view.asset,
            view.limit or "none",
            view.owed or "-",
            view.total or "none",
        ]
        for view in views
    ]
    return table(columns, rows)
