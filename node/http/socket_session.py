"""Writing side of a WebSocket connection: pacing, slow readers, stalls.

A session has sources (subscriptions) that are marked when they have messages, and answers to the
client's own messages. Both are written in order of their posting:

- A reader that keeps up gets its messages in the same turn of the event loop, without a task switch.
- A reader that does not gets them from a task as its socket drains. Until then its sources are not
  asked again, so nothing is queued but what one look at the sources gave: a slow reader receives
  combined states, and the node's memory does not depend on it.
- A reader that takes no message for `send_timeout` seconds is stalled. A watch every quarter of that
  time finds it, which is cheaper than a timer for each message.

Rules of this file: `post` and `mark` never wait; `drained` is where a reader's own requests are held back
while it does not read; the connection's end is decided here alone, by `fault`, stall or `verdict`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Final, Generic, Protocol, TypeVar

from aiohttp import WSMsgType, web

MAX_SHARED: Final = 0xFFFF  # bytes of a text whose frame is kept for the next reader
_TEXT: Final = 0x80 | 0x1  # the last frame of a message, and its kind

log = logging.getLogger("node.api")


@lru_cache(maxsize=8)
def text_frame(message: bytes) -> bytes:
    """A server's WebSocket frame of a text of at most `MAX_SHARED` bytes. Readers of the same messages share it."""
    size = len(message)
    if size < 126:
        return bytes((_TEXT, size)) + message
    return bytes((_TEXT, 126)) + size.to_bytes(2) + message


class MessageSource(Protocol):
    """Something that has messages for a reader, not before `due` (seconds of the loop's clock)."""

    @property
    def due(self) -> float: ...


S = TypeVar("S", bound=MessageSource)
End = tuple[int, str]  # close code and reason


class SocketSession(Generic[S]):
    """Writer of one connection.

    `take` returns a source's messages at a time, as encoded text frames. When it raises, the connection
    ends: with the close code and reason `behind` for `too_slow`, at once for anything else. `stalled` is the
    end of a reader that takes nothing; `verdict` is looked at now and then and ends the connection with what
    it returns. An end that is None comes without a close frame. Times are seconds, `buffer` is bytes.
    """

    def __init__(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        take: Callable[[S, float], Iterable[bytes]],
        *,
        buffer: int,
        send_timeout: float,
        close_timeout: float = 1.0,
        too_slow: type[Exception],
        stalled: End | None = None,
        behind: End | None = None,
        verdict: Callable[[], End | None] = lambda: None,
    ) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the connection is gone already")
        self._transport = transport
        self._socket = socket
        writer = socket._writer
        if writer is not None and writer.compress:
            raise ValueError("a session is for sockets without compression: readers share frames")
        self._writer = writer
        self._take = take
        self._buffer = buffer
        self._send_timeout = send_timeout
        self._stalled = stalled
        self._close_timeout = close_timeout
        self._too_slow = too_slow
        self._behind = behind
        self._verdict = verdict
        self._loop = asyncio.get_running_loop()
        self._ready: dict[S, None] = {}  # sources that have messages
        self._planned: asyncio.Handle | None = None  # the next look at those,
        self._planned_for = 0.0  # and its time
        self._waiting: deque[bytes] = deque()  # frames without room in the socket's buffer
        self._full = asyncio.Event()  # the writer task has work: frames without room, or a fault
        self._room = asyncio.Event()  # nothing waits
        self._room.set()
        self._sending: float | None = None  # since this time a frame waits to be taken
        self._fault: Exception | None = None
        self._over = False

    async def run(self, read: Awaitable[None]) -> None:
        """Write beside `read` until it returns, or the connection ends."""
        writer = self._loop.create_task(self._write())
        watch = self._loop.create_task(self._watch(writer))
        try:
            await read
        except ConnectionError:
            self.cut()
        finally:
            self._over = True
            if self._planned is not None:
                self._planned.cancel()
            for task in (watch, writer):
                task.cancel()
            await asyncio.wait({watch, writer})

    # Answers

    def post(self, message: bytes) -> None:
        """Write a message behind everything before it."""
        if self._over:
            return
        self._waiting.append(message)
        if not self._full.is_set():
            self._flush()

    async def drained(self) -> None:
        """Wait until everything posted has room in the socket's buffer.

        Raises:
            ConnectionResetError: the connection ended instead.
        """
        await self._room.wait()
        if self._over:
            raise ConnectionResetError("the connection has ended")

    # Sources

    def mark(self, source: S) -> None:
        """Look at a source when it is due; the look is out of reach of the caller."""
        self._ready[source] = None
        if not self._full.is_set():
            self._plan(source.due)

    def forget(self, source: S) -> None:
        """Take no more messages of a source."""
        self._ready.pop(source, None)

    def _plan(self, due: float) -> None:
        if self._over:
            return
        if self._planned is not None:
            if self._planned_for <= due:
                return
            self._planned.cancel()
        if due and due > self._loop.time():
            self._planned_for = due
            self._planned = self._loop.call_at(due, self._carry)
        else:
            self._planned_for = 0.0
            self._planned = self._loop.call_soon(self._carry)

    def _carry(self) -> None:
        """Write what sources have, as far as there is room; the writer task has the rest."""
        self._planned = None
        try:
            now = self._loop.time()
            for source in tuple(self._ready):
                if source.due > now:
                    continue
                self._ready.pop(source, None)
                self._waiting.extend(self._take(source, now))
                if not self._flush():
                    return
        except Exception as error:
            self._fail(error)
            return
        if self._ready:
            self._plan(min(source.due for source in self._ready))

    # Writing

    def _flush(self) -> bool:
        """Write what waits; returns False when the buffer is full or the connection failed."""
        try:
            while self._waiting:
                if self._transport.get_write_buffer_size() >= self._buffer:
                    self._room.clear()
                    self._full.set()
                    return False
                self._write_now(self._waiting.popleft())
        except ConnectionError as error:
            self._fail(error)
            return False
        return True

    def _write_now(self, message: bytes) -> None:
        """Write one frame without waiting."""
        writer = self._writer
        if writer is not None and len(message) <= MAX_SHARED:
            if writer._closing or self._transport.is_closing():
                raise ConnectionResetError("the connection is closing")
            self._transport.write(text_frame(message))
            return
        # aiohttp writes first and then waits for room, if at all.
        sending = self._socket.send_frame(message, WSMsgType.TEXT)
        try:
            sending.send(None)
        except StopIteration:
            return
        sending.close()

    def _fail(self, error: Exception) -> None:
        self._fault = error
        self._room.clear()
        self._full.set()

    async def _write(self) -> None:
        """Write what had no room, as the reader takes it, until cancelled or at fault."""
        while True:
            await self._full.wait()
            if self._fault is not None:
                break
            try:
                while self._waiting:
                    self._sending = self._loop.time()
                    await self._socket.send_frame(self._waiting.popleft(), WSMsgType.TEXT)
            except ConnectionError as error:
                self._fault = error
                break
            self._sending = None
            self._full.clear()
            self._room.set()
            if self._planned is not None:
                self._planned.cancel()
            self._carry()
        if isinstance(self._fault, self._too_slow):
            await self._part(self._behind)
            return
        if not isinstance(self._fault, ConnectionError):
            log.error("a WebSocket session failed", exc_info=self._fault)
        self.cut()

    async def _watch(self, writer: asyncio.Task[None]) -> None:
        """Disconnect a stalled reader, and a connection with a verdict."""
        timeout = self._send_timeout
        while True:
            await asyncio.sleep(timeout / 4)
            if self._sending is not None and self._loop.time() - self._sending >= timeout:
                end = self._stalled
            elif (end := self._verdict()) is None:
                continue
            writer.cancel()
            await self._part(end)
            return

    async def _part(self, end: End | None) -> None:
        """Close with a reason, as long as the reader may see it."""
        if end is not None:
            with suppress(Exception):
                async with asyncio.timeout(self._close_timeout):
                    code, reason = end
                    await self._socket.close(code=code, message=reason.encode(), drain=False)
        self.cut()

    def cut(self) -> None:
        """End the connection now."""
        self._over = True
        self._room.set()
        self._transport.abort()
