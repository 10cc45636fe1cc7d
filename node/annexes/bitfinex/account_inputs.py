"""Inputs of an authenticated connection on channel 0, and their answers.

    [0, "on"|"ou"|"oc"|"oc_multi"|"ox_multi", null, PAYLOAD]     about orders, see `operations`
    [0, "calc", null, [["wallet_exchange_BTC"], ["balance"]]]    tell these again

An order is placed in the turn of the loop in which it is read, and answered when the disk has it, without a task
of its own; the other inputs, and orders that have to wait for the node or for other nodes, have one.

With the dead man's switch all open orders of the account are cancelled when the connection ends,
however it ends. (A node that is killed cannot do that; its orders are there again when it is.)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from exchange.model.commands import Selection
from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex.account_arrays import order_text
from node.annexes.bitfinex.account_events import (
    ORDER_KINDS,
    WALLET_KINDS,
    AccountEventStream,
    AccountFeeds,
)
from node.annexes.bitfinex.authentication import (
    ORDERS,
    WALLETS,
    KeyAuthenticator,
    KeySession,
    SessionTokens,
    next_millisecond,
)
from node.annexes.bitfinex.errors import BAD_AUTH, UNKNOWN, BitfinexError, bad, refusal
from node.annexes.bitfinex.limits import FILTERS_MAX, INPUTS_WAITING
from node.annexes.bitfinex.order_operations import KINDS, Done, OrderOperations, refused, submitted
from node.annexes.bitfinex.symbols import Pair
from node.http.request_figures import RequestFigures

log = logging.getLogger("node.api")

DEAD_MAN: Final = 4  # the value of `dms`


class PrivateSide:
    """Lets connections in to their accounts."""

    def __init__(
        self,
        gate: KeyAuthenticator,
        tokens: SessionTokens,
        feeds: AccountFeeds,
        operations: OrderOperations,
        figures: RequestFigures,
    ) -> None:
        self._gate = gate
        self._tokens = tokens
        self.feeds = feeds
        self.operations = operations
        self.trading = operations.trading
        self.figures = figures

    def ended(self, session: KeySession) -> str:
        """Return why a session is over, "" while it is not."""
        return self._tokens.ended(session)

    async def enter(
        self,
        event: Mapping[str, Any],
        wake: Callable[[], None],
        *,
        dead_man: bool,
        secure: bool,
        remote: str,
    ) -> AccountInputs:
        """Check an `auth` event and open the account.

        Raises:
            BitfinexError: the connection is not let in.
        """
        words = event.get("filter")
        if words is None:
            words = []
        if not (
            isinstance(words, list)
            and len(words) <= FILTERS_MAX
            and all(isinstance(word, str) for word in words)
        ):
            raise bad("filter", f"a list of at most {FILTERS_MAX} words is expected")
        if "token" in event:
            self._gate.check_way(secure=secure, remote=remote)
            session = self._tokens.session(event["token"])
        else:
            session = self._gate.of_event(event, secure=secure, remote=remote)
        if dead_man:
            session.demand("trade", what="dms")
            if not session.token:
                await next_millisecond(str(event["authNonce"]), self.operations.now)
        kinds: frozenset[str] = frozenset()
        if session.may("read", ORDERS):
            kinds |= ORDER_KINDS
        if session.may("read", WALLETS):
            kinds |= WALLET_KINDS
        stream = await self.feeds.attach(session.account, words, wake, kinds)
        return AccountInputs(self, session, stream, dead_man=dead_man)


class AccountInputs:
    """Inputs of one connection to its account."""

    def __init__(
        self, side: PrivateSide, session: KeySession, stream: AccountEventStream, *, dead_man: bool
    ) -> None:
        self._side = side
        self.session = session
        self.stream = stream
        self._dead_man = dead_man
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_begun = 0  # of the tasks
        self._unanswered = 0  # orders placed without a task

    def take(self, message: Any) -> Coroutine[Any, Any, None] | None:
        """Start the operation of an input; what is returned waits before, while too many are under way. Raises:
        BitfinexError: not an input.
        """
        if not (isinstance(message, list) and len(message) >= 4 and message[0] == 0):
            raise BitfinexError(UNKNOWN, "input: invalid")
        kind, payload = message[1], message[3]
        if ended := self._side.ended(self.session):
            raise BitfinexError(BAD_AUTH, f"apikey: invalid: {ended}")
        if kind == "calc":
            self.session.demand("read", WALLETS)
            self._calculate(payload)
            return None
        if kind not in KINDS:
            raise BitfinexError(UNKNOWN, "input: unknown")
        if len(self._tasks) + self._unanswered >= INPUTS_WAITING:
            return self._begin_later(kind, payload)
        self._begin(kind, payload)
        return None

    async def _begin_later(self, kind: str, payload: Any) -> None:
        while len(self._tasks) + self._unanswered >= INPUTS_WAITING:
            await self._room()
        self._begin(kind, payload)

    def _begin(self, kind: str, payload: Any) -> None:
        # Inputs begin in their order: not before one whose task has not.
        if kind == "on" and not self._not_begun and self._side.trading.open:
            self._place(payload)
        else:
            self._not_begun += 1
            self._start(self._carry_out(kind, payload))

    async def _room(self) -> None:
        """Wait until an input is answered."""
        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        else:
            with suppress(CommandRejected):  # the orders are answered with it
                await self._side.trading.durable()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _calculate(self, payload: Any) -> None:
        if not isinstance(payload, list) or len(payload) > FILTERS_MAX:
            raise BitfinexError(UNKNOWN, "calc: invalid")
        names = [each[0] for each in payload if isinstance(each, list) and each]
        self.stream.calculate([name for name in names if isinstance(name, str)])

    def _place(self, payload: Any) -> None:
        """Place an order at once; its notification follows when it is durable."""
        side, began = self._side, time.perf_counter()
        try:
            placed, pair = side.operations.submit_now(self.session, payload)
        except Exception as error:
            self._failed("on", payload, error, began)
            return
        if side.operations.must_wait(placed):
            self._start(self._answer_decided(payload, placed, pair, began))
            return
        text = order_text(placed[0], pair)
        self.stream.remember(placed[0], text)
        done = submitted(text, len(placed))
        self._unanswered += 1

        def durable(refused: CommandRejected | None) -> None:
            self._unanswered -= 1
            if refused is None:
                self._succeeded(done, began)
            else:
                self._failed("on", payload, refusal(refused.code, refused.detail), began)

        side.trading.when_durable(durable)

    async def _answer_decided(
        self, payload: Any, placed: Sequence[Order], pair: Pair, began: float
    ) -> None:
        """Notify of orders that take from other nodes, when these have decided."""
        try:
            done = await self._side.operations.decided(placed, pair)
        except Exception as error:
            self._failed("on", payload, error, began)
        else:
            self._succeeded(done, began)

    async def _carry_out(self, kind: str, payload: Any) -> None:
        self._not_begun -= 1
        side, began = self._side, time.perf_counter()
        try:
            done = await side.operations.carry_out(self.session, kind, payload, listed=False)
        except Exception as error:
            self._failed(kind, payload, error, began)
        else:
            self._succeeded(done, began)

    def _succeeded(self, done: Done, began: float) -> None:
        side = self._side
        self.stream.notify(
            done.notification(side.operations.now() // 1000, listed=False), failed=False
        )
        side.figures.add_socket(f"bitfinex {done.kind}", "ok", time.perf_counter() - began)

    def _failed(self, kind: str, payload: Any, error: Exception, began: float) -> None:
        """Notify of an input that was not carried out; any error but a refusal is a fault of the node."""
        side, code = self._side, "internal_error"
        if isinstance(error, BitfinexError):
            code = str(error.code)
        else:
            incident = secrets.token_hex(4)
            log.error("incident %s: input %r failed", incident, kind, exc_info=error)
            error = BitfinexError(
                UNKNOWN, f"the node failed to answer; its log has incident {incident}"
            )
        self.stream.notify(
            refused(kind, payload, error, side.operations.now() // 1000), failed=True
        )
        side.figures.add_socket(f"bitfinex {kind}", code, time.perf_counter() - began)

    async def close(self) -> None:
        """End with the connection. Operations under way continue without notifications."""
        self._side.feeds.detach(self.session.account, self.stream)
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._dead_man:
            try:
                every = Selection(account=self.session.account)
                await self._side.trading.cancel_many(every, reason="dead_man")
            except CommandRejected as error:
                log.warning(
                    "account %d: its connection ended and its orders were not cancelled: %s",
                    self.session.account,
                    error.detail,
                )
