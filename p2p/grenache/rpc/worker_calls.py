"""Calls of Grenache workers until they are settled: choice of workers, retries, hedges, and lessons for the router.

See `p2p.grenache.rpc.rpc_client` for the rules. All attempts of a request have one rid: a worker that keeps book can
tell a repetition from another request.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from p2p.adaptive import (
    AdaptiveRouter,
    BreakerState,
    HedgePolicy,
    RetryBudget,
    RetryPolicy,
    RetrySettings,
)
from p2p.grenache.directory import Address
from p2p.grenache.errors import GrenacheError, RequestFailed, RequestTimeout
from p2p.grenache.rpc import rpc_wire
from p2p.grenache.rpc.dispatcher import ERR_STOPPED, ERR_UNKNOWN
from p2p.grenache.rpc.rpc_transport import CLOSED, Transport
from p2p.grenache.rpc.rpc_wire import Reply
from p2p.grenache.rpc.worker_list import WorkerList

RETRY: Final = RetrySettings(max_retries=3, base_s=0.02, cap_s=0.5)
RETRY_RESERVE: Final = 100.0  # a worker that dies takes all that was under way to it along, at once
CONNECT_PATIENCE: Final = 0.5  # seconds to connect, while another worker could be asked
LEAST_HEDGE: Final = 0.005  # seconds; below this the loop's own delays would look slow
FIRST_HEDGE: Final = 0.25  # seconds, until it is known how long answers usually take
LEAST_TIME: Final = 0.001  # seconds that an attempt is given


class TurnedAway(RequestFailed):
    """The worker's answer was that it has too much to do, does not serve this, or is stopping."""

    def __init__(self, reply: Reply, *, done: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(reply.error or "", sent=done)
        self.reply = reply
        self.retry_after_s = retry_after_s


def turned_away(reply: Reply) -> TurnedAway | None:
    """Reason in a worker's reply to try another worker; None for an answer."""
    error = reply.error
    if error is None:
        return None
    retry_after_s = rpc_wire.retry_after(error)
    if retry_after_s is not None:
        return TurnedAway(reply, done=False, retry_after_s=retry_after_s)
    code = error.partition(":")[0]
    if code == ERR_UNKNOWN:
        return TurnedAway(reply, done=False)
    if code == ERR_STOPPED:
        return TurnedAway(reply, done=not error.endswith("nothing was done"))
    return None


@dataclass(slots=True)
class Figures:
    """Of the requests to one service since the start. `attempts` and `hedges` were sent, by `request`."""

    ok: int = 0
    remote_errors: int = 0
    failed: int = 0
    attempts: int = 0
    hedges: int = 0


class Service:
    """State shared by the requests to one service."""

    __slots__ = ("figures", "hedge", "retry", "router", "workers")

    def __init__(
        self, workers: WorkerList, router: AdaptiveRouter[Address], rng: random.Random
    ) -> None:
        self.workers = workers
        self.router = router
        budget = RetryBudget(ratio=0.2, reserve=RETRY_RESERVE, per_second=1.0)
        self.retry = RetryPolicy(RETRY, rng=rng, budget=budget)
        self.hedge = HedgePolicy()
        self.figures = Figures()


class Job:
    """A request in progress."""

    __slots__ = ("body", "deadline", "failed", "idempotent", "retries", "rid", "sent", "service")

    def __init__(
        self, service: Service, rid: str, body: bytes, deadline: float, *, idempotent: bool
    ) -> None:
        self.service = service
        self.rid = rid
        self.body = body
        self.deadline = deadline
        self.idempotent = idempotent
        self.failed: list[Address] = []
        self.retries = 0  # that were paid for
        self.sent = False  # some attempt may have reached a worker and left no answer

    def others(self, workers: Sequence[Address], but: Address | None = None) -> bool:
        """Return True if there is a worker that was not tried yet, other than `but`."""
        failed = self.failed
        return any(worker != but and worker not in failed for worker in workers)


class Calling:
    """`spawn` starts a task that its owner cancels when it sets `closing`."""

    def __init__(
        self,
        transport: Transport,
        closing: asyncio.Event,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._transport = transport
        self._closing = closing
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()

    async def settle(self, job: Job) -> Reply:
        """The reply of some worker.

        Raises:
            GrenacheError: there is none; of a `RequestFailed`, `sent` is for all attempts together.
        """
        service = job.service
        error: RequestFailed | None = None
        while True:
            try:
                workers = await service.workers.get(job.deadline)
            except GrenacheError:
                if error is None:
                    raise
                raise _as_a_whole(job, error) from None
            now = self._loop.time()
            address = service.workers.take_new()
            if address is None or address in job.failed:
                address = service.router.pick(now, workers, job.failed)
            others = job.others(workers, address)
            try:
                if job.idempotent and others:
                    return await self._race(job, address)
                # Trying to connect is safe to give up for another worker.
                patience = CONNECT_PATIENCE if others else None
                return await self.attempt(job, address, self.begin(job, address), patience)
            except RequestFailed as failed:
                error = failed
            job.sent = job.sent or error.sent
            delay = self._delay(job, error, workers)
            if delay is None:
                if isinstance(error, TurnedAway):
                    return error.reply
                raise _as_a_whole(job, error)
            if delay:
                await self._pause(delay)

    def _delay(self, job: Job, error: RequestFailed, workers: Sequence[Address]) -> float | None:
        """Seconds until the next attempt; None: this was the last."""
        service = job.service
        others = job.others(workers)
        if not isinstance(error, TurnedAway):
            service.workers.failed(all_of_them=not others)
        if (error.sent and not job.idempotent) or self._closing.is_set():
            return None
        now = self._loop.time()
        if others and not error.sent and not isinstance(error, TurnedAway):
            return 0.0 if now + RETRY.least_s < job.deadline else None
        job.retries += 1
        least = 0.0
        if not others:
            job.failed.clear()  # another round
            least = error.retry_after_s if isinstance(error, TurnedAway) else 0.0
        return service.retry.next_delay(now, job.retries, job.deadline, least)

    async def _pause(self, delay: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._closing.wait()

    # Attempts

    def begin(self, job: Job, address: Address) -> float:
        """Count an attempt as sent, before anything is awaited: the next choice must see it. Returns when."""
        now = self._loop.time()
        job.service.figures.attempts += 1
        job.service.router.on_send(now, address)
        return now

    async def attempt(
        self, job: Job, address: Address, sent_at: float, connect_timeout: float | None = None
    ) -> Reply:
        """Make one attempt and record its outcome in the router. A worker that fails is added to `failed`."""
        service = job.service
        left = max(LEAST_TIME, job.deadline - sent_at)
        if connect_timeout is not None:
            connect_timeout = min(connect_timeout, left / 2)
        try:
            reply = await self._transport.request(
                address,
                job.rid,
                job.body,
                timeout=left,
                connect_timeout=connect_timeout,
                idempotent=job.idempotent,
            )
        except RequestFailed as error:
            now = self._loop.time()
            if self._closing.is_set():
                service.router.on_cancel(now, address, sent_at)
            else:
                late = isinstance(error, RequestTimeout)
                outcome: Literal["timeout", "error"] = "timeout" if late else "error"
                service.router.on_result(now, address, now - sent_at, outcome)
            job.failed.append(address)
            raise
        except BaseException:  # the caller left
            service.router.on_cancel(self._loop.time(), address, sent_at)
            raise
        now = self._loop.time()
        refusal = turned_away(reply)
        if refusal is not None:
            service.router.on_result(now, address, now - sent_at, "error")
            job.failed.append(address)
            raise refusal
        service.router.on_result(now, address, now - sent_at, "ok")
        service.workers.answered[address] = now
        service.hedge.on_success(now - sent_at)
        return reply

    async def _race(self, job: Job, first: Address) -> Reply:
        """An attempt with `first`, and a second one beside it when that takes long. The first reply, or the
        last failure. The one that comes later is not cancelled: it shows if its worker still answers."""
        service, loop = job.service, self._loop
        now = loop.time()
        left = job.deadline - now
        winner: asyncio.Future[Reply] = loop.create_future()
        runners: list[asyncio.Task[None]] = []
        running = 0

        async def run(address: Address, sent_at: float) -> None:
            nonlocal running
            try:
                reply = await self.attempt(job, address, sent_at, CONNECT_PATIENCE)
            except RequestFailed as error:
                running -= 1
                job.sent = job.sent or error.sent
                if not running and not winner.done():
                    winner.set_exception(error)
            except asyncio.CancelledError:
                if not winner.done():  # not by the caller, so this client is being closed
                    closed = RequestFailed(CLOSED, "this client was closed", sent=True)
                    winner.set_exception(closed)
                raise
            else:
                if not winner.done():
                    winner.set_result(reply)

        def start(address: Address) -> None:
            nonlocal running
            running += 1
            runners.append(self._spawn(run(address, self.begin(job, address))))

        def beside(budget: RetryBudget) -> None:
            now = loop.time()
            if len(runners) > 1 or budget.tokens(now) < 1.0:  # before a pick, which counts as use
                return
            second = self._second(job, first)
            if second is not None and budget.take(now):
                service.figures.hedges += 1
                start(second)

        service.hedge.on_request(now)
        usual = service.hedge.delay()
        delay = min(FIRST_HEDGE, left / 4) if usual is None else max(LEAST_HEDGE, usual)
        start(first)
        timers = [loop.call_later(delay, beside, service.hedge.budget)]
        # When half of the time is gone it is a retry rather than a hedge, and may cost one.
        timers.append(loop.call_later(left / 2, beside, service.retry.budget))
        try:
            return await winner
        except asyncio.CancelledError:
            for task in runners:
                task.cancel()
            if winner.done() and not winner.cancelled():
                winner.exception()  # seen, should it have come at the same moment
            raise
        finally:
            for timer in timers:
                timer.cancel()

    def _second(self, job: Job, first: Address) -> Address | None:
        """Whom to ask beside a slow worker: nobody who is not well."""
        if self._closing.is_set():
            return None
        now = self._loop.time()
        router = job.service.router
        well = [
            worker
            for worker in job.service.workers.addresses
            if worker != first
            and worker not in job.failed
            and router.breaker_state(now, worker) is BreakerState.CLOSED
        ]
        return router.pick(now, well) if well else None


def _as_a_whole(job: Job, error: RequestFailed) -> RequestFailed:
    """The last attempt's failure; an earlier one may have been done nevertheless."""
    error.sent = error.sent or job.sent
    return error
