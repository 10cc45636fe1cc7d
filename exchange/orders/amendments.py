"""Changes to open orders.

What only takes away (a smaller quantity) leaves an order its place. Another price, a greater quantity or
more on show are as a new order would be: first it trades with what it meets, then it goes to the end of
the queue. An order of which a part is being settled with another node keeps its price until that is done.
"""

from __future__ import annotations

from copy import copy

from exchange.ledger.ledger import InsufficientBalance
from exchange.model.commands import HOUSE, Amend
from exchange.model.events import MAX_PRICE, MAX_QUANTITY
from exchange.model.records import Order
from exchange.orders.conditional_orders import ConditionalOrders
from exchange.orders.engine_context import CommandRejected, EngineContext
from exchange.orders.order_store import OrderStore, is_immediate
from exchange.orders.order_validation import MAX_SLICES, OrderValidation, check_trailing
from exchange.orders.reduce_only import ReduceOnly


class Amendments:
    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        entry: OrderValidation,
        conditional: ConditionalOrders,
        reduce_only: ReduceOnly,
    ) -> None:
        self._context = context
        self._store = store
        self._validation = entry
        self._conditional = conditional
        self._reduce_only = reduce_only

    def amend(self, now: float, order: Order, changes: Amend) -> bool:
        """Whether the order has lost its place and is to be matched before it is published with
        `moved`; otherwise it is published here.

        Raises:
            CommandRejected: nothing was changed.
        """
        context = self._context
        market = context.markets[order.market]
        after = self._changed(now, order, changes)
        if order.account != HOUSE:
            self._validation.check_active(order.account)
        if market.halted:
            raise self._validation.halted(market)
        if after.price != order.price or after.quantity != order.quantity:
            self._validation.check_rules(
                market,
                after.side,
                after.price,
                after.quantity,
                after.stop if after.untriggered else 0,
                after.worst_price,
            )
        try:
            self._store.hold(after)
        except InsufficientBalance as error:
            raise self._validation.insufficient(error) from error
        if order.account != HOUSE and not context.accounts.allows_order(now, order.account):
            self._store.hold(order)
            raise CommandRejected(
                "rate_limited", "the account changes too many orders a minute: wait a little"
            )
        worse = (
            after.price != order.price
            or after.quantity > order.quantity
            or (order.display_quantity > 0 and _shows_more(order, after))
        )
        order.altered |= _figures(order) != _figures(after)
        order.price, order.quantity, order.display_quantity = (
            after.price,
            after.quantity,
            after.display_quantity,
        )
        order.tif, order.expires = after.tif, after.expires
        if order.expires:
            self._store.expiry.set(order.number, order.expires)
        if (order.stop, order.trailing_offset) != (after.stop, after.trailing_offset):
            order.stop, order.trailing_offset = after.stop, after.trailing_offset
            self._conditional.amend(order)
        if worse and not order.untriggered:
            order.priority = self._store.new_time(now, market, order)
            return True
        self._store.publish(now, order)
        return False

    def _changed(self, now: float, order: Order, changes: Amend) -> Order:
        """The order as it is to be.

        Raises:
            CommandRejected: an order of its kind cannot be so.
        """
        if is_immediate(order) and not order.untriggered:
            raise _bad("the order trades at once: there is nothing to change")
        after = copy(order)
        after.quantity = self._quantity(order, changes)
        if changes.price is not None:
            _check(changes.price, MAX_PRICE)
            if order.price is None:
                raise _bad("the order has no price: it trades at the market")
            if changes.price != order.price and (order.pending or order.reserved):
                raise _bad(
                    f"{self._text(order, order.pending + order.reserved)} are being settled with "
                    "another node at the price that the order has: try again"
                )
            after.price = changes.price
        if changes.stop is not None or changes.trailing_offset is not None:
            self._change_stop(order, after, changes)
        if changes.display_quantity is not None:
            _check(changes.display_quantity, MAX_QUANTITY)
            if order.hidden or is_immediate(order):
                raise _bad("the order is not on show")
            # All on show is no iceberg; one that has become small shows as much when it grows again.
            after.display_quantity = (
                changes.display_quantity if changes.display_quantity < after.quantity else 0
            )
        if after.display_quantity and after.display_quantity * MAX_SLICES < after.quantity:
            raise _bad(f"an iceberg has at most {MAX_SLICES} slices")
        if changes.expires is not None:
            if not self._context.us(now) < changes.expires < 2**62:
                raise _bad("an order that is good till a date needs one that is to come")
            if order.tif not in ("gtc", "gtd"):
                raise _bad("the order trades at once: it has no date")
            after.tif, after.expires = "gtd", changes.expires
        return after

    def _quantity(self, order: Order, changes: Amend) -> int:
        if changes.quantity is None and changes.change is None:
            return order.quantity
        if changes.quantity is not None and changes.change is not None:
            raise _bad("a quantity or the change of it, not both")
        quantity = changes.quantity
        if quantity is None:
            quantity = order.quantity + (changes.change or 0)
        _check(quantity, MAX_QUANTITY)
        settled = order.filled + order.pending + order.reserved
        if quantity < settled or quantity == order.filled:
            raise CommandRejected(
                "out_of_range",
                f"{self._text(order, settled)} of the order are filled or being settled: the quantity "
                "must be more, or cancel the order",
            )
        if quantity > order.quantity and order.reduce_only:
            room = self._reduce_only.room(order.account, order.market, order.side, order.number)
            own = order.left if order.account != HOUSE else 0  # a client's is held already
            quantity = max(order.quantity, min(quantity, settled + room + own))
        return quantity

    def _text(self, order: Order, lots: int) -> str:
        specs = self._context.specs
        units = specs.units[order.market]
        return specs.amount_text(units.base, lots * units.base_units)

    def _change_stop(self, order: Order, after: Order, changes: Amend) -> None:
        if not order.untriggered:
            raise _bad("the order waits for no trade (any more)")
        if order.kind != "trailing_stop":
            if changes.trailing_offset is not None:
                raise _bad("the order has a stop price, and no distance")
            after.stop = changes.stop or 0
            _check(after.stop, MAX_PRICE)
            return
        if changes.trailing_offset is None or changes.stop is not None:
            raise _bad("the stop of the order follows the market: change its distance")
        _check(changes.trailing_offset, MAX_PRICE)
        stop = self._store.triggers[order.market].stop_of(order.number)
        if stop is not None:
            after.stop = stop + order.side * (changes.trailing_offset - order.trailing_offset)
            check_trailing(after.stop)
        after.trailing_offset = changes.trailing_offset


def _figures(order: Order) -> tuple[int | str | None, ...]:
    """What can be amended, of which the stop of a trailing order follows the distance."""
    stop = order.trailing_offset or order.stop
    return order.price, order.quantity, order.display_quantity, order.tif, order.expires, stop


def _shows_more(before: Order, after: Order) -> bool:
    """Of an iceberg: whether more of it is to be on show than there was."""
    if after.display_quantity:
        return after.display_quantity > before.display_quantity
    return after.free > before.shown


def _check(number: int, limit: int) -> None:
    if not 0 < number < limit:
        raise CommandRejected(
            "out_of_range", "price and quantity must be positive and not absurdly large"
        )


def _bad(detail: str) -> CommandRejected:
    return CommandRejected("bad_order", detail)
