"""A slow, obvious order manager of one node: every order type, with money, to compare `exchange.engine.engine` with.

One list of orders that is looked through and sorted whenever something is wanted of it, amounts as
decimals of their asset, holds added up from the orders each time. Nothing is kept that can be worked
out.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from math import ceil, floor

from msgspec.structs import replace

from exchange.model.commands import HOUSE, Amend, NewOrder, Selection
from exchange.model.instruments import Instrument

UNIT = Decimal(1).scaleb(-8)
FOLLOW_US = 2_000_000  # trailing stops are written down no more often


class Objection(Exception):
    """A command is not carried out, for any of these codes."""

    def __init__(self, *codes: str) -> None:
        super().__init__(", ".join(codes))
        self.codes = set(codes)


@dataclass
class RefOrder:
    number: int
    new: NewOrder
    side: int
    price: int | None
    quantity: int
    place: int = 0  # in the queue: smaller is earlier
    resting: bool = False
    stop: int = 0  # of a trailing one: as it was last written down
    trailing_offset: int = 0
    extreme: int | None = None  # of a trailing stop: the best price since it was placed
    untriggered: bool = False
    filled: int = 0
    slice: int = 0  # iceberg: what is left of the part on show
    display_quantity: int = 0
    expires: int = 0
    worst_price: int = 0
    linked: RefOrder | None = None
    reason: str = ""  # "" while it is open
    self_trade: str = "none"
    altered: bool = False  # something that can be amended was changed

    @property
    def account(self) -> int:
        return self.new.account

    @property
    def left(self) -> int:
        return 0 if self.reason else self.quantity - self.filled

    @property
    def limit(self) -> int | None:
        return self.price or self.worst_price or None

    @property
    def at_once(self) -> bool:
        return self.price is None or self.new.tif in ("ioc", "fok")

    @property
    def rests(self) -> bool:
        return self.resting and bool(self.left)

    @property
    def on_offer(self) -> int:
        """Quantity that the next taker can have of it."""
        return self.slice if self.display_quantity else self.left

    @property
    def shown(self) -> int:
        return self.on_offer if self.rests and not self.new.hidden else 0

    @property
    def rank(self) -> tuple[int, bool, int]:
        """Among the orders of its side, what is met first is smallest."""
        return -self.side * (self.price or 0), self.new.hidden, self.place

    def reached(self, price: int) -> bool:
        stop = self.stop
        if self.trailing_offset:
            if self.extreme is None:
                return False
            stop = self.extreme + self.side * self.trailing_offset
        return self.side * price >= self.side * stop


@dataclass(frozen=True)
class RefFill:
    taker: int
    maker: int
    price: int
    quantity: int
    taker_fee: Decimal
    maker_fee: Decimal

    @property
    def halves(self) -> list[tuple[int, int, int, Decimal]]:
        """(order, price, quantity, fee), the maker's first."""
        return [
            (self.maker, self.price, self.quantity, self.maker_fee),
            (self.taker, self.price, self.quantity, self.taker_fee),
        ]


@dataclass
class ReferenceOrderManager:
    """`now` is microseconds since the epoch."""

    market: Instrument
    max_open: int = 1000  # orders of an account
    orders: list[RefOrder] = field(default_factory=list)
    fills: list[RefFill] = field(default_factory=list)
    money: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    halted: bool = False
    places: int = 0
    untold: list[int] = field(default_factory=list)  # prices of trades that triggered nothing yet
    traded: bool = False  # since trailing stops were written down
    written: int = 0  # when that was

    # Money

    def add_money(self, account: int, asset: str, amount: Decimal) -> None:
        self.money[account, asset] = self.total(account, asset) + amount

    def total(self, account: int, asset: str) -> Decimal:
        return self.money.get((account, asset), Decimal(0))

    def need(self, order: RefOrder) -> tuple[str, Decimal]:
        """The asset that an order gives, and how much of it at most."""
        if order.side < 0:
            return self.market.base, order.left * self.market.lot
        price = order.limit
        if price is None:
            price = self._beyond(order.stop, 1, None) if order.stop > 0 else 0
        return self.market.quote, self.market.notional(price, order.left)

    def held(self, account: int, asset: str) -> Decimal:
        """Of a pair only the greater need counts."""
        total = Decimal(0)
        for order in self.orders:
            if account == HOUSE or order.account != account or not order.left:
                continue
            its_asset, amount = self.need(order)
            if its_asset != asset:
                continue
            if order.linked is not None and order.linked.left:
                other = self.need(order.linked)[1]
                if (other, order.number) > (amount, order.linked.number):
                    continue
            total += amount
        return total

    def covered(self, account: int) -> bool:
        """True if its holds are within its balances."""
        return account == HOUSE or all(
            self.held(account, asset) <= self.total(account, asset)
            for asset in (self.market.base, self.market.quote)
        )

    def room(self, order: RefOrder) -> int:
        """Number of lots that a reduce-only order may trade."""
        if order.account != HOUSE:
            base = self.total(order.account, self.market.base)
            free = base - self.held(order.account, self.market.base)
            return 0 if order.side > 0 else int(free / self.market.lot)
        position = -order.side * self.total(HOUSE, self.market.base)
        return max(int(position / self.market.lot), 0)

    # Looking

    @property
    def last(self) -> int | None:
        return self.fills[-1].price if self.fills else None

    def find(self, number: int) -> RefOrder | None:
        return next((order for order in self.orders if order.number == number), None)

    def met_by(self, taker: RefOrder) -> list[RefOrder]:
        """Resting orders that a taker meets, in that order."""
        limit = taker.limit
        return sorted(
            (
                order
                for order in self.orders
                if order.side == -taker.side
                and order.rests
                and (limit is None or taker.side * (order.price or 0) <= taker.side * limit)
            ),
            key=lambda order: order.rank,
        )

    def best(self, side: int, *, hidden: bool = False) -> int | None:
        resting = [order for order in self.orders if order.side == side and order.rests]
        prices = [order.price or 0 for order in resting if hidden or not order.new.hidden]
        return None if not prices else max(prices) if side > 0 else min(prices)

    def book(self) -> list[tuple[int, int, int, int]]:
        """(side, price, number, quantity on show), bids first, best first, in priority order."""
        return [
            (side, order.price or 0, order.number, order.shown)
            for side in (1, -1)
            for order in sorted(self.orders, key=lambda order: order.rank)
            if order.side == side and order.shown
        ]

    def reference(self) -> tuple[int, int] | None:
        """Least and greatest reference price."""
        bid, ask = self.best(1), self.best(-1)
        if bid is not None and ask is not None:
            if self.last is None:
                return bid, ask
            bounded = sorted((bid, self.last, ask))[1]
            return bounded, bounded
        if self.last is None:
            return None
        side = next((price for price in (bid, ask) if price is not None), self.last)
        return min(self.last, side), max(self.last, side)

    def near(self, price: int | None, reference: tuple[int, int] | None) -> int | None:
        if reference is None:
            return None
        price = self.last if price is None else price
        return sum(reference) // 2 if price is None else sorted((price, *reference))[1]

    # Commands

    def place(self, now: int, new: NewOrder) -> list[RefOrder]:
        for order in self.orders:
            if new.client_id and (new.account, new.client_id) == (
                order.account,
                order.new.client_id,
            ):
                if not self._same(order, new):
                    raise Objection("client_id_reused")
                return [order] if order.linked is None else [order, order.linked]
        placed = [self._made(new, len(self.orders) + 1)]
        if new.oco_stop is not None:
            only_stop = replace(
                new,
                price=None,
                stop=new.oco_stop,
                oco_stop=None,
                client_id=None,
                hidden=False,
                post_only=False,
                display_quantity=None,
            )
            placed.append(self._made(only_stop, len(self.orders) + 2))
            placed[0].linked, placed[1].linked = placed[1], placed[0]
        self._object(new, placed)
        self.orders += placed
        if not placed[0].untriggered:
            placed[0].place = self._last_place()
            self._start(placed[0])
        if placed[0].reason and len(placed) == 2 and placed[1].left:
            placed[1].reason = placed[0].reason
        self._go_on()
        return placed

    def amend(self, now: int, number: int, changes: Amend) -> RefOrder:
        order = self._open(number)
        before, reference = copy(order), self.reference()
        codes = {"halted"} if self.halted else set()
        if changes.quantity is not None or changes.change is not None:
            room = self.room(order) + (order.left if order.account != HOUSE else 0)
            order.quantity = changes.quantity or order.quantity + (changes.change or 0)
            if order.quantity <= order.filled:
                codes.add("out_of_range")
            if order.new.reduce_only and order.quantity > before.quantity:
                order.quantity = max(before.quantity, min(order.quantity, order.filled + room))
        if changes.price is not None:
            order.price = changes.price
            codes |= {"bad_order"} if before.price is None else set()
        if changes.stop is not None:
            order.stop = changes.stop
            codes |= {"bad_order"} if not order.untriggered or order.trailing_offset else set()
        if changes.trailing_offset is not None:
            order.trailing_offset = changes.trailing_offset
            codes |= {"bad_order"} if not order.untriggered or not before.trailing_offset else set()
            if order.extreme is not None:
                order.stop = order.extreme + order.side * order.trailing_offset
        if changes.display_quantity is not None:
            order.display_quantity = changes.display_quantity
            codes |= {"bad_order"} if order.new.hidden or order.at_once else set()
            order.display_quantity = (
                order.display_quantity if order.display_quantity < order.quantity else 0
            )
        if changes.expires is not None:
            order.expires = changes.expires
            codes |= {"bad_order"} if changes.expires <= now else set()
            codes |= {"bad_order"} if order.new.tif not in ("gtc", "gtd") else set()
        if (order.price, order.quantity, order.stop) != (
            before.price,
            before.quantity,
            before.stop,
        ):
            waits = order.untriggered and order.stop > 0
            codes |= self._against_rules(order, (order.stop,) * 2 if waits else reference)
        if not codes and not self.covered(order.account):
            codes.add("insufficient_balance")
        if codes:
            vars(order).update(vars(before))
            raise Objection(*codes)
        for name in ("price", "quantity", "display_quantity", "expires", "trailing_offset"):
            order.altered |= getattr(order, name) != getattr(before, name)
        order.altered |= not order.trailing_offset and order.stop != before.stop
        order.slice = min(order.slice or order.left, order.display_quantity, order.left)
        more_shown = before.display_quantity and (
            order.display_quantity > before.display_quantity
            or (not order.display_quantity and order.left > before.slice)
        )
        if not order.untriggered and (
            order.price != before.price or order.quantity > before.quantity or more_shown
        ):
            order.resting = False
            order.place = self._last_place()
            self._start(order)
        self._go_on()
        return order

    def cancel(self, number: int) -> RefOrder:
        order = self._open(number)
        order.reason = "cancelled"
        return order

    def cancel_many(self, which: Selection) -> list[RefOrder]:
        found = [
            order
            for order in self.orders
            if order.left
            and order.account == which.account
            and (which.numbers is None or order.number in which.numbers)
            and (which.client_ids is None or order.new.client_id in which.client_ids)
            and (which.groups is None or order.new.group in which.groups)
            and which.market in (None, order.new.market)
            and which.side in (None, order.side)
        ]
        for order in found:
            order.reason = "cancelled"
        return found

    def tick(self, now: int) -> None:
        for order in self.orders:
            if order.left and 0 < order.expires <= now:
                order.reason = "expired"
        if not self.traded or now < self.written + FOLLOW_US:
            return
        self.traded, self.written = False, now
        for order in self.orders:
            if (
                order.untriggered
                and order.left
                and order.trailing_offset
                and order.extreme is not None
            ):
                order.stop = order.extreme + order.side * order.trailing_offset

    # Accepting

    def _open(self, number: int) -> RefOrder:
        order = self.find(number)
        if order is None:
            raise Objection("unknown_order")
        if not order.left:
            raise Objection("order_done")
        return order

    @staticmethod
    def _same(order: RefOrder, new: NewOrder) -> bool:
        """Compare terms; former terms of an amended order are forgotten, and a date differs each time."""
        old = order.new
        if (new.stop is None, new.trailing_offset is None) != (
            old.stop is None,
            old.trailing_offset is None,
        ):
            return False
        if (new.price is None) != (old.price is None):
            return False
        for name in ("market", "side", "post_only", "hidden", "reduce_only", "group"):
            if getattr(new, name) != getattr(old, name):
                return False
        if order.self_trade != (new.self_trade or ("none" if not new.account else "cancel_newest")):
            return False
        if new.worst_price is not None and new.worst_price != order.worst_price:
            return False
        if new.oco_stop != old.oco_stop:
            other = order.linked
            if other is None or new.oco_stop is None or not other.altered:
                return False
        if order.altered:
            return True
        if new.trailing_offset is None and new.stop != old.stop:
            return False
        shown = [each.display_quantity or each.quantity for each in (new, old)]
        return (
            new.price,
            new.quantity,
            new.tif,
            new.trailing_offset,
            min(shown[0], new.quantity),
        ) == (
            old.price,
            old.quantity,
            old.tif,
            old.trailing_offset,
            min(shown[1], old.quantity),
        )

    def _made(self, new: NewOrder, number: int) -> RefOrder:
        order = RefOrder(number, new, new.side, new.price, new.quantity)
        order.untriggered = new.stop is not None or new.trailing_offset is not None
        order.stop, order.trailing_offset = new.stop or 0, new.trailing_offset or 0
        if order.trailing_offset:
            order.extreme = self.last
            if new.stop is not None:
                order.extreme = new.stop - new.side * order.trailing_offset
            if order.extreme is not None:
                order.stop = order.extreme + new.side * order.trailing_offset
        order.expires = new.expires or 0
        order.self_trade = new.self_trade or ("none" if new.account == HOUSE else "cancel_newest")
        order.worst_price = new.worst_price or 0
        if new.reduce_only:
            order.quantity = min(new.quantity, self.room(order))
            order.altered = order.quantity != new.quantity
        order.display_quantity = (
            new.display_quantity
            if new.display_quantity and new.display_quantity < order.quantity
            else 0
        )
        if new.price is None and not order.untriggered:
            self._protect(order)
        return order

    def _object(self, new: NewOrder, placed: list[RefOrder]) -> None:
        order = placed[0]
        codes = {"halted"} if self.halted else set()
        if new.reduce_only and not order.quantity:
            raise Objection(*codes, "reduce_only")
        if order.trailing_offset and not order.stop and new.side > 0 and new.account != HOUSE:
            codes.add("bad_order")  # what it may cost cannot be said
        if new.account != HOUSE:
            own = [other for other in self.orders if other.left and other.account == new.account]
            if len(own) + len(placed) > self.max_open:
                codes.add("too_many_orders")
        codes |= self._against_rules(
            order, (order.stop,) * 2 if order.stop > 0 else self.reference()
        )
        self.orders += placed
        if not self.covered(new.account):
            codes.add("insufficient_balance")
        del self.orders[-len(placed) :]
        if codes:
            raise Objection(*codes)

    def _against_rules(self, order: RefOrder, around: tuple[int, int] | None) -> set[str]:
        codes: set[str] = set()
        market, side, quantity = self.market, order.side, order.quantity
        if market.min_quantity is not None and quantity * market.lot < market.min_quantity:
            codes.add("too_small")
        if market.max_quantity is not None and quantity * market.lot > market.max_quantity:
            codes.add("too_large")
        limit = order.limit
        reference = self.near(limit, around)
        if market.price_band is not None and reference is not None and limit is not None:
            away = abs(limit - reference) if order.price is not None else side * (limit - reference)
            if away > market.price_band * reference:
                codes.add("price_band")
        price = reference if order.price is None and reference is not None else limit
        if price is not None:
            value = market.notional(price, quantity)
            if market.min_notional is not None and value < market.min_notional:
                codes.add("notional_too_small")
            if market.max_notional is not None and value > market.max_notional:
                codes.add("notional_too_large")
        return codes

    def _protect(self, order: RefOrder) -> None:
        best = self.best(-order.side, hidden=True)
        if best is not None and not order.worst_price:
            near = best if self.last is None else self.last
            order.worst_price = self._beyond(best, order.side, self.near(near, self.reference()))

    def _beyond(self, price: int, side: int, reference: int | None) -> int:
        """As far from a price as protection allows, and the band around the reference."""
        worst_price = price * (1 + side * self.market.protection)
        if reference is not None and self.market.price_band is not None:
            edge = reference * (1 + side * self.market.price_band)
            worst_price = min(worst_price, edge) if side > 0 else max(worst_price, edge)
        return max(floor(worst_price) if side > 0 else ceil(worst_price), 1)

    # Matching

    def _start(self, order: RefOrder) -> None:
        """It trades with what it meets; then it rests, or ends."""
        if not self._fits(order):
            return
        if order.new.post_only and self.met_by(order):
            order.reason = "post_only"
        elif order.new.tif == "fok":
            self._all_or_none(order)
        else:
            self._match(order)
        if not order.left:
            return
        if order.at_once:
            order.reason = "no_liquidity" if order.price is None else "ioc"
        else:
            order.resting = True
            order.slice = min(order.display_quantity, order.left)

    def _last_place(self) -> int:
        self.places += 1
        return self.places

    def _match(self, taker: RefOrder) -> None:
        while taker.left and (makers := self.met_by(taker)):
            maker = makers[0]
            if maker.account == taker.account and taker.self_trade != "none":
                self._prevent(taker, maker)
            elif self._fits(maker):
                self._fill(taker, maker, min(taker.left, maker.on_offer))

    def _all_or_none(self, taker: RefOrder) -> None:
        wanted = taker.left
        meets_own: list[RefOrder] = []
        for maker in self.met_by(taker):
            if maker.account == taker.account and taker.self_trade != "none":
                meets_own.append(maker)
                if taker.self_trade == "cancel_oldest":
                    continue
            elif maker.account == HOUSE and maker.new.reduce_only:
                break  # how much it may trade is not counted on
            wanted -= min(wanted, maker.left)
            if not wanted:
                break
        if meets_own and taker.self_trade != "cancel_oldest":
            taker.reason = "self_trade"
            if taker.self_trade == "cancel_both":
                for maker in meets_own:
                    maker.reason = "self_trade"
        elif wanted:
            taker.reason = "fok"
        else:
            self._match(taker)

    def _prevent(self, taker: RefOrder, maker: RefOrder) -> None:
        if taker.self_trade == "decrement":
            both = min(taker.left, maker.left)
            for order in (taker, maker):
                if order.left == both:
                    order.reason = "self_trade"
                else:
                    order.quantity -= both
                    order.altered = True
                    order.slice = min(order.slice, order.left)
        if taker.self_trade in ("cancel_oldest", "cancel_both"):
            maker.reason = "self_trade"
        if taker.self_trade in ("cancel_newest", "cancel_both"):
            taker.reason = "self_trade"

    def _fits(self, order: RefOrder) -> bool:
        """A reduce-only order of the house is never for more than its position."""
        if order.new.reduce_only and order.account == HOUSE:
            room = self.room(order)
            if not room:
                order.reason = "reduce_only"
                return False
            if room < order.left:
                order.quantity -= order.left - room
                order.altered = True
            order.slice = min(order.slice, order.left)
        return True

    def _fill(self, taker: RefOrder, maker: RefOrder, quantity: int) -> None:
        assert maker.price is not None
        market = self.market
        base, quote = quantity * market.lot, market.notional(maker.price, quantity)
        fees = {}
        for order, rate in ((taker, market.taker_fee), (maker, market.maker_fee)):
            gain = (market.base, base) if order.side > 0 else (market.quote, quote)
            loss = (market.quote, quote) if order.side > 0 else (market.base, base)
            fee = Decimal(0)
            if order.account != HOUSE:
                fee = (gain[1] * rate).quantize(UNIT, rounding=ROUND_CEILING)
            fees[order.number] = fee
            self.add_money(order.account, gain[0], gain[1] - fee)
            self.add_money(order.account, loss[0], -loss[1])
            order.filled += quantity
            if order.filled == order.quantity:
                order.reason = "filled"
        self.fills.append(
            RefFill(
                taker.number,
                maker.number,
                maker.price,
                quantity,
                fees[taker.number],
                fees[maker.number],
            )
        )
        self.untold.append(maker.price)
        if any(order.untriggered and order.left for order in self.orders):
            self.traded = True
        for order in (maker, taker):
            if order.linked is not None and order.linked.left:
                order.linked.reason = "oco"
        if maker.display_quantity:
            maker.slice -= quantity
            if maker.left and not maker.slice:
                maker.place = self._last_place()
                maker.slice = min(maker.display_quantity, maker.left)

    # What a trade gives rise to

    def _go_on(self) -> None:
        """Trades trigger orders, whose trades trigger orders, one after the other."""
        self._fit_all()
        while self.untold:
            price = self.untold.pop(0)
            triggered = [order for order in self.orders if order.untriggered and order.left]
            for order in triggered:
                if order.trailing_offset:
                    better = min if order.side > 0 else max
                    order.extreme = price if order.extreme is None else better(price, order.extreme)
            triggered = [order for order in triggered if order.reached(price)]
            triggered.sort(
                key=lambda order: (-order.side, order.side * self._stop(order), order.number)
            )
            entering = [order for order in triggered if self._enters(order)]
            for order in entering:
                if order.left:
                    self._start(order)
            self._fit_all()

    @staticmethod
    def _stop(order: RefOrder) -> int:
        return (
            order.stop
            if order.extreme is None
            else order.extreme + order.side * order.trailing_offset
        )

    def _enters(self, order: RefOrder) -> bool:
        if not order.left:
            return False  # the other one of a pair was triggered by the same trade
        if order.linked is not None and order.linked.left:
            order.linked.reason = "oco"
        order.untriggered = False
        order.place = self._last_place()
        if order.price is None:
            self._protect(order)
        if not self.covered(order.account):
            order.reason = "insufficient_balance"
            return False
        return True

    def _fit_all(self) -> None:
        for order in self.orders:
            if order.left and order.rests:
                self._fits(order)
