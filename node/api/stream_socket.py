"""The WebSocket stream (/v1/stream): books, trades, tickers, candles, accounts, and their orders.

    client                                                          node
    {"op":"subscribe","channel":"book","market":"BTC-USD"}    ->
                                                              <-    {"event":"subscribed","stream":...}
                                                              <-    {"event":"book_l2_snapshot",...}
                                                              <-    {"event":"book_l2",...}   and so on
    {"op":"unsubscribe","stream":"book/BTC-USD/L2/25/network"} ->
                                                              <-    {"event":"unsubscribed","stream":...}
    {"op":"submit","id":"1","order":{...}}                    ->
                                                              <-    {"event":"accepted","id":"1",...}
    anything else                                             ->
                                                              <-    {"event":"error","code":...,"detail":...}

Requests about orders are in `node.api.stream_orders`.

What streams have is written at once for a reader that keeps up, and by a task of its own for one that
does not, as it takes it. Nothing is queued (see `node.streams.stream`): who is slow gets more in one
message, who takes nothing at all is cut, with a close code where there is still a way to tell it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from time import perf_counter
from typing import Final, get_args

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec import UNSET

from node.api import limits
from node.api.access import ANYBODY, DOORKEEPER, Caller, caller_of, check_access
from node.api.problems import problem
from node.api.rest import SERVICE
from node.api.route import query_values
from node.api.stream_orders import StreamOrders
from node.api.stream_requests import of_message, repeated, reread
from node.http.http_requests import FIGURES
from node.http.json_members import RepeatedMember, check_members
from node.http.rate_limit import RateVerdict
from node.http.socket_session import End, SocketSession
from node.streams.order_messages import Refused, TradingMessage
from node.streams.stream import Ended, Reader, ReaderTooSlow, encode
from node.streams.stream_messages import (
    NODE,
    PRIVATE,
    Auth,
    Authenticated,
    ClientMessage,
    Ping,
    Pong,
    StreamError,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from node.streams.stream_registry import StreamRegistry
from node.views.views import ServiceError

log = logging.getLogger("node.api")

# WebSocket close codes.
TOO_SLOW: Final = 4000  # the reader did not take what it was sent
KEY_REVOKED: Final = 4001

CONNECTIONS: Final = web.AppKey("connections", set[web.WebSocketResponse])
STREAM_REGISTRY: Final = web.AppKey("stream registry", StreamRegistry)
_decoder: Final = msgspec.json.Decoder(ClientMessage)
_TRADING: Final = get_args(TradingMessage)


class _Connection:
    """Session of a stream connection: caller, subscriptions, answers to messages."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._request = request
        self._socket = socket
        self._hub = request.app[STREAM_REGISTRY]
        self._caller = caller_of(request)
        self._loop = asyncio.get_running_loop()
        self._readers: dict[str, Reader] = {}  # by the name of their stream
        self._session = SocketSession(
            request,
            socket,
            self._messages_of,
            buffer=limits.STREAM_BUFFER,
            send_timeout=limits.STREAM_SEND_TIMEOUT,
            close_timeout=limits.STREAM_CLOSE_TIMEOUT,
            too_slow=ReaderTooSlow,
            stalled=(TOO_SLOW, "too slow: a message was not taken in time"),
            behind=(TOO_SLOW, "too slow: the missed messages are no longer stored"),
            verdict=self._verdict,
        )

        self._door, self._remote = request.app[DOORKEEPER], request.remote or ""
        self._orders = StreamOrders(
            request.app[SERVICE], self._session.post, self._count, request.app[FIGURES]
        )

    async def run(self) -> None:
        """Serve until the client leaves, or is disconnected."""
        try:
            await self._session.run(self._read())
        finally:
            for reader in self._readers.values():
                reader.stop()
            await self._orders.close()

    # Messages of the client

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.TEXT:
                await self._handle(message.data)
            elif message.type is WSMsgType.BINARY:
                detail = "send text messages, not binary ones"
                await self._answer(StreamError(code="invalid_message", detail=detail))

    async def _handle(self, text: str) -> None:
        try:
            message = _decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            if await self._reread(text):
                return
            self._leave_if_authentication(text)
            detail = (
                f'{error}; send e.g. {{"op":"subscribe","channel":"book","market":"BTC-USD"}}, '
                "see /asyncapi.json"
            )
            await self._answer(StreamError(code="invalid_message", detail=detail))
            return
        if await self._refuse_repeated(text):
            return
        if isinstance(message, _TRADING):
            await self._orders.take(of_message(message), self._caller)
            await self._session.drained()
            return
        began, code = perf_counter(), "ok"
        try:
            if isinstance(message, Subscribe):
                await self._subscribe(message)
            elif isinstance(message, Unsubscribe):
                await self._unsubscribe(message)
            elif isinstance(message, Auth):
                await self._authenticate(message)
            elif isinstance(message, Ping):
                await self._answer(Pong(id=message.id))
        except ServiceError as error:
            code = error.code
            await self._answer(StreamError(code=error.code, detail=error.detail, id=message.id))
        name = f"stream {type(message).__name__.lower()}"
        self._request.app[FIGURES].add_socket(name, code, perf_counter() - began)

    async def _reread(self, text: str) -> bool:
        """Answer a message about orders that does not fit its type; False if it is another one."""
        found = reread(text)
        if found is None:
            return False
        if await self._refuse_repeated(text):
            return True
        if isinstance(found, Refused):
            self._orders.refuse(found)
        else:
            await self._orders.take(found, self._caller)
        await self._session.drained()
        return True

    async def _refuse_repeated(self, text: str) -> bool:
        """Answer a message with a member that is there twice; False if there is none."""
        try:
            check_members(text)
        except RepeatedMember as error:
            refused = repeated(text, error)
            self._leave_if_authentication(text)
            if refused is not None:
                self._orders.refuse(refused)
                await self._session.drained()
            else:
                await self._answer(StreamError(code="invalid_message", detail=error.detail))
            return True
        return False

    def _leave_if_authentication(self, text: str) -> None:
        """Have no account any more if a message that cannot be read was to authenticate."""
        with suppress(ValueError, RecursionError):
            message = msgspec.json.decode(text)
            if isinstance(message, dict) and message.get("op") == "auth":
                self._caller = ANYBODY

    def _count(self, caller: Caller | None) -> RateVerdict:
        """Count a request against the rate of its caller; None stands for a wrong key."""
        return self._door.count(caller, self._remote, self._loop.time())

    async def _subscribe(self, request: Subscribe) -> None:
        if len(self._readers) >= limits.STREAM_MAX_SUBSCRIPTIONS:
            most = limits.STREAM_MAX_SUBSCRIPTIONS
            detail = f"a connection has at most {most} subscriptions; end one, or open another"
            raise ServiceError(409, "too_many_subscriptions", detail)
        stream = await self._hub.find(request, self._account(request))
        if stream.name in self._readers:
            raise ServiceError(409, "already_subscribed", f"{stream.name} is coming already")
        reader = Reader(stream, self._session.mark, request.conflate_ms, request.resume)
        self._readers[stream.name] = reader
        await self._answer(Subscribed(stream=stream.name, resumed=reader.resumed, id=request.id))
        reader.begin()

    def _account(self, request: Subscribe) -> int | None:
        if request.channel in NODE:
            check_access(self._caller, "node")
        if request.channel in PRIVATE and not self._caller.may("read"):
            if self._caller.account is None:
                return None
            detail = f"the key {self._caller.key} does not have the permission to read"
            raise ServiceError(403, "no_permission", detail)
        if request.account is UNSET:
            return self._caller.account
        check_access(self._caller, "operator")
        return self._request.app[SERVICE].operations.account(request.account).number

    async def _unsubscribe(self, request: Unsubscribe) -> None:
        reader = self._readers.pop(request.stream, None)
        if reader is None:
            detail = f"{request.stream[:80]!r} is not subscribed to"
            raise ServiceError(409, "not_subscribed", detail)
        reader.stop()
        self._session.forget(reader)
        await self._answer(Unsubscribed(stream=request.stream, id=request.id))

    async def _authenticate(self, request: Auth) -> None:
        if any(name.partition("/")[0] in PRIVATE | NODE for name in self._readers):
            detail = "unsubscribe from the channels of the account and of the node first"
            raise ServiceError(409, "already_subscribed", detail)
        # After a failure the connection has no account, and is not the operator's as one without a key is.
        self._caller = ANYBODY
        self._caller = self._identify(request)
        await self._answer(Authenticated(account=self._caller.account, id=request.id))

    def _identify(self, request: Auth) -> Caller:
        door, remote = self._request.app[DOORKEEPER], self._request.remote or ""
        caller, failure = None, None
        try:
            caller = door.authenticate(
                request.key, request.secret, secure=self._request.secure, remote=remote
            )
        except ServiceError as error:
            failure = error
        verdict = self._count(caller)  # count failed attempts too
        if not verdict.allowed:
            detail = f"more than {verdict.limit} requests a minute; wait {verdict.reset} s"
            raise ServiceError(429, "rate_limited", detail)
        if caller is None:
            raise failure or RuntimeError("nobody")
        return caller

    async def _answer(self, answer: msgspec.Struct) -> None:
        self._session.post(encode(answer))
        await self._session.drained()

    # Messages of the streams

    def _messages_of(self, reader: Reader, now: float) -> list[bytes]:
        try:
            return reader.take(now)
        except Ended as end:
            name = reader.stream.name
            del self._readers[name]
            reader.stop()
            return [encode(StreamError(code=end.code, detail=end.detail, stream=name))]

    def _verdict(self) -> End | None:
        """End a connection whose key was revoked."""
        if not self._caller.key:
            return None
        key = self._request.app[SERVICE].accounts.key(self._caller.key)
        return (KEY_REVOKED, "the key was revoked") if key is None or key.revoked else None


async def stream(request: web.Request) -> web.StreamResponse:
    """Serves one WebSocket connection until either side ends it."""
    socket = web.WebSocketResponse(
        heartbeat=limits.STREAM_HEARTBEAT,
        max_msg_size=limits.STREAM_MAX_MESSAGE,
        writer_limit=limits.STREAM_BUFFER,
        compress=False,  # loopback has bandwidth to spare, and compression would cost each reader
    )
    if not socket.can_prepare(request).ok:
        detail = "/v1/stream accepts WebSocket (RFC 6455) only; connect with a WebSocket client"
        return problem(request, 426, "upgrade_required", detail, headers={"Upgrade": "websocket"})
    query_values(request.query.items())
    connections = request.app[CONNECTIONS]
    if len(connections) >= limits.STREAM_MAX_CLIENTS:
        detail = f"{limits.STREAM_MAX_CLIENTS} streams are open already; close one first"
        return problem(request, 503, "too_many_streams", detail)
    await socket.prepare(request)
    connections.add(socket)
    try:
        await _Connection(request, socket).run()
    except ConnectionResetError:
        pass
    finally:
        connections.discard(socket)
    return socket


async def _close_all(app: web.Application) -> None:
    """Notify every reader that the node stops, before its socket is closed."""
    closing = [
        asyncio.create_task(
            socket.close(code=WSCloseCode.GOING_AWAY, message=b"the node is stopping")
        )
        for socket in app[CONNECTIONS]
    ]
    if closing:
        _, late = await asyncio.wait(closing, timeout=limits.SHUTDOWN_TIMEOUT)
        for task in late:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)


async def _sweep(app: web.Application) -> AsyncIterator[None]:
    """Close streams without readers, while the application runs."""

    async def sweep() -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(limits.STREAM_SWEEP)
            app[STREAM_REGISTRY].sweep(loop.time())

    task = asyncio.create_task(sweep())
    yield
    task.cancel()
    await asyncio.wait({task})


def add_stream(app: web.Application, registry: StreamRegistry) -> None:
    """Puts the stream on `app`."""
    app[STREAM_REGISTRY] = registry
    app[CONNECTIONS] = set()
    app.router.add_get("/v1/stream", stream, allow_head=False)
    app.on_shutdown.append(_close_all)
    app.cleanup_ctx.append(_sweep)
