"""Feeds reach nodes whose only way to a holder is slower than the first request timeout."""

from __future__ import annotations

import pytest

from tests.simulation.settings import settings_of
from tests.simulation.world import run


@pytest.mark.parametrize("seed", [9000, 9004, 9005])
def test_snapshots_cross_a_chain_that_is_slower_than_a_request_timeout(seed: int) -> None:
    settings = settings_of(seed, nasty=True)
    settings.delay = "slow"  # several hundred ms each hop
    settings.topology = "chain"
    settings.nodes = min(settings.nodes, 6)
    settings.markets, settings.partial = 2, True  # every third node passes on what it does not hold
    settings.checkpoint_every, settings.page_orders = 6, 2
    settings.latecomers = min(1, settings.latecomers)
    settings.journal = False
    outcome = run(settings)
    assert outcome.failed is None, outcome.detail
