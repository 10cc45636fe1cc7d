"""Outbox: bounded queue of messages to one peer, each with its expiry, behind one governor. No I/O.

A message is never dropped because of a rate limit or an open breaker: it waits until the governor
allows it, is queued again after a failed attempt and a back-off with full jitter, and leaves when
it was answered or its time is over.
"""

from __future__ import annotations

import random
from collections import deque
from math import inf
from typing import Generic, TypeVar

from p2p.base.errors import P2PError
from p2p.flow.governor import Governor
from p2p.flow.load import LoadReport, Outcome
from p2p.flow.retry_strategy import full_jitter
from p2p.ground.keyed_heap import KeyedHeap

T = TypeVar("T")


class OutboxFull(P2PError):
    """Message refused because the outbox is full: the caller has to slow down."""


class OutboxExpired(P2PError):
    """Message not delivered before its expiry."""


class OutboxEntry(Generic[T]):
    """A queued message. `attempts`: number of times it was sent. Times are on the outbox's
    clock."""

    __slots__ = (
        "added",
        "attempts",
        "expires",
        "item",
        "number",
        "retry",
        "sent",
        "settled",
        "tag",
    )

    def __init__(self, number: int, item: T, added: float, expires: float, retry: bool) -> None:
        self.number = number
        self.item = item
        self.added = added
        self.expires = expires
        self.retry = retry
        self.attempts = 0
        self.sent = 0.0  # the last attempt
        self.tag: int | None = None  # of the attempt under way
        self.settled = False

    def __lt__(self, other: OutboxEntry[T]) -> bool:
        return self.number < other.number


class Outbox(Generic[T]):
    """Queue of one peer: `add` messages, send those that `next` returns, report `on_result`. A
    message that failed is older than one never tried, so it is sent first. `limit` counts messages
    waiting and under way; `ttl_s`, `base_s` and `cap_s` (of the backoff) are seconds.
    """

    def __init__(
        self,
        governor: Governor,
        *,
        rng: random.Random,
        limit: int = 2000,
        ttl_s: float = 60.0,
        base_s: float = 0.1,
        cap_s: float = 5.0,
    ) -> None:
        self.governor = governor
        self.limit = limit
        self.ttl_s = ttl_s
        self.base_s = base_s
        self.cap_s = cap_s
        self._rng = rng
        self._fresh: deque[OutboxEntry[T]] = deque()
        self._backoff: KeyedHeap[OutboxEntry[T], float] = KeyedHeap()
        self._expiries: KeyedHeap[OutboxEntry[T], float] = KeyedHeap()
        self._live = 0
        self.counters = {"added": 0, "attempts": 0, "delivered": 0, "failed": 0, "expired": 0}

    def __len__(self) -> int:
        """Messages waiting and under way."""
        return self._live

    @property
    def waiting(self) -> int:
        return self._live - self.governor.in_flight

    def add(
        self, now: float, item: T, *, ttl_s: float | None = None, retry: bool = True
    ) -> OutboxEntry[T]:
        """Queue a message. `retry`: it is safe to send twice.

        Raises:
            OutboxFull: there is no room.
        """
        if self._live >= self.limit:
            raise OutboxFull(f"{self._live} messages already wait")
        expires = now + (self.ttl_s if ttl_s is None else ttl_s)
        entry = OutboxEntry(self.counters["added"], item, now, expires, retry)
        if len(self._fresh) > 2 * self._live + 64:
            self._fresh = deque(e for e in self._fresh if not e.settled)
        self._fresh.append(entry)
        self._expiries.set(entry, entry.expires)
        self._live += 1
        self.counters["added"] += 1
        return entry

    def next(self, now: float) -> OutboxEntry[T] | None:
        """Return the message to send now, if there is one and the governor allows it. It counts as
        sent."""
        entry = self._peek(now)
        if entry is None or self.governor.ready(now) > 0.0:
            return None
        if entry in self._backoff:
            self._backoff.discard(entry)
        else:
            self._fresh.popleft()
        entry.tag = self.governor.on_send(now)
        entry.attempts += 1
        entry.sent = now
        self.counters["attempts"] += 1
        return entry

    def wake_at(self, now: float) -> float:
        """Return the time of the next call of `next` and `expire`, unless a message is added or a
        result arrives before."""
        times = [at for at in (self._expiries.least(),) if at is not None]
        if self._peek(now) is not None:
            ready = self.governor.ready(now)
            times.append(ready if ready > 0.0 else now)
        elif (retry_at := self._backoff.least()) is not None:
            times.append(retry_at)
        return min(times, default=inf)

    def on_result(
        self,
        now: float,
        entry: OutboxEntry[T],
        outcome: Outcome,
        load: LoadReport | None = None,
        *,
        retry_after_s: float = 0.0,
    ) -> bool:
        """Record the end of an attempt. Returns True if the message is settled, False if it will be
        sent again."""
        if entry.tag is None:
            raise ValueError("a result without an attempt under way")
        self.governor.on_result(now, entry.tag, outcome, load)
        entry.tag = None
        if outcome == "ok":
            self._settle(entry, "delivered")
            return True
        delay = retry_after_s + full_jitter(self._rng, entry.attempts, self.base_s, self.cap_s)
        if not entry.retry or now + delay >= entry.expires:
            self._settle(entry, "failed" if not entry.retry else "expired")
            return True
        self._backoff.set(entry, now + delay)
        return False

    def cancel(self, now: float, entry: OutboxEntry[T]) -> None:
        """Drop a message, waiting or under way."""
        if entry.settled:
            return
        if entry.tag is not None:
            self.governor.on_cancel(now, entry.tag)
            entry.tag = None
        self._settle(entry, None)

    def expire(self, now: float) -> list[OutboxEntry[T]]:
        """Remove the waiting messages that have expired. Messages under way are left to their
        results."""
        out: list[OutboxEntry[T]] = []
        while (entry := self._expiries.pop(now)) is not None:
            if entry.tag is None:
                self._settle(entry, "expired")
                out.append(entry)
        return out

    def drain(self, now: float) -> list[OutboxEntry[T]]:
        """Remove all messages that are not under way, when the gate closes."""
        left = [entry for entry in (*self._fresh, *self._backoff.in_order()) if not entry.settled]
        for entry in left:
            self.cancel(now, entry)
        return left

    def _peek(self, now: float) -> OutboxEntry[T] | None:
        retry = self._backoff.first()
        if retry is not None and retry[0] <= now:
            return retry[1]
        while self._fresh and self._fresh[0].settled:
            self._fresh.popleft()
        return self._fresh[0] if self._fresh else None

    def _settle(self, entry: OutboxEntry[T], counter: str | None) -> None:
        entry.settled = True
        self._expiries.discard(entry)
        self._backoff.discard(entry)
        self._live -= 1
        if counter is not None:
            self.counters[counter] += 1
