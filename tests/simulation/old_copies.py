"""`python -m tests.simulation.old_copies`: nodes started from an old copy of their data directory.

How many write an event under a number that the network has seen, with the time of listening that
`exchange.feeds.startup_fence` gives them and without it, over the same starts.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from exchange.feeds.startup_fence import StartupFence
from exchange.model.commands import NewOrder
from exchange.model.records import PutBatch, Recovered
from exchange.orders.engine_context import Drained
from tests.simulation.bots import MID
from tests.simulation.invariants import Violation
from tests.simulation.settings import Faults, Settings, Trading, settings_of
from tests.simulation.simulated_node import Node
from tests.simulation.world import World

WATCHED = 20.0  # seconds from the start of the old copy
EVERY = 0.1  # seconds between orders of a client that does not wait


@dataclass(slots=True)
class Start:
    """Result of a start. `kind`: forked, noticed, unnoticed; current when nothing was missing."""

    kind: str
    at: float  # seconds after it
    world: World


def start_old_copy(settings: Settings, directory: Path, *, busy: bool) -> Start:
    """Trade without faults, kill node 0, and start it from a copy made half way through.

    `busy`: a client gives it orders from the first moment.
    """
    settings.faults = Faults()
    settings.trading = Trading()
    settings.latecomers = 0
    settings.journal = False
    warnings: list[str] = []
    copies = []
    with settings.limits():
        world = World(settings, directory)
        watch, clock = world.watch, world.clock
        watch.warning = lambda text, *about: warnings.append(text)
        node = world.nodes[0]
        clock.at(settings.duration / 2, lambda: copies.append(copy.deepcopy(node.disk)))
        world.run()
        assert not warnings
        node.crash(silently=False)
        (node.disk,) = copies
        if not _lacks(node, world):
            return Start("current", 0.0, world)
        _judge_events_only(world)
        began = clock.now
        node.start()
        if busy:
            for step in range(int(WATCHED / EVERY)):
                clock.at(began + step * EVERY, lambda step=step: _submit(node, step))
        try:
            clock.run(began + WATCHED)
        except Violation as violation:
            if violation.invariant != "one_event_per_number":
                raise
            return Start("forked", clock.now - began, world)
        noticed = any("old copy" in text for text in warnings)
        return Start("noticed" if noticed else "unnoticed", WATCHED, world)


def _lacks(node: Node, world: World) -> bool:
    """Report if the network has more of the node's feeds than its disk."""
    recovered: Recovered = node.disk.recover()
    held = Counter[str]()
    for feed in recovered.feeds:
        if feed.owner == node.node_id:
            batches = [*([feed.snapshot.batch] if feed.snapshot else []), *feed.batches]
            held[feed.market] = max(batch.last for batch in batches)
    return any(
        len(world.watch.events.get((node.node_id, market), {})) > held[market]
        for market in node.markets
    )


def _judge_events_only(world: World) -> None:
    """Fills and acknowledgements are lost with the data; what was signed must not change."""
    watch = world.watch

    def durable(number: int, drained: Drained) -> None:
        for record in drained.records:
            if isinstance(record, PutBatch) and record.owner == world.nodes[number].node_id:
                watch._saw(record.batch)  # raises if a number is written a second time

    watch.durable = durable
    for name in (
        "drained",
        "acknowledged_is_there",
        "money_is_there",
        "decision",
        "matched",
        "result",
    ):
        setattr(watch, name, lambda *args: None)


def _submit(node: Node, step: int) -> None:
    if node.serving and node.engine.stale is None:
        side = 1 if step % 2 else -1
        price = MID + step % 5 - 2
        node.place(NewOrder(market=node.markets[0], side=side, price=price, quantity=3))


def writes_at_once() -> AbstractContextManager[object]:
    """Remove the startup fence."""
    return patch.object(StartupFence, "is_down", lambda self, now, doubt: True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.old_copies", description=__doc__
    )
    parser.add_argument("--starts", type=int, default=100, help="how many seeds (default 100)")
    args = parser.parse_args()
    for busy in (False, True):
        for listens in (False, True):
            found = Counter[str]()
            with nullcontext() if listens else writes_at_once():
                for seed in range(args.starts):
                    found[start_old_copy(settings_of(seed), Path(), busy=busy).kind] += 1
            orders = "orders from the first moment" if busy else "no new orders"
            begins = "listens first" if listens else "writes at once"
            starts = found.total() - found["current"]
            print(f"{orders}, {begins}: {found['forked']} of {starts} starts forked; {dict(found)}")


if __name__ == "__main__":
    main()
