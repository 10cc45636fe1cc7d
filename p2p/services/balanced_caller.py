"""Balanced caller: client-side load balancing of service calls, with retries and hedging.

    value = await caller.call("quotes", {"market": "BTC-USD"}, timeout=2.0, idempotent=True)

The candidates are the nodes that announce the service, this one included if it serves it; the router of
the service picks. After an attempt:

    outcome                        for the router   tried again
    the handler's own refusal      ok               never: it is the answer
    busy, unreachable, not served  error            always: it was not executed
    link lost, handler failed      error            only if idempotent
    no answer in time              timeout          only if idempotent

Another attempt goes to another node while there is one, after a wait of a few ms with full jitter, within
the deadline of the call, and only from the retry budget. When an idempotent call has waited longer than
95 of 100 answers take, a second attempt is made at another node (a hedge), from a budget of its own. The
attempt that loses is cancelled.

Every attempt, first or further, passes the governor of its node and service (`p2p.flow.governor`), which
limits the attempts under way to those that the replies show no queue for. When no node has room, the call
waits in the concurrency queue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypedDict, Unpack

import msgspec

from p2p.adaptive import AdaptiveRouter, BreakerState, HedgePolicy
from p2p.adaptive.retry_policy import RetryBudget, RetryPolicy, RetrySettings
from p2p.base.bounded_map import BoundedMap
from p2p.base.errors import CallError, CallTimeout, HandlerError, NoProvider, ServiceBusy
from p2p.base.limits import RPC_MAX_DEADLINE
from p2p.flow.governor import FlowEvent, Governor
from p2p.rpc.rpc import Rpc
from p2p.services.attempt import ServiceAttempt, load_report, load_tuple
from p2p.services.balancers import MAX_ROUTERS, Balancers, RoutingRecord
from p2p.services.call_figures import CallFigures
from p2p.services.concurrency_queue import MAX_GOVERNORS, ConcurrencyQueue
from p2p.services.service_server import ServiceCall, ServiceReply, ServiceServer
from p2p.wire.messages import pack

QUICK_BASE: Final = 0.01  # seconds; upper end of the first wait before another node is asked
QUICK_CAP: Final = 0.1
RETRY_RESERVE: Final = 100.0  # a node that dies fails all calls under way to it at once
LEAST_HEDGE: Final = 0.005  # seconds; below this the loop's own delays would look like a slow node
SHORT_WAIT: Final = 0.01  # seconds that a better node without room is waited for
LOST_HEDGES: Final = 3  # this many without an answer in between, and ...
SILENT: Final = 1.0  # ... for this many seconds: the node counts as not answering


@dataclass(frozen=True)
class CallSettings:
    """Settings `CLIENT_*`, in seconds. `retry_delay_s` is the base of the wait before the same node is
    tried again.
    """

    timeout_s: float = 5.0
    max_retries: int = 3
    retry_delay_s: float = 1.0
    hedge: bool = True


@dataclass(frozen=True, slots=True)
class CallResult:
    """A result with the node that gave it, the number of attempts (hedges included) and the seconds."""

    value: Any
    node: str
    attempts: int
    latency_s: float


class CallOptions(TypedDict, total=False):
    """Options of a call; see `BalancedCaller.ask`."""

    timeout: float | None
    idempotent: bool | None
    idempotency_id: str
    to: str | None
    hedge: bool | None


class _Service:
    """State shared by the calls of one service."""

    def __init__(
        self,
        settings: CallSettings,
        rng: random.Random,
        on_rate: Callable[[str, FlowEvent], None],
    ) -> None:
        budget = RetryBudget(ratio=0.2, reserve=RETRY_RESERVE, per_second=1.0)
        retries = settings.max_retries
        self.elsewhere = RetryPolicy(
            RetrySettings(retries, base_s=QUICK_BASE, cap_s=QUICK_CAP), rng=rng, budget=budget
        )
        base = max(QUICK_BASE, settings.retry_delay_s)
        self.same = RetryPolicy(
            RetrySettings(retries, base_s=base, cap_s=8 * base), rng=rng, budget=budget
        )
        self.hedge = HedgePolicy()
        self.figures = CallFigures()
        self.lost_hedges: dict[str, list[float]] = {}  # when, by node, since its last answer
        self.queue = ConcurrencyQueue(rng, on_rate)


@dataclass(frozen=True, slots=True)
class _Attempt:
    node: str
    sent: float
    governor: Governor
    tag: int  # the governor's


@dataclass(slots=True)
class _Job:
    """One call under way."""

    service: _Service
    router: AdaptiveRouter[str]
    request: ServiceCall
    candidates: Callable[[], Sequence[str]]
    started: float
    deadline: float
    idempotent: bool
    hedged: bool
    to: str | None
    attempts: int = 0

    def others(self, nodes: Sequence[str]) -> bool:
        """Return True if there is a candidate that is not among `nodes`."""
        return any(node not in nodes for node in self.candidates())


class BalancedCaller:
    """Caller of services. `providers(service)` returns the nodes that offer it."""

    def __init__(
        self,
        node_id: str,
        rpc: Rpc,
        server: ServiceServer,
        balancers: Balancers,
        providers: Callable[[str], Sequence[str]],
        *,
        settings: CallSettings | None = None,
        rng: random.Random,
    ) -> None:
        self.settings = settings or CallSettings()
        self._attempts = ServiceAttempt(node_id, rpc, server)
        self._balancers = balancers
        self._providers = providers
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._services: BoundedMap[str, _Service] = BoundedMap(MAX_ROUTERS)
        self._idempotent: set[str] = set()

    def mark_idempotent(self, service: str) -> None:
        """Mark calls of a service as safe to repeat, unless a call says otherwise."""
        self._idempotent.add(service)

    def figures(self) -> dict[str, CallFigures]:
        """Return the figures by service."""
        return {name: service.figures for name, service in sorted(self._services.items())}

    async def call(self, service: str, payload: Any = None, **options: Unpack[CallOptions]) -> Any:
        """Return the result of the service's handler; arguments as `ask`."""
        return (await self.ask(service, payload, **options)).value

    async def ask(
        self,
        service: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        idempotency_id: str = "",
        to: str | None = None,
        hedge: bool | None = None,
    ) -> CallResult:
        """Call a service and return the result with its origin. Cancelling this cancels the work.

        Args:
            payload: anything that msgpack holds.
            timeout: seconds for everything, waits and further attempts included; at most 300.
            idempotent: safe to be executed twice; by default what is known of the service.
            idempotency_id: for the handler, which then sees to it that one id is executed once;
                makes the call idempotent.
            to: ask this node and no other.
            hedge: whether a second node may be asked beside a slow one; idempotent calls only.

        Raises:
            HandlerError: the handler refused, with its own code and message.
            CallError: no result (the other kinds of it; see `p2p.base.errors`).
            ValueError: the payload cannot be sent.
        """
        if to is None and not self._providers(service):
            raise NoProvider(service)
        try:
            request = ServiceCall(service, msgspec.Raw(pack(payload)), idempotency_id)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"the payload cannot be sent: {error}") from None
        timeout = min(self.settings.timeout_s if timeout is None else timeout, RPC_MAX_DEADLINE)
        if timeout <= 0.0:
            raise ValueError("the timeout is positive")
        if idempotent is None:
            idempotent = service in self._idempotent
        idempotent = idempotent or bool(idempotency_id)
        now = self._loop.time()
        job = _Job(
            service=self._service(service),
            router=self._balancers.router(service),
            request=request,
            candidates=(lambda: (to,)) if to is not None else (lambda: self._providers(service)),
            started=now,
            deadline=now + timeout,
            idempotent=idempotent,
            to=to,
            hedged=idempotent and to is None and (self.settings.hedge if hedge is None else hedge),
        )
        figures = job.service.figures
        try:
            result = await self._until_settled(job)
        except HandlerError:
            figures.ended("refused")
            raise
        except CallError as error:
            figures.ended(error.code)
            raise
        except asyncio.CancelledError:
            figures.ended("cancelled")
            raise
        figures.ended("ok")
        figures.took(result.latency_s)
        return result

    def _service(self, name: str) -> _Service:
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = _Service(
                self.settings, self._rng, lambda node, event: self._on_rate(name, node, event)
            )
        return service

    def _on_rate(self, service: str, node: str, event: FlowEvent) -> None:
        reason = f"{event.kind} to {event.window:.3g} at once: {event.reason}"
        detail: dict[str, object] = {"window": event.window, "change": event.kind}
        self._balancers.events.add(RoutingRecord(event.at, "rate", service, node, reason, detail))

    async def _until_settled(self, job: _Job) -> CallResult:
        job.service.elsewhere.on_request(job.started)  # one budget for both kinds of retries
        failed: list[str] = []
        while True:
            candidates = job.candidates()
            if not candidates:
                raise NoProvider(job.request.service)
            before = job.attempts
            try:
                pick = partial(self._pick, job, failed)
                node = await job.service.queue.wait_for_node(pick, job.deadline)
                if job.hedged and job.others([*failed, node]):
                    return await self._hedged(job, node, failed)
                return await self._once(job, self._begin(job, node), failed)
            except HandlerError:
                raise
            except CallError as error:
                delay = self._wait_after(job, error, failed, max(1, before + 1))
                if delay is None:
                    raise
            await asyncio.sleep(delay)

    def _wait_after(
        self, job: _Job, error: CallError, failed: list[str], attempts: int
    ) -> float | None:
        """Return the seconds until the next attempt; None if this was the last."""
        if error.executed and not job.idempotent:
            return None
        now = self._loop.time()
        if job.others(failed):
            return job.service.elsewhere.next_delay(now, attempts, job.deadline)
        after = error.retry_after_s if isinstance(error, ServiceBusy) else 0.0
        return job.service.same.next_delay(now, attempts, job.deadline, after)

    def _pick(self, job: _Job, failed: Sequence[str]) -> tuple[str | None, float]:
        """Return the node to call now; or None and the time of the next look."""
        now = self._loop.time()
        governor = job.service.queue.governor
        candidates = job.candidates()
        if job.to is not None:
            return job.to, now
        at = {node: governor(node).ready(now) for node in candidates}
        room = [node for node in candidates if at[node] < now + SHORT_WAIT]
        if failed and any(node not in failed for node in candidates):
            room = [node for node in room if node not in failed]
        if not room:
            return None, min(at.values(), default=now)
        best = job.router.pick(now, room, failed)
        return (best, now) if at[best] <= now else (None, at[best])

    # Attempts

    async def _hedged(self, job: _Job, first: str, failed: list[str]) -> CallResult:
        """Make an attempt at `first`, and a second one beside it if it takes long."""
        hedge = job.service.hedge
        hedge.on_request(self._loop.time())
        usual = hedge.delay()
        if usual is None:
            return await self._once(job, self._begin(job, first), failed)
        slow = self._loop.create_task(self._once(job, self._begin(job, first), failed))
        tasks = {slow}
        try:
            done, _ = await asyncio.wait(tasks, timeout=max(LEAST_HEDGE, usual))
            second = None if done else self._second(job, [*failed, first])
            if second is not None and hedge.take(self._loop.time()):
                job.service.figures.hedges += 1
                attempt = self._once(job, self._begin(job, second), failed)
                tasks.add(self._loop.create_task(attempt))
            result = await self._first_good(tasks)
            if not slow.done():
                self._lost_to_another(job, first)
            return result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _second(self, job: _Job, without: Sequence[str]) -> str | None:
        """Return a node for a hedge beside a slow one: healthy and with room now, or None."""
        now = self._loop.time()
        well = [
            node
            for node in job.candidates()
            if node not in without
            and job.router.breaker_state(now, node) is BreakerState.CLOSED
            and job.service.queue.governor(node).ready(now) <= now
        ]
        return job.router.pick(now, well) if well else None

    @staticmethod
    async def _first_good(tasks: set[asyncio.Task[CallResult]]) -> CallResult:
        """Return the first result or refusal; raise the last error if all fail."""
        waiting = set(tasks)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            error: BaseException | None = None
            for task in done:
                error = task.exception()
                if error is None or isinstance(error, HandlerError):
                    return task.result()
            if not waiting and error is not None:
                raise error

    def _lost_to_another(self, job: _Job, node: str) -> None:
        """Count a hedge lost by `node`. A cancelled attempt is no evidence for the router; a node that only
        ever loses has stopped answering.
        """
        if len(job.service.lost_hedges) > MAX_GOVERNORS:
            job.service.lost_hedges.clear()
        lost = job.service.lost_hedges.setdefault(node, [])
        if len(lost) < LOST_HEDGES:
            lost.append(self._loop.time())

    def _begin(self, job: _Job, node: str) -> _Attempt:
        """Count an attempt as sent. Before any await: the next call must see it when it chooses."""
        now = self._loop.time()
        job.attempts += 1
        job.service.figures.attempts += 1
        job.router.on_send(now, node)
        governor = job.service.queue.governor(node)
        return _Attempt(node, now, governor, governor.on_send(now))

    async def _once(self, job: _Job, attempt: _Attempt, failed: list[str]) -> CallResult:
        """Make one attempt. A node that fails is added to `failed`."""
        router = job.router
        node, sent, governor, tag = attempt.node, attempt.sent, attempt.governor, attempt.tag
        try:
            timeout = self._attempt_time(job, node, sent, failed)
            answer = await self._attempts.ask(
                node, job.request, timeout, sent, needs_link=job.idempotent
            )
        except asyncio.CancelledError:
            now = self._loop.time()
            governor.on_cancel(now, tag)
            lost = job.service.lost_hedges.get(node, ())
            if len(lost) >= LOST_HEDGES and now - lost[0] >= SILENT:
                router.on_result(now, node, now - sent, "timeout")
            else:
                router.on_cancel(now, node, sent)
            raise
        except CallError as error:
            now = self._loop.time()
            outcome = "timeout" if isinstance(error, CallTimeout) else "error"
            router.on_result(now, node, now - sent, outcome)  # type: ignore[arg-type]
            if isinstance(error, ServiceBusy):
                governor.on_result(now, tag, "busy")
            elif isinstance(error, CallTimeout):
                governor.on_result(now, tag, "timeout")
            else:  # says nothing about too much work
                governor.on_cancel(now, tag)
            failed.append(node)
            raise
        finally:
            job.service.queue.freed()
        now = self._loop.time()
        router.on_result(now, node, now - sent, "ok", load_tuple(answer.load))
        governor.on_result(now, tag, "ok", load_report(answer.load))
        job.service.lost_hedges.pop(node, None)
        reply: ServiceReply = answer.value
        if reply.error:
            raise HandlerError(reply.error, reply.message)
        job.service.hedge.on_success(now - sent)
        try:
            value = msgspec.msgpack.decode(reply.result)
        except (msgspec.DecodeError, RecursionError) as error:
            raise CallError("bad_response", f"node {node}: {error}") from None
        return CallResult(value, node, job.attempts, now - job.started)

    def _attempt_time(self, job: _Job, node: str, now: float, failed: list[str]) -> float:
        """Return half of the time left if a further attempt could use the rest; never less than recent
        answers took.
        """
        left = max(0.001, job.deadline - now)
        retries = self.settings.max_retries
        if not job.idempotent or job.attempts > retries or not job.others([*failed, node]):
            return left
        return min(left, max(left / 2, 2.0 * (job.service.hedge.delay() or 0.0)))
