"""Stream of bytes in both directions over relayed messages, as `RelaySegment`s. No I/O.

The nodes that pass segments on may change, and lose, double, delay and reorder them: `p2p.wire.byte_stream`.

Rules of this file:
- Each side names its end of the stream by random bytes, new for every stream. A segment belongs to a stream if it has
  the names of both ends; one without the other's name opens a stream. So neither a restart nor an old copy is taken
  for the present stream. A node that does not know the stream of a segment answers with a reset.
- A segment that begins beyond the window breaks the stream.
- What is not acknowledged in time is sent again (RFC 6298); of a lost segment three later ones tell at once.
- A stream that gets no answer for `GIVE_UP` seconds is broken.
"""

from __future__ import annotations

from typing import Final

from p2p.adaptive.peer_metrics import Outcome
from p2p.wire.byte_stream import UNLIMITED, ByteStream, Chunk, StreamError, StreamRules
from p2p.wire.messages import RelaySegment

NAME_LENGTH: Final = 8
SEGMENT: Final = 64 * 1024  # bytes of data in one message
WINDOW: Final = 512 * 1024  # bytes beyond the acknowledged ones
FIRST_WINDOW: Final = 128 * 1024  # before anything is acknowledged
BUFFER: Final = 512 * 1024  # bytes that wait to be acknowledged before `room` is 0
FIRST_TIMEOUT: Final = 0.5  # seconds until a segment is sent again, without a measurement
LEAST_TIMEOUT: Final = 0.25
MOST_TIMEOUT: Final = 4.0
ACK_DELAY: Final = 0.04  # seconds that an acknowledgement waits for data to go with it
ACK_BYTES: Final = 2 * SEGMENT  # received bytes that are acknowledged at once
DUPLICATES: Final = 3  # acknowledgements of one byte that show a loss
RULES: Final = StreamRules(
    chunk=SEGMENT,
    first_window=FIRST_WINDOW,
    window=WINDOW,
    least_window=SEGMENT,
    buffer=BUFFER,
    unread=WINDOW + SEGMENT,
    early=64,
)
GIVE_UP: Final = 30.0  # seconds


class RelayStream(ByteStream):
    """One end of a stream. Its driver sends what `segments` returns, after every call and at `next_deadline`.

    `fresh`: this node had no other stream with the peer since its start; the peer reads it in the opening.
    """

    def __init__(self, own: bytes, *, peer: bytes = b"", fresh: bool = False) -> None:
        # Before the other end is known only one segment is sent: it opens the stream.
        super().__init__(RULES, UNLIMITED if peer else SEGMENT)
        self.own = own
        self.peer = peer  # name of the other end, empty before its first segment
        self.confirmed = False  # the other end has shown that it knows the name of this one
        self.rtt: float | None = None  # seconds, smoothed
        self.resent = 0  # segments
        self.samples: list[
            tuple[Outcome, float]
        ] = []  # for its driver: round trips, and waits in vain
        self._fresh = fresh
        self._variance = 0.0
        self._timeout = FIRST_TIMEOUT
        self._resend_at: float | None = None
        self._timed: tuple[int, float] | None = None  # a byte's number, and when it was sent
        self._duplicates = 0
        self._recover = 0  # losses of bytes before this one have been answered ...
        self._filling = False  # ... by sending missing segments one by one
        self._hole = False  # the first segment has to be sent again, by itself
        self._waiting_since: float | None = None
        self._ack_at: float | None = None
        self._unacknowledged = 0

    # Receiving

    def receive(self, now: float, segment: RelaySegment) -> bytes:
        """Process a segment of this stream; returns the bytes that follow those before.

        Raises:
            StreamError: it breaks the rules.
        """
        if not self.peer:
            self.peer = segment.stream
            self.allowed = UNLIMITED
        if segment.peer:
            self.confirmed = True
            self._acknowledge(now, segment)
        return self._take(now, segment.seq, segment.data) if segment.data else b""

    def _acknowledge(self, now: float, segment: RelaySegment) -> None:
        before = self._base
        self.acknowledge(segment.ack)
        if self._waiting_since is not None:
            self._waiting_since = now
        if self._base == before:
            if segment.ack == before and not segment.data and before < self._next:
                self._duplicate(now)
            return
        self._duplicates = 0
        if self._timed is not None and self._base >= self._timed[0]:
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
            self.lost()
            self._hole = self._filling = True
            self._resend_at = now + self._timeout

    def lost(self) -> None:
        super().lost()
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
        if seq < 0 or seq + len(data) > self.allows or len(data) > SEGMENT:
            raise StreamError(f"byte {seq} is beyond the window, {self._expected} is expected")
        waits = bool(self._early)
        if not self.take(seq, data):
            self._ack_at = now  # early, or a copy: the acknowledgement was lost
            return b""
        ready = bytes(self.unread)
        self.unread.clear()
        self._unacknowledged += len(ready)
        if waits or self._unacknowledged >= ACK_BYTES:
            self._ack_at = now
        elif self._ack_at is None:
            self._ack_at = now + ACK_DELAY
        return ready

    # Sending

    def segments(self, now: float) -> list[RelaySegment]:
        """Return the segments to send now.

        Raises:
            StreamError: no answer for too long.
        """
        if self._waiting_since is not None and now >= self._waiting_since + GIVE_UP:
            raise StreamError(f"no answer for {GIVE_UP:g} s")
        if self._resend_at is not None and now >= self._resend_at:
            self.samples.append(("timeout", self._timeout))
            self.lost()
            self.rewind()
            self._hole = self._filling = False
            self._timeout = min(2 * self._timeout, MOST_TIMEOUT)
            self._resend_at = None
        made = []
        if self._hole:
            self._hole = False
            made.append(self._segment(self.first_chunk()))
            self.resent += 1
        while (chunk := self.next_chunk()) is not None:
            made.append(self._segment(chunk))
            self.resent += chunk.again
            if not chunk.again and self._timed is None:
                self._timed = (chunk.seq + 1, now)
            if self._resend_at is None:
                self._resend_at = now + self._timeout
            if self._waiting_since is None:
                self._waiting_since = now
        if not made and self._ack_at is not None and now >= self._ack_at and self.peer:
            made.append(self._segment(Chunk(self._next, b"", False, False)))
        if made:
            self._ack_at = None
            self._unacknowledged = 0
        return made

    def _segment(self, chunk: Chunk) -> RelaySegment:
        return RelaySegment(
            stream=self.own,
            peer=self.peer,
            seq=chunk.seq,
            data=chunk.data,
            ack=self.ack,
            fresh=self._fresh and not self.confirmed,
        )

    def next_deadline(self) -> float | None:
        """Return the time at which `segments` has something although nothing has happened."""
        give_up = None if self._waiting_since is None else self._waiting_since + GIVE_UP
        times = (self._resend_at, self._ack_at, give_up)
        return min((at for at in times if at is not None), default=None)
