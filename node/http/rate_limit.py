"""Rate limit of HTTP clients: a token bucket for each client, in a table of bounded size."""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

from p2p.base.bounded_map import BoundedMap
from p2p.base.tokens import Tokens

CLIENTS: Final = 10_000  # keys and addresses remembered; about 2 MB


class RateVerdict(NamedTuple):
    """Decision on a request, with the state of the client's bucket for its headers."""

    allowed: bool
    limit: int  # requests a minute
    remaining: int  # that may be made at once
    reset: int  # seconds until the bucket is full; when refused, until the next request


class RateLimit:
    """`limit` requests a minute for each client, `burst_s` seconds' worth of them at once; 0: no limit.

    Times are monotonic seconds. The client not seen for longest makes room for a new one: its
    bucket is full by then.
    """

    def __init__(self, limit: int, *, burst_s: float = 60.0, clients: int = CLIENTS) -> None:
        self.limit = limit
        self._rate = limit / 60
        self._burst = max(1.0, self._rate * burst_s)
        self._buckets: BoundedMap[str, Tokens] = BoundedMap(clients)

    def ask(self, client: str, now: float) -> RateVerdict:
        """Count a request of `client` if it may be served."""
        if not self.limit:
            return RateVerdict(True, 0, 0, 0)
        bucket = self._buckets.renew(client)
        if bucket is None:
            bucket = self._buckets[client] = Tokens(self._burst, now)
        allowed = bucket.take(now, self._rate, self._burst)
        missing = self._burst - bucket.level if allowed else 1 - bucket.level
        return RateVerdict(allowed, self.limit, int(bucket.level), ceil(missing / self._rate))

    def allows(self, client: str, now: float) -> bool:
        """Count a request of `client` and return True if it may be served."""
        return self.ask(client, now).allowed

    def left(self, client: str, now: float) -> bool:
        """Return True if a request of `client` would be served; it is not counted."""
        bucket = self._buckets.get(client)
        return bucket is None or bucket.available(now, self._rate, self._burst) >= 1.0
