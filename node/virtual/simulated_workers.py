"""Workers that are slow, flaky or crash, and callers that choose among them, in virtual time.

The callers' router and the workers' admission are the product's own objects. Times in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from node.virtual.server_model import VirtualTime
from p2p.adaptive import Load, Outcome, RetryPolicy, RetrySettings
from p2p.adaptive.retry_policy import RetryBudget
from p2p.flow.admission import AdmissionCore, Expired, Ticket
from p2p.flow.load import Busy

DELAY = 0.002  # one way over the network
TIMEOUT = 1.0  # of one attempt
PATIENCE = 3.0  # of one call

Reply = Callable[[Outcome, Load | None], None]


class Picker(Protocol):
    """Selection policy among workers; implemented by `p2p.adaptive.AdaptiveRouter`."""

    def pick(self, now: float, candidates: Sequence[str], exclude: Collection[str] = ()) -> str: ...
    def on_send(self, now: float, peer: str) -> object: ...
    def on_result(
        self, now: float, peer: str, latency_s: float, outcome: Outcome, load: Load | None
    ) -> object: ...


class RoundRobin:
    """For comparison: each in turn, whatever happens."""

    def __init__(self) -> None:
        self._number = 0

    def pick(self, now: float, candidates: Sequence[str], exclude: Collection[str] = ()) -> str:
        left = [peer for peer in candidates if peer not in exclude] or list(candidates)
        self._number += 1
        return left[self._number % len(left)]

    def on_send(self, now: float, peer: str) -> None:
        """Learns nothing."""

    def on_result(
        self, now: float, peer: str, latency_s: float, outcome: Outcome, load: Load | None
    ) -> None:
        """Learns nothing."""


class SimulatedWorker:
    """`slots` requests at once of `mean` seconds (exponential), behind the product's admission.

    `slow` multiplies service times, `error_rate` of the requests fail at once, and while it is not
    `up` all do; a crash loses what is inside.
    """

    def __init__(
        self,
        time: VirtualTime,
        rng: random.Random,
        name: str,
        *,
        mean: float = 0.02,
        slots: int = 4,
    ) -> None:
        self.name = name
        self.slow = 1.0
        self.error_rate = 0.0
        self.up = True
        self._time = time
        self._rng = rng
        self._mean = mean
        self._slots = slots
        self._core = AdmissionCore(slots, service_s=mean)
        self._replies: dict[Ticket, Reply] = {}

    def crash(self) -> None:
        self.up = False
        lost, self._replies = list(self._replies.values()), {}
        self._core = AdmissionCore(self._slots, service_s=self._mean)
        for reply in lost:
            reply("error", None)

    def rise(self) -> None:
        self.up = True

    def arrive(self, reply: Reply) -> None:
        """A request; `reply` is called once."""
        if not self.up or self._rng.random() < self.error_rate:
            reply("error", None)
            return
        try:
            ticket = self._core.offer(self._time.now)
        except (Busy, Expired):
            reply("error", self._load())
            return
        self._replies[ticket] = reply
        self._start()

    def _load(self) -> Load:
        core = self._core
        return (core.in_flight, core.expected_wait() + core.service_s, core.service_s)

    def _start(self) -> None:
        now = self._time.now
        for late in self._core.overdue(now):
            self._core.refusal(now, late)
            self._replies.pop(late)("error", self._load())
        while (ticket := self._core.start(now)) is not None:
            served = self._rng.expovariate(1.0) * self._mean * self.slow
            self._time.at(now + served, self._done, self._core, ticket)

    def _done(self, core: AdmissionCore, ticket: Ticket) -> None:
        if core is not self._core:
            return  # lost in a crash
        core.done(self._time.now, ticket)
        reply = self._replies.pop(ticket)
        self._start()
        reply("ok", self._load())


class OutcomeCounts:
    """Outcomes of attempts and calls, by worker and slice of `slice_s`."""

    def __init__(self, slice_s: float) -> None:
        self.slice_s = slice_s
        self.sent: dict[int, dict[str, int]] = {}
        self.failed_attempts: dict[str, int] = {}
        self.latencies: list[float] = []
        self.failed_calls = 0
        self.calls = 0
        self.attempts = 0

    def attempt(self, now: float, worker: str) -> None:
        self.attempts += 1
        row = self.sent.setdefault(int(now / self.slice_s), {})
        row[worker] = row.get(worker, 0) + 1

    def shares(self, number: int) -> dict[str, float]:
        """Share of the attempts by worker in slice `number`."""
        row = self.sent.get(number, {})
        total = sum(row.values())
        return {worker: count / total for worker, count in row.items()} if total else {}

    def share_between(self, start: float, end: float, worker: str) -> float:
        """Share of `worker` in the slices that begin in [start, end)."""
        rows = [row for n, row in self.sent.items() if start <= n * self.slice_s < end]
        total = sum(sum(row.values()) for row in rows)
        return sum(row.get(worker, 0) for row in rows) / total if total else 0.0

    def percentile(self, share: float) -> float:
        """Of the latencies of calls that were answered, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class CallPlan(NamedTuple):
    """Calls of one caller: `rate` a second until `until`, each repeated up to `retries` times after a failure."""

    rate: float
    until: float
    retries: int = 3


class SimulatedCaller:
    """Calls at random moments, and tries another worker when one fails."""

    def __init__(
        self,
        time: VirtualTime,
        rng: random.Random,
        picker: Picker,
        workers: Sequence[SimulatedWorker],
        tally: OutcomeCounts,
        plan: CallPlan,
    ) -> None:
        self._time = time
        self._rng = rng
        self._picker = picker
        self._workers = {worker.name: worker for worker in workers}
        self._names = list(self._workers)
        self._tally = tally
        self._plan = plan
        self._retry = RetryPolicy(
            RetrySettings(max_retries=plan.retries, base_s=0.01, cap_s=0.1),
            rng=rng,
            budget=RetryBudget(ratio=0.2, reserve=100.0, per_second=1.0),
        )
        self._next()

    def _next(self) -> None:
        at = self._time.now + self._rng.expovariate(self._plan.rate)
        if at < self._plan.until:
            self._time.at(at, self._begin)

    def _begin(self) -> None:
        self._next()
        now = self._time.now
        self._tally.calls += 1
        self._retry.on_request(now)
        self._attempt(now, [])

    def _attempt(self, started: float, failed: list[str]) -> None:
        time = self._time
        sent = time.now
        name = self._picker.pick(sent, self._names, failed)
        self._picker.on_send(sent, name)
        self._tally.attempt(sent, name)
        over = False

        def ended(outcome: Outcome, load: Load | None) -> None:
            nonlocal over
            if over:
                return
            over = True
            now = time.now
            self._picker.on_result(now, name, now - sent, outcome, load)
            if outcome == "ok":
                self._tally.latencies.append(now - started)
                return
            self._tally.failed_attempts[name] = self._tally.failed_attempts.get(name, 0) + 1
            failed.append(name)
            delay = self._retry.next_delay(now, len(failed), started + PATIENCE)
            if delay is None:
                self._tally.failed_calls += 1
            else:
                time.at(now + delay, self._attempt, started, failed)

        def reply(outcome: Outcome, load: Load | None) -> None:
            time.at(time.now + DELAY, ended, outcome, load)

        time.at(sent + DELAY, self._workers[name].arrive, reply)
        time.at(sent + TIMEOUT, ended, "timeout", None)
