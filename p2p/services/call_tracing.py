"""Interface of a tracer of service calls. Without one nothing is traced and nothing is sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class CallTracer(Protocol):
    """Spans of calls; each is open as long as its context. A `traceparent` is the text of a span's
    identity as W3C Trace Context defines it, empty for none."""

    def call(self, service: str) -> AbstractContextManager[None]:
        """Open the span of a call with all of its attempts."""

    def attempt(self, service: str, node: str) -> AbstractContextManager[str]:
        """Open the span of one attempt at `node`; gives its traceparent."""

    def serve(self, service: str, caller: str, traceparent: str) -> AbstractContextManager[None]:
        """Open the span of a request being served. `traceparent`: as received, unchecked."""
