"""Questions before an order is sent."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from cli_kit import RunningNode
from click.testing import CliRunner, Result

from node.cli.main import cli
from node.cli.order_check import market_price, order_doubts
from node.views.views import BookView, LevelView, MarketView, OrderRequest, Side

LADDER = {"asks": [("30010", "1"), ("30020", "2")], "bids": [("29990", "0.5")]}


def market(last: str | None, bid: str | None = None, ask: str | None = None) -> MarketView:
    return MarketView(
        symbol="BTC-USD", base="BTC", quote="USD", tick="0.1", lot="0.00001",
        bid=bid, bid_quantity="0", ask=ask, ask_quantity="0", last=last, change="0",
        high=None, low=None, volume="0",
    )  # fmt: skip


def book(**sides: list[tuple[str, str]]) -> BookView:
    levels = {
        name: [LevelView(price=p, quantity=q, orders=1, own="0") for p, q in sides.get(name, [])]
        for name in ("bids", "asks")
    }
    return BookView(market="BTC-USD", sequence=1, digest="", time="", **levels)


def doubts(side: Side, quantity: str, price: str | None, **options: str) -> list[str]:
    request = OrderRequest(market="BTC-USD", side=side, quantity=quantity, price=price, **options)  # type: ignore[arg-type]
    return order_doubts(request, market("30000", "29990", "30010"), book(**LADDER))


@pytest.mark.parametrize(
    ("last", "bid", "ask", "price"),
    [
        ("30000", None, None, "30000"),
        ("30000", "31000", None, "31000"),
        ("30000", "28000", "29000", "29000"),
        ("30000", "32000", "29000", "30000"),  # crossed
        (None, "29000", "31000", "30000"),
        (None, "29000", None, None),
    ],
)
def test_the_market_price_is_the_last_trade_within_the_book(
    last: str | None, bid: str | None, ask: str | None, price: str | None
) -> None:
    assert market_price(market(last, bid, ask)) == (None if price is None else Decimal(price))


@pytest.mark.parametrize(
    ("side", "quantity", "price", "odd"),
    [
        ("buy", "1", "32999", []),
        ("buy", "1", "33000", ["the price 33000 is 10 % above the market's price 30000"]),
        ("sell", "0.1", "3000", ["the price 3000 is 90 % below the market's price 30000"]),
        ("buy", "3", None, []),
        ("buy", "3.1", None, ["3.1 BTC is more than the whole visible book: 3 BTC are offered"]),
        ("buy", "4", "30010", ["4 BTC is more than the whole visible book: 3 BTC are offered"]),
        ("buy", "4", "30000", []),  # rests
        (
            "sell",
            "1",
            "29990",
            ["1 BTC is more than the whole visible book: 0.5 BTC are asked for"],
        ),
    ],
)
def test_doubts_about_an_order_are_named(
    side: Side, quantity: str, price: str | None, odd: list[str]
) -> None:
    assert doubts(side, quantity, price) == odd


def test_a_stop_limit_order_is_compared_with_its_stop() -> None:
    assert doubts("buy", "9", "41000", stop="40000") == []
    assert doubts("buy", "9", "50000", stop="40000") == [
        "the price 50000 is 25 % above its stop 40000"
    ]


def test_orders_raise_no_doubts_in_a_market_without_orders() -> None:
    request = OrderRequest(market="BTC-USD", side="buy", quantity="5", price="30000")
    assert order_doubts(request, market(None), book()) == []


@pytest.mark.parametrize(
    ("side", "price", "odd"),
    [
        ("buy", "40000", ["the price 40000 is 33 % above the market's price 30000"]),
        ("buy", "31000", []),
        ("sell", "40000", []),  # nothing to compare with: it makes the market
    ],
)
def test_in_a_market_that_never_traded_the_price_is_compared_with_the_orders_on_the_other_side(
    side: Side, price: str, odd: list[str]
) -> None:
    request = OrderRequest(market="BTC-USD", side=side, quantity="1", price=price)
    asks = [("30000", "1")]
    assert order_doubts(request, market(None, ask="30000"), book(asks=asks)) == odd


# At the command line


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path)
    running.start()
    yield running
    running.stop()


def order(node: RunningNode, *words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(
        cli, ["order", *words, "--api", node.url], prog_name="exchange-node", input=answer
    )


def test_a_script_is_refused_without_yes(node: RunningNode) -> None:
    node.do(lambda: node.node.place_remote("BTC-USD", "sell", "0.5", "30000"))
    refused = order(node, "buy", "BTC-USD", "1")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "exchange-node: not sent: 1 BTC is more than the whole visible book: 0.5 BTC are offered; "
        "add --yes if this is meant\n"
    )
    assert order(node, "buy", "BTC-USD", "1", "--yes").exit_code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_a_terminal_gets_a_confirmation_prompt(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    node.do(lambda: node.node.place_remote("BTC-USD", "sell", "0.5", "30000"))
    monkeypatch.setattr("node.cli.order_check.is_asked", lambda: True)
    asked = order(node, "buy", "BTC-USD", "1", answer=answer)
    assert asked.exit_code == code, asked.output
    assert "Send it all the same?" in asked.stderr
