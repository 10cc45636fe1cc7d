"""Prices and quantities between texts and integers: the same as the instrument's own, which are slow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from exchange.model.decimals import plain
from exchange.model.instruments import MAX_LOTS, MAX_TEXT, MAX_TICKS, Instrument
from node.views.field_types import SIGNED_PATTERN
from node.views.scales import Scale


@given(st.integers(-(10**18), 10**18), st.integers(0, 12))
def test_a_number_is_written_exactly_and_canonically(value: int, decimals: int) -> None:
    text = plain(value, decimals)
    assert Decimal(text) == Decimal(value).scaleb(-decimals)
    assert json.loads(text, parse_float=str, parse_int=str) == text
    assert text == "0" or "." not in text or text[-1] not in "0."
    assert "e" not in text.lower()


steps = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places), st.integers(1, 25), st.integers(0, 8)
)


@given(steps, steps, st.integers(1, MAX_TICKS), st.integers(1, MAX_LOTS))
def test_scales_agree_with_the_instrument(
    tick: Decimal, lot: Decimal, ticks: int, lots: int
) -> None:
    instrument = Instrument("AAA-BBB", tick, lot)
    scale = Scale(instrument)
    assert scale.price(ticks) == instrument.price_text(ticks) == scale.price_of(scale.value(ticks))
    assert scale.amount(lots) == instrument.quantity_text(lots)
    assert scale.amount(-lots) == "-" + instrument.quantity_text(lots)
    assert scale.ticks(scale.price(ticks)) == ticks
    assert scale.lots(scale.amount(lots)) == lots


def outcome(read: Callable[[str], int], text: str) -> int | str:
    """The number, or why there is none."""
    try:
        return read(text)
    except ValueError as error:
        return str(error)


written = st.one_of(
    st.from_regex(r"[+-]?\d{0,14}\.?\d{0,9}([eE][+-]?\d)?", fullmatch=True),
    st.decimals(min_value=-10, max_value=10**10, places=3).map(str),
    st.text(max_size=50),
)


@given(steps, written)
@example(Decimal(1), "٣")  # a digit, but not one of ours
@example(Decimal(1), "²")
@example(Decimal(1), ".")
@example(Decimal(1), "")
@example(Decimal(1), "1" * 41)
@example(Decimal(1), "0")
@example(Decimal("0.25"), "1.3")
@example(Decimal(1), str(MAX_TICKS + 1))
def test_a_text_is_read_or_refused_as_the_instrument_does(step: Decimal, text: str) -> None:
    instrument = Instrument("AAA-BBB", step, step)
    scale = Scale(instrument)
    plain = len(text) > MAX_TEXT or re.fullmatch(SIGNED_PATTERN, text)
    for read, reference, what in (
        (scale.ticks, instrument.to_ticks, "price"),
        (scale.lots, instrument.to_lots, "quantity"),
    ):
        refusal = f"{what}: {text!r} is not a decimal number such as 30000.5"
        assert outcome(read, text) == (outcome(reference, text) if plain else refusal)
    assert outcome(lambda value: scale.ticks_near(value, up=True), text) == outcome(
        lambda value: instrument.ticks_near(value, up=True), text
    )


@given(steps, st.decimals(min_value=0, max_value=10**12, places=9).map(lambda d: format(d, "f")))
@example(Decimal("0.1"), "0.100000001")
@example(Decimal(1), "0.5")
@example(Decimal(1), str(MAX_TICKS))
@example(Decimal(1), f"{MAX_TICKS}.1")
def test_a_number_between_two_steps_is_rounded_to_the_side_that_is_wanted(
    step: Decimal, text: str
) -> None:
    scale = Scale(Instrument("AAA-BBB", step, step))
    exact = Decimal(text) / step
    down = outcome(lambda value: scale.ticks_near(value, up=False), text)
    up = outcome(lambda value: scale.ticks_near(value, up=True), text)
    assert outcome(scale.lots_within, text) == down or isinstance(down, str)
    if 0 < exact <= MAX_TICKS:
        assert up == math.ceil(exact)
    else:
        assert isinstance(up, str)
    if 1 <= exact <= MAX_TICKS:
        assert down == int(exact // 1)
    else:
        assert isinstance(down, str)
