"""Settlement of a recovery: orders and money are brought in line with the feeds that were fetched.

See `exchange.engine.recovery` for the theory of operation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from exchange.engine.lost_trades import (
    ClosedOrder,
    LostTrade,
    RecoveredFill,
    RecoveryReport,
    is_plausible,
    maker_trade,
    stated_trade,
)
from exchange.engine.order_manager import OrderManager
from exchange.engine.recovery import OwnFeed, Recovery
from exchange.feeds.feed import Writer
from exchange.ledger.ledger import InsufficientBalance
from exchange.ledger.statements import StatementTrade
from exchange.market.market import Trade
from exchange.model.commands import HOUSE, SUSPENSE
from exchange.model.events import BUY, Event, Filled, Opened
from exchange.model.peer_values import MAX_ORDER
from exchange.model.records import Decision, DropTake, Fill, Order, PutBatch
from exchange.orders.engine_context import EngineContext
from exchange.takes.take_protocol import RESERVED

ORDER_GAP: Final = 1_000_000  # order numbers left out: orders that never rested are in no feed
TAKE_GAP: Final = 3_600_000_000  # us: take numbers follow the clock, which may be wrong by an hour
REASON: Final = "recovered"  # of orders that are closed here


class RecoverySettlement:
    """One settlement. Nothing may trade on this engine before or after it."""

    def __init__(self, context: EngineContext, orders: OrderManager, recovery: Recovery) -> None:
        self._context = context
        self._orders = orders
        self._store = orders.store
        self._recovery = recovery
        self._trades: dict[tuple[str, int], LostTrade] = {}
        self._local: list[tuple[str, int, Filled]] = []
        self.report = RecoveryReport()

    def run(
        self,
        now: float,
        statements: Mapping[str, list[StatementTrade]],
        complete: Collection[str],
    ) -> RecoveryReport:
        """Settle everything.

        Args:
            statements: by node, trades with this node that its signed statement has and the journal
                lacks.
            complete: nodes whose statement was compared in full.
        """
        self._gather(statements)
        self._use_feeds(now)
        for trade in sorted(self._trades.values(), key=lambda t: (t.time, t.taker, t.take)):
            self._book(now, trade)
        for market, number, event in self._local:
            self._book_local(now, market, number, event)
        self._resolve_takes(now, complete)
        self._end_reservations(now)
        self._close_orders(now)
        self._skip_numbers(now)
        self._store.work_queue.clear()
        self._context.forgotten = range(0)
        return self.report

    # What is known

    def _gather(self, statements: Mapping[str, list[StatementTrade]]) -> None:
        node = self._context.node_id
        for market, own in self._recovery.feeds.items():
            self.report.gaps += own.gaps
            for number, event in _events(own):
                self.report.events += 1
                if not isinstance(event, Filled):
                    continue
                if event.taker == node:
                    self._local.append((market, number, event))
                else:
                    self._add(maker_trade(market, event))
        for (owner, market), feed in self._context.feeds.items():
            if owner != node:
                for stored in feed.batches.values():
                    for event in stored.batch.events:
                        if isinstance(event, Filled) and event.taker == node:
                            self._add_taken(owner, market, event)
        for peer, trades in statements.items():
            for trade in trades:
                if trade.market in self._context.markets:
                    self._add(stated_trade(node, peer, trade))

    def _add_taken(self, maker: str, market: str, event: Filled) -> None:
        """Add a trade that a maker's feed says this node took."""
        pending = self._orders.takes.get(event.take)
        if pending is None and event.take < self._recovery.first_lost_take:
            return  # the journal has it
        self._add(
            LostTrade(
                taker=self._context.node_id,
                take=event.take,
                market=market,
                side=-event.side,
                price=event.price,
                quantity=event.quantity,
                time=event.time,
                role="taker",
                order=0 if pending is None else pending.order,
                peer=maker,
                peer_order=event.order,
            )
        )

    def _add(self, trade: LostTrade) -> None:
        known = self._trades.setdefault((trade.taker, trade.take), trade)
        # A feed does not contain the taker's order; a statement does.
        known.order = known.order or trade.order
        known.peer_order = known.peer_order or trade.peer_order

    # Feeds

    def _use_feeds(self, now: float) -> None:
        """Continue the own feeds from the fetched events."""
        context = self._context
        for key, own in self._recovery.feeds.items():
            market = context.markets[key]
            before = list(market.writer.feed.state.orders)
            market.writer = Writer(own.feed, context.keys, context.network)
            context.records += [PutBatch(context.node_id, batch) for batch in own.batches]
            context.save_snapshot(own.feed)
            market.replaced(context.node_id, before)
            for number, event in _events(own):
                if isinstance(event, Filled):
                    context.add_trade(market, Trade(context.node_id, event, number))

    # Money

    def _book(self, now: float, trade: LostTrade) -> None:
        """Book a trade with another node."""
        context = self._context
        units = context.specs.units[trade.market]
        order = self._store.open.get(trade.order)
        base, quote = (
            trade.quantity * units.base_units,
            trade.price * trade.quantity * units.quote_units,
        )
        asset, amount = (units.quote, quote) if trade.side == BUY else (units.base, base)
        if order is not None and not (
            self._covers(order, trade.side, asset, amount)
            and (trade.proven or is_plausible(order, trade))
        ):
            order = None
        account = self._suspense(now) if order is None else order.account
        fee = context.ledger.trade_with(
            time=context.us(now),
            reference=f"{trade.taker}/{trade.take}",
            units=units,
            side=trade.side,
            price=trade.price,
            quantity=trade.quantity,
            account=account,
            peer=trade.peer,
            role=trade.role,
        )
        if trade.role == "maker":
            self._decide(trade)
        fill = Fill(
            taker=trade.taker,
            take=trade.take,
            role=trade.role,
            market=trade.market,
            order=trade.order,
            side=trade.side,
            price=trade.price,
            quantity=trade.quantity,
            time=trade.time,
            counterparty=trade.peer,
            counterparty_order=trade.peer_order,
            account=account,
            fee=fee,
            fee_asset=units.base if trade.side == BUY else units.quote,
        )
        context.ledger.record(fill)
        self._filled(fill, order)

    def _covers(self, order: Order, side: int, asset: str, amount: int) -> bool:
        """Report if the account of a known order can pay for the trade."""
        if order.side != side:
            return False  # it has another order's number
        if order.account == HOUSE:
            return True
        holding = self._context.ledger.accounts.get(order.account, {}).get(asset)
        if holding is None:
            return False
        others = holding.held - holding.holds.get(order.number, 0)
        return holding.balance - amount >= others

    def _filled(self, fill: Fill, order: Order | None) -> None:
        """Apply a recovered fill to its order, and report it."""
        if order is not None:
            order.filled += fill.quantity
            order.value += fill.price * fill.quantity
            order.quantity = max(order.quantity, order.filled)  # it was amended since
            self._context.orders[order.number] = order
        row = RecoveredFill(
            market=fill.market,
            side=fill.side,
            price=fill.price,
            quantity=fill.quantity,
            time=fill.time,
            role=fill.role,
            order=fill.order,
            account=fill.account,
            counterparty=fill.counterparty,
        )
        (self.report.suspense if fill.account == SUSPENSE else self.report.fills).append(row)

    def _book_local(self, now: float, key: str, number: int, event: Filled) -> None:
        """Book a trade between two own orders. The feed does not name the taker's."""
        context = self._context
        units = context.specs.units[key]
        base, quote = (
            event.quantity * units.base_units,
            event.price * event.quantity * units.quote_units,
        )
        asset, amount = (units.quote, quote) if event.side == BUY else (units.base, base)
        maker = self._store.open.get(event.order)
        if maker is not None and not self._covers(maker, event.side, asset, amount):
            maker = None
        suspense = self._suspense(now)
        account = suspense if maker is None else maker.account
        trade = context.ledger.trade_here(
            *(context.node_id, event.take, key, units, -event.side, event.price, event.quantity),
            *(event.time, 0, event.order, suspense, account),
            posted=context.us(now),
        )
        for fill in trade.fills():
            self._filled(fill, maker if fill.role == "maker" else None)

    def _suspense(self, now: float) -> int:
        """Return the number of the suspense account; create it with its first use."""
        accounts = self._context.accounts
        if accounts.get(SUSPENSE) is None:
            accounts.add_suspense(self._context.us(now))
        return SUSPENSE

    # Takes

    def _decide(self, trade: LostTrade) -> None:
        """Remember a granted take, so that a repeated request gets the same answer."""
        decisions = self._orders.decisions
        if decisions.stale(trade.taker, trade.take):
            return
        known = decisions.decided(trade.taker, trade.take)
        if known is not None and known.reason != RESERVED:
            return
        if known is not None:
            self._release(known)
        self._put(
            Decision(
                taker=trade.taker,
                take=trade.take,
                market=trade.market,
                order=trade.order,
                price=trade.price,
                quantity=trade.quantity,
                time=trade.time,
                number=self._context.markets[trade.market].writer.number,
                reason="",
            )
        )

    def _put(self, decision: Decision) -> None:
        self._orders.decisions.record(decision)
        self._context.records.append(decision)

    def _release(self, reserved: Decision) -> None:
        order = self._store.open.get(reserved.order)
        if order is not None:
            order.reserved -= reserved.quantity
            self._context.orders[order.number] = order

    def _end_reservations(self, now: float) -> None:
        """Refuse reservations for other nodes: they ended in the lost time."""
        for reserved in self._orders.decisions.reservations:
            self._release(reserved)
            self._put(
                msgspec.structs.replace(
                    reserved, quantity=0, reason="expired", time=self._context.us(now), until=0
                )
            )

    def _resolve_takes(self, now: float, complete: Collection[str]) -> None:
        """Drop takes with a fill, and those that their maker, who shows all its trades, has not granted."""
        for take in list(self._orders.takes.pending):
            filled = (self._context.node_id, take.take) in self._trades
            if not filled and take.maker not in complete:
                self.report.takes_open += 1
                continue
            self._orders.takes.resolve(take.take)
            self._context.records.append(DropTake(take.take))
            order = self._store.open.get(take.order)
            if order is not None and take.phase != "given_up":
                order.pending -= take.quantity
                self._context.orders[order.number] = order
            market = self._context.markets[take.market]
            market.release(take.maker, take.maker_order, take.quantity, None)
            self.report.takes_resolved += 1

    # Orders

    def _close_orders(self, now: float) -> None:
        """Close every order that the feeds do not show as the journal has it."""
        store, feeds = self._store, self._recovery.feeds
        for order in list(store.open.values()):
            if order.done:
                continue  # the other order of a pair has ended it
            shown = feeds[order.market].feed.state.orders.get(order.number)
            order.opened, order.shown = shown is not None, 0 if shown is None else shown.shown
            full = order.display_quantity == 0
            if (
                shown is not None
                and not order.cancelled
                and shown.price == order.price
                and (shown.shown == order.free if full else 0 < shown.shown <= order.free)
                and self._can_hold(order)
            ):
                self.report.kept += 1
                continue
            if order.filled < order.quantity:
                self.report.closed.append(
                    ClosedOrder(
                        market=order.market,
                        order=order.number,
                        side=order.side,
                        price=order.price,
                        quantity=order.quantity - order.filled,
                        account=order.account,
                    )
                )
            order.untriggered = False
            store.cancel(now, order, REASON)
        for key, own in feeds.items():
            market = self._context.markets[key]
            for number, row in list(own.feed.state.orders.items()):
                if number not in store.open:
                    self.report.closed.append(
                        ClosedOrder(
                            market=key,
                            order=number,
                            side=row.side,
                            price=row.price,
                            quantity=row.shown,
                            account=None,
                        )
                    )
                    market.close(number, "cancelled")

    def _can_hold(self, order: Order) -> bool:
        try:
            self._store.hold(order)
        except InsufficientBalance:
            return False
        return True

    def _skip_numbers(self, now: float) -> None:
        """Use no order number and no take number twice, whatever the lost life used without a trace."""
        store = self._store
        highest = store.next_number - 1
        for own in self._recovery.feeds.values():
            for _, event in _events(own):
                if isinstance(event, Opened):
                    highest = max(highest, event.order)
        highest = max([highest, *(closed.order for closed in self.report.closed)])
        highest = max([highest, *(trade.order for trade in self._trades.values())])
        store.next_number = min(highest + 1 + ORDER_GAP, MAX_ORDER - 1)
        # Makers ignore takes below those that they know to be over, and the clock may have been ahead.
        fills = self._orders.fills
        fills.next_take = max(fills.next_take, self._context.us(now) + TAKE_GAP)


def _events(own: OwnFeed) -> list[tuple[int, Event]]:
    return [item for batch in own.batches for item in enumerate(batch.events, batch.first)]
