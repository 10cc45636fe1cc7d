"""Errors between peers.

    P2PError
    ├── RemoteProtocolError(code)      the other side broke the protocol: send goodbye with `code`,
    drop the link │   ├── FrameTooLarge              "oversized" │   └── MalformedMessage
    "malformed" ├── HandshakeRefused(code)         a handshake that one side ended politely, with a
    reason ├── ConnectFailed                  no answer at the address, or not in time ├──
    LinkClosed the link closed while it was in use ├── DeliveryError(tried)           no route to
    the recipient; `tried` names every attempted method ├── RpcError(code) the far side answered a
    request with an error │   └── RpcTimeout                 no answer within the deadline └──
    CallError(code)                a call to a service failed (p2p.services.balanced_caller) ├──
    NoProvider                 "no_provider": no known node offers the service ├──
    ServiceBusy(retry_after_s) "busy": the provider is overloaded; not executed ├──
    ServiceUnreachable         "unreachable": no route to a provider; not executed ├── CallTimeout
    "timeout": no answer in time; perhaps executed ├── CallLost                   "lost": the link
    broke, or the worker failed; perhaps executed └── HandlerError               refusal by the
    service itself, with its code and message

An error that carries a `code` from `Goodbye` is the reply: the code goes on the wire unchanged.
"""

from __future__ import annotations

from enum import StrEnum

from p2p.ground.peer_texts import printable


class Code(StrEnum):
    """Reasons for ending a link, as they appear in a `goodbye` message."""

    SHUTDOWN = "shutdown"  # the node is stopping in an orderly way
    MALFORMED = "malformed"  # bytes that are not a message, or a message of the wrong shape
    OVERSIZED = "oversized"  # a frame longer than the limit
    UNEXPECTED = "unexpected"  # a known message at the wrong time
    UNKNOWN_TYPE = "unknown_type"  # a message type that this node does not know
    WRONG_NETWORK = "wrong_network"
    WRONG_VERSION = "wrong_version"
    WRONG_IDENTITY = "wrong_identity"  # the claimed node id is not proven by the key
    SELF = "self"  # the node dialled itself
    DUPLICATE = "duplicate"  # another link to the same peer is kept
    FULL = "full"  # MAX_PEERS reached
    TIMEOUT = "timeout"  # handshake or heartbeat not answered in time
    SLOW = "slow"  # outbox limit reached: the peer does not read
    ABUSE = "abuse"  # rate limits or repeated invalid messages


class P2PError(Exception):
    """Base of all errors that this package raises on purpose."""


class RemoteProtocolError(P2PError):
    """The other side broke the protocol: send goodbye with `code`, then close the link."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        self.reason = printable(reason)  # it may quote the peer
        super().__init__(f"{code}: {self.reason}")


class FrameTooLarge(RemoteProtocolError):
    def __init__(self, reason: str) -> None:
        super().__init__(Code.OVERSIZED, reason)


class MalformedMessage(RemoteProtocolError):
    def __init__(self, reason: str) -> None:
        super().__init__(Code.MALFORMED, reason)


class HandshakeRefused(P2PError):
    """One side ended the handshake. `by_us`: this node did. `peer`: id of the peer, if TLS has proven it.
    `others`: (node id, host, port) of nodes to dial in its place, claims of the peer."""

    def __init__(
        self,
        code: Code,
        reason: str,
        *,
        by_us: bool,
        peer: str | None = None,
        others: tuple[tuple[str, str, int], ...] = (),
    ) -> None:
        who = "we refused" if by_us else "the peer refused"
        super().__init__(f"{who}: {reason} ({code})")
        self.code = code
        self.reason = reason
        self.by_us = by_us
        self.peer = peer
        self.others = others


class ConnectFailed(P2PError):
    """No answer at that address, or not in time."""


class LinkClosed(P2PError):
    """The link closed while it was in use."""


class DeliveryError(P2PError):
    """No route to the recipient. `tried` lists (method, reason) in the order attempted."""

    def __init__(self, to: str, tried: list[tuple[str, str]]) -> None:
        ways = "; ".join(f"{way}: {why}" for way, why in tried)
        super().__init__(f"cannot reach node {to} ({ways})")
        self.to = to
        self.tried = tried


class RpcError(P2PError):
    """The peer answered with an error, or the request could not be sent. `retry_after_s` is set with
    "busy".
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class RpcTimeout(RpcError):
    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)


class CallError(P2PError):
    """A call to a service gave no result. `executed` is False if it was certainly not executed."""

    executed = True

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class NoProvider(CallError):
    executed = False

    def __init__(self, service: str) -> None:
        super().__init__("no_provider", f"no known node offers the service {service!r}")


class ServiceBusy(CallError):
    """The service is overloaded; try again after `retry_after_s` seconds."""

    executed = False

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__("busy", message)
        self.retry_after_s = retry_after_s


class ServiceUnreachable(CallError):
    executed = False

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message)


class CallTimeout(CallError):
    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)


class CallLost(CallError):
    def __init__(self, message: str) -> None:
        super().__init__("lost", message)


class HandlerError(CallError):
    """Raised by a service's handler and passed to the caller unchanged: an answer, not a failure."""
