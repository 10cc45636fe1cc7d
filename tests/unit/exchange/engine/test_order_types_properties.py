"""Every order type on one node, with money, against a slow, obvious order manager.

The same commands go to both; after each of them the orders, the fills, the book with its priorities,
and balances and holds are the same, and so is what was refused. `--seeds` above its default adds as
many long random runs.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from exchange_kit import EPOCH_US, NETWORK, Keys
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_order_manager import Objection, ReferenceOrderManager, RefOrder

from exchange.engine.engine import Engine
from exchange.model.commands import HOUSE, Amend, NewOrder, Selection
from exchange.model.instruments import Instrument
from exchange.model.records import Fill, Order
from exchange.orders.engine_context import CommandRejected

BASE, QUOTE = "AAA", "BBB"
MARKET = Instrument(
    f"{BASE}-{QUOTE}",
    Decimal("0.01"),
    Decimal("0.001"),
    min_quantity=Decimal("0.002"),
    max_quantity=Decimal("0.04"),
    min_notional=Decimal("0.002"),
    max_notional=Decimal("0.04"),
    maker_fee=Decimal("-0.000137"),
    taker_fee=Decimal("0.001913"),
    price_band=Decimal("0.05"),
    protection=Decimal("0.05"),
)
LOOSE = Instrument(  # nothing is refused for its size or price
    f"{BASE}-{QUOTE}", Decimal("0.01"), Decimal("0.001"), protection=Decimal("0.02")
)
ACCOUNTS = (HOUSE, 1, 2)
START = 1000.0
FUNDS = Decimal("0.06")  # of each asset: enough for a few orders, then not
SCARCE = Decimal("0.015")


class Pair:
    """The engine and the reference."""

    def __init__(self, market: Instrument, funds: Decimal) -> None:
        self.market = market
        self.now = START
        self.engine = Engine(
            Keys(1),
            [market.key],
            network=NETWORK,
            epoch_us=EPOCH_US,
            rng=random.Random(1),
            instruments=[market],
            fence_max=0.0,
            now=self.now,
        )
        self.engine.resume(self.now)
        self.slow = ReferenceOrderManager(market)
        self.fills: list[Fill] = []
        for account in ACCOUNTS[1:]:
            assert self.engine.accounts.create(0, f"a{account}").number == account
            for asset in (BASE, QUOTE):
                units = int(funds.scaleb(self.engine.specs.decimals[asset]))
                self.engine.ledger.deposit(1, account, asset, units, "")
                self.slow.add_money(account, asset, funds)
        self.compare()

    # Both at once

    def both(self, fast: Any, slow: Any) -> None:
        """Carry a command out on both, and compare what they say and what they are afterwards."""
        try:
            expected = [order.number for order in slow()]
        except Objection as objection:
            codes = objection.codes
        else:
            codes = set()
        if codes:
            with pytest.raises(CommandRejected) as refusal:
                fast()
            assert refusal.value.code in codes
            assert refusal.value.detail
        else:
            assert [order.number for order in fast()] == expected
        self.compare()

    def place(self, **terms: Any) -> None:
        new = NewOrder(market=self.market.key, **terms)
        now = self.engine.us(self.now)
        self.both(
            lambda: self.engine.orders.place(self.now, new), lambda: self.slow.place(now, new)
        )

    def place_again(self, new: NewOrder) -> None:
        """Repeat a command like a client without an answer."""
        now = self.engine.us(self.now)
        self.both(
            lambda: self.engine.orders.place(self.now, new), lambda: self.slow.place(now, new)
        )

    def amend(self, number: int, **changes: Any) -> None:
        amend = Amend(**changes)
        now = self.engine.us(self.now)
        self.both(
            lambda: [self.engine.orders.amend(self.now, number, amend)],
            lambda: [self.slow.amend(now, number, amend)],
        )

    def cancel(self, number: int) -> None:
        self.both(
            lambda: [self.engine.orders.cancel(self.now, number)],
            lambda: [self.slow.cancel(number)],
        )

    def cancel_many(self, **which: Any) -> None:
        selection = Selection(**which)
        self.both(
            lambda: self.engine.orders.cancel_many(self.now, selection),
            lambda: self.slow.cancel_many(selection),
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.engine.tick(self.now)
        self.slow.tick(self.engine.us(self.now))
        self.compare()

    def halt(self, halted: bool) -> None:
        if halted:
            self.engine.orders.halt(self.market.key, "a test")
        else:
            self.engine.orders.resume_market(self.now, self.market.key)
        self.slow.halted = halted
        self.compare()

    # Comparing

    def compare(self) -> None:
        engine, slow = self.engine, self.slow
        self.fills += engine.drain(self.now).fills
        for expected in slow.orders:
            order = engine.order_store.get(expected.number)
            assert order is not None
            assert state_of(order) == expected_state(expected)
        assert engine.order_store.get(len(slow.orders) + 1) is None
        assert len(engine.order_store.open_orders) == sum(not order.reason for order in slow.orders)
        assert [self.half(fill) for fill in self.fills] == [
            half for fill in slow.fills for half in fill.halves
        ]
        market = engine.markets[self.market.key]
        assert [(row[0], row[1], row[4], row[5]) for row in market.contents()] == slow.book()
        for account in ACCOUNTS:
            for asset in (BASE, QUOTE):
                assert self.amount(asset, engine.ledger.balance(f"account:{account}", asset)) == (
                    slow.total(account, asset)
                ), (account, asset)
                assert self.amount(asset, engine.ledger.held(account, asset)) == (
                    slow.held(account, asset)
                ), (account, asset)
        engine.ledger.check()

    def amount(self, asset: str, units: int) -> Decimal:
        return Decimal(units).scaleb(-self.engine.specs.decimals[asset])

    def half(self, fill: Fill) -> tuple[int, int, int, Decimal]:
        return fill.order, fill.price, fill.quantity, self.amount(fill.fee_asset, fill.fee)


def state_of(order: Order) -> dict[str, Any]:
    assert not order.pending
    assert not order.reserved
    return {
        "number": order.number,
        "price": order.price,
        "quantity": order.quantity,
        "filled": order.filled,
        "shown": order.shown,
        "untriggered": order.untriggered and not order.done,
        "stop": order.stop,
        "reason": order.reason,
        "done": order.done,
        "free": order.free,
    }


def expected_state(order: RefOrder) -> dict[str, Any]:
    return {
        "number": order.number,
        "price": order.price,
        "quantity": order.quantity,
        "filled": order.filled,
        "shown": order.shown,
        "untriggered": order.untriggered and not order.reason,
        "stop": order.stop,
        "reason": order.reason,
        "done": bool(order.reason),
        "free": 0 if order.untriggered else order.left,
    }


# Any commands

PRICES = st.one_of(st.integers(97, 103), st.integers(97, 103), st.integers(90, 110))
QUANTITIES = st.integers(1, 12)
LOTS = st.integers(1, 45)


def sometimes(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.none(), strategy)


# Made once: making a strategy costs more than drawing from it.
SIDES = st.sampled_from([1, -1])
SMALL = st.integers(1, 8)
ONE_IN_SIX = st.sampled_from([False] * 5 + [True])
SOMETIMES_PRICE = sometimes(PRICES)
SOMETIMES_ID = sometimes(st.sampled_from("abc"))
SELF_TRADES = sometimes(
    st.sampled_from(["none", "cancel_newest", "cancel_oldest", "cancel_both", "decrement"])
)
ACCOUNT = st.sampled_from(ACCOUNTS)
GROUPS = st.integers(0, 1)
FORCES = st.sampled_from(["gtc", "ioc", "fok"])
VISIBLE = st.sampled_from(
    ["", "", "", "hidden", "display_quantity", "display_quantity", "post_only"]
)
ORDER_KINDS = st.sampled_from(
    [
        "limit",
        "limit",
        "limit",
        "market",
        "ioc",
        "fok",
        "stop",
        "stop_limit",
        "trailing_offset",
        "oco",
    ]
)


@st.composite
def new_orders(draw: st.DrawFn) -> dict[str, Any]:
    """The terms of an order that contradict each other in nothing."""
    terms: dict[str, Any] = {
        "side": draw(SIDES),
        "quantity": draw(LOTS if draw(ONE_IN_SIX) else QUANTITIES),
        "account": draw(ACCOUNT),
        "group": draw(GROUPS),
        "client_id": draw(SOMETIMES_ID),
        "self_trade": draw(SELF_TRADES),
        "reduce_only": draw(ONE_IN_SIX),
    }
    kind = draw(ORDER_KINDS)
    if kind in ("limit", "ioc", "fok", "stop_limit", "oco"):
        terms["price"] = draw(PRICES)
    else:
        terms["worst_price"] = draw(SOMETIMES_PRICE)
    if kind in ("ioc", "fok"):
        terms["tif"] = kind
    if kind in ("stop", "stop_limit"):
        terms["stop"] = draw(PRICES)
    if kind == "stop_limit":
        terms["tif"] = draw(FORCES)
    if kind == "trailing_offset":
        terms["trailing_offset"] = draw(SMALL)
        terms["stop"] = draw(SOMETIMES_PRICE)
    if kind == "oco":
        terms["oco_stop"] = terms["price"] + terms["side"] * draw(SMALL)
    if kind in ("limit", "oco", "stop_limit") and terms.get("tif", "gtc") == "gtc":
        how = draw(VISIBLE)
        if how == "display_quantity":
            terms["display_quantity"] = draw(SMALL)
        elif how:
            terms[how] = True
        if draw(ONE_IN_SIX):
            terms["tif"] = "gtd"
            terms["expires"] = draw(SMALL)  # seconds from now
    return terms


AMENDS = st.fixed_dictionaries(
    {},
    optional={
        "price": PRICES,
        "quantity": QUANTITIES,
        "display_quantity": st.integers(1, 4),
        "stop": PRICES,
        "trailing_offset": st.integers(1, 8),
        "expires": st.integers(-1, 6),
    },
)
CHANGES = st.one_of(
    AMENDS,
    st.fixed_dictionaries({"price": PRICES}),
    st.fixed_dictionaries({"change": st.integers(-4, 4)}),
)
SELECTIONS = st.fixed_dictionaries(
    {"account": st.sampled_from(ACCOUNTS)},
    optional={
        "numbers": st.frozensets(st.integers(1, 20), max_size=4),
        "client_ids": st.frozensets(st.sampled_from("abc"), max_size=2),
        "groups": st.frozensets(st.integers(0, 1), max_size=2),
        "side": st.sampled_from([1, -1]),
        "market": st.sampled_from([MARKET.key, "other"]),
    },
)
PICKS = st.integers(0, 30)
KINDS = {
    "place": (26, new_orders()),
    "amend": (7, st.tuples(PICKS, CHANGES)),
    "cancel": (2, PICKS),
    "again": (1, PICKS),
    "wait": (3, st.sampled_from([0.5, 0.0, 2.0])),
    "cancel_many": (1, SELECTIONS),
    "halt": (1, st.booleans()),
    "resume": (1, st.none()),
}
WHAT = st.sampled_from([what for what, (weight, _) in KINDS.items() for _ in range(weight)])


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, Any]:
    what = draw(WHAT)
    return what, draw(KINDS[what][1])


COMMANDS = st.lists(commands(), max_size=40)


def apply(pair: Pair, what: str, with_: Any) -> None:
    """Carry out one drawn command: numbers pick an order that there is, if there is one."""
    orders = pair.slow.orders
    seconds = pair.engine.us(pair.now)
    if what == "place":
        pair.place(**dated(with_, seconds))
    elif what == "wait":
        pair.wait(with_)
    elif what in ("halt", "resume"):
        pair.halt(bool(with_))
    elif what == "cancel_many":
        pair.cancel_many(**with_)
    elif not orders:
        return
    elif what == "again":
        pair.place_again(orders[with_ % len(orders)].new)
    elif what == "cancel":
        pair.cancel(with_ % (len(orders) + 1) + 1)
    else:
        pick, changes = with_
        pair.amend(pick % (len(orders) + 1) + 1, **dated(changes, seconds))


def dated(terms: dict[str, Any], now_us: int) -> dict[str, Any]:
    """`expires` is drawn as seconds from now."""
    if terms.get("expires") is None:
        return terms
    return {**terms, "expires": now_us + terms["expires"] * 1_000_000}


def run(given_: list[tuple[str, Any]], market: Instrument = MARKET, funds: Decimal = FUNDS) -> Pair:
    """On a book that has something of everything, so that most commands meet something."""
    pair = Pair(market, funds)
    kinds: list[tuple[int, dict[str, Any]]] = [
        (101, {}),
        (102, {"display_quantity": 2}),
        (102, {}),
        (103, {"hidden": True}),
    ]
    for price, kind in kinds:
        pair.place(side=-1, price=price, quantity=7, **kind)
        pair.place(side=1, price=200 - price, quantity=7, **kind)
    for what, with_ in given_:
        apply(pair, what, with_)
    return pair


@pytest.mark.parametrize(
    ("market", "funds"), [(MARKET, FUNDS), (LOOSE, SCARCE)], ids=["rules", "scarce"]
)
def test_any_commands_agree_with_the_reference(
    market: Instrument, funds: Decimal, pytestconfig: pytest.Config
) -> None:
    """`--seeds` says how many sequences of commands are tried, `--hypothesis-profile explore` that
    they are others each time."""

    @settings(max_examples=pytestconfig.getoption("--seeds") // 2)
    @given(COMMANDS)
    def any_commands(given_: list[tuple[str, Any]]) -> None:
        run(given_, market, funds)

    any_commands()


# What such runs have found once


def test_an_iceberg_is_eaten_slice_by_slice_before_a_worse_price() -> None:
    pair = Pair(LOOSE, FUNDS)
    pair.place(side=-1, price=101, quantity=8)
    pair.place(side=-1, price=100, quantity=10, display_quantity=2)
    pair.place(side=1, price=101, quantity=11, account=1)
    assert [fill.quantity for fill in pair.slow.fills] == [2, 2, 2, 2, 2, 1]
    pair.place(side=-1, price=100, quantity=10, display_quantity=2)
    pair.place(side=1, price=100, quantity=10, tif="fok", account=1)
    assert pair.slow.orders[-1].reason == "filled"


def test_an_iceberg_and_its_decremented_taker_lose_the_whole_of_the_smaller() -> None:
    pair = Pair(LOOSE, FUNDS)
    pair.place(side=1, price=99, quantity=7, display_quantity=2)
    pair.place(side=-1, price=99, quantity=3, self_trade="decrement")
    assert (pair.slow.orders[0].quantity, pair.slow.orders[1].quantity) == (4, 3)


def test_a_post_only_order_is_not_amended_onto_a_hidden_one() -> None:
    pair = Pair(LOOSE, FUNDS)
    pair.place(side=-1, price=101, quantity=5, hidden=True)
    pair.place(side=1, price=99, quantity=5, post_only=True)
    pair.amend(2, price=102)
    assert pair.slow.orders[1].reason == "post_only"


def test_a_triggered_market_order_keeps_to_the_price_band() -> None:
    pair = Pair(MARKET, FUNDS)
    for price in (100, 104, 106):
        pair.place(side=-1, price=price, quantity=2)
    pair.place(side=1, stop=100, quantity=4, account=1)
    pair.place(side=1, price=100, quantity=2, account=2)
    assert [fill.price for fill in pair.slow.fills] == [100, 104]
    assert pair.slow.orders[3].reason == "no_liquidity"


def test_a_fill_or_kill_order_that_is_killed_leaves_the_account_its_other_orders() -> None:
    pair = Pair(LOOSE, FUNDS)
    pair.place(side=-1, price=100, quantity=5, account=1)
    pair.place(side=1, price=100, quantity=5, account=1, tif="fok", self_trade="cancel_oldest")
    assert [order.reason for order in pair.slow.orders] == ["", "fok"]
