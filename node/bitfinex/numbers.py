"""Decimals as JSON numbers and as JavaScript prints them, made from integers without binary floats."""

from __future__ import annotations

from exchange.instruments import Instrument


def plain(value: int, decimals: int) -> str:
    """`value` / 10**`decimals` in plain digits: no exponent, no trailing zeros."""
    if not decimals:
        return str(value)
    digits = str(abs(value)).rjust(decimals + 1, "0")
    fraction = digits[-decimals:].rstrip("0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-decimals]}.{fraction}" if fraction else f"{sign}{digits[:-decimals]}"


def javascript(text: str) -> str:
    """A plain number as JavaScript prints it: below 0.000001 with an exponent. What a checksum sees."""
    sign = "-" if text.startswith("-") else ""
    whole, _, fraction = text.removeprefix("-").partition(".")
    if whole != "0" or not fraction.startswith("000000"):
        return text
    digits = fraction.lstrip("0")
    exponent = len(fraction) - len(digits) + 1
    point = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}e-{exponent}"


class Scale:
    """Prices and amounts of one market. A price's value is its integer in units of the last decimal."""

    def __init__(self, instrument: Instrument) -> None:
        self.price_decimals = instrument.price_decimals
        self.quantity_decimals = instrument.quantity_decimals
        self._tick = int(instrument.tick.scaleb(self.price_decimals))
        self._lot = int(instrument.lot.scaleb(self.quantity_decimals))

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


def rounded(value: int, digits: int, *, up: bool) -> int:
    """`value` with at most so many significant digits, rounded to the side that is asked for."""
    excess = len(str(value)) - digits
    if excess <= 0:
        return value
    step: int = 10**excess
    return -(-value // step) * step if up else value // step * step
