"""Calls of Grenache workers: choice of workers, retries, hedges, results for the router.

See `p2p.grenache.rpc.rpc_client` for the rules. All attempts of a request have one rid: a worker
that records them can recognise a repetition.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeVar

from p2p.adaptive import AdaptiveRouter, BalancedCall, CallBalance, RetryBudget, RetrySettings
from p2p.flow.attempt_race import AttemptRace
from p2p.grenache.directory import Address
from p2p.grenache.errors import GrenacheError, RequestFailed, RequestTimeout
from p2p.grenache.rpc import rpc_wire
from p2p.grenache.rpc.dispatcher import ERR_STOPPED, ERR_UNKNOWN
from p2p.grenache.rpc.rpc_transport import CLOSED, RpcTransport
from p2p.grenache.rpc.rpc_wire import RpcReply
from p2p.grenache.rpc.worker_list import WorkerList

T = TypeVar("T")

RETRY: Final = RetrySettings(max_retries=3, base_s=0.02, cap_s=0.5)
CONNECT_PATIENCE: Final = 0.5  # seconds to connect, while another worker could be called
FIRST_HEDGE: Final = 0.25  # seconds, before enough latencies are known
LEAST_TIME: Final = 0.001  # seconds that an attempt is given


class TurnedAway(RequestFailed):
    """The worker refused: it is overloaded, does not serve the service, or is stopping."""

    def __init__(self, reply: RpcReply, *, done: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(reply.error or "", sent=done)
        self.reply = reply
        self.retry_after_s = retry_after_s


def turned_away(reply: RpcReply) -> TurnedAway | None:
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
class WorkerCallFigures:
    """Counters of the requests to one service. `attempts` and `hedges` were sent, by `request`."""

    ok: int = 0
    remote_errors: int = 0
    failed: int = 0
    attempts: int = 0
    hedges: int = 0


class WorkerService:
    """State shared by the requests to one service."""

    __slots__ = ("balance", "figures", "workers")

    def __init__(
        self, workers: WorkerList, router: AdaptiveRouter[Address], rng: random.Random
    ) -> None:
        self.workers = workers
        self.balance = CallBalance(router, RETRY, rng=rng)
        self.figures = WorkerCallFigures()

    @property
    def router(self) -> AdaptiveRouter[Address]:
        return self.balance.router


class WorkerCall(BalancedCall[Address]):
    """A request in progress."""

    __slots__ = ("body", "rid", "sent", "service")

    def __init__(
        self, service: WorkerService, rid: str, body: bytes, deadline: float, *, idempotent: bool
    ) -> None:
        super().__init__(
            service.balance, lambda: service.workers.addresses, deadline, idempotent=idempotent
        )
        self.service = service
        self.rid = rid
        self.body = body
        self.sent = False  # an attempt may have reached a worker without an answer


class WorkerCalls:
    """Calls over a transport. `spawn` starts a task that its owner cancels when it sets
    `closing`."""

    def __init__(
        self,
        transport: RpcTransport,
        closing: asyncio.Event,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._transport = transport
        self._closing = closing
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()

    async def settle(self, call: WorkerCall) -> RpcReply:
        """Make attempts until one is answered, and return the reply.

        Raises:
            GrenacheError: there is none; of a `RequestFailed`, `sent` is for all attempts together.
        """
        service = call.service
        error: RequestFailed | None = None
        while True:
            workers = service.workers
            try:
                if not workers.fresh:
                    await workers.get(call.deadline)
            except GrenacheError:
                if error is None:
                    raise
                raise _as_a_whole(call, error) from None
            address = workers.take_new() if workers.new else None
            if address is None or address in call.failed:
                address = call.pick(self._loop.time())
            others = len(workers.addresses) > 1 and call.others(address)
            try:
                if call.idempotent and others:
                    return await self._race(call, address)
                # A connection attempt can safely be abandoned for another worker.
                patience = CONNECT_PATIENCE if others else None
                return await self.attempt(call, address, self.begin(call, address), patience)
            except RequestFailed as failed:
                error = failed
            call.sent = call.sent or error.sent
            delay = self._delay(call, error)
            if delay is None:
                if isinstance(error, TurnedAway):
                    return error.reply
                raise _as_a_whole(call, error)
            if delay:
                await self._pause(delay)

    def _delay(self, call: WorkerCall, error: RequestFailed) -> float | None:
        """Seconds until the next attempt; None: this was the last."""
        refused = isinstance(error, TurnedAway)
        if not refused:
            call.service.workers.failed(all_of_them=not call.others())
        if self._closing.is_set():
            return None
        return call.next_delay(
            self._loop.time(),
            executed=error.sent,
            free=not error.sent and not refused,
            retry_after_s=error.retry_after_s if isinstance(error, TurnedAway) else 0.0,
        )

    async def _pause(self, delay: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._closing.wait()

    # Attempts

    def begin(self, call: WorkerCall, address: Address) -> float:
        """Count an attempt as sent, before anything is awaited: the next choice must see it. Returns when."""
        now = self._loop.time()
        call.service.figures.attempts += 1
        call.begin(now, address)
        return now

    async def attempt(
        self,
        call: WorkerCall,
        address: Address,
        sent_at: float,
        connect_timeout: float | None = None,
    ) -> RpcReply:
        """Make one attempt and record its outcome in the router. A worker that fails is added to `failed`."""
        service = call.service
        left = max(LEAST_TIME, call.deadline - sent_at)
        if connect_timeout is not None:
            connect_timeout = min(connect_timeout, left / 2)
        try:
            reply = await self._transport.request(
                address,
                call.rid,
                call.body,
                timeout=left,
                connect_timeout=connect_timeout,
                idempotent=call.idempotent,
            )
        except RequestFailed as error:
            now = self._loop.time()
            call.sent = call.sent or error.sent
            if self._closing.is_set():
                service.router.on_cancel(now, address, sent_at)
            else:
                late = isinstance(error, RequestTimeout)
                outcome: Literal["timeout", "error"] = "timeout" if late else "error"
                service.router.on_result(now, address, now - sent_at, outcome)
            call.failed.append(address)
            raise
        except BaseException:  # the caller left
            service.router.on_cancel(self._loop.time(), address, sent_at)
            raise
        now = self._loop.time()
        refusal = None if reply.error is None else turned_away(reply)
        if refusal is not None:
            call.sent = call.sent or refusal.sent
            service.router.on_result(now, address, now - sent_at, "error")
            call.failed.append(address)
            raise refusal
        service.router.on_result(now, address, now - sent_at, "ok")
        service.workers.answered[address] = now
        service.balance.hedge.on_success(now - sent_at)
        return reply

    async def connect(
        self, call: WorkerCall, connect: Callable[[Address, float], Awaitable[T]]
    ) -> tuple[T, Callable[[str], None]]:
        """Connect to a worker for a stream, to another one where that fails.

        Returns:
            What `connect(address, patience)` gives, and what must be called with the outcome ("ok", "error",
            "timeout", "cancel") at the end of the stream.

        Raises:
            GrenacheError: no worker can be connected to.
        """
        service, loop = call.service, self._loop
        while True:
            await service.workers.get(call.deadline)
            address = call.pick(loop.time())
            sent_at = self.begin(call, address)
            ended = partial(self._stream_ended, service, address, sent_at)
            patience = CONNECT_PATIENCE if call.others(address) else call.deadline - sent_at
            try:
                return await connect(address, max(LEAST_TIME, patience)), ended
            except RequestFailed as failed:
                ended("timeout" if isinstance(failed, RequestTimeout) else "error")
                call.failed.append(address)
                delay = self._delay(call, failed)
                if delay is None:
                    raise
            except BaseException:
                ended("cancel")
                raise
            if delay:
                await self._pause(delay)

    def _stream_ended(
        self, service: WorkerService, address: Address, sent_at: float, outcome: str
    ) -> None:
        now = self._loop.time()
        if outcome in ("error", "timeout") and not self._closing.is_set():
            failure: Literal["timeout", "error"] = "timeout" if outcome == "timeout" else "error"
            service.router.on_result(now, address, now - sent_at, failure)
            return
        # The length of a stream is no latency: no evidence but that the worker is there.
        service.router.on_cancel(now, address, sent_at)
        if outcome == "ok":
            service.workers.answered[address] = now

    async def _race(self, call: WorkerCall, first: Address) -> RpcReply:
        """Make an attempt with `first`, and a second one beside it when that takes long. The first reply, or
        the last failure. The one that comes later is not cancelled: it shows if its worker still answers."""
        loop, balance = self._loop, call.balance
        now = loop.time()
        left = call.deadline - now
        race: AttemptRace[RpcReply] = AttemptRace(self._spawn, closed=_closed)
        delay = balance.hedge_delay(now, min(FIRST_HEDGE, left / 4)) or 0.0
        self._start(race, call, first)
        beside = partial(self._beside, race, call, first)
        # When half of the time is gone it is a retry rather than a hedge, and may cost one.
        timers = [
            loop.call_later(delay, beside, balance.hedge.budget),
            loop.call_later(left / 2, beside, balance.elsewhere.budget),
        ]
        try:
            return await race.result()
        finally:
            for timer in timers:
                timer.cancel()

    def _start(self, race: AttemptRace[RpcReply], call: WorkerCall, address: Address) -> None:
        sent_at = self.begin(call, address)
        race.start(self.attempt(call, address, sent_at, CONNECT_PATIENCE))

    def _beside(
        self, race: AttemptRace[RpcReply], call: WorkerCall, first: Address, budget: RetryBudget
    ) -> None:
        """Add an attempt with another worker, if there is one and the budget has it."""
        now = self._loop.time()
        if len(race.tasks) > 1 or self._closing.is_set():
            return
        if budget.tokens(now) < 1.0:  # before a pick, which counts as use
            return
        second = call.pick_second(now, first)
        if second is not None and budget.take(now):
            call.service.figures.hedges += 1
            self._start(race, call, second)


def _closed() -> RequestFailed:
    return RequestFailed(CLOSED, "this client was closed", sent=True)


def _as_a_whole(call: WorkerCall, error: RequestFailed) -> RequestFailed:
    """Return the last attempt's failure; an earlier one may have been executed nevertheless."""
    error.sent = error.sent or call.sent
    return error
