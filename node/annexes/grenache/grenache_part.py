"""Grenache in a running node: a carrier of links, and services across the bridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from node.annexes.grenache.grapes import Grapes
from node.annexes.grenache.grenache_bridge import GrenacheBridge
from node.annexes.grenache.settings import BridgeSettings
from node.daemon.node import Node
from node.parts.annex import NodeContext, NodePart
from node.views.node_views import DiscoveryView, StatusView
from p2p.services.balanced_caller import CallResult


class GrenachePart(NodePart):
    """The Grapes of a node, and its services for Grenache programs with GRENACHE_SERVICES."""

    name = "grenache"

    def __init__(self, context: NodeContext) -> None:
        self._settings = settings = context.settings.of(BridgeSettings)
        self._grapes = Grapes(settings)
        self._bridge: GrenacheBridge | None = None
        self.carrier = self._grapes.way

    def attach(self, node: Node) -> None:
        self._links = node.overlay.peers.links
        if self._settings.grenache_services:
            self._bridge = GrenacheBridge(node.mesh.server)
            self.outside = self

    async def join(self) -> None:
        await self._grapes.start()
        if self._bridge is not None:
            self._bridge.start(self._grapes.directory)

    async def joined(self) -> None:
        if not self._settings.p2p_enabled:
            await self._grapes.listen()  # at once, not when a Grape answers: there is no other way

    async def close(self) -> None:
        if self._bridge is not None:
            await self._bridge.close()
        await self._grapes.stop()

    # Services outside

    def offer(self, service: str) -> None:
        """Serve a service of this node to Grenache programs."""
        if self._bridge is not None:
            self._grapes.way.offer(service, self._bridge.handler(service))

    def withdraw(self, service: str) -> None:
        """Serve it no longer."""
        self._grapes.way.withdraw(service)

    async def ask(
        self, service: str, payload: Any, *, timeout: float, idempotent: bool
    ) -> CallResult:
        """Call a Grenache worker; see `GrenacheBridge.ask`."""
        if self._bridge is None:
            raise RuntimeError("GRENACHE_SERVICES is off")
        return await self._bridge.ask(service, payload, timeout=timeout, idempotent=idempotent)

    # Status

    def warnings(self) -> list[str]:
        return self._grapes.warnings()

    def report(self, view: StatusView) -> None:
        links = self._links.values()
        view.grenache = self._grapes.view(sum(link.peer.carrier == "grenache" for link in links))

    def discovery(self, views: Sequence[DiscoveryView]) -> list[DiscoveryView]:
        if not self._grapes.absent:
            return list(views)
        text = f"no Grape at {self._grapes.where}, and none is needed; looked for again"
        return [
            msgspec.structs.replace(view, state="off", detail=text, found=0)
            if view.name == "grape"
            else view
            for view in views
        ]

    def banner(self) -> list[str]:
        if not self._grapes.asked_for:
            return []
        own = self._grapes.view(0).own
        if own is None:
            return [f"  grapes     {self._grapes.where}"]
        return [
            f"  grape      DHT {own.dht_address} (UDP), API {own.api_url}; others join with",
            f"             --grape-bootstrap HOST:{own.dht_address.rpartition(':')[2]}",
        ]
