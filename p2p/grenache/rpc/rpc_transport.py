"""Transports of one request to one worker and its reply: the common part of HTTP and WebSocket.

A caller that repeats a request has to know if it may have been executed already, so failures
distinguish:

    event                                              raised                               sent
    refused, unreachable, no connection in time        RequestFailed, RequestTimeout        False
    connected, but TLS or the WebSocket was refused    RequestFailed                        False
    connection ended without a (whole) reply           RequestFailed                        True
    no reply in time                                   RequestTimeout                       True
    a reply that is none: empty, not JSON, too large,
      of another request, HTTP status not 2xx          BadReply                             True

A worker's own error is a reply like any other: it is in `RpcReply.error`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from p2p.base.http1 import Failure, HttpFailed
from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestFailed, RequestTimeout
from p2p.grenache.rpc.rpc_wire import MAX_PAYLOAD, RpcReply

MAX_REPLY: Final = 4 * MAX_PAYLOAD  # bytes of a reply, by default
GENERIC: Final = "ERR_REQUEST_GENERIC"  # the Node.js client's code for most errors
CLOSED: Final = "ERR_TRANSPORT_CLOSE"


class BadReply(RequestFailed):
    """The answer is not a reply to the request. The worker may have executed it."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail, sent=True)


@dataclass(frozen=True)
class TransportStatus:
    """`busy`: connections with requests under way; `idle`: others that are open."""

    kind: str
    busy: int
    idle: int
    requests: int
    connects: int


class RpcTransport(Protocol):
    """Connections to any number of workers. Made and used in one event loop."""

    def encode(self, rid: str, key: str, payload: Any) -> bytes:
        """The body of a request; the same may go to several workers.

        Raises:
            BadInput: JSON cannot hold the payload.
        """
        ...

    async def request(
        self,
        address: Address,
        rid: str,
        body: bytes,
        *,
        timeout: float,
        connect_timeout: float | None = None,
        idempotent: bool = False,
    ) -> RpcReply:
        """The reply of the worker at `address`.

        Args:
            rid: as in `body`; the reply must have it too.
            timeout: seconds for everything.
            connect_timeout: seconds until there is a connection; at most what the transport has set.
            idempotent: may be sent again, over a new connection, when a kept one turns out to be dead.

        Raises:
            RequestFailed: see the module.
        """
        ...

    def status(self) -> TransportStatus: ...

    async def close(self) -> None:
        """End all connections; what is under way fails with ERR_TRANSPORT_CLOSE."""
        ...


def where(address: Address) -> str:
    """Format an address for messages."""
    return f"{address[0]}:{address[1]}"


_CUT: Final = {Failure.LOST: "no reply", Failure.CUT_SHORT: "the reply was cut short"}


def failed_request(address: Address, error: HttpFailed) -> RequestFailed:
    """Convert a failure of the connection to `address`."""
    at, kind, sent = where(address), error.kind, error.sent
    if kind is Failure.CLOSED:
        return RequestFailed(CLOSED, str(error), sent=sent)
    if kind is Failure.NOT_IN_TIME:
        return RequestTimeout(f"no connection to {at} in time", sent=sent)
    if kind is Failure.NO_REPLY:
        return RequestTimeout(f"no reply from {at} in time", sent=sent)
    if kind is Failure.BUSY:
        return RequestTimeout(f"{at}: {error}", sent=sent)
    if kind is Failure.TOO_LARGE:
        return BadReply("ERR_PAYLOAD_SIZE", f"{at}: {error}")
    if kind is Failure.MALFORMED:
        return BadReply(GENERIC, f"{at}: {error}")
    if kind in _CUT:
        return RequestFailed(GENERIC, f"{at}: {_CUT[kind]}, {error}", sent=sent)
    return RequestFailed(GENERIC, f"cannot connect to {at}: {error}", sent=sent)
