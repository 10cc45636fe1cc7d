"""Own orders, trades, balances, ledger and fees as Bitfinex's arrays, as JSON text.

An order's status is written from its fills, newest first, when all of them are at hand; otherwise from
what it has filled in all, at the average price.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from zlib import crc32

import orjson

from exchange.model.decimals import plain
from exchange.model.instruments import PPM
from exchange.model.records import Fill, Order, Posting, PostingKind
from node.annexes.bitfinex.order_ids import own_order_id, trade_id
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.service.trading import Balance

HIDDEN: Final = 64
CLOSE: Final = 512
REDUCE_ONLY: Final = 1024
POST_ONLY: Final = 4096
OCO: Final = 16_384
NO_VAR_RATES: Final = 524_288

ORDER_FIELDS: Final = 32
STATUS_FILLS: Final = 20  # an order with more is summed up in its status

_CLIENT_ID: Final = re.compile(r"bfx:(\d{4}-\d{2}-\d{2}):(\d{1,16})", re.ASCII)
_KINDS: Final = {
    "limit": "EXCHANGE LIMIT",
    "market": "EXCHANGE MARKET",
    "stop": "EXCHANGE STOP",
    "stop_limit": "EXCHANGE STOP LIMIT",
    "trailing_stop": "EXCHANGE TRAILING STOP",
}
_LIMIT_KINDS: Final = {"ioc": "EXCHANGE IOC", "fok": "EXCHANGE FOK"}
_ENDS: Final = {  # reason -> status; others are CANCELED
    "ioc": "IOC CANCELED",
    "fok": "FILLORKILL CANCELED",
    "post_only": "POSTONLY CANCELED",
    "insufficient_balance": "INSUFFICIENT BALANCE (U1)",
    "halted": "RSN_PAUSE",
}
_DESCRIPTIONS: Final = {  # with the words that clients parse
    "deposit": "Deposit",
    "withdrawal": "Withdrawal",
    "trade": "Exchange",
    "fee": "Trading fee",
    "settlement": "Settlement",
    "transfer": "Transfer",
}
# Bitfinex's numbers of the categories that there are here.
CATEGORIES: Final[dict[int, PostingKind]] = {
    5: "trade",
    31: "settlement",
    51: "transfer",
    101: "deposit",
    104: "withdrawal",
    201: "fee",
}
_POSTING_KINDS: Final = {kind: index for index, kind in enumerate(_DESCRIPTIONS)}


def client_id(cid: int, date: str) -> str:
    """The node's client id for `cid` of a day, which is YYYY-MM-DD."""
    return f"bfx:{date}:{cid}"


def cid_of(order: Order) -> int | None:
    """The CID it was placed with; None without one, and for orders of other dialects."""
    if order.client_id is None:
        return None
    found = _CLIENT_ID.fullmatch(order.client_id)
    return None if found is None else int(found[2])


def triggered(order: Order) -> bool:
    """Return True if a conditional order has become an order of the book or the market."""
    return order.kind in ("stop", "stop_limit", "trailing_stop") and not order.untriggered


def type_of(order: Order) -> tuple[str, str | None]:
    """TYPE and TYPE_PREV."""
    placed = _KINDS[order.kind]
    if order.kind == "limit":
        return _LIMIT_KINDS.get(order.tif, placed), None
    if triggered(order):
        return _KINDS["market" if order.price is None else "limit"], placed
    return placed, None


def flags_of(order: Order) -> int:
    return (
        HIDDEN * order.hidden
        | REDUCE_ONLY * order.reduce_only
        | POST_ONLY * order.post_only
        | OCO * bool(order.linked_order)
    )


def status(order: Order, pair: Pair, fills: Sequence[Fill]) -> str:
    """STATUS. `fills` are those of the order, oldest first; if some lack it is summed up."""
    if not (order.done or order.filled):
        return "ACTIVE"
    traded = _traded(order, pair, fills)
    if not order.done:
        return ", ".join(f"PARTIALLY FILLED @ {part}" for part in traded)
    if order.reason in ("", "filled") and order.filled == order.quantity:
        before = ", ".join(f"PARTIALLY FILLED @ {part}" for part in traded[1:])
        return f"EXECUTED @ {traded[0]}{': was ' if before else ''}{before}"
    ended = _ENDS.get(order.reason, "CANCELED")
    before = ", ".join(f"PARTIALLY FILLED @ {part}" for part in traded)
    return f"{ended}{' was: ' if before else ''}{before}"


def _traded(order: Order, pair: Pair, fills: Sequence[Fill]) -> list[str]:
    """PRICE(AMOUNT) of each fill, newest first."""
    if not order.filled:
        return []
    scale = pair.scale
    if len(fills) <= STATUS_FILLS and sum(fill.quantity for fill in fills) == order.filled:
        return [
            f"{scale.price(fill.price)}({scale.amount(fill.side * fill.quantity)})"
            for fill in reversed(fills)
        ]
    return [f"{_average(order, pair)}({scale.amount(order.side * order.filled)})"]


def _average(order: Order, pair: Pair) -> str:
    return pair.instrument.average_price_text(order.value, order.filled)


def prices(order: Order, pair: Pair) -> tuple[str, str, str]:
    """PRICE, PRICE_TRAILING and PRICE_AUX_LIMIT. Of a conditional order PRICE is its trigger."""
    scale = pair.scale
    price = "0" if order.price is None else scale.price(order.price)
    if order.kind not in ("stop", "stop_limit", "trailing_stop"):
        return price, "0", "0"
    trailing = scale.price(order.trailing_offset)
    if triggered(order):
        return price, trailing, "0"
    return scale.price(order.stop), trailing, price


def _is_plain(order: Order) -> bool:
    """Report if an order is a limit order without options that nothing has happened to."""
    return order.terms is None and order.price is not None and not (order.filled or order.done)


def order_text(order: Order, pair: Pair, fills: Sequence[Fill] = ()) -> str:
    """The 32 fields of an order."""
    scale = pair.scale
    cid = None if order.client_id is None else cid_of(order)
    if _is_plain(order):  # as most are when they are placed
        whole = scale.amount(order.side * order.quantity)
        return (
            f"[{own_order_id(order.number)},{order.group or 'null'},{_or_null(cid)},"
            f'"{pair.symbol}",{order.time // 1000},{max(order.updated, order.time) // 1000},'
            f'{whole},{whole},"EXCHANGE LIMIT",null,null,null,0,"ACTIVE",null,null,'
            f"{'0' if order.price is None else scale.price(order.price)},0,0,0,null,null,null,"
            '0,0,null,null,null,"API>BFX",null,null,{}]'
        )
    kind, before = type_of(order)
    price, trailing, aux = prices(order, pair)
    created = order.time // 1000
    whole = scale.amount(order.side * order.quantity)
    left = 0 if order.done and order.filled >= order.quantity else order.quantity - order.filled
    average = _average(order, pair) if order.filled else "0"
    # The stop of a pair is placed because of the other, and after it.
    placed_by = own_order_id(order.linked_order) if 0 < order.linked_order < order.number else None
    return (
        f"[{own_order_id(order.number)},{order.group or 'null'},{_or_null(cid)},"
        f'"{pair.symbol}",{created},{max(order.updated, order.time) // 1000},'
        f"{whole if left == order.quantity else scale.amount(order.side * left)},{whole},"
        f"{_quoted(kind)},{_quoted(before)},{order.expires // 1000 or 'null'},null,"
        f"{flags_of(order)},{_quoted(status(order, pair, fills))},null,null,"
        f"{price},{average},{trailing},{aux},null,null,null,"
        f'0,{int(order.hidden)},{_or_null(placed_by)},null,null,"API>BFX",null,null,{{}}]'
    )


def trade_text(
    fill: Fill, pair: Pair, order: Order | None, fee_decimals: int, *, with_fee: bool = True
) -> str:
    """The 12 fields of an own trade. `order` is the fill's, if it is still known."""
    scale = pair.scale
    kind = price = "null"
    cid: int | None = None
    if order is not None:
        cid = cid_of(order)
        before = type_of(order)
        kind = _quoted(before[1] or before[0])
        price = prices(order, pair)[0]
    fee = asset = "null"
    if with_fee:
        fee = plain(-fill.fee, fee_decimals)
        # Without a fee it is what one would be taken in.
        received = pair.instrument.base if fill.side > 0 else pair.instrument.quote
        asset = _quoted(fill.fee_asset or received)
    return (
        f'[{trade_id(fill.taker, fill.take)},"{pair.symbol}",{fill.time // 1000},'
        f"{own_order_id(fill.order)},{scale.amount(fill.side * fill.quantity)},"
        f"{scale.price(fill.price)},{kind},{price},{1 if fill.role == 'maker' else -1},"
        f"{fee},{asset},{_or_null(cid)}]"
    )


def _or_null(value: int | None) -> str:
    return "null" if value is None else str(value)


@lru_cache(maxsize=256)
def _quoted(text: str | None) -> str:
    return orjson.dumps(text).decode()


def wallet_text(balance: Balance, decimals: int) -> str:
    """TYPE, CURRENCY, BALANCE, UNSETTLED_INTEREST, AVAILABLE_BALANCE, LAST_CHANGE, TRADE_DETAILS."""
    total = plain(balance.total, decimals)
    available = plain(balance.total - balance.held, decimals)
    return f'["exchange","{balance.asset}",{total},0,{available},null,null]'


def ledger_text(posting: Posting, decimals: int) -> str:
    """ID, CURRENCY, null, MTS, null, AMOUNT, BALANCE, null, DESCRIPTION.

    A transaction has several lines of one account: the id is made of its number, asset and kind.
    """
    line = crc32(posting.asset.encode()) % 1000 * 10 + _POSTING_KINDS[posting.kind]
    number = posting.transaction * 10_000 + line
    described = _DESCRIPTIONS[posting.kind]
    text = f"{described} @ {posting.reference}" if posting.reference else described
    return (
        f'[{number},"{posting.asset}",null,{posting.time // 1000},null,'
        f"{plain(posting.amount, decimals)},{plain(posting.balance, decimals)},null,"
        f"{orjson.dumps(f'{text} on wallet exchange').decode()}]"
    )


def summary_text(symbols: Symbols) -> str:
    """The answer of `r/summary`: at index 4 maker's and taker's fees as fractions.

    Bitfinex has one rate for all markets and another for those against a national currency. Here each
    market has its own, so both are the greatest, which is an upper bound for every market.
    """
    rows = []
    for ppm in (
        max((pair.instrument.maker_ppm for pair in symbols), default=0),
        max((pair.instrument.taker_ppm for pair in symbols), default=0),
    ):
        fee = plain(ppm, len(str(PPM)) - 1)
        rows.append(f"[{fee},{fee},{fee},null,null,{fee}]")
    return f"[null,null,null,null,[{','.join(rows)}],null,null,null,null,{{}},null,null]"


def user_text(number: int, name: str, created: int) -> str:
    """The first of the 55 fields of `r/info/user`: ID, EMAIL, USERNAME, MTS_ACCOUNT_CREATE, ..."""
    fields = [number, "", name, created // 1000, *[None] * 51]
    return orjson.dumps(fields).decode()
