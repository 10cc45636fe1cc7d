"""Signed statements: what one node says is open between it and another. Pure: no I/O, no clock.

A statement has the signer's positions with the other node, the payments that it recorded, the takes
whose outcome it does not know, and for each of the two takers a digest of all trades. Where digests
differ, parts of the trades are asked for, tables of finer digests until few trades are left
(`exchange.ledger.reconciliation`); parts are signed too. All of one statement and its parts are of one cut of
the signer's history, so they do not move while they are compared.

Amounts are decimal texts, for two nodes may count an asset in different units. A trade is said in
ticks and lots of its market, whose name pins their steps, so both nodes say the same of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec

from exchange.model.decimals import plain
from exchange.model.ports import Keys
from exchange.model.records import Fill

VERSION: Final = 1
DECIMALS: Final = 40  # in which amounts are compared; more than any asset has
MAX_DIGITS: Final = 60  # before the point
MAX_BODY: Final = 768 * 1024  # bytes, of one document: it has to fit a message between nodes
MAX_POSITIONS: Final = 1000  # assets
MAX_SETTLEMENTS: Final = 2000  # in one statement, the latest; beyond, sums are compared alone
MAX_ASKED: Final = 1000  # takes without an answer, in one statement
MAX_TRADES: Final = 256  # in one part
CHILD_BITS: Final = 6  # a table has 64 rows at most
ROOT_BITS: Final = 62
LIMIT: Final = 2**62  # of numbers and times

_AMOUNT: Final = re.compile(rf"-?\d{{1,{MAX_DIGITS}}}(\.\d{{1,{DECIMALS}}})?", re.ASCII)
_ASSET: Final = re.compile(r"[!-~]{1,24}", re.ASCII)


class StatementError(Exception):
    """A document that is not what it should be. `code`: wrong_key, bad_signature, wrong_network,
    wrong_node, malformed, contradiction or too_many."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


# What is said


class StatementTrade(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A trade between two nodes, in the same words on both."""

    taker: str
    take: int
    market: str
    side: int  # the taker's
    price: int  # ticks
    quantity: int  # lots
    maker_order: int
    taker_order: int
    time: int  # us, the maker's


class Position(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Above zero: the signer owes it to the other. `traded` and `settled` are the sums of the signer's
    trades and settlements: without lost history `balance` is their sum."""

    asset: str
    balance: str
    traded: str
    settled: str


class Settlement(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A payment that the signer recorded: above zero it was paid, below it has paid."""

    asset: str
    amount: str
    time: int  # us


class UndecidedTake(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A take of the signer's whose outcome it does not know."""

    take: int
    market: str
    maker_order: int
    side: int
    price: int
    quantity: int


class TradesDigest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of trades of one taker, in the order of their takes."""

    count: int
    hash: bytes
    first: int = 0  # the smallest take
    last: int = 0  # the greatest


class DigestRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    index: int
    digest: TradesDigest


class StatementQuestion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The trades of `taker` with takes from `first` on, 2 ** `bits` of them: all, or a table of digests."""

    taker: str
    first: int
    bits: int
    table: bool


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """See the module's docstring. `cut` is the signer's name for the state of its history."""

    version: int
    network: str
    node: str
    peer: str
    time: int  # us, the signer's clock
    cut: tuple[int, int]
    positions: list[Position]  # by asset
    trades: list[TradesDigest]  # with the signer as taker, with the other
    settlements: list[Settlement]  # the latest
    settlement_count: int
    asked: list[UndecidedTake]  # by take
    asked_count: int


class StatementPart(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a question about the history that a statement was made of."""

    version: int
    network: str
    node: str
    peer: str
    cut: tuple[int, int]
    question: StatementQuestion
    trades: list[StatementTrade]
    rows: list[DigestRow]  # those with trades, by index


class SignedDocument(msgspec.Struct, frozen=True):
    """A document as it travels, and as it is kept."""

    kind: str  # statement, part
    body: bytes
    key: bytes
    signature: bytes


KINDS: Final[dict[type[Any], str]] = {Statement: "statement", StatementPart: "part"}
pack = msgspec.msgpack.Encoder().encode


# Amounts


def units(text: str) -> int:
    """A decimal text in units of 10 ** -DECIMALS."""
    whole, _, part = text.partition(".")
    return int(whole + part.ljust(DECIMALS, "0"))


def text_of(amount: int) -> str:
    """An amount in units of 10 ** -DECIMALS as a plain decimal."""
    return plain(amount, DECIMALS)


@lru_cache(256)
def market_of(key: str) -> tuple[str, str, int, int]:
    """Base, quote, tick and lot (units of 10 ** -DECIMALS) of a market by its name on the wire.

    A name without steps counts ticks and lots themselves. ValueError when it is no market's name.
    """
    symbol, _, steps = key.partition("@")
    base, _, quote = symbol.partition("-")
    tick, _, lot = (steps or "1/1").partition("/")
    quote = quote or base
    if not (
        _ASSET.fullmatch(base)
        and _ASSET.fullmatch(quote)
        and _AMOUNT.fullmatch(tick)
        and _AMOUNT.fullmatch(lot)
        and units(tick) > 0 < units(lot)
    ):
        raise ValueError(f"{key[:80]!r} is no market's name")
    return base, quote, units(tick), units(lot)


def asset_ok(name: str) -> bool:
    """Whether an asset can be called so."""
    return bool(_ASSET.fullmatch(name))


def amount_ok(text: str) -> bool:
    """Whether it is an amount as `text_of` writes it."""
    return bool(_AMOUNT.fullmatch(text)) and text_of(units(text)) == text


def amounts(trade: StatementTrade, node: str) -> dict[str, int]:
    """What the trade adds to what `node` owes the other one. Units of 10 ** -DECIMALS.

    ValueError when its market's steps are finer than that.
    """
    lots, value = bought(trade, node)
    return worth(trade.market, lots, value)


def bought(trade: StatementTrade, node: str) -> tuple[int, int]:
    """What `node` got: lots, and ticks * lots; below zero what it gave."""
    sign = trade.side if node == trade.taker else -trade.side
    return sign * trade.quantity, -sign * trade.price * trade.quantity


def worth(market: str, lots: int, value: int) -> dict[str, int]:
    """What is added to what a node owes another one when it gets so much from it: it owes less of what
    it is yet to get. `value`: ticks * lots. Units and errors as in `amounts`."""
    base, quote, tick, lot = market_of(market)
    value, rest = divmod(value * tick * lot, 10**DECIMALS)
    if rest:
        raise ValueError(f"{market[:80]!r} has steps that are too fine")
    found = {base: -lots * lot}
    found[quote] = found.get(quote, 0) - value
    return found


# Making


def trade_of(fill: Fill) -> StatementTrade:
    taken = fill.role == "taker"
    return StatementTrade(
        fill.taker,
        fill.take,
        fill.market,
        fill.side if taken else -fill.side,
        fill.price,
        fill.quantity,
        fill.counterparty_order if taken else fill.order,
        fill.order if taken else fill.counterparty_order,
        fill.time,
    )


class TradesHasher:
    """The digest of trades of one taker, that come in the order of their takes."""

    def __init__(self) -> None:
        self._hash = sha256()
        self._count = self._first = self._last = 0

    def add(self, trade: StatementTrade) -> None:
        self._hash.update(pack(trade))
        self._count += 1
        self._first = self._first or trade.take
        self._last = trade.take

    @property
    def digest(self) -> TradesDigest:
        return TradesDigest(self._count, self._hash.digest(), self._first, self._last)


def digest_of(trades: Iterable[StatementTrade]) -> TradesDigest:
    """Of all of them, as `Folding` wants them."""
    folding = TradesHasher()
    for trade in trades:
        folding.add(trade)
    return folding.digest


def make_part(
    network: str,
    node: str,
    peer: str,
    cut: tuple[int, int],
    question: StatementQuestion,
    trades: Iterable[StatementTrade],
) -> StatementPart:
    """The part of a history that is asked for. `trades`: those of the question, by take.

    StatementError (too_many) when they are more than a part may have: ask for a table.
    """
    found: list[StatementTrade] = []
    table: dict[int, TradesHasher] = {}
    for trade in trades:
        if question.table:
            index = (trade.take - question.first) >> (question.bits - CHILD_BITS)
            table.setdefault(index, TradesHasher()).add(trade)
        elif len(found) == MAX_TRADES:
            raise StatementError("too_many", f"more than {MAX_TRADES} trades: ask for a table")
        else:
            found.append(trade)
    rows = [DigestRow(index, folding.digest) for index, folding in sorted(table.items())]
    return StatementPart(VERSION, network, node, peer, cut, question, found, rows)


def sign_document(keys: Keys, document: Statement | StatementPart) -> SignedDocument:
    kind, body = KINDS[type(document)], pack(document)
    return SignedDocument(kind, body, keys.public_key, keys.sign(signed_hash(kind, body)))


def signed_hash(kind: str, body: bytes) -> bytes:
    return sha256(pack([f"exchange-node {kind}", body])).digest()
