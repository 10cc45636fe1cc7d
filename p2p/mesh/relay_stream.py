"""Reliable stream of bytes in both directions over relayed messages. No I/O.

Relayed messages may be lost, doubled, late or reordered, and the nodes that pass them on may change. Bytes are
numbered and acknowledged as in TCP (RFC 9293): a `RelaySegment` carries the number of its first byte, and the number
of the byte that its sender expects next.

Rules of this file:
- Each side names its end of the stream by random bytes, new for every stream. A segment belongs to a stream if it has
  the names of both ends; one without the other's name opens a stream. So neither a restart nor an old copy is taken
  for the present stream. A node that does not know the stream of a segment answers with a reset.
- At most `WINDOW` bytes are sent beyond the acknowledged ones, and fewer after a loss. A segment that begins beyond
  the window, or acknowledges what was never sent, breaks the stream.
- What is not acknowledged in time is sent again (RFC 6298); of a lost segment three later ones tell at once. Early
  segments are kept.
- A stream that gets no answer for `GIVE_UP` seconds is broken.
"""

from __future__ import annotations

from typing import Final

from p2p.adaptive.peer_metrics import Outcome
from p2p.wire.messages import RelaySegment

NAME_LENGTH: Final = 8
SEGMENT: Final = 64 * 1024  # bytes of data in one message
WINDOW: Final = 512 * 1024  # bytes beyond the acknowledged ones
FIRST_WINDOW: Final = 128 * 1024  # before anything is acknowledged
BUFFER: Final = 512 * 1024  # bytes that wait to be acknowledged before `room` is 0
FIRST_TIMEOUT: Final = 0.5  # seconds until a segment is sent again, without a measurement
LEAST_TIMEOUT: Final = 0.25
MOST_TIMEOUT: Final = 4.0
MAX_EARLY: Final = 64  # segments kept that arrived before others
ACK_DELAY: Final = 0.04  # seconds that an acknowledgement waits for data to go with it
ACK_BYTES: Final = 2 * SEGMENT  # received bytes that are acknowledged at once
DUPLICATES: Final = 3  # acknowledgements of one byte that show a loss
GIVE_UP: Final = 30.0  # seconds


class RelayStreamError(Exception):
    """The stream has ended; says why."""


class RelayStream:
    """One end of a stream. Its driver sends what `segments` returns, after every call and at `next_deadline`.

    `fresh`: this node had no other stream with the peer since its start; the peer reads it in the opening.
    """

    def __init__(self, own: bytes, now: float, *, peer: bytes = b"", fresh: bool = False) -> None:
        self.own = own
        self.peer = peer  # name of the other end, empty before its first segment
        self.confirmed = False  # the other end has shown that it knows the name of this one
        self.rtt: float | None = None  # seconds, smoothed
        self.resent = 0  # segments
        self.samples: list[
            tuple[Outcome, float]
        ] = []  # for its driver: round trips, and waits in vain
        self._fresh = fresh
        # Sending
        self._base = 0  # number of the first byte in the buffer: not acknowledged
        self._buffer = bytearray()
        self._next = 0  # number of the first byte that was not sent, or has to be sent again
        self._sent = 0  # number behind the last byte that was ever sent
        self._window = FIRST_WINDOW
        self._variance = 0.0
        self._timeout = FIRST_TIMEOUT
        self._resend_at: float | None = None
        self._timed: tuple[int, float] | None = None  # a byte's number, and when it was sent
        self._duplicates = 0
        self._recover = 0  # losses of bytes before this one have been answered ...
        self._filling = False  # ... by sending missing segments one by one
        self._hole = False  # the first segment has to be sent again, by itself
        self._waiting_since: float | None = None
        # Receiving
        self._expected = 0
        self._early: dict[int, bytes] = {}
        self._ack_at: float | None = None
        self._unacknowledged = 0
        self._opened_at = now

    @property
    def room(self) -> int:
        """Bytes that the local writer may add. A longer write is accepted as a whole."""
        return max(0, BUFFER - len(self._buffer))

    @property
    def written(self) -> int:
        """Number of bytes ever written."""
        return self._base + len(self._buffer)

    @property
    def acknowledged(self) -> int:
        """Number of bytes that have reached the other end."""
        return self._base

    def write(self, data: bytes) -> None:
        self._buffer += data

    # Receiving

    def receive(self, now: float, segment: RelaySegment) -> bytes:
        """Process a segment of this stream; returns the bytes that follow those before.

        Raises:
            RelayStreamError: it breaks the rules.
        """
        if not self.peer:
            self.peer = segment.stream
        if segment.peer:
            self.confirmed = True
            self._acknowledge(now, segment)
        return self._take(now, segment.seq, segment.data) if segment.data else b""

    def _acknowledge(self, now: float, segment: RelaySegment) -> None:
        ack = segment.ack
        if not 0 <= ack <= self._sent:
            raise RelayStreamError(f"byte {ack} is acknowledged, {self._sent} were sent")
        if self._waiting_since is not None:
            self._waiting_since = now
        if ack <= self._base:
            if ack == self._base and not segment.data and self._base < self._next:
                self._duplicate(now)
            return
        self._window = min(WINDOW, self._window + ack - self._base)
        del self._buffer[: ack - self._base]
        self._base = ack
        self._next = max(self._next, ack)
        self._duplicates = 0
        if self._timed is not None and ack >= self._timed[0]:
            self._measured(now - self._timed[1])
            self.samples.append(("ok", now - self._timed[1]))
            self._timed = None
        if self._base == self._sent:
            self._resend_at = self._waiting_since = None
        else:
            self._resend_at = now + self._timeout
            # The next missing segment of the same loss, if there is one.
            self._hole = self._filling = self._filling and self._base < self._recover

    def _duplicate(self, now: float) -> None:
        self._duplicates += 1
        if self._duplicates == DUPLICATES and self._base >= self._recover:
            self._lost()
            self._hole = self._filling = True
            self._resend_at = now + self._timeout

    def _lost(self) -> None:
        self._window = max(SEGMENT, self._window // 2)
        self._recover = self._sent
        self._timed = None

    def _measured(self, trip: float) -> None:
        if self.rtt is None:
            self.rtt, self._variance = trip, trip / 2
        else:
            self._variance += (abs(self.rtt - trip) - self._variance) / 4
            self.rtt += (trip - self.rtt) / 8
        wanted = self.rtt + max(4 * self._variance, 2 * ACK_DELAY)
        self._timeout = min(max(wanted, LEAST_TIMEOUT), MOST_TIMEOUT)

    def _take(self, now: float, seq: int, data: bytes) -> bytes:
        expected = self._expected
        if seq < 0 or seq + len(data) > expected + WINDOW + SEGMENT or len(data) > SEGMENT:
            raise RelayStreamError(f"byte {seq} is beyond the window, {expected} is expected")
        if seq > expected:
            self._keep_early(seq, data)
            self._ack_at = now
            return b""
        ready = bytearray(data[expected - seq :])
        if not ready:
            self._ack_at = now  # a copy: the acknowledgement was lost
            return b""
        while self._early:
            end = expected + len(ready)
            seq = min(self._early)
            if seq > end:
                break
            ready += self._early.pop(seq)[end - seq :]
            self._ack_at = now
        self._expected += len(ready)
        self._unacknowledged += len(ready)
        if self._ack_at is None or self._unacknowledged >= ACK_BYTES:
            self._ack_at = now if self._unacknowledged >= ACK_BYTES else now + ACK_DELAY
        return bytes(ready)

    def _keep_early(self, seq: int, data: bytes) -> None:
        held = sum(map(len, self._early.values()))
        if len(self._early) < MAX_EARLY and held + len(data) <= 2 * WINDOW:
            self._early.setdefault(seq, data)

    # Sending

    def segments(self, now: float) -> list[RelaySegment]:
        """Return the segments to send now.

        Raises:
            RelayStreamError: no answer for too long.
        """
        if self._waiting_since is not None and now >= self._waiting_since + GIVE_UP:
            raise RelayStreamError(f"no answer for {GIVE_UP:g} s")
        if self._resend_at is not None and now >= self._resend_at:
            self.samples.append(("timeout", self._timeout))
            self._lost()
            self._next = self._base
            self._hole = self._filling = False
            self._timeout = min(2 * self._timeout, MOST_TIMEOUT)
            self._resend_at = None
        made = []
        if self._hole:
            self._hole = False
            made.append(self._segment(self._base, self._base + SEGMENT))
            self.resent += 1
        while self._may_send():
            if self._next < self._sent:
                self.resent += 1
            elif self._timed is None:
                self._timed = (self._next + 1, now)
            end = min(self._next + SEGMENT, self._limit())
            made.append(self._segment(self._next, end))
            self._next = min(end, self.written)
            self._sent = max(self._sent, self._next)
            if self._resend_at is None:
                self._resend_at = now + self._timeout
            if self._waiting_since is None:
                self._waiting_since = now
        if not made and self._ack_at is not None and now >= self._ack_at and self.peer:
            made.append(self._segment(self._next, self._next))
        if made:
            self._ack_at = None
            self._unacknowledged = 0
        return made

    def _limit(self) -> int:
        # Before the other end is known only one segment is sent: it opens the stream.
        return self._base + (self._window if self.peer else SEGMENT)

    def _may_send(self) -> bool:
        return self._next < min(self._limit(), self.written)

    def _segment(self, start: int, end: int) -> RelaySegment:
        data = bytes(memoryview(self._buffer)[start - self._base : end - self._base])
        return RelaySegment(
            stream=self.own,
            peer=self.peer,
            seq=start,
            data=data,
            ack=self._expected,
            fresh=self._fresh and not self.confirmed,
        )

    def next_deadline(self) -> float | None:
        """Return the time at which `segments` has something although nothing has happened."""
        give_up = None if self._waiting_since is None else self._waiting_since + GIVE_UP
        times = (self._resend_at, self._ack_at, give_up)
        return min((at for at in times if at is not None), default=None)
