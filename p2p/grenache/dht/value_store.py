"""Value store: values stored at this node (BEP 44), with checked signatures."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from math import inf

from p2p.grenache.bep44 import mutable_key, signature_fits
from p2p.grenache.dht import bencode
from p2p.grenache.dht.krpc import CAS_MISMATCH, SEQ_TOO_LOW
from p2p.ground.bounded_map import BoundedMap

REFUSALS = {
    CAS_MISMATCH: "CAS mismatch, re-read and try again",
    SEQ_TOO_LOW: "sequence number less than current",
}


@dataclass(frozen=True, slots=True)
class Item:
    """Stored value: canonical bencode, signed if it has a `public_key`."""

    value: bytes
    public_key: bytes | None = None
    seq: int = 0
    signature: bytes = b""
    salt: bytes = b""

    def key(self) -> bytes:
        """Key of 20 bytes."""
        if self.public_key is None:
            return sha1(self.value, usedforsecurity=False).digest()
        return mutable_key(self.public_key, self.salt)

    def signed(self) -> bool:
        """Return True if the signature is valid. An immutable value needs none."""
        return self.public_key is None or signature_fits(
            self.public_key, self.signature, self.seq, self.value, self.salt
        )

    def content(self) -> bytes:
        """Value for applications: a byte string as it is, a number as digits, other types as
        bencode."""
        value = bencode.decode(self.value)
        if isinstance(value, bytes):
            return value
        return b"%d" % value if isinstance(value, int) else self.value


def conflict(current: Item | None, new: Item, cas: int | None) -> int | None:
    """Reason why `new` may not replace `current`: CAS_MISMATCH, SEQ_TOO_LOW, or None if it may.

    The same version with the same value may be put again: it renews its age.
    """
    if current is None or new.public_key is None:
        return None
    if cas is not None and current.seq != cas:
        return CAS_MISMATCH
    if new.seq < current.seq or (new.seq == current.seq and new.value != current.value):
        return SEQ_TOO_LOW
    return None


class ValueStore:
    """The last `limit` values put or requested, each for at most `max_age` seconds."""

    def __init__(self, max_age: float, limit: int) -> None:
        self._max_age = max_age
        self._items: BoundedMap[bytes, tuple[float, Item]] = BoundedMap(limit)

    def put(self, now: float, item: Item) -> None:
        """Store an item whose signature and `conflict` were checked."""
        self._items[item.key()] = (now + self._max_age, item)

    def get(self, now: float, key: bytes) -> Item | None:
        expires, item = self._items.get(key, (inf, None))
        if item is None:
            return None
        if now >= expires:
            del self._items[key]
            return None
        self._items.renew(key)
        return item

    def __len__(self) -> int:
        return len(self._items)
