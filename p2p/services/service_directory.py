"""Service directory: signed, leased announcements of services over the mesh. No I/O.

A node that offers services announces them every `interval`, with a lease of a few intervals that each
receiver counts from arrival by its own clock. It announces soon after a change, when a new node appears,
and when it leaves (an empty list, which takes effect at once).

Every announcement reaches every node, so their number must not grow with the network: from STRETCH_FROM providers on,
intervals and leases grow with their number, and from ANSWER_UP_TO on a new node is not answered at once.

Keys are free, so one stranger can announce MAX_PROVIDERS of them. Among many providers leases are cut to a few
intervals, and in a full directory the provider announced longest ago gives way to a new one, but for those `kept`.

The signature of an announcement proves its origin, whichever node relays it. It proves nothing about the
quality of the service: `p2p.adaptive` measures that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from p2p.base.identity import Identity
from p2p.mesh.signed_broadcast import ReplayGuard, SignedBroadcast

MAX_SERVICES = 64  # that one node offers
MAX_LEASE_MS = 4 * 3_600_000
MAX_PROVIDERS = 4096  # nodes with a lease; the mesh is not meant for more
LEASE_INTERVALS = 3.5  # an announcement lasts this many intervals: two may be lost in a row
KEPT_AT_ONCE = 8  # providers that do not give way are passed over by one announcement
LONGEST_LEASE = 4.0  # of this node's own leases: others may have longer intervals
USUAL_INTERVAL = (
    5.0  # seconds; a shorter one of this node does not cut the leases of others further
)
STRETCH_FROM = 500  # providers from which the interval grows with their number
ANSWER_UP_TO = 64  # providers up to which a new one is answered
ANSWER_WITHIN = 0.5  # seconds; newcomers are answered at a random moment within
LEAST_GAP = 1.0  # seconds between two own announcements, unless what is offered changed
RATE = 12.0  # announcements a second that are taken from one node: the shortest interval, and a bit

_NAME = re.compile(r"[!-~]{1,64}")


class ServiceAnnouncement(msgspec.Struct, frozen=True, rename="camel"):
    """Offer of `services`, sorted, for `lease` ms from arrival; an empty list when the node leaves."""

    key: bytes
    incarnation: int
    counter: int
    lease: Annotated[int, msgspec.Meta(ge=0, le=MAX_LEASE_MS)]
    services: Annotated[
        list[Annotated[str, msgspec.Meta(pattern=rf"^{_NAME.pattern}\Z")]],
        msgspec.Meta(max_length=MAX_SERVICES),
    ]
    signature: bytes = b""


MESSAGES: dict[str, type[msgspec.Struct]] = {"services": ServiceAnnouncement}


def check_name(name: str) -> str:
    """Return the name if it is valid.

    Raises:
        ValueError: it is not 1 to 64 visible ASCII characters, or has another meaning in paths.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(
            f"invalid service name {name[:80]!r}: must be 1 to 64 visible ASCII characters, and not . or .."
        )
    return name


@dataclass(slots=True)
class _Provider:
    until: float
    services: frozenset[str]
    incarnation: int
    lost: bool = False  # our link to it broke, and no announcement came since


class ServiceDirectory:
    """Own offers and those of others. Broadcast the payloads of `due`; pass received ones to `receive`.

    `incarnation` grows with every start of this node (a wall clock in ms will do); `interval` is in
    seconds. `kept` tells of a node that it does not give way to others: there is a link to it, or it was called.
    """

    def __init__(
        self,
        identity: Identity,
        network: str,
        *,
        incarnation: int,
        interval: float = USUAL_INTERVAL,
        kept: Callable[[str], bool] = lambda node: False,
    ) -> None:
        self.node_id = identity.node_id
        self._messages = SignedBroadcast(
            ServiceAnnouncement,
            "exchange-node services",
            identity,
            network,
            incarnation=incarnation,
            guard=ReplayGuard(rate=RATE, burst=2 * RATE, rate_all=50 * RATE),
        )
        self._interval = interval
        self._kept = kept
        self._own: set[str] = set()
        self._next = 0.0
        self._last = float("-inf")
        self._left = False
        self._announced = False  # the last announcement offered something
        self._providers: dict[str, _Provider] = {}  # the one announced longest ago first
        self._by_service: dict[str, tuple[str, ...]] = {}  # made on first use
        self._left_lately: list[str] = []

    # Own offers

    @property
    def own(self) -> list[str]:
        """Services that this node offers, sorted."""
        return sorted(self._own)

    def offer(self, name: str) -> None:
        """Offer a service from now on.

        Raises:
            ValueError: no name, or too many.
        """
        if len(self._own) >= MAX_SERVICES and name not in self._own:
            raise ValueError(f"a node offers at most {MAX_SERVICES} services")
        self._own.add(check_name(name))
        self._changed()

    def withdraw(self, name: str) -> None:
        self._own.discard(name)
        self._changed()

    def _changed(self) -> None:
        self._next = float("-inf")
        self._by_service.clear()

    def due(self, now: float) -> bytes | None:
        """Return the payload of the announcement to broadcast now, None if none is due."""
        if self._left or now < self._next or not (self._own or self._announced):
            return None
        return self._announce(now)

    def leave(self, now: float) -> bytes:
        """Return the payload of the last announcement: no service is offered any more."""
        self._own.clear()
        self._changed()
        self._left = True
        return self._announce(now)

    def hurry(self, now: float, delay: float) -> None:
        """Announce within `delay` seconds because a node is new. At most once in LEAST_GAP."""
        self._next = min(self._next, max(now + delay, self._last + LEAST_GAP))

    def _announce(self, now: float) -> bytes:
        self._last = now
        interval = self._interval * self._stretch
        self._next = now + interval
        self._announced = bool(self._own)
        lease = min(round(interval * LEASE_INTERVALS * 1000), MAX_LEASE_MS) if self._own else 0
        return self._messages.publish(lease=lease, services=self.own)

    @property
    def _stretch(self) -> float:
        return max(1.0, len(self._providers) / STRETCH_FROM)

    # Others' offers

    def receive(self, now: float, payload: bytes, jitter: float) -> bool | None:
        """Process an announcement and return the verdict for the router. `jitter`: random, from 0 to 1."""
        accepted = self._messages.receive(now, payload)
        origin, message = accepted.origin, accepted.message
        if message is None:
            return accepted.verdict
        before = self._providers.get(origin)
        if not message.services or not message.lease:
            if self._providers.pop(origin, None) is not None:
                self._by_service.clear()
                self._left_lately.append(origin)
            return True
        new = before is None or before.incarnation != message.incarnation
        if new and len(self._providers) < ANSWER_UP_TO:
            self.hurry(now, jitter * ANSWER_WITHIN)
        if before is None and len(self._providers) >= MAX_PROVIDERS and not self._drop_oldest():
            return True
        services = frozenset(message.services)
        if before is None or before.lost or before.services != services:
            self._by_service.clear()
        lease = message.lease / 1000
        if len(self._providers) >= ANSWER_UP_TO:
            usual = max(self._interval, USUAL_INTERVAL) * self._stretch * LEASE_INTERVALS
            lease = min(lease, usual * LONGEST_LEASE)
        self._providers.pop(origin, None)
        self._providers[origin] = _Provider(now + lease, services, message.incarnation)
        return True

    def _drop_oldest(self) -> bool:
        """Drop the provider announced longest ago; False if the first few are all kept."""
        for _ in range(KEPT_AT_ONCE):
            oldest = next(iter(self._providers))
            provider = self._providers.pop(oldest)
            if not self._kept(oldest):
                self._by_service.clear()
                self._left_lately.append(oldest)
                return True
            self._providers[oldest] = provider  # at the end: looked at again after all others
        return False

    def lost(self, node: str) -> None:
        """Mark a node whose link broke: a call by way of others would probably wait in vain. A new link or
        its next announcement clears the mark.
        """
        self._mark(node, lost=True)

    def linked(self, node: str) -> None:
        """Clear the mark of `lost`: there is a link to `node`."""
        self._mark(node, lost=False)

    def _mark(self, node: str, *, lost: bool) -> None:
        provider = self._providers.get(node)
        if provider is not None and provider.lost is not lost:
            provider.lost = lost
            self._by_service.clear()

    def expire(self, now: float) -> list[str]:
        """Remove nodes whose lease has run out; returns their ids, and those that left since the last call."""
        gone = [node for node, provider in self._providers.items() if provider.until <= now]
        for node in gone:
            del self._providers[node]
        if gone:
            self._by_service.clear()
        left, self._left_lately = self._left_lately, []
        return [*gone, *(node for node in left if node not in self._providers)]

    # Asking

    def providers(self, service: str) -> tuple[str, ...]:
        """Return the nodes that offer a service, this one included, sorted by id. Nodes marked as lost are
        left out while there are others.
        """
        found = self._by_service.get(service)
        if found is None:
            offering = {node: p for node, p in self._providers.items() if service in p.services}
            nodes = [node for node, provider in offering.items() if not provider.lost]
            if service in self._own:
                nodes.append(self.node_id)
            found = tuple(sorted(nodes or offering))
            if found:  # names without providers are not remembered: they are free to make
                self._by_service[service] = found
        return found

    def services(self) -> dict[str, tuple[str, ...]]:
        """Return all offered services, each with its providers."""
        names: set[str] = set(self._own)
        for provider in self._providers.values():
            names |= provider.services
        return {name: self.providers(name) for name in sorted(names)}
