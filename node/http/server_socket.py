"""The server's end of a WebSocket (RFC 6455): messages in their order, handed over without a task or a queue.

A message whose handling has to wait holds back those behind it, and reading. There are no extensions: readers share the
frames of their messages.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple, Protocol

from node.http.http_messages import Head
from node.http.server_connection import Request, ServerConnection
from p2p.base.websocket import (
    BINARY,
    CLOSE,
    GUID,
    NORMAL,
    NOT_UTF8,
    PING,
    PONG,
    TEXT,
    BadFrame,
    FrameParser,
    frame,
)

log = logging.getLogger("node.api")

GOING_AWAY, INTERNAL = 1001, 1011  # codes of a close frame
_VERSIONS: Final = ("13", "8", "7")


class SocketHandler(Protocol):
    """Serves a WebSocket. Nothing of this may raise but `on_message`, which ends the connection."""

    def on_message(self, message: str | bytes) -> Coroutine[Any, Any, None] | None:
        """A text or a binary message has come. What is returned is awaited before the next one."""
        ...

    def on_writable(self) -> None:
        """There is room for more to write."""
        ...

    def on_end(self) -> None:
        """The connection has ended, and no message is being handled."""
        ...


class SocketOptions(NamedTuple):
    """Bytes of a message and of what is written ahead of the client; seconds without bytes until a ping, and for the
    answer to a close frame."""

    max_message: int
    heartbeat: float
    buffer: int = 1 << 16
    close_timeout: float = 2.0


def accept_key(head: Head) -> str | None:
    """The answer to a client's request for a WebSocket; None if it is not one."""
    headers: Mapping[str, str] = head.headers
    key = headers.get("sec-websocket-key", "")
    if (
        head.method != "GET"
        or not head.upgrade
        or headers.get("upgrade", "").strip().lower() != "websocket"
        or headers.get("sec-websocket-version", "") not in _VERSIONS
    ):
        return None
    try:
        if len(base64.b64decode(key.encode("ascii"), validate=True)) != 16:
            return None
    except (binascii.Error, UnicodeEncodeError):
        return None
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()  # noqa: S324


class ServerSocket:
    """See the module's docstring. It accepts a client with the answer of `accept_key`, and `make` makes its handler.

    `ended` is done when the connection has ended.
    """

    def __init__(
        self,
        request: Request,
        accept: str,
        options: SocketOptions,
        make: Callable[[ServerSocket], SocketHandler],
    ) -> None:
        self._connection: ServerConnection = request.connection
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._parser = FrameParser(options.max_message, masked=True)
        self._held: deque[str | bytes] = deque()  # messages behind one that is waited for
        self._waiting = False
        self._heard = self._pinged = self._loop.time()
        self._timer = self._loop.call_later(options.heartbeat, self._beat)
        self._closing = False  # a close frame was sent
        self.ended: asyncio.Future[None] = self._loop.create_future()
        request.add_lines(
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
        )
        rest = request.upgrade(self, options.buffer)
        self._handler = make(self)
        if rest:
            self.receive(rest)

    # Writing

    @property
    def paused(self) -> bool:
        """The client has left as much unread as `buffer`."""
        return self._connection.writing_paused

    @property
    def open(self) -> bool:
        return not self._closing and not self._connection.ended

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Write a message. One that is too late is lost, like one that the client does not read any more."""
        if not self._closing:
            self._connection.write(frame(payload, opcode))

    def write(self, frames: bytes) -> None:
        """Write whole frames."""
        if not self._closing:
            self._connection.write(frames)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """End the connection with a close frame, and wait for the client's shortly."""
        if self._closing:
            return
        payload = code.to_bytes(2, "big") + reason.encode()[:123]
        self.send(payload, CLOSE)
        self._closing = True
        self._loop.call_later(self._options.close_timeout, self.cut)

    def cut(self) -> None:
        """End the connection at once."""
        self._closing = True
        self._connection.cut()

    # For the connection

    def receive(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for opcode, payload in self._parser.feed(data):
                if opcode <= BINARY:
                    if not self._closing:
                        self._take(payload.decode() if opcode == TEXT else payload)
                else:
                    self._control(opcode, payload)
        except BadFrame as error:
            self.close(error.code, str(error))
        except UnicodeDecodeError:
            self.close(NOT_UTF8, "a text is not UTF-8")

    def writable(self) -> None:
        self._handler.on_writable()

    def lost(self) -> None:
        self._closing = True
        self._timer.cancel()
        self._held.clear()
        if not self.ended.done():
            self.ended.set_result(None)
        if not self._waiting:
            self._handler.on_end()

    # Messages

    def _take(self, message: str | bytes) -> None:
        if self._waiting:
            self._held.append(message)
            return
        try:
            wait = self._handler.on_message(message)
        except Exception as error:
            self._fail(error)
            return
        if wait is not None:
            self._waiting = True
            self._connection.pause_reading()
            self._connection.start(self._await(wait))

    async def _await(self, wait: Coroutine[Any, Any, None]) -> None:
        """Finish the handling of a message, and go on with those behind it."""
        try:
            await wait
        except ConnectionError:
            self.cut()
        except Exception as error:
            self._fail(error)
        finally:
            self._waiting = False
            if self.ended.done():
                self._handler.on_end()
        while self._held and not self._waiting and not self._closing:
            self._take(self._held.popleft())
        if not self._waiting:
            self._connection.resume_reading()

    def _fail(self, error: Exception) -> None:
        log.error("a WebSocket session failed", exc_info=error)
        self.close(INTERNAL, "the node failed; its log has the details")

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.send(payload, PONG)
        elif opcode == CLOSE:
            if not self._closing:
                self.send(payload[:2], CLOSE)
                self._closing = True
            self._connection.close()

    def _beat(self) -> None:
        """Ping a client that has sent nothing for a while, and cut one that answers no ping."""
        now, heartbeat = self._loop.time(), self._options.heartbeat
        if self._pinged > self._heard and now - self._pinged >= heartbeat / 2:
            self.cut()
            return
        wait = heartbeat - (now - self._heard)
        if self._pinged > self._heard or wait <= 0:
            if self._pinged <= self._heard:
                self._pinged = now
                self.send(b"", PING)
            wait = heartbeat / 2
        self._timer = self._loop.call_later(wait, self._beat)
