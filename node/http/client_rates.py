"""Rate limits by client: a token bucket each, in a table of bounded size."""

from __future__ import annotations

from collections import OrderedDict


class ClientRates:
    """`rate` requests a second for each client, of which `burst` may come at once. Of more than `most`
    clients the one that was not seen for longest is forgotten. Times are monotonic seconds."""

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def left(self, client: str, now: float) -> float:
        """Tokens in the client's bucket: from 1 on a request would be served."""
        tokens, at = self._clients.get(client, (self._burst, now))
        return min(self._burst, tokens + max(0.0, now - at) * self._rate)

    def take(self, client: str, now: float) -> tuple[bool, float]:
        """Return True if a request of `client` may be served, and what is left; if so, it is counted."""
        tokens = self.left(client, now)
        allowed = tokens >= 1.0
        if allowed:
            tokens -= 1.0
        self._clients[client] = (tokens, now)
        self._clients.move_to_end(client)
        if len(self._clients) > self._most:
            self._clients.popitem(last=False)  # whoever asks so rarely has a full bucket by now
        return allowed, tokens
