"""A node that is started from an old copy of its data notices, and stops writing its feeds."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from exchange.core import Drained, Refused
from exchange.records import PutBatch
from tests.simulation.settings import Faults, settings_of
from tests.simulation.world import World


@pytest.mark.parametrize("seed", [1, 2, 5, 7])  # memory disks; 2 and 5 with snapshots
def test_an_old_copy_is_noticed_and_writes_nothing(seed: int, tmp_path: Path) -> None:
    settings = settings_of(seed)
    settings.faults = Faults()
    settings.latecomers = 0
    assert not settings.journal
    warnings: list[str] = []
    copies = []
    with settings.limits():
        world = World(settings, tmp_path)
        watch = world.watch
        watch.warning = warnings.append
        node = world.nodes[0]
        world.clock.at(settings.duration / 2, lambda: copies.append(copy.deepcopy(node.disk)))
        world.run()
        assert not warnings

        def durable(number: int, drained: Drained) -> None:
            for record in drained.records:
                if isinstance(record, PutBatch) and record.owner == world.nodes[number].node_id:
                    watch._saw(record.batch)  # raises if a number is written a second time

        # Its fills and acknowledgements are lost with the data; what it signed must not change.
        watch.durable = durable
        watch.drained = lambda *args: None
        watch.acknowledged_is_there = lambda *args: None
        ends = {name: len(events) for name, events in watch.events.items()}
        node.crash(silently=False)
        node.disk = copies[0]
        node.start()
        world.clock.run_until(world.clock.now + 20.0)

    assert any("old copy" in text for text in warnings)
    with pytest.raises(Refused) as refusal:
        node.engine.submit(node.now, node.markets[0], 1, 1000, 1)
    assert refusal.value.code == "stale_data"
    assert {name: len(events) for name, events in watch.events.items()} == ends
    assert not any(feed.fault for other in world.nodes for feed in other.engine.feeds.values())
