"""A node that lost the tail of its disk recovers from its peers, and never signs a number twice."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from exchange.engine.recovery import Recovery
from exchange.engine.recovery_settlement import RecoverySettlement
from tests.simulation import recoveries
from tests.simulation.invariants import Violation
from tests.simulation.recoveries import Recovered, lose_and_recover
from tests.simulation.settings import settings_of

SEEDS = [1, 2, 5, 8, 12, 14, 15]
FOUND = [109, 111, 206]  # reused an order number or a take number once


def run(seed: int, path: Path, *, clients: bool) -> Recovered:
    return lose_and_recover(settings_of(seed), path, clients=clients)


@pytest.mark.parametrize("clients", [False, True], ids=["house", "clients"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_tail_is_recovered(seed: int, clients: bool, tmp_path: Path) -> None:
    found = run(seed, tmp_path, clients=clients)
    assert found.lost_events > 0
    assert found.report.fills or found.report.suspense
    assert found.report.takes_open == 0
    assert found.fills_after > 0
    assert found.seconds < 60


@pytest.mark.parametrize("clients", [False, True], ids=["house", "clients"])
@pytest.mark.parametrize("seed", FOUND)
def test_numbers_that_left_no_trace_are_not_used_again(
    seed: int, clients: bool, tmp_path: Path
) -> None:
    run(seed, tmp_path, clients=clients)


def fails(tmp_path: Path, *invariants: str) -> bool:
    """Report if some seed violates one of the invariants."""
    for seed in SEEDS:
        for clients in (True, False):
            try:
                run(seed, tmp_path, clients=clients)
            except Violation as violation:
                if violation.invariant in invariants:
                    return True
            except KeyError:  # an order of the feed that no node has
                if "crash" in invariants:
                    return True
    return False


def test_a_node_that_does_not_wait_for_its_feeds_is_seen_to_fork(tmp_path: Path) -> None:
    with (
        patch.object(Recovery, "settled", lambda self, now, behind: True),
        patch.object(Recovery, "unheard", lambda self, present: []),
        patch.object(Recovery, "on_batch", lambda self, now, market, batch: None),
    ):
        assert fails(tmp_path, "one_event_per_number")


def test_a_fill_that_is_not_booked_is_seen(tmp_path: Path) -> None:
    with patch.object(RecoverySettlement, "_book", lambda self, now, trade: None):
        assert fails(tmp_path, "both_sides", "conserved", "adds_up")


def test_an_order_that_is_kept_without_being_shown_is_seen(tmp_path: Path) -> None:
    with patch.object(RecoverySettlement, "_close_orders", lambda self, now: None):
        assert fails(tmp_path, "replicas_identical", "adds_up", "never_overfilled", "crash")


def test_without_statements_trades_behind_a_snapshot_are_lost(tmp_path: Path) -> None:
    """The seeds have such trades, and statements bring them."""
    with patch.object(recoveries, "lacking", lambda *args: []):
        lost = False
        for seed in (*SEEDS, *range(20, 60)):
            try:
                run(seed, tmp_path, clients=False)
            except Violation as violation:
                lost = lost or violation.invariant in ("both_sides", "conserved")
            if lost:
                break
        assert lost
