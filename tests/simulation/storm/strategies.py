"""Strategies of senders: ours beside those of common libraries. Each decides for one sender.

`first` and `again` return the time of the next first attempt or retry (0: now; a time: call again then;
inf: after a result). `backoff` is the wait after a failed attempt; None gives the message up. The
strategies of others were written from their public descriptions and defaults.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from math import inf
from typing import Protocol

from p2p.adaptive.circuit_breaker import Breaker, BreakerSettings
from p2p.flow import (
    Aimd,
    AimdSettings,
    Governor,
    LoadReport,
    Outcome,
    RateOwner,
    TokenBucket,
    WarmUp,
    full_jitter,
)


class Strategy(Protocol):
    def first(self, now: float) -> float: ...
    def again(self, now: float) -> float: ...
    def on_send(self, now: float, first: bool) -> int: ...
    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None: ...
    def backoff(self, now: float, attempts: int) -> float | None: ...


class Naive:
    """Everything at once, and again at once, 50 times."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.tag = 0

    def first(self, now: float) -> float:
        return 0.0

    def again(self, now: float) -> float:
        return self.first(now)

    def on_send(self, now: float, first: bool) -> int:
        self.tag += 1
        return self.tag

    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None:
        pass

    def backoff(self, now: float, attempts: int) -> float | None:
        return None if attempts >= 50 else 0.0


class FullJitter(Naive):
    """Exponential backoff with full jitter, six attempts, and nothing else."""

    def backoff(self, now: float, attempts: int) -> float | None:
        return None if attempts >= 6 else full_jitter(self.rng, attempts, 0.5, 20.0)


class GuideAsSketched(Naive):
    """The throttling guide's six parts, put together as its listings do."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.rate = 1.0
        self.tokens = 1.0  # the bucket holds a second's worth, and starts full
        self.at = 0.0
        self.aimd = 10.0
        self.warm = False
        self.next_aimd = 30.0
        self.sent = self.errors = 0
        self.failures = 0
        self.open_until = 0.0

    def _refill(self, now: float) -> None:
        if now >= 60.0 and not self.warm:
            self.warm = True
            self.rate = 10.0
        while now >= self.next_aimd:
            share = self.errors / self.sent if self.sent else 0.0
            self.aimd = max(1.0, self.aimd / 2) if share > 0.05 else min(50.0, self.aimd + 1)
            self.rate = self.aimd
            self.sent = self.errors = 0
            self.next_aimd += 30.0
        self.tokens = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate)
        self.at = now

    def first(self, now: float) -> float:
        self._refill(now)
        return 0.0 if self.tokens >= 1.0 - 1e-9 else now + (1.0 - self.tokens) / self.rate

    def again(self, now: float) -> float:
        return 0.0  # execute() retries without asking the bucket

    def on_send(self, now: float, first: bool) -> int:
        if first:
            self.tokens -= 1.0
        return super().on_send(now, first)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None:
        self.sent += 1
        if outcome == "ok":
            self.failures = 0
        else:
            self.errors += 1
            self.failures += 1
            if self.failures >= 5:
                self.open_until = now + 10.0

    def backoff(self, now: float, attempts: int) -> float | None:
        if attempts >= 5 or now < self.open_until:
            return None  # thrown: the message is gone
        return self.rng.random() * 2.0 ** (attempts - 1)


class Backing(Naive):
    """Keeps every message until it is through, with full jitter; retries pass the same gate."""

    def backoff(self, now: float, attempts: int) -> float | None:
        return full_jitter(self.rng, attempts, 0.1, 5.0)


class GuideCorrected(Backing):
    """The guide's parts in their right form: `p2p.flow`'s bucket, warm-up, AIMD and breaker."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.warm_up = WarmUp(10.0, 1000.0, 5.0)
        self.warm_up.resume(0.0)
        self.aimd = Aimd(AimdSettings(initial=50.0, minimum=1.0, maximum=1000.0, latency_s=0.25))
        self.bucket = TokenBucket(10.0, burst=2.0)
        self.owner = RateOwner(self.bucket, warm_up=self.warm_up, aimd=self.aimd)
        self.breaker = Breaker(
            BreakerSettings(first_share=0.05, cooldown_s=5.0, successes_to_close=1), rng=rng
        )

    def first(self, now: float) -> float:
        if not self.breaker.allows(now):
            return max(self.breaker.until, now + 0.05)
        self.owner.update(now)
        delay = self.bucket.would_delay(now)
        return 0.0 if delay == 0.0 else now + delay

    def on_send(self, now: float, first: bool) -> int:
        self.bucket.try_take(now)
        self.aimd.on_send(now)
        return self.breaker.on_send(now)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None:
        self.aimd.on_result(now, outcome, latency)
        was = self.breaker.closed
        self.breaker.on_result(now, tag, outcome == "ok")
        if outcome != "ok":
            self.warm_up.hold(now)
        elif self.breaker.closed and not was:
            self.warm_up.restart(now)
        else:
            self.warm_up.resume(now)


class AwsAdaptive(Backing):
    """The SDKs' adaptive retry mode: a token bucket whose rate follows CUBIC after the first failure."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.enabled = False
        self.fill = 0.5
        self.tokens = 0.0
        self.at = 0.0
        self.measured = 0.0
        self.bucket_at = 0.0
        self.count = 0
        self.last_max = 0.0
        self.throttled_at = 0.0
        self.window = 0.0

    def _refill(self, now: float) -> None:
        self.tokens = min(max(1.0, self.fill), self.tokens + (now - self.at) * self.fill)
        self.at = now

    def first(self, now: float) -> float:
        if not self.enabled:
            return 0.0
        self._refill(now)
        return 0.0 if self.tokens >= 1.0 - 1e-9 else now + (1.0 - self.tokens) / self.fill

    def on_send(self, now: float, first: bool) -> int:
        if self.enabled:
            self.tokens -= 1.0
        return super().on_send(now, first)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None:
        self.count += 1
        slot = math.floor(now * 2) / 2
        if slot > self.bucket_at:
            rate = self.count / (slot - self.bucket_at)
            self.measured = rate * 0.8 + self.measured * 0.2
            self.count = 0
            self.bucket_at = slot
        if outcome == "ok":
            since = now - self.throttled_at
            rate = 0.4 * (since - self.window) ** 3 + self.last_max
        else:
            used = min(self.measured, self.fill) if self.enabled else self.measured
            self.last_max = used
            self.window = (self.last_max * 0.3 / 0.4) ** (1 / 3)
            self.throttled_at = now
            self.enabled = True
            rate = used * 0.7
        self._refill(now)
        self.fill = max(0.5, min(rate, 2 * self.measured))
        self.tokens = min(self.tokens, max(1.0, self.fill))


class Limited(Backing):
    """A limit of attempts in flight, as in Netflix's concurrency-limits (its defaults)."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.limit = 20.0
        self.out = 0

    def first(self, now: float) -> float:
        return 0.0 if self.out < int(self.limit) else inf

    def on_send(self, now: float, first: bool) -> int:
        self.out += 1
        return super().on_send(now, first)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None:
        self.update(latency, self.out, outcome != "ok")
        self.out -= 1

    def update(self, latency: float, out: int, dropped: bool) -> None:
        raise NotImplementedError


class NetflixAimd(Limited):
    def update(self, latency: float, out: int, dropped: bool) -> None:
        if dropped or latency > 5.0:
            self.limit *= 0.9
        elif out * 2 >= self.limit:
            self.limit += 1
        self.limit = min(200.0, max(20.0, self.limit))


class NetflixVegas(Limited):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.noload = 0.0
        self.probe = 0
        self.jitter = rng.uniform(0.5, 1.0)

    def update(self, latency: float, out: int, dropped: bool) -> None:
        self.probe += 1
        if self.probe > 30 * self.limit * self.jitter:
            self.jitter = self.rng.uniform(0.5, 1.0)
            self.probe = 0
            self.noload = latency
            return
        if not self.noload or latency < self.noload:
            self.noload = latency
            return
        step = max(1.0, math.log10(self.limit))
        if dropped:
            self.limit -= step
        elif out * 2 >= self.limit:
            queue = math.ceil(self.limit * (1 - self.noload / latency))
            if queue <= step:
                self.limit += 6 * step
            elif queue < 3 * step:
                self.limit += step
            elif queue > 6 * step:
                self.limit -= step
        self.limit = min(1000.0, max(1.0, self.limit))


class NetflixGradient2(Limited):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.long = 0.0
        self.samples = 0

    def update(self, latency: float, out: int, dropped: bool) -> None:
        self.samples += 1
        if self.samples <= 10:
            self.long += (latency - self.long) / self.samples
        else:
            self.long += 2 / 601 * (latency - self.long)
        if self.long / latency > 2:
            self.long *= 0.95
        if out < self.limit / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self.long / latency))
        self.limit = 0.8 * self.limit + 0.2 * (self.limit * gradient + 4)
        self.limit = min(200.0, max(20.0, self.limit))


class Governed(Backing):
    """`p2p.flow.Governor`, the product's own object."""

    feedback = False

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.governor = Governor(rng=rng, feedback=self.feedback)

    def first(self, now: float) -> float:
        return self.governor.ready(now)

    def on_send(self, now: float, first: bool) -> int:
        return self.governor.on_send(now)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, latency: float, load: LoadReport | None
    ) -> None:
        self.governor.on_result(now, tag, outcome, load)


class GovernedWithFeedback(Governed):
    feedback = True


STRATEGIES: dict[str, Callable[[random.Random], Strategy]] = {
    "naive": Naive,
    "full jitter": FullJitter,
    "guide as sketched": GuideAsSketched,
    "guide corrected": GuideCorrected,
    "AWS adaptive": AwsAdaptive,
    "Netflix AIMD": NetflixAimd,
    "Netflix Vegas": NetflixVegas,
    "Netflix gradient2": NetflixGradient2,
    "governor": Governed,
    "governor, feedback": GovernedWithFeedback,
}
