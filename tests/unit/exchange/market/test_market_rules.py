"""The rules of a market: what they allow to the unit, and refusals that say what to do instead."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.market.market_rules import Halts, MarketRules, RuleError, reference_price
from exchange.market.market_specs import MarketSpecs
from exchange.model.instruments import MAX_TICKS, Instrument

BUY, SELL = 1, -1
BTC = Instrument(
    "BTC-USD",
    Decimal("0.1"),
    Decimal("0.00001"),
    min_quantity=Decimal("0.001"),
    max_quantity=Decimal(100),
    min_notional=Decimal(10),
    max_notional=Decimal(1_000_000),
    price_band=Decimal("0.2"),
)
RULES = MarketRules(BTC)


def refusal(
    rules: MarketRules,
    side: int,
    price: int | None,
    quantity: int,
    reference: int | None = None,
    worst_price: int | None = None,
) -> tuple[str, str]:
    with pytest.raises(RuleError) as caught:
        rules.check(side, price, quantity, reference, worst_price)
    assert str(caught.value) == caught.value.detail
    return caught.value.code, caught.value.detail


def test_the_least_and_the_greatest_quantity_are_allowed_and_one_lot_beyond_is_not() -> None:
    RULES.check(BUY, 300_000, 100, None)
    assert refusal(RULES, BUY, 300_000, 99) == (
        "too_small",
        "quantity 0.00099 is below the minimum of BTC-USD: order 0.001 BTC or more",
    )
    RULES.check(SELL, 1_000, 10_000_000, None)
    assert refusal(RULES, SELL, 1_000, 10_000_001) == (
        "too_large",
        "quantity 100.00001 is above the maximum of BTC-USD: order 100 BTC or less",
    )


@pytest.mark.parametrize(
    ("side", "best", "reference", "worst"),
    [
        (BUY, 300_000, None, 315_000),
        (SELL, 300_000, None, 285_000),
        (BUY, 300_000, 260_000, 312_000),
        (BUY, 300_000, 340_000, 315_000),
        (SELL, 300_000, 340_000, 285_000),
        (SELL, 300_000, 360_000, 288_000),
        (BUY, 19, None, 19),
        (SELL, 19, None, 19),
        (SELL, 1, None, 1),
    ],
)
def test_a_market_order_is_protected_by_a_fraction_of_the_best_price_within_the_band(
    side: int, best: int, reference: int | None, worst: int
) -> None:
    assert RULES.protect(side, best, reference) == worst
    specs = MarketSpecs([], [], {})
    if reference is None:  # a market without an instrument has the usual fraction
        assert specs.protection_price("AA-BB", side, best) == worst


def test_a_maximum_below_one_lot_has_its_own_message() -> None:
    rules = MarketRules(Instrument("AA-BB", Decimal(1), Decimal(1), max_notional=Decimal(5)))
    rules.check(BUY, 5, 1, None)
    assert refusal(rules, BUY, 6, 1)[1].endswith("no quantity is small enough at this price")


def test_a_limit_between_two_values_binds_on_its_own_side() -> None:
    """A value of 2.5 units can be had by no order: 2 are too few, and 3 too many of a most."""
    unit = {"tick": Decimal(2), "lot": Decimal(1)}
    least = MarketRules(Instrument("AA-BB", **unit, min_notional=Decimal(5)))
    most = MarketRules(Instrument("AA-BB", **unit, max_notional=Decimal(5)))
    least.check(BUY, 1, 3, None)
    most.check(BUY, 1, 2, None)
    assert refusal(least, BUY, 1, 2)[0] == "notional_too_small"
    assert refusal(most, BUY, 1, 3)[0] == "notional_too_large"


@pytest.mark.parametrize("side", [BUY, SELL])
def test_a_price_may_be_as_far_as_the_band_and_no_tick_further(side: int) -> None:
    for edge in (240_000, 360_000):
        RULES.check(side, edge, 100, 300_000)
    for outside, shown in ((239_999, "23999.9"), (360_001, "36000.1")):
        assert refusal(RULES, side, outside, 100, 300_000) == (
            "price_band",
            f"price {shown} is more than 20 % from 30000: "
            f"{'buy' if side == BUY else 'sell'} between 24000 and 36000",
        )
        RULES.check(side, outside, 1_000, None)  # nothing to compare with


def test_a_market_order_is_judged_by_its_worst_price_and_valued_at_the_reference() -> None:
    RULES.check(BUY, None, 100, 300_000, 360_000)
    code, text = refusal(RULES, BUY, None, 100, 300_000, 360_001)
    assert code == "price_band"
    assert text.startswith("worst price 36000.1 is more than 20 %")
    assert refusal(RULES, SELL, None, 100, 99_999, 99_999)[0] == "notional_too_small"
    assert refusal(RULES, SELL, None, 100, None, 99_999)[0] == "notional_too_small"
    RULES.check(SELL, None, 100, 100_000, 99_999)
    RULES.check(SELL, None, 100, 300_000, 400_000)  # it would just not trade
    RULES.check(SELL, None, 100, None, None)


@given(st.sampled_from([BUY, SELL]), st.integers(1, MAX_TICKS), st.integers(1, 10**6))
def test_protection_never_goes_further_than_its_fraction_and_always_leaves_a_price(
    side: int, best: int, ppm: int
) -> None:
    protection = Decimal(ppm) / 10**6
    rules = MarketRules(Instrument("AA-BB", Decimal(1), Decimal(1), protection=protection))
    worst_price = rules.protect(side, best)
    assert worst_price >= 1
    assert side * (worst_price - best) >= 0
    assert (
        side * (worst_price - best) * 10**6
        <= best * ppm
        < (side * (worst_price - best) + 2) * 10**6
    )


@given(st.sampled_from([BUY, SELL]), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_protected_price_is_never_refused_by_the_band(
    side: int, best: int, reference: int
) -> None:
    rules = MarketRules(Instrument("AA-BB", Decimal(1), Decimal(1), price_band=Decimal("0.03")))
    rules.check(side, None, 1, reference, rules.protect(side, best, reference))


@pytest.mark.parametrize(
    ("own", "bid", "ask", "least", "middle", "most"),
    [
        (7, 1, 9, 7, 7, 7),
        (7, 1, 3, 3, 3, 3),
        (7, 8, 9, 8, 8, 8),
        (7, 9, 8, 7, 7, 7),  # crossed
        (7, None, None, 7, 7, 7),
        (7, 10, None, 7, 7, 10),
        (7, None, 6, 6, 7, 7),
        (None, 1, 4, 1, 2, 4),
        (None, 1, None, None, None, None),
        (None, None, 4, None, None, None),
        (None, None, None, None, None, None),
    ],
)
def test_the_reference_is_the_last_own_fill_within_the_book_or_the_nearest_of_what_there_is(
    own: int | None,
    bid: int | None,
    ask: int | None,
    least: int | None,
    middle: int | None,
    most: int | None,
) -> None:
    found = [reference_price(near, own, bid, ask) for near in (1, None, 2**50)]
    assert found == [least, middle, most]


def test_a_halted_market_refuses_with_the_reason_until_it_is_resumed() -> None:
    halts = Halts()
    halts.check(BTC.key)
    halts.halt(BTC.key, "no news")
    halts.halt(BTC.key, "the peg broke")
    with pytest.raises(RuleError) as caught:
        halts.check(BTC.key)
    assert (caught.value.code, caught.value.detail) == (
        "halted",
        "BTC-USD is halted: the peg broke; orders can be cancelled; new ones are accepted after it "
        "is resumed",
    )
    assert BTC.key in halts
    assert halts.reason(BTC.key) == "the peg broke"
    halts.check("ETH-USD")
    assert halts.resume(BTC.key)
    assert not halts.resume(BTC.key)
    halts.check(BTC.key)
    assert halts.reason(BTC.key) is None


def test_a_band_beyond_100_percent_is_a_factor_in_both_directions() -> None:
    rules = MarketRules(Instrument("AA-BB", Decimal(1), Decimal(1), price_band=Decimal(4)))
    for price in (200, 5000):
        rules.check(SELL, price, 1, 1000)
    for price, side in ((199, SELL), (5001, BUY)):
        with pytest.raises(RuleError, match=r"is too far from 1000: .* between 200 and 5000"):
            rules.check(side, price, 1, 1000)
    assert rules.protect(SELL, 201, 1000) == 200
