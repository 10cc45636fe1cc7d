"""Eclipse: many identities try to be all peers of a node, before and during its restart. Virtual time."""

from __future__ import annotations

import asyncio

import pytest
from eclipse_kit import any_id, attackers
from peer_network import Network
from peers_kit import MemoryStorage, found

pytestmark = [pytest.mark.looptime, pytest.mark.slow]

WITHIN = 60.0  # seconds to an honest link
HOSTS = {"victim": "31.7.0.1", "friend": "32.8.0.1", "third": "33.9.0.1", "fourth": "34.10.0.1"}


@pytest.fixture
async def net():
    network = Network()
    yield network
    await network.stop()


# Numbers of attackers, and the networks that they are spread over; 0: all have one address.
CROWDS = [(50, 0), (120, 4), pytest.param(500, 4, marks=pytest.mark.long)]


class Scene:
    """Four honest nodes in networks of their own, and the attackers."""

    def __init__(self, net, count: int, groups: int) -> None:
        self.net = net
        self.stores = {name: MemoryStorage() for name in HOSTS}
        self.nodes = {name: self.make(name) for name in HOSTS}
        self.bad = attackers(net, count, groups)
        self.targets = [self.nodes["victim"], self.nodes["friend"]]
        self.tasks: list[asyncio.Task[None]] = []

    def make(self, name: str):
        return self.net.node(any_id(name), HOSTS[name], storage=self.stores[name])

    async def begin(self) -> None:
        """Link the honest nodes, remember them, then begin the attack."""
        for node in self.nodes.values():
            await node.manager.start()
            await node.exchange.start(node.manager.found)
        for name in ("victim", "third", "fourth"):
            self.nodes[name].manager.found(found(self.nodes["friend"], source="exchange"))
        await asyncio.sleep(20)
        assert len(self.nodes["victim"].manager.links) == 3
        self.tasks = [asyncio.create_task(a.attack(self.targets, 10.0)) for a in self.bad]
        await asyncio.sleep(60)

    async def restart(self, name: str, pause: float):
        """Stop a node with all its links, and start it again from what it remembered."""
        node = self.nodes[name]
        await node.exchange.stop()
        await node.manager.stop()
        self.net.nodes.pop((node.host, node.port))
        for link in list(node.manager.links.values()):
            link.break_off()
        self.targets.remove(node)
        await asyncio.sleep(pause)
        fresh = self.nodes[name] = self.make(name)
        self.targets.append(fresh)
        await asyncio.sleep(5)  # the attackers come first
        fresh.manager.load_persisted_peers()
        await fresh.manager.start()
        await fresh.exchange.start(fresh.manager.found)
        return fresh

    def honest(self, name: str) -> list[str]:
        """Return the honest peers of a node; each such link is outbound for one of its honest ends."""
        ids = {any_id(other) for other in HOSTS}
        return [node for node in self.nodes[name].manager.links if node in ids]

    def inbound_from_attackers(self, name: str) -> int:
        ids = {a.id for a in self.bad}
        links = self.nodes[name].manager.links
        return sum(node in ids and not link.peer.outbound for node, link in links.items())

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def seconds_until(condition, limit: float = WITHIN) -> float:
    """Return the seconds until the condition holds; fail after `limit`."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not condition():
        assert loop.time() - begun < limit, f"not within {limit} s"
        await asyncio.sleep(0.1)
    return loop.time() - begun


@pytest.mark.parametrize(
    ("count", "groups"), CROWDS, ids=["one address", "4 networks", "4 large networks"]
)
async def test_honest_links_survive_an_attack_and_restarts(net, count, groups):
    scene = Scene(net, count, groups)
    await scene.begin()
    try:
        for name in ("victim", "friend"):
            assert len(scene.nodes[name].manager.links) <= 50
            assert scene.inbound_from_attackers(name) <= 48  # 12 for each network at most
        assert scene.honest("victim")
        for name, pause in (("victim", 20.0), ("friend", 1.0), ("victim", 100.0)):
            await scene.restart(name, pause)
            took = await seconds_until(lambda name=name: bool(scene.honest(name)))
            print(f"{name}: honest link {took:.1f} s after its start")
            await asyncio.sleep(40)
            assert scene.honest(name)
    finally:
        await scene.end()


@pytest.mark.parametrize(
    ("count", "groups"), CROWDS, ids=["one address", "4 networks", "4 large networks"]
)
async def test_both_sides_restarting_during_the_attack_find_each_other(net, count, groups):
    scene = Scene(net, count, groups)
    await scene.begin()
    try:
        await asyncio.gather(scene.restart("victim", 60.0), scene.restart("friend", 61.0))
        for name in ("victim", "friend"):
            await seconds_until(lambda name=name: bool(scene.honest(name)))
    finally:
        await scene.end()


@pytest.mark.parametrize(
    ("count", "groups"), CROWDS, ids=["one address", "4 networks", "4 large networks"]
)
async def test_a_newcomer_without_memory_gets_in_and_connect_works(net, count, groups):
    scene = Scene(net, count, groups)
    await scene.begin()
    try:
        newcomer = net.node(any_id("newcomer"), "35.11.0.1")
        scene.targets.append(newcomer)
        await asyncio.sleep(30)  # its inbound slots are taken before it dials anybody
        await newcomer.manager.start()
        friend = scene.nodes["friend"]
        peer = await newcomer.manager.connect(friend.host, friend.port)
        assert peer.node_id == friend.id
        await asyncio.sleep(60)
        assert friend.id in newcomer.manager.links
    finally:
        await scene.end()


async def test_anchors_are_dialled_first_after_a_restart(net):
    scene = Scene(net, 0, 0)
    await scene.begin()
    victim = scene.nodes["victim"]
    assert victim.manager.admission.choose_anchors()
    await victim.manager.stop()
    anchors = [peer.node_id for peer in scene.stores["victim"].peers if peer.anchor]
    assert anchors
    assert set(anchors) <= set(scene.honest("victim"))
    fresh = net.node(victim.id, HOSTS["victim"], storage=scene.stores["victim"])
    fresh.manager.load_persisted_peers()
    due = fresh.manager._dials.choose(asyncio.get_running_loop().time())
    assert {address.node_id for address, _ in due[: len(anchors)]} == set(anchors)
    assert len(due) == 3
