"""Routers and services linked in memory on the running loop; with looptime every run is the same."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import Any

from virtual_mesh import identity

from p2p.adaptive import BreakerSettings
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import RouterSettings
from p2p.rpc.rpc import Rpc
from p2p.services.balanced_caller import BalancedCaller
from p2p.services.balancers import Balancers, BalancerSettings
from p2p.services.service_server import METHOD, ServiceCall, ServiceServer
from p2p.services.service_transport import CallSettings, ServiceAttempt

LATENCY = 0.001  # seconds, one way


class LoopMesh:
    """Routers, each with an `Rpc`. `latency`: seconds of a link, one way."""

    def __init__(self, n: int, *, seed: int = 1, latency: float = LATENCY) -> None:
        self.loop = asyncio.get_running_loop()
        self._latency = latency
        self.ids = [identity(i).node_id for i in range(n)]
        self.rngs = [random.Random(f"{seed} {i}") for i in range(n)]
        self.routers = [
            MessageRouter(
                identity(i),
                rng=rng,
                wall_ms=lambda: 0,
                fragile=True,
                settings=RouterSettings(max_bad_messages=0),
            )
            for i, rng in enumerate(self.rngs)
        ]
        self.rpcs = [
            Rpc(router, rng=self.rngs[i], flush=lambda i=i: self.flush(i))
            for i, router in enumerate(self.routers)
        ]
        self._linked: set[frozenset[int]] = set()
        self._killed: set[int] = set()

    def link(self, a: int, b: int) -> None:
        self._linked.add(frozenset((a, b)))
        for end, other in ((a, b), (b, a)):
            self.routers[end].link_up(self.loop.time(), self.ids[other])

    def unlink(self, a: int, b: int) -> None:
        self._linked.discard(frozenset((a, b)))
        for end, other in ((a, b), (b, a)):
            self.routers[end].link_down(self.loop.time(), self.ids[other])
            self.rpcs[end].link_down(self.ids[other])

    def kill(self, i: int) -> None:
        """As kill -9: it says nothing more, its links break."""
        self._killed.add(i)
        for pair in [pair for pair in self._linked if i in pair]:
            self.unlink(*pair)

    def flush(self, i: int) -> None:
        for outgoing in self.routers[i].take_outgoing():
            for peer in outgoing.peers:
                other = self.ids.index(peer)
                self.loop.call_later(self._latency, self._arrive, i, other, outgoing.envelope)

    def _arrive(self, a: int, b: int, envelope: Any) -> None:
        if frozenset((a, b)) in self._linked and b not in self._killed:
            self.routers[b].receive(self.loop.time(), self.ids[a], envelope)
            self.flush(b)


@dataclass
class Member:
    """One node."""

    id: str
    server: ServiceServer
    balancers: Balancers
    caller: BalancedCaller


class Net(LoopMesh):
    """A full mesh of nodes with services. `offers[service]`: who every node believes offers it."""

    def __init__(
        self, n: int, *, calls: CallSettings | None = None, breaker: BreakerSettings | None = None
    ) -> None:
        super().__init__(n)
        self.offers: dict[str, list[str]] = {}
        settings = BalancerSettings(breaker=breaker or BreakerSettings(cooldown_s=4.0))
        self.nodes = [self._member(i, calls or CallSettings(), settings) for i in range(n)]
        for a, b in itertools.combinations(range(n), 2):
            self.link(a, b)

    def _member(self, i: int, calls: CallSettings, settings: BalancerSettings) -> Member:
        rng, rpc = self.rngs[i], self.rpcs[i]
        server = ServiceServer(rng=rng)
        balancers = Balancers(settings, rng=rng)
        caller = BalancedCaller(
            ServiceAttempt(self.ids[i], rpc, server),
            balancers,
            lambda service: self.offers.get(service, []),
            settings=calls,
            rng=rng,
        )
        rpc.serve_calls(METHOD, server.on_call, body_type=ServiceCall)
        return Member(self.ids[i], server, balancers, caller)

    def serve(self, name: str, handler: Any, *numbers: int, **more: Any) -> None:
        for number in numbers:
            self.nodes[number].server.serve(name, handler, **more)
            self.offers.setdefault(name, []).append(self.nodes[number].id)

    async def close(self) -> None:
        for rpc, node in zip(self.rpcs, self.nodes, strict=True):
            await rpc.close()
            await node.server.close()
