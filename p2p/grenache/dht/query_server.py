"""Query server: answers to the queries of other DHT nodes.

**Amplification.** An address that has not proven that it receives this node's datagrams gets at
most AMPLIFICATION times the bytes that came from it, including a ping. A longer answer is held back
until the requester has answered that ping, one round trip later; if it does not, as programs that
only send queries do not, it gets as much of the answer as fits.

**Given addresses.** `announce_peer` records the address that it came from. A given address (`host`,
an extension of this project's Grapes) could direct all users of the service to a victim, so by
default it is accepted only from senders on loopback or in private networks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from p2p.base.reach import Reach, may_name, reach
from p2p.grenache.dht.compact_addresses import LOOPBACK_NET, pack, unpack_host
from p2p.grenache.dht.dht_context import DhtContext
from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.krpc import (
    BAD_SIGNATURE,
    ID_BYTES,
    NODE_BYTES,
    PROTOCOL_ERROR,
    AnnouncePeer,
    FindNode,
    Get,
    GetPeers,
    KrpcFailure,
    KrpcQuery,
    KrpcReply,
    PingQuery,
    Put,
    encode_failure,
    encode_query,
    encode_reply,
)
from p2p.grenache.dht.queries import TRIES
from p2p.grenache.dht.query_sources import AMPLIFICATION
from p2p.grenache.dht.stores import REFUSALS, Item, conflict
from p2p.grenache.directory import Address
from p2p.ground.tokens import Tokens

MAX_REPLY: Final = 1400  # bytes: one datagram that no network has to fragment
MAX_PEERS: Final = 100  # in a reply, as in the Node.js Grape
MAX_HELD: Final = 1_000  # queries held back until the requester has proven its address
MAX_HELD_PER_ADDRESS: Final = 16
MAX_PINGED: Final = 512  # unproven addresses pinged at once
# Pings of proven requesters that are new here, which serve the routing table alone. Where a hundred nodes start at
# once everyone asks everyone, and each would be pinged by all; who is left out is pinged when it asks again.
PING_RATE: Final = 20.0  # a second
PING_BURST: Final = float(K)
PEER_BYTES: Final = 8  # of a compact address in a list
PING_BYTES: Final = len(encode_query(bytes(4), bytes(ID_BYTES), PingQuery()))


class QueryServer:
    """Answers to queries from the tables of a node."""

    def __init__(self, core: DhtContext) -> None:
        self._core = core
        self._pinged: set[Address] = set()  # requesters with a pending proof
        self._held: dict[Address, list[tuple[KrpcQuery, int]]] = {}
        self._held_count = 0
        self._pings = Tokens(PING_BURST)

    def serve(self, now: float, source: Address, query: KrpcQuery, size: int) -> None:
        """Answer a query of `size` bytes, or hold the answer back, see the module."""
        core = self._core
        core.counters[f"asked_{query.ask.method.decode()}"] += 1
        answer = self._answer(now, source, query)
        proven = core.sources.is_proven(now, source[0])
        room = MAX_REPLY if proven else AMPLIFICATION * size
        is_node = not query.read_only and core.acceptable(query.sender, source)
        if is_node and core.table.wants(query.sender, source):
            room -= self._ping(now, source, proven)
        data = _encode(answer)
        if len(data) <= room or (proven and len(data) <= MAX_REPLY):
            core.send(data, source)
            return
        if is_node and not proven and not core.queries.path(source).hopeless:
            room -= self._ping(now, source, proven)
            if source in self._pinged and self._hold(source, query, size):
                return
        self._send_what_fits(source, answer, room)

    def heard(self, now: float, address: Address) -> None:
        """Send the answers held back for a node that has answered."""
        held = self._held.pop(address, ())
        self._held_count -= len(held)
        for query, _ in held:
            self._send_what_fits(address, self._answer(now, address, query), MAX_REPLY)

    # Unproven addresses

    def _ping(self, now: float, source: Address, proven: bool) -> int:
        """Ping the requester, unless a ping is pending. Returns the bytes sent for it."""
        if source in self._pinged or len(self._pinged) >= MAX_PINGED:
            return 0
        if proven and not self._pings.take(now, PING_RATE, PING_BURST):
            return 0
        query = self._core.ask(
            now,
            source,
            PingQuery(),
            replied=lambda now, reply: self._pinged.discard(source),
            failed=lambda now, failure: self._silent(now, source),
            on_late=lambda now: self._give_up(now, source),
            tries=TRIES if proven else 1,
        )
        if query is None:
            return 0
        self._pinged.add(source)
        return 0 if proven else PING_BYTES

    def _hold(self, source: Address, query: KrpcQuery, size: int) -> bool:
        held = self._held.setdefault(source, [])
        if len(held) >= MAX_HELD_PER_ADDRESS or self._held_count >= MAX_HELD:
            if not held:
                del self._held[source]
            return False
        held.append((query, size))
        self._held_count += 1
        return True

    def _give_up(self, now: float, source: Address) -> None:
        """Send as much as an unproven requester may get: no proof came in time."""
        held = self._held.pop(source, ())
        self._held_count -= len(held)
        for query, size in held:
            room = AMPLIFICATION * size - PING_BYTES
            self._send_what_fits(source, self._answer(now, source, query), room)

    def _silent(self, now: float, source: Address) -> None:
        self._pinged.discard(source)
        self._give_up(now, source)

    def _send_what_fits(self, source: Address, answer: KrpcReply | KrpcFailure, room: int) -> None:
        data = _encode(answer)
        if len(data) > room and isinstance(answer, KrpcReply):
            data = _encode(_cut(answer, room))
        if len(data) <= room:
            self._core.send(data, source)

    # Answers

    def _answer(self, now: float, source: Address, query: KrpcQuery) -> KrpcReply | KrpcFailure:
        core, ask, transaction = self._core, query.ask, query.transaction
        plain = KrpcReply(transaction, core.id, seen_as=source)
        if isinstance(ask, GetPeers):
            return self._get_peers(now, source, plain, ask)
        if isinstance(ask, FindNode):
            return replace(plain, compact_nodes=self._closest(source, ask.target))
        if isinstance(ask, Get):
            return self._get(now, source, plain, ask)
        if isinstance(ask, AnnouncePeer | Put):
            if not core.tokens.valid(now, source[0], ask.token):
                method = ask.method.decode()
                return KrpcFailure(transaction, PROTOCOL_ERROR, f"cannot `{method}` with bad token")
            core.sources.proven(now, source[0])
            if isinstance(ask, Put):
                return self._put(now, plain, ask)
            return self._announce(now, source, plain, ask)
        return plain

    def _closest(self, source: Address, target: bytes) -> bytes:
        contacts = self._core.table.closest(target)
        if reach(source[0]) is not Reach.LOOPBACK:  # not reachable from there
            contacts = [c for c in contacts if c.compact[ID_BYTES] != LOOPBACK_NET]
        return b"".join([c.compact for c in contacts])

    def _get_peers(self, now: float, source: Address, plain: KrpcReply, ask: GetPeers) -> KrpcReply:
        core = self._core
        own = core.own.told(now, ask.target, source[0])
        peers = core.peers.get(now, ask.target, MAX_PEERS, core.order)
        if reach(source[0]) is not Reach.LOOPBACK:
            peers = [peer for peer in peers if peer[0] != LOOPBACK_NET]
        if own:
            peers = list(dict.fromkeys(own + peers))[:MAX_PEERS]
        plain.token = core.tokens.make(now, source[0])
        plain.compact_nodes = self._closest(source, ask.target)
        plain.peers = tuple(peers)
        return plain

    def _announce(
        self, now: float, source: Address, plain: KrpcReply, ask: AnnouncePeer
    ) -> KrpcReply | KrpcFailure:
        core = self._core
        host, port = source[0], ask.port or source[1]
        if ask.host is not None:
            given = unpack_host(ask.host)
            if not self._may_give(host, given):
                core.counters["given_addresses_refused"] += 1
                return KrpcFailure(
                    plain.transaction,
                    PROTOCOL_ERROR,
                    "`announce_peer` with a given host is not taken from this address",
                )
            host = given
        if ask.gone:
            core.peers.remove(ask.target, pack((host, port)))
        else:
            core.peers.add(now, ask.target, pack((host, port)), source[0])
        return plain

    def _may_give(self, sender: str, given: str) -> bool:
        accept = self._core.settings.accept_given_addresses
        if given == sender or accept == "always":
            return reach(given) is not Reach.NONE
        return (
            accept == "private"
            and reach(sender) <= Reach.PRIVATE
            and may_name(reach(sender), given)
        )

    def _get(self, now: float, source: Address, plain: KrpcReply, ask: Get) -> KrpcReply:
        core = self._core
        item = core.values.get(now, ask.target)
        reply = replace(
            plain,
            token=core.tokens.make(now, source[0]),
            compact_nodes=self._closest(source, ask.target),
        )
        if item is None:
            return reply
        if item.public_key is None:
            return replace(reply, value=item.value)
        if ask.seq is not None and item.seq <= ask.seq:
            return replace(reply, seq=item.seq)
        return replace(
            reply,
            value=item.value,
            public_key=item.public_key,
            seq=item.seq,
            signature=item.signature,
        )

    def _put(self, now: float, plain: KrpcReply, ask: Put) -> KrpcReply | KrpcFailure:
        core = self._core
        item = Item(ask.value, ask.public_key, ask.seq, ask.signature, ask.salt)
        if not item.signed():
            return KrpcFailure(plain.transaction, BAD_SIGNATURE, "invalid signature")
        refusal = conflict(core.values.get(now, item.key()), item, ask.cas)
        if refusal is not None:
            return KrpcFailure(plain.transaction, refusal, REFUSALS[refusal])
        core.values.put(now, item)
        return plain


def _encode(answer: KrpcReply | KrpcFailure) -> bytes:
    return encode_failure(answer) if isinstance(answer, KrpcFailure) else encode_reply(answer)


def _cut(reply: KrpcReply, room: int) -> KrpcReply:
    """Return as much of a reply as fits `room` bytes: addresses before nodes; a value in full or
    not at all."""
    if reply.value is not None:
        left = room - len(encode_reply(replace(reply, compact_nodes=b"")))
        if left < 0:
            reply = replace(reply, value=None, public_key=None, seq=None, signature=None)
            return _cut(reply, room)
        return replace(reply, compact_nodes=_first_nodes(reply, left))
    bare = replace(reply, compact_nodes=b"", peers=None)
    left = room - len(encode_reply(bare))
    peers = (reply.peers or ())[: max(0, (left - 10) // PEER_BYTES)]
    if peers:
        left -= 10 + PEER_BYTES * len(peers)
    return replace(bare, peers=peers, compact_nodes=_first_nodes(reply, left))


def _first_nodes(reply: KrpcReply, room: int) -> bytes:
    """Return the nodes that fit with their key, `5:nodes520:`."""
    return reply.compact_nodes[: max(0, (room - 11) // NODE_BYTES) * NODE_BYTES]
