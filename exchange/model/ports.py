"""What the exchange needs from outside, as small protocols, and what it hands back.

The exchange opens no sockets, reads no clock and writes no disk. A shell (`node`, or the simulator)
gives it messages and the time, and takes away records to make durable and messages to send.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class SigningKeys(Protocol):
    """This node's key, and the checking of others'."""

    @property
    def node_id(self) -> str: ...

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""
        ...

    def sign(self, message: bytes) -> bytes: ...

    def node_id_of(self, public_key: bytes) -> str: ...

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool: ...


class Send(msgspec.Struct, frozen=True):
    """A message for one node, by whatever way the router finds. May be lost: the protocols repeat."""

    to: str
    type: str
    payload: bytes  # msgpack


class Broadcast(msgspec.Struct, frozen=True):
    """A message for every node of the network."""

    type: str
    payload: bytes  # msgpack


Message = Send | Broadcast
