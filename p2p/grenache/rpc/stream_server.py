"""Streams of a worker: requests and replies of any length, read and written in parts (`peer.stream` in Node.js).

    async def shout(stream: StreamRequest) -> None:
        async for part in stream:
            await stream.write(part.upper())

    worker.serve_stream("shout", shout)

On the wire a stream is one POST whose header `_gr` holds `[rid, key]`. Both bodies are raw bytes, chunked, and may
be under way at the same time. A caller may add headers, by convention `_a` (a text, `action`) and `_ar` (JSON,
`args`). A handler that returns a value before it has written anything answers `[rid, null, value]`, and one
that raises `RemoteError` answers `[rid, code, result]`, as to an ordinary request.

    input                                            treatment
    more than `max_streams` at once                  ERR_BUSY
    no bytes from the caller for `body_timeout`      the handler gets `StreamCut`
    a caller that reads nothing for `stall`          cut (`p2p.grenache.rpc.rpc_server`)
    a handler that fails after it has written        cut, so the caller sees that the reply is not whole

Nothing is collected: a handler that does not read holds up its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import StreamReader, web

from p2p.grenache.directory import Address
from p2p.grenache.errors import BadInput, GrenacheError, RemoteError
from p2p.grenache.rpc import rpc_server, rpc_wire
from p2p.grenache.rpc.dispatcher import ERR_FAILED, ERR_RESULT, ERR_STOPPED, LAST_WORDS
from p2p.grenache.rpc.rpc_wire import Rid
from p2p.grenache.rpc.server_connections import heard

log = logging.getLogger(__name__)

RETRY_AFTER: Final = 1.0  # seconds, for a caller that finds all in use
ACTION: Final = "_a"
ARGS: Final = "_ar"
KIND: Final = "application/octet-stream"


class StreamCut(GrenacheError):
    """The caller went away, or sent nothing for too long, before its stream was complete."""

    def __init__(self, detail: str) -> None:
        super().__init__("ERR_STREAM_CUT", detail)


class StreamRequest:
    """A stream as a handler receives it. Iterate over it, or `read`, for what the caller sends; `write` replies.

    `rid`, `key`: from the header `_gr`; `action`, `args`: from `_a` and `_ar`, None when absent or no JSON;
    `headers`: all headers; `certificate`: DER, when TLS asked the caller for one.
    """

    __slots__ = (
        "_body_timeout",
        "_request",
        "action",
        "args",
        "certificate",
        "headers",
        "key",
        "remote",
        "response",
        "rid",
    )

    def __init__(
        self, request: web.BaseRequest, rid: Rid, key: str, *, secure: bool, body_timeout: float
    ) -> None:
        self.rid = rid
        self.key = key
        self.headers: Mapping[str, str] = request.headers
        self.action = request.headers.get(ACTION)
        self.args = _args(request.headers.get(ARGS))
        self.remote: Address = rpc_server.remote_of(request)
        self.certificate = rpc_server.certificate_of(request) if secure else None
        self.response: web.StreamResponse | None = None  # from the first `write` on
        self._request = request
        self._body_timeout = body_timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while part := await self._part():
            yield part

    async def read(self, limit: int = rpc_wire.MAX_PAYLOAD) -> bytes:
        """Read everything that the caller sends.

        Raises:
            RemoteError: ERR_PAYLOAD_SIZE, more than `limit` bytes; an answer, if the handler lets it pass.
            StreamCut: the caller went away.
        """
        parts = bytearray()
        async for part in self:
            parts += part
            if len(parts) > limit:
                raise RemoteError(f"ERR_PAYLOAD_SIZE: at most {limit} bytes are taken here")
        return bytes(parts)

    async def write(self, data: bytes) -> None:
        """Send a part of the reply; waits while the caller does not read.

        Raises:
            StreamCut: the caller went away.
        """
        try:
            if self.response is None:
                self.response = web.StreamResponse(headers={"Content-Type": KIND})
                await self.response.prepare(self._request)
            if data:
                await self.response.write(data)
        except ConnectionError as error:
            raise StreamCut(f"the caller went away: {error}") from None

    def cut(self) -> None:
        """End the connection without completing the reply."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _part(self) -> bytes:
        content: StreamReader = self._request.content
        try:
            async with asyncio.timeout(self._body_timeout):
                return await content.readany()
        except TimeoutError:
            raise StreamCut(f"no bytes from the caller for {self._body_timeout:g} s") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise StreamCut(f"the caller went away: {error}") from None


StreamHandler = Callable[[StreamRequest], Awaitable[Any]]
"""Reads and writes a stream. See the module for its result and its errors."""


class StreamServer:
    """Handlers of streams by service name, and the streams under way."""

    def __init__(self, *, secure: bool, body_timeout: float, max_streams: int) -> None:
        self._secure = secure
        self._body_timeout = body_timeout
        self._max_streams = max_streams
        self._handlers: dict[str, StreamHandler] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self.served = self.failed = self.busy = 0

    def serve(self, key: str, handler: StreamHandler) -> None:
        """Raises ValueError when `key` is taken."""
        if key in self._handlers:
            raise ValueError(f"the stream {key!r} is served already")
        self._handlers[key] = handler

    def remove(self, key: str) -> None:
        self._handlers.pop(key, None)

    @property
    def keys(self) -> list[str]:
        return sorted(self._handlers)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def start(self) -> None:
        """Begin to serve, also after `stop`."""
        self._stopping = False

    async def stop(self, grace: float) -> None:
        """Refuse new streams, and cut those that have not ended after `grace` seconds."""
        self._stopping = True
        if not self._running:
            return
        _, left = await asyncio.wait(self._running, timeout=grace)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LAST_WORDS)

    async def take(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """Answer a request for a stream that is served here; None for any other.

        Raises:
            Malformed: its header `_gr` is not JSON.
        """
        header = request.headers.get(rpc_wire.OVERRIDE)
        if header is None or not self._handlers:
            return None
        rid, key = rpc_wire.decode_override(header)
        handler = self._handlers.get(key) if isinstance(key, str) else None
        if handler is None or isinstance(rid, list | dict):
            return None
        if self._stopping:
            return _answer(rid, f"{ERR_STOPPED}: this worker is stopping, nothing was done")
        if len(self._running) >= self._max_streams:
            self.busy += 1
            return _answer(rid, rpc_wire.busy(RETRY_AFTER))
        heard(request, whole=True)  # at work from now on: not cut for newcomers
        stream = StreamRequest(
            request, rid, str(key), secure=self._secure, body_timeout=self._body_timeout
        )
        # A task of its own, so that `stop` can cut the stream and still let its connection be closed.
        task = asyncio.ensure_future(handler(stream))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await self._end(stream, task)

    async def _end(self, stream: StreamRequest, task: asyncio.Future[Any]) -> web.StreamResponse:
        """Wait for the handler, and complete the reply."""
        error, result = None, None
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():  # the connection ended: the handler is not needed any more
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
                raise
            error = f"{ERR_STOPPED}: perhaps executed"
        except RemoteError as refusal:
            error, result = refusal.code or ERR_FAILED, refusal.result
        except StreamCut as cut:
            log.debug("stream %s: %s", stream.key, cut)
            error = f"{ERR_FAILED}: {cut}"
        except Exception as wrong:
            log.error("the stream handler of %s failed", stream.key, exc_info=wrong)
            error = f"{ERR_FAILED}: perhaps after it did something"
        response = stream.response
        if error is None:
            self.served += 1
        else:
            self.failed += 1
        if response is None:
            return _answer(stream.rid, error, result)
        if error is None:
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
        else:
            stream.cut()
        return response


def _args(header: str | None) -> Any:
    """The JSON of the header `_ar`; None when there is none, or it is no JSON."""
    if header is None:
        return None
    try:
        return rpc_wire.loads(header)
    except ValueError:
        return None


def _answer(rid: Rid, error: str | None, result: Any = None) -> web.Response:
    try:
        return rpc_server.answer(rpc_wire.encode_reply(rid, error, result))
    except BadInput as wrong:
        log.error("a stream's handler: %s", wrong)
        text = f"{ERR_RESULT}: done, but JSON cannot hold the result"
        return rpc_server.answer(rpc_wire.encode_reply(rid, text, None))
