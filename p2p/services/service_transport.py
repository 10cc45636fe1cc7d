"""Transport of service calls: choice of a node with room, one attempt at a node, its outcome for governor and router.

Every attempt passes the governor of its node and service (`p2p.flow.governor`), which limits the attempts under way to those
that the replies show no queue for. When no node has room, the call waits in the concurrency queue, in order of arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from p2p.adaptive import AdaptiveRouter, BalancedCall, CallBalance, RetrySettings
from p2p.base.errors import (
    CallError,
    CallLost,
    CallTimeout,
    DeliveryError,
    HandlerError,
    LinkClosed,
    NoProvider,
    RpcError,
    RpcTimeout,
    ServiceBusy,
    ServiceUnreachable,
)
from p2p.flow.caller import Attempt, Failure, Outcome
from p2p.flow.caller import Load as LoadTuple
from p2p.flow.governor import FlowEvent, Governor, GovernorSettings
from p2p.flow.load import LoadReport
from p2p.rpc.rpc import Answer, Rpc
from p2p.services.call_figures import CallFigures
from p2p.services.call_tracing import CallTracer
from p2p.services.service_server import METHOD, ServiceCall, ServiceReply, ServiceServer
from p2p.wire.messages import Load

QUICK_BASE: Final = 0.01  # seconds; upper end of the first wait before another node is called
QUICK_CAP: Final = 0.1
SHORT_WAIT: Final = 0.01  # seconds that a better node without room is waited for
LOST_HEDGES: Final = 3  # this many without an answer in between, and ...
SILENT: Final = 1.0  # ... for this many seconds: the node counts as not answering
MAX_LOAD: Final = 1e6  # statements of a node about itself are cut to this
MAX_WAITING: Final = 2000  # queued calls to one service
LOOK_AGAIN: Final = 0.25  # seconds; while they wait, others may have begun to offer the service
GRAIN: Final = 0.001  # seconds; timers are no finer
MAX_GOVERNORS: Final = 256  # nodes of one service
# Generous at the start: the router spreads the load already, this is for when there is too much.
GOVERNOR: Final = GovernorSettings(
    first_window=16.0,
    first_round_trip_s=0.01,
    start_window=16.0,
    start_rate=1600.0,
    failures_in_a_row=1_000_000,  # excluding a node is the task of the router's breaker
)


Pick = Callable[[], tuple[str | None, float]]
"""The node to ask now; or none, and when to look again, in the loop's time."""


class CallSettings(msgspec.Struct, frozen=True):
    """Settings `CLIENT_*`, in seconds. `retry_delay_s` is the base of the wait before the same node is
    tried again.
    """

    timeout_s: float = 5.0
    max_retries: int = 3
    retry_delay_s: float = 1.0
    hedge: bool = True


class ConcurrencyQueue:
    """Queue of one service. `on_rate` is called when the governor of a node changes its limit."""

    def __init__(self, rng: random.Random, on_rate: Callable[[str, FlowEvent], None]) -> None:
        self._rng = rng
        self._on_rate = on_rate
        self._governors: dict[str, Governor] = {}
        self._lock = asyncio.Lock()  # fair
        self.waiting = 0
        self._freed = asyncio.Event()

    def governor(self, node: str) -> Governor:
        """Return the limiter of calls under way to `node`."""
        governor = self._governors.get(node)
        if governor is None:
            if len(self._governors) >= MAX_GOVERNORS:
                idle = [n for n, g in self._governors.items() if not g.in_flight]
                for old in idle[: MAX_GOVERNORS // 16]:
                    del self._governors[old]
            governor = Governor(
                GOVERNOR, rng=self._rng, on_event=lambda event: self._on_rate(node, event)
            )
            self._governors[node] = governor
        return governor

    def known_governor(self, node: str) -> Governor | None:
        """Return the limiter of a node that was called before."""
        return self._governors.get(node)

    def freed(self) -> None:
        """Wake the first waiter: an attempt ended."""
        self._freed.set()

    async def wait_for_node(self, pick: Pick, deadline: float) -> str:
        """Return the node that `pick` chooses as soon as one has room. Send to it before any other await.

        Raises:
            ServiceBusy: too many calls wait already, or there is no room by the `deadline`.
        """
        if self.waiting >= MAX_WAITING:
            raise ServiceBusy(f"{MAX_WAITING} calls to the service are queued already", 1.0)
        loop = asyncio.get_running_loop()
        self.waiting += 1
        try:
            async with asyncio.timeout_at(deadline), self._lock:
                while True:
                    node, at = pick()
                    if node is not None:
                        return node
                    self._freed.clear()
                    now = loop.time()
                    at = min(max(at, now + GRAIN), now + LOOK_AGAIN)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(at):
                            await self._freed.wait()
        except TimeoutError:
            raise ServiceBusy("no node could take the call in time", 0.0) from None
        finally:
            self.waiting -= 1


class CalledService:
    """State shared by the calls of one service. `providers` returns the nodes that offer it."""

    def __init__(
        self,
        settings: CallSettings,
        router: AdaptiveRouter[str],
        rng: random.Random,
        providers: Callable[[], Sequence[str]],
        on_rate: Callable[[str, FlowEvent], None],
    ) -> None:
        retries, base = settings.max_retries, max(QUICK_BASE, settings.retry_delay_s)
        self.balance = CallBalance(
            router,
            elsewhere=RetrySettings(retries, base_s=QUICK_BASE, cap_s=QUICK_CAP),
            same=RetrySettings(retries, base_s=base, cap_s=8 * base),
            rng=rng,
        )
        self.providers = providers
        self.max_retries = retries
        self.figures = CallFigures()
        self.lost_hedges: dict[str, list[float]] = {}  # when, by node, since its last answer
        self.queue = ConcurrencyQueue(rng, on_rate)


class CallOfService(BalancedCall[str]):
    """One call under way. `to`: the only node that may answer it."""

    __slots__ = ("request", "service", "to")

    def __init__(
        self,
        service: CalledService,
        request: ServiceCall,
        deadline: float,
        *,
        to: str | None,
        idempotent: bool,
    ) -> None:
        candidates = service.providers if to is None else (lambda: (to,))
        super().__init__(service.balance, candidates, deadline, idempotent=idempotent)
        self.service = service
        self.request = request
        self.to = to


class ServiceTransport:
    """`p2p.flow.caller.CallTransport` of service calls. `on_send` is called with service and node of each attempt."""

    answers: tuple[type[Exception], ...] = (HandlerError,)

    def __init__(self, attempts: ServiceAttempt, on_send: Callable[[str, str], None]) -> None:
        self._attempts = attempts
        self._on_send = on_send
        self._loop = asyncio.get_running_loop()

    def choose_now(self, call: CallOfService) -> str | None:
        if not call.candidates():
            raise NoProvider(call.request.service)
        return None if call.service.queue.waiting else self._pick(call)[0]

    async def choose(self, call: CallOfService) -> str:
        return await call.service.queue.wait_for_node(partial(self._pick, call), call.deadline)

    def _pick(self, call: CallOfService) -> tuple[str | None, float]:
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

    def has_room(self, call: CallOfService, peer: str, now: float) -> bool:
        return call.service.queue.governor(peer).ready(now) <= now

    def begin(self, call: CallOfService, attempt: Attempt[str]) -> None:
        self._on_send(call.request.service, attempt.peer)
        figures = call.service.figures
        figures.attempts += 1
        figures.hedges += attempt.beside
        governor = call.service.queue.governor(attempt.peer)
        attempt.mark = governor, governor.on_send(attempt.sent_at)

    async def attempt(self, call: CallOfService, attempt: Attempt[str]) -> tuple[Any, str]:
        """Make one attempt; returns the result of the handler and its node."""
        node, sent = attempt.peer, attempt.sent_at
        timeout = self._attempt_time(call, node, sent)
        answer = await self._attempts.ask(
            node, call.request, timeout, sent, needs_link=call.idempotent
        )
        attempt.mark = (*attempt.mark, answer.load)
        reply: ServiceReply = answer.value
        if reply.error:
            raise HandlerError(reply.error, reply.message)
        try:
            return msgspec.msgpack.decode(reply.result), node
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise CallError("bad_response", f"node {node}: {error}") from None

    def _attempt_time(self, call: CallOfService, node: str, now: float) -> float:
        """Return half of the time left if a further attempt could use the rest; never less than recent
        answers took.
        """
        left = max(0.001, call.deadline - now)
        if not call.idempotent or call.attempts > call.service.max_retries or not call.others(node):
            return left
        return min(left, max(left / 2, 2.0 * (call.balance.hedge.delay() or 0.0)))

    def ended(
        self,
        call: CallOfService,
        attempt: Attempt[str],
        now: float,
        error: BaseException | None,
    ) -> Outcome:
        service, node = call.service, attempt.peer
        governor, tag, *loads = attempt.mark
        service.queue.freed()
        if loads:  # the node has replied
            load = loads[0]
            governor.on_result(now, tag, "ok", load_report(load))
            service.lost_hedges.pop(node, None)
            return "ok", load_tuple(load)
        if not isinstance(error, CallError):  # cancelled
            governor.on_cancel(now, tag)
            if attempt.lost and not attempt.beside:
                self._lost_to_another(service, node, now)
            lost = service.lost_hedges.get(node, ())
            silent = len(lost) >= LOST_HEDGES and now - lost[0] >= SILENT
            return ("timeout" if silent else "cancel"), None
        if isinstance(error, ServiceBusy):
            governor.on_result(now, tag, "busy")
        elif isinstance(error, CallTimeout):
            governor.on_result(now, tag, "timeout")
            return "timeout", None
        else:  # is no sign of overload
            governor.on_cancel(now, tag)
        return "error", None

    def _lost_to_another(self, service: CalledService, node: str, now: float) -> None:
        """Count a hedge lost by `node`. A cancelled attempt is no evidence for the router; a node that only
        ever loses has stopped answering.
        """
        if len(service.lost_hedges) > MAX_GOVERNORS:
            service.lost_hedges.clear()
        lost = service.lost_hedges.setdefault(node, [])
        if len(lost) < LOST_HEDGES:
            lost.append(now)

    def failure(self, call: CallOfService, error: Exception) -> Failure | None:
        if not isinstance(error, CallError) or isinstance(error, NoProvider):
            return None
        wait = error.retry_after_s if isinstance(error, ServiceBusy) else 0.0
        return Failure(executed=error.executed, retry_after_s=wait)

    def closed(self) -> Exception:
        return CallLost("the caller was closed")


class ServiceAttempt:
    """Sender of attempts. `node_id` is the own one."""

    def __init__(self, node_id: str, rpc: Rpc, server: ServiceServer) -> None:
        self._node_id = node_id
        self._rpc = rpc
        self._server = server
        self.tracer: CallTracer | None = None

    async def ask(
        self, node: str, request: ServiceCall, timeout: float, now: float, *, needs_link: bool
    ) -> Answer:
        """Send a request to `node` and return its reply, a `ServiceReply`. `timeout`: seconds from `now`,
        the loop's time. `needs_link`: see `p2p.rpc.requests.RpcCore.request`.

        Raises:
            CallError: there is none.
        """
        if self.tracer is None:
            return await self._ask(node, request, timeout, now, needs_link=needs_link)
        with self.tracer.attempt(request.service, node) as traceparent:
            traced = msgspec.structs.replace(request, traceparent=traceparent)
            return await self._ask(node, traced, timeout, now, needs_link=needs_link)

    async def _ask(
        self, node: str, request: ServiceCall, timeout: float, now: float, *, needs_link: bool
    ) -> Answer:
        try:
            if node == self._node_id:
                async with asyncio.timeout(timeout):
                    return await self._server.execute(request, node, now + timeout)
            return await self._rpc.ask(
                node,
                METHOD,
                request,
                timeout=timeout,
                result_type=ServiceReply,
                needs_link=needs_link,
            )
        except (RpcTimeout, TimeoutError):
            raise CallTimeout(
                f"node {node} did not answer {request.service} in {timeout:.3g} s"
            ) from None
        except DeliveryError as error:
            raise ServiceUnreachable(str(error)) from None
        except LinkClosed as error:
            raise CallLost(str(error)) from None
        except RpcError as error:
            raise _call_error(node, error) from None


def _call_error(node: str, error: RpcError) -> CallError:
    text = f"node {node}: {error.message or error.code}"
    if error.code == "busy":
        return ServiceBusy(text, error.retry_after_s)
    if error.code == "expired":
        return CallTimeout(text)
    if error.code in ("unknown_service", "unknown_method"):
        return ServiceUnreachable(text)
    if error.code in ("internal", "closed"):
        return CallLost(text)
    return CallError(error.code, text)


def load_tuple(load: Load | None) -> LoadTuple | None:
    """Return the load in a reply, None if its figures cannot be true."""
    if load is None:
        return None
    values = (load.in_flight, load.latency, load.service)
    if not all(0.0 <= value <= MAX_LOAD for value in values):  # not for nan either
        return None
    return values


def load_report(load: Load | None) -> LoadReport | None:
    if load is None or not (0.0 <= load.waited <= MAX_LOAD and 0.0 <= load.served <= MAX_LOAD):
        return None
    return LoadReport(load.waited, load.served, round(min(max(load.in_flight, 0.0), MAX_LOAD)))
