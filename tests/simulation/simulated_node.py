"""Simulated node: the production engine and router, a disk, clocks, and the glue between them.

The glue does what the daemon does. Inputs change the engine at once; a drain's records are committed in
order and some time later; only then do its messages leave and its acknowledgements count. A crash
forgets everything that is not committed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field

from exchange.engine.engine import Engine
from exchange.engine.lost_trades import RecoveryReport
from exchange.feeds.exchange_messages import BROADCASTS, MESSAGES
from exchange.feeds.feed_limits import FeedLimits
from exchange.ledger.ledger import InsufficientBalance
from exchange.ledger.statements import StatementTrade
from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.ports import Send
from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected, Drained
from node.virtual.server_model import VirtualTime
from p2p.base.errors import DeliveryError, RemoteProtocolError
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received
from p2p.mesh.signed_broadcast import key_proves
from p2p.wire.messages import Codec
from tests.simulation.clock import LocalClock, Trace
from tests.simulation.dishonest.processor import Processor
from tests.simulation.disk import Disk
from tests.simulation.keys import RealKeys, identity
from tests.simulation.network import Network, edge_of
from tests.simulation.observed import watched
from tests.simulation.operators import Operator
from tests.simulation.watch import Watch

TICK = 0.05
SLICE = 0.002  # seconds between two slices before a drain
NETWORK = "simulation"
BANNED = 600.0  # seconds for which a node refuses a peer that has broken the protocol

# With what a desk may refuse a client that asks for the possible.
REFUSALS = {
    "order_done",
    "bad_order",
    "out_of_range",
    "price_band",
    "halted",
    "insufficient_balance",
    "account_frozen",
    "unknown_order",
    "reduce_only",
}

_codec = Codec()


@dataclass(slots=True)
class Habits:
    """Behaviour of this node's machine. Seconds."""

    commit: tuple[float, float]  # how long until a drain is durable
    pipelined: bool  # drains while the one before is still being written
    group: float  # inputs are drained together within this time; 0: each at once
    rate: float  # of the clock
    skew: float  # largest error of the wall clock
    lease_ms: int


@dataclass(slots=True)
class Acknowledgement:
    """Acknowledgement of a command, sent when the drain is durable."""

    command: str  # submit, amend, cancel
    order: Order  # a copy


@dataclass(slots=True)
class Receipt:
    """Confirmation of any other change: `tell` is called."""

    tell: Callable[[], None]


@dataclass(slots=True)
class _Commit:
    drained: Drained
    acknowledgements: list[Acknowledgement | Receipt]


@dataclass(slots=True)
class Client:
    """Client of this node with its unacknowledged commands."""

    unanswered: dict[tuple[int, str], NewOrder] = field(default_factory=dict)


class Node:
    def __init__(
        self,
        number: int,
        *,
        keys: RealKeys,
        markets: list[str],
        disk: Disk,
        habits: Habits,
        clock: VirtualTime,
        trace: Trace,
        network: Network,
        watch: Watch,
        operator: Operator,
        seed: str,
        extra_markets: Sequence[str] = (),
        limits: FeedLimits | None = None,
    ) -> None:
        """`extra_markets`: markets in which its clients do not trade."""
        self.number = number
        self.node_id = keys.node_id
        self.markets = markets
        self.all_markets = [*markets, *extra_markets]
        self.disk = disk
        self.running = False
        self.serving = False  # takes orders
        self.boots = 0
        self.recover_from: list[str] | None = None  # the next start is a recovery
        self.client = Client()
        self.keys = keys
        self.operator = operator
        self.processor: Processor | None = None  # None: what arrives is handled at once
        self.older: frozenset[int] = frozenset()  # nodes that do not understand `branch`
        self.address_of: Callable[[int], str] = lambda peer: ""
        self.feed_limits = limits or FeedLimits()
        self._notes = 0
        self._habits = habits
        self._clock = clock
        self._trace = trace
        self._network = network
        self._watch = watch
        self._seed = seed
        self._rng = random.Random(f"{seed} node {number}")
        self._committing: deque[_Commit] = deque()
        self._durable_at = 0.0
        self._acknowledgements: list[Acknowledgement | Receipt] = []
        self._drain_due = False

    # Life

    def start(self) -> None:
        self.boots += 1
        rng = self._rng
        self._local = LocalClock(
            self._clock.now,
            rng.uniform(1.0, 1e5),
            self._habits.rate,
            rng.uniform(-self._habits.skew, self._habits.skew),
        )
        self._committing.clear()
        self._durable_at = self._clock.now
        self._acknowledgements = []
        self._drain_due = False
        local = self._local
        self.operator.before_start()
        if self.processor is not None:
            self.processor.restart()
        engine = Engine(
            self.keys,
            self.all_markets,
            network=NETWORK,
            epoch_us=local.epoch_us,
            rng=random.Random(f"{self._seed} engine {self.number} {self.boots}"),
            instruments=self.operator.instruments,
            recovered=self.disk.recover(),
            lease_ms=self._habits.lease_ms,
            now=self.now,
            warn=self._watch.warning,
            recover_from=self.recover_from,
            limits=self.feed_limits,
        )
        self.engine = watched(engine, self.number, self._watch)
        self.router = MessageRouter(
            identity(self.number),
            rng=random.Random(f"{self._seed} router {self.number} {self.boots}"),
            wall_ms=lambda: local.wall_ms(self._clock.now),
            fragile=True,
            host=None if self.processor is None else self,
        )
        for kind in MESSAGES:
            check = key_proves if kind in BROADCASTS else None
            self.router.handle(kind, self._handle, origin=check)
        self.running = True
        self._trace.note("start", self.number, self.boots)
        self.serving = False
        self._watch.started(self.number, self.engine)
        self.operator.set_up(self.engine, self.engine.us(self.now))
        boot = self.boots
        self._clock.after(rng.uniform(0.0, TICK), lambda: self._tick(boot))
        # Links may come up before the node goes on with its orders.
        self._clock.after(rng.choice((0.0, 0.2)) * rng.random(), lambda: self._resume(boot))

    def _resume(self, boot: int) -> None:
        if not self.running or boot != self.boots:
            return
        self.engine.resume(self.now)
        self._changed()
        self.engine.when_fence_lifts(lambda: self._clock.after(0.0, lambda: self._serve(boot)))

    def _serve(self, boot: int) -> None:
        """The node takes orders: first those that clients repeat, having heard no answer."""
        if not self.running or boot != self.boots:
            return
        self.serving = True
        self._endow()
        for new in list(self.client.unanswered.values()):
            self.place(new)
        if self.operator.opened:
            self.open_up()

    def _endow(self) -> None:
        """Clients that have nothing yet bring what they begin with."""
        for account in range(1, self.operator.accounts + 1):
            for market in self.markets:
                for asset, amount in self.operator.first_deposit(market):
                    if not self.engine.ledger.balance(f"account:{account}", asset):
                        self.move_money(account, asset, amount)

    def open_up(self) -> None:
        """The end begins: nothing keeps orders from trading any more."""
        self.operator.opened = True
        if self.serving and self.operator.open_up(self.engine, self.now):
            self._changed()

    def crash(self, *, silently: bool) -> None:
        """kill -9. Of the commits under way, some may have reached the disk without anybody knowing."""
        if not self.running:
            return
        self.running = self.serving = False
        landed = self._rng.randint(0, len(self._committing))
        self._trace.note("crash", self.number, landed, len(self._committing))
        for commit in list(self._committing)[:landed]:
            self._write(commit)
        self._committing.clear()
        self.disk.reopen()
        self._watch.crashed(self.number)
        self._network.gone(self.number, silently=silently)

    def stop(self) -> None:
        """SIGTERM: goodbye, everything committed and sent, links closed."""
        if not self.running:
            return
        self._trace.note("stop", self.number)
        self.engine.leave(self.now)
        self.settle()
        self.running = self.serving = False
        self.disk.reopen()
        self._watch.crashed(self.number)
        self._network.close(self.number)

    @property
    def now(self) -> float:
        return self._local.now(self._clock.now)

    # From the network

    def link_up(self, peer: int) -> None:
        node_id = identity(peer).node_id
        branches = not {self.number, peer} & self.older
        self.router.link_up(self.now, node_id, address=self.address_of(peer), branches=branches)
        self._flush()
        self.engine.neighbour_up(self.now, node_id)
        self._changed()

    def link_down(self, peer: int) -> None:
        node_id = identity(peer).node_id
        if self.processor is not None:
            self.processor.forget(peer)
        self.router.link_down(self.now, node_id)
        self._flush()
        self.engine.neighbour_down(self.now, node_id)
        self._changed()

    def message(self, peer: int, packed: bytes) -> None:
        if not self.running:
            return
        if self.processor is not None:
            self.processor.arrived(peer, packed)
        else:
            self.handle(peer, packed)

    def handle(self, peer: int, packed: bytes) -> str:
        """Handle a message that has been read; returns its type."""
        kind = "malformed"

        def receive(node_id: str) -> None:
            nonlocal kind
            envelope = _codec.decode(packed)
            kind = envelope.type
            self.router.receive(self.now, node_id, envelope)

        self._guarded(peer, receive)
        return kind

    def handle_deferred(self, peer: int, origin: str) -> bool:
        """Handle a broadcast that was put off; returns True if more of its origin and link wait."""
        self._guarded(peer, lambda node_id: self.router.handle_deferred(self.now, node_id, origin))
        return self.router.has_deferred(identity(peer).node_id, origin)

    # RouterHost

    def first_with_news(self, link: str) -> None:
        pass

    def defer(self, link: str, origin: str) -> None:
        assert self.processor is not None
        self.processor.defer(self._watch.number_of[link], origin)

    def why_not_grenache(self, node: str) -> str:
        return "no Grape is used"

    def _guarded(self, peer: int, handle: Callable[[str], None]) -> None:
        node_id = identity(peer).node_id
        try:
            handle(node_id)
        except RemoteProtocolError as error:
            # Anywhere else it fails the run: honest nodes give no reason to cut a link.
            if node_id not in self._watch.hostile:
                raise
            self._trace.note("cut", self.number, peer, error.code)
            self._network.refuse(edge_of(self.number, peer), seconds=BANNED)
        self._flush()

    def _handle(self, received: Received) -> bool:
        if received.broadcast:
            self._watch.heard(self.number, received.type, received.origin, received.payload)
        accepted = self.engine.receive(
            received.now, received.type, received.payload, received.origin, received.via
        )
        if not accepted:
            self._watch.refused(self.number, received.type, received)
        self._changed()
        return accepted

    def _flush(self) -> None:
        for outgoing in self.router.take_outgoing():
            packed = _codec.encode(outgoing.envelope)
            for peer in outgoing.peers:
                self._network.send(
                    self.number, self._watch.number_of[peer], outgoing.envelope.type, packed
                )

    # Time

    def _tick(self, boot: int) -> None:
        if not self.running or boot != self.boots:
            return
        self._clock.after(TICK, lambda: self._tick(boot))
        if self.processor is not None:
            self.processor.count("tick", lambda: self._work(boot))
        else:
            self._work(boot)

    def _work(self, boot: int) -> None:
        self.router.tick(self.now)
        self._flush()
        self.engine.tick(self.now)
        self._drain(boot)

    # From the client

    def place(self, new: NewOrder) -> list[Order]:
        """An order of a client, or what it repeats. Those that came of it, none when it is refused."""
        self._trace.note("place", self.number, new)
        if new.client_id is not None:
            self.client.unanswered[new.account, new.client_id] = new
        try:
            orders = self.engine.orders.place(self.now, new)
        except CommandRejected as refusal:
            self._refused(refusal)
            self.client.unanswered.pop((new.account, new.client_id or ""), None)
            return []
        self._watch.submitted(self.number, new, orders)
        self._acknowledge("submit", orders)
        return orders

    def amend(self, number: int, changes: Amend) -> None:
        self._trace.note("amend", self.number, number, changes)
        try:
            order = self.engine.orders.amend(self.now, number, changes)
        except CommandRejected as refusal:
            self._refused(refusal)
            return
        self._watch.amended(self.number, order)
        self._acknowledge("amend", [order])

    def cancel(self, number: int) -> None:
        try:
            order = self.engine.orders.cancel(self.now, number)
        except CommandRejected as refusal:
            self._refused(refusal)
            return
        self._trace.note("cancel", self.number, number)
        self._acknowledge("cancel", [order])

    def cancel_many(self, which: Selection) -> None:
        orders = self.engine.orders.cancel_many(self.now, which)
        self._trace.note("cancel", self.number, sorted(order.number for order in orders))
        self._acknowledge("cancel", orders)

    def halt(self, market: str) -> None:
        self._trace.note("halt", self.number, market)
        self.engine.orders.halt(market)
        self._changed()

    def resume_market(self, market: str) -> None:
        self._trace.note("resume", self.number, market)
        self.engine.orders.resume_market(self.now, market)
        self._changed()

    def move_money(self, account: int, asset: str, amount: int) -> None:
        """A deposit, or a withdrawal when it is below zero, which a frozen account may not make."""
        known = self.engine.accounts.get(account)
        if amount < 0 and known is not None and known.frozen:
            return
        self._notes += 1
        note = f"money {self.number} {self._notes}"
        ledger, time = self.engine.ledger, self.engine.us(self.now)
        self._watch.books[self.number].commanded(note, account, asset, amount)
        try:
            if amount > 0:
                ledger.deposit(time, account, asset, amount, note)
            else:
                ledger.withdraw(time, account, asset, -amount, note)
        except InsufficientBalance:
            return
        self._trace.note("money", self.number, account, asset, amount)
        self.promise(lambda: self._watch.books[self.number].acknowledged(note))

    def promise(self, tell: Callable[[], None]) -> None:
        """Something was changed in the engine: call `tell` when that is durable."""
        self._acknowledgements.append(Receipt(tell))
        self._changed()

    def _refused(self, refusal: CommandRejected) -> None:
        self._trace.note("refused", self.number, refusal.code)
        if refusal.code not in REFUSALS:
            raise refusal

    def _acknowledge(self, command: str, orders: list[Order]) -> None:
        self._acknowledgements += [Acknowledgement(command, copy(order)) for order in orders]
        self._changed()

    # Draining and committing

    def _changed(self) -> None:
        if not self._habits.group:
            self._drain(self.boots)
        elif not self._drain_due:
            self._drain_due = True
            boot = self.boots
            self._clock.after(self._rng.uniform(0.0, self._habits.group), lambda: self._drain(boot))

    def _drain(self, boot: int) -> None:
        if not self.running or boot != self.boots:
            return
        if self._committing and not self._habits.pipelined:
            self._drain_due = True  # when the commit under way is done
            return
        self._drain_due = False
        if self.engine.prepare():
            self._drain_due = True
            self._clock.after(SLICE, lambda: self._drain(boot))
            return
        commit = self._take_drain()
        if commit is not None:
            self._commit_soon(commit)

    def _take_drain(self) -> _Commit | None:
        drained = self.engine.drain(self.now)
        acknowledgements, self._acknowledgements = self._acknowledgements, []
        if not (drained.records or drained.messages or acknowledgements):
            return None
        self._watch.drained(self.number, self.engine, drained)
        return _Commit(drained, acknowledgements)

    def _commit_soon(self, commit: _Commit) -> None:
        self._committing.append(commit)
        delay = self._rng.uniform(*self._habits.commit) if commit.drained.records else 0.0
        self._durable_at = max(self._durable_at, self._clock.now + delay)
        boot = self.boots
        self._clock.at(self._durable_at, lambda: self._committed(boot, commit))

    def _committed(self, boot: int, commit: _Commit) -> None:
        if boot == self.boots and self._committing and self._committing[0] is commit:
            self._finish(self._committing.popleft())
            if self._drain_due and not self._habits.pipelined:
                self._drain(boot)

    def settle_recovery(self, statements: dict[str, list[StatementTrade]]) -> RecoveryReport:
        """Bring orders and money in line with what was fetched; all of it is durable and sent then."""
        report = self.engine.settle_recovery(self.now, statements, list(statements))
        self.settle()
        return report

    def settle(self) -> None:
        """Everything decided so far is drained, durable and sent."""
        while self._committing:
            self._finish(self._committing.popleft())
        commit = self._take_drain()
        if commit is not None:
            self._finish(commit)

    def _finish(self, commit: _Commit) -> None:
        self._write(commit)
        self._send(commit)
        for told in commit.acknowledgements:
            if isinstance(told, Receipt):
                told.tell()
                continue
            order = told.order
            if order.client_id is not None:
                self.client.unanswered.pop((order.account, order.client_id), None)
            self._watch.acknowledged(self.number, told.command, order)

    def _write(self, commit: _Commit) -> None:
        self.disk.commit(commit.drained.records)
        self._watch.durable(self.number, commit.drained)

    def _send(self, commit: _Commit) -> None:
        for message in commit.drained.messages:
            self._watch.leaves(message)
            if isinstance(message, Send):
                with suppress(DeliveryError):  # the exchange's protocols repeat
                    self.router.send(self.now, message.to, message.type, message.payload)
            else:
                self.router.broadcast(self.now, message.type, message.payload)
        self._flush()
