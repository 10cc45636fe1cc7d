"""Distributions of service times, and a server that draws from one of them.

Every one is scaled to a server good for 500 requests a second: its mean is `workers / 500`.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from math import exp, log, sqrt

from node.virtual.server_model import Server, ServerSettings, Timeline

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


class Phases:
    """Factors of the service times over the time, the same for every policy that a seed judges."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ends = [rng.expovariate(1.0 / NORMAL_PHASE_S)]  # normal and slow in turn

    def _until(self, now: float) -> int:
        """Index of the phase of `now`."""
        while now >= self._ends[-1]:
            length = SLOW_PHASE_S if len(self._ends) % 2 else NORMAL_PHASE_S
            self._ends.append(self._ends[-1] + self._rng.expovariate(1.0 / length))
        return bisect_right(self._ends, now)

    def factor(self, now: float) -> float:
        return SLOW_PHASE if self._until(now) % 2 else 1.0

    def capacity(self, start: float, end: float) -> float:
        """Mean capacity between two times, in requests a second."""
        inside = [start, *self._ends[self._until(start) : self._until(end)], end]
        served = (CAPACITY * (b - a) / self.factor(a) for a, b in pairwise(inside))
        return sum(served) / (end - start)


class SpreadServer(Server):
    """The storm's server with service times of one of `SPREADS`."""

    def __init__(self, time: Timeline, rng: random.Random, spread: str) -> None:
        draw, workers = SPREADS[spread]
        settings = ServerSettings(workers=workers, service_s=workers / CAPACITY)
        super().__init__(time, rng, settings)
        self._draw = draw
        self._spread_rng = rng
        slow = spread == "slow phases"
        self._phases = Phases(random.Random(rng.random())) if slow else None

    def draw(self) -> float:
        phase = 1.0 if self._phases is None else self._phases.factor(self._time.now)
        return self._draw(self._spread_rng) * self.settings.service_s * phase

    def capacity(self, start: float, end: float) -> float:
        """Requests a second that this run's phases leave between two times."""
        return CAPACITY if self._phases is None else self._phases.capacity(start, end)
