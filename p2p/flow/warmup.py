"""Warm-up: a limit that ramps from a low rate to the full rate, unless it is held."""

from __future__ import annotations

from math import exp, log


class WarmUp:
    """Geometric ramp from `start` to `full` (per second) in `seconds` of running time.

    A geometric ramp spends most of its time at low rates, where an overload does little harm.
    `hold` stops it, `resume` continues, `restart` begins again.
    """

    def __init__(self, start: float, full: float, seconds: float) -> None:
        if not 0 < start <= full or seconds <= 0:
            raise ValueError("0 < start <= full and seconds > 0")
        self.start = start
        self.full = full
        self.seconds = seconds
        self._done = 0.0  # seconds of ramp
        self._at: float | None = None  # running since; None: not begun, or held

    def restart(self, now: float) -> None:
        """Begin at the low rate again: the far side was away."""
        self._done = 0.0
        self._at = now

    def hold(self, now: float) -> None:
        """Stop the ramp: the far side shows stress."""
        self._done = self.progress(now) * self.seconds
        self._at = None

    def resume(self, now: float) -> None:
        """Continue after `hold`. Also begins the first ramp."""
        if self._at is None:
            self._at = now

    def progress(self, now: float) -> float:
        """Return the progress of the ramp, from 0 to 1."""
        running = 0.0 if self._at is None else max(0.0, now - self._at)
        return min(1.0, (self._done + running) / self.seconds)

    def rate(self, now: float) -> float:
        """Return the present limit per second."""
        progress = self.progress(now)
        return (
            self.full
            if progress >= 1.0
            else self.start * exp(progress * log(self.full / self.start))
        )
