"""`Gate` on the real clock gets the simulated rate from a server behind a socket."""

from __future__ import annotations

import pytest

from tests.simulation.storm import real_clock
from tests.simulation.storm.spreads import CAPACITY

pytestmark = [pytest.mark.process, pytest.mark.slow]

TRIES = 3
QUIET = (
    0.9 * CAPACITY
)  # of the server without a gate; below it the machine is busy with something else


def test_a_gate_reaches_on_the_real_clock_nine_tenths_of_its_rate_in_virtual_time() -> None:
    shares = []
    for seed in range(TRIES):  # other work on the machine only takes away: the best counts
        found = real_clock.measure("exponential", seed)
        if found.bare >= QUIET:
            shares.append(found.share)
            if found.share >= 0.9:
                break
    if not shares:
        pytest.skip("this machine is too busy to keep the time of a real server")
    assert 0.9 <= max(shares) <= 1.15
