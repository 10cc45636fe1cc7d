"""The arrays of Bitfinex v2 as JSON text: tickers, trades, candles, configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from exchange.market.candles import Candle, TradeRecord
from exchange.model.instruments import MAX_LOTS
from node.annexes.bitfinex.errors import BAD_PARAMETER, BitfinexError
from node.annexes.bitfinex.order_ids import trade_id
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.service.market_data import MarketData, MarketTicker

SIZES: Final = 25  # levels whose quantities a ticker adds up
_RELATIVE: Final = Decimal("0.00000001")
_LABEL: Final = re.compile(r"pub(:[a-z0-9]{1,20}){2,8}", re.ASCII)


def ticker(pair: Pair, market_data: MarketData) -> str:
    """BID, BID_SIZE, ASK, ASK_SIZE, DAILY_CHANGE, DAILY_CHANGE_RELATIVE, LAST_PRICE, VOLUME, HIGH, LOW.

    Sizes are those of the best 25 levels, as on Bitfinex. Clients crash on a missing bid or ask, so a
    side without orders has the size 0 and the last trade's price, never across the other side. null is
    for prices that nothing is known of: of a market without a trade, and without orders too.
    """
    scale = pair.scale
    found = market_data.ticker(pair.key)
    day = found.day
    book = market_data.shown(pair.key).book

    def price(ticks: int | None) -> str:
        return "null" if ticks is None else scale.price(ticks)

    def size(side: int) -> str:
        return scale.amount(sum(lots for _, lots, _ in book.levels(side, SIZES)))

    bid, ask = _quotes(found)
    change, relative = "null", "null"
    if day.last is not None:
        change, relative = scale.price(day.change), "0"
        if day.change and day.before:
            share = (Decimal(day.change) / day.before).quantize(_RELATIVE, rounding=ROUND_HALF_EVEN)
            relative = f"{share:f}"
    high = day.last if day.high is None else day.high  # without trades in the last 24 hours
    low = day.last if day.low is None else day.low
    return (
        f"[{price(bid)},{size(1)},{price(ask)},{size(-1)},{change},"
        f"{relative},{price(day.last)},{scale.amount(day.volume)},{price(high)},{price(low)}]"
    )


def quoted(pair: Pair, market_data: MarketData) -> bool:
    """Return True if a ticker of the market has a bid and an ask."""
    return None not in _quotes(market_data.ticker(pair.key))


def _quotes(found: MarketTicker) -> tuple[int | None, int | None]:
    """Bid and ask; of a side without orders a price in place of it, see `ticker`."""
    bid, ask, last = found.bid, found.ask, found.day.last
    if bid is None and ask is None:
        return last, last
    if bid is None and ask is not None:
        return (ask if last is None else min(last, ask)), ask
    if ask is None and bid is not None:
        return bid, (bid if last is None else max(last, bid))
    return bid, ask


def named_ticker(pair: Pair, market_data: MarketData) -> str:
    """The same with the symbol before it."""
    return f'["{pair.symbol}",{ticker(pair, market_data)[1:]}'


def trade(pair: Pair, record: TradeRecord) -> str:
    """ID, MTS, AMOUNT (of the taker, negative: sold), PRICE."""
    amount = pair.scale.amount(record.side * record.quantity)
    number = trade_id(record.taker, record.take)
    return f"[{number},{record.time // 1000},{amount},{pair.scale.price(record.price)}]"


def candle(pair: Pair, found: Candle) -> str:
    """MTS, OPEN, CLOSE, HIGH, LOW, VOLUME."""
    price = pair.scale.price
    return (
        f"[{found.start // 1000},{price(found.open)},{price(found.close)},{price(found.high)},"
        f"{price(found.low)},{pair.scale.amount(found.volume)}]"
    )


def past_ticker(pair: Pair, found: Candle) -> str:
    """SYMBOL, BID, -, ASK, nine more, MTS of an hour. Bids and asks are not kept, so both are the last price
    of the hour; hours without trades have no row."""
    price = pair.scale.price(found.close)
    return f'["{pair.symbol}",{price},null,{price}{",null" * 8},{found.start // 1000}]'


def array(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def configuration(label: str, symbols: Symbols) -> Any:
    """Answer of `/v2/conf/{label}`: nothing for a label that this node has nothing for, as clients
    ask for several labels in one request.

    Raises:
        BitfinexError: no label at all.
    """
    if label == "pub:info:pair":
        return [[pair.name, _pair_info(pair)] for pair in symbols]
    if label == "pub:list:pair:exchange":
        return [pair.name for pair in symbols]
    if label == "pub:list:currency":
        return symbols.currencies
    if label == "pub:map:currency:label":
        return [[name, name] for name in symbols.currencies]
    if _LABEL.fullmatch(label):
        return []
    raise BitfinexError(BAD_PARAMETER, f"conf: invalid: {label[:60]}")


def _pair_info(pair: Pair) -> list[str | None]:
    instrument = pair.instrument
    least, most = (
        pair.scale.amount(lots if limit is None else instrument.to_lots(limit))
        for lots, limit in ((1, instrument.min_quantity), (MAX_LOTS, instrument.max_quantity))
    )
    return [None, None, None, least, most, *[None] * 7]
