"""Peers: links, records, one link for a pair, who is admitted."""

import asyncio

import pytest
from peer_network import MemoryLink, Network, info
from peers_kit import A, B, C, dials, envelope, found, start

from p2p.addresses.address import PeerFound
from p2p.base.errors import Code, HandshakeRefused
from p2p.peers.dial_loop import MAX_DIALS, outbound_limit
from p2p.peers.duplicate_links import SUSPECT_AFTER
from p2p.peers.peer_records import Peer

pytestmark = pytest.mark.looptime


@pytest.fixture
async def net():
    network = Network()
    yield network
    await network.stop()


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


async def test_while_suspended_there_are_no_links_and_afterwards_they_are_back(net):
    a, b, c = net.node("a"), net.node("b"), net.node("c")
    await start(a, b, c)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    a.manager.suspend("another machine may be this node")
    a.manager.suspend("said once")
    assert a.connected() == ""
    await asyncio.sleep(0.5)
    assert b.connected() == ""
    before = len(dials(net, "a"))
    c.manager.found(found(a))
    await asyncio.sleep(60)
    assert (a.connected(), len(dials(net, "a"))) == ("", before)
    assert "another machine may be this node" in c.manager.get_all_peers()[0].last_error
    a.manager.resume()
    await asyncio.sleep(60)
    assert A in c.manager.links
    assert B in a.manager.links


async def test_several_addresses_of_a_node_are_one_peer(net):
    a, b = net.node("a"), net.node("b")
    net.nodes["198.51.100.1", 3000] = b
    await start(a, b)
    a.manager.found(PeerFound(b.host, 3000, B, "mdns"))
    a.manager.found(PeerFound("198.51.100.1", 3000, B, "mdns"))
    await asyncio.sleep(60)
    assert [p.node_id for p in a.manager.get_all_peers()] == [B]
    assert len(dials(net, "a")) == 1


async def test_the_listener_gets_links_and_messages_without_a_handler(net):
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


async def test_callbacks_get_peers_and_a_failing_one_affects_no_other(net, caplog):
    a, b = net.node("a"), net.node("b")
    seen = []

    def broken(peer):
        raise RuntimeError("a fault of the listener")

    a.manager.on_peer_down(broken)
    a.manager.on_peer_down(lambda peer: seen.append(("down", peer.node_id, peer.status)))
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    a.manager.links[B].break_off()
    await asyncio.sleep(0.1)
    assert seen == [("down", B, "disconnected")]
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


async def test_only_peers_with_recent_traffic_are_healthy(net):
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


async def test_identities_without_end_leave_a_bounded_number_of_records(net, monkeypatch):
    monkeypatch.setattr("p2p.peers.peer_records.MAX_KNOWN_ADDRESSES", 100)
    b = net.node("b")
    await start(b)
    for n in range(600):
        # The address of each is dialled in vain, so it makes room for that of a later one.
        link = MemoryLink(
            info(f"{n:032x}", address=f"203.0.{n >> 8}.{n & 255}", outbound=False), owner=b
        )
        b.manager.link_up(link)
        b.manager.link_down(link, None, "reset")
        if n % 8 == 0:
            await asyncio.sleep(3)
    assert len(b.manager._records._peers) <= 200


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
    assert a.manager.admit(info(A)).code is Code.SELF


async def test_a_full_node_refuses_newcomers_but_not_peers_it_has(net):
    a = net.node("a", max_peers=1)
    link = MemoryLink(info(B), owner=a.manager)
    assert a.manager.admit(info(B)) is None
    a.manager.link_up(link)
    assert a.manager.admit(info(C, outbound=False)).code is Code.FULL
    assert a.manager.admit(info(B, outbound=False)).code is Code.DUPLICATE
    late = MemoryLink(info(C), owner=a.manager)
    a.manager.link_up(late)
    assert late.said is Code.FULL
    assert a.connected() == "b"


async def test_a_full_node_names_proven_peers_to_a_newcomer(net):
    a, b, c = net.node("a", max_peers=1), net.node("b"), net.node("c")
    await start(a, b, c)
    a.manager.found(found(b))
    await asyncio.sleep(1)
    assert a.manager.admit(info(C, outbound=False)).others == ((B, b.host, 3000),)
    assert a.manager.admit(info(C)).others == ()  # this node dials it
    elsewhere = a.manager.admit(info(C, outbound=False, address="127.0.0.1"))
    assert elsewhere.others == ((B, b.host, 3000),)
    c.manager.found(found(a))
    await asyncio.sleep(1)
    assert c.connected() == "b"


async def test_a_full_node_does_not_name_addresses_that_the_newcomer_cannot_use(net):
    a, b = net.node("a", max_peers=1), net.node("b", host="127.0.0.1")
    await start(a, b)
    a.manager.found(found(b))
    await asyncio.sleep(1)
    assert a.connected() == "b"
    assert a.manager.admit(info(C, outbound=False)).others == ()


async def test_addresses_that_a_full_node_names_are_bounded_and_checked(net, monkeypatch):
    a, b = net.node("a"), net.node("b", max_peers=1)
    await start(a, b)
    claims = [
        (C, "127.0.0.1", 3001),
        (C, "example.org", 3002),
        ("no id", "192.0.2.7", 3003),
        (C, "192.0.2.7", 0),
    ]
    claims.append((C, "192.0.2.8", 3004))
    refusal = HandshakeRefused(Code.FULL, "full", by_us=False, others=tuple(claims))

    async def refuse(*args):
        raise refusal

    monkeypatch.setattr(net, "dial", refuse)
    a.manager.found(found(b))
    await asyncio.sleep(0.5)
    named = {(peer.address, peer.port) for peer in a.manager.get_all_peers()}
    assert named - {(b.host, 3000)} <= {("192.0.2.8", 3004)}
    assert [(at.host, at.source) for at in a.manager._book.of(C)] == [("192.0.2.8", "exchange")]


async def test_a_full_node_is_not_dialled_again_before_the_interval(net):
    a, b, c = net.node("a"), net.node("b", max_peers=1), net.node("c", listens=False)
    await start(a, b, c)
    c.manager.found(found(b))
    await asyncio.sleep(1)
    a.manager.found(found(b))
    await asyncio.sleep(20)
    assert len(dials(net, "a")) == 1
    assert "full" in a.manager.get_all_peers()[0].last_error
    await c.manager.stop()
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
        # Each of another source: the buckets of one source, chosen by a random key, may overflow.
        a.manager.found(PeerFound(f"198.51.100.{n + 1}", 3000, None, "exchange", via=str(n)))
    await start(a)
    await asyncio.sleep(3)
    assert len(set(dials(net, "a"))) == 60
    assert net.most_running == MAX_DIALS
