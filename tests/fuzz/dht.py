"""Datagrams of the DHT."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from p2p.grenache.dht.bencode import BencodeError, decode, encode
from p2p.grenache.dht.dht_node import DhtNode
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.krpc import decode as decode_message
from tests.fuzz.targets import Pieces, piece

OWN_ID = b"\x80" + bytes(19)
SOURCES = [("203.0.113.5", 4000), ("10.0.0.5", 4000), ("127.0.0.1", 4001), ("198.51.100.9", 1)]


def fuzz_dht(data: bytes) -> None:
    """A node takes any datagrams and the passage of time. Whatever is bencoded has one encoding; what the node sends
    can be read, and is no longer than a datagram may be."""
    source = Pieces(data)
    node = DhtNode(DhtSettings(), random.Random(1), 1000.0, node_id=OWN_ID)
    now = 1000.0
    while source:
        how = source.byte()
        now += (how >> 2) / 4
        datagram = source.piece()
        with suppress(BencodeError):
            value = decode(datagram)
            assert decode(encode(value)) == value
        sender = SOURCES[how & 3]
        node.take_outgoing()
        node.receive(now, sender, datagram)
        answered = [out for out, to in node.take_outgoing() if to == sender]
        for out in answered:
            decode_message(out)
            assert len(out) <= 1500
        node.tick(now)


def datagram(how: int, value: Any) -> bytes:
    return bytes([how]) + piece(encode(value))


def query(name: bytes, how: int = 0, **arguments: Any) -> bytes:
    fields = {key.encode(): value for key, value in {"id": b"q" * 20, **arguments}.items()}
    return datagram(how, {b"t": b"aa", b"y": b"q", b"q": name, b"a": fields})


def seeds_dht() -> list[bytes]:
    target, info = b"t" * 20, b"h" * 20
    answer = {b"t": b"\x00\x01", b"y": b"r", b"r": {b"id": b"r" * 20, b"nodes": b"n" * 26}}
    return [
        query(b"ping") + query(b"find_node", target=target),
        query(b"get_peers", info_hash=info, how=1)
        + query(b"announce_peer", info_hash=info, port=80, token=b"tk", implied_port=1),
        query(b"get", target=target) + query(b"put", v=b"value", token=b"tk"),
        query(b"put", how=2, v=b"v", k=b"k" * 32, sig=b"s" * 64, seq=1, salt=b"x", token=b"t"),
        datagram(4, answer) + datagram(5, {b"t": b"aa", b"y": b"e", b"e": [201, b"error"]}),
    ]
