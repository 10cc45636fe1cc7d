"""Node: the exchange's engine on the peer-to-peer overlay, with its journal and its API."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from config import Settings
from exchange.engine.engine import MESSAGES, Engine
from exchange.feeds.exchange_messages import BROADCASTS, COSTS
from exchange.journal.journal import Journal, JournalError
from exchange.journal.market_history import MarketHistory
from exchange.ledger.accounts import Accounts
from exchange.model.instruments import Instruments, InstrumentsFileError
from exchange.model.ports import Send
from exchange.model.records import Recovered
from exchange.orders.engine_context import Drained, TradingRules
from node.api.access import AccessRules
from node.api.api_server import ApiServer
from node.daemon.exchange import make_exchange
from node.daemon.node_keys import NodeKeys
from node.daemon.node_reports import NodeReports
from node.daemon.port_choice import first_free
from node.daemon.service_manager import credential
from node.daemon.standing_warnings import StandingWarnings
from node.http.api_tls import Tls
from node.parts.annex import NodeContext, NodePart
from node.parts.table import wanted
from node.service.committer import Committer
from node.service.diagnostics import Diagnostics
from node.service.market_data import MarketData
from node.service.market_steps import MarketSteps
from node.service.peer_service import PeerService
from node.service.public_services import public_offers
from node.service.readiness import Readiness
from node.service.routing_service import mesh_settings
from node.service.service_calls import ServiceCalls
from node.service.statement_service import StatementService
from node.service.topology import Topology
from node.version import VERSION
from p2p.base.host_port import format_host_port
from p2p.base.identity import Identity
from p2p.base.reach import Reach
from p2p.flow import Gate
from p2p.ground.paced_wait import PacedWait
from p2p.mesh.routed_messages import Received, RouterSettings
from p2p.mesh.signed_broadcast import key_proves
from p2p.overlay import Overlay, OverlaySettings
from p2p.peers.link_slots import SlotLimits
from p2p.peers.peer_manager import PeerSettings
from p2p.services import service_mesh as p2p_mesh
from p2p.services.service_mesh import ServiceMesh
from p2p.wire.direct_links import LinkSettings

log = logging.getLogger(__name__)

AGENT = f"exchange-node/{VERSION}"
TICK = 0.05  # seconds between looks at the engine's timers while something happens,
REFRESHING = 0.005  # the same while the orders of an owner with many are shown or hidden,
QUIET = 0.5  # and at most while nothing does
DRAIN_TIME = 1.5  # seconds that requests being served get when the node stops

KnownNodes = Callable[[Recovered, str], Collection[str]]  # from journal and own id, in a recovery
USEFUL_MESSAGES: Final = frozenset({"order", "trade"})  # delivering these first speaks for a peer


@dataclass(frozen=True, slots=True)
class NodeData:
    """A data directory that was opened, with what was read of its journal."""

    identity: Identity
    journal: Journal
    recovered: Recovered
    steps: MarketSteps
    history: MarketHistory


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


def _engine(
    settings: Settings,
    data: NodeData,
    warn: Callable[[str, str, str], None],
    clock: Callable[[], float],
    recover_from: KnownNodes | None,
) -> Engine:
    now = clock()
    epoch_us = time.time_ns() // 1000 - int(now * 1_000_000)
    instruments = data.steps.instruments
    own_id = data.identity.node_id
    return Engine(
        NodeKeys(data.identity),
        [instrument.key for instrument in instruments],
        network=settings.p2p_network,
        epoch_us=epoch_us,
        rng=random.Random(),  # noqa: S311 - spreads load, guards nothing
        instruments=instruments,
        recovered=data.recovered,
        lease_ms=settings.presence_lease_ms,
        warn=warn,
        now=now,
        rules=TradingRules(settings.credit_strangers, settings.take_unreliable_last),
        recover_from=None if recover_from is None else recover_from(data.recovered, own_id),
    )


def _overlay(
    settings: Settings,
    identity: Identity,
    parts: Sequence[NodePart],
    on_neighbour: Callable[[str, bool], None],
) -> Overlay:
    return Overlay(
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
            seeds_reach=Reach[settings.seeds_reach.upper()],
            port_mapping=settings.port_mapping,
            mdns=settings.discovery_mdns,
            exchange=settings.discovery_exchange,
            payloads={**MESSAGES, **p2p_mesh.MESSAGES},
        ),
        grenache=next((part.carrier for part in parts if part.carrier), None),
        on_neighbour=on_neighbour,
    )


class Node:
    """A running node: its parts, and their life. Lives in one event loop."""

    def __init__(
        self,
        settings: Settings,
        data: NodeData,
        tls: Tls | None = None,
        *,
        recover_from: KnownNodes | None = None,
    ) -> None:
        """`tls` is for the API, which is plain HTTP without it. `recover_from`: the node only recovers, see
        `node.annexes.recovery.run_recovery`."""
        self._loop = asyncio.get_running_loop()
        self.started = self._loop.time()
        self._pace = PacedWait(self._loop, step=TICK, longest=QUIET)
        self.settings = settings
        self.journal = journal = data.journal
        self.instruments = data.steps.instruments
        self.warnings = StandingWarnings()
        self.gates: list[Gate] = []  # of a program around this node, for its metrics
        self.listening = False
        self.operator_token = secrets.token_urlsafe(32)  # of this run; node.json has it
        _check_markets(data.recovered, self.instruments)
        self.engine = engine = _engine(settings, data, self.warnings.add, self.now, recover_from)
        self.parts = parts = _parts(
            NodeContext(
                settings,
                data.identity,
                credential("node.key") or settings.key_path,
                journal,
                stopped=lambda reason: self.committer.fail(JournalError(reason)),
                recovering=recover_from is not None,
            )
        )
        self._spans = next((part.order_spans for part in parts if part.order_spans), None)
        gate = next((part.gate for part in parts if part.gate is not None), None)
        self.committer = Committer(engine, journal, self._release, gate)
        for line in (*journal.notes, *data.steps.warnings):
            self.warnings.add(line)
        self._make_exchange(data)
        self._make_network(data)
        self.reports = NodeReports(self)
        offers = {} if recover_from is not None else public_offers(self.markets, self.reports)
        for name, handler in offers.items():
            self.service_calls.serve(name, handler, idempotent=True)
        self.stream_registry.serve_node(self.reports)
        self.api = ApiServer(
            self,
            rules=AccessRules(
                keys_required=settings.api_keys_required,
                plain_keys=settings.api_plain_keys,
                rate_limit=settings.api_rate_limit,
                max_streams=settings.api_max_streams,
                operator_token=self.operator_token,
            ),
            tls=tls,
            outermost=[part.around for part in parts if part.around is not None],
        )
        for part in parts:
            part.attach(self)
            if part.call_tracer is not None:
                self.mesh.trace(part.call_tracer)

    def _make_exchange(self, data: NodeData) -> None:
        engine, history = self.engine, data.history
        market_data = MarketData(
            self.instruments, engine.markets, history, lambda: engine.us(self.now())
        )
        market_data.restore(data.recovered)
        if history.replaced is not None:
            self.warnings.add(
                f"the market history {history.path} could not be used ({history.replaced}): it is "
                "begun anew"
            )
        self.exchange = exchange = make_exchange(
            engine,
            self.committer,
            self.now,
            market_data,
            data.steps,
            data.recovered.meta,
            take_answer_wait=self.settings.take_answer_wait_s,
            parts=self.parts,
        )
        self.market_data = market_data
        self.trading = exchange.trading
        self.texts = exchange.texts
        self.orders = exchange.orders
        self.markets = exchange.markets
        self.operations = exchange.operations
        self.stream_registry = exchange.stream_registry

    def _make_network(self, data: NodeData) -> None:
        settings, engine, identity = self.settings, self.engine, data.identity
        self.overlay = overlay = _overlay(settings, identity, self.parts, self._on_neighbour)
        for message_type in MESSAGES:
            overlay.router.handle(
                message_type,
                self._on_message,
                origin=key_proves if message_type in BROADCASTS else None,
                cost=COSTS.get(message_type),
                useful=message_type in USEFUL_MESSAGES,
            )
        self.mesh = ServiceMesh(
            identity,
            overlay,
            mesh_settings(settings),
            incarnation=data.recovered.meta.get("incarnation", 0) + 1,
        )
        self.peering = PeerService(overlay, engine, self.mesh, self.now)
        self.topology = Topology(overlay, engine.node_id, self.now, share=settings.p2p_share_links)
        self.diagnostics = Diagnostics(self.committer, settings.data_dir)
        self.readiness = Readiness(
            engine, self.committer, settings.data_dir, overlay.router.clock_offsets, self.now
        )
        self.statements = StatementService(
            engine,
            self.committer,
            self.now,
            NodeKeys(identity),
            settings.p2p_network,
            overlay.rpc,
        )
        self.service_calls = ServiceCalls(
            self.mesh, self.peering, self.parts, settings.client_request_timeout_s
        )
        # For programs around this node, see `node.daemon.library`
        self.serve = self.service_calls.serve
        self.withdraw = self.service_calls.withdraw
        self.call = self.service_calls.call
        self.ask = self.service_calls.ask

    # Life

    @property
    def node_id(self) -> str:
        return self.engine.node_id

    @property
    def accounts(self) -> Accounts:
        return self.engine.accounts

    @property
    def peer_address(self) -> str | None:
        """Address of the direct links' listener as HOST:PORT; None without a listener."""
        return format_host_port(*self.overlay.address) if self.settings.p2p_enabled else None

    def now(self) -> float:
        """The node's clock: monotonic seconds."""
        return self._loop.time()

    async def listen_to_peers(self, ports: Sequence[int]) -> None:
        """Join the network, listening for direct links on the first of `ports` that is free.

        Raises:
            OSError: none is.
            PortTaken: a part of the node cannot have its port.
        """
        for part in self.parts:
            await part.join()
        if self.settings.p2p_enabled:
            await first_free(ports, self.overlay.listen)
            self.listening = True
        await self.overlay.start()
        for part in self.parts:
            await part.joined()
        self.engine.resume(self._loop.time())

    async def listen_to_clients(self, ports: Sequence[int]) -> None:
        """Serve the API on the first of `ports` that is free.

        Raises:
            OSError: none is.
            StartError: a part of the node cannot listen.
        """
        for part in self.parts:
            await part.listen()
        await first_free(ports, lambda port: self.api.start(self.settings.api_host, port))

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
            committer = group.create_task(self.committer.run(), name="committer")
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
            self.engine.leave(self._loop.time())
            self.committer.stop()
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
            due, switch = self.engine.next_tick(self._loop.time()), self.trading.next_tick()
            step = REFRESHING if self.engine.refreshing or self.trading.ending else None
            lag = await self._pace.wait(due if switch is None else min(due, switch), step=step)
            now, began = self._loop.time(), time.monotonic()
            self.readiness.note()
            self.engine.tick(now)
            self.trading.tick()
            self.committer.wake()
            # All other callbacks wait for these too: a slow tick is a lag of the loop.
            self.diagnostics.note_lag(lag + time.monotonic() - began, now)

    # Between engine and overlay

    def _on_message(self, received: Received) -> bool | None:
        valid = self.engine.receive(
            received.now, received.type, received.payload, received.origin, received.via
        )
        if self._spans is not None and valid:
            self._spans.received(received)
        self._pace.hurry()
        self.committer.wake()
        return valid

    def _on_neighbour(self, node: str, up: bool) -> None:
        if up:
            self.engine.neighbour_up(self._loop.time(), node)
            self.mesh.neighbour_up(node)
        else:
            self.engine.neighbour_down(self._loop.time(), node)
            self.mesh.neighbour_down(node)
        self._pace.hurry()
        self.committer.wake()

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
        self.exchange.publish(drained)
