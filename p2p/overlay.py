"""Overlay: this node's place in the network, made of links, peers, discovery, router and RPC.

Links are direct ones over TCP, or carried by Grenache requests, or both (hybrid): see
`p2p.grenache_links.grenache_transport`. Users register handlers at `router`, follow neighbours through
`on_neighbour`, and send with `send` and `broadcast`. Sockets and timers end here: the layers above see messages.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from p2p.addresses.peer_storage import PeerStorage
from p2p.base.errors import Code, DeliveryError, RemoteProtocolError
from p2p.base.identity import Identity
from p2p.base.limits import PROTOCOL_VERSION
from p2p.base.network_group import is_local, network_group
from p2p.base.own_addresses import OwnHosts
from p2p.base.reach import Reach, reach
from p2p.discovery.bootstrap import BootstrapStrategy, PersistedStrategy
from p2p.discovery.peer_exchange import ExchangeStrategy
from p2p.discovery.strategy import DiscoveryStrategy, PeerDiscovery
from p2p.ground.owned_tasks import OwnedTasks
from p2p.ground.paced_wait import PacedWait
from p2p.mesh.encrypted_relaying import TYPE as SEGMENT_TYPE
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import DEFAULT_SETTINGS, RelayEncryption, RouterSettings, Way
from p2p.peers.dial_loop import Surroundings
from p2p.peers.peer_manager import DEFAULT_SETTINGS as PEER_DEFAULTS
from p2p.peers.peer_manager import PeerManager, PeerSettings
from p2p.peers.peer_policy import POLICY_FILE
from p2p.reachability.reachability import ReachabilityCore
from p2p.reachability.reachability_service import ReachabilityService, new_nonce
from p2p.rpc.relayed_trips import CHECK, RelayedTrips
from p2p.rpc.rpc import Rpc
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.link import Carrier, LinkStats, PeerLink
from p2p.wire.messages import Codec, Envelope

if TYPE_CHECKING:  # loaded where it is used
    from p2p.discovery.grape_discovery import GrapeStrategy
    from p2p.grenache_links.grenache_transport import GrenacheTransport

log = logging.getLogger(__name__)

TICK = 0.05  # seconds between looks at the router's timers while messages come and go,
QUIET = 1.0  # and at most while none do
LinkPath = Literal["direct", "mapped", "punched", "grenache"]  # of a link to a node


@dataclass(frozen=True, slots=True)
class OverlaySettings:
    """Settings of an overlay. Seconds; `host` is the address that accepts links.

    Without `direct` there are no TCP links: `bootstrap` then names where Grenache requests are taken,
    and `mdns`, which knows only TCP ports, is not used.
    """

    host: str
    links: LinkSettings  # `supported_protocols` are those of `payloads`
    storage_path: Path  # remembered peers; pins and bans lie beside them
    peers: PeerSettings = PEER_DEFAULTS  # its paths follow from `storage_path`
    router: RouterSettings = DEFAULT_SETTINGS  # `encryption` follows from `links`
    bootstrap: Sequence[tuple[str, int]] = ()
    dns_seeds: Sequence[str] = ()
    peer_lists: Sequence[tuple[str, str]] = ()  # URL and the signer's node id
    dns_servers: Sequence[tuple[str, int]] = ()  # the system's if empty
    seeds_reach: Reach = Reach.PUBLIC  # narrowest of addresses from DNS seeds and lists
    mdns: bool = True
    exchange: bool = True
    direct: bool = True
    external: Sequence[tuple[str, int]] = ()  # addresses given by the operator
    port_mapping: bool = False  # request one from the router
    payloads: dict[str, type[msgspec.Struct]] = field(default_factory=dict)


class Overlay:
    """Links, peers, discovery, router and RPC of one node. Everything belongs to one event loop, whose time
    is the clock.
    """

    def __init__(
        self,
        identity: Identity,
        settings: OverlaySettings,
        *,
        grenache: GrenacheTransport | None = None,
        on_neighbour: Callable[[str, bool], None] = lambda node, up: None,
    ) -> None:
        """Compose the overlay. `grenache`: transport used beside direct links, or instead; the overlay
        starts and stops it.
        """
        self.node_id = identity.node_id
        self._identity = identity
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._on_neighbour = on_neighbour
        self._codec = Codec(settings.payloads)
        self._interfaces = OwnHosts(self._loop.time)
        rng = random.Random()  # noqa: S311 - spreads load, guards nothing
        self.peers = PeerManager(
            identity.node_id,
            replace(
                settings.peers,
                policy_path=settings.storage_path.with_name(POLICY_FILE),
                storage=PeerStorage(settings.storage_path),
            ),
            listener=self,
            surroundings=Surroundings(is_own=self._is_own),
        )
        protocols = set(self._codec.payloads)
        if not settings.links.secure:
            protocols.discard(SEGMENT_TYPE)
        self.links = DirectConnectionService(
            identity,
            self.peers,
            self._codec,
            replace(settings.links, supported_protocols=sorted(protocols)),
            clock=self._loop.time,
        )
        if settings.direct:
            self.peers.dial_over("tcp", self.links)
        tls = self.links.tls
        self.router = MessageRouter(
            identity,
            rng=rng,
            wall_ms=lambda: int(time.time() * 1000),
            host=self,
            settings=replace(
                settings.router, encryption=None if tls is None else RelayEncryption(*tls)
            ),
        )
        self.rpc = Rpc(self.router, rng=rng, flush=self.flush)
        self.grenache = grenache
        self._grape: GrapeStrategy | None = None
        self.discovery: PeerDiscovery | None = None
        self.address: tuple[str, int] = (settings.host, 0)
        # Traffic of links that have ended.
        self._ended = {path: LinkStats() for path in get_args(LinkPath)}
        self._flush_due = False
        self._stopped = False
        self._tasks = OwnedTasks(log)
        self._pace = PacedWait(self._loop, step=TICK, longest=QUIET)
        self.reachability: ReachabilityService | None = None  # with direct links, from `start` on

    async def listen(self, port: int) -> None:
        """Accept direct links on `port` (0: any free one). Call before `start`.

        Raises:
            OSError: the address cannot be bound.
        """
        self.address = await self.links.start(self._settings.host, port)

    async def start(self) -> None:
        """Start discovery and dialling."""
        if self.grenache is not None:
            self.peers.dial_over("grenache", self.grenache.start(self.links))
        if self._settings.direct:
            self.reachability = self._make_reachability()
            await self.reachability.start()
        self.discovery = PeerDiscovery(self._strategies(), self.peers.found)
        self._tasks.start(self._tick(), name="router timers")
        trips = RelayedTrips(self.rpc, self.router.delivery, self.now)
        self._tasks.every(CHECK, trips.check, name="relayed round trips")
        await self.peers.start()
        await self.discovery.start()

    def _make_reachability(self) -> ReachabilityService:
        core = ReachabilityCore(self.address[1], new_nonce, given=self._settings.external)
        return ReachabilityService(
            core,
            self,
            random.Random(),  # noqa: S311 - sizes and delays of a limit, no secret
            mapping=self._settings.port_mapping and reach(self.address[0]) is not Reach.LOOPBACK,
        )

    def _is_own(self, host: str) -> bool:
        """Return True for an address of this machine, or one from which a router leads to it."""
        outside = self.reachability
        return host in self._interfaces or (
            outside is not None and outside.core.is_own(host, self.now())
        )

    def _strategies(self) -> list[DiscoveryStrategy]:
        # Others may exchange peers where this node does not: that is nothing to charge them for.
        self.peers.handle("peerexchange", lambda link, envelope: None)
        settings = self._settings
        if not settings.direct and self.grenache is None:
            return []  # no carrier to dial with
        carrier: Carrier = "tcp" if settings.direct else "grenache"
        bootstrap = BootstrapStrategy(settings.bootstrap, carrier=carrier)
        self.peers.on_peer_down(lambda peer: bootstrap.refresh())
        strategies: list[DiscoveryStrategy] = [
            PersistedStrategy(self.peers.load_persisted_peers),
            bootstrap,
        ]
        if settings.mdns and settings.direct:
            from p2p.discovery.mdns import MdnsStrategy

            host, port = self.address
            strategies.append(
                MdnsStrategy(self.node_id, settings.links.network, host, port, PROTOCOL_VERSION)
            )
        if settings.dns_seeds and settings.direct:
            from p2p.discovery.dns_seeds import DnsLookup, DnsSeedStrategy

            lookup = DnsLookup(settings.dns_servers)
            strategies.append(DnsSeedStrategy(settings.dns_seeds, lookup, by=settings.seeds_reach))
        if settings.peer_lists and settings.direct:
            from p2p.discovery.peer_list_fetch import PeerListStrategy

            strategies.append(
                PeerListStrategy(
                    settings.peer_lists, settings.links.network, by=settings.seeds_reach
                )
            )
        if settings.exchange:
            exchange = ExchangeStrategy(self.node_id, self.peers.proven_peers, codec=self._codec)
            self.peers.follow(exchange)
            self.peers.handle("peerexchange", exchange.message)
            strategies.append(exchange)
        if self.grenache is not None:
            strategies.append(self._grape_strategy(self.grenache))
        return strategies

    def _grape_strategy(self, way: GrenacheTransport) -> GrapeStrategy:
        from p2p.discovery.grape_discovery import GrapeStrategy

        services: dict[str, Carrier] = {way.service: "grenache"}
        if self._settings.direct:
            services = {way.direct_service: "tcp", **services}

        async def offers() -> list[tuple[str, int]]:
            taken = (await way.listen())[1]
            own = [(service, taken) for service in (way.service, *way.offered)]
            port = self._announced_port()
            return [(way.direct_service, port), *own] if port else own

        grape = self._grape = GrapeStrategy(
            way.settings.grapes,
            services=services,
            offers=offers,
            alone=lambda: not self.peers.links,
        )
        self.peers.on_peer_down(lambda peer: grape.refresh())
        return grape

    def now(self) -> float:
        """Return the loop's time: the clock of all parts."""
        return self._loop.time()

    def relayed(self) -> list[str]:
        """Return the nodes that are reached without a link."""
        routes = self.router.delivery.routes.known(self._loop.time())
        return [node for node in routes if node not in self.peers.links and node != self.node_id]

    def paths(self) -> dict[str, int]:
        """Return the number of nodes that are reached by each path."""
        counts = dict.fromkeys(get_args(LinkPath), 0) | {"relayed": len(self.relayed())}
        for link in self.peers.links.values():
            counts[self.path_of(link)] += 1
        return counts

    def traffic(self) -> dict[str, LinkStats]:
        """Return the traffic of each path since the start. Bytes of links are those on the wire, of relayed messages
        those of their payloads.
        """
        found = {path: replace(ended) for path, ended in self._ended.items()}
        for link in self.peers.links.values():
            found[self.path_of(link)].add_traffic(link.stats)
        found["relayed"] = self.router.delivery.relayed_in_all()
        return found

    def round_trips(self) -> dict[str, list[float]]:
        """Return the present round trips by path, in seconds; no path without one."""
        found: dict[str, list[float]] = {}
        for link in self.peers.links.values():
            if link.stats.rtt is not None:
                found.setdefault(self.path_of(link), []).append(link.stats.rtt)
        for node in self.relayed():
            trip = self.router.delivery.relayed_traffic(node).rtt
            if trip is not None:
                found.setdefault("relayed", []).append(trip)
        return found

    def path_of(self, link: PeerLink) -> LinkPath:
        """Return how a link came about."""
        if link.peer.carrier == "grenache":
            return "grenache"
        if link.peer.punched:
            return "punched"
        mapped = self.reachability is not None and self.reachability.is_mapped(link)
        return "mapped" if mapped else "direct"

    def _announced_port(self) -> int:
        """Return the port at which nodes elsewhere can dial this one, 0 if they cannot."""
        port = self.address[1]
        if self.reachability is None or not port:
            return port
        # A Grape on this machine or LAN serves nodes there, which need no outside address.
        core = self.reachability.core
        return port if core.external(self._loop.time()) is None else core.outside_port(port)

    async def stop(self) -> None:
        """Withdraw discovery, say goodbye to peers and save them. Bounded in time."""
        if self.discovery is not None:
            await self.discovery.stop()
        if self.reachability is not None:
            await self.reachability.stop()
        await self.peers.stop()
        self._stopped = True
        await self.rpc.close()
        self._send_now()
        await self.links.stop()
        if self.grenache is not None:
            await self.grenache.stop()
        await self._tasks.close()

    # Sending

    def send(
        self, to: str, message_type: str, payload: bytes, *, queue_for: float | None = None
    ) -> None:
        """Send as `MessageRouter.send`; the message is on the wire at the end of this turn of the loop.

        Raises:
            DeliveryError: no way to the node.
        """
        self.router.send(self._loop.time(), to, message_type, payload, queue_for=queue_for)
        self.flush()

    def try_send(self, to: str, message_type: str, payload: bytes) -> None:
        """Send for protocols that repeat: a message without a route is dropped."""
        try:
            self.send(to, message_type, payload)
        except DeliveryError as error:
            log.debug("%s not sent: %s", message_type, error)

    def broadcast(self, message_type: str, payload: bytes) -> None:
        """Broadcast to every node of the network."""
        self.router.broadcast(self._loop.time(), message_type, payload)
        self.flush()

    def flush(self) -> None:
        """Send the router's outgoing messages once, at the end of this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._send_now)

    def _send_now(self) -> None:
        self._flush_due = False
        self._pace.hurry()
        links = self.peers.links
        for outgoing in self.router.take_outgoing():
            reached = [links[peer] for peer in outgoing.peers if peer in links]
            if len(reached) == 1:
                reached[0].send(outgoing.envelope)
            elif reached:
                packed = self._codec.encode(outgoing.envelope)
                for link in reached:
                    link.send_packed(packed)

    async def _tick(self) -> None:
        while True:
            await self._pace.wait(self.router.next_deadline())
            self.router.tick(self._loop.time())
            self._send_now()

    # LinkHandler, behind the peer manager: one link for each peer

    def link_up(self, link: PeerLink) -> None:
        node = link.peer.node_id
        over_grenache = link.peer.carrier == "grenache"
        by = ", over Grenache" if over_grenache else ""
        log.info("peer %s connected (%s%s)", node, link.peer.address, by)
        way = Way.GRENACHE if over_grenache else Way.DIRECT
        self.router.link_up(
            self._loop.time(),
            node,
            way,
            address=link.peer.address,
            exempt=node in self.peers.policy.pins,
            notices="refused" in link.peer.capabilities.supported_protocols,
            branches="branch" in link.peer.capabilities.supported_protocols,
            segments=SEGMENT_TYPE in link.peer.capabilities.supported_protocols,
        )
        self._on_neighbour(node, True)
        self.flush()

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        node = link.peer.node_id
        log.info("peer %s gone (%s)", node, reason or code or "connection lost")
        self._ended[self.path_of(link)].add_traffic(link.stats)
        self.router.link_down(self._loop.time(), node)
        self.rpc.link_down(node)
        self._on_neighbour(node, False)
        self.flush()

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        try:
            self.router.receive(self._loop.time(), link.peer.node_id, envelope)
        except RemoteProtocolError as error:
            self.peers.note_abuse(link.peer.node_id, error.code, error.reason)
            raise
        finally:
            self.flush()

    # RouterHost

    def first_with_news(self, link: str) -> None:
        self.peers.admission.news(link)

    def why_not_grenache(self, node: str) -> str:
        if self._grape is None:
            return "no Grape is used"
        address = self.peers.grenache_address(node)
        if address is not None:
            return f"not connected at {address} ({address.last_error or 'no failure yet'})"
        return "not found through Grenache" if self._grape.answering else "no Grape answers"

    def defer(self, link: str, origin: str) -> None:
        """Handle broadcasts that the router put off in turns of their own, which the links of a network group share."""
        address = self.peers.links[link].peer.address
        flow = link if is_local(address) else network_group(address)
        self.links.turns.defer(
            (link, origin), ("deferred", flow), lambda: self._handle_deferred(link, origin)
        )

    def _handle_deferred(self, node: str, origin: str) -> bool:
        """Handle one broadcast; returns True if more wait."""
        if self._stopped:
            return False
        try:
            self.router.handle_deferred(self._loop.time(), node, origin)
        except RemoteProtocolError as error:
            self.peers.note_abuse(node, error.code, error.reason)
            link = self.peers.links.get(node)
            if link is not None:
                link.close(error.code, error.reason)
        except Exception:
            log.exception("a broadcast of %s, put off before, failed", origin)
        finally:
            self.flush()
        return self.router.has_deferred(node, origin)
