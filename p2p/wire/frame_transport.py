"""Frames over an asyncio transport: buffers, pacing and closing, below the meaning of messages.

Reading: the socket's bytes land in the decoder's buffer and are cut into frames there; a batch of frames
is handed on in one call, without a task per message. Links take turns (`p2p.wire.read_turns`): after `FRAMES_PER_TURN`
frames, or `TURN_TIME` seconds of work, reading stops until the others were served. Some messages cost a thousand times
more than others, and the peer chooses which it sends.

What a link's bytes cost before they are frames, TLS above all, is bounded too: a peer that writes one byte a record makes them cost a
thousand times more. Beyond `READ_SHARE` of a core the link is not read for a while.

Writing: frames wait in an outbox that is joined and written once per turn of the loop, or as soon as
`WRITE_CHUNK` bytes wait. While the transport has enough, the outbox keeps what comes, in joined chunks
that end on frame boundaries: so all of it is counted, and can be dropped in favour of a goodbye.

Ending: the side that ends it throws away what still arrives and waits for the other to hang up, at most
`CLOSE_GRACE`. Closing at once could destroy its last words: with unread bytes in its buffer the operating
system resets the connection (RFC 2525, 2.17).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from time import perf_counter
from typing import Any, cast

from p2p.base.errors import RemoteProtocolError
from p2p.base.limits import (
    FRAMES_PER_TURN,
    MAX_FRAME,
    MAX_HANDSHAKE_FRAME,
    OUTBOX_HIGH_WATER,
    OUTBOX_LIMIT,
    READ_BUFFER,
)
from p2p.ground.tokens import Tokens
from p2p.wire.framing import HEADER, FrameDecoder, pack_length
from p2p.wire.link import LinkStats
from p2p.wire.read_turns import ReadTurns

WRITE_CHUNK = 256 * 1024  # bytes joined into one write at most, and held by the transport at once
CLOSE_GRACE = 1.0  # seconds for last words to be read
READ_SHARE = 0.2  # of a core: what reading and decrypting the bytes of one link may take for long,
READ_BURST = 1.0  # and seconds of it at once
LONGEST_REST = 1.0  # seconds without reading: a link that is not read for long seems to be dead


class FrameTransport(asyncio.BufferedProtocol):
    """Owner of one transport. Subclasses implement the abstract methods for frames and events."""

    def __init__(self, clock: Callable[[], float], turns: ReadTurns | None = None) -> None:
        """`turns` are those of the links that this one shares the processor with; its own by default."""
        self.stats = LinkStats()
        self.flow: Hashable = self
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._turns = ReadTurns() if turns is None else turns
        self._transport: asyncio.Transport | None = None
        self._lost = self._loop.create_future()  # done when the transport is gone
        # One frame at a time during the handshake: what follows it falls under other limits.
        self._decoder = FrameDecoder(MAX_HANDSHAKE_FRAME, HEADER + MAX_HANDSHAKE_FRAME)
        self._batch = 1
        self._backlog: list[bytearray] = []  # taken from the decoder, left for the next turn
        self._closing = False  # arriving frames are dropped, except a goodbye
        self._reading = True
        self._read_began = 0.0
        self._read_share = Tokens(READ_BURST)
        self._rest: asyncio.TimerHandle | None = None
        self._pending: list[bytes] = []  # lengths and payloads in turn
        self._pending_bytes = 0
        self._chunks: deque[bytes] = deque()  # waiting for the transport
        self._chunk_bytes = 0
        self._flush_due = False
        self._writable = True
        self._grace: asyncio.TimerHandle | None = None
        self._drained: list[asyncio.Future[None]] = []

    # What a subclass does

    def opened(self) -> None:
        """Called when the transport is there."""
        raise NotImplementedError

    def received(self, frames: list[bytearray], until: float) -> int:
        """Process frames in order, at least one, and stop when `perf_counter` reaches `until`; returns how many.

        Not called again after `_stop_processing`.
        """
        raise NotImplementedError

    def refused(self, error: RemoteProtocolError) -> None:
        """Called when the bytes are not frames."""
        raise NotImplementedError

    def is_goodbye(self, frame: bytearray) -> bool:
        """Return True if the frame says that the peer is leaving too."""
        raise NotImplementedError

    def overflowed(self) -> None:
        """Called when more than `OUTBOX_LIMIT` bytes wait."""
        raise NotImplementedError

    def gone(self, error: Exception | None) -> None:
        """Called once when the transport is gone."""
        raise NotImplementedError

    # Reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_CHUNK)
        self.stats.opened_at = self.stats.last_seen = self._clock()
        self.opened()

    def get_buffer(self, sizehint: int) -> memoryview:
        self._read_began = perf_counter()
        return self._decoder.writable()

    def buffer_updated(self, nbytes: int) -> None:
        self.stats.bytes_received += nbytes
        self.stats.last_seen = now = self._clock()
        spent = perf_counter() - self._read_began
        left = self._read_share.overdraw(now, READ_SHARE, READ_BURST, spent)
        if left < 0:
            self._rest_for(min(-left / READ_SHARE, LONGEST_REST))
        self._decoder.wrote(nbytes)
        if self._reading and not self._turns.ready(self):
            self._read_on(False)

    def eof_received(self) -> bool:
        # A half-closed peer has left, and does not read unwritten data. Closing in order would
        # wait for it; asyncio from 3.12 on even loses its writer then, and spins until the socket goes.
        if not self._writable:
            self.abort()
        return False

    def take_turn(self, until: float) -> bool:
        """Process frames, at least one, until `perf_counter` reaches `until`, and pause reading while complete ones may be
        left; returns True if so."""
        more = self._process_frames(until)
        if more == self._reading:
            self._read_on(not more)
        return more

    def _rest_for(self, seconds: float) -> None:
        if self._rest is None:
            self._rest = self._loop.call_later(seconds, self._rested)
            self._read_on(self._reading)

    def _rested(self) -> None:
        self._rest = None
        self._read_on(self._reading)

    def _read_on(self, reading: bool) -> None:
        self._reading = reading
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if reading and self._rest is None:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def _process_frames(self, until: float) -> bool:
        """Process frames; returns True if complete ones may be left."""
        if self._closing:
            self._await_goodbye()
            return False
        left = FRAMES_PER_TURN
        scheduled, self._flush_due = self._flush_due, True  # answers are written below, at once
        try:
            while left > 0 and not self._closing:
                frames = self._backlog or self._decoder.take(min(self._batch, left))
                if not frames:
                    break
                done = self.received(frames, until)
                self.stats.messages_received += done
                self._backlog = frames[done:] if done < len(frames) else []
                left = left - done if perf_counter() < until else 0
        except RemoteProtocolError as error:
            self.refused(error)
        self._flush_due = scheduled
        self._flush()
        return left <= 0 and not self._closing

    def _await_goodbye(self) -> None:
        """Look for a farewell only, while lingering: two sides that part at once need not wait."""
        frames, self._backlog = self._backlog, []
        try:
            while frames or (frames := self._decoder.take(FRAMES_PER_TURN)):
                if any(map(self.is_goodbye, frames)):
                    self.hang_up()
                    return
                frames = []
        except RemoteProtocolError:
            self._decoder.discard()

    def _lift_handshake_limits(self) -> None:
        """Switch from handshake limits to those of a proven peer: whole messages, and many at once."""
        self._decoder.set_limit(MAX_FRAME, READ_BUFFER)
        self._batch = FRAMES_PER_TURN

    # Writing

    @property
    def outbox_bytes(self) -> int:
        """Bytes accepted and not yet taken by the operating system of the peer or of this node."""
        held = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._pending_bytes + self._chunk_bytes + held

    def _put(self, payload: bytes) -> None:
        """Queue one frame. Raises ValueError if it is longer than MAX_FRAME."""
        size = len(payload)
        if size > MAX_FRAME:
            raise ValueError(f"a message of {size} bytes, the limit is {MAX_FRAME}")
        pending = self._pending
        pending.append(pack_length(size))
        pending.append(payload)
        self._pending_bytes += size + HEADER
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)
        if self._pending_bytes >= WRITE_CHUNK:
            self._flush()

    def _flush_turn(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        self.stats.messages_sent += len(self._pending) // 2
        chunk = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        if self._writable and not self._chunks:
            self._write(chunk)
        else:
            self._chunks.append(chunk)
            self._chunk_bytes += len(chunk)
            if self.outbox_bytes > OUTBOX_LIMIT and not self._closing:
                self.overflowed()

    def _write(self, chunk: bytes) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self.stats.bytes_sent += len(chunk)
            transport.write(chunk)

    def _drop_unwritten(self) -> None:
        """Drop frames that the transport has not been given."""
        self._pending.clear()
        self._chunks.clear()
        self._pending_bytes = self._chunk_bytes = 0

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        while self._writable and self._chunks:
            chunk = self._chunks.popleft()
            self._chunk_bytes -= len(chunk)
            self._write(chunk)
        if self.outbox_bytes < OUTBOX_HIGH_WATER:
            self._wake_drained()

    async def _wait_drained(self) -> None:
        self._flush()
        while self.outbox_bytes >= OUTBOX_HIGH_WATER and not self._closing:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    def _wake_drained(self) -> None:
        waiters, self._drained = self._drained, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Ending

    def _stop_processing(self) -> None:
        self._closing = True
        self._wake_drained()

    def linger(self) -> None:
        """Write what waits, and stay for a short time until the peer hangs up."""
        self._stop_processing()
        self._flush()
        self._limit_stay()

    def hang_up(self) -> None:
        """Close in order; the peer reads no more."""
        self._stop_processing()
        self._drop_unwritten()
        if self._transport is not None:
            self._transport.close()
        self._limit_stay()

    def _limit_stay(self) -> None:
        if self._grace is None and not self._lost.done():
            self._grace = self._loop.call_later(CLOSE_GRACE, self.abort)

    def abort(self) -> None:
        """Close at once; unwritten data is lost."""
        self._stop_processing()
        self._drop_unwritten()
        if self._transport is not None:
            self._transport.abort()

    def on_gone(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` with this transport when it is gone."""
        self._lost.add_done_callback(lambda _: callback(self))

    async def wait_closed(self) -> None:
        """Wait until the transport is gone. For an object that has, or will get, a transport."""
        await asyncio.shield(self._lost)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_processing()
        self._turns.gone(self)
        self._drop_unwritten()
        if self._grace is not None:
            self._grace.cancel()
        if not self._lost.done():
            self._lost.set_result(None)
        self.gone(exc)
