"""Relayed messages: signature of the origin, copies, hops, and fair shares of those of others. No I/O.

Theory of operation. A message for a node without a link travels over other nodes. Its origin signs it
(`signed_bytes`) with the key that its node id derives from. Every node on the way checks the signature once and
never for a copy, so a forged message dies at the first honest node, and the link that brought it is charged. What
exceeds the shares of `p2p.mesh.relay_shares` is refused.

Rules of this file:
- A message counts as seen only after its signature was checked: a forged copy must not shut out the true one.
- `id` is random, so that equal messages differ; it is part of what is signed.
"""

from __future__ import annotations

import random
from hashlib import blake2b

from msgspec import Raw

from p2p.base.identity import (
    NODE_ID_LENGTH,
    PUBLIC_KEY_LENGTH,
    SIGNATURE_LENGTH,
    Identity,
    node_id_of,
    verify,
)
from p2p.ground.seen_window import SeenWindow
from p2p.mesh.broadcast_tree import ID_LENGTH
from p2p.mesh.relay_shares import RelayRefusal, RelayShares
from p2p.mesh.routed_messages import MAX_PAYLOAD, Outgoing, RouterSettings
from p2p.wire.messages import Envelope, signed_bytes


class ForgedMessage(ValueError):
    """A relayed message that no honest node passes on."""


class Relay:
    """Signs relayed messages of this node, accepts those of others and passes them on, within their shares."""

    def __init__(self, identity: Identity, rng: random.Random, settings: RouterSettings) -> None:
        self.shares: RelayShares[Outgoing] = RelayShares(settings.relay_rate)
        self.counters: dict[str, int] = {
            "relayed": 0,  # for others
            "relay_too_far": 0,
            "relay_refused": 0,  # beyond the limits of `p2p.mesh.relay_shares`
            "relay_duplicates": 0,
            "forged": 0,
        }
        self._identity = identity
        self._rng = rng
        self._seen = SeenWindow(settings.seen_ttl, settings.seen_max)
        self._max_hops = settings.max_hops

    def sign(self, now: float, envelope: Envelope) -> None:
        """Add id, key and signature to an own message."""
        envelope.id = self._rng.randbytes(ID_LENGTH)
        signed = signed_bytes(envelope)
        envelope.key = self._identity.public_key
        envelope.sig = self._identity.sign(signed)
        self._seen.add(now, _digest(signed), "")

    def accept(self, now: float, link: str, envelope: Envelope) -> bool:
        """Return True for a new message whose origin is proven, False for one to ignore.

        Raises:
            ForgedMessage: the link has to be charged.
        """
        key, sig = envelope.key, envelope.sig
        if (
            key is None
            or sig is None
            or len(key) != PUBLIC_KEY_LENGTH
            or len(sig) != SIGNATURE_LENGTH
            or envelope.id is None
            or len(envelope.id) != ID_LENGTH
            or len(envelope.to) != NODE_ID_LENGTH
            or envelope.hops < 0
            or len(envelope.payload) > MAX_PAYLOAD
        ):
            raise ForgedMessage("a relayed message whose envelope is not valid")
        if envelope.hops >= self._max_hops:
            self.counters["relay_too_far"] += 1
            return False
        signed = signed_bytes(envelope)
        digest = _digest(signed)
        if digest in self._seen:
            self.counters["relay_duplicates"] += 1
            return False
        if node_id_of(key) != envelope.from_ or not verify(key, sig, signed):
            self.counters["forged"] += 1
            raise ForgedMessage("a relayed message that its origin did not sign")
        self._seen.add(now, digest, link)
        return True

    def offer(self, now: float, link: str, envelope: Envelope, onward: str) -> RelayRefusal | None:
        """Take a message that `link` brought, to be sent to the peer `onward` when `due` returns it."""
        item = Outgoing((onward,), _next_hop(envelope))
        size = len(envelope.payload)
        refusal = self.shares.offer(now, envelope.from_, envelope.to, link, size, item)
        if refusal is not None:
            self.counters["relay_refused"] += 1
        return refusal

    def due(self, now: float) -> list[Outgoing]:
        """Return the messages of others to send now."""
        found = self.shares.due(now)
        self.counters["relayed"] += len(found)
        return found


def _next_hop(envelope: Envelope) -> Envelope:
    """Return the envelope for the next node on the way."""
    return Envelope(
        type=envelope.type,
        from_=envelope.from_,
        to=envelope.to,
        timestamp=envelope.timestamp,
        payload=Raw(bytes(envelope.payload)),  # copied: the frame's buffer is reused
        id=envelope.id,
        hops=envelope.hops + 1,
        key=envelope.key,
        sig=envelope.sig,
    )


def _digest(signed: bytes) -> bytes:
    return blake2b(signed, digest_size=ID_LENGTH, person=b"exnode relay").digest()
