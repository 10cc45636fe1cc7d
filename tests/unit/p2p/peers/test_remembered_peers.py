"""Peers are remembered over a restart."""

import asyncio
import logging
import random

import pytest
from peer_network import MemoryLink, Network, info
from peers_kit import A, B, C, MemoryStorage, found, start

from p2p.addresses.address import PeerFound
from p2p.addresses.peer_storage import PeerStorage
from p2p.discovery.bootstrap import PersistedStrategy
from p2p.peers.dial_loop import Dialer
from p2p.wire.link import PeerLink

pytestmark = pytest.mark.looptime


@pytest.fixture
async def net():
    network = Network()
    yield network
    await network.stop()


async def test_peers_that_were_reached_are_remembered_over_a_restart(net, tmp_path):
    storage = PeerStorage(tmp_path / ".peers.json")
    a, b = net.node("a", storage=storage), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    a.manager.found(PeerFound("198.51.100.1", 3000, C, "exchange"))  # never reached
    await asyncio.sleep(0.5)
    await a.manager.stop()
    (stored,) = storage.load()
    assert (stored.node_id, stored.address, stored.port) == (B, b.host, 3000)
    assert stored.source == "bootstrap"
    a.manager.links[B].break_off()
    again = net.node("a", storage=storage)
    await start(again)
    strategy = PersistedStrategy(again.manager.load_persisted_peers)
    await strategy.start(again.manager.found)
    await asyncio.sleep(0.5)
    assert again.connected() == "b"
    assert strategy.found_count == 1
    await strategy.stop()


async def test_a_peer_banned_before_a_restart_is_dialled_when_its_ban_is_removed(net, tmp_path):
    kept = {"storage": MemoryStorage(), "policy_path": tmp_path / "policy.json"}
    a, b = net.node("a", **kept), net.node("b")
    await start(a, b)
    b.manager.found(found(a))
    await asyncio.sleep(1)  # a has dialled back, without which it would know no address to remember
    a.manager.ban(B, 3600)
    await a.manager.stop()
    b.manager.remove_peer(A)
    again = net.node("a", **kept)
    again.manager.load_persisted_peers()
    await start(again)
    await asyncio.sleep(5)
    assert again.connected() == ""
    again.manager.unban(B)
    await asyncio.sleep(0.1)
    assert again.connected() == "b"


@pytest.mark.looptime(False)
async def test_new_peers_are_saved_soon_without_waiting_for_the_stop(monkeypatch):
    monkeypatch.setattr("p2p.peers.peer_store.SAVE_DELAY", 0.01)
    net, storage = Network(0.001), MemoryStorage()
    a, b = net.node("a", storage=storage), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    async with asyncio.timeout(5):
        while not storage.peers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert storage.peers[0].node_id == B
    await net.stop()


async def test_failures_are_counted_on_over_restarts(net):
    storage = MemoryStorage()
    a, b = net.node("a", storage=storage), net.node("b")
    await start(a, b)
    a.manager.found(found(b, source="mdns"))
    await asyncio.sleep(1)
    await a.manager.stop()
    a.manager.links[B].break_off()
    del net.nodes[b.host, 3000]
    for failures in (1, 2):
        again = net.node("a", storage=storage)
        again.manager.load_persisted_peers()
        await start(again)
        await asyncio.sleep(0.5)
        await again.manager.stop()
        assert [peer.failures for peer in storage.peers] == [failures]


async def test_our_own_entry_in_the_file_is_skipped(net):
    storage = MemoryStorage()
    first = net.node("a", storage=storage)
    second = net.node("b")
    await start(first, second)
    first.manager.found(found(second))
    await asyncio.sleep(0.5)
    await first.manager.stop()
    other = net.node("b", "198.51.100.7", storage=storage)
    assert other.manager.load_persisted_peers() == []
    assert other.manager.known_addresses == 0


async def test_a_disk_that_refuses_is_a_warning(net, caplog):
    storage = MemoryStorage()
    storage.fails = True
    a = net.node("a", storage=storage)
    with caplog.at_level(logging.WARNING):
        a.manager.persist_peers()
    assert "disk full" in caplog.text


def test_the_memory_doubles_have_the_shape_of_the_real_ones():
    dialer: Dialer = Network().node("a")
    link: PeerLink = MemoryLink(info(A))
    assert random.Random and dialer and link  # noqa: PT018
