"""What is known first-hand of one peer, and of the pool of peers together.

The counters with the learning guide's names (`avg_latency_ms`, `success_count`, ...) are for people
and for reports: they never forget. Decisions are made from the decayed quantities beside them, so
that an old outage is forgiven and a new one is seen at once.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp
from typing import Literal

Outcome = Literal["ok", "error", "timeout"]
Load = tuple[float, float, float]  # requests in flight, latency estimate (s), service time (s)

AVERAGE = 0.3  # weight of a new sample in avg_latency_ms, as in the learning guide
LATENCY_MEMORY = 4.0  # seconds until a latency without new samples has mostly become the pool's
SERVICE_MEMORY = 6.0  # the same for the service time
LOAD_MEMORY = 0.5  # and for the work of others: queues change within a few service times
FAILURE_MEMORY = 4.3  # seconds; a half-life of 3
FAILURE_WINDOW = 24.0  # and no more than about this many calls: a busy peer's failure must show
PRIOR = 2.0  # calls without failure that everyone is credited with
RISE, FALL = 0.3, 0.1  # weight of a latency sample above and below the estimate
SERVICE_WEIGHT = 0.1
LOST_AFTER = 120.0  # a call whose result was never reported is forgotten after this many seconds


class Pool:
    """What is usual: averages over the answers of all peers."""

    __slots__ = ("known", "latency", "others", "service")

    def __init__(self) -> None:
        self.known = False
        self.latency = 0.05
        self.service = 0.05
        self.others = 0.0

    def learn(self, latency: float, service: float, others: float) -> None:
        if not self.known:
            self.known = True
            self.latency, self.service, self.others = latency, service, others
            return
        self.latency += 0.02 * (latency - self.latency)
        self.service += 0.02 * (service - self.service)
        self.others += 0.02 * (others - self.others)


class PeerMetrics:
    """One peer, as this caller has seen it. Times in seconds unless the name says ms.

    `last_seen_ts` is the monotonic time of the last answer, None before the first.
    `failing` and `hanging` are decayed counts of errors and timeouts among `calls`.
    `others` is the work of other callers that the peer reported: its in-flight less ours.
    """

    __slots__ = (
        "avg_latency_ms",
        "calls",
        "error_count",
        "failing",
        "good",
        "hanging",
        "last_seen_ts",
        "latency",
        "latency_at",
        "others",
        "others_at",
        "rates_at",
        "sends",
        "service",
        "success_count",
        "timeout_count",
        "total_calls",
    )

    def __init__(self, now: float) -> None:
        self.avg_latency_ms: float | None = None
        self.success_count = 0
        self.error_count = 0
        self.timeout_count = 0
        self.total_calls = 0
        self.last_seen_ts: float | None = None
        self.latency: float | None = None
        self.service: float | None = None
        self.latency_at = now
        self.others = 0.0
        self.others_at = -1e9
        self.calls = 0.0
        self.failing = 0.0
        self.hanging = 0.0
        self.good = 0.0
        self.rates_at = now
        self.sends: list[tuple[float, int]] = []  # when, breaker's tag; oldest first

    @property
    def in_flight(self) -> int:
        return len(self.sends)

    def sent(self, now: float, tag: int) -> None:
        self.sends.append((now, tag))

    def settle(self, sent_at: float) -> tuple[float, int] | None:
        """Take the call that was sent nearest to `sent_at` out of those in flight; None: there is none."""
        sends = self.sends
        if len(sends) <= 1:
            return sends.pop() if sends else None
        i = bisect_left(sends, (sent_at,))
        if i == len(sends) or (i and sent_at - sends[i - 1][0] <= sends[i][0] - sent_at):
            i -= 1
        return sends.pop(i)

    def drop_lost(self, now: float) -> None:
        """Forget calls that nobody will report any more."""
        sends = self.sends
        while sends and now - sends[0][0] > LOST_AFTER:
            del sends[0]

    def fade(self, now: float) -> None:
        """Bring the decayed counts to `now`."""
        if now > self.rates_at:
            keep = exp((self.rates_at - now) / FAILURE_MEMORY)
            self.calls *= keep
            self.failing *= keep
            self.hanging *= keep
            self.good *= keep
            self.rates_at = now

    def succeeded(self, now: float, latency: float, load: Load | None, pool: Pool) -> None:
        self.total_calls += 1
        self.success_count += 1
        self.last_seen_ts = now
        average = self.avg_latency_ms
        ms = latency * 1e3
        self.avg_latency_ms = ms if average is None else average + AVERAGE * (ms - average)
        self._count(now)
        self.good += 1.0
        own = len(self.sends)
        if load is None:
            others, service = 0.0, latency / (1.0 + own)
        else:
            others = max(0.0, load[0] - own)
            # What the peer claims is bounded by what was seen: nobody looks idle by saying so.
            service = min(latency, max(load[2], 0.5 * latency / (1.0 + own + others)))
            self.others, self.others_at = others, now
        # The pool is older evidence of this peer than its own samples, in the measure of their age.
        pool.learn(latency, service, others)
        if self.latency is None or self.service is None:
            self.latency, self.service = latency, service
        else:
            aged = self.aged_latency(now, pool)
            weight = RISE if latency > aged else FALL
            self.latency = aged + weight * (latency - aged)
            aged = self.aged_service(now, pool)
            self.service = aged + SERVICE_WEIGHT * (service - aged)
        self.latency_at = now

    def failed(self, now: float, timeout: bool) -> None:
        """An error is an answer (it shows the peer is there), a timeout is none; neither has a latency."""
        self.total_calls += 1
        self._count(now)
        if timeout:
            self.timeout_count += 1
            self.hanging += 1.0
        else:
            self.error_count += 1
            self.failing += 1.0
            self.last_seen_ts = now

    def _count(self, now: float) -> None:
        self.fade(now)
        self.calls += 1.0
        if self.calls > FAILURE_WINDOW:
            keep = FAILURE_WINDOW / self.calls
            self.calls = FAILURE_WINDOW
            self.failing *= keep
            self.hanging *= keep
            self.good *= keep

    def aged_latency(self, now: float, pool: Pool) -> float:
        if self.latency is None:
            return pool.latency
        keep = exp((self.latency_at - now) / LATENCY_MEMORY)
        return pool.latency + (self.latency - pool.latency) * keep

    def aged_service(self, now: float, pool: Pool) -> float:
        if self.service is None:
            return pool.service
        keep = exp((self.latency_at - now) / SERVICE_MEMORY)
        return pool.service + (self.service - pool.service) * keep

    def aged_others(self, now: float, pool: Pool) -> float:
        keep = exp((self.others_at - now) / LOAD_MEMORY)
        return pool.others + (self.others - pool.others) * keep

    def rates(self, now: float) -> tuple[float, float]:
        """Decayed shares of errors and of timeouts among recent calls, with a prior; changes nothing."""
        keep = exp((self.rates_at - now) / FAILURE_MEMORY)
        calls = self.calls * keep + PRIOR
        return self.failing * keep / calls, self.hanging * keep / calls

    def forgive(self, now: float) -> None:
        """Forget failures and slowness: the peer proved itself again."""
        self.failing = self.hanging = 0.0
        self.latency = self.service = None
        self.latency_at = self.rates_at = now
