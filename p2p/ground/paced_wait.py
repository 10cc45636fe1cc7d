"""Pace of a periodic task: quick steps while something happens, else by deadline, with a longest wait."""

from __future__ import annotations

import asyncio
import time
from math import inf


class PacedWait:
    """Waits of one task. Times are seconds; deadlines are of the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, step: float, longest: float) -> None:
        self._loop = loop
        self._step = step
        self._longest = longest
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._planned = 0.0  # the same by the system's clock: uvloop's stands still in a callback

    async def wait(self, deadline: float | None, *, step: float | None = None) -> float:
        """Wait until `deadline`: one step at least, this time another one with `step`, and the longest wait at most.

        Returns:
            Seconds by which the wait ended late.
        """
        now = self._loop.time()
        least = now + (self._step if step is None else step)
        at = min(max(inf if deadline is None else deadline, least), now + self._longest)
        self._waiting = self._loop.create_future()
        self._plan(now, at)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if self._timer is not None:
                self._timer.cancel()
        return max(0.0, time.monotonic() - self._planned)

    def hurry(self) -> None:
        """Something happened: let the present wait end within one step."""
        if self._waiting is None:
            return
        now = self._loop.time()
        if self._at > now + self._step:
            if self._timer is not None:
                self._timer.cancel()
            self._plan(now, now + self._step)

    def _plan(self, now: float, at: float) -> None:
        self._at = at
        self._planned = time.monotonic() + at - now
        self._timer = self._loop.call_at(at, self._end)

    def _end(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
