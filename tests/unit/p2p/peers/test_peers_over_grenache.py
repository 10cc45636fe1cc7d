"""Peers over Grenache: beside direct links, in their place, and without any."""

import asyncio

import pytest
from peer_network import WORKER, Network
from peers_kit import A, B, C, MemoryStorage, dials, envelope, found, start

from p2p.addresses.address import PeerFound
from p2p.addresses.address_book import GRENACHE_DELAY
from p2p.addresses.peer_storage import PeerStorage
from p2p.base.limits import HEALTHY_AFTER
from p2p.discovery.bootstrap import PersistedStrategy
from p2p.peers.dial_loop import grenache_limit
from p2p.peers.duplicate_links import LEAVE_AFTER
from p2p.wire.messages import PeerAddress

pytestmark = pytest.mark.looptime


@pytest.fixture
async def net():
    network = Network()
    yield network
    await network.stop()


BOTH = ("tcp", "grenache")


def worker(node):
    return PeerFound(node.host, WORKER, None, "grape", carrier="grenache")


def kind(node, other):
    link = node.manager.links.get(other.id)
    return None if link is None else link.peer.carrier


def speak(*nodes):
    for node in nodes:
        for link in node.manager.links.values():
            link.send(envelope(node.id))


async def test_with_grenache_alone_nodes_are_linked_over_it_at_once(net):
    a, b = net.node("a", over=["grenache"]), net.node("b", over=["grenache"])
    await start(a, b)
    a.manager.found(worker(b))
    a.manager.found(found(b))  # nothing here could dial it
    await asyncio.sleep(0.5)
    assert (kind(a, b), kind(b, a)) == ("grenache", "grenache")
    assert dials(net, "a") == [(b.host, WORKER)]
    assert a.manager.known_addresses == 1
    assert [p.node_id for p in a.manager.get_all_peers()] == [B]
    await asyncio.sleep(100)
    assert net.dials[1:] == []  # no feelers


async def test_with_grenache_alone_all_places_may_be_taken_over_it(net):
    a = net.node("a", over=["grenache"], max_peers=5)
    others = [net.node(letter, over=["grenache"]) for letter in "bcdef"]
    await start(a, *others)
    for other in others:
        a.manager.found(worker(other))
    await asyncio.sleep(5)
    assert a.connected() == "bcdef"


async def test_the_operator_connects_over_grenache_where_there_is_nothing_else(net):
    a, b = net.node("a", over=["grenache"]), net.node("b", over=["grenache"])
    await start(a, b)
    peer = await a.manager.connect(b.host, WORKER)
    assert (peer.node_id, peer.status) == (B, "connected")
    assert kind(a, b) == "grenache"


async def test_a_peer_that_is_found_both_ways_is_linked_directly_and_dialled_once_more(net):
    a, b = net.node("a", over=BOTH), net.node("b", over=BOTH)
    await start(a, b)
    a.manager.found(found(b))
    a.manager.found(worker(b))
    await asyncio.sleep(1000)
    assert (kind(a, b), kind(b, a)) == ("tcp", "tcp")
    assert dials(net, "a")[0] == (b.host, 3000)
    # Nobody knows whose worker it is before it was asked; then it is not dialled again.
    assert dials(net, "a").count((b.host, WORKER)) <= 1
    assert [e for e in a.heard + b.heard if e[0] == "down"] == []


@pytest.mark.parametrize(("who", "other"), [("a", "b"), ("b", "a")])
async def test_the_refusal_of_a_needless_link_is_learned_from_either_side(net, who, other):
    near, far = net.node(who, over=BOTH), net.node(other, over=BOTH)
    await start(near, far)
    near.manager.found(found(far))
    near.manager.found(worker(far))
    await asyncio.sleep(3000)
    assert dials(net, who).count((far.host, WORKER)) <= 8
    assert kind(near, far) == "tcp"


async def test_grenache_takes_over_after_its_delay_without_a_direct_link(net):
    a, b = net.node("a", over=BOTH), net.node("b", over=BOTH)
    net.nodes.clear()
    await start(a, b)
    a.manager.found(found(b))
    a.manager.found(worker(b))
    await asyncio.sleep(GRENACHE_DELAY - 0.1)
    assert a.connected() == ""
    await asyncio.sleep(0.5)
    assert (kind(a, b), kind(b, a)) == ("grenache", "grenache")


@pytest.mark.parametrize(("who", "other"), [("a", "b"), ("b", "a")])
async def test_a_link_over_grenache_gives_way_to_a_direct_one(net, who, other):
    near, far = net.node(who, over=BOTH), net.node(other, over=BOTH)
    del net.nodes[far.host, 3000], net.nodes[near.host, 3000]
    lost = []
    for node in (near, far):
        node.manager.on_peer_down(lost.append)
    await start(near, far)
    near.manager.found(found(far, with_id=True))
    near.manager.found(worker(far))
    await asyncio.sleep(60)
    assert (kind(near, far), kind(far, near)) == ("grenache", "grenache")
    net.nodes[far.host, 3000] = far
    await asyncio.sleep(100)
    assert (kind(near, far), kind(far, near)) == ("tcp", "tcp")
    await asyncio.sleep(LEAVE_AFTER)
    speak(near, far)
    await asyncio.sleep(1)
    link = near.manager.links[far.id]
    assert link.other is far.manager.links[near.id]
    assert lost == []
    before = len(net.dials)
    await asyncio.sleep(1000)
    assert len(net.dials) - before <= 2
    assert [p.node_id for p in near.manager.get_all_peers()] == [far.id]


async def test_two_nodes_that_dial_each_other_both_ways_end_with_one_direct_link(net):
    for latency in (0.001, 0.01, 0.3):
        for jitter in (0.0, latency / 3, latency, 2 * latency):
            each = Network(latency)
            a, b = each.node("a", over=BOTH), each.node("b", over=BOTH)
            await start(a, b)
            b.manager.found(worker(a))
            a.manager.found(worker(b))
            await asyncio.sleep(GRENACHE_DELAY + jitter)
            a.manager.found(found(b))
            b.manager.found(found(a))
            for _ in range(20):
                await asyncio.sleep(1)
                speak(a, b)
            assert (kind(a, b), kind(b, a)) == ("tcp", "tcp")
            near, far = a.manager.links[B], b.manager.links[A]
            assert near.other is far
            assert not near.closed
            await each.stop()


async def test_a_direct_link_that_breaks_is_replaced_over_grenache_until_it_comes_back(net):
    a, b = net.node("a", over=BOTH), net.node("b", over=BOTH)
    await start(a, b)
    for one, other in ((a, b), (b, a)):
        one.manager.found(found(other))
        one.manager.found(worker(other))
    await asyncio.sleep(60)
    assert kind(a, b) == "tcp"
    listening, net.nodes = net.nodes, {}
    a.manager.links[B].break_off()
    await asyncio.sleep(2 * GRENACHE_DELAY)
    assert (kind(a, b), kind(b, a)) == ("grenache", "grenache")
    net.nodes = listening
    await asyncio.sleep(100)
    assert (kind(a, b), kind(b, a)) == ("tcp", "tcp")


async def test_beside_direct_links_a_quarter_may_be_over_grenache(net):
    a = net.node("a", over=BOTH, max_peers=8)
    others = [net.node(letter, over=["grenache"]) for letter in "bcdef"]
    await start(a, *others)
    for other in others[:3]:
        a.manager.found(worker(other))
    for other in others[3:]:
        other.manager.found(worker(a))
    await asyncio.sleep(30)
    assert len(a.manager.links) == grenache_limit(8) == 2
    direct = net.node("g")
    a.manager.found(found(direct))
    await asyncio.sleep(5)
    assert "g" in a.connected()


async def test_idle_links_over_grenache_give_way_to_newcomers_as_others_do(net):
    a = net.node("a", over=BOTH, max_peers=8)
    idle = [net.node(letter, over=["grenache"]) for letter in "bc"]
    newcomer = net.node("d", over=["grenache"])
    await start(a, *idle, newcomer)
    for node in idle:
        node.manager.found(worker(a))
    await asyncio.sleep(5)
    assert a.connected() == "bc"
    await asyncio.sleep(10)
    newcomer.manager.found(worker(a))
    await asyncio.sleep(5)
    assert "d" in a.connected()
    assert len(a.manager.links) == grenache_limit(8)


@pytest.mark.parametrize(("most", "over_grenache"), [(1, 1), (4, 1), (8, 2), (50, 12)])
def test_a_quarter_of_the_places_and_at_least_one(most, over_grenache):
    assert grenache_limit(most) == over_grenache


async def test_a_node_learns_from_a_link_over_grenache_where_to_dial_directly(net):
    a, b = net.node("a", over=BOTH), net.node("b", over=BOTH)
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(GRENACHE_DELAY + 20)
    assert (kind(a, b), kind(b, a)) == ("tcp", "tcp")
    assert (b.host, 3000) in dials(net, "a") or (a.host, 3000) in dials(net, "b")


@pytest.mark.parametrize(("over", "wait"), [(BOTH, GRENACHE_DELAY), (["grenache"], 0.0)])
async def test_a_peer_reached_over_grenache_is_remembered_and_dialled_by_the_same_rules(
    net, tmp_path, over, wait
):
    storage = PeerStorage(tmp_path / ".peers.json")
    a, b = net.node("a", over=over, storage=storage), net.node("b", over=["grenache"])
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(wait + 1)
    assert a.connected() == "b"
    await a.manager.stop()
    (stored,) = storage.load()
    assert (stored.address, stored.port, stored.carrier) == (b.host, WORKER, "grenache")
    a.manager.links[B].break_off()
    again = net.node("a", over=over, storage=storage)
    await start(again)
    strategy = PersistedStrategy(again.manager.load_persisted_peers)
    await strategy.start(again.manager.found)
    if wait:
        await asyncio.sleep(wait - 0.1)
        assert again.connected() == ""
    await asyncio.sleep(0.5)
    assert kind(again, b) == "grenache"
    await strategy.stop()


async def test_only_the_dialling_node_passes_on_an_address_over_grenache(net):
    a, b = net.node("a", over=BOTH), net.node("b", over=["grenache"])
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(GRENACHE_DELAY + 1)
    assert a.manager.proven_peers() == [PeerAddress(B, b.host, WORKER, "grenache")]
    assert b.manager.proven_peers() == []


async def test_of_a_peer_that_is_linked_directly_the_address_for_grenache_is_not_passed_on(net):
    a, b = net.node("a", over=BOTH), net.node("b", over=BOTH)
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(GRENACHE_DELAY + 20)
    assert kind(a, b) == "tcp"
    assert [peer.carrier for peer in a.manager.proven_peers()] == ["tcp"]


async def test_a_direct_link_is_no_news_of_the_address_for_grenache(net):
    storage = MemoryStorage()
    a, b = net.node("a", over=BOTH, storage=storage), net.node("b", over=BOTH)
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(1000)
    assert kind(a, b) == "tcp"
    a.manager.persist_peers()
    seen = {stored.carrier: stored.last_success for stored in storage.peers}
    assert (seen["tcp"] - seen["grenache"]).total_seconds() > 900


async def test_an_address_for_grenache_that_failed_since_is_not_passed_on(net):
    a, b = net.node("a", over=["grenache"]), net.node("b", over=["grenache"])
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(1)
    del net.workers[b.host, WORKER]  # it takes requests elsewhere now
    a.manager.links[B].break_off()
    await asyncio.sleep(20)
    assert a.connected() == ""
    await b.manager.connect(a.host, WORKER)
    assert (a.connected(), a.manager.proven_peers()) == ("b", [])


async def test_remembered_addresses_for_another_mode_are_kept_and_not_dialled(net):
    storage = MemoryStorage()
    a, b, c = net.node("a", over=BOTH, storage=storage), net.node("b"), net.node("c", over=BOTH)
    del net.nodes[c.host, 3000]
    await start(a, b, c)
    a.manager.found(found(b))
    a.manager.found(worker(c))
    await asyncio.sleep(GRENACHE_DELAY + 1)
    assert a.connected() == "bc"
    await a.manager.stop()
    both = {(stored.node_id, stored.carrier) for stored in storage.peers}
    assert both == {(B, "tcp"), (C, "grenache")}
    for node in (B, C):
        a.manager.links[node].break_off()
    for over, only in ((["grenache"], C), (["tcp"], B)):
        other = net.node("a", over=over, storage=storage)
        await start(other)
        for _ in range(2):  # a strategy may be started again
            assert [peer.node_id for peer in other.manager.load_persisted_peers()] == [only]
        await other.manager.stop()
        assert {(stored.node_id, stored.carrier) for stored in storage.peers} == both
        assert len(storage.peers) == 2
    other.manager.remove_peer(C)
    other.manager.persist_peers()
    assert [stored.node_id for stored in storage.peers] == [B]


async def test_a_lost_link_over_grenache_is_dialled_again(net):
    a, b = net.node("a", over=["grenache"]), net.node("b", over=["grenache"])
    await start(a, b)
    a.manager.found(worker(b))
    await asyncio.sleep(HEALTHY_AFTER + 1)
    a.manager.links[B].break_off()
    await asyncio.sleep(3)
    assert (kind(a, b), kind(b, a)) == ("grenache", "grenache")


async def test_links_that_flap_are_tried_ever_less_often(net):
    """Direct links that die soon after they came up, beside a well link over Grenache."""
    a, b = net.node("a", over=BOTH), net.node("b", over=BOTH)

    class Follower:
        def link_up(self, link):
            if link.peer.carrier == "tcp":
                asyncio.get_running_loop().call_later(8, link.break_off)

        def link_down(self, link, code, reason):
            pass

    b.manager.follow(Follower())
    await start(a, b)
    a.manager.found(found(b))
    a.manager.found(worker(b))
    await asyncio.sleep(3000)
    assert dials(net, "a").count((b.host, 3000)) + dials(net, "b").count((a.host, 3000)) <= 40
