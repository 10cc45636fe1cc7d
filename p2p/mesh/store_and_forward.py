"""Messages that wait for a way to their recipient: bounded, each with its expiry.

A recipient that comes back is warmed up, not flooded: a few messages first, twice as many each time, and
never more at once than a link's outbox takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2p.base import limits

FLUSH_FIRST: Final = 16  # messages that go out first
FLUSH_BYTES: Final = limits.OUTBOX_HIGH_WATER  # handed to a link at once


@dataclass(frozen=True, slots=True)
class Waiting:
    type: str
    payload: bytes
    expires: float  # seconds, on the router's clock


class StoreAndForward:
    """Per recipient first in, first out. Refuses when full: old messages are not lost for new ones."""

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
        self._expiries: list[tuple[float, int, str]] = []  # stale ones are skipped
        self._number = 0
        self._count = 0
        self.bytes = 0
        self._flush_interval = flush_interval
        self._flushing: dict[str, float] = {}  # recipients with a way and more to come: when
        self._allowed: dict[str, int] = {}  # of those: messages the next time

    def __len__(self) -> int:
        return self._count

    def waiting_for(self, to: str) -> int:
        """How many messages wait for `to`."""
        return len(self._queues.get(to, ()))

    def add(self, to: str, message: Waiting) -> str | None:
        """Keep a message; the reason if there is no room."""
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
        if (
            len(self._expiries) > 2 * self._count + 64
        ):  # mostly delivered ones: do not let them pile up
            self._expiries = [
                (m.expires, number, node)
                for node, messages in self._queues.items()
                for number, m in messages.items()
            ]
            heapq.heapify(self._expiries)
        else:
            heapq.heappush(self._expiries, (message.expires, self._number, to))
        return None

    def flush(self, now: float, to: str, send: Callable[[Waiting], bool]) -> None:
        """`to` has a way: send some of what waits for it, until `send` says that it could not. The rest
        follows when `due` names it."""
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
        """Whether more of what waits for `to` is to follow soon."""
        return to in self._flushing

    def due(self, now: float) -> list[str]:
        """For whom more is to be sent now."""
        return [to for to, at in self._flushing.items() if at <= now]

    def lost(self, to: str) -> None:
        """The link to `to` is gone: the next one is warmed up anew."""
        self._allowed.pop(to, None)

    def expire(self, now: float) -> int:
        """Drop what has waited too long; how many."""
        dropped = 0
        while self._expiries and (self._expiries[0][0] <= now or self._stale()):
            stale = self._stale()
            _, number, to = heapq.heappop(self._expiries)
            if not stale:
                self._remove(to, number)
                dropped += 1
        return dropped

    def next_deadline(self) -> float | None:
        """When something is due or expires next."""
        while self._expiries and self._stale():
            heapq.heappop(self._expiries)
        expiry = self._expiries[0][0] if self._expiries else None
        return min(
            (at for at in (expiry, *self._flushing.values()) if at is not None), default=None
        )

    def _first(self, to: str) -> Waiting | None:
        queue = self._queues.get(to)
        return next(iter(queue.values())) if queue else None

    def _stale(self) -> bool:
        _, number, to = self._expiries[0]
        return number not in self._queues.get(to, ())

    def _remove(self, to: str, number: int) -> None:
        queue = self._queues[to]
        message = queue.pop(number)
        if not queue:
            del self._queues[to]
        self._count -= 1
        self.bytes -= self._size(message)

    @staticmethod
    def _size(message: Waiting) -> int:
        return len(message.payload) + len(message.type) + 256  # bookkeeping of one entry
