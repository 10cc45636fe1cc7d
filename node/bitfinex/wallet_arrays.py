"""Balances, the ledger and fees as Bitfinex's arrays, as JSON text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from zlib import crc32

import orjson

from exchange.model.decimals import plain
from exchange.model.instruments import PPM
from exchange.model.records import Posting, PostingKind
from node.bitfinex.symbols import Symbols
from node.service.trading import Balance

_DESCRIPTIONS: Final = {  # with the words that clients tell the kinds by
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
_KINDS: Final = {kind: index for index, kind in enumerate(_DESCRIPTIONS)}


def wallet_text(balance: Balance, decimals: int) -> str:
    """TYPE, CURRENCY, BALANCE, UNSETTLED_INTEREST, AVAILABLE_BALANCE, LAST_CHANGE, TRADE_DETAILS."""
    total = plain(balance.total, decimals)
    available = plain(balance.total - balance.held, decimals)
    return f'["exchange","{balance.asset}",{total},0,{available},null,null]'


def ledger_text(posting: Posting, decimals: int) -> str:
    """ID, CURRENCY, null, MTS, null, AMOUNT, BALANCE, null, DESCRIPTION.

    A transaction has several lines of one account: the id is made of its number, asset and kind.
    """
    line = crc32(posting.asset.encode()) % 1000 * 10 + _KINDS[posting.kind]
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


def array(texts: Iterable[str]) -> str:
    return f"[{','.join(texts)}]"
