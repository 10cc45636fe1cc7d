"""The peers of this node: which links are in use, whom to dial, what is remembered.

`PeerManager` brings together what is decided elsewhere, in classes without I/O: whom to dial next
(`p2p.addresses`), how long to wait (`p2p.reconnect`), which of two links to one peer stays
(`p2p.duplicates`). `p2p.dialling` has the dial loop, `p2p.storage` the file.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from p2p.addresses import (
    GRENACHE_DELAY,
    INBOUND,
    MANUAL,
    Address,
    AddressBook,
    PeerFound,
)
from p2p.dialling import Dialer, DialLoop
from p2p.discovery.base import describe
from p2p.discovery.bootstrap import Resolve, resolve
from p2p.duplicates import SUSPECT_AFTER, Change, LinkTable, Verdict, silent_for
from p2p.errors import Code, ConnectFailed, HandshakeRefused
from p2p.hostport import normal_host
from p2p.link import Carrier, Link, LinkHandler, LinkStats, PeerInfo
from p2p.messages import Capabilities, Envelope, PeerAddress
from p2p.reconnect import Reconnect, wait_after
from p2p.storage import Storage, StoredPeer, epoch, moment

log = logging.getLogger(__name__)

CROSSED_WAIT: Final = 1.0  # seconds for the other link, when two nodes dial each other at once
SAVE_DELAY: Final = 2.0  # seconds from news to the file, so that a burst is one write

Status = Literal["connected", "connecting", "disconnected"]
Handler = Callable[[Link, Envelope], None]


class LinkFollower(Protocol):
    """Who is told of the link in use for each peer. Called in the event loop; must not block."""

    def link_up(self, link: Link) -> None: ...

    def link_down(self, link: Link, code: Code | None, reason: str) -> None: ...


@dataclass(slots=True)
class Peer:
    """What is known of a peer. Times are seconds since the epoch."""

    node_id: str | None  # None while nobody has answered at the address
    address: str
    port: int  # 0: it accepts no links
    source: str  # the discovery strategy that found it, "inbound" or "manual"
    connection: Link | None = None
    status: Status = "disconnected"
    direction: Literal["in", "out"] | None = None
    last_seen: float | None = None
    last_heartbeat: float | None = None
    capabilities: Capabilities | None = None
    stats: LinkStats = field(default_factory=LinkStats)
    failures: int = 0  # dials that failed in a row
    last_error: str | None = None


class PeerManager:
    """Owns the links of this node. It is the connection service's link handler and its `admit`.

    Messages go to the handler registered for their type (`handle`), else to `listener`, which also
    hears of links, as do followers. All methods belong to the event loop.
    """

    def __init__(
        self,
        own_id: str,
        *,
        dialer: Dialer | None = None,
        listener: LinkHandler | None = None,
        storage: Storage | None = None,
        max_peers: int = 50,
        reconnect_interval: float = 30.0,
        rng: random.Random | None = None,
        resolver: Resolve = resolve,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`reconnect_interval` is in seconds. `dialer` (for TCP) and `listener` may be set later,
        before `start`. `clock` gives monotonic seconds, the event loop's by default; `wall` gives seconds
        since the epoch."""
        self.own_id = own_id
        self.listener = listener
        self.max_peers = max_peers
        self._storage = storage
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._resolver = resolver
        self._now = clock or _loop_time
        self._wall = wall
        self._book = AddressBook(own_id, Reconnect(reconnect_interval))
        self._table = LinkTable(own_id)
        self._dials = DialLoop(
            self._book,
            self._table.used,
            max_peers=max_peers,
            rng=self._rng,
            clock=self._now,
            wall=wall,
            reached=self._reached,
            forgotten=self._forgotten,
        )
        self.dialer = dialer
        self._up_since: dict[str, float] = {}  # node id: monotonic seconds
        self._peers: dict[str, Peer] = {}  # nodes that had a link, by id
        self._followers: list[LinkFollower] = []
        self._handlers: dict[str, Handler] = {}
        self._on_up: list[Callable[[Peer], None]] = []
        self._on_down: list[Callable[[Peer], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._unsaved = asyncio.Event()
        self._save_serial = 0
        # Remembered, and to be kept for a run in another mode: nothing here can dial them.
        self._other_carriers: list[StoredPeer] = []

    @property
    def dialer(self) -> Dialer | None:
        """For TCP."""
        return self._dials.dialers.get("tcp")

    @dialer.setter
    def dialer(self, dialer: Dialer | None) -> None:
        self._dials.dialers.pop("tcp", None)
        if dialer is not None:
            self._dials.dialers["tcp"] = dialer
        self._book.grenache_delay = GRENACHE_DELAY if dialer is not None else 0.0

    def dial_over_grenache(self, dialer: Dialer) -> None:
        """Use Grenache too, or, without a `dialer` for TCP, alone. To be called before `start`."""
        self._dials.dialers["grenache"] = dialer

    # -- wiring -----------------------------------------------------------------------------------

    def handle(self, message_type: str, handler: Handler) -> None:
        """Messages of this type that a peer sent to this node itself go to `handler`."""
        self._handlers[message_type] = handler

    def follow(self, follower: LinkFollower) -> None:
        """Tell `follower` of every link in use, those of now included."""
        self._followers.append(follower)
        for link in self._table.used.values():
            follower.link_up(link)

    def on_peer_up(self, callback: Callable[[Peer], None]) -> None:
        """Called when a peer connects; not when one link replaces another."""
        self._on_up.append(callback)

    def on_peer_down(self, callback: Callable[[Peer], None]) -> None:
        """Called when the last link to a peer is gone."""
        self._on_down.append(callback)

    # -- peers ------------------------------------------------------------------------------------

    @property
    def links(self) -> Mapping[str, Link]:
        """The link in use for each connected peer, by node id. A live view."""
        return self._table.used

    @property
    def known_addresses(self) -> int:
        return len(self._book)

    def add_peer(self, peer: Peer) -> Peer:
        """Remember a peer by its address, to be dialled soon; returns the record that is kept."""
        self.found(PeerFound(peer.address, peer.port, peer.node_id, peer.source))
        if peer.node_id is None:
            return peer
        return self._refreshed(self._peers.setdefault(peer.node_id, peer))

    def remove_peer(self, node_id: str) -> None:
        """Close the link to a peer and forget it, configured or not. It may still dial us."""
        for address in self._book.of(node_id):
            self._book.remove(address)
        self._other_carriers = [s for s in self._other_carriers if s.node_id != node_id]
        link = self._table.used.get(node_id)
        if link is not None:
            link.close(Code.SHUTDOWN, "removed by the operator")
        else:
            self._peers.pop(node_id, None)
        self._unsaved.set()

    def get_peer(self, node_id: str) -> Peer | None:
        peer = self._peers.get(node_id)
        if peer is not None:
            return self._refreshed(peer)
        address = next(iter(self._book.of(node_id)), None)
        return None if address is None else self._record_of(address)

    def get_all_peers(self) -> list[Peer]:
        """Every known peer, the connected ones first. Several addresses of one node are one peer;
        an address at which nobody has answered yet is a peer without a node id."""
        peers = [self._refreshed(peer) for peer in self._peers.values()]
        listed = set(self._peers)
        for address in self._book:
            if address.ourselves or address.duplicate or address.node_id in listed:
                continue
            if address.node_id is None:
                peers.append(self._record_of(address))
            else:
                listed.add(address.node_id)
                peers.append(self._record_of(self._book.of(address.node_id)[0]))
        order = {"connected": 0, "connecting": 1, "disconnected": 2}
        return sorted(peers, key=lambda p: (order[p.status], p.address, p.port))

    def get_healthy_peers(self) -> list[Peer]:
        """Connected peers that were heard of within the last two heartbeats."""
        now = self._now()
        return [
            self._refreshed(self._peers[node_id])
            for node_id, link in self._table.used.items()
            if silent_for(link, now) < SUSPECT_AFTER
        ]

    def proven_peers(self) -> list[PeerAddress]:
        """Connected peers that were reached at the address given: those fit to be passed on.

        One for Grenache only of a peer that is linked over it, and if the last dial to it succeeded:
        a peer that dialled us does not say where its requests are taken now."""
        proven = []
        for node_id, link in self._table.used.items():
            direct = self._book.proven(node_id)
            if direct is not None:
                proven.append(PeerAddress(node_id, direct.host, direct.port))
            if link.peer.carrier == "grenache":
                way = self._book.proven(node_id, "grenache")
                if way is not None and not way.failures:
                    proven.append(PeerAddress(node_id, way.host, way.port, way.carrier))
        return proven

    def grenache_address(self, node_id: str) -> Address | None:
        """Where a node is believed to answer Grenache requests."""
        return next((a for a in self._book.of(node_id) if a.carrier == "grenache"), None)

    def found(self, peer: PeerFound) -> None:
        """A discovery strategy came across an address. One that nothing here can dial is left alone."""
        if not self._dials_over(peer.carrier):
            return
        if self._book.add(peer, self._now()) is not None:
            self._dials.wake()

    def _dials_over(self, carrier: Carrier) -> bool:
        return not self._dials.dialers or carrier in self._dials.dialers

    # -- links ------------------------------------------------------------------------------------

    def admit(self, info: PeerInfo) -> Code | None:
        """Whether a peer whose identity is proven may have a link; the code of the refusal if not.
        Asked on both sides of every link, before it is up."""
        if info.node_id == self.own_id:
            return Code.SELF
        if info.outbound:
            self._dials.note_answer(info)
        verdict = self._table.verdict(info, self._now(), self._dialled_at(info))
        if verdict is Verdict.REFUSE:
            return Code.DUPLICATE
        if verdict is None and self._full(info):
            return Code.FULL
        return None

    def _full(self, newcomer: PeerInfo) -> bool:
        if len(self._table.used) >= self.max_peers:
            return True
        room = self._dials.grenache_room
        return newcomer.carrier == "grenache" and room is not None and room <= 0

    def link_up(self, link: Link) -> None:
        node_id = link.peer.node_id
        now = self._now()
        new = node_id not in self._table.used
        if new and self._full(link.peer):
            # Two were admitted for one place: only the links that are up count.
            link.close(Code.FULL, "this node has as many peers as it wants")
            return
        if link.peer.listen_port and (not link.peer.outbound or link.peer.carrier != "tcp"):
            self.found(PeerFound(link.peer.address, link.peer.listen_port, node_id, INBOUND))
        if new:
            self._peers[node_id] = self._peer_of(link)
        change = self._table.up(link, now, self._dialled_at(link.peer))
        self._apply(change, Code.DUPLICATE, "another link is used")
        if new:
            self._tell(self._on_up, self._refreshed(self._peers[node_id]))
        self._dials.wake()

    def link_down(self, link: Link, code: Code | None, reason: str) -> None:
        node_id = link.peer.node_id
        peer = self._peers.get(node_id)
        if peer is not None and self._table.used.get(node_id) is link:
            self._refreshed(peer)  # the last figures of the link stay on the record
        change = self._table.down(link)
        heir, carrier = change.after, link.peer.carrier
        lost = change.before is link and heir is None
        if lost or (change.before is link and heir is not None and heir.peer.carrier != carrier):
            now = self._now()
            lasted = now - self._up_since.pop(node_id)
            wait = wait_after(code)
            self._book.link_lost(node_id, lasted, now, self._wall(), self._rng, wait, carrier)
        self._apply(change, code, reason)
        if lost and peer is not None:
            peer.connection, peer.status, peer.direction = None, "disconnected", None
            peer.last_error = _why_lost(code, reason)
            if not self._book.of(node_id):
                del self._peers[node_id]  # it cannot be dialled, and may never come back
            self._tell(self._on_down, peer)
            self._unsaved.set()
        self._dials.wake()

    def message(self, link: Link, envelope: Envelope) -> None:
        change = self._table.heard(link, self._now())
        if change is None:
            return
        self._apply(change, Code.DUPLICATE, "another link is used")
        used = self._table.used[link.peer.node_id]  # the same peer, whichever link it came over
        handler = self._handlers.get(envelope.type)
        if handler is not None and self._from_peer_itself(link, envelope):
            handler(used, envelope)
        elif self.listener is not None:
            self.listener.message(used, envelope)

    def _dialled_at(self, info: PeerInfo) -> float | None:
        address = self._dials.dialled_for(info)
        return None if address is None else address.last_attempt

    def _from_peer_itself(self, link: Link, envelope: Envelope) -> bool:
        return (
            envelope.hops == 0
            and envelope.from_ == link.peer.node_id
            and envelope.to in ("", self.own_id)
        )

    def _apply(self, change: Change, code: Code | None, reason: str) -> None:
        if change.before is not change.after:
            listener = [] if self.listener is None else [self.listener]
            followers: list[LinkFollower] = [*listener, *self._followers]
            if change.before is not None:
                for follower in followers:
                    self._guard(
                        lambda f, old: f.link_down(old, code, reason), follower, change.before
                    )
            if change.after is not None:
                self._up_since[change.after.peer.node_id] = self._now()
                for follower in followers:
                    self._guard(lambda f, new: f.link_up(new), follower, change.after)
        for link in change.close:
            link.close(Code.DUPLICATE, "another link to the same peer is kept")

    @staticmethod
    def _guard(
        call: Callable[[LinkFollower, Link], None], follower: LinkFollower, link: Link
    ) -> None:
        try:
            call(follower, link)
        except Exception:
            log.exception("a follower of links failed")

    @staticmethod
    def _tell(callbacks: Iterable[Callable[[Peer], None]], peer: Peer) -> None:
        for callback in callbacks:
            try:
                callback(peer)
            except Exception:
                log.exception("a listener for peers failed")

    # -- dialling ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to dial and to save, in an own task."""
        if self._task is None:
            self._task = asyncio.create_task(self.run(), name="peer manager")

    async def stop(self) -> None:
        """Stop dialling and save the peers. Links are closed by the connection service."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.persist_peers()

    async def run(self) -> None:
        """Dial whoever is due and save what changed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dials.run(), name="dial loop")
            if self._storage is not None:
                group.create_task(self._keep_saved(self._storage), name="peer saving")

    async def connect(self, host: str, port: int) -> Peer:
        """Dial HOST:PORT now, on behalf of the operator; the address is kept for good once a peer
        has answered there. Several addresses of a name are tried in turn. Over TCP, if that is used.

        Raises:
            ConnectFailed: the name does not resolve, or nobody answered.
            HandshakeRefused: the peer or this node ended the handshake; says why.
        """
        try:
            hosts = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"{host} cannot be resolved: {describe(error)}") from error
        failure: ConnectFailed | HandshakeRefused = ConnectFailed(f"{host} has no address")
        carrier: Carrier = "grenache" if self._dials.dialers.keys() == {"grenache"} else "tcp"
        for each in hosts:
            address = self._book.get(each, port, carrier) or Address(
                normal_host(each), port, None, MANUAL, carrier=carrier
            )
            try:
                node_id = self._connected_at(address) or await self._dials.attempt(address)
            except (ConnectFailed, HandshakeRefused) as error:
                crossed = await self._crossed(address, error)
                if crossed is None:
                    failure = error
                    continue
                node_id = crossed
            found = PeerFound(each, port, node_id, MANUAL, carrier=carrier)
            self._book.add(found, self._now())
            peer = self.get_peer(node_id)
            if peer is not None and node_id in self._table.used:
                return peer
            failure = ConnectFailed(f"the link to {address} closed again at once")
        raise failure

    async def _crossed(self, dialled: Address, error: Exception) -> str | None:
        """Refused as a duplicate because the peer was dialling us just then: whom its link, which
        may still be on its way up, shows to listen at this address."""
        if not isinstance(error, HandshakeRefused) or error.code is not Code.DUPLICATE:
            return None
        deadline = self._now() + CROSSED_WAIT
        while self._now() < deadline:
            address = self._book.get(dialled.host, dialled.port, dialled.carrier)
            if address is not None and address.node_id in self._table.used:
                return address.node_id
            await asyncio.sleep(0.02)
        return None

    def _connected_at(self, address: Address) -> str | None:
        if address.tried and address.node_id in self._table.used:
            return address.node_id
        return None

    def _reached(self, node_id: str, address: Address) -> None:
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.address, peer.port, peer.source = address.host, address.port, address.source
        self._unsaved.set()

    def _forgotten(self, address: Address) -> None:
        node_id = address.node_id
        if node_id is not None and node_id not in self._table.used and not self._book.of(node_id):
            self._peers.pop(node_id, None)
        self._unsaved.set()

    # -- records ----------------------------------------------------------------------------------

    def _peer_of(self, link: Link) -> Peer:
        """The record of a peer that has just connected. Of an outbound link the dialled address is
        filled in when the dial returns."""
        info = link.peer
        known = self._dials.dialled_for(info) or next(iter(self._book.of(info.node_id)), None)
        peer = self._peers.get(info.node_id) or Peer(
            info.node_id, info.address, info.listen_port, INBOUND
        )
        if known is not None:
            peer.address, peer.port, peer.source = known.host, known.port, known.source
        peer.capabilities = info.capabilities
        return peer

    def _record_of(self, address: Address) -> Peer:
        peer = Peer(address.node_id, address.host, address.port, address.source)
        peer.last_seen = address.last_success
        peer.failures, peer.last_error = address.failures, address.last_error
        peer.status = "connecting" if address.key in self._dials.busy else "disconnected"
        return peer

    def _refreshed(self, peer: Peer) -> Peer:
        link = self._table.used.get(peer.node_id or "")
        peer.connection = link
        if link is None:
            addresses = self._book.of(peer.node_id or "")
            dialling = any(a.key in self._dials.busy for a in addresses)
            peer.status = "connecting" if dialling else "disconnected"
            if addresses:
                best = addresses[0]
                peer.address, peer.port, peer.failures = best.host, best.port, best.failures
                peer.last_error = best.last_error or peer.last_error
            return peer
        skew = self._wall() - self._now()  # from the link's clock to the calendar
        peer.status = "connected"
        peer.direction = "out" if link.peer.outbound else "in"
        peer.capabilities, peer.stats = link.peer.capabilities, link.stats
        peer.failures, peer.last_error = 0, None
        peer.last_seen = skew + max(link.stats.last_seen, link.stats.opened_at)
        if link.stats.last_heartbeat:
            peer.last_heartbeat = skew + link.stats.last_heartbeat
        return peer

    # -- storage ----------------------------------------------------------------------------------

    def load_persisted_peers(self) -> list[PeerFound]:
        """Take in the peers of earlier runs; returns them as found, for the persisted strategy.
        Those that nothing here can dial stay in the file.

        Raises:
            OSError: the file is there but cannot be read.
        """
        found, others = [], []
        for stored in [] if self._storage is None else self._storage.load():
            if stored.node_id == self.own_id:
                continue
            if not self._dials_over(stored.carrier):
                others.append(stored)
                continue
            where = (stored.address, stored.port, stored.node_id)
            address = Address(*where, stored.source, carrier=stored.carrier)
            address.last_success, address.failures = epoch(stored.last_success), stored.failures
            self._book.restore(address, self._now())
            found.append(PeerFound(*where, "persisted", carrier=stored.carrier))
        self._other_carriers = others
        return found

    def persist_peers(self) -> None:
        """Write the peers to disk now. A failure is a warning: the node goes on without."""
        if self._storage is not None:
            self._save(self._storage, self._to_store(), self._next_serial())

    async def _keep_saved(self, storage: Storage) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_DELAY)
            self._unsaved.clear()
            # In a thread: a slow disk must not stop the node. The save at the end, which does not
            # wait for this one, overtakes it by its serial.
            await asyncio.to_thread(self._save, storage, self._to_store(), self._next_serial())

    def _next_serial(self) -> int:
        self._save_serial += 1
        return self._save_serial

    @staticmethod
    def _save(storage: Storage, peers: list[StoredPeer], serial: int) -> None:
        try:
            storage.save(peers, serial)
        except OSError as error:
            log.warning("the peers cannot be saved: %s", error)

    def _to_store(self) -> list[StoredPeer]:
        proven = [
            StoredPeer(
                a.node_id,
                a.host,
                a.port,
                moment(self._wall() if self._linked_by(a) else a.last_success),
                a.failures,
                a.source,
                a.carrier,
            )
            for a in self._book
            if a.tried and a.node_id is not None
        ]
        return proven + self._other_carriers

    def _linked_by(self, address: Address) -> bool:
        link = self._table.used.get(address.node_id or "")
        return link is not None and link.peer.carrier == address.carrier


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _why_lost(code: Code | None, reason: str) -> str:
    if code is None:
        return reason or "the connection broke"
    return f"{reason} ({code})" if reason else str(code)
