"""An async client of a node's streams, typed, with books that are verified message by message.

    async with StreamingClient("http://127.0.0.1:8300") as client:
        feed = client.book("BTC-USD", level="L2", depth=25)
        async for event in feed:
            print(feed.book.best_bid, feed.book.best_ask)

Orders go over the same connection: `node.client.order_stream`. All feeds of a client share one connection. When it breaks it is made again, and every feed goes on where
it was; a snapshot in the middle of a feed says that the node could not go on there. A feed without
a reader holds up the others after a few hundred messages: close those that are not needed.

Errors, besides those of `node.client.exchange_client`, which mean the same here:

    ClientError
    └── BookFault               a book and the node disagree: `node.client.book_replica`
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, Literal, Self, overload

import msgspec
from msgspec import UNSET

from node.client.exchange_client import (
    ApiError,
    ClientError,
    NodeUnreachable,
    NotANode,
    StreamClosed,
    api_response,
    checked_url,
    client_headers,
)
from node.client.order_stream import OrderStream, OrderStreamCalls
from node.client.server_trust import Trust
from node.client.subscriptions import BookSubscription, Subscription
from node.streams.order_messages import TradingAnswer, TradingMessage
from node.streams.stream_messages import (
    Balances,
    BalancesSnapshot,
    BookL1,
    BookL2,
    BookL2Snapshot,
    BookL3,
    BookL3Snapshot,
    BookLevel,
    Candles,
    CandlesSnapshot,
    ClientMessage,
    Depth,
    Fills,
    FillsSnapshot,
    Level,
    Orders,
    OrdersSnapshot,
    RestingOrder,
    Scope,
    ServerMessage,
    StreamError,
    StreamMessage,
    Subscribe,
    Subscribed,
    Ticker,
    Trades,
    TradesSnapshot,
    Unsubscribe,
)
from p2p.base.http1 import Failure, HttpFailed, Url
from p2p.base.websocket import TEXT, SocketOptions, WsConnection, connect

CONNECT_TIMEOUT: Final = 10.0  # seconds
HEARTBEAT: Final = 20.0
MAX_MESSAGE: Final = 1 << 62  # bytes: a node's own
FIRST_PAUSE: Final = 0.1  # seconds before the second attempt to connect; doubled for each more
LONGEST_PAUSE: Final = 5.0
DEFAULT_PATIENCE: Final = 60.0  # seconds without a connection until feeds fail

_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)


class StreamingClient(OrderStreamCalls):
    """Streams of one node, and orders.

    `key` and `secret` are an account's; without them the streams of an account are the operator's,
    where the node requires no key. `node_id`, when given, is sent along, so that a node of another
    id at the address refuses. `patience` is for how many seconds a connection is tried for; 0 gives
    up at once.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        secret: str | None = None,
        node_id: str | None = None,
        patience: float = DEFAULT_PATIENCE,
        trust: Trust | None = None,
    ) -> None:
        """`trust` says whose certificate is accepted at an https URL."""
        self.url = checked_url(url)
        self._headers = client_headers(key, secret, node_id)
        self._patience = patience
        self._trust = trust or Trust()
        self._feeds: dict[str, Subscription[Any]] = {}  # by the id of their request
        self._by_stream: dict[str, Subscription[Any]] = {}
        self._asked: set[str] = set()  # ids, on this connection
        self._numbers = 0
        self._socket: WsConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._orders = OrderStream()
        self._connections: list[asyncio.Future[None]] = []  # of callers that wait for one

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every feed and the connection. Idempotent."""
        self._fail_all(StreamClosed(None))
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    # Feeds

    @overload
    def book(
        self, market: str, *, level: Literal["L1"], scope: Scope = ..., conflate_ms: int = ...
    ) -> BookSubscription[BookL1, Level]: ...

    @overload
    def book(
        self,
        market: str,
        *,
        level: Literal["L2"] = "L2",
        depth: Depth = ...,
        scope: Scope = ...,
        conflate_ms: int = ...,
    ) -> BookSubscription[BookL2Snapshot | BookL2, Level]: ...

    @overload
    def book(
        self,
        market: str,
        *,
        level: Literal["L3"],
        depth: Depth = ...,
        scope: Scope = ...,
        conflate_ms: int = ...,
    ) -> BookSubscription[BookL3Snapshot | BookL3, RestingOrder]: ...

    def book(
        self,
        market: str,
        *,
        level: BookLevel = "L2",
        depth: Depth = 25,
        scope: Scope = "network",
        conflate_ms: int = 0,
    ) -> Any:
        """A book: the best prices (L1), prices with what rests there (L2), or single orders (L3); of the
        network, or of what is the node's own."""
        request = Subscribe(
            channel="book",
            market=market,
            level=level,
            depth=UNSET if level == "L1" else depth,
            scope=scope,
            conflate_ms=conflate_ms,
        )
        return self.subscribe(request)

    def trades(self, market: str, *, conflate_ms: int = 0) -> Subscription[TradesSnapshot | Trades]:
        """Public trades."""
        return self._feed("trades", market=market, conflate_ms=conflate_ms)

    def ticker(self, market: str, *, conflate_ms: int = 0) -> Subscription[Ticker]:
        """A market's figures."""
        return self._feed("ticker", market=market, conflate_ms=conflate_ms)

    def candles(
        self, market: str, timeframe: str = "1m", *, conflate_ms: int = 0
    ) -> Subscription[CandlesSnapshot | Candles]:
        return self._feed("candles", market=market, timeframe=timeframe, conflate_ms=conflate_ms)

    def orders(self) -> Subscription[OrdersSnapshot | Orders]:
        """The account's orders."""
        return self._feed("orders")

    def fills(self) -> Subscription[FillsSnapshot | Fills]:
        """The account's fills."""
        return self._feed("fills")

    def balances(self) -> Subscription[BalancesSnapshot | Balances]:
        """Subscribe to the balances of the account."""
        return self._feed("balances")

    def _feed(self, channel: Any, **fields: Any) -> Subscription[Any]:
        return self.subscribe(Subscribe(channel=channel, **fields))

    def subscribe(self, request: Subscribe) -> Subscription[Any]:
        """Subscribe by a request of any kind; its `id` is chosen here."""
        number = self._next_id()
        request = msgspec.structs.replace(request, id=number)
        kind: type[Subscription[Any]] = (
            BookSubscription if request.channel == "book" else Subscription
        )
        feed = kind(self, request)
        self._feeds[number] = feed
        return feed

    # The connection

    async def want(self, feed: Subscription[Any]) -> None:
        """Connect and subscribe, if that is not done yet: a feed is being read."""
        if self._begin():
            return
        if self._socket is not None:
            await self._ask(feed)

    def _begin(self) -> bool:
        """Begin to connect; False if that was done before."""
        if self._task is not None and not self._task.done():
            return False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="streaming client")
        return True

    def _next_id(self) -> str:
        self._numbers += 1
        return str(self._numbers)

    async def _exchange(self, request: TradingMessage) -> Any:
        while self._socket is None or self._socket.ended.done():
            self._begin()
            connection = asyncio.get_running_loop().create_future()
            self._connections.append(connection)
            await connection
        answer = self._orders.expect(request.id)
        try:
            self._socket.send(msgspec.json.encode(request))
            await self._socket.drain()
            return await answer
        finally:
            self._orders.forget(request.id)

    async def _ask(self, feed: Subscription[Any]) -> None:
        number = str(feed.request.id)
        if number in self._feeds and number not in self._asked:
            self._asked.add(number)
            await self._send(feed.subscription)

    async def drop(self, feed: Subscription[Any]) -> None:
        """Unsubscribe a feed."""
        self._feeds.pop(str(feed.request.id), None)
        if self._by_stream.pop(feed.stream, None) is not None:
            await self._send(Unsubscribe(stream=feed.stream))

    async def _send(self, message: ClientMessage) -> None:
        if self._socket is not None:  # if it has ended, the reader notices, and subscribes again
            self._socket.send(msgspec.json.encode(message))
            await self._socket.drain()

    async def _run(self) -> None:
        """Keep a connection until there is no hope of one."""
        loop = asyncio.get_running_loop()
        pause, since = FIRST_PAUSE, loop.time()
        while True:
            try:
                socket = await self._connect()
                pause = FIRST_PAUSE
                try:
                    await self._read(socket)
                finally:
                    self._orders.fail(StreamClosed(socket.close_code))
                    await socket.close()
                since = loop.time()
                error: ClientError = StreamClosed(socket.close_code)
            except NodeUnreachable as unreachable:
                error = unreachable
            except ClientError as refused:
                self._fail_all(refused)
                return
            finally:
                self._socket = None
                self._asked.clear()
                self._by_stream.clear()
            if loop.time() - since + pause > self._patience:
                self._fail_all(error)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _fail_all(self, error: ClientError) -> None:
        for feed in self._feeds.values():
            feed.fail(error)
        for connection in self._connections:
            if not connection.done():
                connection.set_exception(error)
        self._connections.clear()
        self._orders.fail(error)

    async def _connect(self) -> WsConnection:
        """
        Raises:
            NodeUnreachable: no answer.
            ApiError, NotANode: who answers refuses, or has no stream.
        """
        parts = Url.parse(f"{self.url}/v1/stream")
        tls = self._trust if parts.secure else None
        options = SocketOptions(parts.target, self._headers, tls, MAX_MESSAGE, HEARTBEAT)
        try:
            return await connect(parts.address, options, timeout=CONNECT_TIMEOUT)
        except HttpFailed as error:
            if (reply := error.reply) is None:
                late = error.kind is Failure.NOT_IN_TIME
                why = "no answer in time" if late else str(error)
                raise NodeUnreachable(f"no answer from {self.url} ({why})") from error
            if reply.status == 503:
                raise NodeUnreachable(f"{self.url} has no room for another stream") from error
            refusal = api_response(reply)
            with suppress(msgspec.DecodeError):
                if refusal.content_type == "application/problem+json":
                    problem = msgspec.json.decode(refusal.body, type=dict[str, Any])
                    raise ApiError(problem) from error
            raise NotANode(f"{self.url} has no stream (HTTP status {reply.status})") from error

    async def _read(self, socket: WsConnection) -> None:
        """Subscribe for every feed, then hand over what comes, until the connection ends.

        Raises:
            NotANode: what comes is not what a node sends.
        """
        self._socket = socket
        for connection in self._connections:
            if not connection.done():
                connection.set_result(None)
        self._connections.clear()
        for feed in list(self._feeds.values()):
            await self._ask(feed)
        while (message := await socket.receive()) is not None:
            opcode, payload = message
            if opcode != TEXT:
                continue
            try:
                told = _decoder.decode(payload)
            except msgspec.DecodeError as error:
                raise NotANode(f"{self.url} is not a node's stream: {error}") from error
            if isinstance(told, Subscribed):
                await self._subscribed(told)
            elif isinstance(told, StreamError):
                self._refused(told)
            elif isinstance(told, TradingAnswer):
                self._orders.receive(told)
            elif isinstance(told, StreamMessage):
                wanted = self._by_stream.get(told.stream)
                if wanted is not None:
                    await wanted.deliver(told)

    async def _subscribed(self, told: Subscribed) -> None:
        feed = self._feeds.get(str(told.id))
        if feed is None:  # closed meanwhile
            await self._send(Unsubscribe(stream=told.stream))
        else:
            feed.stream = told.stream
            self._by_stream[told.stream] = feed

    def _refused(self, told: StreamError) -> None:
        feed = self._by_stream.pop(told.stream or "", None) or self._feeds.get(str(told.id))
        if feed is not None:
            self._feeds.pop(str(feed.request.id), None)
            feed.fail(ApiError({"status": 0, "code": told.code, "detail": told.detail}))


__all__ = ["BookSubscription", "StreamingClient", "Subscription"]
