"""A DHT of our Grapes' nodes in virtual time: lookups succeed while nodes come and go, and it heals.

A short form of `python -m tests.simulation.dht`, which prints more figures of more lookups.
"""

from __future__ import annotations

import statistics

import pytest

from tests.simulation.dht import scenarios


@pytest.mark.parametrize("nodes", [60, pytest.param(200, marks=pytest.mark.long)])
def test_a_fifth_of_all_nodes_leaves_and_as_many_join_and_lookups_succeed(nodes: int) -> None:
    result = scenarios.churn(nodes, 5, services=30, lookups=60, seconds=6.0, window=2.0, quiet=0.1)
    assert result.left == nodes // 5
    for lookups in (result.steady, result.churning, result.after):
        assert len(lookups.hops) > 45  # some askers left
        assert lookups.success > 0.99, lookups.wrong[:3]
        assert statistics.fmean(lookups.hops) < 4
        assert statistics.fmean(lookups.messages) < 45
        assert statistics.fmean(lookups.seconds) < 1.0


def test_the_same_seed_gives_the_same_run():
    first, second = (scenarios.churn(12, 9, services=5, lookups=10, seconds=3.0) for _ in range(2))
    assert first == second


def test_searches_find_the_nodes_that_are_really_closest():
    found = statistics.fmean(scenarios.closest_found(60, seed, targets=20) for seed in range(3))
    assert found > 0.96  # one datagram of a hundred is lost, each way


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_restarts_with_a_new_id_is_healed_within_seconds(seed: int):
    figures = scenarios.restart(seed)
    assert figures["healed_after"] < 3
    assert figures["lookups"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_passive_node_is_found_too(seed: int):
    assert scenarios.silent_restart(seed) < 5


@pytest.mark.parametrize("seed", range(3))
def test_a_dead_node_costs_lookups_tens_of_milliseconds_and_then_nothing(seed: int):
    figures = scenarios.dead_node(seed)
    assert figures["at_once"] < figures["before"] + 0.1
    assert figures["later"] < figures["before"] + 0.01


@pytest.mark.parametrize("nodes", [3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_a_dead_node_costs_the_first_lookup_150_ms_at_most_where_round_trips_take_50(
    seed: int, nodes: int
):
    figures = scenarios.dead_node(seed, nodes, one_way=0.024)
    assert figures["at_once"] < figures["before"] + 0.15
    assert figures["later"] < figures["before"] + 0.01


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("others", [0, 1, 2, 8])
def test_a_bootstrap_node_that_never_answered_costs_the_first_lookup_150_ms_at_most(
    others: int, wait: float
):
    figures = scenarios.black_hole(1, others, wait)
    assert figures["with"] < figures["without"] + 0.15


@pytest.mark.parametrize("seed", range(2))
def test_a_partition_leaves_both_sides_working_and_heals(seed: int):
    figures = scenarios.partition(seed)
    assert figures["inside"] == 1.0
    assert (
        figures["joined_after"] < 65
    )  # the longest wait between looks at one that does not answer


@pytest.mark.parametrize("seed", range(3))
def test_a_lone_node_is_of_use_and_gains_a_neighbour(seed: int):
    figures = scenarios.lone_node(seed)
    assert figures["alone"] == 1.0
    assert figures["holders_alone"] == 1
    assert figures["met_after"] < 3


@pytest.mark.parametrize("seed", range(3))
def test_a_bootstrap_node_that_comes_late_is_found_within_seconds(seed: int):
    assert scenarios.bootstrap_down(seed) < 10
