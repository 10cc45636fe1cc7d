"""Calls of Grenache workers: choice of workers, retries, hedges, results for the router.

See `p2p.grenache.rpc.rpc_client` for the rules. All attempts of a request have one rid: a worker
that records them can recognise a repetition.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from p2p.adaptive import (
    AdaptiveRouter,
    BalancedCall,
    CallBalance,
    CostPolicy,
    PeerMetrics,
    Pool,
    RetrySettings,
)
from p2p.flow.caller import Attempt, Caller, Failure, HedgeRules, Outcome
from p2p.grenache.directory import Address
from p2p.grenache.errors import GrenacheError, RequestFailed, RequestTimeout
from p2p.grenache.rpc import rpc_wire
from p2p.grenache.rpc.dispatcher import ERR_STOPPED, ERR_UNKNOWN
from p2p.grenache.rpc.rpc_transport import CLOSED, RpcTransport
from p2p.grenache.rpc.rpc_wire import RpcReply
from p2p.grenache.rpc.worker_list import WorkerList

C = TypeVar("C", bound="WorkerCall")
T = TypeVar("T")
End = Literal["ok", "error", "timeout", "cancel"]
"""End of a stream."""

RETRY: Final = RetrySettings(max_retries=3, base_s=0.02, cap_s=0.5)
CONNECT_PATIENCE: Final = 0.5  # seconds to connect, while another worker could be called
FIRST_HEDGE: Final = 0.25  # seconds, before enough latencies are known
LEAST_TIME: Final = 0.001  # seconds that an attempt is given


OK: Final[Outcome] = ("ok", None)
ERROR: Final[Outcome] = ("error", None)
TIMEOUT: Final[Outcome] = ("timeout", None)
CANCEL: Final[Outcome] = ("cancel", None)
OPEN: Final[Outcome] = (None, None)


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
    """A request in progress. `alone`: in one attempt, at a worker that was chosen before."""

    __slots__ = ("alone", "body", "error", "listed", "rid", "sent", "service")

    def __init__(
        self, service: WorkerService, rid: str, body: bytes, deadline: float, *, idempotent: bool
    ) -> None:
        super().__init__(
            service.balance, lambda: service.workers.addresses, deadline, idempotent=idempotent
        )
        self.service = service
        self.rid = rid
        self.body = body
        self.alone = False
        self.sent = False  # an attempt may have reached a worker without an answer
        self.listed = True  # workers are known: the latest error is of an attempt, not of a lookup
        self.error: RequestFailed | None = None  # of the latest attempt that was not hedged away

    def outcome(self, error: GrenacheError) -> RpcReply:
        """Reply of a request that ended with this error: a refusal that another worker may not have had.

        Raises:
            GrenacheError: there is none; of a `RequestFailed`, `sent` is for all attempts together.
        """
        if isinstance(error, TurnedAway) and self.listed:
            return error.reply
        known = error if self.listed or self.error is None else self.error
        if isinstance(known, RequestFailed):
            # The last attempt's failure; an earlier one may have been executed nevertheless.
            known.sent = known.sent or self.sent
        raise known from None

    def patience(self, address: Address) -> float | None:
        """Seconds to connect: an attempt to connect can safely be abandoned for another worker."""
        if self.alone or len(self.service.workers.addresses) < 2 or not self.others(address):
            return None
        return CONNECT_PATIENCE


class _Workers(Generic[C, T]):
    """Part of the transports that is common to requests and streams."""

    answers: tuple[type[Exception], ...] = ()
    # A late attempt shows if its worker still answers, so it is not cancelled.
    hedging = HedgeRules(FIRST_HEDGE, retry_beside=True, cancel_losers=False)

    def __init__(self) -> None:
        self.caller: Caller[Address, C, T] = Caller(self, self.hedging)
        self._loop = asyncio.get_running_loop()

    def choose_now(self, call: C) -> Address | None:
        workers = call.service.workers
        return self._pick(call) if workers.fresh else None

    async def choose(self, call: C) -> Address:
        call.listed = False
        await call.service.workers.get(call.deadline)
        call.listed = True
        return self._pick(call)

    def _pick(self, call: C) -> Address:
        workers = call.service.workers
        address = workers.take_new() if workers.new else None
        if address is None or address in call.failed:
            return call.pick(self._loop.time())
        return address

    def begin(self, call: C, attempt: Attempt[Address]) -> None:
        figures = call.service.figures
        figures.attempts += 1
        if attempt.beside:
            figures.hedges += 1

    async def attempt(self, call: C, attempt: Attempt[Address]) -> T:
        raise NotImplementedError

    def ended(
        self,
        call: C,
        attempt: Attempt[Address],
        now: float,
        error: BaseException | None,
    ) -> Outcome:
        if error is None:
            call.service.workers.answered[attempt.peer] = now
            return OK
        if not isinstance(error, RequestFailed):  # the caller left
            return CANCEL
        call.sent = call.sent or error.sent
        if self.caller.closing:
            return CANCEL
        return TIMEOUT if isinstance(error, RequestTimeout) else ERROR

    def failure(self, call: C, error: Exception) -> Failure | None:
        if not call.listed or not isinstance(error, RequestFailed):
            return None
        call.error = error
        call.sent = call.sent or error.sent
        if isinstance(error, TurnedAway):
            return Failure(executed=error.sent, retry_after_s=error.retry_after_s)
        call.service.workers.failed(all_of_them=not call.others())
        return Failure(executed=error.sent, free=not error.sent)

    def has_room(self, call: C, peer: Address, now: float) -> bool:
        return True

    def closed(self) -> Exception:
        return RequestFailed(CLOSED, "this client was closed", sent=True)


class WorkerCalls(_Workers[WorkerCall, RpcReply]):
    """Requests over a transport (`p2p.flow.caller.CallTransport`)."""

    def __init__(self, transport: RpcTransport) -> None:
        super().__init__()
        self._transport = transport

    async def attempt(self, call: WorkerCall, attempt: Attempt[Address]) -> RpcReply:
        left = max(LEAST_TIME, call.deadline - attempt.sent_at)
        patience = call.patience(attempt.peer)
        reply = await self._transport.request(
            attempt.peer,
            call.rid,
            call.body,
            timeout=left,
            connect_timeout=None if patience is None else min(patience, left / 2),
            idempotent=call.idempotent,
        )
        refusal = None if reply.error is None else turned_away(reply)
        if refusal is not None:
            raise refusal
        return reply


class OpenStream(Generic[T]):
    """A connection for a stream, and what its end means for the choice of workers."""

    def __init__(
        self, calls: StreamCalls[T], call: WorkerCall, attempt: Attempt[Address], to: T
    ) -> None:
        self._calls = calls
        self._call = call
        self._attempt = attempt
        self.to = to

    def ended(self, outcome: End) -> None:
        """Record the end of the stream."""
        now, address = asyncio.get_running_loop().time(), self._attempt.peer
        router = self._call.service.router
        if outcome in ("error", "timeout") and not self._calls.caller.closing:
            router.on_result(now, address, now - self._attempt.sent_at, outcome)
            return
        # The length of a stream is no latency: no evidence but that the worker is there.
        router.on_cancel(now, address, self._attempt.sent_at)
        if outcome == "ok":
            self._call.service.workers.answered[address] = now


class StreamCall(WorkerCall, Generic[T]):
    """A stream being opened. `connect(address, seconds)` makes a connection to a worker."""

    __slots__ = ("connect",)

    def __init__(
        self,
        service: WorkerService,
        connect: Callable[[Address, float], Awaitable[T]],
        deadline: float,
    ) -> None:
        super().__init__(service, "", b"", deadline, idempotent=False)
        self.connect = connect


class StreamCalls(_Workers[StreamCall[T], OpenStream[T]], Generic[T]):
    """Connections for streams: to another worker where one cannot be connected to."""

    def _pick(self, call: StreamCall[T]) -> Address:
        return call.pick(self._loop.time())

    async def attempt(self, call: StreamCall[T], attempt: Attempt[Address]) -> OpenStream[T]:
        patience = call.patience(attempt.peer)
        if patience is None:
            patience = call.deadline - attempt.sent_at
        to = await call.connect(attempt.peer, max(LEAST_TIME, patience))
        return OpenStream(self, call, attempt, to)

    def ended(
        self,
        call: StreamCall[T],
        attempt: Attempt[Address],
        now: float,
        error: BaseException | None,
    ) -> Outcome:
        if error is None:  # with the stream
            return OPEN
        return super().ended(call, attempt, now, error)


LEAST_S: Final = 0.005  # seconds; less is noise of the network and of two event loops
USUAL: Final = 1.5  # times the usual latency: answers of one worker differ by as much
FIRST_ANSWERS: Final = 8  # the first carry the price of connecting; this number is needed to judge
TRY_AGAIN: Final = (
    50.0  # times its cost, without a call: trying again takes 2 % of the time at most
)


class EvenPolicy(CostPolicy):
    """The default cost, with all costs up to a floor taken as the floor: equal shares for workers that are as good as each
    other.

    By expected latency alone the least lead decides every choice, and of twelve equal workers some would get nothing for
    seconds. Of equals the router takes the least recently used. A single slow answer (a new connection, a stall of either
    event loop) is not believed for long. Calls in flight, failures and real slowness lift a cost above the floor.
    """

    noise = 0.0  # the floor makes equals of what is nearly equal

    def cost(self, now: float, metrics: PeerMetrics, pool: Pool) -> float:
        floor = max(LEAST_S, USUAL * pool.latency)
        cost = super().cost(now, metrics, pool)
        if cost <= floor or metrics.sends or metrics.failing or metrics.hanging:
            return max(floor, cost)
        unsure = (
            metrics.success_count < FIRST_ANSWERS or now - metrics.latency_at > TRY_AGAIN * cost
        )
        return floor if unsure else cost
