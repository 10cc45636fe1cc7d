"""What a market accepts: sizes, values, prices near the market, and whether it is open at all.

These are local policy of a node (see `exchange.model.instruments`); its peers may have others. All numbers
inside are integers: prices in ticks, quantities in lots, values in ticks * lots, fractions in parts
per million.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Final

from exchange.model.instruments import MAX_LOTS, MAX_TICKS, PPM, Instrument

NO_LIMIT: Final = MAX_TICKS * MAX_LOTS  # no order is worth more


class RuleError(Exception):
    """An order that the rules of its market do not allow. `code` is stable, the text is a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def reference_price(last: int | None, bid: int | None, ask: int | None) -> int | None:
    """The price that bands are around, in ticks: the last trade's, but not outside of the book; else the
    middle of the book (rounded down), else none.

    A trade is its maker's word alone. Were it not held against the book, one node's invention would have
    every honest price refused, so no trade could put it right.
    """
    if last is not None:
        if bid is None or ask is None or bid <= ask:  # else the book is crossed and says nothing
            last = last if bid is None else max(last, bid)
            last = last if ask is None else min(last, ask)
        return last
    if bid is None or ask is None:
        return None
    return (bid + ask) // 2


class MarketRules:
    """The limits of one instrument. Immutable."""

    __slots__ = (
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
        # In whole units a least value is rounded up and a most one down: comparing is exact.
        self.min_notional = 0 if cheapest is None else ceil(Fraction(cheapest) / Fraction(unit))
        self.max_notional = (
            NO_LIMIT if dearest is None else floor(Fraction(dearest) / Fraction(unit))
        )
        self.band = instrument.price_band_ppm
        self.protection = instrument.protection_ppm

    def check(
        self,
        side: int,
        price: int | None,
        quantity: int,
        reference: int | None,
        worst_price: int | None = None,
    ) -> None:
        """Accept an order or say why not.

        Args:
            side: 1 (buy) or -1 (sell)
            price: of a limit order; None for a market order
            quantity: in all
            reference: the price that the band is around, see `reference_price`; of a conditional order
                its stop, because that is where the market will be when it matters. None: no band
            worst: of a market order, the worst price it may trade at; the band holds for it where
                it would be dear, a limit price must not be too good either

        A market order is valued at the reference, or at its worst price when there is none; with
        neither its value is not known and not checked.

        Raises:
            RuleError: too_small, too_large, notional_too_small, notional_too_large or price_band.
        """
        if not self.min_lots <= quantity <= self.max_lots:
            raise self._size(quantity)
        limit = worst_price if price is None else price
        band = self.band
        if band is not None and limit is not None and reference is not None:
            beyond = side * (limit - reference) if price is None else abs(limit - reference)
            if beyond * PPM > band * reference:
                raise self._outside(side, price, limit, reference)
        at = reference if price is None and reference is not None else limit
        if at is not None and not self.min_notional <= at * quantity <= self.max_notional:
            raise self._value(at, quantity)

    def accepts(self, price: int, quantity: int, reference: int | None) -> bool:
        """Whether `check` has nothing against a limit order; without a band any reference will do."""
        if not (
            self.min_lots <= quantity <= self.max_lots
            and self.min_notional <= price * quantity <= self.max_notional
        ):
            return False
        band = self.band
        if band is None or reference is None:
            return True
        return abs(price - reference) * PPM <= band * reference

    def protect(self, side: int, best: int, reference: int | None = None) -> int:
        """The worst price in ticks that a market order may trade at, when the best one on the other side
        of the book is `best`; within the band around `reference` if there is one.

        Rounded towards `best`; at least one tick.
        """
        worst_price = _away(side, best, self.protection)
        if reference is not None and self.band is not None:
            edge = _away(side, reference, self.band)
            worst_price = min(worst_price, edge) if side > 0 else max(worst_price, edge)
        return max(worst_price, 1)

    # Refusals

    def _size(self, quantity: int) -> RuleError:
        text = self._instrument.quantity_text
        if quantity < self.min_lots:
            code, limit = "too_small", f"below the least of {self._instrument.symbol}"
            instead = f"order {text(self.min_lots)} {self._instrument.base} or more"
        else:
            code, limit = "too_large", f"above the most of {self._instrument.symbol}"
            instead = f"order {text(self.max_lots)} {self._instrument.base} or less"
        return RuleError(code, f"quantity {text(quantity)} is {limit}: {instead}")

    def _value(self, price: int, quantity: int) -> RuleError:
        instrument = self._instrument
        value = _plain(instrument.notional(price, quantity))
        what = (
            f"{instrument.quantity_text(quantity)} at {instrument.price_text(price)} is worth "
            f"{value} {instrument.quote}"
        )
        if price * quantity < self.min_notional:
            lots = -(-self.min_notional // price)
            return RuleError(
                "notional_too_small",
                f"{what}, less than the least {_plain(instrument.min_notional)}: at this price order "
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
            f"{what}, more than the most {_plain(instrument.max_notional)}: {instead}",
        )

    def _outside(self, side: int, price: int | None, limit: int, reference: int) -> RuleError:
        text = self._instrument.price_text
        low = max(_away(-1, reference, self.band or 0), 1)
        high = min(_away(1, reference, self.band or 0), MAX_TICKS)
        what = "worst price" if price is None else "price"
        percent = _plain(Decimal(self.band or 0) / (PPM // 100))
        return RuleError(
            "price_band",
            f"{what} {text(limit)} is more than {percent} % from {text(reference)}: "
            f"{'buy' if side > 0 else 'sell'} between {text(low)} and {text(high)}",
        )


class Halts:
    """Which markets are halted, and why."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def halt(self, market: str, reason: str) -> None:
        """Another reason replaces the earlier one."""
        self._reasons[market] = reason

    def resume(self, market: str) -> bool:
        """Whether it was halted."""
        return self._reasons.pop(market, None) is not None

    def reason(self, market: str) -> str | None:
        """Why it is halted; None when it is not."""
        return self._reasons.get(market)

    def __contains__(self, market: object) -> bool:
        return market in self._reasons

    def check(self, market: str) -> None:
        """RuleError `halted` when it is."""
        if self._reasons and (reason := self._reasons.get(market)) is not None:
            raise RuleError(
                "halted",
                f"{market.partition('@')[0]} is halted{': ' if reason else ''}{reason}; orders can be "
                "cancelled, new ones are accepted when it has been resumed",
            )


def _away(side: int, price: int, ppm: int) -> int:
    """`price` moved by a fraction, up for a buy and down for a sell, rounded towards `price`."""
    return price + side * (price * ppm // PPM)


def _plain(number: Decimal | None) -> str:
    text = format(number or Decimal(0), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
