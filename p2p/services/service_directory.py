"""Who offers which service: signed announcements over the mesh, and the directory made of them. No I/O.

Every node that offers something says so every `interval`, for a lease of a few intervals that each
receiver counts from arrival by its own clock. It says so soon when it offers something else, when a
newcomer turns up, and when it leaves (an empty list, which takes effect at once).

An announcement proves its origin by its signature, whoever brings it. It says nothing about how well
the service is done: that is for `p2p.adaptive` to find out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from p2p.base.identity import Identity
from p2p.mesh.replay_guard import ReplayGuard, Verdict, proven_origin
from p2p.wire.messages import pack

MAX_SERVICES = 64  # that one node offers
MAX_LEASE_MS = 4 * 3_600_000
MAX_PROVIDERS = 4096  # nodes with a lease; the mesh is not meant for more
LEASE_INTERVALS = 3.5  # an announcement lasts so many intervals: two may be lost in a row
ANSWER_WITHIN = 0.5  # seconds; newcomers are answered at a random moment within
LEAST_GAP = 1.0  # seconds between two own announcements, unless what is offered changed
RATE = 12.0  # announcements a second that are taken from one node: the shortest interval, and a bit

_NAME = re.compile(r"[!-~]{1,64}")


class Announcement(msgspec.Struct, frozen=True, rename="camel"):
    """The sender offers `services`, sorted, for `lease` ms more; none when it leaves."""

    key: bytes
    incarnation: int
    counter: int
    lease: int
    services: list[str]
    signature: bytes = b""


MESSAGES: dict[str, type[msgspec.Struct]] = {"services": Announcement}

_decoder = msgspec.msgpack.Decoder(Announcement)


def check_name(name: str) -> str:
    """The name, if it can be one.

    Raises:
        ValueError: it is not 1 to 64 visible ASCII characters.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no service name: 1 to 64 visible ASCII characters")
    return name


def _signed(network: str, said: Announcement) -> bytes:
    return sha256(
        pack(
            [
                "exchange-node services",
                network,
                said.key,
                said.incarnation,
                said.counter,
                said.lease,
                said.services,
            ]
        )
    ).digest()


@dataclass(slots=True)
class _Provider:
    until: float
    services: frozenset[str]
    incarnation: int
    lost: bool = False  # our link to it broke, and it has not been heard since


class ServiceDirectory:
    """Own offers and others'. Broadcast what `due` gives; give what arrives to `receive`.

    `incarnation` grows with every start of this node (a wall clock in ms will do); `interval` is in
    seconds.
    """

    def __init__(
        self, identity: Identity, network: str, *, incarnation: int, interval: float = 5.0
    ) -> None:
        self.node_id = identity.node_id
        self._identity = identity
        self._network = network
        self._incarnation = incarnation
        self._interval = interval
        self._counter = 0
        self._own: set[str] = set()
        self._next = 0.0
        self._last = float("-inf")
        self._left = False
        self._said_something = False
        self._origins = ReplayGuard(rate=RATE, burst=2 * RATE, rate_all=50 * RATE)
        self._providers: dict[str, _Provider] = {}
        self._by_service: dict[str, tuple[str, ...]] = {}  # made when asked for
        self._left_lately: list[str] = []

    # Own offers

    @property
    def own(self) -> list[str]:
        """What this node offers, in order."""
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
        """The payload of the announcement to broadcast now, if it is time for one."""
        if self._left or now < self._next or not (self._own or self._said_something):
            return None
        return self._announce(now)

    def leave(self, now: float) -> bytes:
        """The payload of the last announcement: nothing is offered any more."""
        self._own.clear()
        self._changed()
        self._left = True
        return self._announce(now)

    def hurry(self, now: float, delay: float) -> None:
        """Announce within `delay` seconds: somebody is new. At most once in LEAST_GAP."""
        self._next = min(self._next, max(now + delay, self._last + LEAST_GAP))

    def _announce(self, now: float) -> bytes:
        self._counter += 1
        self._last = now
        self._next = now + self._interval
        self._said_something = bool(self._own)
        draft = Announcement(
            self._identity.public_key,
            self._incarnation,
            self._counter,
            round(self._interval * LEASE_INTERVALS * 1000) if self._own else 0,
            self.own,
        )
        signature = self._identity.sign(_signed(self._network, draft))
        return pack(msgspec.structs.replace(draft, signature=signature))

    # Others' offers

    def receive(self, now: float, payload: bytes, jitter: float) -> bool | None:
        """An announcement arrived; the verdict for `p2p.mesh.message_router`. `jitter`: random, from 0 to 1."""
        try:
            said = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if not _well_formed(said):
            return False
        origin = proven_origin(said, _signed(self._network, said))
        if origin is None:
            return False
        if origin == self.node_id:
            return True
        verdict = self._origins.hear(now, origin, said.incarnation, said.counter)
        if verdict is not Verdict.NEW:
            return True if verdict is Verdict.OLD else None
        before = self._providers.get(origin)
        if not said.services or not said.lease:
            if self._providers.pop(origin, None) is not None:
                self._by_service.clear()
                self._left_lately.append(origin)
            return True
        if before is None or before.incarnation != said.incarnation:
            self.hurry(now, jitter * ANSWER_WITHIN)
        if before is None and len(self._providers) >= MAX_PROVIDERS:
            return True
        services = frozenset(said.services)
        if before is None or before.lost or before.services != services:
            self._by_service.clear()
        self._providers[origin] = _Provider(now + said.lease / 1000, services, said.incarnation)
        return True

    def lost(self, node: str) -> None:
        """The link to `node` broke: it may be gone, and asking it by way of others would be a wait for
        nothing. A new link or its next announcement brings it back."""
        self._mark(node, lost=True)

    def linked(self, node: str) -> None:
        """There is a link to `node`."""
        self._mark(node, lost=False)

    def _mark(self, node: str, *, lost: bool) -> None:
        provider = self._providers.get(node)
        if provider is not None and provider.lost is not lost:
            provider.lost = lost
            self._by_service.clear()

    def expire(self, now: float) -> list[str]:
        """Forget those whose lease has run out; their node ids, and of those who left since the last call."""
        gone = [node for node, provider in self._providers.items() if provider.until <= now]
        for node in gone:
            del self._providers[node]
        if gone:
            self._by_service.clear()
        left, self._left_lately = self._left_lately, []
        return [*gone, *(node for node in left if node not in self._providers)]

    # Asking

    def providers(self, service: str) -> tuple[str, ...]:
        """Nodes that offer it, this one included, in order of their ids. Those whose link to us broke
        and that have not been heard since are left out while there are others."""
        found = self._by_service.get(service)
        if found is None:
            offering = {node: p for node, p in self._providers.items() if service in p.services}
            nodes = [node for node, provider in offering.items() if not provider.lost]
            if service in self._own:
                nodes.append(self.node_id)
            found = tuple(sorted(nodes or offering))
            if found:  # names that nobody offers are not remembered: they are free to make
                self._by_service[service] = found
        return found

    def services(self) -> dict[str, tuple[str, ...]]:
        """All services that anybody offers, each with its providers."""
        names: set[str] = set(self._own)
        for provider in self._providers.values():
            names |= provider.services
        return {name: self.providers(name) for name in sorted(names)}


def _well_formed(said: Announcement) -> bool:
    return (
        0 <= said.lease <= MAX_LEASE_MS
        and len(said.services) <= MAX_SERVICES
        and all(_NAME.fullmatch(name) for name in said.services)
    )
