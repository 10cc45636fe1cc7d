"""The exchange on one node: own orders, matching, takes, feeds, presence. No I/O.

A shell calls `submit`, `cancel`, `receive`, `tick` and the like, then `drain`: it makes the records
durable, and only then sends the messages and acknowledges what clients asked. Everything that must
hold under faults (`docs/architecture.md`) is decided here, so that a simulator can drive it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from exchange.events import (
    BUY,
    MAX_PRICE,
    MAX_QUANTITY,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Filled,
    InvalidBatch,
    Opened,
    OrderEvent,
    check_batch,
)
from exchange.feed import Feed, FeedFault, Replica, Writer
from exchange.market import NUMBER_BITS, Hold, Market, Owners, Trade
from exchange.messages import (
    MESSAGES,
    Digest,
    FeedPart,
    FeedRequest,
    Presence,
    Take,
    TakeResult,
    pack,
    unpack,
)
from exchange.ports import Broadcast, Keys, Message, Send
from exchange.presence import Leases
from exchange.records import (
    Decision,
    DropDecisions,
    DropTake,
    Fill,
    Order,
    PendingTake,
    PutBatch,
    PutDecision,
    PutFill,
    PutMeta,
    PutOrder,
    PutSnapshot,
    PutTake,
    Record,
    Recovered,
)
from exchange.replication import Replicator
from exchange.settlement import Maker, Taker, result_of

MAX_DRIFT_US = 5_000_000  # others' order times further ahead than this do not move ours
REFUSED_HOLD = 5.0  # seconds: an order whose owner refuses for a reason its feed will not show
RECENT_ORDERS = 10_000  # finished orders kept in memory, for answers and for client ids
MAX_FEEDS = 100_000
MAX_DECISIONS = 10_000  # for one taker that never says what it knows: then it is not answered


class Refused(Exception):
    """A command that was not carried out. `code` is stable, the text is a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Drained(msgspec.Struct):
    """What came of the calls since the last `drain`.

    `records` first, all of them, then `messages` in order; `levels`, `trades`, `orders` and `fills`
    tell readers what changed.
    """

    records: list[Record]
    messages: list[Message]
    levels: list[tuple[str, int, int]]  # (market, side, price)
    trades: list[tuple[str, Trade]]
    orders: list[Order]  # copies
    fills: list[Fill]


class Engine:
    """See the module's docstring. `now` is monotonic seconds everywhere; `epoch_us` is the wall clock
    at `now` = 0, in microseconds since the epoch."""

    def __init__(
        self,
        keys: Keys,
        markets: Iterable[str],
        *,
        network: str,
        epoch_us: int,
        rng: random.Random,
        recovered: Recovered | None = None,
        lease_ms: int = 9000,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        past = recovered or Recovered()
        self.node_id = keys.node_id
        self.epoch_us = epoch_us
        self.stale: str | None = None  # why this node must not write its feeds any more
        self.unknown_markets: dict[str, str] = {}  # market -> a node that trades it
        self._keys = keys
        self._network = network
        self._rng = rng
        self._warn = warn
        self._owners = Owners(keys.node_id)
        self._ids: dict[bytes, str] = {}
        self._feeds: dict[tuple[str, str], Feed] = {}
        incarnation = past.meta.get("incarnation", 0) + 1
        self._leases = Leases(keys, network, incarnation=incarnation, lease_ms=lease_ms)
        self._taker = Taker()
        self._maker = Maker()
        self._next_order = past.meta.get("next_order", 1)
        self._next_take = past.meta.get("next_take", 1)
        self._meta_dirty: dict[str, int] = {"incarnation": incarnation}
        self._open: dict[int, Order] = {}
        self._recent: OrderedDict[int, Order] = OrderedDict()
        self._client_ids: dict[str, int] = {}
        self._records: list[Record] = []
        self._messages: list[Message] = []
        self._trades: list[tuple[str, Trade]] = []
        self._fills: list[Fill] = []
        self._dirty: dict[int, Order] = {}
        self.markets: dict[str, Market] = {}
        for key in markets:
            feed = self._feeds[self.node_id, key] = Feed(self.node_id, key)
            writer = Writer(feed, keys, network)
            self.markets[key] = Market(key, self._owners, writer, self._leases.present)
        self._replicator = Replicator(self.node_id, self._feeds, self._wants_feed, rng)
        self._restore(past)

    # State that readers see

    @property
    def open_orders(self) -> list[Order]:
        """Own orders that are not done, oldest first."""
        return list(self._open.values())

    @property
    def recent_orders(self) -> list[Order]:
        """Own finished orders still in memory, oldest first."""
        return list(self._recent.values())

    def order(self, number: int) -> Order | None:
        return self._open.get(number) or self._recent.get(number)

    @property
    def pending_takes(self) -> list[PendingTake]:
        return self._taker.pending

    @property
    def present(self) -> list[str]:
        """Other owners whose lease runs."""
        return self._leases.owners

    @property
    def feeds(self) -> dict[tuple[str, str], Feed]:
        return self._feeds

    @property
    def feeds_behind(self) -> int:
        return self._replicator.behind

    def summary(self) -> bytes:
        """Equal on nodes that hold the same feeds."""
        return self._replicator.summary()

    def _us(self, now: float) -> int:
        return self.epoch_us + int(now * 1_000_000)

    # Starting

    def _restore(self, past: Recovered) -> None:
        for stored in past.feeds:
            market = self.markets.get(stored.market)
            if market is None:
                continue
            feed = Feed(stored.owner, stored.market)
            feed.reload(stored.snapshot, stored.batches, self._network)
            self._feeds[stored.owner, stored.market] = feed
            if stored.owner == self.node_id:
                market.writer = Writer(feed, self._keys, self._network)
            else:
                market.replicas[stored.owner] = Replica(feed, self._keys, self._network)
            for batch in stored.batches:
                market.tape.extend(
                    Trade(stored.owner, event)
                    for event in batch.events
                    if isinstance(event, Filled)
                )
            for shown in feed.state.orders.values():
                market.last_time = max(market.last_time, shown.time)
        for order in past.orders:
            if order.client_id is not None:
                self._client_ids[order.client_id] = order.number
            if order.done:
                self._recent[order.number] = order
            elif order.market in self.markets:
                self._open[order.number] = order
        self._maker.restore(past.decisions, past.marks)
        for take in sorted(past.takes, key=lambda t: t.take):
            if take.market in self.markets:
                # The world has moved on since it was asked: the outcome is wanted, not a new fill.
                take.void = True
                self._taker.add(0.0, take)
                self.markets[take.market].reserve(take.maker, take.maker_order, take.quantity)
        for market in self.markets.values():
            market.refresh_owner(self.node_id)

    def resume(self, now: float) -> None:
        """Call once after the start: unfinished market orders end, limit orders look at the book."""
        for order in list(self._open.values()):
            self._continue(now, order)

    # Commands

    def submit(
        self,
        now: float,
        market_key: str,
        side: int,
        price: int | None,
        quantity: int,
        client_id: str | None = None,
    ) -> Order:
        """A new order in ticks and lots; `price` None for a market order.

        Acknowledge it to the client only when the records of the next `drain` are durable. With a
        `client_id` that was used before, the earlier order is returned and nothing is done.

        Raises:
            Refused: not accepted; nothing was changed.
        """
        market = self.markets.get(market_key)
        if market is None:
            raise Refused("unknown_market", f"this node does not trade {market_key}")
        if side not in (BUY, SELL):
            raise Refused("bad_side", "side is buy or sell")
        if not 0 < quantity < MAX_QUANTITY or (price is not None and not 0 < price < MAX_PRICE):
            raise Refused(
                "out_of_range", "price and quantity must be positive and not absurdly large"
            )
        if client_id is not None and client_id in self._client_ids:
            earlier = self.order(self._client_ids[client_id])
            if earlier is not None:
                same = (earlier.market, earlier.side, earlier.price, earlier.quantity)
                if same != (market_key, side, price, quantity):
                    raise Refused(
                        "client_id_reused",
                        f"client id {client_id!r} belongs to order {earlier.number}, which is different",
                    )
                return earlier
        if self.stale is not None:
            raise Refused("stale_data", self.stale)
        time = max(self._us(now), market.last_time + 1)
        market.last_time = time
        order = Order(self._next_order, market_key, side, price, quantity, time, client_id)
        self._next_order += 1
        self._meta_dirty["next_order"] = self._next_order
        self._open[order.number] = order
        if client_id is not None:
            self._client_ids[client_id] = order.number
        self._continue(now, order)
        return order

    def cancel(self, now: float, number: int) -> Order:
        """Cancel what is not filled. What is pending with another owner is decided by that owner:
        it is asked at once to refuse what it has not granted yet.

        Raises:
            Refused: no such order, or nothing left to cancel.
        """
        order = self._open.get(number)
        if order is None:
            finished = self._recent.get(number)
            if finished is None:
                raise Refused("unknown_order", f"this node has no order {number}")
            how = "filled" if finished.filled == finished.quantity else "cancelled"
            raise Refused("order_done", f"order {number} is already {how}")
        if order.cancelled:
            raise Refused(
                "order_done",
                f"order {number} is being cancelled; {order.pending} lots wait for another node's answer",
            )
        if self.stale is not None:
            raise Refused("stale_data", self.stale)
        order.cancelled = True
        for take in self._taker.of_order(number):
            self._taker.void(now, take.take)
        self._publish(order)
        return order

    def leave(self, now: float) -> None:
        """Say goodbye: replicas stop showing this node's orders at once."""
        self._messages.append(Broadcast("presence", pack(self._presence(now, leaving=True))))

    # Matching

    def _continue(self, now: float, order: Order) -> None:
        """Fill what is free as far as the book goes; then rest (limit) or end (market) the remainder."""
        if order.free and self.stale is None:
            self._take_liquidity(now, order, only_earlier=False)
        if order.price is None and order.free and not order.pending:
            order.cancelled = True  # nothing left to trade with
        self._publish(order)

    def _take_liquidity(self, now: float, order: Order, *, only_earlier: bool) -> None:
        market = self.markets[order.market]
        mine = (order.time, self.node_id, order.number)
        wanted = order.free
        plan = []
        for key, price, quantity in market.book.crossing(order.side, order.price):
            # Of two crossed orders the later one takes: a later one's owner will ask us.
            if not only_earlier or market.priority(key) < mine:
                plan.append((key, price, min(quantity, wanted)))
            wanted -= min(quantity, wanted)
            if not wanted:
                break
        for key, price, quantity in plan:
            owner, number = self._owners.split(key)
            if owner == self.node_id:
                self._fill_here(now, market, order, self._open[number], price, quantity)
            else:
                self._ask(now, market, order, owner, number, price, quantity)

    def _uncross(self, now: float, market: Market) -> None:
        """Own resting orders that cross earlier orders of others take them."""
        crossed = []
        for side in (BUY, SELL):
            best = market.book.best(-side)
            if best is None:
                continue
            for key, price, *_ in market.book.orders(side):
                if side * price < side * best:
                    break
                if key >> NUMBER_BITS == 0:
                    crossed.append(self._open[key])
        for order in crossed:
            if order.free:
                self._take_liquidity(now, order, only_earlier=True)
                self._publish(order)

    def _fill_here(
        self, now: float, market: Market, taker: Order, maker: Order, price: int, quantity: int
    ) -> None:
        """A trade between two of this node's own orders."""
        take = self._new_take()
        time = max(self._us(now), 1)
        self._fill_maker(market, maker, self.node_id, take, taker.number, price, quantity, time)
        self._fill_taker(taker, take, self.node_id, maker.number, price, quantity, time)

    def _fill_maker(
        self,
        market: Market,
        order: Order,
        taker: str,
        take: int,
        taker_order: int,
        price: int,
        quantity: int,
        time: int,
    ) -> None:
        order.filled += quantity
        order.value += price * quantity
        order.shown = order.free
        left = order.free + order.pending
        self._write(
            market,
            Filled(order.number, order.side, quantity, price, order.shown, left, taker, take, time),
        )
        self._add_fill(
            Fill(
                taker,
                take,
                "maker",
                order.market,
                order.number,
                order.side,
                price,
                quantity,
                time,
                taker,
                taker_order,
            )
        )
        self._publish(order)

    def _fill_taker(
        self,
        order: Order,
        take: int,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        time: int,
    ) -> None:
        order.filled += quantity
        order.value += price * quantity
        self._add_fill(
            Fill(
                self.node_id,
                take,
                "taker",
                order.market,
                order.number,
                order.side,
                price,
                quantity,
                time,
                maker,
                maker_order,
            )
        )
        self._dirty[order.number] = order

    def _add_fill(self, fill: Fill) -> None:
        self._records.append(PutFill(fill))
        self._fills.append(fill)

    def _new_take(self) -> int:
        take = self._next_take
        self._next_take += 1
        self._meta_dirty["next_take"] = self._next_take
        return take

    def _publish(self, order: Order) -> None:
        """Make the feed show what is free, and end the order when nothing more can happen to it."""
        self._dirty[order.number] = order
        market = self.markets[order.market]
        shown = order.free if order.price is not None else 0
        finished = not order.pending and (order.cancelled or order.filled == order.quantity)
        if finished:
            order.done = True
            order.shown = 0
            if order.opened and order.number in market.writer.feed.state.orders:
                reason = "filled" if order.filled == order.quantity else "cancelled"
                self._write(market, Closed(order.number, reason))
            if self._open.pop(order.number, None) is not None:
                self._recent[order.number] = order
                while len(self._recent) > RECENT_ORDERS:
                    _, old = self._recent.popitem(last=False)
                    if old.client_id is not None:
                        self._client_ids.pop(old.client_id, None)
        elif not order.opened:
            if shown and order.price is not None:
                order.opened = True
                order.shown = shown
                self._write(
                    market, Opened(order.number, order.side, order.price, shown, order.time)
                )
        elif shown != order.shown:
            order.shown = shown
            self._write(market, Amended(order.number, shown))

    def _write(self, market: Market, event: OrderEvent) -> None:
        """Append to the own feed of a market and show it in the own book."""
        market.writer.append(event)
        if isinstance(event, Filled):
            self._add_trade(market, Trade(self.node_id, event))
        market.refresh(self.node_id, event.order)

    def _add_trade(self, market: Market, trade: Trade) -> None:
        market.tape.append(trade)
        self._trades.append((market.key, trade))

    # Taking from other owners

    def _ask(
        self,
        now: float,
        market: Market,
        order: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
    ) -> None:
        take = PendingTake(
            self._new_take(),
            market.key,
            order.number,
            maker,
            maker_order,
            order.side,
            price,
            quantity,
        )
        order.pending += quantity
        market.reserve(maker, maker_order, quantity)
        self._taker.add(now, take)
        self._records.append(PutTake(msgspec.structs.replace(take)))
        self._dirty[order.number] = order

    def _on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        take = self._taker.get(result.take)
        if take is None or take.maker != maker:
            return True  # answered before, or nothing of ours
        if not self._taker.plausible(take, result):
            self._warn(f"node {maker} answered take {result.take} with something impossible")
            return False
        self._taker.resolve(take.take)
        self._records.append(DropTake(take.take))
        market = self.markets[take.market]
        order = self._open[take.order]
        order.pending -= take.quantity
        if result.quantity:
            self._fill_taker(
                order, take.take, maker, take.maker_order, take.price, result.quantity, result.time
            )
        feed_will_tell = result.reason in ("", "gone", "void")
        market.release(
            maker,
            take.maker_order,
            take.quantity,
            Hold(result.quantity if result.quantity == take.quantity else None, result.number, None)
            if feed_will_tell
            else Hold(None, None, now + REFUSED_HOLD),
        )
        self._continue(now, order)
        return True

    # Being taken from

    def _on_take(self, now: float, taker: str, ask: Take) -> bool:
        if self._maker.stale(taker, ask.take):
            return True
        if ask.take < 1 or ask.quantity < 1 or ask.below < 1 or ask.below > ask.take:
            return False
        if self._maker.forget(taker, ask.below):
            self._records.append(DropDecisions(taker, ask.below))
        decision = self._maker.decided(taker, ask.take)
        if decision is None:
            if self._maker.undisclosed(taker) >= MAX_DECISIONS:
                return True
            decision = self._decide(now, taker, ask)
            self._maker.record(decision)
            self._records.append(PutDecision(decision))
        self._messages.append(Send(taker, "take_result", pack(result_of(decision))))
        return True

    def _decide(self, now: float, taker: str, ask: Take) -> Decision:
        market = self.markets.get(ask.market)
        order = self._open.get(ask.order)
        quantity = 0
        time = max(self._us(now), 1)
        if market is None:
            reason = "unknown_market"
        elif self.stale is not None:
            reason = "stale_data"
        elif ask.void:
            reason = "void"
        elif (
            order is None
            or order.market != ask.market
            or order.price != ask.price
            or not order.shown
        ):
            reason = "gone"
        else:
            quantity = min(ask.quantity, order.shown)
            reason = ""
            self._fill_maker(
                market, order, taker, ask.take, ask.taker_order, ask.price, quantity, time
            )
        number = market.writer.number if market is not None else 0
        return Decision(
            taker, ask.take, ask.market, ask.order, ask.price, quantity, time, number, reason
        )

    # Messages

    def receive(self, now: float, message_type: str, payload: bytes, origin: str, via: str) -> bool:
        """A message of `exchange.messages`. `origin` is proven for messages to this node alone; what
        is broadcast proves itself. `via` is the neighbour that brought it.

        Returns:
            Whether it is valid: an invalid one must not be passed on.
        """
        try:
            message = unpack(message_type, payload)
        except (msgspec.DecodeError, RecursionError, KeyError):
            return False
        if isinstance(message, Batch):
            return self._on_batch(now, message, via)
        if isinstance(message, Presence):
            return self._on_presence(now, message, via)
        if isinstance(message, Take):
            return self._on_take(now, origin, message)
        if isinstance(message, TakeResult):
            return self._on_result(now, origin, message)
        if isinstance(message, Digest):
            self._replicator.on_digest(now, origin, message)
        elif isinstance(message, FeedRequest):
            self._replicator.on_request(origin, message)
        elif isinstance(message, FeedPart):
            return self._on_part(now, origin, message)
        return True

    def neighbour_up(self, now: float, node: str) -> None:
        """A link to `node` is there."""
        self._replicator.neighbour_up(now, node)
        self._taker.hurry(now, node)
        self._leases.hurry(now, 0.0)

    def neighbour_down(self, now: float, node: str) -> None:
        self._replicator.neighbour_down(node)

    def _owner_of(self, key: bytes) -> str:
        owner = self._ids.get(key)
        if owner is None:
            owner = self._keys.node_id_of(key)
            if len(self._ids) < MAX_FEEDS:
                self._ids[key] = owner
        return owner

    def _wants_feed(self, owner: str, market: str) -> bool:
        # One's own too: more of it out there than here means that this data directory is an old copy.
        return (
            market in self.markets
            and 0 < len(owner) <= 64
            and not (owner == self.node_id and self.stale is not None)
        )

    def _on_batch(self, now: float, batch: Batch, via: str) -> bool:
        owner = self._owner_of(batch.key)
        market = self.markets.get(batch.market)
        if market is None or owner == self.node_id:
            try:
                check_batch(self._keys, self._network, batch)
            except InvalidBatch:
                return False
            if market is not None and batch.last > market.writer.number:
                self._gone_stale(market.key, batch.last, market.writer.number)
            return True
        replica = market.replicas.get(owner)
        if replica is None:
            if len(self._feeds) >= MAX_FEEDS:
                return True
            feed = Feed(owner, market.key)
            replica = Replica(feed, self._keys, self._network)
            try:
                applied = replica.offer(batch)
            except InvalidBatch:
                return False  # no state for a stranger's forgery
            except FeedFault as fault:
                self._blame(market, owner, fault)
                applied = []
            market.replicas[owner] = replica
            self._feeds[owner, market.key] = feed
        else:
            try:
                applied = replica.offer(batch)
            except InvalidBatch:
                return False
            except FeedFault as fault:
                self._blame(market, owner, fault)
                return True
        self._advance(now, market, replica, applied)
        if replica.gap:
            self._replicator.claimed(now, via, owner, market.key, batch.first - 1)
        return True

    def _advance(self, now: float, market: Market, replica: Replica, applied: list[Batch]) -> None:
        feed = replica.feed
        for batch in applied:
            self._records.append(PutBatch(feed.owner, batch))
            for event in batch.events:
                if isinstance(event, Opened):
                    self._saw_time(now, market, event.time)
                elif isinstance(event, Filled):
                    self._add_trade(market, Trade(feed.owner, event))
                if not isinstance(event, Checkpoint):
                    market.refresh(feed.owner, event.order)
        self._save_snapshot(feed)
        if applied:
            self._replicator.advanced(now, feed.owner, market.key, feed.number)
            market.drop_holds(now, feed.owner)
            if market.book.crossed:
                self._uncross(now, market)

    def _saw_time(self, now: float, market: Market, time: int) -> None:
        """Own orders come after every order seen, unless its owner's clock is absurdly far ahead."""
        if time <= self._us(now) + MAX_DRIFT_US:
            market.last_time = max(market.last_time, time)

    def _save_snapshot(self, feed: Feed) -> None:
        if feed.snapshot_moved and feed.snapshot is not None:
            feed.snapshot_moved = False
            self._records.append(PutSnapshot(feed.owner, feed.market, feed.snapshot))

    def _blame(self, market: Market, owner: str, fault: FeedFault) -> None:
        self._warn(
            f"node {owner} contradicts its own feed for {market.key}: {fault}; its orders are hidden"
        )
        market.refresh_owner(owner)

    def _gone_stale(self, market: str, theirs: int, ours: int) -> None:
        if self.stale is None:
            self.stale = (
                f"the network has {theirs} events of this node's feed for {market}, this data "
                f"directory only {ours}: it is an old copy. Start with the current data directory, "
                "or with a new one to become a new node"
            )
            self._warn(self.stale)
        self._replicator.forget(self.node_id, market)

    def _on_part(self, now: float, node: str, part: FeedPart) -> bool:
        market = self.markets.get(part.market)
        if market is None:
            return True
        for batch in part.batches:
            if batch.market != part.market or self._owner_of(batch.key) != part.owner:
                return False
            if not self._on_batch(now, batch, node):
                return False
        complete = self._replicator.on_part(now, node, part)
        if complete is None:
            return True
        batch, pages = complete
        if batch.market != part.market or self._owner_of(batch.key) != part.owner:
            return False
        replica = market.replicas.get(part.owner)
        if replica is None:
            replica = Replica(Feed(part.owner, part.market), self._keys, self._network)
        before = list(replica.feed.state.orders)
        try:
            if not replica.offer_snapshot(batch, pages):
                return True
        except (InvalidBatch, FeedFault, msgspec.DecodeError):
            return False
        market.replicas[part.owner] = replica
        self._feeds[part.owner, part.market] = replica.feed
        market.replaced(part.owner, before)
        for order in replica.feed.state.orders.values():
            self._saw_time(now, market, order.time)
        self._save_snapshot(replica.feed)
        self._replicator.advanced(now, part.owner, part.market, replica.feed.number)
        market.drop_holds(now, part.owner)
        if market.book.crossed:
            self._uncross(now, market)
        return True

    # Presence and time

    def _presence(self, now: float, *, leaving: bool = False) -> Presence:
        heads = [(key, market.writer.number) for key, market in self.markets.items()]
        return self._leases.make(now, heads, leaving=leaving)

    def _on_presence(self, now: float, presence: Presence, via: str) -> bool:
        owner = self._owner_of(presence.key)
        was_present = self._leases.present(owner)
        valid, owner, newcomer = self._leases.accept(now, presence)
        if not valid:
            return False
        if newcomer:
            self._leases.hurry(now, self._rng.uniform(0.0, 0.5))
            self._taker.hurry(now, owner)
        for key, number in presence.heads:
            if key in self.markets:
                self._replicator.claimed(now, via, owner, key, number)
            elif len(self.unknown_markets) < 1000:
                self.unknown_markets[key[:80]] = owner
        if was_present != self._leases.present(owner):
            self._owner_changed(now, owner)
        return True

    def _owner_changed(self, now: float, owner: str) -> None:
        for market in self.markets.values():
            if owner in market.replicas:
                market.refresh_owner(owner)
                if market.book.crossed:
                    self._uncross(now, market)

    def tick(self, now: float) -> None:
        """Whatever time brings. Call a few times a second."""
        for owner in self._leases.expire(now):
            self._owner_changed(now, owner)
        self._replicator.tick(now)
        for market in self.markets.values():
            for owner in market.held_owners:
                market.drop_holds(now, owner)
            if market.book.crossed:
                self._uncross(now, market)

    def drain(self, now: float) -> Drained:
        """Records to make durable, then messages to send."""
        for maker, ask in self._taker.due(now):
            self._messages.append(Send(maker, "take", pack(ask)))
        for market in self.markets.values():
            for batch in market.writer.flush():
                self._records.append(PutBatch(self.node_id, batch))
                fills = any(isinstance(event, Filled) for event in batch.events)
                self._messages.append(Broadcast("trade" if fills else "order", pack(batch)))
            self._save_snapshot(market.writer.feed)
        if self._leases.renewal_due(now):
            self._messages.append(Broadcast("presence", pack(self._presence(now))))
        self._messages.extend(self._replicator.take_outgoing())
        copies = [msgspec.structs.replace(order) for order in self._dirty.values()]
        self._records.extend(PutOrder(copy) for copy in copies)
        self._records.extend(PutMeta(name, value) for name, value in self._meta_dirty.items())
        levels: list[tuple[str, int, int]] = []
        for market in self.markets.values():
            levels.extend((market.key, side, price) for side, price in market.touched)
            market.touched.clear()
        drained = Drained(self._records, self._messages, levels, self._trades, copies, self._fills)
        self._records, self._messages, self._trades, self._fills = [], [], [], []
        self._dirty, self._meta_dirty = {}, {}
        return drained


__all__ = ["MESSAGES", "Drained", "Engine", "Refused"]
