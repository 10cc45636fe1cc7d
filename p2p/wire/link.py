"""Link: interface of an established, authenticated connection to a peer.

`p2p.wire.connection` implements it over streams of bytes, tests over memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from p2p.base.errors import Code
from p2p.wire.messages import Capabilities, Envelope

Carrier = Literal["tcp", "grenache"]
"""Carrier of a link's bytes: a TCP connection, or Grenache RPC requests."""


class PeerInfo(msgspec.Struct, frozen=True):
    """The peer at the other end, as proven by the handshake."""

    node_id: str
    public_key: bytes
    version: str
    network: str
    capabilities: Capabilities
    address: str  # the IP address that the socket, or the carrier's requests, show
    listen_port: int  # where the peer accepts TCP links by its own statement, 0 if it does not
    outbound: bool  # we dialled
    encrypted: bool
    carrier: Carrier = "tcp"
    dialled: tuple[str, int] | None = None  # the host and port, as they were given, that we dialled
    observed: tuple[str, int] = (
        "",
        0,
    )  # where the peer sees this node; a claim. Port 0: not stated
    punched: bool = False  # both sides dialled at once, through their NATs
    local: tuple[str, int] = ("", 0)  # this side's address of the TCP connection


@dataclass(slots=True)
class LinkStats:
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    opened_at: float = 0.0  # seconds, monotonic
    last_seen: float = 0.0  # last byte received, seconds, monotonic
    last_heartbeat: float = 0.0  # last heartbeat received, seconds, monotonic
    rtt: float | None = None  # seconds, smoothed (RFC 6298), None before the first echo
    extra: dict[str, int] = field(default_factory=dict)

    def add_traffic(self, other: LinkStats) -> None:
        """Add the messages and bytes of another link."""
        self.messages_received += other.messages_received
        self.messages_sent += other.messages_sent
        self.bytes_received += other.bytes_received
        self.bytes_sent += other.bytes_sent


class PeerLink(Protocol):
    """An authenticated connection to one peer."""

    @property
    def peer(self) -> PeerInfo: ...

    @property
    def stats(self) -> LinkStats: ...

    @property
    def outbox_bytes(self) -> int:
        """Bytes accepted by `send` that the peer has not taken yet."""
        ...

    @property
    def closed(self) -> bool: ...

    def send(self, envelope: Envelope) -> None:
        """Queue a message; never blocks. Past the outbox limit the link is cut with code `slow`.
        On a closed link it does nothing."""
        ...

    def send_packed(self, payload: bytes) -> None:
        """Queue a message already encoded as msgpack (a broadcast is encoded once for all)."""
        ...

    async def drain(self) -> None:
        """Wait until the outbox is below its high-water mark, or the link is closed."""
        ...

    def close(self, code: Code, reason: str = "") -> None:
        """Say goodbye with `code`, flush for a moment, close. Safe to call twice."""
        ...


class LinkHandler(Protocol):
    """Receiver of links and their messages. Called in the event loop; must not block."""

    def link_up(self, link: PeerLink) -> None: ...

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        """`code` is None when the connection broke without a goodbye."""
        ...

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        """An application message (heartbeats, goodbyes and handshakes are handled by the link).

        Raises:
            RemoteProtocolError: the link says goodbye with its code and closes.
        """
        ...


Others = tuple[tuple[str, str, int], ...]
Refusal = tuple[Code, str] | tuple[Code, str, Others]
"""Code and reason, and (node id, host, port) of other nodes that the peer may dial."""


class LinkOwner(LinkHandler, Protocol):
    """Owner of a node's links, which also decides about those that are about to be made. By default all are."""

    def admit(self, info: PeerInfo) -> Refusal | None:
        """Return the refusal of a proven peer, None to admit it. Called on the dialling and on the accepting side, just
        before `link_up`.
        """
        return None

    def accepts_address(self, address: str) -> bool:
        """Return False for an IP address whose connections are closed unanswered."""
        return True
