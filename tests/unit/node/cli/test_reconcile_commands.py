"""Output of `ledger reconcile`, `verify` and `obligations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.cli.client_session import CommandFailure
from node.cli.commands.ledger_commands import obligation_lines, obligation_totals
from node.cli.commands.reconcile_commands import comparison_lines, verify
from node.views.account_views import ObligationView
from node.views.statement_views import (
    AssetAgreementView,
    ComparisonView,
    OpenSettlementView,
    TradeDifferenceView,
    TradeSideView,
)

TIME = "2026-01-02T03:04:05.000Z"
SIDE = TradeSideView(
    market="BTC-USD",
    side="buy",
    price="30000",
    quantity="0.5",
    maker_order=7,
    taker_order=9,
    time=TIME,
)


def asset(name: str, ours: str, theirs: str, difference: str, **more: str) -> AssetAgreementView:
    zero = {"under_way": "0", "lost": "0", "unexplained": "0"}
    return AssetAgreementView(
        asset=name, ours=ours, theirs=theirs, difference=difference, **{**zero, **more}
    )


def view(**changes: Any) -> ComparisonView:
    fields: dict[str, Any] = {
        "node": "ourselves",
        "peer": "themselves",
        "agree": False,
        "time": TIME,
        "peer_time": TIME,
        "trades_count": 3,
        "peer_trades_count": 3,
        "assets": [asset("USD", "5", "5", "0")],
        "trades": [],
        "settlements": [],
        "pending": [],
        "trades_complete": True,
        "settlements_matched": True,
    }
    return ComparisonView(**{**fields, **changes})


def text(shown: ComparisonView) -> str:
    lines = comparison_lines(shown, full=True)
    return "\n".join("".join(piece for piece, _ in line) for line in lines)


def test_agreement_is_printed_in_words() -> None:
    rows = [asset("BTC", "0.5", "0.5", "0"), asset("USD", "-15000", "-15000", "0")]
    shown = text(view(agree=True, assets=[*rows, asset("EUR", "0", "0", "0")]))
    assert shown.splitlines()[0] == "node themselves agrees  3 trades"
    assert "owe 0.5" in shown
    assert "are owed 15000" in shown
    assert "are even" in shown
    assert text(view(agree=True, assets=[], trades_count=0, peer_trades_count=0)).endswith(
        "nothing was ever traded or settled with it"
    )


def test_differing_trades_are_shown_with_the_node_that_has_them() -> None:
    other = TradeSideView(**{**{n: getattr(SIDE, n) for n in SIDE.__struct_fields__}, "price": "1"})
    trades = [
        TradeDifferenceView(id="taker:1", ours=SIDE, theirs=None, under_way=""),
        TradeDifferenceView(id="taker:2", ours=None, theirs=SIDE, under_way="pending"),
        TradeDifferenceView(id="taker:3", ours=SIDE, theirs=other, under_way=""),
    ]
    shown = text(view(trades=trades, peer_trades_count=2))
    assert "DOES NOT AGREE" in shown
    assert "3 trades here, 2 there" in shown
    for words in ("only we", "only they: under way", "we, so", "they, so", "taker:3", "buys"):
        assert words in shown
    assert "lost its journal" in shown
    assert "under way: a taker waits" in shown


def test_open_payments_come_with_next_steps() -> None:
    paid = OpenSettlementView(
        recorded_by="ours", asset="USD", amount="5", direction="paid", time=TIME
    )
    got = OpenSettlementView(
        recorded_by="theirs", asset="BTC", amount="1", direction="paid", time=TIME
    )
    shown = text(view(settlements=[paid, got]))
    assert "we recorded: paid 5 USD" in shown
    assert "exchange-node ledger settle ourselves received 5 USD" in shown
    assert "they recorded: paid 1 BTC" in shown
    assert "exchange-node ledger settle themselves received 1 BTC" in shown


def test_unexplained_and_lost_differences_are_named() -> None:
    row = asset("USD", "5", "1", "4", lost="3", unexplained="1")
    shown = text(view(assets=[row], trades_complete=False, settlements_matched=False))
    for words in (
        "3 of the difference is in",
        "1 of the difference is unex",
        "more trades",
        "sums",
    ):
        assert words in shown


def test_texts_of_other_nodes_cannot_control_the_terminal() -> None:
    bad = OpenSettlementView(
        recorded_by="theirs", asset="\x1b[2J", amount="1", direction="paid", time=TIME
    )
    assert "\x1b" not in text(view(settlements=[bad]))


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"format": "other"}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    result = CliRunner().invoke(verify, [str(path)], standalone_mode=False)
    assert isinstance(result.exception, CommandFailure)
    assert (result.exception.code, str(path) in result.exception.message) == (1, True)


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(verify, [str(tmp_path / "none")], standalone_mode=False)
    assert isinstance(result.exception, CommandFailure)
    assert result.exception.code == 2


def obligation(peer: str, name: str, amount: str, direction: Any, **more: str) -> ObligationView:
    return ObligationView(
        peer=peer,
        asset=name,
        amount=amount,
        direction=direction,
        limit=more.get("limit"),
        room=more.get("room"),
    )


def test_obligations_are_summed_by_asset() -> None:
    views = [
        obligation("p", "USD", "10.5", "collect", limit="100", room="89.5"),
        obligation("q", "USD", "0.25", "pay"),
        obligation("r", "USD", "0.25", "pay"),
        obligation("p", "BTC", "1", "pay"),
    ]
    totals = obligation_totals(views)
    assert [(t.asset, t.pay, t.collect, t.net) for t in totals] == [
        ("BTC", "1", "0", "-1"),
        ("USD", "0.5", "10.5", "10"),
    ]
    shown = [
        "".join(piece for piece, _ in line).split() for line in obligation_lines(views, full=True)
    ]
    assert ["USD", "10.5", "collect", "from", "p", "100", "89.5"] in shown
    assert ["USD", "0.25", "pay", "to", "q", "none", "any"] in shown
    assert ["USD", "0.5", "10.5", "10"] in shown
