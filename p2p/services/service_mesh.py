"""Services on the overlay: announcements and hints over the mesh, server and caller.

This is the shell around the parts without I/O (`p2p.services.service_directory`, `p2p.services.health_gossip`, `p2p.services.balancers`): it brings
them messages and the time.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final

import msgspec

from p2p.base.identity import Identity
from p2p.ground.paced_wait import PacedWait
from p2p.mesh.routed_messages import Received
from p2p.mesh.signed_broadcast import key_proves
from p2p.overlay import Overlay
from p2p.services import health_gossip, service_directory
from p2p.services.balanced_caller import BalancedCaller
from p2p.services.balancers import Balancers, BalancerSettings
from p2p.services.call_tracing import CallTracer
from p2p.services.health_gossip import HealthGossip
from p2p.services.service_directory import ServiceDirectory
from p2p.services.service_server import METHOD, ServiceCall, ServiceServer
from p2p.services.service_transport import CallSettings, ServiceAttempt

MESSAGES: Final[dict[str, type[msgspec.Struct]]] = {
    **service_directory.MESSAGES,
    **health_gossip.MESSAGES,
}
TICK: Final = 0.1  # seconds between looks at the clock while links change,
QUIET: Final = 0.5  # and at most while they do not
HINTS_EVERY: Final = 1.0  # seconds; what becomes known in between goes into one message


@dataclass(frozen=True)
class MeshSettings:
    """Settings of the service mesh. Seconds."""

    network: str
    announce_interval_s: float = 5.0
    calls: CallSettings = field(default_factory=CallSettings)
    balancers: BalancerSettings = field(default_factory=BalancerSettings)


class ServiceMesh:
    """Server, caller, directory and balancers of one node on its overlay. `incarnation` grows with every
    start.

    `directory` knows who offers what, `server` serves, `caller` calls, `balancers` has the routers.
    """

    def __init__(
        self, identity: Identity, overlay: Overlay, settings: MeshSettings, *, incarnation: int
    ) -> None:
        self._overlay = overlay
        self._loop = asyncio.get_running_loop()
        self._rng = rng = random.Random()  # noqa: S311 - spreads load, guards nothing
        self.directory = ServiceDirectory(
            identity,
            settings.network,
            incarnation=incarnation,
            interval=settings.announce_interval_s,
            kept=lambda node: node in overlay.peers.links or self.balancers.has_called(node),
        )
        self.hints = HealthGossip(identity, settings.network, incarnation=incarnation)
        self.balancers = Balancers(settings.balancers, rng=rng)
        self.server = ServiceServer(rng=rng)
        self.caller = BalancedCaller(
            ServiceAttempt(identity.node_id, overlay.rpc, self.server),
            self.balancers,
            self.directory.providers,
            settings=settings.calls,
            rng=rng,
        )
        self._hints_at = 0.0
        self._pace = PacedWait(self._loop, step=TICK, longest=QUIET)
        overlay.router.handle("services", self._on_services, origin=key_proves)
        overlay.router.handle("hint", self._on_hint, origin=key_proves)
        overlay.rpc.serve_calls(METHOD, self.server.on_call, body_type=ServiceCall)

    def trace(self, tracer: CallTracer) -> None:
        """Open spans for the calls made and the requests served."""
        self.caller.trace(tracer)
        self.server.tracer = tracer

    async def run(self) -> None:
        """Announce, expire and hint, until cancelled."""
        while True:
            self.tick(self._loop.time())
            await self._pace.wait(None)

    def tick(self, now: float) -> None:
        """Expire, announce and publish hints as far as due."""
        for node in self.directory.expire(now):
            self.balancers.forget(node)
        announcement = self.directory.due(now)
        if announcement is not None:
            self._overlay.broadcast("services", announcement)
        if now >= self._hints_at:
            self._hints_at = now + HINTS_EVERY
            hint = self.hints.publish(self.balancers.hints_due(now))
            if hint is not None:
                self._overlay.broadcast("hint", hint)

    def hurry(self) -> None:
        """Look at the clock soon: something else is offered."""
        self._pace.hurry()

    def neighbour_up(self, node: str) -> None:
        """Announce to the node behind a new link."""
        self._pace.hurry()
        self.directory.linked(node)
        self.directory.hurry(self._loop.time(), 0.0)

    def neighbour_down(self, node: str) -> None:
        """Mark a neighbour whose link broke."""
        self.directory.lost(node)

    def leave(self) -> None:
        """Announce that no service is offered any more."""
        self._overlay.broadcast("services", self.directory.leave(self._loop.time()))

    async def close(self) -> None:
        """Abandon calls still being served in threads."""
        await self.server.close()

    def _on_services(self, received: Received) -> bool | None:
        self._pace.hurry()
        if not received.broadcast:
            return False
        return self.directory.receive(received.now, received.payload, self._rng.random())

    def _on_hint(self, received: Received) -> bool | None:
        if not received.broadcast:
            return False
        return self.hints.receive(received.now, received.payload, self.balancers.on_hint)
