"""PeerManager: links in use, dialling, and persistence of the peers of this node.

`PeerManager` joins classes without I/O that decide: the next address to dial (`p2p.addresses.address_book`), the wait
before it (`p2p.addresses.reconnect`), the link that stays of two to one peer (`p2p.peers.duplicate_links`).
`p2p.peers.dial_loop` dials, `p2p.peers.operator_dial` for the operator, `p2p.peers.peer_store` saves, `p2p.peers.peer_records` reports.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from p2p.addresses.address import INBOUND, Address, PeerFound
from p2p.addresses.address_book import GRENACHE_DELAY, AddressBook
from p2p.addresses.peer_storage import Storage
from p2p.addresses.reconnect import Reconnect, wait_after
from p2p.base.errors import Code
from p2p.base.host_port import normal_host
from p2p.discovery.bootstrap import Resolve, resolve
from p2p.discovery.peer_exchange import may_pass
from p2p.peers.dial_loop import Dialer, DialLoop
from p2p.peers.duplicate_links import LinkChange, LinkTable, SecondLinkVerdict
from p2p.peers.link_slots import LinkRefusal, SlotDecision, SlotLimits
from p2p.peers.operator_dial import OperatorDial
from p2p.peers.peer_admission import PeerAdmission
from p2p.peers.peer_policy import ABUSE_BAN, PeerBan, PeerPolicy, covers, normal_subject
from p2p.peers.peer_records import Peer, PeerRecords
from p2p.peers.peer_store import PeerStore
from p2p.wire.handshake import ADMISSION_REASONS, MAX_OTHERS
from p2p.wire.link import Carrier, LinkHandler, PeerInfo, PeerLink
from p2p.wire.messages import Envelope, PeerAddress

log = logging.getLogger(__name__)

BAN_CHECK: Final = 30.0  # seconds; the wall clock, which decides when bans end, may be set

Handler = Callable[[PeerLink, Envelope], None]


class LinkFollower(Protocol):
    """Observer of the link in use for each peer. Called in the event loop; must not block."""

    def link_up(self, link: PeerLink) -> None: ...

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None: ...


class PeerManager:
    """Owner of the links of this node: link handler and `admit` of the connection service.

    Messages go to the handler registered for their type (`handle`), else to `listener`, which also follows links,
    as followers do. All methods belong to the event loop.
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
        slots: SlotLimits | None = None,
        allow: Collection[str] = (),
        policy_path: Path | None = None,
        rng: random.Random | None = None,
        resolver: Resolve = resolve,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`reconnect_interval` is in seconds. `dialer` (for TCP) and `listener` may be set later,
        before `start`. `slots`: limits of inbound links, whose `max_peers` is replaced by that given here.
        `allow`: node ids of a closed network; empty for an open one. `policy_path`: file of pins and bans.
        `clock` gives monotonic seconds, the event loop's by default; `wall` gives seconds since the epoch.

        Raises:
            ValueError: the file of pins and bans is damaged.
        """
        self.own_id = own_id
        self.listener = listener
        self.max_peers = max_peers
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._now = clock or _loop_time
        self._wall = wall
        self._book = AddressBook(own_id, Reconnect(reconnect_interval), key=secrets.token_bytes(16))
        self._table = LinkTable(own_id)
        self.policy = PeerPolicy(policy_path, allow=allow, wall=wall)
        self.admission = PeerAdmission(
            replace(slots or SlotLimits(), max_peers=max_peers),
            self.policy,
            self._book,
            self._table.used,
            self._now,
        )
        self._dials = DialLoop(
            self._book,
            self._table.used,
            max_peers=max_peers,
            rng=self._rng,
            clock=self._now,
            wall=wall,
            reached=self._reached,
            forgotten=self._forgotten,
            is_outbound=self.admission.is_outbound,
            banned=lambda a: self.policy.banned(a.node_id or "", a.host) is not None,
        )
        self.dialer = dialer
        self._suspended = ""  # why there are no links now
        self._up_since: dict[str, float] = {}  # node id: monotonic seconds
        self._followers: list[LinkFollower] = []
        self._handlers: dict[str, Handler] = {}
        self._on_up: list[Callable[[Peer], None]] = []
        self._on_down: list[Callable[[Peer], None]] = []
        self._bans_changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._records = PeerRecords(
            self._book, self._table, self._dials, self.admission, self._now, wall
        )
        self._operator_dial = OperatorDial(
            self._book,
            self._table,
            self._dials,
            self.admission,
            self._records,
            resolver=resolver,
            clock=self._now,
        )
        self._memory = (
            None
            if storage is None
            else PeerStore(
                own_id,
                storage,
                self._book,
                self._table,
                self.admission,
                dials_over=self._dials_over,
                clock=self._now,
                wall=wall,
            )
        )

    @property
    def dialer(self) -> Dialer | None:
        """Dialer for TCP."""
        return self._dials.dialers.get("tcp")

    @dialer.setter
    def dialer(self, dialer: Dialer | None) -> None:
        self._dials.dialers.pop("tcp", None)
        if dialer is not None:
            self._dials.dialers["tcp"] = dialer
        self._book.grenache_delay = GRENACHE_DELAY if dialer is not None else 0.0

    def dial_over_grenache(self, dialer: Dialer) -> None:
        """Dial over Grenache too, or, without a `dialer` for TCP, alone. Call before `start`."""
        self._dials.dialers["grenache"] = dialer

    # -- wiring -----------------------------------------------------------------------------------

    def handle(self, message_type: str, handler: Handler) -> None:
        """Pass messages of this type that a peer sent to this node itself to `handler`."""
        self._handlers[message_type] = handler

    def follow(self, follower: LinkFollower) -> None:
        """Notify `follower` of every link in use, present ones included."""
        self._followers.append(follower)
        for link in self._table.used.values():
            follower.link_up(link)

    def on_peer_up(self, callback: Callable[[Peer], None]) -> None:
        """Register a callback for peers that connect; not for links that replace another."""
        self._on_up.append(callback)

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
        if self._memory is not None:
            self._memory.forget(node_id)
        link = self._table.used.get(node_id)
        if link is not None:
            link.close(Code.SHUTDOWN, "removed by the operator")
        else:
            self._records.forget(node_id)
        self._changed()

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
                self._changed()

    def _dials_over(self, carrier: Carrier) -> bool:
        return not self._dials.dialers or carrier in self._dials.dialers

    # -- links ------------------------------------------------------------------------------------

    def admit(self, info: PeerInfo) -> LinkRefusal | None:
        """Return the refusal of a proven peer, None to admit it. Called on both sides of every
        link, before it is up.
        """
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
            and may_pass(info.address, peer.address)
        ]
        return tuple(self._rng.sample(known, min(len(known), MAX_OTHERS)))

    def _slot_for(self, newcomer: PeerInfo) -> SlotDecision:
        room = self._dials.grenache_room
        if newcomer.carrier == "grenache" and room is not None and room <= 0:
            return SlotDecision(LinkRefusal(Code.FULL, ADMISSION_REASONS[Code.FULL]))
        return self.admission.decide(newcomer)

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
        peer = self._records.had_link(node_id) if new else None
        if peer is not None:
            self._notify(self._on_up, peer)
        self._dials.wake()

    def _evict(self, node_id: str | None) -> None:
        """Close all links of the node that makes room for another."""
        if node_id is None:
            return
        log.info("peer %s makes room for another one", node_id)
        self.admission.counters["evicted"] += 1
        reason = "another peer adds more to the diversity of this node's links"
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
            self._notify(self._on_down, peer)
            self._changed()
        self._dials.wake()

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        change = self._table.message_arrived(link, self._now())
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

    def _from_peer_itself(self, link: PeerLink, envelope: Envelope) -> bool:
        return (
            envelope.hops == 0
            and envelope.from_ == link.peer.node_id
            and envelope.to in ("", self.own_id)
        )

    def _apply(self, change: LinkChange, code: Code | None, reason: str) -> None:
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
        call: Callable[[LinkFollower, PeerLink], None], follower: LinkFollower, link: PeerLink
    ) -> None:
        try:
            call(follower, link)
        except Exception:
            log.exception("an observer of links failed")

    @staticmethod
    def _notify(callbacks: Iterable[Callable[[Peer], None]], peer: Peer) -> None:
        for callback in callbacks:
            try:
                callback(peer)
            except Exception:
                log.exception("a callback for peers failed")

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
        """Dial due addresses and save changes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dials.run(), name="dial loop")
            group.create_task(self._follow_bans(), name="ends of bans")
            if self._memory is not None:
                group.create_task(self._memory.run(), name="peer saving")

    async def connect(self, host: str, port: int) -> Peer:
        """Dial HOST:PORT now, on behalf of the operator; the address is kept for good once a peer has
        answered there. Several addresses of a name are tried in turn. Over TCP, if that is used.

        Raises:
            ConnectFailed: the name does not resolve, or there was no answer.
            HandshakeRefused: the peer or this node ended the handshake; says why.
        """
        return await self._operator_dial.connect(host, port)

    def _reached(self, node_id: str, address: Address) -> None:
        self._records.reached(node_id, address)
        self._changed()

    def _forgotten(self, address: Address) -> None:
        node_id = address.node_id
        if node_id is not None and node_id not in self._table.used and not self._book.of(node_id):
            self._records.forget(node_id)
        self._changed()

    # -- storage ----------------------------------------------------------------------------------

    def load_persisted_peers(self) -> list[PeerFound]:
        """Add the peers of earlier runs; returns them for the persisted strategy. Raises as
        `PeerStore.load`.
        """
        return [] if self._memory is None else self._memory.load()

    def persist_peers(self) -> None:
        """Write the peers to disk now. A failure is a warning: the node goes on without them."""
        if self._memory is not None:
            self._memory.save()

    def _changed(self) -> None:
        if self._memory is not None:
            self._memory.changed()


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _why_lost(code: Code | None, reason: str) -> str:
    if code is None:
        return reason or "the connection broke"
    return f"{reason} ({code})" if reason else str(code)
