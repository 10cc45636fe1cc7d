"""One caller for every transport: choice of the peer, attempts, retries, hedges.

A transport chooses peers, makes single attempts and says what their failures mean; everything else is here, the same for
the node's services (`p2p.services.service_transport`) and Grenache workers (`p2p.grenache.rpc.worker_calls`):

    caller = Caller(transport, HedgeRules())
    result = await caller.settle(BalancedCall(balance, candidates, deadline, idempotent=True))

Rules of this file:

- An attempt is counted before anything is awaited: the next choice must see it.
- Every attempt ends with exactly one outcome for the router, unless its transport keeps it open (a stream).
- Where an idempotent call takes longer than nearly all others did, a second attempt is made beside the first, at a healthy
  peer with room, from a budget of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

from p2p.adaptive import BalancedCall, RetryBudget
from p2p.ground.owned_tasks import OwnedTasks

P = TypeVar("P", bound=Hashable)  # a peer
T = TypeVar("T")
C_contra = TypeVar("C_contra", bound=BalancedCall[Any], contravariant=True)
C = TypeVar("C", bound=BalancedCall[Any])
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

log = logging.getLogger(__name__)

Load = tuple[float, float, float]
"""Load that a reply reports: calls in flight, latency, time of service."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Consequence of a failed attempt: `executed`: the peer may have executed the call. `free`: nothing was sent, so
    another peer is tried at no cost. `retry_after_s`: least wait that the peer requested."""

    executed: bool = False
    free: bool = False
    retry_after_s: float = 0.0


Outcome = tuple[Literal["ok", "error", "timeout", "cancel"] | None, Load | None]
"""Result of an attempt for the router, with the load that the peer reported; None: not over yet."""


@dataclass(frozen=True, slots=True)
class HedgeRules:
    """`first_s`: delay before enough latencies are known, at most a quarter of the time left; None: no hedge until
    then. `retry_beside`: when half of the time is gone, the second attempt may cost a retry. `cancel_losers`: else
    the later attempt continues, which shows if its peer still answers."""

    first_s: float | None = None
    retry_beside: bool = False
    cancel_losers: bool = True


class Attempt(Generic[P]):
    """One attempt under way, `beside` another one or not. `mark` is the transport's own; `lost`: the one beside it was
    quicker."""

    __slots__ = ("beside", "lost", "mark", "peer", "sent_at")

    def __init__(self, peer: P, sent_at: float, beside: bool) -> None:
        self.peer = peer
        self.sent_at = sent_at
        self.beside = beside
        self.mark: Any = None
        self.lost = False


class CallTransport(Protocol[P, C_contra, R_co]):
    """Attempts of one kind of call. `answers`: errors that are the peer's own answer, and final."""

    answers: tuple[type[Exception], ...]

    def choose_now(self, call: C_contra) -> P | None:
        """Return the peer to call now; None: `choose` has to wait for one."""
        ...

    async def choose(self, call: C_contra) -> P:
        """Wait for a peer to call, within the deadline. Nothing may be awaited after the choice. Raises whatever says
        why there is none."""
        ...

    def begin(self, call: C_contra, attempt: Attempt[P]) -> None:
        """Record an attempt as sent."""
        ...

    async def attempt(self, call: C_contra, attempt: Attempt[P]) -> R_co:
        """Make one attempt."""
        ...

    def ended(
        self, call: C_contra, attempt: Attempt[P], now: float, error: BaseException | None
    ) -> Outcome:
        """Record the end of an attempt, and return its outcome."""
        ...

    def failure(self, call: C_contra, error: Exception) -> Failure | None:
        """Consequence of the error of a choice or an attempt; None: give up."""
        ...

    def has_room(self, call: C_contra, peer: P, now: float) -> bool:
        """Return True if a hedge may go to `peer`."""
        ...

    def closed(self) -> Exception:
        """Error of calls under way when the caller is closed."""
        ...


class Caller(Generic[P, C, R]):
    """See the module."""

    def __init__(self, transport: CallTransport[P, C, R], hedging: HedgeRules) -> None:
        self._transport = transport
        self._hedging = hedging
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self.tasks = OwnedTasks(log)  # hedged attempts, and background work of the transport

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    async def close(self) -> None:
        """End all attempts; calls under way fail with the transport's `closed`."""
        self._closing.set()
        await self.tasks.close()

    async def settle(self, call: C) -> R:
        """Make attempts until one is answered; raise the error of the last attempt if none is."""
        transport = self._transport
        while True:
            try:
                peer = transport.choose_now(call)
                if peer is None:
                    peer = await transport.choose(call)
                if call.hedged and call.others(peer):
                    return await self._race(call, peer)
                return await self.run(call, self.begin(call, peer))
            except transport.answers:
                raise
            except Exception as error:
                delay = self._delay(call, error)
                if delay is None:
                    raise
            if delay:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._closing.wait()

    def _delay(self, call: C, error: Exception) -> float | None:
        """Return the seconds until the next attempt; None: this was the last."""
        failure = self._transport.failure(call, error)
        if failure is None or self.closing:
            return None
        return call.next_delay(
            self._loop.time(),
            executed=failure.executed,
            free=failure.free,
            retry_after_s=failure.retry_after_s,
        )

    # Attempts

    def begin(self, call: C, peer: P, *, beside: bool = False) -> Attempt[P]:
        """Count an attempt as sent."""
        now = self._loop.time()
        attempt = Attempt(peer, now, beside)
        call.begin(now, peer)
        self._transport.begin(call, attempt)
        return attempt

    async def run(self, call: C, attempt: Attempt[P]) -> R:
        """Make one attempt and record its outcome. A peer that fails is added to the call's `failed`."""
        try:
            answer = await self._transport.attempt(call, attempt)
        except BaseException as error:
            self._ended(call, attempt, error)
            raise
        self._ended(call, attempt, None)
        return answer

    def _ended(self, call: C, attempt: Attempt[P], error: BaseException | None) -> None:
        now, balance, sent_at = self._loop.time(), call.balance, attempt.sent_at
        kind, load = self._transport.ended(call, attempt, now, error)
        if kind == "cancel":
            balance.router.on_cancel(now, attempt.peer, sent_at)
        elif kind is not None:
            balance.router.on_result(now, attempt.peer, now - sent_at, kind, load)
            if error is None:
                balance.hedge.on_success(now - sent_at)
            elif kind != "ok":
                call.failed.append(attempt.peer)

    async def _race(self, call: C, first: P) -> R:
        """Make an attempt at `first`, and a second one beside it if that takes long. The first success, or the last
        failure."""
        loop, balance, rules = self._loop, call.balance, self._hedging
        now = loop.time()
        left = call.deadline - now
        least = None if rules.first_s is None else min(rules.first_s, left / 4)
        delay = balance.hedge_delay(now, least)
        if delay is None:
            return await self.run(call, self.begin(call, first))
        race: AttemptRace[R] = AttemptRace(
            self.tasks.start, self._transport.answers, self._transport.closed
        )
        attempt = self.begin(call, first)
        race.start(self.run(call, attempt))
        beside = partial(self._beside, race, call, first)
        timers = [loop.call_later(delay, beside, balance.hedge.budget)]
        if rules.retry_beside:
            timers.append(loop.call_later(left / 2, beside, balance.elsewhere.budget))
        try:
            result = await race.result()
            attempt.lost = True  # unless it has ended already
            return result
        finally:
            for timer in timers:
                timer.cancel()
            if rules.cancel_losers:
                race.cancel()
                await asyncio.gather(*race.tasks, return_exceptions=True)

    def _beside(self, race: AttemptRace[R], call: C, first: P, budget: RetryBudget) -> None:
        """Add an attempt at another peer, if there is one and the budget has it."""
        now = self._loop.time()
        if race.decided or len(race.tasks) > 1 or self.closing:
            return
        if budget.tokens(now) < 1.0:  # before a pick, which counts as use
            return
        second = call.pick_second(
            now, first, lambda peer: self._transport.has_room(call, peer, now)
        )
        if second is not None and budget.take(now):
            race.start(self.run(call, self.begin(call, second, beside=True)))


class AttemptRace(Generic[T]):
    """Concurrent attempts of one call: the first success decides. A failure leaves the decision to the others, unless its
    type is one of `answers`; the last one is raised when all have failed. `spawn` starts a task; `closed` makes the error to
    raise when an attempt was cancelled from outside, by a caller that is closing. The losers keep running until `cancel`.
    """

    def __init__(
        self,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        answers: tuple[type[Exception], ...],
        closed: Callable[[], Exception],
    ) -> None:
        self._spawn = spawn
        self._answers = answers
        self._closed = closed
        self._winner: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._running = 0
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def decided(self) -> bool:
        return self._winner.done()

    def start(self, attempt: Coroutine[Any, Any, T]) -> asyncio.Task[None]:
        """Add an attempt."""
        self._running += 1
        task = self._spawn(self._run(attempt))
        task.add_done_callback(lambda task: self._ended(task, attempt))
        self.tasks.append(task)
        return task

    async def _run(self, attempt: Coroutine[Any, Any, T]) -> None:
        winner = self._winner
        try:
            result = await attempt
        except Exception as error:
            self._running -= 1
            if not winner.done() and (not self._running or isinstance(error, self._answers)):
                winner.set_exception(error)
        else:
            if not winner.done():
                winner.set_result(result)

    def _ended(self, task: asyncio.Task[None], attempt: Coroutine[Any, Any, T]) -> None:
        attempt.close()  # of a task that was cancelled before its first step
        if task.cancelled() and not self._winner.done():
            self._winner.set_exception(self._closed())

    async def result(self) -> T:
        """Wait for the decision. The attempts are cancelled with the waiter."""
        try:
            return await self._winner
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel the attempts that still run."""
        winner = self._winner
        if not winner.done():
            winner.cancel()
        elif not winner.cancelled():
            winner.exception()  # mark the exception as retrieved: it may come together with a cancellation
        for task in self.tasks:
            task.cancel()
