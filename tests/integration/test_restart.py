"""State that a node keeps over a restart: peers, orders, cancelled orders, repeated requests of clients."""

from __future__ import annotations

import json
import signal

import pytest
from processes import (
    Nodes,
    bootstrap_options,
    eventually,
    in_both_modes,
    same_books,
    see_each_other,
    trade_ids,
)

from node.client.exchange_client import ApiError


def test_nodes_find_each_other_again_from_remembered_peers_alone(nodes: Nodes) -> None:
    a, b = nodes.pair()
    eventually(lambda: b.remembers(a))
    for node in (a, b):
        assert node.stop() == 0
    b.options = ()
    a.restart(DISCOVERY_EXCHANGE="false")
    b.restart(DISCOVERY_EXCHANGE="false")
    see_each_other(a, b)
    a.sell(1, 5)
    eventually(b.asks)


def test_a_damaged_peers_file_is_set_aside_and_the_node_starts(nodes: Nodes) -> None:
    a, b = nodes.pair()
    assert b.stop() == 0
    path = b.data_dir / ".peers.json"
    path.write_text('{"version": 1, "peers": [{"no', "utf-8")
    b.restart()
    see_each_other(a, b)
    assert "peers" in b.log
    assert [p.name for p in b.data_dir.glob(".peers.json*") if '[{"no' in p.read_text("utf-8")]
    eventually(lambda: b.remembers(a))
    assert json.loads(path.read_text("utf-8"))


@in_both_modes
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
def test_orders_and_cancels_outlive_the_process(nodes: Nodes, how: signal.Signals) -> None:
    a, b = nodes.pair()
    kept = a.sell(5, 10)
    partly = a.sell(4, 9, client_id="partly")
    gone = a.sell(2, 8)
    bid = a.buy(1, 2)
    a.cancel(gone.id)
    eventually(lambda: b.asks() == {"9": "4", "10": "5"})
    b.buy(1, 9)
    eventually(lambda: a.get_order(partly.id).filled == "1")

    # What was acknowledged just before the end counts too.
    late = a.sell(7, 12, client_id="late")
    late_cancel = a.cancel(bid.id)
    a.send_signal(how)
    assert a.exit_code() == (-how if how == signal.SIGKILL else 0)
    assert late_cancel.status == "cancelled"
    a.restart(*bootstrap_options(b.p2p_address))
    see_each_other(a, b)

    orders = {order.id: order for order in a.orders(open_only=False)}
    still_open = {number for number, order in orders.items() if order.status == "open"}
    assert still_open == {kept.id, partly.id, late.id}
    assert orders[gone.id].status == orders[bid.id].status == "cancelled"
    assert (orders[partly.id].filled, orders[partly.id].remaining) == ("1", "3")
    book = same_books(a, b)
    assert [(x.price, x.quantity) for x in book.asks] == [("9", "3"), ("10", "5"), ("12", "7")]
    assert book.bids == []

    # A client that heard no answer asks again with the same id: nothing new is placed.
    assert a.sell(7, 12, client_id="late").id == late.id
    assert a.sell(4, 9, client_id="partly").id == partly.id
    with pytest.raises(ApiError) as refused:
        a.sell(8, 12, client_id="late")
    assert refused.value.code == "client_id_reused"
    with pytest.raises(ApiError):
        a.cancel(gone.id)

    # And it goes on trading: the resumed orders fill, first the best, new numbers follow old ones.
    bought = b.buy(4, 10)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    eventually(lambda: a.get_order(kept.id).filled == "1")
    assert a.get_order(partly.id).status == "filled"
    eventually(lambda: trade_ids(a.fills()) == trade_ids(b.fills()))
    assert a.sell(1, 20).number > late.number


@in_both_modes
def test_a_returning_node_catches_up_on_changes_during_its_absence(nodes: Nodes) -> None:
    a, b = nodes.pair()
    first = a.sell(3, 10)
    eventually(b.asks)
    b.kill9()
    for price in range(11, 31):
        a.sell(1, price)
    a.cancel(first.id)
    b.restart()
    book = same_books(a, b)
    assert len(book.asks) == 20
    assert b.status().feeds_behind == 0


@in_both_modes
def test_orders_that_cross_while_their_owners_cannot_talk_trade_when_they_can(nodes: Nodes) -> None:
    a, b = nodes.pair()
    assert b.stop() == 0
    sold = a.sell(5, 10)  # nobody there
    a.stop()
    b.restart()
    bought = b.buy(3, 11)
    assert bought.status == "open"
    a.restart(*bootstrap_options(b.p2p_address))
    eventually(lambda: b.get_order(bought.id).status == "filled", what=lambda: b.book())
    eventually(lambda: a.get_order(sold.id).filled == "3")
    assert [f.price for f in b.fills()] == ["10"]  # the earlier order's price
    eventually(lambda: trade_ids(a.fills()) == trade_ids(b.fills()))
