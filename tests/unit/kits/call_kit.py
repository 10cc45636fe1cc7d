"""Nodes with services, linked in memory on the running loop; with looptime every run is the same."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from virtual_mesh import identity

from p2p.adaptive import BreakerSettings
from p2p.mesh.message_router import MessageRouter
from p2p.rpc.rpc import Rpc
from p2p.services.balanced_caller import BalancedCaller
from p2p.services.balancers import Balancers, BalancerSettings
from p2p.services.service_server import METHOD, ServiceCall, ServiceServer
from p2p.services.service_transport import CallSettings, ServiceAttempt

LATENCY = 0.001  # seconds, one way


@dataclass
class Member:
    """One node. `frozen`: what it is sent waits, as in a stopped process."""

    id: str
    router: MessageRouter
    rpc: Rpc
    server: ServiceServer
    balancers: Balancers
    caller: BalancedCaller
    frozen: bool = False


class Net:
    """A full mesh. `offers[service]` is what every node believes about who offers it."""

    def __init__(
        self,
        n: int,
        *,
        calls: CallSettings | None = None,
        breaker: BreakerSettings | None = None,
        seed: int = 1,
    ) -> None:
        self._breaker = breaker or BreakerSettings(cooldown_s=4.0)
        self.loop = asyncio.get_running_loop()
        self.offers: dict[str, list[str]] = {}
        self.linked: set[frozenset[str]] = set()
        self.members: dict[str, Member] = {}
        self.nodes = [self._member(i, calls or CallSettings(), seed) for i in range(n)]
        for a in self.nodes:
            for b in self.nodes:
                if a.id < b.id:
                    self.link(a, b)

    def _member(self, i: int, calls: CallSettings, seed: int) -> Member:
        rng = random.Random(f"{seed} {i}")
        router = MessageRouter(identity(i), rng=rng, wall_ms=lambda: 0)
        rpc = Rpc(router, rng=rng, flush=lambda: self.flush(i))
        server = ServiceServer(rng=rng)
        settings = BalancerSettings(breaker=self._breaker)
        balancers = Balancers(settings, rng=rng)
        node_id = identity(i).node_id
        caller = BalancedCaller(
            ServiceAttempt(node_id, rpc, server),
            balancers,
            lambda service: self.offers.get(service, []),
            settings=calls,
            rng=rng,
        )
        rpc.serve_calls(METHOD, server.on_call, body_type=ServiceCall)
        member = Member(node_id, router, rpc, server, balancers, caller)
        self.members[node_id] = member
        return member

    def link(self, a: Member, b: Member) -> None:
        self.linked.add(frozenset((a.id, b.id)))
        a.router.link_up(self.loop.time(), b.id)
        b.router.link_up(self.loop.time(), a.id)

    def unlink(self, a: Member, b: Member) -> None:
        self.linked.discard(frozenset((a.id, b.id)))
        for end, other in ((a, b), (b, a)):
            end.router.link_down(self.loop.time(), other.id)
            end.rpc.link_down(other.id)

    def kill(self, member: Member) -> None:
        """As kill -9: it says nothing more, its links break."""
        member.frozen = True
        for other in self.nodes:
            if frozenset((member.id, other.id)) in self.linked:
                self.unlink(other, member)

    def flush(self, i: int) -> None:
        sender = self.nodes[i]
        for outgoing in sender.router.take_outgoing():
            for peer in outgoing.peers:
                self.loop.call_later(LATENCY, self._arrive, sender.id, peer, outgoing.envelope)

    def _arrive(self, sender: str, to: str, envelope: Any) -> None:
        member = self.members[to]
        if frozenset((sender, to)) not in self.linked or member.frozen:
            return
        member.router.receive(self.loop.time(), sender, envelope)
        self.flush(self.nodes.index(member))

    def serve(self, name: str, handler: Any, *numbers: int, **more: Any) -> None:
        for number in numbers:
            self.nodes[number].server.serve(name, handler, **more)
            self.offers.setdefault(name, []).append(self.nodes[number].id)

    async def close(self) -> None:
        for node in self.nodes:
            await node.rpc.close()
            await node.server.close()
