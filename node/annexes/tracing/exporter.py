"""Start and end of tracing: provider, exporter and the instruments of one node.

The collector and everything else of the export is configured by the variables that OpenTelemetry
defines: OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 without it), OTEL_EXPORTER_OTLP_HEADERS,
OTEL_TRACES_SAMPLER and others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from node.annexes.tracing.call_spans import CallSpans
from node.annexes.tracing.order_spans import OrderSpans
from node.annexes.tracing.request_spans import RequestSpans
from node.version import VERSION


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
