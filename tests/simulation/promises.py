"""Guarantees of each order, and the invariants that check them by order type.

A `Spec` is an order as it was placed. Amendments add versions to it: a crash may undo an unacknowledged
one, so the order may follow any version that is still possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exchange.model.commands import NewOrder
from exchange.model.events import Event, Filled, Opened
from exchange.model.records import Fill, Order
from tests.simulation.invariants import Violation


@dataclass(slots=True, frozen=True)
class Version:
    """Amendable fields."""

    price: int | None
    quantity: int
    stop: int
    trailing_offset: int
    display_quantity: int
    expires: int

    @classmethod
    def of(cls, order: Order) -> Version:
        return cls(
            order.price,
            order.quantity,
            order.stop,
            order.trailing_offset,
            order.display_quantity,
            order.expires,
        )


@dataclass(slots=True)
class Spec:
    """An order as it was submitted, and as it may be since."""

    new: NewOrder
    number: int
    time: int
    linked_order: int
    stop_of_pair: bool  # the second order of a pair
    reach: list[int]  # of a trailing stop: the price that it begins with, if there is one
    seen_from: int  # how many trades its node had seen
    versions: list[Version] = field(default_factory=list)

    @property
    def market(self) -> str:
        return self.new.market

    @property
    def side(self) -> int:
        return self.new.side

    @property
    def quantity(self) -> int:
        """The most that it may be."""
        return max(version.quantity for version in self.versions)

    @property
    def display_quantity(self) -> int | None:
        """The most that an iceberg shows; None: all."""
        shown = [version.display_quantity or version.quantity for version in self.versions]
        return max(shown) if self.new.display_quantity is not None else None

    def amended(self, order: Order) -> None:
        version = Version.of(order)
        # It may be again as it was before: then what is between goes once its client knows of that, not before.
        if version != self.versions[-1]:
            self.versions.append(version)

    def settled(self, order: Order) -> None:
        """The client has heard of the order as it is: what was before is not possible any more."""
        version = Version.of(order)
        if version in self.versions:
            del self.versions[: self.versions.index(version)]


def within_limit(fill: Fill, spec: Spec) -> None:
    """A taker never trades at a worse price while a better reachable order, known to its node, could
    have filled it; equal prices go in time order.

    Here: a trade is at its maker's price, and within its taker's limit.
    """
    if (fill.side, fill.market, fill.account) != (spec.side, spec.market, spec.new.account):
        raise Violation("within_limit", f"{fill} is not of {spec}")
    prices = [version.price for version in spec.versions]
    if prices[0] is None:
        worst_price = spec.new.worst_price
        ok = fill.role == "taker" and (
            worst_price is None
            or spec.stop_of_pair
            or fill.side * fill.price <= fill.side * worst_price
        )
    elif fill.role == "maker":
        ok = fill.price in prices
    else:
        ok = any(fill.side * fill.price <= fill.side * (price or 0) for price in prices)
    if not ok:
        raise Violation("within_limit", f"{fill} breaks the limit of {spec}")


def post_only_rests(fill: Fill, spec: Spec) -> None:
    """A post-only order never takes."""
    if spec.new.post_only and fill.role == "taker":
        raise Violation("post_only_rests", f"{fill} of {spec}")


def one_of_a_pair(fill: Fill, spec: Spec, filled_by_linked: int) -> None:
    """Of two orders of which one cancels the other at most one trades."""
    if spec.linked_order and filled_by_linked:
        raise Violation(
            "one_of_a_pair", f"{fill}, and {filled_by_linked} of order {spec.linked_order}: {spec}"
        )


def good_till_date(time: int, spec: Spec, what: object) -> None:
    """A good-till-date order is not filled, nor asks anybody, after its date by its owner's clock.

    What was asked before the date is for the one who was asked to decide, and may be filled after it; so
    may what was kept before it for a fill-or-kill order.
    """
    dates = [version.expires for version in spec.versions]  # 0: none
    if all(dates) and time > max(dates):
        raise Violation("good_till_date", f"{time - max(dates)} us late: {what} of {spec}")


def stop_waits(fill: Fill, spec: Spec, prices: Sequence[int]) -> None:
    """A stop never trades before a trade at its stop or beyond, in its market, that its node has seen.

    `prices` are those trades that its node has seen since it was placed, over restarts, but for its own.
    A trailing stop follows the most favourable of them.
    """
    new = spec.new
    if new.stop is None and new.trailing_offset is None and not spec.stop_of_pair:
        return
    side = spec.side
    if new.trailing_offset is None:
        stops = [version.stop for version in spec.versions]
        if any(side * price >= side * stop for price in prices for stop in stops):
            return
    else:
        trailing_offset = min(version.trailing_offset for version in spec.versions)
        extremes = list(spec.reach)
        for price in prices:
            extremes.append(price)
            best = min(extremes) if side > 0 else max(extremes)
            if side * price >= side * (best + side * trailing_offset):
                return
    raise Violation("stop_waits", f"{fill} of {spec} after trades at {prices[-10:]}")


def all_or_nothing(order: Order, quantity: int, *, given_up: bool) -> None:
    """A fill-or-kill order is filled in full or not at all.

    `given_up`: a maker was cut off from it for longer than it keeps a reservation.
    """
    if order.done and order.filled not in (0, quantity) and not given_up:
        raise Violation("all_or_nothing", f"{order.filled} of {quantity} filled: {order}")


def given_up_at_once(order: Order, reserving: int) -> None:
    """A fill-or-kill order that ends waits for what is committed, and not for what was to be reserved."""
    if order.cancelled and reserving:
        raise Violation("given_up_at_once", f"{reserving} still to be reserved: {order}")


def shown_as_promised(event: Event, spec: Spec) -> None:
    """Hidden quantities are in no feed: of an iceberg no more than its slice, and nothing of a hidden order
    but its trades."""
    if isinstance(event, (Opened, Filled)) and event.side != spec.side:
        raise Violation("shown_as_promised", f"{event} of {spec}")
    shown = getattr(event, "shown", 0)
    if spec.new.hidden:
        ok = isinstance(event, (Opened, Filled)) and (isinstance(event, Opened) or shown == 0)
    else:
        most = spec.display_quantity
        ok = most is None or max(shown, getattr(event, "left", 0)) <= max(most, 1)
    if not ok:
        raise Violation("shown_as_promised", f"{event} of {spec}")


def hidden_trades_only(events: Mapping[int, Event], hidden: Mapping[int, Spec]) -> None:
    """Hidden quantities are in no feed: of an iceberg no more than its slice, and nothing of a hidden order
    but its trades.

    At the end, over all events of one feed: a hidden order is opened for what it trades at once.
    """
    for number, event in events.items():
        if isinstance(event, Opened) and event.order in hidden:
            after = events.get(number + 1)
            ok = (
                isinstance(after, Filled)
                and (after.order, after.quantity) == (event.order, event.shown)
                and after.left == 0
            )
            if not ok:
                raise Violation("hidden_trades_only", f"{event} is followed by {after}")


def feeds_tell_the_trades(owner: str, events: Mapping[int, Event], fills: Sequence[Fill]) -> None:
    """Every trade is one event in its maker's feed, and every such event a trade."""
    told = sorted(
        (event.taker, event.take, event.order, event.price, event.quantity)
        for event in events.values()
        if isinstance(event, Filled)
    )
    recorded = sorted((f.taker, f.take, f.order, f.price, f.quantity) for f in fills)
    if told != recorded:
        odd = sorted(set(told) ^ set(recorded))[:3]
        raise Violation("feeds_tell_the_trades", f"{owner} tells and records {odd}")


def survives(told: Order, command: str, found: Order | None, spec: Spec, name: str) -> None:
    """Acknowledged commands survive kill -9."""
    if found is None:
        raise Violation("survives", f"{name} was acknowledged and is gone")
    now = found
    for kept in _KEPT:
        if getattr(told, kept) != getattr(now, kept):
            raise Violation("survives", f"{name} became another order: {told}, now {now}")
    amended = any(now.price == version.price for version in spec.versions)
    if now.price != told.price and not amended:
        raise Violation("survives", f"{name} has another price: {told}, now {now}, {spec}")
    if now.quantity != told.quantity and not now.altered:
        raise Violation("survives", f"{name} has another quantity: {told}, now {now}")
    if now.filled < told.filled:
        raise Violation("survives", f"{name} lost fills: {told}, now {now}")
    if told.cancelled:
        if not now.cancelled and now.filled < now.quantity:
            raise Violation("survives", f"{name} was cancelled and is not any more: {now}")
        if now.filled > told.filled + told.pending + told.reserved:
            raise Violation("survives", f"{name} was filled after its {command}: {told}, now {now}")


_KEPT = (
    "number",
    "market",
    "side",
    "time",
    "client_id",
    "account",
    "kind",
    "post_only",
    "hidden",
    "reduce_only",
    "linked_order",
    "group",
    "self_trade",
)
