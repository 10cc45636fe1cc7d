"""Stores of a node: announcements, own entries, values, tokens, sources, votes; all bounded."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache import bep44
from p2p.grenache.dht.compact_addresses import Reach, ipv4_reach, pack
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.krpc import CAS_MISMATCH, SEQ_TOO_LOW
from p2p.grenache.dht.own_announcements import MAX_VOTERS, OwnEntries, SeenAs
from p2p.grenache.dht.query_sources import PROOF_LASTS, ROTATE_AFTER, QuerySources, WriteTokens
from p2p.grenache.dht.stores import AnnouncementStore, Item, ValueStore, conflict

RNG = random.Random(1)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def peer(n: int) -> bytes:
    return pack(("10.0.0.1", n))


# Announcements


def peers(max_age=120.0, max_peers=100, per_service=50, per_source=60) -> AnnouncementStore:
    return AnnouncementStore(max_age, max_peers, per_service, per_source)


def test_an_announcement_lives_exactly_as_long_as_set():
    store = peers()
    store.add(0.0, b"s", peer(1), "a")
    store.add(50.0, b"s", peer(2), "a")
    store.add(100.0, b"s", peer(1), "a")  # again
    assert set(store.get(169.9, b"s", 10, RNG)) == {peer(1), peer(2)}
    assert store.get(170.0, b"s", 10, RNG) == [peer(1)]
    assert store.get(220.0, b"s", 10, RNG) == []
    assert len(store) == 0


def test_the_oldest_make_room_in_each_of_three_ways():
    store = peers(max_peers=100, per_service=5, per_source=8)
    for n in range(1, 8):
        store.add(n, b"s", peer(n), f"source-{n}")
    assert set(store.get(9, b"s", 99, RNG)) == {peer(n) for n in range(3, 8)}
    for n in range(1, 12):
        store.add(10 + n, b"service-%d" % n, peer(n), "greedy")
    assert not store.get(30, b"service-3", 9, RNG)
    assert store.get(30, b"service-4", 9, RNG)
    assert len(store) == 5 + 8
    small = peers(max_peers=3)
    for n in range(1, 6):
        small.add(0.0, b"service-%d" % n, peer(n), f"source-{n}")
    assert [bool(small.get(1, b"service-%d" % n, 9, RNG)) for n in range(1, 6)] == [
        False,
        False,
        True,
        True,
        True,
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 6), st.integers(0, 3)),
        max_size=60,
    )
)
def test_the_bounds_of_announcements_hold_whatever_is_announced(steps):
    store = AnnouncementStore(10.0, 8, 4, 5)
    for now, (action, service, n, source) in enumerate(steps):
        if action == 3:
            store.remove(b"%d" % service, peer(n))
        else:
            store.add(now, b"%d" % service, peer(n), f"s{source}")
        assert len(store) <= 8
        assert all(0 < len(group) <= 4 for group in store._services.values())
        assert all(0 < len(group) <= 5 for group in store._sources.values())
        for groups in (store._services, store._sources):
            assert sum(len(group) for group in groups.values()) == len(store)


# Own entries


def own(host: str | None = None, limit: int = 10) -> OwnEntries:
    return OwnEntries(120.0, limit, lambda: host)


def test_an_own_entry_that_others_hold_is_not_listed_twice_under_two_addresses():
    entries = own(None)
    entries.add(0.0, b"s", 1, None)
    others = [pack(("10.0.0.9", 1))]
    assert entries.listed(1.0, b"s", others)  # as far as we know, the other one is another
    entries.held_by(b"s", 1, None, 3)
    assert not entries.listed(1.0, b"s", others)
    assert entries.listed(1.0, b"s", [pack(("10.0.0.9", 2))])


def test_own_entries_fade_are_taken_back_and_are_bounded():
    entries = own("10.0.0.9", limit=3)
    for n in range(1, 5):
        entries.add(n, b"s%d" % n, n, None)
    assert len(entries) == 3
    assert not entries.told(5, b"s1", "10.0.0.7")
    assert entries.remove(b"s2", 2, None)
    assert not entries.remove(b"s2", 2, None)
    assert entries.told(122.9, b"s3", "10.0.0.7")
    assert not entries.told(123.0, b"s3", "10.0.0.7")
    assert entries.told(123.0, b"s4", "10.0.0.7")


# Values


def item(seq: int, value: bytes = b"v", salt: bytes = b"") -> Item:
    signed = bep44.sign(KEY, seq, value, salt=salt)
    return Item(bep44.bencoded(value), signed.public_key, seq, signed.signature, salt)


@pytest.mark.parametrize(
    ("encoded", "content"),
    [(b"5:hello", b"hello"), (b"i42e", b"42"), (b"li1ee", b"li1ee"), (b"d1:ai1ee", b"d1:ai1ee")],
)
def test_the_content_of_an_item(encoded, content):
    assert Item(encoded).content() == content


@pytest.mark.parametrize(
    ("current", "new", "cas", "refusal"),
    [
        (None, item(1), None, None),
        (None, item(1), 5, None),
        (item(1), item(2), None, None),
        (item(1), item(2), 1, None),
        (item(2), item(3), 1, CAS_MISMATCH),
        (item(2), item(1), None, SEQ_TOO_LOW),
        (item(2), item(2), None, None),
        (item(2), item(2, b"other"), None, SEQ_TOO_LOW),
        (item(3), item(2), 2, CAS_MISMATCH),
    ],
)
def test_versions_are_replaced_only_by_valid_successors(current, new, cas, refusal):
    assert conflict(current, new, cas) == refusal


def test_values_are_bounded_and_requested_ones_stay():
    store = ValueStore(100.0, 3)
    items = [Item(bep44.bencoded(b"%d" % n)) for n in range(5)]
    for one in items[:3]:
        store.put(0.0, one)
    assert store.get(1.0, items[0].key()) == items[0]
    store.put(2.0, items[3])
    store.put(2.0, items[4])
    assert [store.get(3.0, one.key()) is not None for one in items] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert store.get(100.0, items[0].key()) is None
    assert store.get(101.9, items[3].key()) is not None
    assert len(store) == 2


# Tokens


def test_a_token_is_good_for_its_address_for_five_to_ten_minutes():
    tokens = WriteTokens(random.Random(1), 0.0)
    made = tokens.make(10.0, "10.0.0.1")
    assert tokens.valid(10.0, "10.0.0.1", made)
    assert not tokens.valid(10.0, "10.0.0.2", made)
    assert not tokens.valid(10.0, "10.0.0.1", made[:-1])
    assert not tokens.valid(10.0, "10.0.0.1", b"")
    assert tokens.valid(2 * ROTATE_AFTER - 1, "10.0.0.1", made)
    assert not tokens.valid(2 * ROTATE_AFTER, "10.0.0.1", made)
    late = tokens.make(ROTATE_AFTER * 3 - 1, "10.0.0.1")
    assert tokens.valid(ROTATE_AFTER * 4 - 1, "10.0.0.1", late)


def test_no_token_outlives_a_long_idle_time():
    tokens = WriteTokens(random.Random(1), 0.0)
    made = tokens.make(0.0, "10.0.0.1")
    assert not tokens.valid(1e6, "10.0.0.1", made)
    fresh = tokens.make(1e6, "10.0.0.1")
    assert tokens.valid(1e6 + ROTATE_AFTER - 1, "10.0.0.1", fresh)


# Sources


def test_sources_are_bounded():
    sources = QuerySources(rate=10.0, burst=5.0, limit=100)
    for n in range(1000):
        sources.allow(0.0, f"10.0.{n >> 8}.{n & 255}")
    assert len(sources) == 100


def test_a_proof_lasts_for_a_time():
    sources = QuerySources(10.0, 5.0, 100)
    assert not sources.is_proven(0.0, "203.0.113.5")
    sources.proven(0.0, "203.0.113.5")
    assert sources.is_proven(PROOF_LASTS - 1, "203.0.113.5")
    assert not sources.is_proven(PROOF_LASTS, "203.0.113.5")
    assert sources.is_proven(0.0, "127.0.0.9")


# Addresses, and how others see us


def test_only_ipv4_addresses_have_a_reach_in_the_dht():
    assert ipv4_reach("169.254.1.1") is Reach.LINK
    for host in ("::1", "::ffff:10.0.0.1", "localhost", "", "0.1.2.3", "224.0.0.1"):
        assert ipv4_reach(host) is Reach.NONE


def test_the_widest_view_counts_and_in_it_the_majority():
    seen = SeenAs()
    assert seen.best() == (None, 0)
    seen.vote("127.0.0.1", "127.0.0.1")
    assert seen.best() == ("127.0.0.1", 1)
    seen.vote("10.0.0.1", "10.0.0.9")
    seen.vote("127.0.0.1", "8.8.8.8")  # it cannot know
    seen.vote("10.0.0.1", "224.0.0.1")
    seen.vote("203.0.113.1", "10.0.0.66")  # nor has it a say
    assert seen.best() == ("10.0.0.9", 1)
    for n in range(3):
        seen.vote(f"203.0.113.{n}", "198.51.100.1")
    seen.vote("203.0.113.99", "192.0.2.66")
    seen.vote("203.0.113.99", "192.0.2.66")  # one vote each
    assert seen.best() == ("198.51.100.1", 3)
    for n in range(200):
        seen.vote(f"8.8.0.{n}", "198.51.100.2")
    assert seen.best() == ("198.51.100.2", MAX_VOTERS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"peer_max_age": 0},
        {"concurrency": 0},
        {"max_values": 0},
        {"public_host": "0.0.0.0"},
        {"public_host": "example.org"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DhtSettings(**wrong)
