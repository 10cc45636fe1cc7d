"""Tracing of a running node: spans of calls and requests, and their export.

The collector and everything else of the export is configured by the variables that OpenTelemetry
defines: OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 without it), OTEL_EXPORTER_OTLP_HEADERS,
OTEL_TRACES_SAMPLER and others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, use_span

from node.annexes.tracing.order_spans import OrderSpans
from node.annexes.tracing.trace_context import context_of, traceparent_of
from node.daemon.node import Node
from node.http.http_messages import Response
from node.http.server_connection import Request
from node.parts.annex import NodeContext, NodePart
from node.version import VERSION
from p2p.base.errors import CallError, HandlerError, RpcError

_SYSTEM: Final = {"rpc.system": "exchange-node"}


class CallSpans:
    """Implements `p2p.services.call_tracing.CallTracer`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def call(self, service: str) -> Iterator[None]:
        with self._open(f"call {service}", SpanKind.INTERNAL, {"rpc.service": service}):
            yield

    @contextmanager
    def attempt(self, service: str, node: str) -> Iterator[str]:
        attributes = {**_SYSTEM, "rpc.service": service, "server.address": node}
        with self._open(f"attempt {service}", SpanKind.CLIENT, attributes) as traceparent:
            yield traceparent

    @contextmanager
    def serve(self, service: str, caller: str, traceparent: str) -> Iterator[None]:
        attributes = {**_SYSTEM, "rpc.service": service, "client.address": caller}
        with self._open(f"serve {service}", SpanKind.SERVER, attributes, traceparent):
            yield

    @contextmanager
    def _open(
        self, name: str, kind: SpanKind, attributes: dict[str, str], parent: str | None = None
    ) -> Iterator[str]:
        """`parent`: of another node; None for the current span."""
        context = None if parent is None else context_of(parent)
        with self._tracer.start_as_current_span(
            name,
            context,
            kind,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield traceparent_of(span)
            except HandlerError as error:  # an answer, and no failure of the call
                span.set_attribute("exchange_node.refusal", error.code)
                raise
            except (CallError, RpcError) as error:
                span.set_attribute("error.type", error.code)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
            except BaseException as error:  # cancellation too
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise


class RequestSpans:
    """Spans of requests, which continue the traces of their callers.

    A WebSocket connection is no request: the orders on it begin traces of their own.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def around(self, request: Request, inner: Callable[[Request], None]) -> None:
        """Serve a request inside a span, which ends with its answer."""
        head = request.head
        if "upgrade" in head.headers:
            inner(request)
            return
        route = head.target.route.template
        span = self._tracer.start_span(
            f"{head.method} {route}".rstrip(),
            context_of(head.headers.get("traceparent", "")),
            SpanKind.SERVER,
            {
                "http.request.method": head.method,
                "http.route": route,
                "url.scheme": request.scheme,
            },
        )

        def end(response: Response) -> None:
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        request.when_answered(end)
        with use_span(span, record_exception=False, set_status_on_exception=False):
            inner(request)


class Tracing:
    """Tracing of one node. `orders`, `calls` and `requests` make the spans. The owner calls `close`."""

    def __init__(
        self,
        node_id: str,
        exporter: SpanExporter | None = None,
        *,
        note: Callable[[int, str], None] = lambda order, traceparent: None,
    ) -> None:
        """`exporter`: another one than the standard variables name. `note` gets number and trace context of
        each own order."""
        resource = Resource.create(
            {
                "service.name": "exchange-node",
                "service.version": VERSION,
                "service.instance.id": node_id,
            }
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        tracer = self._provider.get_tracer("exchange-node", VERSION)
        self.orders = OrderSpans(tracer, note)
        self.calls = CallSpans(tracer)
        self.requests = RequestSpans(tracer)

    async def close(self) -> None:
        """End open spans and send the remaining ones. A collector that does not answer delays this by the
        exporter's timeout at most (OTEL_EXPORTER_OTLP_TIMEOUT)."""
        self.orders.close()
        await asyncio.to_thread(self._provider.shutdown)


class TracingPart(NodePart):
    """Spans of requests, orders and service calls."""

    name = "tracing"

    def __init__(self, context: NodeContext) -> None:
        self._parts: Sequence[NodePart] = ()
        self._tracing = Tracing(context.identity.node_id, note=self._note)
        self.order_tracer = self.order_spans = self._tracing.orders
        self.call_tracer = self._tracing.calls
        self.around = self._tracing.requests.around

    def attach(self, node: Node) -> None:
        self._parts = node.parts

    def _note(self, order: int, traceparent: str) -> None:
        for part in self._parts:
            part.traced(order, traceparent)

    async def close(self) -> None:
        await self._tracing.close()
