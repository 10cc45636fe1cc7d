"""`desk`: the own nodes of a desk together, read only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click

from node.annexes.desk.desk_profile import DeskNode, nodes_of, read_profile
from node.annexes.desk.desk_reader import DeskReader
from node.annexes.desk.desk_views import DeskNodeView, DeskObligation
from node.cli.client_session import (
    PROFILE_VARIABLE,
    Exit,
    common_options,
    inherited,
    key_in_environment,
    print_json,
)
from node.cli.command_groups import Group, account_option, limit_option, upper
from node.cli.table_layout import Cell, Column, Line, table
from node.cli.tables import echo, fill_table, is_terminal, order_table, short

T = TypeVar("T")
V = TypeVar("V", bound="DeskView")

CODES: Final = {
    "no_node": Exit.NO_NODE,
    "wrong_node": Exit.NO_NODE,
    "untrusted": Exit.NO_NODE,
    "bad_address": Exit.USAGE,
    "same_node": Exit.USAGE,
    "key_file": Exit.USAGE,
    "internal_error": Exit.UNEXPECTED,
}  # exit codes; others are refusals


class DeskView(Protocol):
    """An answer of `DeskReader`."""

    nodes: list[DeskNodeView]


@dataclass(frozen=True, slots=True)
class Desk:
    """The nodes that were named, and the form of the output."""

    nodes: Sequence[DeskNode]
    as_json: bool

    def ask(self, work: Callable[[DeskReader], Coroutine[Any, Any, V]]) -> V:
        """Ask all nodes side by side."""
        reader = DeskReader(lambda: self.nodes, key=key_in_environment())
        return asyncio.run(work(reader))

    def finish(self, view: DeskView, lines: Callable[[], list[Line]], empty: str) -> int:
        """Print the answers and the nodes that did not answer; returns the exit code."""
        failed = [node for node in view.nodes if node.code is not None]
        some = len(failed) < len(view.nodes)
        if self.as_json:
            print_json(view)
        elif some:
            printed = lines()
            echo(printed) if printed else click.echo(empty, err=True)
        for node in failed:
            text = " ".join((node.error or "").split())
            click.echo(f"exchange-node: {node.name}: {text}", err=True)
        if failed and some:
            click.echo(
                f"exchange-node: {len(view.nodes) - len(failed)} of {len(view.nodes)} nodes "
                "answered; what is shown is theirs alone",
                err=True,
            )
        return max((CODES.get(node.code or "", Exit.REFUSED) for node in failed), default=Exit.OK)


def desk_options(command: Callable[..., T]) -> Callable[..., T]:
    """Adds --nodes, --profile and --json; the command gets a `Desk` as its first argument."""

    @click.option(
        "--nodes",
        metavar="NODE,NODE,...",
        help="Data directories of nodes on this machine, or URLs of APIs.",
    )
    @click.option(
        "--profile",
        type=click.Path(path_type=Path),
        envvar=PROFILE_VARIABLE,
        show_envvar=True,
        metavar="FILE",
        help="File that names the nodes (TOML).",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @wraps(command)
    def with_desk(
        *args: Any, nodes: str | None, profile: Path | None, as_json: bool, **kwargs: Any
    ) -> T:
        try:
            if nodes is None and not os.environ.get(PROFILE_VARIABLE, "unset").strip():
                raise ValueError(f"{PROFILE_VARIABLE} is set but empty: unset it, or name a file")
            if nodes is not None:
                named = nodes_of(nodes)
            elif profile is not None:
                named = read_profile(profile)
            else:
                raise click.UsageError(
                    "which nodes? --nodes DIR,URL,... or --profile FILE; "
                    "'exchange-node desk --help' shows both",
                    ctx=click.get_current_context(),
                )
        except ValueError as error:
            raise click.UsageError(str(error), ctx=click.get_current_context()) from None
        return command(Desk(named, as_json or bool(inherited("as_json"))), *args, **kwargs)

    return with_desk


@common_options
@click.group(cls=Group)
def desk() -> None:
    """Show several own nodes together.

    The nodes are named by --nodes, or by a file with --profile:

    \b
      [[node]]
      name = "alice"
      data_dir = "/srv/alice"              # a node of this machine
      [[node]]
      name = "bob"
      api = "https://10.0.0.2:8300"        # a node elsewhere
      ca_file = "bob.pem"                  # its certificate
      key_file = "bob.key"                 # KEY:SECRET, mode 600

    With the key of an account the node's other figures are not seen: status and obligations need the operator's.
    A node that does not answer is named, and the exit code is not 0; the others are shown.

    \b
    Examples:
      exchange-node desk status --nodes /srv/alice,/srv/bob
      exchange-node desk balances --profile desk.toml
      exchange-node desk obligations --profile desk.toml --json
    """


@desk.command()
@desk_options
def status(desk: Desk) -> int:
    """Show how each node is.

    \b
    Examples:
      exchange-node desk status --nodes /srv/alice,/srv/bob
    """
    view = desk.ask(lambda reader: reader.status())

    def lines() -> list[Line]:
        columns = [
            Column("node"),
            Column("id"),
            Column("version", rank=2),
            Column("mode", rank=3),
            Column("peers", number=True),
            Column("open orders", number=True),
            Column("warnings", number=True),
        ]
        rows: list[list[Cell]] = [
            [
                (row.node, "bold"),
                short(row.status.node_id, not is_terminal()),
                row.status.version,
                row.status.mode,
                str(row.status.peers_connected),
                str(row.status.open_orders),
                (str(len(row.status.warnings)), "warn" if row.status.warnings else ""),
            ]
            for row in view.status
        ]
        return table(columns, rows)

    return desk.finish(view, lines, "")


@desk.command()
@account_option
@desk_options
def balances(desk: Desk, account: str | None) -> int:
    """Show the balances of each node, and their sums.

    They are those of its house, or of an account.

    \b
    Examples:
      exchange-node desk balances --profile desk.toml
      exchange-node desk balances --profile desk.toml --account alice
    """
    view = desk.ask(lambda reader: reader.balances(account=account))

    def lines() -> list[Line]:
        rows = [(row.node, row.balance) for row in view.balances]
        amounts = [Column(name, number=True) for name in ("total", "held", "available")]
        each: list[list[Cell]] = [
            [name, (of.asset, "bold"), of.total, of.held, of.available]
            for name, of in sorted(rows, key=lambda row: row[1].asset)
        ]
        each += [
            [("all", "bold"), (of.asset, "bold"), of.total, of.held, of.available]
            for of in view.totals
        ]
        return table([Column("node"), Column("asset"), *amounts], each) if rows else []

    return desk.finish(view, lines, "nothing yet")


@desk.command()
@click.argument("market", required=False)
@click.option("--all", "everything", is_flag=True, help="Finished orders too.")
@limit_option
@account_option
@desk_options
def orders(
    desk: Desk, market: str | None, everything: bool, limit: int, account: str | None
) -> int:
    """List the orders of all nodes.

    Newest first; --limit is for each node.

    \b
    Examples:
      exchange-node desk orders --profile desk.toml
      exchange-node desk orders BTC-USD --all --nodes /srv/alice,/srv/bob
    """
    view = desk.ask(
        lambda reader: reader.orders(
            market=upper(market), open_only=not everything, limit=limit, account=account
        )
    )
    empty = "no orders" if everything else "no open orders (--all shows finished ones)"

    def lines() -> list[Line]:
        names, views = [row.node for row in view.orders], [row.order for row in view.orders]
        return order_table(views, full=not is_terminal(), nodes=names) if views else []

    return desk.finish(view, lines, empty)


@desk.command()
@click.argument("market", required=False)
@limit_option
@account_option
@desk_options
def trades(desk: Desk, market: str | None, limit: int, account: str | None) -> int:
    """List the own trades of all nodes.

    Newest first; --limit is for each node.
    A trade between two of the nodes is listed once, as its taker sees it, and marked.

    \b
    Examples:
      exchange-node desk trades --profile desk.toml
      exchange-node desk trades BTC-USD --profile desk.toml --json
    """
    view = desk.ask(
        lambda reader: reader.trades(market=upper(market), limit=limit, account=account)
    )
    own = {node.node_id: f"own: {node.name}" for node in view.nodes if node.node_id is not None}

    def lines() -> list[Line]:
        fills, names = [each.fill for each in view.trades], [each.node for each in view.trades]
        return fill_table(fills, own, full=not is_terminal(), nodes=names) if fills else []

    return desk.finish(view, lines, "no trades yet")


@desk.command()
@desk_options
def obligations(desk: Desk) -> int:
    """Show what all nodes together owe, or are owed.

    What own nodes owe each other is left out. It is shown where the two do not agree, as while a trade is under way.

    \b
    Examples:
      exchange-node desk obligations --profile desk.toml
    """
    view = desk.ask(lambda reader: reader.obligations())
    apart = [each for each in view.own if each.net.strip("-0.")]
    return desk.finish(
        view,
        lambda: _obligation_lines(view.obligations, apart),
        "nothing is open with any node",
    )


def _obligation_lines(
    outside: Sequence[DeskObligation], apart: Sequence[DeskObligation]
) -> list[Line]:
    rows: list[list[Cell]] = []
    for each in outside:
        pays = each.net.startswith("-")
        rows.append(
            [
                (each.asset, "bold"),
                (each.net.lstrip("-"), "sell" if pays else "buy"),
                "pay to" if pays else "collect from",
                short(each.peer, not is_terminal()),
            ]
        )
    columns = [Column("asset"), Column("amount", number=True), Column(""), Column("node")]
    lines = table(columns, rows) if rows else []
    for each in apart:
        text = f"own nodes differ by {each.net} {each.asset}: look again, or reconcile them"
        lines.append([(text, "warn")])
    return lines
