"""A network of DHT nodes in virtual time: datagrams with latency and loss, nodes that come and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from node.virtual.server_model import VirtualTime
from p2p.grenache.dht.dht_node import DhtNode
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.directory import Address


@dataclass(frozen=True, slots=True)
class Conditions:
    """Seconds and probabilities."""

    latency: tuple[float, float] = (0.005, 0.080)  # one way; drawn once for each pair
    jitter: float = 0.002  # mean of what each datagram adds
    loss: float = 0.01


class VirtualHost:
    """A node at an address, and the calls that it wants."""

    def __init__(self, network: VirtualNetwork, address: Address, node: DhtNode) -> None:
        self._network = network
        self.address = address
        self.node = node
        self.running = True
        self._wake_at = inf

    def call(self, action: Callable[[float], None]) -> None:
        """Do something with the node, then send what it wants sent."""
        action(self._network.clock.now)
        self.flush()

    def receive(self, source: Address, data: bytes) -> None:
        self.node.receive(self._network.clock.now, source, data)
        self.flush()

    def flush(self) -> None:
        for data, to in self.node.take_outgoing():
            self._network.send(self.address, to, data)
        deadline = self.node.next_deadline()
        if deadline < self._wake_at:
            self._wake_at = deadline
            self._network.clock.at(deadline, lambda: self._wake(deadline))

    def _wake(self, at: float) -> None:
        if self.running and at == self._wake_at:
            self._wake_at = inf
            self.node.tick(self._network.clock.now)
            self.flush()


class VirtualNetwork:
    """Carries datagrams between hosts."""

    def __init__(self, seed: int, conditions: Conditions | None = None) -> None:
        self.clock = VirtualTime()
        self.rng = random.Random(seed)  # noqa: S311 - a simulation
        self.conditions = conditions or Conditions()
        self.hosts: dict[Address, VirtualHost] = {}
        self.sent = 0
        self.bytes_sent = 0
        self._latency: dict[frozenset[str], float] = {}
        self._side: dict[str, int] = {}

    def add(
        self,
        address: Address,
        bootstrap: tuple[Address, ...] = (),
        settings: DhtSettings | None = None,
    ) -> VirtualHost:
        """Start a node, with an id of its own, in the place of one that may have been there."""
        node_rng = random.Random(self.rng.getrandbits(64))  # noqa: S311
        node = DhtNode(settings or DhtSettings(), node_rng, self.clock.now)
        host = self.hosts[address] = VirtualHost(self, address, node)
        host.call(lambda now: node.set_bootstrap(now, bootstrap))
        return host

    def remove(self, address: Address) -> None:
        """Its node dies without a word."""
        self.hosts.pop(address).running = False

    def partition(self, sides: dict[str, int]) -> None:
        """Only hosts (by IP address) on one side reach each other. Empty: all do."""
        self._side = sides

    def send(self, source: Address, to: Address, data: bytes) -> None:
        self.sent += 1
        self.bytes_sent += len(data)
        if self._side.get(source[0], 0) != self._side.get(to[0], 0):
            return
        if self.rng.random() < self.conditions.loss:
            return
        pair = frozenset((source[0], to[0]))
        latency = self._latency.get(pair)
        if latency is None:
            latency = self._latency[pair] = self.rng.uniform(*self.conditions.latency)
        delay = latency + self.rng.expovariate(1 / self.conditions.jitter)
        self.clock.after(delay, lambda: self._arrive(source, to, data))

    def _arrive(self, source: Address, to: Address, data: bytes) -> None:
        host = self.hosts.get(to)
        if host is not None:
            host.receive(source, data)

    def run(self, seconds: float) -> None:
        self.clock.run(self.clock.now + seconds)

    def run_until(self, condition: Callable[[], bool], limit: float, step: float = 0.05) -> float:
        """Run until it holds; the seconds that it took, inf if more than `limit`."""
        began = self.clock.now
        while not condition():
            if self.clock.now - began >= limit:
                return inf
            self.run(step)
        return self.clock.now - began


def address(number: int) -> Address:
    """The address of the n-th host: a private one of its own each."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 20001
