"""KRPC: the datagrams of real Grapes are read, ours are as theirs, and nothing else gets through."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.dht import bencode, krpc
from p2p.grenache.dht.krpc import (
    MAX_PEERS,
    AnnouncePeer,
    BadQuery,
    DhtContact,
    FindNode,
    Get,
    GetPeers,
    KrpcError,
    KrpcFailure,
    KrpcQuery,
    KrpcReply,
    PingQuery,
    Put,
    decode,
    encode_failure,
    encode_query,
    encode_reply,
)

ID = b"i" * 20
ASKS = [
    PingQuery(),
    FindNode(b"t" * 20),
    GetPeers(b"rpc_cap"),
    GetPeers("übersetzung".encode()),
    GetPeers(b"n" * 256),
    AnnouncePeer(b"rpc_cap", 1337, b"token"),
    AnnouncePeer(b"rpc_cap", 0, b"token"),
    AnnouncePeer(b"rpc_cap", 1337, b"token", host=b"\x0a\x01\x02\x03"),
    AnnouncePeer(b"rpc_cap", 1337, b"token", gone=True),
    Get(b"t" * 20),
    Get(b"t" * 20, seq=3),
    Put(b"token", b"5:value"),
    Put(b"token", b"li1e1:ae", b"k" * 32, 7, b"s" * 64),
    Put(b"token", b"5:value", b"k" * 32, 7, b"s" * 64, b"salt", 6),
]
REPLIES = [
    KrpcReply(b"tt", ID),
    KrpcReply(
        b"tt",
        ID,
        token=b"token",
        compact_nodes=DhtContact(b"n" * 20, ("10.0.0.1", 20001)).compact(),
    ),
    KrpcReply(b"tt", ID, token=b"token", peers=(b"\x7f\0\0\x01\x059", b"\x7f\0\0\x02\x059")),
    KrpcReply(b"tt", ID, value=b"5:value", public_key=b"k" * 32, seq=0, signature=b"s" * 64),
    KrpcReply(b"tt", ID, seen_as=("10.0.0.2", 20001)),
]


@pytest.mark.parametrize("ask", ASKS, ids=str)
def test_a_query_comes_back_as_it_was(ask):
    assert decode(encode_query(b"tt", ID, ask)) == KrpcQuery(b"tt", ID, ask)


def usual_forms() -> list[bytes]:
    """Datagrams as this project's Grapes and the Node.js ones send them, and some that are nearly so."""
    end = b"1:t2:tt1:y1:"
    node = bytes(range(26))
    peer = b"6:\n\x00\x00\x01\x059"
    return [
        *(encode_query(b"tttt", ID, ask) for ask in ASKS),
        *(encode_reply(replace(reply, transaction=b"tttt")) for reply in REPLIES),
        encode_reply(KrpcReply(b"tttt", ID, b"t" * 8, node * 20, (peer[2:],) * 3, seen_as=("1.2.3.4", 5))),
        encode_reply(KrpcReply(b"tt", ID, b"t" * 20, node * 70, (peer[2:],) * 2_100)),
        b"d1:ad2:id20:" + ID + b"9:info_hash8:rpc_cap2e1:q9:get_peers" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"e1:q4:ping" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"6:target20:" + ID + b"e1:q9:find_node" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"6:target19:" + ID[1:] + b"e1:q9:find_node" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"6:target20:" + ID + b"e1:q4:ping" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"9:info_hash300:" + b"n" * 300 + b"e1:q9:get_peers" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"9:info_hash0:e1:q9:get_peers" + end + b"qe",
        b"d1:ad2:id20:" + ID + b"9:info_hash9:rpc_cap2e1:q9:get_peers" + end + b"qe",
        *(
            b"d1:ad2:id20:" + ID + b"12:implied_porti%de9:info_hash1:a4:porti%de" % (implied, port)
            + b"5:token20:" + b"T" * 20 + b"e1:q13:announce_peer" + end + b"qe"
            for implied in (0, 1)
            for port in (0, 1, 65535, 65536)
        ),
        b"d1:rd2:id20:" + ID + b"5:nodes27:" + node + b"x5:token8:" + b"T" * 8 + b"e" + end + b"re",
        b"d1:rd2:id20:" + ID + b"5:token8:" + b"T" * 8 + b"6:valueslee" + end + b"re",
        b"d1:rd2:id20:" + ID + b"5:token8:" + b"T" * 8 + b"6:valuesl" + peer + b"5:12345ee" + end + b"re",
        b"d1:rd2:id20:" + ID + b"e" + end + b"re",
    ]  # fmt: skip


def outcome(data: bytes) -> object:
    try:
        return decode(data)
    except BadQuery as error:
        return ("bad query", error.transaction, error.code, error.text)
    except KrpcError as error:
        return ("unreadable", str(error))


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(len(changed))
        how = rng.randrange(3)
        if how == 0:
            changed[at] = rng.choice(b"0123456789:deilqrtv\n" + bytes([rng.randrange(256)]))
        elif how == 1:
            del changed[at : at + rng.randint(1, 3)]
        else:
            changed[at:at] = rng.choice((b"0", b"1", b":", b"e", b"6:......"))
    return bytes(changed)


def test_the_usual_forms_are_read_as_the_general_way_reads_them(monkeypatch):
    rng = random.Random(16)
    datagrams = [damaged(data, rng) for data in usual_forms() for _ in range(60)] + usual_forms()
    found = [outcome(data) for data in datagrams]
    for read in ("_usual_query", "_usual_node_query", "_usual_reply"):
        assert sum(getattr(krpc, read)(data) is not None for data in datagrams) > 30
        monkeypatch.setattr(krpc, read, lambda data: None)
    assert found == [outcome(data) for data in datagrams]


def test_nodes_are_read_of_their_compact_form():
    nodes = [DhtContact(bytes([n]) * 20, (f"10.0.0.{n}", 20000 + n)) for n in range(1, 4)]
    reply = KrpcReply(b"tt", ID, compact_nodes=b"".join(node.compact() for node in nodes))
    assert reply.nodes == nodes


def test_an_error_comes_back_as_it_was():
    failure = KrpcFailure(b"tt", 203, "cannot `put` with bad token")
    assert decode(encode_failure(failure)) == failure


def test_our_announcement_equals_a_real_grapes_but_for_the_version():
    ours = encode_query(b"ab", ID, AnnouncePeer(b"rpc_cap2", 1337, b"T" * 20))
    assert ours.replace(b"1:v4:XN\x00\x01", b"") == (
        b"d1:ad2:id20:" + ID + b"12:implied_porti0e9:info_hash8:rpc_cap24:porti1337e"
        b"5:token20:" + b"T" * 20 + b"e1:q13:announce_peer1:t2:ab1:y1:qe"
    )


def arguments(method: bytes, **changes):
    """A valid query with arguments changed; None takes one away."""
    valid = {
        b"find_node": {b"target": b"t" * 20},
        b"get_peers": {b"info_hash": b"a"},
        b"announce_peer": {b"info_hash": b"a", b"port": 1, b"token": b"T"},
        b"get": {b"target": b"t" * 20},
        b"put": {
            b"token": b"T",
            b"v": b"v",
            b"k": b"k" * 32,
            b"seq": 1,
            b"sig": b"s" * 64,
        },
    }[method]
    a = {b"id": ID, **valid, **{key.encode(): value for key, value in changes.items()}}
    a = {key: value for key, value in a.items() if value is not None}
    return bencode.encode({b"a": a, b"q": method, b"t": b"tt", b"y": b"q"})


@pytest.mark.parametrize(
    ("method", "changes", "code"),
    [
        (b"find_node", {"target": None}, 203),
        (b"find_node", {"target": b"short"}, 203),
        (b"find_node", {"id": None}, 203),
        (b"find_node", {"id": 5}, 203),
        (b"get_peers", {"info_hash": None}, 203),
        (b"get_peers", {"info_hash": b""}, 203),  # kills a real Grape, in pairs
        (b"get_peers", {"info_hash": b"n" * 257}, 203),
        (b"get_peers", {"info_hash": 7}, 203),
        (b"announce_peer", {"port": 0}, 203),
        (b"announce_peer", {"port": 65536}, 203),
        (b"announce_peer", {"port": b"80"}, 203),
        (b"announce_peer", {"port": None}, 203),
        (b"announce_peer", {"token": None}, 203),
        (b"announce_peer", {"token": b""}, 203),
        (b"announce_peer", {"host": b"10.1.2.3"}, 203),
        (b"get", {"target": b"x"}, 203),
        (b"get", {"seq": -1}, 203),
        (b"put", {"v": None}, 203),
        (b"put", {"v": bytes(1001)}, 205),
        (b"put", {"k": None}, 203),
        (b"put", {"sig": None}, 203),
        (b"put", {"seq": None}, 203),
        (b"put", {"seq": 2**63}, 203),
        (b"put", {"salt": bytes(65)}, 207),
        (b"put", {"cas": b"1"}, 203),
    ],
)
def test_a_query_that_lacks_something_is_to_be_answered_with_an_error(method, changes, code):
    with pytest.raises(BadQuery) as caught:
        decode(arguments(method, **changes))
    assert caught.value.code == code
    assert caught.value.transaction == b"tt"
    assert len(caught.value.text) < 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"i1e",
        b"de",
        b"d1:t2:tte",
        b"d1:t2:tt1:y1:xe",
        b"d1:y1:qe",
        b"d1:ti1e1:y1:qe",
        b"d1:t33:" + b"t" * 33 + b"1:y1:qe",
        b"d1:t2:tt1:y1:re",
        b"d1:rde1:t2:tt1:y1:re",
        b"d1:rd2:idi1ee1:t2:tt1:y1:re",
    ],
)
def test_messages_that_cannot_be_answered_are_dropped(data):
    with pytest.raises(KrpcError) as caught:
        decode(data)
    assert not isinstance(caught.value, BadQuery)


def test_lists_in_replies_are_read_up_to_a_limit():
    r = {b"id": ID, b"nodes": b"n" * 26 * 100, b"values": [b"123456"] * (MAX_PEERS + 1)}
    read = decode(bencode.encode({b"r": r, b"t": b"tt", b"y": b"r"}))
    assert isinstance(read, KrpcReply)
    assert len(read.nodes) == 64
    assert read.peers is not None
    assert len(read.peers) == MAX_PEERS


VALID = [encode_query(b"tt", ID, ask) for ask in ASKS] + [encode_reply(r) for r in REPLIES]


@given(st.sampled_from(VALID), st.randoms(use_true_random=False))
def test_damaged_datagrams_are_read_or_refused(data: bytes, rng: random.Random):
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(3), rng.randrange(len(damaged))
        if kind == 0:
            damaged[at] = rng.randrange(256)
        elif kind == 1:
            del damaged[at : at + rng.randint(1, 5)]
        else:
            damaged[at:at] = rng.randbytes(rng.randint(1, 5))
        if not damaged:
            break
    try:
        decode(bytes(damaged))
    except KrpcError:
        return


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes):
    try:
        decode(data)
    except KrpcError:
        return
