"""Views of the service mesh and the adaptive router, and service calls for the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from config import Settings
from node.service.quantiles import quantile_ms
from node.views.node_views import (
    CallRequest,
    CallsView,
    CallView,
    HintView,
    RouterEventView,
    RouterView,
    RouteView,
    ServiceView,
    ServingView,
)
from node.views.views import ServiceError
from p2p.adaptive import BreakerSettings, Explained, HintSettings, PeerMetrics, Weights
from p2p.base.errors import (
    CallError,
    CallTimeout,
    HandlerError,
    NoProvider,
    ServiceBusy,
    ServiceUnreachable,
)
from p2p.base.limits import RPC_MAX_DEADLINE
from p2p.flow.governor import Governor
from p2p.services.balanced_caller import CallResult
from p2p.services.balancers import BalancerSettings, RoutingRecord
from p2p.services.call_figures import LATENCY_BOUNDS, CallFigures
from p2p.services.service_mesh import MeshSettings, ServiceMesh
from p2p.services.service_server import ServiceFigures
from p2p.services.service_transport import CallSettings

Time = Callable[[float], str]
"""The wall clock's text for a time of the loop."""


def mesh_settings(settings: Settings) -> MeshSettings:
    """The part of the settings that is about services."""
    return MeshSettings(
        network=settings.p2p_network,
        announce_interval_s=settings.worker_announce_interval_s,
        calls=CallSettings(
            timeout_s=settings.client_request_timeout_s,
            max_retries=settings.client_max_retries,
            retry_delay_s=settings.client_retry_delay_s,
        ),
        balancers=BalancerSettings(
            policy=settings.router_policy,
            weights=Weights(
                latency=settings.metrics_latency_weight,
                error=settings.metrics_error_weight,
                timeout=settings.metrics_timeout_weight,
                freshness=settings.metrics_freshness_weight,
            ),
            breaker=BreakerSettings(
                failure_threshold=settings.circuit_breaker_failure_threshold,
                cooldown_s=settings.circuit_breaker_cooldown_s,
                half_open_max=settings.circuit_breaker_half_open_max_requests,
            ),
            hints=HintSettings(
                ttl_s=settings.gossip_hint_ttl_s,
                publish_interval_s=settings.gossip_publish_interval_s,
                decay=settings.gossip_decay_factor,
            ),
        ),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _serving(figures: ServiceFigures) -> ServingView:
    return ServingView(
        workers=figures.workers,
        serving=figures.serving,
        waiting=figures.waiting,
        served=figures.served,
        busy=figures.busy,
        expired=figures.expired,
        service_ms=_ms(figures.service_s),
        faults=figures.faults,
    )


def _calls(figures: CallFigures) -> CallsView:
    answered = figures.outcomes.get("ok", 0)
    return CallsView(
        attempts=figures.attempts,
        hedges=figures.hedges,
        outcomes=dict(sorted(figures.outcomes.items())),
        mean_ms=_ms(figures.seconds / answered) if answered else None,
        p50_ms=quantile_ms(LATENCY_BOUNDS, figures.bins, 0.5),
        p95_ms=quantile_ms(LATENCY_BOUNDS, figures.bins, 0.95),
        p99_ms=quantile_ms(LATENCY_BOUNDS, figures.bins, 0.99),
    )


def service_views(mesh: ServiceMesh) -> list[ServiceView]:
    """All offered services."""
    served = {figures.service: _serving(figures) for figures in mesh.server.figures()}
    called = mesh.caller.figures()
    return [
        ServiceView(
            name=name,
            nodes=list(nodes),
            serving=served.get(name),
            calls=_calls(called[name]) if name in called else None,
        )
        for name, nodes in mesh.directory.services().items()
    ]


def _route(
    service: str,
    row: Explained,
    metrics: PeerMetrics | None,
    governor: Governor | None,
    now: float,
) -> RouteView:
    seen = metrics.last_seen_ts if metrics else None
    return RouteView(
        service=service,
        node=str(row.peer),
        cost=row.cost,
        state=row.state.value,
        why=row.why,
        parts=row.parts,
        hint_factor=row.hint_factor,
        slow_start=row.slow_start,
        total_calls=metrics.total_calls if metrics else 0,
        success_count=metrics.success_count if metrics else 0,
        error_count=metrics.error_count if metrics else 0,
        timeout_count=metrics.timeout_count if metrics else 0,
        in_flight=metrics.in_flight if metrics else 0,
        avg_latency_ms=(
            round(metrics.avg_latency_ms, 3)
            if metrics and metrics.avg_latency_ms is not None
            else None
        ),
        window=None if governor is None else round(governor.window, 2),
        rate=None if governor is None else round(governor.rate(), 2),
        last_seen_s=None if seen is None else round(max(0.0, now - seen), 3),
    )


def event_view(noted: RoutingRecord, time: Time) -> RouterEventView:
    """Shape of a decision or observation."""
    return RouterEventView(
        time=time(noted.at),
        kind=noted.kind,
        service=noted.service,
        node=noted.node,
        reason=noted.reason,
        detail=dict(noted.detail),
    )


def route_views(mesh: ServiceMesh, now: float) -> list[RouteView]:
    """The candidates of every service that this node has called, the next to be asked first."""
    return [
        _route(
            service,
            row,
            router.metrics(str(row.peer)),
            mesh.caller.governor(service, str(row.peer)),
            now,
        )
        for service, router in mesh.balancers.routers().items()
        for row in router.explain(now, mesh.directory.providers(service))
    ]


def router_view(
    mesh: ServiceMesh, now: float, time: Time, *, events: int, kind: str | None
) -> RouterView:
    """State of the adaptive router, with its latest events."""
    return RouterView(
        policy=mesh.balancers.settings.policy,
        routes=route_views(mesh, now),
        hints=[
            HintView(node=str(peer), origin=origin, signal=signal.value, weight=round(weight, 3))
            for peer, origin, signal, weight in mesh.balancers.book.listed(now)
        ],
        events=[
            event_view(noted, time) for noted in mesh.balancers.events.latest(events, kind=kind)
        ],
    )


Ask = Callable[..., Awaitable[CallResult]]
"""As `node.daemon.node.Node.ask`."""


async def call_service(ask: Ask, service: str, request: CallRequest, to: str | None) -> CallView:
    """A call on behalf of the API. `to`: full id of the node to call.

    Raises:
        ServiceError: there is no result.
    """
    timeout = None
    if request.timeout_ms is not None:
        if not 1 <= request.timeout_ms <= RPC_MAX_DEADLINE * 1000:
            most = round(RPC_MAX_DEADLINE * 1000)
            raise ServiceError(400, "bad_call", f"timeout_ms is from 1 to {most}")
        timeout = request.timeout_ms / 1000
    try:
        result = await ask(
            service,
            request.payload,
            timeout=timeout,
            idempotent=request.idempotent,
            idempotency_id=request.idempotency_id,
            to=to,
        )
    except CallError as error:
        raise _problem(service, error) from error
    except ValueError as error:
        raise ServiceError(422, "bad_call", str(error)) from error
    return CallView(
        service=service,
        node=result.node,
        attempts=result.attempts,
        latency_ms=_ms(result.latency_s),
        result=_plain(result.value),
    )


def _plain(value: Any) -> Any:
    """Convert values of msgpack into values that JSON can hold."""
    return msgspec.to_builtins(value, str_keys=True)


def _problem(service: str, error: CallError) -> ServiceError:
    text = f"{service}: {error.message}"
    if isinstance(error, HandlerError):
        return ServiceError(422, "service_refused", text, service_code=error.code)
    if isinstance(error, NoProvider):
        return ServiceError(404, "no_provider", error.message)
    if isinstance(error, ServiceBusy):
        after = round(error.retry_after_s * 1000)
        return ServiceError(503, "service_busy", text, retry_after_ms=after)
    if isinstance(error, CallTimeout):
        return ServiceError(504, "call_timeout", text)
    if isinstance(error, ServiceUnreachable):
        return ServiceError(502, "unreachable", text)
    return ServiceError(502, "call_lost", text)
