"""Policies to measure against, written from their published descriptions, and the oracle.

All but the oracle see what any caller sees. `Accrual` is Finagle's failure accrual in short: five
failures in a row take a peer out for five seconds, doubling to a minute, jittered; then one probe.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from tests.simulation.routing.model import Load, World


class Plain:
    """Common ground: counts of calls in flight, and no failure accrual."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.out: dict[int, int] = {}

    def usable(self, now: float, candidates: Sequence[int], exclude: Sequence[int]) -> list[int]:
        return [p for p in candidates if p not in exclude] or list(candidates)

    def pick(self, now: float, candidates: Sequence[int], exclude: Sequence[int] = ()) -> int:
        return self.choose(now, self.usable(now, candidates, exclude))

    def choose(self, now: float, usable: list[int]) -> int:
        return self.rng.choice(usable)

    def on_send(self, now: float, peer: int) -> None:
        self.out[peer] = self.out.get(peer, 0) + 1

    def on_result(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        self.out[peer] -= 1
        self.learn(now, peer, latency_s, outcome, load)

    def learn(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        pass


class Accrual(Plain):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.row: dict[int, int] = {}
        self.until: dict[int, float] = {}
        self.pause: dict[int, float] = {}
        self.probing: dict[int, float] = {}

    def usable(self, now: float, candidates: Sequence[int], exclude: Sequence[int]) -> list[int]:
        return [
            p
            for p in super().usable(now, candidates, exclude)
            if p not in self.until
            or (now >= self.until[p] and now - self.probing.get(p, -9.0) > 5.0)
        ] or super().usable(now, candidates, exclude)

    def on_send(self, now: float, peer: int) -> None:
        super().on_send(now, peer)
        if peer in self.until:
            self.probing[peer] = now

    def on_result(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        if outcome == "ok":
            self.row[peer] = 0
            if self.probing.pop(peer, None) is not None:
                self.until.pop(peer, None)
                self.pause.pop(peer, None)
        else:
            self.row[peer] = self.row.get(peer, 0) + 1
            probe = self.probing.pop(peer, None) is not None
            if probe or (self.row[peer] >= 5 and peer not in self.until):
                pause = self.pause.get(peer, 5.0)
                self.until[peer] = now + pause * (0.5 + 0.5 * self.rng.random())
                self.pause[peer] = min(60.0, pause * 2)
        super().on_result(now, peer, latency_s, outcome, load)


class RoundRobin(Plain):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.turn = rng.randrange(1000)

    def choose(self, now: float, usable: list[int]) -> int:
        self.turn += 1
        return usable[self.turn % len(usable)]


class LeastOutstanding(Accrual):
    def choose(self, now: float, usable: list[int]) -> int:
        return min(usable, key=lambda p: (self.out.get(p, 0), self.rng.random()))


class TwoChoices(Accrual):
    """The less busy of two (by own calls in flight)."""

    def choose(self, now: float, usable: list[int]) -> int:
        a, b = self.rng.choice(usable), self.rng.choice(usable)
        return a if self.out.get(a, 0) <= self.out.get(b, 0) else b


class PeakEwma(Accrual):
    """Finagle's: the better of two by peak EWMA of latency times calls in flight plus one."""

    DECAY = 10.0

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.cost: dict[int, tuple[float, float]] = {}

    def value(self, now: float, peer: int) -> float:
        if peer not in self.cost:
            return 0.0 if not self.out.get(peer, 0) else 1e6  # the penalty of an unknown peer
        cost, at = self.cost[peer]
        return cost * math.exp(-(now - at) / self.DECAY) * (self.out.get(peer, 0) + 1)

    def choose(self, now: float, usable: list[int]) -> int:
        a, b = self.rng.choice(usable), self.rng.choice(usable)
        return a if self.value(now, a) <= self.value(now, b) else b

    def learn(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        cost, at = self.cost.get(peer, (0.0, now))
        if latency_s > cost:
            cost = latency_s
        else:
            w = math.exp(-(now - at) / self.DECAY)
            cost = cost * w + latency_s * (1 - w)
        self.cost[peer] = (cost, now)


class C3(Accrual):
    """C3 (NSDI'15): cubic in an estimate of the queue, from replies; `clients` is its concurrency weight."""

    def __init__(self, rng: random.Random, clients: int) -> None:
        super().__init__(rng)
        self.clients = clients
        self.r: dict[int, float] = {}
        self.q: dict[int, float] = {}
        self.s: dict[int, float] = {}

    def choose(self, now: float, usable: list[int]) -> int:
        def score(p: int) -> tuple[float, float]:
            if p not in self.s:
                return (self.out.get(p, 0) * 1.0, self.rng.random())
            q = 1 + self.out.get(p, 0) * self.clients + self.q[p]
            return (self.r[p] - self.s[p] + q**3 * self.s[p], self.rng.random())

        return min(usable, key=score)

    def learn(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        if outcome != "ok":
            return
        queue, _, service = load or (0.0, 0.0, latency_s)
        for table, sample in ((self.r, latency_s), (self.q, queue), (self.s, service)):
            table[peer] = table.get(peer, sample) * 0.8 + 0.2 * sample


class Prequal(Accrual):
    """Prequal (NSDI'24): probes ahead of need, a pool of 16, hot and cold by the 84 % of in-flight."""

    def __init__(self, rng: random.Random, probes: int = 3) -> None:
        super().__init__(rng)
        self.count = probes
        self.pool: list[list[Any]] = []  # [peer, when, in flight, latency, uses]

    def probes(self, now: float, candidates: Sequence[int]) -> list[int]:
        allowed = self.usable(now, candidates, ())
        return self.rng.sample(allowed, min(self.count, len(allowed)))

    def on_probe(self, now: float, peer: int, load: Load) -> None:
        self.pool.append([peer, now, load[0], load[1], 0])
        if len(self.pool) > 16:
            self.pool.pop(0)

    def choose(self, now: float, usable: list[int]) -> int:
        self.pool = [e for e in self.pool if now - e[1] < 1.0 and e[4] < 2]
        pool = [e for e in self.pool if e[0] in usable]
        if len(pool) < 2:
            return self.rng.choice(usable)
        flights = sorted(e[2] for e in pool)
        hot = flights[min(len(flights) - 1, int(len(flights) * 0.84))]
        cold = [e for e in pool if e[2] < hot] or [e for e in pool if e[2] == flights[0]]
        best = min(cold, key=lambda e: (e[3], e[2]))
        best[2] += 1
        best[4] += 1
        if len(self.pool) > 4 and self.rng.random() < 0.5:
            self.pool.remove(max(self.pool, key=lambda e: (e[2], e[3])))
        return int(best[0])


class SeedsScore(Plain):
    """The learning guide's score as sketched, faults included; greedy or weighted random."""

    def __init__(self, rng: random.Random, greedy: bool) -> None:
        super().__init__(rng)
        self.greedy = greedy
        self.m: dict[int, list[float]] = {}  # latency ms, calls, errors, last seen
        self.breaker: dict[int, list[float]] = {}  # failures, last failure, open

    def usable(self, now: float, candidates: Sequence[int], exclude: Sequence[int]) -> list[int]:
        def can(p: int) -> bool:
            b = self.breaker.get(p)
            if b is None or not b[2]:
                return True
            if now - b[1] > 10.0:
                b[2] = 2.0
            return b[2] == 2.0

        full = super().usable(now, candidates, exclude)
        return [p for p in full if can(p)] or full

    def score(self, now: float, peer: int) -> float:
        m = self.m.get(peer)
        if m is None or not m[1]:
            return 0.5
        fresh = max(0.0, 1 - (now - m[3]) / 60)
        return 0.4 / (1 + m[0] / 100) + 0.3 * (1 - m[2] / m[1]) + 0.2 + 0.1 * fresh

    def choose(self, now: float, usable: list[int]) -> int:
        if self.greedy:
            return max(usable, key=lambda p: self.score(now, p))
        return self.rng.choices(usable, [max(1e-6, self.score(now, p)) for p in usable])[0]

    def learn(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        m = self.m.setdefault(peer, [0.0, 0.0, 0.0, now])
        m[0] = m[0] * 0.7 + latency_s * 300
        m[1] += 1
        m[3] = now
        b = self.breaker.setdefault(peer, [0.0, 0.0, 0.0])
        if outcome == "ok":
            if b[2] == 2.0:
                b[0] = b[2] = 0.0
        else:
            m[2] += 1
            b[0] += 1
            b[1] = now
            if b[0] >= 5:
                b[2] = 1.0


class Oracle(Plain):
    """Sees every server's true queue, speed and health, and knows what others have just sent."""

    def __init__(self, world: World, rng: random.Random, sent: dict[int, int]) -> None:
        super().__init__(rng)
        self.world = world
        self.sent = sent  # shared between all callers

    def choose(self, now: float, usable: list[int]) -> int:
        def wait(p: int) -> tuple[float, int, float]:
            server = self.world.servers[p]
            sick = 1e6 if server.mode != "ok" or server.error_rate else 0.0
            inside = self.sent.get(p, 0)
            free = max(0, inside - server.slots + 1)
            cost = sick + server.mean * (1 + free / server.slots)
            return (cost, inside, self.rng.random())

        return min(usable, key=wait)

    def on_send(self, now: float, peer: int) -> None:
        super().on_send(now, peer)
        self.sent[peer] = self.sent.get(peer, 0) + 1

    def learn(
        self, now: float, peer: int, latency_s: float, outcome: str, load: Load | None
    ) -> None:
        self.sent[peer] -= 1
