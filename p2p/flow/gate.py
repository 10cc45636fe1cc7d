"""Gate: queue, pacing and retries of all actions for one peer, for asyncio.

    async with Gate(name=peer_id, rng=random.Random()) as gate:
        answer = await gate.call(lambda: rpc.call(peer_id, "job", body), ttl_s=30.0)

An action is started when the peer can handle it (`Governor`), again after a back-off when the
transport failed or the peer was busy, and dropped when its time is over. The queue is bounded
(`Outbox`). Use one gate per peer and keep it over reconnects, so that its estimates stay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeVar

import msgspec

from p2p.base.errors import P2PError
from p2p.flow.governor import Governor
from p2p.flow.load import LoadReport, Outcome, outcome_of
from p2p.flow.outbox import Outbox, OutboxEntry, OutboxExpired
from p2p.flow.window import SlidingWindow, WindowFigures

R = TypeVar("R")
Mode = Literal["on", "shadow"]

DELIVERY_S = 60.0  # seconds of the figures of delivery
_SHADOW = -inf  # `added` of an entry that was never in the outbox


class GateClosed(P2PError):
    """The gate was closed before the action ended."""


@dataclass(eq=False, slots=True)
class _Job:
    """Queued action with the future of its outcome."""

    action: Callable[[], Awaitable[Any]]
    future: asyncio.Future[Any]
    posted: float
    error: Exception | None = None  # of the last attempt


class GateSettings(msgspec.Struct, frozen=True):
    """`limit`, `ttl_s`: bounds of the queue, see `Outbox`. One attempt is cancelled after `attempt_timeout_s` and counts
    as a timeout; None leaves that to the action."""

    limit: int = 2000
    ttl_s: float = 60.0
    attempt_timeout_s: float | None = 5.0


class GateStatus(msgspec.Struct, frozen=True):
    """Status of a gate. `rate` is attempts a second that the pace allows; other times are seconds. `delivery`:
    actions that ended in the last minute, from the call to the answer, with waiting and retries."""

    name: str
    mode: Mode
    waiting: int
    in_flight: int
    window: float
    rate: float
    round_trip_s: float
    ramping: bool
    breaker: str
    delivery: WindowFigures
    counters: dict[str, int]


class Gate:
    """Gate for the actions of one peer. `shadow` starts every action at once and only counts those that would have
    waited; the estimates are updated as without it, so that switching it off continues from them.

    Args:
        load_of: returns the peer's load report from an action's result.
        outcome_of: returns the outcome that an exception stands for, and the wait that the peer
            requested.
    """

    def __init__(
        self,
        *,
        name: str = "",
        rng: random.Random,
        governor: Governor | None = None,
        settings: GateSettings | None = None,
        load_of: Callable[[Any], LoadReport | None] = lambda answer: None,
        outcome_of: Callable[[Exception], tuple[Outcome, float]] = outcome_of,
    ) -> None:
        settings = settings or GateSettings()
        self.name = name
        self.shadow = False
        self.governor = governor or Governor(rng=rng)
        self.outbox: Outbox[_Job] = Outbox(
            self.governor, rng=rng, limit=settings.limit, ttl_s=settings.ttl_s
        )
        self._delivery = SlidingWindow(DELIVERY_S)
        self.would_wait = 0  # actions passed in shadow mode that the gate would have delayed
        self._attempt_timeout_s = settings.attempt_timeout_s
        self._load_of = load_of
        self._outcome_of = outcome_of
        self._running: dict[OutboxEntry[_Job], asyncio.Task[None]] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle for a time that is now does not know it
        self._closed = False

    async def __aenter__(self) -> Gate:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def call(
        self, action: Callable[[], Awaitable[R]], *, ttl_s: float | None = None, retry: bool = True
    ) -> R:
        """Run `action` through the gate; return its result or raise its error. Cancelling the call
        cancels the action.

        `retry=False` is for actions that must not be sent twice: a failure is final.

        Raises:
            OutboxFull: the queue is full.
            OutboxExpired: `ttl_s` seconds were over; the last attempt's error is its cause.
            GateClosed: the gate was closed.
        """
        return await self.post(action, ttl_s=ttl_s, retry=retry)

    def post(
        self, action: Callable[[], Awaitable[R]], *, ttl_s: float | None = None, retry: bool = True
    ) -> asyncio.Future[R]:
        """Queue an action as `call` does and return its future; cancelling the future cancels the
        action."""
        if self._closed:
            raise GateClosed("the gate is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        job = _Job(action, future, loop.time())
        future.add_done_callback(lambda done: self._delivered(loop, job))
        if self.shadow:
            entry = self._pass(loop, job)
            future.add_done_callback(lambda done: self._given_up(loop, entry))
            return future
        entry = self.outbox.add(loop.time(), job, ttl_s=ttl_s, retry=retry)
        future.add_done_callback(lambda done: self._given_up(loop, entry))
        self._pump(loop)
        return future

    def status(self) -> GateStatus:
        governor = self.governor
        now = asyncio.get_running_loop().time()
        return GateStatus(
            name=self.name,
            mode="shadow" if self.shadow else "on",
            waiting=max(0, self.outbox.waiting),
            in_flight=governor.in_flight,
            window=governor.window,
            rate=governor.rate(),
            round_trip_s=governor.round_trip_s,
            ramping=governor.ramping,
            breaker=str(governor.breaker.state(now)),
            delivery=self._delivery.figures(now),
            counters=dict(self.outbox.counters, would_wait=self.would_wait),
        )

    async def close(self) -> None:
        """Stop running actions; all waiters get `GateClosed`."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        now = asyncio.get_running_loop().time()
        for entry in self.outbox.drain(now):
            self._fail(entry.item, GateClosed("the gate is closed"))

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the actions that may start, and set the timer for the next."""
        if self._closed:
            return
        now = loop.time()
        for entry in self.outbox.expire(now):
            self._expired(entry)
        while (next_one := self.outbox.next(now)) is not None:
            self._start(loop, next_one, self._attempt(loop, next_one))
        at = self.outbox.wake_at(now)
        if self._timer is not None:
            if self._timer_at == at:
                return
            self._timer.cancel()
            self._timer = None
        if at < inf:
            self._timer = loop.call_at(at, self._woken, loop)
            self._timer_at = at

    def _woken(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._pump(loop)

    def _start(
        self,
        loop: asyncio.AbstractEventLoop,
        entry: OutboxEntry[_Job],
        work: Coroutine[Any, Any, None],
    ) -> None:
        task = loop.create_task(work)
        self._running[entry] = task
        task.add_done_callback(lambda done: self._ended(loop, entry))

    def _ended(self, loop: asyncio.AbstractEventLoop, entry: OutboxEntry[_Job]) -> None:
        """Process the end of an attempt's task. It has no outcome if it was cancelled, perhaps
        before it began."""
        del self._running[entry]
        if entry.tag is not None:
            if entry.added == _SHADOW:  # passed in shadow mode: not in the outbox
                self.governor.on_cancel(loop.time(), entry.tag)
            else:
                self.outbox.cancel(loop.time(), entry)
            if self._closed:
                self._fail(entry.item, GateClosed("the gate is closed"))
            else:
                entry.item.future.cancel()
        self._pump(loop)

    async def _attempt(self, loop: asyncio.AbstractEventLoop, entry: OutboxEntry[_Job]) -> None:
        job = entry.item
        try:
            async with asyncio.timeout(self._attempt_timeout_s):
                answer = await job.action()
        except Exception as error:
            outcome, after = self._outcome_of(error)
            job.error = error
            settled = self.outbox.on_result(loop.time(), entry, outcome, retry_after_s=after)
            if settled and (outcome == "ok" or not entry.retry):
                self._fail(job, error)
            elif settled:
                self._expired(entry)
        else:
            self.outbox.on_result(loop.time(), entry, "ok", self._load_of(answer))
            if not job.future.done():
                job.future.set_result(answer)

    def _delivered(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        """Record the end of an action, unless its caller gave it up."""
        if not job.future.cancelled():
            now = loop.time()
            self._delivery.record(now, now - job.posted, job.future.exception() is None)

    def _given_up(self, loop: asyncio.AbstractEventLoop, entry: OutboxEntry[_Job]) -> None:
        """Process a done future. If its caller cancelled it, cancel the work too."""
        future = entry.item.future
        if not future.cancelled():
            future.exception()  # mark as retrieved: callers of `post` without await have the counters
        elif entry in self._running:
            self._running[entry].cancel()
        else:
            self.outbox.cancel(loop.time(), entry)
            self._pump(loop)

    def _pass(self, loop: asyncio.AbstractEventLoop, job: _Job) -> OutboxEntry[_Job]:
        """Start an action in shadow mode, and count it if the gate would have delayed it."""
        now = loop.time()
        if self.governor.ready(now) > 0.0:
            self.would_wait += 1
        entry = OutboxEntry(0, job, _SHADOW, inf, False)
        tag = entry.tag = self.governor.on_send(now)
        self._start(loop, entry, self._observe(loop, entry, tag))
        return entry

    async def _observe(
        self, loop: asyncio.AbstractEventLoop, entry: OutboxEntry[_Job], tag: int
    ) -> None:
        job = entry.item
        try:
            answer = await job.action()
        except Exception as error:
            entry.tag = None
            self.governor.on_result(loop.time(), tag, self._outcome_of(error)[0])
            self._fail(job, error)
        else:
            entry.tag = None
            self.governor.on_result(loop.time(), tag, "ok", self._load_of(answer))
            if not job.future.done():
                job.future.set_result(answer)

    def _expired(self, entry: OutboxEntry[_Job]) -> None:
        error = OutboxExpired(f"not delivered in time, after {entry.attempts} attempts")
        error.__cause__ = entry.item.error
        self._fail(entry.item, error)

    @staticmethod
    def _fail(job: _Job, error: Exception) -> None:
        if not job.future.done():
            job.future.set_exception(error)
