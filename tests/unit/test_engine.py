"""Whole nodes: matching, taking, crossing, cancelling, restarting at every step, strangers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from exchange_kit import EPOCH_US, FIRST_TAKE, NETWORK, Crash, Keys, M, Mail, Network, Owner

from exchange import feed as feed_module
from exchange import orders as orders_module
from exchange import settlement as settlement_module
from exchange.asking import REFUSED_HOLD
from exchange.core import MAX_DRIFT_US
from exchange.engine import MAX_UNKNOWN_MARKETS, Refused
from exchange.events import (
    BUY,
    MAX_ORDER,
    MAX_PRICE,
    MAX_QUANTITY,
    SELL,
    Amended,
    Closed,
    Filled,
    Opened,
)
from exchange.messages import Take, TakeResult, pack
from exchange.ports import Broadcast, Send
from exchange.presence import Leases
from exchange.records import (
    Fill,
    Order,
    PendingTake,
    PutBatch,
    PutMeta,
    PutSnapshot,
    Recovered,
)

replace = msgspec.structs.replace


def state(order: Order) -> tuple[int, int, int, bool, bool]:
    return order.filled, order.pending, order.shown, order.cancelled, order.done


def lost(*kinds: str) -> Callable[[Mail], list[Mail]]:
    return lambda mail: [] if mail.type in kinds else [mail]


def taken(net: Network, i: int) -> list[tuple[int, int]]:
    """(price, quantity) of node i's fills as taker."""
    return [(f.price, f.quantity) for f in net.fills(i) if f.role == "taker"]


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
    with pytest.raises(Refused) as refused:
        net[0].submit(net.now, market, side, price, quantity, "mine")
    assert refused.value.code == code
    assert str(refused.value) == refused.value.detail
    assert net[0].drain(net.now).records == []
    assert net[0].by_client_id("mine") is None


def test_a_limit_order_with_nothing_to_meet_rests() -> None:
    net = Network(1)
    order = net.buy(0, 100, 5)
    assert state(order) == (0, 0, 5, False, False)
    assert net.book(0) == [(BUY, 100, 0, 1, 5)]
    assert net[0].open_orders == [order]
    assert net[0].order(1) is order
    assert net[0].order(2) is None


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


def test_a_market_order_takes_what_there_is_and_ends() -> None:
    net = Network(1)
    net.sell(0, 100, 5)
    net.sell(0, 105, 5)
    order = net.buy(0, None, 20)
    assert state(order) == (10, 0, 0, True, True)
    assert order.value == 100 * 5 + 105 * 5
    assert net.book(0) == []
    assert net[0].recent_orders[-1] is order
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
    assert net[0].by_client_id("mine") is one
    assert net[0].drain(net.now).records == []
    assert len(net[0].open_orders) == 1


@pytest.mark.parametrize(
    ("side", "price", "quantity"), [(SELL, 100, 5), (BUY, 101, 5), (BUY, 100, 6), (BUY, None, 5)]
)
def test_a_client_id_for_a_different_order_is_refused(
    side: int, price: int | None, quantity: int
) -> None:
    net = Network(1)
    net.buy(0, 100, 5, "mine")
    with pytest.raises(Refused) as refused:
        net[0].submit(net.now, M, side, price, quantity, "mine")
    assert refused.value.code == "client_id_reused"
    assert len(net[0].open_orders) == 1


def test_a_client_id_is_remembered_when_the_order_is_done_and_over_a_restart() -> None:
    net = Network(1)
    order = net.buy(0, 100, 5, "mine")
    net[0].cancel(net.now, order.number)
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
    assert [order.client_id for order in net[0].recent_orders] == ["d", "e"]
    assert net[0].by_client_id("a") is None
    again = net.buy(0, None, 5, "a")
    assert again.number == 6
    assert net[0].by_client_id("a") is again


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
    found = net[0].by_client_id("a")
    assert found is not None
    assert found.number == 2


# Cancelling


def test_a_cancelled_order_leaves_every_book() -> None:
    net = Network(2)
    order = net.sell(0, 100, 5)
    net.settle()
    assert net[0].cancel(net.now, order.number) is order
    assert state(order) == (0, 0, 0, True, True)
    net.exchange()
    assert net.book(0) == net.book(1) == []


@pytest.mark.parametrize("how", ["cancelled", "filled"])
def test_what_is_over_cannot_be_cancelled(how: str) -> None:
    net = Network(1)
    order = net.sell(0, 100, 5)
    if how == "filled":
        net.buy(0, 100, 5)
    else:
        net[0].cancel(net.now, order.number)
    with pytest.raises(Refused, match=f"already {how}") as refused:
        net[0].cancel(net.now, order.number)
    assert refused.value.code == "order_done"
    with pytest.raises(Refused) as unknown:
        net[0].cancel(net.now, 77)
    assert unknown.value.code == "unknown_order"


@pytest.mark.parametrize("decided", [False, True])
def test_a_cancel_while_pending_asks_the_owner_to_refuse_what_it_has_not_granted(
    decided: bool,
) -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lost("take_result") if decided else lost("take")
    order = net.buy(1, 100, 8)
    net.exchange()
    assert state(order) == (0, 5, 3, False, False)
    net[1].cancel(net.now, order.number)
    assert state(order) == (0, 5, 0, True, False)
    with pytest.raises(
        Refused, match="being cancelled; part of it waits for another node's answer"
    ):
        net[1].cancel(net.now, order.number)
    net.on_mail = lambda mail: [mail]
    net.exchange()  # the take is asked again at once
    assert state(order) == (5 if decided else 0, 0, 0, True, True)
    net.settle()
    assert len(net.book(0)) == (0 if decided else 1)
    net.check()


# Taking


def test_a_take_is_asked_granted_and_recorded_on_both_sides() -> None:
    net = Network(3)
    net.sell(0, 100, 5)
    net.settle()
    order = net.buy(1, 101, 3)
    assert state(order) == (0, 3, 0, False, False)
    assert net.book(1) == [(SELL, 100, 0, 1, 2)]
    net.exchange()
    assert state(order) == (3, 0, 0, False, True)
    assert order.value == 300
    assert [net.book(i) for i in range(3)] == [[(SELL, 100, 0, 1, 2)]] * 3
    maker, taker = net.fills(0)[0], net.fills(1)[0]
    assert (maker.role, taker.role) == ("maker", "taker")
    assert (maker.taker, maker.take) == (taker.taker, taker.take) == (net.id(1), FIRST_TAKE)
    assert (maker.counterparty, taker.counterparty) == (net.id(1), net.id(0))
    assert [len(net[i].markets[M].tape) for i in range(3)] == [1, 1, 1]
    net.check()


def test_an_intent_is_durable_before_it_is_asked_and_a_decision_before_it_is_told() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.buy(1, 100, 5)
    drained = net[1].drain(net.now)
    asks = [m for m in drained.messages if isinstance(m, Send) and m.type == "take"]
    puts = [r for r in drained.records if isinstance(r, PendingTake)]
    assert len(asks) == len(puts) == 1
    for mail in net.mail(1, drained):
        net.deliver(mail)
    drained = net[0].drain(net.now)
    kinds = [type(record).__name__ for record in drained.records]
    assert {"Decision", "Fill", "PutBatch", "Order"} <= set(kinds)
    assert "take_result" in [message.type for message in drained.messages]


def test_the_remainder_rests_while_a_part_is_pending() -> None:
    net = Network(3)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lost("take")
    order = net.buy(1, 100, 8)
    net.exchange()
    assert state(order) == (0, 5, 3, False, False)
    assert net.book(2) == [(BUY, 100, 1, 1, 3), (SELL, 100, 0, 1, 5)]
    net.on_mail = lambda mail: [mail]
    net.settle()
    assert state(order) == (5, 0, 3, False, False)
    assert net.book(2) == [(BUY, 100, 1, 1, 3)]
    net.check()


def test_the_remainder_of_a_pending_order_can_be_taken_meanwhile() -> None:
    net = Network(3)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lambda mail: [] if mail.type == "take" and mail.to == 0 else [mail]
    order = net.buy(1, 100, 8)
    net.exchange()
    other = net.sell(2, 100, 3)
    net.exchange()
    assert state(order) == (3, 5, 0, False, False)
    net.on_mail = lambda mail: [mail]
    net.settle()
    assert state(order) == (8, 0, 0, False, True)
    assert other.filled == 3
    net.check()


def test_a_market_order_ends_when_its_last_take_is_answered() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    order = net.buy(1, None, 8)
    assert state(order) == (0, 5, 0, False, False)
    net.exchange()
    assert state(order) == (5, 0, 0, True, True)
    assert net[1].feeds[net.id(1), M].batches == {}  # it was never on show
    net.check()


def test_takes_of_several_owners_go_by_price_then_time_then_node_then_number() -> None:
    net = Network(4)
    net.sell(2, 100, 1)
    net.sell(0, 101, 1)
    net.exchange()
    net.now += 0.001
    net.sell(1, 100, 1)
    net.sell(0, 100, 1)  # at the same time as node 1's, and node 0 sorts first
    net.sell(0, 100, 1)  # one microsecond later
    net.settle()
    net.buy(3, 101, 5)
    assert _takes(net, 3) == [(2, 1, 100), (0, 2, 100), (1, 1, 100), (0, 3, 100), (0, 1, 101)]


def _takes(net: Network, i: int) -> list[tuple[int, int, int]]:
    """(maker, its order, price) of the takes that node i sends now."""
    net.sent.clear()
    drained = net[i].drain(net.now)
    net.nodes[i].store.commit(drained.records)
    return [
        (mail.to, mail.message.order, mail.message.price)
        for mail in net.mail(i, drained)
        if mail.type == "take"
    ]


def test_the_own_better_order_is_not_passed_over_for_others() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.exchange()
    net.now += 0.001
    net.sell(1, 100, 5)
    net.sell(1, 99, 2)
    net.settle()
    order = net.buy(1, 100, 9)
    assert state(order) == (4, 5, 0, False, False)  # 2 at 99, then node 0's, then 2 of its own
    net.settle()
    assert net.book(0) == [(SELL, 100, 1, 1, 3)]
    net.check()


def test_a_partial_grant_sends_the_remainder_to_the_next_best() -> None:
    net = Network(4)
    for i, price in ((0, 100), (1, 101), (2, 102)):
        net.sell(i, price, 5)
    net.settle()
    net.buy(0, 100, 3)  # of its own; node 3 does not know yet
    order = net.buy(3, 102, 8)
    net.exchange()
    assert sorted(taken(net, 3)) == [(100, 2), (101, 2), (101, 3), (102, 1)]
    assert state(order) == (8, 0, 0, False, True)
    net.settle()
    net.check()


def test_what_the_owner_has_sold_meanwhile_is_refused_and_looked_for_elsewhere() -> None:
    net = Network(3)
    net.sell(0, 100, 5)
    net.sell(1, 103, 5)
    net.settle()
    net.buy(0, 100, 5)
    order = net.buy(2, 103, 5)
    net.exchange()
    assert taken(net, 2) == [(103, 5)]
    assert order.value == 5 * 103
    net.settle()
    net.check()


def test_a_refusal_that_overtakes_the_feed_does_not_make_the_taker_ask_again() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lost("order", "trade", "feed")
    net.buy(0, 100, 5)
    order = net.buy(1, 100, 5)
    net.exchange()
    net.run(3.0)
    assert sum(mail.type == "take" for mail in net.sent) == 1
    assert state(order) == (0, 0, 5, False, False)
    net.on_mail = lambda mail: [mail]
    net.settle()
    net.check()


def test_a_take_that_is_asked_twice_is_decided_once() -> None:
    net = Network(2)
    net.sell(0, 100, 10)
    net.settle()
    net.on_mail = lambda mail: [mail] * 3 if mail.type in ("take", "take_result") else [mail]
    order = net.buy(1, 100, 4)
    net.settle()
    assert order.filled == 4
    assert net.book(0) == [(SELL, 100, 0, 1, 6)]
    net.check()


def ask(take: int = 1, order: int = 1, quantity: int = 5, **more: Any) -> Take:
    values = {"price": 100, "below": 1, "market": M, "taker_order": 1, "void": False, **more}
    return Take(take=take, order=order, quantity=quantity, **values)


def asked(net: Network, message: Take, taker: str = "") -> TakeResult | None:
    """A stranger's take and the maker's answer, if any."""
    taker = taker or Keys(99).node_id
    assert net.give(0, message, origin=taker)
    drained = net[0].drain(net.now)
    net.nodes[0].store.commit(drained.records)
    results = [m for m in drained.messages if isinstance(m, Send) and m.type == "take_result"]
    assert all(m.to == taker for m in results)
    assert len(results) <= 1
    return msgspec.msgpack.decode(results[0].payload, type=TakeResult) if results else None


def maker(quantity: int = 10, price: int = 100) -> Network:
    net = Network(1)
    net.sell(0, price, quantity)
    net.settle()
    return net


def test_an_answer_says_what_was_granted_and_how_far_the_feed_is() -> None:
    net = maker()
    result = asked(net, ask(quantity=4))
    assert result == TakeResult(1, M, 1, 100, 4, net[0].us(net.now), 2)
    assert net[0].markets[M].writer.number == 2
    assert asked(net, ask(take=2, quantity=40)) == TakeResult(
        2, M, 1, 100, 6, net[0].us(net.now), 3
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"order": 2}, "gone"),
        ({"price": 99}, "gone"),
        ({"price": 101}, "gone"),
        ({"market": "ETH-USD"}, "gone"),
        ({"market": "DOGE-USD"}, "unknown_market"),
        ({"void": True}, "void"),
    ],
    ids=str,
)
def test_a_refusal_has_its_reason_and_is_remembered(change: dict[str, Any], reason: str) -> None:
    net = Network(1, markets=(M, "ETH-USD"))
    net.sell(0, 100, 10)
    net.settle()
    refused = asked(net, ask(**change))
    assert refused is not None
    assert (refused.quantity, refused.reason) == (0, reason)
    for again in (ask(**change), ask()):  # also when it could be granted now
        assert asked(net, again) == refused
    net.restart(0)
    assert asked(net, ask()) == refused
    assert net.book(0) == [(SELL, 100, 0, 1, 10)]


def test_a_cancelled_a_hidden_and_a_market_order_cannot_be_taken() -> None:
    net = maker()
    net[0].cancel(net.now, 1)
    refused = asked(net, ask())
    assert refused is not None
    assert refused.reason == "gone"
    assert net.fills(0) == []


def test_a_grant_is_remembered_over_a_restart_and_never_granted_again() -> None:
    net = maker()
    granted = asked(net, ask(quantity=4))
    for _ in range(2):
        net.restart(0)
        assert asked(net, ask(quantity=4)) == granted
    assert net.book(0) == [(SELL, 100, 0, 1, 6)]


def test_a_late_copy_of_a_take_that_the_taker_knows_is_ignored() -> None:
    net = maker()
    asked(net, ask(take=1, quantity=1))
    asked(net, ask(take=5, below=5, quantity=1))
    for restart in (False, True):
        if restart:
            net.restart(0)
        for late in (1, 2, 3, 4):
            assert asked(net, ask(take=late)) is None
    assert net.book(0) == [(SELL, 100, 0, 1, 8)]
    other = asked(net, ask(take=1, quantity=1), taker=Keys(98).node_id)
    assert other is not None
    assert other.quantity == 1


@pytest.mark.parametrize(
    "change",
    [
        {"take": 0, "below": 0},
        {"take": -1},
        {"take": 2**62},
        {"below": 0},
        {"below": 2},
        {"quantity": 0},
        {"quantity": -1},
        {"quantity": MAX_QUANTITY},
        {"price": 0},
        {"price": MAX_PRICE},
        {"order": 0},
        {"order": MAX_ORDER},
        {"taker_order": 0},
        {"taker_order": 2**63},
        {"market": "m" * 81},
    ],
    ids=str,
)
def test_a_take_that_no_feed_or_journal_could_hold_is_invalid(change: dict[str, Any]) -> None:
    """Found by these tests: a take number of 2**63 went into the feed and stopped the journal."""
    net = maker()
    net.round()
    assert not net.give(0, ask(**change))
    assert net[0].drain(net.now).records == []


def test_the_largest_take_there_can_be_is_answered(tmp_path: Path) -> None:
    with closing(Network(1, path=tmp_path)) as net:
        net.sell(0, 100, 10)
        net.exchange()
        top = 2**62 - 1
        result = asked(net, ask(take=top, below=top, taker_order=MAX_ORDER - 1))
        assert result is not None
        assert result.quantity == 5


def test_a_taker_that_never_says_what_it_knows_is_not_answered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement_module, "MAX_DECISIONS", 3)
    net = maker()
    answers = [asked(net, ask(take=i, quantity=1)) for i in range(1, 6)]
    assert [a is not None for a in answers] == [True, True, True, False, False]
    assert asked(net, ask(take=1, quantity=1)) == answers[0]
    assert asked(net, ask(take=5, below=5, quantity=1)) is not None


def test_takers_beyond_the_limit_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement_module, "MAX_TAKERS", 1)
    net = maker()
    first, second = Keys(97).node_id, Keys(98).node_id
    assert asked(net, ask(take=1, quantity=1), taker=first) is not None
    net.round()
    assert asked(net, ask(take=1, quantity=1), taker=second) is None
    assert net[0].drain(net.now).records == []
    assert asked(net, ask(take=2, quantity=1), taker=first) is not None


# Answers that cannot be


def pending() -> tuple[Network, Order, PendingTake]:
    """Node 0 (no other is up) has asked the owner with seed 50 for 5 at 100."""
    net = Network(1)
    owner = Owner(50)
    leases = Leases(owner.keys, NETWORK, incarnation=1, lease_ms=600_000)
    assert net.give(0, leases.make(net.now, []))
    assert net.give(0, owner.batch(Opened(1, SELL, 100, 5, EPOCH_US)))
    order = net.buy(0, 100, 5)
    (put,) = [r for r in net[0].drain(net.now).records if isinstance(r, PendingTake)]
    return net, order, put


def result(**change: Any) -> TakeResult:
    values = {"quantity": 5, "price": 100, "number": 2, "reason": "", "order": 1, **change}
    return TakeResult(take=FIRST_TAKE, market=M, time=EPOCH_US, **values)


@pytest.mark.parametrize(
    "change", [{"quantity": 6}, {"price": 99}, {"order": 2}, {"quantity": 0, "reason": "void"}]
)
def test_an_answer_that_cannot_be_is_invalid_and_changes_nothing(change: dict[str, Any]) -> None:
    net, order, _ = pending()
    assert not net.give(0, result(**change), origin=Keys(50).node_id)
    assert state(order) == (0, 5, 0, False, False)
    assert "something impossible" in net.nodes[0].warnings[-1]
    assert net.give(0, result(), origin=Keys(50).node_id)
    assert state(order) == (5, 0, 0, False, True)


def test_only_the_owner_can_answer() -> None:
    net, order, _ = pending()
    assert net.give(0, result(), origin=Keys(51).node_id)
    assert state(order) == (0, 5, 0, False, False)


def test_an_answer_is_counted_once() -> None:
    net, order, _ = pending()
    for _ in range(3):
        assert net.give(0, result(quantity=3), origin=Keys(50).node_id)
    assert order.filled == 3


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("reason", ["gone", ""])
def test_an_owner_that_refuses_what_it_shows_is_not_asked_without_end(
    number: int, reason: str
) -> None:
    """Found by these tests: asked again at the speed of the network, and the order stood still."""
    net, order, _ = pending()
    refused = result(quantity=0, reason=reason, number=number)
    assert net.give(0, refused, origin=Keys(50).node_id)
    assert state(order) == (0, 0, 5, False, False)
    net.run(60.0)
    assert net[0].pending_takes == []
    assert net.book(0) == [(BUY, 100, 0, 1, 5)]


def test_an_order_that_comes_back_in_the_feed_after_a_refusal_is_asked_for() -> None:
    net, order, _ = pending()
    owner = Owner(50)
    owner.batch(Opened(1, SELL, 100, 5, EPOCH_US))
    assert net.give(0, result(quantity=0, reason="gone", number=2), origin=owner.id)
    assert net.give(0, owner.batch(Amended(1, 0)))
    assert net[0].pending_takes == []
    assert net.give(0, owner.batch(Amended(1, 3)))
    assert [take.quantity for take in net[0].pending_takes] == [3]
    assert state(order) == (0, 3, 2, False, False)


def test_an_owner_that_refuses_for_another_reason_is_left_alone_for_a_while() -> None:
    net, order, _ = pending()
    assert net.give(0, result(quantity=0, reason="stale_data"), origin=Keys(50).node_id)
    net.run(REFUSED_HOLD - 0.2)
    assert net[0].pending_takes == []
    net.run(0.5)
    assert [take.quantity for take in net[0].pending_takes] == [5]
    assert state(order) == (0, 5, 0, False, False)


def test_a_void_that_was_asked_for_frees_the_order_to_ask_again() -> None:
    net, order, _ = pending()
    net.run(13.0)
    assert net[0].pending_takes[0].void
    assert net.give(0, result(quantity=0, reason="void", number=1), origin=Keys(50).node_id)
    (take,) = net[0].pending_takes
    assert (take.take, take.void) == (FIRST_TAKE + 1, False)
    assert state(order) == (0, 5, 0, False, False)


def test_after_patience_an_undecided_take_is_void_and_its_late_copy_is_not_granted() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    late: list[Mail] = []

    def first_asks_are_slow(mail: Mail) -> list[Mail]:
        if mail.type == "take" and not mail.message.void:
            late.append(mail)
            return []
        return [mail]

    net.on_mail = first_asks_are_slow
    order = net.buy(1, 100, 5)
    net.run(14.0)
    assert late
    assert {mail.message.take for mail in late} >= {FIRST_TAKE}
    net.on_mail = lambda mail: [mail]
    for mail in late:
        net.deliver(mail)
        net.deliver(mail)
    net.settle()
    assert order.filled == 5
    assert len(net.fills(1)) == 1
    assert net.fills(1)[0].take > FIRST_TAKE
    net.check()


# Crossed resting orders


def crossed(skew_us: dict[int, int] | None = None) -> tuple[Network, Order, Order]:
    """A buy on node 0 and a sell on node 1, each placed before it heard of the other."""
    net = Network(3, skew_us=skew_us)
    buy, sell = net.buy(0, 101, 5), net.sell(1, 99, 7)
    assert (buy.shown, sell.shown) == (5, 7)
    return net, buy, sell


@pytest.mark.parametrize(
    ("skew", "taker", "price"),
    [({}, 1, 101), ({0: 1}, 0, 99), ({1: 1}, 1, 101), ({0: 1000}, 0, 99), ({1: -1}, 0, 99)],
)
def test_of_two_crossed_orders_exactly_the_later_asks(
    skew: dict[int, int], taker: int, price: int
) -> None:
    net, buy, sell = crossed(skew)
    net.exchange()
    assert [(m.sender, m.to) for m in net.sent if m.type == "take"] == [(taker, 1 - taker)]
    assert (buy.filled, sell.filled) == (5, 5)
    assert {fill.price for fill in (*net.fills(0), *net.fills(1))} == {price}
    net.settle()
    assert net.book(2) == [(SELL, 99, 1, 1, 2)]
    net.check()


def test_an_order_that_crosses_several_takes_the_earlier_and_waits_for_the_later() -> None:
    net = Network(3, skew_us={0: -50, 2: 50})
    early, mine, late = net.buy(0, 100, 3), net.sell(1, 100, 6), net.buy(2, 100, 3)
    net.exchange()
    asks = {(mail.sender, mail.to) for mail in net.sent if mail.type == "take"}
    assert asks == {(1, 0), (2, 1)}
    assert (early.filled, mine.filled, late.filled) == (3, 6, 3)
    net.settle()
    net.check()


def test_many_crossed_orders_are_uncrossed_without_a_coordinator() -> None:
    net = Network(4)
    for i, k in itertools.product(range(4), range(5)):
        net[i].submit(net.now, M, (BUY, SELL)[(i + k) % 2], 95 + (i * 7 + k * 3) % 11, 1 + k)
    net.settle()
    net.check()


# Clocks


def test_an_own_order_is_later_than_all_that_were_seen() -> None:
    net = Network(2, skew_us={0: 3_000_000})
    seen = net.sell(0, 100, 5)
    net.settle()
    own = net.sell(1, 100, 5)
    assert own.time > seen.time
    assert net[1].us(net.now) < seen.time + 8_000_001
    net.settle()
    assert [row[2] for row in net.book(1)] == [0, 1]
    one, two = net.sell(1, 100, 5), net.sell(1, 100, 5)
    assert one.time < two.time


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("ahead", [MAX_DRIFT_US, MAX_DRIFT_US + 1, 2**61])
def test_an_absurd_clock_does_not_drag_others_along(ahead: int, restart: bool) -> None:
    """Also not after a restart, which read the times back without judging them."""
    net = Network(1)
    now_us = net[0].us(net.now)
    time = min(now_us + ahead, 2**62 - 1)
    assert net.give(0, Owner(50).batch(Opened(1, SELL, 100, 5, time)))
    net.round()
    if restart:
        net.restart(0)
    own = net.sell(0, 100, 5)
    assert own.time == (time + 1 if ahead <= MAX_DRIFT_US else now_us)


def test_own_times_go_on_after_a_restart_though_the_clock_went_back() -> None:
    net = Network(1)
    before = net.sell(0, 100, 5)
    net.round()
    net.nodes[0].epoch_us -= 3_000_000
    net.restart(0)
    assert net.sell(0, 100, 5).time > before.time


# Restarting at every step of a take


FAULTS: dict[str, Callable[[Mail], list[Mail]]] = {
    "whole": lambda mail: [mail],
    "doubled": lambda mail: [mail, mail],
    "results lost": lost("take_result"),
    "takes lost": lost("take"),
    "feeds lost": lost("order", "trade"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("who", [(0,), (1,), (0, 1)], ids=["maker", "taker", "both"])
def test_a_node_killed_at_any_step_of_a_take_never_overfills_and_both_sides_agree(
    who: tuple[int, ...], step: int, phase: str, fault: str
) -> None:
    net = Network(2)
    net.sell(0, 100, 10)
    net.settle()
    steps = dict.fromkeys(who, 0)

    def killer(node: int, at: str) -> None:
        if node in steps and at == phase:
            steps[node] += 1
            if steps[node] == step + 1:
                raise Crash

    net.on_drain = killer
    net.on_mail = FAULTS[fault]
    net.buy(1, 100, 4)
    net.buy(1, 101, 3)
    for _ in range(5):
        net.round()
    net.run(0.6)
    net.on_mail = lambda mail: [mail]
    net.on_drain = lambda node, at: None
    for i in (0, 1):
        if net.nodes[i].engine is None:
            net.restart(i)
    net.run(25.0)
    net.check()
    sold = sum(fill.quantity for fill in net.fills(0))
    # What was not committed when the taker died was never acknowledged.
    assert sold in ((0, 7) if 1 in who and (step, phase) == (0, "before") else (7,))
    assert net.order(0, 1).filled == sold


def test_a_node_killed_on_a_real_disk_goes_on(tmp_path: Path) -> None:
    with closing(Network(2, path=tmp_path)) as net:
        net.sell(0, 100, 10)
        net.settle()
        net.on_mail = lost("take_result")
        net.buy(1, 100, 4, "mine")
        net.exchange()
        for i in (0, 1):
            net.kill(i)
        net.on_mail = lambda mail: [mail]
        for i in (0, 1):
            net.restart(i)
        net.run(12.0)
        assert net.book(0) == net.book(1) == [(SELL, 100, 0, 1, 6)]
        assert net.buy(1, 100, 4, "mine").filled == 4
        net.check()


def test_a_restarted_taker_asks_for_the_outcome_and_not_for_a_new_fill() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lost("take")
    net.buy(1, 100, 5)
    net.exchange()
    net.kill(1)
    net.on_mail = lambda mail: [mail]
    net.sent.clear()
    net.restart(1)
    assert net.book(1) == []
    net.exchange()
    first = next(mail.message for mail in net.sent if mail.type == "take")
    assert (first.take, first.void) == (FIRST_TAKE, True)
    net.settle()
    assert net.order(1, 1).filled == 5  # asked anew, as take 2
    net.check()


def test_an_unfinished_market_order_ends_after_a_restart() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.on_mail = lost("take")
    net.buy(1, None, 9)
    net.exchange()
    net.on_mail = lambda mail: [mail]
    net.restart(1)
    assert net.order(1, 1).pending == 5
    net.settle()
    assert net.order(1, 1).done
    net.check()


def test_numbers_go_on_after_a_restart() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    net.settle()
    net.buy(1, 100, 1)
    net.settle()
    for i in (0, 1):
        net.restart(i)
    net.settle()
    assert net.sell(0, 105, 1).number == 2
    net.buy(1, 100, 1)
    net.settle()
    first, second = (fill.take for fill in net.fills(1))
    assert second > first
    net.check()


def test_trades_and_orders_are_there_after_a_restart() -> None:
    net = Network(2)
    net.sell(0, 100, 5)
    done = net.buy(0, 100, 2)
    net.settle()
    for i in (0, 1):
        net.restart(i)
    net.settle()
    assert [len(net[i].markets[M].tape) for i in (0, 1)] == [1, 1]
    assert [order.number for order in net[0].open_orders] == [1]
    assert [order.number for order in net[0].recent_orders] == [done.number]


def test_a_market_that_is_not_configured_any_more_is_left_in_the_journal() -> None:
    net = Network(2, markets=(M, "ETH-USD"))
    net[0].submit(net.now, "ETH-USD", SELL, 100, 5)
    net.settle()
    net.on_mail = lost("take")
    net[1].submit(net.now, "ETH-USD", BUY, 100, 2)
    net.exchange()
    net.on_mail = lambda mail: [mail]
    net.markets = (M,)
    for i in (0, 1):
        net.restart(i)
    net.settle()
    assert net[0].open_orders == net[1].open_orders == net[1].pending_takes == []
    net.markets = (M, "ETH-USD")
    for i in (0, 1):
        net.restart(i)
    net.settle()
    (order,) = net[0].open_orders
    assert order.filled == 2
    assert len(net[1].markets["ETH-USD"].contents()) == 1
    net.check()


# An old copy of a data directory


def old_copy(events: int, *, later: int = 3) -> Network:
    """Node 0 is started again from what its journal held `later` orders ago."""
    net = Network(2)
    for i in range(events):
        net.sell(0, 100 + i, 5)
        net.exchange()
    past = net.nodes[0].store.recover()
    for i in range(later):
        net.sell(0, 200 + i, 5)
        net.exchange()
    net.kill(0)
    store = net.nodes[0].store
    net.nodes[0].store = type(store)()
    _put_all(net, past)
    return net


def _put_all(net: Network, past: Recovered) -> None:
    store = net.nodes[0].store
    store.commit([PutMeta(name, value) for name, value in past.meta.items()])
    store.commit(list(past.orders))
    for feed in past.feeds:
        if feed.snapshot is not None:
            store.commit([PutSnapshot(feed.owner, feed.market, feed.snapshot)])
        store.commit([PutBatch(feed.owner, batch) for batch in feed.batches])


@pytest.mark.parametrize("every", [1024, 4])
def test_an_old_copy_of_a_data_directory_is_noticed_and_writes_nothing(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what is missing can only be had as a snapshot, which was adopted as another's feed."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", every)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    net = old_copy(2, later=20)
    net.restart(0)
    net.settle()
    stale = net[0].stale
    assert stale is not None
    assert "old copy" in stale
    assert net.nodes[0].warnings == [stale]
    assert net.id(0) not in net[0].markets[M].replicas
    for command in (lambda: net.sell(0, 300, 1), lambda: net[0].cancel(net.now, 1)):
        with pytest.raises(Refused) as refused:
            command()
        assert (refused.value.code, refused.value.detail) == ("stale_data", stale)
    net.sent.clear()
    net.run(20.0)
    assert [mail.type for mail in net.sent if mail.sender == 0 and mail.type != "digest"] == []
    assert net[1].feeds[net.id(0), M].fault is None


def test_an_old_copy_that_wrote_before_it_was_noticed_stops_there() -> None:
    net = old_copy(2, later=3)
    net.nodes[0].warnings.clear()
    net._start(0)
    for i in range(5):  # alone, it gets further than the network
        net.sell(0, 300 + i, 1)
        net.drain(0)
    net.link(0)
    net.settle()
    assert net[1].feeds[net.id(0), M].fault is not None
    assert net.book(1) == []
    for held in net[1].feeds[net.id(0), M].batches.values():
        assert net.give(0, held.batch)
    assert net[0].stale is not None


def test_an_old_copy_answers_takes_with_a_refusal_and_takes_nothing_itself() -> None:
    net = old_copy(1, later=1)
    net.restart(0)
    net.settle()
    assert net[0].stale is not None
    refused = asked(net, ask(order=1, price=100))
    assert refused is not None
    assert (refused.quantity, refused.reason) == (0, "stale_data")
    net.buy(1, 99, 5)
    net.exchange()
    stranger = Owner(50)
    leases = Leases(stranger.keys, NETWORK, incarnation=1, lease_ms=600_000)
    assert net.give(0, leases.make(net.now, []))
    assert net.give(0, stranger.batch(Opened(1, BUY, 150, 5, 1)))
    net.run(1.0)
    assert net[0].markets[M].book.crossed
    assert net[0].pending_takes == []


def test_own_batches_that_come_back_are_no_sign_of_an_old_copy() -> None:
    net = Network(2)
    for i in range(3):
        net.sell(0, 100 + i, 5)
        net.exchange()
    net.sell(0, 110, 5)  # not signed yet
    for held in net[0].feeds[net.id(0), M].batches.values():
        assert net.give(0, held.batch)
    assert net[0].stale is None
    forged = replace(held.batch, signature=b"\x01" * 64)
    assert not net.give(0, forged)


# What strangers send


def test_a_market_that_only_others_trade_is_noted() -> None:
    net = Network(1)
    leases = Leases(Keys(50), NETWORK, incarnation=1, lease_ms=9000)
    assert net.give(0, leases.make(0.0, [("DOGE-USD", 3), (M, 0), ("x" * 500, 1)]))
    assert net[0].unknown_markets == {"DOGE-USD": Keys(50).node_id, "x" * 80: Keys(50).node_id}
    for k in range(3):
        assert net.give(0, leases.make(0.0, [(f"{k} {i}", 0) for i in range(900)]))
    assert len(net[0].unknown_markets) == MAX_UNKNOWN_MARKETS


def test_a_batch_of_a_market_that_is_not_traded_here_is_judged_and_not_kept() -> None:
    net = Network(1)
    batch = Owner(50, market="DOGE-USD").batch(Opened(1, SELL, 100, 5, 1))
    assert net.give(0, batch)
    assert not net.give(0, replace(batch, first=2))
    assert net.give(0, Owner(1, market="DOGE-USD").batch(Opened(1, SELL, 100, 5, 1)))  # our own key
    assert net[0].stale is None
    assert len(net[0].feeds) == 1


def test_a_forged_batch_leaves_nothing() -> None:
    net = Network(1)
    forged = replace(Owner(50).batch(Opened(1, SELL, 100, 5, 1)), signature=b"\x01" * 64)
    assert not net.give(0, forged)
    assert not net.give(0, replace(forged, key=b"k" * 100_000))
    assert len(net[0].feeds) == 1
    owner = Owner(50)
    assert net.give(0, owner.batch(Opened(1, SELL, 100, 5, 1)))
    more = owner.batch(Opened(2, SELL, 100, 5, 1))
    assert not net.give(0, replace(more, signature=b"\x01" * 64))
    assert net[0].feeds[owner.id, M].number == 1
    assert all(len(key) == 32 for key in net[0]._follower._ids)


def test_a_first_batch_that_is_at_fault_is_remembered_as_such() -> None:
    net = Network(1)
    owner = Owner(50)
    assert net.give(0, owner.lie(1, b"\x00" * 32, Closed(1, "x")))
    assert net[0].feeds[owner.id, M].fault is not None
    assert len(net.nodes[0].warnings) == 1
    assert net.book(0) == []


@pytest.mark.parametrize("kind", ["nonsense", "", "order", "take", "presence"])
@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x80", b"{}", b"\x81\xa3key\xa1\xff", b"\x91" * 5000]
)
def test_what_is_no_message_is_invalid(kind: str, payload: bytes) -> None:
    net = Network(1)
    assert not net[0].receive(net.now, kind, payload, "a", "b")


def test_text_that_is_not_utf8_is_invalid() -> None:
    """Found by these tests: it left `receive` as a UnicodeDecodeError."""
    net = Network(1)
    good = pack(ask())
    assert good.count(M.encode()) == 1
    assert not net[0].receive(net.now, "take", good.replace(M.encode(), b"\xff" * len(M)), "a", "b")


# What readers are told


def test_a_drain_tells_what_changed_once_and_in_copies() -> None:
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


def test_who_is_here_can_be_seen() -> None:
    net = Network(3)
    assert net[0].present == [net.id(1), net.id(2)]
    net.kill(1)
    net[0].neighbour_down(net.now, net.id(1))
    net.run(10.0)
    assert net[0].present == [net.id(2)]
