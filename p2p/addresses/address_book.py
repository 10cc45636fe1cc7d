"""Address book: known addresses of peers, their bounds, and the outcomes of dials. Pure: no I/O, no clock.

An address is *untried* until a dial has proven the node there; then it is *tried*. Anyone can send
addresses, so untried ones are bounded for each source and in all, and never push out tried ones.
Addresses that the operator configured are *pinned*: never forgotten, and dialled first.

Poisoning is bounded by buckets (after Bitcoin Core). An untried address falls into one of a few buckets that follow
from the network group of its source under a secret key, so one source group reaches a small part of the book, however
many addresses it sends. Tried addresses have buckets by their own group; when one overflows, its oldest entry is
dialled as a test, and stays if it answers. `p2p.addresses.dial_choice` spreads the dials.

An address belongs to one carrier. An address for Grenache serves a node without a link and is
dialled some time after it was found, so that a direct link comes first. A node that is linked over
Grenache alone is still dialled at its TCP addresses.

Times: `now` is in monotonic seconds; `at`, for what is kept over a restart, in seconds since the
epoch. Node ids are claims while an address is untried, proven once it is tried.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from p2p.addresses.address import INBOUND, MANUAL, Address, Key, PeerFound, priority, quality
from p2p.addresses.reconnect import Reconnect, Wait, rung_after_link
from p2p.addresses.tip_budget import is_tip, tip_wait
from p2p.base.host_port import normal_host
from p2p.base.limits import FORGET_AFTER_FAILURES, MAX_ADDRESSES_PER_SOURCE, MAX_KNOWN_ADDRESSES
from p2p.base.network_group import is_local, keyed, network_group
from p2p.base.reach import Reach, reach
from p2p.wire.link import Carrier

BOOTSTRAP_PIN: Final = 1000.0  # seconds; a name that stops resolving to an address unpins it
MAX_ADDRESSES_PER_NODE: Final = 4  # a node that restarts on new ports leaves this many behind
FEELER_DELAY: Final = (
    0.3  # seconds from an inbound link to the dial back: its own side comes up first
)
REANNOUNCED_AFTER: Final = 5.0  # seconds between dials that fresh mDNS announcements can cause
GRENACHE_DELAY: Final = 4.0  # seconds by which a due dial over Grenache is delayed

NEW_BUCKETS: Final = 256  # of untried addresses ...
NEW_BUCKETS_PER_SOURCE: Final = 8  # ... of which one source group reaches this many
NEW_BUCKET_SIZE: Final = 16
TRIED_BUCKETS: Final = 64  # of tried addresses ...
TRIED_BUCKETS_PER_GROUP: Final = 4  # ... of which one group of addresses reaches this many
TRIED_BUCKET_SIZE: Final = 8


class AddressBook:
    """All known addresses. Iterating yields them in the order in which they were added."""

    def __init__(
        self,
        own_id: str,
        reconnect: Reconnect,
        *,
        limit: int = MAX_KNOWN_ADDRESSES,
        per_source: int = MAX_ADDRESSES_PER_SOURCE,
        key: bytes = b"",
        is_own: Callable[[str], bool] = lambda host: False,
    ) -> None:
        """Make an empty book. `key`: secret of this run, which decides the buckets. `is_own`: a host is this machine."""
        self.grenache_delay = GRENACHE_DELAY  # seconds; 0 without direct links
        self._own_id = own_id
        self._reconnect = reconnect
        self._limit = limit
        self._per_source = per_source
        self._key = key
        self._is_own = is_own
        self._all: dict[Key, Address] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Address]:
        return iter(list(self._all.values()))

    def pinned_nodes(self, now: float) -> set[str]:
        """Return the nodes that were reached at a pinned address."""
        return {a.node_id for a in self._all.values() if a.node_id and a.tried and a.pinned(now)}

    def get(self, host: str, port: int, carrier: Carrier = "tcp") -> Address | None:
        return self._all.get((carrier, normal_host(host), port))

    def of(self, node_id: str) -> list[Address]:
        """Return the addresses of a node, claimed or proven, the best first."""
        return sorted(
            (a for a in self._all.values() if a.node_id == node_id and not a.ourselves),
            key=quality,
        )

    def proven(self, node_id: str, carrier: Carrier = "tcp") -> Address | None:
        """Return the address of this carrier at which the node was last reached, None if it never was."""
        return next((a for a in self.of(node_id) if a.tried and a.carrier == carrier), None)

    # -- addresses --------------------------------------------------------------------------------

    def add(self, found: PeerFound, now: float) -> Address | None:
        """Add an address from a strategy. Returns None if it is not to be dialled or there is no room
        for it.
        """
        if found.node_id == self._own_id or not found.usable or self._leads_back(found):
            return None
        known = self.get(found.host, found.port, found.carrier)
        if known is not None:
            return self._renew(known, found, now)
        host = normal_host(found.host)
        fresh = Address(host, found.port, found.node_id, found.source, found.via, found.carrier)
        fresh.added = now
        fresh.next_dial = now + self._delay(fresh)
        fresh.teller = _teller(found)
        fresh.bucket = self._new_bucket(found)
        if found.source == INBOUND:
            fresh.next_dial += FEELER_DELAY
        self._pin(fresh, found.source, now)
        if not self._make_room(fresh, now):
            return None
        self._all[fresh.key] = fresh
        return fresh

    def _leads_back(self, found: PeerFound) -> bool:
        """Return True for an address of this machine that a peer elsewhere named: one on this machine knows its nodes."""
        teller = found.via_address
        if found.source != "exchange" or not teller or reach(teller) is Reach.LOOPBACK:
            return False
        return self._is_own(found.host) and not self._is_own(teller)

    def restore(self, address: Address, now: float) -> None:
        """Restore an address of an earlier run, as tried."""
        if address.node_id != self._own_id and len(self._all) < self._limit:
            address.tried, address.next_dial = True, now + self._delay(address)
            self._all.setdefault(address.key, address)

    def remove(self, address: Address) -> None:
        if self._all.get(address.key) is address:
            del self._all[address.key]

    def _delay(self, address: Address) -> float:
        return self.grenache_delay if address.carrier == "grenache" else 0.0

    def _renew(self, known: Address, found: PeerFound, now: float) -> Address | None:
        if known.ourselves:
            return None
        self._pin(known, found.source, now)
        if priority(found.source) < priority(known.source):
            known.source, known.via = found.source, found.via
        lives = found.source == "mdns"  # announced from there just now
        if found.node_id is not None and found.node_id != known.node_id:
            if known.node_id is None and not known.tried:
                known.node_id = found.node_id
            elif lives:
                # Another node has taken over the address (a new key, a reused port).
                known.node_id, known.tried, known.refused = found.node_id, False, False
        if found.source == INBOUND and not known.tried:
            known.next_dial = max(known.next_dial, now + FEELER_DELAY)
        if lives and not known.refused:
            known.next_dial = min(known.next_dial, max(now, known.last_attempt + REANNOUNCED_AFTER))
        return known

    def _pin(self, address: Address, source: str, now: float) -> None:
        if source == MANUAL:
            address.pinned_until = math.inf
        elif source == "bootstrap":
            address.pinned_until = max(address.pinned_until, now + BOOTSTRAP_PIN)

    def _make_room(self, fresh: Address, now: float) -> bool:
        if fresh.pinned(now):
            return True  # configured by the operator: a handful, not bounded here
        if fresh.node_id is not None:
            same_node = [a for a in self.of(fresh.node_id) if a.carrier == fresh.carrier]
            if len(same_node) >= MAX_ADDRESSES_PER_NODE and not self._drop_failing(same_node, now):
                return False
        mine = [a for a in self._untried(now) if _origin(a) == _origin(fresh)]
        if len(mine) >= self._per_source and not self._drop_failing(mine, now):
            return False
        bucket = [a for a in self._untried(now) if a.bucket == fresh.bucket]
        if len(bucket) >= NEW_BUCKET_SIZE and not self._drop_failing(bucket, now):
            return False
        if len(self._all) < self._limit:
            return True
        return self._drop_of_largest_source(now)

    def _drop_failing(self, some: Iterable[Address], now: float) -> bool:
        failing = [a for a in some if a.failures and not a.pinned(now)]
        if failing:
            self.remove(max(failing, key=quality))
        return bool(failing)

    def _drop_of_largest_source(self, now: float) -> bool:
        by_source: dict[tuple[Carrier, str, str], list[Address]] = {}
        for address in self._untried(now):
            by_source.setdefault(_origin(address), []).append(address)
        if not by_source:
            return False
        largest = max(by_source.values(), key=len)
        self.remove(max(largest, key=lambda a: (a.failures, -a.added)))
        return True

    def _new_bucket(self, found: PeerFound) -> int:
        source = _teller(found)
        group = network_group(found.host)
        slot = keyed(self._key, "slot", source, group) % NEW_BUCKETS_PER_SOURCE
        return keyed(self._key, "new", source, str(slot)) % NEW_BUCKETS

    def _tried_bucket(self, address: Address) -> int:
        group = network_group(address.host)
        slot = keyed(self._key, "slot", str(address.key)) % TRIED_BUCKETS_PER_GROUP
        return keyed(self._key, "tried", group, str(slot)) % TRIED_BUCKETS

    def _bound_tried(self, proven: Address, now: float) -> None:
        """Test the oldest entry of the tried bucket of an address that was just proven, if it overflows."""
        if is_local(proven.host):
            return
        bucket = self._tried_bucket(proven)
        others = [
            a
            for a in self._all.values()
            if a.tried
            and a is not proven
            and not (a.anchor or a.pinned(now) or is_local(a.host))
            and self._tried_bucket(a) == bucket
        ]
        if len(others) < TRIED_BUCKET_SIZE or any(a.tested for a in others):
            if proven.tested and len(others) >= TRIED_BUCKET_SIZE:
                # The tested entry answered: the youngest of the others goes back to the untried ones.
                max(others, key=lambda a: a.added).tried = False
            proven.tested = False
            return
        if proven.tested:
            max(others, key=lambda a: a.added).tried = False
            proven.tested = False
            return
        oldest = min(others, key=lambda a: a.last_success or 0.0)
        oldest.tested, oldest.next_dial = True, now

    def _untried(self, now: float) -> list[Address]:
        return [a for a in self._all.values() if not a.tried and not a.pinned(now)]

    # -- outcomes of dials and links ----------------------------------------------------------------

    def attempt(self, address: Address, now: float) -> None:
        address.last_attempt = now

    def succeeded(self, address: Address, node_id: str, at: float, now: float) -> None:
        """Record a dial that proved `node_id` at the address. The link resets the ladder later."""
        address.node_id, address.tried, address.last_success = node_id, True, at
        address.failures, address.last_error = 0, None
        address.refused = address.duplicate = False
        self._all.setdefault(address.key, address)
        self._bound_tried(address, now)

    def failed(
        self,
        address: Address,
        now: float,
        rng: random.Random,
        error: str,
        wait: Wait = Wait.LADDER,
    ) -> bool:
        """Record a failed dial. Returns True if the address was forgotten because of it."""
        address.failures += 1
        address.rung += 1
        address.last_error = error
        address.refused = wait is Wait.LONG
        pause = self._reconnect.wait(address.rung, rng, wait)
        address.next_dial = now + (max(pause, tip_wait(address)) if is_tip(address, now) else pause)
        if address.tested:
            address.tested = address.tried = False  # evicted from its bucket
        if address.failures < FORGET_AFTER_FAILURES or address.pinned(now):
            return False
        self.remove(address)
        return True

    def is_ourselves(self, address: Address) -> None:
        """Record that a dial reached this node itself, so that the address is not dialled again."""
        address.ourselves, address.tried, address.node_id = True, False, None
        address.next_dial = math.inf

    def is_duplicate(self, address: Address, now: float, rng: random.Random) -> None:
        """Record that the address leads to a connected peer whose id was not learned."""
        address.failures, address.last_error, address.duplicate = 0, None, True
        address.rung = max(address.rung, len(self._reconnect.ladder)) + 1
        address.next_dial = now + self._reconnect.wait(address.rung, rng)

    def defer(self, address: Address, now: float, rng: random.Random) -> None:
        """Climb the ladder without counting a failure: a peer answered, but no link was made."""
        address.rung += 1
        address.next_dial = max(address.next_dial, now + self._reconnect.wait(address.rung, rng))

    def link_lost(
        self,
        node_id: str,
        lasted: float,
        now: float,
        at: float,
        rng: random.Random,
        wait: Wait = Wait.LADDER,
        carrier: Carrier = "tcp",
    ) -> None:
        """Record the end of a link to the node after `lasted` seconds. `wait`: consequence of its end."""
        for address in self._all.values():
            if address.node_id == node_id and (
                address.carrier == carrier or wait is not Wait.LADDER
            ):
                address.rung = rung_after_link(address.rung, lasted)
                address.refused = wait is Wait.LONG
                pause = self._reconnect.wait(address.rung, rng, wait)
                address.next_dial = now + self._delay(address) + pause
                if address.tried and address.carrier == carrier:
                    address.last_success = at
            elif address.node_id == node_id or address.duplicate:
                # Another address of the node, or perhaps one. It keeps its rung of the ladder.
                if address.duplicate:
                    address.duplicate, address.rung = False, 1
                soon = now + self._delay(address) + self._reconnect.wait(1, rng)
                address.next_dial = min(address.next_dial, soon)
                if address.carrier == "grenache":
                    address.next_dial = max(address.next_dial, now + self._delay(address))


def _teller(found: PeerFound) -> str:
    return network_group(found.via_address) if found.via_address else f"{found.source} {found.via}"


def _origin(address: Address) -> tuple[Carrier, str, str]:
    """Return the key of the source of an address; the number of addresses of one source is bounded."""
    return (address.carrier, address.source, address.via)
