"""Parsing of typed text: an order (MARKET QTY [@ PRICE]), an amount of money."""

from __future__ import annotations

import re
from typing import NamedTuple

_DECIMAL = re.compile(r"(\d+(\.\d+)?|\.\d+)", re.ASCII)
_ASSET = re.compile(r"[A-Za-z][A-Za-z0-9]{1,11}", re.ASCII)
_MARKET = re.compile(r"[A-Za-z][A-Za-z0-9]*([-/_.:]?[A-Za-z0-9]+)*", re.ASCII)


class OrderText(NamedTuple):
    """A typed order, checked in form only; the node checks tick and lot of the market."""

    market: str
    quantity: str
    price: str | None


class OrderTextError(ValueError):
    """The typed text is not an order; the message shows the right form."""


def decimal(text: str, name: str) -> str:
    """A positive decimal number as people may type it, else a suggestion.

    Raises:
        OrderTextError: it is none.
    """
    if _DECIMAL.fullmatch(text):
        if not text.strip("0."):
            raise OrderTextError(f"the {name} must be more than 0")
        return f"0{text}" if text.startswith(".") else text
    if text.startswith("-"):
        why = "'buy' and 'sell' say the direction, " if name in ("price", "quantity") else ""
        raise OrderTextError(f"the {name} {text} is negative; {why}the {name} is above 0")
    meant = _meant(text)
    hint = f"; did you mean {meant}?" if meant else ", such as 0.5 or 30000"
    raise OrderTextError(f"the {name} {text!r} is not a plain decimal number{hint}")


def _meant(text: str) -> str | None:
    """A plain number that `text` probably stands for."""
    bare = re.sub(r"[$€£_\s']|(?i:usd|btc|eur)$", "", text)
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", bare):
        return bare.replace(",", "")
    bare = re.sub(r"^(\d+),(\d+)$", r"\1.\2", bare)
    if match := re.fullmatch(r"(\d+)([kK])", bare):
        return match[1] + "000"
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)[eE]\+?(\d{1,2})", bare):
        from decimal import Decimal

        return f"{Decimal(bare):f}"
    return bare if _DECIMAL.fullmatch(bare) else None


def parse_order(side: str, words: list[str], price: str | None = None) -> OrderText:
    """The order in `words`; `price` is that of --price.

    Raises:
        OrderTextError: with what to type instead.
    """
    usage = f"exchange-node order {side} BTC-USD 0.5 @ 30000"
    if not words:
        raise OrderTextError(f"which market, and how much? For example: {usage}")
    market, rest = words[0], words[1:]
    if not _MARKET.fullmatch(market):
        for other in rest:
            if _MARKET.fullmatch(other):
                tail = [word for word in words if word != other]
                raise OrderTextError(
                    f"the market comes first: exchange-node order {side} {' '.join([other, *tail])}"
                )
        raise OrderTextError(f"{market!r} is not a market; for example: {usage}")
    if not rest:
        raise OrderTextError(
            f"how much? For example: exchange-node order {side} {market} 0.5 @ 30000"
        )
    typed = " ".join(rest)
    if typed.count("@") > 1:
        raise OrderTextError(f"{typed!r} has more than one @; for example: {usage}")
    before, at, after = (part.strip() for part in typed.partition("@"))
    if at and price is not None:
        raise OrderTextError("the price is given twice, after @ and with --price; give it once")
    if at and not after:
        raise OrderTextError(
            f"the price after @ is missing; for a market order leave out the @: "
            f"exchange-node order {side} {market} {before}".rstrip()
        )
    if not before:
        raise OrderTextError(f"the quantity before @ is missing; for example: {usage}")
    numbers = before.split()
    if len(numbers) == 2 and not at and price is None:
        quantity, last = numbers
        raise OrderTextError(
            f"is {last} the price? Write it after an @: "
            f"exchange-node order {side} {market} {quantity} @ {last}"
        )
    if len(numbers) > 1 or len(after.split()) > 1:
        extra = (numbers[1:] or after.split()[1:])[0]
        raise OrderTextError(f"{extra!r} is one word too many; for example: {usage}")
    typed_price = after if at else price
    return OrderText(
        market.upper(),
        decimal(numbers[0], "quantity"),
        None if typed_price is None else decimal(typed_price, "price"),
    )


def parse_amount(words: list[str], usage: str, directions: str) -> tuple[str, str]:
    """Amount and asset of AMOUNT ASSET. `directions`: the two words that say which way it goes.

    Raises:
        OrderTextError: with what to type instead.
    """
    if len(words) != 2:
        wrong = ("the amount and the asset are missing", "the amount or the asset is missing")
        what = wrong[len(words)] if len(words) < 2 else f"{words[2]!r} is one word too many"
        raise OrderTextError(f"{what}; for example: {usage}")
    amount, asset = words
    if _ASSET.fullmatch(amount) and not _ASSET.fullmatch(asset):
        raise OrderTextError(f"the amount comes first: {asset} {amount}")
    if amount.startswith("-"):
        raise OrderTextError(f"the amount {amount} is negative; {directions} say the direction")
    if not _ASSET.fullmatch(asset):
        raise OrderTextError(f"{asset!r} is not an asset; for example: {usage}")
    return decimal(amount, "amount"), asset.upper()
