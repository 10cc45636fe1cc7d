"""The short form of `python -m tests.simulation.scale`: a hundred nodes, with the bounds of docs/scale.md."""

from __future__ import annotations

import pytest

from tests.simulation.scale.broadcasts import BroadcastCase, run_case
from tests.simulation.scale.formation import run_formation
from tests.simulation.scale.newcomer import run_newcomer

SMALL = {"nodes": 100, "warm_up": 3.0, "measured": 100, "drain": 5.0}


@pytest.mark.parametrize(
    "case",
    [
        BroadcastCase("many origins", **SMALL),
        BroadcastCase("many origins, loss and churn", loss=0.02, churn=0.05, **SMALL),
    ],
    ids=lambda case: case.name,
)
def test_broadcasts_of_many_origins_come_near_the_shortest_path(case: BroadcastCase) -> None:
    figures = run_case(case)
    assert figures.coverage == 1.0
    assert figures.copies < 3.2
    assert figures.control_messages < 5.0
    assert figures.p50_x < 1.4
    assert figures.p99_x < (1.75 if case.loss else 1.6)
    assert figures.longest_x < (3.0 if case.loss else 2.5)


def test_broadcasts_of_one_origin_take_the_shortest_path_at_one_copy() -> None:
    figures = run_case(BroadcastCase("one origin", origins=1, **SMALL))
    assert figures.coverage == 1.0
    assert figures.copies < 1.1
    assert figures.p50_x < 1.1


def test_a_full_mesh_on_a_lan_stays_below_four_copies() -> None:
    figures = run_case(BroadcastCase("mesh", mesh=True, lan=True, **{**SMALL, "nodes": 20}))
    assert figures.coverage == 1.0
    assert figures.copies < 4.0


def test_nodes_that_know_one_address_form_one_network_though_that_node_is_full() -> None:
    figures = run_formation(60, seed=11, afterwards=30.0)
    assert figures.refused > 0
    assert figures.in_one_piece == 1.0
    assert figures.fewest_links >= 4
    assert figures.linked_p99 < 10.0


@pytest.mark.parametrize("seed", [11, 12])
def test_a_newcomer_trades_and_shows_all_orders_within_seconds(seed: int) -> None:
    figures = run_newcomer(100, seed=seed)
    assert figures.first_trade < 4.0
    assert figures.all_shown < 6.0
    assert figures.requests <= 110  # one for each feed, and few again
