"""Table upkeep: bootstrapping, pings of silent contacts, bucket refreshes."""

from __future__ import annotations

import random
from functools import partial
from math import inf
from typing import Final

from p2p.grenache.dht import bep42
from p2p.grenache.dht.dht_context import DhtContext
from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.iterative_search import IterativeSearch
from p2p.grenache.dht.krpc import ID_BYTES, FindNode, KrpcFailure, KrpcReply, PingQuery
from p2p.grenache.dht.routing_table import BITS, number
from p2p.grenache.directory import Address

TICK: Final = 0.5  # seconds between checks
RETRY_FIRST: Final = 0.5  # seconds after a bootstrap address did not answer; doubles
RETRY_MAX: Final = 60.0
RETRY_ALONE: Final = (
    1.0  # while no node is known, so that the second node of a network joins at once
)
CHECK_BOOTSTRAP: Final = 60.0  # it may be the only bridge to the rest after a split of the network
REFRESH_INTERVAL: Final = 300.0
JOIN_INTERVAL: Final = 1.0  # at least, between searches for the own neighbours
FILL_AFTER: Final = (
    0.5,
    2.0,
)  # seconds until the rest of the table is filled, after the neighbours
LONELY: Final = K // 2  # with fewer contacts every new one causes such a search
RENAME_INTERVAL: Final = 600.0  # at least, between changes of the own id (BEP 42)
REACHABLE_FOR: Final = 2 * CHECK_BOOTSTRAP + 10.0  # seconds after its last answer


def _ignore(now: float, answer: KrpcReply | KrpcFailure | None) -> None:
    """Ignore the result: the table is updated already."""


class Bootstrap:
    """State of a bootstrap address."""

    __slots__ = ("asking", "failures", "last_answer", "next_try")

    def __init__(self) -> None:
        self.last_answer = -inf
        self.next_try = -inf
        self.failures = 0
        self.asking = False

    def answered(self, now: float, reply: KrpcReply) -> None:
        self.asking = False
        self.last_answer = now
        self.failures = 0
        self.next_try = now + CHECK_BOOTSTRAP

    def failed(self, now: float, alone: bool) -> None:
        """Record a failure. `alone`: no other node is known."""
        self.asking = False
        if alone:
            self.next_try = now + RETRY_ALONE
            return
        self.next_try = now + min(RETRY_FIRST * 2**self.failures, RETRY_MAX)
        self.failures = min(self.failures + 1, 10)

    def reachable(self, now: float) -> bool:
        return now - self.last_answer < REACHABLE_FOR


class Upkeep:
    """Periodic work of a node: bootstrap, pings, bucket refreshes."""

    def __init__(self, core: DhtContext) -> None:
        self._core = core
        self.bootstrap: dict[Address, Bootstrap] = {}
        self._alone = True
        self._joining = False
        self._last_join = -inf
        self._next_refresh = inf
        self._next_rename = -inf

    def start(self, now: float) -> None:
        self._next_refresh = now + REFRESH_INTERVAL * self._core.order.uniform(0.5, 1.0)
        self._tick(now)

    def set_bootstrap(self, now: float, addresses: tuple[Address, ...]) -> None:
        """Replace the bootstrap addresses."""
        self._core.bootstrap = addresses
        self.bootstrap = {a: self.bootstrap.get(a) or Bootstrap() for a in addresses}
        self._ask_bootstrap(now)

    def heard(self, now: float, address: Address, news: bool) -> None:
        """Process an answer of a node; `news`: it is new in the table, or back."""
        bootstrap = self.bootstrap.get(address)
        if bootstrap is not None:
            bootstrap.last_answer = now
        if news and (self._alone or self._core.table.fewer_than(LONELY)):
            self._alone = False
            self._join(now)

    def _tick(self, now: float) -> None:
        core = self._core
        core.timers.at(now + TICK, self._tick)
        for contact in core.table.due(now):
            core.ask(now, contact.address, PingQuery(), replied=_ignore, failed=_ignore)
        if not self._alone and not core.table:
            self._alone = True
            for bootstrap in self.bootstrap.values():
                bootstrap.failures = 0
                bootstrap.next_try = now
        self._ask_bootstrap(now)
        if core.settings.bep42:
            self._check_id(now)
        if now >= self._next_refresh:
            self._join(now)
        core.peers.expire(now)
        core.own.expire(now)

    def _ask_bootstrap(self, now: float) -> None:
        core = self._core
        for address, bootstrap in self.bootstrap.items():
            if bootstrap.asking or now < bootstrap.next_try or core.leads_here(address):
                continue
            query = core.ask(
                now,
                address,
                FindNode(core.id),
                replied=bootstrap.answered,
                failed=partial(self._bootstrap_failed, bootstrap),
            )
            bootstrap.asking = query is not None

    def _bootstrap_failed(
        self, bootstrap: Bootstrap, now: float, _failure: KrpcFailure | None
    ) -> None:
        bootstrap.failed(now, alone=not self._core.table)

    def _join(self, now: float) -> None:
        """Search for the own neighbours, then in every bucket that needs more."""
        if self._joining:
            return
        self._joining = True
        self._next_refresh = now + REFRESH_INTERVAL * self._core.order.uniform(0.75, 1.25)
        self._core.timers.at(max(now, self._last_join + JOIN_INTERVAL), self._find_neighbours)

    def _find_neighbours(self, now: float) -> None:
        self._last_join = now
        core = self._core
        core.search(
            now,
            FindNode(core.id),
            core.id,
            lambda now, candidate, reply: True,
            self._found_neighbours,
        )

    def _found_neighbours(self, now: float, search: IterativeSearch) -> None:
        core = self._core
        core.on_joined()
        if not core.table.gaps():
            self._joining = False
            return
        wait = core.order.uniform(*FILL_AFTER)
        core.timers.at(now + wait, lambda now: self._fill(now, core.table.gaps()))

    def _fill(self, now: float, buckets: list[int]) -> None:
        """Search in one bucket after the other, until each has enough."""
        if not buckets:
            self._joining = False
            return
        core, index = self._core, buckets[0]
        target = _id_in_bucket(core.id, index, core.rng)
        core.search(
            now,
            FindNode(target),
            target,
            lambda now, candidate, reply: core.table.lacks(index),
            lambda now, search: self._fill(now, buckets[1:]),
        )

    def _check_id(self, now: float) -> None:
        """Change the own id if it does not fit the address that others see."""
        core = self._core
        host = core.settings.public_host
        if host is None:
            host, votes = core.seen.best()
            if votes < min(2, len(core.table)):
                return
        if host is None or bep42.fits(core.id, host) or now < self._next_rename:
            return
        self._next_rename = now + RENAME_INTERVAL
        core.take_id(now, bep42.make_id(host, core.rng))
        self._join(now)


def _id_in_bucket(own_id: bytes, index: int, rng: random.Random) -> bytes:
    """Return a random id that shares exactly `index` leading bits with the own id."""
    below = BITS - 1 - index
    flipped = number(own_id) ^ 1 << below
    return (flipped ^ rng.getrandbits(below)).to_bytes(ID_BYTES, "big")
