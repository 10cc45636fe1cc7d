"""Limits on the feeds of other owners: open orders, events a second, feeds; and feeds that were given up.

Theory of operation. There are three kinds of limits.
- A limit on content is a function of the feed alone and published in docs/protocol.md: every replica gives
  the feed up at the same number. There is one: MAX_OPEN_ORDERS. Each open order has one price level, so it
  bounds an owner's price levels too.
- A rate delays the application of batches and never drops them (`EventRates`).
- A total over all owners protects this node. When it is exceeded, the heaviest owner loses, not the
  newest. This is a decision of one node: others may still hold the feed.

A feed that was given up is hidden, not served and not requested; the node reports it. Its last batch is
kept, and sent to its owner alone: an owner that was restored from an old copy of its data learns from it
that it must not write (`exchange.feeds.startup_fence`). A feed given up because its owner was absent is
taken again when the owner returns, the others after `retry_after`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from exchange.feeds.exchange_messages import FeedName
from exchange.feeds.owner_weights import OwnerWeights
from exchange.model.events import Batch
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.tokens import TokenTable

MAX_OPEN_ORDERS = 400_000  # of one feed; content limit, part of the protocol
OWN_OPEN_ORDERS = 300_000  # of one own feed, for new orders: waiting orders may still be triggered
MAX_GIVEN_UP = 1000  # feeds given up that are remembered
ORDERS_SHOWN_A_SECOND = 20_000  # of an owner that comes and goes: for each second of its absence
SNAPSHOT_ORDERS_PER_EVENT = 8  # orders of a snapshot that cost as much as an event

ABSENT = "its owner is absent"


class FeedLimits(msgspec.Struct, frozen=True):
    """Limits that protect one node. The defaults allow an owner 100,000 open orders and 2,000
    events a second."""

    max_feeds: int = 100_000
    max_orders: int = 1_000_000  # open orders of all other owners
    owner_rate: float = 4_000  # events a second of one owner ...
    owner_burst: float = 100_000  # ... and at once
    total_rate: float = 20_000  # events a second of all owners ...
    total_burst: float = 200_000
    fair_rate: float = 100  # events a second of an owner that the total never delays ...
    fair_burst: float = 2_000
    absent_after: float = 900.0  # seconds without presence after which a heavy feed is given up
    absent_orders: int = 1_000  # open orders that make a feed heavy
    retry_after: float = 600.0  # seconds after which a feed given up may be requested again


class GivenUpFeed(msgspec.Struct):
    """A feed that this node does not hold any more."""

    owner: str
    market: str
    reason: str
    at: float  # seconds, monotonic
    batch: Batch | None  # the last one held


class FeedFigures(msgspec.Struct, frozen=True):
    """Figures of the limits on feeds."""

    given_up: int  # feeds given up
    orders: int  # open orders of all other owners
    delayed: int  # times that a batch had to wait for its owner's budget
    digests_dropped: int
    unconnected_bytes: int
    unconnected_evicted: int


class EventRates:
    """Budgets of events: for each owner, and for all owners together.

    An owner within the fair rate is not delayed by the total, so the heavy ones share what is left.
    """

    def __init__(self, limits: FeedLimits) -> None:
        self._limits = limits
        self._owners = TokenTable(limits.owner_rate, limits.owner_burst)
        self._fair = TokenTable(limits.fair_rate, limits.fair_burst)
        self._total = TokenTable(limits.total_rate, limits.total_burst)
        self.delayed = 0

    def wait(self, now: float, owner: str) -> float:
        """Return the seconds until the next batch of an owner may be applied."""
        limits = self._limits
        own = self._owners.tokens(now, owner)
        total = self._total.tokens(now, "")
        if own > 0.0 and total > 0.0:
            return 0.0
        fair = self._fair.tokens(now, owner)
        waits = [0.0]
        if own <= 0.0:
            waits.append(_refill(own, limits.owner_rate))
        if total <= 0.0 and fair <= 0.0:
            waits.append(min(_refill(total, limits.total_rate), _refill(fair, limits.fair_rate)))
        wait = max(waits)
        self.delayed += wait > 0.0
        return wait

    def spend(self, now: float, owner: str, events: int) -> None:
        """Count events that were applied."""
        for buckets, name in ((self._owners, owner), (self._fair, owner), (self._total, "")):
            buckets.overdraw(now, name, events)


def _refill(tokens: float, rate: float) -> float:
    return (1.0 - tokens) / rate


class FeedBounds:
    """Bookkeeping for the limits: open orders by owner, absent owners, feeds given up."""

    def __init__(self, limits: FeedLimits) -> None:
        self.limits = limits
        self.rates = EventRates(limits)
        self.given_up: BoundedMap[FeedName, GivenUpFeed] = BoundedMap(MAX_GIVEN_UP)
        self._orders: dict[FeedName, int] = {}
        self._weights = OwnerWeights()
        self._absent: dict[str, float] = {}  # owner -> since, in order of time

    @property
    def orders(self) -> int:
        """Open orders of all other owners."""
        return self._weights.total

    @property
    def owners(self) -> int:
        """Other owners with open orders."""
        return len(self._weights)

    def orders_of(self, owner: str) -> int:
        """Open orders of an owner."""
        return self._weights[owner]

    def measure(self, name: FeedName, open_orders: int) -> None:
        """Note the number of open orders of a feed; 0 when it is gone."""
        change = open_orders - self._orders.get(name, 0)
        if not change:
            return
        self._weights.add(name[0], change)
        if open_orders:
            self._orders[name] = open_orders
        else:
            del self._orders[name]

    def too_heavy(self) -> str | None:
        """Return the heaviest owner if there are too many open orders in all."""
        return self._weights.heaviest() if self.orders > self.limits.max_orders else None

    # Owners that come and go

    def least_absence(self, owner: str) -> float:
        """Return the seconds that an owner has to stay away between two presences."""
        return self._weights[owner] / ORDERS_SHOWN_A_SECOND

    def owner_left(self, now: float, owner: str) -> None:
        """Note the end of an owner's presence lease."""
        self._absent.pop(owner, None)
        self._absent[owner] = now

    def owner_unseen(self, now: float, owner: str) -> None:
        """Note an owner whose feed arrived before any presence."""
        self._absent.setdefault(owner, now)

    def owner_present(self, owner: str) -> None:
        """Note an owner's presence: feeds given up for its absence are welcome again."""
        self._absent.pop(owner, None)
        for name in [n for n, feed in self.given_up.items() if n[0] == owner]:
            if self.given_up[name].reason == ABSENT:
                del self.given_up[name]

    def absent_owners(self, now: float) -> Iterator[str]:
        """Yield owners that have been absent for long, each once."""
        while self._absent:
            owner, since = next(iter(self._absent.items()))
            if since + self.limits.absent_after > now:
                return
            del self._absent[owner]
            yield owner

    # Feeds given up

    def give_up(self, feed: GivenUpFeed) -> None:
        """Remember a feed that is given up."""
        name = feed.owner, feed.market
        self.measure(name, 0)
        self.given_up[name] = feed

    def refuses(self, now: float, name: FeedName) -> bool:
        """Report if a feed was given up and may not be taken yet."""
        feed = self.given_up.get(name)
        if feed is None:
            return False
        if feed.reason == ABSENT or now < feed.at + self.limits.retry_after:
            return True
        del self.given_up[name]
        return False
