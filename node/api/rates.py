"""How often one client may ask: a token bucket each, in a table of bounded size."""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from typing import NamedTuple

from node.api import limits


class Verdict(NamedTuple):
    """Whether a request may be served, and what to tell the client of its bucket."""

    allowed: bool
    limit: int  # requests a minute
    remaining: int  # that may be made at once
    reset: int  # seconds until the bucket is full; when refused, until the next request


class RateLimit:
    """`limit` requests a minute for each client, all of them at once if it likes; 0: any number.

    Times are monotonic seconds.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rate = limit / 60
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def ask(self, client: str, now: float) -> Verdict:
        """Count a request of `client`."""
        if not self.limit:
            return Verdict(True, 0, 0, 0)
        tokens, at = self._clients.get(client, (float(self.limit), now))
        tokens = min(self.limit, tokens + max(0.0, now - at) * self._rate)
        allowed = tokens >= 1
        if allowed:
            tokens -= 1
        self._clients[client] = (tokens, now)
        self._clients.move_to_end(client)
        if len(self._clients) > limits.RATE_CLIENTS:
            self._clients.popitem(last=False)  # whoever asks so rarely has a full bucket by now
        missing = self.limit - tokens if allowed else 1 - tokens
        return Verdict(allowed, self.limit, int(tokens), ceil(missing / self._rate))
