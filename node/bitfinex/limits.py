"""Every limit of the Bitfinex dialect, in one place, each with its reason. Seconds and bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

RATE: Final = 100.0  # requests and connections a second from one address, lastingly
BURST: Final = 1000.0  # and at once: a bot that starts reads everything there is
REMOTES: Final = 4096  # addresses remembered; the one not seen longest is forgotten

TRADES_DEFAULT: Final = 120  # rows, as Bitfinex has them
ROWS_MAX: Final = 10_000
CANDLES_DEFAULT: Final = 100
TICKERS_MAX: Final = 250  # symbols in one request
BOOK_LENGTHS: Final = (1, 25, 100, 250)  # entries a side
BOOK_DEFAULT: Final = 25

CHANNELS: Final = 25  # subscriptions of one connection; clients open a second one then
CONNECTIONS: Final = 256
MAX_MESSAGE: Final = 4 * 1024  # of a client: one short JSON object
MAX_ID: Final = 200  # characters of a client's own name for a subscription
HEARTBEAT: Final = 15.0
PING: Final = 20.0  # WebSocket ping; without a pong for half of this the reader is cut
SEND_TIMEOUT: Final = 20.0  # a reader that does not take a message for this long is cut
BUFFER: Final = 64 * 1024  # bytes written ahead of a reader; books and tickers wait behind it
PACE: Final = 0.02  # changes within this time go out together
PACE_SLOW: Final = 2.0  # the same for books with freq F1
PACE_FIGURES: Final = 0.2  # and for tickers and candles
TRADES_WAITING: Final = 1000  # trades that one reader has not taken; then it is cut
SNAPSHOT_TRADES: Final = 30
SNAPSHOT_CANDLES: Final = 240


class RateLimit:
    """How often one address may ask: `RATE` a second, `BURST` at once."""

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._remotes: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def allows(self, remote: str, now: float) -> bool:
        """Whether a request from `remote` may be served at `now` (monotonic seconds)."""
        tokens, at = self._remotes.get(remote, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        allowed = tokens >= 1.0
        self._remotes[remote] = (tokens - 1.0 if allowed else tokens, now)
        self._remotes.move_to_end(remote)
        if len(self._remotes) > REMOTES:
            self._remotes.popitem(last=False)
        return allowed
