"""Rate limit of API clients, and the headers that report it."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from node.api import limits
from node.http.client_rates import ClientRates


class Verdict(NamedTuple):
    """Decision on a request, with the state of the client's bucket for its headers."""

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
        self._buckets = ClientRates(self._rate, float(limit), limits.RATE_CLIENTS)

    def ask(self, client: str, now: float) -> Verdict:
        """Count a request of `client`."""
        if not self.limit:
            return Verdict(True, 0, 0, 0)
        allowed, tokens = self._buckets.take(client, now)
        missing = self.limit - tokens if allowed else 1 - tokens
        return Verdict(allowed, self.limit, int(tokens), ceil(missing / self._rate))
