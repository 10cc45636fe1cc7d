"""The server's end of a connection: requests in their order, and one response to each.

Bytes become requests here, one at a time, and each is handed to the application in the turn of the event loop in which it
has come. It is answered in that turn or later. What the client sends before the answer waits.

Rules of this file:

- Nothing is read ahead of a client that does not read its answers, or has sent too much ahead.
- A body is whole before its request is served, or the request carries the reason why it is not.
- After a request whose end is not known, there is no other one on the connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

from node.http import limits
from node.http.http_messages import (
    COMMON,
    CONTINUE,
    HEAD_END,
    ChunkedBody,
    Head,
    Malformed,
    Response,
    check_beginning,
)
from p2p.base.places import Places, Rank, address_group

if TYPE_CHECKING:
    from node.http.http_server import HttpServer
    from node.http.server_socket import ServerSocket

_NO_REQUEST: Final = (
    b"\r\n"  # a client may send empty lines before a request (RFC 9112 section 2.2)
)


TRY_AGAIN: Final = 1013  # code of a close frame: the server has no place now


class BodyTooLarge(Exception):
    """The body has more bytes than `limits.MAX_BODY`."""


class BodyTooSlow(Exception):
    """The body did not come within `limits.READ_TIMEOUT`."""


class Request:
    """A request. `began` is when it was whole, `remote` the client's address, `lines` are of the response's head."""

    __slots__ = (
        "_body",
        "answered",
        "began",
        "connection",
        "head",
        "lines",
        "observers",
        "remote",
        "secure",
    )

    def __init__(self, connection: ServerConnection, head: Head, body: bytes | Exception) -> None:
        self.connection = connection
        self.remote = connection.remote
        self.secure = connection.secure
        self.head = head
        self.began = perf_counter()
        self.answered = False
        self._body = body
        self.lines = ""
        self.observers: tuple[Callable[[Response], None], ...] = ()

    @property
    def scheme(self) -> str:
        return "https" if self.secure else "http"

    @property
    def body(self) -> bytes:
        """The body, byte for byte.

        Raises:
            BodyTooLarge, BodyTooSlow: there is none.
        """
        if isinstance(self._body, bytes):
            return self._body
        raise self._body

    def add_lines(self, lines: str) -> None:
        """Add lines to the head of the response, each with its CRLF."""
        self.lines += lines

    def when_answered(self, call: Callable[[Response], None]) -> None:
        """Call with the response when there is one."""
        self.observers = (*self.observers, call)

    def upgrade(self, made: ServerSocket, buffer: int) -> bytes:
        """Answer the request with a change of protocol. What comes from now on is for `made`; returns what has come.
        `buffer`: bytes that may be written ahead of the client."""
        self.answered = True
        return self.connection.upgrade(self.lines + COMMON, made, buffer)


class ServerConnection(asyncio.Protocol):
    """See the module's docstring. `remote` and `local` are the addresses of both ends, `writing_paused`: the client leaves
    too much unread."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.remote = ""
        self.local = ""
        self.secure = False
        self._buffer = b""  # what has come and belongs to no request yet
        self._head: Head | None = None  # of a request whose body is missing,
        self._chunks: ChunkedBody | None = None  # as far as it came in chunks,
        self._body_timer: asyncio.TimerHandle | None = None  # until it is given up
        self._request: Request | None = None  # not answered yet
        self._new = True  # no head has come yet
        self.rank = Rank.STRANGER  # who the client has shown to be
        self._places: Places[ServerConnection] | None = None  # of the kind that it was upgraded to
        self._advancing = False
        self._last = False  # no request is taken any more
        self._discarding = False  # the connection ends, and what still comes is not wanted
        self.writing_paused = False
        self._reading_paused = False
        self._stranger: str | None = (
            None  # whose time it takes; None: this machine's, or of who has shown a key
        )
        self._resting = False  # not read because of that
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._gone: Callable[[], object] | None = None
        self._socket: ServerSocket | None = None  # since the upgrade

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)
        peer, local = made.get_extra_info("peername"), made.get_extra_info("sockname")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self.local = str(local[0]) if isinstance(local, tuple) else ""
        self.secure = made.get_extra_info("sslcontext") is not None
        self._stranger = address_group(self.remote)
        goes = self._server.connections.enter(self, self.remote)
        if goes is not None:
            goes.cut()
        if goes is self:
            return
        own = made.get_extra_info("socket")
        if own is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._idle_since = self._loop.time()
        self._idle_timer = self._loop.call_later(
            min(limits.HEADER_TIMEOUT, limits.KEEPALIVE), self._check_idle
        )

    def data_received(self, data: bytes) -> None:
        if self._stranger is None:
            self._process(data)
            return
        began = perf_counter()
        self._process(data)
        spent = perf_counter() - began
        rest = self._server.shares.spend(self._loop.time(), self._stranger, spent)
        if rest and not self._resting:
            self._resting = True
            self._loop.call_later(rest, self._rested)
            self._steer()

    def _rested(self) -> None:
        self._resting = False
        self._steer()

    def _process(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.receive(data)
        elif not self._discarding:
            self._buffer = self._buffer + data if self._buffer else bytes(data)
            if self._request is None:
                self._advance()
            elif len(self._buffer) > limits.MAX_PIPELINED:
                self.pause_reading()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._socket is not None:
            self._socket.writable()
        elif self._request is None:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.left(self)
        if self._places is not None:
            self._places.leave(self)
        self._transport = None
        self._last = True
        for timer in (self._idle_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        if self._gone is not None:
            self._gone()
        if self._socket is not None:
            self._socket.lost()

    # Requests

    def _advance(self) -> None:
        """Serve the requests that have come, until one waits for its answer."""
        self._advancing = True
        try:
            while self._buffer and self._request is None and not self._last:
                if self.writing_paused:
                    self.pause_reading()
                    return
                if not self._take():
                    break
        finally:
            self._advancing = False
        if self._reading_paused and self._request is None:
            self.resume_reading()

    def _take(self) -> bool:
        """Serve the next request; returns False if it is not whole yet."""
        try:
            head = self._head or self._read_head()
            if head is None:
                return False
            body: bytes | Exception | None
            if (
                head.length <= min(len(self._buffer), limits.MAX_BODY) and not head.chunked
            ):  # mostly it came with its head
                body, self._buffer = self._buffer[: head.length], self._buffer[head.length :]
            else:
                body = self._read_body(head)
        except Malformed as error:
            self._refuse(error)
            return False
        if body is None:
            self._head = head
            if self._body_timer is None:
                self._body_timer = self._loop.call_later(limits.READ_TIMEOUT, self._give_up)
            return False
        self._serve(head, body)
        return True

    def _read_head(self) -> Head | None:
        data = self._buffer
        if data.startswith(_NO_REQUEST):
            self._buffer = data = data.lstrip(_NO_REQUEST)
        end = data.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            if len(data) > limits.MAX_HEAD:
                raise Malformed("a head without an end")
            if data:
                check_beginning(data)
            return None
        if end > limits.MAX_HEAD:
            raise Malformed("a head that is too long")
        head = self._server.heads.read(data[:end])
        self._new = False
        self._buffer = data[end:]
        if head.expects == "100-continue" and len(self._buffer) < head.length:
            self.write(CONTINUE)
        return head

    def _read_body(self, head: Head) -> bytes | Exception | None:
        """The body, the reason why there is none, or None if more must come."""
        if not head.chunked:
            return BodyTooLarge() if head.length > limits.MAX_BODY else None
        chunks = self._chunks = self._chunks or ChunkedBody(head)
        chunks.feed(self._buffer)
        self._buffer = b""
        if chunks.size > limits.MAX_BODY:
            return BodyTooLarge()
        if not chunks.complete:
            return None
        self._last, self._chunks = chunks.more, None
        return chunks.body()

    def _give_up(self) -> None:
        if self._head is not None:
            self._serve(self._head, BodyTooSlow())

    def _serve(self, head: Head, body: bytes | Exception) -> None:
        if self._head is not None:
            self._head = self._chunks = None
            if self._body_timer is not None:
                self._body_timer.cancel()
                self._body_timer = None
        if not head.keep_alive or self._server.stopping:
            self._last = True
        if isinstance(body, Exception):
            self._last, self._discarding, self._buffer = True, True, b""
        self._request = request = Request(self, head, body)
        self._server.application.serve(request)
        if self._request is request:
            self._server.connections.work(self)

    def _refuse(self, error: Malformed) -> None:
        """Answer what is not a request, and end the connection."""
        self._new = False
        self._last, self._buffer = True, b""
        response = self._server.application.malformed(self.remote, error)
        self.write(response.encode("Connection: close\r\n"))
        self._linger()

    def answer(self, request: Request, response: Response) -> None:
        """Write the response to the request in progress, and go on with what came meanwhile. A client that has gone is not
        answered."""
        request.answered = True
        for call in request.observers:
            call(response)
        transport = self._transport
        if request is not self._request or transport is None:
            return
        self._request = self._gone = None
        head, lines = request.head, request.lines
        if response.close:
            self._last = True
        if self._last:
            lines += "Connection: close\r\n"
        elif head.old:
            lines += "Connection: keep-alive\r\n"
        if not transport.is_closing():
            transport.write(response.encode(lines, body=head.method != "HEAD"))
        if self._discarding:
            self._linger()
        elif self._last:
            self.close()
        else:
            self._idle_since = self._loop.time()
            self._server.connections.wait(self)
            if not self._advancing and (self._buffer or self._reading_paused):
                self._advance()

    def rise(self, rank: Rank) -> None:
        """Note who the client has shown to be: others do not take the place of its connection."""
        if rank > self.rank:
            self.rank = rank
            self._stranger = None
            self._server.connections.rise(self, rank)
            if self._places is not None:
                self._places.rise(self, rank)

    def take_place(self, places: Places[ServerConnection]) -> bool:
        """Take a slot of `places` for a WebSocket, for as long as the connection lasts. False: there is none to have."""
        goes = places.enter(self, self.remote, self.rank)
        if goes is self:
            return False
        if goes is not None and goes._socket is not None:
            goes._socket.close(TRY_AGAIN, "others need the place")
        places.work(self)
        self._places = places
        return True

    def when_gone(self, call: Callable[[], object]) -> None:
        """Call if the client goes before the request in progress is answered."""
        self._gone = call

    # The connection

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    @property
    def ended(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._steer()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._steer()

    def _steer(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._reading_paused or self._resting:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def upgrade(self, lines: str, made: ServerSocket, buffer: int) -> bytes:
        """Answer the request in progress with a change of protocol; return what came behind it."""
        self._request = None
        self._server.connections.work(self)
        self.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode())
        self._socket = made
        if self._transport is not None:
            self._transport.set_write_buffer_limits(buffer - 1, buffer // 4)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        rest, self._buffer = self._buffer, b""
        return rest

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the rest of the handling of what came, until the server stops."""
        self._server.application.tasks.start(work)

    def finish(self) -> None:
        """End the connection after the request in progress."""
        self._last = True
        if self._request is None and self._socket is None:
            self.close()

    def close(self) -> None:
        """End the connection when all is written."""
        self._last = True
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """End the connection at once."""
        self._last = True
        if self._transport is not None:
            self._transport.abort()

    def _linger(self) -> None:
        """End the connection when the client has read why, or after a while."""
        self._discarding = True
        self.resume_reading()
        if self.ended or self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(limits.LINGER, self.cut)

    def _check_idle(self) -> None:
        left = self._idle_since + limits.KEEPALIVE - self._loop.time()
        if self._request is not None:
            left = limits.KEEPALIVE
        if self._new:
            self.cut()
        elif left > 0:
            self._idle_timer = self._loop.call_later(left, self._check_idle)
        else:
            self.close()
