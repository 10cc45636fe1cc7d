"""Worth of a market's ticks and lots in whole units of its assets.

A unit is 10 ** -decimals of an asset. The decimals of an asset are enough for every instrument, so each lot and
each tick of a lot is a whole number of units, and amounts are exact integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from math import gcd

import msgspec

from exchange.model.instruments import PPM, Instrument

MIN_DECIMALS = 8  # of every asset: most exchanges account in 8, so few instruments need more


class MarketUnits(msgspec.Struct, frozen=True):
    """Worth of a market's ticks and lots in units of its two assets, and the market's fees."""

    base: str
    quote: str
    base_units: int  # per lot
    quote_units: int  # per tick * lot
    maker_ppm: int  # fee, parts per million of the amount received; negative: a rebate
    taker_ppm: int
    fee_units: int = 1  # of the base asset: fees in it are whole multiples of that


def decimals_of(instruments: Iterable[Instrument]) -> dict[str, int]:
    """Return the decimals of each asset with which every lot and every tick of a lot is a whole number
    of units."""
    found: dict[str, int] = {}
    for instrument in instruments:
        lot = instrument.quantity_decimals
        for asset, needed in (
            (instrument.base, lot),
            (instrument.quote, lot + instrument.price_decimals),
        ):
            found[asset] = max(MIN_DECIMALS, needed, found.get(asset, 0))
    return found


def units_of(
    instrument: Instrument, maker_ppm: int, taker_ppm: int, decimals: Mapping[str, int]
) -> MarketUnits:
    """Return the worth of an instrument's steps in units, with its fees.

    Raises:
        ValueError: a fee above 100 %, or `decimals` too few for the instrument's steps.
    """
    for name, rate in (("maker", maker_ppm), ("taker", taker_ppm)):
        if abs(rate) > PPM:
            raise ValueError(f"{name} fee: expected at most {PPM} parts per million, got {rate}")
    base, quote = instrument.base, instrument.quote
    lot = _whole(instrument.lot, base, decimals)
    return MarketUnits(
        base,
        quote,
        lot,
        _whole(instrument.notional(1, 1), quote, decimals),
        maker_ppm,
        taker_ppm,
        # What is bought can be sold again to the last lot of 1e-8, also if the asset has more decimals.
        gcd(lot, 10 ** (decimals[base] - MIN_DECIMALS)),
    )


def _whole(amount: Decimal, asset: str, decimals: Mapping[str, int]) -> int:
    units = Fraction(amount) * Fraction(10) ** decimals[asset]
    if units.denominator != 1:
        raise ValueError(f"{asset}: {decimals[asset]} decimals are too few for steps of {amount}")
    return units.numerator
