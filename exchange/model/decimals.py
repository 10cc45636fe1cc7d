"""Decimal texts of scaled integers."""

from __future__ import annotations

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
