"""Reports on a node: status, readiness, diagnostics, peers, feeds, services and metrics, read from its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from exchange.engine.engine import Engine
from exchange.model.instruments import Instrument
from node.daemon.standing_warnings import few
from node.service.routing_service import event_view, router_view, service_views
from node.version import VERSION
from node.views.account_views import HaltView
from node.views.node_views import (
    DiagnosticsView,
    DiscoveryView,
    FeedView,
    Mode,
    PeerView,
    ReachabilityView,
    ReadyView,
    RouterEventView,
    RouterView,
    ServiceView,
    StatusView,
    TopologyView,
    Way,
)
from node.views.timestamps import iso
from p2p.reachability.report import report
from p2p.services.balancers import RoutingRecord
from p2p.wire.link import PeerLink

if TYPE_CHECKING:
    from node.daemon.node import Node


class NodeReports:
    """Reads the parts of a node when it is asked, and keeps nothing."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def ready(self) -> ReadyView:
        return self._node.readiness.view(self._not_listening())

    def _not_listening(self) -> str:
        if self._node.settings.p2p_enabled and not self._node.listening:
            return "the node does not accept links yet"
        return "" if self._node.api.url else "the API does not listen yet"

    def diagnostics(self) -> DiagnosticsView:
        trading = self._node.trading
        return self._node.diagnostics.view(
            orders=trading.order_count, fills=trading.fill_count, uptime_s=self._uptime()
        )

    def _uptime(self) -> float:
        return round(self._node.now() - self._node.started, 1)

    def peers(self) -> list[PeerView]:
        return self._node.peering.peers()

    async def topology(self) -> TopologyView:
        return await self._node.topology.view()

    def feeds(self) -> list[FeedView]:
        node = self._node
        return feed_views(node.engine, node.texts.by_key, node.overlay.peers.links)

    def services(self) -> list[ServiceView]:
        return service_views(self._node.mesh)

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView:
        node = self._node
        return router_view(node.mesh, node.now(), self._text_of, events=events, kind=kind)

    def follow_decisions(self, listener: Callable[[RouterEventView], None]) -> Callable[[], None]:
        """Call at every decision of the adaptive router; returns what ends it."""
        listeners = self._node.mesh.balancers.events.listeners

        def tell(noted: RoutingRecord) -> None:
            listener(event_view(noted, self._text_of))

        listeners[tell] = None
        return lambda: listeners.pop(tell, None)

    def _text_of(self, at: float) -> str:
        """ISO 8601 of a time of the loop."""
        return iso(self._node.engine.us(at))

    def halts(self) -> list[HaltView]:
        return self._node.operations.halts()

    def metrics(self) -> bytes:
        from node.daemon.metrics import exposition  # deferred: not every node is scraped

        return exposition(self._node)

    # Status

    def status(self) -> StatusView:
        node, settings, engine = self._node, self._node.settings, self._node.engine
        now = node.now()
        trouble = node.journal.trouble
        view = StatusView(
            node_id=engine.node_id,
            version=VERSION,
            network=settings.p2p_network,
            mode=self._mode(),
            security=settings.p2p_security,
            uptime_s=self._uptime(),
            data_dir=str(settings.data_dir),
            p2p_address=node.peer_address,
            api_url=node.api.url,
            grenache=None,
            discovery=self._discovery_views(),
            peers_connected=len(node.overlay.peers.links),
            peers_known=node.overlay.peers.known_addresses,
            nodes_present=len(engine.present) + 1,
            markets=[instrument.symbol for instrument in node.instruments],
            open_orders=len(engine.order_store.open),
            pending_takes=len(engine.orders.takes),
            feeds=sum(1 for feed in engine.feeds.values() if feed.number),
            feeds_behind=engine.feeds_behind,
            services=node.mesh.directory.own,
            warnings=[
                *node.warnings.own,
                *self._faults(),
                *node.readiness.clock_warnings(),
                *([] if trouble is None else [trouble]),
                *(text for part in node.parts for text in part.warnings()),
                *node.warnings.others(set(engine.present), node.overlay.peers.links),
                *self._disagreements(),
                *node.overlay.links.refusal_warnings(),
            ],
            reachability=self._reachability(now),
        )
        for part in node.parts:
            part.report(view)
        return view

    def _reachability(self, now: float) -> ReachabilityView | None:
        service = self._node.overlay.reachability
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

    def _mode(self) -> Mode:
        if not self._node.settings.p2p_enabled:
            return "grenache"
        return "p2p" if self._node.overlay.grenache is None else "hybrid"

    def _discovery_views(self) -> list[DiscoveryView]:
        views = [
            DiscoveryView(name=s.name, state=s.state, detail=s.detail, found=s.found)
            for s in (self._node.overlay.discovery.status() if self._node.overlay.discovery else [])
        ]
        for part in self._node.parts:
            views = part.discovery(views)
        for name, on in (
            ("mdns", self._node.settings.discovery_mdns),
            ("grape", self._node.overlay.grenache is not None),
            ("exchange", self._node.settings.discovery_exchange),
        ):
            if not on and self._node.settings.p2p_enabled:
                views.append(DiscoveryView(name=name, state="off", detail="switched off", found=0))
        return views

    def _faults(self) -> list[str]:
        return [
            f"service {row.service} fails on purpose: {row.faults}"
            for row in self._node.mesh.server.figures()
            if row.faults
        ]

    def _disagreements(self) -> list[str]:
        """Markets that others define differently: their books cannot be shared."""
        texts: dict[str, list[str]] = {}
        for node, keys in self._node.engine.other_steps.items():
            for key in keys:
                symbol, _, theirs = key.partition("@")
                ours = self._node.instruments.find(symbol)
                if ours is not None:
                    texts.setdefault(node, []).append(
                        f"node {node[:12]} trades {symbol} with tick/lot {theirs}, this node with "
                        f"{ours.key.partition('@')[2]}: these books are not shared; use the same "
                        "steps on both ('exchange-node market steps')"
                    )
        return few(texts, self._node.overlay.peers.links, "markets with other steps")


MAX_FEEDS: Final = 1000  # rows of one answer


def feed_views(
    engine: Engine, instruments: Mapping[str, Instrument], links: Mapping[str, PeerLink]
) -> list[FeedView]:
    """Return the feeds with events, at most `MAX_FEEDS`. `instruments` by their key."""
    present = set(engine.present)
    announced = engine.announced_feeds()
    given_up = {(feed.owner, feed.market): feed.reason for feed in engine.given_up}

    def way(owner: str) -> Way:
        link = links.get(owner)
        if owner == engine.node_id:
            return "own"
        if link is not None:
            return "grenache" if link.peer.carrier == "grenache" else "direct"
        return "relayed" if owner in present else "absent"

    views = []
    for owner, market in {*engine.feeds, *announced, *given_up}:
        feed = engine.feeds.get((owner, market))
        held = 0 if feed is None else feed.number
        newest = max(held, announced.get((owner, market), 0))
        reason = given_up.get((owner, market))
        if not newest and reason is None:
            continue
        instrument = instruments.get(market)
        views.append(
            FeedView(
                owner=owner,
                market=market if instrument is None else instrument.symbol,
                number=held,
                announced=newest,
                behind=newest - held,
                open_orders=0 if feed is None else len(feed.state.orders),
                way=way(owner),
                given_up=reason,
            )
        )
    views.sort(key=lambda view: (-view.behind, view.owner, view.market))
    return views[:MAX_FEEDS]
