"""Steps 11 to 16: twenty existing clients restart with a backlog, and adopt the parts of flow control one at a
time. The parts are those of `p2p.flow`; the server collapses under overload and has a slow phase.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any

from node.annexes.learn.sheet import Settings, Sheet
from node.virtual import components
from node.virtual.components import Part
from node.virtual.server_model import Network, Server, TrafficCounts, VirtualTime, seeded
from p2p.flow import (
    Aimd,
    AimdSettings,
    BreakerSettings,
    CircuitBreaker,
    LoadReport,
    Outcome,
    RateOwner,
    SlidingWindow,
    TokenBucket,
    WarmUp,
    full_jitter,
)

CLIENTS = 20
BACKLOG = 120  # messages of each client
LINE_RATE = 400.0  # messages a second that a client can put on the wire
ATTEMPTS = 10  # of one message, then it is lost
SLOW = (4.0, 9.0, 4.0)  # from, to, times slower
LIMIT_S = 40.0
ORDER = ("token bucket", "warm-up", "backoff", "circuit breaker", "sliding window", "AIMD")


@dataclass(frozen=True)
class Adopted:
    """Parts that a client has, by their order of adoption, and what the reader can change."""

    parts: int = 0  # the first of `ORDER`
    rate: float = 20.0
    warm_up_s: float = 5.0
    base_s: float = 0.5
    threshold: int = 5
    maximum: float = 20.0
    only: str = ""  # this part and no other

    def has(self, part: str) -> bool:
        return part == self.only if self.only else ORDER.index(part) < self.parts


class ExistingClient:
    """Client with a backlog. Without parts: as fast as the line takes it, and again at once."""

    def __init__(
        self,
        time: VirtualTime,
        network: Network,
        counts: TrafficCounts,
        window: SlidingWindow,
        adopted: Adopted,
        rng: random.Random,
    ) -> None:
        self._time = time
        self._network = network
        self._counts = counts
        self._window = window
        self._adopted = adopted
        self._rng = rng
        self._due = [(0.0, n, 0) for n in range(BACKLOG)]  # when, number, attempts
        self._line_free = 0.0
        self._wake_at = inf
        self.delivered = 0
        self.lost = 0
        self._bucket, self._owner = TokenBucket(adopted.rate, burst=2.0), None
        self._aimd = Aimd(
            AimdSettings(initial=adopted.rate, maximum=max(adopted.rate, adopted.maximum))
        )
        limits: dict[str, Any] = {}  # the lowest is the bucket's rate
        if adopted.has("warm-up"):
            full = max(adopted.rate, adopted.maximum, 1.0)
            ramp = limits["warm_up"] = WarmUp(1.0, full, adopted.warm_up_s)
            ramp.resume(0.0)
        if adopted.has("AIMD"):
            limits["aimd"] = self._aimd
        if limits:
            self._owner = RateOwner(self._bucket, **limits)
        self._breaker = CircuitBreaker(
            BreakerSettings(failure_threshold=max(1, adopted.threshold), cooldown_s=5.0),
            rng=self._rng,
        )
        time.at(0.0, self._pump)

    def _allowed_at(self, now: float) -> float:
        """Return when the next attempt may be sent."""
        at = max(now, self._line_free)
        adopted = self._adopted
        if adopted.has("circuit breaker") and not self._breaker.allows(now):
            at = max(at, self._breaker.until, now + 0.05)
        if adopted.has("token bucket"):
            if self._owner is not None:
                self._owner.update(now)
            at = max(at, now + min(1.0, self._bucket.would_delay(now)))
        return at

    def _pump(self) -> None:
        now = self._time.now
        if self._wake_at <= now:
            self._wake_at = inf
        while self._due:
            at = max(self._due[0][0], self._allowed_at(now))
            if at > now:
                if at < self._wake_at:
                    self._wake_at = at
                    self._time.at(at, self._pump)
                return
            _, number, attempts = heapq.heappop(self._due)
            self._send(now, number, attempts + 1)

    def _send(self, now: float, number: int, attempts: int) -> None:
        self._line_free = max(now, self._line_free) + 1.0 / LINE_RATE
        if self._adopted.has("token bucket"):
            self._bucket.try_take(now)
        tag = self._breaker.on_send(now)
        self._aimd.on_send(now)
        self._counts.send(now)

        def ended(outcome: Outcome, load: LoadReport | None) -> None:
            self._ended(now, number, attempts, tag, outcome)

        self._network.ask(ended)

    def _ended(self, sent: float, number: int, attempts: int, tag: int, outcome: Outcome) -> None:
        now = self._time.now
        ok = outcome == "ok"
        self._counts.result(now, ok)
        self._window.record(now, now - sent, ok)
        self._breaker.on_result(now, tag, ok)
        self._aimd.on_result(now, outcome, now - sent)
        if ok:
            self.delivered += 1
        elif attempts >= ATTEMPTS:
            self.lost += 1
        else:
            wait = 0.0
            if self._adopted.has("backoff"):
                wait = full_jitter(self._rng, attempts, self._adopted.base_s, 8.0)
            heapq.heappush(self._due, (now + wait, number, attempts))
        self._pump()


@dataclass(frozen=True)
class Restart:
    """Figures of a restart with some parts adopted."""

    burst: float  # most attempts in any second
    error_share: float
    crashes: int
    delivered: int
    lost: int
    drained_s: float
    first_second: int

    def row(self, name: str) -> tuple[object, ...]:
        return (name, self.first_second, self.burst, f"{100 * self.error_share:.1f} %", self.crashes, self.delivered,
                self.lost, self.drained_s)  # fmt: skip


HEADER = (
    "with",
    "in the first s",
    "most in 1 s",
    "failing",
    "crashes",
    "delivered",
    "lost",
    "drained after s",
)


@lru_cache(maxsize=64)
def restart(seed: int, adopted: Adopted, share: float = 1.0) -> Restart:
    """All clients restart at once, each with its backlog; the server can do 500 a second, less for a while.
    A `share` of the clients has adopted the parts, the others none.
    """
    time = VirtualTime()
    server = Server(time, seeded("server", seed))
    time.at(SLOW[0], lambda: setattr(server, "slow", SLOW[2]))
    time.at(SLOW[1], lambda: setattr(server, "slow", 1.0))
    network = Network(time, server)
    counts, window = TrafficCounts(), SlidingWindow(LIMIT_S)
    clients = [
        ExistingClient(
            time,
            network,
            counts,
            window,
            adopted if n < share * CLIENTS else Adopted(),
            seeded(f"client {n}", seed),
        )
        for n in range(CLIENTS)
    ]
    total = CLIENTS * BACKLOG
    at = 0.0
    while at < LIMIT_S and sum(c.delivered + c.lost for c in clients) < total:
        at += 0.5
        time.run(at)
    delivered = sum(c.delivered for c in clients)
    return Restart(
        counts.most_in(1.0),
        counts.failed / max(1, counts.ok + counts.failed),
        server.crashes,
        delivered,
        sum(c.lost for c in clients),
        counts.last_ok,
        sum(counts.sums("offered", 1.0)),
    )


def _compare(
    sheet: Sheet, seed: int, adopted: Adopted, others: Sequence[tuple[str, Restart]] = ()
) -> None:
    """Add the restart without and with the newest part, as rows and figures; `others` are rows before."""
    part = ORDER[adopted.parts - 1]
    before = restart(seed, Adopted(adopted.parts - 1))
    after = restart(seed, adopted)
    so_far = (
        ("nothing", "the token bucket")[adopted.parts - 1]
        if adopted.parts < 3
        else f"the first {adopted.parts - 1} parts"
    )
    sheet.text()
    sheet.text(
        f"{CLIENTS} clients restart with {CLIENTS * BACKLOG:,} messages for a server for 500/s,"
    )
    sheet.text(f"which can do {500 / SLOW[2]:.0f}/s from {SLOW[0]:g} s to {SLOW[1]:g} s:")
    rows = [found.row(name) for name, found in others]
    sheet.table(HEADER, [*rows, before.row(so_far), after.row(f"and the {part}")])
    sheet.figure("burst_before", before.burst, 0)
    sheet.figure("burst", after.burst, 0)
    sheet.figure("first_second_before", before.first_second, 0)
    sheet.figure("first_second", after.first_second, 0)
    sheet.figure("error_share_before", before.error_share)
    sheet.figure("error_share", after.error_share)
    sheet.figure("crashes_before", before.crashes, 0)
    sheet.figure("crashes", after.crashes, 0)
    sheet.figure("lost_before", before.lost, 0)
    sheet.figure("lost", after.lost, 0)
    sheet.figure("drained_s", after.drained_s, 1)


def _alone(sheet: Sheet, part: Part) -> None:
    """Add the part's own demonstration."""
    sheet.text(f"{part.name} alone: {part.what}")
    for line in part.lines:
        sheet.text(f"  {line}")


def token_bucket(seed: int, settings: Settings) -> Sheet:
    """Step 11."""
    sheet = Sheet()
    _alone(sheet, components.token_bucket(seed))
    _compare(sheet, seed, Adopted(1, rate=max(0.5, settings["rate"])))
    return sheet


def warm_up(seed: int, settings: Settings) -> Sheet:
    """Step 12."""
    sheet = Sheet()
    _alone(sheet, components.warm_up(seed))
    _compare(sheet, seed, Adopted(2, warm_up_s=max(0.1, settings["seconds"])))
    return sheet


def backoff(seed: int, settings: Settings) -> Sheet:
    """Step 13."""
    sheet = Sheet()
    _alone(sheet, components.retry_strategy(seed))
    base = max(0.01, settings["base_s"])
    alone = restart(seed, Adopted(base_s=base, only="backoff"))
    others = (("nothing", restart(seed, Adopted())), ("backoff alone", alone))
    _compare(sheet, seed, Adopted(3, base_s=base), others)
    sheet.figure("alone_burst", alone.burst, 0)
    sheet.figure("alone_error_share", alone.error_share)
    sheet.figure("alone_delivered", alone.delivered, 0)
    return sheet


def breaker(seed: int, settings: Settings) -> Sheet:
    """Step 14."""
    sheet = Sheet()
    _alone(sheet, components.circuit_breaker(seed))
    _compare(sheet, seed, Adopted(4, threshold=int(settings["threshold"])))
    return sheet


def window(seed: int, settings: Settings) -> Sheet:
    """Step 15."""
    sheet = Sheet()
    part = components.sliding_window(seed)
    _alone(sheet, part)
    found = SlidingWindow(max(0.1, settings["seconds"]))
    rows = []
    for tenth in range(200):
        found.record(tenth / 10, 0.02, not 50 <= tenth < 100)  # all fail from 5 s to 10 s
        if tenth in (99, 149, 199):
            rows.append((f"{(tenth + 1) // 10} s", found.figures(tenth / 10).error_rate))
    sheet.text()
    sheet.text(f"A window of {found.seconds:g} s; every call failed from 5 s to 10 s, none since:")
    sheet.table(("asked at", "error rate"), rows)
    sheet.figure("p95_ms", float(part.figures["p95_ms"]), 1)
    sheet.figure("exact_p95_ms", float(part.figures["exact_p95_ms"]), 1)
    sheet.figure("error_rate", float(part.figures["error_rate"]))
    sheet.figure("error_rate_10s_later", found.figures(19.9).error_rate)
    return sheet


def aimd(seed: int, settings: Settings) -> Sheet:
    """Step 16."""
    sheet = Sheet()
    _alone(sheet, components.aimd(seed))
    _compare(sheet, seed, Adopted(6, maximum=max(20.0, settings["maximum"])))
    return sheet
