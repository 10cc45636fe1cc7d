"""Aimd: reacts within a few round trips, to what the far side said, and does not grow while idle."""

from __future__ import annotations

from itertools import pairwise

import pytest

from p2p.flow import Aimd, AimdSettings


def drive(aimd: Aimd, start: float, seconds: float, *, ok: bool, share: float = 1.0) -> None:
    """Sends `share` of the rate, in steps of 10 ms, with round trips of 20 ms."""
    due, now = 0.0, start
    while now < start + seconds - 1e-9:
        due += aimd.rate(now) * 0.01 * share
        while due >= 1.0:
            due -= 1.0
            aimd.on_send(now)
            aimd.on_result(now + 0.01, "ok" if ok else "busy", 0.02)
        now += 0.01


def test_a_failure_is_answered_within_a_few_round_trips() -> None:
    aimd = Aimd(AimdSettings(initial=100.0))
    drive(aimd, 0.0, 1.0, ok=True)
    before = aimd.rate(1.0)
    drive(aimd, 1.0, 0.2, ok=False)
    assert aimd.rate(1.2) <= 0.6 * before
    drive(aimd, 1.2, 1.0, ok=False)
    assert aimd.rate(2.2) < 0.1 * before


def test_the_rate_grows_while_it_is_the_limit() -> None:
    aimd = Aimd(AimdSettings(initial=10.0))
    drive(aimd, 0.0, 5.0, ok=True)
    assert aimd.rate(5.0) > 100.0


def test_the_rate_does_not_grow_while_little_or_nothing_is_sent() -> None:
    aimd = Aimd(AimdSettings(initial=50.0))
    drive(aimd, 0.0, 10.0, ok=True, share=0.3)
    assert aimd.rate(10.0) == 50.0
    assert aimd.rate(1000.0) == 50.0


def test_slow_answers_cut_the_rate_too() -> None:
    aimd = Aimd(AimdSettings(initial=50.0, latency_s=0.5))
    for i in range(200):
        aimd.on_send(i * 0.02)
        aimd.on_result(i * 0.02 + 0.9, "ok", 0.9)
    assert aimd.rate(5.0) < 50.0


def test_one_failure_among_many_does_not_cut() -> None:
    aimd = Aimd(AimdSettings(initial=100.0))
    drive(aimd, 0.0, 0.5, ok=True)
    before = aimd.rate(0.5)
    aimd.on_send(0.5)
    aimd.on_result(0.51, "timeout", 0.02)
    assert aimd.rate(0.51) == before


def test_the_rate_stays_within_its_bounds_and_every_step_is_reported() -> None:
    steps: list[tuple[float, float]] = []
    aimd = Aimd(
        AimdSettings(initial=10.0, minimum=5.0, maximum=30.0),
        on_change=lambda now, old, new, why: steps.append((old, new)),
    )
    drive(aimd, 0.0, 5.0, ok=True)
    assert aimd.rate(5.0) == 30.0
    drive(aimd, 5.0, 5.0, ok=False)
    assert aimd.rate(10.0) == 5.0
    assert all(a[1] == b[0] for a, b in pairwise(steps))
    assert steps[0][0] == 10.0


@pytest.mark.parametrize(
    "wrong", [{"initial": 0.5}, {"minimum": 0.0}, {"decrease": 1.0}, {"maximum": 5.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        AimdSettings(**wrong)
