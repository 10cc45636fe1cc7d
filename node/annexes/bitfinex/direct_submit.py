"""Placing an order over signed REST in one synchronous call: the short way of `w/order/submit`.

See `p2p.base.direct_requests`. What can be refused before the nonce is used up is left to the general way. From
then on the answer is made here, with the same texts.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Final, Protocol

import orjson

from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex import authentication, order_inputs
from node.annexes.bitfinex.account_arrays import order_text
from node.annexes.bitfinex.authentication import KeyAuthenticator, is_this_millisecond
from node.annexes.bitfinex.errors import UNKNOWN, BitfinexError, bad, rate_limited, refusal
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.order_operations import OrderOperations, submitted
from node.http.direct_answers import response
from node.http.http_requests import RequestFigures
from node.http.rate_limit import RateLimit
from p2p.base.direct_requests import DirectConnection, Head

log = logging.getLogger("node.api")

METHOD: Final = "POST"
PATH: Final = "/v2/auth/w/order/submit"
_JSON: Final = "application/json"


class Guard(Protocol):
    """The part of `node.http.request_guard.RequestGuard` that is needed here."""

    def admits(self, connection: DirectConnection, headers: Mapping[str, str]) -> bool: ...


class _Request:
    """A request that was taken."""

    __slots__ = ("began", "connection", "nonce")

    def __init__(self, connection: DirectConnection, nonce: str) -> None:
        self.connection = connection
        self.nonce = nonce
        self.began = perf_counter()


class DirectSubmit:
    """Handler of orders. `clock` is monotonic seconds."""

    def __init__(
        self,
        gate: KeyAuthenticator,
        rate: RateLimit,
        guard: Guard,
        operations: OrderOperations,
        figures: RequestFigures,
        clock: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._rate = rate
        self._guard = guard
        self._trading = operations.trading
        self._symbols = operations.symbols
        self._now = operations.now
        self._figures = figures
        self._clock = clock
        self._waiting: set[asyncio.Task[None]] = set()

    def serve(self, connection: DirectConnection, head: Head, body: bytes) -> bool:
        """Place the order of a request; see `DirectHandler`."""
        headers, remote, now = head.headers, connection.remote, self._clock()
        if (
            "bfx-signature" not in headers
            or not body
            or not self._trading.open
            or not self._guard.admits(connection, headers)
            or not self._rate.left(remote, now)
        ):
            return False
        request = _Request(connection, headers.get("bfx-nonce", ""))
        try:
            session = self._gate.of_request(
                headers, PATH, body, secure=connection.secure, remote=remote
            )
        except BitfinexError:
            return False  # the nonce is not used up
        try:
            if not self._rate.allows(f"key {session.key}", now):
                raise rate_limited()
            wanted = order_inputs.decode(body) if body.strip() else {}
            if not isinstance(wanted, dict):
                raise bad("body", "a JSON object is expected")
            session.demand("trade")
            order = order_inputs.new_order(wanted, session.account, self._symbols, self._now())
            placed = self._trading.place_now(order)
        except CommandRejected as refused:
            self._refuse(request, refusal(refused.code, refused.detail))
        except BitfinexError as error:
            self._refuse(request, error)
        except Exception as error:
            self._refuse(request, _incident(error))
        else:
            self._answer_later(request, placed, wanted)
        return True

    def _answer_later(self, request: _Request, placed: Sequence[Order], wanted: Body) -> None:
        wait = self._trading.take_answer_wait
        if wait > 0 and any(order.pending for order in placed):  # with other nodes
            task = asyncio.get_running_loop().create_task(
                self._answer_decided(request, placed, wanted, wait)
            )
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
            return
        done = submitted(order_text(placed[0], self._symbols[wanted["symbol"]]), len(placed))

        def durable(error: CommandRejected | None) -> None:
            if error is None:
                text = done.notification(self._now() // 1000, listed=True)
                self._answer(request, 200, text.encode())
            else:
                self._refuse(request, refusal(error.code, error.detail))

        self._trading.when_durable(durable)

    async def _answer_decided(
        self, request: _Request, placed: Sequence[Order], wanted: Body, wait: float
    ) -> None:
        try:
            orders = await self._trading.decided(placed, wait=wait)
            done = submitted(order_text(orders[0], self._symbols[wanted["symbol"]]), len(orders))
        except CommandRejected as refused:
            self._refuse(request, refusal(refused.code, refused.detail))
        except Exception as error:
            self._refuse(request, _incident(error))
        else:
            text = done.notification(self._now() // 1000, listed=True)
            self._answer(request, 200, text.encode())

    def _refuse(self, request: _Request, error: BitfinexError) -> None:
        self._answer(request, error.status, orjson.dumps(["error", error.code, error.text]))

    def _answer(self, request: _Request, status: int, body: bytes) -> None:
        self._figures.add(PATH, status, perf_counter() - request.began)
        answer = response(status, _JSON, body)
        if is_this_millisecond(request.nonce, self._now()):
            loop = asyncio.get_running_loop()
            loop.call_later(authentication.PAUSE, request.connection.answer, answer)
        else:
            request.connection.answer(answer)


def _incident(error: Exception) -> BitfinexError:
    """Log an unexpected exception as `Form` does."""
    incident = secrets.token_hex(4)
    log.error("incident %s: %s %r failed", incident, METHOD, PATH, exc_info=error)
    return BitfinexError(UNKNOWN, f"the node failed to answer; its log has incident {incident}")
