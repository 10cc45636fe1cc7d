"""Spans of service calls: the call, each attempt, and the request at the node that serves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from node.annexes.tracing.trace_context import context_of, traceparent_of
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
