"""Dial loop: dials the addresses that are due in the address book, and records the outcome there."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from p2p.addresses.address import MANUAL, Address, Key, PeerFound
from p2p.addresses.address_book import FEELER_DELAY, AddressBook
from p2p.addresses.dial_choice import DialChoice, outbound_groups
from p2p.addresses.reconnect import wait_after
from p2p.addresses.tip_budget import TipBudget
from p2p.base.errors import Code, ConnectFailed, HandshakeRefused
from p2p.base.host_port import normal_host
from p2p.base.limits import DIALS_PER_SECOND
from p2p.discovery.bootstrap import Resolve, resolve
from p2p.discovery.peer_exchange import believable
from p2p.discovery.strategy import describe
from p2p.flow.token_bucket import TokenBucket
from p2p.peers.link_slots import TRIAL, outbound_reach, reserved_slots
from p2p.wire.link import Carrier, PeerInfo, PeerLink
from p2p.wire.messages import PeerAddress

log = logging.getLogger(__name__)

MAX_DIALS: Final = 8  # at once
FULL_PATIENCE: Final = (
    TRIAL + 1.0
)  # seconds for which the operator's dial of a full node is repeated ...
FULL_PAUSE: Final = 2.0  # ... after each refusal
CROSSED_WAIT: Final = 1.0  # seconds for the other link, when two nodes dial each other at once
GRAIN: Final = 0.01  # seconds; timers may fire slightly early, a shorter wait would spin
RESERVE_FROM: Final = 8  # a maximum from which on some links are kept for peers that dial us
RESERVE_SHARE: Final = 4  # one link of this many
GRENACHE_SHARE: Final = 4  # one link of this many may be over Grenache, beside direct ones


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Chance, names and time, as the parts of a peer manager need them. `clock`: monotonic seconds; `wall`: seconds since
    the epoch; `is_own`: a host is this machine.
    """

    rng: random.Random = field(default_factory=random.Random)
    resolver: Resolve = resolve
    clock: Callable[[], float] = _loop_time
    wall: Callable[[], float] = time.time
    is_own: Callable[[str], bool] = lambda host: False


class Dialer(Protocol):
    """Maker of links. They say in `PeerInfo.dialled` which address was dialled.

    Implemented by `p2p.wire.direct_links.DirectConnectionService` over TCP,
    `p2p.grenache_links.tunnel_carrier.TunnelCarrier` over Grenache, and over memory by tests.
    """

    async def dial(self, host: str, port: int, expect: str | None = None) -> PeerLink:
        """Return an established link, after the link handler was called with it.

        Raises:
            ConnectFailed: no answer in time.
            HandshakeRefused: one side ended the handshake.
        """
        ...


def outbound_limit(max_peers: int) -> int:
    """Return the number of links that a node dials itself; the rest is for inbound ones. In a small network
    every link counts, so none is reserved there.
    """
    return max_peers - max_peers // RESERVE_SHARE if max_peers >= RESERVE_FROM else max_peers


def grenache_limit(max_peers: int) -> int:
    """Return the number of links over Grenache where direct ones are available: each costs requests all the
    time.
    """
    return max(1, max_peers // GRENACHE_SHARE)


class DialHost(Protocol):
    """Owner of a dial loop, which asks it about links and reports outcomes."""

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The links in use, by node id."""
        ...

    def is_outbound(self, node_id: str) -> bool:
        """Return True if a node has an outbound slot."""
        ...

    def is_banned(self, address: Address) -> bool:
        """Return True for an address that is not dialled for now."""
        ...

    def reached(self, node_id: str, address: Address) -> None:
        """Note that an address was proven."""
        ...

    def forgotten(self, address: Address) -> None:
        """Note that an address failed too often."""
        ...


class DialLoop:
    """Dials addresses of `book` while there is room, at most `MAX_DIALS` at once.

    Two kinds of dial: to get a link, and, to a peer that is connected already, as a *feeler* that
    only proves the address. A feeler is answered `duplicate`, which comes after the identity check
    and so is all the proof there is to have without a second link; or, when there is none but over
    Grenache, with a link that replaces it.
    """

    def __init__(
        self,
        book: AddressBook,
        host: DialHost,
        max_peers: int,
        surroundings: Surroundings,
    ) -> None:
        self.dialers: dict[Carrier, Dialer] = {}
        self.busy: dict[Key, Address] = {}  # being dialled
        self._feelers: set[Key] = set()  # of these: feelers
        self._named: set[tuple[str, int]] = set()  # of these: host and port that the operator named
        self._answered_by: dict[Key, str] = {}  # dialled address: node that answered there
        self._book = book
        self._host = host
        self._tips = TipBudget()
        self._choice = DialChoice(book, host.is_banned, self._tips.ready_at)
        self._max_peers = max_peers
        self._rng = surroundings.rng
        self._resolver = surroundings.resolver
        self._clock = surroundings.clock
        self._wall = surroundings.wall
        self.paused = False  # nothing is dialled
        self._wake = asyncio.Event()
        # After an outage all addresses are due at once: a storm for nodes that have just started.
        self._pace = TokenBucket(DIALS_PER_SECOND, burst=MAX_DIALS)

    @property
    def grenache_room(self) -> int | None:
        """Number of further links over Grenache; None: as many as links in all."""
        if "tcp" not in self.dialers:
            return None
        linked = sum(link.peer.carrier == "grenache" for link in self._host.links.values())
        return grenache_limit(self._max_peers) - linked

    def wake(self) -> None:
        """Choose again now: something changed."""
        self._wake.set()

    async def run(self) -> None:
        """Dial due addresses until cancelled."""
        # Full at the start: a few at once are no storm, and a new node wants to get in.
        self._pace.set_rate(self._clock() - 1.0, DIALS_PER_SECOND)
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                held_back = False
                for address, feeler in self.choose(self._clock()):
                    if not self._pace.try_take(self._clock()):
                        held_back = True
                        break
                    if not self._tips.take(address, self._clock()):
                        self._wake.set()  # those chosen before have used the budget up
                        continue
                    self.busy[address.key] = address
                    if feeler:
                        self._feelers.add(address.key)
                    group.create_task(self._attempt_quietly(address), name=f"dial {address}")
                with suppress(TimeoutError):
                    idle = self._idle_time()
                    if held_back:
                        idle = max(self._pace.would_delay(self._clock()), GRAIN)
                    async with asyncio.timeout(idle):
                        await self._wake.wait()

    def choose(self, now: float) -> list[tuple[Address, bool]]:
        """Return the addresses to dial now, each with True if it is a feeler. Changes nothing."""
        slots = MAX_DIALS - len(self.busy)
        if slots <= 0 or self.paused:
            return []
        feelers = self._choice.feelers(
            now,
            unproven=self._unproven(),
            indirect=self._indirect(),
            busy=self.busy,
            limit=max(slots // 2, 1),
        )
        dialling = len(self.busy) - len(self._feelers)
        dialled = [
            link.peer.address
            for node_id, link in self._host.links.items()
            if self._host.is_outbound(node_id)
        ]
        outbound = len(dialled) + dialling
        reserve = reserved_slots(self._max_peers)
        own_room = outbound_limit(self._max_peers) - outbound
        room = self._max_peers - len(self._host.links) - dialling
        pinned_only = own_room <= 0
        if not pinned_only:
            # Up to the reserve a dial replaces an inbound link if there is no free slot.
            room = max(min(room, own_room), reserve - outbound)
        # So does one into a group without an outbound link, while there are few of these.
        farther_only = False
        if room <= 0 < own_room:
            room = min(reserve - outbound_reach(dialled) - dialling, own_room)
            farther_only = room > 0
        if room <= 0 and len(dialled) < len(self._host.links):
            pinned_only, room = True, slots
        grenache_room = self.grenache_room
        if grenache_room is not None:
            under_way = sum(address.carrier == "grenache" for address in self.busy.values())
            grenache_room = max(grenache_room - under_way, 0)
        candidates = self._choice.candidates(
            now,
            self._rng,
            connected=self._host.links,
            busy=self.busy,
            limit=max(min(slots - len(feelers), room), 0),
            grenache_limit=grenache_room,
            pinned_only=pinned_only,
            groups=outbound_groups(dialled),
            farther_only=farther_only,
        )
        return [(a, True) for a in feelers] + [(a, False) for a in candidates]

    async def attempt(self, address: Address) -> str:
        """Dial an address and record the outcome; returns the node id of the peer there, which is connected
        by this link or by another.

        Raises:
            ConnectFailed, HandshakeRefused: as `Dialer.dial`.
        """
        dialer = self.dialers.get(address.carrier)
        if dialer is None:
            raise ConnectFailed("this node has no dialer for the address")
        self._book.attempt(address, self._clock())
        self.busy[address.key] = address
        expect = self._expected(address)
        answered_there = True
        try:
            link = await dialer.dial(address.host, address.port, expect)
            node_id = link.peer.node_id
        except HandshakeRefused as refusal:
            answered = self._refused(address, expect, refusal)
            if answered is None:
                raise
            node_id = answered
        except (ConnectFailed, OSError) as error:
            answered_there = False
            self._failed(address, describe(error), None)
            raise ConnectFailed(describe(error)) from error
        finally:
            self.busy.pop(address.key, None)
            self._feelers.discard(address.key)
            self._answered_by.pop(address.key, None)
            self._tips.ended(address, self._clock(), answered=answered_there)
            self.wake()
        self._book.succeeded(address, node_id, self._wall(), self._clock())
        if node_id not in self._host.links or (
            address.carrier == "tcp" and node_id in self._indirect()
        ):
            # It closed again at once: climb the ladder before the next dial.
            self._book.defer(address, self._clock(), self._rng)
        self._host.reached(node_id, address)
        return node_id

    async def connect(self, host: str, port: int) -> str:
        """Dial HOST:PORT now, on behalf of the operator; returns the node id of the peer there, which is connected. The
        address is kept for good once a peer has answered there. Several addresses of a name are tried in turn. Over TCP, if
        that is used.

        Two nodes that dial each other at once have two links for a moment, and one side refuses its own dial as a duplicate.
        The dial has succeeded then if the other link shows that the peer listens at this address.

        Raises:
            ConnectFailed: the name does not resolve, or there was no answer.
            HandshakeRefused: the peer or this node ended the handshake; says why.
        """
        try:
            hosts = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"{host} cannot be resolved: {describe(error)}") from error
        failure: ConnectFailed | HandshakeRefused = ConnectFailed(f"{host} has no address")
        carrier: Carrier = "grenache" if self.dialers.keys() == {"grenache"} else "tcp"
        for each in hosts:
            address = self._book.get(each, port, carrier) or Address(
                normal_host(each), port, None, MANUAL, carrier=carrier
            )
            dialled = (address.host, address.port)
            self._named.add(dialled)
            try:
                linked = address.node_id if address.tried else None
                node_id = linked if linked in self._host.links else None
                node_id = node_id or await self._persist(address)
            except (ConnectFailed, HandshakeRefused) as error:
                crossed = await self._crossed(address, error)
                if crossed is None:
                    failure = error
                    continue
                node_id = crossed
            finally:
                self._named.discard(dialled)
            self._book.add(PeerFound(each, port, node_id, MANUAL, carrier=carrier), self._clock())
            if node_id in self._host.links:
                return node_id
            failure = ConnectFailed(f"the link to {address} closed again at once")
        raise failure

    async def _persist(self, address: Address) -> str:
        """Dial as `attempt`, and again for a while at a full node: its links give way one after the other.

        Raises:
            ConnectFailed, HandshakeRefused: as `attempt`.
        """
        until = self._clock() + FULL_PATIENCE
        while True:
            try:
                return await self.attempt(address)
            except HandshakeRefused as refusal:
                if refusal.by_us or refusal.code is not Code.FULL or self._clock() >= until:
                    raise
            await asyncio.sleep(FULL_PAUSE)

    def is_named(self, host: str, port: int) -> bool:
        """Return True for an address that is being dialled on behalf of the operator."""
        return (normal_host(host), port) in self._named

    async def _crossed(self, dialled: Address, error: Exception) -> str | None:
        """Wait for the other link after a refusal as duplicate; returns the node id whose link shows that it listens at this
        address.
        """
        if not isinstance(error, HandshakeRefused) or error.code is not Code.DUPLICATE:
            return None
        deadline = self._clock() + CROSSED_WAIT
        while self._clock() < deadline:
            address = self._book.get(dialled.host, dialled.port, dialled.carrier)
            if address is not None and address.node_id in self._host.links:
                return address.node_id
            await asyncio.sleep(0.02)
        return None

    def note_answer(self, info: PeerInfo) -> None:
        """Remember the node id that answers at the address being dialled: a refusal does not contain it."""
        key = _key_of(info)
        if key in self.busy:
            self._answered_by[key] = info.node_id

    def dialled_for(self, info: PeerInfo) -> Address | None:
        """Return the dialled address of a link that is coming up; None for an inbound link."""
        return self.busy.get(_key_of(info))

    async def _attempt_quietly(self, address: Address) -> None:
        try:
            await self.attempt(address)
        except (ConnectFailed, HandshakeRefused) as error:
            log.debug("dial %s: %s", address, error)
        except Exception as error:
            log.exception("dialling %s failed in an unexpected way", address)
            self._failed(address, describe(error), None)

    def _unproven(self) -> set[str]:
        return {node_id for node_id in self._host.links if self._book.proven(node_id) is None}

    def _indirect(self) -> set[str]:
        """Return the nodes that are linked over Grenache alone."""
        if "tcp" not in self.dialers:
            return set()
        return {
            node_id for node_id, link in self._host.links.items() if link.peer.carrier == "grenache"
        }

    def _idle_time(self) -> float | None:
        if self.paused:
            return None
        now = self._clock()
        skip = self._host.links.keys() - self._unproven() - self._indirect()
        due = self._choice.next_due(now, skip=skip, busy=self.busy)
        return None if due is None else max(due - now, GRAIN)

    def _expected(self, address: Address) -> str | None:
        # The operator configured an address, not a node: any node there is meant, unless a
        # connected peer claims the address.
        if address.pinned(self._clock()) and address.node_id not in self._host.links:
            return None
        return address.node_id

    def _refused(
        self, address: Address, expect: str | None, refusal: HandshakeRefused
    ) -> str | None:
        """Record a refusal; returns the node id that refused if the refusal shows that all is well there."""
        now = self._clock()
        if not refusal.by_us:
            self._add_others(address, expect, refusal, now)
        if refusal.code is Code.DUPLICATE:
            # The handshake got as far as the admission: the expected node is there.
            node_id = expect or self._answered_by.get(address.key) or refusal.peer
            if node_id is not None and node_id in self._host.links:
                return node_id
            if node_id is not None:
                # The peer has not noticed the end of our old link yet.
                self._failed(address, str(refusal), None)
            elif address.node_id in self._host.links:
                # A connected peer claims the address: prove it.
                address.next_dial = now + FEELER_DELAY
            else:
                self._book.is_duplicate(address, now, self._rng)
        elif refusal.code is Code.SELF:
            self._book.is_ourselves(address)
        elif refusal.code is Code.WRONG_IDENTITY and not (address.tried or address.pinned(now)):
            self._book.remove(address)  # the claim was wrong; make room for others
        else:
            self._failed(address, str(refusal), refusal.code)
        return None

    def _add_others(
        self, address: Address, expect: str | None, refusal: HandshakeRefused, now: float
    ) -> None:
        """Add the addresses that a node without a slot named, under the bounds for what one peer sends."""
        via = refusal.peer or expect or ""
        for node_id, host, port in refusal.others:
            found = believable(address.host, PeerAddress(node_id, host, port))
            if found is not None:
                self._book.add(
                    PeerFound(found, port, node_id, "exchange", via, via_address=address.host), now
                )

    def _failed(self, address: Address, error: str, code: Code | None) -> None:
        if self._book.failed(address, self._clock(), self._rng, error, wait_after(code)):
            self._host.forgotten(address)


def _key_of(info: PeerInfo) -> Key:
    """Return the key of the dialled address; for an inbound link a key that no address has."""
    host, port = info.dialled or ("", 0)
    return (info.carrier, normal_host(host), port)
