"""Distributions of service times, and a server that draws from one of them.

Every one is scaled to a server good for 500 requests a second: its mean is `workers / 500`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp, inf, log, sqrt

from node.demos.server_model import Server, ServerSettings, Timeline

Draw = Callable[[random.Random], float]
"""Service time as a multiple of the mean."""

CAPACITY = 500.0
SLOW_PHASE, NORMAL_PHASE_S, SLOW_PHASE_S = 3.0, 3.0, 1.0


def constant(rng: random.Random) -> float:
    return 1.0


def uniform(rng: random.Random) -> float:
    return 2.0 * rng.random()


def exponential(rng: random.Random) -> float:
    return rng.expovariate(1.0)


def lognormal(rng: random.Random) -> float:
    """Coefficient of variation 2."""
    sigma = sqrt(log(5.0))
    return exp(sigma * rng.gauss(0.0, 1.0) - sigma * sigma / 2)


def bimodal(rng: random.Random) -> float:
    """Of a mean of 100 ms: 90 % 10 ms, 10 % 910 ms."""
    return 9.1 if rng.random() < 0.1 else 0.1


def two_equal(rng: random.Random) -> float:
    """Half cache hits, half misses that take 19 times as long."""
    return 0.1 if rng.random() < 0.5 else 1.9


def pareto(rng: random.Random) -> float:
    """Tail index 1.5 (infinite variance), cut off at 100 times the mean."""
    # With least value m and cut-off c the mean is m * (3 - 2 * sqrt(m / c)).
    least, most = 0.34696, 100.0
    return min(most, least * (1.0 - rng.random()) ** (-1.0 / 1.5))


SPREADS: dict[str, tuple[Draw, int]] = {
    "constant": (constant, 10),
    "uniform": (uniform, 10),
    "exponential": (exponential, 10),
    "lognormal cv 2": (lognormal, 10),
    "bimodal 10/910 ms": (bimodal, 50),
    "bimodal half/half": (two_equal, 10),
    "pareto 1.5": (pareto, 10),
    "slow phases": (exponential, 10),
}
"""Distribution and workers. "slow phases": exponential, in phases of about 1 s three times as slow."""


def capacity(spread: str) -> float:
    """Requests a second, in the long run."""
    if spread != "slow phases":
        return CAPACITY
    cycle = NORMAL_PHASE_S + SLOW_PHASE_S
    return CAPACITY * (NORMAL_PHASE_S + SLOW_PHASE_S / SLOW_PHASE) / cycle


class SpreadServer(Server):
    """The storm's server with service times of one of `SPREADS`."""

    def __init__(self, time: Timeline, rng: random.Random, spread: str) -> None:
        draw, workers = SPREADS[spread]
        settings = ServerSettings(workers=workers, service_s=workers / CAPACITY)
        super().__init__(time, rng, settings)
        self._draw = draw
        self._spread_rng = rng
        self._phase = 1.0
        self._phase_until = 0.0 if spread == "slow phases" else inf

    def draw(self) -> float:
        rng = self._spread_rng
        while self._time.now >= self._phase_until:
            # The first phase is a normal one.
            slow = self._phase == 1.0 and self._phase_until > 0.0
            self._phase = SLOW_PHASE if slow else 1.0
            length = SLOW_PHASE_S if slow else NORMAL_PHASE_S
            self._phase_until += rng.expovariate(1.0 / length)
        return self._draw(rng) * self.settings.service_s * self._phase
