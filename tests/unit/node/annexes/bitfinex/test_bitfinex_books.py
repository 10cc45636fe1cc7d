"""Books as Bitfinex shows them: precisions, single orders, changes and checksums."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_kit import ME, FakeMarkets

from exchange.model.instruments import Instrument, Instruments
from node.annexes.bitfinex.bitfinex_books import Books, View, check_length, check_precision
from node.annexes.bitfinex.errors import BitfinexError
from node.annexes.bitfinex.symbols import Pair, Symbols

BTC = "BTC-USD"


class Looking:
    """One market, and the views of it."""

    def __init__(self, symbol: str = BTC, instruments: Instruments | None = None) -> None:
        self.symbol = symbol
        self.markets = FakeMarkets(instruments)
        self.books = Books(self.markets.data)
        instrument = self.markets.instruments[symbol]
        self.pair: Pair = next(
            p for p in Symbols(self.markets.instruments) if p.instrument is instrument
        )
        self.number = 0

    def order(self, side: int, price: str, quantity: str, owner: str = ME) -> int:
        self.number += 1
        return self.markets.order(
            self.symbol, side, price, quantity, number=self.number, owner=owner
        )

    def view(self, precision: str = "P0", length: int = 25) -> View:
        return self.books.view(self.pair, precision, length)

    def rows(self, precision: str = "P0", length: int = 25) -> Any:
        return json.loads(self.view(precision, length).snapshot)


class Client:
    """Keeps a book as clients do, and computes checksums from what it holds."""

    def __init__(self, rows: list[list[float]], *, raw: bool) -> None:
        self.raw = raw
        self.sides: dict[int, dict[Any, tuple[Any, Any]]] = {1: {}, -1: {}}
        for row in rows:
            self.update(row)

    def update(self, row: list[Any]) -> None:
        side = 1 if row[2] > 0 else -1
        gone = row[1] == 0
        if gone:
            assert row[2] in (1, -1)
            del self.sides[side][row[0]]
        else:
            self.sides[side][row[0]] = (row[1], row[2])

    def best(self, side: int) -> list[tuple[Any, Any]]:
        held = self.sides[side]
        if self.raw:
            order = sorted(held, key=lambda at: (-side * held[at][0], at))
        else:
            order = sorted(held, reverse=side == 1)
        return [(at, held[at][1]) for at in order]

    def checksum(self) -> int:
        bids, asks = self.best(1)[:25], self.best(-1)[:25]
        parts: list[str] = []
        for index in range(25):
            for side in (bids, asks):
                if index < len(side):
                    parts += [str(value) for value in side[index]]
        value = crc32(":".join(parts).encode())
        return value if value < 2**31 else value - 2**32


def parsed(text: str) -> Any:
    return json.loads(text, parse_float=Plain, parse_int=Plain)


class Plain(float):
    """A number that prints as it was written."""

    def __new__(cls, text: str) -> Plain:
        made = super().__new__(cls, text)
        made.text = text  # type: ignore[attr-defined]
        return made

    def __str__(self) -> str:
        return self.text  # type: ignore[attr-defined,no-any-return]


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 50)), max_size=120),
    st.sampled_from(["P1", "P2", "P3", "P4"]),
    st.sampled_from([1, 3, 25]),
)
def test_a_coarse_side_sums_all_its_orders(
    orders: list[tuple[int, int]], precision: str, length: int
) -> None:
    looking = Looking("TEST-USD")
    for ticks, lots in orders:
        looking.order(1, f"{ticks / 100:.2f}", str(lots))
    digits = 5 - int(precision[1])
    wanted: dict[int, list[int]] = {}
    for ticks, lots in orders:
        step = 10 ** max(len(str(ticks)) - digits, 0)
        row = wanted.setdefault(ticks // step * step, [0, 0])
        row[0] += 1
        row[1] += lots
    best = sorted(wanted, reverse=True)[:length]
    assert looking.rows(precision, length) == [[v / 100, *wanted[v]] for v in best]


def test_single_orders_go_by_price_then_id() -> None:
    looking = Looking()
    for owner in ("x", "y", ME, "z"):
        looking.order(1, "30000", "1", owner)
    looking.order(1, "30001", "2", "y")
    looking.order(-1, "30005", "3")
    rows = looking.rows("R0")
    assert [row[1:] for row in rows] == [[30001, 2], *[[30000, 1]] * 4, [30005, -3]]
    same_price = [row[0] for row in rows[1:5]]
    assert same_price == sorted(same_price)
    assert same_price[0] == 10**15 + 3  # our own


def test_a_checksum_is_the_documented_one() -> None:
    looking = Looking()
    looking.order(1, "6000", "1")
    looking.order(1, "5900", "2.5")
    looking.order(-1, "6100", "3")
    text = "6000:1:6100:-3:5900:2.5"
    value = crc32(text.encode())
    assert looking.view().checksum == (value if value < 2**31 else value - 2**32)
    assert Looking().view().checksum == 0
    assert -(2**31) <= looking.view().checksum < 2**31


def test_the_same_version_is_looked_at_once() -> None:
    looking = Looking()
    looking.order(1, "6000", "1")
    first = looking.view()
    assert looking.view() is first
    looking.order(1, "5000", "1")
    second = looking.view()
    assert second is not first
    assert second.bids[60000] is first.bids[60000]
    assert second.since(first) == ["[5000,1,1]"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([1, -1]), st.integers(0, 40), st.integers(1, 99)),
        st.tuples(st.just("change"), st.integers(0, 99), st.integers(0, 99), st.just(0)),
        st.just(("look", 0, 0, 0)),
    ),
    max_size=120,
)


@given(steps, st.sampled_from(["P0", "P1", "P3", "R0"]), st.sampled_from([1, 25]))
def test_applied_changes_give_the_published_book(
    steps: list[tuple[Any, ...]], precision: str, length: int
) -> None:
    looking = Looking()
    told = looking.view(precision, length)
    client = Client(parsed(told.snapshot), raw=precision == "R0")
    resting: list[int] = []
    for what, one, two, three in [*steps, ("look", 0, 0, 0)]:
        if what == "add":
            price = 12_340 - two if one == 1 else 12_341 + two
            owner = ("x", "y", ME)[three % 3]
            resting.append(looking.order(one, str(price), f"0.{three:05}", owner))
        elif what == "change" and resting:
            at = one % len(resting)
            looking.markets.reduce(BTC, resting[at], f"0.{two:05}" if two else "0")
            if not two:
                resting.pop(at)
        elif what == "look":
            view = looking.view(precision, length)
            for text in view.since(told):
                client.update(parsed(text))
                assert max(map(len, client.sides.values())) <= length
            told = view
            shown = Client(parsed(view.snapshot), raw=precision == "R0")
            assert client.sides == shown.sides
            assert client.checksum() == view.checksum


def fine_market() -> Looking:
    """Steps of 1e-8 in both."""
    instrument = Instrument("FINE-USD", Decimal("0.00000001"), Decimal("0.00000001"))
    return Looking(instrument.symbol, Instruments([instrument]))


# Price and quantity in steps of 1e-8: on both sides of what books show.
small = st.integers(1, 300)


@given(
    st.lists(st.tuples(st.sampled_from([1, -1]), small, small), max_size=60),
    st.sampled_from([1, 5, 25]),
)
def test_prices_that_clients_print_in_two_ways_stay_out_of_books(
    orders: list[tuple[int, int, int]], length: int
) -> None:
    looking = fine_market()
    levels: dict[tuple[int, int], int] = {}
    singles: dict[int, list[tuple[int, int]]] = {1: [], -1: []}
    for side, price, quantity in orders:
        ticks = price if side == 1 else price + 300
        looking.order(side, f"{ticks / 10**8:.8f}", f"{quantity / 10**8:.8f}", owner=f"n{quantity}")
        levels[side, ticks] = levels.get((side, ticks), 0) + quantity
        singles[side].append((ticks, quantity))
    for side in (1, -1):
        shown = [t for (s, t), lots in levels.items() if s == side and min(lots, t) >= 100]
        best = sorted(shown, reverse=side == 1)[:length]
        rows = [row for row in looking.rows("P0", length) if row[2] * side > 0]
        assert rows == [
            [t / 10**8, rows[at][1], side * levels[side, t] / 10**8] for at, t in enumerate(best)
        ]
        large = sorted(
            (t for t, quantity in singles[side] if min(t, quantity) >= 100), reverse=side == 1
        )[:length]
        rows = [row for row in looking.rows("R0", length) if row[2] * side > 0]
        assert [row[1] for row in rows] == [t / 10**8 for t in large]
    assert "e" not in looking.view("P0", length).snapshot


def test_prices_that_clients_print_in_two_ways_are_not_in_coarse_books() -> None:
    looking = fine_market()
    for price in ("0.00000099", "0.000001", "0.00000123", "0.00000126"):
        looking.order(1, price, "1")
    assert looking.rows("P3") == [[0.0000012, 2, 2], [0.000001, 1, 1]]


@pytest.mark.parametrize("wrong", ["P5", "", None, 0, 251, True, "-1", "²", "0025", [], "p0"])
def test_wrong_precisions_and_lengths_are_refused(wrong: object) -> None:
    with pytest.raises(BitfinexError, match="prec: invalid"):
        check_precision(wrong)
    with pytest.raises(BitfinexError, match="len: invalid"):
        check_length(wrong)
