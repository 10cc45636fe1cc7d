"""Spans of API requests, with the names of OpenTelemetry's conventions for HTTP servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from node.annexes.tracing.trace_context import context_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RequestSpans:
    """Middleware that opens a span for each request and continues the trace of its caller.

    A WebSocket connection is no request: the orders on it begin traces of their own.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request inside a span."""
        if "Upgrade" in request.headers:
            return await handler(request)
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        with self._tracer.start_as_current_span(
            f"{request.method} {route}".rstrip(),
            context_of(request.headers.get("traceparent", "")),
            SpanKind.SERVER,
            {
                "http.request.method": request.method,
                "http.route": route,
                "url.scheme": request.scheme,
            },
            record_exception=False,
        ) as span:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            return response
