"""Virtual time: a queue of what happens when, the trace of what happened, and nodes' skewed clocks."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable, Iterator

EPOCH_US = 1_790_000_000_000_000  # the wall clock at virtual time 0, if it were right
TAIL = 400  # events kept for a failure's report


class Scheduler:
    """Events in order of time, then of being scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (max(when, self.now), self._number, event))

    def after(self, delay: float, event: Callable[[], None]) -> None:
        self.at(self.now + delay, event)

    def run_until(self, end: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, event = heapq.heappop(queue)
            event()
        self.now = end


class Trace:
    """Log of a run: a hash over all entries, and the last few hundred as text."""

    def __init__(self, clock: Scheduler, echo: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._echo = echo
        self._hash = hashlib.sha256()
        self._batch: list[tuple[object, ...]] = []
        self._tail: deque[tuple[object, ...]] = deque(maxlen=TAIL)

    def note(self, *what: object) -> None:
        """`what` must have a repr that is the same in every process."""
        entry = (self._clock.now, *what)
        self._batch.append(entry)
        if len(self._batch) >= 256:
            self._fold()
        if self._echo is not None:
            self._echo(_line(entry))

    def _fold(self) -> None:
        self._hash.update(repr(self._batch).encode())
        self._tail.extend(self._batch)
        self._batch.clear()

    def digest(self) -> str:
        self._fold()
        return self._hash.hexdigest()

    def tail(self) -> Iterator[str]:
        self._fold()
        return map(_line, self._tail)


def _line(entry: tuple[object, ...]) -> str:
    return f"{entry[0]:10.4f}  " + " ".join(map(str, entry[1:]))


class LocalClock:
    """A node's clocks since its last start: monotonic seconds that run `rate` times as fast as true
    time from an arbitrary `base`, and a wall clock that is `skew` seconds wrong."""

    def __init__(self, started: float, base: float, rate: float, skew: float) -> None:
        self._started = started
        self._base = base
        self._rate = rate
        self.epoch_us = EPOCH_US + int((started + skew - base) * 1e6)  # wall clock at monotonic 0

    def now(self, true_now: float) -> float:
        return self._base + (true_now - self._started) * self._rate

    def wall_ms(self, true_now: float) -> int:
        return self.epoch_us // 1000 + int(self.now(true_now) * 1000)
