"""DHT node without I/O: datagrams and the time in, datagrams out.

    node.receive(now, source, data)     process a datagram
    node.tick(now)                      call at `node.next_deadline()`, or later
    node.take_outgoing()                datagrams to send; call after each of these and each operation

Times are monotonic seconds; addresses are (IPv4 address, port). Results of operations go to callbacks,
which may be called before the call that started the operation returns. No received datagram raises.

    core        the tables and the queries under way
    serving     answers to others
    operations  announce, look up, put, get; each runs a `search`
    upkeep      bootstrapping and maintenance of the routing table
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable

from p2p.base.reach import Reach, reach
from p2p.grenache.dht import bep42, lookups
from p2p.grenache.dht.compact_addresses import LOOPBACK_NET, pack_host, unpack, usable
from p2p.grenache.dht.dht_context import DhtContext
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.krpc import (
    BadQuery,
    KrpcError,
    KrpcFailure,
    KrpcQuery,
    decode,
    encode_failure,
)
from p2p.grenache.dht.lookups import MAX_FOUND, Announcement, LookupResult, Offer, PutResult
from p2p.grenache.dht.query_server import QueryServer
from p2p.grenache.dht.query_sources import AMPLIFICATION
from p2p.grenache.dht.stores import Item
from p2p.grenache.dht.table_upkeep import Bootstrap, Upkeep
from p2p.grenache.directory import Address


class DhtNode:
    """Node of the DHT, without I/O.

    `rng` makes ids, tokens and transactions: outside of tests, `random.SystemRandom`. An announcement
    with a given address is taken from senders as `accept_given_addresses` says, see `serving`. `on_joined` is called
    at the end of each search for the own neighbours.
    """

    def __init__(
        self,
        settings: DhtSettings,
        rng: random.Random,
        now: float,
        *,
        node_id: bytes | None = None,
        bound_host: str | None = None,
        on_joined: Callable[[], object] = lambda: None,
    ) -> None:
        if node_id is None and settings.bep42 and settings.public_host is not None:
            node_id = bep42.make_id(settings.public_host, rng)
        self._core = DhtContext(
            settings, rng, now, node_id, bound_host=bound_host, on_joined=on_joined
        )
        self._server = QueryServer(self._core)
        self._upkeep = Upkeep(self._core)
        self._core.listen(self._on_answer)
        self._datagrams_in = self._datagrams_out = self._bytes_in = 0
        self._upkeep.start(now)

    @property
    def id(self) -> bytes:
        """20 bytes. With BEP 42 it may change."""
        return self._core.id

    # Input and output

    def receive(self, now: float, source: Address, data: bytes) -> None:
        """Process a datagram of any content from `source`."""
        core = self._core
        self._datagrams_in += 1
        self._bytes_in += len(data)
        if not usable(source):
            return
        try:
            message = decode(data)
        except BadQuery as error:
            core.counters["malformed"] += 1
            reply = encode_failure(KrpcFailure(error.transaction, error.code, error.text))
            if core.sources.allow(now, source[0]) and len(reply) <= AMPLIFICATION * len(data):
                core.send(reply, source)
            return
        except KrpcError:
            core.counters["malformed"] += 1
            return
        if isinstance(message, KrpcQuery):
            if not core.sources.allow(now, source[0]):
                core.counters["queries_over_rate"] += 1
                return
            core.queries.alive(source)
            self._server.serve(now, source, message, len(data))
        elif not core.queries.message(now, source, message):
            core.counters["unexpected_answers"] += 1

    def tick(self, now: float) -> None:
        """Do the work that is due."""
        self._core.timers.run(now)

    def next_deadline(self) -> float:
        """Return the time of the next call of `tick`."""
        return self._core.timers.next()

    def take_outgoing(self) -> list[tuple[bytes, Address]]:
        """Return the datagrams to send now."""
        outgoing, self._core.outgoing = self._core.outgoing, []
        self._datagrams_out += len(outgoing)
        return outgoing

    def _on_answer(self, now: float, address: Address, news: bool) -> None:
        self._server.heard(now, address)
        self._upkeep.heard(now, address, news)

    # Operations

    @property
    def busy(self) -> bool:
        """True while too many searches are under way to begin another for a user."""
        return self._core.searches >= self._core.settings.max_searches

    def set_bootstrap(self, now: float, addresses: Iterable[Address]) -> None:
        """Set the nodes to query first, and again when no other node is left."""
        self._upkeep.set_bootstrap(now, tuple(a for a in addresses if usable(a)))

    def announce(
        self,
        now: float,
        service: bytes,
        port: int,
        host: str | None,
        done: Callable[[int], None],
        *,
        implied: bool = False,
    ) -> None:
        """Announce at the closest nodes and here that `service` is served at `port`. `host`: IPv4
        address to record instead of the own one. `implied`: `port` is the own UDP port, and others
        record the port that they see. `done` receives the number of nodes that hold it, this node
        included."""
        own = self._core.own
        own.add(now, service, port, host)
        Announcement(
            self._core,
            Offer(service, 0 if implied else port, host),
            lambda taken: done(1 + taken),
            wanted=lambda: own.holds(service, port, host),
            ended=lambda taken: own.held_by(service, port, host, taken),
        ).start(now)

    def withdraw(
        self, now: float, service: bytes, port: int, host: str | None, done: Callable[[int], None]
    ) -> None:
        """Withdraw an announcement made here, also at Grapes of this project; at others it expires.
        `done` receives the number of nodes that removed it, this node included if it had it."""
        own = self._core.own
        known = own.remove(service, port, host)
        Announcement(
            self._core,
            Offer(service, port, host, gone=True),
            lambda taken: done(known + taken),
            wanted=lambda: not own.holds(service, port, host),
        ).start(now)

    def lookup(self, now: float, service: bytes, done: Callable[[LookupResult], None]) -> None:
        """Look up the addresses of `service` in the network. `listed` adds the entries of this
        node."""
        lookups.look_up(self._core, now, service, done)

    def listed(
        self, now: float, service: bytes, found: Collection[bytes], reached_at: str | None = None
    ) -> list[Address]:
        """Merge the network's answers with this node's own entries, each address once, in random order.

        `reached_at`: local address over which the requester connected. If that is not a loopback
        address, it replaces loopback addresses, which such a requester cannot use.
        """
        core = self._core
        if not found and not core.holds(now, service):
            return []
        held = core.peers.get(now, service, MAX_FOUND, core.order)
        peers = list(dict.fromkeys([*found, *held]))
        peers = core.own.listed(now, service, peers) + peers
        if reached_at is not None and reach(reached_at) > Reach.LOOPBACK:
            here = pack_host(reached_at)
            peers = [here + peer[4:] if peer[0] == LOOPBACK_NET else peer for peer in peers]
        peers = list(dict.fromkeys(peers))
        core.order.shuffle(peers)
        return [unpack(peer) for peer in peers]

    def put(
        self, now: float, item: Item, cas: int | None, done: Callable[[PutResult], None]
    ) -> None:
        """Store a value whose signature was checked, at the closest nodes and here."""
        lookups.put(self._core, now, item, cas, done)

    def get(self, now: float, key: bytes, salt: bytes, done: Callable[[Item | None], None]) -> None:
        """Get the newest value under a key of 20 bytes."""
        lookups.get(self._core, now, key, salt, done)

    # Status

    @property
    def good_nodes(self) -> int:
        """Contacts that answer."""
        return len(self._core.table)

    @property
    def doubtful_nodes(self) -> int:
        """Contacts that do not answer at the moment."""
        return sum(contact.doubtful for contact in self._core.table)

    @property
    def announcements(self) -> int:
        """Number of announcements stored for others."""
        return len(self._core.peers)

    @property
    def own_announcements(self) -> int:
        return len(self._core.own)

    @property
    def values(self) -> int:
        return len(self._core.values)

    @property
    def seen_as(self) -> str | None:
        """Own IP address as others see it."""
        return self._core.seen.best()[0]

    @property
    def bootstrap(self) -> dict[Address, Bootstrap]:
        return self._upkeep.bootstrap

    @property
    def counters(self) -> dict[str, int]:
        """Counters since the start."""
        return {
            "datagrams_in": self._datagrams_in,
            "datagrams_out": self._datagrams_out,
            "bytes_in": self._bytes_in,
            "bytes_out": self._core.bytes_out,
            **self._core.counters,
        }
