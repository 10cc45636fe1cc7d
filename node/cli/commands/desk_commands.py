"""`desk`: the own nodes of a desk together, read only."""

from __future__ import annotations

import stat
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from node.cli.client_session import (
    CommandFailure,
    Exit,
    Session,
    common_options,
    inherited,
    print_json,
)
from node.cli.command_groups import Group, account_option, limit_option, upper
from node.cli.node_finder import FoundNode
from node.cli.table_layout import Cell, Column, Line, table
from node.cli.tables import echo, fill_table, is_terminal, order_table, short
from node.client.desk_profile import DeskNode, nodes_of, read_profile
from node.client.desk_sums import (
    DeskObligation,
    join_fills,
    net_obligations,
    sum_balances,
)
from node.client.exchange_client import ApiError, ExchangeClient

T = TypeVar("T")

TIMEOUT: Final = 10.0  # seconds for each node
PROFILE_VARIABLE: Final = "EXCHANGE_NODE_DESK"


@dataclass(frozen=True, slots=True)
class KeySession(Session):
    """Session that takes its key from a file of the profile."""

    key_file: Path | None = None

    def credentials(self, found: FoundNode) -> tuple[str | None, str | None]:
        if self.key_file is None:
            # Explicit: the decorator makes a new class, which breaks the short form.
            return Session.credentials(self, found)
        try:
            if self.key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                text = f"{self.key_file} can be read by others; run: chmod 600 {self.key_file}"
                raise self.failure(text, Exit.USAGE, "open_key_file")
            key, colon, secret = self.key_file.read_text("ascii").strip().partition(":")
        except (OSError, UnicodeDecodeError) as error:
            text = f"cannot read {self.key_file}: {getattr(error, 'strerror', None) or error}"
            raise self.failure(text, Exit.USAGE, "no_key_file") from None
        if not (key and colon and secret):
            text = f"{self.key_file} must contain KEY:SECRET, as 'account keys create' prints it"
            raise self.failure(text, Exit.USAGE, "no_key_file")
        return key, secret


@dataclass(slots=True)
class Desk:
    """The nodes that were named, and which of them did not answer."""

    nodes: Sequence[DeskNode]
    as_json: bool
    ids: dict[str, str] = field(default_factory=dict)  # node id by name
    failures: dict[str, CommandFailure] = field(default_factory=dict)

    def ask(self, work: Callable[[ExchangeClient], Coroutine[Any, Any, T]]) -> list[tuple[str, T]]:
        """Ask all nodes side by side; pairs of a name and its answer, in the order they were named."""

        async def identified(client: ExchangeClient) -> tuple[str, T]:
            try:
                node_id = (await client.status()).node_id
            except ApiError as error:
                if error.code != "operator_only":
                    raise
                node_id = ""  # the key of an account does not see it
            return node_id, await work(client)

        def ask_one(node: DeskNode) -> tuple[str, T] | CommandFailure:
            session = KeySession(False, node.data_dir, node.api, node.ca_file, node.key_file)
            try:
                return session.ask(identified, timeout=TIMEOUT)
            except CommandFailure as failure:
                return failure
            except click.ClickException as error:
                return CommandFailure(error.format_message(), Exit.USAGE)

        answers: list[tuple[str, T]] = []
        with ThreadPoolExecutor(min(8, len(self.nodes))) as pool:
            for node, answer in zip(self.nodes, pool.map(ask_one, self.nodes), strict=True):
                if isinstance(answer, CommandFailure):
                    self.failures[node.name] = answer
                elif answer[0] and answer[0] in self.ids.values():
                    text = f"is the same node as {self._name_of(answer[0])}; name each node once"
                    self.failures[node.name] = CommandFailure(text, Exit.USAGE)
                else:
                    self.ids[node.name] = answer[0]
                    answers.append((node.name, answer[1]))
        return answers

    def _name_of(self, node_id: str) -> str:
        return next(name for name, own in self.ids.items() if own == node_id)

    def finish(self, document: dict[str, Any], lines: Callable[[], list[Line]], empty: str) -> int:
        """Print the answers and what is missing of them; returns the exit code."""
        if self.as_json:
            print_json({"nodes": [self._described(node) for node in self.nodes], **document})
        elif self.ids:
            printed = lines()
            echo(printed) if printed else click.echo(empty, err=True)
        for name, failure in self.failures.items():
            click.echo(f"exchange-node: {name}: {' '.join(failure.message.split())}", err=True)
        if self.failures and self.ids:
            click.echo(
                f"exchange-node: {len(self.ids)} of {len(self.nodes)} nodes answered; "
                "what is shown is theirs alone",
                err=True,
            )
        return max((failure.code for failure in self.failures.values()), default=Exit.OK)

    def _described(self, node: DeskNode) -> dict[str, str | None]:
        failure = self.failures.get(node.name)
        return {
            "name": node.name,
            "node_id": self.ids.get(node.name) or None,
            "error": None if failure is None else " ".join(failure.message.split()),
        }


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
    answers = desk.ask(lambda client: client.status())

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
                (name, "bold"),
                short(view.node_id, not is_terminal()),
                view.version,
                view.mode,
                str(view.peers_connected),
                str(view.open_orders),
                (str(len(view.warnings)), "warn" if view.warnings else ""),
            ]
            for name, view in answers
        ]
        return table(columns, rows)

    return desk.finish({"status": [view for _, view in answers]}, lines, "")


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
    answers = desk.ask(lambda client: client.balances(account=account))
    rows = [(name, view) for name, views in answers for view in views]
    sums = sum_balances(view for _, view in rows)

    def lines() -> list[Line]:
        amounts = [Column(name, number=True) for name in ("total", "held", "available")]
        each: list[list[Cell]] = [
            [name, (view.asset, "bold"), view.total, view.held, view.available]
            for name, view in sorted(rows, key=lambda row: row[1].asset)
        ]
        each += [[("all", "bold"), (s.asset, "bold"), s.total, s.held, s.available] for s in sums]
        return table([Column("node"), Column("asset"), *amounts], each) if rows else []

    document = {
        "balances": [{"node": name, "balance": view} for name, view in rows],
        "totals": sums,
    }
    return desk.finish(document, lines, "nothing yet")


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
    answers = desk.ask(
        lambda client: client.orders(
            market=upper(market), open_only=not everything, limit=limit, account=account
        )
    )
    rows = [(name, view) for name, views in answers for view in views]
    rows.sort(key=lambda row: row[1].created, reverse=True)
    document = {"orders": [{"node": name, "order": view} for name, view in rows]}
    empty = "no orders" if everything else "no open orders (--all shows finished ones)"

    def lines() -> list[Line]:
        names, views = [name for name, _ in rows], [view for _, view in rows]
        return order_table(views, full=not is_terminal(), nodes=names) if rows else []

    return desk.finish(document, lines, empty)


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
    answers = desk.ask(
        lambda client: client.fills(market=upper(market), limit=limit, account=account)
    )
    pairs = [(name, fill) for name, fills in answers for fill in fills]
    joined = join_fills(pairs, set(desk.ids.values()))
    own = {node_id: f"own: {name}" for name, node_id in desk.ids.items()}

    def lines() -> list[Line]:
        fills, names = [each.fill for each in joined], [each.node for each in joined]
        return fill_table(fills, own, full=not is_terminal(), nodes=names) if joined else []

    return desk.finish({"trades": joined}, lines, "no trades yet")


@desk.command()
@desk_options
def obligations(desk: Desk) -> int:
    """Show what all nodes together owe, or are owed.

    What own nodes owe each other is left out. It is shown where the two do not agree, as while a trade is under way.

    \b
    Examples:
      exchange-node desk obligations --profile desk.toml
    """
    answers = desk.ask(lambda client: client.obligations())
    views = [view for _, each in answers for view in each]
    outside, inside = net_obligations(views, set(desk.ids.values()))
    apart = [each for each in inside if each.net.strip("-0.")]
    document = {
        "obligations": outside,
        "own": inside,
        "by_node": [{"node": name, "obligations": each} for name, each in answers],
    }
    return desk.finish(
        document, lambda: _obligation_lines(outside, apart), "nothing is open with any node"
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
