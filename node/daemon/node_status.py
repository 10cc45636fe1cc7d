"""Status report of a node: identity, connections and warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from config import Settings
from exchange.engine.engine import Engine
from exchange.journal.journal import Journal
from exchange.model.instruments import Instruments
from node.version import VERSION
from node.views.node_views import DiscoveryView, GrenacheView, Mode, ReachabilityView, StatusView
from p2p.base.host_port import format_host_port
from p2p.overlay import Overlay
from p2p.reachability.report import report
from p2p.services.service_mesh import ServiceMesh

if TYPE_CHECKING:  # loaded with DISCOVERY_GRENACHE alone
    from node.daemon.grapes import Grapes
    from node.export.export_process import Exports
    from node.standby.primary_service import PrimaryService


class NodeStatus:
    """Reads the parts of a node. `warnings` grows while the node runs; `started`: seconds as `now`."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        instruments: Instruments,
        journal: Journal,
        overlay: Overlay,
        mesh: ServiceMesh,
        grapes: Grapes | None,
        warnings: Sequence[str],
        started: float,
        exports: Exports | None = None,
        standby: PrimaryService | None = None,
        clock_warnings: Callable[[], list[str]] = list,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._instruments = instruments
        self._journal = journal
        self._overlay = overlay
        self._mesh = mesh
        self._grapes = grapes
        self._warnings = warnings
        self._started = started
        self._exports = exports
        self._standby = standby
        self._clock_warnings = clock_warnings

    def view(self, now: float, api_url: str) -> StatusView:
        """`api_url`: where the API is served."""
        settings = self._settings
        engine = self._engine
        links = self._overlay.peers.links
        exports = [] if self._exports is None else self._exports.views()
        return StatusView(
            node_id=engine.node_id,
            version=VERSION,
            network=settings.p2p_network,
            mode=self._mode(),
            security=settings.p2p_security,
            uptime_s=round(now - self._started, 1),
            data_dir=str(settings.data_dir),
            p2p_address=self.peer_address,
            api_url=api_url,
            grenache=self._grenache_view(),
            discovery=self._discovery_views(),
            peers_connected=len(links),
            peers_known=self._overlay.peers.known_addresses,
            nodes_present=len(engine.present) + 1,
            markets=[instrument.symbol for instrument in self._instruments],
            open_orders=len(engine.order_store.open),
            pending_takes=len(engine.orders.takes),
            feeds=sum(1 for feed in engine.feeds.values() if feed.number),
            feeds_behind=engine.feeds_behind,
            services=self._mesh.directory.own,
            warnings=[
                *self._warnings,
                *([] if self._grapes is None else self._grapes.warnings()),
                *self._faults(),
                *self._disagreements(),
                *self._overlay.links.refusal_warnings(),
                *self._clock_warnings(),
                *([] if self._journal.trouble is None else [self._journal.trouble]),
                *(f"export: {export.error}" for export in exports if export.error),
                *([] if self._standby is None else self._standby.warnings()),
            ],
            reachability=self._reachability(now),
            exports=exports,
            standby=None if self._standby is None else self._standby.view(),
        )

    def _reachability(self, now: float) -> ReachabilityView | None:
        service = self._overlay.reachability
        if service is None:
            return None
        found = report(service.core, now, service.mapping_text)
        return ReachabilityView(
            state=found.state,
            text=found.text,
            advice=found.advice,
            addresses=list(found.addresses),
            external=found.external,
            confirmed=found.confirmed,
            observers=found.observers,
            nat=found.nat,
            nat_confirmed=found.nat_confirmed,
            mapping=found.mapping,
        )

    @property
    def peer_address(self) -> str | None:
        """Address of the direct links' listener as HOST:PORT; None without a listener."""
        return format_host_port(*self._overlay.address) if self._settings.p2p_enabled else None

    def _mode(self) -> Mode:
        if not self._settings.p2p_enabled:
            return "grenache"
        return "hybrid" if self._settings.discovery_grenache else "p2p"

    def _grenache_view(self) -> GrenacheView | None:
        if self._grapes is None:
            return None
        links = self._overlay.peers.links.values()
        return self._grapes.view(sum(link.peer.carrier == "grenache" for link in links))

    def _discovery_views(self) -> list[DiscoveryView]:
        views = [
            DiscoveryView(name=s.name, state=s.state, detail=s.detail, found=s.found)
            for s in (self._overlay.discovery.status() if self._overlay.discovery else [])
        ]
        if self._grapes is not None and self._grapes.absent:
            text = f"no Grape at {self._grapes.where}, and none is needed; looked for again"
            views = [
                DiscoveryView(name=v.name, state="off", detail=text, found=0)
                if v.name == "grape"
                else v
                for v in views
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
            for row in self._mesh.server.figures()
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
                    "steps on both ('exchange-node market steps')"
                )
        return texts
