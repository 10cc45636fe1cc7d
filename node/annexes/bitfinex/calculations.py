"""Public calculations: the average price of a market order, and exchange rates between currencies."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from node.annexes.bitfinex import order_inputs
from node.annexes.bitfinex.errors import BAD_PARAMETER, BitfinexError, bad
from node.annexes.bitfinex.limits import BOOK_MAX
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.service.market_data import MarketData

_BUY: Final = 1
_RATES: Final = Context(prec=12, rounding=ROUND_HALF_EVEN)


class Calculations:
    """Each returns the JSON text of an array, or raises BitfinexError."""

    def __init__(self, market_data: MarketData, symbols: Symbols) -> None:
        self._market_data = market_data
        self._symbols = symbols

    def trade_average(self, body: Body) -> str:
        """PRICE_AVG, AMOUNT: what an order for `amount` (negative: sold) would trade of the book's first
        250 levels, no worse than `rate_limit` (also called `price_limit`)."""
        pair = self._symbols[body.get("symbol")]
        side, wanted = order_inputs.amount(pair, body.get("amount"), "amount")
        worst: int | None = None
        for name in ("rate_limit", "price_limit"):
            if body.get(name) not in (None, 0, "0"):
                worst = order_inputs.limit_price(pair, body, name, side)
        lots = value = 0
        for ticks, quantity, _ in self._market_data.shown(pair.key).book.levels(-side, BOOK_MAX):
            if lots == wanted or (worst is not None and side * (ticks - worst) > 0):
                break
            taken = min(quantity, wanted - lots)
            lots += taken
            value += taken * ticks
        if not lots:
            raise BitfinexError(BAD_PARAMETER, "amount: the book has nothing at such a price")
        average = pair.instrument.average_price_text(value, lots)
        return f"[{average},{pair.scale.amount(side * lots)}]"

    def rate(self, body: Body) -> str:
        """CURRENT_RATE of `ccy1` in `ccy2`, by last prices: of their market in either direction, else over
        one currency in between."""
        first, second = body.get("ccy1"), body.get("ccy2")
        known = self._symbols.currencies
        for name, currency in (("ccy1", first), ("ccy2", second)):
            if currency not in known:
                raise bad(name, f"one of {', '.join(known)} is expected")
        if first == second:
            return "[1]"
        rates = self._rates()
        found = rates.get((first, second))
        if found is None:
            found = next(
                (
                    _RATES.multiply(rates[first, between], rates[between, second])
                    for between in known
                    if (first, between) in rates and (between, second) in rates
                ),
                None,
            )
        if found is None:
            raise BitfinexError(BAD_PARAMETER, f"no market has a price of {first} in {second}")
        return f"[{found.normalize(_RATES):f}]"

    def _rates(self) -> dict[tuple[object, object], Decimal]:
        rates: dict[tuple[object, object], Decimal] = {}
        for pair in self._symbols:
            price = self._price(pair)
            if price is not None:
                base, quote = pair.instrument.base, pair.instrument.quote
                rates[base, quote] = price
                rates[quote, base] = _RATES.divide(Decimal(1), price)
        return rates

    def _price(self, pair: Pair) -> Decimal | None:
        """Last price; of a market that was not traded the middle of its book."""
        ticker = self._market_data.ticker(pair.key)
        ticks = ticker.day.last
        if ticks is not None:
            return Decimal(pair.scale.price(ticks))
        if ticker.bid is None or ticker.ask is None:
            return None
        return (Decimal(pair.scale.price(ticker.bid)) + Decimal(pair.scale.price(ticker.ask))) / 2
