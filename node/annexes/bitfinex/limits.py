"""Every limit of the Bitfinex dialect, in one place, each with its reason. Seconds and bytes."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

RATE: Final = 6000  # requests a minute of one key, and of one address without one; API_RATE_LIMIT
BURST: Final = (
    10.0  # seconds' worth that may come at once: a bot that starts reads everything there is
)

TRADES_DEFAULT: Final = 120  # rows, as Bitfinex has them
ROWS_MAX: Final = 10_000
CANDLES_DEFAULT: Final = 100
TICKERS_MAX: Final = 250  # symbols in one request
TICKERS_HIST_DEFAULT: Final = 125  # rows of the tickers of the past, as Bitfinex has them
TICKERS_HIST_MAX: Final = 250
BOOK_LENGTHS: Final = (1, 25, 100, 250)  # entries a side of the views that are kept
BOOK_MAX: Final = BOOK_LENGTHS[-1]
BOOK_DEFAULT: Final = 25
# Smaller prices and amounts stay out of books: JavaScript prints them with an exponent and ccxt without,
# so no checksum would be right for both.
LEAST_SHOWN: Final = Decimal("0.000001")

CHANNELS: Final = 25  # subscriptions of one connection; clients open a second one then
CONNECTIONS: Final = 256  # at once; API_MAX_STREAMS
MAX_MESSAGE: Final = 64 * 1024  # of a client: 75 operations of some hundred bytes
MULTI_MAX: Final = 75  # operations in one request, as Bitfinex has it
MAX_ID: Final = 200  # characters of a client's own name for a subscription
HEARTBEAT: Final = 15.0
PING: Final = 20.0  # WebSocket ping; without a pong for half of this the reader is cut
SEND_TIMEOUT: Final = 20.0  # a reader that does not take a message for this long is cut
BUFFER: Final = 64 * 1024  # bytes written ahead of a reader; books and tickers wait behind it
PACE: Final = 0.02  # changes within this time go out together
PACE_SLOW: Final = 2.0  # the same for books with freq F1
PACE_FIGURES: Final = 0.2  # and for tickers and candles
TRADES_WAITING: Final = 1000  # trades that one reader has not taken; then it is cut
ORDERS_DEFAULT: Final = (
    25  # rows of the histories of orders and of the ledger, as Bitfinex has them
)
ORDERS_MAX: Final = 2500
SNAPSHOTS_AFTER: Final = (
    0.1  # the answer to `auth`; ccxt begins to wait for them when it has seen that
)
PRIVATE_WAITING: Final = (
    10_000  # events of its account that one reader has not taken; then it is cut
)
INPUTS_WAITING: Final = (
    200  # inputs of one connection that are being carried out; then reading waits
)
FILTERS_MAX: Final = 100  # words in the filter of an authentication
SNAPSHOT_TRADES: Final = 30
SNAPSHOT_CANDLES: Final = 240
