"""Stops and trailing stops: what a trade triggers, in which order, and that none is looked at in vain."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.market.triggers import Triggers

BUY, SELL = 1, -1


def test_the_stop_that_the_market_reaches_first_comes_first_then_the_earlier_order() -> None:
    waiting = Triggers()
    for number, stop in ((5, 112), (4, 110), (3, 112), (6, 115)):
        waiting.add(number, BUY, stop)
    for number, stop in ((10, 88), (9, 90), (8, 88), (11, 80)):
        waiting.add(number, SELL, stop)
    assert waiting.on_trade(114) == [4, 3, 5]
    assert waiting.on_trade(85) == [9, 8, 10]


def test_plain_and_trailing_stops_are_triggered_in_one_order() -> None:
    waiting = Triggers()
    waiting.add(1, SELL, 94)
    waiting.add_trailing(2, SELL, 5, 100)
    waiting.add_trailing(3, SELL, 8, 101)
    waiting.add(4, SELL, 95)
    assert waiting.on_trade(93) == [2, 4, 1, 3]


def test_without_any_price_the_first_trade_sets_the_stop() -> None:
    waiting = Triggers()
    waiting.add_trailing(1, SELL, 10, None)
    waiting.add_trailing(2, BUY, 10, None)
    assert waiting.stop_of(1) is None
    assert waiting.trailing() == {}
    assert waiting.on_trade(50) == []
    assert waiting.trailing() == {1: 40, 2: 60}


def test_removed_and_amended_stops_are_not_triggered() -> None:
    waiting = Triggers()
    waiting.add(1, BUY, 110)
    waiting.add(2, BUY, 110)
    waiting.add_trailing(3, SELL, 5, 100)
    waiting.add_trailing(4, SELL, 5, 100)
    waiting.remove(1)
    waiting.amend(2, stop=120)
    waiting.remove(3)
    waiting.amend(4, trailing_offset=20)
    assert 1 not in waiting
    assert 2 in waiting
    assert (waiting.stop_of(2), waiting.stop_of(4)) == (120, 80)
    assert waiting.on_trade(90) == []
    assert waiting.on_trade(110) == []
    assert waiting.stop_of(4) == 90
    assert waiting.on_trade(90) == [4]
    assert waiting.on_trade(120) == [2]


def test_invalid_arguments_are_rejected_and_change_nothing() -> None:
    waiting = Triggers()
    waiting.add(1, BUY, 110)
    waiting.add_trailing(2, SELL, 5, 100)
    calls: list[Callable[[], None]] = [
        lambda: waiting.add(1, SELL, 90),
        lambda: waiting.add_trailing(1, SELL, 5, 100),
        lambda: waiting.add(3, 0, 90),
        lambda: waiting.add_trailing(3, SELL, 0, 100),
        lambda: waiting.amend(1, trailing_offset=3),
        lambda: waiting.amend(2, stop=3),
        lambda: waiting.amend(2, trailing_offset=0),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
    for number in (3, 4):
        with pytest.raises(KeyError):
            waiting.remove(number)
        with pytest.raises(KeyError):
            waiting.stop_of(number)
    assert len(waiting) == 2
    assert waiting.on_trade(110) == [1]
    assert waiting.on_trade(105) == [2]


class Naive:
    """The same, looking at each order on each trade."""

    def __init__(self) -> None:
        self.stops: dict[int, tuple[int, int]] = {}  # number -> side, stop
        self.trails: dict[int, tuple[int, int, list[int]]] = {}  # side, distance, prices seen

    def stop_of(self, number: int) -> int | None:
        if number in self.stops:
            return self.stops[number][1]
        side, trailing_offset, prices = self.trails[number]
        if not prices:
            return None
        return max(prices) - trailing_offset if side == SELL else min(prices) + trailing_offset

    def on_trade(self, price: int) -> list[int]:
        found = []
        for _, _, prices in self.trails.values():
            prices.append(price)
        for number in [*self.stops, *self.trails]:
            side = (self.stops.get(number) or self.trails[number])[0]
            stop = self.stop_of(number)
            assert stop is not None
            if side * price >= side * stop:
                found.append((-side, side * stop, number))
        for *_, number in sorted(found):
            self.remove(number)
        return [number for *_, number in sorted(found)]

    def remove(self, number: int) -> None:
        if self.stops.pop(number, None) is None:
            del self.trails[number]


PRICES = st.integers(1, 40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), PRICES, st.just(0), st.just(0)),
        st.tuples(st.just("stop"), st.sampled_from([BUY, SELL]), PRICES, st.just(0)),
        st.tuples(
            st.just("trailing_offset"), st.sampled_from([BUY, SELL]), st.integers(1, 15), PRICES
        ),
        st.tuples(st.just("unknown"), st.sampled_from([BUY, SELL]), st.integers(1, 15), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 99), st.just(0), st.just(0)),
        st.tuples(st.just("amend"), st.integers(0, 99), st.integers(1, 30), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_any_sequence_does_as_one_that_looks_at_every_order(
    steps: list[tuple[str, int, int, int]],
) -> None:
    waiting, naive = Triggers(), Naive()
    for number, (what, a, b, c) in enumerate(steps):
        known = [*naive.stops, *naive.trails]
        if what == "trade":
            assert waiting.on_trade(a) == naive.on_trade(a)
        elif what == "stop":
            waiting.add(number, a, b)
            naive.stops[number] = a, b
        elif what in ("trailing_offset", "unknown"):
            waiting.add_trailing(number, a, b, c or None)
            naive.trails[number] = a, b, [c] if c else []
        elif known:
            chosen = known[a % len(known)]
            if what == "remove":
                waiting.remove(chosen)
                naive.remove(chosen)
            elif chosen in naive.stops:
                waiting.amend(chosen, stop=b)
                naive.stops[chosen] = naive.stops[chosen][0], b
            else:
                waiting.amend(chosen, trailing_offset=b)
                side, _, prices = naive.trails[chosen]
                naive.trails[chosen] = side, b, prices
        assert len(waiting) == len(naive.stops) + len(naive.trails)
        for known_number in [*naive.stops, *naive.trails]:
            assert waiting.stop_of(known_number) == naive.stop_of(known_number)


class Counting(int):
    """A price that counts how often it is compared: what a trade costs, whatever the machine."""

    compared = 0

    def _count(self) -> None:
        Counting.compared += 1

    def __lt__(self, other: int) -> bool:
        self._count()
        return int(self) < int(other)

    def __le__(self, other: int) -> bool:
        self._count()
        return int(self) <= int(other)

    def __gt__(self, other: int) -> bool:
        self._count()
        return int(self) > int(other)

    def __ge__(self, other: int) -> bool:
        self._count()
        return int(self) >= int(other)

    def __neg__(self) -> Counting:
        return Counting(-int(self))

    def __rmul__(self, other: int) -> Counting:
        return Counting(other * int(self))


def test_a_trade_among_many_trailing_stops_costs_a_few_comparisons() -> None:
    """20,000 sells and buys, each with a distance and an extreme of its own; then a market that makes
    a new high with each trade, and one that goes up and down and triggers nobody."""
    rng = random.Random(1)
    waiting = Triggers()
    prices = list(range(1_000_000, 1_010_000))
    rng.shuffle(prices)
    for number, price in enumerate(prices):
        waiting.add_trailing(2 * number, SELL, rng.randint(500_000, 900_000), price)
        waiting.add_trailing(2 * number + 1, BUY, rng.randint(500_000, 900_000), price)
    assert waiting.on_trade(1_010_000) == []  # all sells hang on one extreme now
    Counting.compared = 0
    for price in range(1_010_001, 1_012_001):
        assert waiting.on_trade(Counting(price)) == []
    for price in range(2_000):
        assert waiting.on_trade(Counting(1_005_000 + price % 7)) == []
    assert Counting.compared < 4_000 * 40
    assert len(waiting) == 20_000


def test_memory_is_bounded_by_the_pending_stops() -> None:
    waiting = Triggers()
    for number in range(20_000):
        waiting.add(number, BUY, 1_000_000)
        waiting.add_trailing(number + 100_000, SELL, 500, 1_000 + number % 50)
        if number >= 10:
            waiting.remove(number - 10)
            waiting.remove(number - 10 + 100_000)
        waiting.amend(number, stop=1_000_000 + number)
        if number % 10 == 0:
            waiting.on_trade(1_000 + number % 70)
    stops, _ = waiting._sides[BUY]
    _, trailing = waiting._sides[SELL]
    assert len(waiting) == 20
    assert len(stops._heap) < 200
    assert len(trailing._closest._heap) < 300
    assert len(trailing._extremes._heap) < 300
    assert len(trailing._groups) <= 10
