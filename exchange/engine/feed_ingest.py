"""Ingest of other owners' feeds: apply batches and snapshots, and update the book.

Theory of operation. A batch arrives by broadcast, or as the answer to a request (`on_part`). Its
replica (`exchange.feeds.feed_replica`) checks it and returns the batches that have become part of
the feed; `_advance` then journals them and updates the book, the tape of trades and the
replication. A feed whose owner contradicts itself is frozen and its orders are hidden (`_blame`). A
feed that exceeds a limit (`exchange.feeds.feed_limits`) is given up.

Rules of this file:

- Feeds are never trusted: a fault or an invalid batch changes no state of other owners.
- Work is bounded per call: orders of large owners are shown and hidden in parts, one part a tick.
- A batch signed by this node's own key is evidence about this data directory, never applied.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from exchange.engine.recovery import Recovery
from exchange.feeds import feed_limits
from exchange.feeds.exchange_messages import FeedName, FeedPart
from exchange.feeds.feed import Feed, FeedFault, ShownOrder, Writer
from exchange.feeds.feed_limits import (
    ABSENT,
    MAX_GIVEN_UP,
    FeedBounds,
    FeedLimits,
    GivenUpFeed,
)
from exchange.feeds.feed_replica import RESUMED, Replica
from exchange.feeds.replication import Replicator
from exchange.feeds.unconnected_batches import UnconnectedBatches
from exchange.market.market import Market, Trade
from exchange.model.events import (
    Batch,
    Checkpoint,
    Filled,
    InvalidBatch,
    Moved,
    Opened,
    check_batch,
)
from exchange.model.peer_values import is_node_name
from exchange.model.records import FAULT_META, GiveUpFeed, PutBatch, Recovered
from exchange.orders.engine_context import MAX_DRIFT_US, EngineContext
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.keyed_heap import KeyedHeap

REFRESHED = 500  # orders shown or hidden at once: about 1 ms, for which other messages wait
BATCH_EVENTS = 16  # events whose application costs as much as the check of a batch's signature
MAX_SLICES = 64  # works in slices at once; beyond that answers are processed at once
TIMES = 5_000  # orders whose times are looked at, or whose memory is freed, in one go
SCANNED = 64  # feeds looked at to make room for another


class FeedIngest:
    """Feeds of all other owners, for every market that this node trades.

    `uncross(now, market)` is called when a change of the book may have crossed own orders. `presences`: number of
    presences that can be handed on. `filled(owner, market, event, number)` is called for fills of this node's takes.
    """

    def __init__(
        self,
        context: EngineContext,
        rng: random.Random,
        uncross: Callable[[float, Market], None],
        limits: FeedLimits | None = None,
        presences: Callable[[], int] = lambda: 0,
        filled: Callable[[str, str, Filled, int], None] = lambda *_: None,
    ) -> None:
        self._filled = filled
        self._context = context
        self._uncross = uncross
        self._ids: dict[bytes, str] = {}
        self.bounds = FeedBounds(limits or FeedLimits())
        self._now = 0.0  # of the last tick
        self.recovery: Recovery | None = None  # while the own feeds are fetched
        self.unconnected = UnconnectedBatches()
        self._trades_known: BoundedMap[FeedName, int] = BoundedMap(
            MAX_GIVEN_UP
        )  # last number at which a feed was given up
        # Replicas whose next batch is delayed, by the time at which it is due.
        self._waiting: KeyedHeap[FeedName, float] = KeyedHeap()
        self._resuming = (
            False  # some of them were due at the last tick, and were left for the next one
        )
        # Work that takes long, in slices: orders to be shown or hidden, snapshots, answers with many batches.
        self._slices: deque[Iterator[None]] = deque()
        self.replicator = Replicator(
            context.node_id,
            context.feeds,
            self._wants_feed,
            rng,
            self.bounds.given_up,
            context.visible,
            presences,
        )

    def restore(self, past: Recovered, now: float) -> None:
        """Rebuild all feeds, this node's own included, from the journal."""
        context = self._context
        for record in past.given_up:
            self.bounds.give_up(
                GivenUpFeed(record.owner, record.market, record.reason, now, record.batch)
            )
        trades: dict[str, list[Trade]] = {}
        for stored in past.feeds:
            market = context.markets.get(stored.market)
            if market is None:
                continue
            feed = Feed(stored.owner, stored.market)
            feed.reload(stored.snapshot, stored.batches, context.network)
            context.feeds[stored.owner, stored.market] = feed
            if stored.owner == context.node_id:
                market.writer = Writer(feed, context.keys, context.network)
            else:
                market.replicas[stored.owner] = self._replica(feed)
                self.bounds.measure((feed.owner, feed.market), len(feed.state.orders))
                self.bounds.owner_left(now, feed.owner)
            for batch in stored.batches:
                trades.setdefault(market.key, []).extend(
                    Trade(stored.owner, event, batch.first + index)
                    for index, event in enumerate(batch.events)
                    if isinstance(event, Filled)
                )
        self._restore_faults(past)
        for key, found in trades.items():
            found.sort(key=lambda trade: trade.event.time)
            context.markets[key].tape.extend(found)

    def _restore_faults(self, past: Recovered) -> None:
        """Hide the feeds that their owners have contradicted, as before the restart."""
        context = self._context
        for name, value in past.meta.items():
            if not value or not name.startswith(FAULT_META):
                continue
            owner, _, key = name.removeprefix(FAULT_META).partition(":")
            market = context.markets.get(key)
            if market is None or owner == context.node_id:
                continue
            if owner not in market.replicas:  # its first batch was at fault
                market.replicas[owner] = self._replica(Feed(owner, key))
                context.feeds[owner, key] = market.replicas[owner].feed
            market.replicas[owner].feed.fault = "it was contradicted before the restart"

    def resume(self, now: float) -> None:
        """Call once after the start: give own orders later times than all orders in the journal."""
        for (_, key), feed in self._context.feeds.items():
            for order in feed.state.orders.values():
                self._saw_time(now, self._context.markets[key], order.time)

    def owner_of(self, key: bytes) -> str:
        owner = self._ids.get(key)
        if owner is None:
            owner = self._context.keys.node_id_of(key)
            if len(key) == 32 and len(self._ids) < self.bounds.limits.max_feeds:
                self._ids[key] = owner
        return owner

    def _wants_feed(self, owner: str, market: str) -> bool:
        # The own feeds too: if others hold more of them, this data directory is an old copy.
        context = self._context
        found = context.markets.get(market)
        if (
            found is None
            or len(owner) != len(context.node_id)
            or not is_node_name(owner)  # requests go to the owner, not to `*`
            or (owner == context.node_id and context.stale is not None)
        ):
            return False
        # While the next batch is here and only delayed, requests would bring nothing new.
        replica = found.replicas.get(owner)
        if replica is None or replica.feed.fault:
            return not self.bounds.refuses(self._now, (owner, market))
        return replica.waits_until is None and replica.loading is None

    def on_batch(self, now: float, batch: Batch, via: str) -> bool:
        """Process a batch from the neighbour `via`. Returns False if it is invalid."""
        context = self._context
        owner = self.owner_of(batch.key)
        market = context.markets.get(batch.market)
        replica = market.replicas.get(owner) if market is not None else None
        if (
            market is None
            or owner == context.node_id
            or not self._may_hold(now, replica, owner, batch)
        ):
            try:
                digest = check_batch(context.keys, context.network, batch)
            except InvalidBatch:
                return False
            if market is not None and owner == context.node_id:
                self._on_own_batch(now, market, batch, digest, via)
            return True
        known = replica is not None
        if replica is None:
            replica = self._replica(Feed(owner, market.key))
        try:
            applied = replica.offer(batch, now)
        except InvalidBatch:
            return False  # a forged batch must not create a replica
        except FeedFault as fault:
            self._blame(now, market, owner, fault)
            applied = []
        if not known:
            if not market.visible(owner):
                self.bounds.owner_unseen(now, owner)
            market.replicas[owner] = replica
            context.feeds[owner, market.key] = replica.feed
        self._advance(now, market, replica, applied)
        if replica.gap:
            self.replicator.announced(now, via, owner, market.key, batch.first - 1)
        return True

    def _replica(self, feed: Feed) -> Replica:
        context = self._context
        return Replica(feed, context.keys, context.network, self.unconnected, self.bounds.rates)

    def _may_hold(self, now: float, replica: Replica | None, owner: str, batch: Batch) -> bool:
        """Check that a feed is held, or that there is room for it and it was not given up."""
        if replica is not None:
            return True
        return not self.bounds.refuses(now, (owner, batch.market)) and self._make_room(now)

    def _make_room(self, now: float) -> bool:
        """Give up a feed of an absent owner if there are too many feeds. Returns False if none was
        found."""
        context = self._context
        feeds = context.feeds
        if len(feeds) < self.bounds.limits.max_feeds:
            return True
        # The oldest feeds come first. Those of present owners go to the end, a few at a time.
        for name in list(islice(feeds, SCANNED)):
            owner, key = name
            if owner != context.node_id and not context.markets[key].visible(owner):
                self._give_up(now, owner, context.markets[key], ABSENT)
                return True
            feeds.move_to_end(name)
        return False

    def _give_up(self, now: float, owner: str, market: Market, reason: str) -> None:
        """Hide a feed's orders and drop the feed, except for its last batch."""
        replica = market.replicas[owner]
        replica.close()
        feed = replica.feed
        last = next(reversed(feed.batches.values()), None)
        batch = last.batch if last else feed.snapshot.batch if feed.snapshot else None
        del self._context.feeds[owner, market.key]
        self.replicator.forget(owner, market.key)
        orders = len(feed.state.orders)
        if feed.fault is not None:
            self._context.meta[f"{FAULT_META}{owner}:{market.key}"] = 0
        feed.fault = reason  # hides its orders; the replica is removed when all are hidden
        self.bounds.give_up(GivenUpFeed(owner, market.key, reason, now, batch))
        self._trades_known[owner, market.key] = feed.number
        self._context.records.append(GiveUpFeed(owner, market.key, reason, batch))
        self._context.warn(
            f"gave up the feed of node {owner} for {market.key} at number {feed.number} with {orders} "
            f"open orders: {reason}; its orders are hidden",
            "exceeds the bounds of feeds",
            owner,
        )
        self.refresh_owner(now, market, owner)

    def refresh_owner(
        self, now: float, market: Market, owner: str, *, uncross: bool = True
    ) -> None:
        """Show or hide all orders of an owner: at once, or in parts with each tick if there are
        many. An order that is not hidden yet is no risk: its owner decides about a take of it.
        Without `uncross` the caller matches what crosses then.
        """
        replica = market.replicas.get(owner)
        if replica is None:
            return
        self._begin(self._refresh(now, market, owner, uncross))

    def _begin(self, steps: Iterator[None]) -> None:
        """Do the first slice of some work now, and the others with each tick, in turn with those of other work."""
        if next(steps, self) is not self:
            self._slices.append(steps)

    def _refresh(self, now: float, market: Market, owner: str, uncross: bool) -> Iterator[None]:
        numbers = list(market.replicas[owner].feed.state.orders)
        for start in range(0, len(numbers) or 1, REFRESHED):
            if len(numbers) > REFRESHED:
                yield
                now, uncross = self._now, True
            for number in numbers[start : start + REFRESHED]:
                market.refresh(owner, number)
            if uncross and market.crossed:
                self._uncross(now, market)
        if owner in market.replicas and (owner, market.key) not in self._context.feeds:
            orders = market.replicas.pop(owner).feed.state.orders  # it was given up
            market.book.release_memory()
            yield from _free(orders)

    def _give_up_all(self, now: float, owner: str, reason: str, *, above: int = 0) -> None:
        """Give up the feeds of an owner that have more than `above` open orders."""
        for market in self._context.markets.values():
            replica = market.replicas.get(owner)
            held = (owner, market.key) in self._context.feeds
            if replica is not None and held and len(replica.feed.state.orders) > above:
                self._give_up(now, owner, market, reason)

    def _keep_bounds(self, now: float, market: Market, feed: Feed) -> None:
        """Give up feeds that exceed a limit after a change of `feed`."""
        bounds = self.bounds
        orders = len(feed.state.orders)
        bounds.measure((feed.owner, feed.market), orders)
        if orders > feed_limits.MAX_OPEN_ORDERS:
            reason = f"more than {feed_limits.MAX_OPEN_ORDERS} open orders"
            self._give_up(now, feed.owner, market, reason)
        while (heaviest := bounds.too_heavy()) is not None:
            reason = (
                f"more than {bounds.limits.max_orders} open orders in all, most of them its own"
            )
            self._give_up_all(now, heaviest, reason)
            if bounds.too_heavy() == heaviest:
                break

    def presence_changed(self, now: float, owner: str, *, present: bool) -> None:
        """Note that an owner's presence lease began or ended."""
        if present:
            self.bounds.owner_present(owner)
        else:
            self.bounds.owner_left(now, owner)
            self.replicator.owner_gone(now, owner)

    @property
    def refreshing(self) -> bool:
        """Report if owners' orders are being shown, hidden or packed, or many batches applied, a part with each
        tick."""
        return bool(self._slices or self._context.working or self._resuming)

    @property
    def busy(self) -> bool:
        """Report if batches are delayed, or owners' orders are being shown, hidden or packed."""
        return self.refreshing or len(self._waiting) > 0

    def tick(self, now: float) -> None:
        """Apply delayed batches that are due; give up heavy feeds of owners that are absent for
        long."""
        self._now = now
        if self._slices:
            self._begin(self._slices.popleft())
        self._work()
        self._resume_waiting(now)
        for owner in self.bounds.absent_owners(now):
            self._give_up_all(now, owner, ABSENT, above=self.bounds.limits.absent_orders)

    def _work(self) -> None:
        """Let the next feed that has work to do beside trading do a slice of it."""
        working = self._context.working
        name = next(iter(working), None)
        if name is not None:
            feed = working.pop(name)
            if feed.step():
                working[name] = feed

    def _resume_waiting(self, now: float) -> None:
        """Apply the delayed batches that are due, those of one feed in a tick if there are many."""
        events = 0
        for until, (owner, key) in self._waiting.pop_through(now):
            if events >= RESUMED:
                self._waiting.set((owner, key), until)
                continue
            market = self._context.markets[key]
            replica = market.replicas.get(owner)
            if replica is None or replica.waits_until != until:
                continue
            try:
                applied = replica.resume(now)
            except FeedFault as fault:
                self._blame(now, market, owner, fault)
                applied = []
            events += sum(len(batch.events) for batch in applied)
            self._advance(now, market, replica, applied)
        due = self._waiting.least()
        self._resuming = due is not None and due <= now

    def _advance(self, now: float, market: Market, replica: Replica, applied: list[Batch]) -> None:
        feed = replica.feed
        if replica.waits_until is not None:
            self._waiting.set((feed.owner, feed.market), replica.waits_until)
        known = self._trades_known.get((feed.owner, feed.market), 0)
        for batch in applied:
            self._context.records.append(PutBatch(feed.owner, batch))
            for number, event in enumerate(batch.events, batch.first):
                if isinstance(event, (Opened, Moved)):
                    self._saw_time(now, market, event.time)
                    market.forget(feed.owner, event.order)
                elif isinstance(event, Filled):
                    if number > known:  # otherwise added before the feed was given up
                        self._context.add_trade(market, Trade(feed.owner, event, number))
                    if event.taker == self._context.node_id:
                        self._check_remembered(feed.owner, event)
                        self._filled(feed.owner, market.key, event, number)
                if not isinstance(event, Checkpoint):
                    market.refresh(feed.owner, event.order)
        self._context.save_snapshot(feed)
        if applied:
            self.replicator.advanced(now, feed.owner, market.key, feed.number)
            market.drop_holds(now, feed.owner)
            self._keep_bounds(now, market, feed)
            if market.crossed:
                self._uncross(now, market)

    def confirm(self, now: float, owner: str, heads: list[tuple[str, int]]) -> None:
        """Mark feeds as complete here, by the heads that their owner has just published."""
        for key, number in heads:
            market = self._context.markets.get(key)
            replica = None if market is None else market.replicas.get(owner)
            if replica is not None and number <= replica.feed.number:
                replica.complete_at = now

    def _check_remembered(self, owner: str, event: Filled) -> None:
        """Warn, once, if a fill names a take of this node that its journal does not contain.

        A warning only, because any node can publish such an event."""
        context = self._context
        if event.take in context.forgotten and self.recovery is None:
            context.forgotten = range(0)
            context.warn(
                f"node {owner} claims that this node took {event.quantity} lots from its order "
                f"{event.order}, which is not in this data directory: the directory is an old "
                f"copy with incomplete fills, or the claim is false"
            )

    def _saw_time(self, now: float, market: Market, time: int) -> None:
        """Give own orders later times than this one, unless its owner's clock is far ahead."""
        if time <= self._context.us(now) + MAX_DRIFT_US:
            market.last_time = max(market.last_time, time)

    def _blame(self, now: float, market: Market, owner: str, fault: FeedFault) -> None:
        self._context.warn(
            f"node {owner} contradicts its own feed for {market.key}: {fault}; its orders are hidden",
            "contradicts its own feed",
            owner,
        )
        self._context.meta[f"{FAULT_META}{owner}:{market.key}"] = 1
        replica = market.replicas.get(owner)
        if replica is not None:
            # They are part of the feed here, so they have to be after a restart.
            self._context.records += [PutBatch(owner, batch) for batch in replica.fault_batches]
            for number in replica.fault_orders:
                market.refresh(
                    owner, number
                )  # at once: the feed may not have these orders any more
        self.refresh_owner(now, market, owner)
        self.replicator.forget(owner, market.key)

    def _on_own_batch(
        self, now: float, market: Market, batch: Batch, digest: bytes, via: str
    ) -> None:
        """Compare a batch that this node's key signed with the own feed; apply it in a recovery."""
        if self.recovery is not None:
            self.recovery.on_batch(now, market.key, batch)
            own = self.recovery.feeds[market.key]
            self.replicator.advanced(now, self._context.node_id, market.key, own.feed.number)
            if own.replica.gap:
                self.replicator.announced(
                    now, via, self._context.node_id, market.key, batch.first - 1
                )
            return
        feed = market.writer.feed
        held = feed.batches.get(batch.first)
        if batch.last <= feed.base or (held is not None and held.digest == digest):
            return
        if self._context.stale is None:
            self._context.stale = (
                f"the network has event {batch.last} of this node's feed for {market.key}, but the feed in "
                f"this data directory ends at {feed.number}: it is an old copy. Start with the "
                "current data directory; or stop, and run 'exchange-node recover --from-peers' on this one"
            )
            self._context.warn(self._context.stale)
        self.replicator.forget(self._context.node_id, market.key)

    def on_part(self, now: float, node: str, part: FeedPart) -> bool:
        """Process an answer. Returns False if it is invalid, as far as it has been processed when this returns."""
        if part.market not in self._context.markets:
            return True
        self._now = now
        found: list[bool] = []
        steps = self._process(node, part, found)
        if len(self._slices) < MAX_SLICES:
            self._begin(steps)
        else:
            for _ in steps:
                pass
        return found != [False]

    def _process(self, node: str, part: FeedPart, valid: list[bool]) -> Iterator[None]:
        """Process the batches of an answer in slices, then the rest. Puts into `valid` whether all of it is."""
        events = 0
        for batch in part.batches:
            cost = len(batch.events) + BATCH_EVENTS
            if events and events + cost > RESUMED:
                yield
                events = 0
            events += cost
            if (
                batch.market != part.market
                or self.owner_of(batch.key) != part.owner
                or not self.on_batch(self._now, batch, node)
            ):
                valid.append(False)
                return
        valid.append(self._finish_part(self._now, node, part))

    def _finish_part(self, now: float, node: str, part: FeedPart) -> bool:
        market = self._context.markets[part.market]
        checkpoint = part.checkpoint
        if checkpoint is not None:
            # Checked before its pages are kept, which may be large.
            if checkpoint.market != part.market or self.owner_of(checkpoint.key) != part.owner:
                return False
            try:
                digest = check_batch(self._context.keys, self._context.network, checkpoint)
            except InvalidBatch:
                return False
            if part.owner == self._context.node_id and self.recovery is None:
                self._on_own_batch(now, market, checkpoint, digest, node)
                return True
        complete = self.replicator.on_part(now, node, part)
        if complete is None:
            return True
        self._adopt(now, market, part.owner, *complete)
        replica = market.replicas.get(part.owner)
        if replica is not None and replica.loading is not None:
            self.replicator.forget(part.owner, market.key)
        return True

    def _adopt(
        self, now: float, market: Market, owner: str, checkpoint: Batch, pages: list[bytes]
    ) -> None:
        """Replace the state of a feed by a complete snapshot, unless it is older."""
        if owner == self._context.node_id:
            if self.recovery is not None:
                self.recovery.adopt(now, market.key, checkpoint, pages)
                number = self.recovery.feeds[market.key].feed.number
                self.replicator.advanced(now, owner, market.key, number)
            return
        replica = market.replicas.get(owner)
        if not self._may_hold(now, replica, owner, checkpoint):
            return
        if replica is None:
            replica = self._replica(Feed(owner, market.key))
            if not market.visible(owner):
                self.bounds.owner_unseen(now, owner)
        market.replicas[owner] = replica
        self._context.feeds[owner, market.key] = replica.feed
        self._now = now
        self._begin(self._load(market, replica, checkpoint, pages))

    def _load(
        self, market: Market, replica: Replica, checkpoint: Batch, pages: list[bytes]
    ) -> Iterator[None]:
        """Read a snapshot, hide the orders that it replaces and show its own, in slices. Batches of the feed wait
        until it is read."""
        feed, owner = replica.feed, replica.feed.owner
        loading = replica.load_snapshot(checkpoint, pages)
        if loading is None:
            return
        try:
            yield from loading
        except FeedFault as fault:
            self._blame(self._now, market, owner, fault)
            return
        if replica.loading is None:
            return  # the feed was given up meanwhile
        orders = iter(replica.loading[1].orders.values())
        while some := list(islice(orders, TIMES)):
            for order in some:
                self._saw_time(self._now, market, order.time)
            if len(some) == TIMES:
                yield
        feed.replaced = True
        before = list(feed.state.orders)
        for start in range(0, len(before), REFRESHED):
            if start:
                yield
            for number in before[start : start + REFRESHED]:
                market.refresh(owner, number)
        now, old = self._now, feed.state.orders
        try:
            applied = replica.adopt_loaded(now)
        except FeedFault as fault:
            self._blame(now, market, owner, fault)
            return
        if applied is None:
            return
        feed.replaced = False
        self.refresh_owner(now, market, owner, uncross=False)
        self._advance(now, market, replica, applied)
        self.replicator.advanced(now, owner, market.key, feed.number)
        market.drop_holds(now, owner)
        if not applied:
            self._keep_bounds(now, market, feed)
        if market.crossed:
            self._uncross(now, market)
        yield from _free(old)


def _free(orders: dict[int, ShownOrder]) -> Iterator[None]:
    """Free the memory of orders in slices."""
    while len(orders) > TIMES:
        for _ in range(TIMES):
            orders.popitem()
        yield
