"""Servers with queues, callers and a network in virtual time (a discrete-event simulation).

A server has `slots` that each serve one request at a time, first come first served, with exponential
service times, and refuses with "busy" when `QUEUE_LIMIT` requests are inside. Time is in seconds.
A caller owns one policy and knows nothing of the other callers or of the servers' true state.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from node.virtual.server_model import VirtualTime
from p2p.adaptive import RetryPolicy

QUEUE_LIMIT = 128  # requests inside one server before it answers "busy"
TIMEOUT = 5.0  # an attempt without an answer
NETWORK = 0.0005  # one way
SMOOTHING = 0.2  # weight of a new sample in what a server reports of itself

Load = tuple[float, float, float]  # in flight, latency estimate, service time


class Policy(Protocol):
    """Methods of a routing policy that the simulated caller uses; `p2p.adaptive.AdaptiveRouter` is one."""

    def pick(self, now: float, candidates: Sequence[int], exclude: Sequence[int] = ()) -> int: ...
    def on_send(self, now: float, peer: int) -> object: ...
    def on_result(
        self, now: float, peer: int, latency_s: float, outcome: Any, load: Load | None
    ) -> None: ...


class Server:
    """Worker. `mode` is ok, fail (refuses at once), hang (never answers) or down (as fail, and
    what was inside is reset)."""

    def __init__(self, world: World, number: int, mean: float, slots: int) -> None:
        self.world = world
        self.number = number
        self.mean = mean
        self.slots = slots
        self.mode = "ok"
        self.error_rate = 0.0
        self.waiting: deque[Attempt] = deque()
        self.serving: set[Attempt] = set()
        self.stuck: list[Attempt] = []
        self.service = mean
        self.latency: dict[int, float] = {}  # by how many were inside on arrival

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + len(self.serving)

    def load(self) -> Load:
        """In flight, the latency that requests had which found so many inside, the service time."""
        inside = self.in_flight
        for near in range(inside, -1, -1):
            if near in self.latency:
                return (inside, self.latency[near], self.service)
        return (inside, self.service, self.service)

    def arrive(self, attempt: Attempt) -> None:
        attempt.arrived = self.world.now
        attempt.found = self.in_flight
        if self.mode in ("fail", "down"):
            self.world.reply(attempt, "error", None)
        elif self.mode == "hang":
            self.stuck.append(attempt)
        elif self.error_rate and self.world.rng.random() < self.error_rate:
            self.world.reply(attempt, "error", None)
        elif self.in_flight >= QUEUE_LIMIT:
            self.world.reply(attempt, "error", self.load())
        elif len(self.serving) < self.slots:
            self._serve(attempt)
        else:
            self.waiting.append(attempt)

    def _serve(self, attempt: Attempt) -> None:
        self.serving.add(attempt)
        attempt.service = self.world.rng.expovariate(1 / self.mean)
        self.world.at(self.world.now + attempt.service, self._done, attempt)

    def _done(self, attempt: Attempt) -> None:
        if attempt not in self.serving:
            return  # the server was reset meanwhile
        if self.mode == "hang":
            self.stuck.append(attempt)
            self.serving.discard(attempt)
            return
        self.serving.discard(attempt)
        if self.waiting:
            self._serve(self.waiting.popleft())
        self.service += SMOOTHING * (attempt.service - self.service)
        latency = self.world.now - attempt.arrived
        usual = self.latency.get(attempt.found, latency)
        self.latency[attempt.found] = usual + SMOOTHING * (latency - usual)
        self.world.reply(attempt, "ok", self.load())

    def change(self, mode: str) -> None:
        """To another mode. A server that comes back from `hang` or goes `down` has lost its work."""
        if mode == "down":
            for attempt in [*self.serving, *self.waiting]:
                self.world.reply(attempt, "error", None)
        if mode == "down" or self.mode == "hang":
            self.serving.clear()
            self.waiting.clear()
            self.stuck.clear()
        self.mode = mode


class Attempt:
    __slots__ = ("arrived", "done", "found", "peer", "request", "sent", "service")

    def __init__(self, request: Request, peer: int, sent: float) -> None:
        self.request = request
        self.peer = peer
        self.sent = sent
        self.arrived = 0.0
        self.found = 0
        self.service = 0.0
        self.done = False


class Request:
    __slots__ = ("attempts", "caller", "failed", "started")

    def __init__(self, caller: int, started: float) -> None:
        self.caller = caller
        self.started = started
        self.attempts = 0
        self.failed: list[int] = []


class World(VirtualTime):
    """The servers, the callers and what happened: `finished` and `sent` are the record."""

    def __init__(
        self,
        seed: int,
        means: Sequence[float],
        callers: int,
        make_policy: Callable[[World, int, random.Random], Policy],
        *,
        slots: int = 2,
        retry: Callable[[random.Random], RetryPolicy] | None = None,
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self._timeouts: deque[tuple[float, Attempt]] = deque()
        self.servers = [Server(self, i, mean, slots) for i, mean in enumerate(means)]
        self.candidates: list[int] = list(range(len(means)))
        self.policies = [
            make_policy(self, i, random.Random(seed * 7919 + i)) for i in range(callers)
        ]
        self.retries = [
            retry(random.Random(seed * 104729 + i)) if retry else None for i in range(callers)
        ]
        self.probers = [getattr(policy, "probes", None) for policy in self.policies]
        self.rate = 0.0
        self.finished: list[tuple[float, float, bool]] = []  # started, latency, whether it worked
        self.sent: list[tuple[float, int]] = []  # when, to which server: every attempt

    def run(self, until: float) -> None:
        timeouts = self._timeouts  # all of one length, so that they need no heap
        while True:
            if timeouts and timeouts[0][0] <= self.next_due:
                when, attempt = timeouts.popleft()
                if when > until:
                    return
                if not attempt.done:
                    self.now = when
                    self._result(attempt, "timeout", None)
                continue
            if self.next_due > until:
                self.now = until
                return
            self.step()

    def start(self, rate: float) -> None:
        self.rate = rate
        self.at(self.rng.expovariate(rate), self._arrival)

    def _arrival(self) -> None:
        self.at(self.now + self.rng.expovariate(self.rate), self._arrival)
        caller = self.rng.randrange(len(self.policies))
        self._send(Request(caller, self.now))

    def _send(self, request: Request) -> None:
        policy = self.policies[request.caller]
        retry = self.retries[request.caller]
        if retry is not None and request.attempts == 0:
            retry.on_request(self.now)
        peer = policy.pick(self.now, self.candidates, request.failed)
        policy.on_send(self.now, peer)
        request.attempts += 1
        attempt = Attempt(request, peer, self.now)
        self.sent.append((self.now, peer))
        self._timeouts.append((self.now + TIMEOUT, attempt))
        self.at(self.now + NETWORK, self.servers[peer].arrive, attempt)
        probes = self.probers[request.caller]
        if probes is not None:
            for target in probes(self.now, self.candidates):
                self.at(self.now + NETWORK, self._probe, policy, target)

    def _probe(self, policy: Any, target: int) -> None:
        server = self.servers[target]
        if server.mode == "ok":
            self.at(self.now + NETWORK, self._probed, policy, target, server.load())

    def _probed(self, policy: Any, target: int, load: Load) -> None:
        policy.on_probe(self.now, target, load)

    def reply(self, attempt: Attempt, outcome: str, load: Load | None) -> None:
        self.at(self.now + NETWORK, self._replied, attempt, outcome, load)

    def _replied(self, attempt: Attempt, outcome: str, load: Load | None) -> None:
        if not attempt.done:
            self._result(attempt, outcome, load)

    def _result(self, attempt: Attempt, outcome: str, load: Load | None) -> None:
        attempt.done = True
        request = attempt.request
        policy = self.policies[request.caller]
        policy.on_result(self.now, attempt.peer, self.now - attempt.sent, outcome, load)
        ok = outcome == "ok"
        if not ok:
            retry = self.retries[request.caller]
            if retry is not None:
                request.failed.append(attempt.peer)
                deadline = request.started + 2 * TIMEOUT
                delay = retry.next_delay(self.now, request.attempts, deadline)
                if delay is not None:
                    self.at(self.now + delay, self._send, request)
                    return
        self.finished.append((request.started, self.now - request.started, ok))
