"""Calls by their time. No clock: the owner passes the time, in monotonic seconds."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from p2p.ground.keyed_heap import KeyedHeap


class Timer:
    """A call that is due once. Timers for the same time are due in the order of their making."""

    __slots__ = ("_due", "action", "number")

    def __init__(
        self, action: Callable[[float], None], number: int, due: KeyedHeap[Timer, float]
    ) -> None:
        self.action: Callable[[float], None] | None = action
        self.number = number
        self._due = due

    def __lt__(self, other: Timer) -> bool:
        return self.number < other.number

    def cancel(self) -> None:
        """Cancel the call. No effect after it was made."""
        self.action = None
        self._due.discard(self)


class Timers:
    """Calls that are made by `run` once their time has come."""

    def __init__(self) -> None:
        self._due: KeyedHeap[Timer, float] = KeyedHeap()
        self._made = 0

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Schedule `action(now)` for the first `run` at or after `when`."""
        self._made += 1
        timer = Timer(action, self._made, self._due)
        self._due.set(timer, when)
        return timer

    def next(self) -> float:
        """Return the time of the next call; inf if there is none."""
        at = self._due.least()
        return inf if at is None else at

    def run(self, now: float) -> None:
        """Make the calls that are due. Calls scheduled meanwhile for `now` are left to the next
        run."""
        for _, timer in self._due.pop_through(now):
            action, timer.action = timer.action, None
            if action is not None:
                action(now)
