"""One DHT node in a test: datagrams go in by hand, what it sends is looked at."""

from __future__ import annotations

import random
from typing import Any

from p2p.grenache.dht.dht_node import DhtNode
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.krpc import (
    Ask,
    KrpcFailure,
    KrpcQuery,
    KrpcReply,
    Message,
    PingQuery,
    decode,
    encode_failure,
    encode_query,
    encode_reply,
)
from p2p.grenache.dht.query_server import PING_BURST
from p2p.grenache.directory import Address

OWN_ID = b"\x80" + bytes(19)
LOCAL: Address = ("127.0.0.1", 4000)
NEAR: Address = ("10.0.0.5", 4000)
FAR: Address = ("203.0.113.5", 4000)  # a public address


def node_id(first: int, last: int = 0) -> bytes:
    """A node id that differs in its first and last byte."""
    return bytes([first]) + bytes(18) + bytes([last])


class Solo:
    """A node, the time, and what it has sent."""

    def __init__(self, *, rng_seed: int = 1, **settings: Any) -> None:
        self.now = 1000.0
        self.node = DhtNode(
            DhtSettings(**settings), random.Random(rng_seed), self.now, node_id=OWN_ID
        )
        self.bytes_sent: dict[Address, int] = {}

    @property
    def core(self) -> Any:
        return self.node._core

    def sent(self) -> list[tuple[Address, Message]]:
        """Take the messages that the node wants to send now."""
        out = []
        for data, address in self.node.take_outgoing():
            self.bytes_sent[address] = self.bytes_sent.get(address, 0) + len(data)
            out.append((address, decode(data)))
        return out

    def receive(self, source: Address, data: bytes) -> list[tuple[Address, Message]]:
        self.node.receive(self.now, source, data)
        return self.sent()

    def ask(
        self, source: Address, ask: Ask, sender: bytes = b"client", t: bytes = b"tt"
    ) -> KrpcReply | KrpcFailure | None:
        """Its answer to a query, None if there is none at once. A sender of 20 bytes is a node."""
        for address, message in self.receive(source, encode_query(t, sender, ask)):
            if (
                address == source
                and not isinstance(message, KrpcQuery)
                and message.transaction == t
            ):
                return message
        return None

    def answer(self, source: Address, query: KrpcQuery, sender: bytes, **more: Any) -> list[Any]:
        """Answer a query of its."""
        return self.receive(source, encode_reply(KrpcReply(query.transaction, sender, **more)))

    def refuse(self, source: Address, query: KrpcQuery, code: int, text: str = "no") -> list[Any]:
        return self.receive(source, encode_failure(KrpcFailure(query.transaction, code, text)))

    def wait(self, seconds: float) -> list[tuple[Address, Message]]:
        """Let time pass; what it sent meanwhile."""
        end = self.now + seconds
        out = []
        while (deadline := self.node.next_deadline()) <= end:
            self.now = max(self.now, deadline)
            self.node.tick(self.now)
            out += self.sent()
        self.now = end
        return out

    def meet(self, address: Address, sender: bytes) -> None:
        """Have a node in its table: it asks, is pinged, and answers."""
        self.node._server._pings.level = PING_BURST  # as if the last ones were long ago
        for to, message in self.receive(address, encode_query(b"me", sender, PingQuery())):
            if to == address and isinstance(message, KrpcQuery):
                self.answer(address, message, sender)
        assert self.core.table.at(address) is not None

    def queries(self, messages: list[tuple[Address, Message]]) -> list[tuple[Address, KrpcQuery]]:
        return [(to, message) for to, message in messages if isinstance(message, KrpcQuery)]
