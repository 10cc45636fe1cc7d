"""The book against the slow, obvious one: any sequence of operations gives the same answers."""

from __future__ import annotations

import random
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_book import ReferenceBook

from exchange.market import order_book as book_module
from exchange.market.order_book import OrderBook

SIDES = st.sampled_from([1, -1])
PRICES = st.integers(1, 6)  # few, so that levels fill up and sides cross
QUANTITIES = st.integers(1, 9)
# In any order: few, so that ties are common, or many, so that most arrivals are the latest so far.
TIMES = st.integers(0, 8) | st.integers(0, 10**6)
OWNERS = st.sampled_from(["a", "b"])
PICKS = st.integers(0, 1000)

NEW = st.tuples(SIDES, PRICES, QUANTITIES, TIMES, OWNERS)
OPERATIONS = st.one_of(
    st.tuples(st.just("submit"), NEW),
    st.tuples(st.just("add"), NEW),
    st.tuples(st.just("submit_market"), NEW),
    st.tuples(st.just("match"), st.tuples(SIDES, st.none() | PRICES, QUANTITIES)),
    st.tuples(st.just("remove"), PICKS),
    st.tuples(st.just("set_quantity"), st.tuples(PICKS, st.integers(0, 9))),
    st.tuples(st.just("change"), st.tuples(PICKS, st.integers(0, 9))),
)


class Pair:
    """Both books, driven in step; every answer is compared as it comes."""

    def __init__(self) -> None:
        self.fast = OrderBook()
        self.slow = ReferenceBook()
        self.made = 0

    def both(self, name: str, *args: Any) -> Any:
        fast = getattr(self.fast, name)(*args)
        assert fast == getattr(self.slow, name)(*args), (name, args)
        return fast

    def apply(self, name: str, args: Any) -> None:
        if name in ("submit", "add", "submit_market"):
            side, price, quantity, time, owner = args
            self.made += 1
            rank = (owner, self.made)
            if name == "submit_market":
                self.both("submit", self.made, side, None, quantity, time, rank)
            else:
                self.both(name, self.made, side, price, quantity, time, rank)
        elif name == "match":
            side, price, _ = args
            ahead = list(self.fast.crossing(side, price))
            assert ahead == list(self.slow.crossing(side, price))
            reached = self.fast.preview(*args)
            fills = self.both(name, *args)
            assert fills == reached
            assert [key for key, _, _ in fills] == [key for key, _, _ in ahead[: len(fills)]]
        elif self.slow.all:
            pick, *rest = args if isinstance(args, tuple) else (args,)
            order = self.slow.all[pick % len(self.slow.all)]
            if name == "change":
                side, price = self.fast.side_price(order.key)
                assert self.fast.change(order.key, *rest) == side * price
                assert self.fast.change(self.made + 1, *rest) == 0
                self.slow.set_quantity(order.key, *rest)
            else:
                self.both(name, order.key, *rest)

    def compare(self) -> None:
        assert len(self.fast) == len(self.slow)
        assert self.fast.crossed == self.slow.crossed
        for side in (1, -1):
            assert self.fast.best(side) == self.slow.best(side)
            assert self.fast.levels(side, 100) == self.fast.levels(side) == self.slow.levels(side)
            assert self.fast.levels(side, 2) == self.slow.levels(side, 2)
            orders = list(self.fast.orders(side))
            assert orders == list(self.slow.orders(side))
            for key, price, quantity, _, _ in orders:
                assert key in self.fast
                assert self.fast.quantity(key) == quantity
                assert self.fast.side_price(key) == (side, price)
            for price, quantity, count in self.slow.levels(side):
                assert self.fast.level(side, price) == (price, quantity, count)


def holds_nothing(book: OrderBook) -> bool:
    return not (book.bids or book.asks or book._queues or book.resting)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATIONS, max_size=60))
def test_any_sequence_of_operations_agrees_with_the_reference(
    operations: list[tuple[str, Any]],
) -> None:
    pair = Pair()
    for name, args in operations:
        pair.apply(name, args)
        pair.compare()


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATIONS, max_size=60), st.randoms(use_true_random=False))
def test_nothing_is_left_behind_when_every_order_is_gone(
    operations: list[tuple[str, Any]], rng: random.Random
) -> None:
    pair = Pair()
    for name, args in operations:
        pair.apply(name, args)
    keys = [order.key for order in pair.slow.all]
    rng.shuffle(keys)
    for key in keys[::2]:
        pair.both("remove", key)
    for side in (1, -1):
        pair.both("match", side, None, 10**9)
    assert holds_nothing(pair.fast)


@settings(max_examples=60, deadline=None)
@given(st.lists(NEW, min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_the_book(
    orders: list[Any], rng: random.Random
) -> None:
    numbered = list(enumerate(orders, 1))
    books = []
    for _ in range(2):
        book = OrderBook()
        for key, (side, price, quantity, time, owner) in numbered:
            book.add(key, side, price, quantity, time, (owner, key))
        books.append([list(book.orders(side)) for side in (1, -1)])
        rng.shuffle(numbered)
    assert books[0] == books[1]


@pytest.mark.parametrize("deep", [2, 16])
def test_a_long_run_with_deep_levels_agrees_with_the_reference(
    monkeypatch: pytest.MonkeyPatch, deep: int
) -> None:
    """With the threshold lowered, levels are rebuilt over and over while they are eaten into."""
    monkeypatch.setattr(book_module, "_DEEP", deep)
    rng = random.Random(deep)
    pair = Pair()
    for step in range(3000):
        draw = rng.random()
        time = step - (rng.randrange(40) if rng.random() < 0.1 else 0)
        new = (rng.choice((1, -1)), rng.randint(1, 4), rng.randint(1, 5), time, "a")
        if draw < 0.6:
            pair.apply("add" if draw < 0.1 else "submit", new)
        elif draw < 0.8:
            pair.apply("remove", rng.randrange(1000))
        else:
            pair.apply("match", (rng.choice((1, -1)), None, rng.randint(1, 30)))
        if step % 25 == 0:
            pair.compare()
    pair.compare()


@pytest.mark.parametrize("many", [0, 3, 8])
def test_a_side_with_many_levels_agrees_with_the_reference(
    monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """With the bounds lowered, the prices move from list to SortedList and back."""
    monkeypatch.setattr(book_module, "MANY_LEVELS", many)
    monkeypatch.setattr(book_module, "FEW_LEVELS", many - 1)
    rng = random.Random(many)
    pair = Pair()
    kinds = set()
    for step in range(4000):
        draw = rng.random()
        side = rng.choice((1, -1))
        price = rng.randint(20, 40) if side < 0 else rng.randint(5, 25)
        if draw < (0.6 if step // 500 % 2 else 0.4):
            name = "add" if draw < 0.1 else "submit"
            pair.apply(name, (side, price, rng.randint(1, 5), step, "a"))
        elif draw < 0.9:
            pair.apply("remove", rng.randrange(1000))
        else:
            pair.apply("match", (side, rng.choice((None, price)), rng.randint(1, 30)))
        kinds |= {type(pair.fast.bids).__name__, type(pair.fast.asks).__name__}
        if step % 10 == 0:
            pair.compare()
    pair.compare()
    assert kinds == {"list", "SortedList"}


def test_a_long_side_is_a_sorted_list_until_it_is_much_shorter() -> None:
    book = OrderBook()
    for number in range(1, book_module.MANY_LEVELS + 2):
        book.add(number, -1, number, 1, number, 0)
    assert type(book.asks) is not list
    for number in range(1, book_module.MANY_LEVELS // 2 + 10):
        book.remove(number)
    book.add(1, -1, 1, 1, 1, 0)
    assert len(book.asks) < book_module.FEW_LEVELS
    assert type(book.asks) is list
    assert book.levels(-1, 2) == [(1, 1, 1), (4106, 1, 1)]


@pytest.mark.slow
def test_a_side_with_a_million_levels_costs_at_most_50_microseconds_an_operation() -> None:
    book, count, rng = OrderBook(), 1_000_000, random.Random(1)
    for number in range(count):
        book.append(number, -(2 * number + 2), 1, number, 0)
    costs = []
    for _ in range(5):
        between = {2 * rng.randrange(count) + 1 for _ in range(1000)}
        new = list(enumerate(between, start=count))
        begun = process_time()
        for key, price in new:
            book.append(key, -price, 1, key, 0)  # opens a level
        for key, _ in new:
            book.remove(key)  # and closes it
        costs.append((process_time() - begun) / (2 * len(new)))
    assert len(book.asks) == count
    assert min(costs) < 50e-6
