"""The connections of a `p2p.grenache.rpc.rpc_server.RpcServer`: aiohttp's, with limits that it does not have."""

from __future__ import annotations

import asyncio
import logging
import math
from http import HTTPStatus
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from p2p.base.listener import Cuttable
from p2p.base.places import Places, within_files
from p2p.grenache.rpc.direct_requests import DirectConnection, DirectHandlers
from p2p.grenache.rpc.limits import Limits

log = logging.getLogger(__name__)

FILES_PART: Final = 8  # of the files that the process may open, for the connections of a port
MAX_HEADERS: Final = 64  # of one request
MAX_REFUSED: Final = 1 << 20  # bytes of a refused body read so that its sender gets the answer
MAX_HEADS: Final = 1 << 19  # bytes of the heads that wait behind one request


class ServerConnection(DirectConnection):
    """aiohttp's connection; what is no HTTP gets one line, and no traceback in the log. aiohttp bounds how
    many requests wait behind the one at work, but with heads of any size: here their bytes are bounded."""

    __slots__ = (
        "_first_head",
        "_most_waiting",
        "_patience",
        "_places",
        "_refused_bytes",
        "_uncounted",
    )

    def __init__(self, manager: WebServer, **more: Any) -> None:
        super().__init__(manager, manager.direct, **more)
        self._most_waiting = manager.most_waiting
        self._patience = manager.first_head
        self._places = manager.places
        self._first_head: asyncio.TimerHandle | None = None
        self._uncounted: float = 0
        self._refused_bytes: int | None = None  # received since a body was refused as too large

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        goes = self._places.enter(self, str(peer[0]) if isinstance(peer, tuple) else "")
        if goes is self:  # not passed to aiohttp, which would begin to wait for requests
            log.debug("all connections are at work: a new one was cut")
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            return
        super().connection_made(transport)
        self._first_head = self._loop.call_later(self._patience, self.force_close)
        if goes is not None:
            log.debug("too many connections: one was cut for %s", self.peername)
            goes.cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._places.leave(self)
        self._forget_first_head()
        super().connection_lost(exc)

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def heard(self, whole: bool) -> None:
        """The head of a request has come; or the `whole` of it, then the connection is not cut for others."""
        self._forget_first_head()
        if whole:
            self._places.work(self)

    def requested(self) -> None:
        self.heard(whole=True)

    def answer(self, data: bytes) -> None:
        self._places.wait(self)
        super().answer(data)

    def _forget_first_head(self) -> None:
        if self._first_head is not None:
            self._first_head.cancel()
            self._first_head = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        refused = resp.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        self._refused_bytes = 0 if refused else None
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._places.wait(self)

    def data_received(self, data: bytes) -> None:
        if self._refused_bytes is not None:  # of a body that is not wanted
            self._refused_bytes += len(data)
            if self._refused_bytes > MAX_REFUSED and self.transport is not None:
                self.transport.abort()
                return
        self._uncounted += len(data)
        if self._uncounted > self._most_waiting:  # seldom: counting costs more than an answer
            self._uncounted = sum(_bytes_of(*waiting) for waiting in self._messages)
            if self._uncounted > self._most_waiting and self.transport is not None:
                log.debug("%s asks too much before it is answered: cut", self.peername)
                self.transport.abort()
                return
        super().data_received(data)

    def error_response(
        self, request: web.BaseRequest, status: int, error: BaseException
    ) -> web.Response:
        if status < 500:
            log.debug("no HTTP from %s: %s", request.remote, error)
        else:
            log.error("a request failed", exc_info=error)
        return web.Response(status=status, text=HTTPStatus(status).phrase)


def _bytes_of(request: object, body: StreamReader) -> float:
    """Bytes that aiohttp holds of a waiting request. Behind malformed HTTP nothing may follow."""
    if not isinstance(request, RawRequestMessage):
        return math.inf
    return sum(len(name) + len(value) for name, value in request.raw_headers) + body.total_bytes


class WebServer(web.Server):
    """aiohttp's server, of `ServerConnection`s."""

    def __init__(self, handler: Any, limits: Limits, direct: DirectHandlers) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=limits.idle,
            lingering_time=limits.linger,
            auto_decompress=False,  # as the Node.js server; and a bomb stays what it is
            max_headers=MAX_HEADERS,
        )
        self.direct = direct
        self.most_waiting = MAX_HEADS + 2 * limits.max_payload
        self.first_head = limits.first_head
        most = within_files(limits.max_connections, FILES_PART)
        self.places = Places[Cuttable](most, limits.max_per_host)

    def __call__(self) -> web.RequestHandler:
        return ServerConnection(self, loop=self._loop, **self._kwargs)


def heard(request: web.BaseRequest, *, whole: bool) -> None:
    """Tell the connection of a request how much of it has come; see `ServerConnection.heard`."""
    connection = request.protocol
    if isinstance(connection, ServerConnection):
        connection.heard(whole)
