"""Lookups of services in the DHT of our Grapes, by size: `tests.simulation.dht` at the sizes of this simulation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.dht import scenarios

LOOKUPS = 200


@dataclass
class LookupFigures:
    """Means of lookups in the quiet; `found` in the quiet, and while a fifth of the nodes is replaced in 20 s."""

    nodes: int
    found: float
    found_in_churn: float
    hops: float
    messages: float  # of one lookup
    mean_s: float
    p99_s: float
    datagrams: float  # sent by a node a second, in the quiet
    wall: float


def run_lookups(
    nodes: int, *, seed: int = 1, progress: Callable[[float], None] = lambda part: None
) -> LookupFigures:
    """Look up services announced by nodes of a DHT of `nodes`."""
    began = time.perf_counter()
    progress(0.1)
    result = scenarios.churn(
        nodes, seed, services=50, lookups=LOOKUPS, seconds=20.0, window=5.0, quiet=5.0
    )
    steady = result.steady
    took = sorted(steady.seconds)
    return LookupFigures(
        nodes=nodes,
        found=steady.success,
        found_in_churn=result.churning.success,
        hops=statistics.fmean(steady.hops),
        messages=statistics.fmean(steady.messages),
        mean_s=statistics.fmean(took),
        p99_s=took[int(0.99 * (len(took) - 1))],
        datagrams=result.sent_per_node_second,
        wall=time.perf_counter() - began,
    )
