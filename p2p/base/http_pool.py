"""HTTP/1.1 client: connections that are kept for a while, one request at a time on each.

    pool = HttpPool()
    reply = await pool.exchange(("127.0.0.1", 30001), request("POST", "/", headers, body), timeout=2.0, max_body=1 << 20)

A server closes a connection that was idle for a while (Node.js after five seconds). A request written at that moment
is lost, and its outcome is unknown. So connections are kept for less than the server keeps them, one that became
readable while it was idle is not used, and what fails on a kept connection before a byte of the reply is, when it is
idempotent, sent again on a new one. There are no redirects, no cookies and no proxies.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Final, Protocol, TypeVar, cast

from p2p.base.http1 import Failure, HttpFailed, HttpReply, ReplyParser, connection_failure

Address = tuple[str, int]
"""Host and port."""

CONNECT_TIMEOUT: Final = 1.5  # seconds; a lost SYN is sent again after one
CLOSE_TIMEOUT: Final = 1.0  # seconds that closing waits for the far sides
IDLE: Final = 3.0  # seconds that a connection is kept; Node.js closes after 5
IDLE_SHARE: Final = 0.6  # of the server's announced keep-alive
SWEEP: Final = 0.5  # seconds between looks for connections that were idle too long
MAX_CONNECTIONS: Final = 128  # to one server; further requests wait for one
MAX_IDLE: Final = 512  # connections to all servers that are kept for later

P = TypeVar("P", bound=asyncio.Protocol)


class ClientTls(Protocol):
    """TLS of a client, where the certificate is judged by more than its chain."""

    def context(self) -> ssl.SSLContext: ...

    def is_right(self, certificate: bytes | None) -> bool:
        """Return True if the server's certificate (DER) is accepted; nothing is sent before."""
        ...


class SystemTrust:
    """The certificates that the system trusts, read before the first connection."""

    @cached_property
    def _system(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def context(self) -> ssl.SSLContext:
        return self._system

    def is_right(self, certificate: bytes | None) -> bool:
        return True


Tls = ssl.SSLContext | ClientTls | None


async def dial(make: Callable[[], P], address: Address, tls: Tls, deadline: float) -> P:
    """Connect to `address` until `deadline` of the event loop's clock.

    Raises:
        HttpFailed: UNREACHABLE, NOT_IN_TIME or UNTRUSTED; `sent` is False.
    """
    try:
        context = tls if tls is None or isinstance(tls, ssl.SSLContext) else tls.context()
        async with asyncio.timeout_at(deadline):
            transport, protocol = await asyncio.get_running_loop().create_connection(
                make, *address, ssl=context, server_hostname=None if tls is None else address[0]
            )
    except TimeoutError:
        raise HttpFailed(Failure.NOT_IN_TIME, sent=False) from None
    except (OSError, ValueError, OverflowError) as error:  # the last two: no host, no port
        raise connection_failure(error) from error
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if not tls.is_right(shown):
            transport.abort()
            raise HttpFailed(Failure.UNTRUSTED, sent=False)
    return protocol


class _Connection(asyncio.Protocol):
    """Connection to a server: `ask` sends a request and waits for its reply, one at a time."""

    __slots__ = ("_begun", "_loop", "_on_lost", "_parser", "_reply", "_transport", "expires")

    def __init__(self, on_lost: Callable[[_Connection], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = ReplyParser(0)
        self._reply: asyncio.Future[HttpReply] | None = None
        self._begun = False
        self.expires = 0.0  # not to be used from then on

    async def ask(self, request: bytes, deadline: float, max_body: int) -> HttpReply:
        """Raises `HttpFailed`; the connection is closed then."""
        assert self._transport is not None  # noqa: S101 - it is made by create_connection
        reply: asyncio.Future[HttpReply] = self._loop.create_future()
        self._reply, self._begun = reply, False
        self._parser.expect(max_body)
        timer = self._loop.call_at(deadline, self._late)
        try:
            if self._transport.is_closing():  # a closed one of uvloop raises
                raise HttpFailed(Failure.LOST, "the connection ended")
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

    def give_up(self) -> None:
        """Fail the request under way because its client was closed, and close."""
        self._end(HttpFailed(Failure.CLOSED))
        self.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not registered as one

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.close()  # unsolicited data
            return
        self._begun = True
        try:
            whole = self._parser.feed(data)
        except HttpFailed as error:
            self._end(error)
        else:
            if whole is not None:
                self._end(whole)

    def eof_received(self) -> bool:
        if self._reply is not None and (whole := self._parser.eof()) is not None:
            self._end(whole)
        return False  # close

    def connection_lost(self, exc: Exception | None) -> None:
        why = "the connection was closed" if exc is None else str(exc) or repr(exc)
        self._end(HttpFailed(Failure.CUT_SHORT if self._begun else Failure.LOST, why))
        self._on_lost(self)

    def _late(self) -> None:
        self._end(HttpFailed(Failure.NO_REPLY))

    def _end(self, outcome: HttpReply | HttpFailed) -> None:
        """Complete the request under way, if there is one."""
        reply, self._reply = self._reply, None
        if reply is None or reply.done():
            return
        if isinstance(outcome, HttpFailed):
            reply.set_exception(outcome)
        else:
            reply.set_result(outcome)


class _Server:
    """The connections to one address."""

    __slots__ = ("idle", "slots", "users")

    def __init__(self, connections: int) -> None:
        self.idle: deque[_Connection] = deque()  # the one used last at the right end
        self.slots = asyncio.Semaphore(connections)
        self.users = 0


class HttpPool:
    """See the module. To be made and used in one event loop.

    Args:
        tls: of all connections.
        connect_timeout, idle: seconds; `connections`: to one server.
    """

    def __init__(
        self,
        tls: Tls = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        idle: float = IDLE,
        connections: int | None = None,
    ) -> None:
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._idle_for = idle
        self._connections = connections or MAX_CONNECTIONS
        self._loop = asyncio.get_running_loop()
        self._servers: dict[Address, _Server] = {}
        self._open: set[_Connection] = set()
        self._dials: set[asyncio.Task[_Connection]] = set()
        self._poll = select.poll()
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_lost = asyncio.Event()
        self._closed = False
        self.idle = 0  # open connections without a request
        self.connects = 0  # attempts to connect, in all

    @property
    def busy(self) -> int:
        """Number of connections with requests under way."""
        return sum(1 for connection in self._open if connection.open) - self.idle

    async def exchange(
        self,
        address: Address,
        request: bytes,
        *,
        timeout: float,
        max_body: int,
        connect_timeout: float | None = None,
        idempotent: bool = False,
    ) -> HttpReply:
        """Send a request to the server at `address`, and return its reply.

        Args:
            timeout: seconds for everything.
            connect_timeout: seconds until there is a connection; at most what the pool has set.
            max_body: bytes of the reply's body.
            idempotent: may be sent again, over a new connection, when a kept one turns out to be dead.

        Raises:
            HttpFailed: there is no reply.
        """
        deadline = self._loop.time() + timeout
        patience = min(self._connect_timeout, connect_timeout or timeout)
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = _Server(self._connections)
        server.users += 1
        try:
            if server.slots.locked():
                await self._wait_for_slot(server, deadline)
            else:
                await server.slots.acquire()
            try:
                sent = False
                while True:
                    connection = self._take_idle(server)
                    kept = connection is not None
                    if connection is None:
                        connection = await self._connect(address, deadline, patience, sent)
                    try:
                        reply = await connection.ask(request, deadline, max_body)
                    except HttpFailed as error:
                        if kept and error.kind is Failure.LOST and idempotent and not self._closed:
                            sent = True
                            self._drop_idle(server)  # the other kept connections are dead too
                            continue
                        raise
                    self._keep(server, connection, reply)
                    return reply
            finally:
                server.slots.release()
        finally:
            server.users -= 1
            if not server.users and not server.idle:
                self._servers.pop(address, None)

    async def close(self) -> None:
        """Close all connections; exchanges under way fail with CLOSED."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._dials:
            task.cancel()
        for connection in list(self._open):
            connection.give_up()
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._all_lost.wait()

    async def _wait_for_slot(self, server: _Server, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await server.slots.acquire()
        except TimeoutError:
            text = f"{self._connections} requests are under way already"
            raise HttpFailed(Failure.BUSY, text, sent=False) from None

    async def _connect(
        self, address: Address, deadline: float, patience: float, sent: bool
    ) -> _Connection:
        """Make a new connection. `sent`: an earlier one may have carried the request to the server."""
        if self._closed:
            raise HttpFailed(Failure.CLOSED, sent=sent)
        self.connects += 1
        until = min(deadline, self._loop.time() + patience)
        # A task of its own, which `close` can cancel.
        task = self._loop.create_task(
            dial(lambda: _Connection(self._on_lost), address, self._tls, until)
        )
        self._dials.add(task)
        try:
            connection = await task
        except HttpFailed as failed:
            failed.sent = sent
            raise
        except asyncio.CancelledError:
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().close()  # both at the same moment
            if self._closed and task.cancelled():
                raise HttpFailed(Failure.CLOSED, sent=sent) from None
            raise
        finally:
            self._dials.discard(task)
        if self._closed or not connection.open:
            connection.close()
            kind = Failure.CLOSED if self._closed else Failure.UNREACHABLE
            raise HttpFailed(kind, "it was closed at once", sent=sent)
        self._open.add(connection)
        return connection

    def _on_lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if self._closed and not self._open:
            self._all_lost.set()

    # Connections that are kept

    def _take_idle(self, server: _Server) -> _Connection | None:
        now = self._loop.time()
        while server.idle:
            connection = server.idle.pop()
            self.idle -= 1
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

    def _keep(self, server: _Server, connection: _Connection, reply: HttpReply) -> None:
        usable = reply.reusable and connection.open and not connection.unsent
        if not usable or self._closed or self.idle >= MAX_IDLE:
            connection.close()
            return
        announced = reply.idle
        longest = self._idle_for if announced is None else announced * IDLE_SHARE
        connection.expires = self._loop.time() + min(self._idle_for, longest)
        server.idle.append(connection)
        self.idle += 1
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    def _drop_idle(self, server: _Server) -> None:
        self.idle -= len(server.idle)
        for connection in server.idle:
            connection.close()
        server.idle.clear()

    def _sweep(self) -> None:
        now = self._loop.time()
        for address, server in list(self._servers.items()):
            while server.idle and not (server.idle[0].open and now < server.idle[0].expires):
                server.idle.popleft().close()
                self.idle -= 1
            if not server.users and not server.idle:
                del self._servers[address]
        self._sweeper = self._loop.call_later(SWEEP, self._sweep) if self.idle else None
