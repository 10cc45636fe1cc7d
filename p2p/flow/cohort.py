"""Latency statistics that tell a queue from variance: `Latencies`, `Cohort` and `LatencyTail`, without I/O.

A queue adds the same delay to every request, so it moves every quantile of the latencies by that delay. A slow
tenth or a heavy tail moves the mean of all latencies and decides single ones, but not the lower quantiles. A
mixture (cache hits and misses) moves the quantile on the edge between its parts by chance, but not the others:
the median of the differences between the quantiles is the queueing delay.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt
from typing import NamedTuple

QUANTILES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55)


class Latencies(NamedTuple):
    """Lower quantiles of a sample of latencies. Seconds."""

    sample: tuple[float, ...]  # the newest last; inf: not known, and slower than most
    quantiles: tuple[float, ...]
    error: float  # standard error of a delay computed from them

    @property
    def replies(self) -> int:
        return len(self.sample)

    @property
    def low(self) -> float:
        """Location: moved by a queue, hardly by slow replies."""
        return sum(self.quantiles) / len(self.quantiles)

    def delay_above(self, base: Latencies) -> float:
        """Delay that was added to all latencies since `base`, below 0 if they are shorter."""
        pairs = zip(self.quantiles, base.quantiles, strict=True)
        differences = sorted(new - old for new, old in pairs)
        half = len(differences) // 2
        return (differences[half - 1] + differences[half]) / 2

    def moved(self, delay: float) -> Latencies:
        """The same with all latencies longer by `delay`."""
        return Latencies(
            tuple(latency + delay for latency in self.sample),
            tuple(latency + delay for latency in self.quantiles),
            self.error,
        )

    def merged(self, newer: Latencies, most: int) -> Latencies:
        """The newest `most` of both."""
        return latencies_of((*self.sample, *newer.sample)[-most:])


def latencies_of(sample: tuple[float, ...]) -> Latencies:
    ordered = sorted(sample)
    count = len(ordered)
    found = []
    for share in QUANTILES:
        place = min(max(0.0, share * (count + 1) - 1.0), count - 1.0)
        below = int(place)
        above = ordered[min(below + 1, count - 1)]
        step = above - ordered[below] if above < inf else 0.0
        found.append(ordered[below] + (place - below) * step)
    steps = sorted(b - a for a, b in pairwise(found))
    # Standard error of a quantile: sqrt(p * (1 - p) / n) / density, the density from the middle step.
    slope = steps[len(steps) // 2] / (QUANTILES[1] - QUANTILES[0])
    return Latencies(sample, tuple(found), sqrt(0.21 / count) * slope)


class Cohort:
    """`goal` consecutive requests and their replies.

    Complete when four fifths were answered and nothing still in flight can belong to those. Requests in flight
    count as slower, so the replies that come first do not hide the others.
    """

    __slots__ = ("_goal", "_latencies", "_out", "_reported")

    def __init__(self, goal: int) -> None:
        self._goal = goal
        self._out: dict[int, float] = {}
        self._latencies: list[float] = []
        self._reported = 0

    @property
    def reported(self) -> bool:
        """True if half of the replies carried a load report."""
        return 2 * self._reported >= len(self._latencies)

    def on_send(self, now: float, tag: int) -> None:
        if len(self._out) + len(self._latencies) < self._goal:
            self._out[tag] = now

    def drop(self, tag: int) -> None:
        """Forget a request that failed or was given up; a later request takes its place."""
        self._out.pop(tag, None)

    def on_reply(self, now: float, tag: int, reported: bool) -> bool:
        """Record a reply. True if the cohort is complete."""
        sent = self._out.pop(tag, None)
        if sent is None:
            return False
        latencies = self._latencies
        latencies.append(now - sent)
        self._reported += reported
        known = -(-4 * self._goal // 5)
        if len(latencies) < known or len(self._out) + len(latencies) < self._goal:
            return False
        latencies.sort()
        return all(now - at >= latencies[known - 1] for at in self._out.values())

    def latencies(self) -> Latencies:
        """Of a complete cohort."""
        unknown = self._goal - len(self._latencies)
        return latencies_of((*self._latencies, *[inf] * unknown))

    def excess(self, now: float, low: float) -> tuple[float, dict[int, float]]:
        """Sum of the latencies above `low`, and the requests in flight with the age that was counted."""
        ages = {tag: now - sent for tag, sent in self._out.items()}
        return sum(self._latencies) + sum(ages.values()) - self._goal * low, ages


class LatencyTail:
    """Mean latency above `Latencies.low`, from blocks of at least `block` replies.

    A cohort is complete before its slowest replies are in. They are counted with their age and corrected when
    they arrive, so rare slow replies count in full and nothing waits for them.
    """

    __slots__ = ("_block", "_excess", "_gain", "_known", "_late", "_replies", "value")

    def __init__(self, block: int, gain: float) -> None:
        self._block = block
        self._gain = gain
        self._excess = 0.0
        self._replies = 0
        self._late: dict[int, float] = {}
        self._known = False
        self.value = 0.0

    def add(self, now: float, cohort: Cohort, found: Latencies) -> None:
        """Count a complete cohort."""
        excess, ages = cohort.excess(now, found.low)
        self._late.update(ages)
        self._excess += excess
        self._replies += found.replies
        tail = max(0.0, self._excess / self._replies)
        if not self._known:
            self.value = tail
        if self._replies >= self._block:
            if self._known:
                self.value += self._gain * (tail - self.value)
            self._known = True
            self._excess = 0.0
            self._replies = 0

    def on_reply(self, tag: int, latency: float) -> None:
        """Correct what was counted for a late reply."""
        age = self._late.pop(tag, None)
        if age is not None:
            self._excess += latency - age

    def drop(self, tag: int) -> None:
        """Forget a request that failed or was given up."""
        self._late.pop(tag, None)

    def restart(self) -> None:
        """Begin a new block."""
        self._excess = 0.0
        self._replies = 0
        self._late.clear()
