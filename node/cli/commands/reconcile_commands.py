"""`ledger reconcile` and `ledger verify`: comparison of two nodes' statements about each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from exchange.ledger.reconciliation import Comparison, Evidence, evaluate
from exchange.ledger.statements import StatementError
from node.cli.client_session import Exit, Session, client_options, node_options, print_json
from node.cli.table_layout import Cell, Column, Line, clean, table
from node.cli.tables import clock, echo, is_terminal, short
from node.views.statement_views import (
    AssetAgreementView,
    ComparisonView,
    OpenSettlementView,
    TradeDifferenceView,
    TradeSideView,
    view_of,
)
from p2p.ground.text_file import decode_text

WAIT: Final = 250.0  # s; the node reports a timeout of the other one before that
MAX_FILE: Final = 512 * 1024 * 1024  # bytes of evidence


@click.command()
@click.argument("peer", metavar="NODE")
@click.option(
    "--save",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Save the signed statements; 'ledger verify FILE' checks them.",
)
@client_options
def reconcile(session: Session, peer: str, path: Path | None) -> int:
    """Compare the statements of this node and another about each other.

    Both sign a statement: positions, trades and settlements between the two. Where the statements
    differ, the trades and payments that only one side has are listed. The exit code is 0 when both
    agree, and 1 when they do not.

    \b
    Examples:
      exchange-node ledger reconcile q7ymtujkw5
      exchange-node ledger reconcile q7ymtujkw5 --save january.json
      exchange-node ledger reconcile q7ymtujkw5 --json | jq .agree
    """
    view = session.ask(lambda client: client.reconcile(peer), timeout=WAIT)
    found = view_of(
        checked(session, view.evidence)
    )  # proven by the signatures, not by the node's answer
    if path is not None:
        save(session, path, view.evidence)
    if session.as_json:
        print_json(found)
    else:
        echo(comparison_lines(found, full=not is_terminal()))
        if path is not None:
            click.echo(f"saved to {path}", err=True)
    return Exit.OK if found.agree else Exit.REFUSED


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(path: Path, as_json: bool) -> None:
    """Check a file that 'ledger reconcile --save' made, and show what it says.

    No node is needed: the signatures prove what each node said. The exit code is 0 when the file is
    genuine, whether the two nodes agree or not.

    \b
    Examples:
      exchange-node ledger verify january.json
      exchange-node ledger verify january.json --json | jq .agree
    """
    session = Session(as_json, None, None)
    evidence = load(session, path)
    found = view_of(checked(session, evidence))
    if as_json:
        print_json(found)
        return
    signed = f"signed by node {found.node} ('we') at {found.time} and by node {found.peer} at {found.peer_time}"
    click.echo(signed)
    echo(comparison_lines(found, full=True))


def checked(session: Session, evidence: Evidence) -> Comparison:
    """Verify the documents' signatures and return their contents."""
    from node.daemon.node_keys import Checking

    try:
        return evaluate(Checking(), evidence)
    except StatementError as error:
        raise session.failure(
            f"the statements are not genuine: {error.detail}", Exit.REFUSED, error.code
        ) from None


def save(session: Session, path: Path, evidence: Evidence) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=2) + b"\n")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise session.failure(f"cannot write {path}: {reason}", Exit.USAGE, "no_file") from None


def load(session: Session, path: Path) -> Evidence:
    try:
        if path.stat().st_size > MAX_FILE:
            raise session.failure(f"{path} is too large", Exit.REFUSED, "malformed")
        return msgspec.json.decode(decode_text(path.read_bytes()), type=Evidence)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise session.failure(f"cannot read {path}: {reason}", Exit.USAGE, "no_file") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise session.failure(
            f"{path} was not made by 'ledger reconcile --save': {error}", Exit.REFUSED, "malformed"
        ) from None


# Output


def comparison_lines(view: ComparisonView, *, full: bool) -> list[Line]:
    peer = short(view.peer, full)
    style = "buy" if view.agree else "sell"
    said = "agrees" if view.agree else "DOES NOT AGREE"
    lines: list[Line] = [[(f"node {peer} {said}", style), (f"  {_trades(view)}", "dim")]]
    if view.assets:
        lines += _asset_table(view.assets)
    elif view.agree:
        lines.append([("nothing was ever traded or settled with it", "dim")])
    if view.trades:
        lines += [[], [("trades that only one side has, or each in another way", "bold")]]
        lines += _trade_table(view.trades, full=full)
    if view.settlements:
        lines += [[], [("payments that only one side recorded", "bold")]]
        lines += [[(_settlement(row), "")] for row in view.settlements]
    notes = _notes(view, peer)
    if notes:
        lines += [[], *([("- " + note, "")] for note in notes)]
    return lines


def _trades(view: ComparisonView) -> str:
    if view.trades_count == view.peer_trades_count:
        return f"{view.trades_count} trade{'' if view.trades_count == 1 else 's'}"
    return f"{view.trades_count} trades here, {view.peer_trades_count} there"


def _asset_table(views: Sequence[AssetAgreementView]) -> list[Line]:
    columns = [
        Column("asset"),
        Column("by our books we"),
        Column("by theirs we"),
        Column("difference", number=True),
    ]
    rows: list[list[Cell]] = [
        [
            (clean(view.asset), "bold"),
            _owed(view.ours),
            _owed(view.theirs),
            (view.difference, "" if view.difference == view.under_way else "sell"),
        ]
        for view in views
    ]
    return table(columns, rows)


def _owed(amount: str) -> str:
    if amount == "0":
        return "are even"
    return f"are owed {amount[1:]}" if amount.startswith("-") else f"owe {amount}"


def _trade_table(views: Sequence[TradeDifferenceView], *, full: bool) -> list[Line]:
    columns = [
        Column("time"),
        Column("market"),
        Column("taker"),
        Column("quantity", number=True),
        Column("price", number=True),
        Column("who has it"),
        Column("trade"),
    ]
    rows: list[list[Cell]] = []
    for view in views:
        sides: list[tuple[str, TradeSideView]] = []
        if view.ours is not None:
            sides.append(("only we", view.ours))
        if view.theirs is not None:
            sides.append(("only they", view.theirs))
        if len(sides) == 2:
            sides = [("we, so", sides[0][1]), ("they, so", sides[1][1])]
        taker, _, take = view.id.rpartition(":")
        for who, side in sides:
            rows.append(
                [
                    clock(side.time),
                    side.market,
                    "buys" if side.side == "buy" else "sells",
                    side.quantity,
                    side.price,
                    (
                        f"{who}: under way" if view.under_way else who,
                        "" if view.under_way else "sell",
                    ),
                    f"{short(taker, full)}:{take}",
                ]
            )
    return table(columns, rows)


def _settlement(row: OpenSettlementView) -> str:
    who = "we" if row.recorded_by == "ours" else "they"
    return f"{clock(row.time)}  {who} recorded: {row.direction} {row.amount} {clean(row.asset)}"


def _notes(view: ComparisonView, peer: str) -> list[str]:
    """Explain the outcome and the next step."""
    notes = []
    if any(trade.under_way for trade in view.trades) or view.pending:
        notes.append(
            "under way: a taker waits for an answer; this is not a disagreement, and ends when "
            "both nodes are connected"
        )
    for row in view.settlements:
        other = "received" if row.direction == "paid" else "paid"
        words = f"{other} {row.amount} {clean(row.asset)}"
        if row.recorded_by == "ours":
            notes.append(
                f"if that payment was made, the operator of node {peer} records it: exchange-node "
                f"ledger settle {view.node[:10]} {words}; if not, record the opposite here"
            )
        else:
            notes.append(
                f"if that payment was made, record it here: exchange-node ledger settle "
                f"{view.peer[:10]} {words}{node_options()}; if not, ask node {peer} what it was"
            )
    if any(not trade.under_way for trade in view.trades):
        notes.append(
            "trades that one side alone has: a node may have lost its journal, or runs on an old copy "
            "of it; keep both statements (--save) and compare the orders named with its operator"
        )
    for asset in view.assets:
        if asset.lost != "0":
            notes.append(
                f"{clean(asset.asset)}: {asset.lost} of the difference is in a balance whose trades or "
                "settlements are not in that node's history any more"
            )
        if asset.unexplained != "0":
            notes.append(
                f"{clean(asset.asset)}: {asset.unexplained} of the difference is unexplained"
            )
    if not view.trades_complete:
        notes.append("more trades differ than are listed")
    if not view.settlements_matched:
        notes.append(
            "there are too many settlements to match them one by one: only sums were compared"
        )
    return notes
