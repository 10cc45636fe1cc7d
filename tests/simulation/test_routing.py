"""The figures that the router has to reach, in virtual time and on fixed seeds.

A short form of `python -m tests.simulation.routing`, which shows the same beside other policies.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import pytest

from tests.simulation.routing.scenarios import SCENARIOS, simulate

SEEDS = (11, 12)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@cache
def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(len(SEEDS), mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module", autouse=True)
def _pool() -> Iterator[None]:
    yield
    pool().shutdown()
    pool.cache_clear()


def run(name: str, policy: str, seed: int) -> dict[str, float]:
    return simulate(BY_NAME[name], policy, seed)


@cache
def median(name: str, policy: str) -> dict[str, float]:
    runs = list(pool().map(run, *zip(*((name, policy, seed) for seed in SEEDS), strict=True)))
    figures = BY_NAME[name].figures
    return {figure: statistics.median(run[figure] for run in runs) for figure in figures}


@pytest.mark.parametrize(
    ("name", "times_the_oracle"),
    [("uniform 75 %", 1.11), ("uniform 90 %", 1.16), ("30 callers", 1.35)],
)
def test_p99_is_near_that_of_an_oracle_that_sees_the_queues(name: str, times_the_oracle: float):
    assert median(name, "router")["p99"] <= times_the_oracle * median(name, "oracle")["p99"]


def test_slow_peers_are_avoided():
    ours, best = (median("two of ten 10x slower", p) for p in ("router", "oracle"))
    assert ours["p99"] <= 1.15 * best["p99"]
    assert ours["p99.9"] <= 2.1 * best["p99.9"]
    assert ours["errors"] == 0
    assert ours["away"] <= 0.3
    assert ours["back"] <= 4.0


@pytest.mark.parametrize(
    ("name", "errors"), [("one fails fast", 0.25), ("one hangs", 0.06), ("one flaky, 30 %", 0.6)]
)
def test_a_sick_peer_costs_few_calls_and_returns_soon(name: str, errors: float):
    ours = median(name, "router")
    assert ours["errors"] <= errors
    assert ours.get("away", 0.0) <= 0.3
    assert ours["back"] <= 5.0  # the jitter of the breaker's probes decides


def test_with_a_retry_budget_a_peer_that_fails_fast_costs_no_call():
    ours = median("one fails fast, retries", "router")
    assert ours["errors"] == 0
    assert ours["attempts"] <= 1.1


def test_all_is_normal_at_once_after_all_were_down():
    assert median("all down for 5 s", "router")["normal"] <= 0.5


def test_a_newcomer_has_half_its_share_within_a_second():
    assert median("a newcomer", "router")["joined"] <= 1.0


def test_a_thousand_liars_cost_thirty_callers_at_most_five_percent_of_p99():
    with_lies = median("30 callers, false hints", "router")["p99"]
    assert with_lies <= 1.05 * median("30 callers", "router")["p99"]


def test_errors_of_all_peers_are_the_fault_of_none():
    ours = median("2 % errors everywhere, 90 %", "router")
    assert ours["errors"] <= 2.5
    assert ours["p99"] <= 1.25 * median("uniform 90 %", "oracle")["p99"]
