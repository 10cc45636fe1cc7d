"""A server with limited capacity that collapses under overload, and the time it lives in.

`VirtualTime` runs the demos and the storm simulation in no time and always in the same order; `node.virtual.loopback` runs the
same server behind real sockets on the loop's clock. Times in seconds.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from p2p.flow.load import LoadReport, Outcome

Done = Callable[[Outcome, LoadReport | None], None]


def seeded(part: str, seed: int) -> random.Random:
    """The random source of one part of a demo: the same story for the same seed."""
    return random.Random(f"{part} {seed}")  # noqa: S311 - a simulation


class Timeline(Protocol):
    """A clock with timers. `asyncio`'s loop behind `LoopTime`, or virtual."""

    @property
    def now(self) -> float: ...

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> object: ...


class VirtualTime:
    """Runs due calls in order of time; equal times in order of planning."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._number = 0
        self._plan: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []

    @property
    def next_due(self) -> float:
        """Time of the next call; infinite without any."""
        return self._plan[0][0] if self._plan else inf

    def at(self, when: float, action: Callable[..., object], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._plan, (max(when, self.now), self._number, action, arguments))

    def after(self, delay: float, action: Callable[..., object], *arguments: Any) -> None:
        self.at(self.now + delay, action, *arguments)

    def step(self) -> None:
        """Run the next call."""
        self.now, _, action, arguments = heapq.heappop(self._plan)
        action(*arguments)

    def run(self, until: float) -> None:
        """Everything up to `until`."""
        plan = self._plan
        while plan and plan[0][0] <= until:
            self.step()
        self.now = max(self.now, until)


@dataclass(frozen=True)
class ServerSettings:
    """500 requests a second: ten workers of 20 ms each. Beyond `knee` waiting requests each one costs
    more (memory, switching), and at `crash_at` the server falls over for `down_s`.
    """

    workers: int = 10
    service_s: float = 0.02
    knee: int = 100
    slope: float = 200.0  # with `knee + slope` waiting everything takes twice as long
    crash_at: int = 1000
    down_s: float = 2.0

    @property
    def capacity(self) -> float:
        """Requests a second, without overload."""
        return self.workers / self.service_s


class Server:
    """First come, first served; it does not know whose caller has given up. `slow` multiplies service times."""

    def __init__(
        self, time: Timeline, rng: random.Random, settings: ServerSettings | None = None
    ) -> None:
        self.settings = settings or ServerSettings()
        self.slow = 1.0
        self.up = True
        self.crashes = 0
        self.served = 0
        self.watch()
        self._time = time
        self._rng = rng
        self._life = 0
        self._waiting: deque[tuple[float, Done]] = deque()
        self._serving: dict[int, Done] = {}
        self._number = 0

    def watch(
        self, *, down: Callable[[], None] = lambda: None, up: Callable[[], None] = lambda: None
    ) -> None:
        """Call these from now on when the server falls, and when it is back; without any, nothing."""
        self._on_down, self._on_up = down, up

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._waiting) + len(self._serving)

    def arrive(self, reply: Done) -> None:
        """A request; `reply` is called once: "ok" with the load, or "reset" when the server falls."""
        if not self.up:
            reply("reset", None)
            return
        self._waiting.append((self._time.now, reply))
        if len(self._waiting) > self.settings.crash_at:
            self.crashes += 1
            self.fall(self.settings.down_s)
            return
        self._start()

    def draw(self) -> float:
        """Service time of the next request, in seconds: exponential."""
        return self._rng.expovariate(1.0) * self.settings.service_s

    def fall(self, down_s: float) -> None:
        """Stop now, losing all requests inside, and be back after `down_s`."""
        self.up = False
        self._life += 1
        lost = [*self._serving.values(), *(reply for _, reply in self._waiting)]
        self._serving.clear()
        self._waiting.clear()
        self._time.at(self._time.now + down_s, self._rise, self._life)
        self._on_down()
        for reply in lost:
            reply("reset", None)

    def _rise(self, life: int) -> None:
        if life == self._life:
            self.up = True
            self._on_up()

    def _start(self) -> None:
        settings = self.settings
        while self._waiting and len(self._serving) < settings.workers:
            arrived, reply = self._waiting.popleft()
            strain = 1.0 + max(0, len(self._waiting) - settings.knee) / settings.slope
            served = self.draw() * strain * self.slow
            self._number += 1
            self._serving[self._number] = reply
            waited = self._time.now - arrived
            self._time.at(
                self._time.now + served, self._done, self._life, self._number, waited, served
            )

    def _done(self, life: int, number: int, waited: float, served: float) -> None:
        if life != self._life:
            return
        reply = self._serving.pop(number)
        self.served += 1
        self._start()
        reply("ok", LoadReport(waited, served, self.in_flight))


class Network:
    """The way to a server and back: a delay each way, and a caller's patience."""

    def __init__(
        self, time: Timeline, server: Server, *, delay_s: float = 0.005, timeout_s: float = 1.0
    ) -> None:
        self.time = time
        self.server = server
        self.delay_s = delay_s
        self.timeout_s = timeout_s

    def ask(self, done: Done) -> None:
        """Send a request; `done` is called once."""
        _Attempt(self, done)


class _Attempt:
    """A request in flight. Ends with the reply or the timeout, whichever is first."""

    __slots__ = ("done", "network", "over")

    def __init__(self, network: Network, done: Done) -> None:
        self.network = network
        self.done = done
        self.over = False
        time = network.time
        time.at(time.now + network.delay_s, network.server.arrive, self.reply)
        time.at(time.now + network.timeout_s, self.end, "timeout", None)

    def reply(self, outcome: Outcome, load: LoadReport | None) -> None:
        time = self.network.time
        time.at(time.now + self.network.delay_s, self.end, outcome, load)

    def end(self, outcome: Outcome, load: LoadReport | None) -> None:
        if not self.over:
            self.over = True
            self.done(outcome, load)


@dataclass
class Second:
    """Counts of one second (or slice)."""

    offered: int = 0
    ok: int = 0
    failed: int = 0


class TrafficCounts:
    """Counts per slice of time. `others` keeps traffic that is not ours apart."""

    def __init__(self, slice_s: float = 0.1) -> None:
        self.slice_s = slice_s
        self.slices: dict[int, Second] = {}
        self.offered = self.ok = self.failed = 0
        self.first: float = inf
        self.last_ok = 0.0

    def _slice(self, now: float) -> Second:
        return self.slices.setdefault(int(now / self.slice_s), Second())

    def send(self, now: float) -> None:
        self.offered += 1
        self.first = min(self.first, now)
        self._slice(now).offered += 1

    def result(self, now: float, ok: bool) -> None:
        if ok:
            self.ok += 1
            self.last_ok = now
            self._slice(now).ok += 1
        else:
            self.failed += 1
            self._slice(now).failed += 1

    def most_in(self, seconds: float) -> float:
        """The highest number sent in any `seconds` (in steps of a slice)."""
        width = max(1, round(seconds / self.slice_s))
        best = 0
        for start in self.slices:
            total = sum(
                self.slices[i].offered for i in range(start, start + width) if i in self.slices
            )
            best = max(best, total)
        return float(best)

    def sums(self, what: str, until: float) -> list[int]:
        """`offered`, `ok` or `failed` per slice from 0 to `until`."""
        empty = Second()
        return [
            int(getattr(self.slices.get(i, empty), what)) for i in range(int(until / self.slice_s))
        ]
