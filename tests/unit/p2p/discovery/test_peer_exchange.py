import asyncio
import random

import msgspec
import pytest
from discovery_conformance import StrategyConformance
from hypothesis import given
from hypothesis import strategies as st
from peer_network import WORKER, MemoryLink, Network, info, node_id

from p2p.addresses.address import PeerFound
from p2p.base.errors import Code, MalformedMessage
from p2p.base.limits import PEX_FIRST_DELAY, PEX_INTERVAL, PEX_MAX_PEERS
from p2p.base.reach import Reach, reach
from p2p.discovery.peer_exchange import BURST, ExchangeStrategy, PeerExchangeCore
from p2p.wire.messages import Envelope, PeerAddress, PeerExchange, pack

OWN, A, B, C = node_id("z"), node_id("a"), node_id("b"), node_id("c")


def core():
    return PeerExchangeCore(OWN, random.Random(1))


def address(node, host="192.0.2.1", port=3000, carrier="tcp"):
    return PeerAddress(node, host, port, carrier)


def many(count):
    letters = str.maketrans("0123456789", "abcdefghij")
    return [address(f"{n:032d}".translate(letters), port=20_000 + n) for n in range(count)]


# Sending


def test_a_newcomer_gets_a_list_soon_then_the_news_then_lists_at_the_interval():
    pex = core()
    pex.link_up(A, "192.0.2.9", 100.0)
    assert pex.due(100.0 + PEX_FIRST_DELAY - 0.1) == []
    assert pex.next_due() == 100.0 + PEX_FIRST_DELAY
    now = 100.0 + PEX_FIRST_DELAY
    assert pex.due(now) == [A]
    assert pex.push(A, [address(B)], now).peers == [address(B)]
    now = pex.next_due()
    assert 105.0 < now < 107.0
    assert pex.push(A, [address(B), address(C)], now).peers == [address(C)]
    later = pex.next_due()
    assert PEX_INTERVAL <= later - now <= PEX_INTERVAL * 1.1
    assert len(pex.push(A, [address(B), address(C)], later).peers) == 2
    assert PEX_INTERVAL <= pex.next_due() - later <= PEX_INTERVAL * 1.1


def test_a_list_contains_neither_its_receiver_nor_its_sender_and_is_not_sent_empty():
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    assert pex.push(A, [address(A), address(OWN)], 1.0) is None
    assert pex.push(B, [address(A)], 1.0) is None


def test_a_long_list_is_a_random_sample():
    samples = set()
    for seed in range(3):
        pex = PeerExchangeCore(OWN, random.Random(seed))
        pex.link_up(A, "192.0.2.9", 0.0)
        peers = pex.push(A, many(200), 1.0).peers
        assert len({peer.port for peer in peers}) == PEX_MAX_PEERS
        samples.add(tuple(sorted(peer.port for peer in peers)))
    assert len(samples) == 3


@pytest.mark.parametrize(
    ("receiver", "host", "passes"),
    [
        ("192.0.2.9", "192.0.2.1", True),
        ("127.0.0.1", "192.0.2.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "127.0.0.1", True),
        ("192.0.2.9", "127.0.0.1", False),
        ("192.0.2.9", "::1", False),
        ("169.254.1.1", "127.0.0.1", False),
        ("169.254.1.1", "169.254.2.2", True),
        ("fe80::1%2", "fe80::2", True),
        ("192.0.2.9", "fe80::2", False),
        ("127.0.0.1", "0.0.0.0", False),
        ("127.0.0.1", "10.0.0.1", True),
        ("192.168.1.5", "10.0.0.1", True),
        ("192.168.1.5", "192.0.2.1", True),
        ("192.168.1.5", "127.0.0.1", False),
        ("fd00::9", "192.168.1.5", True),
        ("100.64.0.9", "10.0.0.1", False),
        ("10.0.0.1", "100.64.0.9", True),
        *(
            ("192.0.2.9", inside, False)
            for inside in [
                "10.0.0.1",
                "192.168.1.1",
                "172.16.0.1",
                "100.64.0.1",
                "fd00::1",
                "::ffff:10.0.0.1",
                "64:ff9b::a00:1",
                "2002:a00:1::1",
                "224.0.0.1",
                "ff02::1",
                "240.0.0.1",
            ]
        ),
    ],
)
def test_local_addresses_stay_local(receiver, host, passes):
    pex = core()
    pex.link_up(A, receiver, 0.0)
    assert (pex.push(A, [address(B, host)], 1.0) is not None) is passes
    assert bool(pex.received(A, PeerExchange([address(B, host)]), 1.0)) is passes


def test_a_zone_is_not_passed_on_and_the_senders_is_used():
    pex = core()
    pex.link_up(A, "fe80::9%3", 0.0)
    assert pex.push(A, [address(B, "fe80::2%7")], 1.0).peers == [address(B, "fe80::2")]
    (found,) = pex.received(A, PeerExchange([address(B, "fe80::2")]), 1.0)
    assert found.host == "fe80::2%3"


def test_carriers_are_passed_on_and_make_different_addresses():
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    direct, indirect = address(B), address(B, carrier="grenache")
    assert pex.push(A, [direct], 1.0).peers == [direct]
    assert pex.push(A, [direct, indirect], 6.0).peers == [indirect]


def test_on_the_wire_only_an_address_that_is_not_for_tcp_names_its_carrier():
    names = {"nodeId": B, "address": "192.0.2.1", "port": 3000}
    assert msgspec.msgpack.decode(pack(address(B))) == names
    packed = pack(address(B, carrier="grenache"))
    assert msgspec.msgpack.decode(packed) == {**names, "carrier": "grenache"}
    assert msgspec.msgpack.decode(pack(names), type=PeerAddress) == address(B)


# Receiving


def test_received_addresses_are_candidates_that_name_their_source():
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    found = pex.received(A, PeerExchange([address(B), address(OWN, "192.0.2.2")]), 1.0)
    assert found == [PeerFound("192.0.2.1", 3000, B, "exchange", A, via_address="192.0.2.9")]


def test_an_address_for_grenache_is_a_candidate_for_it_and_an_unknown_carrier_is_nothing():
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    entries = [address(B, carrier="grenache"), address(C, carrier="pigeon"), address(C, carrier="")]
    found = pex.received(A, PeerExchange(entries), 1.0)
    assert found == [PeerFound("192.0.2.1", 3000, B, "exchange", A, "grenache", "192.0.2.9")]


def test_lists_that_come_too_often_are_ignored_and_counted():
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    message = PeerExchange([address(B)])
    taken = [bool(pex.received(A, message, 1.0)) for _ in range(10)]
    assert taken == [True] * int(BURST) + [False] * 7
    assert pex.ignored == 7
    assert not pex.received(A, message, PEX_INTERVAL / 2)
    assert pex.received(A, message, PEX_INTERVAL / 2 + 1.0)
    assert not pex.received(A, message, PEX_INTERVAL / 2 + 1.0)


def test_a_new_link_brings_no_new_allowance():
    pex = core()
    message = PeerExchange([address(B)])
    taken = 0
    for _ in range(10):
        pex.link_up(A, "192.0.2.9", 0.0)
        taken += len(pex.received(A, message, 1.0))
        pex.link_down(A)
    assert taken == BURST


def test_a_node_that_keeps_to_the_rules_is_never_ignored():
    sender, receiver = core(), PeerExchangeCore(A, random.Random(2))
    sender.link_up(A, "192.0.2.9", 0.0)
    receiver.link_up(OWN, "192.0.2.8", 0.0)
    now, known = 0.0, many(2)
    while now < 5000:
        now = sender.next_due()
        known = many(len(known) + 1)
        message = sender.push(A, known, now)
        receiver.received(OWN, message, now)
    assert receiver.ignored == 0


def test_a_list_over_the_limit_is_a_violation():
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    assert len(pex.received(A, PeerExchange(many(PEX_MAX_PEERS)), 1.0)) == PEX_MAX_PEERS
    with pytest.raises(MalformedMessage, match="51 peers"):
        pex.received(A, PeerExchange(many(PEX_MAX_PEERS + 1)), 1.0)


@pytest.mark.parametrize(
    "entry",
    [
        address("not an id"),
        address(B, "host.example"),
        address(B, ""),
        address(B, "0.0.0.0"),
        address(B, "224.0.0.251"),
        address(B, "fe80::1%eth0"),
        address(B, "1" * 100_000),
        address(B, port=0),
        address(B, port=65536),
        address(B, port=-1),
    ],
)
def test_invalid_entries_are_left_out(entry):
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    assert [p.node_id for p in pex.received(A, PeerExchange([entry, address(C)]), 1.0)] == [C]


@given(
    st.lists(
        st.builds(
            PeerAddress,
            st.one_of(st.text(max_size=40), st.sampled_from([A, B, OWN])),
            st.one_of(st.text(max_size=40), st.ip_addresses().map(str)),
            st.integers(),
            st.one_of(st.text(max_size=10), st.sampled_from(["tcp", "grenache"])),
        ),
        max_size=PEX_MAX_PEERS,
    )
)
def test_whatever_a_peer_sends_only_dialable_addresses_come_out(entries):
    pex = core()
    pex.link_up(A, "192.0.2.9", 0.0)
    for found in pex.received(A, PeerExchange(entries), 1.0):
        assert reach(found.host) is Reach.PUBLIC
        assert 1 <= found.port <= 65535
        assert found.carrier in ("tcp", "grenache")
        assert found.node_id != OWN


def test_a_list_from_a_peer_without_a_link_is_nothing():
    assert core().received(A, PeerExchange([address(B)]), 1.0) == []


# The shell


def envelope(sender, peers):
    return Envelope("peerexchange", sender, "", 0, pack(PeerExchange(peers)))


class TestExchangeConformance(StrategyConformance):
    settle = 0.05

    def make(self):
        strategy = ExchangeStrategy(OWN, list, rng=random.Random(1))
        self.link = None
        return strategy

    async def trigger(self, strategy):
        if self.link is None:
            self.link = MemoryLink(info(A))
            strategy.link_up(self.link)
        strategy.message(self.link, envelope(A, [address(B)]))


@pytest.mark.looptime
async def test_lists_go_out_over_links_and_stop_with_them():
    proven = [address(B)]
    strategy = ExchangeStrategy(OWN, lambda: proven, rng=random.Random(1))
    link = MemoryLink(info(A))
    await strategy.start(lambda peer: None)
    strategy.link_up(link)
    assert strategy.detail == "exchanging addresses with 1 peer"
    await asyncio.sleep(PEX_FIRST_DELAY + 0.1)
    (sent,) = link.sent
    assert (sent.type, sent.from_, sent.to) == ("peerexchange", OWN, "")
    assert msgspec.msgpack.decode(sent.payload, type=PeerExchange).peers == proven
    await asyncio.sleep(PEX_INTERVAL * 3)
    assert len(link.sent) == 3  # the second had nothing new
    strategy.link_down(link, Code.SHUTDOWN, "")
    await asyncio.sleep(PEX_INTERVAL * 2)
    assert len(link.sent) == 3
    await strategy.stop()


@pytest.mark.looptime
async def test_ignored_lists_are_counted_on_the_link_and_bad_payloads_refused():
    found = []
    strategy = ExchangeStrategy(OWN, list, rng=random.Random(1))
    link = MemoryLink(info(A))
    await strategy.start(found.append)
    strategy.link_up(link)
    for _ in range(5):
        strategy.message(link, envelope(A, [address(B)]))
    assert len(found) == 3
    assert link.stats.extra == {"peerexchange_ignored": 2}
    with pytest.raises(MalformedMessage):
        strategy.message(link, Envelope("peerexchange", A, "", 0, pack(["nonsense"])))
    strategy.message(MemoryLink(info(C)), envelope(C, [address(B)]))  # a link we do not use
    assert len(found) == 3
    await strategy.stop()


@pytest.mark.looptime
async def test_nodes_that_know_one_bootstrap_node_know_each_other_within_seconds():
    net = Network(0.02)
    letters = "abcdef"
    for boot in letters:  # whoever has the smallest id
        each = Network(0.02)
        nodes = {letter: each.node(letter) for letter in letters}
        for node in nodes.values():
            await node.manager.start()
            await node.exchange.start(node.manager.found)
        for letter, node in nodes.items():
            if letter != boot:
                node.manager.found(PeerFound(nodes[boot].host, 3000, None, "bootstrap"))
        await asyncio.sleep(3)
        for letter, node in nodes.items():
            assert node.connected() == letters.replace(letter, "")
        await each.stop()
    await net.stop()


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("over", "learns"),
    [(["grenache"], True), (["tcp", "grenache"], True), (["tcp"], False)],
)
async def test_a_peer_linked_over_grenache_is_passed_on_to_peers_that_can_dial_it(over, learns):
    net = Network(0.02)
    a, b = net.node("a", over=["tcp", "grenache"]), net.node("b", over=["grenache"])
    c = net.node("c", over=over)
    for node in (a, b, c):
        await node.manager.start()
        await node.exchange.start(node.manager.found)
    a.manager.found(PeerFound(b.host, WORKER, None, "grape", carrier="grenache"))
    carrier = "tcp" if "tcp" in over else "grenache"
    port = a.port if carrier == "tcp" else WORKER
    c.manager.found(PeerFound(a.host, port, None, "bootstrap", carrier=carrier))
    await asyncio.sleep(100)
    assert c.connected() == ("ab" if learns else "a")
    assert b.connected() == ("ac" if learns else "a")
    if learns:
        assert c.manager.links[B].peer.carrier == "grenache"
        assert c.manager.get_peer(B).source == "exchange"
    assert not any(port == WORKER for who, _, port, _ in net.dials if who == "c") or learns
    await net.stop()


@pytest.mark.looptime
async def test_tcp_addresses_are_nothing_to_a_node_without_direct_links():
    net = Network(0.02)
    a, b = net.node("a", over=["tcp", "grenache"]), net.node("b")
    c = net.node("c", over=["grenache"])
    for node in (a, b, c):
        await node.manager.start()
        await node.exchange.start(node.manager.found)
    a.manager.found(PeerFound(b.host, b.port, None, "bootstrap"))
    c.manager.found(PeerFound(a.host, WORKER, None, "bootstrap", carrier="grenache"))
    await asyncio.sleep(100)
    assert a.connected() == "bc"
    assert (c.connected(), c.manager.get_peer(B)) == ("a", None)
    await net.stop()


@pytest.mark.looptime
async def test_a_late_newcomer_learns_the_others_at_once_and_keeps_no_rumours():
    net = Network(0.02)
    a, b, c = net.node("a"), net.node("b"), net.node("c")
    for node in (a, b, c):
        await node.manager.start()
        await node.exchange.start(node.manager.found)
    b.manager.found(PeerFound(a.host, 3000, None, "bootstrap"))
    await asyncio.sleep(100)
    c.manager.found(PeerFound(a.host, 3000, None, "bootstrap"))
    await asyncio.sleep(3)
    assert c.connected() == "ab"
    assert c.manager.get_peer(B).source == "exchange"
    await net.stop()


@pytest.mark.looptime
async def test_an_address_without_an_answer_is_not_passed_on():
    net = Network(0.02)
    a, b, c = net.node("a"), net.node("b"), net.node("c")
    for node in (a, b, c):
        await node.manager.start()
        await node.exchange.start(node.manager.found)
    del net.nodes[b.host, 3000]
    b_info = info(B, address=b.host, port=3000, outbound=False)
    a.manager.link_up(MemoryLink(b_info, owner=a.manager))  # says it listens, but is behind a NAT
    c.manager.found(PeerFound(a.host, 3000, None, "bootstrap"))
    await asyncio.sleep(200)
    assert c.manager.get_peer(B) is None
    assert ("c", b.host, 3000, B) not in net.dials
    await net.stop()
