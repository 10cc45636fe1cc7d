"""Every limit of the HTTP API, in one place, each with its reason. Seconds and bytes."""

from __future__ import annotations

from typing import Final

MAX_BODY: Final = 64 * 1024  # the longest sensible request is an order of a few hundred bytes
READ_TIMEOUT: Final = 10.0  # a body that trickles in slower than this is given up
HANDLER_TIMEOUT: Final = 30.0  # longer than any dial, ping or take; then 504, and the work goes on
HEADER_TIMEOUT: Final = 10.0  # a connection without the headers of a request is cut after this
TLS_TIMEOUT: Final = 10.0  # the same for its TLS handshake, which comes before
CONNECTIONS: Final = 1024  # in all, or half of the files that the process may open
CONNECTIONS_PER_ADDRESS: Final = 128  # of one IPv4 address or IPv6 /64 other than this machine
BACKLOG: Final = 128  # connections that the system accepts ahead of the server
KEEPALIVE: Final = 75.0  # an idle connection is closed after this
SHUTDOWN_TIMEOUT: Final = 3.0  # requests in progress get this long when the node stops
GONE_CHECK: Final = 0.5  # how often a long call looks whether its client is still there
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus text format

STREAM_MAX_MESSAGE: Final = MAX_BODY  # 100 requests in one message have 650 bytes each
STREAM_IN_FLIGHT: Final = 256  # requests of one connection without an answer; then reading waits
STREAM_UNDECIDED: Final = 1000  # its orders that are pending with other nodes; then it is refused
STREAM_MAX_CLIENTS: Final = 256  # connections at once
STREAM_MAX_SUBSCRIPTIONS: Final = 64  # of one connection
STREAM_HEARTBEAT: Final = 20.0  # WebSocket ping; without a pong for half of this the reader is cut
STREAM_SEND_TIMEOUT: Final = 20.0  # one message that a reader does not take for this long: cut
STREAM_CLOSE_TIMEOUT: Final = 2.0  # then it has this long to see the reason
STREAM_SWEEP: Final = 10.0  # seconds between searches for streams without readers
STREAM_BUFFER: Final = 64 * 1024  # bytes written ahead of a reader; the rest waits, as a number
