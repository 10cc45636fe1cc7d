"""Whole nodes: orders come in, are cancelled, and readers are told."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from engine_kit import (
    lost,
    state,
)
from exchange_kit import M, Network, submit

from exchange.engine.engine import CommandRejected
from exchange.feeds.feed import Writer
from exchange.model.events import BUY, MAX_PRICE, MAX_QUANTITY, SELL, Filled
from exchange.model.ports import Broadcast
from exchange.model.records import Fill, Order, PutMeta
from exchange.orders import order_store as orders_module

replace = msgspec.structs.replace


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


def test_a_limit_order_with_nothing_to_meet_rests() -> None:
    net = Network(1)
    order = net.buy(0, 100, 5)
    assert state(order) == (0, 0, 5, False, False)
    assert net.book(0) == [(BUY, 100, 0, 1, 5)]
    assert net[0].order_store.open_orders == [order]
    assert net[0].order_store.get(1) is order
    assert net[0].order_store.get(2) is None


def test_the_largest_order_there_can_be_is_traded_everywhere(tmp_path: Path) -> None:
    with closing(Network(2, path=tmp_path)) as net:
        net.sell(0, MAX_PRICE - 1, MAX_QUANTITY - 1)
        net.settle()
        order = net.buy(1, MAX_PRICE - 1, MAX_QUANTITY - 1)
        net.settle()
        assert order.value == (MAX_PRICE - 1) * (MAX_QUANTITY - 1)
        net.check()
        for i in (0, 1):
            net.restart(i)
        net.settle()
        net.check()
        assert {order.value for i in (0, 1) for order in net.orders(i)} == {order.value}


def test_a_market_order_takes_the_available_quantity_and_ends() -> None:
    net = Network(1)
    net.sell(0, 100, 5)
    net.sell(0, 105, 5)
    order = net.buy(0, None, 20)
    assert state(order) == (10, 0, 0, True, True)
    assert order.value == 100 * 5 + 105 * 5
    assert net.book(0) == []
    assert list(net[0].order_store.recent.values())[-1] is order
    nothing = net.buy(0, None, 20)
    assert state(nothing) == (0, 0, 0, True, True)


def test_own_orders_meet_best_price_first_then_in_time_order() -> None:
    net = Network(1)
    for price, quantity in ((101, 5), (100, 5), (100, 6), (102, 5)):
        net.sell(0, price, quantity)
    order = net.buy(0, 101, 14)
    fills = [e for e in net[0].drain(net.now).fills if e.role == "taker"]
    assert [(f.counterparty_order, f.price, f.quantity) for f in fills] == [
        (2, 100, 5),
        (3, 100, 6),
        (1, 101, 3),
    ]
    assert state(order) == (14, 0, 0, False, True)
    assert net.book(0) == [(SELL, 101, 0, 1, 2), (SELL, 102, 0, 4, 5)]


def test_the_remainder_of_a_limit_order_rests_at_its_price() -> None:
    net = Network(1)
    net.sell(0, 100, 5)
    order = net.buy(0, 103, 8)
    assert state(order) == (5, 0, 3, False, False)
    assert net.book(0) == [(BUY, 103, 0, 2, 3)]


def test_a_trade_between_own_orders_is_one_fill_on_each_side_and_one_public_trade() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.buy(0, 100, 3)
    drained = net[0].drain(net.now)
    fills = [r for r in drained.records if isinstance(r, Fill)]
    assert [(f.role, f.order, f.counterparty_order) for f in fills] == [
        ("maker", 1, 2),
        ("taker", 2, 1),
    ]
    assert len(drained.trades) == 1
    types = [m.type for m in drained.messages if isinstance(m, Broadcast)]
    assert types == ["trade"]
    net.nodes[0].store.commit(drained.records)
    for mail in net.mail(0, drained):
        net.deliver(mail)
    net.settle()
    assert [t.event.quantity for t in net[1].markets[M].tape] == [3]
    net.check()


# Client ids


def test_a_client_id_submitted_again_is_the_same_order() -> None:
    net = Network(1)
    one = net.buy(0, 100, 5, "mine")
    net.round()
    assert net.buy(0, 100, 5, "mine") is one
    assert net[0].order_store.by_client_id("mine") is one
    assert net[0].drain(net.now).records == []
    assert len(net[0].order_store.open_orders) == 1


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


def test_a_client_id_is_remembered_when_the_order_is_done_and_over_a_restart() -> None:
    net = Network(1)
    order = net.buy(0, 100, 5, "mine")
    net[0].orders.cancel(net.now, order.number)
    net.exchange()
    assert net.buy(0, 100, 5, "mine") is order
    net.restart(0)
    again = net.buy(0, 100, 5, "mine")
    assert (again.number, again.done) == (order.number, True)


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


def test_a_cancelled_order_leaves_every_book() -> None:
    net = Network(2)
    order = net.sell(0, 100, 5)
    net.settle()
    assert net[0].orders.cancel(net.now, order.number) is order
    assert state(order) == (0, 0, 0, True, True)
    net.exchange()
    assert net.book(0) == net.book(1) == []


@pytest.mark.parametrize("how", ["cancelled", "filled"])
def test_a_finished_order_cannot_be_cancelled(how: str) -> None:
    net = Network(1)
    order = net.sell(0, 100, 5)
    if how == "filled":
        net.buy(0, 100, 5)
    else:
        net[0].orders.cancel(net.now, order.number)
    with pytest.raises(CommandRejected, match=f"already {how}") as refused:
        net[0].orders.cancel(net.now, order.number)
    assert refused.value.code == "order_done"
    with pytest.raises(CommandRejected) as unknown:
        net[0].orders.cancel(net.now, 77)
    assert unknown.value.code == "unknown_order"


@pytest.mark.parametrize("decided", [False, True])
def test_a_cancel_while_pending_requests_a_refusal_of_the_ungranted_quantity(
    decided: bool,
) -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lost("take_result") if decided else lost("take")
    order = net.buy(1, 100, 8)
    net.exchange()
    assert state(order) == (0, 5, 3, False, False)
    net[1].orders.cancel(net.now, order.number)
    assert state(order) == (0, 5, 0, True, False)
    with pytest.raises(
        CommandRejected, match="being cancelled; a part of it awaits another node's answer"
    ):
        net[1].orders.cancel(net.now, order.number)
    net.on_mail = lambda mail: [mail]
    net.exchange()  # the take is asked again at once
    assert state(order) == (5 if decided else 0, 0, 0, True, True)
    net.settle()
    assert len(net.book(0)) == (0 if decided else 1)
    net.check()


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
