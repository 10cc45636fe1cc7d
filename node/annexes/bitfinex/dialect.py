"""Puts the Bitfinex dialect on the API's application."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from aiohttp import web

from node.annexes.bitfinex.account_events import AccountFeeds
from node.annexes.bitfinex.account_inputs import PrivateSide
from node.annexes.bitfinex.account_reads import AccountReads
from node.annexes.bitfinex.authentication import KeyAuthenticator, Keys, SessionTokens
from node.annexes.bitfinex.bitfinex_books import Books
from node.annexes.bitfinex.bitfinex_socket import BitfinexConnection
from node.annexes.bitfinex.direct_submit import METHOD, PATH, DirectSubmit
from node.annexes.bitfinex.errors import BAD_AUTH, BitfinexError
from node.annexes.bitfinex.limits import BUFFER, BURST, CONNECTIONS, MAX_MESSAGE, PING, RATE
from node.annexes.bitfinex.order_operations import OrderOperations
from node.annexes.bitfinex.private_rest import PrivateRest
from node.annexes.bitfinex.public_channels import Channels
from node.annexes.bitfinex.public_rest import Form, Rest
from node.annexes.bitfinex.symbols import Symbols
from node.api.access import AccessRules
from node.api.api_server import GUARD
from node.api.node_service import NodeService
from node.http.http_requests import FIGURES, RequestFigures
from node.http.rate_limit import RateLimit
from node.http.request_guard import RequestGuard
from node.service.market_data import MarketData
from node.service.trading import Trading
from p2p.base.direct_requests import DirectHandlers

log = logging.getLogger("node.api")

STOP_TIMEOUT: Final = 3.0  # seconds that all goodbyes together get


class _Sockets:
    """The WebSocket connections of one application."""

    def __init__(
        self, public: Channels, private: PrivateSide | None, server_id: str, rate: RateLimit
    ) -> None:
        self._public = public
        self._private = private
        self._server_id = server_id
        self._rate = rate
        self._open: dict[BitfinexConnection, None] = {}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve a connection until either side ends it."""
        loop = asyncio.get_running_loop()
        socket = web.WebSocketResponse(
            max_msg_size=MAX_MESSAGE, writer_limit=BUFFER, compress=False, heartbeat=PING
        )
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, text="/ws/2 accepts WebSocket only", headers=_UPGRADE)
        if len(self._open) >= CONNECTIONS or not self._rate.allows(
            request.remote or "", loop.time()
        ):
            return web.Response(status=429, text="too many connections")
        await socket.prepare(request)
        connection = BitfinexConnection(
            request, socket, self._public, self._private, self._server_id, loop.time
        )
        self._open[connection] = None
        try:
            await connection.run()
        finally:
            del self._open[connection]
            connection.close()
            await connection.leave()
        return socket

    async def close(self, _app: web.Application) -> None:
        """Notify all connections that the node stops."""
        goodbyes = [asyncio.create_task(connection.goodbye()) for connection in self._open]
        if goodbyes:
            _, late = await asyncio.wait(goodbyes, timeout=STOP_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*goodbyes, return_exceptions=True)


_UPGRADE: Final = {"Upgrade": "websocket"}


def add_bitfinex(
    app: web.Application,
    market_data: MarketData,
    server_id: str,
    *,
    trading: Trading | None = None,
    keys: Keys | None = None,
    plain_keys: bool = False,
    rate_limit: int = RATE,
    figures: RequestFigures | None = None,
    guard: RequestGuard | None = None,
) -> DirectHandlers:
    """Serve /v2 and /ws/2; returns the short ways, for which `guard` and the authenticated part are needed.

    With `trading` and `keys` (the node's accounts) the authenticated part too; without, it knows no key.
    `plain_keys` takes keys over plain HTTP from other machines. `rate_limit` is requests a minute of a
    key, or of an address without one; 0: any number.
    """
    symbols = Symbols(market_data.instruments)
    books = Books(market_data)
    rate = RateLimit(rate_limit, burst_s=BURST)
    form = Form(rate, _monotonic)
    private: PrivateSide | None = None
    direct: DirectHandlers = {}
    figures = figures or RequestFigures()
    if trading is not None and keys is not None:
        gate = KeyAuthenticator(keys, plain_keys=plain_keys)
        tokens = SessionTokens(keys, _monotonic)
        operations = OrderOperations(trading, symbols, _now)
        accountant = AccountReads(trading, symbols, market_data)
        PrivateRest(gate, tokens, keys, operations, accountant).add_to(app.router, form)
        feeds = AccountFeeds(trading, symbols, market_data)
        private = PrivateSide(gate, tokens, feeds, operations, figures)
        if guard is not None:
            submit = DirectSubmit(gate, rate, guard, operations, figures, _monotonic)
            direct = {(METHOD, PATH): submit.serve}
    else:
        app.router.add_route("*", "/v2/auth/{path:.*}", form.of(_no_keys))
    Rest(market_data, symbols, books, form).add_to(app.router)
    sockets = _Sockets(Channels(market_data, symbols, books), private, server_id, rate)
    app.router.add_get("/ws/2", sockets.serve, allow_head=False)
    app.on_shutdown.append(sockets.close)
    return direct


def add_dialect(app: web.Application, service: NodeService, rules: AccessRules) -> DirectHandlers:
    """Serve the dialect of a node on its API; see `add_bitfinex`."""
    return add_bitfinex(
        app,
        service.market_data,
        service.node_id,
        trading=service.trading,
        keys=service.accounts,
        plain_keys=rules.plain_keys,
        rate_limit=rules.rate_limit,
        figures=app[FIGURES],
        guard=app[GUARD],
    )


async def _no_keys(_request: web.Request) -> str:
    raise BitfinexError(BAD_AUTH, "apikey: invalid")


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _now() -> int:
    return time.time_ns() // 1000
