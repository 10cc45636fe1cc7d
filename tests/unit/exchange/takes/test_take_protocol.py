"""The two halves of a take, each alone: when the taker asks, what the maker remembers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from exchange.feeds.exchange_messages import TakeResult
from exchange.model.records import Decision, PendingTake
from exchange.takes import take_protocol as settlement_module
from exchange.takes.take_protocol import (
    FEW_DECISIONS,
    RESERVATION_US,
    RESERVED,
    Clock,
    PendingTakes,
    TakeDecisions,
)

replace = msgspec.structs.replace


class Clocks(dict[str, Clock]):
    """Clocks of other owners, and this node's own."""

    own_clock = (7, 1)
    renewal = 3.0

    def clock(self, owner: str) -> Clock | None:
        return self.get(owner)


def take(number: int, maker: str = "maker", order: int = 1) -> PendingTake:
    return PendingTake(number, "M", order, maker, 50 + number, 1, 100, 10)


def asked(taker: PendingTakes, now: float) -> list[int]:
    return [ask.take for _, ask in taker.due(now)]


# The taker


def test_a_resolved_take_is_not_repeated() -> None:
    taker = PendingTakes(Clocks())
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
    taker = PendingTakes(Clocks())
    one, two, three = take(1, order=8), take(2, order=9), take(3, order=8)
    for t in (one, two, three):
        taker.add(0.0, t)
    assert len(taker) == 3
    assert 2 in taker
    assert taker.get(2) is two
    assert taker.pending == [one, two, three]
    assert taker.of_order(8) == [one, three]
    assert taker.of_order(10) == []


def test_a_newer_outcome_does_not_move_below_past_an_older_open_take() -> None:
    taker = PendingTakes(Clocks())
    for number in (1, 2, 3):
        taker.add(0.0, take(number))
    taker.resolve(2)
    assert [(a.take, a.below) for _, a in taker.due(0.0)] == [(1, 1), (3, 1)]


def test_repeated_retries_at_one_time_send_one_take() -> None:
    taker = PendingTakes(Clocks())
    taker.add(0.0, take(1))
    taker.due(0.0)
    for _ in range(3):
        taker.retry_now(0.2, "maker")
    assert asked(taker, 0.2) == [1]
    assert asked(taker, 0.2) == []


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
        ({"price": 99}, False),
        ({"price": 101}, False),
        ({"market": "N"}, False),
        ({"order": 58}, False),
        ({"quantity": 0, "reason": "void"}, False),
    ],
    ids=str,
)
def test_plausible_and_implausible_answers(change: dict[str, Any], plausible: bool) -> None:
    assert PendingTakes.plausible(take(7), replace(GRANTED, **change)) is plausible


# The maker


def decision(taker: str, number: int) -> Decision:
    return Decision(taker, number, "M", 1, 100, 10, 1000, 5, "")


def test_below_forgets_acknowledged_decisions_and_keeps_the_others() -> None:
    maker = TakeDecisions(Clocks())
    for number in (1, 2, 3):
        maker.record(decision("a", number))
        maker.record(decision("b", number))
    assert maker.forget("a", 3)
    assert [maker.decided("a", n) is not None for n in (1, 2, 3)] == [False, False, True]
    assert all(maker.decided("b", n) is not None for n in (1, 2, 3))
    assert [maker.stale("a", n) for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert not maker.stale("b", 1)


def test_decisions_and_marks_are_restored() -> None:
    maker = TakeDecisions(Clocks())
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
    maker = TakeDecisions(Clocks())

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
    again = TakeDecisions(Clocks())
    again.restore(0, [decision("a", n) for n in range(1, 21)], {"a": 1})
    assert not again.decides("a")
    again.forget("a", 19)  # it says what it knows, and there is room for everybody
    assert again.decides("a")
    assert again.decides("b")


# Fill-or-kill: the taker


def reserving(number: int) -> PendingTake:
    return replace(take(number), phase="reserve")


def test_a_reservation_is_requested_then_only_the_commit_is_repeated() -> None:
    taker = PendingTakes(Clocks())
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


# Fill-or-kill: the maker


def reserved(number: int, until: int, taker: str = "taker") -> Decision:
    return Decision(taker, number, "M", 1, 100, 10, 1, 1, RESERVED, until)


def test_reservations_end_in_the_same_order_after_a_restart() -> None:
    maker = TakeDecisions(Clocks())
    maker.restore(50, [reserved(1, 300), reserved(2, 100), reserved(3, 200)], {})
    assert [d.take for d in maker.ended(250)] == [2, 3]


@pytest.mark.parametrize("hours", [-1, 24])
def test_reservations_get_their_time_again_when_the_clock_was_set(hours: int) -> None:
    before = 1_000_000_000_000
    now = before + hours * 3_600_000_000
    maker = TakeDecisions(Clocks())
    maker.restore(now, [reserved(1, before + 5), reserved(2, before + 9), decision("a", 3)], {})
    assert maker.ended(now + RESERVATION_US - 1) == []
    assert [d.take for d in maker.ended(now + RESERVATION_US)] == [1, 2]


def test_a_reservation_outlives_an_early_acknowledgement() -> None:
    maker = TakeDecisions(Clocks())
    maker.record(reserved(1, 100))
    maker.forget("taker", 50)
    assert [d.take for d in maker.ended(100)] == [1]
    maker.drop(reserved(1, 100))
    assert maker.reservations == []
    assert maker.decided("taker", 1) is None
    maker.drop(reserved(1, 100))
