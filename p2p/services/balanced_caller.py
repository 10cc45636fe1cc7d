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
from functools import partial
from typing import Any, Final, TypedDict, Unpack

import msgspec

from p2p.adaptive import AdaptiveRouter, BalancedCall, CallBalance, RetrySettings
from p2p.base.errors import CallError, CallTimeout, HandlerError, NoProvider, ServiceBusy
from p2p.base.limits import RPC_MAX_DEADLINE
from p2p.flow.attempt_race import AttemptRace
from p2p.flow.governor import FlowEvent, Governor
from p2p.ground.bounded_map import BoundedMap
from p2p.rpc.rpc import Rpc
from p2p.services.attempt import ServiceAttempt, load_report, load_tuple
from p2p.services.balancers import MAX_ROUTERS, Balancers, RoutingRecord
from p2p.services.call_figures import CallFigures
from p2p.services.call_tracing import CallTracer
from p2p.services.concurrency_queue import MAX_GOVERNORS, ConcurrencyQueue
from p2p.services.service_server import ServiceCall, ServiceReply, ServiceServer
from p2p.wire.messages import pack

QUICK_BASE: Final = 0.01  # seconds; upper end of the first wait before another node is called
QUICK_CAP: Final = 0.1
SHORT_WAIT: Final = 0.01  # seconds that a better node without room is waited for
LOST_HEDGES: Final = 3  # this many without an answer in between, and ...
SILENT: Final = 1.0  # ... for this many seconds: the node counts as not answering


class CallSettings(msgspec.Struct, frozen=True):
    """Settings `CLIENT_*`, in seconds. `retry_delay_s` is the base of the wait before the same node is
    tried again.
    """

    timeout_s: float = 5.0
    max_retries: int = 3
    retry_delay_s: float = 1.0
    hedge: bool = True


class CallResult(msgspec.Struct, frozen=True):
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
        router: AdaptiveRouter[str],
        rng: random.Random,
        on_rate: Callable[[str, FlowEvent], None],
    ) -> None:
        retries, base = settings.max_retries, max(QUICK_BASE, settings.retry_delay_s)
        self.balance = CallBalance(
            router,
            elsewhere=RetrySettings(retries, base_s=QUICK_BASE, cap_s=QUICK_CAP),
            same=RetrySettings(retries, base_s=base, cap_s=8 * base),
            rng=rng,
        )
        self.figures = CallFigures()
        self.lost_hedges: dict[str, list[float]] = {}  # when, by node, since its last answer
        self.queue = ConcurrencyQueue(rng, on_rate)


class _Attempt(msgspec.Struct, frozen=True):
    node: str
    sent: float
    governor: Governor
    tag: int  # the governor's


class _ServiceCall(BalancedCall[str]):
    """One call under way. `to`: the only node that may answer it."""

    __slots__ = ("hedged", "request", "service", "started", "to")

    def __init__(
        self,
        service: _Service,
        request: ServiceCall,
        candidates: Callable[[], Sequence[str]],
        started: float,
        deadline: float,
        *,
        idempotent: bool,
        hedged: bool,
        to: str | None,
    ) -> None:
        super().__init__(service.balance, candidates, deadline, idempotent=idempotent)
        self.service = service
        self.request = request
        self.started = started
        self.hedged = hedged
        self.to = to


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
        self._tracer: CallTracer | None = None
        self._balancers = balancers
        self._providers = providers
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._services: BoundedMap[str, _Service] = BoundedMap(MAX_ROUTERS)
        self._idempotent: set[str] = set()

    def trace(self, tracer: CallTracer) -> None:
        """Open spans for calls and attempts from now on."""
        self._tracer = self._attempts.tracer = tracer

    def mark_idempotent(self, service: str) -> None:
        """Mark calls of a service as safe to repeat, unless a call says otherwise."""
        self._idempotent.add(service)

    def figures(self) -> dict[str, CallFigures]:
        """Return the figures by service."""
        return {name: service.figures for name, service in sorted(self._services.items())}

    def governor(self, service: str, node: str) -> Governor | None:
        """Return the limiter of calls to a service at a node; None before the first call."""
        known = self._services.get(service)
        return None if known is None else known.queue.known_governor(node)

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
        call = _ServiceCall(
            service=self._service(service),
            request=request,
            candidates=(lambda: (to,)) if to is not None else (lambda: self._providers(service)),
            started=now,
            deadline=now + timeout,
            idempotent=idempotent,
            to=to,
            hedged=idempotent and to is None and (self.settings.hedge if hedge is None else hedge),
        )
        figures = call.service.figures
        try:
            result = await self._traced(call)
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
        router = self._balancers.router(name)  # marked as used
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = _Service(
                self.settings,
                router,
                self._rng,
                lambda node, event: self._on_rate(name, node, event),
            )
        service.balance.router = router
        return service

    def _on_rate(self, service: str, node: str, event: FlowEvent) -> None:
        reason = f"{event.kind} to {event.window:.3g} at once: {event.reason}"
        detail: dict[str, object] = {"window": event.window, "change": event.kind}
        self._balancers.events.add(RoutingRecord(event.at, "rate", service, node, reason, detail))

    async def _traced(self, call: _ServiceCall) -> CallResult:
        if self._tracer is None:
            return await self._until_settled(call)
        with self._tracer.call(call.request.service):
            return await self._until_settled(call)

    async def _until_settled(self, call: _ServiceCall) -> CallResult:
        service = call.service
        service.balance.on_call(call.started)
        while True:
            if not call.candidates():
                raise NoProvider(call.request.service)
            try:
                node = await service.queue.wait_for_node(partial(self._pick, call), call.deadline)
                if call.hedged and call.others(node):
                    return await self._hedged(call, node)
                return await self._once(call, self._begin(call, node))
            except HandlerError:
                raise
            except CallError as error:
                delay = call.next_delay(
                    self._loop.time(),
                    executed=error.executed,
                    retry_after_s=error.retry_after_s if isinstance(error, ServiceBusy) else 0.0,
                )
                if delay is None:
                    raise
            await asyncio.sleep(delay)

    def _pick(self, call: _ServiceCall) -> tuple[str | None, float]:
        """Return the node to call now; or None and the time of the next look."""
        now = self._loop.time()
        if call.to is not None:
            return call.to, now
        governor = call.service.queue.governor
        at = {node: governor(node).ready(now) for node in call.candidates()}
        room = [node for node in at if at[node] < now + SHORT_WAIT]
        if call.failed and call.others():
            room = [node for node in room if node not in call.failed]
        if not room:
            return None, min(at.values(), default=now)
        best = call.pick(now, room)
        return (best, now) if at[best] <= now else (None, at[best])

    # Attempts

    async def _hedged(self, call: _ServiceCall, first: str) -> CallResult:
        """Make an attempt at `first`, and a second one beside it if it takes long. The later of the two is
        cancelled, so that its node stops useless work.
        """
        loop, balance = self._loop, call.balance
        delay = balance.hedge_delay(loop.time())
        if delay is None:
            return await self._once(call, self._begin(call, first))
        race: AttemptRace[CallResult] = AttemptRace(
            loop.create_task, decides=lambda error: isinstance(error, HandlerError)
        )
        slow = race.start(self._once(call, self._begin(call, first)))
        timer = loop.call_later(delay, self._beside, race, call, first)
        try:
            result = await race.result()
            if not slow.done():
                self._lost_to_another(call, first)
            return result
        finally:
            timer.cancel()
            race.cancel()
            await asyncio.gather(*race.tasks, return_exceptions=True)

    def _beside(self, race: AttemptRace[CallResult], call: _ServiceCall, first: str) -> None:
        """Add an attempt at a healthy node that has room, if the budget of hedges has one."""
        now = self._loop.time()
        governor = call.service.queue.governor
        if race.decided or race.tasks[0].done():
            return
        second = call.pick_second(now, first, lambda node: governor(node).ready(now) <= now)
        if second is not None and call.balance.hedge.take(now):
            call.service.figures.hedges += 1
            race.start(self._once(call, self._begin(call, second)))

    def _lost_to_another(self, call: _ServiceCall, node: str) -> None:
        """Count a hedge lost by `node`. A cancelled attempt is no evidence for the router; a node that only
        ever loses has stopped answering.
        """
        if len(call.service.lost_hedges) > MAX_GOVERNORS:
            call.service.lost_hedges.clear()
        lost = call.service.lost_hedges.setdefault(node, [])
        if len(lost) < LOST_HEDGES:
            lost.append(self._loop.time())

    def _begin(self, call: _ServiceCall, node: str) -> _Attempt:
        """Count an attempt as sent. Before any await: the next call must see it when it chooses."""
        now = self._loop.time()
        call.begin(now, node)
        self._balancers.on_send(call.request.service, node)
        call.service.figures.attempts += 1
        governor = call.service.queue.governor(node)
        return _Attempt(node, now, governor, governor.on_send(now))

    async def _once(self, call: _ServiceCall, attempt: _Attempt) -> CallResult:
        """Make one attempt. A node that fails is added to the call's `failed`."""
        router = call.balance.router
        node, sent, governor, tag = attempt.node, attempt.sent, attempt.governor, attempt.tag
        try:
            timeout = self._attempt_time(call, node, sent)
            answer = await self._attempts.ask(
                node, call.request, timeout, sent, needs_link=call.idempotent
            )
        except asyncio.CancelledError:
            now = self._loop.time()
            governor.on_cancel(now, tag)
            lost = call.service.lost_hedges.get(node, ())
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
            else:  # is no sign of overload
                governor.on_cancel(now, tag)
            call.failed.append(node)
            raise
        finally:
            call.service.queue.freed()
        now = self._loop.time()
        router.on_result(now, node, now - sent, "ok", load_tuple(answer.load))
        governor.on_result(now, tag, "ok", load_report(answer.load))
        call.service.lost_hedges.pop(node, None)
        reply: ServiceReply = answer.value
        if reply.error:
            raise HandlerError(reply.error, reply.message)
        call.balance.hedge.on_success(now - sent)
        try:
            value = msgspec.msgpack.decode(reply.result)
        except (msgspec.DecodeError, RecursionError) as error:
            raise CallError("bad_response", f"node {node}: {error}") from None
        return CallResult(value, node, call.attempts, now - call.started)

    def _attempt_time(self, call: _ServiceCall, node: str, now: float) -> float:
        """Return half of the time left if a further attempt could use the rest; never less than recent
        answers took.
        """
        left = max(0.001, call.deadline - now)
        retries = self.settings.max_retries
        if not call.idempotent or call.attempts > retries or not call.others(node):
            return left
        return min(left, max(left / 2, 2.0 * (call.balance.hedge.delay() or 0.0)))
