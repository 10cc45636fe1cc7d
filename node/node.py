"""One node: the exchange's engine on the peer-to-peer overlay, with its journal and its API."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from config import Settings
from exchange.core import Drained
from exchange.engine import MESSAGES, Engine
from exchange.history import History
from exchange.instruments import Instruments
from exchange.journal import Journal
from exchange.ports import Send
from node.api.auth import AccessRules
from node.api.server import ApiServer
from node.api.tls import Tls
from node.committer import Committer
from node.keys import NodeKeys
from node.market_data import MarketData
from node.metrics import ExchangeFigures, exposition
from node.offers import OFFERS, public_offers
from node.ports import first_free
from node.routing import call_service, mesh_settings, router_view, service_views
from node.service import TradingService
from node.statement_views import ReconciliationView
from node.statements import Statements
from node.texts import BUY, SELL, side_word
from node.times import iso
from node.version import VERSION
from node.views import (
    CallRequest,
    CallView,
    DiscoveryView,
    GrenacheView,
    Mode,
    PeerView,
    PingView,
    RouterView,
    ServiceError,
    ServiceView,
    StatusView,
)
from p2p import mesh as p2p_mesh
from p2p import serving
from p2p.calls import CallResult
from p2p.errors import (
    Code,
    ConnectFailed,
    HandshakeRefused,
    NoProvider,
    P2PError,
    RpcError,
)
from p2p.faults import Faults
from p2p.hostport import format_host_port, parse_host_port
from p2p.identity import Identity, is_node_id
from p2p.link import Link
from p2p.mesh import ServiceMesh
from p2p.overlay import Overlay, OverlaySettings
from p2p.peers import Peer
from p2p.router import Received

if TYPE_CHECKING:  # loaded with DISCOVERY_GRENACHE alone
    from node.grapes import Grapes
    from node.outside import Outside

log = logging.getLogger(__name__)

TICK = 0.05  # seconds between looks at the engine's timers
PING_TIMEOUT = 5.0
MAX_WARNINGS = 100
DRAIN_TIME = 1.5  # seconds that requests being served get when the node stops


class Node(TradingService):
    """A running node; its service to the API includes what concerns peers. Lives in one event loop."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        instruments: Instruments,
        journal: Journal,
        history: History,
        tls: Tls | None = None,
    ) -> None:
        """`tls` is for the API, which is plain HTTP without it."""
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        epoch_us = time.time_ns() // 1000 - int(now * 1_000_000)  # before anything that takes time
        self._settings = settings
        self._started = now
        self._warnings: list[str] = []
        recovered = journal.recover()
        engine = Engine(
            NodeKeys(identity),
            [instrument.key for instrument in instruments],
            network=settings.p2p_network,
            epoch_us=epoch_us,
            rng=random.Random(),  # noqa: S311 - spreads load, guards nothing
            instruments=instruments,
            recovered=recovered,
            lease_ms=settings.presence_lease_ms,
            warn=self._warn,
            now=now,
        )
        committer = Committer(engine, journal, self._release)
        market_data = MarketData(
            instruments, engine.markets, history, lambda: engine.us(self._loop.time())
        )
        market_data.restore(recovered)
        if journal.note is not None:
            self._warn(journal.note)
        if history.replaced is not None:
            self._warn(
                f"the market history {history.path} could not be used ({history.replaced}): it is "
                "begun anew"
            )
        super().__init__(
            engine, instruments, journal, committer, self._loop.time, market_data, recovered.meta
        )
        self.grapes: Grapes | None = None
        if settings.discovery_grenache:
            from node.grapes import Grapes

            self.grapes = Grapes(settings)
        self.overlay = Overlay(
            identity,
            OverlaySettings(
                direct=settings.p2p_enabled,
                host=settings.p2p_host,
                network=settings.p2p_network,
                secure=settings.p2p_security == "tls",
                agent=f"exchange-node/{VERSION}",
                storage_path=settings.peers_path,
                max_peers=settings.max_peers,
                reconnect_interval=settings.peer_reconnect_interval_s,
                bootstrap=settings.bootstrap_peers,
                mdns=settings.discovery_mdns,
                exchange=settings.discovery_exchange,
                payloads={**MESSAGES, **p2p_mesh.MESSAGES},
            ),
            grenache=None if self.grapes is None else self.grapes.way,
            on_neighbour=self._on_neighbour,
        )
        for message_type in MESSAGES:
            self.overlay.router.handle(message_type, self._on_message)
        self.overlay.rpc.serve("ping", self._on_ping)
        self._statements = Statements(
            engine,
            journal,
            committer,
            self._loop.time,
            NodeKeys(identity),
            settings.p2p_network,
            self.overlay.rpc,
        )
        self.mesh = ServiceMesh(
            identity,
            self.overlay,
            mesh_settings(settings),
            incarnation=recovered.meta.get("incarnation", 0) + 1,
        )
        self._outside: Outside | None = None
        if self.grapes is not None and settings.grenache_services:
            from node.outside import Outside

            self._outside = Outside(self.mesh.server)
        for name, handler in public_offers(self).items():
            self.serve(name, handler, idempotent=True)
        self.operator_token = secrets.token_urlsafe(32)  # of this run; node.json has it
        rules = AccessRules(
            keys_required=settings.api_keys_required,
            plain_keys=settings.api_plain_keys,
            rate_limit=settings.api_rate_limit,
            operator_token=self.operator_token,
        )
        self.api = ApiServer(self, rules=rules, tls=tls)

    # Life

    @property
    def node_id(self) -> str:
        return self._engine.node_id

    async def listen_to_peers(self, ports: Sequence[int]) -> None:
        """Join the network, listening for direct links on the first of `ports` that is free.

        Raises:
            OSError: none is.
            PortTaken: the Grape inside, or Grenache requests, cannot have theirs.
        """
        if self.grapes is not None:
            await self.grapes.start()
            if self._outside is not None:
                self._outside.start(self.grapes.directory)
        if self._settings.p2p_enabled:
            await first_free(ports, self.overlay.listen)
        await self.overlay.start()
        if self.grapes is not None and not self._settings.p2p_enabled:
            await self.grapes.listen()  # at once, not when a Grape answers: there is no other way
        self._engine.resume(self._loop.time())

    async def listen_to_clients(self, ports: Sequence[int]) -> None:
        """Serve the API on the first of `ports` that is free.

        Raises:
            OSError: none is.
        """
        await first_free(ports, lambda port: self.api.start(self._settings.api_host, port))

    async def run(self, stop: asyncio.Event) -> None:
        """Trade until `stop`, then leave in order: clients, presence, journal, peers.

        Raises:
            ExceptionGroup: a part failed; with `JournalError` the disk did.
        """
        async with asyncio.TaskGroup() as group:
            committer = group.create_task(self._committer.run(), name="committer")
            group.create_task(self.market_data.run(), name="market history")
            ticker = group.create_task(self._tick(), name="engine timers")
            services = group.create_task(self.mesh.run(), name="services")
            await stop.wait()
            services.cancel()
            self.hub.close()
            await self.api.stop()
            self.mesh.leave()
            await self._drain_services()
            ticker.cancel()
            self._engine.leave(self._loop.time())
            self._committer.stop()
            await committer
            self.market_data.stop()  # with what the last drain told
        await self._leave_network()

    async def _leave_network(self) -> None:
        await self.overlay.stop()
        if self._outside is not None:
            await self._outside.close()
        if self.grapes is not None:
            await self.grapes.stop()
        await self.mesh.close()

    async def abort(self) -> None:
        """After `run` failed: close what is open, promise nothing."""
        self.hub.close()
        await self.api.stop()
        await self._leave_network()

    async def _drain_services(self) -> None:
        """Let what is being served end, while nothing new is asked for any more."""
        until = self._loop.time() + DRAIN_TIME
        while self.mesh.server.in_flight and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._engine.tick(self._loop.time())
            self.trading.tick()
            self._committer.wake()

    def _warn(self, text: str) -> None:
        log.warning(text)
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(text)

    # Between engine and overlay

    def _on_message(self, received: Received) -> bool:
        valid = self._engine.receive(
            received.now, received.type, received.payload, received.origin, received.via
        )
        self._committer.wake()
        return valid

    def _on_neighbour(self, node: str, up: bool) -> None:
        if up:
            self._engine.neighbour_up(self._loop.time(), node)
            self.mesh.neighbour_up(node)
        else:
            self._engine.neighbour_down(self._loop.time(), node)
            self.mesh.neighbour_down(node)
        self._committer.wake()

    def _release(self, drained: Drained) -> None:
        for message in drained.messages:
            if isinstance(message, Send):
                self.overlay.try_send(message.to, message.type, message.payload)
            else:
                self.overlay.broadcast(message.type, message.payload)
        self.publish(drained)

    # Services

    def now(self) -> float:
        """The node's clock: monotonic seconds."""
        return self._loop.time()

    def serve(
        self,
        name: str,
        handler: serving.Handler,
        *,
        workers: int = serving.WORKERS,
        idempotent: bool = False,
        faults: Faults | None = None,
    ) -> None:
        """Offer a service to the network: `handler(payload)` answers, `workers` requests at once.

        Payload and result are what msgpack holds. The handler is async, or sync and then run in a
        thread. It refuses by raising `p2p.errors.HandlerError(code, message)`.
        `idempotent`: own calls to the service are repeated when they get no answer. `faults` are for
        tests.

        Raises:
            ValueError: the name cannot be one, or is taken.
        """
        self.mesh.server.serve(name, handler, workers=workers, faults=faults)
        self.mesh.directory.offer(name)
        if self._outside is not None and self.grapes is not None and name not in OFFERS:
            self.grapes.way.offer(name, self._outside.handler(name))
        if idempotent:
            self.mesh.caller.mark_idempotent(name)

    def withdraw(self, name: str) -> None:
        """Offer the service no longer."""
        self.mesh.directory.withdraw(name)
        if self.grapes is not None:
            self.grapes.way.withdraw(name)
        self.mesh.server.remove(name)

    async def call(
        self,
        service: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        idempotency_id: str = "",
        to: str | None = None,
    ) -> Any:
        """What a service of the network answers; see `p2p.calls.Caller.call`.

        Raises:
            HandlerError: the service refused, with its own code and message.
            CallError: there is no result; the kind of error says why.
        """
        result = await self.ask(
            service,
            payload,
            timeout=timeout,
            idempotent=idempotent,
            idempotency_id=idempotency_id,
            to=to,
        )
        return result.value

    async def ask(
        self,
        service: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        idempotency_id: str = "",
        to: str | None = None,
    ) -> CallResult:
        """As `call`, with the details. What no node offers is looked for among Grenache workers, if
        GRENACHE_SERVICES is on."""
        try:
            return await self.mesh.caller.ask(
                service,
                payload,
                timeout=timeout,
                idempotent=idempotent,
                idempotency_id=idempotency_id,
                to=to,
            )
        except NoProvider:
            if self._outside is None:
                raise
        return await self._outside.ask(
            service,
            payload,
            timeout=self._settings.client_request_timeout_s if timeout is None else timeout,
            idempotent=bool(idempotent) or bool(idempotency_id),
        )

    def services(self) -> list[ServiceView]:
        return service_views(self.mesh)

    async def call_service(self, service: str, request: CallRequest) -> CallView:
        to = None if request.node is None else self._full_id(request.node, own=True)
        return await call_service(self.ask, service, request, to)

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView:
        return router_view(
            self.mesh,
            self._loop.time(),
            lambda at: iso(self._engine.us(at)),
            events=events,
            kind=kind,
        )

    def metrics(self) -> bytes:
        return exposition(self)

    def exchange_figures(self) -> ExchangeFigures:
        """For the metrics."""
        engine = self._engine
        books: list[tuple[str, str, int, int]] = []
        for key, instrument in self._by_key.items():
            book = engine.markets[key].book
            for side in (BUY, SELL):
                levels = book.levels(side)
                orders = sum(orders for _, _, orders in levels)
                books.append((instrument.symbol, side_word(side), len(levels), orders))
        return ExchangeFigures(
            orders=self.trading.order_count,
            fills=self.fill_count,
            open_orders=len(engine.open_orders),
            pending_takes=len(engine.pending_takes),
            feeds=sum(1 for feed in engine.feeds.values() if feed.number),
            feeds_behind=engine.feeds_behind,
            books=books,
            committer=self._committer,
        )

    # Peers

    def peers(self) -> list[PeerView]:
        return [self._peer_view(peer) for peer in self.overlay.peers.get_all_peers()]

    async def connect(self, address: str) -> PeerView:
        try:
            host, port = parse_host_port(address)
        except ValueError as error:
            raise ServiceError(400, "bad_address", str(error)) from error
        try:
            return self._peer_view(await self.overlay.peers.connect(host, port))
        except HandshakeRefused as error:
            code = "self_connection" if error.code is Code.SELF else "peer_refused"
            raise ServiceError(502, code, str(error), reason=str(error.code)) from error
        except ConnectFailed as error:
            raise ServiceError(502, "connect_failed", str(error)) from error

    async def ping(self, node_id: str) -> PingView:
        full = self._full_id(node_id)
        link = self.overlay.peers.links.get(full)
        before = self._loop.time()
        try:
            answer = await self.overlay.rpc.call(
                full, "ping", None, timeout=PING_TIMEOUT, result_type=dict[str, str]
            )
        except RpcError as error:
            raise ServiceError(504, "ping_failed", f"node {full}: {error}") from error
        except P2PError as error:
            raise ServiceError(502, "unreachable", str(error)) from error
        return PingView(
            node_id=full,
            way=_way(link),
            rtt_ms=round((self._loop.time() - before) * 1000, 3),
            version=answer.get("version", ""),
        )

    async def _on_ping(self, caller: str, body: object) -> dict[str, str]:
        return {"version": VERSION}

    async def reconcile(self, peer: str) -> ReconciliationView:
        return await self._statements.reconcile(self.operations.positions.peer(peer))

    def _full_id(self, prefix: str, *, own: bool = False) -> str:
        """The node whose id begins so; with `own` it may be this one."""
        prefix = prefix.lower()
        known = {*self.overlay.peers.links, *self._engine.present}
        found = sorted(node for node in known if node.startswith(prefix))
        if prefix and self._engine.node_id.startswith(prefix) and len(prefix) >= 4:
            if own:
                return self._engine.node_id
            raise ServiceError(400, "self_connection", f"{prefix} is this node itself")
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(node[:12] for node in found[:5])
            raise ServiceError(400, "ambiguous_node", f"{prefix!r} fits several nodes: {some}")
        if is_node_id(prefix):
            return prefix
        raise ServiceError(
            404, "unknown_node", f"no node whose id begins with {prefix[:40]!r}; see 'peers'"
        )

    def _peer_view(self, peer: Peer) -> PeerView:
        link = peer.connection
        info = link.peer if link is not None else None
        stats = peer.stats
        return PeerView(
            node_id=peer.node_id,
            address=peer.address,
            port=peer.port,
            status=peer.status,
            direction=peer.direction,
            source=peer.source,
            encrypted=info.encrypted if info else None,
            carrier=info.carrier if info else None,
            version=peer.capabilities.version if peer.capabilities else None,
            capabilities=peer.capabilities.supported_protocols if peer.capabilities else [],
            last_seen=_iso(peer.last_seen),
            last_heartbeat=_iso(peer.last_heartbeat),
            rtt_ms=None if stats.rtt is None else round(stats.rtt * 1000, 3),
            failures=peer.failures,
            last_error=peer.last_error,
            messages_received=stats.messages_received,
            messages_sent=stats.messages_sent,
            bytes_received=stats.bytes_received,
            bytes_sent=stats.bytes_sent,
        )

    # Status

    def status(self) -> StatusView:
        settings = self._settings
        engine = self._engine
        links = self.overlay.peers.links
        return StatusView(
            node_id=engine.node_id,
            version=VERSION,
            network=settings.p2p_network,
            mode=self._mode(),
            security=settings.p2p_security,
            uptime_s=round(self._loop.time() - self._started, 1),
            data_dir=str(settings.data_dir),
            p2p_address=self.peer_address,
            api_url=self.api.url,
            grenache=self._grenache_view(),
            discovery=self._discovery_views(),
            peers_connected=len(links),
            peers_known=self.overlay.peers.known_addresses,
            nodes_present=len(engine.present) + 1,
            markets=[instrument.symbol for instrument in self._instruments],
            open_orders=len(engine.open_orders),
            pending_takes=len(engine.pending_takes),
            feeds=sum(1 for feed in engine.feeds.values() if feed.number),
            feeds_behind=engine.feeds_behind,
            services=self.mesh.directory.own,
            warnings=[
                *self._warnings,
                *([] if self.grapes is None else self.grapes.warnings()),
                *self._faults(),
                *self._disagreements(),
                *([] if self._journal.trouble is None else [self._journal.trouble]),
            ],
        )

    @property
    def peer_address(self) -> str | None:
        """Where direct links are accepted, as HOST:PORT; None without them."""
        return format_host_port(*self.overlay.address) if self._settings.p2p_enabled else None

    def _mode(self) -> Mode:
        if not self._settings.p2p_enabled:
            return "grenache"
        return "hybrid" if self._settings.discovery_grenache else "p2p"

    def _grenache_view(self) -> GrenacheView | None:
        if self.grapes is None:
            return None
        links = self.overlay.peers.links.values()
        return self.grapes.view(sum(link.peer.carrier == "grenache" for link in links))

    def _discovery_views(self) -> list[DiscoveryView]:
        views = [
            DiscoveryView(name=s.name, state=s.state, detail=s.detail, found=s.found)
            for s in (self.overlay.discovery.status() if self.overlay.discovery else [])
        ]
        for name, on in (
            ("mdns", self._settings.discovery_mdns),
            ("grape", self._settings.discovery_grenache),
            ("exchange", self._settings.discovery_exchange),
        ):
            if not on and self._settings.p2p_enabled:
                views.append(DiscoveryView(name=name, state="off", detail="switched off", found=0))
        return views

    def _faults(self) -> list[str]:
        return [
            f"service {row.service} fails on purpose: {row.faults}"
            for row in self.mesh.server.figures()
            if row.faults
        ]

    def _disagreements(self) -> list[str]:
        """Markets that others define differently: their books cannot be shared."""
        texts = []
        for key, node in self._engine.unknown_markets.items():
            symbol, _, theirs = key.partition("@")
            ours = self._instruments.find(symbol)
            if ours is not None:
                texts.append(
                    f"node {node[:12]} trades {symbol} with tick/lot {theirs}, this node with "
                    f"{ours.key.partition('@')[2]}: these books are not shared; use the same "
                    "instruments file on both"
                )
        return texts


def _way(link: Link | None) -> Literal["direct", "grenache", "relayed"]:
    if link is None:
        return "relayed"
    return "grenache" if link.peer.carrier == "grenache" else "direct"


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
