"""Eclipse by seed: numbers, networks and pace of the attackers, and who restarts when, are drawn. Virtual time."""

from __future__ import annotations

import asyncio
import random
from unittest.mock import patch

import pytest
from eclipse_kit import any_id
from peer_network import Network
from peers_kit import found
from test_eclipse import HOSTS, Scene, seconds_until

pytestmark = [pytest.mark.looptime]

LONG_SEEDS = 120


class DrawnScene(Scene):
    """A scene whose attackers are by far the largest part of every address book."""

    def __init__(self, net, rng: random.Random) -> None:
        super().__init__(net, rng.choice((20, 60, 150)), rng.choice((0, 1, 2, 4, 4, 8)))
        self.rng = rng
        self.pause = rng.uniform(2.0, 20.0)
        self.targets = [self.nodes[name] for name in HOSTS if rng.random() < 0.7] or self.targets

    async def begin(self) -> None:
        for node in self.nodes.values():
            await node.manager.start()
            await node.exchange.start(node.manager.found)
        for name in ("victim", "third", "fourth"):
            self.nodes[name].manager.found(found(self.nodes["friend"], source="exchange"))
        await asyncio.sleep(20)
        self.tasks = [asyncio.create_task(a.attack(self.targets, self.pause)) for a in self.bad]
        await asyncio.sleep(self.rng.uniform(1.0, 120.0))

    async def restart(self, name: str, pause: float):
        if self.nodes[name] not in self.targets:
            self.targets.append(self.nodes[name])
        return await super().restart(name, pause)


async def run(net, seed: int) -> float:
    """Restart nodes during an attack; return the longest time until a restarted node had an honest link, seconds."""
    rng = random.Random(f"eclipse {seed}")
    keys = random.Random(f"keys {seed}")  # of address books and slots: the scene replays exactly
    with patch("secrets.token_bytes", keys.randbytes):
        return await _run(net, rng)


async def _run(net, rng: random.Random) -> float:
    scene = DrawnScene(net, rng)
    longest = 0.0
    await scene.begin()
    try:
        for _ in range(rng.randint(1, 3)):
            names = rng.sample(["victim", "friend", "third"], rng.choice((1, 1, 2)))
            pause = rng.choice((0.5, 20.0, 100.0, 400.0))
            await asyncio.gather(*(scene.restart(n, pause + i) for i, n in enumerate(names)))
            for name in names:
                took = await seconds_until(lambda name=name: bool(scene.honest(name)))
                longest = max(longest, took)
            await asyncio.sleep(rng.uniform(0.0, 40.0))
            for name in HOSTS:
                assert scene.honest(name), name
        for node in scene.nodes.values():
            assert len(node.manager.links) <= 50
        if len({attacker.host.split(".")[0] for attacker in scene.bad}) <= 4:
            # More networks than that fill a node with links that are as diverse as a newcomer's.
            newcomer = net.node(any_id("newcomer"), "35.11.0.1")
            await newcomer.manager.start()
            friend = scene.nodes["friend"]
            assert (await newcomer.manager.connect(friend.host, friend.port)).node_id == friend.id
    finally:
        await scene.end()
    return longest


@pytest.mark.parametrize("seed", range(2))
async def test_a_restarted_node_has_an_honest_link_within_a_minute(seed):
    network = Network()
    try:
        assert await run(network, seed) <= 60.0
    finally:
        await network.stop()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1000 + LONG_SEEDS))
async def test_a_restarted_node_has_an_honest_link_within_a_minute_by_many_seeds(seed):
    network = Network()
    try:
        print(f"seed {seed}: honest link after {await run(network, seed):.1f} s at most")
    finally:
        await network.stop()
