"""Relayed messages: signature of the origin, copies, hops. No I/O.

Theory of operation. A message for a node without a link travels over other nodes. Its origin signs it
(`signed_bytes`) with the key that its node id derives from. Every node on the way checks the signature once and
never for a copy, so a forged message dies at the first honest node, and the link that brought it is charged.

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
from p2p.mesh.routed_messages import MAX_PAYLOAD
from p2p.wire.messages import Envelope, signed_bytes


class ForgedMessage(ValueError):
    """A relayed message that no honest node passes on."""


class Relay:
    """Signs relayed messages of this node, and accepts those of others. Counts in `counters`."""

    def __init__(
        self,
        identity: Identity,
        rng: random.Random,
        counters: dict[str, int],
        *,
        seen: SeenWindow,
        max_hops: int,
    ) -> None:
        self._identity = identity
        self._rng = rng
        self._counters = counters
        self._seen = seen
        self._max_hops = max_hops

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
            self._counters["relay_too_far"] += 1
            return False
        signed = signed_bytes(envelope)
        digest = _digest(signed)
        if digest in self._seen:
            self._counters["relay_duplicates"] += 1
            return False
        if node_id_of(key) != envelope.from_ or not verify(key, sig, signed):
            self._counters["forged"] += 1
            raise ForgedMessage("a relayed message that its origin did not sign")
        self._seen.add(now, digest, link)
        return True


def next_hop(envelope: Envelope) -> Envelope:
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
