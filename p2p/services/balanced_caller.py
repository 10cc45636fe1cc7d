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
from typing import Any, TypedDict, Unpack

import msgspec

from p2p.base.errors import CallError, HandlerError, NoProvider
from p2p.base.limits import RPC_MAX_DEADLINE
from p2p.flow.caller import Caller, HedgeRules
from p2p.flow.governor import FlowEvent, Governor
from p2p.ground.bounded_map import BoundedMap
from p2p.services.balancers import MAX_ROUTERS, Balancers, RoutingRecord
from p2p.services.call_figures import CallFigures
from p2p.services.call_tracing import CallTracer
from p2p.services.service_server import ServiceCall
from p2p.services.service_transport import (
    CalledService,
    CallOfService,
    CallSettings,
    ServiceAttempt,
    ServiceTransport,
)
from p2p.wire.messages import pack


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


class BalancedCaller:
    """Caller of services. `providers(service)` returns the nodes that offer it."""

    def __init__(
        self,
        attempts: ServiceAttempt,
        balancers: Balancers,
        providers: Callable[[str], Sequence[str]],
        *,
        settings: CallSettings | None = None,
        rng: random.Random,
    ) -> None:
        self.settings = settings or CallSettings()
        self._attempts = attempts
        self._caller: Caller[str, CallOfService, tuple[Any, str]] = Caller(
            ServiceTransport(attempts, balancers.on_send), HedgeRules()
        )
        self._tracer: CallTracer | None = None
        self._balancers = balancers
        self._providers = providers
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._services: BoundedMap[str, CalledService] = BoundedMap(MAX_ROUTERS)
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
        call = CallOfService(
            self._service(service), request, now + timeout, to=to, idempotent=idempotent
        )
        call.hedged = (
            idempotent and to is None and (self.settings.hedge if hedge is None else hedge)
        )
        call.balance.on_call(now)
        figures = call.service.figures
        try:
            value, node = await self._settle(call)
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
        took = self._loop.time() - now
        figures.took(took)
        return CallResult(value, node, call.attempts, took)

    def _service(self, name: str) -> CalledService:
        router = self._balancers.router(name)  # marked as used
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = CalledService(
                self.settings,
                router,
                self._rng,
                partial(self._providers, name),
                partial(self._on_rate, name),
            )
        service.balance.router = router
        return service

    def _on_rate(self, service: str, node: str, event: FlowEvent) -> None:
        reason = f"{event.kind} to {event.window:.3g} at once: {event.reason}"
        detail: dict[str, object] = {"window": event.window, "change": event.kind}
        self._balancers.events.add(RoutingRecord(event.at, "rate", service, node, reason, detail))

    async def _settle(self, call: CallOfService) -> tuple[Any, str]:
        if self._tracer is None:
            return await self._caller.settle(call)
        with self._tracer.call(call.request.service):
            return await self._caller.settle(call)
