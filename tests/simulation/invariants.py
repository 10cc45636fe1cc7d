"""Invariants. Each function raises `Violation` when its invariant does not hold.

The first line of each docstring is the invariant as the design states it. The functions judge what a
`Watch` recorded from outside: they read feeds, fills and answers, never the engine's own book-keeping
of what is reserved, held or in the book, except to compare it with what they worked out themselves.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exchange.model.events import Amended, Closed, Event, Filled, Moved, Opened
from exchange.model.records import Fill, Order

if TYPE_CHECKING:
    from exchange.engine.engine import Engine

FillKey = tuple[str, int, str]  # taker, take, role


class Violation(AssertionError):
    """An invariant does not hold. `invariant` is the name of the function that found out."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


def never_overfilled(quantity: int, own: int, others: int, name: str) -> None:
    """No order is ever filled for more than its quantity, whatever is lost, late, doubled, reordered,
    cut off or killed.

    `quantity`: the most that it may be; `own`: sum of its owner's fills; `others`: sum of what its counterparties recorded.
    """
    if own > quantity or others > quantity:
        raise Violation(
            "never_overfilled",
            f"{name} of {quantity} lots: {own} filled by its owner's records, {others} by others'",
        )


def recorded_once(known: Iterable[Mapping[FillKey, Fill]], fill: Fill) -> None:
    """Every fill ends up recorded exactly once on both sides once the two can talk again.

    Here: not twice on one side.
    """
    key = (fill.taker, fill.take, fill.role)
    if any(key in fills for fills in known):
        raise Violation("recorded_once", f"a second time: {fill}")


def maker_first(maker_disk: Mapping[FillKey, Fill], own_id: str, fill: Fill) -> None:
    """Every fill ends up recorded exactly once on both sides once the two can talk again.

    Here: when a taker records a fill, the maker's half of it is on the maker's disk already.
    """
    _same_trade(maker_disk.get((fill.taker, fill.take, "maker")), fill, own_id, "maker_first")


def _same_trade(maker: Fill | None, taker: Fill, taker_id: str, invariant: str) -> None:
    if maker is None:
        raise Violation(invariant, f"the maker has no record of {taker}")
    same = (
        maker.market == taker.market
        and maker.price == taker.price
        and maker.quantity == taker.quantity
        and maker.side == -taker.side
        and maker.counterparty == taker_id
        and maker.order == taker.counterparty_order
        and maker.counterparty_order == taker.order
    )
    if not same:
        raise Violation(invariant, f"the sides differ: {maker} and {taker}")


def both_sides(fills: Mapping[str, Mapping[FillKey, Fill]]) -> None:
    """Every fill ends up recorded exactly once on both sides once the two can talk again.

    At the end, over all nodes' disks.
    """
    for node, own in fills.items():
        for (taker, take, role), fill in own.items():
            if role == "taker":
                if taker != node:
                    raise Violation("both_sides", f"{node} records another's take: {fill}")
                maker = fills[fill.counterparty].get((taker, take, "maker"))
                _same_trade(maker, fill, node, "both_sides")
            elif (taker, take, "taker") not in fills[taker]:
                raise Violation("both_sides", f"the taker has no record of {fill}")


def conserved(fills: Mapping[str, Iterable[Fill]]) -> None:
    """Per asset, balances and bilateral positions over all nodes sum to what was deposited. Nothing is
    created or lost.

    Positions start at nothing, so per market they sum to zero, in lots and in ticks times lots, over
    all nodes and between any two.
    """
    total: dict[str, list[int]] = {}
    between: dict[tuple[str, str, str], list[int]] = {}
    for node, own in fills.items():
        for fill in own:
            lots = fill.side * fill.quantity
            first, second = sorted((node, fill.counterparty))
            pair = between.setdefault((fill.market, first, second), [0, 0])
            sums = total.setdefault(fill.market, [0, 0])
            for position in (sums, pair):
                position[0] += lots
                position[1] += lots * fill.price
    for name, (lots, value) in [*total.items(), *between.items()]:
        if lots or value:
            raise Violation(
                "conserved", f"{name}: {lots} lots and {value} ticks*lots are left over"
            )


def adds_up(order: Order, filled: int, value: int, pending: int, name: str) -> None:
    """Per asset, balances and bilateral positions over all nodes sum to what was deposited. Nothing is
    created or lost.

    Here: an order's own figures are the sums of its fills and of its unresolved takes.
    """
    if (order.filled, order.value, order.pending) != (filled, value, pending):
        raise Violation(
            "adds_up",
            f"{name} says filled {order.filled}, value {order.value}, pending {order.pending}; its "
            f"fills and takes say {filled}, {value}, {pending}",
        )
    if order.reserved < 0 or order.filled + order.pending + order.reserved > order.quantity:
        raise Violation("adds_up", f"{name}: more filled and promised than ordered: {order}")


def replayed(owner: str, events: Iterable[Event]) -> list[tuple[int, int, int, str, int, int]]:
    """A feed's open orders worked out from its events alone: (side, price, time, owner, number, shown)."""
    rows: dict[int, tuple[int, int, int]] = {}
    shown: dict[int, int] = {}
    for event in events:
        match event:
            case Opened(order, side, price, quantity, time):
                rows[order] = (side, price, time)
                shown[order] = quantity
            case Filled():
                shown[event.order] = event.shown
                if event.left == 0:
                    del shown[event.order]
            case Moved(order, price, quantity, time):
                rows[order] = (rows[order][0], price, time)
                shown[order] = quantity
            case Amended(order, quantity):
                shown[order] = quantity
            case Closed(order):
                del shown[order]
    return [(*rows[order], owner, order, quantity) for order, quantity in shown.items() if quantity]


def book_of(
    rows: Iterable[tuple[int, int, int, str, int, int]],
) -> list[tuple[int, int, int, str, int, int]]:
    """Rows in the order of a book: bids first, best price first, then by time, owner, number."""
    return sorted(rows, key=lambda row: (-row[0], -row[0] * row[1], row[2:5]))


def replicas_differ(
    engines: Mapping[str, Engine],
    feeds: Mapping[tuple[str, str], Mapping[int, Event]],
    hostile: Container[str] = (),
) -> str | None:
    """After a quiet period with the network whole, all replicas of a market are identical.

    And equal to the book that follows from the feeds; nothing is pending, crossed or behind. Returns
    what is not so yet. Feeds of dishonest nodes, and takes of their orders, are left out.
    """
    for node, engine in engines.items():
        present = [owner for owner in engine.present if owner not in hostile]
        if present != sorted(other for other in engines if other != node):
            return f"{node} sees only {len(present)} of {len(engines) - 1} others"
        pending = [take for take in engine.orders.takes.pending if take.maker not in hostile]
        if pending:
            return f"{node} waits for the outcome of {pending[0]}"
        if engine.feeds_behind:
            return f"{node} is behind in {engine.feeds_behind} feeds"
    for market in sorted({key for engine in engines.values() for key in engine.markets}):
        traders = {node: engine for node, engine in engines.items() if market in engine.markets}
        rows: list[tuple[int, int, int, str, int, int]] = []
        ends = {}
        for owner in traders:
            events = feeds.get((owner, market), {})
            ends[owner] = len(events)
            rows += replayed(owner, (events[n] for n in range(1, len(events) + 1)))
        expected = book_of(rows)
        for node, engine in traders.items():
            for owner, end in ends.items():
                feed = engine.feeds.get((owner, market))
                if (feed.number if feed else 0) != end:
                    held = feed.number if feed else 0
                    return f"{node} has {held} of {end} events of {owner} for {market}"
            contents = [row for row in engine.markets[market].contents() if row[3] not in hostile]
            if contents != expected:
                odd = set(contents) ^ set(expected)
                return (
                    f"{node} shows another book of {market} than the feeds say: {sorted(odd)[:4]}"
                )
            if engine.markets[market].crossed:
                return f"the book of {market} is crossed on {node}"
            waiting = {take.order for take in engine.orders.takes.pending}  # for dishonest makers
            for order in engine.order_store.open_orders:
                if order.number in waiting:
                    continue
                if order.reserved:
                    return f"{node} still keeps a part of {order}"
                if order.market == market and not _as_promised(
                    order, _shown(rows, node, order.number)
                ):
                    return f"{node} does not show what is free of {order}"
    if not hostile and len({tuple(sorted(engine.markets)) for engine in engines.values()}) == 1:
        summaries = {engine.summary() for engine in engines.values()}
        if len(summaries) != 1:
            return f"{len(summaries)} different summaries of the same feeds"
    return None


def _as_promised(order: Order, shown: int) -> bool:
    if order.hidden:
        return shown == 0
    if order.display_quantity and order.free:
        return 0 < shown <= min(order.display_quantity, order.free)
    return shown == order.free


def _shown(rows: list[tuple[int, int, int, str, int, int]], owner: str, number: int) -> int:
    return sum(row[5] for row in rows if row[3] == owner and row[4] == number)


@dataclass(slots=True)
class Offer:
    """An order of the other side that a taker could reach, and how much of it as far as known."""

    side: int
    price: int
    time: int
    owner: str
    number: int
    available: int
    hidden: bool = False  # behind everything on show at its price
    # It may be left alone: refused lately, its owner has a credit limit, or it came after the plan.
    doubtful: bool = False

    @property
    def rank(self) -> tuple[int, bool, int, str, int]:
        """Smaller is to be taken first."""
        return (-self.side * self.price, self.hidden, self.time, self.owner, self.number)

    @property
    def priority(self) -> tuple[int, str, int]:
        return (self.time, self.owner, self.number)


def best_first(
    taker: Order,
    taker_id: str,
    offers: list[Offer],
    chosen: tuple[str, int],
    price: int,
    quantity: int,
    *,
    only_earlier: bool,
) -> None:
    """A taker never trades at a worse price while a better reachable order, known to its node, could
    have filled it; equal prices go in time order.

    `offers` are all that cross the taker. With `only_earlier` (two resting orders crossed) the taker
    leaves later orders to their owners, but must keep enough free for those that are better.
    """
    name = f"order {taker.number} of {taker_id} takes {quantity} at {price} from {chosen}"
    target = next((o for o in offers if (o.owner, o.number) == chosen), None)
    if target is None or target.price != price:
        raise Violation("best_first", f"{name}, which is not on offer there")
    if quantity > target.available:
        raise Violation("best_first", f"{name}, more than there is: {target}")
    mine = (taker.priority or taker.time, taker_id, taker.number)
    kept = taker.free - quantity
    for offer in offers:
        if offer.rank < target.rank and not offer.doubtful:
            if only_earlier and offer.priority > mine:
                kept -= offer.available
            else:
                raise Violation("best_first", f"{name} although this is better: {offer}")
    if kept < 0:
        raise Violation("best_first", f"{name} and leaves too little for better orders that come")


def nothing_missed(taker: Order, taker_id: str, offers: list[Offer], *, only_earlier: bool) -> None:
    """A taker never trades at a worse price while a better reachable order, known to its node, could
    have filled it; equal prices go in time order.

    Here: after it looked at the book, nothing that it could have had is left.
    """
    mine = (taker.priority or taker.time, taker_id, taker.number)
    free = taker.free
    for offer in sorted(offers, key=lambda o: o.rank):
        if free <= 0:
            return
        if only_earlier and offer.priority > mine:
            free -= offer.available  # set aside for its owner, doubtful or not
        elif not offer.doubtful:
            raise Violation(
                "nothing_missed",
                f"order {taker.number} of {taker_id} has {free} free beside {offer}",
            )


def one_event_per_number(
    known: dict[int, Event], owner: str, market: str, first: int, events: Iterable[Event]
) -> None:
    """Events are signed by the owner's key, so a relay cannot forge or alter them; two different events
    under one number are proof of misbehaviour.

    So an honest owner never lets two leave, whatever crashed. `known` is what was seen so far and
    takes in what is new.
    """
    for number, event in enumerate(events, first):
        before = known.setdefault(number, event)
        if before != event:
            raise Violation(
                "one_event_per_number",
                f"number {number} of {owner} for {market} is {before} and {event}",
            )


def heard_once(
    known: set[tuple[str, str, bytes]], node: int, kind: str, origin: str, payload: bytes
) -> None:
    """Orders and trades reach every node of a connected network even when it is not a full mesh, with
    few duplicates, and are deduplicated by hash.

    So the exchange is handed each once for as long as its process runs.
    """
    key = (kind, origin, payload)
    if key in known:
        raise Violation("heard_once", f"node {node} is handed the same {kind} of {origin} again")
    known.add(key)
