"""Take-overs of a standby under faults, and deliberate bugs that the checks have to find."""

from __future__ import annotations

import pytest

from tests.simulation.standby_bugs import BUGS
from tests.simulation.standbys import Violation, World

# Seeds at which a bug is found first.
FOUND = {
    "goes alone unasked": 2,
    "joins early": 50,
    "starts unasked": 0,
    "keeps old frames": 1,
    "trusts itself": 4,
    "counts answers twice": 126,
    "takes over anyway": 1,
    "takes over early": 15,
    "acknowledges before the flush": 4,
    "store ignores versions": 6,
    "clock sleeps with the machine": 34,
}


def test_nothing_is_lost_or_published_twice_in_200_take_overs() -> None:
    takeovers = seed = 0
    while takeovers < 200:
        world = World(seed)
        world.run()
        takeovers += world.takeovers
        seed += 1


@pytest.mark.parametrize("name", BUGS)
def test_the_checks_find_the_injected_fault(name: str) -> None:
    first = FOUND[name]
    for seed in range(first, first + 20):
        try:
            World(seed, BUGS[name]).run()
        except Violation:
            return
    pytest.fail(f"the checks do not find that a machine {name}")


def test_runs_are_reproducible() -> None:
    worlds = World(5), World(5)
    for world in worlds:
        world.run()
    assert worlds[0].published == worlds[1].published
    assert worlds[0].takeovers == worlds[1].takeovers
