"""One simulated node: the production engine and router, a disk, clocks, and the glue between them.

The glue does what the daemon does. Inputs change the engine at once; a drain's records are committed in
order and some time later; only then do its messages leave and its acknowledgements count. A crash
forgets everything that is not committed.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from exchange.asking import Asking
from exchange.core import Drained, Refused
from exchange.engine import Engine
from exchange.matching import Matching
from exchange.messages import MESSAGES
from exchange.ports import Send
from exchange.records import Order
from p2p.errors import DeliveryError
from p2p.messages import Codec
from p2p.router import MessageRouter, Received
from tests.simulation.clock import LocalClock, Scheduler, Trace
from tests.simulation.disk import Disk
from tests.simulation.keys import RealKeys, identity
from tests.simulation.network import Network
from tests.simulation.watch import Watch

TICK = 0.05
NETWORK = "simulation"

_codec = Codec()


@dataclass(slots=True)
class Habits:
    """How this node's machine behaves. Seconds."""

    commit: tuple[float, float]  # how long until a drain is durable
    pipelined: bool  # drains while the one before is still being written
    group: float  # inputs are drained together within this time; 0: each at once
    rate: float  # of the clock
    skew: float  # largest error of the wall clock
    lease_ms: int


@dataclass(slots=True)
class Acknowledgement:
    """What the client is told when the drain is durable."""

    command: str  # submit, cancel
    order: Order  # a copy


@dataclass(slots=True)
class _Commit:
    drained: Drained
    acknowledgements: list[Acknowledgement]


@dataclass(slots=True)
class Client:
    """Who gives this node orders: remembers what it has not been told."""

    unanswered: dict[str, tuple[str, int, int | None, int]] = field(default_factory=dict)


class WatchedMatching(Matching):
    """The production matching; tells the watch of every decision before it is carried out."""

    watch: Watch
    engine: Engine
    number: int

    def ask(self, now, order, owner, number, price, quantity, phase=""):
        self.watch.decision(self.engine, self.number, order, owner, number, price, quantity)
        super().ask(now, order, owner, number, price, quantity, phase)

    def fill_here(self, now, taker, maker, price, quantity):
        own = self.engine.node_id
        self.watch.decision(self.engine, self.number, taker, own, maker.number, price, quantity)
        super().fill_here(now, taker, maker, price, quantity)

    def take_liquidity(self, now, order, *, only_earlier):
        self.watch.begin_matching(self.number, only_earlier=only_earlier)
        super().take_liquidity(now, order, only_earlier=only_earlier)
        self.watch.matched(self.engine, self.number, order)


class WatchedAsking(Asking):
    """The production side of the taker; tells the watch of every answer before it counts."""

    watch: Watch
    engine: Engine
    number: int

    def on_result(self, now, maker, result):
        self.watch.result(self.engine, self.number, now, maker, result)
        return super().on_result(now, maker, result)


def watched(engine: Engine, number: int, watch: Watch) -> Engine:
    """`engine`, with its desk under watch. Nothing is decided before `resume`, so it misses nothing."""
    desk = engine._desk
    desk.matching.__class__ = WatchedMatching
    desk.asking.__class__ = WatchedAsking
    for part in (desk.matching, desk.asking):
        part.engine, part.number, part.watch = engine, number, watch
    return engine


class Node:
    def __init__(
        self,
        number: int,
        *,
        keys: RealKeys,
        markets: list[str],
        disk: Disk,
        habits: Habits,
        clock: Scheduler,
        trace: Trace,
        network: Network,
        watch: Watch,
        seed: str,
    ) -> None:
        self.number = number
        self.node_id = keys.node_id
        self.markets = markets
        self.disk = disk
        self.running = False
        self.serving = False  # takes orders
        self.boots = 0
        self.client = Client()
        self.keys = keys
        self._habits = habits
        self._clock = clock
        self._trace = trace
        self._network = network
        self._watch = watch
        self._seed = seed
        self._rng = random.Random(f"{seed} node {number}")
        self._committing: deque[_Commit] = deque()
        self._durable_at = 0.0
        self._acknowledgements: list[Acknowledgement] = []
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
        engine = Engine(
            self.keys,
            self.markets,
            network=NETWORK,
            epoch_us=local.epoch_us,
            rng=random.Random(f"{self._seed} engine {self.number} {self.boots}"),
            recovered=self.disk.recover(),
            lease_ms=self._habits.lease_ms,
            warn=self._watch.warning,
        )
        self.engine = watched(engine, self.number, self._watch)
        self.router = MessageRouter(
            identity(self.number),
            rng=random.Random(f"{self._seed} router {self.number} {self.boots}"),
            wall_ms=lambda: local.wall_ms(self._clock.now),
            fragile=True,
        )
        for kind in MESSAGES:
            self.router.handle(kind, self._handle)
        self.running = True
        self._trace.note("start", self.number, self.boots)
        self.serving = False
        self._watch.started(self.number, self.engine)
        boot = self.boots
        self._clock.after(rng.uniform(0.0, TICK), lambda: self._tick(boot))
        # Links may come up before the node goes on with its orders.
        self._clock.after(rng.choice((0.0, 0.2)) * rng.random(), lambda: self._resume(boot))

    def _resume(self, boot: int) -> None:
        if not self.running or boot != self.boots:
            return
        self.engine.resume(self.now)
        self._changed()
        self.engine.when_writing(lambda: self._clock.after(0.0, lambda: self._serve(boot)))

    def _serve(self, boot: int) -> None:
        """The node takes orders: first those that clients repeat, having heard no answer."""
        if not self.running or boot != self.boots:
            return
        self.serving = True
        for key, (market, side, price, quantity) in list(self.client.unanswered.items()):
            self.submit(market, side, price, quantity, key)

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
        self.router.link_up(self.now, node_id)
        self._flush()
        self.engine.neighbour_up(self.now, node_id)
        self._changed()

    def link_down(self, peer: int) -> None:
        node_id = identity(peer).node_id
        self.router.link_down(self.now, node_id)
        self._flush()
        self.engine.neighbour_down(self.now, node_id)
        self._changed()

    def message(self, peer: int, packed: bytes) -> None:
        if not self.running:
            return
        # A RemoteProtocolError fails the run: honest nodes give no reason to cut a link.
        self.router.receive(self.now, identity(peer).node_id, _codec.decode(packed))
        self._flush()

    def _handle(self, received: Received) -> bool:
        if received.broadcast:
            self._watch.heard(self.number, received.type, received.origin, received.payload)
        accepted = self.engine.receive(
            received.now, received.type, received.payload, received.origin, received.via
        )
        if not accepted:
            self._watch.refused(self.number, received.type, received.origin)
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
        self.router.tick(self.now)
        self._flush()
        self.engine.tick(self.now)
        self._drain(boot)

    # From the client

    def submit(
        self, market: str, side: int, price: int | None, quantity: int, client_id: str | None
    ) -> None:
        self._trace.note("submit", self.number, market, side, price, quantity, client_id)
        if client_id is not None:
            self.client.unanswered[client_id] = (market, side, price, quantity)
        order = self.engine.submit(self.now, market, side, price, quantity, client_id)
        self._watch.submitted(self.number, order)
        self._acknowledge("submit", order)

    def cancel(self, number: int) -> None:
        try:
            order = self.engine.cancel(self.now, number)
        except Refused as refusal:
            if refusal.code != "order_done":
                raise
            return
        self._trace.note("cancel", self.number, number)
        self._acknowledge("cancel", order)

    def _acknowledge(self, command: str, order: Order) -> None:
        copy = Order(**{name: getattr(order, name) for name in Order.__struct_fields__})
        self._acknowledgements.append(Acknowledgement(command, copy))
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
        for acknowledgement in commit.acknowledgements:
            if acknowledgement.order.client_id is not None:
                self.client.unanswered.pop(acknowledgement.order.client_id, None)
            self._watch.acknowledged(self.number, acknowledgement.command, acknowledgement.order)

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
