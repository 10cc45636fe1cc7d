"""Latency statistics that tell a queue from variance: `Cohort` and `Tail`, without I/O.

A queue adds the same delay to every request, so it moves the mean of the lower half of the latencies by exactly
that delay. A slow tenth or a heavy tail moves the mean of all latencies and decides single ones, but hardly
touches the lower half.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple


class Estimate(NamedTuple):
    """Mean of the lower half of a cohort's latencies. Seconds."""

    low: float
    error: float  # standard error of `low`
    replies: int


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

    def estimate(self) -> Estimate:
        """Estimate from a complete cohort."""
        half = max(1, self._goal // 2)
        lower = self._latencies[:half]
        low = sum(lower) / half
        edge = self._latencies[min(half, len(self._latencies) - 1)]
        share = half / self._goal
        # Standard error of a trimmed mean: the upper part counts as if it were at the edge.
        mean = share * low + (1.0 - share) * edge
        square = share * sum(x * x for x in lower) / half + (1.0 - share) * edge * edge
        error = sqrt(max(0.0, square - mean * mean) / self._goal) / share
        return Estimate(low, error, self._goal)

    def excess(self, now: float, low: float) -> tuple[float, dict[int, float]]:
        """Sum of the latencies above `low`, and the requests in flight with the age that was counted."""
        ages = {tag: now - sent for tag, sent in self._out.items()}
        return sum(self._latencies) + sum(ages.values()) - self._goal * low, ages


class Tail:
    """Mean latency above that of the lower half, from blocks of at least `block` replies.

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

    def add(self, now: float, cohort: Cohort, found: Estimate) -> None:
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
