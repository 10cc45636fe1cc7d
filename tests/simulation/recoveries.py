"""`python -m tests.simulation.recoveries`: nodes that lose the tail of their disk and recover from peers.

A node is killed, gets an earlier copy of its disk, recovers, and trades on. Afterwards no number of a feed
has two events, every fill between nodes is on both disks, positions are opposite, no order is overfilled,
and all replicas are identical.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from exchange.engine.lost_trades import RecoveryReport
from exchange.ledger.balances import PEER
from exchange.model.commands import SUSPENSE, NewOrder
from exchange.model.records import PutBatch
from exchange.orders.engine_context import Drained
from tests.simulation import invariants
from tests.simulation.bots import MID
from tests.simulation.invariants import Violation
from tests.simulation.settings import Faults, Settings, Trading, settings_of
from tests.simulation.simulated_node import NETWORK, Node
from tests.simulation.statements import lacking
from tests.simulation.watch import Watch
from tests.simulation.world import World

PATIENCE = 90.0  # seconds for a recovery, and for the network to settle
TRADED_ON = 6.0  # seconds of trading after the recovery
EVERY = 0.2  # seconds between orders then
CASH = ("accounts", "finer", "band", "credit", "halts", "payments", "freezes", "keys")


@dataclass(slots=True)
class Recovered:
    """Result of a run."""

    report: RecoveryReport
    lost_events: int  # of own feeds, that the disk did not have
    fills_after: int  # of the node, in its life after the recovery
    seconds: float  # from start to settlement
    world: World


def lose_and_recover(settings: Settings, directory: Path, *, clients: bool) -> Recovered:
    """Trade, lose the disk's tail, recover, trade on, and check everything.

    `clients`: accounts, instruments and orders of all kinds; else plain orders of the house.
    """
    settings.faults = Faults()
    settings.trading = Trading(instruments=True)
    if clients:
        settings.trading = Trading(
            instruments=True, accounts=3, funds=300, special=0.4, changes=0.3, money=6
        )
    settings.latecomers = 0
    settings.journal = False
    rng = random.Random(f"recovery {settings.seed}")
    copies = []
    with settings.limits():
        world = World(settings, directory)
        clock, node = world.clock, world.nodes[0]
        at = settings.duration * rng.uniform(0.1, 0.9)
        clock.at(at, lambda: copies.append(copy.deepcopy(node.disk)))
        world.run()
        _judge_feeds_only(world)
        before = _numbers(node)
        node.crash(silently=False)
        (node.disk,) = copies
        began = clock.now
        report = _recover(world, node)
        seconds = clock.now - began
        lost = sum(before.values()) - sum(_at(node, key) for key in before)
        node.stop()
        known = len(node.disk.fills())
        node.recover_from = None
        node.start()
        _trade_on(world, rng)
        _check(world)
        return Recovered(report, lost, len(node.disk.fills()) - known, seconds, world)


def _numbers(node: Node) -> dict[str, int]:
    return {key: market.writer.number for key, market in node.engine.markets.items()}


def _at(node: Node, key: str) -> int:
    recovery = node.engine.recovery
    assert recovery is not None
    return recovery.feeds[key].before


def _recover(world: World, node: Node) -> RecoveryReport:
    clock = world.clock
    others = world.nodes[1:]
    node.recover_from = [other.node_id for other in others]
    node.start()
    deadline = clock.now + PATIENCE
    while True:
        clock.run(clock.now + 0.5)
        engine = node.engine
        assert engine.recovery is not None
        if engine.recovered_feeds(node.now) and not engine.recovery.unheard(engine.present):
            break
        if clock.now > deadline:
            raise Violation("recovers", f"not heard: {engine.recovery.unheard(engine.present)}")
    for other in others:
        other.settle()
    ours = world._side(node)
    statements = {other.node_id: lacking(NETWORK, ours, world._side(other)) for other in others}
    return node.settle_recovery(statements)


def _judge_feeds_only(world: World) -> None:
    """Acknowledged work is lost with the disk; signed work must not change."""
    watch = world.watch

    def durable(number: int, drained: Drained) -> None:
        for record in drained.records:
            if isinstance(record, PutBatch) and record.owner == world.nodes[number].node_id:
                watch._saw(record.batch)  # raises if a number is written a second time

    for name, value in vars(Watch).items():
        if callable(value) and not name.startswith("_") and name not in ("warning", "refused"):
            setattr(watch, name, lambda *args, **options: None)
    watch.durable = durable  # type: ignore[method-assign]


def _trade_on(world: World, rng: random.Random) -> None:
    clock, nodes = world.clock, world.nodes
    until = clock.now + TRADED_ON

    def submit() -> None:
        node = rng.choice(nodes)
        if node.serving:
            side, price = rng.choice((1, -1)), MID + rng.randint(-3, 3)
            market = rng.choice(node.markets)
            node.place(NewOrder(market=market, side=side, price=price, quantity=rng.randint(1, 9)))

    for step in range(int(TRADED_ON / EVERY)):
        clock.at(clock.now + 3.0 + step * EVERY, submit)
    clock.run(until + 3.0)
    deadline = clock.now + PATIENCE
    while True:
        clock.run(clock.now + 1.0)
        engines = {node.node_id: node.engine for node in nodes}
        unsettled = invariants.replicas_differ(engines, world.watch.events)
        if unsettled is None:
            return
        if clock.now > deadline:
            raise Violation("replicas_identical", unsettled)


def _check(world: World) -> None:
    fills = {}
    for node in world.nodes:
        node.settle()
        node.engine.ledger.check()
        fills[node.node_id] = {(f.taker, f.take, f.role): f for f in node.disk.fills()}
        filled = Counter[int]()
        for fill in node.disk.fills():
            if fill.account != SUSPENSE:
                filled[fill.order] += fill.quantity
        for order in node.disk.orders():
            invariants.never_overfilled(
                order.quantity, filled[order.number], 0, f"order {order.number} of {node.number}"
            )
            if filled[order.number] != order.filled:
                raise Violation("adds_up", f"{order} has fills of {filled[order.number]}")
    _both_sides(fills)
    for ours in world.nodes:
        for theirs in world.nodes:
            for asset in ours.engine.ledger.decimals:
                _opposite(ours, theirs, asset)


def _both_sides(fills: dict[str, dict[tuple[str, int, str], object]]) -> None:
    """As `invariants.both_sides`, but the own number of an order may be unknown."""
    for node, own in fills.items():
        for (taker, take, role), fill in own.items():
            other = fill.counterparty  # type: ignore[attr-defined]
            if (taker, take, "taker" if role == "maker" else "maker") not in fills[other]:
                raise Violation("both_sides", f"{other} has no record of {fill} of {node}")


def _opposite(ours: Node, theirs: Node, asset: str) -> None:
    if ours is theirs or asset not in theirs.engine.ledger.decimals:
        return
    mine = ours.engine.ledger.balance(PEER + theirs.node_id, asset)
    other = theirs.engine.ledger.balance(PEER + ours.node_id, asset)
    if mine + other:
        raise Violation(
            "conserved", f"{ours.number} and {theirs.number}: {mine} and {other} {asset}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.recoveries", description=__doc__
    )
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=100, help="how many (default 100)")
    args = parser.parse_args()
    totals = Counter[str]()
    for seed in range(args.start, args.start + args.seeds):
        for clients in (False, True):
            settings = settings_of(seed)
            try:
                found = lose_and_recover(settings, Path(), clients=clients)
            except Exception as error:
                totals["failed"] += 1
                print(f"seed {seed}, clients {clients}: {type(error).__name__}: {error}"[:400])
                continue
            report = found.report
            totals.update(
                runs=1,
                with_loss=int(found.lost_events > 0),
                lost_events=found.lost_events,
                fills=len(report.fills),
                suspense=len(report.suspense),
                gaps=len(report.gaps),
                closed=len(report.closed),
                kept=report.kept,
                takes=report.takes_resolved,
                takes_open=report.takes_open,
                traded_on=int(found.fills_after > 0),
            )
    print(dict(totals))
    sys.exit(1 if totals["failed"] else 0)


if __name__ == "__main__":
    main()
