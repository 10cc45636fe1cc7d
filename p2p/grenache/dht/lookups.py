"""Operations of a DHT node: announce, look up, put and get.

Each is a search for the closest nodes, and to write, a round of messages to them. The result
goes to a callback, once.

Where every other node is silent, perhaps dead, the caller is answered after as short a wait as by a lookup. What
writes goes on without the caller, until the queries have failed: a node that is only slow or far gets the
announcement or the value all the same. Signed values are the exception: a put waits for what the others hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from p2p.base.reach import may_name, reach
from p2p.grenache.dht.compact_addresses import pack_host, unpack_host
from p2p.grenache.dht.dht_context import DhtContext, of_our_kind
from p2p.grenache.dht.iterative_search import QUORUM, Candidate, Ending, IterativeSearch
from p2p.grenache.dht.krpc import (
    CAS_MISMATCH,
    SEQ_TOO_LOW,
    AnnouncePeer,
    Ask,
    Get,
    GetPeers,
    KrpcFailure,
    KrpcReply,
    Put,
)
from p2p.grenache.dht.queries import Late, PendingQuery
from p2p.grenache.dht.stores import Item, conflict

MAX_FOUND: Final = 1_000  # addresses in one result
HOLDERS_FOR: Final = 60.0  # seconds; others accept a token for at least five minutes


class LookupResult(NamedTuple):
    """Result of a lookup: compact addresses from other nodes, and its cost."""

    peers: tuple[bytes, ...]
    hops: int
    messages: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """Outcome of a put. `refusal`: CAS_MISMATCH or SEQ_TOO_LOW; the value is not stored then."""

    key: bytes
    holders: int  # other nodes that stored it
    refusal: int | None = None


class _Round:
    """Round of messages to several nodes. `done(now, taken, codes)`: number of nodes that accepted,
    and the error codes of the others. Ends without slow nodes after QUORUM acceptances, without
    stalled nodes after the first. `on_silence` is called, perhaps often, where all are silent."""

    def __init__(
        self,
        done: Callable[[float, int, list[int]], None],
        on_silence: Callable[[], None] = lambda: None,
    ) -> None:
        self._done = done
        self._on_silence = on_silence
        self._sent: list[PendingQuery] = []
        self._taken = 0
        self._codes: list[int] = []
        self._finished = False

    def start(self, now: float, core: DhtContext, asks: Iterable[tuple[Candidate, Ask]]) -> None:
        replied, failed, on_late = self._replied, self._failed, self._check
        for candidate, ask in asks:
            query = core.ask(
                now, candidate.address, ask, replied=replied, failed=failed, on_late=on_late
            )
            if query is not None:
                self._sent.append(query)
        self._check(now)

    def _replied(self, now: float, reply: KrpcReply) -> None:
        self._taken += 1
        self._check(now)

    def _failed(self, now: float, failure: KrpcFailure | None) -> None:
        if failure is not None:
            self._codes.append(failure.code)
        self._check(now)

    def _check(self, now: float) -> None:
        if self._finished:
            return
        needless = Late.SLOW if self._taken >= QUORUM else Late.STALLED
        hopes, silent = False, True
        for query in self._sent:
            if query.open:
                if query.late < needless:
                    return
                hopes = hopes or not query.path.hopeless
                silent = silent and query.path.silent
        if self._taken or not hopes:
            self._finished = True
            self._done(now, self._taken, self._codes)
        elif silent:
            self._on_silence()


def look_up(
    core: DhtContext, now: float, service: bytes, done: Callable[[LookupResult], None]
) -> None:
    """Look up the addresses of `service` in the network. Where no node answers, a service with entries at
    this node is not waited for: in a network of two, this node has all that the other one had."""
    found: dict[bytes, None] = {}

    def visit(now: float, candidate: Candidate, reply: KrpcReply) -> bool:
        by = reach(candidate.address[0])
        for peer in reply.peers or ():
            if (
                peer[4:] != b"\0\0"
                and len(found) < MAX_FOUND
                and may_name(by, unpack_host(peer[:4]))
            ):
                found[peer] = None
        return True

    def finished(now: float, search: IterativeSearch) -> None:
        done(LookupResult(tuple(found), search.hops, search.asked))

    core.search(
        now,
        GetPeers(service),
        service,
        visit,
        finished,
        Ending(QUORUM, lambda now, silent: silent or core.holds(now, service)),
    )


class Offer(NamedTuple):
    """Service at a port. `host`: address to record; `gone`: withdrawn."""

    service: bytes
    port: int
    host: str | None
    gone: bool = False


class Announcement:
    """Announcement, or withdrawal, of an offer at the closest nodes. Only Grapes of this project record a given address,
    so it is sent only to them, unless the others will see that address anyway. When no node accepts, all is tried once
    more.

    `done` receives the number of nodes that accepted it: at the end, or before that once all others are silent or
    those of the last search do not answer. The rest goes on then for as long as it is `wanted`: it must not overtake
    the opposite. `ended` receives the number at the end.

    Workers repeat their announcements, so the nodes found by the last search for the service, with
    their tokens, are used again for HOLDERS_FOR seconds, unless another node has joined since. When
    some of them refuse, there is a new search.
    """

    def __init__(
        self,
        core: DhtContext,
        offer: Offer,
        done: Callable[[int], None],
        *,
        wanted: Callable[[], bool],
        ended: Callable[[int], None] = lambda taken: None,
    ) -> None:
        self._core = core
        self._service, self._port, self._host, self._gone = offer
        self._done = done
        self._wanted = wanted
        self._ended = ended
        self._answered = False  # the caller
        self._recalled = False  # the nodes come from an earlier search
        self._again = False

    def start(self, now: float) -> None:
        core, service = self._core, self._service
        known = core.holders.get(service)
        if known is not None and now < known[0]:
            self._recalled = True
            self._tell(now, known[1])
            return
        self._recalled = False
        core.search(
            now,
            GetPeers(service),
            service,
            lambda now, node, reply: True,
            self._found,
            Ending(on_stall=self._stalled),
        )

    def _stalled(self, now: float, silent: bool) -> bool:
        if silent:
            self._answer(0)
        return self._answered and self._core.crowded

    def _answer(self, taken: int) -> None:
        """Answer the caller, once."""
        if not self._answered:
            self._answered = True
            self._done(taken)

    def _found(self, now: float, search: IterativeSearch) -> None:
        closest = [node for node in search.closest() if node.token is not None]
        if closest:
            self._core.remember_holders(now + HOLDERS_FOR, self._service, closest)
        self._tell(now, closest)

    def _tell(self, now: float, closest: Sequence[Candidate]) -> None:
        host = self._host or self._core.settings.public_host
        seen_as = self._core.seen.best()[0]
        as_seen = host is None or host == seen_as or (self._host is None and seen_as is None)
        packed = None if host is None else pack_host(host)
        asks: list[tuple[Candidate, Ask]] = []
        unwanted = self._answered and not self._wanted()
        for node in () if unwanted else closest:
            if node.token is None:
                continue
            if of_our_kind(node.kind):
                asks.append((node, self._ask(node.token, packed)))
            elif as_seen and not self._gone:
                asks.append((node, self._ask(node.token, None)))
        _Round(
            lambda now, taken, codes: self._told(now, taken, len(asks), refused=bool(codes)),
            lambda: self._answer(0),
        ).start(now, self._core, asks)

    def _ask(self, token: bytes, host: bytes | None) -> AnnouncePeer:
        return AnnouncePeer(self._service, self._port, token, host, self._gone)

    def _told(self, now: float, taken: int, asked: int, *, refused: bool) -> None:
        if self._recalled and taken < min(asked, QUORUM):
            self._core.holders.pop(self._service, None)
            if taken and not refused:
                self._answer(taken)
            self.start(now)
        elif asked and not taken and not self._again:
            self._again = True
            self._core.holders.pop(self._service, None)
            self.start(now)
        else:
            self._ended(taken)
            self._answer(taken)


class _Copies:
    """Copies of a value found by a search. Each distinct one is verified once."""

    def __init__(self, key: bytes, salt: bytes, own: Item | None) -> None:
        self._key = key
        self._salt = salt
        self.newest = own
        self.versions: dict[Candidate, int] = {}  # by node
        self._judged: dict[Item, bool] = {}

    def take(self, candidate: Candidate, reply: KrpcReply) -> Item | None:
        """Return the item of a reply, if there is one and it belongs to the key."""
        if reply.value is None:
            return None
        if reply.public_key is None:
            item = Item(reply.value)
        elif reply.seq is None or reply.signature is None:
            return None
        else:
            item = Item(reply.value, reply.public_key, reply.seq, reply.signature, self._salt)
        good = self._judged.get(item)
        if good is None:
            good = self._judged[item] = item.key() == self._key and item.signed()
        if not good:
            return None
        self.versions[candidate] = item.seq
        if self.newest is None or item.seq > self.newest.seq:
            self.newest = item
        return item


def get(
    core: DhtContext, now: float, key: bytes, salt: bytes, done: Callable[[Item | None], None]
) -> None:
    """Get the newest version of the value under `key` that any node has, and send it to nodes with
    an older version.
    """
    held = core.values.get(now, key)
    if held is not None and held.public_key is None:
        done(held)  # cannot change
        return
    if held is not None and not salt:
        salt = held.salt
    copies = _Copies(key, salt, held)

    def visit(now: float, candidate: Candidate, reply: KrpcReply) -> bool:
        item = copies.take(candidate, reply)
        return item is None or item.public_key is not None

    def finished(now: float, search: IterativeSearch) -> None:
        newest = copies.newest
        if newest is not None and newest.public_key is not None:
            if held is not None and held.seq < newest.seq:
                core.values.put(now, newest)
            behind = [
                n for n in search.closest() if copies.versions.get(n, newest.seq) < newest.seq
            ]
            _Round(lambda now, taken, codes: None).start(now, core, _puts(behind, newest, {}))
        done(newest)

    core.search(now, Get(key), key, visit, finished, Ending(on_stall=lambda now, silent: silent))


def put(
    core: DhtContext, now: float, item: Item, cas: int | None, done: Callable[[PutResult], None]
) -> None:
    """Store a value at the closest nodes, and here. Its signature has been checked.

    It is refused if any node has a newer version, or one other than `cas`: a value that most
    lookups would not find is not stored.
    """
    key = item.key()
    copies = _Copies(key, item.salt, core.values.get(now, key))
    answered = False

    def answer(result: PutResult) -> None:
        nonlocal answered
        if not answered:
            answered = True
            done(result)

    def unanswered() -> None:
        if item.public_key is None:  # cannot be in conflict with what others hold
            core.values.put(now, item)
            answer(PutResult(key, 0))

    def stalled(now: float, silent: bool) -> bool:
        if silent:
            unanswered()
        return answered and core.crowded

    def visit(now: float, candidate: Candidate, reply: KrpcReply) -> bool:
        copies.take(candidate, reply)
        return True

    def finished(now: float, search: IterativeSearch) -> None:
        held = core.values.get(now, key)  # may have been put meanwhile
        if held is not None and (copies.newest is None or held.seq > copies.newest.seq):
            copies.newest = held
        refusal = conflict(copies.newest, item, cas)
        if refusal is not None:
            answer(PutResult(key, 0, refusal))
            return
        core.values.put(now, item)
        asks = _puts(search.closest(), item, {} if cas is None else copies.versions, cas)
        _Round(lambda now, taken, codes: told(taken, codes), unanswered).start(now, core, asks)

    def told(taken: int, codes: list[int]) -> None:
        renewed = copies.newest is not None and copies.newest.seq == item.seq
        conflicts = [code for code in codes if code in (CAS_MISMATCH, SEQ_TOO_LOW)]
        if conflicts and not renewed:  # another writer was faster
            answer(PutResult(key, taken, conflicts[0]))
        else:
            answer(PutResult(key, taken))

    core.search(now, Get(key), key, visit, finished, Ending(on_stall=stalled))


def _puts(
    nodes: Iterable[Candidate],
    item: Item,
    versions: dict[Candidate, int],
    cas: int | None = None,
) -> list[tuple[Candidate, Ask]]:
    """Yield the messages. `cas` is sent only to nodes with that version: a node with an older one
    would refuse needlessly."""
    return [
        (
            node,
            Put(
                node.token,
                item.value,
                item.public_key,
                item.seq,
                item.signature,
                item.salt,
                cas if versions.get(node) == cas else None,
            ),
        )
        for node in nodes
        if node.token is not None
    ]
