"""A run: nodes, network, clients and faults from one seed, then quiet, then the final checks."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exchange.engine.engine import Engine
from exchange.feeds.feed_limits import FeedLimits
from exchange.model.commands import NewOrder
from exchange.model.records import Order
from node.virtual.server_model import VirtualTime
from tests.simulation import invariants
from tests.simulation.bots import MID, Bots
from tests.simulation.clerks import Clerks
from tests.simulation.clock import EPOCH_US, Trace
from tests.simulation.disk import Disk, JournalDisk, MemoryDisk, unforced_writes
from tests.simulation.invariants import Violation
from tests.simulation.keys import FastKeys, RealKeys, checked_once, identity
from tests.simulation.network import Conditions, End, Network, topology
from tests.simulation.operators import Operator
from tests.simulation.settings import DELAYS, MARKETS, QUIET_MAX, Settings
from tests.simulation.simulated_node import NETWORK, Habits, Node
from tests.simulation.statements import Side, all_agree
from tests.simulation.watch import Watch

PATIENT_SKEW = 2.0  # seconds; a clock that is set further may end a reservation early


@dataclass(slots=True)
class Outcome:
    """Result of a run. `failed` is the violated invariant, None when all hold."""

    seed: int
    failed: str | None
    detail: str
    tail: list[str]
    trace: str  # hash over everything that happened
    virtual_seconds: float
    settled_after: float  # seconds of quiet
    messages: int
    lost: int
    orders: int
    decisions: int
    refusals: int
    fills: int  # both halves counted
    crashes: int
    partitions: int
    payments: int  # that both nodes have written down
    freezes: int
    requests: int  # signed ones that were let in


class World:
    def __init__(
        self, settings: Settings, directory: Path, echo: Callable[[str], None] | None = None
    ) -> None:
        self.settings = settings
        self.clock = VirtualTime()
        self.trace = Trace(self.clock, echo)
        self.rng = rng = random.Random(f"world {settings.seed}")
        base_from, base_to, jitter = DELAYS[settings.delay]
        self.network = Network(
            self.clock,
            self.trace,
            random.Random(f"network {settings.seed}"),
            Conditions(
                settings.datagrams,
                (base_from, base_to),
                jitter,
                loss=settings.loss,
                doubled=settings.doubled,
                straggler=settings.stragglers,
            ),
            topology(settings.topology, settings.nodes, rng),
        )
        self.extra_markets: list[str] = []
        self.prepare()
        owners = [identity(i) for i in range(settings.nodes)]
        self.bots = Bots(settings)
        operators = [self._operator(i) for i in range(settings.nodes)]
        self.watch = Watch(
            [o.node_id for o in owners],
            [o.public_key for o in owners],
            operators,
            patient=settings.skew <= PATIENT_SKEW,
            hostile=self.hostile(),
        )
        self.network.on_send = self._snipe
        self.nodes = [self._make_node(i, directory) for i in range(settings.nodes)]
        self.active = True
        self.crashes = 0
        self.partitions = 0
        self.orders = 0
        self._client_ids = 0
        self._partitioned = 0
        self.clerks = Clerks(
            *(settings, self.nodes, self.clock, self.trace, self.watch, lambda: self.active)
        )

    def _markets(self, number: int) -> list[str]:
        markets = MARKETS[: self.settings.markets]
        return markets[:1] if self.settings.partial and number % 3 == 2 else markets

    def _operator(self, number: int) -> Operator:
        rng = random.Random(f"operator {self.settings.seed} {number}")
        return Operator(self.settings.trading, rng, [*self._markets(number), *self.extra_markets])

    def _make_node(self, number: int, directory: Path) -> Node:
        settings, rng = self.settings, self.rng
        disk: Disk = JournalDisk(directory / f"{number}.db") if settings.journal else MemoryDisk()
        node = Node(
            number,
            keys=(RealKeys if settings.real_keys else FastKeys)(identity(number)),
            markets=self._markets(number),
            disk=disk,
            habits=Habits(
                commit=settings.commit,
                pipelined=settings.pipelined,
                group=settings.group,
                rate=1.0 + rng.uniform(-settings.drift, settings.drift),
                skew=settings.skew,
                lease_ms=settings.lease_ms,
            ),
            clock=self.clock,
            trace=self.trace,
            network=self.network,
            watch=self.watch,
            operator=self.watch.books[number].operator,
            seed=str(settings.seed),
            extra_markets=self.extra_markets,
            limits=self.feed_limits,
        )
        node.older = settings.older
        return node

    # For worlds with more than honest nodes

    feed_limits: FeedLimits | None = None

    def prepare(self) -> None:
        """Called before nodes are made."""

    def hostile(self) -> dict[str, int]:
        """Return the dishonest nodes: node id -> number, which are above those of honest nodes."""
        return {}

    def others(self) -> list[End]:
        """Return the ends of links that are not honest nodes."""
        return []

    def once_calm(self) -> None:
        """Called when the network is whole and nobody places orders any more."""

    # The run

    def run(self) -> float:
        """Everything, to the final checks. Returns how many seconds of quiet it took to settle.

        Raises:
            Violation: an invariant does not hold.
        """
        settings, rng, clock = self.settings, self.rng, self.clock
        self.network.start([*self.nodes, *self.others()])
        late = set(rng.sample(range(settings.nodes), min(settings.latecomers, settings.nodes - 2)))
        for node in self.nodes:
            at = rng.uniform(0.3, 0.8) * settings.duration if node.number in late else 0.0
            clock.at(at + rng.uniform(0.0, 0.2), lambda node=node: self._start(node))
        self._plan_orders()
        self._plan_trading()
        self.clerks.plan()
        self._plan_faults()
        clock.run(settings.duration)
        self._calm()
        self.once_calm()
        quiet_from = traded_at = clock.now
        fills = self.watch.fills
        while True:
            clock.run(clock.now + 1.0)
            unsettled = self._unsettled()
            if unsettled is None:
                break
            if (
                self.watch.fills != fills
            ):  # an iceberg is taken slice by slice, with a round trip each
                traded_at, fills = clock.now, self.watch.fills
            if clock.now - traded_at > QUIET_MAX:
                raise Violation("replicas_identical", unsettled)
        settled_after = clock.now - quiet_from
        self._final()
        return settled_after

    def _calm(self) -> None:
        """The quiet period begins: the network whole, every node up, no orders."""
        self.trace.note("quiet")
        self.active = False
        self.network.calm = True
        self.network.heal()
        for node in self.nodes:
            node.open_up()
            self._start(node)

    def _unsettled(self) -> str | None:
        if not self.network.whole:
            return "a link is missing"
        if not self.clerks.done:
            return "a payment is not written down by both"
        return invariants.replicas_differ(
            {node.node_id: node.engine for node in self.nodes},
            self.watch.events,
            self.watch.hostile,
        )

    def _final(self) -> None:
        for node in self.nodes:
            node.settle()
        self.watch.final(lambda number: self.nodes[number].engine.order_store.get)
        for node in self.nodes:
            on_disk = {(f.taker, f.take, f.role): f for f in node.disk.fills()}
            if on_disk != self.watch.on_disk[node.number]:
                raise Violation("both_sides", f"the disk of node {node.number} has other fills")
            clients = [(o.account, o.client_id) for o in node.disk.orders() if o.client_id]
            if len(clients) != len(set(clients)):
                raise Violation("survives", f"node {node.number} has two orders of one client id")
            self.watch.registers[node.number].final(node.engine, self.watch.hostile)
        if self.settings.trading.instruments:  # else amounts are not what the markets' names say
            all_agree(NETWORK, [self._side(node) for node in self.nodes])
        for node in self.nodes:
            self._recovers(node)

    def _side(self, node: Node) -> Side:
        engine, disk = node.engine, node.disk
        took = disk.recover().takes
        decimals = dict(engine.ledger.decimals)
        return Side(node.keys, disk.past(), took, decimals, engine.us(node.now))

    def _recovers(self, node: Node) -> None:
        """Acknowledged commands survive kill -9: all of them, at the end."""
        node.disk.reopen()
        again = Engine(
            node.keys,
            node.all_markets,
            network=NETWORK,
            epoch_us=EPOCH_US,
            rng=random.Random(0),
            instruments=node.operator.instruments,
            recovered=node.disk.recover(),
        )
        now, then = _orders(node.engine), _orders(again)
        if now != then or again.summary() != node.engine.summary():
            odd = [key for key in {*now, *then} if now.get(key) != then.get(key)]
            raise Violation(
                "survives",
                f"node {node.number} restarts as another: {[(now.get(k), then.get(k)) for k in sorted(odd)[:2]]}",
            )
        self.watch.money_is_there(node.number, again)
        for account in range(node.operator.accounts + 1):
            if node.engine.ledger.holdings(account) != again.ledger.holdings(account):
                raise Violation(
                    "survives", f"node {node.number}: account {account} has another balance"
                )
        node.disk.close()

    # Clients

    def _plan_orders(self) -> None:
        settings, rng = self.settings, self.rng
        left = settings.orders
        while left > 0:
            at = rng.uniform(0.2, settings.duration)
            burst = rng.randint(2, 5) if rng.random() < 0.25 else 1
            left -= burst
            for _ in range(burst):  # crossing orders on several nodes within a link's delay
                self.clock.at(at + rng.uniform(0.0, 0.01) * (burst > 1), self._submit)
            if rng.random() < 0.5:
                self.clock.at(at + rng.choice((0.0, 0.02, 0.2, 3.0)), self._cancel)

    def _some_node(self) -> Node | None:
        running = [node for node in self.nodes if node.serving]
        return self.rng.choice(running) if running and self.active else None

    def _plan_trading(self) -> None:
        """Changes of orders, money and halts, apart from the rest."""
        settings = self.settings
        trading = settings.trading
        rng = random.Random(f"trading of world {settings.seed}")
        plan = [
            *[self._change] * int(trading.changes * settings.orders),
            *[self._move_money] * trading.money,
            *[self._halt] * trading.halts,
        ]
        for action in plan:
            self.clock.at(rng.uniform(0.2, settings.duration), action)

    def _change(self) -> None:
        node = self._some_node()
        if node is not None:
            self.bots.change(node)

    def _move_money(self) -> None:
        node = self._some_node()
        if node is not None:
            self.bots.move_money(node)

    def _halt(self) -> None:
        node = self._some_node()
        if node is None:
            return
        market = self.rng.choice(node.markets)
        node.halt(market)

        def resume() -> None:
            if node.serving:
                node.resume_market(market)

        self.clock.after(self.rng.uniform(0.1, 4.0), resume)

    def _submit(self) -> None:
        node, rng = self._some_node(), self.rng
        if node is None:
            return
        special = self.settings.trading.special
        if special and rng.random() < special:
            self.orders += 1
            self.bots.place(node)
            return
        side = rng.choice((1, -1))
        price = (
            None
            if rng.random() < 0.12
            else MID + rng.randint(-self.settings.spread, self.settings.spread)
        )
        client_id = None
        if rng.random() < 0.3:
            self._client_ids += 1
            client_id = f"client-{self._client_ids}"
        quantity = rng.randint(1, 20)
        if rng.random() < self.settings.large:
            quantity *= 10
        self.orders += 1
        node.place(
            NewOrder(
                market=rng.choice(node.markets),
                side=side,
                price=price,
                quantity=quantity,
                client_id=client_id,
            )
        )

    def _cancel(self) -> None:
        node, rng = self._some_node(), self.rng
        if node is None:
            return
        mine = node.engine.order_store.open_orders
        asking = [order for order in mine if order.pending]
        if asking and rng.random() < 0.5:
            mine = asking
        if mine:
            node.cancel(rng.choice(mine).number)

    # Faults

    def _plan_faults(self) -> None:
        faults, rng = self.settings.faults, self.rng
        plan: list[Callable[[], None]] = [
            *[self._crash_one] * faults.crashes,
            *[self._stop_one] * faults.stops,
            *[self._partition] * faults.partitions,
            *[self._break] * faults.breaks,
            *[self._massacre] * faults.massacres,
        ]
        for fault in plan:
            self.clock.at(rng.uniform(0.5, self.settings.duration), fault)

    def _start(self, node: Node) -> None:
        if not node.running:
            node.start()

    def _crash(self, node: Node) -> None:
        if node.running and self.active:
            self.crashes += 1
            node.crash(silently=self.rng.random() < 0.3)
            self.clock.after(
                self.rng.choice((0.05, 0.5, 3.0, 8.0)) * self.rng.uniform(0.5, 1.5),
                lambda: self._start(node),
            )

    def _crash_one(self) -> None:
        node = self._some_node()
        if node is not None:
            self._crash(node)

    def _massacre(self) -> None:
        for node in self.nodes:
            self._crash(node)

    def _stop_one(self) -> None:
        node = self._some_node()
        if node is not None:
            node.stop()
            self.clock.after(self.rng.uniform(0.2, 6.0), lambda: self._start(node))

    def _break(self) -> None:
        edge = self.rng.choice(self.network.edges)
        if self.active:
            if self.rng.random() < 0.2:
                self.network.mute(edge, self.rng.choice(edge))
            else:
                self.network.break_link(edge, silently=self.rng.random() < 0.4)

    def _partition(self) -> None:
        if not self.active:
            return
        self.partitions += 1
        self._partitioned += 1
        this = self._partitioned
        kinds = self.rng.choice((2, 2, 3))
        groups = {node.number: self.rng.randrange(kinds) for node in self.nodes}
        self.trace.note("partition", groups)
        self.network.partition(groups, silently=self.rng.random() < 0.5)

        def heal() -> None:
            if this == self._partitioned:
                self.trace.note("heal")
                self.network.heal()

        self.clock.after(self.rng.uniform(0.5, 8.0), heal)

    def _snipe(self, sender: int, to: int, kind: str) -> None:
        """Kill one side of a take, or both, while it is under way."""
        if kind not in ("take", "take_result") or not self.active:
            return
        if self.rng.random() >= self.settings.faults.sniper:
            return
        delay = self.rng.choice((0.0, 0.005, 0.1)) * self.rng.random()
        victims = self.rng.choice(((sender,), (to,), (sender, to)))
        for victim in victims:
            if victim < len(self.nodes):
                self.clock.after(delay, lambda victim=victim: self._crash(self.nodes[victim]))


def _orders(engine: Engine) -> dict[int, bytes]:
    """Own orders, as comparable values."""
    orders: list[Order] = [*engine.order_store.open_orders, *engine.order_store.recent.values()]
    return {order.number: msgspec.json.encode(order) for order in orders}


def run(
    settings: Settings,
    echo: Callable[[str], None] | None = None,
    kind: type[World] = World,
) -> Outcome:
    """Run a seed. Any exception out of a node fails it, as a broken invariant does."""
    failed: str | None = None
    detail = ""
    settled_after = 0.0
    with (
        tempfile.TemporaryDirectory(prefix="simulation-") as directory,
        settings.limits(),
        checked_once(),
        unforced_writes(),
    ):
        world = kind(settings, Path(directory), echo)
        try:
            settled_after = world.run()
        except Violation as violation:
            failed, detail = violation.invariant, violation.detail
        except Exception as error:
            failed, detail = type(error).__name__, _where(error)
        finally:
            for node in world.nodes:
                node.disk.close()
    return Outcome(
        seed=settings.seed,
        failed=failed,
        detail=detail,
        tail=list(world.trace.tail()) if failed else [],
        trace=world.trace.digest(),
        virtual_seconds=world.clock.now,
        settled_after=settled_after,
        messages=world.network.messages,
        lost=world.network.lost,
        orders=world.orders,
        decisions=world.watch.decisions,
        refusals=world.watch.refusals,
        fills=world.watch.fills,
        crashes=world.crashes,
        partitions=world.partitions,
        payments=world.clerks.payments,
        freezes=world.clerks.freezes,
        requests=world.clerks.requests,
    )


def _where(error: Exception) -> str:
    """The error with the last lines of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{error!r} at {places}"
