"""Whole nodes: taking from others, answers that cannot be, crossed orders, clocks."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_kit import (
    ask,
    asked,
    crossed,
    lost,
    maker,
    pending,
    result,
    state,
    taken,
    takes_of,
)
from exchange_kit import EPOCH_US, FIRST_TAKE, Keys, M, Mail, Network, Owner, submit

from exchange.feeds.exchange_messages import TakeResult
from exchange.model.events import BUY, MAX_ORDER, MAX_PRICE, MAX_QUANTITY, SELL, Amended, Opened
from exchange.model.ports import Send
from exchange.model.records import PendingTake
from exchange.orders.engine_context import MAX_DRIFT_US
from exchange.takes import take_protocol as settlement_module
from exchange.takes.taker_side import REFUSED_HOLD

replace = msgspec.structs.replace


# Taking


def test_a_take_is_requested_granted_and_recorded_on_both_sides() -> None:
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


def test_intent_and_decision_are_durable_before_their_messages() -> None:
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
    assert takes_of(net, 3) == [(2, 1, 100), (0, 2, 100), (1, 1, 100), (0, 3, 100), (0, 1, 101)]


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


def test_a_refused_quantity_is_taken_from_another_owner() -> None:
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


def test_a_refusal_that_overtakes_the_feed_is_not_followed_by_another_take() -> None:
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


def test_a_repeated_take_is_decided_once() -> None:
    net = Network(2)
    net.sell(0, 100, 10)
    net.settle()
    net.on_mail = lambda mail: [mail] * 3 if mail.type in ("take", "take_result") else [mail]
    order = net.buy(1, 100, 4)
    net.settle()
    assert order.filled == 4
    assert net.book(0) == [(SELL, 100, 0, 1, 6)]
    net.check()


def test_an_answer_has_the_granted_quantity_and_the_feed_number() -> None:
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
    net[0].orders.cancel(net.now, 1)
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


def test_a_taker_that_never_acknowledges_gets_a_bounded_number_of_answers(
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


@pytest.mark.parametrize(
    "change", [{"quantity": 6}, {"price": 99}, {"order": 2}, {"quantity": 0, "reason": "void"}]
)
def test_an_answer_that_cannot_be_is_invalid_and_changes_nothing(change: dict[str, Any]) -> None:
    net, order, _ = pending()
    assert not net.give(0, result(**change), origin=Keys(50).node_id)
    assert state(order) == (0, 5, 0, False, False)
    assert "impossible values" in net.nodes[0].warnings[-1]
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
def test_an_owner_that_refuses_displayed_orders_gets_a_bounded_number_of_requests(
    number: int, reason: str
) -> None:
    """Found by these tests: asked again at the speed of the network, and the order stood still."""
    net, order, _ = pending()
    refused = result(quantity=0, reason=reason, number=number)
    assert net.give(0, refused, origin=Keys(50).node_id)
    assert state(order) == (0, 0, 5, False, False)
    net.run(60.0)
    assert net[0].orders.takes.pending == []
    assert net.book(0) == [(BUY, 100, 0, 1, 5)]


def test_an_order_that_returns_to_the_feed_after_a_refusal_is_taken_again() -> None:
    net, order, _ = pending()
    owner = Owner(50)
    owner.batch(Opened(1, SELL, 100, 5, EPOCH_US))
    assert net.give(0, result(quantity=0, reason="gone", number=2), origin=owner.id)
    assert net.give(0, owner.batch(Amended(1, 0)))
    assert net[0].orders.takes.pending == []
    assert net.give(0, owner.batch(Amended(1, 3)))
    assert [take.quantity for take in net[0].orders.takes.pending] == [3]
    assert state(order) == (0, 3, 2, False, False)


def test_an_owner_that_refuses_for_another_reason_is_left_alone_for_a_while() -> None:
    net, order, _ = pending()
    assert net.give(0, result(quantity=0, reason="stale_data"), origin=Keys(50).node_id)
    net.run(REFUSED_HOLD - 0.2)
    assert net[0].orders.takes.pending == []
    net.run(0.5)
    assert [take.quantity for take in net[0].orders.takes.pending] == [5]
    assert state(order) == (0, 5, 0, False, False)


def test_a_requested_void_frees_the_order_for_another_take() -> None:
    net, order, _ = pending()
    net.run(13.0)
    assert net[0].orders.takes.pending[0].void
    assert net.give(0, result(quantity=0, reason="void", number=1), origin=Keys(50).node_id)
    (take,) = net[0].orders.takes.pending
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


@pytest.mark.parametrize(
    ("skew", "taker", "price"),
    [({}, 1, 101), ({0: 1}, 0, 99), ({1: 1}, 1, 101), ({0: 1000}, 0, 99), ({1: -1}, 0, 99)],
)
def test_of_two_crossed_orders_exactly_the_later_takes(
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


def test_what_a_later_order_will_take_is_not_requested_of_another_as_well() -> None:
    net = Network(3)
    net.settle()
    net.sell(2, 100, 5)
    earlier = net.drain(2)
    net.now += 1.0
    bid = net.buy(0, 100, 5)
    net.drain(0)
    net.now += 1.0
    net.sell(1, 99, 5)  # it has not seen the bid: it will take from it when it does
    for mail in [*net.drain(1), *earlier]:
        if mail.to == 0:
            net.deliver(mail)
    assert [level[:3] for level in net.book(0)].count((SELL, 100, 2)) == 1
    assert [mail.type for mail in net.drain(0) if mail.type == "take"] == []
    assert state(bid) == (0, 0, 5, False, False)


def test_many_crossed_orders_are_uncrossed_without_a_coordinator() -> None:
    net = Network(4)
    for i, k in itertools.product(range(4), range(5)):
        submit(net[i], net.now, M, (BUY, SELL)[(i + k) % 2], 95 + (i * 7 + k * 3) % 11, 1 + k)
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


def test_the_first_take_of_all_is_its_own_mark_and_is_answered() -> None:
    net = Network(1)
    net.sell(0, 100, 5)
    answer = asked(net, ask(take=1, below=1, quantity=2))
    assert answer is not None
    assert answer.quantity == 2
    assert not net.give(0, ask(take=2, below=3), origin=Keys(99).node_id)
    assert not net.give(0, ask(take=2, below=0), origin=Keys(99).node_id)


def test_the_longest_names_that_there_can_be_are_answered() -> None:
    net = maker()
    net.round()
    answer = asked(net, ask(market="m" * 80), taker="t" * 64)
    assert answer is not None
    assert answer.reason == "unknown_market"
    assert not net.give(0, ask(), origin="t" * 65)
