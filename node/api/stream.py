"""The WebSocket stream (/v1/stream): books, trades and own orders as they change.

    client                                           node
    {"op":"subscribe","market":"BTC-USD"}      ->
                                               <-    {"event":"snapshot","market":...,"book":...}
                                               <-    {"event":"book"|"trade"|"order","market":...}
    {"op":"unsubscribe","market":"BTC-USD"}    ->
                                               <-    {"event":"unsubscribed","market":"BTC-USD"}
    {"op":"ping","id":"any text"}              ->
                                               <-    {"event":"pong","id":"any text"}
    anything else                              ->
                                               <-    {"event":"error","code":...,"detail":...}

A reader that falls behind gets a new snapshot in place of the changes that it missed; one that does
not read at all is cut. Nothing piles up in between: each market is pumped from its subscription
straight into the socket, which is bounded, and the subscription is bounded itself.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from node.api import limits
from node.api.problems import problem
from node.api.routes import SERVICE, dumps
from node.views import ServiceError

log = logging.getLogger("node.api")


class Subscribe(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="subscribe", tag_field="op"
):
    """Send this market's snapshot, then its events."""

    market: str


class Unsubscribe(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="unsubscribe", tag_field="op"
):
    """Send nothing more of this market."""

    market: str


class Ping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="ping", tag_field="op"):
    """Answered by a pong with the same id; for clients that cannot send WebSocket pings."""

    id: str | None = None


class Unsubscribed(msgspec.Struct, kw_only=True, tag="unsubscribed", tag_field="event"):
    """No event of this market follows."""

    market: str


class Pong(msgspec.Struct, kw_only=True, tag="pong", tag_field="event"):
    id: str | None = None


class StreamError(msgspec.Struct, kw_only=True, tag="error", tag_field="event"):
    """A message was refused or a subscription ended; the connection stays open."""

    code: str
    detail: str
    market: str | None = None


ClientMessage = Subscribe | Unsubscribe | Ping
ServerReply = Unsubscribed | Pong | StreamError

_decoder: Final = msgspec.json.Decoder(ClientMessage)
CONNECTIONS: Final = web.AppKey("connections", set[web.WebSocketResponse])


class _Stalled(Exception):
    """The reader did not take an event in time."""


class _Session:
    """One connection: its subscriptions, and the replies to its messages."""

    def __init__(
        self, request: web.Request, socket: web.WebSocketResponse, tasks: asyncio.TaskGroup
    ) -> None:
        self._request = request
        self._socket = socket
        self._service = request.app[SERVICE]
        self._tasks = tasks
        self._pumps: dict[str, asyncio.Task[None]] = {}

    async def _send(self, event: Any) -> None:
        try:
            async with asyncio.timeout(limits.STREAM_SEND_TIMEOUT):
                await self._socket.send_str(dumps(event).decode())
        except TimeoutError:
            raise _Stalled from None

    async def run(self) -> None:
        """Serves messages until the client leaves."""
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    await self._handle(message.data)
                elif message.type is WSMsgType.BINARY:
                    detail = "send text messages, not binary ones"
                    await self._send(StreamError(code="invalid_message", detail=detail))
        except (_Stalled, ConnectionError):
            self._cut()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Ends every subscription."""
        for market in list(self._pumps):
            await self._drop(market)

    async def _handle(self, text: str) -> None:
        try:
            message = _decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            detail = f'{error}; send e.g. {{"op":"subscribe","market":"BTC-USD"}}'
            await self._send(StreamError(code="invalid_message", detail=detail))
            return
        if isinstance(message, Ping):
            await self._send(Pong(id=message.id))
        elif isinstance(message, Subscribe):
            await self._subscribe(message.market)
        elif message.market in self._pumps:
            await self._drop(message.market)
            await self._send(Unsubscribed(market=message.market))
        else:
            await self._refuse(message.market, "not_subscribed", "is not subscribed to")

    async def _refuse(self, market: str, code: str, why: str) -> None:
        await self._send(StreamError(code=code, detail=f"{market[:40]!r} {why}", market=market))

    async def _subscribe(self, market: str) -> None:
        if market in self._pumps:
            await self._refuse(market, "already_subscribed", "is subscribed to already")
        elif len(self._pumps) >= limits.STREAM_MAX_MARKETS:
            why = f"cannot be added: {limits.STREAM_MAX_MARKETS} markets a connection"
            await self._refuse(market, "too_many_markets", why)
        else:
            self._pumps[market] = self._tasks.create_task(self._pump(market))

    async def _drop(self, market: str) -> None:
        pump = self._pumps.pop(market, None)
        if pump is not None:
            pump.cancel()
            await asyncio.wait({pump})

    async def _pump(self, market: str) -> None:
        """Carries one subscription into the socket; ends with an error event, never silently."""
        try:
            events = self._service.subscribe(market)
            try:
                async for event in events:
                    await self._send(event)
            finally:
                if close := getattr(events, "aclose", None):
                    await close()
            end = StreamError(
                code="subscription_ended",
                detail="the node ended it; subscribe again",
                market=market,
            )
        except ServiceError as error:
            end = StreamError(code=error.code, detail=error.detail, market=market)
        except (_Stalled, ConnectionError):
            self._cut()
            return
        except Exception:
            log.exception("the stream of %r failed", market)
            detail = "the node failed; its log has the details; subscribe again"
            end = StreamError(code="internal_error", detail=detail, market=market)
        self._pumps.pop(market, None)
        with suppress(_Stalled, ConnectionError):
            await self._send(end)

    def _cut(self) -> None:
        """Ends a connection whose reader is gone or does not read: a close frame would wait too."""
        if transport := self._request.transport:
            transport.abort()


async def stream(request: web.Request) -> web.StreamResponse:
    """Serves one WebSocket connection until either side ends it."""
    socket = web.WebSocketResponse(
        heartbeat=limits.STREAM_HEARTBEAT,
        max_msg_size=limits.STREAM_MAX_MESSAGE,
        writer_limit=limits.STREAM_BUFFER,
        compress=False,  # loopback has bandwidth to spare, and compression would cost each event
    )
    if not socket.can_prepare(request).ok:
        detail = "/v1/stream speaks WebSocket (RFC 6455); connect with a WebSocket client"
        return problem(request, 426, "upgrade_required", detail, headers={"Upgrade": "websocket"})
    connections = request.app[CONNECTIONS]
    if len(connections) >= limits.STREAM_MAX_CLIENTS:
        detail = f"{limits.STREAM_MAX_CLIENTS} streams are open already; close one first"
        return problem(request, 503, "too_many_streams", detail)
    await socket.prepare(request)
    connections.add(socket)
    try:
        async with asyncio.TaskGroup() as tasks:
            await _Session(request, socket, tasks).run()
    finally:
        connections.discard(socket)
    return socket


async def _close_all(app: web.Application) -> None:
    """Tells every reader that the node stops, before the sockets are closed under them."""
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


def add_stream(app: web.Application) -> None:
    """Puts the stream on `app`."""
    app[CONNECTIONS] = set()
    app.router.add_get("/v1/stream", stream, allow_head=False)
    app.on_shutdown.append(_close_all)
