"""A node that is started from an old copy of its data notices, and stops writing its feeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.model.commands import NewOrder
from exchange.orders.engine_context import CommandRejected
from tests.simulation.old_copies import start_old_copy, writes_at_once
from tests.simulation.settings import settings_of

# Seeds that fork their feed when nodes do not listen first, without new orders.
FORKED = [32, 52]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("seed", [1, 7, 38, 41, 77, *FORKED])  # 38, 41: snapshots; 77: slow proof
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


@pytest.mark.parametrize("seed", FORKED)
def test_a_node_that_does_not_listen_first_is_seen_to_fork(seed: int, tmp_path: Path) -> None:
    with writes_at_once():
        assert start_old_copy(settings_of(seed), tmp_path, busy=False).kind == "forked"
