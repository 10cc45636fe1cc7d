"""Health of the Grapes of a link, and the choice of the next one, without I/O.

Preference: Grapes that are up, then recently slow ones, then those that are down, each in the
    configured order. Requests skip a Grape that is down, except for one a second when all are down;
    probes detect its return, with growing, jittered waits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PROBE_FIRST: Final = 1.0  # seconds to the first probe of a Grape that went down, doubling
PROBE_MAX: Final = 15.0
PROBE_SPREAD: Final = 0.2  # jitter of waits, so that clients that lost a Grape together spread
SLOW_FOR: Final = 10.0  # seconds for which a slow Grape is used after the others
DESPERATE: Final = 1.0  # seconds between requests to a Grape that is down, when all are
_SMOOTHING: Final = 0.2  # weight of the newest latency


@dataclass(frozen=True, slots=True)
class GrapeReachability:
    """Status of a Grape as seen by a Link. `up`: None before the first request; `seconds`: since
    the last change; `latency`: of its recent answers, in seconds, smoothed; `error`: the last one,
    if any."""

    url: str
    up: bool | None
    seconds: float
    latency: float | None
    error: str

    @property
    def detail(self) -> str:
        """Return the status as a phrase."""
        if self.up is None:
            return "not used yet"
        if self.up:
            return f"answers in {1000 * self.latency:.1f} ms" if self.latency else "answers"
        return self.error


@dataclass(slots=True)
class _Known:
    up: bool | None
    since: float
    asked: float
    heard: float
    latency: float | None = None
    error: str = ""
    slow_until: float = float("-inf")
    probe_at: float | None = None  # None: no probe needed
    wait: float = PROBE_FIRST


class Health:
    """Health of the Grapes: report events with `asking`, `answered`, `failed`, `slow`; read
    `order`, `resort`, `probe_at`. Times are seconds of one clock, Grapes are numbers."""

    def __init__(self, urls: Sequence[str], rng: random.Random, now: float) -> None:
        self._urls = tuple(urls)
        self._rng = rng
        never = float("-inf")
        self._known = [
            _Known(None, now, asked=never, heard=never, probe_at=now) for _ in self._urls
        ]

    def __len__(self) -> int:
        return len(self._urls)

    # Events

    def asking(self, grape: int, now: float) -> None:
        """Record a request or a probe as sent."""
        self._known[grape].asked = now

    def answered(self, grape: int, latency: float | None, now: float) -> bool:
        """Record an answer, refusals included; return True if the state changed. `latency`:
        seconds; None for a probe."""
        known = self._known[grape]
        if latency is not None:
            old = known.latency
            known.latency = latency if old is None else old + _SMOOTHING * (latency - old)
        known.heard = now
        known.probe_at, known.wait = None, PROBE_FIRST
        if known.up:
            return False
        known.up, known.since = True, now
        return True

    def failed(self, grape: int, error: str, now: float) -> bool:
        """Record a failure to connect; return True if the state changed."""
        known = self._known[grape]
        known.error = error
        if known.up is False and known.probe_at is not None and known.probe_at > now:
            return False  # a request failed before the next probe
        known.probe_at = now + known.wait * self._rng.uniform(1 - PROBE_SPREAD, 1 + PROBE_SPREAD)
        known.wait = min(2 * known.wait, PROBE_MAX)
        if known.up is False:
            return False
        known.up, known.since = False, now
        return True

    def slow(self, grape: int, now: float) -> None:
        """Record a timeout, absolute or compared with another Grape. A probe is due: the Grape may be gone."""
        known = self._known[grape]
        known.slow_until = now + SLOW_FOR * self._rng.uniform(1 - PROBE_SPREAD, 1 + PROBE_SPREAD)
        if known.up is not False and known.probe_at is None:
            known.probe_at = now

    # Choice

    def order(self, now: float) -> list[int]:
        """Return the Grapes that are not down, the best first."""
        usable = [grape for grape, known in enumerate(self._known) if known.up is not False]
        return sorted(usable, key=lambda grape: self.is_slow(grape, now))

    def resort(self, now: float) -> list[int]:
        """Return the Grapes that are down, but may be used without any other."""
        return [
            grape
            for grape, known in enumerate(self._known)
            if known.up is False and now - known.asked >= DESPERATE
        ]

    def heard_since(self, grape: int, when: float) -> bool:
        """Return True if the Grape has answered since `when`."""
        return self._known[grape].heard > when

    def is_slow(self, grape: int, now: float) -> bool:
        """Return True if the Grape was slow a few seconds ago."""
        return self._known[grape].slow_until > now

    def is_down(self, grape: int) -> bool:
        return self._known[grape].up is False

    def probe_at(self, grape: int) -> float | None:
        """Time of the next probe; None when no probe is needed."""
        return self._known[grape].probe_at

    # Status

    def status(self, now: float) -> list[GrapeReachability]:
        return [
            GrapeReachability(url, known.up, now - known.since, known.latency, known.error)
            for url, known in zip(self._urls, self._known, strict=True)
        ]
