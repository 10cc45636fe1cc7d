"""Ports of the exchange: protocols that it needs from outside, and messages that it sends.

The exchange opens no sockets, reads no clock and writes no disk. A shell (`node`, or the simulator)
passes messages and the time to it, and takes records to make durable and messages to send from it.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class KeyChecker(Protocol):
    """Verification of nodes' signatures."""

    def node_id_of(self, public_key: bytes) -> str: ...

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool: ...


class SigningKeys(KeyChecker, Protocol):
    """Signing with this node's key, and verification of other nodes' signatures."""

    @property
    def node_id(self) -> str: ...

    @property
    def public_key(self) -> bytes:
        """Ed25519 key of 32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes: ...


class Send(msgspec.Struct, frozen=True):
    """Message to one node, by any route. It may be lost: the protocols repeat it."""

    to: str
    type: str
    payload: bytes  # msgpack


class Broadcast(msgspec.Struct, frozen=True):
    """Message to every node of the network."""

    type: str
    payload: bytes  # msgpack


Message = Send | Broadcast
