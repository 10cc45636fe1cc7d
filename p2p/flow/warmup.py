"""A warm-up: a limit that ramps from a low rate to the full one, and only while things go well."""

from __future__ import annotations

from math import exp, log


class WarmUp:
    """From `start` to `full` (a second) in `seconds` of health, by the same factor in equal times.

    A geometric ramp spends most of its time at low rates, where an overload does little harm. `hold`
    stops it, and `resume` goes on.
    """

    def __init__(self, start: float, full: float, seconds: float) -> None:
        if not 0 < start <= full or seconds <= 0:
            raise ValueError("0 < start <= full and seconds > 0")
        self.start = start
        self.full = full
        self.seconds = seconds
        self._done = 0.0  # seconds of ramp
        self._at: float | None = None  # running since; None: not begun, or held

    def hold(self, now: float) -> None:
        """Stay where it is: the far side shows stress."""
        self._done = self.progress(now) * self.seconds
        self._at = None

    def resume(self, now: float) -> None:
        """Go on after `hold`. Also begins the first ramp."""
        if self._at is None:
            self._at = now

    def progress(self, now: float) -> float:
        """From 0 to 1."""
        running = 0.0 if self._at is None else max(0.0, now - self._at)
        return min(1.0, (self._done + running) / self.seconds)

    def rate(self, now: float) -> float:
        """The limit now, a second."""
        progress = self.progress(now)
        return (
            self.full
            if progress >= 1.0
            else self.start * exp(progress * log(self.full / self.start))
        )
