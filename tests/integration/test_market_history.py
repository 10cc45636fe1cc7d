"""Trades and candles: the same on all nodes that saw the same trades, and still there after a kill."""

from __future__ import annotations

import signal

import pytest
from processes import MARKET, NodeProcess, Nodes, eventually, see_each_other

from node.views.views import CandleView, TradeView


def history(node: NodeProcess) -> tuple[list[TradeView], list[CandleView], list[CandleView]]:
    return (
        node.ask(lambda client: client.trades(market=MARKET, limit=1000)),
        node.ask(lambda client: client.candles(MARKET, "1m", limit=1000)),
        node.ask(lambda client: client.candles(MARKET, "1M")),
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
def test_history_outlives_the_process_and_is_counted_once(
    nodes: Nodes, how: signal.Signals
) -> None:
    a, b = nodes.pair()
    for n in range(10):
        a.sell(2, 10 + n)
        eventually(lambda n=n: b.asks() == {str(10 + n): "2"}, what=b.book)
        order = b.buy(1, 10 + n)  # crosses nodes
        eventually(lambda order=order: b.get_order(order.id).status == "filled", what=b.book)
        a.buy(1, 10 + n)  # stays here
    eventually(lambda: len(b.trades()) == len(a.trades()) == 20)
    before = history(a)
    assert history(b) == before
    (month,) = before[2]
    assert (month.trades, month.volume, month.open, month.close) == (20, "20", "10", "19")

    b.send_signal(how)
    b.exit_code()
    a.sell(1, 30)
    a.buy(1, 30)  # b learns of it when it is back
    b.restart()
    see_each_other(a, b)
    eventually(lambda: len(b.trades()) == 21, what=lambda: len(b.trades()))
    assert history(b) == history(a)
    assert b.ask(lambda client: client.candles(MARKET, "1M"))[0].trades == 21


def test_a_lost_history_is_rebuilt_from_the_journal(nodes: Nodes) -> None:
    node = nodes.start("a")
    node.sell(5, 10)
    node.buy(2, 10)
    before = history(node)
    assert node.stop() == 0
    for path in node.data_dir.glob("market.sqlite3*"):
        path.write_bytes(b"damaged" * 1000)
    node.restart()
    assert history(node) == before
    assert "market history" in node.log
