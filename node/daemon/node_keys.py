"""Adapter of the node's key to the exchange's port `SigningKeys`."""

from __future__ import annotations

from p2p.base.identity import Identity, node_id_of, verify


class Checking:
    """The checking of others' keys, without an own one."""

    @staticmethod
    def node_id_of(public_key: bytes) -> str:
        return node_id_of(public_key)

    @staticmethod
    def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
        return verify(public_key, signature, message)


class NodeKeys(Checking):
    """`exchange.model.ports.Keys` on top of `p2p.base.identity`."""

    def __init__(self, identity: Identity) -> None:
        self.node_id = identity.node_id
        self.public_key = identity.public_key
        self.sign = identity.sign
