"""`python -m tests.simulation.broadcasts`: what a broadcast costs once the tree should have settled.

Payload copies for each node that is to hear it (1 is the least there can be), and how long it takes
to arrive, in networks of 20 routers on virtual links that each have a delay of their own.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field

from p2p.mesh.routed_messages import Received
from p2p.wire.messages import pack
from tests.unit.kits.virtual_mesh import NEWS, VirtualMesh

NODES = 20
WARM_UP = 180.0  # seconds of broadcasts that are not counted
COUNTED = 80  # broadcasts
DELAYS = ((0.001, 0.01), (0.05, 0.1), (0.15, 0.25), (0.4, 0.6), (0.05, 0.8))
INTERVALS = (0.02, 0.5, 3.0)  # seconds between broadcasts


class Network(VirtualMesh):
    """Links with a delay of their own, and up to a tenth more for each message."""

    def __init__(self, shape: str, *, seed: int, delay: tuple[float, float]) -> None:
        super().__init__(NODES, seed=seed, latency=delay)
        self._delays: dict[tuple[int, int], float] = {}
        self.sent_at: dict[bytes, float] = {}
        self.took: list[float] = []
        for router in self.routers:
            router._handlers[NEWS] = self._on_timed_news
        if shape == "mesh":
            self.full_mesh()
            return
        for node in range(1, NODES):  # a random tree, and two more links for each node
            self.link(node, self.rng.randrange(node))
        for _ in range(2 * NODES):
            self.link(*self.rng.sample(range(NODES), 2))

    def _on_timed_news(self, received: Received) -> bool:
        if received.payload in self.sent_at:
            self.took.append(self.now - self.sent_at[received.payload])
        return True

    def _put(self, a: int, b: int, packed: bytes) -> None:
        pair = (min(a, b), max(a, b))
        epoch = self.links.get(pair)
        if epoch is None:
            return
        base = self._delays.setdefault(pair, self.rng.uniform(*self.latency))
        at = max(self._free_at.get((a, b), 0.0), self.now + base * self.rng.uniform(1.0, 1.1))
        self._free_at[a, b] = at
        self.at(at, self._arrive, a, b, epoch, packed)


@dataclass(slots=True)
class Result:
    copies: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        took = sorted(self.took)
        return (
            f"{statistics.mean(self.copies):.2f} copies, delivered after {statistics.mean(took):.2f} s, "
            f"p99 {took[int(0.99 * len(took))]:.2f} s"
        )


def measure(shape: str, delay: tuple[float, float], interval: float, seeds: int) -> Result:
    result = Result()
    for seed in range(seeds):
        network = Network(shape, seed=seed, delay=delay)
        number = 0
        for count, counted in ((min(int(WARM_UP / interval), 1000), False), (COUNTED, True)):
            network.payload_copies = 0
            for _ in range(count):
                payload = pack(["news", number])
                number += 1
                if counted:
                    network.sent_at[payload] = network.now
                network.broadcast(network.rng.randrange(NODES), payload)
                network.run(interval)
            network.run(20.0)
        assert len(network.took) == COUNTED * (NODES - 1), "everybody hears everything once"
        result.copies.append(network.payload_copies / COUNTED / (NODES - 1))
        result.took += network.took
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.broadcasts", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind (default 2)")
    args = parser.parse_args()
    for delay in DELAYS:
        for shape in ("mesh", "graph"):
            for interval in INTERVALS:
                result = measure(shape, delay, interval, args.seeds)
                low, high = (1000 * part for part in delay)
                print(
                    f"{shape:5} {low:.0f} to {high:.0f} ms each way, every {interval} s: {result}"
                )


if __name__ == "__main__":
    main()
