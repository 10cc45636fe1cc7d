"""Prices and quantities of one market between texts and the integers inside, without decimals or floats."""

from __future__ import annotations

import re
from typing import Final

from exchange.model.decimals import plain
from exchange.model.instruments import MAX_LOTS, MAX_TEXT, MAX_TICKS, Instrument
from node.views.field_types import SIGNED_PATTERN

_NUMBER: Final = re.compile(SIGNED_PATTERN)  # below 0 has a refusal of its own
_POWERS: Final = tuple(10**digits for digits in range(MAX_TEXT + 1))


def _steps(text: str, decimals: int, step: int, most: int) -> int | None:
    """Return a plain number as a count of steps of `step` / 10**`decimals`; None for everything that
    has to be looked at more closely, or refused."""
    if len(text) > MAX_TEXT:
        return None
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    missing = decimals - len(fraction)
    if missing < 0 or not (digits.isdigit() and digits.isascii()):
        return None
    if not whole or (point and not fraction):
        return None
    steps, rest = divmod(int(digits) * _POWERS[missing], step)
    return steps if not rest and 0 < steps <= most else None


def _plain(what: str, text: str) -> str:
    """Check the form that the documents show: digits, and maybe a point with digits on both sides.

    Raises:
        ValueError: another form of a number, or none.
    """
    if len(text) <= MAX_TEXT and not _NUMBER.fullmatch(text):
        raise ValueError(f"{what}: {text!r} is not a decimal number such as 30000.5")
    return text


class Scale:
    """The texts of one market. A price's value is its integer in units of the last decimal."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.key = instrument.key
        self.symbol = instrument.symbol
        self.price_decimals = instrument.price_decimals
        self.quantity_decimals = instrument.quantity_decimals
        self._tick = int(instrument.tick.scaleb(self.price_decimals))
        self._lot = int(instrument.lot.scaleb(self.quantity_decimals))

    # In

    def ticks(self, text: str) -> int:
        """As `Instrument.to_ticks`, with its errors, of a plain number."""
        ticks = _steps(text, self.price_decimals, self._tick, MAX_TICKS)
        return self.instrument.to_ticks(_plain("price", text)) if ticks is None else ticks

    def lots(self, text: str) -> int:
        """As `Instrument.to_lots`, with its errors, of a plain number."""
        lots = _steps(text, self.quantity_decimals, self._lot, MAX_LOTS)
        return self.instrument.to_lots(_plain("quantity", text)) if lots is None else lots

    def ticks_near(self, text: str, *, up: bool) -> int:
        """As `Instrument.ticks_near`, with its errors."""
        ticks = _steps(text, self.price_decimals, self._tick, MAX_TICKS)
        return self.instrument.ticks_near(text, up=up) if ticks is None else ticks

    def lots_within(self, text: str) -> int:
        """As `Instrument.lots_within`, with its errors."""
        lots = _steps(text, self.quantity_decimals, self._lot, MAX_LOTS)
        return self.instrument.lots_within(text) if lots is None else lots

    # Out

    def value(self, ticks: int) -> int:
        """A price in units of 10**-`price_decimals`."""
        return ticks * self._tick

    def price(self, ticks: int) -> str:
        return plain(ticks * self._tick, self.price_decimals)

    def price_of(self, value: int) -> str:
        """The text of a price's value."""
        return plain(value, self.price_decimals)

    def amount(self, lots: int) -> str:
        """Signed quantities too."""
        return plain(lots * self._lot, self.quantity_decimals)
