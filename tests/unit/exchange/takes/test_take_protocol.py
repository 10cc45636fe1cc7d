"""The two halves of a take, each alone: when the taker asks, what the maker remembers."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.model.records import Decision, PendingTake
from exchange.takes import take_protocol as settlement_module
from exchange.takes.take_protocol import (
    FEW_DECISIONS,
    PATIENCE,
    RESERVATION_US,
    RESERVED,
    RETRY,
    RETRY_MAX,
    PendingTakes,
    TakeDecisions,
    result_of,
)

replace = msgspec.structs.replace


def take(number: int, maker: str = "maker", order: int = 1) -> PendingTake:
    return PendingTake(number, "M", order, maker, 50 + number, 1, 100, 10)


def asked(taker: PendingTakes, now: float) -> list[int]:
    return [ask.take for _, ask in taker.due(now)]


# The taker


def test_a_take_is_requested_at_once_with_all_fields() -> None:
    taker = PendingTakes()
    taker.add(5.0, take(7, order=3))
    assert taker.due(5.0) == [("maker", Take(7, "M", 57, 3, 100, 10, 7, False))]


def test_nothing_is_requested_before_its_time() -> None:
    taker = PendingTakes()
    assert taker.due(5.0) == []
    taker.add(5.0, take(1))
    assert taker.due(4.9) == []


def test_requests_back_off_to_a_maximum() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1))
    times = []
    now = 0.0
    while now < 30.0:
        if asked(taker, now):
            times.append(now)
        now = round(now + 0.1, 1)
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(times)]
    assert gaps[:5] == [RETRY, 1.0, 2.0, 4.0, RETRY_MAX]
    assert set(gaps[5:]) == {RETRY_MAX}


def test_a_resolved_take_is_not_repeated() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1))
    taker.due(0.0)
    assert taker.resolve(1).take == 1
    assert asked(taker, 100.0) == []
    assert len(taker) == 0
    assert 1 not in taker
    assert taker.get(1) is None
    assert taker.pending == []
    assert taker._by_maker == {}
    with pytest.raises(KeyError):
        taker.resolve(1)


def test_pending_takes_are_found_by_order_and_maker() -> None:
    taker = PendingTakes()
    one, two, three = take(1, order=8), take(2, order=9), take(3, order=8)
    for t in (one, two, three):
        taker.add(0.0, t)
    assert len(taker) == 3
    assert 2 in taker
    assert taker.get(2) is two
    assert taker.pending == [one, two, three]
    assert taker.of_order(8) == [one, three]
    assert taker.of_order(10) == []


def test_below_is_the_oldest_take_that_is_open_with_this_maker() -> None:
    taker = PendingTakes()
    for number, maker in ((1, "a"), (2, "b"), (3, "a"), (4, "b")):
        taker.add(0.0, take(number, maker))
    assert [(m, a.take, a.below) for m, a in taker.due(0.0)] == [
        ("a", 1, 1),
        ("b", 2, 2),
        ("a", 3, 1),
        ("b", 4, 2),
    ]
    taker.resolve(1)
    taker.resolve(4)
    assert [(m, a.take, a.below) for m, a in taker.due(0.5)] == [("b", 2, 2), ("a", 3, 3)]


def test_a_newer_outcome_does_not_move_below_past_an_older_open_take() -> None:
    taker = PendingTakes()
    for number in (1, 2, 3):
        taker.add(0.0, take(number))
    taker.resolve(2)
    assert [(a.take, a.below) for _, a in taker.due(0.0)] == [(1, 1), (3, 1)]


def test_below_begins_anew_when_all_were_known() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1))
    taker.resolve(1)
    taker.add(1.0, take(9))
    assert [(a.take, a.below) for _, a in taker.due(1.0)] == [(9, 9)]


def test_patience_turns_into_void_and_stays_so() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1))
    voids = []
    now = 0.0
    while now < 25.0:
        voids += [(now, ask.void) for _, ask in taker.due(now)]
        now = round(now + 0.1, 1)
    assert [void for t, void in voids if t < PATIENCE] == [False] * 5
    assert [void for t, void in voids if t >= PATIENCE] == [True] * 3
    pending = taker.get(1)
    assert pending is not None
    assert pending.void


def test_void_is_exactly_after_patience() -> None:
    for late, void in ((PATIENCE - 0.01, False), (PATIENCE, True)):
        taker = PendingTakes()
        taker.add(1.0, take(1))
        assert [ask.void for _, ask in taker.due(1.0 + late)] == [void]


def test_a_void_is_requested_at_once_and_one_time() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1))
    taker.due(0.0)
    taker.void(0.1, 1)
    assert [(a.take, a.void) for _, a in taker.due(0.1)] == [(1, True)]
    taker.void(0.2, 1)
    assert taker.due(0.2) == []


def test_a_returning_maker_gets_the_take_at_once_and_the_backoff_restarts() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1, "a"))
    taker.add(0.0, take(2, "b"))
    for now in (0.0, 0.5, 1.5, 3.5):
        taker.due(now)
    taker.retry_now(4.0, "a")
    taker.retry_now(4.0, "nobody")
    assert asked(taker, 4.0) == [1]
    assert asked(taker, 4.4) == []
    assert asked(taker, 4.5) == [1]


def test_repeated_retries_at_one_time_send_one_take() -> None:
    taker = PendingTakes()
    taker.add(0.0, take(1))
    taker.due(0.0)
    for _ in range(3):
        taker.retry_now(0.2, "maker")
    assert asked(taker, 0.2) == [1]
    assert asked(taker, 0.2) == []


def test_takes_with_one_maker_are_sent_in_their_order() -> None:
    taker = PendingTakes()
    for number in range(1, 20):
        taker.add(3.0, take(number))
    assert asked(taker, 3.0) == list(range(1, 20))


GRANTED = TakeResult(7, "M", 57, 100, 10, 1000, 5)


@pytest.mark.parametrize(
    ("change", "plausible"),
    [
        ({}, True),
        ({"quantity": 9}, True),
        ({"quantity": 0, "reason": "gone"}, True),
        ({"quantity": 0, "reason": "r" * 64}, True),
        ({"number": 0}, True),
        ({"number": 2**62 - 1}, True),
        ({"time": 1}, True),
        ({"time": 2**62 - 1}, True),
        ({"quantity": 11}, False),
        ({"quantity": -1}, False),
        ({"price": 99}, False),
        ({"price": 101}, False),
        ({"market": "N"}, False),
        ({"order": 58}, False),
        ({"number": -1}, False),
        ({"number": 2**62}, False),
        ({"time": 0}, False),
        ({"time": 2**62}, False),
        ({"quantity": 0, "reason": "r" * 65}, False),
        ({"quantity": 0, "reason": "void"}, False),
    ],
    ids=str,
)
def test_plausible_and_implausible_answers(change: dict[str, Any], plausible: bool) -> None:
    assert PendingTakes.plausible(take(7), replace(GRANTED, **change)) is plausible


def test_void_is_plausible_only_after_a_request_for_it() -> None:
    refused = replace(GRANTED, quantity=0, reason="void")
    assert PendingTakes.plausible(replace(take(7), void=True), refused)
    assert PendingTakes.plausible(replace(take(7), void=True), GRANTED)  # it was decided before


# The maker


def decision(taker: str, number: int) -> Decision:
    return Decision(taker, number, "M", 1, 100, 10, 1000, 5, "")


def test_a_decision_is_remembered_by_taker_and_take() -> None:
    maker = TakeDecisions()
    maker.record(decision("a", 1))
    assert maker.decided("a", 1) == decision("a", 1)
    assert maker.decided("a", 2) is None
    assert maker.decided("b", 1) is None


def test_below_forgets_acknowledged_decisions_and_keeps_the_others() -> None:
    maker = TakeDecisions()
    for number in (1, 2, 3):
        maker.record(decision("a", number))
        maker.record(decision("b", number))
    assert maker.forget("a", 3)
    assert [maker.decided("a", n) is not None for n in (1, 2, 3)] == [False, False, True]
    assert all(maker.decided("b", n) is not None for n in (1, 2, 3))
    assert [maker.stale("a", n) for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert not maker.stale("b", 1)


def test_below_only_ever_grows() -> None:
    maker = TakeDecisions()
    assert maker.forget("a", 5)
    assert not maker.forget("a", 5)
    assert not maker.forget("a", 4)
    assert maker.stale("a", 4)
    assert maker.forget("a", 6)


def test_decisions_and_marks_are_restored() -> None:
    maker = TakeDecisions()
    maker.restore(0, [decision("a", 5), decision("a", 6), decision("b", 1)], {"a": 5})
    assert maker.decided("a", 6) == decision("a", 6)
    assert maker.decided("a", 5) is not None
    assert maker.stale("a", 4)
    assert not maker.stale("a", 5)
    assert not maker.forget("a", 5)


def test_decisions_for_all_takers_are_bounded_and_each_taker_still_gets_a_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement_module, "MAX_DECISIONS_ALL", 20)
    maker = TakeDecisions()

    def hoard(taker: str) -> int:
        """Return the number of decisions for a taker that never acknowledges."""
        number = 0
        while maker.answers(taker) and maker.decides(taker):
            number += 1
            maker.forget(taker, 1)
            maker.record(decision(taker, number))
        return number

    assert hoard("a") == 20
    assert [hoard(taker) for taker in "bcd"] == [FEW_DECISIONS] * 3
    assert not maker.decides("a")
    again = TakeDecisions()
    again.restore(0, [decision("a", n) for n in range(1, 21)], {"a": 1})
    assert not again.decides("a")
    again.forget("a", 19)  # it says what it knows, and there is room for everybody
    assert again.decides("a")
    assert again.decides("b")


def test_takers_are_bounded_and_those_known_are_still_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement_module, "MAX_TAKERS", 2)
    maker = TakeDecisions()
    for taker in "ab":
        assert maker.answers(taker)
        maker.forget(taker, 1)
    assert [maker.answers(taker) for taker in "abc"] == [True, True, False]


def test_the_answer_carries_the_decision() -> None:
    made = Decision("t", 7, "M", 57, 100, 3, 1234, 88, "why")
    assert result_of(made) == TakeResult(7, "M", 57, 100, 3, 1234, 88, "why")


# Fill-or-kill: the taker


def reserving(number: int) -> PendingTake:
    return replace(take(number), phase="reserve")


def test_a_reservation_is_requested_then_only_the_commit_is_repeated() -> None:
    taker = PendingTakes()
    taker.add(0.0, reserving(1))
    ((_, ask),) = taker.due(0.0)
    assert ask.phase == "reserve"
    taker.granted(1)
    taker.retry_now(1.0, "maker")
    assert taker.due(100.0) == []
    taker.commit(100.0, 1)
    taker.void(100.0, 1)  # too late
    for now in (100.0, 200.0, 300.0):
        ((_, ask),) = taker.due(now)
        assert (ask.phase, ask.void) == ("commit", False)


def test_a_reservation_that_is_granted_can_be_given_up() -> None:
    taker = PendingTakes()
    taker.add(0.0, reserving(1))
    taker.due(0.0)
    taker.granted(1)
    taker.void(5.0, 1)
    ((_, ask),) = taker.due(5.0)
    assert (ask.phase, ask.void) == ("reserve", True)


@pytest.mark.parametrize(
    ("phase", "quantity", "reason", "plausible"),
    [
        ("", 10, RESERVED, False),
        ("", 10, "", True),
        ("reserve", 10, RESERVED, True),
        ("reserve", 9, RESERVED, False),
        ("reserve", 10, "", False),
        ("granted", 10, "", False),
        ("granted", 0, "expired", True),
        ("commit", 10, RESERVED, True),
        ("commit", 10, "", True),
        ("commit", 0, "expired", True),
        ("commit", 11, "", False),
    ],
)
def test_plausible_answers_by_phase(
    phase: Any, quantity: int, reason: str, plausible: bool
) -> None:
    pending = replace(take(1), phase=phase)
    answer = TakeResult(1, "M", 51, 100, quantity, 1, 1, reason)
    assert PendingTakes.plausible(pending, answer) == plausible


def test_takes_are_found_by_order_and_by_maker() -> None:
    taker = PendingTakes()
    for number, order, maker in ((1, 5, "a"), (2, 6, "a"), (3, 5, "b")):
        taker.add(0.0, take(number, maker, order))
    assert [t.take for t in taker.of_order(5)] == [1, 3]
    assert [t.take for t in taker.of_maker("a")] == [1, 2]
    taker.resolve(1)
    assert [t.take for t in taker.of_order(5)] == [3]
    taker.resolve(3)
    assert (taker.of_order(5), taker.of_maker("b")) == ([], [])


# Fill-or-kill: the maker


def reserved(number: int, until: int, taker: str = "taker") -> Decision:
    return Decision(taker, number, "M", 1, 100, 10, 1, 1, RESERVED, until)


def test_reservations_end_in_time_unless_they_are_decided() -> None:
    maker = TakeDecisions()
    for number in (1, 2, 3):
        maker.record(reserved(number, 100 * number))
    maker.record(replace(reserved(1, 100), reason=""))
    assert maker.ended(199) == []
    assert [d.take for d in maker.ended(200)] == [2]
    assert [d.take for d in maker.ended(300)] == [2, 3]  # until they are decided
    maker.record(replace(reserved(2, 200), quantity=0, reason="expired"))
    assert [d.take for d in maker.reservations] == [3]
    decision = maker.decided("taker", 2)
    assert decision is not None
    assert decision.reason == "expired"


def test_reservations_end_in_the_same_order_after_a_restart() -> None:
    maker = TakeDecisions()
    maker.restore(50, [reserved(1, 300), reserved(2, 100), reserved(3, 200)], {})
    assert [d.take for d in maker.ended(250)] == [2, 3]


@pytest.mark.parametrize("hours", [-1, 24])
def test_reservations_get_their_time_again_when_the_clock_was_set(hours: int) -> None:
    before = 1_000_000_000_000
    now = before + hours * 3_600_000_000
    maker = TakeDecisions()
    maker.restore(now, [reserved(1, before + 5), reserved(2, before + 9), decision("a", 3)], {})
    assert maker.ended(now + RESERVATION_US - 1) == []
    assert [d.take for d in maker.ended(now + RESERVATION_US)] == [1, 2]


def test_a_reservation_outlives_an_early_acknowledgement() -> None:
    maker = TakeDecisions()
    maker.record(reserved(1, 100))
    maker.forget("taker", 50)
    assert [d.take for d in maker.ended(100)] == [1]
    maker.drop(reserved(1, 100))
    assert maker.reservations == []
    assert maker.decided("taker", 1) is None
    maker.drop(reserved(1, 100))
