"""Validation of signed documents of other nodes.

Checks everything that a comparison relies on: signer, subject, sizes, order, and that the encoding is
canonical, so that the decoded document is the signed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

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
from exchange.model.events import BUY, SELL
from exchange.model.peer_values import MAX_ORDER, MAX_PRICE, MAX_QUANTITY
from exchange.model.ports import KeyChecker

KEY_LENGTH: Final = 32
SIGNATURE_LENGTH: Final = 64

Document = TypeVar("Document", Statement, StatementPart)
_decoders: Final[Mapping[type[Any], msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in KINDS
}


def open_document(
    keys: KeyChecker,
    signed: SignedDocument,
    kind: type[Document],
    *,
    network: str,
    node: str,
    peer: str,
) -> Document:
    """Decode and verify a document signed by `node` about `peer`.

    Raises:
        StatementError: the document is invalid; code and text give the reason.
    """
    if signed.kind != KINDS[kind]:
        raise StatementError(
            "malformed", f"expected a {KINDS[kind]}, got a document of kind {signed.kind[:40]!r}"
        )
    if (
        len(signed.key) != KEY_LENGTH
        or len(signed.signature) != SIGNATURE_LENGTH
        or len(signed.body) > MAX_BODY
    ):
        raise StatementError(
            "malformed",
            f"the {signed.kind} has a body of {len(signed.body)} bytes, a key of {len(signed.key)} and a "
            f"signature of {len(signed.signature)}: expected at most {MAX_BODY}, {KEY_LENGTH} and "
            f"{SIGNATURE_LENGTH}",
        )
    if keys.node_id_of(signed.key) != node:
        raise StatementError("wrong_key", f"the {signed.kind} has another key than node {node}'s")
    if not keys.verify(signed.key, signed.signature, signed_hash(signed.kind, signed.body)):
        raise StatementError(
            "bad_signature", f"the signature of the {signed.kind} is not that of node {node}"
        )
    try:
        document: Document = _decoders[kind].decode(signed.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StatementError("malformed", f"the {signed.kind} is malformed: {error}") from None
    if document.version != VERSION:
        raise StatementError(
            "malformed",
            f"the {signed.kind} has version {document.version}; this program reads {VERSION}",
        )
    if document.network != network:
        raise StatementError(
            "wrong_network", f"the {signed.kind} belongs to network {document.network[:40]!r}"
        )
    if document.node != node or document.peer != peer:
        raise StatementError(
            "wrong_node", f"the {signed.kind} is not a document of node {node} about node {peer}"
        )
    well_formed = _statement_ok(document) if isinstance(document, Statement) else _part_ok(document)
    if not well_formed or pack(document) != signed.body:
        raise StatementError(
            "malformed", f"the {signed.kind} has impossible values or another encoding"
        )
    return document


def _statement_ok(document: Statement) -> bool:
    assets = [position.asset for position in document.positions]
    takes = [asked.take for asked in document.asked]
    return (
        len(assets) <= MAX_POSITIONS
        and assets == sorted(set(assets))
        and all(_position_ok(position) for position in document.positions)
        and _numbers_ok(
            document.time, *document.cut, document.settlement_count, document.asked_count
        )
        and len(document.trades) == 2
        and all(_digest_ok(digest) for digest in document.trades)
        and len(document.settlements) == min(document.settlement_count, MAX_SETTLEMENTS)
        and all(
            asset_ok(paid.asset) and amount_ok(paid.amount) and _numbers_ok(paid.time)
            for paid in document.settlements
        )
        and len(takes) == min(document.asked_count, MAX_ASKED)
        and takes == sorted(set(takes))
        and all(_trade_ok(asked, asked.maker_order) for asked in document.asked)
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
            and _trade_ok(trade, trade.maker_order, trade.taker_order)
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
    """Check that a question is well-formed and about trades between `nodes`."""
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


def _trade_ok(document: StatementTrade | UndecidedTake, *orders: int) -> bool:
    try:
        market_of(document.market)
        if isinstance(document, StatementTrade):
            amounts(document, document.taker)
    except ValueError:
        return False
    return (
        0 < document.take < LIMIT
        and len(document.market) <= 80
        and document.side in (BUY, SELL)
        and 0 < document.price < MAX_PRICE
        and 0 < document.quantity < MAX_QUANTITY
        and all(0 < order < MAX_ORDER for order in orders)
    )


def _numbers_ok(*numbers: int) -> bool:
    return all(0 <= number < LIMIT for number in numbers)
