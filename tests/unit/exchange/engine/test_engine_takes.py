"""Whole nodes: taking from others, answers that cannot be, crossed orders, clocks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engine_kit import (
    ask,
    asked,
    maker,
    pending,
    result,
    state,
)
from exchange_kit import DOGE, ETH, FIRST_TAKE, Keys, M, Network, Owner

from exchange.feeds.exchange_messages import TakeResult
from exchange.model.events import BUY, SELL, Opened
from exchange.model.peer_values import MAX_ORDER, MAX_PRICE, MAX_QUANTITY
from exchange.orders.engine_context import MAX_DRIFT_US
from exchange.takes import take_protocol as settlement_module
from exchange.takes.taker_side import REFUSED_HOLD

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
        ({"market": ETH}, "gone"),
        ({"market": DOGE}, "unknown_market"),
        ({"void": True}, "void"),
        ({"until": (0, 0)}, "late"),
    ],
    ids=str,
)
def test_a_refusal_has_its_reason_and_is_remembered(change: dict[str, Any], reason: str) -> None:
    net = Network(1, markets=(M, ETH))
    net.sell(0, 100, 10)
    net.settle()
    refused = asked(net, ask(**change))
    assert refused is not None
    assert (refused.quantity, refused.reason) == (0, reason)
    for again in (ask(**change), ask()):  # also when it could be granted now
        assert asked(net, again) == refused
    net.restart(0)
    again = asked(net, ask(**change) if "until" in change else ask())
    assert again is not None
    assert (again.quantity, again.reason) == (0, reason)
    assert net.book(0) == [(SELL, 100, 0, 1, 10)]


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
        {"until": (-1, 9)},
        {"until": (9, 2**62)},
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
    monkeypatch.setattr(settlement_module, "MAX_TAKERS", 2)
    net = maker()
    first, second = Keys(97).node_id, Keys(98).node_id
    assert asked(net, ask(take=1, quantity=1), taker=first) is not None
    net.round()
    assert asked(net, ask(take=1, quantity=1), taker=second) is None
    assert net[0].drain(net.now).records == []
    assert asked(net, ask(take=2, quantity=1), taker=first) is not None


def test_refused_free_keys_shut_out_no_newcomer_also_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("MAX_TAKERS", "MAX_PASSING"):
        monkeypatch.setattr(settlement_module, limit, 2, raising=False)
    net = maker()
    for start in (60, 70):
        incarnation, renewals = net[0]._leases.own_clock
        for i in range(8):
            gone = ask(order=2, until=(incarnation, renewals + 1 + i))
            refused = asked(net, gone, taker=Keys(start + i).node_id)
            assert refused is not None
            assert refused.reason == "gone"
        newcomer = ask(quantity=2, until=(incarnation, renewals + 9))
        granted = asked(net, newcomer, taker=Keys(start + 9).node_id)
        assert granted is not None
        assert granted.quantity == 2
        net.restart(0)
        net.settle()
    assert net.nodes[0].store.recover().marks == {}


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


# Crossed resting orders


def test_an_order_that_crosses_several_takes_the_earlier_and_waits_for_the_later() -> None:
    net = Network(3, skew_us={0: -50, 2: 50})
    early, mine, late = net.buy(0, 100, 3), net.sell(1, 100, 6), net.buy(2, 100, 3)
    net.exchange()
    asks = {(mail.sender, mail.to) for mail in net.sent if mail.type == "take"}
    assert asks == {(1, 0), (2, 1)}
    assert (early.filled, mine.filled, late.filled) == (3, 6, 3)
    net.settle()
    net.check()


# Clocks


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
    answer = asked(
        net, ask(market="A" * 12 + "-" + "B" * 12 + "@0.1/0.000000000001"), taker="t" * 64
    )
    assert answer is not None
    assert answer.reason == "unknown_market"
