"""Trace of what happened in virtual time, and nodes' skewed clocks."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator

from node.virtual.server_model import VirtualTime

EPOCH_US = 1_790_000_000_000_000  # the wall clock at virtual time 0, if it were right
TAIL = 400  # events kept for a failure's report


class Trace:
    """Log of a run: a hash over all entries, and the last few hundred as text."""

    def __init__(self, clock: VirtualTime, echo: Callable[[str], None] | None = None) -> None:
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
