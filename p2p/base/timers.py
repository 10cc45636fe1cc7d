"""What is to happen later, in order of time. No clock: the owner says what time it is."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf


class Timer:
    """One call that is due once."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[float], None]) -> None:
        self.action: Callable[[float], None] | None = action

    def cancel(self) -> None:
        """Harmless when it has happened."""
        self.action = None


class Timers:
    """Calls by their time, in monotonic seconds."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Timer]] = []
        self._number = 0

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Have `action(now)` called by the first `run` at or after `when`."""
        timer = Timer(action)
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, timer))
        return timer

    def next(self) -> float:
        """When the next call is due; inf when none is."""
        queue = self._queue
        while queue and queue[0][2].action is None:
            heapq.heappop(queue)
        return queue[0][0] if queue else inf

    def run(self, now: float) -> None:
        """Make the calls that are due. What they add for now is left to the next run."""
        due: list[Timer] = []
        while self.next() <= now:
            due.append(heapq.heappop(self._queue)[2])
        for timer in due:
            action, timer.action = timer.action, None
            if action is not None:
                action(now)
