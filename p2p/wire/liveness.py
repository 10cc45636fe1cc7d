"""Liveness and round-trip time of a link by heartbeats. No I/O.

A heartbeat with a sequence number is a request; the other side answers it at once with a heartbeat of sequence
0 whose `echo` is that number. Round trips are measured by the clock of the requesting side alone. An `echo` on
a heartbeat that is itself a request counts the same.
"""

from __future__ import annotations

from p2p.base.limits import DEAD_AFTER, HEARTBEAT_INTERVAL
from p2p.ground.bounded_map import BoundedMap
from p2p.wire.messages import Heartbeat

_SMOOTHING = 1 / 8  # RFC 6298, alpha
_OUTSTANDING = 8  # unanswered heartbeats remembered; older ones are lost or meaningless


class Liveness:
    """Heartbeats of one link. Times are seconds on any monotonic clock."""

    def __init__(
        self,
        now: float,
        *,
        interval: float = HEARTBEAT_INTERVAL,
        dead_after: float = DEAD_AFTER,
    ) -> None:
        self._interval = interval
        self._dead_after = dead_after
        self._sequence = 0
        self._asked: BoundedMap[int, float] = BoundedMap(_OUTSTANDING)
        self._next_beat = now
        self._last_received = now
        self._last_tick = now
        self.rtt: float | None = None  # seconds, smoothed

    def bytes_received(self, now: float) -> None:
        """Record that bytes of the peer arrived, at `now` at the latest."""
        if now > self._last_received:
            self._last_received = now

    def tick(self, now: float) -> Heartbeat | None:
        """Return the heartbeat to send now, None if none is due. Call at `next_tick`, and at any other
        time.
        """
        stalled = now - self._last_tick - self._interval
        if stalled > self._interval:
            # This process was stopped or its loop blocked: our pause is not the peer's silence.
            self._last_received = min(now, self._last_received + stalled)
        self._last_tick = now
        if now < self._next_beat:
            return None
        self._next_beat = now + self._interval
        self._sequence += 1
        self._asked[self._sequence] = now
        return Heartbeat(sequence=self._sequence)

    def next_tick(self) -> float:
        """Return the time of the next necessary call of `tick` and `dead`."""
        return min(self._next_beat, self._last_received + self._dead_after)

    def dead(self, now: float) -> bool:
        """Return True if the peer has been silent for too long."""
        return now - self._last_received >= self._dead_after

    def received(self, beat: Heartbeat, now: float) -> Heartbeat | None:
        """Process a heartbeat of the peer; returns the answer to send at once, if it is a request."""
        asked = self._asked.pop(beat.echo, None)
        if asked is not None:
            sample = now - asked
            self.rtt = sample if self.rtt is None else self.rtt + (sample - self.rtt) * _SMOOTHING
        if beat.sequence <= 0:
            return None
        return Heartbeat(sequence=0, echo=beat.sequence)
