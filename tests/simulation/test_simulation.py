"""Seeds of the simulation: every invariant of the design on each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.runner import Summary, run_many, run_one

CHUNK = 100
# Beside other tests (pytest -n) the other core has its work.
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
ROOT = Path(__file__).parents[2]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "first" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seeds")
        chunks = [(first, min(CHUNK, seeds - first)) for first in range(0, seeds, CHUNK)]
        ids = [f"{first}-{first + count - 1}" for first, count in chunks]
        metafunc.parametrize(("first", "count"), chunks, ids=ids)


@pytest.mark.timeout(300)
def test_every_invariant_holds_on_every_seed(first: int, count: int) -> None:
    summary = Summary()
    failures = []
    for outcome in run_many(range(first, first + count), jobs=JOBS):
        summary.add(outcome)
        if outcome.failed:
            failures.append(summary.report(outcome))
    assert not failures, "\n\n".join(failures)
    # A run in which nothing happens proves nothing.
    assert summary.fills > 10 * count
    assert summary.refusals
    assert summary.lost
    assert summary.payments > count // 2
    assert summary.freezes > count // 4
    assert summary.requests > count // 2


@pytest.mark.parametrize("seed", [0, 3, 8])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = run_one(seed), run_one(seed)
    assert first == second
    assert first.messages


def test_a_seed_replays_exactly_in_another_process() -> None:
    code = (
        "from tests.simulation.runner import run_one; "
        "print(run_one(4).trace, run_one(7412023, nasty=True).trace, "
        "run_one(8031037, dishonest=True).trace)"
    )
    traces = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        finished = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        traces.add(finished.stdout)
    kinds: list[tuple[int, dict[str, bool]]] = [
        (4, {}),
        (7412023, {"nasty": True}),  # many announcers of missing feeds
        (8031037, {"dishonest": True}),
    ]
    here = [run_one(seed, **kind).trace for seed, kind in kinds]
    assert traces == {" ".join(here) + "\n"}


@pytest.mark.parametrize("seed", [7500000, 7500004])
def test_every_invariant_holds_beside_nodes_of_an_older_version(seed: int) -> None:
    outcome = run_one(seed, older=True)
    assert outcome.failed is None, outcome.detail
    assert outcome.fills
    assert outcome.trace != run_one(seed).trace


def test_different_seeds_are_different_runs() -> None:
    assert len({run_one(seed).trace for seed in range(4)}) == 4
