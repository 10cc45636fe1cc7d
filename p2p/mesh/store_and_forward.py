"""Store and forward: messages queued until their recipient has a route, bounded, each with its expiry.

A recipient that comes back is warmed up, not flooded: a few messages first, twice as many each time, and
never more at once than the outbox of a link takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from p2p.base import limits
from p2p.ground.keyed_heap import KeyedHeap

FLUSH_FIRST: Final = 16  # messages that go out first
FLUSH_BYTES: Final = limits.OUTBOX_HIGH_WATER  # handed to a link at once


class Waiting(msgspec.Struct, frozen=True):
    type: str
    payload: bytes
    expires: float  # seconds, on the router's clock


class StoreAndForward:
    """First in, first out for each recipient. Refuses when full: old messages are not lost for new ones."""

    def __init__(
        self,
        *,
        max_bytes: int = limits.QUEUE_MAX_BYTES,
        max_per_peer: int = limits.QUEUE_MAX_PER_PEER,
        flush_interval: float = limits.LAZY_FLUSH,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_per_peer = max_per_peer
        self._queues: dict[str, dict[int, Waiting]] = {}
        self._expiries: KeyedHeap[tuple[str, int], float] = KeyedHeap()
        self._number = 0
        self._count = 0
        self.bytes = 0
        self._flush_interval = flush_interval
        self._flushing: dict[str, float] = {}  # recipients with a way and more to come: when
        self._allowed: dict[str, int] = {}  # of those: messages the next time

    def __len__(self) -> int:
        return self._count

    def waiting_for(self, to: str) -> int:
        """Return the number of messages queued for `to`."""
        return len(self._queues.get(to, ()))

    def add(self, to: str, message: Waiting) -> str | None:
        """Queue a message; returns the reason if there is no room."""
        queue = self._queues.get(to, {})
        if len(queue) >= self._max_per_peer:
            return f"{len(queue)} messages already wait for it"
        size = self._size(message)
        if self.bytes + size > self._max_bytes:
            return f"{self.bytes} bytes already wait, of at most {self._max_bytes}"
        self._number += 1
        queue[self._number] = message
        self._queues[to] = queue
        self._count += 1
        self.bytes += size
        self._expiries.set((to, self._number), message.expires)
        return None

    def flush(self, now: float, to: str, send: Callable[[Waiting], bool]) -> None:
        """Send some messages queued for `to`, until `send` returns False. The rest follows when `due` names
        the recipient.
        """
        self._flushing.pop(to, None)
        allowed = self._allowed.pop(to, FLUSH_FIRST)
        count = size = 0
        while (waiting := self._first(to)) is not None:
            if count >= allowed or size >= FLUSH_BYTES:
                self._flushing[to] = now + self._flush_interval
                self._allowed[to] = 2 * allowed
                return
            if not send(waiting):
                return
            self._remove(to, next(iter(self._queues[to])))
            count += 1
            size += len(waiting.payload)

    def flushes(self, to: str) -> bool:
        """Return True if more messages for `to` are about to be sent."""
        return to in self._flushing

    def due(self, now: float) -> list[str]:
        """Return the recipients whose next batch is due."""
        return [to for to, at in self._flushing.items() if at <= now]

    def lost(self, to: str) -> None:
        """Reset the warm-up of `to`: its link is gone."""
        self._allowed.pop(to, None)

    def expire(self, now: float) -> int:
        """Drop expired messages; returns their number."""
        dropped = 0
        while (expired := self._expiries.pop(now)) is not None:
            self._remove(*expired)
            dropped += 1
        return dropped

    def next_deadline(self) -> float | None:
        """Return the time of the next batch or expiry, None if there is none."""
        times = (self._expiries.least(), *self._flushing.values())
        return min((at for at in times if at is not None), default=None)

    def _first(self, to: str) -> Waiting | None:
        queue = self._queues.get(to)
        return next(iter(queue.values())) if queue else None

    def _remove(self, to: str, number: int) -> None:
        queue = self._queues[to]
        message = queue.pop(number)
        self._expiries.discard((to, number))
        if not queue:
            del self._queues[to]
        self._count -= 1
        self.bytes -= self._size(message)

    @staticmethod
    def _size(message: Waiting) -> int:
        return len(message.payload) + len(message.type) + 256  # bookkeeping of one entry
