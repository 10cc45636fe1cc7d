"""The REST paths under /v2/auth, which are asked with POST and signed with a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from exchange.model.records import Permission
from node.annexes.bitfinex import account_arrays, order_inputs
from node.annexes.bitfinex.account_reads import AccountReads
from node.annexes.bitfinex.authentication import (
    DEFAULT_TTL,
    KeyAuthenticator,
    Keys,
    KeySession,
    SessionTokens,
    next_millisecond,
)
from node.annexes.bitfinex.errors import (
    BAD_AUTH,
    BAD_PARAMETER,
    BitfinexError,
    bad,
    rate_limited,
    unknown_path,
)
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.order_operations import OrderOperations
from node.annexes.bitfinex.public_rest import Form, body_of
from node.annexes.bitfinex.symbols import Pair
from node.http.http_requests import route_path

Answer = Callable[[KeySession, web.Request, Body], Awaitable[str]]

# Scope, whether it may be read, whether it may be written: what there is of Bitfinex's.
_SCOPES: Final = (
    ("account", False),
    ("history", False),
    ("orders", True),
    ("positions", False),
    ("wallets", False),
    ("withdraw", False),
)


# A key sees its own permissions, and a token has no more of them than the key.
_OF_EVERY_KEY: Final = frozenset({"r/permissions", "w/token", "w/token/del"})


class PrivateRest:
    """The handlers."""

    def __init__(
        self,
        gate: KeyAuthenticator,
        tokens: SessionTokens,
        keys: Keys,
        operations: OrderOperations,
        accountant: AccountReads,
    ) -> None:
        self._gate = gate
        self._tokens = tokens
        self._keys = keys
        self._operations = operations
        self._accountant = accountant
        self._symbols = operations.symbols
        self._now = operations.now

    def add_to(self, router: web.UrlDispatcher, form: Form) -> None:
        """Serve them, and refuse everything else under /v2/auth."""
        answers: tuple[tuple[str, Answer], ...] = (
            ("r/wallets", self._wallets),
            ("r/orders", self._orders),
            ("r/orders/hist", self._past_orders),
            ("r/orders/{symbol}", self._orders),
            ("r/orders/{symbol}/hist", self._past_orders),
            ("r/order/{order}/trades", self._trades_of_order),
            ("r/trades/hist", self._trades),
            ("r/trades/{symbol}/hist", self._trades),
            ("r/ledgers/hist", self._ledger),
            ("r/ledgers/{currency}/hist", self._ledger),
            ("r/positions", self._positions),
            ("r/summary", self._summary),
            ("r/info/user", self._user),
            ("r/permissions", self._permissions),
            ("calc/order/avail", self._available),
            ("w/token", self._token),
            ("w/token/del", self._end_token),
            ("w/order/submit", self._operation("on")),
            ("w/order/update", self._operation("ou")),
            ("w/order/cancel", self._operation("oc")),
            ("w/order/cancel/multi", self._operation("oc_multi")),
            ("w/order/multi", self._operation("ox_multi")),
        )
        for path, answer in answers:
            if path.startswith("r/"):
                answer = self._durable(answer)
            if path not in _OF_EVERY_KEY:
                answer = _permitted("trade" if path.startswith("w/") else "read", answer)
            signed = form.of(self._signed(answer, form), counted=False)
            router.add_post(route_path(f"/v2/auth/{path}"), signed)
        nothing = form.of(self._signed(_nothing, form), counted=False)
        router.add_route("*", "/v2/auth/{path:.*}", nothing)

    def _signed(self, answer: Answer, form: Form) -> Callable[[web.Request], Awaitable[str]]:
        """Requests count for their key, and those that are not let in for their address."""

        async def respond(request: web.Request) -> str:
            remote, now = request.remote or "", form.clock()
            if not form.rate.left(remote, now):
                raise rate_limited()
            raw = await body_of(request)
            try:
                session = self._entered(request, raw, remote)
            except BitfinexError:
                form.rate.allows(remote, now)
                raise
            try:
                if not form.rate.allows(f"key {session.key}", now):
                    raise rate_limited()
                body = order_inputs.decode(raw) if raw.strip() else {}
                if not isinstance(body, dict):
                    raise bad("body", "a JSON object is expected")
                return await answer(session, request, body)
            finally:
                if "bfx-signature" in request.headers:
                    await next_millisecond(request.headers.get("bfx-nonce", ""), self._now)

        return respond

    def _entered(self, request: web.Request, raw: bytes, remote: str) -> KeySession:
        """Authenticate by token or by signature. Raises `BitfinexError`."""
        token = request.headers.get("bfx-token")
        if token is not None and "bfx-signature" not in request.headers:
            self._gate.check_way(secure=request.secure, remote=remote)
            return self._tokens.session(token)
        path = request.raw_path.partition("?")[0]
        return self._gate.of_request(
            request.headers, path, raw, secure=request.secure, remote=remote
        )

    def _operation(self, kind: str) -> Answer:
        async def answer(session: KeySession, _request: web.Request, body: Body) -> str:
            done = await self._operations.carry_out(session, kind, body, listed=True)
            return done.notification(self._now() // 1000, listed=True)

        return answer

    def _durable(self, answer: Answer) -> Answer:
        """Wait until what the answer may contain is on the disk."""

        async def durable(session: KeySession, request: web.Request, body: Body) -> str:
            told = await answer(session, request, body)
            await self._accountant.durable(session.account)
            return told

        return durable

    def _pair(self, request: web.Request) -> Pair | None:
        """The market of the path, if it names one."""
        symbol = request.match_info.get("symbol")
        return None if symbol is None else self._symbols[symbol]

    async def _wallets(self, session: KeySession, _request: web.Request, _body: Body) -> str:
        return await self._accountant.wallets(session.account)

    async def _orders(self, session: KeySession, request: web.Request, body: Body) -> str:
        return await self._accountant.open_orders(session.account, body, self._pair(request))

    async def _past_orders(self, session: KeySession, request: web.Request, body: Body) -> str:
        return await self._accountant.past_orders(
            request, session.account, body, self._pair(request)
        )

    async def _trades(self, session: KeySession, request: web.Request, body: Body) -> str:
        return await self._accountant.trades(request, session.account, body, self._pair(request))

    async def _trades_of_order(self, session: KeySession, request: web.Request, body: Body) -> str:
        symbol, _, order_id = request.match_info["order"].rpartition(":")
        pair = self._symbols[symbol]
        return await self._accountant.trades_of_order(session.account, body, pair, order_id)

    async def _ledger(self, session: KeySession, request: web.Request, body: Body) -> str:
        currency = request.match_info.get("currency")
        return await self._accountant.ledger(request, session.account, body, currency)

    async def _available(self, session: KeySession, _request: web.Request, body: Body) -> str:
        return await self._accountant.available(session.account, body)

    async def _positions(self, _session: KeySession, _request: web.Request, _body: Body) -> str:
        return "[]"  # there is no margin trading

    async def _summary(self, _session: KeySession, _request: web.Request, _body: Body) -> str:
        return account_arrays.summary_text(self._symbols)

    async def _user(self, session: KeySession, _request: web.Request, _body: Body) -> str:
        account = self._keys.get(session.account)
        if account is None:
            raise BitfinexError(BAD_AUTH, "apikey: invalid")
        return account_arrays.user_text(account.number, account.name, account.created)

    async def _token(self, session: KeySession, _request: web.Request, body: Body) -> str:
        ttl = order_inputs.integer(body, "ttl", DEFAULT_TTL)
        write = body.get("writePermission", False)
        if type(write) is not bool and write not in (0, 1):
            raise bad("writePermission", "true or false is expected")
        token = self._tokens.issue(session, ttl, body.get("caps"), write=bool(write))
        return orjson.dumps([token]).decode()

    async def _end_token(self, session: KeySession, _request: web.Request, body: Body) -> str:
        if not self._tokens.end(body.get("token"), session.key):
            raise BitfinexError(BAD_PARAMETER, "token: invalid")
        return "[1]"

    async def _permissions(self, session: KeySession, _request: web.Request, _body: Body) -> str:
        read, trade = int(session.may("read")), int(session.may("trade"))
        rows = [[scope, read, int(write and trade)] for scope, write in _SCOPES]
        return orjson.dumps(rows).decode()


def _permitted(permission: Permission, answer: Answer) -> Answer:
    async def permitted(session: KeySession, request: web.Request, body: Body) -> str:
        session.demand(permission)
        return await answer(session, request, body)

    return permitted


async def _nothing(_session: KeySession, _request: web.Request, _body: Body) -> str:
    raise unknown_path()
