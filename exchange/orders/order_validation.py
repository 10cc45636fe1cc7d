"""Order validation: acceptance of a new order, and the records of the order or order pair.

Rules of this file:
- All checks precede the first change: a rejected order leaves no trace.
- The rate limit is last, because it counts the order.
"""

from __future__ import annotations

from typing import Final

from exchange.feeds.feed_limits import OWN_OPEN_ORDERS
from exchange.ledger.ledger import InsufficientBalance
from exchange.market.market import Market
from exchange.market.market_rules import RuleError
from exchange.model.commands import HOUSE, Kind, NewOrder, SelfTrade
from exchange.model.events import BUY, SELL
from exchange.model.peer_values import MAX_PRICE, MAX_QUANTITY
from exchange.model.records import Account, Order, Terms, default_self_trade
from exchange.orders.conditional_orders import ConditionalOrders
from exchange.orders.engine_context import CommandRejected, EngineContext
from exchange.orders.order_store import OrderStore
from exchange.orders.reduce_only import ReduceOnly

MAX_CLIENT_ID: Final = 64  # characters
MAX_SLICES: Final = 1000  # of an iceberg: each is a trade of its own for a taker of the whole order
MAX_GROUP: Final = 2**62  # fits the journal and signed 64 bits, with room
_MAX_TIME: Final = 2**62  # us
_NONE: Final[dict[int, Order]] = {}


class OrderValidation:
    """Checks of new orders against the account, the market, the position and the balance."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        reduce_only: ReduceOnly,
        conditional: ConditionalOrders,
    ) -> None:
        self._context = context
        self._store = store
        self._reduce_only = reduce_only
        self._conditional = conditional

    def earlier(self, new: NewOrder, client_id: str) -> Order | None:
        """Return the order that was placed with the same client id, if it is still in memory.

        Raises:
            CommandRejected: the earlier order is different.
        """
        order = self._store.by_client_id(client_id, new.account)
        if order is None:
            return None
        if not is_same(order, new, self._store.get(order.linked_order)):
            raise CommandRejected(
                "client_id_reused",
                f"client id {client_id!r} belongs to order {order.number}, which is different",
            )
        return order

    def accept(self, now: float, new: NewOrder) -> Order:
        """Validate a new order, and make the stop that `oco_stop` makes a pair with it.

        A plain limit order that meets no other is in the book and the feed then (`opened`). Any other plain order
        trades next, and `OrderStore.settle` adds it with what is left of it.

        Raises:
            CommandRejected: nothing has changed.
        """
        context, store = self._context, self._store
        market = context.markets.get(new.market)
        if market is None:
            raise CommandRejected("unknown_market", f"this node does not trade {new.market}")
        side, price, account = new.side, new.price, new.account
        if price is not None and len(market.writer.feed.state.orders) >= OWN_OPEN_ORDERS:
            raise _too_many(new.market)
        special = self._check_values(now, new)
        quantity, stop = new.quantity, 0
        if account != HOUSE:
            client = self.check_active(account)
            has = store.by_account.get(account, _NONE)
            if len(has) >= client.max_open_orders - (new.oco_stop is not None):
                raise _too_many_of_account(len(has), 1 if new.oco_stop is None else 2)
        if market.halted:
            raise self.halted(market)
        if special:
            if new.reduce_only:
                quantity = self._reduced(new)
            stop = self._stop(market, new)
        worst_price = self._worst_price(market, new) if price is None else 0
        self.check_rules(market, side, price, quantity, stop, worst_price)
        time = context.epoch_us + int(now * 1_000_000)
        if time <= market.last_time:
            time = market.last_time + 1
        market.last_time = time
        rests = price is not None and not special and not market.meets(side, price)
        order = Order(
            store.next_number,
            market.key,
            side,
            price,
            quantity,
            time,
            new.client_id,
            account,
            new.group,
            worst_price,
            rests,
            quantity if rests else 0,
            updated=time,
        )
        linked = None
        if special:
            order.terms = _terms(new, quantity, stop)
            if new.oco_stop is not None:
                linked = _linked_stop(order, new.oco_stop)
        if account != HOUSE:
            self._hold(now, order, linked)
        store.next_number = order.number + 1
        if rests:
            store.add(order)
            market.open(order.number, side, price or 0, quantity, time)
        elif special:
            self._add_special(order, linked)
        return order

    def _add_special(self, order: Order, linked: Order | None) -> None:
        self._store.add(order)
        if order.untriggered:
            self._conditional.add(order)
        if linked is not None:
            self._store.next_number += 1
            self._store.add(linked)
            self._conditional.add(linked)

    # Checks, also of amendments

    def halted(self, market: Market) -> CommandRejected:
        """Return the rejection of an order for a halted market."""
        try:
            self._context.halts.check(market.key)
        except RuleError as error:
            return CommandRejected(error.code, error.detail)
        return CommandRejected("halted", f"{market.key} is halted")

    def check_active(self, number: int) -> Account:
        """Return an account that may trade.

        Raises:
            CommandRejected: unknown_account, account_frozen.
        """
        account = self._context.accounts.by_number.get(number)
        if account is None:
            raise CommandRejected("unknown_account", f"there is no account {number}")
        if account.frozen:
            raise CommandRejected(
                "account_frozen",
                f"account {account.name} is frozen: it can read and cancel, not trade",
            )
        return account

    def check_rules(
        self,
        market: Market,
        side: int,
        price: int | None,
        quantity: int,
        stop: int,
        worst_price: int,
    ) -> None:
        """Check an order with these figures against the market's rules; `stop`, `worst_price` 0: none.

        Raises:
            CommandRejected: the code of the broken rule.
        """
        rules = market.rules
        if rules is None:
            return
        reference: int | None = None
        if rules.band is not None or price is None:
            reference = stop if stop > 0 else market.reference(price or worst_price or None)
        try:
            rules.check(side, price, quantity, reference, worst_price or None)
        except RuleError as error:
            raise CommandRejected(error.code, error.detail) from error

    def insufficient(self, error: InsufficientBalance) -> CommandRejected:
        """Return the rejection of an order that the balance does not cover."""
        text = self._context.specs.amount_text
        return CommandRejected(
            "insufficient_balance",
            f"{text(error.asset, error.needed)} needed and {text(error.asset, error.available)} "
            "available",
        )

    # Figures of the order

    def _check_values(self, now: float, new: NewOrder) -> bool:
        """Check the command alone. Returns True if the order has terms that few orders have."""
        side, price, group, client_id = new.side, new.price, new.group, new.client_id
        if side != BUY and side != SELL:
            raise CommandRejected("bad_side", f"invalid side {side}: expected 1 (buy) or -1 (sell)")
        if (
            not 0 < new.quantity < MAX_QUANTITY
            or (price is not None and not 0 < price < MAX_PRICE)
            or (group and not -MAX_GROUP < group < MAX_GROUP)
        ):
            raise _out_of_range()
        if client_id is not None and not 0 < len(client_id) <= MAX_CLIENT_ID:
            raise CommandRejected("bad_order", f"a client id has 1 to {MAX_CLIENT_ID} characters")
        if not (
            new.tif != "gtc"
            or new.stop is not None
            or new.trailing_offset is not None
            or new.oco_stop is not None
            or new.worst_price is not None
            or new.display_quantity is not None
            or new.self_trade is not None
            or new.expires is not None
            or new.post_only
            or new.hidden
            or new.reduce_only
        ):
            return False
        _check_combination(new, self._context.us(now))
        return True

    def _hold(self, now: float, order: Order, linked: Order | None) -> None:
        """Hold the amount that the order, or the pair, may cost, and count it against the rate."""
        context, number, account = self._context, order.number, order.account
        asset, amount = context.specs.required(order)
        if linked is not None:
            amount = max(amount, context.specs.required(linked)[1])
        try:
            context.ledger.hold(number, account, asset, amount)
        except InsufficientBalance as error:
            raise self.insufficient(error) from error
        if not context.accounts.allows_order(now, account):
            context.ledger.release(number, account, asset)
            raise CommandRejected(
                "rate_limited",
                "the account has reached its limit of orders per minute: try again in a moment",
            )

    def _reduced(self, new: NewOrder) -> int:
        room = self._reduce_only.room(new.account, new.market, new.side)
        if not room:
            raise CommandRejected(
                "reduce_only", "there is no position that this order could reduce"
            )
        return min(new.quantity, room)

    def _stop(self, market: Market, new: NewOrder) -> int:
        """Return the first stop of a conditional order; 0: none, or known after the first trade."""
        if new.stop is not None:
            return new.stop
        if new.trailing_offset is None:
            return 0
        if market.tape:
            stop = market.tape[-1].event.price + new.side * new.trailing_offset
            check_trailing(stop)
            return stop
        if new.account != HOUSE and new.side == BUY:
            raise CommandRejected(
                "bad_order",
                "the market has no trade yet that the stop could trail: add `stop`, its first price",
            )
        return 0

    def _worst_price(self, market: Market, new: NewOrder) -> int:
        """Return the worst price of a new market order; 0: any."""
        if new.worst_price is not None:
            return new.worst_price
        if new.stop is not None or new.trailing_offset is not None:
            return 0  # set when the order is triggered
        if new.account == HOUSE and market.rules is None:
            return 0
        best = market.best_counterprice(new.side)
        if best is None:
            return 0  # nothing to trade with
        specs = self._context.specs
        return specs.protection_price(market.key, new.side, best, market.taking_reference(best))


def _terms(new: NewOrder, quantity: int, stop: int) -> Terms:
    """Return the terms of an order of `quantity` that few orders have."""
    display_quantity = new.display_quantity or 0
    return Terms(
        kind=kind_of(new),
        self_trade=_self_trade(new),
        tif=new.tif,
        expires=new.expires or 0,
        post_only=new.post_only,
        hidden=new.hidden,
        display_quantity=display_quantity if display_quantity < quantity else 0,
        reduce_only=new.reduce_only,
        stop=stop,
        trailing_offset=new.trailing_offset or 0,
        untriggered=new.stop is not None or new.trailing_offset is not None,
        altered=quantity != new.quantity,
    )


def _linked_stop(order: Order, stop: int) -> Order:
    """Return the stop of a pair, and link both orders."""
    order.linked_order = order.number + 1
    return Order(
        number=order.linked_order,
        market=order.market,
        side=order.side,
        price=None,
        quantity=order.quantity,
        time=order.time,
        account=order.account,
        group=order.group,
        updated=order.time,
        terms=Terms(
            kind="stop",
            self_trade=order.self_trade,
            tif=order.tif,
            expires=order.expires,
            reduce_only=order.reduce_only,
            stop=stop,
            untriggered=True,
            linked_order=order.number,
        ),
    )


def check_trailing(stop: int) -> None:
    """Check that a trade can reach a trailing stop: no price is zero or less.

    Raises:
        CommandRejected: out_of_range.
    """
    if stop <= 0:
        raise CommandRejected(
            "out_of_range", "the trailing offset must be less than the price that it starts from"
        )


# Repeated orders


def is_same(order: Order, new: NewOrder, linked: Order | None) -> bool:
    """Report if `order` may be the result of `new`, which was sent again. `linked`: the other order of
    its pair, if known.

    Amendable fields are not compared after an amendment. Neither are dates, since "in an hour" is
    another date each time, nor the worst price of a market order that the market's protection has set.
    """
    if not _same_terms(order, new) or not _same_pair(order, new, linked):
        return False
    if order.altered:
        return True
    display_quantity = new.display_quantity or 0
    trails = order.trailing_offset > 0  # its stop moves
    return (
        (order.price, order.quantity, order.tif) == (new.price, new.quantity, new.tif)
        and order.display_quantity == (display_quantity if display_quantity < new.quantity else 0)
        and order.trailing_offset == (new.trailing_offset or 0)
        and (trails or order.stop == (new.stop or 0))
    )


def _same_terms(order: Order, new: NewOrder) -> bool:
    """Compare the fields that never change."""
    return (
        (order.market, order.side, order.kind) == (new.market, new.side, kind_of(new))
        and (order.post_only, order.hidden) == (new.post_only, new.hidden)
        and (order.reduce_only, order.group) == (new.reduce_only, new.group)
        and order.self_trade == _self_trade(new)
        and (new.worst_price is None or order.worst_price == new.worst_price)
    )


def _same_pair(order: Order, new: NewOrder, linked: Order | None) -> bool:
    pair = new.oco_stop is not None
    if (order.linked_order != 0) != pair:
        return False
    return not pair or linked is None or linked.stop == new.oco_stop or linked.altered


def _self_trade(new: NewOrder) -> SelfTrade:
    return new.self_trade or default_self_trade(new.account)


def kind_of(new: NewOrder) -> Kind:
    """Return the order type that the given prices make."""
    if new.trailing_offset is not None:
        return "trailing_stop"
    if new.stop is not None:
        return "stop" if new.price is None else "stop_limit"
    return "limit" if new.price is not None else "market"


# Checks of the command alone


def _too_many(market: str) -> CommandRejected:
    """Return the rejection at a limit below the one at which every replica gives the feed up."""
    return CommandRejected(
        "too_many_orders",
        f"this node has {OWN_OPEN_ORDERS} open orders in {market}, the most that it "
        "accepts: cancel some of them",
    )


def _too_many_of_account(has: int, more: int) -> CommandRejected:
    return CommandRejected(
        "too_many_orders",
        f"the account has {has} open orders and may not have {more} more: cancel some",
    )


def _check_combination(new: NewOrder, now_us: int) -> None:
    """Check the terms that few orders have, and reject those that exclude each other."""
    for price in (new.stop, new.trailing_offset, new.oco_stop, new.worst_price):
        if price is not None and not 0 < price < MAX_PRICE:
            raise _out_of_range()
    if new.display_quantity is not None and not 0 < new.display_quantity < MAX_QUANTITY:
        raise _out_of_range()
    conditional = new.stop is not None or new.trailing_offset is not None
    immediate = new.price is None or new.tif in ("ioc", "fok")
    _check_expiry(new, now_us, conditional=conditional)
    if new.worst_price is not None and new.price is not None:
        raise _bad_order("a limit order has a price: a worst price is for market orders")
    if new.trailing_offset is not None and new.price is not None:
        raise _bad_order("a trailing stop trades at the market: it has no price")
    _check_display(new, immediate=immediate)
    if new.oco_stop is not None:
        if new.price is None or immediate or conditional:
            raise _bad_order("a pair is a limit order for the book and a stop")
        if new.side * new.oco_stop <= new.side * new.price:
            where = "above" if new.side == BUY else "below"
            raise _bad_order(f"the stop of such a pair is {where} its limit price")


def _check_expiry(new: NewOrder, now_us: int, *, conditional: bool) -> None:
    if new.tif == "gtd":
        if new.expires is None or not now_us < new.expires < _MAX_TIME:
            raise _bad_order("a good-till-date order needs an expiry time in the future")
        if new.price is None and not conditional:
            raise _bad_order("a market order trades at once: it has no expiry time")
    elif new.expires is not None:
        raise _bad_order("only a good-till-date order (gtd) has an expiry time")


def _check_display(new: NewOrder, *, immediate: bool) -> None:
    iceberg = new.display_quantity is not None
    if immediate and (new.post_only or new.hidden or iceberg):
        raise _bad_order(
            "an order that trades at once is never in the book: not post-only, hidden or iceberg"
        )
    if new.hidden and new.post_only:
        raise _bad_order("a hidden order takes from all others: it cannot be post-only")
    if new.display_quantity is not None and new.display_quantity * MAX_SLICES < new.quantity:
        raise _bad_order(f"an iceberg has at most {MAX_SLICES} slices")
    if new.hidden and iceberg:
        raise _bad_order("an order is hidden or an iceberg, not both")


def _bad_order(detail: str) -> CommandRejected:
    return CommandRejected("bad_order", detail)


def _out_of_range() -> CommandRejected:
    return CommandRejected(
        "out_of_range",
        f"price and quantity must be positive, below {MAX_PRICE} ticks and {MAX_QUANTITY} lots",
    )
