"""The exchange on one node, without I/O: orders, matching, takes, feeds, presence.

A shell calls `submit`, `cancel`, `receive`, `tick` and the like, then `drain`: it makes the records
durable, and only then sends the messages and acknowledges what clients asked. Everything that must
hold under faults (docs/architecture.md) is decided here, so that a simulator can drive it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import msgspec

from exchange.engine.feed_ingest import FeedIngest
from exchange.engine.order_manager import OrderManager
from exchange.feeds.exchange_messages import (
    MESSAGES,
    FeedDigest,
    FeedPart,
    FeedRequest,
    Presence,
    Take,
    TakeResult,
    pack,
    unpack,
)
from exchange.feeds.feed import Feed
from exchange.feeds.presence import PresenceLeases
from exchange.feeds.startup_fence import FENCE_GRACE, FENCE_GRACE_ALONE, FENCE_MAX, StartupFence
from exchange.ledger.accounts import Accounts
from exchange.ledger.ledger import Ledger
from exchange.market.market import Market
from exchange.market.market_specs import MarketSpecs
from exchange.model.commands import HOUSE, Amend, NewOrder, Selection
from exchange.model.events import Batch, Filled
from exchange.model.instruments import Instrument
from exchange.model.ports import Broadcast, Keys
from exchange.model.records import Order, PendingTake, PutBatch, PutMeta, Recovered
from exchange.orders.engine_context import Drained, EngineContext, Refused, stored_decimals

MAX_UNKNOWN_MARKETS = 1000


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
        instruments: Iterable[Instrument] = (),
        recovered: Recovered | None = None,
        lease_ms: int = 9000,
        listen_max: float = FENCE_MAX,
        warn: Callable[[str], None] = lambda text: None,
        now: float = 0.0,
    ) -> None:
        """`markets` are instrument keys; `instruments` say what their ticks and lots are worth, what
        trading costs, and which orders are accepted (see `exchange.market.market_specs` for markets without).

        `recovered` is what the journal holds: with it the node was here before, and listens for at
        most `listen_max` seconds before it writes its feeds (see `exchange.feeds.startup_fence`)."""
        past = recovered or Recovered()
        markets = list(markets)
        terms = MarketSpecs(markets, instruments, stored_decimals(past))
        # After a return to an old copy of the journal the wall clock still makes it later than what
        # the others have heard.
        incarnation = max(past.meta.get("incarnation", 0) + 1, (epoch_us + int(now * 1e6)) // 10**6)
        self._rng = rng
        self._leases = PresenceLeases(keys, network, incarnation=incarnation, lease_ms=lease_ms)
        self._core = EngineContext(
            keys,
            markets,
            network=network,
            epoch_us=epoch_us,
            visible=self._leases.present,
            warn=warn,
            terms=terms,
        )
        self._core.meta["incarnation"] = incarnation
        self._core.restore_money(now, past)
        self._desk = OrderManager(self._core)
        self._follower = FeedIngest(self._core, rng, self._desk.uncross)
        self._replicator = self._follower.replicator
        self.unknown_markets: dict[str, str] = {}  # market -> a node that trades it
        self._follower.restore(past)
        self._desk.restore(now, past)
        knows_others = any(stored.owner != keys.node_id for stored in past.feeds)
        self._fence = StartupFence(
            grace=FENCE_GRACE if knows_others else FENCE_GRACE_ALONE, longest=listen_max
        )
        self._core.listening = bool(past.meta)
        self._when_writing: list[Callable[[], None]] = []

    # State that readers see

    @property
    def ledger(self) -> Ledger:
        """Deposits, withdrawals, settlements and limits are made durable by the next `drain`."""
        return self._core.ledger

    @property
    def accounts(self) -> Accounts:
        """Changes are made durable by the next `drain`."""
        return self._core.accounts

    @property
    def terms(self) -> MarketSpecs:
        return self._core.terms

    @property
    def node_id(self) -> str:
        return self._core.node_id

    @property
    def markets(self) -> dict[str, Market]:
        return self._core.markets

    @property
    def feeds(self) -> dict[tuple[str, str], Feed]:
        """By (owner, market), the own ones included."""
        return self._core.feeds

    @property
    def stale(self) -> str | None:
        """Why this node must not write its feeds any more; None when all is well."""
        return self._core.stale

    @property
    def listening(self) -> bool:
        """Whether this node does not write its feeds yet. Orders and cancels are refused with the
        code `starting`."""
        return self._core.listening

    def when_writing(self, call: Callable[[], None]) -> None:
        """`call` once when this node is done with listening: now, or out of a later `receive` or
        `tick`."""
        if self._core.listening:
            self._when_writing.append(call)
        else:
            call()

    @property
    def open_orders(self) -> list[Order]:
        """Own orders that are not done, oldest first."""
        return self._desk.open_orders

    def open_orders_of(self, account: int) -> list[Order]:
        """Those of one account; of a client's, others' do not cost anything."""
        return self._desk.open_orders_of(account)

    @property
    def recent_orders(self) -> list[Order]:
        """Own finished orders still in memory, oldest first."""
        return self._desk.recent_orders

    def order(self, number: int) -> Order | None:
        return self._desk.order(number)

    def by_client_id(self, client_id: str, account: int = HOUSE) -> Order | None:
        """The order that was placed with this client id, if it is still in memory."""
        return self._desk.by_client_id(client_id, account)

    def undrained(self, account: int) -> bool:
        """Whether orders or money of an account changed since the last `drain`."""
        core = self._core
        return any(order.account == account for order in core.orders.values()) or any(
            purse.key[0] == account for purse in core.ledger.changed
        )

    def us(self, now: float) -> int:
        """The wall clock at `now`, in microseconds since the epoch."""
        return self._core.us(now)

    @property
    def pending_takes(self) -> list[PendingTake]:
        return self._desk.pending_takes

    @property
    def present(self) -> list[str]:
        """Other owners whose lease runs."""
        return self._leases.owners

    @property
    def feeds_behind(self) -> int:
        return self._replicator.behind

    def summary(self) -> bytes:
        """Equal on nodes that hold the same feeds."""
        return self._replicator.summary()

    # Commands

    def resume(self, now: float) -> None:
        """Call once after the start. As soon as the own feeds may be written, unfinished market orders
        end and limit orders look at the book."""
        self._follower.resume(now)
        self._fence.begin(now)
        if self._core.listening:
            self._stop_listening(now)
        else:
            self._desk.resume(now)

    def _stop_listening(self, now: float) -> None:
        """Go on with the own orders, if it is time."""
        core = self._core
        doubt = self._replicator.is_missing(core.node_id)
        if core.stale is None and not self._fence.is_down(now, doubt=doubt):
            return
        core.listening = False
        if core.stale is None:
            self._desk.resume(now)
        calls, self._when_writing = self._when_writing, []
        for call in calls:
            call()

    def submit(
        self,
        now: float,
        market: str,
        side: int,
        price: int | None,
        quantity: int,
        client_id: str | None = None,
    ) -> Order:
        """`place` in short, for limit and market orders of the house."""
        new = NewOrder(
            market=market, side=side, price=price, quantity=quantity, client_id=client_id
        )
        return self._desk.place(now, new)[0]

    def place(self, now: float, order: NewOrder) -> list[Order]:
        """See `OrderManager.place`."""
        return self._desk.place(now, order)

    def amend(self, now: float, number: int, changes: Amend) -> Order:
        """See `OrderManager.amend`."""
        return self._desk.amend(now, number, changes)

    def cancel_many(self, now: float, which: Selection, reason: str = "cancelled") -> list[Order]:
        """See `OrderManager.cancel_many`."""
        return self._desk.cancel_many(now, which, reason)

    def cancel(self, now: float, number: int) -> Order:
        """See `OrderManager.cancel`."""
        return self._desk.cancel(now, number)

    def freeze(self, now: float, account: int) -> list[Order]:
        """See `OrderManager.freeze`."""
        return self._desk.freeze(now, account)

    def halt(self, market: str, reason: str = "") -> None:
        """See `OrderManager.halt`."""
        self._desk.halt(market, reason)

    def resume_market(self, now: float, market: str) -> bool:
        """See `OrderManager.resume_market`."""
        return self._desk.resume_market(now, market)

    def halted(self, market: str) -> str | None:
        """Why a market is halted; None when it is not."""
        return self._core.halts.reason(market)

    def remember(self, name: str, value: int) -> None:
        """Keep a number of the shell's in the journal; `Recovered.meta` has it after a restart."""
        self._core.meta[name] = value

    def leave(self, now: float) -> None:
        """Say goodbye: replicas stop showing this node's orders at once."""
        self._core.messages.append(Broadcast("presence", pack(self._presence(now, leaving=True))))

    # Messages

    def receive(self, now: float, message_type: str, payload: bytes, origin: str, via: str) -> bool:
        """A message of `exchange.feeds.exchange_messages`. `origin` is proven for messages to this node alone; what
        is broadcast proves itself. `via` is the neighbour that brought it.

        Returns:
            Whether it is valid: an invalid one must not be passed on.
        """
        try:
            message = unpack(message_type, payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            return False
        self._desk.expire(now)
        valid = self._take_in(now, message, origin, via)
        self._desk.settle(now)
        if self._core.listening:
            self._stop_listening(now)
        return valid

    def _take_in(self, now: float, message: msgspec.Struct, origin: str, via: str) -> bool:
        if isinstance(message, Batch):
            return self._follower.on_batch(now, message, via)
        if isinstance(message, Presence):
            return self._on_presence(now, message, via)
        if self._core.listening and isinstance(message, (Take, TakeResult)):
            return True  # it comes again
        if isinstance(message, Take):
            return self._desk.on_take(now, origin, message)
        if isinstance(message, TakeResult):
            return self._desk.on_result(now, origin, message)
        if isinstance(message, FeedDigest):
            in_budget = self._replicator.on_digest(now, origin, message)
            if self._core.listening and in_budget:
                own = self._core.feeds.heads_of(self.node_id)
                same = message.summary == self._replicator.summary()
                self._fence.on_digest(origin, message, own, same=same)
        elif isinstance(message, FeedRequest):
            self._replicator.on_request(origin, message)
        elif isinstance(message, FeedPart):
            return self._follower.on_part(now, origin, message)
        return True

    def neighbour_up(self, now: float, node: str) -> None:
        """A link to `node` is there."""
        self._replicator.neighbour_up(now, node)
        self._fence.neighbour_up(node)
        self._desk.hurry(now, node)
        self._leases.hurry(now, 0.0)

    def neighbour_down(self, now: float, node: str) -> None:
        self._replicator.neighbour_down(node)
        self._fence.neighbour_down(node)

    # Presence and time

    def _presence(self, now: float, *, leaving: bool = False) -> Presence:
        heads = [(key, market.writer.number) for key, market in self.markets.items()]
        return self._leases.make(now, heads, leaving=leaving)

    def _on_presence(self, now: float, presence: Presence, via: str) -> bool:
        owner = self._follower.owner_of(presence.key)
        was_present = self._leases.present(owner)
        valid, owner, newcomer = self._leases.accept(now, presence)
        if not valid:
            return False
        if newcomer:
            self._leases.hurry(now, self._rng.uniform(0.0, 0.5))
            self._desk.hurry(now, owner)
        for key, number in presence.heads:
            if key in self.markets:
                self._replicator.announced(now, via, owner, key, number)
            elif len(self.unknown_markets) < MAX_UNKNOWN_MARKETS:
                self.unknown_markets[key[:80]] = owner
        if was_present != self._leases.present(owner):
            self._owner_changed(now, owner)
        return True

    def _owner_changed(self, now: float, owner: str) -> None:
        for market in self.markets.values():
            if owner in market.replicas:
                market.refresh_owner(owner)
                if market.crossed:
                    self._desk.uncross(now, market)

    def tick(self, now: float) -> None:
        """Whatever time brings. Call a few times a second."""
        if self._core.listening:
            self._stop_listening(now)
        self._desk.expire(now)
        for owner in self._leases.expire(now):
            self._owner_changed(now, owner)
        self._follower.resume_waiting(now)
        self._replicator.tick(now)
        for market in self.markets.values():
            for owner in market.held_owners:
                market.drop_holds(now, owner)
            if market.crossed:
                self._desk.uncross(now, market)
        self._desk.tick(now)

    def drain(self, now: float) -> Drained:
        """Records to make durable, then messages to send."""
        core = self._core
        levels: list[tuple[str, int, int]] = []
        for market in core.markets.values():
            for batch in market.writer.flush() if core.stale is None else []:
                core.records.append(PutBatch(core.node_id, batch))
                fills = Filled in map(type, batch.events)
                sent = market.writer.feed.batches[batch.first].data
                core.messages.append(Broadcast("trade" if fills else "order", sent))
            core.save_snapshot(market.writer.feed)
            if market.touched:
                levels += [
                    (market.key, 1, signed) if signed > 0 else (market.key, -1, -signed)
                    for signed in market.touched
                ]
                market.touched.clear()
        if self._leases.renewal_due(now) and core.stale is None:
            core.messages.append(Broadcast("presence", pack(self._presence(now))))
        core.messages.extend(self._replicator.take_outgoing())
        if not core.listening:
            self._desk.send_due(now)  # after the digest that lets a restarted maker decide again
        balances = core.drain_money()
        # What copy.copy comes to, without its searching for it.
        copies = [order.__copy__() for order in core.orders.values()]  # type: ignore[attr-defined]
        self._desk.count()
        records = core.records
        records += core.fills
        records += copies
        records.extend(PutMeta(name, value) for name, value in core.meta.items())
        drained = Drained(records, core.messages, levels, core.trades, copies, core.fills, balances)
        core.records, core.messages, core.trades, core.fills = [], [], [], []
        core.orders, core.meta = {}, {}
        return drained


__all__ = ["MESSAGES", "Drained", "Engine", "Refused"]
