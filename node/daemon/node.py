"""Node: the exchange's engine on the peer-to-peer overlay, with its journal and its API."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Unpack

from config import Settings
from exchange.engine.engine import MESSAGES, Engine
from exchange.feeds.feed_limits import FeedFigures
from exchange.journal.journal import Journal, JournalError
from exchange.journal.market_history import MarketHistory
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instruments, InstrumentsFileError
from exchange.model.ports import Send
from exchange.model.records import Recovered
from exchange.orders.engine_context import Drained
from node.api.access import AccessRules
from node.api.api_server import ApiServer
from node.daemon.figures import ExchangeFigures, NodeFigures
from node.daemon.node_keys import NodeKeys
from node.daemon.node_status import NodeStatus
from node.daemon.port_choice import first_free
from node.daemon.service_manager import credential
from node.daemon.trading_service import TradingService
from node.http.api_tls import Tls
from node.parts.annex import NodeContext, NodePart, OutsideServices
from node.parts.table import wanted
from node.service.committer import Committer
from node.service.diagnostics import Diagnostics
from node.service.feed_service import feed_views
from node.service.market_data import MarketData
from node.service.market_steps import MarketSteps
from node.service.peer_service import PeerService
from node.service.public_services import OFFERS, public_offers
from node.service.readiness import Readiness
from node.service.routing_service import (
    call_service,
    event_view,
    mesh_settings,
    router_view,
    service_views,
)
from node.service.statement_service import StatementService
from node.service.topology import Topology
from node.version import VERSION
from node.views.account_views import HaltView
from node.views.node_views import (
    CallRequest,
    CallView,
    DiagnosticsView,
    FeedView,
    PeerPolicyRequest,
    PeerPolicyView,
    PeerView,
    PingView,
    ReadyView,
    RouterEventView,
    RouterView,
    ServiceView,
    StatusView,
    TopologyView,
)
from node.views.order_mapping import side_word
from node.views.statement_views import ReconciliationView
from node.views.timestamps import iso
from p2p.base.errors import NoProvider
from p2p.base.identity import Identity
from p2p.flow import Gate
from p2p.ground.paced_wait import PacedWait
from p2p.mesh.routed_messages import Received, RouterSettings
from p2p.overlay import Overlay, OverlaySettings
from p2p.peers.link_slots import SlotLimits
from p2p.peers.peer_manager import PeerSettings
from p2p.services import service_mesh as p2p_mesh
from p2p.services import service_server
from p2p.services.balanced_caller import CallOptions, CallResult
from p2p.services.balancers import RoutingRecord
from p2p.services.fault_injection import Faults
from p2p.services.service_mesh import ServiceMesh
from p2p.wire.direct_links import LinkSettings

log = logging.getLogger(__name__)

AGENT = f"exchange-node/{VERSION}"
TICK = 0.05  # seconds between looks at the engine's timers while something happens,
REFRESHING = 0.005  # the same while the orders of an owner with many are shown or hidden,
QUIET = 0.5  # and at most while nothing does
MAX_WARNINGS = 100
DRAIN_TIME = 1.5  # seconds that requests being served get when the node stops

KnownNodes = Callable[[Recovered, str], Collection[str]]  # from journal and own id, in a recovery
USEFUL_MESSAGES: Final = frozenset({"order", "trade"})  # delivering these first speaks for a peer


def _check_markets(recovered: Recovered, instruments: Instruments) -> None:
    """Raises InstrumentsFileError when the journal has open orders of a market that is not traded."""
    keys = {instrument.key for instrument in instruments}
    missing = Counter(
        order.market for order in recovered.orders if not order.done and order.market not in keys
    )
    if missing:
        listed = ", ".join(f"{count} in {key}" for key, count in missing.items())
        raise InstrumentsFileError(
            f"the journal has open orders of markets that are not configured: {listed}. Put the markets "
            "back into INSTRUMENTS_FILE, cancel the orders, and then remove them"
        )


def _parts(context: NodeContext) -> list[NodePart]:
    """Parts of a node that annexes add, in the order of their table."""
    made = (annex.load(annex.part)(context) for annex in wanted(context.settings) if annex.part)
    return [part for part in made if part is not None]


class Node(TradingService):
    """A running node; its service to the API includes what concerns peers. Lives in one event loop."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        steps: MarketSteps,
        journal: Journal,
        history: MarketHistory,
        tls: Tls | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        recover_from: KnownNodes | None = None,
    ) -> None:
        """`tls` is for the API, which is plain HTTP without it. `progress`: see `Journal.recover`.
        `recover_from`: the node only recovers, see `node.annexes.recovery.run_recovery`."""
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        epoch_us = time.time_ns() // 1000 - int(now * 1_000_000)  # before anything that takes time
        self._pace = PacedWait(self._loop, step=TICK, longest=QUIET)
        self._settings = settings
        self._warnings: list[str] = []
        self.gates: list[Gate] = []  # of a program around this node, for its metrics
        instruments = steps.instruments
        self._listening = False
        recovered = journal.recover(progress)
        _check_markets(recovered, instruments)
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
            recover_from=None
            if recover_from is None
            else recover_from(recovered, identity.node_id),
        )
        parts = _parts(
            NodeContext(
                settings,
                identity,
                credential("node.key") or settings.key_path,
                journal,
                stopped=lambda reason: committer.fail(JournalError(reason)),
                recovering=recover_from is not None,
            )
        )
        gate = next((part.gate for part in parts if part.gate is not None), None)
        committer = Committer(engine, journal, self._release, gate)
        market_data = MarketData(
            instruments, engine.markets, history, lambda: engine.us(self._loop.time())
        )
        market_data.restore(recovered)
        for note in journal.notes:
            self._warn(note)
        for line in steps.warnings:
            self._warn(line)
        if history.replaced is not None:
            self._warn(
                f"the market history {history.path} could not be used ({history.replaced}): it is "
                "begun anew"
            )
        super().__init__(
            engine,
            steps,
            journal,
            committer,
            self._loop.time,
            market_data,
            recovered.meta,
            take_answer_wait=settings.take_answer_wait_s,
            parts=parts,
        )
        self._spans = next((part.order_spans for part in parts if part.order_spans), None)
        self.overlay = Overlay(
            identity,
            OverlaySettings(
                direct=settings.p2p_enabled,
                host=settings.p2p_host,
                links=LinkSettings(settings.p2p_network, settings.p2p_security == "tls", AGENT),
                storage_path=settings.peers_path,
                peers=PeerSettings(
                    max_peers=settings.max_peers,
                    slots=SlotLimits(
                        per_address=settings.inbound_per_address,
                        per_network=settings.inbound_per_network,
                        per_address_local=settings.inbound_per_address_local,
                    ),
                    allow=settings.peer_allow,
                    reconnect_interval=settings.peer_reconnect_interval_s,
                ),
                router=RouterSettings(relay_rate=float(settings.p2p_relay_rate)),
                bootstrap=settings.bootstrap_peers,
                external=settings.p2p_external_addresses,
                dns_seeds=settings.dns_seeds,
                peer_lists=settings.peer_lists,
                dns_servers=settings.dns_servers,
                port_mapping=settings.port_mapping,
                mdns=settings.discovery_mdns,
                exchange=settings.discovery_exchange,
                payloads={**MESSAGES, **p2p_mesh.MESSAGES},
            ),
            grenache=next((part.carrier for part in parts if part.carrier), None),
            on_neighbour=self._on_neighbour,
        )
        for message_type in MESSAGES:
            self.overlay.router.handle(
                message_type, self._on_message, useful=message_type in USEFUL_MESSAGES
            )
        self._peering = PeerService(self.overlay, engine, self._loop.time)
        self._topology = Topology(
            self.overlay, engine.node_id, self._loop.time, share=settings.p2p_share_links
        )
        self._diagnostics = Diagnostics(journal, committer, settings.data_dir)
        self._readiness = Readiness(
            engine,
            journal,
            committer,
            settings.data_dir,
            self.overlay.router.clock_offsets,
            self._loop.time,
            self._why_not_listening,
        )
        self.statements = StatementService(
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
        self._peering.services = self.mesh
        self._status = NodeStatus(
            settings,
            engine,
            instruments,
            journal,
            self.overlay,
            self.mesh,
            parts,
            self._warnings,
            started=now,
            clock_warnings=self._readiness.clock_warnings,
        )
        self._outside: OutsideServices | None = None
        offers = {} if recover_from is not None else public_offers(self)
        for name, handler in offers.items():
            self.serve(name, handler, idempotent=True)
        self.operator_token = secrets.token_urlsafe(32)  # of this run; node.json has it
        rules = AccessRules(
            keys_required=settings.api_keys_required,
            plain_keys=settings.api_plain_keys,
            rate_limit=settings.api_rate_limit,
            operator_token=self.operator_token,
        )
        self.stream_registry.serve_node(self)
        self.api = ApiServer(
            self,
            rules=rules,
            tls=tls,
            outermost=[part.middleware for part in parts if part.middleware is not None],
            sees_orders=any(part.sees_orders for part in parts),
        )
        for part in parts:
            part.attach(self)
            if part.call_tracer is not None:
                self.mesh.trace(part.call_tracer)
        self._outside = next((part.outside for part in parts if part.outside is not None), None)

    # Life

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def node_id(self) -> str:
        return self._engine.node_id

    async def listen_to_peers(self, ports: Sequence[int]) -> None:
        """Join the network, listening for direct links on the first of `ports` that is free.

        Raises:
            OSError: none is.
            PortTaken: a part of the node cannot have its port.
        """
        for part in self.parts:
            await part.join()
        if self._settings.p2p_enabled:
            await first_free(ports, self.overlay.listen)
            self._listening = True
        await self.overlay.start()
        for part in self.parts:
            await part.joined()
        self._engine.resume(self._loop.time())

    async def listen_to_clients(self, ports: Sequence[int]) -> None:
        """Serve the API on the first of `ports` that is free.

        Raises:
            OSError: none is.
            StartError: a part of the node cannot listen.
        """
        for part in self.parts:
            await part.listen()
        await first_free(ports, lambda port: self.api.start(self._settings.api_host, port))

    async def check_start(self) -> None:
        """Check if this machine may be the node now.

        Raises:
            StartError: it must not.
        """
        for part in self.parts:
            await part.may_start()

    async def run(self, stop: asyncio.Event) -> None:
        """Trade until `stop`, then leave in order: clients, presence, journal, peers.

        Raises:
            ExceptionGroup: a part failed; with `JournalError` the disk did.
        """
        for part in self.parts:
            part.start()
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(part.run(), name=part.name) for part in self.parts]
            committer = group.create_task(self._committer.run(), name="committer")
            group.create_task(self.market_data.run(), name="market history")
            ticker = group.create_task(self._tick(), name="engine timers")
            services = group.create_task(self.mesh.run(), name="services")
            await stop.wait()
            services.cancel()
            self.stream_registry.close()
            await self.api.stop()
            self.mesh.leave()
            await self._drain_services()
            ticker.cancel()
            self._engine.leave(self._loop.time())
            self._committer.stop()
            await committer
            for task in beside:
                task.cancel()
            self.market_data.stop()  # with the last drain's messages
        await self._leave_network()

    async def _leave_network(self) -> None:
        for part in self.parts:
            await part.leave()
        await self.overlay.stop()
        await self.mesh.close()
        for part in self.parts:
            await part.close()

    async def abort(self) -> None:
        """After `run` failed: close what is open, promise nothing."""
        self.stream_registry.close()
        await self.api.stop()
        await self._leave_network()

    async def _drain_services(self) -> None:
        """Let what is being served end, while nothing new is asked for any more."""
        until = self._loop.time() + DRAIN_TIME
        while self.mesh.server.in_flight and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _tick(self) -> None:
        while True:
            due, switch = self._engine.next_tick(self._loop.time()), self.trading.next_tick()
            step = REFRESHING if self._engine.refreshing else None
            lag = await self._pace.wait(due if switch is None else min(due, switch), step=step)
            now, began = self._loop.time(), time.monotonic()
            self._readiness.note()
            self._engine.tick(now)
            self.trading.tick()
            self._committer.wake()
            # All other callbacks wait for these too: a slow tick is a lag of the loop.
            self._diagnostics.note_lag(lag + time.monotonic() - began, now)

    def _warn(self, text: str) -> None:
        log.warning(text)
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(text)

    # Between engine and overlay

    def _on_message(self, received: Received) -> bool:
        valid = self._engine.receive(
            received.now, received.type, received.payload, received.origin, received.via
        )
        if self._spans is not None and valid:
            self._spans.received(received)
        self._pace.hurry()
        self._committer.wake()
        return valid

    def _on_neighbour(self, node: str, up: bool) -> None:
        if up:
            self._engine.neighbour_up(self._loop.time(), node)
            self.mesh.neighbour_up(node)
        else:
            self._engine.neighbour_down(self._loop.time(), node)
            self.mesh.neighbour_down(node)
        self._pace.hurry()
        self._committer.wake()

    def _release(self, drained: Drained) -> None:
        spans = self._spans
        if spans is not None:
            spans.drained(drained)
        if drained.records or drained.messages:
            self._pace.hurry()
        for message in drained.messages:
            if isinstance(message, Send):
                payload = message.payload if spans is None else spans.sent(message)
                self.overlay.try_send(message.to, message.type, payload)
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
        handler: service_server.Handler,
        *,
        workers: int = service_server.WORKERS,
        idempotent: bool = False,
        faults: Faults | None = None,
    ) -> None:
        """Offer a service to the network: `handler(payload)` answers, `workers` requests at once.

        Payload and result are what msgpack holds. The handler is async, or sync and then run in a
        thread. It refuses by raising `p2p.base.errors.HandlerError(code, message)`.
        `idempotent`: own calls to the service are repeated when they get no answer. `faults` are for
        tests.

        Raises:
            ValueError: the name cannot be one, or is taken.
        """
        self.mesh.server.serve(name, handler, workers=workers, faults=faults)
        self.mesh.directory.offer(name)
        self.mesh.hurry()
        if self._outside is not None and name not in OFFERS:
            self._outside.offer(name)
        if idempotent:
            self.mesh.caller.mark_idempotent(name)

    def withdraw(self, name: str) -> None:
        """Offer the service no longer."""
        self.mesh.directory.withdraw(name)
        self.mesh.hurry()
        if self._outside is not None:
            self._outside.withdraw(name)
        self.mesh.server.remove(name)

    async def call(
        self, service: str, payload: object = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Call a service of the network and return its answer; see `p2p.services.balanced_caller.BalancedCaller.ask`.

        Raises:
            HandlerError: the service refused, with its own code and message.
            CallError: there is no result; the kind of error says why.
        """
        return (await self.ask(service, payload, **options)).value

    async def ask(
        self, service: str, payload: object = None, **options: Unpack[CallOptions]
    ) -> CallResult:
        """As `call`, with the details. What no node offers is looked for outside, if a part of the node can."""
        try:
            return await self.mesh.caller.ask(service, payload, **options)
        except NoProvider:
            if self._outside is None:
                raise
        timeout = options.get("timeout")
        return await self._outside.ask(
            service,
            payload,
            timeout=self._settings.client_request_timeout_s if timeout is None else timeout,
            idempotent=bool(options.get("idempotent") or options.get("idempotency_id")),
        )

    def services(self) -> list[ServiceView]:
        return service_views(self.mesh)

    async def call_service(self, service: str, request: CallRequest) -> CallView:
        to = None if request.node is None else self._peering.full_id(request.node, own=True)
        return await call_service(self.ask, service, request, to)

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView:
        return router_view(
            self.mesh,
            self._loop.time(),
            self._text_of,
            events=events,
            kind=kind,
        )

    def follow_decisions(self, listener: Callable[[RouterEventView], None]) -> Callable[[], None]:
        """Call at every decision of the adaptive router; returns what ends it."""
        listeners = self.mesh.balancers.events.listeners

        def tell(noted: RoutingRecord) -> None:
            listener(event_view(noted, self._text_of))

        listeners[tell] = None
        return lambda: listeners.pop(tell, None)

    def _text_of(self, at: float) -> str:
        """ISO 8601 of a time of the loop."""
        return iso(self._engine.us(at))

    def feeds(self) -> list[FeedView]:
        return feed_views(self._engine, self._by_key, self.overlay.peers.links)

    def halts(self) -> list[HaltView]:
        return self.operations.halts()

    def metrics(self) -> bytes:
        from node.daemon.metrics import (
            exposition,  # deferred: not every node is scraped
        )

        return exposition(self)

    def feed_figures(self) -> FeedFigures:
        """Figures of the limits on feeds, for the metrics."""
        return self._engine.feed_figures

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
            open_orders=len(engine.order_store.open),
            pending_takes=len(engine.orders.takes),
            feeds=sum(1 for feed in engine.feeds.values() if feed.number),
            feeds_behind=engine.feeds_behind,
            books=books,
            committer=self._committer,
        )

    # Peers

    def peers(self) -> list[PeerView]:
        return self._peering.peers()

    async def connect(self, address: str) -> PeerView:
        return await self._peering.connect(address)

    def peer_policy(self) -> PeerPolicyView:
        return self._peering.policy()

    def change_peer_policy(self, change: PeerPolicyRequest) -> PeerPolicyView:
        return self._peering.change_policy(change)

    async def ping(self, node_id: str) -> PingView:
        return await self._peering.ping(node_id)

    async def reconcile(self, peer: str) -> ReconciliationView:
        return await self.statements.reconcile(self.operations.positions.peer(peer))

    # Status

    def status(self) -> StatusView:
        return self._status.view(self._loop.time(), self.api.url)

    def ready(self) -> ReadyView:
        return self._readiness.view()

    def _why_not_listening(self) -> str:
        if self._settings.p2p_enabled and not self._listening:
            return "the node does not accept links yet"
        return "" if self.api.url else "the API does not listen yet"

    def node_figures(self) -> NodeFigures:
        """Figures of the machine under the node, for the metrics."""
        return NodeFigures(
            self._diagnostics, self._readiness, self._journal, self._settings.data_dir
        )

    def traded_quantities(self) -> dict[str, float]:
        """Traded quantity by market symbol, of the whole network, since the start."""
        return {
            instrument.symbol: float(instrument.lot * self.traded[key])
            for key, instrument in self._by_key.items()
        }

    def diagnostics(self) -> DiagnosticsView:
        return self._diagnostics.view(
            orders=self.trading.order_count,
            fills=self.fill_count,
            uptime_s=self.status().uptime_s,
        )

    async def topology(self) -> TopologyView:
        return await self._topology.view()

    @property
    def peer_address(self) -> str | None:
        """Address of the direct links' listener as HOST:PORT; None without a listener."""
        return self._status.peer_address
