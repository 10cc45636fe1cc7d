"""PeerManager: links in use, dialling, and persistence of the peers of this node.

`PeerManager` joins classes without I/O that decide: the next address to dial (`p2p.addresses.address_book`), the wait
before it (`p2p.addresses.reconnect`), the link that stays of two to one peer (`p2p.peers.duplicate_links`).
`p2p.peers.dial_loop` dials, `p2p.peers.peer_store` saves, `p2p.peers.peer_records` reports.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, ParamSpec, Protocol

import msgspec

from p2p.addresses.address import INBOUND, Address, PeerFound
from p2p.addresses.address_book import GRENACHE_DELAY, AddressBook
from p2p.addresses.peer_storage import Storage, StoredPeer, epoch, moment
from p2p.addresses.reconnect import Reconnect, wait_after
from p2p.base.errors import Code, ConnectFailed
from p2p.base.host_port import normal_host
from p2p.base.reach import may_name, teller
from p2p.ground.owned_tasks import OwnedTasks
from p2p.peers.dial_loop import Dialer, DialLoop, Surroundings
from p2p.peers.duplicate_links import UNCHANGED, LinkChange, LinkTable, SecondLinkVerdict
from p2p.peers.link_slots import LinkRefusal, SlotDecision, SlotLimits
from p2p.peers.peer_admission import PeerAdmission
from p2p.peers.peer_policy import ABUSE_BAN, PeerBan, PeerPolicy, covers, normal_subject
from p2p.peers.peer_records import Peer, PeerRecords
from p2p.peers.peer_store import PeerStore
from p2p.wire.handshake import ADMISSION_REASONS, MAX_OTHERS
from p2p.wire.link import Carrier, LinkHandler, LinkOwner, PeerInfo, PeerLink
from p2p.wire.messages import Envelope, PeerAddress

log = logging.getLogger(__name__)

BAN_CHECK: Final = 30.0  # seconds; the wall clock, which decides when bans end, may be set

Handler = Callable[[PeerLink, Envelope], None]
P = ParamSpec("P")


class LinkFollower(Protocol):
    """Observer of the link in use for each peer. Called in the event loop; must not block."""

    def link_up(self, link: PeerLink) -> None: ...

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Settings of the peers of a node; seconds.

    `slots`: limits of inbound links, whose `max_peers` is replaced by that given here. `allow`: node ids of a closed network;
    empty for an open one. `policy_path`: file of pins and bans.
    """

    max_peers: int = 50
    reconnect_interval: float = 30.0
    slots: SlotLimits = field(default_factory=SlotLimits)
    allow: Collection[str] = ()
    policy_path: Path | None = None
    storage: Storage | None = None


DEFAULT_SETTINGS: Final = PeerSettings()


class PeerManager(LinkOwner):
    """Owner of the links of this node.

    Three owners of state: the table of links, the address book with its store, and the dials with the admission. Messages
    go to the handler registered for their type (`handle`), else to `listener`, which also follows links, as followers do.
    All methods belong to the event loop.
    """

    def __init__(
        self,
        own_id: str,
        settings: PeerSettings = DEFAULT_SETTINGS,
        *,
        listener: LinkHandler | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        """
        Raises:
            ValueError: the file of pins and bans is damaged.
        """
        around = surroundings or Surroundings()
        self.own_id = own_id
        self.max_peers = settings.max_peers
        self._listener = listener
        self._rng, self._now, self._wall = around.rng, around.clock, around.wall
        self._book = AddressBook(
            own_id,
            Reconnect(settings.reconnect_interval),
            key=secrets.token_bytes(16),
            is_own=around.is_own,
        )
        self._store = PeerStore(own_id, settings.storage, self._to_store)
        self._table = LinkTable(own_id)
        self.policy = PeerPolicy(settings.policy_path, allow=settings.allow, wall=self._wall)
        limits = replace(settings.slots, max_peers=settings.max_peers)
        self._dials = DialLoop(self._book, self, settings.max_peers, around)
        self.admission = PeerAdmission(
            limits, self.policy, self._book, self._table, self._dials, self._now
        )
        self._records = PeerRecords(self._book, self._table, self._dials, self.admission, around)
        self._suspended = ""  # why there are no links now
        self._up_since: dict[str, float] = {}  # node id: monotonic seconds
        self._followers: list[LinkFollower] = [] if listener is None else [listener]
        self._handlers: dict[str, Handler] = {}
        self._on_down: list[Callable[[Peer], None]] = []
        self._bans_changed = asyncio.Event()
        self._tasks = OwnedTasks(log)

    def dial_over(self, carrier: Carrier, dialer: Dialer) -> None:
        """Dial over a carrier too. Call before `start`."""
        self._dials.dialers[carrier] = dialer
        self._book.grenache_delay = GRENACHE_DELAY if "tcp" in self._dials.dialers else 0.0

    # -- wiring -----------------------------------------------------------------------------------

    def handle(self, message_type: str, handler: Handler) -> None:
        """Pass messages of this type that a peer sent to this node itself to `handler`."""
        self._handlers[message_type] = handler

    def follow(self, follower: LinkFollower) -> None:
        """Notify `follower` of every link in use, present ones included."""
        self._followers.append(follower)
        for link in self._table.used.values():
            follower.link_up(link)

    def on_peer_down(self, callback: Callable[[Peer], None]) -> None:
        """Register a callback for peers whose last link is gone."""
        self._on_down.append(callback)

    # -- peers ------------------------------------------------------------------------------------

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The link in use for each connected peer, by node id. A live view."""
        return self._table.used

    @property
    def known_addresses(self) -> int:
        return len(self._book)

    def add_peer(self, peer: Peer) -> Peer:
        """Remember a peer by its address, to be dialled soon; returns the record kept for it."""
        self.found(PeerFound(peer.address, peer.port, peer.node_id, peer.source))
        if peer.node_id is None:
            return peer
        return self._records.add(peer.node_id, peer)

    def remove_peer(self, node_id: str) -> None:
        """Close the link to a peer and forget it, configured or not. It may still dial this node."""
        for address in self._book.of(node_id):
            self._book.remove(address)
        self._store.forget(node_id)
        link = self._table.used.get(node_id)
        if link is not None:
            link.close(Code.SHUTDOWN, "removed by the operator")
        else:
            self._records.forget(node_id)
        self._store.changed()

    def get_peer(self, node_id: str) -> Peer | None:
        return self._records.get(node_id)

    def get_all_peers(self) -> list[Peer]:
        """Return all known peers as `PeerRecords.all` does."""
        return self._records.all()

    def get_healthy_peers(self) -> list[Peer]:
        """Return connected peers as `PeerRecords.healthy` does."""
        return self._records.healthy()

    def ban(self, subject: str, seconds: float, reason: str = "") -> PeerBan:
        """Refuse a node id, IP address or network for some time, and close its links. Raises as `PeerPolicy.ban`."""
        ban = self.policy.ban(subject, seconds, reason)
        self._bans_changed.set()
        for node_id, link in list(self._table.used.items()):
            if self.policy.banned(node_id, link.peer.address) is not None:
                link.close(Code.ABUSE, ban.reason or "banned by the operator")
        return ban

    def suspend(self, reason: str) -> None:
        """Close all links, and neither dial nor accept until `resume`. Peers get the reason. Idempotent."""
        if self._suspended:
            return
        log.warning("no links to peers: %s", reason)
        self._suspended = reason
        self._dials.paused = True
        while self._table.used:  # a held link takes over when the one in use goes
            link = next(iter(self._table.used.values()))
            link.close(Code.SHUTDOWN, reason)
            self.link_down(link, Code.SHUTDOWN, reason)

    def resume(self) -> None:
        """Dial and accept again. Idempotent."""
        if self._suspended:
            log.warning("links to peers are made again")
            self._suspended = ""
            self._dials.paused = False
            self._dials.wake()

    def note_abuse(self, node_id: str, code: Code, reason: str) -> None:
        """Ban a node for `ABUSE_BAN` seconds after this node ended its link for abuse."""
        if code is Code.ABUSE and node_id not in self.policy.pins:
            try:
                self.policy.ban(node_id, ABUSE_BAN, reason)
                self._bans_changed.set()
            except OSError as error:
                log.warning("a ban cannot be saved: %s", error)

    def unban(self, subject: str) -> bool:
        """Remove a ban and dial whom it concerned; returns False if there is none. Raises as `PeerPolicy.ban`."""
        removed = self.policy.unban(subject)
        if removed:
            self._dial_again([normal_subject(subject)])
        return removed

    def _dial_again(self, subjects: Collection[str]) -> None:
        """Make the addresses due that bans of `subjects` had kept from being dialled."""
        now = self._now()
        for address in self._book:
            if address.refused and any(covers(s, address.node_id, address.host) for s in subjects):
                address.next_dial = min(address.next_dial, now)
        self._dials.wake()

    async def _follow_bans(self) -> None:
        """Dial again at the end of each ban, until cancelled."""
        while True:
            self._bans_changed.clear()
            if ended := self.policy.take_ended():
                self._dial_again(ended)
            end = next(iter(self.policy.bans()), None)
            left = None if end is None else min(max(end.until - self._wall(), 0.01), BAN_CHECK)
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._bans_changed.wait()

    def proven_peers(self) -> list[PeerAddress]:
        """Return connected peers that were reached at the address given: those fit to be passed on.

        One for Grenache only of a peer that is linked over it, and if the last dial to it succeeded:
        a peer that dialled us does not say where its requests are taken now.
        """
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
        """Return the address at which a node is believed to answer Grenache requests."""
        return next((a for a in self._book.of(node_id) if a.carrier == "grenache"), None)

    def found(self, peer: PeerFound) -> None:
        """Add an address from a discovery strategy. Addresses that no dialer can dial are skipped."""
        if not self._dials_over(peer.carrier):
            return
        if self.policy.refusal(peer.node_id or "", peer.host) is not None and peer.node_id:
            return  # banned, or outside of a closed network
        if self._book.add(peer, self._now()) is not None:
            self._dials.wake()

    def withdraw(self, node_id: str, host: str, keep: Collection[int] = ()) -> None:
        """Forget the TCP addresses of a node at `host`, except at the ports in `keep`: it cannot be dialled there."""
        now = self._now()
        for address in self._book.of(node_id):
            at_host = address.carrier == "tcp" and address.host == normal_host(host)
            if at_host and address.port not in keep and not address.pinned(now):
                self._book.remove(address)
                self._store.changed()

    def _dials_over(self, carrier: Carrier) -> bool:
        return not self._dials.dialers or carrier in self._dials.dialers

    # -- links ------------------------------------------------------------------------------------

    def accepts_address(self, address: str) -> bool:
        return self.admission.accepts_address(address)

    def admit(self, info: PeerInfo) -> LinkRefusal | None:
        if self._suspended:
            return LinkRefusal(Code.SHUTDOWN, self._suspended)
        if info.node_id == self.own_id:
            return LinkRefusal(Code.SELF, "this is the node itself")
        if info.outbound:
            self._dials.note_answer(info)
        refusal = self.admission.refusal(info)
        if refusal is not None:
            return refusal
        verdict = self._table.verdict(info, self._now(), self._dialled_at(info))
        if verdict is SecondLinkVerdict.REFUSE:
            return LinkRefusal(Code.DUPLICATE, ADMISSION_REASONS[Code.DUPLICATE])
        if verdict is not None:
            return None
        refusal = self._slot_for(info).refusal
        if refusal is not None and refusal.code is Code.FULL and not info.outbound:
            refusal = refusal._replace(others=self._others_for(info))
        return refusal

    def _others_for(self, info: PeerInfo) -> tuple[tuple[str, str, int], ...]:
        """Return a few proven peers that a node without a slot here may dial, so that a full bootstrap node is no end."""
        known = [
            (peer.node_id, peer.address, peer.port)
            for peer in self.proven_peers()
            if peer.carrier == "tcp"
            and peer.node_id != info.node_id
            and "%" not in peer.address
            and may_name(teller(info.address), peer.address)
        ]
        return tuple(self._rng.sample(known, min(len(known), MAX_OTHERS)))

    def _slot_for(self, newcomer: PeerInfo) -> SlotDecision:
        room = self._dials.grenache_room
        shared = newcomer.carrier == "grenache" and room is not None and room <= 0
        return self.admission.decide(newcomer, shared=shared)

    def link_up(self, link: PeerLink) -> None:
        node_id = link.peer.node_id
        now = self._now()
        new = node_id not in self._table.used
        if new:
            # Decided again: two handshakes may have been admitted for one slot.
            decision = self._slot_for(link.peer)
            if decision.refusal is not None:
                link.close(decision.refusal.code, decision.refusal.reason)
                return
            self._evict(decision.evict)
        if link.peer.listen_port and (not link.peer.outbound or link.peer.carrier != "tcp"):
            self.found(PeerFound(link.peer.address, link.peer.listen_port, node_id, INBOUND))
        if new:
            self.admission.took_slot(node_id, outbound=link.peer.outbound)
            self._records.connected(link)
        change = self._table.up(link, now, self._dialled_at(link.peer))
        self._apply(change, Code.DUPLICATE, "another link is used")
        self._dials.wake()

    def _evict(self, node_id: str | None) -> None:
        """Close all links of the node that makes room for another."""
        if node_id is None:
            return
        log.info("peer %s makes room for another one", node_id)
        self.admission.gave_way(node_id)
        reason = "this node tries another peer, or one of a network with fewer links"
        # A held link takes over when the one in use goes, so that it has to go as well.
        while (link := self._table.used.get(node_id)) is not None:
            link.close(Code.FULL, reason)
            self.link_down(link, Code.FULL, reason)  # at once, so that the slot is free

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        node_id = link.peer.node_id
        peer = self._records.had_link(node_id)  # with the last figures of its link
        change = self._table.down(link)
        heir, carrier = change.after, link.peer.carrier
        lost = change.before is link and heir is None
        if lost or (change.before is link and heir is not None and heir.peer.carrier != carrier):
            now = self._now()
            lasted = now - self._up_since.pop(node_id)
            wait = wait_after(code)
            self._book.link_lost(node_id, lasted, now, self._wall(), self._rng, wait, carrier)
        self._apply(change, code, reason)
        if lost:
            self.admission.forget(node_id)
        if lost and peer is not None:
            peer.connection, peer.status, peer.direction = None, "disconnected", None
            peer.last_error = _why_lost(code, reason)
            if not self._book.of(node_id):
                self._records.forget(node_id)  # it cannot be dialled, and may never come back
            for callback in self._on_down:
                _guard("a callback for peers", callback, peer)
            self._store.changed()
        self._dials.wake()

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        change = self._table.message_arrived(link, self._now())
        if change is None:
            return
        if change is not UNCHANGED:
            self._apply(change, Code.DUPLICATE, "another link is used")
        used = self._table.used[link.peer.node_id]  # the same peer, whichever link it came over
        handler = self._handlers.get(envelope.type)
        if handler is not None and self._from_peer_itself(link, envelope):
            handler(used, envelope)
        elif self._listener is not None:
            self._listener.message(used, envelope)

    def _dialled_at(self, info: PeerInfo) -> float | None:
        address = self._dials.dialled_for(info)
        return None if address is None else address.last_attempt

    def _from_peer_itself(self, link: PeerLink, envelope: Envelope) -> bool:
        return (
            envelope.hops == 0
            and envelope.from_ == link.peer.node_id
            and envelope.to in ("", self.own_id)
        )

    def _apply(self, change: LinkChange, code: Code | None, reason: str) -> None:
        before, after = change.before, change.after
        if before is not after:
            if before is not None:
                for follower in self._followers:
                    _guard("an observer of links", follower.link_down, before, code, reason)
            if after is not None:
                self._up_since[after.peer.node_id] = self._now()
                for follower in self._followers:
                    _guard("an observer of links", follower.link_up, after)
        for link in change.close:
            link.close(Code.DUPLICATE, "another link to the same peer is kept")

    # -- dialling ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to dial and to save."""
        if not self._tasks:
            self._tasks.start(self._dials.run(), name="dial loop")
            self._tasks.start(self._follow_bans(), name="ends of bans")
            self._tasks.start(self._store.run(), name="peer saving")

    async def stop(self) -> None:
        """Stop dialling and save the peers. Links are closed by the connection service."""
        await self._tasks.close()
        self.persist_peers()

    async def connect(self, host: str, port: int) -> Peer:
        """Dial HOST:PORT now, on behalf of the operator, as `DialLoop.connect` does."""
        node_id = await self._dials.connect(host, port)
        peer = self._records.get(node_id)
        if peer is None:
            raise ConnectFailed(f"the link to {host} closed again at once")
        return peer

    # DialHost

    def is_outbound(self, node_id: str) -> bool:
        return self.admission.is_outbound(node_id)

    def is_banned(self, address: Address) -> bool:
        return self.policy.banned(address.node_id or "", address.host) is not None

    def reached(self, node_id: str, address: Address) -> None:
        self._records.reached(node_id, address)
        self._store.changed()

    def forgotten(self, address: Address) -> None:
        node_id = address.node_id
        if node_id is not None and node_id not in self._table.used and not self._book.of(node_id):
            self._records.forget(node_id)
        self._store.changed()

    # -- storage ----------------------------------------------------------------------------------

    def load_persisted_peers(self) -> list[PeerFound]:
        """Add the peers of earlier runs; returns them for the persisted strategy. Raises as
        `PeerStore.load`.
        """
        found = []
        for stored in self._store.load(self._dials_over):
            where = (stored.address, stored.port, stored.node_id)
            address = Address(*where, stored.source, carrier=stored.carrier)
            address.last_success, address.failures = epoch(stored.last_success), stored.failures
            if stored.anchor:
                address.anchor = True
                self.admission.anchors.add(stored.node_id)
            self._book.restore(address, self._now())
            found.append(PeerFound(*where, "persisted", carrier=stored.carrier))
        return found

    def persist_peers(self) -> None:
        """Write the peers to disk now. A failure is a warning: the node goes on without them."""
        self._store.save()

    def _to_store(self) -> list[StoredPeer]:
        """Return the addresses at which peers were reached."""
        anchors = self.admission.choose_anchors()
        found = []
        for a in self._book:
            if not a.tried or a.node_id is None:
                continue
            link = self._table.used.get(a.node_id)
            linked = link is not None and link.peer.carrier == a.carrier
            seen = moment(self._wall() if linked else a.last_success)
            anchor = (a.node_id in anchors and linked) or msgspec.UNSET
            found.append(
                StoredPeer(a.node_id, a.host, a.port, seen, a.failures, a.source, a.carrier, anchor)
            )
        return found


def _guard(what: str, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        call(*args, **kwargs)
    except Exception:
        log.exception("%s failed", what)


def _why_lost(code: Code | None, reason: str) -> str:
    if code is None:
        return reason or "the connection broke"
    return f"{reason} ({code})" if reason else str(code)
