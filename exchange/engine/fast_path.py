"""Fast path: plain limit and market orders that trade with own plain orders only, and their cancels.

Theory of operation. Most orders have no options, and rest or trade with orders of this node. For them
the general path (`exchange.engine.order_manager`) makes many checks that cannot apply, and takes
about twice as long. The fast path makes the same changes in fewer steps: it writes the order store,
the balances, the feed and the book directly, where the general path calls `publish`, `hold` and
`write`.

The fast path takes an order in full or not at all. It leaves everything unusual, rejections included, to
the general path, and has changed nothing then. Each method checks first and changes afterwards; the
comment "Point of no return" separates the two.

Rules of this file:
- A change here has its counterpart in the general path. tests/unit/exchange/engine/test_fast_path.py
  drives two engines, one of them without the fast path, and compares every record and message.
- Steps are functions of their own where the benchmark allows (`python -m tests.benchmarks engine`). A
  call for each order costs 2 to 3 % of it, so `try_place` adds a resting order in line, and structs are made
  with positional arguments.
"""

from __future__ import annotations

from typing import Final

from exchange.feeds.feed import ShownOrder
from exchange.feeds.feed_limits import OWN_OPEN_ORDERS
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
_NO_MAKERS: Final[list[Order]] = []


def _is_plain(new: NewOrder) -> bool:
    """Report if a new order has no options and valid numbers."""
    client_id, group = new.client_id, new.group
    return not (
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
        or (new.side != BUY and new.side != SELL)
        or not 0 < new.quantity < MAX_QUANTITY
        or (group and not -MAX_GROUP < group < MAX_GROUP)
        or (client_id is not None and not 0 < len(client_id) <= MAX_CLIENT_ID)
    )


class FastPath:
    """Placing and cancelling of plain orders. `now` is monotonic seconds; ticks and lots."""

    def __init__(self, context: EngineContext, store: OrderStore, fills: FillRecorder) -> None:
        self._context = context
        self._store = store
        self._fills = fills

    # Commands

    def try_place(self, now: float, new: NewOrder) -> Order | None:
        """Place an order. Returns None when it is left to the general path.

        The caller has checked that the client id is new, that this node may write, and that no order
        has expired.
        """
        context = self._context
        market = context.markets.get(new.market)
        if market is None or market.halted or market.hidden.resting or not _is_plain(new):
            return None
        side, price, quantity = new.side, new.price, new.quantity
        if price is None:
            return self._market_order(now, market, new)
        writer = market.writer
        state = writer.feed.state
        if not 0 < price < MAX_PRICE or len(state.orders) >= OWN_OPEN_ORDERS:
            return None
        rules = market.rules
        if rules is not None:
            reference = market.reference if rules.band is not None else None
            if not rules.accepts(price, quantity, reference):
                return None
        opposite = market.book.asks if side == BUY else market.book.bids
        if opposite and opposite[-1] + side * price >= 0:
            return self._take(now, market, new, price, 0)
        balance = None
        if new.account != HOUSE:
            units = market.units
            if side == BUY:
                asset, needed = units.quote, quantity * price * units.quote_units
            else:
                asset, needed = units.base, quantity * units.base_units
            balance = self._admit(now, new.account, asset, needed)
            if balance is None:
                return None
        # Point of no return.
        store = self._store
        number = store.next_number
        store.next_number = number + 1
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
            new.client_id,
            new.account,
            new.group,
            "limit",
            "none" if balance is None else "cancel_newest",
            0,
            True,
            quantity,
            0,
            0,
            False,
            False,
            "",
            time,
        )
        store.open[number] = context.orders[number] = order
        if new.client_id is not None:
            store.client_ids[new.account, new.client_id] = number
        if balance is not None:
            store.by_account[new.account][number] = order
            balance.holds[number] = needed
            balance.held += needed
            context.ledger.changed[balance] = None
        state.orders[number] = ShownOrder(side, price, quantity, time)
        state.number += 1
        writer.unsigned.append(Opened(number, side, price, quantity, time))
        signed = side * price
        market.book.append(number, signed, quantity, time, context.node_id)
        market.version += 1
        market.touched[signed] = None
        if not market.marked:
            market.mark()
        return order

    def try_cancel(self, now: float, order: Order, reason: str) -> bool:
        """Cancel an open order. Returns False when it is left to the general path."""
        if (
            not order.shown
            or order.pending
            or order.reserved
            or order.expires
            or order.reduce_only
            or order.linked_order
        ):
            return False
        # Point of no return.
        context, store = self._context, self._store
        number, account = order.number, order.account
        market = context.markets[order.market]
        signed = order.side * (order.price or 0)
        order.cancelled = order.done = True
        order.reason = reason
        order.shown = 0
        time = context.epoch_us + int(now * 1_000_000)
        if time > order.updated:
            order.updated = time
        context.orders[number] = store.recent[number] = order
        del store.open[number]
        writer = market.writer
        state = writer.feed.state
        del state.orders[number]
        state.number += 1
        writer.unsigned.append(Closed(number, "cancelled"))
        market.book.remove(number)
        market.version += 1
        market.touched[signed] = None
        if not market.marked:
            market.mark()
        if account != HOUSE:
            del store.by_account[account][number]
            units = market.units
            balance = context.ledger.accounts[account][units.quote if signed > 0 else units.base]
            balance.held -= balance.holds.pop(number)
            context.ledger.changed[balance] = None
        return True

    # Checks

    def _admit(self, now: float, account: int, asset: str, needed: int) -> AccountBalance | None:
        """Check limits and balance of a client, and count the order against the rate. Returns the
        balance that covers the order, or None."""
        context = self._context
        try:
            balance = context.ledger.accounts[account][asset]
            orders = self._store.by_account[account]
        except KeyError:
            return None
        if balance.balance - balance.held < needed:
            return None
        return balance if context.accounts.admits(now, account, len(orders)) else None

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

    # Orders that trade at once

    def _take(
        self, now: float, market: Market, new: NewOrder, limit: int | None, worst_price: int
    ) -> Order | None:
        """Place an order that trades at once, at `limit` or better (None: at any price)."""
        context, store, book = self._context, self._store, market.book
        side, price, quantity, account = new.side, new.price, new.quantity, new.account
        found = book.preview(side, limit, quantity)
        makers = self._makers(account, found)
        if not makers:
            return None
        if account != HOUSE:
            units = market.units
            if side == BUY:
                asset, needed = units.quote, quantity * (limit or 0) * units.quote_units
            else:
                asset, needed = units.base, quantity * units.base_units
            if self._admit(now, account, asset, needed) is None:
                return None
        # Point of no return.
        number = store.next_number
        store.next_number = number + 1
        time, placed = context.us(now), store.new_time(now, market)
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
            store.client_ids[account, new.client_id] = number
        if done or price is None:
            store.recent[number] = order
            return order
        # The remainder rests. It is rare enough for the functions of the general path.
        store.open[number] = order
        if account != HOUSE:
            store.by_account[account][number] = order
            store.hold(order)
        market.write(Opened(number, side, price, left, placed))
        return order

    def _makers(self, account: int, found: list[_Found]) -> list[Order]:
        """Return the orders that were found if all of them are plain orders of this node; else none."""
        store = self._store
        if store.reduce_only:
            return _NO_MAKERS
        own = store.open
        makers: list[Order] = []
        for number, _, _ in found:
            maker = own.get(number)  # keys of others' orders are greater than any own order number
            if (
                maker is None
                or maker.display_quantity
                or maker.reduce_only
                or maker.linked_order
                or (account and maker.account == account)
            ):
                return _NO_MAKERS
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
        """Record the trades of order `number` with the makers, which the book has made already.

        Returns:
            The remaining quantity, and the value of the trades (ticks * lots).
        """
        context, ledger = self._context, self._context.ledger
        node, key, units, touched = context.node_id, market.key, market.units, market.touched
        made_side = -side
        taken, made = (units.base, units.quote) if side == BUY else (units.quote, units.base)
        fills, trades, changed = context.fills, context.trades, context.orders
        feed, unsigned = market.writer.feed.state, market.writer.unsigned
        event_number = feed.number
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
            value += price * lots
            quantity -= lots
            changed[maker_number] = maker
            left = self._fill_maker(market, maker, price, lots, time, taken)
            event = Filled(
                maker_number, made_side, lots, price, maker.shown, left, node, take, time
            )
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
        if not market.marked:
            market.mark()
        if key in context.watched:
            context.unseen.extend((market, trade) for _, trade in trades[-len(found) :])
        return quantity, value

    def _fill_maker(
        self, market: Market, maker: Order, price: int, lots: int, time: int, asset: str
    ) -> int:
        """Apply a trade to its maker order, which holds `asset`. Returns the remaining quantity."""
        number, owner, store = maker.number, maker.account, self._store
        maker.filled = filled = maker.filled + lots
        maker.value += price * lots
        maker.shown = shown = maker.shown - lots
        left = maker.quantity - filled
        if time > maker.updated:
            maker.updated = time
        shown_orders = market.writer.feed.state.orders
        if left:
            shown_orders[number].shown = shown
        else:
            del shown_orders[number]
            maker.done = True
            maker.reason = "filled"
            store.recent[number] = maker
            del store.open[number]
            if maker.expires:
                store.expiry.discard(number)
        if owner:
            balance = self._context.ledger.accounts[owner][asset]
            if left:
                units = market.units
                unit = units.base_units if maker.side != BUY else price * units.quote_units
                balance.held -= lots * unit
                balance.holds[number] = left * unit
            else:
                balance.held -= balance.holds.pop(number)
                del store.by_account[owner][number]
        return left
