"""Frames: a 4-byte big-endian length, then that many bytes. No I/O.

The decoder owns the buffer that a socket reads into (`writable`, `wrote`), so that a burst of frames
is parsed in place, and each frame leaves it as a copy of its own: what a message's payload refers to
must not change with the next read.
"""

from __future__ import annotations

from itertools import repeat
from struct import Struct

from p2p.base.errors import FrameTooLarge, MalformedMessage, RemoteProtocolError
from p2p.base.limits import MAX_FRAME, READ_BUFFER

HEADER = 4  # bytes
_LENGTH = Struct(">I")
pack_length = _LENGTH.pack
_unpack_length = _LENGTH.unpack_from

_HTTP = (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"CONN", b"HTTP")


class FrameDecoder:
    """Splitter of a stream of bytes into frames.

    It holds `room` bytes, and more (at most `limit` + 4) only while one longer frame is arriving.
    After an error the stream has no frame boundaries any more: every later call raises it again.
    """

    __slots__ = ("_buffer", "_end", "_limit", "_need", "_room", "_start", "_view")

    def __init__(self, limit: int = MAX_FRAME, room: int = READ_BUFFER) -> None:
        self._limit = limit
        self._room = max(room, HEADER)
        self._need = HEADER  # bytes from _start that the buffer has to hold for the next frame
        self._start = self._end = 0  # the bytes not yet taken
        self._buffer = bytearray(self._room)
        self._view = memoryview(self._buffer)

    @property
    def capacity(self) -> int:
        """Bytes of memory held."""
        return len(self._buffer)

    def set_limit(self, limit: int, room: int) -> None:
        """Change the longest frame allowed and the usual size of the buffer, from the next frame on."""
        self._limit = limit
        self._room = max(room, HEADER)

    def writable(self) -> memoryview:
        """Return the buffer for the next bytes, never empty. `wrote` tells how many came.

        Raises:
            BufferError: full of frames that have not been taken.
        """
        held = self._end - self._start
        size = max(self._room, self._need, held)
        if size != len(self._buffer):
            # A new buffer, not a resized one: the transport may still hold a view of the old.
            buffer = bytearray(size)
            buffer[:held] = self._view[self._start : self._end]
            self._buffer, self._view = buffer, memoryview(buffer)
            self._start, self._end = 0, held
        elif self._start:
            self._buffer[:held] = self._view[self._start : self._end]
            self._start, self._end = 0, held
        if held == size:
            raise BufferError("take the frames before reading more")
        return self._view[held:]

    def wrote(self, count: int) -> None:
        """Record that `count` bytes were written at the start of the buffer from `writable`."""
        self._end += count

    def take(self, maximum: int) -> list[bytearray]:
        """Return at most `maximum` complete frames, oldest first; an empty list if none is complete.

        Raises:
            FrameTooLarge: the next frame is announced as longer than the limit.
            MalformedMessage: the next frame is announced as empty.
                Frames before the fault are returned first; the next call raises.
        """
        buffer, start, end, limit = self._buffer, self._start, self._end, self._limit
        frames: list[bytearray] = []
        append = frames.append
        self._need = HEADER
        for _ in repeat(None, maximum):
            body = start + HEADER
            if body > end:
                break
            (length,) = _unpack_length(buffer, start)
            if not 0 < length <= limit:
                if frames:
                    break
                raise self._fault(length)
            stop = body + length
            if stop > end:
                self._need = HEADER + length
                break
            append(buffer[body:stop])
            start = stop
        if start == end:
            start = self._end = 0
        self._start = start
        return frames

    def discard(self) -> None:
        """Drop everything received."""
        self._start = self._end = 0
        self._need = HEADER

    def _fault(self, length: int) -> RemoteProtocolError:
        if length == 0:
            return MalformedMessage("an empty frame")
        head = bytes(self._buffer[self._start : self._start + HEADER])
        hint = ""
        if head[0] in (0x15, 0x16) and head[1] == 3:  # TLS record header, RFC 8446 section 5.1
            hint = "; these bytes are TLS: is P2P_SECURITY=off only on one side?"
        elif head in _HTTP:
            hint = "; these bytes are HTTP, and this is the peer port"
        return FrameTooLarge(f"a frame of {length} bytes, the limit is {self._limit}{hint}")
