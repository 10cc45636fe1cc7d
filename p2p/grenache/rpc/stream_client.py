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
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from p2p.grenache.directory import Address
from p2p.grenache.errors import BadInput, RemoteError, RequestFailed, RequestTimeout
from p2p.grenache.rpc.rpc_transport import CLOSED, GENERIC, BadReply, refused, where
from p2p.grenache.rpc.rpc_wire import (
    MAX_PAYLOAD,
    OVERRIDE,
    Malformed,
    decode_reply,
    new_rid,
)
from p2p.grenache.rpc.stream_server import ACTION, ARGS
from p2p.grenache.rpc.ws_transport import open_session

PART: Final = 1 << 16  # bytes that are sent in one piece
LOOK: Final = 0.5  # seconds between looks for a connection that ended while a part waits to be sent
MAX_TEXT: Final = 300  # characters of an error page that are shown


class OutgoingBody:
    """The body of a stream, from `put` to aiohttp, one part at a time."""

    def __init__(self) -> None:
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._ended = False
        self.begun = asyncio.Event()  # the connection is there: aiohttp reads the first part

    async def put(self, data: bytes) -> None:
        for start in range(0, len(data), PART):
            await self._parts.put(data[start : start + PART])

    async def end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._parts.put(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun.set()
        yield b""  # sends the head of the request now, not with the first part
        while (part := await self._parts.get()) is not None:
            yield part


@dataclass(frozen=True, slots=True)
class Exchange:
    """A POST under way to one worker."""

    address: Address
    post: asyncio.Task[aiohttp.ClientResponse]
    out: OutgoingBody


class StreamPosts:
    """Connections for streams: one for each, never reused, as in Node.js."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._open: set[asyncio.Task[aiohttp.ClientResponse]] = set()
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
        if self._closed:
            raise RequestFailed(CLOSED, "this client was closed", sent=False)
        if self._session is None:
            self._session = open_session()
        out = OutgoingBody()
        scheme = "http" if self._tls is None else "https"
        post = asyncio.ensure_future(
            self._session.post(
                f"{scheme}://{where(address)}/",
                data=out,
                headers={**headers, "Connection": "close"},
                skip_auto_headers=("User-Agent", "Content-Type", "Accept-Encoding"),
                auto_decompress=False,
                allow_redirects=False,
                ssl=self._tls if self._tls is not None else True,
                timeout=aiohttp.ClientTimeout(total=None, sock_read=timeout),
            )
        )
        exchange = Exchange(address, post, out)
        self._open.add(post)
        post.add_done_callback(self._open.discard)
        begun = asyncio.ensure_future(out.begun.wait())
        try:
            await asyncio.wait({post, begun}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await _drop(post)
            raise
        finally:
            begun.cancel()
        if out.begun.is_set():
            return exchange
        if not post.done():
            await _drop(post)
            raise RequestTimeout(f"no connection to {where(address)} in time", sent=False)
        if post.cancelled():
            raise RequestFailed(CLOSED, "this client was closed", sent=False)
        error = post.exception()
        if error is None:
            post.result().close()
            raise BadReply(GENERIC, f"{where(address)}: answered before anything was asked")
        raise refused(address, error) from None

    async def close(self) -> None:
        self._closed = True
        posts = list(self._open)
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


class Stream:
    """See the module. Made by `Client.stream`, and entered once."""

    def __init__(
        self, open_stream: Callable[[], Awaitable[tuple[Exchange, Callable[[str], None]]]]
    ) -> None:
        self._open = open_stream
        self._ended: Callable[[str], None] = lambda outcome: None
        self._exchange: Exchange | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._outcome = "cancel"

    @property
    def address(self) -> Address:
        """The worker that the stream goes to."""
        return self._there.address

    async def write(self, data: bytes) -> None:
        """Send a part; waits while the worker does not read.

        Raises:
            RequestFailed: the connection ended.
        """
        exchange = self._there
        put = asyncio.ensure_future(exchange.out.put(data))
        await self._while_open(put)

    async def end(self) -> None:
        """Complete what is sent; without effect the second time."""
        exchange = self._there
        await self._while_open(asyncio.ensure_future(exchange.out.end()))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the parts of the reply, while more may still be sent.

        Raises:
            RequestFailed, RequestTimeout, BadReply: no reply, or one that was cut short.
        """
        response = await self._head()
        try:
            async for part in response.content.iter_any():
                yield part
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
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
        exchange = self._there
        if self._response is not None:
            self._response.close()
        await _drop(exchange.post)
        self._ended(self._outcome)

    @property
    def _there(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("use a stream in `async with client.stream(...) as stream`")
        return self._exchange

    async def _while_open(self, put: asyncio.Future[None]) -> None:
        """Wait for `put`, or fail with the connection: aiohttp then takes no more parts, and says nothing."""
        post = self._there.post
        try:
            while True:
                waiting: set[asyncio.Future[Any]] = {put} if post.done() else {put, post}
                await asyncio.wait(waiting, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
                if put.done():
                    return put.result()
                if not post.done():
                    continue
                content = (await self._head()).content
                broken = content.exception()
                if isinstance(broken, BaseException):
                    raise self._failed(broken)
                if content.is_eof():
                    return None  # the worker has answered, and wants no more
        finally:
            put.cancel()

    async def _head(self) -> aiohttp.ClientResponse:
        """The beginning of the reply."""
        if self._response is None:
            exchange = self._there
            try:
                response = await asyncio.shield(exchange.post)
            except asyncio.CancelledError:
                if not exchange.post.cancelled():
                    raise
                self._outcome = "cancel"
                raise RequestFailed(CLOSED, "this client was closed", sent=True) from None
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self._failed(error) from None
            self._response = response
            if not 200 <= response.status < 300:
                text = (await response.content.read(4 * MAX_TEXT)).decode("utf-8", "replace")
                text = f"{where(exchange.address)}: HTTP {response.status}: {text[:MAX_TEXT]}"
                raise BadReply(GENERIC, text)
        return self._response

    def _failed(self, error: BaseException) -> RequestFailed:
        address = where(self.address)
        if isinstance(error, TimeoutError):
            self._outcome = "timeout"
            return RequestTimeout(f"no reply from {address} in time")
        self._outcome = "error"
        cut = "no reply" if self._response is None else "the reply was cut short"
        return RequestFailed(GENERIC, f"{address}: {cut}, {str(error) or repr(error)}", sent=True)


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


async def _drop(post: asyncio.Task[aiohttp.ClientResponse]) -> None:
    """End a POST, whatever its state."""
    if not post.done():
        post.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        (await post).close()
