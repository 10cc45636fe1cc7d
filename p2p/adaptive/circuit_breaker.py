"""A circuit breaker for one peer, without I/O.

    CLOSED ──(failures in a row, or failure share of recent calls)──> OPEN
    OPEN ──(its cooldown has passed)──> HALF_OPEN      computed on reading, not stored
    HALF_OPEN ──(`successes_to_close` probes worked)──> CLOSED, with a slow start
    HALF_OPEN ──(a probe failed)──> OPEN, with a longer cooldown

Every attempt gets a tag when it is sent. A result counts only for the state that its attempt was sent
in, so a success from before the breaker opened does not close it, and a late failure does not extend
its cooldown. A probe holds one of `half_open_max` places for at most `lease_s`: one that never reports
gives its place back. The pattern is Nygard's (Release It!, 2007); the cooldown grows and is jittered so
that many callers do not probe in step.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import exp


class BreakerState(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(frozen=True)
class BreakerSettings:
    """Times in seconds.

    The cooldown starts at a tenth of `cooldown_s`, doubles with every failed probe, and is never
    longer than `cooldown_s`, jitter included.
    """

    failure_threshold: int = 5
    cooldown_s: float = 10.0
    half_open_max: int = 1
    first_share: float = 0.1  # the first cooldown as a share of `cooldown_s`
    longest_share: float = 1.0  # and the longest
    jitter: float = 0.5  # each cooldown is multiplied by 1 +- this
    failure_rate: float = 0.5  # opens at this share of failures ...
    minimum_calls: float = 6.0  # ... among at least this many recent calls
    window_s: float = 5.0  # how fast recent calls are forgotten
    successes_to_close: int = 2
    lease_s: float = 3.0  # a probe without a result for this long gives its place to another
    slow_start_s: float = 2.0
    forget_s: float = 10.0  # closed for this long: the next cooldown is the first again

    def __post_init__(self) -> None:
        if self.failure_threshold < 1 or self.half_open_max < 1 or self.successes_to_close < 1:
            raise ValueError("breaker counts are at least 1")
        if not (
            0 < self.first_share <= 1
            and 0 < self.longest_share <= 1
            and self.cooldown_s > 0
            and self.lease_s > 0
        ):
            raise ValueError("breaker times are positive, shares are at most 1")
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter is at least 0 and below 1")


class Breaker:
    """Circuit breaker: `allows` decides, `on_send` records an attempt and returns its tag, `on_result`
    reports it.

    `on_change(now, old, new, reason)` is called at every change of the recorded state. HALF_OPEN is
    recorded when the first probe is sent; `state` shows it from the end of the cooldown on.
    """

    __slots__ = (
        "_calls",
        "_cooldown",
        "_failures",
        "_generation",
        "_next",
        "_probes",
        "_rates_at",
        "_rng",
        "_row",
        "_settings",
        "_state",
        "_successes",
        "_until",
        "changed_at",
        "closed_at",
        "on_change",
    )

    def __init__(
        self,
        settings: BreakerSettings | None = None,
        *,
        rng: random.Random,
        on_change: Callable[[float, BreakerState, BreakerState, str], None] | None = None,
    ) -> None:
        self._settings = settings or BreakerSettings()
        self._rng = rng
        self.on_change = on_change
        self._state = BreakerState.CLOSED
        self._generation = 1  # of this period of the state: the first tag that belongs to it
        self._next = 1  # the next tag
        self._row = 0
        self._calls = self._failures = 0.0
        self._rates_at = 0.0
        self._cooldown = 0.0  # before jitter; 0: the next is the first
        self._until = 0.0
        self._successes = 0
        self._probes: dict[int, float] = {}  # tag -> end of its lease
        self.changed_at: float | None = None
        self.closed_at: float | None = None  # when it last closed after being open

    @property
    def closed(self) -> bool:
        return self._state is BreakerState.CLOSED

    @property
    def succeeding(self) -> bool:
        """True if a first probe has worked while the breaker is still open."""
        return self._successes > 0

    @property
    def until(self) -> float:
        """End of the cooldown; meaningless while closed."""
        return self._until

    def state(self, now: float) -> BreakerState:
        if self._state is BreakerState.OPEN and now >= self._until:
            return BreakerState.HALF_OPEN
        return self._state

    def allows(self, now: float, shift: float = 1.0) -> bool:
        """Return True if an attempt may be sent now. Changes nothing.

        `shift` stretches (above 1) or shortens what is left of a cooldown, by other nodes' hints.
        """
        if self._state is BreakerState.CLOSED:
            return True
        if self._state is BreakerState.OPEN:
            since = self.changed_at or 0.0
            if now < since + (self._until - since) * shift:
                return False
        return self.probing(now) < self._settings.half_open_max

    def probing(self, now: float) -> int:
        """Return the number of probes under way whose lease has not run out."""
        return sum(1 for end in self._probes.values() if now < end) if self._probes else 0

    def on_send(self, now: float, shift: float = 1.0) -> int:
        """Record an attempt and return the tag for `on_result`. In HALF_OPEN an allowed attempt is a probe.

        An attempt that is not allowed can still be sent (panic): its success is evidence, its
        failure is not.
        """
        tag = self._next
        self._next = tag + 1
        if self._state is not BreakerState.CLOSED and self.allows(now, shift):
            if self._state is BreakerState.OPEN:
                self._change(now, BreakerState.HALF_OPEN, "cooldown over, a probe is sent")
            self._probes = {t: end for t, end in self._probes.items() if now < end}
            self._probes[tag] = now + self._settings.lease_s
        return tag

    def on_cancel(self, tag: int) -> None:
        """Record that the caller cancelled the attempt: no evidence, and a probe's place is free
        again."""
        self._probes.pop(tag, None)

    def on_result(self, now: float, tag: int, ok: bool, threshold: int | None = None) -> None:
        """Report an attempt. `threshold` overrides failures in a row (at least 1), by hints."""
        probe = bool(self._probes) and self._probes.pop(tag, None) is not None
        if tag < self._generation:
            return  # sent before the last change of state: no evidence about the present
        settings = self._settings
        if self._state is BreakerState.CLOSED:
            since = now - self._rates_at
            if since > 0.0:
                keep = exp(-since / settings.window_s)
                self._calls *= keep
                self._failures *= keep
                self._rates_at = now
            self._calls += 1.0
            if ok:
                self._row = 0
                return
            self._row += 1
            self._failures += 1.0
            limit = settings.failure_threshold if threshold is None else max(1, threshold)
            if self._row >= limit:
                self._open(now, f"{self._row} failures in a row")
            elif (
                self._calls >= settings.minimum_calls
                and self._failures >= settings.failure_rate * self._calls
            ):
                share = 100 * self._failures / self._calls
                self._open(now, f"{share:.0f} % of recent calls failed")
        elif ok:
            self._successes += 1
            if self._successes >= settings.successes_to_close:
                self._close(now)
        elif probe:
            self._open(now, "a probe failed")

    def trip(self, now: float, reason: str) -> None:
        """Open a closed breaker for a reason that its own counts do not show."""
        if self.closed:
            self._open(now, reason)

    def slow_start(self, now: float) -> float:
        """Return the share of normal traffic for the peer, rising to 1 after the breaker closed."""
        if self.closed_at is None:
            return 1.0
        share = (now - self.closed_at) / self._settings.slow_start_s
        return 1.0 if share >= 1.0 else max(0.1, share)

    def _open(self, now: float, reason: str) -> None:
        settings = self._settings
        healthy_since = self.closed_at if self._state is BreakerState.CLOSED else None
        if healthy_since is not None and now - healthy_since >= settings.forget_s:
            self._cooldown = 0.0
        longest = settings.longest_share * settings.cooldown_s / (1.0 + settings.jitter)
        first = min(settings.first_share * settings.cooldown_s, longest)
        self._cooldown = min(longest, self._cooldown * 2 if self._cooldown else first)
        spread = 1.0 + settings.jitter * (2.0 * self._rng.random() - 1.0)
        self._until = now + self._cooldown * spread
        self._change(now, BreakerState.OPEN, reason)

    def _close(self, now: float) -> None:
        self.closed_at = now
        self._row = 0
        self._calls = self._failures = 0.0
        self._change(now, BreakerState.CLOSED, f"{self._successes} probes worked")

    def _change(self, now: float, state: BreakerState, reason: str) -> None:
        old, self._state = self._state, state
        self.changed_at = now
        if state is not BreakerState.HALF_OPEN:  # probes belong to the period that allowed them
            self._generation = self._next
            self._probes.clear()
            self._successes = 0
        if self.on_change is not None and old is not state:
            self.on_change(now, old, state, reason)
