"""Counts and durations of requests.

Operations come from the routing table and codes from the table of problems, so their number is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

LATENCY_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
UNMATCHED: Final = "unmatched"  # operation of requests without a route
MAX_NAMES: Final = 300  # operations; more would not be names


class RequestFigures:
    """Figures of all requests since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (operation, status)
        self.problems: Counter[str] = Counter()  # refusals, by problem code
        self.socket_requests: Counter[tuple[str, str]] = Counter()  # (operation, code)
        self.seconds = defaultdict[str, float](float)  # by operation
        self.bins = defaultdict[str, list[int]](_empty)  # by operation: counts of LATENCY_BOUNDS

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Count an HTTP request."""
        if operation not in self.bins and len(self.bins) >= MAX_NAMES:
            operation = UNMATCHED
        self.requests[operation, str(status)] += 1
        self.bins[operation][bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.seconds[operation] += seconds

    def add_socket(self, operation: str, code: str, seconds: float) -> None:
        """Count a request over a WebSocket; `code` is "ok" or that of a problem."""
        self.socket_requests[operation, code] += 1
        self.bins[operation][bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.seconds[operation] += seconds


def _empty() -> list[int]:
    return [0] * (len(LATENCY_BOUNDS) + 1)
