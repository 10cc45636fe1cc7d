"""Grenache worker: serves requests over HTTP and WebSocket on one port, and announces its services.

    async def add(request: Request) -> int:
        return sum(request.payload)

    async with Link(["http://127.0.0.1:30001"]) as link:
        worker = Worker(directory=link)
        worker.serve("rpc_add", add)
        await worker.start("0.0.0.0", 1337)
        ...
        await worker.stop(grace=5.0)

Clients of `grenache-nodejs-http` and `grenache-nodejs-ws` call it as they call a worker of their own. Both kinds
come to the same port: a WebSocket begins with an HTTP request that asks for one. One worker serves any number
of services, each announced under its name.

A handler refuses by raising `RemoteError("ERR_MY_APP", partial_result)`; other exceptions are
logged, and the caller gets `ERR_WORKER_FAILED`. The caller also gets an error for

    ERR_UNKNOWN_SERVICE    a name that is not served here
    ERR_BUSY               too many requests at once: `wire.retry_after` reads when to come back
    ERR_WORKER_TIMEOUT     the handler took longer than `time_limit`
    ERR_WORKER_STOPPED     the worker stops; says whether it may have been done
    ERR_RESULT_NOT_JSON    the handler's result is not JSON

as `[rid, error, null]` with HTTP status 200, and for what is no request as `[null, error, null]`, with status

    400    ERR_REQUEST_NOT_JSON, ERR_REQUEST_SHAPE: a body or message that is no request
    403    ERR_ORIGIN: a page in a browser that is not one of `origins`
    408    ERR_TIMEOUT: the body did not arrive in time
    413    ERR_PAYLOAD_SIZE: it is larger than `max_payload`, perhaps when unpacked; a WebSocket is closed (1009)
    500    ERR_HEADER_PARSE_GR: the header `_gr` is not JSON

Node.js clients show the body of such an answer after "ERR_REQUEST_GENERIC: ". What strangers can make a worker
hold is limited by `p2p.grenache.rpc.limits.Limits`: about `max_connections` times `max_payload` of what they send, and
times `max_backlog` of what they do not read.

HTTP without TLS tells anyone on the way what is asked and answered, and any caller may ask: pass `tls`, with a
context that verifies clients when callers must be known (`Request.certificate`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Self

from aiohttp import web

from p2p.grenache.announcer import INTERVAL, Announcer
from p2p.grenache.directory import Address, Directory
from p2p.grenache.input_checks import check_service
from p2p.grenache.rpc import rpc_server, rpc_wire
from p2p.grenache.rpc.direct_requests import DirectConnection, Head
from p2p.grenache.rpc.dispatcher import DispatchCounts, Dispatcher, Handler, Request
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.stream_server import (
    StreamCut,
    StreamHandler,
    StreamRequest,
    StreamServer,
)

__all__ = [
    "Handler",
    "Request",
    "StreamCut",
    "StreamHandler",
    "StreamRequest",
    "Worker",
    "WorkerStatus",
]

GRACE: Final = 5.0  # seconds
_SMALL: Final = 1 << 16  # bytes that are compressed at once; more would hold up the others
_BAD_HEADER: Final = b'[null, "ERR_HEADER_PARSE_GR", null]'


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """`address`: None when not started. `backlog`: bytes of replies that wait until their callers read.
    Since the start, `malformed`: requests that were none; `cut`: connections that read too slowly."""

    address: Address | None
    services: list[str]
    connections: int
    sockets: int
    in_flight: int
    backlog: int
    malformed: int
    cut: int
    counts: DispatchCounts


class Worker:
    """See the module.

    Args:
        directory: where to announce the services; None for a worker that is not announced.
        tls: serves HTTPS and WSS only. The DHT does not record it: callers have to know.
        origins: web pages whose browsers may ask, such as "https://desk.example".
        limits: of connections, requests and handlers.
        announce_interval: seconds between announcements of a service, on average.
        on_gone: called when a WebSocket has closed over which requests came, with its far end.
    """

    def __init__(
        self,
        *,
        directory: Directory | None = None,
        tls: ssl.SSLContext | None = None,
        origins: Collection[str] = (),
        limits: Limits | None = None,
        announce_interval: float = INTERVAL,
        on_gone: Callable[[Address], object] = lambda remote: None,
    ) -> None:
        limits = limits or Limits()
        self._max_payload = limits.max_payload
        self._secure = tls is not None
        self._dispatcher = Dispatcher(workers=limits.workers, time_limit=limits.time_limit)
        self._streams = StreamServer(
            secure=tls is not None,
            body_timeout=limits.body_timeout,
            max_streams=limits.max_streams,
        )
        self._server = rpc_server.RpcServer(
            self._on_http,
            self._on_socket,
            tls=tls,
            limits=limits,
            origins=origins,
            direct={} if self._secure else {("POST", "/"): self._direct},
        )
        self._on_gone = on_gone
        self._announcer: Announcer | None = None
        if directory is not None:
            self._announcer = Announcer(directory, interval=announce_interval)
        self._address: Address | None = None
        self._malformed = 0

    def serve(self, key: str, handler: Handler) -> None:
        """Answer the service `key` with `handler`; announced as soon as the worker is started.

        Raises:
            BadInput: `key` cannot be the name of a service.
            ValueError: it is served already.
        """
        self._dispatcher.serve(check_service(key), handler)
        if self._announcer is not None and self._address is not None:
            self._announcer.start(key, self._address[1])

    def serve_any(self, handler: Handler) -> None:
        """Answer every other service with `handler`; this announces nothing."""
        self._dispatcher.serve_any(handler)

    def serve_stream(self, key: str, handler: StreamHandler) -> None:
        """Answer streams to the service `key` with `handler` (`p2p.grenache.rpc.stream_server`), announced as
        other services are. A service may have a handler of requests as well.

        Raises:
            BadInput: `key` cannot be the name of a service.
            ValueError: its streams are served already.
        """
        self._streams.serve(check_service(key), handler)
        if self._announcer is not None and self._address is not None:
            self._announcer.start(key, self._address[1])

    def remove(self, key: str) -> None:
        """Stop serving and announcing a service; running requests and streams continue."""
        self._dispatcher.remove(key)
        self._streams.remove(key)
        if self._announcer is not None:
            self._announcer.stop(key)

    async def start(self, host: str = "0.0.0.0", port: int = 0) -> Address:
        """Listen (port 0: a free one) and begin to announce. Does not wait for a Grape: `announced` does.

        Raises:
            OSError: the address cannot be bound.
            RuntimeError: it is started already, or its directory is not.
        """
        address = await self._server.start(host, port)
        self._dispatcher.start()
        self._streams.start()
        if self._announcer is not None:
            try:
                for key in self._services:
                    self._announcer.start(key, address[1])
            except RuntimeError:
                await self._server.stop()
                raise
        self._address = address
        return address

    @property
    def address(self) -> Address:
        """Listening address, after `start`."""
        if self._address is None:
            raise RuntimeError("the worker is not started")
        return self._address

    @property
    def _services(self) -> list[str]:
        """Names of all services, of requests and of streams."""
        return sorted({*self._dispatcher.keys, *self._streams.keys})

    async def announced(self) -> None:
        """Wait until every service has been announced once. Without limit while no Grape accepts
        them."""
        if self._announcer is not None:
            await self._announcer.announced()

    async def stop(self, grace: float = GRACE) -> None:
        """Stop announcing, refuse new requests, end running ones after `grace` seconds, and close.

        Lookups may return the worker for about two minutes more: Node.js Grapes cannot withdraw
        entries.
        """
        if self._announcer is not None:
            await self._announcer.close()
        self._server.stop_listening()
        await asyncio.gather(self._dispatcher.stop(grace), self._streams.stop(grace))
        await self._server.stop()
        self._address = None

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            address=self._address,
            services=self._services,
            connections=self._server.connections,
            sockets=len(self._server.sockets),
            in_flight=self._dispatcher.in_flight + self._streams.in_flight,
            backlog=self._server.backlog,
            malformed=self._malformed,
            cut=self._server.cut,
            counts=self._dispatcher.counts,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _direct(self, connection: DirectConnection, head: Head, body: bytes) -> bool:
        """Answer a plain request without aiohttp; see `DirectHandler`. What is no request, or compressed, is
        left to the general way."""
        if (
            self._server.closing
            or len(body) > self._max_payload
            or rpc_wire.GZIP in head.headers.get(rpc_wire.COMPRESS, "")
        ):
            return False
        try:
            rid, key, payload = rpc_wire.decode_request(body)
        except rpc_wire.Malformed:
            return False
        name = connection.peername
        remote = (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("", 0)
        asked = Request(key, payload, rid, remote, None, "http")
        # The dispatcher keeps and ends these tasks: a set here would be a second one.
        asyncio.get_running_loop().create_task(self._answer_directly(connection, asked))
        return True

    async def _answer_directly(self, connection: DirectConnection, asked: Request) -> None:
        reply = await self._dispatcher.answer(asked)
        closing = self._server.closing
        connection.answer(rpc_server.answer_bytes(reply, closing=closing))
        if closing:
            connection.close()

    async def _on_http(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = request.headers
        try:
            if (streamed := await self._streams.take(request)) is not None:
                return streamed
        except rpc_wire.Malformed as error:
            self._malformed += 1
            return _not_served(error)
        compressed = rpc_wire.GZIP in headers.get(rpc_wire.COMPRESS, "")
        body = await rpc_server.read_body(request, self._server.limits)
        try:
            if compressed:
                body = await self._unpack(body)
            rid, key, payload = rpc_wire.decode_request(body, headers.get(rpc_wire.OVERRIDE))
        except rpc_wire.Malformed as error:
            self._malformed += 1
            return _not_served(error)
        certificate = rpc_server.certificate_of(request) if self._secure else None
        asked = Request(key, payload, rid, rpc_server.remote_of(request), certificate, "http")
        reply = await self._dispatcher.answer(asked)
        if compressed:
            if len(reply) > _SMALL:
                reply = await asyncio.to_thread(rpc_wire.gzip, reply)
            else:
                reply = rpc_wire.gzip(reply)
        return rpc_server.answer(reply)

    async def _unpack(self, body: bytes) -> bytes:
        """As the Node.js server: what is not gzip is taken as it is."""
        try:
            if len(body) > _SMALL:
                return await asyncio.to_thread(rpc_wire.gunzip, body, self._max_payload)
            return rpc_wire.gunzip(body, self._max_payload)
        except rpc_wire.TooLarge:
            raise
        except rpc_wire.Malformed:
            return body

    async def _on_socket(self, socket: rpc_server.Socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for message in socket:
                try:
                    rid, key, payload = rpc_wire.decode_request(message)
                except rpc_wire.Malformed as error:
                    self._malformed += 1
                    socket.send(
                        rpc_server.frame(rpc_wire.encode_reply(error.rid, str(error), None))
                    )
                    continue
                request = Request(key, payload, rid, socket.remote, socket.certificate, "ws")
                # The dispatcher keeps and ends these tasks: a set here would be a second one.
                loop.create_task(self._reply(socket, request))  # noqa: RUF006
        finally:
            self._on_gone(socket.remote)

    async def _reply(self, socket: rpc_server.Socket, request: Request) -> None:
        socket.send(rpc_server.frame(await self._dispatcher.answer(request)))


def _not_served(error: rpc_wire.Malformed) -> web.Response:
    """To what is no request. A client shows the body of any status but 200 as its error."""
    if error.code == "ERR_HEADER_PARSE_GR":
        return rpc_server.answer(_BAD_HEADER, 500)
    if error.rid is not None:  # the caller can match it to its request
        return rpc_server.answer(rpc_wire.encode_reply(error.rid, str(error), None))
    status = 413 if isinstance(error, rpc_wire.TooLarge) else 400
    return rpc_server.answer(rpc_wire.encode_reply(None, str(error), None), status)
