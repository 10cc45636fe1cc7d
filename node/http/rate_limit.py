"""Rate limit of HTTP clients: a token bucket for each client, in a table of bounded size. And shares of the processor's time, for what
no rate counts: pings, small frames, subscriptions, large documents, requests that are refused."""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

from p2p.ground.tokens import MAX_BUCKETS, TokenTable

STRANGER_SHARE: Final = 0.25  # of a core, for what one stranger's address sends,
STRANGERS_SHARE: Final = 0.5  # and for that of all;
STRANGER_BURST: Final = 2.0  # seconds of it at once
LONGEST_REST: Final = 1.0  # seconds
_ALL: Final = ""


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

    def __init__(self, limit: int, *, burst_s: float = 60.0, clients: int = MAX_BUCKETS) -> None:
        self.limit = limit
        rate = limit / 60
        self._table = TokenTable(rate, max(1.0, rate * burst_s), clients)

    def ask(self, client: str, now: float) -> RateVerdict:
        """Count a request of `client` if it may be served."""
        if not self.limit:
            return RateVerdict(True, 0, 0, 0)
        table = self._table
        allowed = table.take(now, client)
        left = table.tokens(now, client)
        missing = table.burst - left if allowed else 1 - left
        return RateVerdict(allowed, self.limit, int(left), ceil(missing / table.rate))

    def allows(self, client: str, now: float) -> bool:
        """Count a request of `client` and return True if it may be served."""
        return self.ask(client, now).allowed


class TimeShares:
    """Processor time that strangers' connections may take: a share for each address, and one for all. Seconds."""

    def __init__(self) -> None:
        self._each = TokenTable(STRANGER_SHARE, STRANGER_BURST)
        self._all = TokenTable(STRANGERS_SHARE, STRANGER_BURST)

    def spend(self, now: float, address: str, seconds: float) -> float:
        """Count time that went into what an address sent. Returns how long not to read from it."""
        left = []
        for table, name in ((self._each, address), (self._all, _ALL)):
            table.overdraw(now, name, seconds)
            left.append(table.tokens(now, name) / table.rate)
        own, of_all = left
        # Others' use does not hold up an address that has used little.
        owed = -min(own, of_all) if own < STRANGER_BURST / STRANGER_SHARE / 2 else 0.0
        return max(0.0, min(owed, LONGEST_REST))
