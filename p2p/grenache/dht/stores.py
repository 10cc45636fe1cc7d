"""Stores of a DHT node: values (BEP 44), with checked signatures, and announcements of services, each for a fixed time."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha1
from math import inf
from typing import TypeVar

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


_Entry = tuple[bytes, bytes]  # service, compact address
_Group = TypeVar("_Group", bytes, str)
_Item = TypeVar("_Item", bytes, _Entry)


class AnnouncementStore:
    """Announcements, bounded in all, per service and per source; the oldest are evicted. Every
    entry lives for exactly `max_age` seconds from its last announcement, so entries expire in the
    order of announcement, and expiry checks only the oldest.
    """

    def __init__(
        self, max_age: float, max_peers: int, max_per_service: int, max_per_source: int
    ) -> None:
        self._max_age = max_age
        self._max_peers = max_peers
        self._max_per_service = max_per_service
        self._max_per_source = max_per_source
        self._entries: OrderedDict[_Entry, tuple[float, str]] = OrderedDict()  # expiry, source
        self._services: dict[bytes, OrderedDict[bytes, None]] = {}
        self._sources: dict[str, OrderedDict[_Entry, None]] = {}

    def add(self, now: float, service: bytes, peer: bytes, source: str) -> None:
        """Add or renew the announcement by `source` that `peer` (compact) serves `service`."""
        self.expire(now)
        known = self._entries.get((service, peer))
        if known is not None and known[1] == source:
            self._renew(now, service, peer, source)
            return
        self.remove(service, peer)
        of_service = self._services.get(service)
        if of_service is not None and len(of_service) >= self._max_per_service:
            self.remove(service, next(iter(of_service)))
        of_source = self._sources.get(source)
        if of_source is not None and len(of_source) >= self._max_per_source:
            self.remove(*next(iter(of_source)))
        if len(self._entries) >= self._max_peers:
            self.remove(*next(iter(self._entries)))
        self._entries[service, peer] = (now + self._max_age, source)
        self._services.setdefault(service, OrderedDict())[peer] = None
        self._sources.setdefault(source, OrderedDict())[service, peer] = None

    def _renew(self, now: float, service: bytes, peer: bytes, source: str) -> None:
        self._entries[service, peer] = (now + self._max_age, source)
        self._entries.move_to_end((service, peer))
        self._services[service].move_to_end(peer)
        self._sources[source].move_to_end((service, peer))

    def remove(self, service: bytes, peer: bytes) -> bool:
        """Remove an announcement; return True if it was stored."""
        entry = self._entries.pop((service, peer), None)
        if entry is None:
            return False
        _drop(self._services, service, peer)
        _drop(self._sources, entry[1], (service, peer))
        return True

    def get(self, now: float, service: bytes, limit: int, rng: random.Random) -> list[bytes]:
        """Return at most `limit` addresses of `service`, compact, in random order."""
        self.expire(now)
        peers = list(self._services.get(service, ()))
        return rng.sample(peers, min(limit, len(peers)))

    def has(self, now: float, service: bytes) -> bool:
        self.expire(now)
        return service in self._services

    def expire(self, now: float) -> None:
        """Remove the expired entries."""
        while self._entries:
            entry, (expiry, _) = next(iter(self._entries.items()))
            if now < expiry:
                return
            self.remove(*entry)

    def __len__(self) -> int:
        return len(self._entries)


def _drop(groups: dict[_Group, OrderedDict[_Item, None]], group: _Group, item: _Item) -> None:
    items = groups[group]
    del items[item]
    if not items:
        del groups[group]
