"""Recording of trades on this node: fills, ledger postings, and the public event in the feed.

The caller has decided on the trade, and publishes the taker's order when all its trades are recorded.

Rules of this file:
- Prices are ticks, quantities lots, `time` microseconds; `now` is monotonic seconds.
- A trade has one event, in the feed of its maker. The feed event of the taker's order is written by
  `OrderStore.publish`.
"""

from __future__ import annotations

from typing import NamedTuple

from exchange.market.market import Market, Trade
from exchange.model.commands import HOUSE
from exchange.model.events import BUY, Filled, Opened
from exchange.model.records import Fill, Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore


class _TakeFill(NamedTuple):
    """Figures of a trade that both sides share. (`taker`, `take`) is its id."""

    taker: str
    take: int
    price: int
    quantity: int
    time: int


class FillRecorder:
    """Trades of own orders with each other and with orders of other nodes."""

    def __init__(self, context: EngineContext, store: OrderStore) -> None:
        self._context = context
        self._store = store
        self.next_take = 1

    def new_take(self) -> int:
        """Return a take number that was never used."""
        take = self.next_take
        self.next_take = take + 1
        return take

    def local_trade(
        self,
        now: float,
        taker: Order,
        maker: Order,
        price: int,
        quantity: int,
        *,
        reserved: bool = False,
    ) -> None:
        """Record a trade between two orders of this node. `reserved`: the maker's quantity was reserved
        for it."""
        context = self._context
        take = self.new_take()
        time = context.us(now)
        taker_fee = maker_fee = 0
        if taker.account != HOUSE or maker.account != HOUSE:  # nothing moves between house orders
            buyer, seller = (taker, maker) if taker.side == BUY else (maker, taker)
            buyer_fee, seller_fee = context.ledger.trade_here(
                time=time,
                reference=f"{context.node_id}/{take}",
                units=context.specs.units[taker.market],
                price=price,
                quantity=quantity,
                buyer=buyer.account,
                seller=seller.account,
                taker_side=taker.side,
            )
            if taker is buyer:
                taker_fee, maker_fee = buyer_fee, seller_fee
            else:
                taker_fee, maker_fee = seller_fee, buyer_fee
        node = context.node_id
        trade = _TakeFill(node, take, price, quantity, time)
        self._maker(now, maker, trade, node, taker.number, maker_fee, reserved=reserved)
        self._taker(now, taker, trade, node, maker.number, taker_fee)

    def maker_fill(
        self,
        now: float,
        order: Order,
        taker: str,
        take: int,
        taker_order: int,
        price: int,
        quantity: int,
        time: int,
        *,
        reserved: bool = False,
    ) -> None:
        """Record that another node took from our order."""
        context = self._context
        fee = context.ledger.trade_with(
            time=time,
            reference=f"{taker}/{take}",
            units=context.specs.units[order.market],
            side=order.side,
            price=price,
            quantity=quantity,
            account=order.account,
            peer=taker,
            role="maker",
        )
        trade = _TakeFill(taker, take, price, quantity, time)
        self._maker(now, order, trade, taker, taker_order, fee, reserved=reserved)

    def taker_fill(
        self,
        now: float,
        order: Order,
        take: int,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        time: int,
    ) -> None:
        """Record that another node granted our take. `time` is the maker's; the ledger uses ours."""
        context = self._context
        fee = context.ledger.trade_with(
            time=context.us(now),
            reference=f"{context.node_id}/{take}",
            units=context.specs.units[order.market],
            side=order.side,
            price=price,
            quantity=quantity,
            account=order.account,
            peer=maker,
            role="taker",
        )
        trade = _TakeFill(context.node_id, take, price, quantity, time)
        self._taker(now, order, trade, maker, maker_order, fee)

    # Both sides

    def _maker(
        self,
        now: float,
        order: Order,
        trade: _TakeFill,
        counterparty: str,
        counterparty_order: int,
        fee: int,
        *,
        reserved: bool,
    ) -> None:
        context = self._context
        quantity = trade.quantity
        order.filled += quantity
        order.value += trade.price * quantity
        if reserved:
            order.reserved -= quantity
        elif order.opened:
            order.shown -= quantity
        market = context.markets[order.market]
        if order.hidden:
            self._reveal(market, order, trade)
        else:
            left = order.pending + order.reserved
            if not order.cancelled:
                left = order.quantity - order.filled
            if order.display_quantity and left:
                left = order.shown or 1  # the hidden rest of an iceberg is not published
            event = _event(order, trade, shown=order.shown, left=left)
            market.write(event)
            number = market.writer.feed.state.number
            context.add_trade(market, Trade(context.node_id, event, number))
        self._add(order, trade, "maker", counterparty, counterparty_order, fee)
        if order.linked_order or self._store.reduce_only:
            self._after(now, order)
        self._store.publish(now, order)

    def _taker(
        self,
        now: float,
        order: Order,
        trade: _TakeFill,
        counterparty: str,
        counterparty_order: int,
        fee: int,
    ) -> None:
        order.filled += trade.quantity
        order.value += trade.price * trade.quantity
        self._add(order, trade, "taker", counterparty, counterparty_order, fee)
        self._context.orders[order.number] = order
        if order.linked_order or self._store.reduce_only:
            self._after(now, order)

    def _add(
        self,
        order: Order,
        trade: _TakeFill,
        role: str,
        counterparty: str,
        counterparty_order: int,
        fee: int,
    ) -> None:
        context = self._context
        units = context.specs.units[order.market]
        fill = Fill(
            taker=trade.taker,
            take=trade.take,
            role=role,
            market=order.market,
            order=order.number,
            side=order.side,
            price=trade.price,
            quantity=trade.quantity,
            time=trade.time,
            counterparty=counterparty,
            counterparty_order=counterparty_order,
            account=order.account,
            fee=fee,
            fee_asset=units.base if order.side == BUY else units.quote,
        )
        context.fills.append(fill)

    def _after(self, now: float, order: Order) -> None:
        """Cancel the other order of a pair; check the reduce-only orders against the new position."""
        store = self._store
        linked = store.linked(order)
        if linked is not None and not linked.cancelled:
            store.cancel(now, linked, "oco")
        if order.account == HOUSE:
            store.work_queue.extend(store.reduce_only)

    def _reveal(self, market: Market, order: Order, trade: _TakeFill) -> None:
        """Publish a trade of a hidden order: it is opened for the traded quantity and filled at once."""
        time = order.priority or order.time
        market.mark()
        market.writer.append(Opened(order.number, order.side, trade.price, trade.quantity, time))
        filled = _event(order, trade, shown=0, left=0)
        market.writer.append(filled)
        self._context.add_trade(market, Trade(self._context.node_id, filled, market.writer.number))


def _event(order: Order, trade: _TakeFill, *, shown: int, left: int) -> Filled:
    """Return the public event of a trade, in the feed of its maker order."""
    return Filled(
        order=order.number,
        side=order.side,
        quantity=trade.quantity,
        price=trade.price,
        shown=shown,
        left=left,
        taker=trade.taker,
        take=trade.take,
        time=trade.time,
    )
