"""Writing side of a WebSocket connection: pacing, slow readers, stalls.

A session has sources (subscriptions) that are marked when they have messages, and answers to the
client's own messages. Both are written in order of their posting:

- A reader that keeps up gets its messages in the same turn of the event loop, without a task switch.
- A reader that does not gets them as its socket drains. Until then its sources are not
  asked again, so nothing is queued but what one look at the sources gave: a slow reader receives
  combined states, and the node's memory does not depend on it.
- A reader that takes no message for `send_timeout` seconds is stalled. A watch every quarter of that
  time finds it, which is cheaper than a timer for each message.

Rules of this file: `post` and `mark` never wait; `held` is where a reader's own requests are held back
while it does not read; the connection's end is decided here alone, by fault, stall or `verdict`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, Protocol, TypeVar

from node.http.server_connection import ServerConnection
from node.http.server_socket import ServerSocket
from p2p.base.places import Places
from p2p.base.websocket import frame

MAX_SHARED: Final = 0xFFFF  # bytes of a text whose frame is kept for the next reader

LEAST_PER_ADDRESS: Final = 16  # WebSockets, ...
SHARE_OF_ADDRESS: Final = 4  # ... or one of this many of all

log = logging.getLogger("node.api")

_shared_frame: Final = lru_cache(maxsize=8)(frame)  # readers of the same message share it


def stream_places(most: int) -> Places[ServerConnection]:
    """Return the slots of `most` WebSockets. An address other than this machine has a quarter of them."""
    return Places(most, max(LEAST_PER_ADDRESS, most // SHARE_OF_ADDRESS))


class MessageSource(Protocol):
    """Something that has messages for a reader, not before `due` (seconds of the loop's clock)."""

    @property
    def due(self) -> float: ...


S = TypeVar("S", bound=MessageSource)
End = tuple[int, str]  # close code and reason


@dataclass(frozen=True, slots=True)
class SessionRules:
    """Ends of a connection: `stalled` of a reader that takes nothing for `send_timeout` seconds, `behind` of one that is
    further behind than its sources go, which raise `too_slow`. An end that is None comes without a close frame."""

    send_timeout: float
    too_slow: type[Exception]
    stalled: End | None = None
    behind: End | None = None


class SocketSession(Generic[S]):
    """Writer of one connection.

    `take` returns a source's messages at a time, as encoded text. `verdict` is looked at now and then and ends the
    connection with what it returns.
    """

    def __init__(
        self,
        socket: ServerSocket,
        rules: SessionRules,
        take: Callable[[S, float], Iterable[bytes]],
        verdict: Callable[[], End | None] = lambda: None,
    ) -> None:
        self._socket = socket
        self._rules = rules
        self._take = take
        self._verdict = verdict
        self._loop = asyncio.get_running_loop()
        self._ready: dict[S, None] = {}  # sources that have messages
        self._planned: asyncio.Handle | None = None  # the next look at those,
        self._planned_for = 0.0  # and its time
        self._waiting: deque[bytes] = deque()  # frames that the reader has no room for,
        self._full: float | None = None  # and since when
        self._room: asyncio.Future[None] | None = None  # for those that wait until they are written
        self._over = False
        self._watch = self._loop.call_later(rules.send_timeout / 4, self._look)

    # Answers

    def post(self, message: bytes) -> None:
        """Write a message behind everything before it."""
        if not self._over:
            self._waiting.append(frame(message))
            if self._full is None:
                self._flush()

    def held(self) -> Coroutine[Any, Any, None] | None:
        """Wait until everything posted has room; None if it has.

        Raises:
            ConnectionResetError: the connection ended instead.
        """
        return None if self._full is None else self._wait_for_room()

    async def _wait_for_room(self) -> None:
        while self._full is not None and not self._over:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)
        if self._over:
            raise ConnectionResetError("the connection has ended")

    # Sources

    def mark(self, source: S) -> None:
        """Look at a source when it is due; the look is out of reach of the caller."""
        self._ready[source] = None
        if self._full is None:
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
        """Write what sources have, as far as there is room."""
        self._planned = None
        waiting, socket = self._waiting, self._socket
        try:
            now = self._loop.time()
            for source in tuple(self._ready):
                if source.due > now:
                    continue
                self._ready.pop(source, None)
                for message in self._take(source, now):
                    shared = len(message) <= MAX_SHARED
                    made = _shared_frame(message) if shared else frame(message)
                    if waiting or socket.paused:
                        waiting.append(made)
                    else:
                        socket.write(made)
                if waiting and not self._flush():
                    return
        except Exception as error:
            self._fail(error)
            return
        if self._ready:
            self._plan(min(source.due for source in self._ready))

    # Writing

    def _flush(self) -> bool:
        """Write what waits; returns False if the reader has no room for all of it."""
        waiting, socket = self._waiting, self._socket
        while waiting:
            if socket.paused:
                self._full = self._loop.time()
                return False
            socket.write(waiting.popleft())
        return True

    def on_writable(self) -> None:
        """The reader has room again."""
        if self._full is None or self._over:
            return
        self._full = None
        if self._flush():
            self._release()
            if self._planned is not None:
                self._planned.cancel()
            self._carry()

    def _release(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # The end

    def _fail(self, error: Exception) -> None:
        if isinstance(error, self._rules.too_slow):
            self._part(self._rules.behind)
        else:
            log.error("a WebSocket session failed", exc_info=error)
            self._part(None)

    def _look(self) -> None:
        """Disconnect a stalled reader, and a connection with a verdict."""
        timeout = self._rules.send_timeout
        self._watch = self._loop.call_later(timeout / 4, self._look)
        if self._full is not None and self._loop.time() - self._full >= timeout:
            self._part(self._rules.stalled)
        elif (end := self._verdict()) is not None:
            self._part(end)

    def _part(self, end: End | None) -> None:
        self.stop()
        if end is None:
            self._socket.cut()
        else:
            self._socket.close(*end)

    def stop(self) -> None:
        """Write nothing any more."""
        self._over = True
        self._watch.cancel()
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        self._release()
