"""Announcements made at this node itself, and the address in each of them.

A DHT node records the address from which an announcement came. An announcement made at this node
has none, so its address is the first known of:

1. the address that was given with the announcement,
2. `public_host` of the settings,
3. the address that the own socket is bound to, unless it is a wildcard,
4. the source address of own datagrams as other nodes report it (`seen_as`; Grapes of this project
do).

While none is known, a requester on this machine gets 127.0.0.1 and a DHT node elsewhere nothing,
since 127.0.0.1 would lead it to itself. It finds the entry at other nodes, which saw the own
address. A client of the HTTP API on another machine gets the address over which it reached this
machine.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from p2p.base.reach import Reach, reach
from p2p.grenache.dht.compact_addresses import pack
from p2p.ground.bounded_map import BoundedMap

LOCAL_HOST = "127.0.0.1"


class _Entry:
    __slots__ = ("expires", "holders")

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.holders = 0  # other nodes that store it


class OwnEntries:
    """Own announcements, bounded; the oldest are evicted. Each lives for `max_age` seconds from its
    last announcement."""

    def __init__(self, max_age: float, limit: int, own_host: Callable[[], str | None]) -> None:
        self._max_age = max_age
        self._limit = limit
        self._services: dict[bytes, dict[tuple[int, str | None], _Entry]] = {}
        self._order: OrderedDict[tuple[bytes, int, str | None], _Entry] = OrderedDict()
        self._own_host = own_host  # the first known of 2 to 4

    def add(self, now: float, service: bytes, port: int, host: str | None) -> None:
        self.expire(now)
        known = self._order.get((service, port, host))
        if known is not None:
            known.expires = now + self._max_age
            self._order.move_to_end((service, port, host))
            return
        if len(self._order) >= self._limit:
            self.remove(*next(iter(self._order)))
        entry = self._order[service, port, host] = _Entry(now + self._max_age)
        self._services.setdefault(service, {})[port, host] = entry

    def remove(self, service: bytes, port: int, host: str | None) -> bool:
        """Remove an announcement; return True if it was stored."""
        if self._order.pop((service, port, host), None) is None:
            return False
        ports = self._services[service]
        del ports[port, host]
        if not ports:
            del self._services[service]
        return True

    def holds(self, service: bytes, port: int, host: str | None) -> bool:
        """Return True if the announcement is stored."""
        return (service, port, host) in self._order

    def held_by(self, service: bytes, port: int, host: str | None, holders: int) -> None:
        """Record the number of other nodes that store the announcement."""
        entry = self._order.get((service, port, host))
        if entry is not None:
            entry.holders = holders

    def expire(self, now: float) -> None:
        while self._order:
            key, entry = next(iter(self._order.items()))
            if now < entry.expires:
                return
            self.remove(*key)

    def told(self, now: float, service: bytes, asker: str) -> list[bytes]:
        """Return compact addresses for a DHT node at an IP address."""
        near = reach(asker) is Reach.LOOPBACK
        return [
            pack((host or LOCAL_HOST, port))
            for port, host, _ in self._resolved(now, service)
            if near or (host is not None and reach(host) is not Reach.LOOPBACK)
        ]

    def listed(self, now: float, service: bytes, others: list[bytes]) -> list[bytes]:
        """Return the addresses that a lookup at this node adds to the answers of `others`. While
        the own address is unknown, an entry stored at other nodes is among theirs, with the address
        that they saw; adding it here would list the same worker twice.
        """
        ports = {int.from_bytes(peer[4:], "big") for peer in others}
        return [
            pack((host or LOCAL_HOST, port))
            for port, host, entry in self._resolved(now, service)
            if host is not None or not entry.holders or port not in ports
        ]

    def has(self, now: float, service: bytes) -> bool:
        self.expire(now)
        return service in self._services

    def _resolved(self, now: float, service: bytes) -> Iterator[tuple[int, str | None, _Entry]]:
        self.expire(now)
        entries = self._services.get(service)
        if entries:
            default = self._own_host()
            for (port, host), entry in entries.items():
                yield port, host or default, entry

    def __len__(self) -> int:
        return len(self._order)


MAX_VOTERS: Final = 32  # the latest; one vote per IP address


class SeenAs:
    """Votes of answering nodes about the own address. A node on this machine sees 127.0.0.1, a node
    in the local network perhaps 192.168.1.5, a node outside the router's public address. The votes
    with the widest reach count, and among them the majority.
    """

    def __init__(self) -> None:
        self._votes: BoundedMap[str, str] = BoundedMap(MAX_VOTERS)  # voter -> address that it sees
        self._best: tuple[str | None, int] = (None, 0)

    def vote(self, voter: str, host: str) -> None:
        if self._votes.get(voter) == host:
            self._votes.renew(voter)
            return
        if reach(host) is not reach(voter):
            return  # no node sees the address of a wider network, and none has a say about a narrower one
        self._votes[voter] = host
        self._best = self._count()

    def best(self) -> tuple[str | None, int]:
        """Return the address and its number of votes."""
        return self._best

    def _count(self) -> tuple[str | None, int]:
        widest = max((reach(host) for host in self._votes.values()), default=Reach.NONE)
        hosts = Counter(host for host in self._votes.values() if reach(host) is widest)
        return max(hosts.items(), key=lambda item: item[1]) if hosts else (None, 0)
