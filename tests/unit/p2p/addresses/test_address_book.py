import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_network import node_id

from p2p.addresses.address import Address, PeerFound
from p2p.addresses.address_book import (
    BOOTSTRAP_PIN,
    FEELER_DELAY,
    GRENACHE_DELAY,
    MAX_ADDRESSES_PER_NODE,
    NEW_BUCKET_SIZE,
    NEW_BUCKETS_PER_SOURCE,
    REANNOUNCED_AFTER,
    TRIED_BUCKET_SIZE,
    TRIED_BUCKETS_PER_GROUP,
    AddressBook,
)
from p2p.addresses.dial_choice import OUTBOUND_PER_GROUP, DialChoice, outbound_groups
from p2p.addresses.reconnect import Reconnect, Wait
from p2p.addresses.tip_budget import TIP_LADDER
from p2p.base.limits import FORGET_AFTER_FAILURES, HEALTHY_AFTER, RECONNECT_MAX
from p2p.base.reach import Reach

OWN = node_id("z")
A, B, C = node_id("a"), node_id("b"), node_id("c")


def make(**limits):
    return AddressBook(OWN, Reconnect(30.0, jitter=0.0), **limits)


def found(host="192.0.2.1", port=3000, node=None, source="exchange", via=""):
    return PeerFound(host, port, node, source, via)


def choose(book, now=0.0, *, connected=(), busy=(), limit=100, seed=1, pinned_only=False):
    return DialChoice(book).candidates(
        now,
        random.Random(seed),
        connected=set(connected),
        busy=set(busy),
        limit=limit,
        pinned_only=pinned_only,
    )


def fail(book, address, now=0.0, times=1, wait=Wait.LADDER):
    return [book.failed(address, now, random.Random(1), "no answer", wait) for _ in range(times)]


@pytest.fixture
def book():
    return make()


def test_our_own_id_and_addresses_of_no_host_are_not_kept(book):
    assert book.add(found(node=OWN), 0.0) is None
    assert book.add(found("0.0.0.0"), 0.0) is None
    assert book.add(found("224.0.0.251"), 0.0) is None
    assert book.add(found(port=0), 0.0) is None
    assert book.add(found(port=65536), 0.0) is None
    assert len(book) == 0


@pytest.mark.parametrize(
    ("source", "teller", "kept"),
    [
        ("exchange", "11.7.0.2", False),
        ("exchange", "11.0.0.1", True),  # a peer on this machine
        ("exchange", "127.0.0.1", True),
        ("bootstrap", "", True),
        ("inbound", "", True),
        ("mdns", "", True),
    ],
)
def test_an_address_of_this_machine_is_not_taken_from_a_peer_elsewhere(source, teller, kept):
    own = {"11.0.0.1", "11.0.0.9"}
    book = make(is_own=own.__contains__)
    told = PeerFound("11.0.0.9", 3000, None, source, "peer", via_address=teller)
    assert (book.add(told, 0.0) is not None) == kept
    other = PeerFound("11.8.0.9", 3000, None, source, "peer", via_address=teller)
    assert book.add(other, 0.0) is not None


def test_two_spellings_of_an_address_are_one(book):
    first = book.add(found("::ffff:192.0.2.1"), 0.0)
    assert book.add(found("192.0.2.1"), 0.0) is first
    assert len(book) == 1


def test_one_source_fills_only_its_share_and_others_still_get_in():
    book = make(per_source=3)
    for n in range(10):
        book.add(found(f"192.0.2.{n + 1}", via=A), 0.0)
    assert len(book) == 3
    assert book.add(found("198.51.100.1", via=B), 0.0) is not None


def test_a_full_share_replaces_failed_entries_by_new_ones():
    book = make(per_source=2)
    first = book.add(found("192.0.2.1"), 0.0)
    book.add(found("192.0.2.2"), 0.0)
    fail(book, first)
    assert book.add(found("192.0.2.3"), 0.0) is not None
    assert book.get("192.0.2.1", 3000) is None


def test_tried_addresses_do_not_count_against_their_source():
    book = make(per_source=1)
    book.succeeded(book.add(found("192.0.2.1"), 0.0), A, 5.0, 0.0)
    assert book.add(found("192.0.2.2"), 0.0) is not None


def test_a_full_book_drops_untried_addresses_of_the_source_that_filled_it():
    book = make(limit=10, per_source=9)
    tried = book.add(found("192.0.2.100", via=B), 0.0)
    book.succeeded(tried, B, 5.0, 0.0)
    for n in range(9):
        book.add(found(f"192.0.2.{n + 1}", via=A), 0.0)
    assert len(book) == 10
    assert book.add(found("198.51.100.1", via=C), 1.0) is not None
    assert len(book) == 10
    assert book.get("192.0.2.100", 3000) is tried
    assert sum(address.via == A for address in book) == 8


def test_a_book_full_of_tried_addresses_takes_no_stranger_but_still_a_configured_one():
    book = make(limit=2)
    for n in (1, 2):
        book.succeeded(book.add(found(f"192.0.2.{n}"), 0.0), node_id("ab"[n - 1]), 5.0, 0.0)
    assert book.add(found("192.0.2.3"), 0.0) is None
    assert book.add(found("192.0.2.4", source="bootstrap"), 0.0) is not None


def test_a_node_has_few_addresses_and_failing_ones_make_way():
    book = make()
    for n in range(MAX_ADDRESSES_PER_NODE):
        book.add(found(port=3000 + n, node=A), 0.0)
    assert book.add(found(port=4000, node=A), 0.0) is None
    fail(book, book.get("192.0.2.1", 3001))
    assert book.add(found(port=4000, node=A), 0.0) is not None
    assert len(book.of(A)) == MAX_ADDRESSES_PER_NODE
    assert book.get("192.0.2.1", 3001) is None


@given(
    st.lists(
        st.tuples(
            st.integers(1, 40),
            st.sampled_from([None, A, B, C]),
            st.sampled_from(["exchange", "mdns", "inbound"]),
            st.sampled_from(["", A, B]),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_whatever_comes_in_the_bounds_hold(events):
    book = make(limit=12, per_source=5)
    for host, node, source, via, succeeds in events:
        address = book.add(found(f"192.0.2.{host}", node=node, source=source, via=via), 0.0)
        if address is not None and succeeds:
            book.succeeded(address, node or A, 1.0, 0.0)
        assert len(book) <= 12
        untried = [(a.source, a.via) for a in book if not a.tried]
        assert all(untried.count(origin) <= 6 for origin in untried)


def test_a_failing_address_is_forgotten_after_its_last_chance(book):
    address = book.add(found(), 0.0)
    assert fail(book, address, times=FORGET_AFTER_FAILURES) == [False] * (
        FORGET_AFTER_FAILURES - 1
    ) + [True]
    assert len(book) == 0


@pytest.mark.parametrize("source", ["bootstrap", "manual"])
def test_a_configured_address_is_never_forgotten(book, source):
    address = book.add(found(source=source), 0.0)
    assert not any(fail(book, address, times=3 * FORGET_AFTER_FAILURES))
    assert book.get("192.0.2.1", 3000) is address


def test_an_address_that_is_no_longer_configured_loses_its_pin(book):
    address = book.add(found(source="bootstrap"), 0.0)
    book.add(found(source="bootstrap"), 100.0)
    assert address.pinned(BOOTSTRAP_PIN + 99.0)
    assert not address.pinned(BOOTSTRAP_PIN + 101.0)
    book.add(found(source="manual"), 100.0)
    assert address.pinned(1e12)


def test_success_clears_failures_but_leaves_the_ladder_to_the_link(book):
    address = book.add(found(), 0.0)
    fail(book, address, times=4)
    book.succeeded(address, A, 7.0, 0.0)
    assert (address.failures, address.rung, address.last_success) == (0, 4, 7.0)
    book.link_lost(A, HEALTHY_AFTER - 1, 100.0, 8.0, random.Random(1))
    assert (address.rung, address.next_dial) == (5, 160.0)
    book.link_lost(A, HEALTHY_AFTER + 1, 200.0, 9.0, random.Random(1))
    assert (address.rung, address.next_dial, address.last_success) == (1, 201.0, 9.0)


def test_a_refusal_that_will_not_go_away_backs_off_long(book):
    address = book.add(found(), 0.0)
    fail(book, address, wait=Wait.LONG)
    assert address.next_dial == RECONNECT_MAX
    assert choose(book, RECONNECT_MAX - 1) == []
    assert choose(book, RECONNECT_MAX) == [address]


def test_an_address_of_ours_is_remembered_and_never_dialled(book):
    address = book.add(found(), 0.0)
    book.is_ourselves(address)
    assert book.add(found(source="mdns"), 1.0) is None
    assert choose(book, 1e9) == []
    assert DialChoice(book).next_due(0.0, skip=(), busy=()) is None


def test_a_duplicate_of_an_unknown_peer_waits_longer_each_time_until_a_link_is_lost(book):
    address = book.add(found(source="bootstrap"), 0.0)
    rng = random.Random(1)
    waits = []
    for _ in range(5):
        book.is_duplicate(address, 0.0, rng)
        waits.append(address.next_dial)
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0]
    book.link_lost(A, 60.0, 100.0, 5.0, rng)
    assert address.next_dial == 101.0


def test_pinned_come_first_then_tried_and_untried_in_turn(book):
    untried = [book.add(found(f"192.0.2.{n}"), 0.0) for n in (1, 2, 3)]
    tried = []
    for n, node in ((11, A), (12, B)):
        address = book.add(found(f"192.0.2.{n}"), 0.0)
        book.succeeded(address, node, float(n), 0.0)
        tried.append(address)
    pinned = book.add(found("192.0.2.20", source="bootstrap"), 0.0)
    order = choose(book)
    assert order[0] is pinned
    assert order[1] is tried[1]  # the more recent success
    assert order[2] in untried
    assert order[3] is tried[0]
    assert {id(a) for a in order} == {id(a) for a in [*untried, *tried, pinned]}
    assert choose(book, limit=2) == order[:2]
    assert choose(book, pinned_only=True) == [pinned]


def test_strategies_come_in_their_order_of_priority(book):
    for n, source in enumerate(["inbound", "exchange", "grape", "mdns"], start=1):
        book.add(found(f"192.0.2.{n}", source=source), 0.0)
    assert [a.source for a in choose(book, FEELER_DELAY)] == [
        "mdns",
        "grape",
        "exchange",
        "inbound",
    ]


def test_among_equals_the_order_is_drawn(book):
    for n in range(20):
        book.add(found(f"192.0.2.{n + 1}"), 0.0)
    orders = {tuple(a.host for a in choose(book, seed=seed)) for seed in range(5)}
    assert len(orders) == 5
    assert choose(book, seed=1) == choose(book, seed=1)


def test_connected_and_busy_peers_are_left_out(book):
    first = book.add(found("192.0.2.1", node=A), 0.0)
    second = book.add(found("192.0.2.2", node=B), 0.0)
    assert choose(book, connected=[A]) == [second]
    assert choose(book, busy=[first.key]) == [second]


def test_a_node_with_several_addresses_is_dialled_at_one_of_them_at_a_time(book):
    first = book.add(found("192.0.2.1", node=A), 0.0)
    second = book.add(found("192.0.2.2", node=A), 0.0)
    book.succeeded(second, A, 5.0, 0.0)
    assert choose(book) == [second]
    assert choose(book, busy=[second.key]) == []
    fail(book, second)
    assert choose(book) == [first]


def test_a_fresh_mdns_announcement_ends_the_wait_but_not_too_often(book):
    address = book.add(found(source="mdns", node=A), 0.0)
    book.attempt(address, 1.0)
    fail(book, address, now=1.0, times=8)
    assert address.next_dial > 400.0
    book.add(found(source="mdns", node=A), 2.0)
    assert address.next_dial == 1.0 + REANNOUNCED_AFTER
    fail(book, address, now=3.0, wait=Wait.LONG)
    book.add(found(source="mdns", node=A), 50.0)
    assert address.next_dial > 400.0


def test_a_node_that_takes_over_an_address_is_believed_on_the_lan_only(book):
    address = book.add(found(source="mdns", node=A), 0.0)
    book.succeeded(address, A, 5.0, 0.0)
    book.add(found(source="exchange", node=B), 1.0)
    assert (address.node_id, address.tried) == (A, True)
    book.add(found(source="mdns", node=B), 1.0)
    assert (address.node_id, address.tried) == (B, False)


def test_a_claimed_id_is_taken_for_an_address_without_one(book):
    address = book.add(found(source="bootstrap"), 0.0)
    book.add(found(source="inbound", node=A), 0.0)
    assert (address.node_id, address.source, address.tried) == (A, "bootstrap", False)


def test_feelers_go_to_unproven_connected_nodes_only(book):
    unproven = book.add(found("192.0.2.1", node=A, source="inbound"), 0.0)
    proven = book.add(found("192.0.2.2", node=B, source="inbound"), 0.0)
    book.succeeded(proven, B, 5.0, 0.0)
    book.add(found("192.0.2.3", node=C), 0.0)

    def feelers(now, busy=()):
        return DialChoice(book).feelers(now, unproven={A}, busy=set(busy), limit=5)

    assert feelers(FEELER_DELAY - 0.01) == []  # its own side of the link may not be up yet
    assert feelers(FEELER_DELAY) == [unproven]
    assert feelers(FEELER_DELAY, busy=[unproven.key]) == []
    fail(book, unproven, now=1.0)
    assert feelers(1.0 + TIP_LADDER[0] - 0.1) == []
    assert feelers(1.0 + TIP_LADDER[0]) == [unproven]
    assert book.proven(A) is None
    assert book.proven(B) is proven


def test_the_next_due_time_skips_addresses_that_are_not_dialled(book):
    first = book.add(found("192.0.2.1", node=A, source="persisted"), 0.0)
    second = book.add(found("192.0.2.2", node=B, source="persisted"), 0.0)
    fail(book, first)
    fail(book, second, times=2)
    assert DialChoice(book).next_due(0.5, skip=set(), busy=set()) == 1.0
    assert DialChoice(book).next_due(0.5, skip={A}, busy=set()) == 5.0
    assert DialChoice(book).next_due(0.5, skip={A}, busy={second.key}) is None


def test_restored_addresses_are_tried_and_keep_their_failures(book):
    address = Address("192.0.2.1", 3000, A, "exchange", failures=3, last_success=5.0)
    book.restore(address, 0.0)
    assert book.proven(A) is address
    again = book.add(found(source="persisted", node=A), 0.0)
    assert again is address
    assert (again.tried, again.failures, again.source) == (True, 3, "persisted")
    book.restore(Address("192.0.2.9", 3000, OWN, "exchange"), 0.0)
    assert len(book) == 1
    assert math.isinf(-address.last_attempt)


# Addresses for Grenache


def over_grenache(host="192.0.2.1", port=3100, node=None, source="grape"):
    return PeerFound(host, port, node, source, carrier="grenache")


def test_one_host_and_port_is_an_address_for_each_carrier(book):
    direct = book.add(found("192.0.2.1", 3000), 0.0)
    indirect = book.add(over_grenache("192.0.2.1", 3000), 0.0)
    assert direct is not indirect
    assert book.get("192.0.2.1", 3000) is direct
    assert book.get("192.0.2.1", 3000, "grenache") is indirect
    assert (str(direct), str(indirect)) == ("192.0.2.1:3000", "192.0.2.1:3000 over Grenache")
    assert choose(book, GRENACHE_DELAY, busy=[direct.key]) == [indirect]


def test_a_direct_dial_gets_a_head_start(book):
    indirect = book.add(over_grenache(), 10.0)
    direct = book.add(found(), 10.0)
    assert choose(book, 10.0) == [direct]
    assert choose(book, 10.0 + GRENACHE_DELAY - 0.01, busy=[direct.key]) == []
    assert DialChoice(book).next_due(10.0, skip=set(), busy=set()) == 10.0 + GRENACHE_DELAY
    assert choose(book, 10.0 + GRENACHE_DELAY, busy=[direct.key]) == [indirect]


def test_grenache_addresses_are_dialled_at_once_without_a_delay(book):
    book.grenache_delay = 0.0
    indirect = book.add(over_grenache(), 10.0)
    assert choose(book, 10.0) == [indirect]


def test_only_so_many_are_dialled_over_grenache(book):
    direct = [book.add(found(f"192.0.2.{n}"), 0.0) for n in (1, 2, 3)]
    indirect = [book.add(over_grenache(f"192.0.2.{n}"), 0.0) for n in (1, 2, 3)]

    def chosen(limit):
        return DialChoice(book).candidates(
            GRENACHE_DELAY,
            random.Random(1),
            connected=set(),
            busy=set(),
            limit=100,
            grenache_limit=limit,
        )

    assert set(map(str, chosen(0))) == set(map(str, direct))
    assert sum(a.carrier == "grenache" for a in chosen(2)) == 2
    assert len(chosen(None)) == len(direct + indirect)


def test_proofs_over_grenache_prove_no_tcp_address_and_are_never_feelers(book):
    indirect = book.add(over_grenache(node=A), 0.0)
    assert DialChoice(book).feelers(100.0, unproven={A}, busy=set(), limit=5) == []
    assert book.proven(A, "grenache") is None
    book.succeeded(indirect, A, 5.0, 0.0)
    assert book.proven(A) is None
    assert book.proven(A, "grenache") is indirect
    assert book.of(A) == [indirect]


def test_a_restored_address_for_grenache_waits_as_a_found_one_does(book):
    direct = Address("192.0.2.1", 3000, A, "mdns")
    indirect = Address("192.0.2.2", 3100, B, "grape", carrier="grenache")
    book.restore(direct, 10.0)
    book.restore(indirect, 10.0)
    book.add(over_grenache("192.0.2.2", node=B, source="persisted"), 10.0)
    assert choose(book, 10.0) == [direct]
    assert choose(book, 10.0 + GRENACHE_DELAY, busy=[direct.key]) == [indirect]


def test_a_node_without_a_direct_link_is_tried_at_its_direct_addresses(book):
    direct = book.add(found(node=A), 0.0)
    indirect = book.add(over_grenache(node=A), 0.0)
    for address in (direct, indirect):
        book.succeeded(address, A, 5.0, 0.0)

    def upgrades(now):
        return DialChoice(book).feelers(now, unproven=set(), indirect={A}, busy=set(), limit=5)

    assert choose(book, 100.0, connected=[A]) == []
    assert upgrades(100.0) == [direct]
    fail(book, direct, now=100.0, times=3)
    assert upgrades(114.0) == []
    assert upgrades(115.0) == [direct]


def test_after_a_direct_link_grenache_waits_for_the_next_direct_one(book):
    direct, indirect = book.add(found(node=A), 0.0), book.add(over_grenache(node=A), 0.0)
    book.succeeded(direct, A, 5.0, 0.0)
    book.link_lost(A, HEALTHY_AFTER, 100.0, 9.0, random.Random(1))
    assert direct.next_dial == 101.0
    assert indirect.next_dial == 100.0 + GRENACHE_DELAY
    fail(book, indirect, now=200.0, times=8)
    book.link_lost(A, HEALTHY_AFTER, 201.0, 9.0, random.Random(1))
    assert indirect.next_dial == 201.0 + GRENACHE_DELAY + 1.0
    assert indirect.rung == 8


def test_after_a_link_over_grenache_the_direct_ladder_stays_climbed(book):
    direct, indirect = book.add(found(node=A), 0.0), book.add(over_grenache(node=A), 0.0)
    fail(book, direct, times=8)
    book.succeeded(indirect, A, 5.0, 0.0)
    book.link_lost(A, HEALTHY_AFTER, 10.0, 9.0, random.Random(1), carrier="grenache")
    assert (direct.rung, direct.next_dial, direct.last_success) == (8, 11.0, None)
    assert (indirect.rung, indirect.next_dial) == (1, 10.0 + GRENACHE_DELAY + 1.0)
    assert indirect.last_success == 9.0


def test_a_node_that_wants_no_link_wants_none_of_any_kind(book):
    direct, indirect = book.add(found(node=A), 0.0), book.add(over_grenache(node=A), 0.0)
    book.succeeded(direct, A, 5.0, 0.0)
    book.link_lost(A, 60.0, 10.0, 9.0, random.Random(1), Wait.LONG)
    assert min(direct.next_dial, indirect.next_dial) >= 10.0 + RECONNECT_MAX


def test_addresses_from_grapes_for_one_carrier_leave_the_share_of_the_other():
    book = make(per_source=2)
    for n in range(5):
        book.add(found(f"192.0.2.{n + 1}", source="grape"), 0.0)
        book.add(over_grenache(f"192.0.2.{n + 1}"), 0.0)
    assert len(book) == 4


def test_a_nodes_addresses_for_grenache_do_not_push_out_its_direct_ones(book):
    for n in range(MAX_ADDRESSES_PER_NODE):
        assert book.add(over_grenache(port=3100 + n, node=A), 0.0) is not None
    assert book.add(over_grenache(port=3200, node=A), 0.0) is None
    assert book.add(found(node=A), 0.0) is not None


# Poisoning: buckets, diversity of dials


def poison(book, groups, *, source="60.1.0.1", count=2000):
    """Addresses of `groups` networks, sent by many identities of one source network."""
    taken = 0
    for n in range(count):
        host = f"{60 + n % groups}.2.{n // 250}.{n % 250 + 1}"
        sent = PeerFound(host, 3000, f"{n:032d}", "exchange", f"sender {n // 50}", "tcp", source)
        taken += book.add(sent, 0.0) is not None
    return taken


def test_one_source_network_reaches_few_buckets_however_many_identities_and_addresses_it_has():
    book = make(key=b"secret")
    taken = poison(book, 200)
    assert NEW_BUCKET_SIZE < taken <= NEW_BUCKETS_PER_SOURCE * NEW_BUCKET_SIZE
    honest = [
        PeerFound(f"9{n % 10}.{n}.0.1", 3000, f"b{n:031d}", "exchange", A, "tcp", "33.1.0.1")
        for n in range(50)
    ]
    assert sum(book.add(each, 1.0) is not None for each in honest) >= 45


def test_the_buckets_follow_from_a_secret():
    def bucket(key):
        book = make(key=key)
        return book.add(
            PeerFound("60.1.2.3", 3000, A, "exchange", B, "tcp", "61.1.0.1"), 0.0
        ).bucket

    assert bucket(b"one") == bucket(b"one")
    assert len({bucket(bytes([n])) for n in range(20)}) > 10


def test_dials_go_to_networks_without_an_outbound_link_first_and_few_share_one():
    book = make(key=b"secret")
    for n in range(12):
        book.add(PeerFound(f"60.1.0.{n + 1}", 3000, f"{n:032d}", "mdns"), 0.0)
    book.add(PeerFound("33.1.0.1", 3000, A, "exchange", B), 0.0)
    chosen = [address.host for address in choose(book)]
    assert "33.1.0.1" in chosen[:2]  # the first of each group, then the others
    assert sum(host.startswith("60.1.") for host in chosen) == OUTBOUND_PER_GROUP
    linked = outbound_groups(["60.1.0.99"] * OUTBOUND_PER_GROUP)
    due = DialChoice(book).candidates(
        0.0, random.Random(1), connected=set(), busy=set(), limit=9, groups=linked
    )
    assert [address.host for address in due] == ["33.1.0.1"]


def test_pinned_addresses_and_those_of_one_machine_are_exempt_from_diversity():
    book = make()
    for n in range(10):
        book.add(PeerFound("127.0.0.1", 12_000 + n, f"{n:032d}", "mdns", by=Reach.LOOPBACK), 0.0)
        book.add(PeerFound(f"60.1.0.{n + 1}", 3000, None, "bootstrap"), 0.0)
    assert len(choose(book)) == 20


@pytest.mark.parametrize(
    ("source", "via_address", "by", "takes"),
    [
        ("exchange", "8.8.8.8", Reach.PUBLIC, Reach.PUBLIC),
        ("exchange", "::ffff:8.8.8.8", Reach.PUBLIC, Reach.PUBLIC),
        ("exchange", "100.64.0.1", Reach.PUBLIC, Reach.SHARED),
        ("exchange", "192.168.1.5", Reach.PUBLIC, Reach.PRIVATE),
        ("exchange", "fe80::5", Reach.PUBLIC, Reach.LINK),
        ("exchange", "127.0.0.1", Reach.PUBLIC, Reach.LOOPBACK),
        ("exchange", "", Reach.PUBLIC, Reach.PUBLIC),
        ("dns", "", Reach.PUBLIC, Reach.PUBLIC),
        ("list", "", Reach.PRIVATE, Reach.PRIVATE),
        ("grape", "", Reach.LOOPBACK, Reach.LOOPBACK),
        ("mdns", "", Reach.LINK, Reach.LINK),
        ("inbound", "", Reach.PUBLIC, Reach.LOOPBACK),  # at the address that the link shows
        ("manual", "", Reach.PUBLIC, Reach.LOOPBACK),
        ("bootstrap", "8.8.8.8", Reach.PUBLIC, Reach.LOOPBACK),
        ("persisted", "", Reach.PUBLIC, Reach.LOOPBACK),
    ],
)
def test_addresses_are_taken_that_are_no_nearer_than_their_source(source, via_address, by, takes):
    hosts = {
        Reach.NONE: "224.0.0.1",
        Reach.LOOPBACK: "127.0.0.1",
        Reach.LINK: "169.254.1.1",
        Reach.PRIVATE: "fd00::1",
        Reach.SHARED: "100.64.3.4",
        Reach.PUBLIC: "60.1.1.1",
    }
    for at, host in hosts.items():
        for port in (3000, 5432):
            found = PeerFound(host, port, None, source, via_address=via_address, by=by)
            taken = make().add(found, 0.0) is not None
            operators = source in ("manual", "bootstrap", "persisted")
            assert taken is (at >= takes and (operators or port == 3000)), (host, port)
    named = PeerFound("inside.example", 3000, None, source, via_address=via_address, by=by)
    assert (make().add(named, 0.0) is not None) is operators


def prove(book, n, at):
    address = book.add(PeerFound(f"60.1.{n}.1", 3000, f"{n:032d}", "exchange", f"s{n}"), at)
    book.succeeded(address, address.node_id, at, at)
    return address


def test_a_full_bucket_of_tried_addresses_tests_its_oldest_before_it_evicts():
    book = make(key=b"secret", per_source=1000)
    proven = [prove(book, n, float(n)) for n in range(TRIED_BUCKETS_PER_GROUP * TRIED_BUCKET_SIZE)]
    more = [prove(book, 100 + n, 1000.0 + n) for n in range(40)]
    tested = [a for a in (*proven, *more) if a.tested]
    assert tested
    assert all(a.tried for a in tested)  # not evicted yet
    assert all(a.next_dial <= 2000.0 for a in tested)  # but due for a dial
    gone, stays = tested[0], tested[-1]
    fail(book, gone, 2000.0)
    assert not gone.tried
    if stays is not gone:
        before = sum(a.tried for a in book)
        book.succeeded(stays, stays.node_id, 2000.0, 2000.0)
        assert stays.tried
        assert not stays.tested
        assert sum(a.tried for a in book) <= before
