"""Recording of trades on this node: fills, ledger postings, and the public event in the feed.

The caller has decided on the trade, and publishes the taker's order when all its trades are recorded.

Rules of this file:
- Prices are ticks, quantities lots, `time` microseconds; `now` is monotonic seconds.
- A trade has one event, in the feed of its maker. The feed event of the taker's order is written by
  `OrderStore.publish`.
"""

from __future__ import annotations

from exchange.ledger.market_units import MarketUnits
from exchange.market.market import Market, Trade
from exchange.model.commands import HOUSE
from exchange.model.events import BUY, Filled, Opened
from exchange.model.records import Fill, Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore


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
        node, market = context.node_id, context.markets[taker.market]
        take = self.next_take
        self.next_take = take + 1
        time = context.epoch_us + int(now * 1_000_000)
        context.ledger.trade_here(
            node,
            take,
            market.key,
            market.units,
            taker.side,
            price,
            quantity,
            time,
            taker.number,
            maker.number,
            taker.account,
            maker.account,
        )
        self._made(now, market, maker, node, take, price, quantity, time, reserved)
        taker.filled += quantity
        taker.value += price * quantity
        if taker.terms is not None or self._store.reduce_only:
            self._after(now, taker)

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
        market = context.markets[order.market]
        fee = context.ledger.trade_with(
            time=time,
            reference=f"{taker}/{take}",
            units=market.units,
            side=order.side,
            price=price,
            quantity=quantity,
            account=order.account,
            peer=taker,
            role="maker",
        )
        fill = Fill(
            *(taker, take, "maker", market.key, order.number, order.side, price, quantity, time),
            *(taker, taker_order, order.account, fee, _fee_asset(market.units, order)),
        )
        context.ledger.record(fill)
        self._made(now, market, order, taker, take, price, quantity, time, reserved)

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
        node, units = context.node_id, context.specs.units[order.market]
        fee = context.ledger.trade_with(
            time=context.us(now),
            reference=f"{node}/{take}",
            units=units,
            side=order.side,
            price=price,
            quantity=quantity,
            account=order.account,
            peer=maker,
            role="taker",
        )
        fill = Fill(
            *(node, take, "taker", order.market, order.number, order.side, price, quantity, time),
            *(maker, maker_order, order.account, fee, _fee_asset(units, order)),
        )
        context.ledger.record(fill)
        context.markets[order.market].note_fill(price)
        order.filled += quantity
        order.value += price * quantity
        context.orders[order.number] = order
        if order.terms is not None or self._store.reduce_only:
            self._after(now, order)

    def _made(
        self,
        now: float,
        market: Market,
        order: Order,
        taker: str,
        take: int,
        price: int,
        quantity: int,
        time: int,
        reserved: bool,
    ) -> None:
        """Apply a trade to the order that it was made with, and publish both."""
        market.note_fill(price)
        number, side = order.number, order.side
        order.filled = filled = order.filled + quantity
        order.value += price * quantity
        terms = order.terms
        if terms is None:
            order.shown = left = order.quantity - filled
            event = Filled(number, side, quantity, price, left, left, taker, take, time)
            market.trade(event)
        else:
            if reserved:
                terms.reserved -= quantity
            elif order.opened:
                order.shown -= quantity
            if terms.hidden:
                event = self._reveal(market, order, taker, take, price, quantity, time)
            else:
                shown, left = order.shown, order.left
                if left and terms.display_quantity:
                    left = shown or 1  # the hidden rest of an iceberg is not published
                event = Filled(number, side, quantity, price, shown, left, taker, take, time)
                market.trade(event)
        context, store = self._context, self._store
        context.add_trade(market, Trade(context.node_id, event, market.writer.feed.state.number))
        if terms is not None or store.reduce_only:
            self._after(now, order)
        if terms is None:
            store.traded(now, market, order)
        else:
            store.publish(now, order)

    @staticmethod
    def _reveal(
        market: Market, order: Order, taker: str, take: int, price: int, quantity: int, time: int
    ) -> Filled:
        """Publish a trade of a hidden order: it is opened for the traded quantity and filled at once."""
        number, side = order.number, order.side
        event = Filled(number, side, quantity, price, 0, 0, taker, take, time)
        market.mark()
        market.writer.append(Opened(number, side, price, quantity, order.priority or order.time))
        market.writer.append(event)
        return event

    def _after(self, now: float, order: Order) -> None:
        """Cancel the other order of a pair; check the reduce-only orders against the new position."""
        store = self._store
        linked = store.linked(order)
        if linked is not None and not linked.cancelled:
            store.cancel(now, linked, "oco")
        if order.account == HOUSE:
            store.work_queue.extend(store.reduce_only)


def _fee_asset(units: MarketUnits, order: Order) -> str:
    """Return the asset that a side receives, in which it pays its fee."""
    return units.base if order.side == BUY else units.quote
