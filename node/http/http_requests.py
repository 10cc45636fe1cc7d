"""Bodies of requests, read within limits of time and size; counts and durations of requests.

Operations come from the routing table and codes from the table of problems, so their number is bounded.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections import Counter
from typing import Final

from aiohttp import web

LATENCY_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
UNMATCHED: Final = "unmatched"  # operation of requests without a route
MAX_NAMES: Final = 300  # operations; more would not be names


class RequestFigures:
    """Figures of all requests since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (operation, status)
        self.problems: Counter[str] = Counter()  # refusals, by problem code
        self.socket_requests: Counter[tuple[str, str]] = Counter()  # (operation, code)
        self.seconds: dict[str, float] = {}  # by operation
        self.bins: dict[str, list[int]] = {}  # by operation: counts of LATENCY_BOUNDS

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Count an HTTP request."""
        if operation not in self.bins and len(self.bins) >= MAX_NAMES:
            operation = UNMATCHED
        self.requests[operation, str(status)] += 1
        self._time(operation, seconds)

    def add_socket(self, operation: str, code: str, seconds: float) -> None:
        """Count a request over a WebSocket; `code` is "ok" or that of a problem."""
        self.socket_requests[operation, code] += 1
        self._time(operation, seconds)

    def _time(self, operation: str, seconds: float) -> None:
        bins = self.bins.get(operation)
        if bins is None:
            bins = self.bins[operation] = [0] * (len(LATENCY_BOUNDS) + 1)
        bins[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.seconds[operation] = self.seconds.get(operation, 0.0) + seconds


FIGURES: Final = web.AppKey("request figures", RequestFigures)
NEXT_CURSOR: Final = web.RequestKey("next cursor", str)  # of the answer to a request


def route_path(template: str) -> str:
    """The template of a path for aiohttp's router, whose own parameters take no braces, as ids of .NET have them."""
    return re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", template)


async def read_body(request: web.Request, timeout: float) -> bytes:
    """The whole body, byte for byte.

    Raises:
        TimeoutError: it did not come within `timeout` seconds.
        web.HTTPRequestEntityTooLarge: it is longer than the application takes.
    """
    content = request.content
    if not content.is_eof():
        async with asyncio.timeout(timeout):
            return await request.read()
    raw = content.read_nowait()  # it came with the head, as short ones do: nothing to wait for
    if len(raw) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, len(raw))
    return raw
