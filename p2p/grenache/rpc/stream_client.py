"""Streams to workers: a request and a reply of any length over HTTP, as `peer.stream` in Node.js.

    async with client.stream("files", action="upload", args={"name": "a.csv"}) as stream:
        await stream.write(b"...")
        await stream.end()
        async for part in stream:
            print(part)

`reply()` in place of the loop reads a worker's usual `[rid, error, result]`. Both directions may be under way at
the same time; `write` waits while the worker does not read. A stream goes to one worker, chosen as for
`Client.request`: those that cannot be connected to are passed over, and once a byte was sent nothing is repeated.
Leaving the block before the reply is read to its end closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, cast

from p2p.base.http1 import Failure, HttpFailed, HttpReply, ReplyParser
from p2p.base.http_pool import Tls, dial
from p2p.grenache.directory import Address
from p2p.grenache.errors import BadInput, RemoteError, RequestFailed
from p2p.grenache.rpc.http_transport import MAX_TEXT
from p2p.grenache.rpc.rpc_transport import CLOSED, GENERIC, BadReply, failed_request, where
from p2p.grenache.rpc.rpc_wire import (
    MAX_PAYLOAD,
    OVERRIDE,
    Malformed,
    decode_reply,
    new_rid,
)
from p2p.grenache.rpc.stream_server import ACTION, ARGS
from p2p.grenache.rpc.worker_calls import End

PART: Final = 1 << 16  # bytes that are sent in one piece
MAX_UNREAD: Final = 1 << 18  # bytes of the reply; above it, reading pauses


class Exchange(asyncio.Protocol):
    """A POST under way to one worker: both bodies in parts, and what either side still waits for."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser(1 << 62)
        self._transport: asyncio.Transport | None = None
        self._changed = asyncio.Event()
        self._parts = bytearray()  # of the reply, not read yet
        self._paused = self._reading_paused = False
        self._ended = False  # all is sent
        self._since = 0.0  # the last byte of the reply, or the end of the request
        self.failed: HttpFailed | None = None
        self.complete = False

    @property
    def status(self) -> int:
        """Status of the reply; 0 before its head has come."""
        return self._parser.status

    def begin(self, headers: Mapping[str, str]) -> None:
        """Send the head of the request."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._write(
            f"POST / HTTP/1.1\r\nHost: {where(self.address)}\r\n{lines}"
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode("ascii")
        )

    async def send(self, data: bytes) -> None:
        """Send a part of the request; return early when the worker has answered, and wants no more.

        Raises:
            HttpFailed: the connection ended.
        """
        for start in range(0, len(data), PART):
            part = data[start : start + PART]
            self._write(b"%x\r\n%b\r\n" % (len(part), part))
            while self._paused and not self.complete and self.failed is None and not self.refused:
                await self._wait(None)
            if self.complete or self.refused:
                return
            if self.failed is not None:
                raise self.failed

    def end(self) -> None:
        """Complete the request; without effect the second time."""
        if not self._ended:
            self._ended = True
            self._since = self._loop.time()
            self._write(b"0\r\n\r\n")

    async def begun(self) -> int:
        """Wait for the head of the reply, and return its status.

        Raises:
            HttpFailed: there is none.
        """
        while not self.status:
            await self._more()
        return self.status

    async def read(self) -> bytes:
        """Wait for a part of the reply; empty at its end.

        Raises:
            HttpFailed: it was cut short.
        """
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        part = bytes(self._parts)
        self._parts.clear()
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return part

    @property
    def refused(self) -> bool:
        return bool(self.status) and not 200 <= self.status < 300

    async def _more(self) -> None:
        if self.failed is not None:
            raise self.failed
        await self._wait(self._since + self._timeout if self._ended else None)

    async def _wait(self, until: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            raise HttpFailed(Failure.NO_REPLY) from None

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self, failed: HttpFailed | None = None) -> None:
        """End the connection at once."""
        self._fail(failed or HttpFailed(Failure.CLOSED))
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, failed: HttpFailed) -> None:
        if self.failed is None and not self.complete:
            self.failed = failed
        self._changed.set()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._since = self._loop.time()
        try:
            whole = None if self.complete else self._parser.feed(data)
        except HttpFailed as error:
            self.close(error)
            return
        self._add(whole)
        if len(self._parts) > MAX_UNREAD and self._transport is not None and not self.complete:
            self._reading_paused = True
            self._transport.pause_reading()

    def _add(self, whole: HttpReply | None) -> None:
        self._parts += self._parser.take() if whole is None else whole.body
        self.complete = self.complete or whole is not None
        self._changed.set()

    def eof_received(self) -> bool:
        if not self.complete and self.failed is None:
            self._add(self._parser.eof())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        why = "the worker closed the connection" if exc is None else str(exc) or repr(exc)
        self._fail(HttpFailed(Failure.CUT_SHORT if self.status else Failure.LOST, why))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._changed.set()


class StreamPosts:
    """Connections for streams: one for each, never reused, as in Node.js."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._open: set[Exchange] = set()
        self._closed = False

    async def open(
        self, address: Address, headers: Mapping[str, str], *, patience: float, timeout: float
    ) -> Exchange:
        """Connect and send the head of the request.

        Args:
            patience: seconds until there is a connection.
            timeout: seconds without a byte of the reply, once all is sent.

        Raises:
            RequestFailed, RequestTimeout: there is no connection; `sent` is False.
        """
        deadline = asyncio.get_running_loop().time() + patience
        try:
            exchange = await dial(lambda: Exchange(address, timeout), address, self._tls, deadline)
        except HttpFailed as error:
            raise failed_request(address, error) from None
        if self._closed:
            exchange.close()
            raise RequestFailed(CLOSED, "this client was closed", sent=False)
        self._open.add(exchange)
        exchange.begin(headers)
        return exchange

    def drop(self, exchange: Exchange) -> None:
        """End the connection of an exchange, whatever its state."""
        self._open.discard(exchange)
        exchange.close()

    def close(self) -> None:
        self._closed = True
        for exchange in list(self._open):
            self.drop(exchange)


class Stream:
    """See the module. Made by `Client.stream`, and entered once."""

    def __init__(
        self, open_stream: Callable[[], Awaitable[tuple[Exchange, Callable[[End], None]]]]
    ) -> None:
        self._open = open_stream
        self._ended: Callable[[End], None] = lambda outcome: None
        self._exchange: Exchange | None = None
        self._outcome: End = "cancel"

    @property
    def address(self) -> Address:
        """The worker that the stream goes to."""
        return self._there.address

    async def write(self, data: bytes) -> None:
        """Send a part; waits while the worker does not read.

        Raises:
            RequestFailed: the connection ended.
        """
        try:
            await self._there.send(data)
            if self._there.refused:
                await self._head()
        except HttpFailed as error:
            raise self._failed(error) from None

    async def end(self) -> None:
        """Complete what is sent; without effect the second time."""
        self._there.end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the parts of the reply, while more may still be sent.

        Raises:
            RequestFailed, RequestTimeout, BadReply: no reply, or one that was cut short.
        """
        try:
            await self._head()
            while part := await self._there.read():
                yield part
        except HttpFailed as error:
            raise self._failed(error) from None
        self._outcome = "ok"

    async def read(self, limit: int = MAX_PAYLOAD) -> bytes:
        """Complete what is sent, and read the whole reply.

        Raises:
            BadReply: ERR_PAYLOAD_SIZE, it has more than `limit` bytes.
            RequestFailed, RequestTimeout: no reply, or one that was cut short.
        """
        await self.end()
        parts = bytearray()
        async for part in self:
            parts += part
            if len(parts) > limit:
                text = f"{where(self.address)}: the reply is larger than {limit} bytes"
                raise BadReply("ERR_PAYLOAD_SIZE", text)
        return bytes(parts)

    async def reply(self, limit: int = MAX_PAYLOAD) -> Any:
        """Complete what is sent; the result in a reply `[rid, error, result]`.

        Raises:
            RemoteError: the worker answered with an error.
            BadReply: the reply has another form.
            RequestFailed, RequestTimeout: no reply, or one that was cut short.
        """
        body = await self.read(limit)
        try:
            said = decode_reply(body)
        except Malformed as error:
            raise BadReply(error.code, f"{where(self.address)}: {error.detail}") from None
        if said.error is not None:
            raise RemoteError(said.error, said.result)
        return said.result

    async def __aenter__(self) -> Self:
        if self._exchange is not None:
            raise RuntimeError("a stream is entered once")
        self._exchange, self._ended = await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended(self._outcome)

    @property
    def _there(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("use a stream in `async with client.stream(...) as stream`")
        return self._exchange

    async def _head(self) -> None:
        """Wait for the head of the reply.

        Raises:
            HttpFailed: there is none; BadReply: its status is an error.
        """
        exchange = self._there
        status = await exchange.begun()
        if not exchange.refused:
            return
        text = b""
        with contextlib.suppress(HttpFailed):  # what came of it says enough
            while len(text) < 4 * MAX_TEXT and (part := await exchange.read()):
                text += part
        shown = text[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]
        raise BadReply(GENERIC, f"{where(exchange.address)}: HTTP {status}: {shown}")

    def _failed(self, error: HttpFailed) -> RequestFailed:
        if error.kind is not Failure.CLOSED:
            self._outcome = "timeout" if error.kind is Failure.NO_REPLY else "error"
        return failed_request(self.address, error)


def stream_headers(
    service: str, headers: Mapping[str, Any] | None, action: str | None, args: Any
) -> dict[str, str]:
    """Headers of a stream; values that are no text are sent as JSON, as in Node.js.

    Raises:
        BadInput: a header that HTTP cannot carry.
    """
    found = {OVERRIDE: _ascii([new_rid(), service])}
    if action is not None:
        found[ACTION] = action
    if args is not None:
        found[ARGS] = _ascii(args)
    for name, value in (headers or {}).items():
        found[name] = value if isinstance(value, str) else _ascii(value)
    for name, value in found.items():
        if not (name.isascii() and value.isascii() and (name + value).isprintable()):
            raise BadInput("ERR_BAD_HEADER", f"{name!r:.40} must be printable ASCII; use args")
    return found


def _ascii(value: Any) -> str:
    """JSON without characters that a header cannot hold."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput("ERR_NOT_JSON", f"JSON cannot hold this: {error}") from None
