"""Trades put down on this node: fills, postings, and the public event.

The caller has decided on the trade, and publishes the taker's order when it is through with it.
"""

from __future__ import annotations

from exchange.market.market import Market, Trade
from exchange.model.commands import HOUSE
from exchange.model.events import BUY, Filled, Opened
from exchange.model.records import Fill, Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore


class FillRecorder:
    """Prices are ticks, quantities lots, `time` us. `now` is monotonic seconds."""

    def __init__(self, context: EngineContext, store: OrderStore) -> None:
        self._context = context
        self._store = store
        self.next_take = 1

    def new_take(self) -> int:
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
        """A trade between two of this node's own orders. `reserved`: the maker's quantity was kept for
        it."""
        context = self._context
        take = self.new_take()
        time = context.us(now)
        taker_fee = maker_fee = 0
        if taker.account != HOUSE or maker.account != HOUSE:  # else nothing moves
            buyer, seller = (taker, maker) if taker.side == BUY else (maker, taker)
            buyer_fee, seller_fee = context.ledger.trade_here(
                time,
                f"{context.node_id}/{take}",
                context.specs.units[taker.market],
                price,
                quantity,
                buyer.account,
                seller.account,
                taker.side,
            )
            taker_fee, maker_fee = (
                (buyer_fee, seller_fee) if taker is buyer else (seller_fee, buyer_fee)
            )
        node = context.node_id
        number = taker.number
        self._maker(now, maker, node, take, number, price, quantity, time, maker_fee, reserved)
        self._taker(now, taker, take, node, maker.number, price, quantity, time, taker_fee)

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
        """Another node took from our order."""
        context = self._context
        fee = context.ledger.trade_with(
            time,
            f"{taker}/{take}",
            context.specs.units[order.market],
            order.side,
            price,
            quantity,
            order.account,
            taker,
            "maker",
        )
        self._maker(now, order, taker, take, taker_order, price, quantity, time, fee, reserved)

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
        """Another node granted our take. `time` is its own, the ledger goes by ours."""
        context = self._context
        fee = context.ledger.trade_with(
            context.us(now),
            f"{context.node_id}/{take}",
            context.specs.units[order.market],
            order.side,
            price,
            quantity,
            order.account,
            maker,
            "taker",
        )
        self._taker(now, order, take, maker, maker_order, price, quantity, time, fee)

    def _maker(
        self,
        now: float,
        order: Order,
        taker: str,
        take: int,
        taker_order: int,
        price: int,
        quantity: int,
        time: int,
        fee: int,
        reserved: bool,
    ) -> None:
        context = self._context
        order.filled += quantity
        order.value += price * quantity
        if reserved:
            order.reserved -= quantity
        elif order.opened:
            order.shown -= quantity
        market = context.markets[order.market]
        if order.hidden:
            self._show_trade(market, order, price, quantity, taker, take, time)
        else:
            left = order.pending + order.reserved
            if not order.cancelled:
                left = order.quantity - order.filled
            if order.display_quantity and left:
                left = order.shown or 1  # how much more there is stays here
            event = Filled(
                order.number, order.side, quantity, price, order.shown, left, taker, take, time
            )
            market.write(event)
            context.add_trade(
                market, Trade(context.node_id, event, market.writer.feed.state.number)
            )
        self._add(order, taker, take, "maker", price, quantity, time, taker, taker_order, fee)
        if order.linked_order or self._store.reduce_only:
            self._after(now, order)
        self._store.publish(now, order)

    def _taker(
        self,
        now: float,
        order: Order,
        take: int,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        time: int,
        fee: int,
    ) -> None:
        node = self._context.node_id
        order.filled += quantity
        order.value += price * quantity
        self._add(order, node, take, "taker", price, quantity, time, maker, maker_order, fee)
        self._context.orders[order.number] = order
        if order.linked_order or self._store.reduce_only:
            self._after(now, order)

    def _add(
        self,
        order: Order,
        taker: str,
        take: int,
        role: str,
        price: int,
        quantity: int,
        time: int,
        counterparty: str,
        counterparty_order: int,
        fee: int,
    ) -> None:
        context = self._context
        market, side = order.market, order.side
        units = context.specs.units[market]
        fill = Fill(
            taker,
            take,
            role,
            market,
            order.number,
            side,
            price,
            quantity,
            time,
            counterparty,
            counterparty_order,
            order.account,
            fee,
            units.base if side == BUY else units.quote,
        )
        context.fills.append(fill)

    def _after(self, now: float, order: Order) -> None:
        """Of a pair, the other one is cancelled; what only reduces may do so by less now."""
        orders = self._store
        linked = orders.linked(order)
        if linked is not None and not linked.cancelled:
            orders.cancel(now, linked, "oco")
        if order.account == HOUSE:
            orders.work_queue.extend(orders.reduce_only)

    def _show_trade(
        self,
        market: Market,
        order: Order,
        price: int,
        quantity: int,
        taker: str,
        take: int,
        time: int,
    ) -> None:
        """A hidden order traded: it is opened for what it traded, and is gone again at once."""
        number = order.number
        shown = Opened(number, order.side, price, quantity, order.priority or order.time)
        filled = Filled(number, order.side, quantity, price, 0, 0, taker, take, time)
        market.writer.append(shown)
        market.writer.append(filled)
        self._context.add_trade(market, Trade(self._context.node_id, filled, market.writer.number))
