"""Trace context as text, in both directions (W3C Trace Context)."""

from __future__ import annotations

from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_HEADER: Final = "traceparent"
LENGTH: Final = 55  # characters of a traceparent of version 00
NO_CONTEXT: Final = set_span_in_context(INVALID_SPAN, Context())


def traceparent_of(span: Span) -> str:
    """Return the text that another node continues the trace with."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
    return carrier.get(_HEADER, "")


def context_of(traceparent: str) -> Context:
    """Return the context that a text names. One that is none, or is too long, begins a new trace."""
    if len(traceparent) != LENGTH:
        return NO_CONTEXT
    return _PROPAGATOR.extract({_HEADER: traceparent}, NO_CONTEXT)


def context_at(span: Span) -> Context:
    """Return a context in which `span` is the current one."""
    return set_span_in_context(span, Context())


__all__ = ["LENGTH", "NO_CONTEXT", "context_at", "context_of", "get_current_span", "traceparent_of"]
