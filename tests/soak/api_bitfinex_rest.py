"""A bot's way through the Bitfinex dialect's REST half: signed requests, one at a time."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import aiohttp

from node.annexes.bitfinex.errors import ORDER_TEXT
from node.client.server_trust import Trust
from tests.soak.bitfinex import (
    PASSING,
    SYMBOLS,
    Nonces,
    fill_of,
    order_id,
    payload_of,
    signature,
    state_of,
)
from tests.soak.told import Record, Refusal, State, Unanswered, Wish

TIMEOUT = 8.0  # seconds


def loads(text: str | bytes) -> Any:
    """JSON with exact numbers."""
    return json.loads(text, parse_float=Decimal)


class BitfinexRestApi:
    name = "bitfinex-rest"
    streams = False

    def __init__(self, url: str, trust: Trust, key: str, secret: str, record: Record) -> None:
        self._url = url
        self._trust = trust
        self._key = key
        self._secret = secret
        self._record = record
        self._nonces = Nonces()
        self._session: aiohttp.ClientSession | None = None
        self.heard = 0

    def heard_all(self, restarted: bool) -> bool:
        return False

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust.context()),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """
        Raises:
            Refusal: the node says that nothing was done.
            Unanswered: nobody knows.
        """
        assert self._session is not None
        raw = json.dumps(body)
        path = f"/v2/auth/{path}"
        nonce = self._nonces.next()
        headers = {
            "bfx-apikey": self._key,
            "bfx-nonce": str(nonce),
            "bfx-signature": signature(self._secret, f"/api{path}{nonce}{raw}"),
            "Content-Type": "application/json",
        }
        try:
            async with self._session.post(self._url + path, data=raw, headers=headers) as answer:
                status, text = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(repr(error)) from error
        try:
            told = loads(text)
        except ValueError as error:
            raise Unanswered(f"{status}: {text[:100]!r}") from error
        if isinstance(told, list) and told[:1] == ["error"]:
            raise refusal(told[1], str(told[2]))
        if status != 200:
            raise Unanswered(f"{status}: {text[:100]!r}")
        return told

    async def place(self, wish: Wish) -> State:
        told = await self._post("w/order/submit", payload_of(wish))
        return state_of(told[4][0])

    async def amend(self, number: int, quantity: Decimal | None, price: Decimal | None) -> State:
        known = self._record.orders[number]
        body = change_of(number, known.first, known.filled, quantity, price)
        told = await self._post("w/order/update", body)
        return state_of(told[4])

    async def cancel(self, number: int) -> State:
        told = await self._post("w/order/cancel", {"id": order_id(number)})
        return state_of(told[4])

    async def cancel_all(self, group: int | None = None) -> list[State]:
        body = {"all": 1} if group is None else {"gid": [group]}
        told = await self._post("w/order/cancel/multi", body)
        return [state_of(fields) for fields in told[4]]

    async def look(self, number: int) -> State:
        ids = {"id": [order_id(number)]}
        for path in ("r/orders", "r/orders/hist", "r/orders"):  # it may end between the two
            told = await self._post(path, ids)
            if told:
                return state_of(told[0])
            await asyncio.sleep(0.05)
        raise Refusal("unknown_order", f"neither open nor in the history: {number}")

    async def fills(self) -> None:
        for symbol in SYMBOLS.values():
            for fields in await self._post(f"r/trades/{symbol}/hist", {"limit": 25}):
                self._record.told_fill(fill_of(fields))


def change_of(
    number: int, first: State, filled: Decimal, quantity: Decimal | None, price: Decimal | None
) -> dict[str, Any]:
    """The payload of `ou`. It takes what is to be left of the order: `quantity` is of all of it."""
    body: dict[str, Any] = {"id": order_id(number)}
    if price is not None:
        body["price"] = str(price)
    if quantity is not None:
        left = quantity - filled
        body["amount"] = str(left if first.side == "buy" else -left)
    return body


def refusal(code: Any, text: str) -> Exception:
    """Meaning of the dialect's errors for the record."""
    if code in PASSING or "incident" in text:
        return Unanswered(f"{code}: {text}")
    words = {"Order not found": "order_done", "not enough exchange balance": "insufficient_balance"}
    found = next((word for begin, word in words.items() if text.startswith(begin)), str(code))
    # Of an order that has ended the node says more than the bare words.
    vanished = text == ORDER_TEXT or "has no order" in text
    return Refusal("unknown_order" if vanished else found, text)
