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

What streams have is written at once for a reader that keeps up, and for one that
does not, as it takes it. Nothing is queued (see `node.streams.stream`): who is slow gets more in one
message, who takes nothing at all is cut, with a close code where there is still a way to tell it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, get_args

import msgspec
from msgspec import UNSET

from node.api import limits
from node.api.access import ANYBODY, AccessControl, Caller, check_access
from node.api.node_service import NodeService
from node.api.problems import problem
from node.api.route import query_values
from node.api.stream_orders import StreamOrders
from node.api.stream_requests import of_message, repeated, reread
from node.http.http_messages import Response
from node.http.http_server import Application
from node.http.json_members import RepeatedMember, check_members
from node.http.rate_limit import RateVerdict
from node.http.server_connection import Request
from node.http.server_socket import GOING_AWAY, ServerSocket, SocketOptions, accept_key
from node.http.socket_session import End, SessionRules, SocketSession, stream_places
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
from node.views.views import ServiceError

log = logging.getLogger("node.api")

# WebSocket close codes.
TOO_SLOW: Final = 4000  # the reader did not take what it was sent
KEY_REVOKED: Final = 4001

STREAM: Final = "/v1/stream"
_decoder: Final = msgspec.json.Decoder(ClientMessage)
_TRADING: Final = get_args(TradingMessage)
Wait = Coroutine[Any, Any, None] | None  # the rest of the handling of a message


class _Connection:
    """Session of a stream connection: caller, subscriptions, answers to messages."""

    def __init__(
        self, streams: _Streams, request: Request, caller: Caller, socket: ServerSocket
    ) -> None:
        self._streams = streams
        self._service = streams.service
        self._door = streams.door
        self._figures = streams.application.figures
        self._connection = request.connection
        self._remote, self._secure = request.remote, request.secure
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._readers: dict[str, Reader] = {}  # by the name of their stream
        self._session = SocketSession[Reader](
            socket,
            SessionRules(
                limits.STREAM_SEND_TIMEOUT,
                ReaderTooSlow,
                stalled=(TOO_SLOW, "too slow: a message was not taken in time"),
                behind=(TOO_SLOW, "too slow: the missed messages are no longer stored"),
            ),
            self._messages_of,
            self._verdict,
        )
        self._orders = StreamOrders(self._service, self._session.post, self._count, self._figures)

    # For the socket

    def on_message(self, message: str | bytes) -> Wait:
        if isinstance(message, bytes):
            detail = "send text messages, not binary ones"
            self._answer(StreamError(code="invalid_message", detail=detail))
            return self._session.held()
        return self._handle(message) or self._session.held()

    def on_writable(self) -> None:
        self._session.on_writable()

    def on_end(self) -> None:
        self._session.stop()
        for reader in self._readers.values():
            reader.stop()
        self._streams.application.endings.start(self._orders.close())

    # Messages of the client

    def _handle(self, text: str) -> Wait:
        try:
            message = _decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return self._reread(text, error)
        if self._refuse_repeated(text):
            return None
        if isinstance(message, _TRADING):
            return self._orders.take(of_message(message), self._caller)
        if isinstance(message, Subscribe):
            return self._subscribe(message)
        began, code = perf_counter(), "ok"
        try:
            if isinstance(message, Unsubscribe):
                self._unsubscribe(message)
            elif isinstance(message, Auth):
                self._authenticate(message)
            elif isinstance(message, Ping):
                self._answer(Pong(id=message.id))
        except ServiceError as error:
            code = self._refuse(message, error)
        self._count_message(message, code, began)
        return None

    def _refuse(self, message: ClientMessage, error: ServiceError) -> str:
        self._answer(StreamError(code=error.code, detail=error.detail, id=message.id))
        return error.code

    def _count_message(self, message: ClientMessage, code: str, began: float) -> None:
        name = f"stream {type(message).__name__.lower()}"
        self._figures.add_socket(name, code, perf_counter() - began)

    def _reread(self, text: str, error: Exception) -> Wait:
        """Answer a message that does not fit its type."""
        found = reread(text)
        if found is None:
            self._leave_if_authentication(text)
            detail = (
                f'{error}; send e.g. {{"op":"subscribe","channel":"book","market":"BTC-USD"}}, '
                "see /asyncapi.json"
            )
            self._answer(StreamError(code="invalid_message", detail=detail))
            return None
        if self._refuse_repeated(text):
            return None
        if isinstance(found, Refused):
            self._orders.refuse(found)
            return None
        return self._orders.take(found, self._caller)

    def _refuse_repeated(self, text: str) -> bool:
        """Answer a message with a member that is there twice; False if there is none."""
        try:
            check_members(text)
        except RepeatedMember as error:
            refused = repeated(text, error)
            self._leave_if_authentication(text)
            if refused is not None:
                self._orders.refuse(refused)
            else:
                self._answer(StreamError(code="invalid_message", detail=error.detail))
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
        began, code = perf_counter(), "ok"
        try:
            await self._open(request)
        except ServiceError as error:
            code = self._refuse(request, error)
        self._count_message(request, code, began)
        if wait := self._session.held():
            await wait

    async def _open(self, request: Subscribe) -> None:
        if len(self._readers) >= limits.STREAM_MAX_SUBSCRIPTIONS:
            most = limits.STREAM_MAX_SUBSCRIPTIONS
            detail = f"a connection has at most {most} subscriptions; end one, or open another"
            raise ServiceError(409, "too_many_subscriptions", detail)
        stream = await self._service.stream_registry.find(request, self._account(request))
        if stream.name in self._readers:
            raise ServiceError(409, "already_subscribed", f"{stream.name} is coming already")
        reader = Reader(stream, self._session.mark, request.conflate_ms, request.resume)
        self._readers[stream.name] = reader
        self._answer(Subscribed(stream=stream.name, resumed=reader.resumed, id=request.id))
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
        return self._service.operations.account(request.account).number

    def _unsubscribe(self, request: Unsubscribe) -> None:
        reader = self._readers.pop(request.stream, None)
        if reader is None:
            detail = f"{request.stream[:80]!r} is not subscribed to"
            raise ServiceError(409, "not_subscribed", detail)
        reader.stop()
        self._session.forget(reader)
        self._answer(Unsubscribed(stream=request.stream, id=request.id))

    def _authenticate(self, request: Auth) -> None:
        if any(name.partition("/")[0] in PRIVATE | NODE for name in self._readers):
            detail = "unsubscribe from the channels of the account and of the node first"
            raise ServiceError(409, "already_subscribed", detail)
        # After a failure the connection has no account, and is not the operator's as one without a key is.
        self._caller = ANYBODY
        self._caller = self._identify(request)
        self._connection.rise(self._caller.rank)
        self._answer(Authenticated(account=self._caller.account, id=request.id))

    def _identify(self, request: Auth) -> Caller:
        door = self._door
        caller, failure = None, None
        try:
            caller = door.authenticate(
                request.key, request.secret, secure=self._secure, remote=self._remote
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

    def _answer(self, answer: msgspec.Struct) -> None:
        self._session.post(encode(answer))

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
        key = self._service.accounts.key(self._caller.key)
        return (KEY_REVOKED, "the key was revoked") if key is None or key.revoked else None


class _Streams:
    """Stream connections of one application."""

    def __init__(self, application: Application, service: NodeService, door: AccessControl) -> None:
        self.application = application
        self.service = service
        self.door = door
        self._open: dict[ServerSocket, None] = {}
        self._places = stream_places(door.rules.max_streams)

    def serve(self, request: Request) -> Response | None:
        """Accept a connection."""
        caller = self.door.admit(request, asyncio.get_running_loop().time())
        path, accept = request.head.target.raw_path, accept_key(request.head)
        if accept is None:
            detail = "/v1/stream accepts WebSocket (RFC 6455) only; connect with a WebSocket client"
            upgrade = {"Upgrade": "websocket"}
            return problem(path, 426, "upgrade_required", detail, headers=upgrade)
        query_values(request.head.target.query)
        if not request.connection.take_place(self._places):
            most = self.door.rules.max_streams
            detail = (
                f"{most} streams are open, or a quarter of them from your address; close one first"
            )
            return problem(path, 503, "too_many_streams", detail)
        options = SocketOptions(
            limits.STREAM_MAX_MESSAGE,
            limits.STREAM_HEARTBEAT,
            limits.STREAM_BUFFER,
            limits.STREAM_CLOSE_TIMEOUT,
        )
        socket = ServerSocket(
            request, accept, options, lambda made: _Connection(self, request, caller, made)
        )
        self._open[socket] = None
        socket.ended.add_done_callback(lambda _: self._open.pop(socket, None))
        return None

    async def close(self) -> None:
        """Notify every reader that the node stops, before its socket is closed."""
        for socket in self._open:
            socket.close(GOING_AWAY, "the node is stopping")
        if self._open:
            await asyncio.wait([socket.ended for socket in self._open])

    async def sweep(self) -> None:
        """Close streams without readers, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(limits.STREAM_SWEEP)
            self.service.stream_registry.sweep(loop.time())


def add_stream(application: Application, service: NodeService, door: AccessControl) -> None:
    """Put the stream on an application."""
    streams = _Streams(application, service, door)
    application.router.add("GET", STREAM, streams.serve, head=False)
    application.goodbyes.append(streams.close)
    application.tasks.start(streams.sweep())
