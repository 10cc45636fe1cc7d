"""Queries in flight: matching with answers, retransmission, timeouts.

A fixed timeout of two seconds makes every search wait two seconds for every dead node. Here each
address has its own estimate of the response time (RFC 6298), and a query becomes

    slow       after one timeout: sent again; its search also queries another node
    stalled    after another: sent again; no longer awaited, but its answer is still accepted
    silent     PATIENCE after its start: the caller of an operation does not await it even without any other
               answer. An address that never answered is silent two timeouts after the first query to it
    failed     after a second at least

Two timeouts are thus the price of a dead node where every answer counts, in networks of a few nodes. The
first timeout of an address that was never measured, and the margin above a measured mean, are small
enough for that price to stay below 150 ms at round trips up to 50 ms. A datagram that is lost once still
arrives in time, since the second one has a whole timeout for itself.

An address whose last query stalled is not awaited until a message comes from it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Final, NamedTuple

from p2p.grenache.dht.krpc import Ask, KrpcFailure, KrpcReply, encode_query
from p2p.grenache.directory import Address
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.timers import Timer, Timers

INITIAL_TIMEOUT: Final = 0.07  # seconds, before anything was measured
DEVIATIONS: Final = 4.0  # above the mean: answers of one path vary little
DEVIATIONS_OF_ALL: Final = 2.0  # above the mean of all paths together, which vary more
LEAST_MARGIN: Final = 0.025  # seconds above a mean, and ...
MARGIN_SHARE: Final = 0.5  # of the mean, most of the margin; early deviations are uncertain
MIN_TIMEOUT: Final = 0.025  # seconds that a busy process may pause
MAX_TIMEOUT: Final = 1.0
GIVE_UP: Final = (1.0, 4.0)  # seconds, at least and at most, until a query has failed
TRIES: Final = 4  # datagrams per query
PATIENCE: Final = 0.14  # seconds for an address that answered before; a dead one costs no more
MAX_PATHS: Final = 4096
MAX_PENDING: Final = 4096
TRANSACTION_BYTES: Final = 4  # random: only a receiver of the query can answer it
DRAWN_BYTES: Final = 1024 * TRANSACTION_BYTES  # random bytes drawn at once

Replied = Callable[[float, KrpcReply], None]
Failed = Callable[[float, KrpcFailure | None], None]  # the error answer; None: no answer


def _ignore(now: float, answer: KrpcReply | KrpcFailure | None) -> None:
    """Callback of a query that has ended."""


class Late(IntEnum):
    """Lateness of an answer to a query."""

    NO = 0
    SLOW = 1
    STALLED = 2
    SILENT = 3


class Rtt:
    """Smoothed round-trip time and its deviation, in seconds."""

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean: float | None = None
        self._deviation = 0.0

    def sample(self, rtt: float) -> None:
        if self._mean is None:
            self._mean, self._deviation = rtt, rtt / 4
        else:
            self._deviation += (abs(rtt - self._mean) - self._deviation) / 4
            self._mean += (rtt - self._mean) / 8

    def timeout(self, deviations: float) -> float | None:
        """Retransmission timeout; None before the first sample."""
        if self._mean is None:
            return None
        margin = min(deviations * self._deviation, max(LEAST_MARGIN, MARGIN_SHARE * self._mean))
        return min(max(self._mean + margin, MIN_TIMEOUT), MAX_TIMEOUT)


class Path:
    """Statistics of an address: round-trip time and recent losses."""

    __slots__ = ("answered", "failures", "first_asked", "rtt", "silent", "stalled")

    def __init__(self) -> None:
        self.rtt = Rtt()
        self.stalled = False  # its last query stalled, and no message came since
        self.silent = False  # nor within the time after which no caller awaits it
        self.answered = False  # ever
        self.first_asked: float | None = None  # since the start, or the last query from there
        self.failures = 0  # queries in a row

    @property
    def hopeless(self) -> bool:
        """True if the address is not awaited even without any other."""
        return self.failures >= (2 if self.answered else 1)


class Callbacks(NamedTuple):
    """Callbacks of a query; see `Queries.ask`."""

    replied: Replied
    failed: Failed
    on_late: Callable[[float], None] | None


class PendingQuery:
    """A query in flight."""

    __slots__ = (
        "address",
        "ask",
        "failed",
        "late",
        "on_late",
        "open",
        "path",
        "replied",
        "sender",
        "sent",
        "started",
        "timeout",
        "timer",
        "transactions",
        "tries",
    )

    def __init__(
        self,
        address: Address,
        sender: bytes,
        ask: Ask,
        path: Path,
        tries: int,
        calls: Callbacks,
    ) -> None:
        self.address = address
        self.sender = sender
        self.ask = ask
        self.path = path
        self.tries = tries
        self.replied, self.failed, self.on_late = calls
        self.late = Late.STALLED if path.stalled else Late.NO
        self.open = True  # neither answered nor failed
        self.sent = 0
        self.started = 0.0
        self.timeout = 0.0
        self.transactions: list[bytes] = []
        self.timer: Timer | None = None

    def close(self) -> None:
        """Drop what refers back to the query, so that it needs no garbage collector."""
        self.open = False
        self.replied = self.failed = _ignore
        self.on_late = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Queries:
    """All queries in flight. `answered(now, address, reply)` is called with every reply before the
    query's own callback; `unanswered(now, address)` with every address that never answered. Each
    datagram has its own transaction id, so that the answer to a repeated query is measured from the
    right one.
    """

    def __init__(
        self,
        rng: random.Random,
        timers: Timers,
        send: Callable[[bytes, Address], None],
        answered: Callable[[float, Address, KrpcReply], None],
        unanswered: Callable[[float, Address], None],
    ) -> None:
        self._rng = rng
        self._timers = timers
        self._send = send
        self._answered = answered
        self._unanswered = unanswered
        self._pending: dict[bytes, tuple[PendingQuery, float]] = {}
        self._paths: BoundedMap[Address, Path] = BoundedMap(MAX_PATHS)
        self._usual = Rtt()  # of all addresses, the estimate for new ones
        self._drawn = b""  # random bytes, and how many of them were used
        self._drawn_at = 0
        self.under_way = 0

    def path(self, address: Address) -> Path:
        """Return the statistics of an address."""
        path = self._paths.renew(address)
        if path is None:
            path = self._paths[address] = Path()
        return path

    def alive(self, address: Address) -> None:
        """Record a message from the address (perhaps forged): it may be awaited again."""
        path = self._paths.get(address)
        if path is not None:
            path.stalled = path.silent = False
            path.first_asked = None

    def ask(
        self,
        now: float,
        address: Address,
        sender: bytes,
        ask: Ask,
        *,
        replied: Replied,
        failed: Failed,
        on_late: Callable[[float], None] | None = None,
        tries: int = TRIES,
    ) -> PendingQuery | None:
        """Send a query. Exactly one of `replied` and `failed` is called, later; before that `on_late`,
        whenever `late` of the query has changed. Returns None if too many are in flight already."""
        if self.under_way >= MAX_PENDING:
            return None
        path = self.path(address)
        query = PendingQuery(address, sender, ask, path, tries, Callbacks(replied, failed, on_late))
        query.started = now
        query.timeout = (
            path.rtt.timeout(DEVIATIONS)
            or self._usual.timeout(DEVIATIONS_OF_ALL)
            or INITIAL_TIMEOUT
        )
        if path.first_asked is None:
            path.first_asked = now
        self.under_way += 1
        self._transmit(now, query)
        return query

    def _transmit(self, now: float, query: PendingQuery) -> None:
        transaction = self._transaction()
        self._pending[transaction] = (query, now)
        query.transactions.append(transaction)
        self._send(encode_query(transaction, query.sender, query.ask), query.address)
        wait = query.timeout if query.sent < 2 else query.timeout * 2 ** (query.sent - 1)
        query.sent += 1
        if query.late is Late.STALLED or not query.path.answered:
            silent_at = self._silent_at(query)
            if now < silent_at < now + wait:
                query.timer = self._timers.at(silent_at, partial(self._silent, query, now + wait))
                return
        query.timer = self._timers.at(now + wait, partial(self._late, query))

    def _transaction(self) -> bytes:
        while True:
            if self._drawn_at >= len(self._drawn):
                self._drawn, self._drawn_at = self._rng.randbytes(DRAWN_BYTES), 0
            start = self._drawn_at
            self._drawn_at = end = start + TRANSACTION_BYTES
            transaction = self._drawn[start:end]
            if transaction not in self._pending:
                return transaction

    def _silent(self, query: PendingQuery, then: float, now: float) -> None:
        """Judge the query again, and send its next datagram at `then`."""
        query.timer = self._timers.at(then, partial(self._late, query))
        self._judge(now, query)

    def _judge(self, now: float, query: PendingQuery) -> None:
        late = self._lateness(now, query)
        if late > query.late:
            # A younger query is only slow yet, and proves nothing; a message since the stall does.
            if late is not Late.SLOW and query.late < Late.STALLED:
                query.path.stalled = True
            if late is Late.SILENT and query.path.stalled:
                query.path.silent = True
            query.late = late
            if query.on_late is not None:
                query.on_late(now)

    def _late(self, query: PendingQuery, now: float) -> None:
        self._judge(now, query)
        if query.sent < query.tries:
            self._transmit(now, query)
            return
        end = query.started + min(max(15 * query.timeout, GIVE_UP[0]), GIVE_UP[1])
        if now < end:
            query.timer = self._timers.at(end, partial(self._late, query))
            return
        failed = query.failed
        self._close(query)
        query.path.failures += 1
        query.path.stalled = True
        self._unanswered(now, query.address)
        failed(now, None)

    @staticmethod
    def _silent_at(query: PendingQuery) -> float:
        """Return the time from which no caller awaits the address of a query that has stalled."""
        path = query.path
        if path.answered or path.first_asked is None:
            return query.started + PATIENCE
        return path.first_asked + 2 * query.timeout

    def _lateness(self, now: float, query: PendingQuery) -> Late:
        """Return the lateness of a query whose timer has run out."""
        # The timer's time is a rounded sum.
        silent = now >= self._silent_at(query) - 1e-6
        if query.sent < min(2, query.tries) and (query.path.answered or not silent):
            return Late.SLOW
        return Late.SILENT if silent else Late.STALLED

    def message(self, now: float, source: Address, message: KrpcReply | KrpcFailure) -> bool:
        """Process an answer. Returns True if it answers an own query to that address."""
        query, sent_at = self._pending.get(message.transaction, (None, 0.0))
        if query is None or query.address != source:
            return False
        replied, failed = query.replied, query.failed
        self._close(query)
        path = query.path
        path.rtt.sample(now - sent_at)
        self._usual.sample(now - sent_at)
        path.stalled = path.silent = False
        path.answered = True
        path.failures = 0
        if isinstance(message, KrpcReply):
            self._answered(now, source, message)
            replied(now, message)
        else:
            failed(now, message)
        return True

    def _close(self, query: PendingQuery) -> None:
        self.under_way -= 1
        for transaction in query.transactions:
            del self._pending[transaction]
        query.close()
