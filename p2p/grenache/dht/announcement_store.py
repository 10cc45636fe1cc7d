"""Announcement store: addresses of services, announced at this DHT node, each for a fixed time."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import TypeVar

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
