"""Admission control of a server: a queue bounded in time, with immediate refusal beyond it.

Clients alone cannot prevent a collapse when the server has a long queue: it keeps working on
requests whose callers have given up. So the queue is bounded by time, not by count: a request is
refused with "busy" and a time to retry if the expected wait is longer than `max_wait_s`, dropped
when it has waited that long nevertheless (the estimate was wrong) or its caller's deadline has
passed. Every reply carries the load, the input of `Governor`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from p2p.base.errors import P2PError
from p2p.flow.load import Busy, LoadReport

_MEMORY = 0.05  # weight of a new service time


class Expired(P2PError):
    """Request not served: its deadline passed while it waited."""


@dataclass(eq=False, slots=True)
class Ticket:
    """An admitted request. Times are on the clock of `now`."""

    arrived: float
    deadline: float
    limit: float  # end of its longest wait
    started: float | None = None
    waiter: asyncio.Future[None] | None = None


class AdmissionCore:
    """Admission control without I/O: `offer` each request, serve those that `start` returns, and
    report `done`, which returns the load.

    `workers` requests are served at once. The service time is learned; `service_s` is the first guess.
    With `max_wait_s` 0 nothing waits: a request is served if a worker is free, and refused if not.
    """

    def __init__(
        self,
        workers: int,
        *,
        max_wait_s: float = 0.1,
        service_s: float = 0.01,
        max_waiting: int = 4096,
    ) -> None:
        if workers < 1 or max_wait_s < 0 or service_s <= 0:
            raise ValueError("workers at least 1, max_wait_s not negative, service_s positive")
        self.workers = workers
        self.max_wait_s = max_wait_s
        self.max_waiting = max_waiting
        self.service_s = service_s
        self.serving = 0
        self._waiting: deque[Ticket] = deque()
        self._soonest = inf  # earliest time at which a waiting request is overdue
        self.counters = {"served": 0, "busy": 0, "expired": 0}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return self.serving + len(self._waiting)

    def expected_wait(self) -> float:
        """Return the seconds that a request arriving now would wait."""
        ahead = self.in_flight - self.workers + 1
        return max(0, ahead) * self.service_s / self.workers

    def offer(self, now: float, deadline: float = inf) -> Ticket:
        """Admit a request, to be started by `start` (at once when a worker is free).

        Raises:
            Busy: it would wait for too long.
            Expired: its deadline has passed, or will have before it can be served.
        """
        wait = self.expected_wait()
        if now >= deadline:
            self.counters["expired"] += 1
            raise Expired("the deadline passed before it was served")
        if wait > self.max_wait_s or self.waiting >= self.max_waiting or now + wait >= deadline:
            self.counters["busy"] += 1
            raise Busy(self.retry_after())
        # With a free worker it does not wait, so only its caller's deadline matters.
        ticket = Ticket(now, deadline, min(now + self.max_wait_s, deadline) if wait else deadline)
        self._waiting.append(ticket)
        self._soonest = min(self._soonest, ticket.limit)
        return ticket

    def retry_after(self) -> float:
        """Return the seconds after which half of the queue is served; at least one service time."""
        return max(self.service_s, self.expected_wait() / 2)

    def start(self, now: float) -> Ticket | None:
        """Return the next request to serve, if a worker is free. It ends with `done` or
        `abandon`."""
        if self.serving >= self.workers or not self._waiting:
            return None
        ticket = self._waiting.popleft()
        ticket.started = now
        self.serving += 1
        return ticket

    def overdue(self, now: float) -> list[Ticket]:
        """Remove the requests that have waited for `max_wait_s` or past their deadline. Call before
        each `start`."""
        if now < self._soonest:
            return []
        out = [ticket for ticket in self._waiting if now >= ticket.limit]
        if out:
            self._waiting = deque(t for t in self._waiting if now < t.limit)
        self._soonest = min((t.limit for t in self._waiting), default=inf)
        return out

    def refusal(self, now: float, ticket: Ticket) -> Busy | Expired:
        """Return the refusal of a request that `overdue` removed, or whose timer fired."""
        if max(now, ticket.limit) >= ticket.deadline:  # a timer may be early by a rounding error
            self.counters["expired"] += 1
            return Expired("the deadline passed before it was served")
        self.counters["busy"] += 1
        return Busy(self.retry_after())

    def done(self, now: float, ticket: Ticket) -> LoadReport:
        """Mark a request as served and return the load report for its reply."""
        if ticket.started is None:
            raise ValueError("done before start")
        served = max(0.0, now - ticket.started)
        self.serving -= 1
        self.service_s += _MEMORY * (served - self.service_s)
        self.counters["served"] += 1
        return LoadReport(ticket.started - ticket.arrived, served, self.in_flight)

    def abandon(self, ticket: Ticket) -> None:
        """Drop a request whose caller has given up, waiting or in service."""
        if ticket.started is not None:
            self.serving -= 1
        elif ticket in self._waiting:
            self._waiting.remove(ticket)


class Admitted:
    """Request admitted by `Admission.admit`. `load()` returns the report for the reply when the
    work is done."""

    __slots__ = ("_core", "_loop", "_report", "_ticket")

    def __init__(
        self, core: AdmissionCore, ticket: Ticket, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._core = core
        self._ticket = ticket
        self._loop = loop
        self._report: LoadReport | None = None

    def load(self) -> LoadReport:
        """End the service, free the worker and return the load report; further calls return the
        same report."""
        if self._report is None:
            self._report = self._core.done(self._loop.time(), self._ticket)
        return self._report


class Admission:
    """Admission control for asyncio.

    admission = Admission(workers=8)
    async with admission.admit(deadline) as admitted:   # Busy, Expired
        body = await handler(request)
        reply(body, admitted.load())
    """

    def __init__(
        self,
        workers: int,
        *,
        max_wait_s: float = 0.1,
        service_s: float = 0.01,
        max_waiting: int = 4096,
    ) -> None:
        self.core = AdmissionCore(
            workers, max_wait_s=max_wait_s, service_s=service_s, max_waiting=max_waiting
        )

    @asynccontextmanager
    async def admit(self, deadline: float = inf) -> AsyncIterator[Admitted]:
        """Wait for a worker (at most `max_wait_s`; 0: not at all) and hold it. `deadline` is on the
        loop's clock.

        Raises:
            Busy: refused; try again after `retry_after_s`.
            Expired: the deadline passed.
        """
        loop = asyncio.get_running_loop()
        ticket = self.core.offer(loop.time(), deadline)
        self._start(loop)
        if ticket.started is None:
            await self._wait(loop, ticket)
        admitted = Admitted(self.core, ticket, loop)
        try:
            yield admitted
        except BaseException:
            if admitted._report is None:
                self.core.abandon(ticket)
                admitted._report = LoadReport(0.0, 0.0, self.core.in_flight)
            raise
        else:
            admitted.load()
        finally:
            self._start(loop)

    async def _wait(self, loop: asyncio.AbstractEventLoop, ticket: Ticket) -> None:
        ticket.waiter = loop.create_future()
        try:
            async with asyncio.timeout_at(ticket.limit):
                await ticket.waiter
        except TimeoutError:
            self.core.abandon(ticket)
            self._start(loop)
            raise self.core.refusal(loop.time(), ticket) from None
        except asyncio.CancelledError:
            self.core.abandon(ticket)
            self._start(loop)
            raise

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        for late in self.core.overdue(loop.time()):
            if late.waiter is not None and not late.waiter.done():
                late.waiter.set_exception(TimeoutError())
        while (ticket := self.core.start(loop.time())) is not None:
            if ticket.waiter is not None and not ticket.waiter.done():
                ticket.waiter.set_result(None)
