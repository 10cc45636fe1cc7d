"""Own trades that a restored journal lacks, as feeds and statements show them, and the report of a recovery."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from exchange.engine.recovery import FeedGap
from exchange.ledger.statements import StatementTrade
from exchange.model.events import Filled
from exchange.model.records import Order


class RecoveredFill(msgspec.Struct, frozen=True):
    """A fill that the journal did not have. `order` 0: its number is not known."""

    market: str
    side: int
    price: int
    quantity: int
    time: int
    role: str
    order: int
    account: int
    counterparty: str


class ClosedOrder(msgspec.Struct, frozen=True):
    """An order that was closed. `account` None: the journal does not have the order."""

    market: str
    order: int
    side: int
    price: int | None
    quantity: int  # lots that were not filled
    account: int | None


class RecoveryReport(msgspec.Struct):
    """Result of a recovery."""

    events: int = 0  # of own feeds, fetched
    gaps: list[FeedGap] = []
    fills: list[RecoveredFill] = []  # booked to the accounts of their orders
    suspense: list[RecoveredFill] = []
    closed: list[ClosedOrder] = []
    kept: int = 0  # open orders
    takes_resolved: int = 0
    takes_open: int = 0  # their makers did not answer


@dataclass(slots=True)
class LostTrade:
    """Own side of a trade that the journal lacks."""

    taker: str
    take: int
    market: str
    side: int
    price: int
    quantity: int
    time: int
    role: str
    order: int
    peer: str
    peer_order: int
    proven: bool = False  # by the own feed; else only by another node


def is_plausible(order: Order, trade: LostTrade) -> bool:
    """Report if the order could have made a trade that only another node states."""
    if order.market != trade.market or trade.quantity > order.quantity - order.filled:
        return False
    if order.price is None:
        return trade.role == "taker"
    if trade.role == "maker":
        return trade.price == order.price
    return order.side * (order.price - trade.price) >= 0


def maker_trade(market: str, event: Filled) -> LostTrade:
    return LostTrade(
        taker=event.taker,
        take=event.take,
        market=market,
        side=event.side,
        price=event.price,
        quantity=event.quantity,
        time=event.time,
        role="maker",
        order=event.order,
        peer=event.taker,
        peer_order=0,
        proven=True,
    )


def stated_trade(node: str, peer: str, trade: StatementTrade) -> LostTrade:
    taker = trade.taker == node
    return LostTrade(
        taker=trade.taker,
        take=trade.take,
        market=trade.market,
        side=trade.side if taker else -trade.side,
        price=trade.price,
        quantity=trade.quantity,
        time=trade.time,
        role="taker" if taker else "maker",
        order=trade.taker_order if taker else trade.maker_order,
        peer=peer,
        peer_order=trade.maker_order if taker else trade.taker_order,
    )
