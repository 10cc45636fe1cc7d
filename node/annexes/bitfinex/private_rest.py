"""The REST paths under /v2/auth, which are asked with POST and signed with a key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import orjson

from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex import account_arrays, authentication, order_inputs
from node.annexes.bitfinex.account_arrays import order_text
from node.annexes.bitfinex.account_reads import AccountReads
from node.annexes.bitfinex.authentication import (
    ACCOUNT,
    DEFAULT_TTL,
    ORDERS,
    WALLETS,
    WITHDRAWALS,
    KeyAuthenticator,
    Keys,
    KeySession,
    SessionTokens,
    is_this_millisecond,
    next_millisecond,
)
from node.annexes.bitfinex.errors import (
    BAD_AUTH,
    BAD_PARAMETER,
    BitfinexError,
    bad,
    rate_limited,
    refusal,
    unknown_path,
)
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.order_operations import Done, OrderOperations, submitted
from node.annexes.bitfinex.public_rest import Form, check_query
from node.annexes.bitfinex.symbols import Pair
from node.http.http_messages import Response
from node.http.router import Handler, Router
from node.http.server_connection import Request
from p2p.base.places import Rank

Read = Callable[[KeySession, Request, Body], str | Awaitable[str]]
Answer = Callable[[KeySession, Request, Body], str | Awaitable[str] | None]


class PrivateRest:
    """The handlers."""

    def __init__(
        self,
        gate: KeyAuthenticator,
        tokens: SessionTokens,
        keys: Keys,
        operations: OrderOperations,
        accountant: AccountReads,
        form: Form,
    ) -> None:
        self._form = form
        self._gate = gate
        self._tokens = tokens
        self._keys = keys
        self._operations = operations
        self._accountant = accountant
        self._symbols = operations.symbols
        self._now = operations.now

    def add_to(self, router: Router) -> None:
        """Serve them, and refuse everything else under /v2/auth."""
        # With the letter that a token needs; "" is for every key and token.
        reads: tuple[tuple[str, str, Read], ...] = (
            ("r/wallets", WALLETS, self._wallets),
            ("r/orders", ORDERS, self._orders),
            ("r/orders/hist", ORDERS, self._past_orders),
            ("r/orders/{symbol}", ORDERS, self._orders),
            ("r/orders/{symbol}/hist", ORDERS, self._past_orders),
            ("r/order/{order}/trades", ORDERS, self._trades_of_order),
            ("r/trades/hist", ORDERS, self._trades),
            ("r/trades/{symbol}/hist", ORDERS, self._trades),
            ("r/ledgers/hist", WALLETS, self._ledger),
            ("r/ledgers/{currency}/hist", WALLETS, self._ledger),
            ("r/positions", ORDERS, self._positions),
            ("r/summary", ACCOUNT, self._summary),
            ("r/info/user", ACCOUNT, self._user),
            ("r/permissions", "", self._permissions),
            ("calc/order/avail", WALLETS, self._available),
        )
        answers: tuple[tuple[str, Answer], ...] = (
            *((path, _readable(letter, self._durable(read))) for path, letter, read in reads),
            ("w/token", self._token),
            ("w/token/del", self._end_token),
            ("w/order/submit", self._submit),
            ("w/order/update", self._operation("ou")),
            ("w/order/cancel", self._operation("oc")),
            ("w/order/cancel/multi", self._operation("oc_multi")),
            ("w/order/multi", self._operation("ox_multi")),
        )
        for path, answer in answers:
            router.add("POST", f"/v2/auth/{path}", self._signed(answer), signed=True)
        router.missing("/v2/auth/", self._signed(_nothing))

    def _signed(self, answer: Answer) -> Handler:
        """A handler of signed requests. They count for their key, and those that are not let in for their
        address, whose rate is not in the way of those with a key."""
        form = self._form

        def handler(request: Request) -> Response | Awaitable[Response] | None:
            try:
                if request.head.target.query:
                    check_query(request)
                now = form.clock()
                raw = request.body
                session = self._entered(request, raw, now)
            except Exception as error:
                return form.refusal(request, error)
            if request.connection.rank is Rank.STRANGER:
                request.connection.rise(Rank.KNOWN)
            try:
                if not form.rate.allows(f"key {session.key}", now):
                    raise rate_limited()
                body = order_inputs.decode(raw) if raw.strip() else {}
                if not isinstance(body, dict):
                    raise bad("body", "a JSON object is expected")
                found = answer(session, request, body)
            except Exception as error:
                self._answer(request, form.refusal(request, error))
                return None
            if found is None:
                return None
            if isinstance(found, str):
                self._answer(request, Response(200, found.encode()))
                return None
            return form.later(request, self._in_time(request, found))

        return handler

    def _answer(self, request: Request, response: Response) -> None:
        """Answer a signed request, when a clock of milliseconds gives another nonce."""
        headers, answer = request.head.headers, self._form.application.answer
        if "bfx-signature" in headers and is_this_millisecond(
            headers.get("bfx-nonce", ""), self._now()
        ):
            asyncio.get_running_loop().call_later(authentication.PAUSE, answer, request, response)
        else:
            answer(request, response)

    async def _in_time(self, request: Request, found: Awaitable[str]) -> str:
        try:
            return await found
        finally:
            headers = request.head.headers
            if "bfx-signature" in headers:
                await next_millisecond(headers.get("bfx-nonce", ""), self._now)

    def _entered(self, request: Request, raw: bytes, now: float) -> KeySession:
        """Authenticate by token or by signature. Raises `BitfinexError`."""
        headers, remote = request.head.headers, request.remote
        try:
            if "bfx-token" in headers and "bfx-signature" not in headers:
                self._gate.check_way(secure=request.secure, remote=remote)
                return self._tokens.session(headers["bfx-token"])
            path = request.head.target.raw_path
            return self._gate.of_request(headers, path, raw, secure=request.secure, remote=remote)
        except BitfinexError:
            if not self._form.allows(request, now):
                raise rate_limited() from None
            raise

    def _submit(self, session: KeySession, request: Request, body: Body) -> Awaitable[str] | None:
        """Place an order at once; only one that waits for the node or for other nodes has a task."""
        operations = self._operations
        if not operations.trading.open:
            return self._carry_out("on", session, body)
        placed, pair = operations.submit_now(session, body)
        if operations.must_wait(placed):
            return self._decided(placed, pair)
        done = submitted(order_text(placed[0], pair), len(placed))

        def durable(error: CommandRejected | None) -> None:
            if error is None:
                response = Response(200, self._notification(done).encode())
            else:
                response = self._form.refusal(request, refusal(error.code, error.detail))
            self._answer(request, response)

        operations.trading.when_durable(durable)
        return None

    async def _decided(self, placed: Sequence[Order], pair: Pair) -> str:
        return self._notification(await self._operations.decided(placed, pair))

    def _operation(self, kind: str) -> Answer:
        return lambda session, _request, body: self._carry_out(kind, session, body)

    async def _carry_out(self, kind: str, session: KeySession, body: Body) -> str:
        return self._notification(
            await self._operations.carry_out(session, kind, body, listed=True)
        )

    def _notification(self, done: Done) -> str:
        return done.notification(self._now() // 1000, listed=True)

    def _durable(self, answer: Read) -> Answer:
        """Wait until what the answer may contain is on the disk."""

        async def durable(session: KeySession, request: Request, body: Body) -> str:
            told = answer(session, request, body)
            if not isinstance(told, str):
                told = await told
            await self._accountant.durable(session.account)
            return told

        return durable

    def _pair(self, request: Request) -> Pair | None:
        """The market of the path, if it names one."""
        symbol = request.head.target.route.params.get("symbol")
        return None if symbol is None else self._symbols[symbol]

    async def _wallets(self, session: KeySession, _request: Request, _body: Body) -> str:
        return await self._accountant.wallets(session.account)

    async def _orders(self, session: KeySession, request: Request, body: Body) -> str:
        return await self._accountant.open_orders(session.account, body, self._pair(request))

    async def _past_orders(self, session: KeySession, request: Request, body: Body) -> str:
        return await self._accountant.past_orders(
            request, session.account, body, self._pair(request)
        )

    async def _trades(self, session: KeySession, request: Request, body: Body) -> str:
        return await self._accountant.trades(request, session.account, body, self._pair(request))

    async def _trades_of_order(self, session: KeySession, request: Request, body: Body) -> str:
        symbol, _, order_id = request.head.target.route.params["order"].rpartition(":")
        pair = self._symbols[symbol]
        return await self._accountant.trades_of_order(session.account, body, pair, order_id)

    async def _ledger(self, session: KeySession, request: Request, body: Body) -> str:
        currency = request.head.target.route.params.get("currency")
        return await self._accountant.ledger(request, session.account, body, currency)

    async def _available(self, session: KeySession, _request: Request, body: Body) -> str:
        return await self._accountant.available(session.account, body)

    def _positions(self, _session: KeySession, _request: Request, _body: Body) -> str:
        return "[]"  # there is no margin trading

    def _summary(self, _session: KeySession, _request: Request, _body: Body) -> str:
        return account_arrays.summary_text(self._symbols)

    def _user(self, session: KeySession, _request: Request, _body: Body) -> str:
        account = self._keys.get(session.account)
        if account is None:
            raise BitfinexError(BAD_AUTH, "apikey: invalid")
        return account_arrays.user_text(account.number, account.name, account.created)

    def _token(self, session: KeySession, _request: Request, body: Body) -> str:
        ttl = order_inputs.integer(body, "ttl", DEFAULT_TTL)
        write = body.get("writePermission", False)
        if type(write) is not bool and write not in (0, 1):
            raise bad("writePermission", "true or false is expected")
        token = self._tokens.issue(session, ttl, body.get("caps"), write=bool(write))
        return orjson.dumps([token]).decode()

    def _end_token(self, session: KeySession, _request: Request, body: Body) -> str:
        if not self._tokens.end(body.get("token"), session):
            raise BitfinexError(BAD_PARAMETER, "token: invalid")
        return "[1]"

    def _permissions(self, session: KeySession, _request: Request, _body: Body) -> str:
        withdraw = int(session.may("read") and WITHDRAWALS in session.letters)
        return orjson.dumps([*session.scopes(), ("withdraw", withdraw, 0)]).decode()


def _readable(letter: str, answer: Answer) -> Answer:
    def checked(session: KeySession, request: Request, body: Body) -> str | Awaitable[str] | None:
        session.demand("read", letter)
        return answer(session, request, body)

    return checked if letter else answer


def _nothing(_session: KeySession, _request: Request, _body: Body) -> str:
    raise unknown_path()
