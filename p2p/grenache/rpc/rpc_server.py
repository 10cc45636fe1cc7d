"""Server of HTTP requests and WebSockets on one port, with limits on everything that a client can make it hold.

    input                                            treatment
    more than `max_connections`, or `max_per_host`   who has waited longest is cut (see `p2p.base.places`)
      of one host
    no first request head within `first_head`        closed
    no further request head for `idle` seconds       closed
    a body that takes longer than `body_timeout`     408
    a body or message above `max_payload`            413; a WebSocket is closed with code 1009
    requests behind one at work                      32 wait; the rest at its sender
    more than two bodies and 512 kB in those         cut
    requests behind one answered directly            all wait at its sender
    an `Origin` header: a page in a browser          403, unless it is one of `origins`
    a WebSocket that is silent for `heartbeat`       pinged, and cut when no pong comes
    a far side that reads nothing for `stall`        cut
    a WebSocket with `max_backlog` bytes unread      cut

Neither method nor path is looked at, as in the Node.js programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from p2p.base.listener import Listener, listen
from p2p.grenache.directory import Address
from p2p.grenache.rpc.direct_requests import DirectHandlers, response
from p2p.grenache.rpc.limits import Limits
from p2p.grenache.rpc.rpc_wire import encode_reply
from p2p.grenache.rpc.server_connections import WebServer, heard
from p2p.ground.owned_tasks import OwnedTasks

log = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 1.0  # seconds that the far sides have for their part of closing
_TEXT: Final = (WSMsgType.TEXT, WSMsgType.BINARY)
JSON: Final = "application/json"


class HttpRefusal(Exception):
    """Refusal, answered with an HTTP status other than 200 and the body `[null, text, null]`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def frame(payload: bytes, *, text: bool = True) -> bytes:
    """Encode a complete WebSocket message of a server (RFC 6455 section 5.2): not masked, not
    split."""
    size = len(payload)
    kind = 0x81 if text else 0x82
    if size < 126:
        return bytes((kind, size)) + payload
    if size < 1 << 16:
        return bytes((kind, 126)) + size.to_bytes(2, "big") + payload
    return bytes((kind, 127)) + size.to_bytes(8, "big") + payload


class Socket:
    """WebSocket opened by a client. Read it with `async for`, write whole frames with `send`."""

    __slots__ = ("_request", "_server", "_ws", "certificate", "remote")

    def __init__(
        self, request: web.BaseRequest, ws: web.WebSocketResponse, owner: RpcServer
    ) -> None:
        self._request = request
        self._ws = ws
        self._server = owner
        self.remote = remote_of(request)
        self.certificate = certificate_of(request)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Iterate over the messages until the socket is closed. Waits while the far side does not
        read."""
        async for message in self._ws:
            if message.type not in _TEXT:
                return
            yield message.data
            if self._request.protocol.writing_paused:
                with contextlib.suppress(ConnectionError):
                    await self._request.writer.drain()

    def send(self, data: bytes) -> bool:
        """Write an encoded frame. Returns False if the socket is closed, or was cut because too
        much is unread."""
        transport = self._request.transport
        if self._ws.closed or transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > self._server.limits.max_backlog:
            log.warning("%s:%d reads too slowly: cut", *self.remote)
            self._server.cut += 1
            transport.abort()
            return False
        # Past aiohttp's writer, which would encode the same frame for every receiver. Its own frames
        # are written whole as well, so nothing gets between the parts of one.
        transport.write(data)
        return True

    async def close(self) -> None:
        """Close the WebSocket, and wait shortly for the answer."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._ws.close(code=WSCloseCode.GOING_AWAY)
        except (TimeoutError, ConnectionError, RuntimeError):
            if self._request.transport is not None:
                self._request.transport.abort()


OnHttp = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
OnSocket = Callable[[Socket], Awaitable[None]]


class RpcServer:
    """Server with one handler of requests and one of sockets. The owner calls `start` and `stop`.

    Args:
        on_http: answers a request that is no WebSocket's; may raise `HttpRefusal`.
        on_socket: runs as long as the socket is wanted. None: there are none, who asks for one is answered
            by `on_http`.
        tls: serves HTTPS and WSS only. A context that verifies asks callers for their certificates.
        origins: web pages that may ask, as their browsers say it: "https://desk.example". None: `on_http`
            sees to it.
        direct: answer requests without aiohttp; see `p2p.grenache.rpc.direct_requests`. They have no `Origin`, and `closing`
            is for them to look at.
    """

    def __init__(
        self,
        on_http: OnHttp,
        on_socket: OnSocket | None,
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        origins: Collection[str] | None = (),
        direct: DirectHandlers | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._on_http = on_http
        self._on_socket = on_socket
        self._tls = tls
        self._origins = None if origins is None else frozenset(origin.lower() for origin in origins)
        self._sockets: set[Socket] = set()
        self.cut = 0  # connections that read too slowly, or nothing, since the start
        self._direct = direct or {}
        self.closing = False
        self._web: WebServer | None = None
        self._listener: Listener | None = None
        self._handshakes = OwnedTasks(log)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        return len(self._web.places) if self._web is not None else 0

    @property
    def backlog(self) -> int:
        """Bytes written for others that wait in this process until they read."""
        if self._web is None:
            return 0
        transports = (connection.transport for connection in self._web.connections)
        return sum(t.get_write_buffer_size() for t in transports if t is not None)

    @property
    def sockets(self) -> set[Socket]:
        """The open WebSockets, not to be changed."""
        return self._sockets

    async def start(self, host: str, port: int) -> Address:
        """Listen. Port 0: one that is free.

        Raises:
            OSError: the address cannot be bound.
        """
        if self._web is not None:
            raise RuntimeError("it was started already")
        loop = asyncio.get_running_loop()
        web_server = WebServer(self._handle, self.limits, self._direct)
        self._listener = await listen(
            web_server,
            host,
            port,
            context=self._tls,
            places=web_server.places,
            tasks=self._handshakes,
        )
        self._web = web_server
        self.closing = False
        self._sweeper = loop.create_task(self._sweep(web_server))
        return self._listener.address

    def stop_listening(self) -> None:
        """Take no further connections; those that are open go on."""
        self.closing = True
        if self._listener is not None:
            self._listener.close()

    async def stop(self) -> None:
        """End all connections. Answers that are being written get a moment."""
        self.stop_listening()
        await self._handshakes.close()
        web_server, self._web = self._web, None
        if web_server is None:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await asyncio.gather(*(socket.close() for socket in list(self._sockets)))
        web_server.pre_shutdown()
        await web_server.shutdown(CLOSE_TIMEOUT)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = request.headers
        heard(request, whole=request.content.is_eof())
        try:
            origin = headers.get("Origin")
            known = self._origins
            if origin is not None and known is not None and origin.lower() not in known:
                raise HttpRefusal(403, "ERR_ORIGIN: requests from web pages are refused here")
            if self._on_socket is not None and headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request, self._on_socket)
            response = await self._on_http(request)
        except HttpRefusal as refusal:
            response = answer(encode_reply(None, refusal.text, None), refusal.status)
        if self.closing or not request.content.is_eof():
            response.force_close()  # tells the caller not to reuse the connection
        return response

    async def _websocket(self, request: web.BaseRequest, on_socket: OnSocket) -> web.StreamResponse:
        ws = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT,
            heartbeat=self.limits.heartbeat,
            compress=False,  # the Node.js server has none either
            max_msg_size=self.limits.max_payload,
        )
        try:
            await ws.prepare(request)
        except (web.HTTPBadRequest, ValueError) as error:
            detail = error.text if isinstance(error, web.HTTPBadRequest) else error
            raise HttpRefusal(400, f"ERR_WEBSOCKET: {detail}") from None
        heard(request, whole=True)
        socket = Socket(request, ws, self)
        self._sockets.add(socket)
        try:
            await on_socket(socket)
        finally:
            self._sockets.discard(socket)
        return ws

    async def _sweep(self, web_server: WebServer) -> None:
        """Cut connections that have read nothing since the last sweep."""
        before: dict[web.RequestHandler, int] = {}
        while True:
            await asyncio.sleep(self.limits.stall)
            waiting = {}
            for connection in web_server.connections:
                transport = connection.transport
                if transport is None or not connection.writing_paused:
                    continue
                waiting[connection] = transport.get_write_buffer_size()
                if before.get(connection) == waiting[connection]:
                    log.warning("%s reads nothing: cut", connection.peername)
                    self.cut += 1
                    transport.abort()
            before = waiting


async def read_body(request: web.BaseRequest, limits: Limits) -> bytes:
    """The whole body of a request.

    Raises:
        HttpRefusal: too large (413), or it took too long (408).
    """
    content = request.content
    if content.is_eof():  # it came together with its head, as small ones do
        body = content.read_nowait()
    else:
        length = request.content_length
        if length is not None and length > limits.max_payload:
            raise _too_large(limits)
        parts = bytearray()
        try:
            async with asyncio.timeout(limits.body_timeout):
                if request.headers.get("Expect", "").lower() == "100-continue":
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0
                while part := await content.readany():
                    parts += part
                    if len(parts) > limits.max_payload:
                        break
        except TimeoutError:
            raise HttpRefusal(408, "ERR_TIMEOUT: the body took too long") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise HttpRefusal(400, f"ERR_BODY: {error}") from None
        body = bytes(parts)
    if len(body) > limits.max_payload:
        raise _too_large(limits)
    heard(request, whole=True)
    return body


def answer(body: bytes, status: int = 200, kind: str = JSON) -> web.Response:
    """An HTTP answer of this Content-Type."""
    headers = {"Content-Type": kind, "Server": "exchange-node"}
    return web.Response(body=body, status=status, headers=headers)


def answer_bytes(
    body: bytes, status: int = 200, kind: str = JSON, *, closing: bool = False
) -> bytes:
    """The bytes of the same answer, for a request that is answered directly. `closing`: the caller must not
    reuse the connection."""
    headers = "Server: exchange-node\r\n"
    return response(status, kind, body, f"{headers}Connection: close\r\n" if closing else headers)


def remote_of(request: web.BaseRequest) -> Address:
    """The other end of the connection."""
    name = request.protocol.peername
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("", 0)


def certificate_of(request: web.BaseRequest) -> bytes | None:
    """DER of the certificate that the other end showed and the TLS context checked."""
    transport = request.transport
    secured = transport.get_extra_info("ssl_object") if transport is not None else None
    certificate: bytes | None = secured.getpeercert(True) if secured is not None else None
    return certificate


def _too_large(limits: Limits) -> HttpRefusal:
    return HttpRefusal(413, f"ERR_PAYLOAD_SIZE: at most {limits.max_payload} bytes are taken here")
