"""The book, case by case."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from exchange.market.order_book import OrderBook
from exchange.model.events import BUY, SELL


def book_of(*orders: tuple[int, int, int, int]) -> OrderBook:
    """(key, side, price, quantity) each, one microsecond apart."""
    book = OrderBook()
    for now, (key, side, price, quantity) in enumerate(orders):
        book.add(key, side, price, quantity, now, key)
    return book


def keys(book: OrderBook, side: int) -> list[int]:
    return [key for key, *_ in book.orders(side)]


def test_the_best_price_is_taken_first_then_the_earlier_order() -> None:
    book = book_of((1, SELL, 102, 5), (2, SELL, 101, 5), (3, SELL, 101, 5))
    assert book.match(BUY, 102, 12) == [(2, 101, 5), (3, 101, 5), (1, 102, 2)]
    assert list(book.orders(SELL)) == [(1, 102, 3, 0, 1)]


def test_a_taker_trades_at_the_resting_price_and_not_beyond_its_limit() -> None:
    book = book_of((1, BUY, 100, 5), (2, BUY, 99, 5))
    assert book.submit(3, SELL, 100, 8, 9, 3) == [(1, 100, 5)]
    assert book.levels(SELL, 10) == [(100, 3, 1)]
    assert book.levels(BUY, 10) == [(99, 5, 1)]


def test_a_fully_filled_order_does_not_rest() -> None:
    book = book_of((1, SELL, 100, 5))
    assert book.submit(2, BUY, 105, 5, 9, 2) == [(1, 100, 5)]
    assert len(book) == 0
    assert 2 not in book


def test_the_remainder_of_a_market_order_is_dropped() -> None:
    book = book_of((1, SELL, 100, 5), (2, SELL, 900, 5))
    assert book.submit(3, BUY, None, 50, 9, 3) == [(1, 100, 5), (2, 900, 5)]
    assert len(book) == 0
    assert book.submit(4, BUY, None, 50, 9, 4) == []
    assert len(book) == 0


def test_a_partial_fill_keeps_its_place_in_the_queue() -> None:
    book = book_of((1, SELL, 100, 5), (2, SELL, 100, 5))
    book.match(BUY, 100, 2)
    assert book.match(BUY, 100, 4) == [(1, 100, 3), (2, 100, 1)]


def test_an_amended_quantity_keeps_its_place_and_the_level_its_total() -> None:
    book = book_of((1, BUY, 100, 5), (2, BUY, 100, 5))
    book.set_quantity(1, 50)
    assert keys(book, BUY) == [1, 2]
    assert book.level(BUY, 100) == (100, 55, 2)
    book.set_quantity(1, 0)
    assert book.levels(BUY, 1) == [(100, 5, 1)]


@pytest.mark.parametrize("method", ["submit", "add"])
@pytest.mark.parametrize("times", [(10, 30, 20, 5), (5, 8, 6, 7), (1, 2, 3, 0)])
def test_a_late_arrival_takes_the_place_its_time_gives_it(
    method: str, times: tuple[int, ...]
) -> None:
    book = OrderBook()
    for key, now in enumerate(times):
        getattr(book, method)(key, BUY, 100, 1, now, key)
    by_time = sorted(range(len(times)), key=lambda key: times[key])
    assert keys(book, BUY) == by_time
    assert [fill[0] for fill in book.match(SELL, 100, 3)] == by_time[:3]


def test_equal_times_go_by_rank_whatever_the_key_or_arrival() -> None:
    book = OrderBook()
    book.add(1, BUY, 100, 1, 7, ("b", 1))
    book.add(2, BUY, 100, 1, 7, ("a", 9))
    book.add(3, BUY, 100, 1, 7, ("a", 10))
    assert keys(book, BUY) == [2, 3, 1]


def test_a_level_whose_last_order_left_takes_earlier_orders_again() -> None:
    book = book_of((1, BUY, 100, 1), (2, BUY, 100, 1))
    book.remove(2)
    book.add(3, BUY, 100, 1, 0, 3)
    assert keys(book, BUY) == [1, 3]


def test_levels_are_best_first_and_cut_at_the_depth() -> None:
    book = book_of((1, SELL, 102, 5), (2, SELL, 101, 6), (3, SELL, 101, 7), (4, BUY, 90, 1))
    assert book.levels(SELL, 5) == [(101, 13, 2), (102, 5, 1)]
    assert book.levels(SELL, 1) == [(101, 13, 2)]
    assert book.levels(SELL, 0) == []
    assert book.level(SELL, 90) == (90, 0, 0)
    assert book.side_price(4) == (BUY, 90)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((1, BUY, 100, 5, 9, 9), "order 1 is already in the book"),
        ((9, BUY, 100, 0, 9, 9), "at least 1 lot, got 0"),
        ((9, BUY, 100, -3, 9, 9), "at least 1 lot, got -3"),
        ((9, BUY, 0, 5, 9, 9), "at least 1 tick, got 0"),
        ((9, SELL, -100, 5, 9, 9), "at least 1 tick, got -100"),
        ((9, 2, 100, 5, 9, 9), r"1 \(buy\) or -1 \(sell\), got 2"),
        ((9, 0, 100, 5, 9, 9), "got 0"),
    ],
)
@pytest.mark.parametrize("method", ["submit", "add"])
def test_a_senseless_order_is_refused_and_changes_nothing(
    method: str, arguments: tuple[Any, ...], complaint: str
) -> None:
    book = book_of((1, BUY, 100, 5))
    with pytest.raises(ValueError, match=complaint):
        getattr(book, method)(*arguments)
    assert list(book.orders(BUY)) == [(1, 100, 5, 0, 1)]
    assert book.best(SELL) is None


@pytest.mark.parametrize("arguments", [(BUY, 100, 0), (BUY, 0, 5), (3, 100, 5), (3, None, 5)])
def test_a_senseless_taker_is_refused(arguments: tuple[int, int | None, int]) -> None:
    book = book_of((1, BUY, 100, 5), (2, SELL, 101, 5))
    with pytest.raises(ValueError):
        book.match(*arguments)
    with pytest.raises(ValueError):
        book.best(3)
    assert len(book) == 2


def test_a_market_order_under_a_key_that_rests_is_refused() -> None:
    with pytest.raises(ValueError, match="already"):
        book_of((1, BUY, 100, 5)).submit(1, SELL, None, 5, 9, 9)


def test_a_negative_quantity_is_refused() -> None:
    book = book_of((1, BUY, 100, 5))
    with pytest.raises(ValueError, match="negative"):
        book.set_quantity(1, -1)
    assert book.quantity(1) == 5


def test_an_unknown_key_is_a_key_error_everywhere() -> None:
    book = book_of((1, BUY, 100, 5))
    for call in (book.remove, book.quantity, book.side_price):
        with pytest.raises(KeyError):
            call(7)
    with pytest.raises(KeyError):
        book.set_quantity(7, 0)


def test_eating_through_a_deep_level_stays_cheap() -> None:
    """Twenty times deeper must not cost twenty times more per order (it would without rebuilding)."""

    def seconds_per_order(depth: int) -> float:
        book = OrderBook()
        for key in range(depth):
            book.add(key, BUY, 100, 1, key, key)
        start = time.process_time()  # other work on the machine does not count
        for _ in range(depth):
            book.match(SELL, 100, 1)
        return (time.process_time() - start) / depth

    shallow = min(seconds_per_order(2_500) for _ in range(3))
    deep = min(seconds_per_order(50_000) for _ in range(3))
    assert deep < 5 * shallow


def test_memory_of_many_orders_is_released_once_they_have_left() -> None:
    book = OrderBook()
    for number in range(100_000):
        book.add(number, SELL, 1 + number % 20_000, 1, number, "a")
    small = sys.getsizeof(OrderBook().resting)
    grown = sys.getsizeof(book.resting)
    book.release_memory()
    assert sys.getsizeof(book.resting) == grown  # all of it is in use
    for number in range(99_990):
        book.remove(number)
    before = book.levels(SELL, 100)
    book.release_memory()
    assert sys.getsizeof(book.resting) < small + 2000
    assert book.levels(SELL, 100) == before
    book.remove(99_995)
    assert len(book) == 9
