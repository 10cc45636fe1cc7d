"""Decimal texts: of scaled integers, and of decimal numbers. No exponents, no trailing zeros."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache


@lru_cache(maxsize=8192)  # prices and quantities of a market repeat
def plain(value: int, decimals: int) -> str:
    """Return `value` / 10**`decimals` in plain digits: no exponent, no trailing zeros."""
    if not decimals:
        return str(value)
    digits = str(abs(value)).rjust(decimals + 1, "0")
    fraction = digits[-decimals:].rstrip("0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-decimals]}.{fraction}" if fraction else f"{sign}{digits[:-decimals]}"


def plain_decimal(number: Decimal) -> str:
    """Return a number in plain digits: no exponent, no trailing zeros."""
    if not number:
        return "0"
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(text: str, decimals: int) -> int:
    """Return plain digits times 10**`decimals`; further digits are cut off."""
    whole, _, part = text.partition(".")
    return int(whole + part[:decimals].ljust(decimals, "0"))
