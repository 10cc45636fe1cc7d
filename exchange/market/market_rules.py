"""Market rules: limits of size, value and price of an order, and trading halts.

The rules are local policy of a node (see `exchange.model.instruments`); its peers may have others. All
numbers inside are integers: prices in ticks, quantities in lots, values in ticks * lots, fractions in
parts per million.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Final

from exchange.model.decimals import plain_decimal
from exchange.model.instruments import MAX_LOTS, MAX_TICKS, PPM, Instrument

NO_LIMIT: Final = MAX_TICKS * MAX_LOTS  # the greatest value of any order


class RuleError(Exception):
    """Violation of a market's rules by an order. `code` is stable, the text is a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def reference_price(
    near: int | None, own: int | None, bid: int | None, ask: int | None
) -> int | None:
    """Return the reference price of the bands in ticks for an order at the price `near`.

    Of a book with both sides it is the price of this node's last fill, but not outside of the book. With less it is
    what is nearest to the order from the least to the greatest of what there is: a book with both sides, or a fill and a side.
    For `near` None it is the fill, or the middle of the book. A side alone has no reference.

    Trades of others are unproven claims, and an order far from all others costs its owner nothing: what they make up
    may widen the band, but must not close it to honest orders.
    """
    if own is not None and bid is not None and ask is not None:
        return own if bid > ask else min(max(own, bid), ask)  # a crossed book bounds nothing
    prices = [price for price in (own, bid, ask) if price is not None]
    if own is None and len(prices) < 2:
        return None
    low, high = min(prices), max(prices)
    if near is None:
        return (low + high) // 2 if own is None else own
    return min(max(near, low), high)


class MarketRules:
    """Limits of one instrument. Immutable."""

    __slots__ = (
        "_band_below",
        "_instrument",
        "band",
        "max_lots",
        "max_notional",
        "min_lots",
        "min_notional",
        "protection",
    )

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        least, most = instrument.min_quantity, instrument.max_quantity
        self.min_lots = 1 if least is None else instrument.to_lots(least)
        self.max_lots = MAX_LOTS if most is None else instrument.to_lots(most)
        unit = instrument.notional(1, 1)
        cheapest, dearest = instrument.min_notional, instrument.max_notional
        # In whole units a minimum is rounded up and a maximum down, so that comparisons are exact.
        self.min_notional = 0 if cheapest is None else ceil(Fraction(cheapest) / Fraction(unit))
        self.max_notional = (
            NO_LIMIT if dearest is None else floor(Fraction(dearest) / Fraction(unit))
        )
        self.band = band = instrument.price_band_ppm
        # A band beyond 100 % is a factor in both directions: 4 allows a fifth to five times the reference.
        self._band_below = (
            band * PPM // (PPM + band) if band is not None and band > PPM else band or 0
        )
        self.protection = instrument.protection_ppm

    def check(
        self,
        side: int,
        price: int | None,
        quantity: int,
        reference: int | None,
        worst_price: int | None = None,
    ) -> None:
        """Check an order.

        Args:
            side: 1 (buy) or -1 (sell)
            price: of a limit order; None for a market order
            quantity: total quantity
            reference: center of the price band, see `reference_price`; for a conditional order its
                stop, because the market will be there when it is triggered. None: no band
            worst_price: of a market order. The band bounds it on the expensive side only, a limit
                price on both sides

        A market order is valued at the reference, or at its worst price when there is none; with
        neither its value is unknown and not checked.

        Raises:
            RuleError: too_small, too_large, notional_too_small, notional_too_large or price_band.
        """
        if not self.min_lots <= quantity <= self.max_lots:
            raise self._size(quantity)
        limit = worst_price if price is None else price
        band = self.band
        if band is not None and limit is not None and reference is not None:
            if (price is not None or side > 0) and (limit - reference) * PPM > band * reference:
                raise self._outside(side, price, limit, reference)
            if (price is not None or side < 0) and (
                reference - limit
            ) * PPM > self._band_below * reference:
                raise self._outside(side, price, limit, reference)
        at = reference if price is None and reference is not None else limit
        if at is not None and not self.min_notional <= at * quantity <= self.max_notional:
            raise self._value(at, quantity)

    def protect(self, side: int, best: int, reference: int | None = None) -> int:
        """Return the worst price in ticks of a market order when the best counterprice is `best`; within
        the band around `reference` if there is one.

        Rounded towards `best`; at least one tick.
        """
        worst_price = _away(side, best, self.protection)
        if reference is not None and self.band is not None:
            edge = _away(side, reference, self.band if side > 0 else self._band_below)
            worst_price = min(worst_price, edge) if side > 0 else max(worst_price, edge)
        return max(worst_price, 1)

    # Violations

    def _size(self, quantity: int) -> RuleError:
        text = self._instrument.quantity_text
        if quantity < self.min_lots:
            code, limit = "too_small", f"below the minimum of {self._instrument.symbol}"
            instead = f"order {text(self.min_lots)} {self._instrument.base} or more"
        else:
            code, limit = "too_large", f"above the maximum of {self._instrument.symbol}"
            instead = f"order {text(self.max_lots)} {self._instrument.base} or less"
        return RuleError(code, f"quantity {text(quantity)} is {limit}: {instead}")

    def _value(self, price: int, quantity: int) -> RuleError:
        instrument = self._instrument
        value = plain_decimal(instrument.notional(price, quantity))
        what = (
            f"{instrument.quantity_text(quantity)} at {instrument.price_text(price)} is worth "
            f"{value} {instrument.quote}"
        )
        if price * quantity < self.min_notional:
            lots = -(-self.min_notional // price)
            return RuleError(
                "notional_too_small",
                f"{what}, less than the minimum {plain_decimal(instrument.min_notional or Decimal(0))}: at this price order "
                f"{instrument.quantity_text(lots)} {instrument.base} or more",
            )
        lots = self.max_notional // price
        instead = (
            f"at this price order {instrument.quantity_text(lots)} {instrument.base} or less"
            if lots
            else "no quantity is small enough at this price"
        )
        return RuleError(
            "notional_too_large",
            f"{what}, more than the maximum {plain_decimal(instrument.max_notional or Decimal(0))}: {instead}",
        )

    def _outside(self, side: int, price: int | None, limit: int, reference: int) -> RuleError:
        text = self._instrument.price_text
        low = max(_away(-1, reference, self._band_below), 1)
        high = min(_away(1, reference, self.band or 0), MAX_TICKS)
        what = "worst price" if price is None else "price"
        percent = plain_decimal(Decimal(self.band or 0) / (PPM // 100))
        far = f"more than {percent} %" if (self.band or 0) <= PPM else "too far"
        return RuleError(
            "price_band",
            f"{what} {text(limit)} is {far} from {text(reference)}: "
            f"{'buy' if side > 0 else 'sell'} between {text(low)} and {text(high)}",
        )


class Halts:
    """Halted markets with their reasons."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def halt(self, market: str, reason: str) -> None:
        """Halt a market, or replace the reason of its halt."""
        self._reasons[market] = reason

    def resume(self, market: str) -> bool:
        """End a halt. Returns False when the market was not halted."""
        return self._reasons.pop(market, None) is not None

    def reason(self, market: str) -> str | None:
        """Return the reason of a halt, "" without one; None when the market is not halted."""
        return self._reasons.get(market)

    def __contains__(self, market: object) -> bool:
        return market in self._reasons

    def check(self, market: str) -> None:
        """Check that a market is not halted.

        Raises:
            RuleError: halted.
        """
        if self._reasons and (reason := self._reasons.get(market)) is not None:
            raise RuleError(
                "halted",
                f"{market.partition('@')[0]} is halted{': ' if reason else ''}{reason}; orders can be "
                "cancelled; new ones are accepted after it is resumed",
            )


def _away(side: int, price: int, ppm: int) -> int:
    """Return `price` moved by a fraction, up for a buy and down for a sell, rounded towards `price`."""
    return price + side * (price * ppm // PPM)
