"""Inputs of an authenticated connection on channel 0, and their answers.

    [0, "on"|"ou"|"oc"|"oc_multi"|"ox_multi", null, PAYLOAD]     about orders, see `operations`
    [0, "calc", null, [["wallet_exchange_BTC"], ["balance"]]]    tell these again

With the dead man's switch all open orders of the account are cancelled when the connection ends,
however it ends. (A node that is killed cannot do that; its orders are there again when it is.)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from exchange.model.commands import Selection
from exchange.orders.engine_context import CommandRejected
from node.bitfinex.account_events import AccountEventStream, AccountFeeds
from node.bitfinex.authentication import KeyAuthenticator, KeySession, SessionTokens
from node.bitfinex.errors import BAD_AUTH, UNKNOWN, BitfinexError, bad
from node.bitfinex.limits import FILTERS_MAX, INPUTS_WAITING
from node.bitfinex.order_operations import KINDS, OrderOperations, refused
from node.http.http_requests import RequestFigures
from node.service.trading import Trading

log = logging.getLogger("node.api")

DEAD_MAN: Final = 4  # the value of `dms`


class PrivateSide:
    """Lets connections in to their accounts. `now` is us since the epoch."""

    def __init__(
        self,
        gate: KeyAuthenticator,
        tokens: SessionTokens,
        feeds: AccountFeeds,
        operations: OrderOperations,
        trading: Trading,
        now: Callable[[], int],
        figures: RequestFigures,
    ) -> None:
        self._gate = gate
        self._tokens = tokens
        self.feeds = feeds
        self.operations = operations
        self.trading = trading
        self.now = now
        self.figures = figures

    def revoked(self, session: KeySession) -> bool:
        """Return True if the key of a session was revoked since."""
        return self._gate.revoked(session)

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
            session.demand("trade", "dms")
        stream = await self.feeds.attach(session.account, words, wake, readable=session.may("read"))
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

    async def take(self, message: Any) -> None:
        """Start the operation of an input; wait while too many are under way. Raises:
        BitfinexError: not an input.
        """
        if not (isinstance(message, list) and len(message) >= 4 and message[0] == 0):
            raise BitfinexError(UNKNOWN, "input: invalid")
        kind, payload = message[1], message[3]
        if self._side.revoked(self.session):
            raise BitfinexError(BAD_AUTH, "apikey: invalid: the key was revoked")
        if kind == "calc":
            self.session.demand("read")
            self._calculate(payload)
            return
        if kind not in KINDS:
            raise BitfinexError(UNKNOWN, "input: unknown")
        while len(self._tasks) >= INPUTS_WAITING:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._carry_out(kind, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _calculate(self, payload: Any) -> None:
        if not isinstance(payload, list) or len(payload) > FILTERS_MAX:
            raise BitfinexError(UNKNOWN, "calc: invalid")
        names = [each[0] for each in payload if isinstance(each, list) and each]
        self.stream.calculate([name for name in names if isinstance(name, str)])

    async def _carry_out(self, kind: str, payload: Any) -> None:
        side, began, code = self._side, time.perf_counter(), "ok"
        try:
            done = await side.operations.carry_out(self.session, kind, payload, listed=False)
        except BitfinexError as error:
            code = str(error.code)
            self._refuse(kind, payload, error)
        except Exception:
            code = "internal_error"
            incident = secrets.token_hex(4)
            log.exception("incident %s: input %r failed", incident, kind)
            text = f"the node failed to answer; its log has incident {incident}"
            self._refuse(kind, payload, BitfinexError(UNKNOWN, text))
        else:
            told = done.notification(side.now() // 1000, listed=False)
            self.stream.notify(told, failed=False)
        side.figures.add_socket(f"bitfinex {kind}", code, time.perf_counter() - began)

    def _refuse(self, kind: str, payload: Any, error: BitfinexError) -> None:
        told = refused(kind, payload, error, self._side.now() // 1000)
        self.stream.notify(told, failed=True)

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
