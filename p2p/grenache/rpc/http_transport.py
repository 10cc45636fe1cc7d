"""RPC over HTTP: one request at a time on each of a worker's connections, which are kept for a while.

Node.js closes a connection that was idle for five seconds. A request written at that moment is
lost, and its outcome is unknown. So connections are kept for less than the server keeps them, one
that became readable while it was idle is not used, and what fails on a kept connection before a
byte of the reply is, when it is idempotent, sent again on a new one.

With `compress` (header grc-compress) bodies are gzip in both directions, without Content-Encoding, as the
Node.js programs have it. There are no redirects and no cookies.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestFailed, RequestTimeout
from p2p.grenache.rpc.http1 import BadHttp, HttpReply, ReplyParser, request_head
from p2p.grenache.rpc.rpc_transport import (
    CLOSE_TIMEOUT,
    CLOSED,
    CONNECT_TIMEOUT,
    GENERIC,
    MAX_REPLY,
    BadReply,
    Connecting,
    TransportStatus,
    refused,
    where,
)
from p2p.grenache.rpc.rpc_wire import (
    Malformed,
    RpcReply,
    TooLarge,
    decode_reply,
    encode_request,
    gunzip,
    gzip,
)

IDLE: Final = 3.0  # seconds that a connection is kept; Node.js closes after 5
IDLE_SHARE: Final = 0.6  # of the server's announced keep-alive
SWEEP: Final = 0.5  # seconds between looks for connections that were idle too long
MAX_CONNECTIONS: Final = 128  # to one worker; further requests wait for one
MAX_IDLE: Final = 512  # connections to all workers that are kept for later
MAX_TEXT: Final = 300  # characters of an error page that are shown

_GZIP_MAGIC: Final = b"\x1f\x8b"


class _Lost(Exception):
    """The connection ended before the reply did. `begun`: some of the reply had come."""

    def __init__(self, why: str, *, begun: bool) -> None:
        super().__init__(why)
        self.begun = begun


class _Connection(asyncio.Protocol):
    """Connection to a worker: `ask` sends a request and waits for its reply, one at a time."""

    __slots__ = (
        "_begun",
        "_loop",
        "_max_reply",
        "_on_lost",
        "_parser",
        "_reply",
        "_transport",
        "expires",
    )

    def __init__(self, max_reply: int, on_lost: Callable[[_Connection], None]) -> None:
        self._max_reply = max_reply
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: ReplyParser | None = None
        self._reply: asyncio.Future[HttpReply] | None = None
        self._begun = False
        self.expires = 0.0  # not to be used from then on

    async def ask(self, request: bytes, deadline: float) -> HttpReply:
        """Raises `_Lost`, `BadHttp`, `TooLarge` or `TimeoutError`; the connection is closed then."""
        assert self._transport is not None  # noqa: S101 - it is made by create_connection
        reply: asyncio.Future[HttpReply] = self._loop.create_future()
        self._reply = reply
        self._parser, self._begun = ReplyParser(self._max_reply), False
        timer = self._loop.call_at(deadline, self._end, TimeoutError())
        try:
            if self._transport.is_closing():  # a closed one of uvloop raises
                raise _Lost("the connection ended", begun=False)
            self._transport.write(request)
            return await reply
        except BaseException:
            if reply.done() and not reply.cancelled():
                reply.exception()  # mark the exception as retrieved, in case of a cancellation
            self.close()
            raise
        finally:
            timer.cancel()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unsent(self) -> bool:
        """True if the server answered before the whole request was sent."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def fileno(self) -> int:
        assert self._transport is not None  # noqa: S101
        return int(self._transport.get_extra_info("socket").fileno())

    def close(self) -> None:
        """Close the connection without flushing."""
        if self._transport is not None:
            self._transport.abort()

    def give_up(self, why: str) -> None:
        """Fail the request under way, and close."""
        self._end(_Lost(why, begun=self._begun))
        self.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not registered as one

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            self.close()  # unsolicited data
            return
        self._begun = True
        try:
            whole = parser.feed(data)
        except (BadHttp, TooLarge) as error:
            self._end(error)
            return
        if whole is not None:
            self._end(whole)

    def eof_received(self) -> bool:
        if self._parser is not None:
            try:
                whole = self._parser.eof()
            except BadHttp as error:
                self._end(error)
            else:
                if whole is not None:
                    self._end(whole)
        return False  # close

    def connection_lost(self, exc: Exception | None) -> None:
        why = "the worker closed the connection" if exc is None else str(exc) or repr(exc)
        self._end(_Lost(why, begun=self._begun))
        self._on_lost(self)

    def _end(self, outcome: HttpReply | Exception) -> None:
        """Of the request under way, if there is one."""
        reply, self._reply, self._parser = self._reply, None, None
        if reply is None or reply.done():
            return
        if isinstance(outcome, Exception):
            reply.set_exception(outcome)
        else:
            reply.set_result(outcome)


class _Worker:
    """The connections to one address."""

    __slots__ = ("gate", "idle", "users")

    def __init__(self) -> None:
        self.idle: deque[_Connection] = deque()  # the one used last at the right end
        self.gate = asyncio.Semaphore(MAX_CONNECTIONS)
        self.users = 0


class HttpTransport(Connecting):
    """See the module."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        compress: bool = False,
        max_reply: int = MAX_REPLY,
        connect_timeout: float = CONNECT_TIMEOUT,
        idle: float = IDLE,
    ) -> None:
        super().__init__(tls, max_reply, connect_timeout, idle)
        self._compress = compress
        self._workers: dict[Address, _Worker] = {}
        self._open: set[_Connection] = set()
        self._idle = 0
        self._poll = select.poll()
        self._connecting: set[asyncio.Timeout] = set()
        self._all_lost = asyncio.Event()

    def encode(self, rid: str, key: str, payload: Any) -> bytes:
        body = encode_request(rid, key, payload)
        return gzip(body) if self._compress else body

    def status(self) -> TransportStatus:
        busy = sum(1 for connection in self._open if connection.open) - self._idle
        return TransportStatus("http", busy, self._idle, self._requests, self._connects)

    async def request(
        self,
        address: Address,
        rid: str,
        body: bytes,
        *,
        timeout: float,
        connect_timeout: float | None = None,
        idempotent: bool = False,
    ) -> RpcReply:
        deadline = self._loop.time() + timeout
        patience = min(self._connect_timeout, connect_timeout or timeout)
        self._requests += 1
        worker = self._workers.get(address)
        if worker is None:
            worker = self._workers[address] = _Worker()
        worker.users += 1
        try:
            if worker.gate.locked():
                await self._wait_for_room(worker, address, deadline)
            else:
                await worker.gate.acquire()
            try:
                reply = await self._exchange(worker, address, body, deadline, patience, idempotent)
            finally:
                worker.gate.release()
        finally:
            worker.users -= 1
            if not worker.users and not worker.idle:
                self._workers.pop(address, None)
        return self._read(address, rid, reply)

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for limit in self._connecting:
            if not limit.expired():
                limit.reschedule(self._loop.time())
        for connection in list(self._open):
            connection.give_up("this client was closed")
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._all_lost.wait()

    async def _wait_for_room(self, worker: _Worker, address: Address, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await worker.gate.acquire()
        except TimeoutError:
            raise RequestTimeout(
                f"{MAX_CONNECTIONS} requests to {where(address)} are under way already", sent=False
            ) from None

    async def _exchange(
        self,
        worker: _Worker,
        address: Address,
        body: bytes,
        deadline: float,
        patience: float,
        idempotent: bool,
    ) -> HttpReply:
        request = request_head(*address, len(body), compressed=self._compress) + body
        sent = False
        while True:
            connection = self._take_idle(worker)
            kept = connection is not None
            if connection is None:
                connection = await self._connect(address, deadline, patience, sent)
            try:
                reply = await connection.ask(request, deadline)
            except _Lost as error:
                if kept and not error.begun and idempotent and not self._closed:
                    sent = True
                    self._drop_idle(worker)  # the other kept connections are dead too
                    continue
                raise self._lost(address, error) from None
            except TimeoutError:
                raise RequestTimeout(f"no reply from {where(address)} in time") from None
            except TooLarge as error:
                raise BadReply(error.code, f"{where(address)}: {error.detail}") from None
            except BadHttp as error:
                raise BadReply(GENERIC, f"{where(address)}: {error}") from None
            self._keep(worker, connection, reply)
            return reply

    def _lost(self, address: Address, error: _Lost) -> RequestFailed:
        cut = "the reply was cut short" if error.begun else "no reply"
        code = CLOSED if self._closed else GENERIC
        return RequestFailed(code, f"{where(address)}: {cut}, {error}", sent=True)

    async def _connect(
        self, address: Address, deadline: float, patience: float, sent: bool
    ) -> _Connection:
        """A new connection. `sent`: an earlier one may have carried the request to the worker."""
        if self._closed:
            raise RequestFailed(CLOSED, "this client was closed", sent=sent)
        self._connects += 1
        until = min(deadline, self._loop.time() + patience)
        limit = asyncio.timeout_at(until)
        self._connecting.add(limit)
        try:
            async with limit:
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._max_reply, self._on_lost),
                    *address,
                    ssl=self._tls,
                    server_hostname=address[0] if self._tls is not None else None,
                )
        except TimeoutError:
            if self._closed:
                raise RequestFailed(CLOSED, "this client was closed", sent=sent) from None
            raise RequestTimeout(f"no connection to {where(address)} in time", sent=sent) from None
        except (OSError, ValueError, OverflowError) as error:  # the last two: no host, no port
            failed = refused(address, error)
            failed.sent = sent
            raise failed from None
        finally:
            self._connecting.discard(limit)
        if self._closed or not connection.open:
            connection.close()
            raise RequestFailed(CLOSED, f"{where(address)}: it was closed at once", sent=sent)
        self._open.add(connection)
        return connection

    def _on_lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if self._closed and not self._open:
            self._all_lost.set()

    # Connections that are kept

    def _take_idle(self, worker: _Worker) -> _Connection | None:
        now = self._loop.time()
        while worker.idle:
            connection = worker.idle.pop()
            self._idle -= 1
            if connection.open and now < connection.expires and not self._stale(connection):
                return connection
            connection.close()
        return None

    def _stale(self, connection: _Connection) -> bool:
        """Return True if the server has closed the connection before the event loop noticed it.
        Costs less than a microsecond."""
        number = connection.fileno()
        self._poll.register(number, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(number)

    def _keep(self, worker: _Worker, connection: _Connection, reply: HttpReply) -> None:
        usable = reply.reusable and connection.open and not connection.unsent
        if not usable or self._closed or self._idle >= MAX_IDLE:
            connection.close()
            return
        now = self._loop.time()
        longest = self._idle_for
        if reply.idle is not None:
            longest = min(longest, reply.idle * IDLE_SHARE)
        connection.expires = now + longest
        worker.idle.append(connection)
        self._idle += 1
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    def _drop_idle(self, worker: _Worker) -> None:
        self._idle -= len(worker.idle)
        for connection in worker.idle:
            connection.close()
        worker.idle.clear()

    def _sweep(self) -> None:
        now = self._loop.time()
        for address, worker in list(self._workers.items()):
            while worker.idle and not (worker.idle[0].open and now < worker.idle[0].expires):
                worker.idle.popleft().close()
                self._idle -= 1
            if not worker.users and not worker.idle:
                del self._workers[address]
        self._sweeper = self._loop.call_later(SWEEP, self._sweep) if self._idle else None

    # Replies

    def _read(self, address: Address, rid: str, reply: HttpReply) -> RpcReply:
        """Parse received bytes.

        Raises:
            BadReply: not an answer to this request.
        """
        body = reply.body
        encoded = reply.encoding not in (b"", b"identity")
        try:
            if body[:2] == _GZIP_MAGIC and (self._compress or b"gzip" in reply.encoding):
                body = gunzip(body, self._max_reply)
            elif encoded:
                raise Malformed("ERR_ENCODING_COMPRESSION", f"encoding {reply.encoding[:40]!r}")
        except Malformed as error:
            raise BadReply("ERR_REPLY_ENCODING_COMPRESSION", f"{where(address)}: {error}") from None
        fine = 200 <= reply.status < 300
        try:
            said = decode_reply(body)
        except Malformed as error:
            if fine:
                raise BadReply(error.code, f"{where(address)}: {error.detail}") from None
            said = None
        if said is not None and said.rid == rid and (fine or said.error is not None):
            return said
        if not fine:
            text = body[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]
            raise BadReply(GENERIC, f"{where(address)}: HTTP {reply.status}: {text}")
        raise BadReply("ERR_REPLY_RID", f"{where(address)}: the reply is to another request")
