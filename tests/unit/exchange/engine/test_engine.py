"""Whole nodes: orders come in, are cancelled, and readers are told."""

from __future__ import annotations

import pytest
from engine_kit import (
    state,
)
from exchange_kit import M, Network, submit

from exchange.engine.engine import CommandRejected
from exchange.feeds.feed import Writer
from exchange.model.events import BUY, SELL, Filled
from exchange.model.peer_values import MAX_PRICE, MAX_QUANTITY
from exchange.model.records import Order, PutMeta
from exchange.orders import order_store as orders_module

# Entry


@pytest.mark.parametrize(
    ("market", "side", "price", "quantity", "code"),
    [
        ("DOGE-USD", BUY, 100, 1, "unknown_market"),
        (M, 0, 100, 1, "bad_side"),
        (M, 2, 100, 1, "bad_side"),
        (M, BUY, 0, 1, "out_of_range"),
        (M, BUY, -1, 1, "out_of_range"),
        (M, BUY, MAX_PRICE, 1, "out_of_range"),
        (M, BUY, 100, 0, "out_of_range"),
        (M, BUY, 100, -1, "out_of_range"),
        (M, BUY, None, 0, "out_of_range"),
        (M, BUY, 100, MAX_QUANTITY, "out_of_range"),
    ],
)
def test_orders_that_make_no_sense_are_refused_and_leave_nothing(
    market: str, side: int, price: int | None, quantity: int, code: str
) -> None:
    net = Network(1)
    net.round()
    with pytest.raises(CommandRejected) as refused:
        submit(net[0], net.now, market, side, price, quantity, "mine")
    assert refused.value.code == code
    assert str(refused.value) == refused.value.detail
    assert net[0].drain(net.now).records == []
    assert net[0].order_store.by_client_id("mine") is None


def test_the_remainder_of_a_limit_order_rests_at_its_price() -> None:
    net = Network(1)
    net.sell(0, 100, 5)
    order = net.buy(0, 103, 8)
    assert state(order) == (5, 0, 3, False, False)
    assert net.book(0) == [(BUY, 103, 0, 2, 3)]


# Client ids


@pytest.mark.parametrize(
    ("side", "price", "quantity"), [(SELL, 100, 5), (BUY, 101, 5), (BUY, 100, 6), (BUY, None, 5)]
)
def test_a_client_id_for_a_different_order_is_refused(
    side: int, price: int | None, quantity: int
) -> None:
    net = Network(1)
    net.buy(0, 100, 5, "mine")
    with pytest.raises(CommandRejected) as refused:
        submit(net[0], net.now, M, side, price, quantity, "mine")
    assert refused.value.code == "client_id_reused"
    assert len(net[0].order_store.open_orders) == 1


def test_orders_that_are_forgotten_free_their_client_ids_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orders_module, "RECENT_ORDERS", 2)
    net = Network(1)
    for name in ("a", "b", "c", "d", "e"):
        net.buy(0, None, 5, name)
    net.exchange()
    assert [order.client_id for order in net[0].order_store.recent.values()] == ["d", "e"]
    assert net[0].order_store.by_client_id("a") is None
    again = net.buy(0, None, 5, "a")
    assert again.number == 6
    assert net[0].order_store.by_client_id("a") is again


def test_a_client_id_used_anew_is_not_lost_with_the_order_that_had_it_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orders_module, "RECENT_ORDERS", 2)
    net = Network(1)
    old = Order(1, M, BUY, None, 5, 1, "a", cancelled=True, done=True)
    new = Order(2, M, BUY, 100, 5, 2, "a")
    net.nodes[0].store.commit([old, new, PutMeta("next_order", 3)])
    net.restart(0)
    for _ in range(5):
        net.buy(0, None, 5)
    net.exchange()
    found = net[0].order_store.by_client_id("a")
    assert found is not None
    assert found.number == 2


# Cancelling


# What readers are told


def test_a_drain_reports_changes_one_time_and_in_copies() -> None:
    net = Network(1)
    net.exchange()
    sell = net.sell(0, 100, 5)
    drained = net[0].drain(net.now)
    assert drained.levels == [(M, SELL, 100)]
    assert drained.orders == [sell]
    net.buy(0, 100, 2)
    assert drained.orders[0].filled == 0
    drained = net[0].drain(net.now)
    assert drained.levels == [(M, SELL, 100)]
    assert [(f.role, f.quantity) for f in drained.fills] == [("maker", 2), ("taker", 2)]
    assert [type(trade.event) for _, trade in drained.trades] == [Filled]
    empty = net[0].drain(net.now)
    assert (empty.levels, empty.orders, empty.fills, empty.trades, empty.records) == ([],) * 5


def test_present_owners_are_listed() -> None:
    net = Network(3)
    assert net[0].present == [net.id(1), net.id(2)]
    net.kill(1)
    net[0].neighbour_down(net.now, net.id(1))
    net.run(10.0)
    assert net[0].present == [net.id(2)]


def test_drains_and_ticks_look_at_changed_markets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"M{number}-USD" for number in range(40)]
    net = Network(1, markets=names)
    net.round()
    net.settle()
    looked_at: list[str] = []
    flush = Writer.flush
    monkeypatch.setattr(
        Writer,
        "flush",
        lambda writer: looked_at.append(writer.feed.market) or flush(writer),
    )
    engine = net[0]
    for market in (names[7], names[3], names[7]):
        submit(engine, net.now, market, BUY, 100, 1)
    engine.tick(net.now)
    drained = engine.drain(net.now)
    assert looked_at == [names[3], names[7]]  # in the order of the node's markets
    assert [level[0] for level in drained.levels] == [names[3], names[7]]
    engine.drain(net.now)
    assert len(looked_at) == 2


def test_counters_are_durable_with_the_next_drain_and_only_when_they_moved() -> None:
    net = Network(1)
    engine = net[0]
    first = engine.orders.fills.next_take
    engine.drain(net.now)
    submit(engine, net.now, M, BUY, 5, 2)
    submit(engine, net.now, M, SELL, 5, 1)
    meta = {r.name: r.value for r in engine.drain(net.now).records if isinstance(r, PutMeta)}
    assert meta == {"next_order": 3, "next_take": first + 1}
    assert not [r for r in engine.drain(net.now).records if isinstance(r, PutMeta)]
