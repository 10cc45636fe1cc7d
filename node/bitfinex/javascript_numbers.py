"""Decimals as JavaScript prints them, and rounded, without binary floats."""

from __future__ import annotations


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


def rounded(value: int, digits: int, *, up: bool) -> int:
    """Round `value` to a number of significant digits, to the given side."""
    excess = len(str(value)) - digits
    if excess <= 0:
        return value
    step: int = 10**excess
    return -(-value // step) * step if up else value // step * step
