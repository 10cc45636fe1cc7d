"""Puts the Bitfinex dialect on the API's application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

from node.annexes.bitfinex.account_events import AccountFeeds
from node.annexes.bitfinex.account_inputs import PrivateSide
from node.annexes.bitfinex.account_reads import AccountReads
from node.annexes.bitfinex.authentication import KeyAuthenticator, Keys, SessionTokens
from node.annexes.bitfinex.bitfinex_books import Books
from node.annexes.bitfinex.bitfinex_socket import BitfinexConnection
from node.annexes.bitfinex.errors import BAD_AUTH, BitfinexError
from node.annexes.bitfinex.limits import BUFFER, BURST, CONNECTIONS, MAX_MESSAGE, PING, RATE
from node.annexes.bitfinex.order_operations import OrderOperations
from node.annexes.bitfinex.private_rest import PrivateRest
from node.annexes.bitfinex.public_channels import Channels
from node.annexes.bitfinex.public_rest import Form, Rest
from node.annexes.bitfinex.symbols import Symbols
from node.api.access import AccessRules
from node.api.node_service import NodeService
from node.http.http_messages import Response
from node.http.http_server import Application
from node.http.rate_limit import RateLimit
from node.http.server_connection import Request
from node.http.server_socket import ServerSocket, SocketOptions, accept_key
from node.http.socket_session import stream_places
from node.service.market_data import MarketData
from node.service.trading import Trading


class _Sockets:
    """The WebSocket connections of one application."""

    def __init__(
        self,
        form: Form,
        public: Channels,
        private: PrivateSide | None,
        server_id: str,
        most: int,
    ) -> None:
        self._places = stream_places(most)
        self.public = public
        self.private = private
        self.server_id = server_id
        self._form = form
        self._open: dict[ServerSocket, BitfinexConnection] = {}

    def end(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what is left to do for a connection that has ended."""
        self._form.application.endings.start(work)

    def serve(self, request: Request) -> Response | None:
        """Accept a connection."""
        accept = accept_key(request.head)
        if accept is None:
            text = b"/ws/2 accepts WebSocket only"
            return Response(426, text, _TEXT, {"Upgrade": "websocket"})
        now = asyncio.get_running_loop().time()
        if not (self._form.allows(request, now) and request.connection.take_place(self._places)):
            return Response(429, b"too many connections", _TEXT)
        options = SocketOptions(MAX_MESSAGE, PING, BUFFER)

        def make(made: ServerSocket) -> BitfinexConnection:
            connection = self._open[made] = BitfinexConnection(self, request, made)
            made.ended.add_done_callback(lambda _: self._open.pop(made, None))
            return connection

        ServerSocket(request, accept, options, make)
        return None

    async def close(self) -> None:
        """Notify all connections that the node stops."""
        for connection in self._open.values():
            connection.goodbye()
        if self._open:
            await asyncio.wait([socket.ended for socket in self._open])


_TEXT: Final = "text/plain; charset=utf-8"


def add_bitfinex(
    application: Application,
    market_data: MarketData,
    server_id: str,
    *,
    trading: Trading | None = None,
    keys: Keys | None = None,
    plain_keys: bool = False,
    rate_limit: int = RATE,
    connections: int = CONNECTIONS,
) -> None:
    """Serve /v2 and /ws/2.

    With `trading` and `keys` (the node's accounts) the authenticated part too; without, it knows no key.
    `plain_keys` takes keys over plain HTTP from other machines. `rate_limit` is requests a minute of a
    key, or of an address without one; 0: any number. `connections`: WebSockets at once.
    """
    symbols = Symbols(market_data.instruments)
    books = Books(market_data)
    rate = RateLimit(rate_limit, burst_s=BURST)
    clock = asyncio.get_running_loop().time
    form = Form(application, rate, clock)
    router = application.router
    private: PrivateSide | None = None
    if trading is not None and keys is not None:
        gate = KeyAuthenticator(keys, plain_keys=plain_keys)
        tokens = SessionTokens(keys, clock)
        operations = OrderOperations(trading, symbols, _now)
        accountant = AccountReads(trading, symbols, market_data)
        PrivateRest(gate, tokens, keys, operations, accountant, form).add_to(router)
        feeds = AccountFeeds(trading, symbols, market_data)
        private = PrivateSide(gate, tokens, feeds, operations, application.figures)
    else:
        router.missing("/v2/auth/", form.of(_no_keys))
    Rest(market_data, symbols, books, form).add_to(router)
    public = Channels(market_data, symbols, books)
    sockets = _Sockets(form, public, private, server_id, connections)
    router.add("GET", "/ws/2", sockets.serve, head=False)
    application.goodbyes.append(sockets.close)


def add_dialect(application: Application, service: NodeService, rules: AccessRules) -> None:
    """Serve the dialect of a node on its API; see `add_bitfinex`."""
    add_bitfinex(
        application,
        service.market_data,
        service.node_id,
        trading=service.trading,
        keys=service.accounts,
        plain_keys=rules.plain_keys,
        rate_limit=rules.rate_limit,
        connections=rules.max_streams,
    )


def _no_keys(_request: Request) -> str:
    raise BitfinexError(BAD_AUTH, "apikey: invalid")


def _now() -> int:
    return time.time_ns() // 1000
