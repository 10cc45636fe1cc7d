"""Whether a new order is accepted, and the order (or pair) that comes of it.

Everything is checked before anything is changed: a refused order leaves no trace.
"""

from __future__ import annotations

from exchange.ledger.ledger import InsufficientBalance
from exchange.market.market import Market
from exchange.market.market_rules import RuleError
from exchange.model.commands import HOUSE, Kind, NewOrder, SelfTrade
from exchange.model.events import BUY, MAX_PRICE, MAX_QUANTITY, SELL
from exchange.model.records import Order
from exchange.orders.conditional_orders import ConditionalOrders
from exchange.orders.engine_context import CommandRejected, EngineContext
from exchange.orders.order_store import OrderStore
from exchange.orders.reduce_only import ReduceOnly

MAX_CLIENT_ID = 64  # characters
MAX_SLICES = (
    1000  # of an iceberg: each is matched by itself, so one taker can make for as many trades
)
_MAX_TIME = 2**62  # us
MAX_GROUP = 2**62  # what a journal and anybody's signed 64 bits hold, with room


class OrderValidation:
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
        """The order that was placed with the same client id, if it is still in memory.

        Raises:
            CommandRejected: it is another order.
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

    def accept(self, now: float, new: NewOrder) -> list[Order]:
        """The new order, and the stop that makes a pair with it (`oco_stop`); both are added.

        Raises:
            CommandRejected: nothing was changed.
        """
        context = self._context
        market = context.markets.get(new.market)
        if market is None:
            raise CommandRejected("unknown_market", f"this node does not trade {new.market}")
        if new.side != BUY and new.side != SELL:
            raise CommandRejected("bad_side", "side is buy or sell")
        _check_numbers(new)
        _check_combination(new, context.us(now))
        if new.account != HOUSE:
            self._check_account(new.account, 1 if new.oco_stop is None else 2)
        if market.halted:
            raise self.halted(market)
        quantity = self._reduced(new) if new.reduce_only else new.quantity
        stop = self._stop(market, new)
        worst_price = self.worst_price(market, new)
        self.check_rules(market, new.side, new.price, quantity, stop, worst_price)
        orders = [self._order(now, market, new, quantity, stop, worst_price)]
        if new.oco_stop is not None:
            orders.append(self._other(orders[0], new.oco_stop))
        if new.account != HOUSE:
            self._hold(now, orders)
        for each in orders:
            self._store.add(each)
            if each.untriggered:
                self._conditional.arm(each)
        return orders

    # Checks, also of changes

    def halted(self, market: Market) -> CommandRejected:
        """What is said of a market that is halted."""
        try:
            self._context.halts.check(market.key)
        except RuleError as error:
            return CommandRejected(error.code, error.detail)
        return CommandRejected("halted", f"{market.key} is halted")

    def check_active(self, number: int) -> None:
        """Whether an account may trade.

        Raises:
            CommandRejected: unknown_account, account_frozen.
        """
        account = self._context.accounts.get(number)
        if account is None:
            raise CommandRejected("unknown_account", f"there is no account {number}")
        if account.frozen:
            raise CommandRejected(
                "account_frozen", f"account {account.name} is frozen: it can look and cancel only"
            )

    def check_rules(
        self,
        market: Market,
        side: int,
        price: int | None,
        quantity: int,
        stop: int,
        worst_price: int,
    ) -> None:
        """The market's rules for an order with these figures; `stop` and `worst_price` 0: none.

        Raises:
            CommandRejected: they do not allow it.
        """
        rules = market.rules
        if rules is None:
            return
        reference = stop if stop > 0 else market.reference
        try:
            rules.check(side, price, quantity, reference, worst_price or None)
        except RuleError as error:
            raise CommandRejected(error.code, error.detail) from error

    def insufficient(self, error: InsufficientBalance) -> CommandRejected:
        text = self._context.specs.amount_text
        return CommandRejected(
            "insufficient_balance",
            f"{text(error.asset, error.needed)} needed and {text(error.asset, error.available)} "
            "available",
        )

    def _check_account(self, account: int, count: int) -> None:
        self.check_active(account)
        has = len(self._store.of_account(account))
        if not self._context.accounts.allows_open(account, has + count - 1):
            raise CommandRejected(
                "too_many_orders",
                f"the account has {has} open orders and may not have {count} more",
            )

    # Figures

    def _reduced(self, new: NewOrder) -> int:
        room = self._reduce_only.room(new.account, new.market, new.side)
        if not room:
            raise CommandRejected(
                "reduce_only", "there is no position that this order could reduce"
            )
        return min(new.quantity, room)

    def _stop(self, market: Market, new: NewOrder) -> int:
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
                "there was no trade yet that the stop could trail: say where it begins with `stop`",
            )
        return 0

    def worst_price(self, market: Market, new: NewOrder) -> int:
        """Of a new market order: the worst price; 0: any."""
        if new.price is not None:
            return 0
        if new.worst_price is not None:
            return new.worst_price
        if new.stop is not None or new.trailing_offset is not None:
            return 0  # known when it enters
        specs = self._context.specs
        if new.account == HOUSE and market.rules is None:
            return 0
        side = new.side
        bests = [b for b in (market.book.best(-side), market.hidden.best(-side)) if b is not None]
        if not bests:
            return 0  # there is nothing to trade with
        best = min(bests) if side == BUY else max(bests)
        return specs.protection_price(market.key, side, best, market.reference)

    def _order(
        self, now: float, market: Market, new: NewOrder, quantity: int, stop: int, worst_price: int
    ) -> Order:
        display_quantity = new.display_quantity or 0
        return Order(
            self._store.next_number,
            market.key,
            new.side,
            new.price,
            quantity,
            self._store.new_time(now, market),
            new.client_id,
            account=new.account,
            kind=kind_of(new),
            tif=new.tif,
            expires=new.expires or 0,
            post_only=new.post_only,
            hidden=new.hidden,
            display_quantity=display_quantity if display_quantity < quantity else 0,
            reduce_only=new.reduce_only,
            stop=stop,
            trailing_offset=new.trailing_offset or 0,
            untriggered=new.stop is not None or new.trailing_offset is not None,
            group=new.group,
            self_trade=_self_trade(new),
            worst_price=worst_price,
            altered=quantity != new.quantity,
        )

    @staticmethod
    def _other(order: Order, stop: int) -> Order:
        """The stop of a pair."""
        order.linked_order = order.number + 1
        return Order(
            order.linked_order,
            order.market,
            order.side,
            None,
            order.quantity,
            order.time,
            account=order.account,
            kind="stop",
            tif=order.tif,
            expires=order.expires,
            reduce_only=order.reduce_only,
            stop=stop,
            untriggered=True,
            linked_order=order.number,
            group=order.group,
            self_trade=order.self_trade,
        )

    def _hold(self, now: float, orders: list[Order]) -> None:
        """Hold what the order, or the pair, may cost, and count it. This comes last, for it changes
        something."""
        order = orders[0]
        context = self._context
        asset = context.specs.asset_spent(order)
        amount = max(context.specs.amount_required(each) for each in orders)
        try:
            context.ledger.hold(order.number, order.account, asset, amount)
        except InsufficientBalance as error:
            raise self.insufficient(error) from error
        if not context.accounts.allows_order(now, order.account):
            context.ledger.hold(order.number, order.account, asset, 0)
            raise CommandRejected(
                "rate_limited",
                "the account places more orders a minute than it may: wait a little",
            )


def check_trailing(stop: int) -> None:
    """Whether a trailing stop may begin there: no trade is ever at zero or below."""
    if stop <= 0:
        raise CommandRejected(
            "out_of_range", "the distance is no less than the price that it is from"
        )


def is_same(order: Order, new: NewOrder, linked: Order | None) -> bool:
    """Whether `order` can be what became of `new`, which came a second time. `linked`: the other one of
    its pair, as far as it is known.

    What can be amended is not compared once it was. Nor is a date, for "in an hour" is another one each
    time, and of a market order the worst price when the market's protection has set it.
    """
    pair = new.oco_stop is not None
    if (
        (order.market, order.side, order.kind) != (new.market, new.side, kind_of(new))
        or (order.post_only, order.hidden) != (new.post_only, new.hidden)
        or (order.reduce_only, order.group) != (new.reduce_only, new.group)
        or order.self_trade != _self_trade(new)
        or (new.worst_price is not None and order.worst_price != new.worst_price)
        or (order.linked_order != 0) != pair
        or (pair and linked is not None and linked.stop != new.oco_stop and not linked.altered)
    ):
        return False
    if order.altered:
        return True
    display_quantity = new.display_quantity or 0
    followed = order.trailing_offset > 0  # its stop is not where it was
    return (
        (order.price, order.quantity, order.tif) == (new.price, new.quantity, new.tif)
        and order.display_quantity == (display_quantity if display_quantity < new.quantity else 0)
        and order.trailing_offset == (new.trailing_offset or 0)
        and (followed or order.stop == (new.stop or 0))
    )


def _self_trade(new: NewOrder) -> SelfTrade:
    return new.self_trade or ("none" if new.account == HOUSE else "cancel_newest")


def kind_of(new: NewOrder) -> Kind:
    if new.trailing_offset is not None:
        return "trailing_stop"
    if new.stop is not None:
        return "stop" if new.price is None else "stop_limit"
    return "limit" if new.price is not None else "market"


def _check_numbers(new: NewOrder) -> None:
    price = new.price
    if not 0 < new.quantity < MAX_QUANTITY or (price is not None and not 0 < price < MAX_PRICE):
        raise _out_of_range()
    if not -MAX_GROUP < new.group < MAX_GROUP:
        raise _out_of_range()
    if new.client_id is not None and not 0 < len(new.client_id) <= MAX_CLIENT_ID:
        raise CommandRejected("bad_order", f"a client id has 1 to {MAX_CLIENT_ID} characters")


def _check_combination(new: NewOrder, now_us: int) -> None:
    """Refuse what is out of range or contradicts itself."""
    for price in (new.stop, new.trailing_offset, new.oco_stop, new.worst_price):
        if price is not None and not 0 < price < MAX_PRICE:
            raise _out_of_range()
    if new.display_quantity is not None and not 0 < new.display_quantity < MAX_QUANTITY:
        raise _out_of_range()
    conditional = new.stop is not None or new.trailing_offset is not None
    immediate = new.price is None or new.tif in ("ioc", "fok")
    if new.tif == "gtd":
        if new.expires is None or not now_us < new.expires < _MAX_TIME:
            raise _bad("an order that is good till a date needs one that is to come")
        if new.price is None and not conditional:
            raise _bad("a market order trades at once: it has no date")
    elif new.expires is not None:
        raise _bad("only an order that is good till a date has one")
    if new.worst_price is not None and new.price is not None:
        raise _bad("a limit order has a price: a worst price is for market orders")
    if new.trailing_offset is not None and new.price is not None:
        raise _bad("a trailing stop trades at the market: it has no price")
    if immediate and (new.post_only or new.hidden or new.display_quantity is not None):
        raise _bad(
            "an order that trades at once is never in the book: not post-only, hidden, iceberg"
        )
    if new.hidden and new.post_only:
        raise _bad("a hidden order takes whatever comes: it cannot be post-only")
    if new.display_quantity is not None and new.display_quantity * MAX_SLICES < new.quantity:
        raise _bad(f"an iceberg has at most {MAX_SLICES} slices")
    if new.hidden and new.display_quantity is not None:
        raise _bad("an order is hidden or an iceberg, not both")
    if new.oco_stop is not None:
        if new.price is None or immediate or conditional:
            raise _bad("a pair is a limit order for the book and a stop")
        if new.side * new.oco_stop <= new.side * new.price:
            where = "above" if new.side == BUY else "below"
            raise _bad(f"the stop of such a pair is {where} its limit price")


def _bad(detail: str) -> CommandRejected:
    return CommandRejected("bad_order", detail)


def _out_of_range() -> CommandRejected:
    return CommandRejected(
        "out_of_range", "price and quantity must be positive and not absurdly large"
    )
