"""Routing table: nodes that have answered, in buckets by their distance from the own id (BEP 5).

Distance is the XOR of ids. Service names, which have any length, are compared over the bytes that both
have: the Node.js Grape counts every missing byte as 255, which is the same for all nodes and so
    changes no order. Of nodes at an equal distance from a very short name the lower id comes first
    here. (For names above 128 bytes its distances are all infinite, and its choice of nodes is
    arbitrary.)

Only a node that has answered a query is added, so neither a forged sender nor one that never
answers gets in. An address has one id: when another id answers from it, the old one is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf
from typing import Final

from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.krpc import ID_BYTES, DhtContact
from p2p.grenache.directory import Address

BITS: Final = ID_BYTES * 8
SPARES: Final = 8  # spare nodes of a full bucket
DOUBTFUL_AFTER: Final = 2  # queries in a row without an answer: no longer relied on
FORGET_AFTER: Final = 900.0  # seconds without an answer
JUST_NOW: Final = 0.1  # seconds
RETRY_FIRST: Final = 2.0  # seconds; doubles with each failure
RETRY_MAX: Final = 60.0


def number(target: bytes) -> int:
    """Return a node id or a name as a number for the XOR distance."""
    return int.from_bytes(target[:ID_BYTES].ljust(ID_BYTES, b"\0"), "big")


class Contact:
    """Node that has answered a query."""

    __slots__ = (
        "address",
        "compact",
        "failures",
        "heard",
        "id",
        "kind",
        "next_check",
        "number",
        "spare",
    )

    def __init__(self, node_id: bytes, address: Address) -> None:
        self.id = node_id
        self.address = address
        self.number = number(node_id)
        self.compact = DhtContact(node_id, address).compact()
        self.heard = -inf  # last answer
        self.failures = 0  # unanswered queries in a row
        self.next_check = -inf
        self.kind = b""
        self.spare = False

    @property
    def doubtful(self) -> bool:
        return self.failures >= DOUBTFUL_AFTER

    def answered_just_now(self, now: float, node_id: bytes) -> bool:
        """Return True if this node's last answer is so recent that another one changes nothing."""
        return now - self.heard < JUST_NOW and not self.failures and self.id == node_id


class RoutingTable:
    """Buckets of K contacts each, by the number of leading bits that an id shares with the own
    id."""

    def __init__(self, own_id: bytes, liveness: float) -> None:
        self._own = number(own_id)
        self._own_id = own_id
        self._liveness = liveness
        self._buckets: list[list[Contact]] = [[] for _ in range(BITS)]
        self._spares: list[list[Contact]] = [[] for _ in range(BITS)]
        self._by_address: dict[Address, Contact] = {}
        self._by_id: dict[bytes, Contact] = {}

    def at(self, address: Address) -> Contact | None:
        return self._by_address.get(address)

    def __iter__(self) -> Iterator[Contact]:
        return (contact for contact in self._by_address.values() if not contact.spare)

    def __bool__(self) -> bool:
        """Return True if there is a good contact."""
        return any(not contact.doubtful for contact in self)

    def __len__(self) -> int:
        """Contacts that can be relied on."""
        return sum(not contact.doubtful for contact in self)

    def fewer_than(self, n: int) -> bool:
        """Return True if there are fewer than `n` good contacts."""
        reliable = (contact for contact in self if not contact.doubtful)
        return sum(1 for _ in islice(reliable, n)) < n

    def lacks(self, index: int) -> bool:
        """Return True if a bucket needs more contacts."""
        return len(self._buckets[index]) < K // 2

    def gaps(self) -> list[int]:
        """Return the buckets that need more contacts, except those nearest to the own id, which a
        search for it fills."""
        gaps = []
        nearer = len(self)
        for index, bucket in enumerate(self._buckets):
            if nearer < K:
                break
            if self.lacks(index):
                gaps.append(index)
            nearer -= sum(not contact.doubtful for contact in bucket)
        return gaps

    def wants(self, node_id: bytes, address: Address) -> bool:
        """Return True if an unknown node should be pinged."""
        if node_id == self._own_id:
            return False
        contact = self._by_address.get(address)
        if contact is not None:
            return contact.id != node_id or contact.failures > 0
        index = self._index(number(node_id))
        return (
            len(self._buckets[index]) < K
            or len(self._spares[index]) < SPARES
            or any(contact.doubtful for contact in self._buckets[index])
        )

    def heard(self, now: float, node_id: bytes, address: Address, kind: bytes) -> bool:
        """Record an answer of a node. Returns True if it is new, or back after failing."""
        if node_id == self._own_id:
            return False
        contact = self._by_address.get(address)
        if contact is not None and contact.id != node_id:
            self.remove(contact)  # another process has taken its place
            contact = None
        if contact is None:
            namesake = self._by_id.get(node_id)
            if namesake is not None:
                if not namesake.failures:
                    namesake.next_check = now  # the id belongs to the node that answers
                    return False
                self.remove(namesake)
            contact = Contact(node_id, address)
            self._insert(contact)
            news = True
        else:
            news = contact.doubtful
        contact.heard = now
        contact.failures = 0
        contact.kind = kind
        contact.next_check = now + self._liveness
        return news

    def failed(self, now: float, address: Address) -> None:
        """Record an unanswered query to that address."""
        contact = self._by_address.get(address)
        if contact is None:
            return
        contact.failures += 1
        if contact.spare or now - contact.heard >= FORGET_AFTER:
            self.remove(contact)
        elif contact.doubtful:
            wait = RETRY_FIRST * 2 ** min(contact.failures - DOUBTFUL_AFTER, 10)
            contact.next_check = now + min(wait, RETRY_MAX)
            if self._spares[self._index(contact.number)]:
                self.remove(contact)
        else:
            contact.next_check = now

    def remove(self, contact: Contact) -> None:
        """Remove a contact; the latest spare replaces it."""
        del self._by_address[contact.address]
        del self._by_id[contact.id]
        index = self._index(contact.number)
        spares = self._spares[index]
        if contact.spare:
            spares.remove(contact)
            return
        self._buckets[index].remove(contact)
        if spares:
            successor = spares.pop()
            successor.spare = False
            self._buckets[index].append(successor)

    def due(self, now: float) -> list[Contact]:
        """Return the contacts to ping now; not again for five seconds."""
        contacts = [
            contact
            for contact in self._by_address.values()
            if contact.next_check <= now and not contact.spare
        ]
        for contact in contacts:
            contact.next_check = now + 5.0
        return contacts

    def closest(self, target: bytes, n: int = K, *, doubtful: bool = False) -> list[Contact]:
        """Return at most `n` good (or other) contacts, the closest first."""
        if len(self._by_address) <= n:  # a small network: all of them
            found = self._usable(self._by_address.values(), doubtful)
            if len(found) > 1:
                goal = number(target)
                found.sort(key=lambda contact: contact.number ^ goal)
            return found
        goal = number(target)
        nearest = self._index(goal)
        found = self._usable(self._buckets[nearest], doubtful)
        if len(found) < n:
            # Contacts closer to the own id than the target differ from the target in the same first
            # bit; after them come the buckets further away, in order.
            for bucket in self._buckets[nearest + 1 :]:
                if bucket:
                    found += self._usable(bucket, doubtful)
            for index in range(nearest - 1, -1, -1):
                if len(found) >= n:
                    break
                found += self._usable(self._buckets[index], doubtful)
        found.sort(key=lambda contact: contact.number ^ goal)
        return found[:n]

    @staticmethod
    def _usable(bucket: Iterable[Contact], doubtful: bool) -> list[Contact]:
        return [c for c in bucket if (c.failures >= DOUBTFUL_AFTER) is doubtful and not c.spare]

    def _insert(self, contact: Contact) -> None:
        self._by_address[contact.address] = contact
        self._by_id[contact.id] = contact
        index = self._index(contact.number)
        bucket = self._buckets[index]
        if len(bucket) >= K:
            worst = max(bucket, key=lambda other: other.failures)
            if not worst.doubtful:
                contact.spare = True
                spares = self._spares[index]
                spares.append(contact)
                if len(spares) > SPARES:
                    self.remove(spares[0])
                return
            self.remove(worst)
        bucket.append(contact)

    def _index(self, other: int) -> int:
        """Return the number of leading bits shared with the own id; for the own id, the last
        bucket."""
        return min(BITS - (other ^ self._own).bit_length(), BITS - 1)
