"""Order operations of the dialect, shared by REST and WebSocket.

Each operation is answered with a notification. In it an order that has traded has its fills summed up;
later reads and events list them one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex import order_inputs
from node.annexes.bitfinex.account_arrays import ORDER_FIELDS, order_text
from node.annexes.bitfinex.authentication import KeySession
from node.annexes.bitfinex.errors import BitfinexError, bad, order_not_found, refusal
from node.annexes.bitfinex.limits import MULTI_MAX
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.service.trading import Trading

KINDS: Final = ("on", "ou", "oc", "oc_multi", "ox_multi")


class Done(NamedTuple):
    """Outcome of an operation."""

    kind: str  # of the operation: on, ou, oc, oc_multi, ox_multi
    data: str  # JSON text: the order, or the array of orders or of notifications
    text: str  # a sentence

    def notification(self, now: int, *, listed: bool) -> str:
        """As JSON text, at `now` ms. REST has a new order in a list of its own (`listed`)."""
        data = f"[{self.data}]" if listed and self.kind == "on" else self.data
        return notification(self.kind, data, now, self.text)


def submitted(first: str, count: int) -> Done:
    """The outcome of placing `count` orders, the first of which is given as JSON text."""
    return Done("on", first, f"Submitting {count} orders.")


def notification(
    kind: str, data: str, now: int, text: str, error: BitfinexError | None = None
) -> str:
    code = "null" if error is None else str(error.code)
    status = "SUCCESS" if error is None else "ERROR"
    return f'[{now},"{kind}-req",null,null,{data},{code},"{status}",{orjson.dumps(text).decode()}]'


def refused(kind: str, body: Any, error: BitfinexError, now: int) -> str:
    """The notification of an operation that was not carried out.

    Its data is an order with nothing but what the client can know its request by.
    """
    fields: list[Any] = [None] * ORDER_FIELDS
    if isinstance(body, dict):
        for index, name in enumerate(("id", "gid", "cid", "symbol")):
            value = body.get(name)
            if type(value) is int or (isinstance(value, str) and len(value) <= 30):
                fields[index] = value
    try:
        data = orjson.dumps(fields).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, half a surrogate pair
        data = orjson.dumps([None] * ORDER_FIELDS).decode()
    return notification(kind, data, now, error.text, error)


class OrderOperations:
    """See the module's docstring. `now` is us since the epoch; the ways in for orders use it too."""

    def __init__(self, trading: Trading, symbols: Symbols, now: Callable[[], int]) -> None:
        self.trading = trading
        self.symbols = symbols
        self.now = now
        self._kinds: dict[str, Callable[[KeySession, Body, float], Awaitable[Done]]] = {
            "on": self._submit,
            "ou": self._update,
            "oc": self._cancel,
            "oc_multi": self._cancel_many,
        }

    async def carry_out(self, session: KeySession, kind: str, body: Any, *, listed: bool) -> Done:
        """Carry out an operation of `KINDS`.

        Raises:
            BitfinexError: nothing was done.
        """
        session.demand("trade")
        if kind == "ox_multi":
            return await self._many(session, body, listed=listed)
        return await self._one(session, kind, body, self.trading.take_answer_wait)

    def submit_now(self, session: KeySession, body: Any) -> tuple[list[Order], Pair]:
        """Place an order while `Trading.open`. Returns the orders, not durable yet, and their market.

        Raises:
            BitfinexError: nothing was done.
        """
        session.demand("trade")
        if not isinstance(body, dict):
            raise bad("payload", "an object is expected")
        wanted = order_inputs.new_order(body, session.account, self.symbols, self.now())
        try:
            placed = self.trading.place_now(wanted)
        except CommandRejected as error:
            raise refusal(error.code, error.detail) from None
        return placed, self.symbols[body["symbol"]]

    def must_wait(self, placed: Sequence[Order]) -> bool:
        """Return True if an answer may wait for other nodes, and these have to decide on one of the orders."""
        return self.trading.take_answer_wait > 0 and any(order.pending for order in placed)

    async def decided(self, placed: Sequence[Order], pair: Pair) -> Done:
        """Wait for other nodes' decisions on what was placed. Raises `BitfinexError`."""
        try:
            orders = await self.trading.decided(placed, wait=self.trading.take_answer_wait)
        except CommandRejected as error:
            raise refusal(error.code, error.detail) from None
        return submitted(order_text(orders[0], pair), len(orders))

    async def _one(self, session: KeySession, kind: str, body: Any, wait: float) -> Done:
        """Carry out one operation. It waits at most `wait` seconds for other nodes' decisions."""
        if not isinstance(body, dict):
            raise bad("payload", "an object is expected")
        try:
            return await self._kinds[kind](session, body, wait)
        except CommandRejected as error:
            raise refusal(error.code, error.detail) from None

    async def _submit(self, session: KeySession, body: Body, wait: float) -> Done:
        wanted = order_inputs.new_order(body, session.account, self.symbols, self.now())
        placed = await self.trading.place(wanted, wait=wait)
        # Of a pair the first one: clients take more than one order for a malformed answer.
        first = order_text(placed[0], self.symbols[body["symbol"]])
        return submitted(first, len(placed))

    async def _update(self, session: KeySession, body: Body, wait: float) -> Done:
        order, pair = self._named(session, body)
        changes = order_inputs.amend(body, order, pair, self.now())
        changed = await self.trading.amend(session.account, order.number, changes, wait=wait)
        return Done("ou", order_text(changed, pair), "Submitting update to order.")

    async def _cancel(self, session: KeySession, body: Body, _wait: float) -> Done:
        order, pair = self._named(session, body)
        if order.cancelled and not order.done:  # repeated while another node's answer is awaited
            told = order_text(order, pair)
            await self.trading.durable(session.account)
        else:
            told = order_text(await self.trading.cancel(session.account, order.number), pair)
        return Done("oc", told, "Submitted for cancellation.")

    async def _cancel_many(self, session: KeySession, body: Body, _wait: float) -> Done:
        cancelled: list[Order] = []
        for which in order_inputs.selections(body, session.account, self.now()):
            cancelled += await self.trading.cancel_many(which)
        text = f"Submitting {len(cancelled)} order cancellations."
        return Done("oc_multi", _array(order_texts(cancelled, self.symbols)), text)

    async def _many(self, session: KeySession, body: Any, *, listed: bool) -> Done:
        """Operations one after another. One that is refused does not stop those after it."""
        ops = body.get("ops") if isinstance(body, dict) else body
        if not isinstance(ops, list) or not 0 < len(ops) <= MULTI_MAX:
            raise bad("ops", f"a list of 1 to {MULTI_MAX} operations is expected")
        if not all(
            isinstance(op, list)
            and len(op) == 2
            and isinstance(op[0], str)
            and op[0] in self._kinds
            for op in ops
        ):
            raise bad("ops", f"pairs of {', '.join(self._kinds)} and a payload are expected")
        told = []
        clock = asyncio.get_running_loop().time
        until = clock() + self.trading.take_answer_wait  # of all operations together
        for kind, payload in ops:
            try:
                done = await self._one(session, kind, payload, max(0.0, until - clock()))
                told.append(done.notification(self.now() // 1000, listed=listed))
            except BitfinexError as error:
                told.append(refused(kind, payload, error, self.now() // 1000))
        return Done("ox_multi", _array(told), f"Submitting {len(ops)} order operations.")

    def _named(self, session: KeySession, body: Body) -> tuple[Order, Pair]:
        name = order_inputs.named_order(body, self.now())
        if isinstance(name, int):
            order = self.trading.order_of(session.account, name)
        else:
            order = self.trading.order_by_client_id(session.account, name)
        pair = None if order is None else self.symbols.find(order.market)
        if order is None or pair is None:
            raise order_not_found()
        return order, pair


def order_texts(orders: Iterable[Order], symbols: Symbols) -> list[str]:
    """Return the orders in markets that are still served."""
    return [order_text(order, pair) for order in orders if (pair := symbols.find(order.market))]


def _array(texts: Sequence[str]) -> str:
    return f"[{','.join(texts)}]"
