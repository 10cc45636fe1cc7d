"""Every limit of the HTTP server, in one place, each with its reason. Seconds and bytes."""

from __future__ import annotations

from typing import Final

MAX_HEAD: Final = 16 * 1024  # as Node.js; a signed request has about 400 bytes
MAX_BODY: Final = 64 * 1024  # the longest sensible request is an order of a few hundred bytes
MAX_PIPELINED: Final = (
    MAX_HEAD + MAX_BODY
)  # read ahead of the answer to a request; then reading waits
HEADS: Final = 256  # that are remembered with all that follows from them,
MAX_REMEMBERED: Final = 4096  # if they have no more bytes
HEADER_TIMEOUT: Final = 10.0  # a connection without the head of a request is cut after this
READ_TIMEOUT: Final = 10.0  # a body that trickles in slower than this is given up
KEEPALIVE: Final = 75.0  # an idle connection is closed after this
LINGER: Final = 2.0  # after a refusal, for the rest of a body: a reset would take the answer away
CONNECTIONS: Final = 1024  # in all, or half of the files that the process may open
CONNECTIONS_PER_ADDRESS: Final = 128  # of one IPv4 address or IPv6 /64 other than this machine
CONNECTIONS_PER_NETWORK: Final = 512  # of one IPv4 /16 or IPv6 /32, other than local ones
BACKLOG: Final = 128  # connections that the system accepts ahead of the server
SHUTDOWN_TIMEOUT: Final = 3.0  # requests in progress and goodbyes get this long at the end
