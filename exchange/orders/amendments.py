"""Amendments of open orders.

A change that only takes away (a smaller quantity) leaves an order its priority. Another price, a greater
quantity or a greater displayed quantity are treated like a new order: first it trades with its
counterparts, then it goes to the end of the queue. An order with a part that is being settled with
another node keeps its price until that is done.
"""

from __future__ import annotations

from copy import copy

from exchange.ledger.ledger import InsufficientBalance
from exchange.model.commands import HOUSE, Amend
from exchange.model.peer_values import MAX_PRICE, MAX_QUANTITY
from exchange.model.records import Order
from exchange.orders.conditional_orders import ConditionalOrders
from exchange.orders.engine_context import CommandRejected, EngineContext
from exchange.orders.order_store import OrderStore, is_immediate
from exchange.orders.order_validation import MAX_SLICES, OrderValidation, check_trailing
from exchange.orders.reduce_only import ReduceOnly


class Amendments:
    """Validation of amendments, and their application to the order."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        validation: OrderValidation,
        conditional: ConditionalOrders,
        reduce_only: ReduceOnly,
    ) -> None:
        self._context = context
        self._store = store
        self._validation = validation
        self._conditional = conditional
        self._reduce_only = reduce_only

    def amend(self, now: float, order: Order, changes: Amend) -> bool:
        """Amend an order.

        Returns:
            True when the order has lost its priority: match it before publishing it with `moved`.
            Otherwise it is published already.

            Raises:
                CommandRejected: nothing has changed.
        """
        market = self._context.markets[order.market]
        after = self._amended(now, order, changes)
        if order.account != HOUSE:
            self._validation.check_active(order.account)
        if market.halted:
            raise self._validation.halted(market)
        if after.price != order.price or after.quantity != order.quantity:
            stop = after.stop if after.untriggered else 0
            self._validation.check_rules(
                market, after.side, after.price, after.quantity, stop, after.worst_price
            )
        self._hold(now, order, after)
        loses_priority = (
            after.price != order.price
            or after.quantity > order.quantity
            or (order.display_quantity > 0 and _displays_more(order, after))
        )
        order.altered |= _amendable(order) != _amendable(after)
        order.price, order.quantity = after.price, after.quantity
        order.display_quantity = after.display_quantity
        order.tif, order.expires = after.tif, after.expires
        if order.expires:
            self._store.expiry.set(order.number, order.expires)
        if (order.stop, order.trailing_offset) != (after.stop, after.trailing_offset):
            order.stop, order.trailing_offset = after.stop, after.trailing_offset
            self._conditional.amend(order)
        if loses_priority and not order.untriggered:
            order.priority = self._store.new_time(now, market, order)
            return True
        self._store.publish(now, order)
        return False

    def _hold(self, now: float, order: Order, after: Order) -> None:
        """Hold the amount of the amended order, and count it against the rate."""
        try:
            self._store.hold(after)
        except InsufficientBalance as error:
            raise self._validation.insufficient(error) from error
        accounts = self._context.accounts
        if order.account != HOUSE and not accounts.allows_order(now, order.account):
            self._store.hold(order)
            raise CommandRejected(
                "rate_limited",
                "the account has reached its limit of orders per minute: try again in a moment",
            )

    # The amended order

    def _amended(self, now: float, order: Order, changes: Amend) -> Order:
        """Return the order with the changes.

        Raises:
            CommandRejected: a change that an order of its type cannot have.
        """
        if is_immediate(order) and not order.untriggered:
            raise _bad_order("the order trades at once: it cannot be amended")
        after = copy(order)
        after.quantity = self._quantity(order, changes)
        if changes.price is not None:
            after.price = self._price(order, changes.price)
        if changes.stop is not None or changes.trailing_offset is not None:
            self._change_stop(order, after, changes)
        if changes.display_quantity is not None:
            _check(changes.display_quantity, MAX_QUANTITY)
            if order.hidden or is_immediate(order):
                raise _bad_order("the order is not displayed: it has no displayed quantity")
            # An order displayed in full is no iceberg; an iceberg that is smaller than its displayed
            # quantity shows as much again when it grows.
            smaller = changes.display_quantity < after.quantity
            after.display_quantity = changes.display_quantity if smaller else 0
        if after.display_quantity and after.display_quantity * MAX_SLICES < after.quantity:
            raise _bad_order(f"an iceberg has at most {MAX_SLICES} slices")
        if changes.expires is not None:
            if not self._context.us(now) < changes.expires < 2**62:
                raise _bad_order("a good-till-date order needs an expiry time in the future")
            if order.tif not in ("gtc", "gtd"):
                raise _bad_order("the order trades at once: it has no expiry time")
            after.tif, after.expires = "gtd", changes.expires
        return after

    def _price(self, order: Order, price: int) -> int:
        _check(price, MAX_PRICE)
        if order.price is None:
            raise _bad_order("the order trades at the market: it has no price")
        if price != order.price and (order.pending or order.reserved):
            raise _bad_order(
                f"{self._text(order, order.pending + order.reserved)} are being settled with "
                f"another node at the present price of the order: try again in a moment"
            )
        return price

    def _quantity(self, order: Order, changes: Amend) -> int:
        if changes.quantity is None and changes.change is None:
            return order.quantity
        if changes.quantity is not None and changes.change is not None:
            raise _bad_order("give a quantity or a change of it, not both")
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
            held = order.left if order.account != HOUSE else 0  # not part of a client's room
            quantity = max(order.quantity, min(quantity, settled + room + held))
        return quantity

    def _text(self, order: Order, lots: int) -> str:
        specs = self._context.specs
        units = specs.units[order.market]
        return specs.amount_text(units.base, lots * units.base_units)

    def _change_stop(self, order: Order, after: Order, changes: Amend) -> None:
        if not order.untriggered or self._conditional.is_triggered(order):
            raise _bad_order("the order has no stop that could still be triggered")
        if order.kind != "trailing_stop":
            if changes.trailing_offset is not None:
                raise _bad_order("the order has a stop price and no trailing offset")
            after.stop = changes.stop or 0
            _check(after.stop, MAX_PRICE)
            return
        if changes.trailing_offset is None or changes.stop is not None:
            raise _bad_order("the stop of the order trails the market: change its trailing offset")
        _check(changes.trailing_offset, MAX_PRICE)
        stop = self._store.triggers[order.market].stop_of(order.number)
        if stop is not None:
            after.stop = stop + order.side * (changes.trailing_offset - order.trailing_offset)
            check_trailing(after.stop)
        after.trailing_offset = changes.trailing_offset


def _amendable(order: Order) -> tuple[int | str | None, ...]:
    """Return the amendable fields. The stop of a trailing order follows from its offset."""
    stop = order.trailing_offset or order.stop
    return order.price, order.quantity, order.display_quantity, order.tif, order.expires, stop


def _displays_more(before: Order, after: Order) -> bool:
    """Report if an iceberg displays more after an amendment."""
    if after.display_quantity:
        return after.display_quantity > before.display_quantity
    return after.free > before.shown


def _check(number: int, limit: int) -> None:
    if not 0 < number < limit:
        raise CommandRejected("out_of_range", f"expected a number from 1 to {limit - 1}")


def _bad_order(detail: str) -> CommandRejected:
    return CommandRejected("bad_order", detail)
