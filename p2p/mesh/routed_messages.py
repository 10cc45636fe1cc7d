# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""Messages as the router takes, delivers and emits them; its settings, and the interface of its owner."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Protocol

from msgspec import Raw

from p2p.base import limits
from p2p.mesh.broadcast_tree import ID_LENGTH, TreeSettings
from p2p.wire.messages import Branch, Envelope, Graft, IHave, Prune, RefusedMessages, pack

MAX_PAYLOAD: Final = limits.MAX_FRAME - 1024  # the rest of an envelope is far smaller than this
MAX_TYPE_LENGTH: Final = 64
CONTROL_TYPES: Final[dict[type, str]] = {
    IHave: "ihave",
    Graft: "graft",
    Prune: "prune",
    Branch: "branch",
    RefusedMessages: "refused",
}


class Way(StrEnum):
    """Method by which a message was sent."""

    DIRECT = "direct"
    GRENACHE = "grenache"
    RELAYED = "relayed"
    QUEUED = "queued"


@dataclass(slots=True)
class Received:
    """A message for this node.

    `origin` is proven for direct and relayed messages; for a broadcast it is a claim that the handler
    checks against the payload's own signature. `via` is the peer whose link brought it.
    """

    now: float
    type: str
    origin: str
    via: str
    payload: bytes
    broadcast: bool


Handler = Callable[[Received], bool | None]
"""Takes a message. False (or a `RemoteProtocolError`): the payload is not valid. None: a valid broadcast
that is not to be passed on, because its origin says too much."""


OriginCheck = Callable[[str, bytes], bool | None]
"""Verdict on the claim that a broadcast with a payload is of an origin, as a `Handler`'s. It is asked before the message costs the
origin anything, so it has to be cheap."""


@dataclass(slots=True)
class Outgoing:
    """One envelope for one or more linked peers, to be encoded once."""

    peers: tuple[str, ...]
    envelope: Envelope


Control = IHave | Graft | Prune | Branch | RefusedMessages


class SendQueue:
    """Envelopes of one node that wait to be sent, in order."""

    def __init__(self, node_id: str, wall_ms: Callable[[], int]) -> None:
        self.node_id = node_id
        self.wall_ms = wall_ms
        self._waiting: list[Outgoing] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def envelope(self, to: str, type: str, payload: bytes) -> Envelope:
        """Return a message of this node."""
        return Envelope(type, self.node_id, to, self.wall_ms(), Raw(payload))

    def emit(self, peers: tuple[str, ...], message: Envelope | Control) -> None:
        """Send an envelope or a control message to linked peers."""
        if not isinstance(message, Envelope):
            message = self.envelope("", CONTROL_TYPES[type(message)], pack(message))
        self._waiting.append(Outgoing(peers, message))

    def put(self, outgoing: list[Outgoing]) -> None:
        self._waiting += outgoing

    def take(self, first: int = 0) -> list[Outgoing]:
        """Remove and return what waits, from a place in the order on."""
        taken = self._waiting[first:]
        del self._waiting[first:]
        return taken


@dataclass(frozen=True, slots=True)
class RelayEncryption:
    """TLS contexts for dialling and accepting. `random_bytes`: names of streams, which must not be guessed."""

    client: ssl.SSLContext
    server: ssl.SSLContext
    random_bytes: Callable[[int], bytes] = secrets.token_bytes


@dataclass(frozen=True, slots=True)
class RouterSettings(TreeSettings):
    """Settings of a router; seconds and bytes.

    `relay_rate`: bytes a second relayed for others. `encryption`: relayed messages are encrypted end to end, where the
    other node and the relays can.
    """

    max_hops: int = limits.MAX_HOPS
    route_ttl: float = limits.ROUTE_TTL
    queue_max_bytes: int = limits.QUEUE_MAX_BYTES
    queue_max_per_peer: int = limits.QUEUE_MAX_PER_PEER
    max_bad_messages: int = limits.MAX_BAD_MESSAGES
    relay_rate: float = limits.RELAY_RATE
    encryption: RelayEncryption | None = None


DEFAULT_SETTINGS: Final = RouterSettings()


class RouterHost(Protocol):
    """Owner of a router, which calls it while it processes a message."""

    def first_with_news(self, link: str) -> None:
        """Note that the link of a peer delivered a new broadcast of a useful type first."""
        ...

    def defer(self, link: str, origin: str) -> None:
        """Call `handle_deferred` for link and origin once others had their turns, until none is left."""
        ...

    def why_not_grenache(self, node: str) -> str:
        """Return the reason why a node has no link over Grenache, for `DeliveryError`."""
        ...


def broadcast_id(type: str, origin: str, payload: bytes) -> bytes:
    """Return the id of a broadcast: BLAKE2b-128 (RFC 7693) over its type, origin and payload."""
    digest = blake2b(pack((type, origin)), digest_size=ID_LENGTH, person=b"exnode broadcast")
    digest.update(payload)
    return digest.digest()


def check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD}")
