"""Fair shares of what this node relays for others, in bytes a second. No I/O.

Two nodes that this one relays between are a pair, whichever of them sends. All pairs together get `rate` bytes a second. While
that is enough each message passes at once. Otherwise messages wait in a queue for each pair, and the queues are served in turn
(deficit round robin, Shreedhar and Varghese 1995): no pair gets less than its share because another one sends more,
and what one leaves the others may use. There is no cap on the bytes of a pair: it may be slow, but is never cut.

Rules of this file:
- A pair has a reservation from its first message until it was idle for `RESERVED` seconds. The peer that hands over the
  first message answers for it: each has at most `PAIRS_OF_PEER`.
- Where all places are taken a pair with traffic in one direction only gives way to a new one, else one of a network group,
  or of a peer, with more pairs. So places that cost nothing are held only until another pair needs one.
- A queue holds what its pair's share takes `QUEUE_TIME` seconds to send, at least one message. What exceeds that is refused, and
  the peer that brought it gets the reason.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import msgspec

Item = TypeVar("Item")

MAX_PAIRS: Final = 1024
PAIRS_OF_PEER: Final = 256  # of these: brought by one peer
RESERVED: Final = 60.0  # seconds after the last message
QUEUE_TIME: Final = 2.0  # seconds
LEAST_QUEUE: Final = 64 * 1024  # bytes, whatever the share is
MAX_QUEUED: Final = 16 * 1024 * 1024  # bytes of all pairs
BURST: Final = 0.25  # seconds' worth at once
QUANTUM: Final = 64 * 1024  # bytes of one pair in one turn
OVERHEAD: Final = 256  # bytes of a message beside its payload: keys, signature, framing

OFF: Final = "off"
PAIRS: Final = "pairs"
SHARE: Final = "share"


@dataclass(slots=True)
class RelayedPair(Generic[Item]):
    """A reservation. Times are monotonic seconds."""

    one: str
    other: str
    via: str  # the peer that brought its first message
    since: float
    used_at: float
    bytes: int = 0
    messages: int = 0
    refused: int = 0
    queue: deque[tuple[int, Item]] = field(default_factory=deque)
    queued_bytes: int = 0
    credit: int = 0
    first: str = ""  # the node that sent first
    answered: bool = False  # the other one has sent too


class RelayRefusal(msgspec.Struct, frozen=True):
    kind: str  # OFF, PAIRS or SHARE
    reason: str  # a sentence for people


class RelayShares(Generic[Item]):
    """Reservations and queues of one node. `rate`: bytes a second for all pairs; 0: it relays nothing."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.pairs: dict[tuple[str, str], RelayedPair[Item]] = {}
        self.refused: Counter[str] = Counter({OFF: 0, PAIRS: 0, SHARE: 0})
        self.bytes = 0
        self.queued_bytes = 0
        self._of_peer: Counter[str] = Counter()
        self._groups: dict[str, str] = {}  # network group of a linked peer
        self._turns: deque[RelayedPair[Item]] = deque()  # pairs with a queue, the next one first
        self._level = rate * BURST  # bytes that may pass now; below zero after a large message
        self._at: float | None = None
        self._swept_at = float("-inf")

    def offer(
        self, now: float, origin: str, to: str, via: str, size: int, item: Item
    ) -> RelayRefusal | None:
        """Accept a message from `origin` to `to` that peer `via` brought; `due` returns it when it may be sent."""
        pair = self._pair(now, origin, to, via)
        if isinstance(pair, RelayRefusal):
            self.refused[pair.kind] += 1
            return pair
        size += OVERHEAD
        if pair.queue and pair.queued_bytes + size > self._queue_limit():
            pair.refused += 1
            self.refused[SHARE] += 1
            share = self.rate / max(1, len(self._turns))
            return RelayRefusal(
                SHARE,
                f"more than the pair's share of P2P_RELAY_RATE, {share:.0f} bytes a second now",
            )
        pair.used_at = now
        pair.answered = pair.answered or origin != pair.first
        if not pair.queue:
            self._turns.append(pair)
            pair.credit = 0
        pair.queue.append((size, item))
        pair.queued_bytes += size
        self.queued_bytes += size
        return None

    def _queue_limit(self) -> float:
        if self.queued_bytes >= MAX_QUEUED:
            return 0.0
        return max(LEAST_QUEUE, QUEUE_TIME * self.rate / max(1, len(self._turns)))

    def _pair(self, now: float, origin: str, to: str, via: str) -> RelayedPair[Item] | RelayRefusal:
        if not self.rate:
            return RelayRefusal(OFF, "this node does not relay (P2P_RELAY_RATE=0)")
        key = (origin, to) if origin < to else (to, origin)
        pair = self.pairs.get(key)
        if pair is not None:
            return pair
        self._sweep(now)
        if self._of_peer[via] >= PAIRS_OF_PEER:
            if not self._make_room(via, [p for p in self.pairs.values() if p.via == via]):
                text = f"this node relays for {PAIRS_OF_PEER} pairs of one peer, its limit"
                return RelayRefusal(PAIRS, text)
        elif len(self.pairs) >= MAX_PAIRS and not self._make_room(via, list(self.pairs.values())):
            return RelayRefusal(PAIRS, f"this node relays for {MAX_PAIRS} pairs, its limit")
        self._of_peer[via] += 1
        pair = self.pairs[key] = RelayedPair(*key, via, now, now, first=origin)
        return pair

    def _make_room(self, via: str, pairs: list[RelayedPair[Item]]) -> bool:
        """End one of `pairs` for a new pair of peer `via`, if one has to give way."""
        sizes = Counter(self._group(pair.via) for pair in pairs)

        def weight(pair: RelayedPair[Item]) -> tuple[int, int, float]:
            return sizes[self._group(pair.via)], self._of_peer[pair.via], -pair.used_at

        unanswered = [pair for pair in pairs if not pair.answered]
        heaviest = max(unanswered or pairs, key=weight)
        if not unanswered:
            own = self._group(via)
            larger = sizes[self._group(heaviest.via)] > sizes[own] + 1
            same = self._group(heaviest.via) == own
            if not larger and not (same and self._of_peer[heaviest.via] > self._of_peer[via] + 1):
                return False
        self._end(heaviest)
        return True

    def _group(self, via: str) -> str:
        return self._groups.get(via, via)

    def link_up(self, via: str, group: str) -> None:
        """Note the network group of a peer."""
        self._groups[via] = group or via

    def due(self, now: float) -> list[Item]:
        """Return the messages to send now, in order."""
        self._refill(now)
        ready: list[Item] = []
        while self._turns and self._level > 0:
            pair = self._turns[0]
            size, item = pair.queue[0]
            if pair.credit <= 0:
                pair.credit += QUANTUM
            pair.queue.popleft()
            pair.queued_bytes -= size
            self.queued_bytes -= size
            self._level -= size
            pair.credit -= size
            pair.bytes += size
            pair.messages += 1
            self.bytes += size
            ready.append(item)
            if not pair.queue:
                self._turns.popleft()
            elif pair.credit <= 0:
                self._turns.rotate(-1)
        return ready

    def next_deadline(self) -> float | None:
        """Return the time of the next message of a queue, None if all are empty."""
        if not self._turns or self._at is None:
            return None
        return self._at + max(0.0, 1.0 - self._level) / self.rate

    def of_peer(self, via: str) -> int:
        """Return the number of pairs for which a peer answers."""
        return self._of_peer[via]

    def forget_peer(self, via: str) -> None:
        """End the reservations that a peer answers for: its link is gone. Their queues are sent still."""
        for pair in [p for p in self.pairs.values() if p.via == via]:
            self._end(pair)
        self._groups.pop(via, None)

    def active(self, now: float) -> list[RelayedPair[Item]]:
        """Return the present reservations."""
        self._sweep(now)
        return list(self.pairs.values())

    def _refill(self, now: float) -> None:
        if self._at is not None and now > self._at:
            self._level = min(self.rate * BURST, self._level + (now - self._at) * self.rate)
        self._at = now if self._at is None else max(now, self._at)

    def _sweep(self, now: float) -> None:
        if now < self._swept_at + 1.0:
            return
        self._swept_at = now
        for pair in [p for p in self.pairs.values() if now >= p.used_at + RESERVED]:
            self._end(pair)

    def _end(self, pair: RelayedPair[Item]) -> None:
        del self.pairs[pair.one, pair.other]
        self._of_peer[pair.via] -= 1
        if not self._of_peer[pair.via]:
            del self._of_peer[pair.via]
