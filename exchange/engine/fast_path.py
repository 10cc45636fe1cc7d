"""The short way of most orders: a limit or market order without conditions that rests, or meets nothing
but this node's own orders of the same plain kind; and the cancelling of one.

What it does is what the general way (`exchange.engine.order_manager`) comes to, without asking at every step what may be
special about an order. It takes everything or nothing: whatever it is not made for, refusals included,
is left to the general way, and nothing was changed. That both come to the same is tested order by order
(tests/unit/exchange/engine/test_fast_path.py). Steps that have a function elsewhere are spelled out here where calling it
would be a good part of their cost.
"""

from __future__ import annotations

from exchange.feeds.feed import ShownOrder
from exchange.ledger.balances import AccountBalance
from exchange.market.market import Market, Trade
from exchange.market.market_rules import RuleError
from exchange.model.commands import HOUSE, NewOrder
from exchange.model.events import BUY, MAX_PRICE, MAX_QUANTITY, SELL, Closed, Filled, Opened
from exchange.model.records import Fill, Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.order_store import OrderStore
from exchange.orders.order_validation import MAX_CLIENT_ID, MAX_GROUP

_Found = tuple[int, int, int]  # order number, price, quantity


class FastPath:
    """`now` is monotonic seconds; prices are ticks, quantities lots."""

    def __init__(self, context: EngineContext, store: OrderStore, fills: FillRecorder) -> None:
        self._context = context
        self._store = store
        self._fills = fills

    def place(self, now: float, new: NewOrder) -> Order | None:
        """The order that came of `new`, or None: it is not for this way.

        The client id is a new one, this node may write, and nothing has come to its date.
        """
        if (
            new.tif != "gtc"
            or new.display_quantity is not None
            or new.stop is not None
            or new.trailing_offset is not None
            or new.oco_stop is not None
            or new.worst_price is not None
            or new.expires is not None
            or new.self_trade is not None
            or new.post_only
            or new.hidden
            or new.reduce_only
        ):
            return None
        context, orders = self._context, self._store
        market = context.markets.get(new.market)
        side, price, quantity, group = new.side, new.price, new.quantity, new.group
        client_id = new.client_id
        if (
            market is None
            or market.halted
            or market.hidden.resting
            or (side != BUY and side != SELL)
            or not 0 < quantity < MAX_QUANTITY
            or (group and not -MAX_GROUP < group < MAX_GROUP)
            or (client_id is not None and not 0 < len(client_id) <= MAX_CLIENT_ID)
        ):
            return None
        book = market.book
        if price is None:
            return self._market_order(now, market, new)
        if not 0 < price < MAX_PRICE:
            return None
        rules = market.rules
        if rules is not None:
            reference = market.reference if rules.band is not None else None
            if not rules.accepts(price, quantity, reference):
                return None
        signed = side * price
        opposite = book.asks if side == BUY else book.bids
        if opposite and opposite[-1] + signed >= 0:
            return self._take(now, market, new, price, 0)
        account = new.account
        purse = None
        if account != HOUSE:
            units = market.units
            if side == BUY:
                asset, needed = units.quote, quantity * price * units.quote_units
            else:
                asset, needed = units.base, quantity * units.base_units
            purse = self._admit(now, account, asset, needed)
            if purse is None:
                return None
        # From here on it is done.
        number = orders.next_number
        orders.next_number = number + 1
        time = context.epoch_us + int(now * 1_000_000)
        if time <= market.last_time:
            time = market.last_time + 1
        market.last_time = time
        order = Order(
            number,
            market.key,
            side,
            price,
            quantity,
            time,
            client_id,
            account,
            group,
            "limit",
            "none" if account == HOUSE else "cancel_newest",
            0,
            True,
            quantity,
            updated=time,
        )
        orders.open[number] = context.orders[number] = order
        if client_id is not None:
            orders.client_ids[account, client_id] = number
        if purse is not None:
            orders.by_account[account][number] = order
            purse.holds[number] = needed
            purse.held += needed
            context.ledger.changed[purse] = None
        writer = market.writer
        state = writer.feed.state
        state.orders[number] = ShownOrder(side, price, quantity, time)
        state.number += 1
        writer.unsigned.append(Opened(number, side, price, quantity, time))
        book.append(number, signed, quantity, time, context.node_id)
        market.version += 1
        market.touched[signed] = None
        return order

    def cancel(self, now: float, order: Order, reason: str) -> bool:
        """Cancel an open order of the fast path; return False for an order of the general path."""
        if (
            not order.shown
            or order.pending
            or order.reserved
            or order.expires
            or order.reduce_only
            or order.linked_order
        ):
            return False
        context, orders = self._context, self._store
        number, account = order.number, order.account
        market = context.markets[order.market]
        signed = order.side * (order.price or 0)
        order.cancelled = order.done = True
        order.reason = reason
        order.shown = 0
        time = context.epoch_us + int(now * 1_000_000)
        if time > order.updated:
            order.updated = time
        context.orders[number] = orders.recent[number] = order
        del orders.open[number]
        writer = market.writer
        state = writer.feed.state
        del state.orders[number]
        state.number += 1
        writer.unsigned.append(Closed(number, "cancelled"))
        market.book.remove(number)
        market.version += 1
        market.touched[signed] = None
        if account != HOUSE:
            del orders.by_account[account][number]
            units = market.units
            purse = context.ledger.accounts[account][units.quote if signed > 0 else units.base]
            purse.held -= purse.holds.pop(number)
            context.ledger.changed[purse] = None
        return True

    # Inside

    def _admit(self, now: float, account: int, asset: str, needed: int) -> AccountBalance | None:
        """Count an order of a client that needs so much; the purse that has it, or None."""
        context = self._context
        try:
            purse = context.ledger.accounts[account][asset]
            orders = self._store.by_account[account]
        except KeyError:
            return None
        if purse.balance - purse.held < needed:
            return None
        return purse if context.accounts.admits(now, account, len(orders)) else None

    def _market_order(self, now: float, market: Market, new: NewOrder) -> Order | None:
        side, rules = new.side, market.rules
        opposite = market.book.asks if side == BUY else market.book.bids
        if not opposite:
            return None
        worst_price = 0
        if rules is not None or new.account != HOUSE:
            reference = market.reference
            specs = self._context.specs
            worst_price = specs.protection_price(market.key, side, -side * opposite[-1], reference)
            if rules is not None:
                try:
                    rules.check(side, None, new.quantity, reference, worst_price)
                except RuleError:
                    return None
        return self._take(now, market, new, worst_price or None, worst_price)

    def _take(
        self, now: float, market: Market, new: NewOrder, limit: int | None, worst_price: int
    ) -> Order | None:
        """An order that meets others at once, at `limit` at worst (None: any)."""
        context, orders, book = self._context, self._store, market.book
        side, price, quantity, account = new.side, new.price, new.quantity, new.account
        found = book.preview(side, limit, quantity)
        makers = self._makers(account, found)
        if not makers:
            return None
        purse = None
        if account != HOUSE:
            units = market.units
            if side == BUY:
                asset, unit = units.quote, (limit or 0) * units.quote_units
            else:
                asset, unit = units.base, units.base_units
            purse = self._admit(now, account, asset, quantity * unit)
            if purse is None:
                return None
        # From here on it is done.
        number = orders.next_number
        orders.next_number = number + 1
        time, placed = context.us(now), orders.new_time(now, market)
        book.match(side, limit, quantity)
        left, value = self._fill(market, time, number, side, quantity, account, makers, found)
        if not left:
            reason = "filled"
        elif price is None:
            reason = "no_liquidity"
        else:
            reason = ""
        done = reason != ""
        order = Order(
            number,
            market.key,
            side,
            price,
            quantity,
            placed,
            new.client_id,
            account,
            new.group,
            "market" if price is None else "limit",
            "none" if account == HOUSE else "cancel_newest",
            worst_price,
            not done,
            0 if done else left,
            quantity - left,
            value,
            done and left > 0,
            done,
            reason,
            placed,
        )
        context.orders[number] = order
        if new.client_id is not None:
            orders.client_ids[account, new.client_id] = number
        if done or price is None:
            orders.recent[number] = order
            return order
        orders.open[number] = order
        if purse is not None:
            orders.by_account[account][number] = order
            purse.holds[number] = left * unit
            purse.held += left * unit
            context.ledger.changed[purse] = None
        signed = side * price
        market.writer.append(Opened(number, side, price, left, placed))
        book.append(number, signed, left, placed, context.node_id)
        market.version += 1
        market.touched[signed] = None
        return order

    def _makers(self, account: int, found: list[_Found]) -> list[Order]:
        """The orders that were found, if they are all this node's own and nothing special will happen
        to them; else none."""
        orders = self._store
        if orders.reduce_only:
            return []
        own = orders.open
        makers: list[Order] = []
        for number, _, _ in found:
            maker = own.get(number)  # keys of others' orders are greater than any number
            if (
                maker is None
                or maker.display_quantity
                or maker.reduce_only
                or maker.linked_order
                or (account and maker.account == account)
            ):
                return []
            makers.append(maker)
        return makers

    def _fill(
        self,
        market: Market,
        time: int,
        number: int,
        side: int,
        quantity: int,
        account: int,
        makers: list[Order],
        found: list[_Found],
    ) -> tuple[int, int]:
        """The trades of order `number` with the makers; the book has had them already.

        Returns:
            What is left of the quantity, and the value of the rest (ticks * lots).
        """
        context, orders, ledger = self._context, self._store, self._context.ledger
        node, key, units, touched = context.node_id, market.key, market.units, market.touched
        made_side = -side
        taken, made = (units.base, units.quote) if side == BUY else (units.quote, units.base)
        fills, trades, changed = context.fills, context.trades, context.orders
        feed, unsigned = market.writer.feed.state, market.writer.unsigned
        shown_orders, event_number = feed.orders, feed.number
        take = self._fills.next_take
        value = 0
        for maker, (maker_number, price, lots) in zip(makers, found, strict=True):
            owner = maker.account
            taker_fee = maker_fee = 0
            if account or owner:
                reference = f"{node}/{take}"
                if side == BUY:
                    taker_fee, maker_fee = ledger.trade_here(
                        time, reference, units, price, lots, account, owner, side
                    )
                else:
                    maker_fee, taker_fee = ledger.trade_here(
                        time, reference, units, price, lots, owner, account, side
                    )
            worth = price * lots
            value += worth
            quantity -= lots
            filled = maker.filled + lots
            shown = maker.shown - lots
            left = maker.quantity - filled
            maker.filled = filled
            maker.value += worth
            maker.shown = shown
            if time > maker.updated:
                maker.updated = time
            changed[maker_number] = maker
            if left:
                shown_orders[maker_number].shown = shown
            else:
                del shown_orders[maker_number]
                maker.done = True
                maker.reason = "filled"
                orders.recent[maker_number] = maker
                del orders.open[maker_number]
                if maker.expires:
                    orders.expiry.discard(maker_number)
            if owner:
                purse = ledger.accounts[owner][taken]
                if left:
                    unit = units.base_units if side == BUY else price * units.quote_units
                    purse.held -= lots * unit
                    purse.holds[maker_number] = left * unit
                else:
                    purse.held -= purse.holds.pop(maker_number)
                    del orders.by_account[owner][maker_number]
            event = Filled(maker_number, made_side, lots, price, shown, left, node, take, time)
            unsigned.append(event)
            event_number += 1
            trade = Trade(node, event, event_number)
            market.tape.append(trade)
            trades.append((key, trade))
            touched[made_side * price] = None
            fills.append(
                Fill(
                    node,
                    take,
                    "maker",
                    key,
                    maker_number,
                    made_side,
                    price,
                    lots,
                    time,
                    node,
                    number,
                    owner,
                    maker_fee,
                    made,
                )
            )
            fills.append(
                Fill(
                    node,
                    take,
                    "taker",
                    key,
                    number,
                    side,
                    price,
                    lots,
                    time,
                    node,
                    maker_number,
                    account,
                    taker_fee,
                    taken,
                )
            )
            take += 1
        self._fills.next_take = take
        feed.number = event_number
        market.version += len(found)
        if key in context.watched:
            context.unseen.extend((market, trade) for _, trade in trades[-len(found) :])
        return quantity, value
