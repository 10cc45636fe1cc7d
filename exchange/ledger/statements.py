"""Signed statements of one node about its position with another node. Pure: no I/O, no clock.

Theory of operation. A statement holds the signer's positions with the other node, the settlements that
it recorded, its undecided takes, and for each of the two takers a digest of all trades. Where digests
differ, the other node requests parts of the trades: tables of finer digests until few trades are left
(`exchange.ledger.reconciliation`). Parts are signed too. A statement and its parts describe one cut of
the signer's history, so they stay the same while they are compared.

Rules of this file:
- Amounts are decimal strings: two nodes may count an asset in different units.
- Trades are in ticks and lots. The market's name fixes their steps, so both nodes sign equal trades.
- There is exactly one encoding of each document; the signature covers its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec

from exchange.model.decimals import plain, scaled
from exchange.model.ports import SigningKeys
from exchange.model.records import Fill

VERSION: Final = 1
DECIMALS: Final = 40  # in which amounts are compared; more than any asset has
MAX_DIGITS: Final = 60  # before the point
MAX_BODY: Final = 768 * 1024  # bytes, of one document: it has to fit a message between nodes
MAX_POSITIONS: Final = 1000  # assets
MAX_SETTLEMENTS: Final = 2000  # in one statement, the latest; beyond that only sums are compared
MAX_ASKED: Final = 1000  # undecided takes in one statement
MAX_TRADES: Final = 256  # in one part
CHILD_BITS: Final = 6  # a table has 64 rows at most
ROOT_BITS: Final = 62
LIMIT: Final = 2**62  # of numbers and times

_AMOUNT: Final = re.compile(rf"-?\d{{1,{MAX_DIGITS}}}(\.\d{{1,{DECIMALS}}})?", re.ASCII)
_ASSET: Final = re.compile(r"[!-~]{1,24}", re.ASCII)


class StatementError(Exception):
    """Invalid document. `code`: wrong_key, bad_signature, wrong_network, wrong_node, malformed,
    contradiction or too_many."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


# Documents


class StatementTrade(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Trade between two nodes, encoded equally on both."""

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
    """Position in one asset; positive: the signer owes it to the other node. `traded` and `settled` are
    the sums of the signer's trades and settlements; with a complete history they add up to `balance`."""

    asset: str
    balance: str
    traded: str
    settled: str


class Settlement(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Payment that the signer recorded; positive: received, negative: paid."""

    asset: str
    amount: str
    time: int  # us


class UndecidedTake(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Take of the signer without a known outcome."""

    take: int
    market: str
    maker_order: int
    side: int
    price: int
    quantity: int


class TradesDigest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Digest of trades of one taker, in the order of their takes."""

    count: int
    hash: bytes
    first: int = 0  # the smallest take
    last: int = 0  # the greatest


class DigestRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Row of a table: digest of one of the 64 blocks of takes of a question."""

    index: int
    digest: TradesDigest


class StatementQuestion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Request for the trades of `taker` with take numbers `first` to `first + 2 ** bits - 1`: in full, or
    as a table of digests."""

    taker: str
    first: int
    bits: int
    table: bool


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """Statement of `node` about `peer`. `cut` is the signer's own identifier of a state of its history."""

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
    """Answer to a question about the history behind a statement."""

    version: int
    network: str
    node: str
    peer: str
    cut: tuple[int, int]
    question: StatementQuestion
    trades: list[StatementTrade]
    rows: list[DigestRow]  # those with trades, by index


class SignedDocument(msgspec.Struct, frozen=True):
    """Document with its key and signature, as sent and as stored."""

    kind: str  # statement, part
    body: bytes
    key: bytes
    signature: bytes


KINDS: Final[dict[type[Any], str]] = {Statement: "statement", StatementPart: "part"}
pack = msgspec.msgpack.Encoder().encode


# Amounts


def units(text: str) -> int:
    """Parse a decimal string into units of 10 ** -DECIMALS."""
    return scaled(text, DECIMALS)


def text_of(amount: int) -> str:
    """Format units of 10 ** -DECIMALS as a plain decimal string."""
    return plain(amount, DECIMALS)


@lru_cache(256)
def market_of(key: str) -> tuple[str, str, int, int]:
    """Parse a market's name on the wire into base, quote, tick and lot (units of 10 ** -DECIMALS).

    Without steps in the name a tick and a lot are 1.

    Raises:
        ValueError: not the name of a market.
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
        raise ValueError(f"{key[:80]!r} is not the name of a market, e.g. BTC-USD@0.1/0.00001")
    return base, quote, units(tick), units(lot)


def asset_ok(name: str) -> bool:
    """Check the form of an asset's name."""
    return bool(_ASSET.fullmatch(name))


def amount_ok(text: str) -> bool:
    """Check that an amount is written as `text_of` writes it."""
    return bool(_AMOUNT.fullmatch(text)) and text_of(units(text)) == text


def amounts(trade: StatementTrade, node: str) -> dict[str, int]:
    """Return the change of the debt of `node` to the other node by asset. Units of 10 ** -DECIMALS.

    Raises:
        ValueError: the market's steps are finer than that.
    """
    lots, value = bought(trade, node)
    return worth(trade.market, lots, value)


def bought(trade: StatementTrade, node: str) -> tuple[int, int]:
    """Return the amounts that `node` received: lots, and ticks * lots; negative: given."""
    sign = trade.side if node == trade.taker else -trade.side
    return sign * trade.quantity, -sign * trade.price * trade.quantity


def worth(market: str, lots: int, value: int) -> dict[str, int]:
    """Return the change of a node's debt by asset for lots and value (ticks * lots) bought. Amounts
    that it has still to receive lower its debt. Units and errors as in `amounts`."""
    base, quote, tick, lot = market_of(market)
    value, rest = divmod(value * tick * lot, 10**DECIMALS)
    if rest:
        raise ValueError(f"{market[:80]!r} has steps finer than 10 ** -{DECIMALS}")
    found = {base: -lots * lot}
    found[quote] = found.get(quote, 0) - value
    return found


# Construction of documents


def trade_of(fill: Fill) -> StatementTrade:
    """Convert an own fill."""
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
    """Incremental digest of trades of one taker, added in the order of their takes."""

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
    """Return the digest of trades of one taker, in the order of their takes."""
    hasher = TradesHasher()
    for trade in trades:
        hasher.add(trade)
    return hasher.digest


def make_part(
    network: str,
    node: str,
    peer: str,
    cut: tuple[int, int],
    question: StatementQuestion,
    trades: Iterable[StatementTrade],
) -> StatementPart:
    """Answer a question. `trades`: the trades in its range, by take.

    Raises:
        StatementError: too_many, if the trades exceed a part; request a table then.
    """
    found: list[StatementTrade] = []
    table: dict[int, TradesHasher] = {}
    for trade in trades:
        if question.table:
            index = (trade.take - question.first) >> (question.bits - CHILD_BITS)
            table.setdefault(index, TradesHasher()).add(trade)
        elif len(found) == MAX_TRADES:
            raise StatementError("too_many", f"more than {MAX_TRADES} trades: request a table")
        else:
            found.append(trade)
    rows = [DigestRow(index, hasher.digest) for index, hasher in sorted(table.items())]
    return StatementPart(VERSION, network, node, peer, cut, question, found, rows)


def sign_document(keys: SigningKeys, document: Statement | StatementPart) -> SignedDocument:
    """Encode and sign a document with this node's key."""
    kind, body = KINDS[type(document)], pack(document)
    return SignedDocument(kind, body, keys.public_key, keys.sign(signed_hash(kind, body)))


def signed_hash(kind: str, body: bytes) -> bytes:
    """Return the hash that the signature of a document covers."""
    return sha256(pack([f"exchange-node {kind}", body])).digest()
