"""This node's own orders: entry, matching, takes of others' orders and by others, cancels.

Only this node writes them. Matching uses the market's book; a crossing order of another owner is
asked for, and until its owner has answered that quantity is pending: neither free nor filled.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from exchange.core import Core, Refused
from exchange.events import (
    BUY,
    MAX_ORDER,
    MAX_PRICE,
    MAX_QUANTITY,
    SELL,
    Amended,
    Closed,
    Filled,
    Opened,
    OrderEvent,
)
from exchange.market import NUMBER_BITS, Hold, Market, Trade
from exchange.messages import Take, TakeResult, pack
from exchange.ports import Send
from exchange.records import (
    Decision,
    DropDecisions,
    DropTake,
    Fill,
    Order,
    PendingTake,
    PutDecision,
    PutFill,
    PutTake,
    Recovered,
)
from exchange.settlement import Maker, Taker, result_of

REFUSED_HOLD = 5.0  # seconds: an order whose owner refuses for a reason its feed will not show
RECENT_ORDERS = 10_000  # finished orders kept in memory, for answers and for client ids


class Desk:
    """Own orders of one node. `now` is monotonic seconds; prices are ticks, quantities lots."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._taker = Taker()
        self._maker = Maker()
        self._next_order = 1
        self._next_take = 1
        self._open: dict[int, Order] = {}
        self._recent: OrderedDict[int, Order] = OrderedDict()
        self._client_ids: dict[str, int] = {}

    def restore(self, now: float, past: Recovered) -> None:
        """Go on with what the journal holds; the feeds are rebuilt already."""
        self._next_order = past.meta.get("next_order", 1)
        stored = past.meta.get("next_take", 1)
        # No number twice, also when this is an old copy of the journal: more than a take a
        # microsecond would be needed to get ahead of the clock.
        self._next_take = max(stored, self._core.us(now))
        self._core.forgotten = range(stored, self._next_take)
        for order in past.orders:
            if order.client_id is not None:
                self._client_ids[order.client_id] = order.number
            if order.done:
                self._recent[order.number] = order
            elif order.market in self._core.markets:
                self._open[order.number] = order
        self._maker.restore(past.decisions, past.marks)
        for take in sorted(past.takes, key=lambda t: t.take):
            market = self._core.markets.get(take.market)
            if market is not None:
                # The world has moved on since it was asked: the outcome is wanted, not a new fill.
                take.void = True
                self._taker.add(0.0, take)
                market.reserve(take.maker, take.maker_order, take.quantity)
        for market in self._core.markets.values():
            market.refresh_owner(self._core.node_id)

    @property
    def open_orders(self) -> list[Order]:
        """Own orders that are not done, oldest first."""
        return list(self._open.values())

    @property
    def recent_orders(self) -> list[Order]:
        """Own finished orders still in memory, oldest first."""
        return list(self._recent.values())

    def order(self, number: int) -> Order | None:
        return self._open.get(number) or self._recent.get(number)

    def by_client_id(self, client_id: str) -> Order | None:
        number = self._client_ids.get(client_id)
        return None if number is None else self.order(number)

    @property
    def pending_takes(self) -> list[PendingTake]:
        return self._taker.pending

    def hurry(self, now: float, maker: str) -> None:
        """This owner can be reached again: ask it now what is still open with it."""
        self._taker.hurry(now, maker)

    def send_due(self, now: float) -> None:
        """Ask, or ask again, whatever is due."""
        for maker, ask in self._taker.due(now):
            self._core.messages.append(Send(maker, "take", pack(ask)))

    def resume(self, now: float) -> None:
        """Call once after the start: unfinished market orders end, limit orders look at the book."""
        for order in list(self._open.values()):
            self._continue(now, order)

    # Commands

    def submit(
        self,
        now: float,
        market_key: str,
        side: int,
        price: int | None,
        quantity: int,
        client_id: str | None = None,
    ) -> Order:
        """A new order in ticks and lots; `price` None for a market order.

        Acknowledge it to the client only when the records of the next `drain` are durable. With a
        `client_id` that was used before, the earlier order is returned and nothing is done.

        Raises:
            Refused: not accepted; nothing was changed.
        """
        market = self._core.markets.get(market_key)
        if market is None:
            raise Refused("unknown_market", f"this node does not trade {market_key}")
        if side not in (BUY, SELL):
            raise Refused("bad_side", "side is buy or sell")
        if not 0 < quantity < MAX_QUANTITY or (price is not None and not 0 < price < MAX_PRICE):
            raise Refused(
                "out_of_range", "price and quantity must be positive and not absurdly large"
            )
        if client_id is not None and client_id in self._client_ids:
            earlier = self.order(self._client_ids[client_id])
            if earlier is not None:
                same = (earlier.market, earlier.side, earlier.price, earlier.quantity)
                if same != (market_key, side, price, quantity):
                    raise Refused(
                        "client_id_reused",
                        f"client id {client_id!r} belongs to order {earlier.number}, which is different",
                    )
                return earlier
        self._check_writes()
        time = max(self._core.us(now), market.last_time + 1)
        market.last_time = time
        order = Order(self._next_order, market_key, side, price, quantity, time, client_id)
        self._next_order += 1
        self._core.meta["next_order"] = self._next_order
        self._open[order.number] = order
        if client_id is not None:
            self._client_ids[client_id] = order.number
        self._continue(now, order)
        return order

    def cancel(self, now: float, number: int) -> Order:
        """Cancel what is not filled. What is pending with another owner is decided by that owner:
        it is asked at once to refuse what it has not granted yet.

        Raises:
            Refused: no such order, or nothing left to cancel.
        """
        order = self._open.get(number)
        if order is None:
            finished = self._recent.get(number)
            if finished is None:
                raise Refused("unknown_order", f"this node has no order {number}")
            how = "filled" if finished.filled == finished.quantity else "cancelled"
            raise Refused("order_done", f"order {number} is already {how}")
        if order.cancelled:
            raise Refused(
                "order_done",
                f"order {number} is being cancelled; {order.pending} lots wait for another node's answer",
            )
        self._check_writes()
        order.cancelled = True
        for take in self._taker.of_order(number):
            self._taker.void(now, take.take)
        self._publish(order)
        return order

    def _check_writes(self) -> None:
        if self._core.stale is not None:
            raise Refused("stale_data", self._core.stale)
        if self._core.listening:
            raise Refused(
                "starting", "this node has just started and is still finding others: try again"
            )

    # Matching

    def _continue(self, now: float, order: Order) -> None:
        """Fill what is free as far as the book goes; then rest (limit) or end (market) the remainder."""
        if order.free and self._core.writes:
            self._take_liquidity(now, order, only_earlier=False)
        if order.price is None and order.free and not order.pending:
            order.cancelled = True  # nothing left to trade with
        self._publish(order)

    def _take_liquidity(self, now: float, order: Order, *, only_earlier: bool) -> None:
        market = self._core.markets[order.market]
        mine = (order.time, self._core.node_id, order.number)
        wanted = order.free
        plan = []
        for key, price, quantity in market.book.crossing(order.side, order.price):
            # Of two crossed orders the later one takes: a later one's owner will ask us.
            if not only_earlier or market.priority(key) < mine:
                plan.append((key, price, min(quantity, wanted)))
            wanted -= min(quantity, wanted)
            if not wanted:
                break
        for key, price, quantity in plan:
            owner, number = self._core.owners.split(key)
            if owner == self._core.node_id:
                self._fill_here(now, market, order, self._open[number], price, quantity)
            else:
                self._ask(now, market, order, owner, number, price, quantity)

    def uncross(self, now: float, market: Market) -> None:
        """Own resting orders that cross earlier orders of others take them."""
        crossed: list[Order] = []
        if not self._core.writes:
            return
        for side in (BUY, SELL):
            best = market.book.best(-side)
            if best is None:
                continue
            for key, price, *_ in market.book.orders(side):
                if side * price < side * best:
                    break
                if key >> NUMBER_BITS == 0:
                    crossed.append(self._open[key])
        for order in crossed:
            if order.free:
                self._take_liquidity(now, order, only_earlier=True)
                self._publish(order)

    def _fill_here(
        self, now: float, market: Market, taker: Order, maker: Order, price: int, quantity: int
    ) -> None:
        """A trade between two of this node's own orders."""
        take = self._new_take()
        time = max(self._core.us(now), 1)
        self._fill_maker(
            market, maker, self._core.node_id, take, taker.number, price, quantity, time
        )
        self._fill_taker(taker, take, self._core.node_id, maker.number, price, quantity, time)

    def _fill_maker(
        self,
        market: Market,
        order: Order,
        taker: str,
        take: int,
        taker_order: int,
        price: int,
        quantity: int,
        time: int,
    ) -> None:
        order.filled += quantity
        order.value += price * quantity
        order.shown = order.free
        left = order.free + order.pending
        self._write(
            market,
            Filled(order.number, order.side, quantity, price, order.shown, left, taker, take, time),
        )
        self._add_fill(
            Fill(
                taker,
                take,
                "maker",
                order.market,
                order.number,
                order.side,
                price,
                quantity,
                time,
                taker,
                taker_order,
            )
        )
        self._publish(order)

    def _fill_taker(
        self,
        order: Order,
        take: int,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        time: int,
    ) -> None:
        order.filled += quantity
        order.value += price * quantity
        self._add_fill(
            Fill(
                self._core.node_id,
                take,
                "taker",
                order.market,
                order.number,
                order.side,
                price,
                quantity,
                time,
                maker,
                maker_order,
            )
        )
        self._core.orders[order.number] = order

    def _add_fill(self, fill: Fill) -> None:
        self._core.records.append(PutFill(fill))
        self._core.fills.append(fill)

    def _new_take(self) -> int:
        take = self._next_take
        self._next_take += 1
        self._core.meta["next_take"] = self._next_take
        return take

    def _publish(self, order: Order) -> None:
        """Make the feed show what is free, and end the order when nothing more can happen to it."""
        self._core.orders[order.number] = order
        market = self._core.markets[order.market]
        shown = order.free if order.price is not None else 0
        finished = not order.pending and (order.cancelled or order.filled == order.quantity)
        if finished:
            order.done = True
            order.shown = 0
            if order.opened and order.number in market.writer.feed.state.orders:
                reason = "filled" if order.filled == order.quantity else "cancelled"
                self._write(market, Closed(order.number, reason))
            if self._open.pop(order.number, None) is not None:
                self._recent[order.number] = order
                while len(self._recent) > RECENT_ORDERS:
                    _, old = self._recent.popitem(last=False)
                    if old.client_id and self._client_ids.get(old.client_id) == old.number:
                        del self._client_ids[old.client_id]
        elif not order.opened:
            if shown and order.price is not None:
                order.opened = True
                order.shown = shown
                self._write(
                    market, Opened(order.number, order.side, order.price, shown, order.time)
                )
        elif shown != order.shown:
            order.shown = shown
            self._write(market, Amended(order.number, shown))

    def _write(self, market: Market, event: OrderEvent) -> None:
        """Append to the own feed of a market and show it in the own book."""
        market.writer.append(event)
        if isinstance(event, Filled):
            self._core.add_trade(market, Trade(self._core.node_id, event, market.writer.number))
        market.refresh(self._core.node_id, event.order)

    # Taking from other owners

    def _ask(
        self,
        now: float,
        market: Market,
        order: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
    ) -> None:
        take = PendingTake(
            self._new_take(),
            market.key,
            order.number,
            maker,
            maker_order,
            order.side,
            price,
            quantity,
            seen=market.replicas[maker].feed.number,
        )
        order.pending += quantity
        market.reserve(maker, maker_order, quantity)
        self._taker.add(now, take)
        self._core.records.append(PutTake(msgspec.structs.replace(take)))
        self._core.orders[order.number] = order

    def on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        take = self._taker.get(result.take)
        if take is None or take.maker != maker:
            return True  # answered before, or nothing of ours
        if not self._taker.plausible(take, result):
            self._core.warn(f"node {maker} answered take {result.take} with something impossible")
            return False
        self._taker.resolve(take.take)
        self._core.records.append(DropTake(take.take))
        market = self._core.markets[take.market]
        order = self._open[take.order]
        order.pending -= take.quantity
        if result.quantity:
            self._fill_taker(
                order, take.take, maker, take.maker_order, take.price, result.quantity, result.time
            )
        if result.reason == "void":
            hold = Hold(None, result.number, None)
        elif result.reason in ("", "gone"):
            # The order was on show when we asked, so an event that we had not seen has taken it off.
            # A maker that says otherwise would be asked again without end.
            left = result.quantity if result.quantity == take.quantity else None
            hold = Hold(left, max(result.number, take.seen + 1), None)
        else:
            hold = Hold(None, None, now + REFUSED_HOLD)
        market.release(maker, take.maker_order, take.quantity, hold)
        self._continue(now, order)
        return True

    # Being taken from

    def on_take(self, now: float, taker: str, ask: Take) -> bool:
        if not (
            1 <= ask.below <= ask.take < 2**62
            and 0 < ask.quantity < MAX_QUANTITY
            and 0 < ask.price < MAX_PRICE
            and 0 < ask.order < MAX_ORDER
            and 0 < ask.taker_order < MAX_ORDER
            and len(ask.market) <= 80
            and len(taker) <= 64
        ):
            return False  # what no feed and no journal could hold
        if self._maker.stale(taker, ask.take) or not self._maker.answers(taker):
            return True
        if self._maker.forget(taker, ask.below):
            self._core.records.append(DropDecisions(taker, ask.below))
        decision = self._maker.decided(taker, ask.take)
        if decision is None:
            if not self._maker.decides(taker):
                return True
            decision = self._decide(now, taker, ask)
            self._maker.record(decision)
            self._core.records.append(PutDecision(decision))
        self._core.messages.append(Send(taker, "take_result", pack(result_of(decision))))
        return True

    def _decide(self, now: float, taker: str, ask: Take) -> Decision:
        market = self._core.markets.get(ask.market)
        order = self._open.get(ask.order)
        quantity = 0
        time = max(self._core.us(now), 1)
        if market is None:
            reason = "unknown_market"
        elif self._core.stale is not None:
            reason = "stale_data"
        elif ask.void:
            reason = "void"
        elif (
            order is None
            or order.market != ask.market
            or order.price != ask.price
            or not order.shown
        ):
            reason = "gone"
        else:
            quantity = min(ask.quantity, order.shown)
            reason = ""
            self._fill_maker(
                market, order, taker, ask.take, ask.taker_order, ask.price, quantity, time
            )
        number = market.writer.number if market is not None else 0
        return Decision(
            taker, ask.take, ask.market, ask.order, ask.price, quantity, time, number, reason
        )
