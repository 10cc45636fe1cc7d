"""The shapes of the API's answers about statements: two nodes' accounts of each other, compared.

Amounts are exact decimal strings, above zero when the node that asked owes them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from exchange.ledger.reconciliation import Comparison, Evidence, TradeDifference
from exchange.ledger.statements import StatementTrade, UndecidedTake, market_of, text_of
from exchange.model.events import BUY
from node.views.field_types import Decimal, SignedDecimal, Timestamp
from node.views.timestamps import iso

Whose = Literal["ours", "theirs"]


class AssetAgreementView(msgspec.Struct, kw_only=True):
    """Both nodes' statements about one asset."""

    asset: str
    ours: str
    theirs: str
    difference: str
    under_way: str  # part of the difference: trades whose taker waits for the answer
    lost: str  # part of the difference: what a node cannot show trades or settlements for
    unexplained: str  # part of the difference: by nothing that was found


class TradeSideView(msgspec.Struct, kw_only=True):
    """A trade between the two, as one of them has it."""

    market: str
    side: Literal["buy", "sell"]  # the taker's
    price: Decimal
    quantity: Decimal
    maker_order: int
    taker_order: int
    time: Timestamp


class TradeDifferenceView(msgspec.Struct, kw_only=True):
    """A trade that only one of them has, or each in another way."""

    id: str
    ours: TradeSideView | None
    theirs: TradeSideView | None
    under_way: Literal["", "pending", "later"]  # "" is a disagreement


class OpenSettlementView(msgspec.Struct, kw_only=True):
    """A payment that only one of them recorded."""

    recorded_by: Whose
    asset: str
    amount: SignedDecimal
    direction: Literal["paid", "received"]  # from the view of the node that recorded it
    time: Timestamp


class PendingTakeView(msgspec.Struct, kw_only=True):
    """A take whose outcome its taker does not know."""

    taker: Whose
    id: str
    market: str
    side: Literal["buy", "sell"]
    price: Decimal
    quantity: Decimal


class ComparisonView(msgspec.Struct, kw_only=True):
    """Comparison of two nodes' statements about each other."""

    node: str  # "ours" is its
    peer: str
    agree: bool
    time: Timestamp  # of our statement
    peer_time: str  # of theirs, by its clock
    trades_count: int  # that we have with each other
    peer_trades_count: int
    assets: list[AssetAgreementView]
    trades: list[TradeDifferenceView]
    settlements: list[OpenSettlementView]
    pending: list[PendingTakeView]
    trades_complete: bool  # False: more trades differ than these
    settlements_matched: bool  # False: only their sums were compared, because there are too many


class ReconciliationView(ComparisonView, kw_only=True):
    """A comparison with its documents."""

    evidence: Evidence  # as both signed it; 'exchange-node ledger verify' checks it


def view_of(found: Comparison) -> ComparisonView:
    ours, theirs = found.ours, found.theirs
    return ComparisonView(
        node=ours.node,
        peer=ours.peer,
        agree=found.agree,
        time=iso(ours.time),
        peer_time=iso(theirs.time),
        trades_count=sum(digest.count for digest in ours.trades),
        peer_trades_count=sum(digest.count for digest in theirs.trades),
        assets=[
            AssetAgreementView(
                asset=row.asset,
                ours=text_of(row.ours),
                theirs=text_of(row.theirs),
                difference=text_of(row.difference),
                under_way=text_of(row.under_way),
                lost=text_of(row.lost),
                unexplained=text_of(row.unexplained),
            )
            for row in found.assets
        ],
        trades=[_trade(row) for row in found.trades],
        settlements=[
            OpenSettlementView(
                recorded_by=row.whose,
                asset=row.settlement.asset,
                amount=row.settlement.amount.removeprefix("-"),
                direction="paid" if row.settlement.amount.startswith("-") else "received",
                time=iso(row.settlement.time),
            )
            for row in found.settlements
        ],
        pending=[
            _pending(whose, ours.node if whose == "ours" else theirs.node, asked)
            for whose, asked in found.asked
        ],
        trades_complete=found.complete,
        settlements_matched=found.matched,
    )


def reconciliation(found: Comparison, evidence: Evidence) -> ReconciliationView:
    view = view_of(found)
    fields = {name: getattr(view, name) for name in ComparisonView.__struct_fields__}
    return ReconciliationView(**fields, evidence=evidence)


def _trade(row: TradeDifference) -> TradeDifferenceView:
    return TradeDifferenceView(
        id=next(f"{t.taker}:{t.take}" for t in (row.ours, row.theirs) if t is not None),
        ours=None if row.ours is None else _side(row.ours),
        theirs=None if row.theirs is None else _side(row.theirs),
        under_way=row.under_way,
    )


def _side(trade: StatementTrade) -> TradeSideView:
    market, side, price, quantity = _meeting(trade)
    return TradeSideView(
        market=market,
        side=side,
        price=price,
        quantity=quantity,
        maker_order=trade.maker_order,
        taker_order=trade.taker_order,
        time=iso(trade.time),
    )


def _pending(whose: Whose, taker: str, asked: UndecidedTake) -> PendingTakeView:
    market, side, price, quantity = _meeting(asked)
    return PendingTakeView(
        taker=whose,
        id=f"{taker}:{asked.take}",
        market=market,
        side=side,
        price=price,
        quantity=quantity,
    )


def _meeting(said: StatementTrade | UndecidedTake) -> tuple[str, Literal["buy", "sell"], str, str]:
    """Symbol, side, price and quantity as texts. The market may be one that is not traded here."""
    _, _, tick, lot = market_of(said.market)
    symbol = said.market.partition("@")[0]
    side: Literal["buy", "sell"] = "buy" if said.side == BUY else "sell"
    return symbol, side, text_of(said.price * tick), text_of(said.quantity * lot)
