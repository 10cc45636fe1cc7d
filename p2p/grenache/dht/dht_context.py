"""Shared state of the parts of a DHT node: tables, queries, and the start of a search."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from p2p.base.reach import may_dial, reach
from p2p.grenache.dht import bep42
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.iterative_search import (
    WHEN_ALL_FAILED,
    Candidate,
    Ending,
    IterativeSearch,
    Visit,
)
from p2p.grenache.dht.krpc import ID_BYTES, KIND, Ask, KrpcReply
from p2p.grenache.dht.own_announcements import OwnEntries, SeenAs
from p2p.grenache.dht.queries import TRIES, Failed, PendingQuery, Queries, Replied
from p2p.grenache.dht.query_sources import QuerySources, WriteTokens
from p2p.grenache.dht.routing_table import RoutingTable
from p2p.grenache.dht.stores import AnnouncementStore, ValueStore
from p2p.grenache.directory import Address
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.timers import Timers

MAX_HOLDERS = 1_000  # services whose holders are remembered
MAX_OWN_ADDRESSES = 16  # addresses that lead back to this node; the latest are remembered


def of_our_kind(kind: bytes) -> bool:
    """Return True if the `v` of a message names a Grape of this project, of any version."""
    return kind[:2] == KIND[:2]


class DhtContext:
    """The shared state of one DHT node. Times are monotonic seconds."""

    def __init__(
        self,
        settings: DhtSettings,
        rng: random.Random,
        now: float,
        node_id: bytes | None,
        *,
        bound_host: str | None = None,
        on_joined: Callable[[], object] = lambda: None,
    ) -> None:
        """`bound_host`: address of the own socket, unless it is a wildcard. `on_joined` is called when a search for the
        neighbours has ended."""
        self.settings = settings
        self.rng = rng  # for unguessable values
        # For the order of answers, which need not be secret; much faster than the system's
        # generator.
        self.order = random.Random(rng.getrandbits(64))  # noqa: S311
        self.id = node_id or rng.randbytes(ID_BYTES)
        self.timers = Timers()
        self.table = RoutingTable(self.id, settings.node_liveness)
        self.tokens = WriteTokens(rng, now)
        self.sources = QuerySources(
            settings.queries_per_second, settings.query_burst, settings.max_sources
        )
        self.peers = AnnouncementStore(
            settings.peer_max_age,
            settings.max_peers,
            settings.max_peers_per_service,
            settings.max_peers_per_source,
        )
        self.own = OwnEntries(settings.peer_max_age, settings.max_own, self.own_host)
        self.values = ValueStore(settings.value_max_age, settings.max_values)
        self.seen = SeenAs()
        self.queries = Queries(rng, self.timers, self.send, self._answered, self._unanswered)
        # By service: end of validity, and the nodes that store its announcements; see
        # `lookups.Announcement`.
        self.holders: BoundedMap[bytes, tuple[float, list[Candidate]]] = BoundedMap(MAX_HOLDERS)
        self.bootstrap: tuple[Address, ...] = ()
        self.outgoing: list[tuple[bytes, Address]] = []
        self.counters: Counter[str] = Counter()
        self.bytes_out = 0
        self._listeners: list[Callable[[float, Address, bool], None]] = []
        self.on_joined = on_joined
        self.searches = 0  # under way
        self.bound_host = bound_host
        self._own_addresses: BoundedMap[Address, None] = BoundedMap(MAX_OWN_ADDRESSES)

    def listen(self, listener: Callable[[float, Address, bool], None]) -> None:
        """Call `listener(now, address, news)` with answers that may change the routing table; `news`: one did."""
        self._listeners.append(listener)

    def send(self, data: bytes, address: Address) -> None:
        self.outgoing.append((data, address))
        self.bytes_out += len(data)

    def own_host(self) -> str | None:
        """Own IP address as far as known, see `p2p.grenache.dht.own_announcements`."""
        return self.settings.public_host or self.bound_host or self.seen.best()[0]

    # Queries

    def ask(
        self,
        now: float,
        address: Address,
        ask: Ask,
        *,
        replied: Replied,
        failed: Failed,
        on_late: Callable[[float], None] | None = None,
        tries: int = TRIES,
    ) -> PendingQuery | None:
        """Send a query, see `Queries.ask`."""
        self.counters["queries_sent"] += 1
        return self.queries.ask(
            now, address, self.id, ask, replied=replied, failed=failed, on_late=on_late, tries=tries
        )

    def may_ask(self, address: Address, told_by: Address) -> bool:
        """Return True if an address from another node may be queried: no node in the open network
        can make this node send into a private network, or to itself."""
        return not self.leads_here(address) and may_dial(reach(told_by[0]), *address)

    def search(
        self,
        now: float,
        ask: Ask,
        target: bytes,
        visit: Visit,
        done: Callable[[float, IterativeSearch], None],
        ending: Ending = WHEN_ALL_FAILED,
    ) -> None:
        """Start a search from the closest known nodes; without any, from the bootstrap
        addresses. See `IterativeSearch`."""
        known = self.table.closest(target)
        unnamed: tuple[Address, ...] = ()
        if not known:
            known = self.table.closest(target, doubtful=True)
            unnamed = tuple(a for a in self.bootstrap if not self.leads_here(a))
        self.searches += 1
        self.counters["searches"] += 1

        def finished(now: float, search: IterativeSearch) -> None:
            self.searches -= 1
            done(now, search)

        IterativeSearch(self, ask, target, visit, finished, ending).start(now, known, unnamed)

    @property
    def concurrency(self) -> int:
        """Queries under way at once for one search."""
        return self.settings.concurrency

    @property
    def crowded(self) -> bool:
        """True while searches whose callers have been answered are to end."""
        return self.searches > self.settings.max_searches // 2

    def holds(self, now: float, service: bytes) -> bool:
        """Return True if this node has entries for `service`, made here or announced by others."""
        return self.peers.has(now, service) or self.own.has(now, service)

    def remember_holders(self, until: float, service: bytes, holders: list[Candidate]) -> None:
        """Remember the nodes for announcements of `service` without a search, until a time."""
        self.holders[service] = (until, holders)

    def leads_here(self, address: Address) -> bool:
        """Return True if messages sent to the address came back to this node."""
        return address in self._own_addresses

    # Answers

    def _answered(self, now: float, address: Address, reply: KrpcReply) -> None:
        contact = self.table.at(address)
        if contact is not None and contact.answered_just_now(now, reply.sender):
            return  # nothing new; and a busy node gets thousands of answers a second
        if reply.sender == self.id:
            self._own_addresses[address] = None
            return
        self.sources.proven(now, address[0])
        if reply.seen_as is not None:
            self.seen.vote(address[0], reply.seen_as[0])
        news = False
        if self.acceptable(reply.sender, address):
            news = self.table.heard(now, reply.sender, address, reply.kind)
            if news:
                self.holders.clear()  # the new node may be closer
        for listener in self._listeners:
            listener(now, address, news)

    def _unanswered(self, now: float, address: Address) -> None:
        self.counters["queries_unanswered"] += 1
        self.table.failed(now, address)

    def acceptable(self, node_id: bytes, address: Address) -> bool:
        """Return True if a node with that id at that address may be in the routing table."""
        return (
            len(node_id) == ID_BYTES
            and not self.leads_here(address)
            and (not self.settings.bep42 or bep42.fits(node_id, address[0]))
        )

    def take_id(self, now: float, node_id: bytes) -> None:
        """Change the own node id, keeping the contacts."""
        before = [contact for contact in self.table if not contact.doubtful]
        self.id = node_id
        self.table = RoutingTable(node_id, self.settings.node_liveness)
        for contact in before:
            self.table.heard(now, contact.id, contact.address, contact.kind)
