"""Dishonest nodes: what honest ones trade beside them, and that the checks of that would notice."""

from __future__ import annotations

from functools import cache

import pytest

from p2p.base import limits
from tests.simulation.dishonest.gangs import gang_of
from tests.simulation.dishonest.latency import measure
from tests.simulation.dishonest.misbehaviours import (
    FalseResults,
    GhostHeads,
    GraftFlood,
    Misbehaviour,
)
from tests.simulation.dishonest.world import RATIO
from tests.simulation.runner import run_one
from tests.simulation.world import Outcome

SEEDS = [8000033, 8000034, 8000031, 8000012]  # of each shape


@cache
def first_run(seed: int) -> Outcome:
    return run_one(seed, dishonest=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_nodes_trade_on_beside_dishonest_ones(seed: int) -> None:
    outcome = first_run(seed)
    assert outcome.failed is None, outcome.detail
    assert outcome.fills


def test_a_dishonest_seed_replays_exactly() -> None:
    assert run_one(8000033, dishonest=True) == first_run(8000033)


def test_a_crowd_has_no_more_links_than_the_slots_of_a_node_allow() -> None:
    gang = next(g for g in (gang_of(seed, 4) for seed in range(99)) if g.shape == "network")
    assert len({member.address for member in gang.members}) > 4
    links = [victim for member in gang.members for victim in member.victims]
    assert all(links.count(node) <= 12 for node in range(4))


def test_a_node_that_takes_long_for_a_message_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.simulation.dishonest.bounds.MOST_WORK", limits.TURN_TIME / 100)
    assert run_one(8000033, dishonest=True).failed == "honest_work"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (GhostHeads, "network"),  # nodes that pushed to attackers alone
        (GraftFlood, "one"),
        (FalseResults, "network"),
    ],
)
def test_an_attack_does_not_double_the_latency_of_honest_orders(
    kind: type[Misbehaviour], shape: str
) -> None:
    assert measure(kind, shape, seed=1).ratio <= RATIO
