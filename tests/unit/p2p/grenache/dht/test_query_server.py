"""Answers of a node: receivers, amounts, and what it records."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dht_kit import FAR, LOCAL, NEAR, OWN_ID, Solo, node_id
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache import bep44
from p2p.grenache.dht.compact_addresses import pack, pack_host
from p2p.grenache.dht.krpc import (
    AnnouncePeer,
    FindNode,
    Get,
    GetPeers,
    KrpcFailure,
    KrpcQuery,
    KrpcReply,
    PingQuery,
    Put,
    encode_query,
    encode_reply,
)
from p2p.grenache.dht.query_server import MAX_REPLY
from p2p.grenache.dht.query_sources import AMPLIFICATION

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SERVICE = b"rpc_quotes"


def put_of(token: bytes, seq: int, value: bytes = b"v", **more) -> Put:
    item = bep44.sign(KEY, seq, value)
    return Put(
        token, bep44.bencoded(value), item.public_key, seq, item.signature, cas=more.get("cas")
    )


def reply_to(solo: Solo, source, ask) -> KrpcReply:
    answer = solo.ask(source, ask)
    assert isinstance(answer, KrpcReply), answer
    return answer


def error_to(solo: Solo, source, ask) -> KrpcFailure:
    answer = solo.ask(source, ask)
    assert isinstance(answer, KrpcFailure), answer
    return answer


def token_for(solo: Solo, source) -> bytes:
    token = reply_to(solo, source, GetPeers(SERVICE)).token
    assert token is not None
    return token


def peers_at(solo: Solo, source=LOCAL, service: bytes = SERVICE):
    return set(reply_to(solo, source, GetPeers(service)).peers or ())


# Announcements


def test_an_announcement_records_the_address_that_it_came_from():
    solo = Solo()
    token = token_for(solo, NEAR)
    reply_to(solo, NEAR, AnnouncePeer(SERVICE, 1337, token))
    assert peers_at(solo) == {pack((NEAR[0], 1337))}
    reply_to(solo, NEAR, AnnouncePeer(SERVICE, 0, token))
    assert peers_at(solo) == {pack((NEAR[0], 1337)), pack(NEAR)}
    solo.wait(120)
    assert peers_at(solo) == set()


def test_a_token_of_another_address_is_refused():
    solo = Solo()
    token = token_for(solo, NEAR)
    error = error_to(solo, ("10.0.0.6", 1), AnnouncePeer(SERVICE, 1, token))
    assert error.code == 203
    assert "token" in error.text
    assert error_to(solo, NEAR, Put(b"guessed", b"1:v")).code == 203
    assert peers_at(solo) == set()


@pytest.mark.parametrize(
    ("accept", "sender", "taken"),
    [
        ("private", LOCAL, True),
        ("private", NEAR, True),
        ("private", FAR, False),
        ("never", LOCAL, False),
        ("never", NEAR, False),
        ("always", FAR, True),
    ],
)
def test_a_given_address_is_recorded_from_senders_that_the_settings_allow(accept, sender, taken):
    solo = Solo(accept_given_addresses=accept)
    ask = AnnouncePeer(SERVICE, 80, token_for(solo, sender), host=pack_host("10.1.2.3"))
    if taken:
        reply_to(solo, sender, ask)
        assert peers_at(solo) == {pack(("10.1.2.3", 80))}
    else:
        assert error_to(solo, sender, ask).code == 203
        assert peers_at(solo) == set()


def test_the_senders_own_address_may_always_be_given_and_no_host_never():
    solo = Solo(accept_given_addresses="never")
    token = token_for(solo, FAR)
    reply_to(solo, FAR, AnnouncePeer(SERVICE, 80, token, host=pack_host(FAR[0])))
    solo = Solo(accept_given_addresses="always")
    for nowhere in ("0.0.0.0", "255.255.255.255", "224.0.0.1"):
        ask = AnnouncePeer(SERVICE, 80, token_for(solo, FAR), host=pack_host(nowhere))
        assert error_to(solo, FAR, ask).code == 203


def test_a_reply_has_at_most_a_hundred_addresses_and_fits_one_datagram():
    solo = Solo()
    for n in range(40):
        solo.meet(("10.0.1.1", 1000 + n), node_id(37 * n % 256, n))
    token = token_for(solo, NEAR)
    for n in range(300):
        reply_to(solo, NEAR, AnnouncePeer(SERVICE, 1 + n, token))
    solo.bytes_sent.clear()
    answer = reply_to(solo, NEAR, GetPeers(SERVICE))
    assert len(answer.peers or ()) == 100
    assert len(answer.nodes) > 5
    assert solo.bytes_sent[NEAR] <= MAX_REPLY


# Values


def test_a_signed_value_is_replaced_by_a_newer_one_only():
    solo = Solo()
    token = token_for(solo, NEAR)
    key = bep44.mutable_key(KEY.public_key().public_bytes_raw())
    reply_to(solo, NEAR, put_of(token, 3))
    reply_to(solo, NEAR, put_of(token, 3))  # the same again renews it
    assert error_to(solo, NEAR, put_of(token, 2)).code == 302
    assert error_to(solo, NEAR, put_of(token, 3, b"other")).code == 302
    assert error_to(solo, NEAR, put_of(token, 4, cas=2)).code == 301
    reply_to(solo, NEAR, put_of(token, 4, b"four", cas=3))
    answer = reply_to(solo, NEAR, Get(key))
    assert (answer.seq, answer.value) == (4, b"4:four")
    assert answer.public_key == KEY.public_key().public_bytes_raw()
    assert reply_to(solo, NEAR, Get(key, seq=3)).value == b"4:four"
    known = reply_to(solo, NEAR, Get(key, seq=4))
    assert (known.seq, known.value, known.signature) == (4, None, None)


def test_a_wrong_signature_is_refused_with_206():
    solo = Solo()
    good = put_of(token_for(solo, NEAR), 3)
    bad = Put(good.token, b"5:other", good.public_key, good.seq, good.signature)
    assert error_to(solo, NEAR, bad).code == 206
    assert len(solo.core.values) == 0


# Who gets into the table


# Strangers


def stocked(**settings) -> Solo:
    """A node with nodes, announcements and a value to tell of."""
    solo = Solo(**settings)
    for n in range(40):
        solo.meet(("203.0.113.77", 1000 + n), node_id(37 * n % 256, n))
    token = token_for(solo, NEAR)
    for n in range(120):
        reply_to(solo, NEAR, AnnouncePeer(SERVICE, 1 + n, token))
    reply_to(solo, NEAR, Put(token, bep44.bencoded(bytes(900))))
    return solo


VALUE_KEY = bep44.immutable_key(bytes(900))
LARGE = [GetPeers(SERVICE), FindNode(node_id(1)), Get(VALUE_KEY), GetPeers(b"nobody"), PingQuery()]


@pytest.mark.parametrize("ask", LARGE, ids=lambda ask: type(ask).__name__)
@pytest.mark.parametrize("sender", [b"client", node_id(9)], ids=["client", "node"])
def test_an_unproven_address_gets_at_most_three_times_its_own_bytes(ask, sender):
    solo = stocked()
    solo.bytes_sent.clear()
    query = encode_query(b"tt", sender, ask)
    for _ in range(30):
        solo.receive(FAR, query)
    solo.wait(5)
    assert solo.bytes_sent[FAR] <= AMPLIFICATION * 30 * len(query)
    assert solo.bytes_sent[FAR] > 0


def test_the_bound_holds_for_every_single_query_of_a_stranger():
    solo = stocked()
    for n, ask in enumerate(LARGE):
        for sender in (b"c", node_id(9, n)):
            source = (f"203.0.114.{n}", 1 + len(sender))
            query = encode_query(b"t", sender, ask)
            solo.receive(source, query)
            solo.wait(3)
            assert solo.bytes_sent.get(source, 0) <= AMPLIFICATION * len(query)


@pytest.mark.parametrize("ask", [GetPeers(SERVICE), Get(VALUE_KEY)], ids=["get_peers", "get"])
def test_a_node_gets_the_whole_answer_once_it_has_answered_a_ping(ask):
    solo = stocked()
    out = solo.receive(FAR, encode_query(b"tt", node_id(9), ask))
    assert [type(message) for _, message in out] == [KrpcQuery]
    pinged = out[0][1]
    assert isinstance(pinged, KrpcQuery)
    solo.now += 0.05
    out = solo.answer(FAR, pinged, node_id(9))
    (answer,) = [m for to, m in out if to == FAR and isinstance(m, KrpcReply)]
    assert answer.value is not None or len(answer.peers or ()) == 100
    assert isinstance(solo.ask(FAR, ask, sender=node_id(9)), KrpcReply)  # and at once from now on


def test_a_stranger_that_does_not_answer_gets_a_part_a_moment_later():
    solo = stocked()
    query = encode_query(b"tt", node_id(9), GetPeers(SERVICE))
    solo.receive(FAR, query)
    out = solo.wait(0.5)
    (answer,) = [m for to, m in out if to == FAR and isinstance(m, KrpcReply)]
    assert 0 < len(answer.peers or ()) < 30
    solo.wait(5)
    out = solo.receive(FAR, query)  # known as mute: no second wait
    assert [m for _, m in out if isinstance(m, KrpcReply)]


def test_held_queries_are_bounded():
    solo = stocked(max_sources=10_000)
    for n in range(3000):
        source = (f"198.18.{n >> 8}.{n & 255}", 1000)
        query = encode_query(b"tt", node_id(9, n % 256), GetPeers(SERVICE))
        solo.receive(source, query)
        assert solo.bytes_sent.get(source, 0) <= AMPLIFICATION * len(query)
    server = solo.node._server
    assert server._held_count <= 1000
    assert len(server._pinged) <= 512
    solo.wait(10)
    assert server._held_count == 0
    assert not server._held
    assert not server._pinged


def test_queries_held_for_one_address_and_for_all_are_bounded():
    solo = stocked()
    query = encode_query(b"tt", node_id(9), GetPeers(SERVICE))
    for _ in range(40):
        solo.receive(FAR, query)
    assert len(solo.node._server._held[FAR]) == 16
    for n in range(100):
        for _ in range(16):
            solo.receive((f"198.51.100.{n}", 4000), query)
    held = solo.node._server._held
    assert sum(len(queries) for queries in held.values()) == 1000
    solo.wait(5)
    assert not held


def test_too_many_queries_of_one_address_are_dropped():
    solo = Solo(queries_per_second=10.0, query_burst=20.0)
    answered = sum(solo.ask(FAR, PingQuery()) is not None for _ in range(100))
    assert answered == 20
    assert solo.ask(NEAR, PingQuery()) is not None
    assert all(solo.ask(LOCAL, PingQuery()) is not None for _ in range(100))
    solo.wait(1)
    assert sum(solo.ask(FAR, PingQuery()) is not None for _ in range(100)) == 10
    assert solo.node.counters["queries_over_rate"] == 170


def test_a_malformed_query_is_answered_with_an_error_that_is_no_larger_than_allowed():
    solo = Solo()
    query = b"d1:ad2:id20:" + node_id(1) + b"9:info_hash0:e1:q9:get_peers1:t2:tt1:y1:qe"
    ((to, answer),) = solo.receive(FAR, query)
    assert to == FAR
    assert isinstance(answer, KrpcFailure)
    assert answer.code == 203
    assert solo.bytes_sent[FAR] <= AMPLIFICATION * len(query)


# Anything at all

SENDERS = [b"client", b"", node_id(1), node_id(200), OWN_ID]
VALID = [
    encode_query(b"tt", sender, ask)
    for sender in SENDERS
    for ask in (
        PingQuery(),
        FindNode(node_id(3)),
        GetPeers(SERVICE),
        AnnouncePeer(SERVICE, 80, b"token", host=b"\x0a\0\0\x01"),
        Get(VALUE_KEY),
        put_of(b"token", 3),
    )
] + [encode_reply(KrpcReply(b"tttt", sender, token=b"t", peers=(b"123456",))) for sender in SENDERS]


@given(st.integers(0, 2**32))
def test_datagrams_of_any_content_do_no_harm(seed: int):
    rng = random.Random(seed)
    solo = Solo(max_peers=50, max_values=10, max_sources=20)
    for _ in range(60):
        data = bytearray(rng.choice(VALID))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            damage = rng.randrange(4)
            if damage == 0:
                data[at] = rng.randrange(256)
            elif damage == 1 and len(data) > 10:
                del data[at : at + rng.randint(1, 9)]
            elif damage == 2:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
        source = rng.choice([LOCAL, NEAR, FAR, ("0.0.0.0", 1), ("10.0.0.9", 0)])
        for to, message in solo.receive(source, bytes(data)):
            if isinstance(message, KrpcQuery) and rng.random() < 0.5:
                solo.answer(to, message, rng.choice(SENDERS))
        if rng.random() < 0.2:
            solo.wait(rng.choice([0.05, 1.0, 100.0]))
    core, server = solo.core, solo.node._server
    assert len(core.peers) <= 50
    assert len(core.values) <= 10
    assert len(core.sources) <= 20
    solo.wait(10)  # nobody answers
    assert not server._held
    assert not server._pinged
    assert isinstance(solo.ask(LOCAL, PingQuery()), KrpcReply)  # it lives


@given(st.binary(max_size=100))
def test_arbitrary_bytes_do_no_harm(data: bytes):
    Solo().receive(NEAR, data)
