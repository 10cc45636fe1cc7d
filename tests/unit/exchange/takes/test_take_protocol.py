"""The two halves of a take, each alone: when the taker asks, what the maker remembers."""

from __future__ import annotations

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


def test_requests_are_complete_and_back_off_until_patience_makes_them_void() -> None:
    taker = PendingTakes(Clocks())
    taker.add(5.0, take(7, order=3))
    assert taker.due(4.9) == []
    asks = [(t / 10, ask) for t in range(50, 300) for _, ask in taker.due(t / 10)]
    assert asks[0] == (5.0, Take(7, "M", 57, 3, 100, 10, 7, void=False))
    assert [t - 5 for t, _ in asks] == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 22.5]
    assert [ask.void for _, ask in asks] == [False] * 5 + [True] * 3
    for late, void in ((PATIENCE - 0.01, False), (PATIENCE, True)):
        taker = PendingTakes(Clocks())
        taker.add(1.0, take(1))
        assert [ask.void for _, ask in taker.due(1.0 + late)] == [void]


@pytest.mark.parametrize(
    ("clock", "until", "expected"),
    [
        ((7, 100), (7, 104), 15.0),
        ((7, 104), (7, 104), 3.0),
        ((8, 100), (7, 104), 3.0),
        ((7, 100), None, None),
        (None, (7, 104), None),
    ],
)
def test_the_expected_end_is_that_of_the_last_take(
    clock: Clock | None, until: Clock | None, expected: float | None
) -> None:
    taker = PendingTakes(Clocks({"maker": clock} if clock else {}, fast=(7, 104)))
    assert taker.expected_end(1, 3.0) == 0
    taker.add(0.0, replace(take(1), until=until))
    taker.add(0.0, replace(take(2, "fast"), until=(7, 104)))
    taker.add(0.0, replace(take(3, "fast", order=2), until=(7, 190)))
    assert taker.expected_end(1, 3.0) == expected


@pytest.mark.parametrize(
    ("clock", "market", "then", "ending"),
    [
        ((7, 104), "M", "", []),
        ((7, 105), "M", "", [9]),
        ((8, 100), "M", "", [9]),
        ((7, 105), "N", "", []),
        ((7, 105), "M", "filled by another", [9]),
        ((7, 105), "M", "filled", []),
        ((7, 105), "M", "granted", []),
        ((7, 105), "M", "commit", []),
        ((7, 105), "M", "end", []),
    ],
)
def test_a_take_ends_when_its_maker_has_signed_a_later_time(
    clock: Clock, market: str, then: str, ending: list[int]
) -> None:
    clocks = Clocks(maker=(7, 104))
    taker = PendingTakes(clocks)
    taker.add(0.0, replace(take(1), until=(7, 104)))
    taker.add(0.0, take(2))  # without an end
    clocks["maker"] = clock
    taker.signed("nobody", [("M", 9)])
    taker.signed("maker", [(market, 9)])
    taker.signed("maker", [(market, 12)])  # the first one counts
    match then:
        case "filled":
            taker.filled("maker", 1)
        case "filled by another":
            taker.filled("another", 1)
            taker.filled("maker", 77)
        case "granted":
            taker.granted(1)
        case "commit":
            taker.commit(0.0, 1)
        case "end":
            taker.end(1)
            assert (taker.is_late("maker", 1), taker.is_late("another", 1)) == (True, False)
    assert [head for _, head in taker.ending()] == ending
    taker.resolve(1)
    assert taker.ending() == []


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


@pytest.mark.parametrize(
    ("phase", "quantity", "reason", "plausible"),
    [
        ("", 10, RESERVED, False),
        ("reserve", 10, RESERVED, True),
        ("reserve", 9, RESERVED, False),
        ("reserve", 10, "", False),
        ("granted", 10, "", False),
        ("granted", 0, "expired", True),
        ("given_up", 1, "", False),
        ("commit", 10, RESERVED, True),
        ("commit", 10, "", True),
        ("commit", 11, "", False),
        ("void", 0, "void", True),
        ("void", 10, "", True),
    ],
)
def test_plausible_answers_by_phase(
    phase: Any, quantity: int, reason: str, plausible: bool
) -> None:
    void = phase == "void"
    pending = replace(take(7), void=void, phase="" if void else phase)
    answer = replace(GRANTED, quantity=quantity, reason=reason)
    assert PendingTakes.plausible(pending, answer) is plausible


# The maker


SOON, FAR = (7, 5), (7, 1000)  # ends of takes


def taken(until: Any, phase: Any = "") -> Take:
    return Take(1, "M", 1, 1, 100, 10, 1, phase=phase, until=until)


def test_takers_that_filled_are_bounded_and_those_known_are_still_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement_module, "MAX_TAKERS", 4)
    maker = TakeDecisions(Clocks())
    for taker, end in (("a", msgspec.UNSET), ("b", FAR), ("c", SOON), ("d", SOON)):
        assert maker.answers(taker, taken(end))
        assert maker.record(decision(taker, 5), end)
        assert [maker.forget(taker, 6), maker.forget(taker, 4)] == [True, False]
        assert maker.stale(taker, 5)
        if taker == "b":  # half of the places are for takes that end
            takes = taken(msgspec.UNSET), taken(FAR), taken(SOON, "reserve"), taken(SOON)
            assert [maker.answers("x", take) for take in takes] == [False, False, False, True]
    assert [maker.answers(taker, taken(SOON)) for taker in "abcde"] == [True] * 4 + [False]


def test_refused_takers_make_room_and_a_copy_of_their_takes_is_never_decided_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement_module, "MAX_TAKERS", 2)
    monkeypatch.setattr(settlement_module, "MAX_PASSING", 2)
    maker = TakeDecisions(Clocks())
    for i in range(20):
        assert maker.answers(f"key {i}", taken((7, 3 + i)))
        assert not maker.is_late(f"key {i}", (7, 3 + i))
        assert not maker.forget(f"key {i}", 1)  # nothing of it gets into the journal
        refused = replace(decision(f"key {i}", 1), quantity=0, reason="gone")
        assert not maker.record(refused, (7, 3 + i))
    assert [maker.decided(f"key {i}", 1) is None for i in (16, 17, 18, 19)] == [1, 1, 0, 0]
    assert [maker.is_late("key 17", (7, end)) for end in (20, 21)] == [True, False]
    assert maker.record(decision("key 17", 2), (7, 21))  # it is kept for good from now on
    assert [maker.is_late("key 17", (7, end)) for end in (20, 21)] == [True, False]


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
        while maker.answers(taker, taken(msgspec.UNSET)) and maker.decides(taker):
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


def test_reservations_end_in_time_unless_they_are_decided() -> None:
    maker = TakeDecisions(Clocks())
    for number in (1, 2, 3):
        maker.record(reserved(number, 100 * number))
    maker.record(replace(reserved(1, 100), reason=""))
    assert [[d.take for d in maker.ended(now)] for now in (199, 200, 300)] == [[], [2], [2, 3]]
    maker.record(replace(reserved(2, 200), quantity=0, reason="expired"))
    assert ([d.take for d in maker.reservations], maker.reserving) == ([3], True)
    decided = maker.decided("taker", 2)
    assert decided is not None
    assert decided.reason == "expired"


def test_a_reservation_outlives_an_early_acknowledgement() -> None:
    maker = TakeDecisions(Clocks())
    maker.record(reserved(1, 100))
    maker.forget("taker", 50)
    assert [d.take for d in maker.ended(100)] == [1]
    maker.drop(reserved(1, 100))
    assert maker.reservations == []
    assert maker.decided("taker", 1) is None
    maker.drop(reserved(1, 100))
