"""Reliable stream of bytes in both directions over messages that are lost, doubled, late or reordered. No I/O, no clock.

As in TCP (RFC 9293) the bytes of each direction are numbered, and the end of a direction is one more number. Every message
says up to which number its author has received (`ack`); what it brings is taken or left by its numbers alone. Two kinds
of messages carry such a stream: segments through relays (`p2p.mesh.relay_stream`), and requests with their answers
(`p2p.grenache_links.tunnel`). Each decides when a message counts as lost, and how it is written.

Rules of this file:
- At most `window` bytes beyond the acknowledged ones are sent, and none beyond the number that the other end allows. A loss
  halves the window, an acknowledgement lets it grow again.
- What is known already is dropped, what comes early is kept within bounds, and what exceeds the room is not taken.
- An acknowledgement of what was never sent breaks the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

UNLIMITED: Final = 2**62  # number of a byte that no stream reaches


class StreamError(Exception):
    """The stream has ended, or a message of it makes no sense; says why."""


@dataclass(frozen=True, slots=True)
class StreamRules:
    """Limits of a kind of stream, in bytes."""

    chunk: int  # of data in one message
    first_window: int  # before anything is acknowledged
    window: int
    least_window: int  # after losses
    buffer: int  # written and not acknowledged, before `room` is 0
    unread: int  # received and not read
    early: int = 0  # messages kept that arrived before others


class Chunk(NamedTuple):
    """Bytes to send from the number `seq` on. `again`: some of them were sent before."""

    seq: int
    data: bytes
    ends: bool  # nothing follows
    again: bool


class ByteStream:
    """One end of a stream. `allowed`: number of the first byte that may not be sent yet."""

    def __init__(self, rules: StreamRules, allowed: int) -> None:
        self._rules = rules
        # Sending
        self.allowed = allowed
        self.finished = False  # nothing will be written any more
        self.delivered = False  # and the other end knows
        self._base = 0  # number of the first byte in the buffer: not acknowledged
        self._buffer = bytearray()
        self._next = 0  # number of the first byte that was not sent, or has to be sent again
        self._sent = 0  # number behind the last byte that was ever sent
        self._window = rules.first_window
        # Receiving
        self.unread = bytearray()  # received bytes; `consumed` removes them
        self.peer_ended = False  # nothing will follow them
        self._dropped = False  # no reader any more
        self._expected = 0
        self._early: dict[int, bytes] = {}

    # Sending

    @property
    def room(self) -> int:
        """Bytes that the local writer may add."""
        return 0 if self.finished else max(0, self._rules.buffer - len(self._buffer))

    @property
    def written(self) -> int:
        """Number of bytes ever written."""
        return self._base + len(self._buffer)

    @property
    def acknowledged(self) -> int:
        """Number of bytes that have reached the other end."""
        return self._base

    def write(self, data: bytes | bytearray) -> None:
        """Send `data`. It is accepted as a whole, even if it exceeds `room`."""
        self._buffer += data

    def finish(self) -> None:
        """Send the end: the local writer has ended."""
        self.finished = True

    def acknowledge(self, ack: int, allowed: int = UNLIMITED) -> bool:
        """Process the numbers of a message; returns True if they bring anything new.

        Raises:
            StreamError: what is acknowledged was never sent.
        """
        if not 0 <= ack <= self._sent:
            raise StreamError(f"byte {ack} is acknowledged, {self._sent} were sent")
        news = allowed > self.allowed
        self.allowed = max(self.allowed, allowed)
        if ack > self.written:
            news = news or not self.delivered
            self.delivered = True
            ack = self.written
        if ack > self._base:
            news = True
            self._window = min(self._rules.window, self._window + ack - self._base)
            del self._buffer[: ack - self._base]
            self._base = ack
            self._next = max(self._next, ack)
        return news

    def next_chunk(self) -> Chunk | None:
        """Return the next bytes to send, None if there is nothing, or it may not be sent yet."""
        start = self._next
        stop = min(start + self._rules.chunk, self._base + self._window, self.allowed, self.written)
        data = self._bytes(start, stop)
        end = start + len(data)
        ends = self.finished and not self.delivered and end == self.written
        if not data and not ends:
            return None
        again = start < self._sent
        self._next = end + ends
        self._sent = max(self._sent, self._next)
        return Chunk(start, data, ends, again)

    def first_chunk(self) -> Chunk:
        """Return the first bytes that are not acknowledged, to send them again by themselves."""
        return Chunk(
            self._base, self._bytes(self._base, self._base + self._rules.chunk), False, True
        )

    def _bytes(self, start: int, stop: int) -> bytes:
        view = memoryview(self._buffer)
        return bytes(view[start - self._base : max(start, stop) - self._base])

    def rewind(self) -> None:
        """Send everything again that is not acknowledged."""
        self._next = self._base

    def lost(self) -> None:
        """Send less at once: a message was lost."""
        self._window = max(self._rules.least_window, self._window // 2)

    # Receiving

    @property
    def ack(self) -> int:
        """Number up to which this end has received."""
        return self._expected + self.peer_ended

    @property
    def allows(self) -> int:
        """Number of the first byte that this end has no room for."""
        return self._expected + self._rules.unread - len(self.unread)

    def take(self, seq: int, data: bytes, ends: bool = False) -> bool:
        """Take what is new and fits; returns True if there was anything."""
        if self.peer_ended:
            return False
        if seq > self._expected:
            self._keep_early(seq, data)
            return False
        known = self._expected - seq
        fresh = bytearray(memoryview(data)[known:][: self.allows - self._expected])
        self.peer_ended = ends and known + len(fresh) == len(data)
        while self._early and fresh and not ends:
            end = self._expected + len(fresh)
            first = min(self._early)
            if first > end:
                break
            fresh += self._early.pop(first)[end - first :]
        self._expected += len(fresh)
        if not self._dropped:
            self.unread += fresh
        return len(fresh) > 0 or self.peer_ended

    def _keep_early(self, seq: int, data: bytes) -> None:
        held = sum(map(len, self._early.values()))
        if len(self._early) < self._rules.early and held + len(data) <= self._rules.unread:
            self._early.setdefault(seq, data)

    def consumed(self, count: int) -> None:
        """Remove bytes that were read."""
        del self.unread[:count]

    def drop_incoming(self) -> None:
        """Take and throw away what arrives: the local reader has gone."""
        self._dropped = True
        self.unread.clear()
