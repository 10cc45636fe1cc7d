"""Limits of the HTTP API beside those of its server (`node.http.limits`), each with its reason. Seconds and bytes."""

from __future__ import annotations

from typing import Final

from node.http.limits import MAX_BODY

HANDLER_TIMEOUT: Final = 30.0  # longer than any dial, ping or take; then 504, and the work goes on
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus text format

STREAM_MAX_MESSAGE: Final = MAX_BODY  # 100 requests in one message have 650 bytes each
STREAM_IN_FLIGHT: Final = 256  # requests of one connection without an answer; then reading waits
STREAM_UNDECIDED: Final = 1000  # its orders that are pending with other nodes; then it is refused
STREAM_MAX_SUBSCRIPTIONS: Final = 64  # of one connection
STREAM_HEARTBEAT: Final = 20.0  # WebSocket ping; without a pong for half of this the reader is cut
STREAM_SEND_TIMEOUT: Final = 20.0  # one message that a reader does not take for this long: cut
STREAM_CLOSE_TIMEOUT: Final = 2.0  # then it has this long to see the reason
STREAM_SWEEP: Final = 10.0  # seconds between searches for streams without readers
STREAM_BUFFER: Final = 64 * 1024  # bytes written ahead of a reader; the rest waits, as a number
