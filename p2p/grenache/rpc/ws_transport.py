"""RPC over WebSocket: one connection to each worker, many requests under way on it, matched by rid.

A connection is made when it is first needed and again after it was lost; all who wait for it share the
attempt. Pings detect a worker that disappeared. Requests under way fail at once when a connection
ends, and every request has its own timeout. A connection without requests is closed after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from math import inf
from typing import Any, Final

from p2p.base.http1 import HttpFailed
from p2p.base.http_pool import CONNECT_TIMEOUT, Tls
from p2p.base.websocket import SocketOptions, WsConnection, connect
from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestFailed, RequestTimeout
from p2p.grenache.rpc.rpc_transport import (
    CLOSED,
    GENERIC,
    MAX_REPLY,
    BadReply,
    TransportStatus,
    failed_request,
    where,
)
from p2p.grenache.rpc.rpc_wire import Malformed, RpcReply, decode_reply, encode_request

log = logging.getLogger(__name__)

IDLE: Final = 90.0  # seconds without a request; the Node.js client takes 120
SWEEP: Final = 5.0  # seconds between looks for idle connections
MAX_UNDER_WAY: Final = 1024  # requests on one connection


class _Waiting:
    """A request under way. `sent`: some of it may have left."""

    __slots__ = ("body", "deadline", "reply", "sent")

    def __init__(self, body: bytes, reply: asyncio.Future[RpcReply], deadline: float) -> None:
        self.body = body
        self.reply = reply
        self.deadline = deadline
        self.sent = False

    def fail(self, code: str, detail: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(RequestFailed(code, detail, sent=self.sent))


class _Link:
    """The connection to one worker, from the attempt to make it until it is gone.

    Requests are sent at once while the worker reads, and wait in `queue` while it does not: what timed out there
    is not sent.
    """

    __slots__ = (
        "_expiry",
        "address",
        "expiry_at",
        "failed",
        "queue",
        "ready",
        "socket",
        "task",
        "under_way",
        "used",
    )

    def __init__(self, address: Address, now: float) -> None:
        self.address = address
        self.socket: WsConnection | None = None
        self.failed: RequestFailed | None = None  # why it is gone
        self.ready = asyncio.Event()  # the attempt is over
        self.queue: deque[_Waiting] = deque()  # to be sent
        self.under_way: dict[str, _Waiting] = {}
        self.task: asyncio.Task[None] | None = None
        self.used = now
        self._expiry: asyncio.TimerHandle | None = None
        self.expiry_at = inf

    def watch(self, deadline: float) -> None:
        """See to it that a request of `under_way` ends at its deadline, which is before `expiry_at`. There is one
        timer for all: it is set for the earliest deadline, and answered requests leave it where it is."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.expiry_at = deadline
        self._expiry = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._expiry, self.expiry_at = None, inf
        now = asyncio.get_running_loop().time()
        earliest = inf
        for waiting in self.under_way.values():
            if waiting.reply.done():
                continue
            if now < waiting.deadline:
                earliest = min(earliest, waiting.deadline)
            else:
                text = f"no reply from {where(self.address)} in time"
                waiting.reply.set_exception(RequestTimeout(text, sent=waiting.sent))
        if earliest < inf:
            self.watch(earliest)

    def stop_watching(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def send(self, waiting: _Waiting) -> None:
        socket = self.socket
        if socket is None or socket.paused or self.queue:
            self.queue.append(waiting)
        else:
            waiting.sent = True
            socket.send(waiting.body)

    def flush(self) -> None:
        """Send what is queued, as far as the worker reads it."""
        while self.queue and self.socket is not None and not self.socket.paused:
            waiting = self.queue.popleft()
            if not waiting.reply.done():
                waiting.sent = True
                self.socket.send(waiting.body)

    def received(self, opcode: int, message: bytes) -> None:
        """Give a reply to the request that waits for it."""
        under_way = self.under_way
        try:
            said = decode_reply(message)
        except Malformed as error:
            if len(under_way) == 1:  # with one request under way it is the answer to that one
                for only in under_way.values():
                    if not only.reply.done():
                        only.reply.set_exception(BadReply(error.code, error.detail))
            return
        waiting = under_way.get(said.rid) if isinstance(said.rid, str) else None
        if waiting is not None and not waiting.reply.done():  # else late or wrong
            waiting.reply.set_result(said)


class WsTransport:
    """See the module."""

    def __init__(
        self,
        *,
        tls: Tls = None,
        max_reply: int = MAX_REPLY,
        connect_timeout: float = CONNECT_TIMEOUT,
        idle: float = IDLE,
    ) -> None:
        self._options = SocketOptions(tls=tls, max_message=max_reply)
        self._connect_timeout = connect_timeout
        self._idle_for = idle
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._requests = self._connects = 0
        self._links: dict[Address, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def encode(self, rid: str, key: str, payload: Any) -> bytes:
        return encode_request(rid, key, payload)

    def status(self) -> TransportStatus:
        busy = sum(1 for link in self._links.values() if link.under_way)
        idle = len(self._links) - busy
        return TransportStatus("ws", busy, idle, self._requests, self._connects)

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
        self._requests += 1
        link = self._links.get(address) or self._open(address)
        if link.socket is None:
            await self._connected(link, address, min(timeout, connect_timeout or timeout))
        if link.failed is not None:
            raise RequestFailed(link.failed.code, link.failed.detail, sent=False)
        under_way = link.under_way
        held = len(under_way)
        if link.queue:
            held = max(held, len(link.queue))  # given up ones stay in the queue
        if held >= MAX_UNDER_WAY or rid in under_way:
            text = f"{where(address)}: {held} requests are under way, or this one is"
            raise RequestFailed(GENERIC, text, sent=False)
        reply: asyncio.Future[RpcReply] = self._loop.create_future()
        under_way[rid] = waiting = _Waiting(body, reply, deadline)
        link.send(waiting)
        if deadline < link.expiry_at:
            link.watch(deadline)
        try:
            return await reply
        except asyncio.CancelledError:
            if reply.done() and not reply.cancelled():
                reply.exception()  # seen: the cancellation came first
            raise
        finally:
            del under_way[rid]
            link.used = self._loop.time()

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _open(self, address: Address) -> _Link:
        if self._closed:
            raise RequestFailed(CLOSED, "this client was closed", sent=False)
        self._connects += 1
        link = self._links[address] = _Link(address, self._loop.time())
        link.task = self._loop.create_task(self._run(address, link))
        self._tasks.add(link.task)
        link.task.add_done_callback(self._tasks.discard)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP, self._sweep)
        return link

    async def _connected(self, link: _Link, address: Address, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await link.ready.wait()
        except TimeoutError:
            raise RequestTimeout(f"no connection to {where(address)} in time", sent=False) from None

    async def _run(self, address: Address, link: _Link) -> None:
        """Connect, and read until the connection ends, for whatever reason."""
        why = "this client was closed"
        try:
            socket = await connect(
                address, self._options, on_message=link.received, timeout=self._connect_timeout
            )
            link.socket = socket
            socket.on_resume = link.flush
            link.ready.set()
            error = await asyncio.shield(socket.ended)
            why = f"the connection ended{f': {error}' if error else ''}"
        except HttpFailed as failed:
            link.failed = failed_request(address, failed)
        except Exception as error:  # any exception fails the waiting requests only
            why = f"the connection failed: {error!r}"
            log.debug("WebSocket to %s: %r", where(address), error)
        finally:
            if link.failed is None:
                link.failed = RequestFailed(CLOSED, f"{where(address)}: {why}", sent=False)
            link.ready.set()
            if self._links.get(address) is link:
                del self._links[address]
            link.stop_watching()
            for waiting in link.under_way.values():
                waiting.fail(CLOSED, f"{where(address)}: {why}")
            if link.socket is not None:
                with contextlib.suppress(Exception):
                    await link.socket.close()

    def _sweep(self) -> None:
        now = self._loop.time()
        for address, link in list(self._links.items()):
            if link.socket is not None and not link.under_way and now - link.used > self._idle_for:
                del self._links[address]
                if link.task is not None:
                    link.task.cancel()
        self._sweeper = self._loop.call_later(SWEEP, self._sweep) if self._links else None
