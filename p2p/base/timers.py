"""Timers and deadlines, with lazy deletion. No clock: the owner passes the time.

A heap cannot delete from its middle cheaply. A deadline that was replaced or discarded stays in the heap and
is skipped when it comes up; when such leftovers outnumber the live deadlines, the heap is rebuilt. Equal
deadlines come up in the order in which they were set, so that equal inputs give equal outputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64  # stale entries tolerated at any number of live deadlines


class Deadlines(Generic[K]):
    """At most one deadline for each key. Times are any floats, usually monotonic seconds."""

    __slots__ = ("_heap", "_live", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._live: dict[K, int] = {}  # key -> number of its valid heap entry
        self._number = 0

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: object) -> bool:
        return key in self._live

    def set(self, key: K, at: float) -> None:
        """Set the deadline of `key`, replacing an earlier one."""
        self._number = number = self._number + 1
        self._live[key] = number
        heap = self._heap
        heapq.heappush(heap, (at, number, key))
        if len(heap) > 2 * len(self._live) + _SLACK:
            live = self._live
            self._heap = [entry for entry in heap if live.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def discard(self, key: K) -> None:
        """Remove the deadline of `key`, if it has one."""
        self._live.pop(key, None)

    def next(self) -> float | None:
        """Return the earliest deadline, None if there is none."""
        first = self.first()
        return None if first is None else first[0]

    def first(self) -> tuple[float, K] | None:
        """Return the earliest deadline and its key, None if there is none."""
        heap, live = self._heap, self._live
        while heap:
            at, number, key = heap[0]
            if live.get(key) == number:
                return at, key
            heapq.heappop(heap)
        return None

    def in_order(self) -> list[K]:
        """Return all keys, the earliest deadline first."""
        live = self._live
        return [key for _, number, key in sorted(self._heap, key=_order) if live.get(key) == number]

    def pop(self, now: float) -> K | None:
        """Remove and return the first key whose deadline has come, None if none has."""
        heap, live = self._heap, self._live
        while heap:
            at, number, key = heap[0]
            if live.get(key) == number:
                if at > now:
                    return None
                heapq.heappop(heap)
                del live[key]
                return key
            heapq.heappop(heap)
        return None


def _order(entry: tuple[float, int, object]) -> tuple[float, int]:
    return entry[:2]


class Timer:
    """One call that is due once."""

    __slots__ = ("_deadlines", "action")

    def __init__(
        self, action: Callable[[float], None], deadlines: Deadlines[Timer] | None = None
    ) -> None:
        self.action: Callable[[float], None] | None = action
        self._deadlines = deadlines

    def cancel(self) -> None:
        """Cancel the call. No effect after it was made."""
        self.action = None
        if self._deadlines is not None:
            self._deadlines.discard(self)


class Timers:
    """Calls by their time, in monotonic seconds."""

    def __init__(self) -> None:
        self._deadlines: Deadlines[Timer] = Deadlines()

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Schedule `action(now)` for the first `run` at or after `when`."""
        timer = Timer(action, self._deadlines)
        self._deadlines.set(timer, when)
        return timer

    def next(self) -> float:
        """Return the time of the next call; inf if there is none."""
        at = self._deadlines.next()
        return inf if at is None else at

    def run(self, now: float) -> None:
        """Make the calls that are due. Calls scheduled meanwhile for `now` are left to the next
        run."""
        due: list[Timer] = []
        while (timer := self._deadlines.pop(now)) is not None:
            due.append(timer)
        for timer in due:
            action, timer.action = timer.action, None
            if action is not None:
                action(now)
