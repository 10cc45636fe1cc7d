"""Sliding window: throughput, error rate and latency percentiles of the last seconds, in bounded
memory.

The window is a ring of slots. A slot counts latencies in bins whose bounds grow by 5 %, so a
percentile is accurate to 5 % and a slot never has more than `_BINS` numbers.
"""

from __future__ import annotations

from math import ceil, floor, inf, log

import msgspec

_LEAST = 1e-5  # seconds: everything faster is in the first bin
_MOST = 1e4
_GROWTH = log(1.05)
_BINS = ceil(log(_MOST / _LEAST) / _GROWTH) + 1


class WindowFigures(msgspec.Struct, frozen=True):
    """Figures of one window. Times in seconds; `throughput` is results a second; rates from 0 to 1; 0 when empty."""

    count: int
    throughput: float
    error_rate: float
    p50_s: float
    p95_s: float
    p99_s: float


class _Slot:
    __slots__ = ("bins", "count", "failed", "number")

    def __init__(self) -> None:
        self.number = -1
        self.count = 0
        self.failed = 0
        self.bins: dict[int, int] = {}

    def begin(self, number: int) -> None:
        self.number = number
        self.count = 0
        self.failed = 0
        self.bins.clear()


class SlidingWindow:
    """Results of the last `seconds`, dropped in steps of `seconds / slots`. Failures count for the
    error rate only, so that failing fast does not look like low latency.
    """

    def __init__(self, seconds: float = 10.0, slots: int = 20) -> None:
        if seconds <= 0 or slots < 1:
            raise ValueError("seconds is positive, slots at least 1")
        self.seconds = seconds
        self._width = seconds / slots
        self._ring = [_Slot() for _ in range(slots)]
        self._first: float | None = None  # time of the first result

    def record(self, now: float, latency_s: float, ok: bool) -> None:
        """Record a result. Call in the order of time."""
        if self._first is None:
            self._first = now
        number = floor(now / self._width)
        slot = self._ring[number % len(self._ring)]
        if slot.number != number:
            if slot.number > number:
                return  # older than the window
            slot.begin(number)
        slot.count += 1
        if not ok:
            slot.failed += 1
            return
        if latency_s <= _LEAST:
            index = 0
        elif latency_s >= _MOST:
            index = _BINS - 1
        else:
            index = ceil(log(latency_s / _LEAST) / _GROWTH)
        slot.bins[index] = slot.bins.get(index, 0) + 1

    def figures(self, now: float) -> WindowFigures:
        """Return the figures of the window. Changes nothing."""
        newest = floor(now / self._width)
        oldest = newest - len(self._ring) + 1
        count = failed = 0
        bins: dict[int, int] = {}
        for slot in self._ring:
            if not oldest <= slot.number <= newest:
                continue
            count += slot.count
            failed += slot.failed
            for index, n in slot.bins.items():
                bins[index] = bins.get(index, 0) + n
        if not count:
            return WindowFigures(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        # Until the ring is full, the period is the time since the first result.
        first = -inf if self._first is None else self._first
        span = max(self._width, min(now - first, now - oldest * self._width))
        p50, p95, p99 = _percentiles(bins, (0.5, 0.95, 0.99))
        return WindowFigures(count, count / span, failed / count, p50, p95, p99)


def _percentiles(bins: dict[int, int], shares: tuple[float, ...]) -> list[float]:
    total = sum(bins.values())
    if not total:
        return [0.0 for _ in shares]
    found: list[float] = []
    seen = 0
    ordered = sorted(bins.items())
    wanted = [max(1, ceil(share * total)) for share in shares]
    for index, n in ordered:
        seen += n
        while len(found) < len(wanted) and seen >= wanted[len(found)]:
            found.append(_LEAST * 1.05**index)
    return found
