"""The Bitfinex dialect with accounts: a server around a trading service in memory that does what it is told.

Orders rest until a test fills or ends them (`FakeTrading.fill`, `FakeTrading.end`); nothing matches.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec
from instruments_kit import COARSE
from market_kit import ME, NOW, PEER, FakeMarkets

from exchange.ledger.accounts import Accounts
from exchange.model.commands import Amend, Kind, NewOrder, Selection
from exchange.model.records import (
    Fill,
    Order,
    Permission,
    Posting,
    PostingKind,
    Terms,
    default_self_trade,
)
from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex.dialect import add_bitfinex
from node.api.problems import no_route, refusal_of
from node.http.http_server import Application, HttpServer
from node.service.trading import AccountNews, Balance, Span

INSTRUMENTS = COARSE
BTC = INSTRUMENTS["BTC-USD"]
MARKET = BTC.key
DECIMALS = 8
ALICE, BOB = 1, 2
T = TypeVar("T")


def kind_of(new: NewOrder) -> Kind:
    if new.trailing_offset is not None:
        return "trailing_stop"
    if new.stop is not None:
        return "stop" if new.price is None else "stop_limit"
    return "market" if new.price is None else "limit"


class FakeTrading:
    """`node.service.trading.Trading` of one node."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.fills: list[Fill] = []
        self.posted: list[Posting] = []
        self.balances: dict[tuple[int, str], tuple[int, int]] = {}
        self.listeners: dict[int, list[Callable[[AccountNews], None]]] = {}
        self.placed: list[NewOrder] = []
        self.take_answer_wait = 0.25
        self.waits: list[float] = []  # of orders and amendments
        self.amended: list[tuple[int, Amend]] = []
        self.refuse: CommandRejected | None = None
        self.time = NOW
        self.open = False  # for commands without waiting
        self.committing = True  # else what is done stays without an answer until `commit`
        self._done: list[tuple[int, tuple[Order, ...]]] = []  # not told yet
        self._answers: list[Callable[[CommandRejected | None], None]] = []
        self._numbers = itertools.count(1)
        self._takes = itertools.count(1)

    def _check(self) -> None:
        refused, self.refuse = self.refuse, None
        if refused is not None:
            raise refused

    def _tick(self) -> int:
        self.time += 1000
        return self.time

    def _tell(
        self,
        account: int,
        orders: tuple[Order, ...] = (),
        fills: tuple[Fill, ...] = (),
        balances: tuple[Balance, ...] = (),
    ) -> None:
        copies = [msgspec.structs.replace(order) for order in orders]
        for call in list(self.listeners.get(account, ())):
            call(AccountNews(copies, fills, balances))

    # What a test does

    def fill(
        self,
        number: int,
        price: str,
        quantity: str,
        *,
        role: str = "maker",
        fee: int = 0,
        fee_asset: str = "",
    ) -> Fill:
        order = self.orders[number]
        ticks, lots = BTC.to_ticks(price), BTC.to_lots(quantity)
        order.filled += lots
        order.value += ticks * lots
        order.updated = self._tick()
        if order.filled == order.quantity:
            order.done, order.reason = True, "filled"
        fill = Fill(
            PEER if role == "maker" else ME,
            next(self._takes),
            role,
            order.market,
            number,
            order.side,
            ticks,
            lots,
            order.updated,
            PEER,
            77,
            order.account,
            fee,
            fee_asset,
        )
        self.fills.append(fill)
        self._tell(order.account, (order,), (fill,))
        return fill

    def end(self, number: int, reason: str) -> Order:
        order = self.orders[number]
        order.done = order.cancelled = True
        order.reason = reason
        order.updated = self._tick()
        self._tell(order.account, (order,))
        return order

    def trigger(self, number: int) -> None:
        order = self.orders[number]
        order.untriggered = False
        order.updated = self._tick()
        self._tell(order.account, (order,))

    def tell_balances(self, account: int, **totals: str) -> None:
        """As one news."""
        units = {asset: int(float(total) * 10**DECIMALS) for asset, total in totals.items()}
        self._tell(
            account, balances=tuple(Balance(asset, total, 0) for asset, total in units.items())
        )

    def set_balance(self, account: int, asset: str, total: str, held: str = "0") -> None:
        units = int(float(total) * 10**DECIMALS), int(float(held) * 10**DECIMALS)
        self.balances[account, asset] = units
        self._tell(account, balances=(Balance(asset, *units),))

    def post(self, account: int, asset: str, amount: int, kind: PostingKind, note: str) -> None:
        number = len(self.posted) + 1
        self.posted.append(
            Posting(number, f"account:{account}", asset, amount, amount, self._tick(), kind, note)
        )

    # Trading

    async def place(self, order: NewOrder, *, wait: float = 0.0) -> list[Order]:
        self.waits.append(wait)
        made = self.place_now(order)
        self.commit()
        return [msgspec.structs.replace(each) for each in made]

    def place_now(self, order: NewOrder) -> list[Order]:
        self._check()
        if order.client_id is not None:
            earlier = self.order_by_client_id(order.account, order.client_id)
            if earlier is not None:
                return [earlier]
        self.placed.append(order)
        made = [self._make(order)]
        if order.oco_stop is not None:
            second = self._make(
                msgspec.structs.replace(
                    order, price=None, stop=order.oco_stop, oco_stop=None, client_id=None
                )
            )
            made.append(second)
            made[0].linked_order, second.linked_order = second.number, made[0].number
        self._done.append((order.account, tuple(made)))
        return made

    def when_durable(self, call: Callable[[CommandRejected | None], None]) -> None:
        self._answers.append(call)
        if self.committing:
            asyncio.get_running_loop().call_soon(self.commit)

    def commit(self, error: CommandRejected | None = None) -> None:
        """Tell what was done, and answer."""
        done, self._done = self._done, []
        answers, self._answers = self._answers, []
        for account, orders in done:
            if error is None:
                self._tell(account, orders)
        for call in answers:
            call(error)

    async def decided(self, orders: Sequence[Order], *, wait: float) -> list[Order]:
        self.waits.append(wait)
        self.commit()
        async with asyncio.timeout(5):
            while any(order.pending for order in orders):  # noqa: ASYNC110 - a test changes them
                await asyncio.sleep(0.01)
        return [msgspec.structs.replace(each) for each in orders]

    def _make(self, new: NewOrder) -> Order:
        time = self._tick()
        order = Order(
            next(self._numbers),
            new.market,
            new.side,
            new.price,
            new.quantity,
            time,
            new.client_id,
            account=new.account,
            group=new.group,
            updated=time,
            terms=Terms(
                kind_of(new),
                new.self_trade or default_self_trade(new.account),
                tif=new.tif,
                expires=new.expires or 0,
                post_only=new.post_only,
                hidden=new.hidden,
                reduce_only=new.reduce_only,
                stop=new.stop or 0,
                trailing_offset=new.trailing_offset or 0,
                untriggered=kind_of(new) not in ("limit", "market"),
            ),
        )
        self.orders[order.number] = order
        return order

    def _own(self, account: int, number: int) -> Order:
        order = self.order_of(account, number)
        if order is None:
            raise CommandRejected("unknown_order", f"there is no order {number}")
        if order.done:
            raise CommandRejected("order_done", f"order {number} is already over")
        return order

    async def amend(self, account: int, number: int, changes: Amend, *, wait: float = 0.0) -> Order:
        self._check()
        self.waits.append(wait)
        order = self._own(account, number)
        self.amended.append((number, changes))
        if changes.price is not None:
            order.price = changes.price
        if changes.quantity is not None:
            order.quantity = changes.quantity
        if changes.change is not None:
            order.quantity += changes.change
        if changes.stop is not None:
            order.stop = changes.stop
        if changes.trailing_offset is not None:
            order.trailing_offset = changes.trailing_offset
        if changes.expires is not None:
            order.expires = changes.expires
        order.updated = self._tick()
        self._tell(account, (order,))
        return msgspec.structs.replace(order)

    async def cancel(self, account: int, number: int) -> Order:
        self._check()
        self._own(account, number)
        return msgspec.structs.replace(self.end(number, "cancelled"))

    async def cancel_many(self, which: Selection, *, reason: str = "cancelled") -> list[Order]:
        self._check()
        return [
            msgspec.structs.replace(self.end(order.number, reason))
            for order in self.open_orders_of(which.account)
            if (which.numbers is None or order.number in which.numbers)
            and (which.groups is None or order.group in which.groups)
            and (which.client_ids is None or order.client_id in which.client_ids)
        ]

    def order_of(self, account: int, number: int) -> Order | None:
        order = self.orders.get(number)
        return order if order is not None and order.account == account else None

    def order_by_client_id(self, account: int, client_id: str) -> Order | None:
        for order in self.orders.values():
            if (order.account, order.client_id) == (account, client_id):
                return order
        return None

    async def durable(self, account: int | None = None) -> None:
        if self._answers and account is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._answers.append(lambda _error: waiter.set_result(None))
            await waiter

    def open_orders_of(self, account: int, market: str | None = None) -> list[Order]:
        return [
            order
            for order in self.orders.values()
            if order.account == account and not order.done and market in (None, order.market)
        ]

    async def past_orders(
        self, account: int, span: Span, *, market: str | None = None
    ) -> list[Order]:
        found = [
            order
            for order in self.orders.values()
            if order.account == account and order.done and market in (None, order.market)
        ]
        return _part(found, span, lambda order: order.updated)

    async def fills_of(
        self, account: int, span: Span, *, market: str | None = None, order: int | None = None
    ) -> list[Fill]:
        found = [
            fill
            for fill in self.fills
            if fill.account == account
            and market in (None, fill.market)
            and order in (None, fill.order)
        ]
        return _part(found, span, lambda fill: fill.time)

    async def postings(
        self, account: int, span: Span, *, asset: str | None = None
    ) -> list[Posting]:
        found = [
            posting
            for posting in self.posted
            if posting.holder == f"account:{account}" and asset in (None, posting.asset)
        ]
        return _part(found, span, lambda posting: posting.time)

    def balances_of(self, account: int) -> list[Balance]:
        return [
            Balance(asset, total, held)
            for (owner, asset), (total, held) in sorted(self.balances.items())
            if owner == account
        ]

    def decimals(self, asset: str) -> int:
        return DECIMALS

    def listen(self, account: int, call: Callable[[AccountNews], None]) -> Callable[[], None]:
        self.listeners.setdefault(account, []).append(call)
        return lambda: self.listeners[account].remove(call)


def _part(found: list[T], span: Span, time: Callable[[T], int]) -> list[T]:
    end = 2**62 if span.end is None else span.end
    inside = [each for each in found if span.start <= time(each) <= end]
    return sorted(inside, key=time, reverse=span.newest_first)[span.skip :][: span.limit]


@dataclass
class Credentials:
    key: str
    secret: str
    nonce: int = 0

    def next_nonce(self) -> int:
        self.nonce += 1
        return self.nonce

    def sign(self, message: bytes) -> str:
        return hmac.new(self.secret.encode(), message, hashlib.sha384).hexdigest()

    def headers(self, path: str, body: bytes, nonce: str | None = None) -> dict[str, str]:
        nonce = str(self.next_nonce()) if nonce is None else nonce
        return {
            "bfx-apikey": self.key,
            "bfx-nonce": nonce,
            "bfx-signature": self.sign(f"/api{path}{nonce}".encode() + body),
            "Content-Type": "application/json",
        }

    def event(self, **more: Any) -> dict[str, Any]:
        nonce = self.next_nonce()
        payload = f"AUTH{nonce}"
        return {
            "event": "auth",
            "apiKey": self.key,
            "authNonce": nonce,
            "authPayload": payload,
            "authSig": self.sign(payload.encode()),
            **more,
        }


@dataclass
class Answer:
    status: int
    json: Any
    text: str


@dataclass
class Exchange:
    """A server, and a client of it."""

    url: str
    session: aiohttp.ClientSession
    trading: FakeTrading
    accounts: Accounts
    markets: FakeMarkets
    keys: dict[str, Credentials] = field(default_factory=dict)

    def key(
        self, account: int = ALICE, permissions: tuple[Permission, ...] = ("read", "trade")
    ) -> Credentials:
        """A new key."""
        name = f"key-of-{account}-number-{len(self.keys)}"
        made = Credentials(name, f"secret-of-{name}")
        self.accounts.create_key(NOW, account, permissions, "", made.key, made.secret)
        self.keys[name] = made
        return made

    async def post(
        self, key: Credentials, path: str, body: Any = None, *, raw: bytes | None = None
    ) -> Answer:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        full = f"/v2/auth/{path}"
        return await self.send(full, data, key.headers(full, data))

    async def send(
        self, path: str, data: bytes, headers: dict[str, str], method: str = "POST"
    ) -> Answer:
        async with self.session.request(
            method, self.url + path, data=data, headers=headers
        ) as response:
            text = await response.text()
            return Answer(response.status, json.loads(text), text)


@asynccontextmanager
async def running_exchange(**options: Any) -> AsyncIterator[Exchange]:
    """Two accounts, ALICE and BOB, without money or keys."""
    markets, trading, accounts = FakeMarkets(), FakeTrading(), Accounts()
    for name in ("alice", "bob"):
        accounts.create(NOW, name)
    application = Application(no_route, refusal_of)
    add_bitfinex(application, markets.data, ME, trading=trading, keys=accounts, **options)
    server = HttpServer(application)
    host, port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Exchange(f"http://{host}:{port}", session, trading, accounts, markets)
    finally:
        await server.stop()
