"""Signed documents of other nodes: what they say, or why they are not taken.

Everything is checked that a comparison relies on: who signed, what about, sizes, order, and that there
is but one encoding, so that what was signed is what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from exchange.ledger.statements import (
    CHILD_BITS,
    KINDS,
    LIMIT,
    MAX_ASKED,
    MAX_BODY,
    MAX_POSITIONS,
    MAX_SETTLEMENTS,
    MAX_TRADES,
    ROOT_BITS,
    VERSION,
    DigestRow,
    Position,
    SignedDocument,
    Statement,
    StatementError,
    StatementPart,
    StatementQuestion,
    StatementTrade,
    TradesDigest,
    UndecidedTake,
    amount_ok,
    amounts,
    asset_ok,
    market_of,
    pack,
    signed_hash,
)
from exchange.model.events import BUY, MAX_ORDER, MAX_PRICE, MAX_QUANTITY, SELL

KEY_LENGTH: Final = 32
SIGNATURE_LENGTH: Final = 64

Document = TypeVar("Document", Statement, StatementPart)
_decoders: Final[Mapping[type[Any], msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in KINDS
}


class KeyChecker(Protocol):
    """The part of `exchange.model.ports.Keys` that checks others' keys."""

    def node_id_of(self, public_key: bytes) -> str: ...

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool: ...


def open_document(
    keys: KeyChecker,
    signed: SignedDocument,
    kind: type[Document],
    *,
    network: str,
    node: str,
    peer: str,
) -> Document:
    """The document, said by `node` about `peer`.

    Raises:
        StatementError: it is not: the code and the text say why.
    """
    if signed.kind != KINDS[kind]:
        raise StatementError("malformed", f"it is no {KINDS[kind]}")
    if (
        len(signed.key) != KEY_LENGTH
        or len(signed.signature) != SIGNATURE_LENGTH
        or len(signed.body) > MAX_BODY
    ):
        raise StatementError("malformed", f"the {signed.kind} is not of a possible size")
    if keys.node_id_of(signed.key) != node:
        raise StatementError("wrong_key", f"the {signed.kind} has not the key of node {node}")
    if not keys.verify(signed.key, signed.signature, signed_hash(signed.kind, signed.body)):
        raise StatementError("bad_signature", f"the {signed.kind} is not signed by node {node}")
    try:
        document: Document = _decoders[kind].decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StatementError("malformed", f"the {signed.kind} is malformed: {error}") from None
    if document.version != VERSION:
        raise StatementError(
            "malformed", f"the {signed.kind} is of version {document.version}, not {VERSION}"
        )
    if document.network != network:
        raise StatementError(
            "wrong_network", f"the {signed.kind} is about network {document.network[:40]!r}"
        )
    if document.node != node or document.peer != peer:
        raise StatementError("wrong_node", f"the {signed.kind} is not by {node} about {peer}")
    well_formed = _statement_ok(document) if isinstance(document, Statement) else _part_ok(document)
    if not well_formed or pack(document) != signed.body:
        raise StatementError("malformed", f"the {signed.kind} has values that cannot be")
    return document


def _statement_ok(said: Statement) -> bool:
    assets = [position.asset for position in said.positions]
    takes = [asked.take for asked in said.asked]
    return (
        len(assets) <= MAX_POSITIONS
        and assets == sorted(set(assets))
        and all(_position_ok(position) for position in said.positions)
        and _numbers_ok(said.time, *said.cut, said.settlement_count, said.asked_count)
        and len(said.trades) == 2
        and all(_digest_ok(digest) for digest in said.trades)
        and len(said.settlements) == min(said.settlement_count, MAX_SETTLEMENTS)
        and all(
            asset_ok(paid.asset) and amount_ok(paid.amount) and _numbers_ok(paid.time)
            for paid in said.settlements
        )
        and len(takes) == min(said.asked_count, MAX_ASKED)
        and takes == sorted(set(takes))
        and all(_meeting_ok(asked, asked.maker_order) for asked in said.asked)
    )


def _part_ok(part: StatementPart) -> bool:
    question = part.question
    takes = [trade.take for trade in part.trades]
    indexes = [row.index for row in part.rows]
    return (
        _numbers_ok(*part.cut)
        and is_question(question, part.node, part.peer)
        and len(part.trades) <= (0 if question.table else MAX_TRADES)
        and takes == sorted(takes)
        and all(
            trade.taker == question.taker
            and trade.take >> question.bits == question.first >> question.bits
            and _meeting_ok(trade, trade.maker_order, trade.taker_order)
            and _numbers_ok(trade.time)
            for trade in part.trades
        )
        and len(part.rows) <= (1 << CHILD_BITS if question.table else 0)
        and indexes == sorted(set(indexes))
        and all(_row_ok(question, row) for row in part.rows)
    )


def _row_ok(question: StatementQuestion, row: DigestRow) -> bool:
    bits = question.bits - CHILD_BITS
    block = (question.first >> bits) + row.index
    digest = row.digest
    return (
        0 <= row.index < 1 << CHILD_BITS
        and _digest_ok(digest)
        and digest.count > 0
        and digest.first >> bits == digest.last >> bits == block
    )


def is_question(question: StatementQuestion, *nodes: str) -> bool:
    """Whether one of two nodes may ask this of the other."""
    return (
        question.taker in nodes
        and (CHILD_BITS if question.table else 0) <= question.bits <= ROOT_BITS
        and 0 <= question.first < LIMIT
        and question.first % (1 << question.bits) == 0
    )


def _position_ok(position: Position) -> bool:
    return asset_ok(position.asset) and all(
        amount_ok(text) for text in (position.balance, position.traded, position.settled)
    )


def _digest_ok(digest: TradesDigest) -> bool:
    return len(digest.hash) == 32 and _numbers_ok(digest.count, digest.first, digest.last)


def _meeting_ok(said: StatementTrade | UndecidedTake, *orders: int) -> bool:
    try:
        market_of(said.market)
        if isinstance(said, StatementTrade):
            amounts(said, said.taker)
    except ValueError:
        return False
    return (
        0 < said.take < LIMIT
        and len(said.market) <= 80
        and said.side in (BUY, SELL)
        and 0 < said.price < MAX_PRICE
        and 0 < said.quantity < MAX_QUANTITY
        and all(0 < order < MAX_ORDER for order in orders)
    )


def _numbers_ok(*numbers: int) -> bool:
    return all(0 <= number < LIMIT for number in numbers)
