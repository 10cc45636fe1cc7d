"""A node that is started from an old copy of its data notices, and stops writing its feeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.model.commands import NewOrder
from exchange.orders.engine_context import CommandRejected
from tests.simulation.old_copies import start_old_copy, writes_at_once
from tests.simulation.settings import settings_of

# Seeds that forked their feed without the startup fence when they were looked for, first the likeliest:
# with every change of the timing of messages they become others.
LIKELY = [42, 56, 32, 29, 55, 52, 62, *range(1, 29)]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("seed", [1, 7, 38, 41, 77, 42, 55])  # 38, 41: snapshots; 77: slow proof
def test_an_old_copy_is_noticed_and_writes_nothing(seed: int, busy: bool, tmp_path: Path) -> None:
    start = start_old_copy(settings_of(seed), tmp_path, busy=busy)
    assert start.kind == "noticed"
    node = start.world.nodes[0]
    with pytest.raises(CommandRejected) as refusal:
        node.engine.orders.place(
            node.now, NewOrder(market=node.markets[0], side=1, price=1000, quantity=1)
        )
    assert refusal.value.code == "stale_data"
    others = start.world.nodes[1:]
    assert not any(feed.fault for other in others for feed in other.engine.feeds.values())


def test_a_node_without_the_fence_is_seen_to_fork(tmp_path: Path) -> None:
    """Of some dozens of restarts from old copies at least one writes other events under used numbers."""
    with writes_at_once():
        assert any(
            start_old_copy(settings_of(seed), tmp_path / str(seed), busy=False).kind == "forked"
            for seed in LIKELY
        )
