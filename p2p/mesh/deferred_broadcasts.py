"""Broadcasts whose handling is put off, by link and origin. No I/O, no clock.

An origin may always send a little (`p2p.mesh.message_budget`). Broadcasts beyond that are handled after the messages that
arrived with them, in turns of their own: a flood that honest neighbours pass on would otherwise keep what they say
themselves waiting, on the same link. Those of one origin and link stay in order, so a feed's batches do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 4 * 1024 * 1024  # of all; beyond it, no origin has more than its equal part
ENTRY_OVERHEAD: Final = 500  # bytes of an entry beside its payload


@dataclass(slots=True, frozen=True)
class DeferredBroadcast:
    """A new broadcast with a valid envelope, not handled yet."""

    key: bytes
    type: str
    origin: str
    link: str  # that brought it first
    timestamp: int
    hops: int
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.payload) + ENTRY_OVERHEAD


class DeferredBroadcasts:
    """Queues by link and origin. `bytes`: memory of all."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[DeferredBroadcast]] = {}
        self._sizes: dict[str, int] = {}  # bytes by origin
        self.bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def waits(self, origin: str, link: str | None = None) -> bool:
        """Return True if broadcasts of an origin wait, over any link or over one: later ones of it have to."""
        return origin in self._sizes if link is None else (link, origin) in self._queues

    def put(self, broadcast: DeferredBroadcast) -> bool:
        """Put a broadcast off; False if there is no room for it."""
        size, origin = broadcast.size, broadcast.origin
        held = self._sizes.get(origin, 0)
        if held and self.bytes + size > MAX_BYTES and held + size > MAX_BYTES / len(self._sizes):
            return False
        self._queues.setdefault((broadcast.link, origin), deque()).append(broadcast)
        self._sizes[origin] = held + size
        self.bytes += size
        return True

    def take(self, link: str, origin: str) -> DeferredBroadcast | None:
        """Return the next broadcast of an origin over a link, None if none waits."""
        queue = self._queues.get((link, origin))
        if not queue:
            return None
        broadcast = queue.popleft()
        if not queue:
            del self._queues[link, origin]
        self.bytes -= broadcast.size
        self._sizes[origin] -= broadcast.size
        if not self._sizes[origin]:
            del self._sizes[origin]
        return broadcast
