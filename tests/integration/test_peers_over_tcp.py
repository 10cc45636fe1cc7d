"""Peer managers over real links on loopback, TLS and all."""

import asyncio

import pytest

from p2p.addresses.peer_storage import PeerStorage
from p2p.base.errors import Code, HandshakeRefused
from p2p.base.identity import Identity
from p2p.discovery.bootstrap import BootstrapStrategy, PersistedStrategy
from p2p.discovery.peer_exchange import ExchangeStrategy
from p2p.discovery.strategy import PeerDiscovery
from p2p.peers.peer_manager import PeerManager, PeerSettings
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.messages import Codec


class Node:
    def __init__(self, number, directory, *, secure=True, max_peers=50):
        self.identity = Identity.from_seed(bytes([number]) * 32)
        self.id = self.identity.node_id
        self.storage = PeerStorage(directory / f"peers-{number}.json")
        self.manager = PeerManager(
            self.id,
            PeerSettings(max_peers=max_peers, reconnect_interval=1.0, storage=self.storage),
        )
        codec = Codec()
        self.direct = DirectConnectionService(
            self.identity,
            self.manager,
            codec,
            LinkSettings("test", secure, "test", ["peerexchange"]),
        )
        self.manager.dial_over("tcp", self.direct)
        self.exchange = ExchangeStrategy(self.id, self.manager.proven_peers, codec=codec)
        self.manager.follow(self.exchange)
        self.manager.handle("peerexchange", self.exchange.message)
        self.discovery = None
        self.port = 0
        self.downs = []
        self.manager.on_peer_down(self.downs.append)

    async def start(self, *bootstrap, port=0):
        _, self.port = await self.direct.start("127.0.0.1", port)
        strategies = [
            PersistedStrategy(self.manager.load_persisted_peers),
            BootstrapStrategy([("127.0.0.1", other.port) for other in bootstrap]),
            self.exchange,
        ]
        self.discovery = PeerDiscovery(strategies, self.manager.found)
        await self.manager.start()
        await self.discovery.start(settle=1)

    async def stop(self):
        await self.discovery.stop()
        await self.manager.stop()
        await self.direct.stop()


@pytest.fixture
async def nodes(tmp_path):
    made = []

    def make(number, **options):
        node = Node(number, tmp_path, **options)
        made.append(node)
        return node

    yield make
    await asyncio.gather(*(node.stop() for node in made if node.discovery is not None))


async def until(condition, seconds=15):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def links_of(node):
    return len(node.direct._connections)


def meshed(*nodes):
    ids = {node.id for node in nodes}
    return all(set(node.manager.links) == ids - {node.id} for node in nodes)


@pytest.mark.parametrize("secure", [True, False])
async def test_nodes_that_know_one_node_end_in_a_full_mesh(nodes, secure):
    boot, *others = [nodes(n, secure=secure) for n in range(1, 6)]
    await boot.start()
    await asyncio.gather(*(node.start(boot) for node in others))
    await until(lambda: meshed(boot, *others))
    assert all(node.downs == [] for node in (boot, *others))


async def test_two_nodes_that_dial_each_other_at_once_keep_one_link(nodes):
    for round_ in range(5):
        a, b = nodes(2 * round_ + 1), nodes(2 * round_ + 2)
        await a.start()
        await b.start()
        await asyncio.gather(
            a.manager.connect("127.0.0.1", b.port), b.manager.connect("127.0.0.1", a.port)
        )
        # The links that lost linger until both sides have hung up.
        await until(lambda a=a, b=b: links_of(a) == links_of(b) == 1)
        assert meshed(a, b)
        assert a.manager.links[b.id].peer.outbound != b.manager.links[a.id].peer.outbound
        assert a.downs == b.downs == []


async def test_a_restarted_node_finds_its_peers_by_its_file_and_is_found_again(nodes):
    a, b = nodes(1), nodes(2)
    await a.start()
    await b.start(a)
    await until(lambda: meshed(a, b))
    await until(lambda: b.storage.load() != [])
    await b.stop()
    b.discovery = None
    await until(lambda: not a.manager.links)
    again = nodes(2)
    await again.start()
    await until(lambda: meshed(a, again))


async def test_a_node_is_dialled_back_when_it_comes_up_again_on_its_port(nodes):
    a, b = nodes(1), nodes(2)
    await a.start()
    await b.start()
    await a.manager.connect("127.0.0.1", b.port)
    await b.stop()
    b.discovery = None
    again = nodes(2)
    again.storage.path.unlink(missing_ok=True)
    await again.start(port=b.port)
    await until(lambda: meshed(a, again))


async def test_refusals_carry_their_reason(nodes):
    a, b, c = nodes(1), nodes(2, max_peers=1), nodes(3)
    for node in (a, b, c):
        await node.start()
    await a.manager.connect("127.0.0.1", b.port)
    with pytest.raises(HandshakeRefused) as caught:
        await c.direct.dial("127.0.0.1", b.port)
    assert caught.value.code is Code.FULL
    with pytest.raises(HandshakeRefused) as caught:
        await a.manager.connect("127.0.0.1", a.port)
    assert caught.value.code is Code.SELF


@pytest.mark.parametrize("secure", [True, False])
async def test_a_newcomer_whose_only_known_node_is_full_links_to_the_peers_of_that_node(
    nodes, secure
):
    full, b, c = (nodes(n, secure=secure, max_peers=most) for n, most in ((1, 1), (2, 50), (3, 50)))
    await full.start()
    await b.start(full)
    await until(lambda: full.manager.proven_peers())
    await c.start(full)
    await until(lambda: set(c.manager.links) == {b.id})
    assert set(full.manager.links) == {b.id}
