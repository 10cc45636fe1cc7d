import asyncio
import logging
import random
from itertools import pairwise

import pytest
from peer_network import WORKER, MemoryLink, Network, info, node_id

from p2p.addresses import GRENACHE_DELAY, PeerFound
from p2p.dialling import MAX_DIALS, grenache_limit, outbound_limit
from p2p.discovery.persisted import PersistedStrategy
from p2p.duplicates import LEAVE_AFTER, SUSPECT_AFTER
from p2p.errors import Code, ConnectFailed, HandshakeRefused
from p2p.limits import HEALTHY_AFTER, RECONNECT_MAX
from p2p.link import Link
from p2p.messages import Envelope, PeerAddress, pack
from p2p.peers import Dialer, Peer, PeerManager
from p2p.storage import PeerStorage

pytestmark = pytest.mark.looptime

A, B, C = node_id("a"), node_id("b"), node_id("c")


@pytest.fixture
async def net():
    network = Network()
    yield network
    await network.stop()


def found(node, *, with_id=False, source="bootstrap"):
    return PeerFound(node.host, node.port, node.id if with_id else None, source)


def dials(net, letter):
    return [(host, port) for who, host, port, _ in net.dials if who == letter]


async def start(*nodes):
    for node in nodes:
        await node.manager.start()


def envelope(sender, kind="order", **more):
    return Envelope(kind, sender, "", 0, pack({}), **more)


# Links and records


async def test_a_found_address_becomes_a_connected_peer(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    assert (a.connected(), b.connected()) == ("b", "a")
    peer = a.manager.get_peer(B)
    assert (peer.node_id, peer.address, peer.port) == (B, b.host, 3000)
    assert (peer.status, peer.direction, peer.source) == ("connected", "out", "bootstrap")
    assert peer.connection is a.manager.links[B]
    assert peer.capabilities.version == "1.0.0"
    assert peer.stats is peer.connection.stats
    assert peer.last_seen == pytest.approx(1_700_000_000, abs=5)
    other = b.manager.get_peer(A)
    assert (other.address, other.port, other.direction) == (a.host, 3000, "in")
    assert (other.status, other.source) == ("connected", "inbound")


async def test_a_record_is_connecting_while_it_is_dialled_and_keeps_why_it_failed(net):
    net.latency = 1.0
    a = net.node("a")
    await start(a)
    a.manager.found(PeerFound("192.0.2.9", 3000, None, "mdns"))
    await asyncio.sleep(0.5)
    (peer,) = a.manager.get_all_peers()
    assert (peer.node_id, peer.status, peer.failures) == (None, "connecting", 0)
    await asyncio.sleep(1.0)
    (peer,) = a.manager.get_all_peers()
    assert (peer.status, peer.failures) == ("disconnected", 1)
    assert "nobody there" in peer.last_error


async def test_several_addresses_of_a_node_are_one_peer(net):
    a, b = net.node("a"), net.node("b")
    net.nodes["198.51.100.1", 3000] = b
    await start(a, b)
    a.manager.found(PeerFound(b.host, 3000, B, "mdns"))
    a.manager.found(PeerFound("198.51.100.1", 3000, B, "mdns"))
    await asyncio.sleep(60)
    assert [p.node_id for p in a.manager.get_all_peers()] == [B]
    assert len(dials(net, "a")) == 1


async def test_the_listener_hears_of_links_and_of_messages_without_a_handler_of_their_own(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    b.manager.handle("special", lambda link, env: b.heard.append(("handled", link.peer.node_id)))
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    link = a.manager.links[B]
    link.send(envelope(A))
    link.send(envelope(A, "special"))
    link.send(envelope(A, "special", hops=1))  # relayed: not from the peer itself
    link.send(envelope(C, "special"))
    await asyncio.sleep(0.1)
    link.break_off()
    await asyncio.sleep(0.1)
    assert b.heard == [
        ("up", A),
        ("order", A),
        ("handled", A),
        ("special", A),
        ("special", A),
        ("down", A),
    ]


async def test_callbacks_hear_of_peers_and_a_broken_one_spoils_nothing(net, caplog):
    a, b = net.node("a"), net.node("b")
    seen = []

    def broken(peer):
        raise RuntimeError("a fault of the listener")

    a.manager.on_peer_up(broken)
    a.manager.on_peer_up(lambda peer: seen.append(("up", peer.node_id, peer.status)))
    a.manager.on_peer_down(lambda peer: seen.append(("down", peer.node_id, peer.status)))
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    a.manager.links[B].break_off()
    await asyncio.sleep(0.1)
    assert seen == [("up", B, "connected"), ("down", B, "disconnected")]
    assert "a fault of the listener" in caplog.text


async def test_a_lost_peer_keeps_its_last_figures_and_the_reason(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    a.manager.links[B].stats.messages_received = 7
    b.manager.links[A].close(Code.SHUTDOWN, "going home")
    await asyncio.sleep(0.1)
    peer = a.manager.get_peer(B)
    assert (peer.status, peer.connection, peer.direction) == ("disconnected", None, None)
    assert peer.stats.messages_received == 7
    assert peer.last_error == "going home (shutdown)"


async def test_only_peers_that_are_heard_are_healthy(net):
    a, b, c = net.node("a"), net.node("b"), net.node("c")
    await start(a, b, c)
    a.manager.found(found(b))
    a.manager.found(found(c))
    await asyncio.sleep(SUSPECT_AFTER + 1)
    a.manager.links[B].stats.last_seen = asyncio.get_running_loop().time()
    assert [p.node_id for p in a.manager.get_healthy_peers()] == [B]
    assert len(a.manager.get_all_peers()) == 2


async def test_a_removed_peer_is_disconnected_and_forgotten(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.add_peer(Peer(None, b.host, b.port, "manual"))
    await asyncio.sleep(0.5)
    a.manager.remove_peer(B)
    await asyncio.sleep(0.1)
    assert a.connected() == ""
    assert a.manager.get_peer(B) is None
    assert a.manager.known_addresses == 0


async def test_an_inbound_peer_that_accepts_no_links_leaves_no_record_behind(net):
    a, b = net.node("a", listens=False), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    assert b.manager.get_peer(A).port == 0
    a.manager.links[B].break_off()
    await asyncio.sleep(0.1)
    assert b.manager.get_peer(A) is None
    await asyncio.sleep(30)
    assert dials(net, "b") == []


# One link per pair


async def test_two_nodes_that_dial_each_other_at_once_end_with_one_link_on_both_sides(net):
    for latency in (0.001, 0.01, 0.3):
        for jitter in (0.0, latency / 3, latency, 2 * latency):
            each = Network(latency)
            a, b = each.node("a"), each.node("b")
            lost = []
            for node in (a, b):
                node.manager.on_peer_down(lost.append)
            await start(a, b)
            a.manager.found(found(b))
            await asyncio.sleep(jitter)
            b.manager.found(found(a))
            await asyncio.sleep(10)
            assert (a.connected(), b.connected()) == ("b", "a")
            near, far = a.manager.links[B], b.manager.links[A]
            assert near.other is far
            assert not near.closed
            assert lost == []
            await each.stop()


@pytest.mark.parametrize(("stays", "returns"), [("a", "b"), ("b", "a")])
async def test_a_peer_that_vanished_without_a_word_gets_in_again_before_its_old_link_is_dead(
    net, stays, returns
):
    old, gone = net.node(stays), net.node(returns)
    await start(old, gone)
    gone.manager.found(found(old))
    await asyncio.sleep(20)
    half_open = old.manager.links[gone.id]
    half_open.frozen = half_open.other.frozen = True
    await gone.manager.stop()
    again = net.node(returns)  # the same key and port, no memory
    await start(again)
    await asyncio.sleep(SUSPECT_AFTER)
    again.manager.found(found(old))
    await asyncio.sleep(1)
    assert again.connected() == stays
    assert old.connected() == returns
    assert old.manager.links[again.id].other is again.manager.links[old.id]
    half_open.hear_goodbye(Code.TIMEOUT, "nothing heard for too long")
    await asyncio.sleep(1)
    assert old.connected() == returns


async def test_a_message_over_a_held_link_moves_the_listener_to_it(net):
    b = net.node("b")
    first = MemoryLink(info(A, outbound=False), owner=b.manager)
    second = MemoryLink(info(A, outbound=True), owner=b.manager)
    b.manager.link_up(first)
    b.manager.link_up(second)
    assert b.heard == [("up", A)]
    b.manager.message(second, envelope(A))
    b.manager.message(first, envelope(A))  # was under way on the old link
    assert b.manager.links[A] is second
    assert b.heard == [("up", A), ("down", A), ("up", A), ("order", A), ("order", A)]
    first.close(Code.DUPLICATE)
    await asyncio.sleep(0)
    assert b.heard[-1] == ("order", A)
    assert not second.closed


async def test_messages_of_a_link_that_was_let_go_are_dropped(net):
    a = net.node("a")
    first = MemoryLink(info(B), owner=a.manager)
    second = MemoryLink(info(B), owner=a.manager)
    a.manager.link_up(first)
    a.manager.link_up(second)
    assert second.said is Code.DUPLICATE
    a.manager.message(second, envelope(B))
    assert a.heard == [("up", B)]


# Admission and MAX_PEERS


async def test_this_node_itself_is_not_admitted(net):
    a = net.node("a")
    assert a.manager.admit(info(A)) is Code.SELF


async def test_a_full_node_refuses_newcomers_but_not_peers_it_has(net):
    a = net.node("a", max_peers=1)
    link = MemoryLink(info(B), owner=a.manager)
    assert a.manager.admit(info(B)) is None
    a.manager.link_up(link)
    assert a.manager.admit(info(C, outbound=False)) is Code.FULL
    assert a.manager.admit(info(B, outbound=False)) is Code.DUPLICATE
    late = MemoryLink(info(C), owner=a.manager)
    a.manager.link_up(late)
    assert late.said is Code.FULL
    assert a.connected() == "b"


async def test_a_full_node_is_not_dialled_again_before_the_interval(net):
    a, b, c = net.node("a"), net.node("b", max_peers=1), net.node("c")
    await start(a, b, c)
    c.manager.found(found(b))
    await asyncio.sleep(1)
    a.manager.found(found(b))
    await asyncio.sleep(20)
    assert len(dials(net, "a")) == 1
    assert "full" in a.manager.get_all_peers()[0].last_error
    await c.manager.stop()
    del net.nodes[c.host, 3000]
    c.manager.links[B].close(Code.SHUTDOWN)
    await asyncio.sleep(25)
    assert a.connected() == "b"


@pytest.mark.parametrize(("most", "own"), [(1, 1), (7, 7), (8, 6), (50, 38)])
def test_some_links_are_kept_for_others_when_there_are_many(most, own):
    assert outbound_limit(most) == own


async def test_own_dials_stop_below_the_maximum_except_for_configured_peers(net):
    a = net.node("a", max_peers=8)
    others = [net.node(letter) for letter in "bcdefghijk"]
    await start(a, *others)
    for other in others[:8]:
        a.manager.found(found(other, with_id=True, source="exchange"))
    await asyncio.sleep(5)
    assert len(a.manager.links) == 6
    a.manager.found(found(others[8], source="bootstrap"))
    await asyncio.sleep(5)
    assert len(a.manager.links) == 7
    await a.manager.connect(others[9].host, 3000)
    assert len(a.manager.links) == 8
    await asyncio.sleep(5)
    before = len(net.dials)
    await asyncio.sleep(1000)
    assert len(net.dials) == before


async def test_few_dials_run_at_once(net):
    a = net.node("a", max_peers=50)
    for n in range(60):
        a.manager.found(PeerFound(f"198.51.100.{n + 1}", 3000, None, "exchange"))
    await start(a)
    await asyncio.sleep(3)
    assert len(set(dials(net, "a"))) == 60
    assert net.most_running == MAX_DIALS


# Reconnecting


async def test_an_address_where_nobody_answers_is_dialled_on_the_ladder(net):
    a = net.node("a")
    await start(a)
    a.manager.found(PeerFound("192.0.2.9", 3000, None, "bootstrap"))
    times = []
    dial = a.dial

    async def noting(host, port, expect=None):
        times.append(asyncio.get_running_loop().time())
        return await dial(host, port, expect)

    a.dial = noting
    await asyncio.sleep(4000)
    gaps = [after - before for before, after in pairwise(times)]
    for gap, expected in zip(gaps, [1, 5, 15, 30, 60, 120, 240, 480, 600, 600], strict=False):
        assert 0.7 * expected < gap < 1.3 * expected + 0.1
    assert len(gaps) >= 10


async def test_a_lost_peer_is_dialled_again_within_seconds_by_both_and_linked_once(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(HEALTHY_AFTER + 1)
    for _ in range(3):
        a.manager.links[B].break_off()
        await asyncio.sleep(HEALTHY_AFTER + 2)
        assert (a.connected(), b.connected()) == ("b", "a")


async def test_a_peer_that_always_drops_us_at_once_is_dialled_ever_less_often(net):
    a, b = net.node("a"), net.node("b")
    b.manager.on_peer_up(
        lambda peer: asyncio.get_running_loop().call_later(
            0.5, peer.connection.close, Code.SLOW, "no"
        )
    )
    await start(a)
    a.manager.found(found(b))
    await asyncio.sleep(1000)
    assert 6 <= len(dials(net, "a")) <= 11


async def test_a_peer_that_cut_us_for_abuse_is_left_alone_for_long(net):
    a, b = net.node("a"), net.node("b")
    await start(a)
    a.manager.found(found(b))
    await asyncio.sleep(1)
    b.manager.links[A].close(Code.ABUSE, "too many lists")
    await asyncio.sleep(RECONNECT_MAX * 0.7)
    assert len(dials(net, "a")) == 1


async def test_our_own_address_is_dialled_once_and_never_again(net):
    a = net.node("a")
    await start(a)
    for _ in range(3):
        a.manager.found(found(a))
        await asyncio.sleep(1000)
    assert len(net.dials) == 1
    assert a.manager.get_all_peers() == []


async def test_a_node_of_another_network_is_left_alone_for_long(net):
    a, b = net.node("a"), net.node("b")
    b.network = "test"
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(RECONNECT_MAX * 0.7)
    assert len(net.dials) == 1
    assert "wrong_network" in a.manager.get_all_peers()[0].last_error


async def test_a_rumour_with_a_wrong_id_is_dropped_so_that_a_right_one_is_heard(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(PeerFound(b.host, 3000, C, "exchange", via=C))
    await asyncio.sleep(1)
    assert a.manager.known_addresses == 0
    a.manager.found(PeerFound(b.host, 3000, B, "exchange", via=C))
    await asyncio.sleep(1)
    assert a.connected() == "b"


async def test_whoever_has_a_configured_address_is_accepted_there(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(20)
    net.node("c", b.host, b.port)  # the machine was set up anew, with another key
    a.manager.links[B].break_off()
    await b.manager.stop()
    await asyncio.sleep(3)
    assert a.connected() == "c"


async def test_a_restarted_peer_on_another_port_is_followed(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b, with_id=True, source="mdns"))
    await asyncio.sleep(20)
    await b.manager.stop()
    del net.nodes[b.host, 3000]
    a.manager.links[B].break_off()
    moved = net.node("b", b.host, 3001)
    await start(moved)
    a.manager.found(found(moved, with_id=True, source="mdns"))
    await asyncio.sleep(1)
    assert a.connected() == "b"
    assert a.manager.get_peer(B).port == 3001


# Feelers


async def test_the_address_of_an_inbound_peer_is_proven_by_a_feeler(net):
    for first, second in (("a", "b"), ("b", "a")):
        each = Network()
        dialling, accepting = each.node(first), each.node(second)
        await start(dialling, accepting)
        dialling.manager.found(found(accepting))
        await asyncio.sleep(0.9)
        (proven,) = accepting.manager.proven_peers()
        assert (proven.node_id, proven.address) == (dialling.id, dialling.host)
        assert each.dials[1:] == [(second, dialling.host, 3000, dialling.id)]
        assert (dialling.connected(), accepting.connected()) == (second, first)
        await asyncio.sleep(1000)
        assert len(each.dials) == 2
        assert [e for e in dialling.heard + accepting.heard if e[0] == "down"] == []
        await each.stop()


async def test_a_peer_whose_address_is_another_nodes_is_never_proven(net):
    a, b, c = net.node("a"), net.node("b"), net.node("c")
    await start(a, b, c)
    liar = MemoryLink(info(C, address=b.host, port=3000, outbound=False), owner=a.manager)
    a.manager.link_up(liar)
    await asyncio.sleep(5)
    assert a.manager.proven_peers() == []


async def test_two_addresses_of_one_configured_peer_do_not_keep_dialling(net):
    for first, second in (("a", "b"), ("b", "a")):
        each = Network()
        a, b = each.node(first), each.node(second)
        each.nodes["198.51.100.1", 3000] = b
        await start(a, b)
        a.manager.found(PeerFound(b.host, 3000, None, "bootstrap"))
        await asyncio.sleep(0.5)
        a.manager.found(PeerFound("198.51.100.1", 3000, None, "bootstrap"))
        await asyncio.sleep(1000)
        assert len(dials(each, first)) <= 7
        assert [p.node_id for p in a.manager.get_all_peers()] == [b.id]
        await each.stop()


# Grenache

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
async def test_the_refusal_of_a_needless_link_is_learned_from_whoever_refuses(net, who, other):
    near, far = net.node(who, over=BOTH), net.node(other, over=BOTH)
    await start(near, far)
    near.manager.found(found(far))
    near.manager.found(worker(far))
    await asyncio.sleep(3000)
    assert dials(net, who).count((far.host, WORKER)) <= 8
    assert kind(near, far) == "tcp"


async def test_where_no_direct_link_is_to_be_had_grenache_takes_over_after_its_delay(net):
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


async def test_whoever_dialled_over_grenache_tells_of_the_address_and_nobody_else(net):
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


# connect, for the operator


async def test_connect_returns_the_peer_and_keeps_the_address_for_good(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    net.names["bee"] = ["198.51.100.9", b.host]  # the first address is dead
    peer = await a.manager.connect("bee", 3000)
    assert (peer.node_id, peer.address, peer.status) == (B, b.host, "connected")
    assert peer.source == "manual"
    again = await a.manager.connect(b.host, 3000)
    assert again.node_id == B
    assert len(dials(net, "a")) == 2
    del net.nodes[b.host, 3000]
    await b.manager.stop()
    a.manager.links[B].break_off()
    await asyncio.sleep(50_000)
    net.nodes[b.host, 3000] = b
    await asyncio.sleep(2 * RECONNECT_MAX)
    assert a.connected() == "b"


async def test_connect_to_a_peer_that_dialled_us_returns_it(net):
    for first, second in (("a", "b"), ("b", "a")):
        each = Network()
        a, b = each.node(first), each.node(second)
        await start(b)
        await b.manager.connect(a.host, 3000)
        peer = await a.manager.connect(b.host, 3000)
        assert (peer.node_id, peer.status) == (b.id, "connected")
        await each.stop()


async def test_connect_says_why_it_failed_and_does_not_keep_the_address(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    with pytest.raises(ConnectFailed, match="nobody there"):
        await a.manager.connect("198.51.100.9", 3000)
    with pytest.raises(ConnectFailed, match="nowhere cannot be resolved: name not known"):
        await a.manager.connect("nowhere", 3000)
    with pytest.raises(HandshakeRefused) as caught:
        await a.manager.connect(a.host, 3000)
    assert caught.value.code is Code.SELF
    b.network = "test"
    with pytest.raises(HandshakeRefused) as caught:
        await a.manager.connect(b.host, 3000)
    assert caught.value.code is Code.WRONG_NETWORK
    assert a.manager.known_addresses == 0


async def test_without_a_dialer_connect_says_so():
    manager = PeerManager(A)
    with pytest.raises(ConnectFailed, match="makes no connections"):
        await manager.connect("192.0.2.1", 3000)


async def test_an_unexpected_error_of_a_dial_is_logged_and_the_others_go_on(net, caplog):
    a, b = net.node("a"), net.node("b")
    dial = a.dial

    async def fragile(host, port, expect=None):
        if host != b.host:
            raise RuntimeError("a fault of the dialer")
        return await dial(host, port, expect)

    a.dial = fragile
    await start(a, b)
    a.manager.found(PeerFound("198.51.100.1", 3000, None, "mdns"))
    await asyncio.sleep(0.5)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    assert a.connected() == "b"
    assert "a fault of the dialer" in caplog.text


# Storage


class MemoryStorage:
    def __init__(self, peers=()):
        self.peers = list(peers)
        self.fails = False

    def load(self):
        return self.peers

    def save(self, peers, serial=None):
        if self.fails:
            raise OSError("disk full")
        self.peers = list(peers)


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


@pytest.mark.looptime(False)
async def test_what_is_new_is_saved_soon_without_waiting_for_the_stop(monkeypatch):
    monkeypatch.setattr("p2p.peers.SAVE_DELAY", 0.01)
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
    link: Link = MemoryLink(info(A))
    assert random.Random and dialer and link  # noqa: PT018
