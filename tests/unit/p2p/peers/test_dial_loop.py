"""Peers that are dialled: again after a loss, to prove an address, because an operator says so."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest
from peer_network import MemoryLink, Network, info
from peers_kit import A, B, C, dials, envelope, found, start

from p2p.addresses.address import PeerFound
from p2p.base.errors import Code, ConnectFailed, HandshakeRefused
from p2p.base.limits import HEALTHY_AFTER, RECONNECT_MAX
from p2p.peers.peer_manager import PeerManager
from p2p.peers.peer_policy import ABUSE_BAN

pytestmark = pytest.mark.looptime


@pytest.fixture
async def net():
    network = Network()
    yield network
    await network.stop()


# Reconnecting


async def test_an_address_without_an_answer_is_dialled_on_the_ladder(net):
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
    close = lambda link: asyncio.get_running_loop().call_later(0.5, link.close, Code.SLOW, "no")  # noqa: E731
    b.manager.follow(SimpleNamespace(link_up=close, link_down=lambda *gone: None))
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


async def test_a_rumour_with_a_wrong_id_is_dropped_so_that_a_right_one_is_accepted(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(PeerFound(b.host, 3000, C, "exchange", via=C))
    await asyncio.sleep(1)
    assert a.manager.known_addresses == 0
    a.manager.found(PeerFound(b.host, 3000, B, "exchange", via=C))
    await asyncio.sleep(1)
    assert a.connected() == "b"


async def test_any_node_at_a_configured_address_is_accepted(net):
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


async def test_a_failed_connect_names_the_reason_and_does_not_keep_the_address(net):
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


async def test_connect_without_a_dialer_raises():
    manager = PeerManager(A)
    with pytest.raises(ConnectFailed, match="no dialer"):
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


async def test_a_peer_that_answers_a_feeler_with_a_second_link_keeps_its_inbound_slot(net):
    b = net.node("b")
    first = MemoryLink(info(A, address="60.1.2.3", outbound=False), owner=b.manager)
    b.manager.link_up(first)
    second = MemoryLink(info(A, address="60.1.2.3", dialled=("60.1.2.3", 3000)), owner=b.manager)
    b.manager.link_up(second)
    b.manager.message(second, envelope(A))  # the peer decides: it uses the second one
    assert b.manager.links[A] is second
    assert not b.manager.admission.is_outbound(A)
    assert b.manager.admission.choose_anchors() == []
    for link in (first, second):
        link.close(Code.SHUTDOWN)
    await asyncio.sleep(0)
    third = MemoryLink(info(A, address="60.1.2.3", dialled=("60.1.2.3", 3000)), owner=b.manager)
    b.manager.link_up(third)
    assert b.manager.admission.is_outbound(A)


# Bans


async def test_a_banned_peer_is_not_dialled_and_is_dialled_again_when_its_ban_ends(net):
    a, b = net.node("a"), net.node("b", listens=True)
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(1)
    before = len(dials(net, "a"))
    # Longer than its addresses would be kept for, were each dial during the ban a failure.
    a.manager.ban(B, 40_000, "floods")
    b.manager.remove_peer(A)  # what a node behind a NAT does not know: where to dial
    await asyncio.sleep(39_998)
    assert (a.connected(), len(dials(net, "a"))) == ("", before)
    await asyncio.sleep(5)
    assert a.connected() == "b"
    assert len(dials(net, "a")) == before + 1


async def test_a_peer_banned_for_abuse_is_back_when_the_ban_ends(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(1)
    a.manager.note_abuse(B, Code.ABUSE, "floods")
    a.manager.links[B].close(Code.ABUSE, "floods")
    b.manager.remove_peer(A)
    await asyncio.sleep(ABUSE_BAN - 2)
    assert a.connected() == ""
    await asyncio.sleep(5)
    assert a.connected() == "b"


async def test_a_ban_of_a_network_that_ends_frees_its_addresses_unless_another_holds(net):
    a, b = net.node("a"), net.node("b")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(1)
    a.manager.ban("192.0.2.0/24", 100)
    a.manager.ban(B, 200)
    b.manager.remove_peer(A)
    await asyncio.sleep(190)
    assert a.connected() == ""
    await asyncio.sleep(15)
    assert a.connected() == "b"
