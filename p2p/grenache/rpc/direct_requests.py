"""Requests that are answered without aiohttp's machinery: one synchronous call from bytes to the handler.

aiohttp spends a task, several coroutines and turns of the loop on a request, which is most of what a request to a Grape
costs. A `DirectConnection` is aiohttp's connection with a shorter way for the few requests that have a
`DirectHandler`. Everything else goes to aiohttp, as the bytes that came.

Rules of this file:

- The short way only takes what it understands completely: one whole request in one piece, with headers of
  `KNOWN_HEADERS`, each once, in printable ASCII, while aiohttp has nothing to do on this connection. A handler
  that finds anything to refuse before it has changed something returns False, and the general way refuses it. So
  what is taken is never more than what aiohttp and the middlewares take, and a refusal has one text.
- The short way must know where a message begins. Once a connection has sent something whose end it does not know
  (chunked or pipelined messages, a head in pieces, an upgrade), it is aiohttp's until it ends.
- One request at a time on a connection. What comes before the answer is held back, and reading pauses.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

MAX_HEAD: Final = 4096  # bytes; aiohttp takes more,
MAX_BODY: Final = 16 * 1024  # here too
TURNS: Final = 4  # of the loop, that aiohttp gets to become idle after its answer
KNOWN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "grc-compress",
        "host",
        "pragma",
        "user-agent",
    }
)
_HEAD_END: Final = b"\r\n\r\n"
# Printable ASCII, names that are tokens, no space before a colon, no folded lines.
_PLAIN_HEAD: Final = re.compile(
    rb"[A-Z]+ /[!-~]* HTTP/1\.1(?:\r\n[A-Za-z0-9_-]++:[ -~]*+)*+", re.ASCII
)
_GENERAL: Final = ("transfer-encoding", "upgrade", "expect", "content-encoding")  # not plain


class Head(NamedTuple):
    """Head of a request that is understood completely. Names of headers are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    length: int  # of the body
    known: bool  # all headers are of KNOWN_HEADERS


@lru_cache(maxsize=256)
def read_head(data: bytes) -> Head | None:
    """The head of an HTTP/1.1 request without its empty line; None if it is not a plain one."""
    match = _PLAIN_HEAD.fullmatch(data)
    if match is None or len(data) > MAX_HEAD:
        return None
    first, *lines = data.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" ")
    known = headers.keys() <= KNOWN_HEADERS
    length = headers.get("content-length", "0")
    if (
        len(headers) != len(lines)  # one is there twice
        or not (length.isdigit() and len(length) <= 9)
        or (not known and any(name in headers for name in _GENERAL))
        or headers.get("connection", "keep-alive").lower() != "keep-alive"
        or not headers.get("host")
    ):
        return None
    return Head(method, target, headers, int(length), known)


class DirectHandler(Protocol):
    """Serves one kind of request."""

    def __call__(self, connection: DirectConnection, head: Head, body: bytes) -> bool:
        """Serve a request; the answer may come later. False: nothing was done, the general way serves it."""
        ...


DirectHandlers = dict[tuple[str, str], DirectHandler]  # by method and target


def response(status: int, content_type: str, body: bytes, headers: str = "") -> bytes:
    """The bytes of a response. Each line of `headers` ends with CRLF."""
    return (
        f"{_status_line(status)}Content-Type: {content_type}\r\n{headers}Content-Length: {len(body)}\r\n"
        f"Date: {rfc822_formatted_time()}\r\n\r\n"
    ).encode("latin-1") + body


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


class ErrorAnsweringConnection(web.RequestHandler):
    """Answer malformed requests and unhandled failures with `error_response`, then close the connection."""

    __slots__ = ()

    @abstractmethod
    def error_response(
        self, request: web.BaseRequest, status: int, error: BaseException
    ) -> web.Response:
        """Return the response. Below 500 the request is at fault, otherwise this program."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, an error cannot follow")
        response = self.error_response(request, status, exc or RuntimeError(message))
        response.force_close()
        return response


class DirectConnection(ErrorAnsweringConnection):
    """See the module's docstring. Without handlers it is aiohttp's connection."""

    __slots__ = (
        "_direct_handlers",
        "_held",
        "_owed",
        "_paused_here",
        "_pending",
        "_tracked",
        "_waited",
        "remote",
        "secure",
    )

    def __init__(self, manager: web.Server, handlers: DirectHandlers, **options: Any) -> None:
        super().__init__(manager, **options)
        self._direct_handlers = handlers
        self._tracked = (
            bool(handlers) and not self._logging_enabled
        )  # where messages begin is known
        self._owed = 0  # bytes of the body of a message that aiohttp has the head of
        self._pending = False  # a request that was taken is not answered yet
        self._held = b""  # bytes that came meanwhile,
        self._paused_here = False  # and whether reading waits because of them
        self._waited = 0  # turns of the loop for aiohttp to become idle
        self.remote = ""
        self.secure = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp itself, to parse what it has buffered
            super().data_received(data)
        elif self._pending:
            if not self._paused_here and self.transport is not None:
                self._paused_here = True
                self.transport.pause_reading()
            self._held += data
        elif not self._tracked or not self._serve(bytes(data)):
            super().data_received(data)

    def _serve(self, data: bytes) -> bool:
        """Serve a request that came as one piece; False: it is aiohttp's."""
        if self._owed:
            self._owed -= len(data)
            self._tracked = self._owed >= 0
            return False
        end = data.find(_HEAD_END)
        head = read_head(data[:end]) if 0 < end <= MAX_HEAD else None
        if head is None:
            self._tracked = False
            return False
        missing = end + 4 + head.length - len(data)
        if missing:
            self._tracked, self._owed = missing > 0, missing
            return False
        handler = self._direct_handlers.get((head.method, head.target))
        if handler is None or not head.known or head.length > MAX_BODY:
            return False
        if self.writing_paused:  # its answers are not read; aiohttp waits until they are
            return False
        if not self._idle:
            return self._wait_for_idle(data)
        self._waited = 0
        # What aiohttp looks at: a request is in progress, and the connection is not idle.
        self._pending = self._request_in_progress = True
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self.requested()
        if handler(self, head, data[end + 4 :]):
            return True
        self._pending = self._request_in_progress = False
        return False

    def requested(self) -> None:
        """The headers of a request have come."""

    @property
    def _idle(self) -> bool:
        """Report if aiohttp waits for the next message, and nothing has ended the connection."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._messages and not self._closing

    @property
    def _closing(self) -> bool:
        return self._close or self._force_close

    def _wait_for_idle(self, data: bytes) -> bool:
        """Look again in the next turn of the loop, if aiohttp has answered and is about to wait: its task takes
        a turn or two for that. Without this, a client that is quick would never come to the short way."""
        if self._waited >= TURNS or self._request_in_progress or self._messages or self._closing:
            self._waited = 0
            return False
        self._waited += 1
        self._pending, self._held = True, data
        self._loop.call_soon(self._resume)
        return True

    def _resume(self) -> None:
        """Go on with what came meanwhile."""
        self._pending = False
        held, self._held = self._held, b""
        if self.transport is not None:
            if self._paused_here:
                self._paused_here = False
                self.transport.resume_reading()
            self.data_received(held)

    def answer(self, data: bytes) -> None:
        """Write the response to the request that was taken, and go on with what came meanwhile."""
        self._pending = self._request_in_progress = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)  # the server is closing and waited for this
        if self._held:
            self._resume()
