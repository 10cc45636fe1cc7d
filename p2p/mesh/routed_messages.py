# ruff: noqa: A002 - `type` is what the wire and the contract call it
"""Messages as the router takes, delivers and emits them, and their limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from p2p.base import limits
from p2p.mesh.broadcast_tree import ID_LENGTH
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


@dataclass(slots=True)
class Outgoing:
    """One envelope for one or more linked peers, to be encoded once."""

    peers: tuple[str, ...]
    envelope: Envelope


def broadcast_id(type: str, origin: str, payload: bytes) -> bytes:
    """Return the id of a broadcast: BLAKE2b-128 (RFC 7693) over its type, origin and payload."""
    digest = blake2b(pack((type, origin)), digest_size=ID_LENGTH, person=b"exnode broadcast")
    digest.update(payload)
    return digest.digest()


def check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD}")
