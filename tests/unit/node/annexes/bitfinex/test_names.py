"""Numbers, symbols and ids as programs for Bitfinex expect them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.market.market import OwnerIndex
from exchange.market.order_book import OrderBook
from node.annexes.bitfinex import order_ids as ids_module
from node.annexes.bitfinex.bitfinex_books import rounded
from node.annexes.bitfinex.order_ids import OrderIds

# Numbers


@given(st.integers(1, 10**15), st.integers(1, 6))
def test_rounding_keeps_the_digits_and_never_looks_better(value: int, digits: int) -> None:
    down, up = rounded(value, digits, up=False), rounded(value, digits, up=True)
    assert down <= value <= up
    for found in (down, up):
        assert len(str(found).rstrip("0")) <= digits
    assert up - down < 10 ** max(len(str(value)) - digits, 0) + 1


# Symbols


# Ids


def test_equal_hashes_get_different_ids_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def __init__(self, *arguments: object, **options: object) -> None: ...

        def digest(self) -> bytes:
            return b"\xff" * 8

    monkeypatch.setattr(ids_module, "blake2b", Same)
    owners = OwnerIndex("me")
    ids = OrderIds(owners, OrderBook())
    keys = [owners.key("peer", number) for number in range(1, 200)]
    found = [ids.id_of(key) for key in keys]
    assert len(set(found)) == len(keys)
    assert [ids.id_of(key) for key in keys] == found


def test_ids_of_orders_that_left_the_book_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "MAX_REMEMBERED", 10)
    owners, book = OwnerIndex("me"), OrderBook()
    ids = OrderIds(owners, book)
    resting = owners.key("peer", 1)
    book.add(resting, 1, 5, 5, 1, ("peer", 1))
    first = ids.id_of(resting)
    for number in range(2, 100):
        ids.id_of(owners.key("peer", number))
    assert len(ids._ids) <= 11
    assert ids.id_of(resting) == first


# Rate limit
