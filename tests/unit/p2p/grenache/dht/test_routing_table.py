"""The routing table: who is in it, who is close, and how it heals."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.routing_table import FORGET_AFTER, SPARES, RoutingTable, number

OWN = bytes(20)


def table() -> RoutingTable:
    return RoutingTable(OWN, liveness=60.0)


def far_id(n: int) -> bytes:
    """In the bucket of those that share no bit with OWN."""
    return b"\x80" + bytes(17) + n.to_bytes(2, "big")


def at(n: int):
    return ("10.0.0.1", 1000 + n)


def js_distance(node_id: bytes, target: bytes) -> int:
    """The distance of the Node.js Grape, without its rounding."""
    distance = 0
    for a, b in zip(node_id, target, strict=False):
        distance = distance * 256 + (a ^ b)
    for _ in range(abs(len(node_id) - len(target))):
        distance = distance * 256 + 255
    return distance


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.binary(min_size=20, max_size=20), min_size=2, max_size=30, unique=True),
)
def test_nodes_are_ordered_by_the_distance_that_real_grapes_have(target, ids):
    goal = number(target)
    ours = sorted(ids, key=lambda node_id: number(node_id) ^ goal)
    distances = [js_distance(node_id, target) for node_id in ours]
    assert distances == sorted(distances)


@given(st.integers(0, 2**32), st.integers(1, 25))
def test_the_closest_are_those_of_all_that_are_there(seed: int, n: int):
    rng = random.Random(seed)
    t = RoutingTable(rng.randbytes(20), liveness=60.0)
    for i in range(300):
        node_id = rng.randbytes(20)
        if i % 3 == 0:  # some close to ourselves, so that many buckets are in use
            node_id = t._own_id[: rng.randrange(1, 19)] + node_id
        t.heard(0.0, node_id[:20], at(i), b"")
    for target in (rng.randbytes(20), t._own_id, b"rpc", t._own_id[:1] + rng.randbytes(19)):
        goal = number(target)
        everybody = sorted(t, key=lambda contact: contact.number ^ goal)
        assert t.closest(target, n) == everybody[:n]


def test_a_full_bucket_keeps_those_that_answer_and_newcomers_wait():
    t = table()
    for n in range(K + SPARES + 5):
        t.heard(0.0, far_id(n), at(n), b"")
    assert len(t) == K
    assert {contact.id for contact in t} == {far_id(n) for n in range(K)}
    assert len(t._by_address) == K + SPARES


def test_the_latest_newcomer_takes_the_place_of_one_that_failed_twice():
    t = table()
    for n in range(K + 3):
        t.heard(0.0, far_id(n), at(n), b"")
    t.failed(1.0, at(5))
    assert t.at(at(5)) is not None
    t.failed(2.0, at(5))
    assert t.at(at(5)) is None
    assert far_id(K + 2) in {contact.id for contact in t}
    assert len(t) == K


def test_a_newcomer_displaces_a_doubtful_contact_but_no_other():
    t = table()
    for n in range(K):
        t.heard(0.0, far_id(n), at(n), b"")
    t.failed(1.0, at(3))
    t.failed(1.0, at(3))
    t.heard(2.0, far_id(99), at(99), b"")
    assert t.at(at(3)) is None
    assert t.at(at(99)) in list(t)


def test_an_address_has_one_id():
    t = table()
    assert t.heard(0.0, far_id(1), at(1), b"")
    assert not t.heard(1.0, far_id(1), at(1), b"")
    assert t.wants(far_id(2), at(1))  # claims another id: worth asking
    assert t.heard(2.0, far_id(2), at(1), b"")
    assert [contact.id for contact in t] == [far_id(2)]
    assert t.heard(3.0, far_id(1), at(2), b"")  # the old id is free for another address


def test_an_id_stays_with_the_address_that_answers():
    t = table()
    t.heard(0.0, far_id(1), at(1), b"")
    assert not t.heard(1.0, far_id(1), at(2), b"")
    assert t.at(at(2)) is None
    assert [c.address for c in t.due(1.0)] == [at(1)]  # asked whether it is still there
    t.failed(2.0, at(1))
    assert t.heard(3.0, far_id(1), at(2), b"")
    assert [c.address for c in t] == [at(2)]


def test_we_are_not_in_our_own_table():
    t = table()
    assert not t.wants(OWN, at(1))
    assert not t.heard(0.0, OWN, at(1), b"")
    assert not t


def test_silent_contacts_are_due_after_their_time_and_failed_ones_ever_later():
    t = table()
    t.heard(0.0, far_id(1), at(1), b"")
    assert t.due(59.9) == []
    assert [c.id for c in t.due(60.0)] == [far_id(1)]
    assert t.due(60.1) == []  # just asked
    t.failed(61.0, at(1))
    assert len(t.due(61.0)) == 1  # a second opinion at once
    waits, now = [], 62.0
    for _ in range(7):
        t.failed(now, at(1))
        contact = t.at(at(1))
        assert contact is not None
        waits.append(contact.next_check - now)
        now = contact.next_check
    assert waits == [2, 4, 8, 16, 32, 60, 60]


def test_contacts_silent_for_long_are_forgotten():
    t = table()
    t.heard(0.0, far_id(1), at(1), b"")
    t.failed(FORGET_AFTER - 1, at(1))
    assert t.at(at(1)) is not None
    t.failed(FORGET_AFTER, at(1))
    assert t.at(at(1)) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 40))))
def test_the_table_stays_in_order_whatever_happens(steps):
    t = table()
    now = 0.0
    for action, n, place in steps:
        now += 1.0
        if action == 0:
            t.heard(now, far_id(n), at(place), b"")
        elif action == 1:
            t.failed(now, at(place))
        else:
            t.due(now)
        for address, contact in t._by_address.items():
            assert contact.address == address
            assert t._by_id[contact.id] is contact
        assert len(t._by_id) == len(t._by_address)
        in_buckets = [c for bucket in t._buckets for c in bucket]
        in_spares = [c for bucket in t._spares for c in bucket]
        assert len(in_buckets) + len(in_spares) == len(t._by_address)
        assert all(c.spare for c in in_spares)
        assert not any(c.spare for c in in_buckets)
        assert all(len(bucket) <= K for bucket in t._buckets)
