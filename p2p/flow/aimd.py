"""AIMD: additive increase, multiplicative decrease of a rate (Chiu and Jain, 1989).

Unlike the throttling guide's sketch, which evaluates a 30-second window every 30 seconds, counts
refusals of its own breaker as errors, and grows while idle, a step here follows a few round trips,
only replies of the far side count, and the rate grows only when it was the limit.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p2p.flow.load import Outcome


class AimdSettings(msgspec.Struct, frozen=True):
    """Rates a second, times in seconds."""

    initial: float = 10.0
    minimum: float = 1.0
    maximum: float = 1000.0
    increase: float = 0.1  # of the rate, and at least `least_increase`
    least_increase: float = 1.0
    decrease: float = 0.6
    error_rate: float = 0.05  # of the replies of a step, above which it is cut
    latency_s: float = 1.0  # mean latency of a step, above which it is cut
    round_trips: float = 3.0  # between steps
    least_step_s: float = 0.05
    least_replies: int = 4  # of a step
    used: float = 0.7  # of the rate that was used, at least, for it to grow

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.initial <= self.maximum:
            raise ValueError("0 < minimum <= initial <= maximum")
        if not 0 < self.decrease < 1:
            raise ValueError("decrease is above 0 and below 1")


class Aimd:
    """Rate controlled by results: call `on_send` and `on_result` for every attempt; `rate(now)` is
    the proposed limit. `on_change(now, old, new, reason)` is called with every step.
    """

    def __init__(
        self,
        settings: AimdSettings | None = None,
        *,
        on_change: Callable[[float, float, float, str], None] | None = None,
    ) -> None:
        self._settings = settings or AimdSettings()
        self._rate = self._settings.initial
        self._on_change = on_change
        self._round_trip = 0.0
        self._since: float | None = None
        self._sent = self._replies = self._failed = 0
        self._latency = 0.0
        self._cut_at = -1e9

    def rate(self, now: float) -> float:
        """Return the proposed rate. Changes nothing."""
        return self._rate

    def on_send(self, now: float) -> None:
        if self._since is None:
            self._since = now
        self._sent += 1

    def on_result(self, now: float, outcome: Outcome, latency_s: float) -> None:
        """Record the end of an attempt. Do not report attempts that never left this node (open
        breaker)."""
        if self._since is None:
            self._since = now
        self._replies += 1
        self._latency += latency_s
        if outcome == "ok":
            self._round_trip += (0.2 if self._round_trip else 1.0) * (latency_s - self._round_trip)
        else:
            self._failed += 1
        settings = self._settings
        length = max(settings.least_step_s, settings.round_trips * self._round_trip)
        failing = self._failed > max(1.0, settings.error_rate * self._sent)
        if failing and now - self._cut_at >= length:
            self._cut(now, f"{self._failed} of {self._replies} failed")
        elif self._replies >= settings.least_replies and now - self._since >= length:
            self._step(now, now - self._since)

    def _step(self, now: float, length: float) -> None:
        settings = self._settings
        latency = self._latency / self._replies
        if latency > settings.latency_s:
            self._cut(now, f"replies took {latency * 1000:.0f} ms")
            return
        clean = self._failed <= settings.error_rate * self._replies
        if clean and self._sent >= settings.used * self._rate * length:
            step = max(settings.least_increase, settings.increase * self._rate)
            self._set(now, self._rate + step, f"{self._replies} replies without stress")
        self._begin(now)

    def _cut(self, now: float, reason: str) -> None:
        self._cut_at = now
        self._set(now, self._rate * self._settings.decrease, reason)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = now
        self._sent = self._replies = self._failed = 0
        self._latency = 0.0

    def _set(self, now: float, rate: float, reason: str) -> None:
        old = self._rate
        self._rate = min(self._settings.maximum, max(self._settings.minimum, rate))
        if self._on_change is not None and self._rate != old:
            self._on_change(now, old, self._rate, reason)
