"""Senders, a network and a server that collapses; the scenarios and the figures they give."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from node.virtual.server_model import Network, Server, ServerSettings, TrafficCounts, VirtualTime
from p2p.flow import LoadReport, Outcome
from tests.simulation.storm.strategies import STRATEGIES, Strategy

LINE_RATE = 18_000.0  # attempts a second that one sender can put on the wire


@dataclass(frozen=True)
class Scenario:
    name: str
    senders: int = 1
    messages: int = 2000  # waiting at the start, over all senders
    others: float = 0.0  # requests a second from elsewhere; each is tried once
    arrivals: float = 0.0  # new messages a second, over all senders
    trigger: tuple[float, float, float] | None = None  # from, to, factor of service times
    horizon: float = 240.0


SCENARIOS = (
    Scenario("1 sender"),
    Scenario("20 senders", senders=20),
    Scenario("1 sender, half load", others=250.0),
    Scenario("20 senders, half load", senders=20, others=250.0),
    Scenario(
        "trigger at 80 % load",
        senders=20,
        messages=0,
        arrivals=400.0,
        trigger=(10.0, 13.0, 5.0),
        horizon=60.0,
    ),
)


@dataclass(frozen=True)
class Figures:
    """Of one run. `drain`, until the last is delivered, is a multiple of the optimum (inf: some never are); `back` seconds after the trigger (inf:
    never within the horizon). Errors are a share of attempts."""

    drain: float
    back: float
    cleared: float
    errors: float
    others_failed: float
    lost: int
    attempts: float
    peak: float  # most attempts in any second, of all traffic, as a multiple of the capacity
    crashes: int


class Sender:
    """Its messages, when they may be tried again, and the strategy that decides."""

    def __init__(self, world: World, strategy: Strategy) -> None:
        self.world = world
        self.strategy = strategy
        self.fresh = 0  # messages never tried; they are all alike
        self.retries: list[tuple[float, int, int]] = []  # (due, number, attempts)
        self.number = 0
        self.line_free = 0.0
        self.wake = inf

    def add(self) -> None:
        self.fresh += 1
        self.pump()

    def pump(self) -> None:
        now = self.world.time.now
        self.wake = min(self.wake, inf) if self.wake > now else inf
        while True:
            if self.retries and self.retries[0][0] <= now:
                at, first = self.strategy.again(now), False
            elif self.fresh:
                at, first = self.strategy.first(now), True
            else:
                at, first = (self.retries[0][0], False) if self.retries else (inf, False)
                self._wake_at(at)
                return
            at = max(at, self.line_free if self.line_free > now else 0.0)
            if at > now:
                self._wake_at(min(at, self.retries[0][0]) if self.retries and first else at)
                return
            if first:
                self.fresh -= 1
                attempts = 1
            else:
                attempts = heapq.heappop(self.retries)[2] + 1
            self.line_free = max(now, self.line_free) + 1.0 / LINE_RATE
            tag = self.strategy.on_send(now, first)
            self.world.attempt(partial(self.result, tag, attempts, now), self.world.own)

    def _wake_at(self, at: float) -> None:
        if at < self.wake:
            self.wake = at
            self.world.time.at(at, self._woken, at)

    def _woken(self, at: float) -> None:
        if at == self.wake:
            self.wake = inf
            self.pump()

    def result(
        self, tag: int, attempts: int, sent: float, outcome: Outcome, load: LoadReport | None
    ) -> None:
        now = self.world.time.now
        self.strategy.on_result(now, tag, outcome, now - sent, load)
        if outcome == "ok":
            self.world.delivered += 1
        else:
            delay = self.strategy.backoff(now, attempts)
            if delay is None:
                self.world.lost += 1
            else:
                self.number += 1
                heapq.heappush(self.retries, (now + delay, self.number, attempts))
        self.pump()


class World:
    """Run of a scenario."""

    def __init__(
        self,
        scenario: Scenario,
        make: Callable[[random.Random], Strategy],
        seed: int,
        settings: ServerSettings | None = None,
    ) -> None:
        self.scenario = scenario
        self.rng = random.Random(f"storm {seed}")
        self.time = VirtualTime()
        self.server = Server(self.time, random.Random(f"server {seed}"), settings)
        self.network = Network(self.time, self.server)
        self.own, self.other, self.all = TrafficCounts(), TrafficCounts(), TrafficCounts()
        self.delivered = self.lost = 0
        self.added = 0
        self.drained: float | None = None
        self.senders = [
            Sender(self, make(random.Random(f"sender {seed} {i}"))) for i in range(scenario.senders)
        ]
        for i in range(scenario.messages):
            self.senders[i % scenario.senders].fresh += 1
        self.added = scenario.messages
        for sender in self.senders:
            self.time.at(0.0, sender.pump)
        if scenario.others:
            self.time.at(0.0, self._other)
        if scenario.arrivals:
            self.time.at(0.0, self._arrival)
        if scenario.trigger is not None:
            start, end, factor = scenario.trigger
            self.time.at(start, self._slow, factor)
            self.time.at(end, self._slow, 1.0)

    def _slow(self, factor: float) -> None:
        self.server.slow = factor

    def _other(self) -> None:
        self.attempt(lambda outcome, load: None, self.other)
        self.time.at(self.time.now + self.rng.expovariate(self.scenario.others), self._other)

    def _arrival(self) -> None:
        self.added += 1
        self.rng.choice(self.senders).add()
        self.time.at(self.time.now + self.rng.expovariate(self.scenario.arrivals), self._arrival)

    def attempt(
        self, done: Callable[[Outcome, LoadReport | None], None], tally: TrafficCounts
    ) -> None:
        tally.send(self.time.now)
        self.all.send(self.time.now)

        def ended(outcome: Outcome, load: LoadReport | None) -> None:
            tally.result(self.time.now, outcome == "ok")
            self.all.result(self.time.now, outcome == "ok")
            done(outcome, load)

        self.network.ask(ended)

    def run(self) -> Figures:
        scenario = self.scenario
        step = 1.0
        until = 0.0
        while until < scenario.horizon:
            until += step
            self.time.run(until)
            done = self.delivered + self.lost >= self.added
            if scenario.messages and done:
                break
        return self.figures(until)

    def figures(self, until: float) -> Figures:
        scenario = self.scenario
        capacity = self.server.settings.capacity
        optimum = scenario.messages / (capacity - scenario.others) if scenario.messages else 1.0
        done = self.delivered + self.lost >= self.added
        back, cleared = (0.0, 0.0) if scenario.trigger is None else self._back(until)
        return Figures(
            drain=self.own.last_ok / optimum
            if done and scenario.messages and not self.lost
            else inf,
            back=back,
            cleared=cleared,
            errors=self.own.failed / max(1, self.own.offered),
            others_failed=self.other.failed / max(1, self.other.offered),
            lost=self.lost,
            attempts=self.own.offered / max(1, self.delivered),
            peak=self.all.most_in(1.0) / capacity,
            crashes=self.server.crashes,
        )

    def _back(self, until: float) -> tuple[float, float]:
        """Seconds after the trigger until goodput stays at 85 % of what arrives (over 2 s), for at least
        5 s and to the end; and until everything that had queued is through."""
        assert self.scenario.trigger is not None
        end = self.scenario.trigger[1]
        ok = self.own.sums("ok", until)
        per = round(1 / self.own.slice_s)
        need = 0.85 * self.scenario.arrivals * 2
        back = inf
        for start in range(len(ok) - 2 * per, int(end) * per - 1, -1):
            if sum(ok[start : start + 2 * per]) < need:
                break
            back = start / per - end
        total, cleared = 0, inf
        for i, n in enumerate(ok):
            total += n
            if i >= end * per and total >= self.scenario.arrivals * i / per * 0.995 - 20:
                cleared = (i + 1) / per - end
                break
        return (back if back <= until - end - 5 else inf), cleared


def simulate(
    scenario: Scenario, strategy: str, seed: int, settings: ServerSettings | None = None
) -> Figures:
    return World(scenario, STRATEGIES[strategy], seed, settings).run()
