"""Nodes with each other, in virtual time: announcing, looking up, values, healing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dht_kit import LOCAL, NEAR, Solo, node_id

from node.virtual.virtual_dht import Conditions, VirtualHost, VirtualNetwork, address
from p2p.grenache import bep44
from p2p.grenache.dht.compact_addresses import pack, unpack
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.krpc import (
    CAS_MISMATCH,
    SEQ_TOO_LOW,
    AnnouncePeer,
    FindNode,
    GetPeers,
    KrpcQuery,
)
from p2p.grenache.dht.lookups import LookupResult, PutResult
from p2p.grenache.dht.stores import Item
from p2p.grenache.directory import Address

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SERVICE = b"rpc_quotes"
QUICK = Conditions(latency=(0.001, 0.002), jitter=0.0001, loss=0.0)


def network_of(
    count: int, settings: DhtSettings | None = None
) -> tuple[VirtualNetwork, list[VirtualHost]]:
    network = VirtualNetwork(1, QUICK)
    hosts = []
    for n in range(1, count + 1):
        hosts.append(network.add(address(n), (address(1),) if n > 1 else (), settings))
        network.run(0.2)
    network.run(2)
    return network, hosts


def run(network: VirtualNetwork, host: VirtualHost, begin: Any) -> Any:
    """The result of an operation: begin(now, done)."""
    results: list[Any] = []
    host.call(lambda now: begin(now, results.append))
    network.run_until(lambda: bool(results), 10.0, step=0.01)
    (result,) = results
    return result


def announce(network, host, port=80, given=None, service=SERVICE) -> int:
    return run(network, host, lambda now, done: host.node.announce(now, service, port, given, done))


def withdraw(network, host, port=80, given=None) -> int:
    return run(network, host, lambda now, done: host.node.withdraw(now, SERVICE, port, given, done))


def lookup(network, host, service=SERVICE, reached_at=None) -> set[Address]:
    found: LookupResult = run(network, host, lambda now, done: host.node.lookup(now, service, done))
    listed = host.node.listed(network.clock.now, service, found.peers, reached_at)
    assert len(listed) == len(set(listed))
    return set(listed)


def signed(seq: int, value: bytes, salt: bytes = b"") -> Item:
    item = bep44.sign(KEY, seq, value, salt=salt)
    return Item(bep44.bencoded(value), item.public_key, seq, item.signature, salt)


def put(network, host, item: Item, cas: int | None = None) -> PutResult:
    return run(network, host, lambda now, done: host.node.put(now, item, cas, done))


def get(network, host, key: bytes, salt: bytes = b"") -> Item | None:
    return run(network, host, lambda now, done: host.node.get(now, key, salt, done))


# Announcing and looking up


def test_announcements_fade_and_stay_when_they_are_repeated():
    network, hosts = network_of(3)
    announce(network, hosts[0], 80)
    announce(network, hosts[0], 81)
    network.run(100)
    announce(network, hosts[0], 81)
    network.run(19)
    assert len(lookup(network, hosts[2])) == 2
    network.run(2)
    for host in hosts:
        assert lookup(network, host) == {(hosts[0].address[0], 81)}
    network.run(120)
    for host in hosts:
        assert lookup(network, host) == set()


def test_values_of_a_lone_node_reach_its_first_neighbour():
    network, (lone,) = network_of(1, DhtSettings(public_host="10.0.0.1"))
    announce(network, lone)
    key = put(network, lone, Item(b"5:value")).key
    second = network.add(address(2), (address(1),))
    network.run(1)
    assert lookup(network, second) == {("10.0.0.1", 80)}
    assert get(network, second, key) == Item(b"5:value")


def reply_of_another_kind(
    query: KrpcQuery, sender: bytes, more: bytes = b"", v: bytes = b""
) -> bytes:
    """A reply to get_peers written by hand, since our encoder says our kind."""
    version = b"1:v4:" + v if v else b""
    return b"d1:rd2:id20:%b5:token1:T%be1:t4:%b%b1:y1:re" % (
        sender,
        more,
        query.transaction,
        version,
    )


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [(b"", "10.1.2.3", 0), (b"XN\0\1", "10.1.2.3", 1), (b"XN\0\2", "10.1.2.3", 1), (b"", None, 1)],
)
def test_only_nodes_of_this_kind_get_a_given_address(kind, given, told):
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    results: list[int] = []
    solo.node.announce(solo.now, SERVICE, 80, given, results.append)
    ((to, query),) = solo.queries(solo.sent())
    assert isinstance(query.ask, GetPeers)
    announced = solo.queries(solo.receive(to, reply_of_another_kind(query, node_id(1), v=kind)))
    asks = [query.ask for _, query in announced]
    assert len(asks) == told
    for ask in asks:
        assert isinstance(ask, AnnouncePeer)
        assert (ask.host is not None) == (given is not None)
    if not told:
        assert results == [1]  # this node itself


def test_a_node_of_another_implementation_gets_no_withdrawal():
    """It would take that for an announcement."""
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    results: list[int] = []
    solo.node.withdraw(solo.now, SERVICE, 80, None, results.append)
    ((to, query),) = solo.queries(solo.sent())
    assert not solo.receive(to, reply_of_another_kind(query, node_id(1)))
    assert results == [0]


def test_one_worker_is_not_listed_under_two_addresses_because_we_do_not_know_ours():
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    holders: list[int] = []
    found: list[LookupResult] = []
    solo.node.announce(solo.now, SERVICE, 80, None, holders.append)
    pending = solo.queries(solo.sent())
    solo.node.lookup(solo.now, SERVICE, found.append)
    pending += solo.queries(solo.sent())
    values = b"6:valuesl6:\x0a\x00\x00\x09\x00\x50e"  # 10.0.0.9:80, as the other saw us
    while pending:
        to, query = pending.pop(0)
        reply = reply_of_another_kind(query, node_id(1), values)
        pending += solo.queries(solo.receive(to, reply))
    assert holders == [2]
    assert solo.node.listed(solo.now, SERVICE, found[0].peers) == [("10.0.0.9", 80)]


def test_withdrawn_announcements_are_gone_everywhere_at_once():
    network, hosts = network_of(5)
    announce(network, hosts[0], 80)
    announce(network, hosts[0], 81)
    announce(network, hosts[1], 80)
    assert withdraw(network, hosts[0], 80) == 5
    for host in hosts:
        assert lookup(network, host) == {(hosts[0].address[0], 81), (hosts[1].address[0], 80)}
    announce(network, hosts[0], 82, "10.1.2.3")
    withdraw(network, hosts[0], 82, "10.1.2.3")
    assert ("10.1.2.3", 82) not in lookup(network, hosts[4])


def test_loopback_addresses_are_replaced_for_remote_callers():
    network, (lone,) = network_of(1)
    announce(network, lone)
    assert lookup(network, lone, reached_at="192.168.1.5") == {("192.168.1.5", 80)}
    assert lookup(network, lone, reached_at="127.0.0.1") == {("127.0.0.1", 80)}
    announce(network, lone, 81, "10.1.2.3")
    assert lookup(network, lone, reached_at="192.168.1.5") == {
        ("192.168.1.5", 80),
        ("10.1.2.3", 81),
    }


def test_an_announcement_whose_tokens_are_refused_is_tried_once_more():
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    results: list[int] = []
    solo.node.announce(solo.now, SERVICE, 80, None, results.append)
    asked = []
    pending = solo.queries(solo.sent())
    while pending:
        to, query = pending.pop(0)
        asked.append(type(query.ask).__name__)
        if isinstance(query.ask, GetPeers):
            pending += solo.queries(solo.answer(to, query, node_id(1), token=b"stale"))
        else:
            pending += solo.queries(solo.refuse(to, query, 203))
    assert asked == ["GetPeers", "AnnouncePeer"] * 2
    assert results == [1]


def test_many_nodes_find_a_value_held_by_twenty():
    network, hosts = network_of(60)
    assert announce(network, hosts[50]) >= 15
    for host in hosts[::7]:
        assert lookup(network, host) == {(hosts[50].address[0], 80)}


# Values


@pytest.mark.parametrize("salt", [b"", b"salt"])
def test_all_nodes_read_the_newest_version_of_any_writer(salt):
    network, hosts = network_of(4)
    key = signed(1, b"one", salt).key()
    for seq, writer in ((1, 0), (2, 3), (3, 1)):
        item = signed(seq, b"version %d" % seq, salt)
        assert put(network, hosts[writer], item) == PutResult(key, 3)
        for host in hosts:
            assert get(network, host, key, salt) == item


def test_a_reader_with_an_old_copy_reads_the_new_one_and_so_do_others_with_old_ones():
    network, hosts = network_of(4)
    old, new = signed(1, b"old"), signed(2, b"new")
    for host in hosts[:3]:
        host.node._core.values.put(network.clock.now, old)
    hosts[3].node._core.values.put(network.clock.now, new)
    assert get(network, hosts[0], new.key()) == new
    network.run(1)
    assert all(h.node._core.values.get(network.clock.now, new.key()) == new for h in hosts)


def test_a_value_of_one_salt_is_not_given_for_another():
    network, hosts = network_of(3)
    item = signed(1, b"v", b"salt")
    put(network, hosts[0], item)
    assert get(network, hosts[2], item.key(), b"salt") == item
    fresh = network.add(address(7), (address(1),))
    network.run(1)
    assert get(network, fresh, item.key()) is None  # cannot be verified without


def test_an_older_version_and_a_mismatch_are_refused_wherever_the_newer_is():
    network, hosts = network_of(4)
    put(network, hosts[0], signed(5, b"five"))
    fresh = network.add(address(9), (address(1),))
    network.run(1)
    assert put(network, fresh, signed(4, b"four")).refusal == SEQ_TOO_LOW
    assert put(network, fresh, signed(5, b"other")).refusal == SEQ_TOO_LOW
    assert put(network, fresh, signed(6, b"six"), cas=4).refusal == CAS_MISMATCH
    assert put(network, fresh, signed(5, b"five")).refusal is None  # renewed
    assert put(network, fresh, signed(6, b"six"), cas=5).refusal is None
    assert get(network, hosts[1], signed(6, b"six").key()) == signed(6, b"six")


def test_a_refusal_of_a_value_held_already_does_not_fail_a_put():
    """A real Grape answers 302 to the version that it holds; ours renews it."""
    item = signed(5, b"five")
    for held, refusal in ((item, None), (None, SEQ_TOO_LOW)):
        solo = Solo()
        solo.meet(NEAR, node_id(1))
        results: list[PutResult] = []
        solo.node.put(solo.now, item, None, results.append)
        ((to, query),) = solo.queries(solo.sent())
        known = {}
        if held is not None:
            known = {
                "value": held.value,
                "public_key": held.public_key,
                "seq": held.seq,
                "signature": held.signature,
            }
        ((to, query),) = solo.queries(solo.answer(to, query, node_id(1), token=b"T", **known))
        solo.refuse(to, query, SEQ_TOO_LOW)
        assert [stored.refusal for stored in results] == [refusal]


def test_of_two_that_write_the_same_version_at_once_one_is_kept_by_each():
    network, hosts = network_of(4)
    results: list[PutResult] = []
    for host, value in ((hosts[0], b"a"), (hosts[0], b"b")):
        item = signed(1, value)
        host.call(lambda now, h=host, i=item: h.node.put(now, i, None, results.append))
    network.run(2)
    assert sorted(r.refusal or 0 for r in results) == [0, SEQ_TOO_LOW]


@pytest.mark.parametrize(
    "forged",
    [
        {"value": b"5:other"},
        {"seq": 99},
        {"signature": bytes(64)},
        {"public_key": bytes(32)},
        {"seq": None},
        {"signature": None},
    ],
)
def test_a_forged_value_is_not_believed(forged):
    item = signed(1, b"v")
    fields = {
        "value": item.value,
        "public_key": item.public_key,
        "seq": item.seq,
        "signature": item.signature,
        **forged,
    }
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    results: list[Item | None] = []
    solo.node.get(solo.now, item.key(), b"", results.append)
    for to, query in solo.queries(solo.sent()):
        solo.answer(to, query, node_id(1), token=b"T", **fields)
    assert results == [None]


def test_a_forged_immutable_value_is_not_believed():
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    results: list[Item | None] = []
    solo.node.get(solo.now, Item(b"5:right").key(), b"", results.append)
    for to, query in solo.queries(solo.sent()):
        solo.answer(to, query, node_id(1), value=b"5:wrong")
    assert results == [None]


# Staying part of the network


def test_the_first_lost_packet_costs_no_seconds():
    network = VirtualNetwork(1, QUICK)
    lost = []

    def lose_first(source, to, data, send=network.send):
        if not lost:
            lost.append(data)
            return
        send(source, to, data)

    network.send = lose_first  # type: ignore[method-assign]
    network.add(address(1))
    second = network.add(address(2), (address(1),))
    took = network.run_until(lambda: second.node.good_nodes == 1, 10.0, step=0.01)
    assert lost
    assert took < 0.2


def test_a_bootstrap_node_that_comes_late_is_found_within_seconds():
    network = VirtualNetwork(1, QUICK)
    early = network.add(address(2), (address(1),))
    network.run(4)
    network.add(address(1))
    assert network.run_until(lambda: early.node.good_nodes == 1, 10.0) < 4
    assert early.node.bootstrap[address(1)].reachable(network.clock.now)


def test_a_node_that_lost_all_contacts_bootstraps_again():
    network, hosts = network_of(3)
    for host in hosts[:2]:
        network.remove(host.address)
    alone = hosts[2]
    assert announce(network, alone) == 1  # in the first second others are still asked
    network.run_until(lambda: alone.node.good_nodes == 0, 200.0, step=1.0)
    network.add(address(1))  # with another id
    assert network.run_until(lambda: alone.node.good_nodes == 1, 70.0) < 5


def test_bootstrap_addresses_are_queried_every_two_seconds_without_contacts():
    solo = Solo()
    solo.node.set_bootstrap(solo.now, [NEAR])
    ((to, query),) = solo.queries(solo.sent())
    solo.answer(to, query, node_id(1))
    solo.wait(5)  # long before it would be asked again
    solo.node.lookup(solo.now, SERVICE, lambda found: None)
    while solo.core.table:
        solo.wait(0.1)
    assert solo.now < 1030
    for _ in range(3):
        asked = [query.ask for _, query in solo.queries(solo.wait(2.6))]
        assert FindNode(solo.node.id) in asked


def test_a_restarted_node_is_known_by_its_new_id_after_its_first_datagram():
    network, hosts = network_of(5)
    network.remove(address(2))
    renewed = network.add(address(2), (address(1),))

    def known() -> bool:
        return all(
            (c := host.node._core.table.at(address(2))) is not None and c.id == renewed.node.id
            for host in hosts
            if host.address != address(2)
        )

    assert network.run_until(known, 10.0, step=0.02) < 2
    assert announce(network, hosts[3]) == 5


def test_a_node_that_is_its_own_bootstrap_address_is_not_its_own_contact():
    network = VirtualNetwork(1, QUICK)
    both = (address(1), address(2))
    first, second = network.add(address(1), both), network.add(address(2), both)
    network.run(5)
    assert first.node.good_nodes == second.node.good_nodes == 1
    assert announce(network, first) == 2


def test_a_node_alone_with_its_own_address_stops_asking_itself():
    network = VirtualNetwork(1, QUICK)
    lone = network.add(address(1), (address(1),))
    network.run(1)
    before = network.sent
    assert before > 0
    lookup(network, lone)
    network.run(200)
    assert network.sent == before


def test_a_stalled_node_that_queries_us_is_alive_again():
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    solo.node.lookup(solo.now, SERVICE, lambda found: None)
    solo.wait(0.5)
    assert solo.core.queries.path(NEAR).stalled
    solo.ask(NEAR, GetPeers(SERVICE), sender=node_id(1))
    assert not solo.core.queries.path(NEAR).stalled


def met_with_round_trip(rtt: float) -> Solo:
    solo = Solo()
    solo.meet(NEAR, node_id(1))
    for _ in range(20):
        solo.node.lookup(solo.now, b"other", lambda found: None)
        ((_, query),) = solo.sent()
        solo.wait(rtt)
        assert isinstance(query, KrpcQuery)
        solo.answer(NEAR, query, node_id(1), token=b"t")
    return solo


OPERATIONS = {
    "lookup": lambda node, now, done: node.lookup(now, b"unknown", done),
    "announce": lambda node, now, done: node.announce(now, b"new", 80, None, done),
    "announce again": lambda node, now, done: node.announce(now, SERVICE, 80, None, done),
    "withdraw": lambda node, now, done: node.withdraw(now, SERVICE, 80, None, done),
    "put": lambda node, now, done: node.put(now, Item(b"5:value"), None, done),
    "get": lambda node, now, done: node.get(now, b"x" * 20, b"", done),
}


@pytest.mark.parametrize("rtt", [0.0005, 0.01, 0.05])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_take_150_ms_at_most_when_the_only_other_node_is_dead(operation, rtt):
    solo = met_with_round_trip(rtt)
    solo.node.announce(solo.now, SERVICE, 80, None, lambda holders: None)
    pending = solo.queries(solo.sent())
    while pending:
        solo.wait(rtt)
        pending = solo.queries(solo.answer(NEAR, pending[0][1], node_id(1), token=b"t"))
    for limit in (0.15, 0.0, 0.0):
        began, ended = solo.now, []
        OPERATIONS[operation](solo.node, began, lambda result, at=ended: at.append(solo.now))
        solo.wait(limit)
        assert ended
        assert ended[0] <= began + limit
    solo.wait(10.0)
    assert len(ended) == 1
    assert solo.core.searches == 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bootstrap_address_that_never_answers_costs_an_operation_150_ms_at_most(operation):
    solo = Solo()
    solo.node.set_bootstrap(solo.now, [NEAR])
    for limit in (0.15, 0.0):
        ended = []
        OPERATIONS[operation](solo.node, solo.now, ended.append)
        solo.wait(limit)
        assert ended


def far_pair(one_way: float) -> tuple[VirtualNetwork, VirtualHost, VirtualHost]:
    """A node that knows the other's address and has not heard from it."""
    far = Conditions(latency=(one_way, one_way), jitter=0.0001, loss=0.0)
    network = VirtualNetwork(1, far)
    first = network.add(address(1))
    return network, first, network.add(address(2), (address(1),))


def timed(network, host, begin) -> tuple[float, Any]:
    """Seconds and result of an operation."""
    results: list[Any] = []
    host.call(lambda now: begin(now, results.append))
    return network.run_until(lambda: bool(results), 10.0, step=0.005), results[0]


def test_a_far_node_gets_what_its_announcer_no_longer_waits_for():
    network, far, new = far_pair(0.15)
    waited, holders = timed(
        network, new, lambda now, done: new.node.announce(now, SERVICE, 80, None, done)
    )
    assert waited <= 0.15
    assert holders == 1  # this node, so far
    value = Item(b"5:value")
    waited, stored = timed(network, new, lambda now, done: new.node.put(now, value, None, done))
    assert waited <= 0.15
    assert stored == PutResult(value.key(), 0)
    network.run(1.0)
    assert lookup(network, far) == {(address(2)[0], 80)}
    assert get(network, far, value.key()) == value
    assert announce(network, new) == 2


def test_abandoned_operations_do_not_overtake_later_opposite_ones():
    network, far, new = far_pair(0.15)
    node = new.node
    assert announce(network, new) == 1
    new.call(lambda now: node.withdraw(now, SERVICE, 80, None, lambda removed: None))
    network.run(2.0)
    assert lookup(network, far) == set()
    assert announce(network, new) == 2
    network.partition({address(1)[0]: 1})
    assert withdraw(network, new) == 1
    assert announce(network, new) == 1
    network.partition({})
    network.run(5.0)
    assert lookup(network, far) == {(address(2)[0], 80)}


def test_a_signed_value_waits_for_what_a_silent_node_may_hold():
    network, far, new = far_pair(0.15)
    newer = signed(2, b"two")
    far.node._core.values.put(network.clock.now, newer)
    assert put(network, new, signed(1, b"one")).refusal == SEQ_TOO_LOW


def test_an_announcement_repeated_beside_a_node_that_died_costs_one_wait_and_reaches_a_replacement():
    network = VirtualNetwork(1, Conditions(latency=(0.025, 0.025), jitter=0.0001, loss=0.0))
    hosts = [network.add(address(n), (address(1),) if n > 1 else ()) for n in range(1, 4)]
    network.run(3)
    assert announce(network, hosts[0]) == 3
    network.remove(address(3))
    waited, holders = timed(
        network, hosts[0], lambda now, done: hosts[0].node.announce(now, SERVICE, 80, None, done)
    )
    assert waited <= 0.05 + 0.15
    assert holders == 2
    network.run(1.0)
    _, remembered = hosts[0].node._core.holders[SERVICE]
    assert [node.address for node in remembered] == [address(2)]


def test_searches_without_a_caller_leave_room_for_those_of_others():
    solo = Solo(max_searches=10)
    solo.meet(NEAR, node_id(1))
    results: list[int] = []
    for n in range(10):
        solo.node.announce(solo.now, b"service %d" % n, 80, None, results.append)
    assert solo.node.busy
    solo.wait(0.15)
    assert results == [1] * 10
    assert solo.core.searches == 5
    for n in range(10):
        solo.node.put(solo.now, Item(b"1:%d" % n), None, results.append)
    assert len(results) == 20
    assert solo.core.searches == 5


def test_a_dead_node_is_no_longer_passed_on():
    network, hosts = network_of(5)
    network.remove(address(4))
    lookup(network, hosts[0])
    network.run(8)
    assert all(c.address != address(4) for c in hosts[0].node._core.table.closest(b"x" * 20))


def test_no_node_in_the_open_network_directs_queries_into_a_private_one():
    core = Solo().core
    public, private = ("203.0.113.5", 4001), ("10.0.0.1", 4001)
    assert core.may_ask(public, public)
    assert core.may_ask(private, private)
    assert core.may_ask(public, private)
    assert not core.may_ask(private, public)
    for inside in ("127.0.0.1", "169.254.169.254", "100.64.0.1"):
        assert not core.may_ask((inside, 4001), public)
    assert not core.may_ask(("127.0.0.1", 4001), private)
    assert not core.may_ask(("224.0.0.1", 4001), private)
    for port in (0, 53, 11211):
        assert not core.may_ask(("203.0.113.9", port), public)


def test_answers_of_nodes_are_merged_and_a_lookup_is_bounded():
    solo = Solo()
    addresses = [("10.0.0.5", 4000), ("10.0.0.6", 4000)]
    for n, there in enumerate(addresses):
        solo.meet(there, node_id(1 + n))
    results: list[LookupResult] = []
    solo.node.lookup(solo.now, SERVICE, results.append)
    for n, (to, query) in enumerate(solo.queries(solo.sent())):
        peers = tuple(bytes([10, 0, n, 1]) + (1 + i).to_bytes(2, "big") for i in range(700))
        nowhere = (b"\x0a\0\0\1\0\0",)  # port 0
        solo.answer(to, query, node_id(1 + addresses.index(to)), peers=nowhere + peers)
    (found,) = results
    assert len(found.peers) == 1000
    assert {unpack(peer)[0] for peer in found.peers} == {"10.0.0.1", "10.0.1.1"}
    assert all(unpack(peer)[1] for peer in found.peers)


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ("203.0.113.5", {"192.0.2.1"}),
        ("10.0.0.5", {"10.9.9.9", "100.64.0.1", "192.0.2.1"}),
        ("127.0.0.5", {"127.0.0.1", "10.9.9.9", "100.64.0.1", "192.0.2.1"}),
    ],
)
def test_a_node_names_no_address_that_is_nearer_than_its_own(there, kept):
    solo = Solo()
    solo.meet((there, 4000), node_id(1))
    results: list[LookupResult] = []
    solo.node.lookup(solo.now, SERVICE, results.append)
    named = ["127.0.0.1", "10.9.9.9", "100.64.0.1", "192.0.2.1", "224.0.0.1", "0.0.0.0"]
    ((to, query),) = solo.queries(solo.sent())
    solo.answer(to, query, node_id(1), peers=tuple(pack((host, 6379)) for host in named))
    (found,) = results
    assert {unpack(peer)[0] for peer in found.peers} == kept


def test_busy_workers_answer_busy():
    solo = Solo(max_searches=1)
    solo.meet(NEAR, node_id(1))
    assert not solo.node.busy
    solo.node.lookup(solo.now, SERVICE, lambda found: None)
    assert solo.node.busy
    solo.wait(10)
    assert not solo.node.busy


def test_a_query_of_ours_looks_as_that_of_any_node():
    solo = Solo()
    solo.meet(LOCAL, node_id(1))
    solo.node.lookup(solo.now, SERVICE, lambda found: None)
    ((to, query),) = solo.sent()
    assert to == LOCAL
    assert query == replace(
        query if isinstance(query, KrpcQuery) else pytest.fail("no query"),
        sender=solo.node.id,
        ask=GetPeers(SERVICE),
    )
