"""Engine of one node without I/O: order manager, feed ingest, presence leases and startup fence.

Theory of operation. A shell (`node`, or the simulator) passes commands to `Engine.orders` and messages
to `Engine.receive`, each with the time, and then calls `drain`. It makes the records of the drain
durable, and only then sends the messages and acknowledges the commands. Every decision that must hold
under faults (docs/architecture.md) is made in here, so that a simulator can drive it.

Rules of this folder:
- No clock, no randomness, no disk, no socket: `now` (monotonic seconds) and `rng` are arguments.
- Nothing raises after the first change of state: commands are checked first, then carried out.
- Whatever a message or a command gives rise to is carried out within the call
  (`OrderManager.run_queue`); nothing is left for the next one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy

import msgspec

from exchange.engine.feed_ingest import FeedIngest
from exchange.engine.lost_trades import RecoveryReport
from exchange.engine.order_manager import OrderManager
from exchange.engine.recovery import Recovery, RecoveryError
from exchange.engine.recovery_settlement import RecoverySettlement
from exchange.feeds.exchange_messages import (
    MAX_PRESENCE,
    MESSAGES,
    FeedDigest,
    FeedName,
    FeedPart,
    FeedRequest,
    Presence,
    PresencePart,
    PresenceRequest,
    Take,
    TakeResult,
    pack,
    unpack,
)
from exchange.feeds.feed_limits import FeedFigures, FeedLimits, GivenUpFeed
from exchange.feeds.presence import MAX_KNOWN, PresenceLeases
from exchange.feeds.presence_exchange import PresenceExchange, PresenceTable
from exchange.feeds.startup_fence import FENCE_GRACE, FENCE_GRACE_ALONE, FENCE_MAX, StartupFence
from exchange.ledger.statements import StatementTrade
from exchange.market.market_specs import MarketSpecs
from exchange.model.events import Batch, Filled
from exchange.model.instruments import Instrument
from exchange.model.peer_values import is_market_key
from exchange.model.ports import Broadcast, SigningKeys
from exchange.model.records import Order, PutBatch, PutMeta, Recovered, copy_plain
from exchange.orders.engine_context import (
    DEFAULT_RULES,
    CommandRejected,
    Drained,
    EngineContext,
    TradingRules,
    stored_decimals,
)
from p2p.ground.peer_texts import is_earlier_text

MAX_OTHER_STEPS = 1000  # owners
MAX_OTHER_STEPS_OF_OWNER = 20  # markets


class Engine:
    """Exchange of one node. `now` is monotonic seconds; `epoch_us` is the wall clock at `now` = 0, in
    microseconds since the epoch.

    Commands on own orders are methods of `orders`; own orders are read from `order_store`. Changes of
    `ledger` and `accounts` become durable with the next `drain`.
    """

    def __init__(
        self,
        keys: SigningKeys,
        markets: Iterable[str],
        *,
        network: str,
        epoch_us: int,
        rng: random.Random,
        instruments: Iterable[Instrument] = (),
        recovered: Recovered | None = None,
        lease_ms: int = 9000,
        fence_max: float = FENCE_MAX,
        warn: Callable[[str, str, str], None] = lambda text, kind, owner: None,
        now: float = 0.0,
        limits: FeedLimits | None = None,
        recover_from: Iterable[str] | None = None,
        rules: TradingRules = DEFAULT_RULES,
    ) -> None:
        """Restore an engine from its journal, or begin a new one.

        Args:
            markets: instrument keys.
            instruments: worth of ticks and lots, fees and rules of the markets; markets without an
                instrument are possible, see `exchange.market.market_specs`.
            recovered: contents of the journal. With any, the node ran before and keeps its own feeds
                fenced for at most `fence_max` seconds, see `exchange.feeds.startup_fence`.
            warn: receives texts for the log; for one about another node also its kind and that node, else "".
            limits: protection from other owners' feeds; the defaults if None.
            recover_from: nodes that have to answer; with any value but None the engine fetches its
                own feeds and writes nothing until `settle_recovery`, see
                `exchange.engine.recovery`.
            rules: choices of the operator about trades with others.
        """
        past = recovered or Recovered()
        markets = list(markets)
        # With an old copy of the journal the wall clock still makes the incarnation later than the
        # one that the network has seen.
        incarnation = max(past.meta.get("incarnation", 0) + 1, (epoch_us + int(now * 1e6)) // 10**6)
        self._rng = rng
        self._leases = PresenceLeases(
            keys,
            network,
            incarnation=incarnation,
            lease_ms=lease_ms,
            orders=lambda owner: self._ingest.bounds.orders_of(owner),
            crowd=self._crowd,
        )
        self._context = context = EngineContext(
            keys,
            markets,
            network=network,
            epoch_us=epoch_us,
            visible=self._leases.present,
            warn=warn,
            specs=MarketSpecs(markets, instruments, stored_decimals(past)),
            rules=rules,
        )
        context.meta["incarnation"] = incarnation
        context.restore_money(now, past)
        self.node_id = context.node_id
        self.ledger = context.ledger
        self.accounts = context.accounts
        self.specs = context.specs
        self.halts = context.halts
        self.markets = context.markets
        self.feeds = context.feeds  # by (owner, market), the own ones included
        self.orders = OrderManager(context, self._leases)
        self.order_store = self.orders.store
        self._kept_presences = PresenceTable()
        self._ingest = FeedIngest(
            context,
            rng,
            self.orders.matching.uncross,
            limits,
            presences=lambda: self._kept_presences.stated,
            filled=self.orders.taker_side.on_filled,
        )
        self._replicator = self._ingest.replicator
        self._presences = PresenceExchange(
            self._kept_presences, self._replicator.neighbours, lambda: len(self._leases)
        )
        self._symbols = {key.partition("@")[0] for key in self.markets}
        self.other_steps: dict[
            str, list[str]
        ] = {}  # by present owner: markets traded here in other steps, first ones
        self._ingest.restore(past, now)
        self.orders.restore(now, past)
        if past.unfit:
            context.warn(
                f"{past.unfit} records of the journal are set aside: other nodes wrote texts into them that are "
                "refused now. 'exchange-node journal verify' counts them too. Nothing needs to be done"
            )
        knows_others = any(stored.owner != keys.node_id for stored in past.feeds)
        self._fence = StartupFence(
            grace=FENCE_GRACE if knows_others else FENCE_GRACE_ALONE, longest=fence_max
        )
        context.fenced = bool(past.meta) or recover_from is not None
        self.recovery: Recovery | None = None
        if recover_from is not None:
            self.recovery = Recovery(context, past, recover_from)
            self._ingest.recovery = self.recovery
        self._on_fence_lifted: list[Callable[[], None]] = []

    # Reading

    @property
    def stale(self) -> str | None:
        """Reason why this node must not write its feeds any more; None while it may."""
        return self._context.stale

    @property
    def fenced(self) -> bool:
        """True while the startup fence keeps this node from writing its feeds. Orders and cancels are
        rejected with the code `starting`."""
        return self._context.fenced

    def undrained(self, account: int) -> bool:
        """Report if orders or money of an account changed since the last `drain`."""
        context = self._context
        return any(order.account == account for order in context.orders.values()) or any(
            balance.key[0] == account for balance in context.ledger.changed
        )

    def decided_by(self, now: float, order: int) -> int | None:
        """Return when takes of an order are decided at the latest if their makers stay connected, in us since the epoch;
        None without a bound, because a maker is of an earlier version or a reservation is being committed."""
        left = self.orders.takes.expected_end(order, self._leases.renewal)
        return None if left is None else self.us(now + left)

    def us(self, now: float) -> int:
        """Return the wall clock at `now`, in microseconds since the epoch."""
        return self._context.us(now)

    @property
    def present(self) -> list[str]:
        """Other owners with a valid presence lease."""
        return self._leases.owners

    @property
    def feeds_behind(self) -> int:
        """Number of feeds of which others claim to have more."""
        return self._replicator.behind

    def feeds_loading(self, now: float) -> int:
        """Return the number of feeds of which others are showing more."""
        return self._replicator.loading(now)

    def announced_feeds(self) -> dict[FeedName, int]:
        """Return the highest number announced by others of each feed that is behind."""
        return self._replicator.newest_announced()

    @property
    def given_up(self) -> list[GivenUpFeed]:
        """Feeds of others that this node does not hold any more, with the reasons."""
        return list(self._ingest.bounds.given_up.values())

    @property
    def feed_figures(self) -> FeedFigures:
        """Figures of the limits on feeds, for the metrics."""
        ingest = self._ingest
        return FeedFigures(
            given_up=len(ingest.bounds.given_up),
            orders=ingest.bounds.orders,
            delayed=ingest.bounds.rates.delayed,
            digests_dropped=self._replicator.digests_dropped,
            unconnected_bytes=ingest.unconnected.bytes,
            unconnected_evicted=ingest.unconnected.evicted,
        )

    def summary(self) -> bytes:
        """Return a digest that is equal on nodes that hold the same feeds."""
        return self._replicator.summary()

    # Start and stop

    def resume(self, now: float) -> None:
        """Call once after the start. As soon as the own feeds may be written, immediate orders end and
        resting ones are matched with the book."""
        self._ingest.resume(now)
        self._fence.begin(now)
        if self._context.fenced:
            self._lift_fence(now)
        else:
            self.orders.resume(now)

    def _lift_fence(self, now: float) -> None:
        """Lift the startup fence if its conditions are met, and continue the own orders."""
        context = self._context
        if self.recovery is not None:
            return
        doubt = self._replicator.is_missing(context.node_id)
        if context.stale is None and not self._fence.is_down(now, doubt=doubt):
            return
        context.fenced = False
        if context.stale is None:
            self.orders.resume(now)
        calls, self._on_fence_lifted = self._on_fence_lifted, []
        for call in calls:
            call()

    def when_fence_lifts(self, call: Callable[[], None]) -> None:
        """Call `call` once when the fence is lifted: now, or during a later `receive` or `tick`."""
        if self._context.fenced:
            self._on_fence_lifted.append(call)
        else:
            call()

    def seconds(self, us: int) -> float:
        """Return the time of the engine's clock for a wall clock's time."""
        return self._context.seconds(us)

    def store_meta(self, name: str, value: int) -> None:
        """Store a number of the shell in the journal; after a restart it is in `Recovered.meta`."""
        self._context.meta[name] = value

    def leave(self, now: float) -> None:
        """Announce the departure: replicas hide this node's orders at once."""
        presence = self._presence(now, leaving=True)
        self._context.messages.append(Broadcast("presence", pack(presence)))

    # Recovery

    def recovered_feeds(self, now: float) -> bool:
        """Report if the own feeds are complete as far as any node reports, and no other is loading."""
        if self.recovery is None:
            return True
        own = self._replicator.is_missing(self.node_id)
        return self.recovery.settled(now, behind=own or self.feeds_loading(now) > 0)

    def settle_recovery(
        self,
        now: float,
        statements: Mapping[str, list[StatementTrade]],
        complete: Collection[str],
    ) -> RecoveryReport:
        """Bring orders and money in line with the fetched feeds, see `exchange.engine.recovery`. Drain
        afterwards, and stop: the next start is an ordinary one.

        Raises:
            RecoveryError: the network's copy of an own feed contradicts the journal; nothing has changed.
        """
        if self.recovery is None:
            raise RuntimeError("this engine does not recover")
        if self.recovery.failed is not None:
            raise RecoveryError(self.recovery.failed)
        settlement = RecoverySettlement(self._context, self.orders, self.recovery)
        return settlement.run(now, statements, complete)

    # Messages

    def receive(
        self, now: float, message_type: str, payload: bytes, origin: str, via: str
    ) -> bool | None:
        """Process a message of `exchange.feeds.exchange_messages`.

        `origin` is authenticated only of messages addressed to this node; broadcasts carry their own
        proof. `via` is the neighbour that delivered the message.

        Returns:
            False when the message is invalid and must not be relayed; None when it must not be relayed, and versions
            before 0.3 do so.
        """
        if message_type == "presence" and len(payload) > MAX_PRESENCE:
            return None
        try:
            message = unpack(message_type, payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
            return None if is_earlier_text(error) else False
        self.orders.expire_some(now)
        valid = self._dispatch(now, message, origin, via)
        self.orders.run_queue(now)
        if self._context.fenced:
            self._lift_fence(now)
        return valid

    def _dispatch(self, now: float, message: msgspec.Struct, origin: str, via: str) -> bool:
        fenced = self._context.fenced
        if isinstance(message, Batch):
            return self._ingest.on_batch(now, message, via)
        if isinstance(message, Presence):
            return self._on_presence(now, message, via)
        if isinstance(message, (Take, TakeResult)) and self._context.expiring:
            return True  # it is repeated
        if isinstance(message, Take):
            return fenced or self.orders.maker_side.on_take(now, origin, message)  # it is repeated
        if isinstance(message, TakeResult):
            return fenced or self.orders.taker_side.on_result(now, origin, message)
        if isinstance(message, FeedDigest):
            same = message.summary == self._replicator.summary()
            in_budget = self._replicator.on_digest(now, origin, message)
            if in_budget:
                self._presences.stated(now, origin, message.presences or 0)
            if self.recovery is not None and in_budget and (same or message.heads is not None):
                self.recovery.heard(now, origin)
            if fenced and in_budget:
                same = message.summary == self._replicator.summary()
                self._fence.on_digest(origin, message, same=same)
        elif isinstance(message, FeedRequest):
            self._replicator.on_request(now, origin, message)
        elif isinstance(message, FeedPart):
            return self._ingest.on_part(now, origin, message)
        elif isinstance(message, PresenceRequest):
            self._presences.on_request(now, origin, message)
        elif isinstance(message, PresencePart):
            return self._on_kept_presences(now, origin, message)
        return True

    def neighbour_up(self, now: float, node: str) -> None:
        """Process a new link to `node`."""
        self._replicator.neighbour_up(now, node)
        self._fence.neighbour_up(node)
        self.orders.takes.retry_now(now, node)
        self._leases.hurry(now, 0.0)

    def neighbour_down(self, now: float, node: str) -> None:
        self._replicator.neighbour_down(node)
        self._presences.neighbour_down(node)
        self._fence.neighbour_down(node)

    # Presence

    def _presence(self, now: float, *, leaving: bool = False) -> Presence:
        heads = [(key, market.writer.number) for key, market in self.markets.items()]
        return self._leases.make(now, heads, leaving=leaving)

    def _crowd(self) -> int:
        """Number of owners by which the own lease may grow."""
        shows = any(market.writer.feed.state.orders for market in self.markets.values())
        return self._ingest.bounds.owners if shows else MAX_KNOWN

    def _on_kept_presences(self, now: float, node: str, part: PresencePart) -> bool:
        """Process presences that a neighbour hands on."""
        return all(
            self._on_presence(now, presence, node, left)
            for presence, left in self._presences.on_part(now, node, part)
        )

    def _on_presence(
        self, now: float, presence: Presence, via: str, left: float | None = None
    ) -> bool:
        """Process a presence. `left`: seconds of its lease, if a neighbour handed it on after a while."""
        owner = self._ingest.owner_of(presence.key)
        was_present, before = self._leases.present(owner), self._leases.mark(owner)
        valid, owner, newcomer = self._leases.accept(
            now, presence, least_absence=self._ingest.bounds.least_absence(owner), left=left
        )
        if not valid:
            return False
        if self._leases.mark(owner) != before:
            if left is None:
                self._ingest.confirm(now, owner, presence.heads)
            self.orders.takes.signed(owner, presence.heads)
            until = self._leases.until(owner)
            if until is not None:
                self._kept_presences.put(owner, presence, until)
        if newcomer:
            self._ingest.presence_changed(now, owner, present=True)
            self._leases.answer_newcomer(now, self._rng.uniform(0.0, 0.5))
            self.orders.takes.retry_now(now, owner)
        unknown = []
        for key, number in presence.heads:
            if key in self.markets:
                self._replicator.announced(now, via, owner, key, number)
            elif is_market_key(key) and key.partition("@")[0] in self._symbols:
                unknown.append(key)
        self._note_other_steps(owner, unknown)
        if was_present != self._leases.present(owner):
            self._owner_changed(now, owner)
        return True

    def _note_other_steps(self, owner: str, markets: list[str]) -> None:
        """Remember what a present owner trades in other steps; beyond the bound the oldest such owner is forgotten."""
        self.other_steps.pop(owner, None)
        if markets and self._leases.present(owner):
            if len(self.other_steps) >= MAX_OTHER_STEPS:
                del self.other_steps[next(iter(self.other_steps))]
            self.other_steps[owner] = markets[:MAX_OTHER_STEPS_OF_OWNER]

    def _owner_changed(self, now: float, owner: str, *, uncross: bool = True) -> None:
        """Show or hide an owner's orders after its lease began or ended."""
        if not self._leases.present(owner):
            self._kept_presences.drop(owner)
            self._ingest.presence_changed(now, owner, present=False)
            self.other_steps.pop(owner, None)
        for market in self.markets.values():
            if owner in market.replicas:
                self._ingest.refresh_owner(now, market, owner, uncross=uncross)

    # Time

    @property
    def refreshing(self) -> bool:
        """Report if many orders are being shown, hidden, packed or expire: soon another `tick`, of about a millisecond."""
        return self._ingest.refreshing or self._context.expiring

    def next_tick(self, now: float) -> float:
        """Return when `tick` is due; `now` while anything waits that has no time of its own. Leases, digests
        and what is forgotten after a time bear another half second."""
        if (
            self._context.fenced
            or self.recovery is not None
            or self._ingest.busy
            or self._replicator.busy
            or self._presences.busy
            or self.orders.busy
            or self._context.changes.unsettled()
        ):
            return now
        expires = self.orders.next_expiry
        renewal = self._leases.next_renewal
        return renewal if expires is None else min(renewal, self._context.seconds(expires))

    def tick(self, now: float) -> None:
        """Process everything that is due. Call at `next_tick`, and a few times a second."""
        if self._context.fenced:
            self._lift_fence(now)
        self.orders.expire_some(now)
        for owner in self._leases.expire(now):  # all are hidden before any market is matched
            self._owner_changed(now, owner, uncross=False)
        self._ingest.tick(now)
        self._replicator.tick(now)
        self._presences.tick(now)
        if self.recovery is not None:
            self.recovery.tick(now)
        for market in self._context.changes.unsettled():
            for owner in market.held_owners:
                market.drop_holds(now, owner)
            if market.crossed:
                self.orders.matching.uncross(now, market)
        self.orders.tick(now)

    def prepare(self) -> bool:
        """Do a slice of what the next `drain` would do at once for a checkpoint of many orders. Returns True while more
        is left: then drain later. Commands and messages are processed meanwhile."""
        context = self._context
        if context.stale is not None:
            return False
        for market in context.changes.changed:
            if market.writer.feed.packing is not None and market.writer.prepare():
                return True
        return False

    def drain(self, now: float) -> Drained:
        """Return the records to make durable and the messages to send after that."""
        context = self._context
        levels: list[tuple[str, int, int]] = []
        for market in context.changes.take():
            for batch in market.writer.flush() if context.stale is None else []:
                context.records.append(PutBatch(context.node_id, batch))
                fills = Filled in map(type, batch.events)
                sent = market.writer.feed.batches[batch.first].data
                context.messages.append(Broadcast("trade" if fills else "order", sent))
            context.save_snapshot(market.writer.feed)
            if market.touched:
                levels += [
                    (market.key, 1, signed) if signed > 0 else (market.key, -1, -signed)
                    for signed in market.touched
                ]
                market.touched.clear()
        if self.recovery is None and self._leases.renewal_due(now) and context.stale is None:
            context.messages.append(Broadcast("presence", pack(self._presence(now))))
        context.messages.extend(self._replicator.take_outgoing())
        context.messages.extend(self._presences.take_outgoing())
        if not context.fenced:
            # After the digest, which lets a restarted maker decide again.
            self.orders.taker_side.send_due(now)
        balances = context.drain_money()
        # A finished order never changes again.
        copies: list[Order] = [
            order if order.done else copy(order) if order.terms else copy_plain(order)
            for order in context.orders.values()
        ]
        self.orders.store_counters()
        records = context.records
        records += copies
        records.extend(PutMeta(name, value) for name, value in context.meta.items())
        drained = Drained(records, context.messages, levels, context.trades, copies, balances)
        context.records, context.messages, context.trades = [], [], []
        context.orders, context.meta = {}, {}
        return drained


__all__ = ["MESSAGES", "CommandRejected", "Drained", "Engine"]
