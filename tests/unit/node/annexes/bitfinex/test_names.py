"""Numbers, symbols and ids as programs for Bitfinex expect them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from instruments_kit import COARSE

from exchange.market.market import OwnerIndex
from exchange.market.order_book import OrderBook
from exchange.model.events import MAX_ORDER
from node.annexes.bitfinex import order_ids as ids_module
from node.annexes.bitfinex.bitfinex_books import rounded
from node.annexes.bitfinex.errors import BitfinexError
from node.annexes.bitfinex.limits import BURST
from node.annexes.bitfinex.order_ids import OWN, OrderIds, own_order_id, trade_id
from node.annexes.bitfinex.symbols import Symbols, pair_name
from node.http.rate_limit import RateLimit

# Numbers


@given(st.integers(1, 10**15), st.integers(1, 6))
def test_rounding_keeps_the_digits_and_never_looks_better(value: int, digits: int) -> None:
    down, up = rounded(value, digits, up=False), rounded(value, digits, up=True)
    assert down <= value <= up
    for found in (down, up):
        assert len(str(found).rstrip("0")) <= digits
    assert up - down < 10 ** max(len(str(value)) - digits, 0) + 1


# Symbols


def test_two_names_of_three_letters_are_written_together() -> None:
    named = {i.symbol: pair_name(i) for i in COARSE}
    assert named == {
        "BTC-USD": "BTCUSD",
        "ETH-USD": "ETHUSD",
        "ETH-BTC": "ETHBTC",
        "TEST-USD": "TEST:USD",
    }


def test_symbols_are_found_in_both_forms_and_nothing_else_is() -> None:
    symbols = Symbols(COARSE)
    assert symbols["tBTCUSD"] is symbols["tBTC:USD"]
    assert symbols["tTEST:USD"].symbol == "tTEST:USD"
    assert [pair.symbol for pair in symbols] == ["tBTCUSD", "tETHUSD", "tETHBTC", "tTEST:USD"]
    assert symbols.currencies == ["BTC", "ETH", "TEST", "USD"]
    for wrong in ("BTCUSD", "tbtcusd", "tTESTUSD", "fUSD", "", None, 7, ["tBTCUSD"]):
        with pytest.raises(BitfinexError, match="symbol: invalid"):
            symbols[wrong]


# Ids


def test_order_ids_are_integers_that_javascript_holds_and_compare_as_texts_too() -> None:
    owners = OwnerIndex("me")
    ids = OrderIds(owners, OrderBook())
    found = [
        ids.id_of(owners.key(owner, number))
        for owner in ("me", "peer", "other")
        for number in (1, 2, 10, MAX_ORDER - 1)
    ]
    assert len(set(found)) == len(found)
    assert {len(str(number)) for number in found} == {16}
    assert all(number < 2**53 for number in found)
    assert found[0] == own_order_id(1) == OWN + 1


def test_an_order_has_the_same_id_in_any_order_of_arrival() -> None:
    first, second = OwnerIndex("me"), OwnerIndex("me")
    second.key("stranger", 1)
    a, b = OrderIds(first, OrderBook()), OrderIds(second, OrderBook())
    assert a.id_of(first.key("peer", 7)) == b.id_of(second.key("peer", 7))


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


def test_trade_ids_depend_on_taker_and_take_alone() -> None:
    found = {trade_id(taker, take) for taker in ("a", "b") for take in range(1000)}
    assert len(found) == 2000
    assert all(0 <= number < 2**53 for number in found)
    assert trade_id("a", 1) == trade_id("a", 1)


# Rate limit


def test_requests_of_a_client_are_rate_limited() -> None:
    rate = RateLimit(30, burst_s=BURST)  # one in two seconds, five at once
    assert [rate.allows("a", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert rate.allows("b", 0.0)
    assert rate.left("b", 0.0)
    assert not rate.left("a", 0.0)
    assert rate.allows("a", 2.1)
    assert not rate.allows("a", 2.1)
    assert [rate.allows("a", 100.0) for _ in range(6)] == [True] * 5 + [False]


def test_without_a_limit_all_requests_are_allowed() -> None:
    rate = RateLimit(0)
    assert all(rate.allows("a", 0.0) for _ in range(10_000))
    assert rate.left("a", 0.0)
