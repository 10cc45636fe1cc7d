"""Lies about load and hints: bounded detours, by seed, and checks that would notice if they were not."""

from __future__ import annotations

import inspect
import textwrap

import pytest

from p2p.adaptive import health_hints, peer_metrics
from tests.simulation.dishonest.lies import CLAIMS, judge, plan_of


@pytest.mark.parametrize("seed", [9_000_000, 9_000_001, 9_000_003])
def test_lies_about_load_and_hints_cost_a_bounded_detour(seed: int) -> None:
    outcome = judge(seed)
    assert outcome.lied_to.requests > 500
    assert outcome.held, outcome


def test_the_seeds_draw_every_claim_and_hints_of_no_one_and_of_many_origins() -> None:
    plans = [plan_of(seed) for seed in range(60)]
    assert {claim for plan in plans for claim in plan.liars.values()} == set(CLAIMS)
    assert {plan.origins for plan in plans} == {0, 1, 16, 1000}


def test_hints_without_a_bound_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_hints, "MAX_FACTOR", 1e6)
    monkeypatch.setattr(health_hints, "LN2", 0.0)  # own successes count for nothing
    assert not judge(6).held


def test_claims_that_are_taken_as_they_are_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = textwrap.dedent(inspect.getsource(peer_metrics.PeerMetrics.succeeded))
    bound = "if not least <= service <= latency:"
    assert source.count(bound) == 1
    names: dict[str, object] = {}
    exec(source.replace(bound, "if False:"), vars(peer_metrics), names)
    monkeypatch.setattr(peer_metrics.PeerMetrics, "succeeded", names["succeeded"])
    assert not judge(10).held
