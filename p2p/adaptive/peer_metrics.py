"""First-hand measurements of one peer, and of the pool of all peers.

The counters with the learning guide's names (`avg_latency_ms`, `success_count`, ...) are totals for
reports and do not decay. Decisions use the decayed quantities beside them, so that an old outage no
longer counts and a new one counts at once.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp
from typing import Literal

Outcome = Literal["ok", "error", "timeout"]
Load = tuple[float, float, float]  # requests in flight, latency estimate (s), service time (s)

AVERAGE = 0.3  # weight of a new sample in avg_latency_ms, as in the learning guide
# The next three are BASE over 3, 2 and 6, so that one exponential serves them: see `succeeded`.
BASE = 12.0
LATENCY_MEMORY = 4.0  # seconds until a latency without new samples has mostly become the pool's
SERVICE_MEMORY = 6.0  # the same for the service time
LOAD_MEMORY = 7.5  # and for other callers' work, in service times: queues change that fast
LOAD_SHORTEST, LOAD_LONGEST = 0.02, 2.0  # in seconds, whatever the service time
FAILURE_MEMORY, FAILURE_CALLS = 2.0, 150.0  # seconds, and own calls: the longer of the two ...
FAILURE_LONGEST = 8.0  # ... but no longer than this
FAILURE_WINDOW = (
    24.0  # and no more than about this many calls, so that failures of a busy peer count
)
PRIOR = 2.0  # prior: calls without failure that each peer is credited with
ROW_DOUBT = 0.7  # after n failures in a row, the expected success rate is ROW_DOUBT^(n-1) at most
LONG = 20.0  # in pool latencies; a call in flight for longer counts as lost, not slow
TRY_AGAIN, TRY_CALLS = (
    2.5,
    100.0,
)  # seconds and own calls until a peer that does not answer is tried again
RISE, FALL = 0.3, 0.1  # weight of a latency sample above and below the estimate
SERVICE_WEIGHT = 0.1
POOL_WEIGHT = 0.02
WIDTH_WEIGHT = 0.01
TRUST_MAX, TRUST_MEMORY = (
    20.0,
    30.0,
)  # successes remembered against hints, and for how many seconds
OTHERS_MAX = 1e4  # requests in flight that a report can claim
LOST_AFTER = 120.0  # a call whose result was never reported is forgotten after this many seconds


class Pool:
    """Averages over the answers of all peers, and the sending rate of this caller.

    `width` estimates how many requests a peer serves side by side (by Little's law, from how long
    requests took beside how many were inside; at least 1). Busy moments count more: a free place
    does not show how many there are. `busy` is 0 while they are idle and 1 from half of the places
    taken; `foreign` is the share of other callers in the peers' work; `memory` is for failures, in
    seconds.
    """

    __slots__ = (
        "_sent_at",
        "_since",
        "_taken",
        "_worked",
        "busy",
        "foreign",
        "known",
        "latency",
        "load_memory",
        "memory",
        "others",
        "pace",
        "queue",
        "service",
        "width",
    )

    def __init__(self) -> None:
        self.known = False
        self.latency = 0.05
        self.service = 0.05
        self.others = 0.0
        self.queue = 0.0
        self.width = 1.0
        self.busy = 0.0
        self.foreign = 0.0
        self.pace = 0.02
        self.memory = FAILURE_MEMORY
        self.load_memory = 0.15
        self._since = 0
        self._sent_at: float | None = None
        self._worked = 0.0  # requests inside times the service time, weighted
        self._taken = 0.0  # latency, weighted; `width` is the quotient

    def on_send(self, now: float) -> None:
        """Update the sending rate of this caller: with few calls, few of them should be probes."""
        if self._sent_at is not None:
            self.pace += 0.02 * (min(now - self._sent_at, 1.0) - self.pace)
            self.memory = min(FAILURE_LONGEST, max(FAILURE_MEMORY, FAILURE_CALLS * self.pace))
        self._sent_at = now

    def learn(self, latency: float, service: float, others: float, queue: float) -> None:
        inside = queue + 1.0
        weight = WIDTH_WEIGHT if self.known else 1.0
        square = inside * inside
        self._worked += weight * (square * inside * service - self._worked)
        self._taken += weight * (square * latency - self._taken)
        if not self.known:
            self.known = True
            self.latency, self.service, self.others = latency, service, others
            self.queue = queue
            return
        self.latency += POOL_WEIGHT * (latency - self.latency)
        self.service += POOL_WEIGHT * (service - self.service)
        self.others += POOL_WEIGHT * (others - self.others)
        self.queue += POOL_WEIGHT * (queue - self.queue)
        self._since += 1
        if self._since < 8:  # the following is derived from slow averages; it need not be exact
            return
        self._since = 0
        self.width = max(1.0, self._worked / max(1e-9, self._taken))
        self.load_memory = min(LOAD_LONGEST, max(LOAD_SHORTEST, LOAD_MEMORY * self.service))
        self.foreign = self.others / (self.queue + 0.1)
        self.busy = min(1.0, 2.0 * self.queue / self.width)


class PeerMetrics:
    """Measurements of one peer by this caller. Times in seconds unless the name says ms.

    `last_seen_ts` is the monotonic time of the last answer, None before the first.
    `failing` and `hanging` are decayed counts of errors and timeouts among `calls`.
    `others` is the work of other callers that the peer reported: its requests in flight less this
    caller's.
    """

    __slots__ = (
        "answered",
        "avg_latency_ms",
        "calls",
        "error_count",
        "failed_at",
        "failing",
        "good",
        "hanging",
        "last_seen_ts",
        "latency",
        "latency_at",
        "others",
        "others_at",
        "rates_at",
        "row",
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
        self.good = 0.0  # successes since the last failure, up to TRUST_MAX; see `trust`
        self.rates_at = now
        self.row = 0  # failures since the last success
        self.failed_at = -1e9  # when the latest call that failed had been sent
        self.answered = -1e9  # when the latest call that was answered had been sent
        self.sends: list[tuple[float, int]] = []  # when, breaker's tag; oldest first

    @property
    def in_flight(self) -> int:
        return len(self.sends)

    def settle(self, sent_at: float) -> tuple[float, int] | None:
        """Remove and return the call in flight that was sent nearest to `sent_at`, or None."""
        sends = self.sends
        if len(sends) <= 1:
            return sends.pop() if sends else None
        i = bisect_left(sends, (sent_at,))
        if i == len(sends) or (i and sent_at - sends[i - 1][0] <= sends[i][0] - sent_at):
            i -= 1
        return sends.pop(i)

    def drop_lost(self, now: float) -> None:
        """Forget calls whose result was never reported."""
        sends = self.sends
        while sends and now - sends[0][0] > LOST_AFTER:
            del sends[0]

    def fade(self, now: float, pool: Pool) -> None:
        """Decay the counts to `now`."""
        if now > self.rates_at:
            keep = exp((self.rates_at - now) / pool.memory)
            self.calls *= keep
            self.failing *= keep
            self.hanging *= keep
            self.rates_at = now

    def oldest(self, now: float, pool: Pool) -> float:
        """Return the age of the oldest call in flight, as far as it is evidence of slowness.

        It is not if a later call was answered, or if nothing was sent for so long that another try
        is due.
        """
        sends = self.sends
        patience = min(FAILURE_LONGEST, max(TRY_AGAIN, TRY_CALLS * pool.pace))
        if now - sends[-1][0] > max(patience, LONG * pool.latency):
            return 0.0
        first = sends[0][0]
        if first <= self.answered and now - first > LONG * pool.latency:
            i = bisect_left(sends, (self.answered, 1 << 62))
            if i == len(sends):
                return 0.0
            first = sends[i][0]
        return now - first

    def succeeded(self, now: float, latency: float, load: Load | None, pool: Pool) -> None:
        self.total_calls += 1
        self.success_count += 1
        self.last_seen_ts = now
        average = self.avg_latency_ms
        ms = latency * 1e3
        self.avg_latency_ms = ms if average is None else average + AVERAGE * (ms - average)
        # Runs for every answer, so it calls little and shares subexpressions.
        calls = self.calls
        since = now - self.rates_at
        if since > 0.0:
            keep = exp(-since / pool.memory)
            calls *= keep
            if self.failing or self.hanging:
                self.failing *= keep
                self.hanging *= keep
            self.rates_at = now
        calls += 1.0
        if calls > FAILURE_WINDOW:
            keep = FAILURE_WINDOW / calls
            calls = FAILURE_WINDOW
            self.failing *= keep
            self.hanging *= keep
        self.calls = calls
        if self.good < TRUST_MAX:
            self.good += 1.0
        self.row = 0
        if now - latency > self.answered:
            self.answered = now - latency
        own = len(self.sends)
        if load is None:
            others, service = 0.0, latency / (1.0 + own)
        else:
            others = load[0] - own
            if not 0.0 <= others <= OTHERS_MAX:  # negative, absurd, or NaN
                others = OTHERS_MAX if others > 0.0 else 0.0
            # The peer's claim is bounded by own measurements, so a peer cannot look idle by
            # claiming it.
            service, least = load[2], 0.5 * latency / (1.0 + own + others)
            if not least <= service <= latency:
                service = least if service < least else latency
            self.others, self.others_at = others, now
        usual = 4.0 * pool.others + 4.0  # one peer's claim moves the average little
        if others < usual:
            usual = others
        old_latency, old_service = self.latency, self.service
        if old_latency is None or old_service is None:
            self.latency, self.service = latency, service
        else:
            # The estimates have drifted towards the pool's average since (as in aged_latency and
            # aged_service), so a sample after a long silence gets most of the weight: otherwise a
            # slow peer that is tried again would count as average for several more tries.
            since = now - self.latency_at
            if since > 0.0:
                base = exp(-since / BASE)
                square = base * base
                cube = square * base
                gap = cube * cube
                aged = pool.latency + (old_latency - pool.latency) * cube
                old_service = pool.service + (old_service - pool.service) * square
            else:
                gap, aged = 1.0, old_latency
            weight = RISE if latency > aged else FALL
            self.latency = latency + (1.0 - weight) * gap * (aged - latency)
            self.service = service + (1.0 - SERVICE_WEIGHT) * gap * (old_service - service)
        self.latency_at = now
        pool.learn(latency, service, usual, own + usual)

    def trust(self, now: float) -> float:
        """Return the number of recent own successes, the counterweight of hints. Changes
        nothing."""
        if self.last_seen_ts is None:
            return 0.0
        return self.good * exp((self.last_seen_ts - now) / TRUST_MEMORY)

    def failed(self, now: float, latency: float, timeout: bool, pool: Pool) -> None:
        """Record a failure. An error is an answer (the peer is there), a timeout is not; neither has a
        latency.
        """
        self.total_calls += 1
        self._count(now, pool)
        self.row += 1
        self.good *= 0.5
        self.failed_at = max(self.failed_at, now - latency)
        if timeout:
            # Evidence about the time of sending: during the wait the peer was already avoided.
            self.timeout_count += 1
            self.hanging += exp(-latency / pool.memory)
        else:
            self.error_count += 1
            self.failing += 1.0
            self.last_seen_ts = now

    def _count(self, now: float, pool: Pool) -> None:
        self.fade(now, pool)
        self.calls += 1.0
        if self.calls > FAILURE_WINDOW:
            keep = FAILURE_WINDOW / self.calls
            self.calls = FAILURE_WINDOW
            self.failing *= keep
            self.hanging *= keep

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
        keep = exp((self.others_at - now) / pool.load_memory)
        return pool.others + (self.others - pool.others) * keep

    def rates(self, now: float, pool: Pool) -> tuple[float, float]:
        """Return the decayed shares of errors and of timeouts among recent calls, with a prior. Changes
        nothing.
        """
        keep = exp((self.rates_at - now) / pool.memory)
        calls = self.calls * keep + PRIOR
        errors, timeouts = self.failing * keep / calls, self.hanging * keep / calls
        if self.row > 1:
            both = errors + timeouts
            sure = (1.0 - ROW_DOUBT ** (self.row - 1)) * exp((self.failed_at - now) / pool.memory)
            if sure > both:
                errors *= sure / both
                timeouts *= sure / both
        return errors, timeouts

    def forgive(self, now: float) -> None:
        """Reset failures and slowness after a successful probe."""
        self.failing = self.hanging = 0.0
        self.row = 0
        self.latency = self.service = None
        self.latency_at = self.rates_at = now
