"""Iterative search of Kademlia: query the closest known nodes for closer ones, until there are
none.

The search ends when the k closest live nodes have answered. Beside a slow node the next one is
queried as well. A lookup waits for slow nodes until QUORUM nodes have answered; other searches, whose
result is the nodes themselves, wait for every slow node that may be one of the k closest. No search
waits for nodes whose queries have stalled, except where no node answers at all; then `on_stall` decides.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from p2p.grenache.dht.compact_addresses import unpack
from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.krpc import (
    ID_BYTES,
    NODE_BYTES,
    Ask,
    DhtContact,
    KrpcFailure,
    KrpcReply,
)
from p2p.grenache.dht.queries import Failed, Late, PendingQuery, Replied
from p2p.grenache.dht.routing_table import Contact, number
from p2p.grenache.directory import Address

QUORUM: Final = 8  # of K; a value stored at all of these is found
MAX_CANDIDATES: Final = 256  # remembered; the furthest are evicted
MAX_ASKED: Final = 256  # per search, in case other nodes keep naming closer nodes that do not exist

Visit = Callable[[float, "Candidate", KrpcReply], bool]  # False: end the search
OnStall = Callable[[float, bool], bool]
"""Called with the time, perhaps often, where no node has answered and the queries to all have stalled. The
second argument is True once all are silent, too. Returns True to end the search."""


class CandidateState(IntEnum):
    NEW = 0
    ASKED = 1
    ANSWERED = 2
    LATE = 3  # slow or stalled
    FAILED = 4


class Candidate:
    """Node named to the search. `id` is None for a bootstrap address until it answers."""

    __slots__ = ("address", "depth", "id", "kind", "query", "rank", "state", "token")

    def __init__(self, node_id: bytes | None, address: Address, rank: int, depth: int) -> None:
        self.id = node_id
        self.address = address
        self.rank = rank  # distance to the target
        self.depth = depth  # 1: known before the search
        self.state = CandidateState.NEW
        self.query: PendingQuery | None = None
        self.token: bytes | None = None
        self.kind = b""


class Ending(NamedTuple):
    """`quorum`: answers after which slow nodes are not awaited. Without `on_stall` a search waits until all queries have
    failed."""

    quorum: int | None = None
    on_stall: OnStall | None = None


WHEN_ALL_FAILED: Final = Ending()


class Asking(Protocol):
    """Sender of a search's queries: `id` of the own node, and `concurrency` of its searches."""

    id: bytes

    @property
    def concurrency(self) -> int: ...

    def ask(
        self,
        now: float,
        address: Address,
        ask: Ask,
        *,
        replied: Replied,
        failed: Failed,
        on_late: Callable[[float], None] | None = None,
    ) -> PendingQuery | None: ...

    def may_ask(self, address: Address, told_by: Address) -> bool:
        """Return True if an address named by `told_by` may be queried."""
        ...


class IterativeSearch:
    """Iterative search of Kademlia. `done(now, search)` is called once, perhaps within `start`."""

    def __init__(
        self,
        asking: Asking,
        ask: Ask,
        target: bytes,
        visit: Visit,
        done: Callable[[float, IterativeSearch], None],
        ending: Ending = WHEN_ALL_FAILED,
    ) -> None:
        self._quorum, self._on_stall = ending
        self._asking = asking
        self._own_id = asking.id
        self._ask = ask
        self._goal = number(target)
        self._concurrency = asking.concurrency
        self._visit = visit
        self._done = done
        self._order: list[tuple[int, Address]] = []
        self._candidates: dict[Address, Candidate] = {}
        self._any_late = False
        self._waiting = 0  # queries that the search waits for
        self.asked = 0  # queries sent
        self.finished = False

    def start(
        self, now: float, known: Iterable[DhtContact | Contact], unnamed: Iterable[Address]
    ) -> None:
        """Begin with known nodes, and with addresses of nodes whose ids are unknown."""
        for node in known:
            self._add(node.id, node.address, 1)
        for address in unnamed:
            self._add(None, address, 1)
        self._go_on(now)

    def closest(self) -> list[Candidate]:
        """Return the nodes that answered, the closest first, at most K."""
        answered = [
            candidate
            for _, address in self._order
            if (candidate := self._candidates[address]).state is CandidateState.ANSWERED
        ]
        return answered[:K]

    @property
    def hops(self) -> int:
        """Length of the longest chain of referrals to a node that was found."""
        longest = found = 0
        for _, address in self._order:
            candidate = self._candidates[address]
            if candidate.state is CandidateState.ANSWERED:
                longest = max(longest, candidate.depth)
                found += 1
                if found >= K:
                    break
        return longest

    def _add(self, node_id: bytes | None, address: Address, depth: int) -> None:
        if node_id == self._own_id or address in self._candidates:
            return
        rank = -1 if node_id is None else number(node_id) ^ self._goal
        if len(self._order) >= MAX_CANDIDATES:
            last = self._candidates[self._order[-1][1]]
            if last.state is not CandidateState.NEW or rank >= last.rank:
                return
            self._order.pop()
            del self._candidates[last.address]
        self._candidates[address] = Candidate(node_id, address, rank, depth)
        insort(self._order, (rank, address))

    def _go_on(self, now: float) -> None:
        """Query the next nodes; end when there are none and the search waits for none."""
        if self.finished:
            return
        candidates = self._candidates
        living = 0
        # A query changes no order: its answer comes later.
        for _, address in self._order:
            candidate = candidates[address]
            if candidate.state is CandidateState.NEW:
                if self._waiting >= self._concurrency:
                    return
                self._query(now, candidate)
            if candidate.state <= CandidateState.ANSWERED:
                living += 1
                if living >= K:
                    break
        if not self._waiting and not self._hopes(now):
            self.finished = True
            self._done(now, self)

    def _hopes(self, now: float) -> bool:
        """Return True if a late answer is still awaited."""
        if not self._any_late:
            return False
        answered = 0
        slow = stalled = False
        silent = True
        for _, address in self._order:
            candidate = self._candidates[address]
            if candidate.state is CandidateState.ANSWERED:
                answered += 1
                if answered == self._quorum:
                    return False
                if answered >= K:
                    break
            elif candidate.state is CandidateState.LATE and candidate.query is not None:
                path = candidate.query.path
                if candidate.query.late is Late.SLOW:
                    slow = True
                elif not path.hopeless:
                    stalled = True
                    silent = silent and path.silent
        # Not after one timeout already: a busy node would be left out of every result.
        if slow or answered or not stalled:
            return slow
        return self._on_stall is None or not self._on_stall(now, silent)

    def _query(self, now: float, candidate: Candidate) -> None:
        if self.asked >= MAX_ASKED:
            candidate.state = CandidateState.FAILED
            return
        candidate.query = query = self._asking.ask(
            now,
            candidate.address,
            self._ask,
            replied=lambda now, reply: self._replied(now, candidate, reply),
            failed=lambda now, failure: self._failed(now, candidate, failure),
            on_late=lambda now: self._late(now, candidate),
        )
        if query is None:
            candidate.state = CandidateState.FAILED
            return
        self.asked += 1
        if query.late:
            candidate.state = CandidateState.LATE
            self._any_late = True
        else:
            candidate.state = CandidateState.ASKED
            self._waiting += 1

    def _leave(self, candidate: Candidate, state: CandidateState) -> None:
        if candidate.state is CandidateState.ASKED:
            self._waiting -= 1
        candidate.state = state

    def _replied(self, now: float, candidate: Candidate, reply: KrpcReply) -> None:
        if self.finished:
            return
        if len(reply.sender) != ID_BYTES or reply.sender == self._own_id:
            self._leave(candidate, CandidateState.FAILED)
            self._go_on(now)
            return
        self._leave(candidate, CandidateState.ANSWERED)
        candidate.token = reply.token
        candidate.kind = reply.kind
        if candidate.id != reply.sender:  # a bootstrap address, or restarted with a new id
            self._order.pop(bisect_left(self._order, (candidate.rank, candidate.address)))
            candidate.id = reply.sender
            candidate.rank = number(reply.sender) ^ self._goal
            insort(self._order, (candidate.rank, candidate.address))
        compact = reply.compact_nodes
        for at in range(0, len(compact), NODE_BYTES):
            address = unpack(compact[at + ID_BYTES : at + NODE_BYTES])
            node_id = compact[at : at + ID_BYTES]
            if (
                address not in self._candidates
                and node_id != self._own_id
                and self._asking.may_ask(address, candidate.address)
            ):
                self._add(node_id, address, candidate.depth + 1)
        if not self._visit(now, candidate, reply):
            self.finished = True
            self._done(now, self)
            return
        self._go_on(now)

    def _failed(self, now: float, candidate: Candidate, failure: KrpcFailure | None) -> None:
        self._leave(candidate, CandidateState.FAILED)
        self._go_on(now)

    def _late(self, now: float, candidate: Candidate) -> None:
        self._any_late = True
        self._leave(candidate, CandidateState.LATE)
        self._go_on(now)
