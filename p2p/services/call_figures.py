"""Figures of the calls to a service: outcomes, attempts, latencies."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# Upper bounds in seconds of the bins that latencies are counted in.
LATENCY_BOUNDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


# What ended calls: "refused" by the handler, "cancelled" by the caller, else how the call failed.
OUTCOMES: Final = frozenset(
    {
        "ok",
        "refused",
        "cancelled",
        "no_provider",
        "busy",
        "unreachable",
        "timeout",
        "lost",
        "bad_request",
        "bad_response",
        "declined",
        "too_large",
    }
)


class CallFigures:
    """Counts of the calls to one service since the start, by outcome, and a histogram of the latencies of
    successes.
    """

    __slots__ = ("attempts", "bins", "hedges", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}  # of OUTCOMES, or "other"
        self.attempts = 0
        self.hedges = 0
        self.seconds = 0.0
        self.bins = [0] * (len(LATENCY_BOUNDS) + 1)

    def ended(self, outcome: str) -> None:
        """Count the outcome of a call. Other nodes name the codes of their errors: unknown ones count as "other"."""
        if outcome not in OUTCOMES:
            outcome = "other"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def took(self, latency_s: float) -> None:
        self.seconds += latency_s
        self.bins[bisect_left(LATENCY_BOUNDS, latency_s)] += 1
