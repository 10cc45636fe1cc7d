"""Senders with endless work: distributions of service times x network delays x senders x other traffic."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import NamedTuple

from node.virtual.server_model import Network
from p2p.flow import LoadReport, Outcome
from tests.simulation.storm.spreads import SPREADS, SpreadServer, capacity
from tests.simulation.storm.strategies import STRATEGIES, Limited, Strategy
from tests.simulation.storm.world import Scenario, World

TIMEOUT_S = 5.0
ENDLESS = 10**9
WARM_S = 15.0
LENGTH_S = 30.0

DELAYS_MS = (0.1, 5.0, 50.0, 300.0)
"""Round trip of the network."""
SENDERS = (1, 10, 100)
OTHERS = (0.0, 0.5)
"""Traffic from elsewhere, as a share of the capacity."""


class Cell(NamedTuple):
    spread: str
    delay_ms: float
    senders: int
    others: float

    def __str__(self) -> str:
        load = ", half load" if self.others else ""
        return f"{self.spread}, {self.delay_ms:g} ms, {self.senders} senders{load}"


CELLS = [Cell(s, d, n, o) for s in SPREADS for d in DELAYS_MS for n in SENDERS for o in OTHERS]


@dataclass(frozen=True)
class Measured:
    """One run. `goodput` is a share of the free capacity, `start` that of the first `WARM_S`; latencies
    in seconds, of requests that were answered after it."""

    goodput: float
    start: float
    p50: float
    p99: float
    p999: float
    errors: float
    others_failed: float
    crashes: int


class FixedWindow(Limited):
    """Always the same number in flight."""

    def __init__(self, window: int, rng: random.Random) -> None:
        super().__init__(rng)
        self.limit = float(window)

    def update(self, latency: float, out: int, dropped: bool) -> None:
        pass


class Endless(World):
    """A storm's world whose senders always have something to send."""

    def __init__(self, cell: Cell, make: Callable[[random.Random], Strategy], seed: int) -> None:
        self.latencies: list[float] = []
        scenario = Scenario(
            str(cell),
            senders=cell.senders,
            messages=0,
            others=capacity(cell.spread) * cell.others,
            horizon=WARM_S + LENGTH_S,
        )
        super().__init__(scenario, make, seed)
        self.server: SpreadServer = SpreadServer(
            self.time, random.Random(f"server {seed}"), cell.spread
        )
        self.network = Network(
            self.time, self.server, delay_s=cell.delay_ms / 2000.0, timeout_s=TIMEOUT_S
        )
        for sender in self.senders:
            sender.fresh = ENDLESS

    def attempt(self, done: Callable[[Outcome, LoadReport | None], None], tally: object) -> None:
        if tally is self.own:
            done = partial(self._answered, done, self.time.now)
        super().attempt(done, tally)  # type: ignore[arg-type]

    def _answered(
        self,
        done: Callable[[Outcome, LoadReport | None], None],
        sent: float,
        outcome: Outcome,
        load: LoadReport | None,
    ) -> None:
        if outcome == "ok" and self.time.now >= WARM_S:
            self.latencies.append(self.time.now - sent)
        done(outcome, load)

    def _free(self, start: float, end: float) -> float:
        """Requests a second that the server can do beside the other traffic, between two times."""
        return max(1.0, self.server.capacity(start, end) - self.scenario.others)

    def measure(self, most_crashes: int | None = None) -> Measured:
        """`most_crashes`: a run with more of them is over, with a goodput of 0."""
        for step in range(1, round(100 * self.scenario.horizon) + 1):
            self.time.run(0.01 * step)
            if most_crashes is not None and self.server.crashes > most_crashes:
                self.latencies.clear()
                break
        found = sorted(self.latencies)
        before = self.own.ok - len(found)
        return Measured(
            goodput=len(found) / LENGTH_S / self._free(WARM_S, WARM_S + LENGTH_S),
            start=before / WARM_S / self._free(0.0, WARM_S),
            p50=percentile(found, 0.5),
            p99=percentile(found, 0.99),
            p999=percentile(found, 0.999),
            errors=self.own.failed / max(1, self.own.offered),
            others_failed=self.other.failed / max(1, self.other.offered),
            crashes=self.server.crashes,
        )


def percentile(ordered: list[float], share: float) -> float:
    return ordered[max(1, ceil(share * len(ordered))) - 1] if ordered else 0.0


def measure(cell: Cell, policy: str | int, seed: int, most_crashes: int | None = None) -> Measured:
    """One run of a strategy, or of a fixed window."""
    make = partial(FixedWindow, policy) if isinstance(policy, int) else STRATEGIES[policy]
    return Endless(cell, make, seed).measure(most_crashes)


def best_fixed(cell: Cell, seeds: range) -> int:
    """The fixed window a sender, found by search, with the best goodput; of equals the smallest."""
    found: dict[int, float] = {}
    window = 1
    # Beyond the best the server is overloaded, and stays so.
    while not found or found[max(found)] > 0.9 * max(found.values()):
        runs = [measure(cell, window, seed, most_crashes=0).goodput for seed in seeds]
        found[window] = sum(runs) / len(runs)
        window = max(window + 1, round(window * 1.3))
    best = max(found.values())
    return min(w for w, goodput in found.items() if goodput >= 0.99 * best)
