"""Orders over a stream connection: from a client's requests to acknowledgements and outcomes.

Theory of operation. A request is checked as REST checks it (rate, key, permission, account) and applied in
the same turn of the loop, in the order of arrival, without a task of its own. Its answer leaves when the disk
has it: all requests of a turn share that commit. A request whose orders take from other nodes is remembered
until none of its orders is pending, and has its outcome then.

Rules of this file:
- Nothing between reading a request and applying it may wait, or requests would overtake each other. What has to
  wait (a full window, the start of the node) waits before, in `take`.
- Orders change in place: their views are made when they are applied, and again from the durable news.
- The end of a connection takes nothing back. It ends the answers, and cancels orders where that was asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any

from exchange.model.commands import Selection
from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected
from node.api import limits
from node.api.access import Caller
from node.api.node_service import NodeService
from node.api.problems import incident_of
from node.api.stream_actions import Effect, OrderActions
from node.api.stream_requests import ReadMessage, refusal
from node.http.rate_limit import RateVerdict
from node.http.request_figures import RequestFigures
from node.service.refusals import service_error
from node.service.trading import AccountNews
from node.streams.order_messages import (
    Accepted,
    Outcome,
    Refused,
    Results,
)
from node.streams.stream import encode
from node.views.views import OrderView, ServiceError

log = logging.getLogger("node.api")

_OrderKey = tuple[int, int]  # an account and the number of one of its orders


class _Applied:
    """A request that was applied: its orders as they are, and those that other nodes have to decide on."""

    __slots__ = ("account", "answer", "message", "op", "request_id", "undecided", "views", "waits")

    def __init__(self, message: _Message, request: Any, op: Any, effect: Effect) -> None:
        self.message = message
        self.request_id: str = request.id
        self.op = op
        self.account = effect.account
        self.views: dict[int, OrderView] = {}
        self.undecided: set[int] = set()
        self.waits = effect.waits
        self.answer = effect.answer


class _Message:
    """A message that was taken, until it is answered."""

    __slots__ = ("answered", "began", "durable", "id", "many", "results", "size", "timer")

    def __init__(self, message: ReadMessage, now: float) -> None:
        self.id = message.id
        self.many = message.many
        self.size = len(message.requests)
        self.began = now
        self.results: list[_Applied | Refused] = []
        self.durable = False
        self.answered = False
        self.timer: asyncio.TimerHandle | None = None

    def deciding(self) -> bool:
        """Return True while the answer waits for other nodes."""
        return any(isinstance(r, _Applied) and r.waits and r.undecided for r in self.results)


class StreamOrders:
    """Orders of one connection. `post` writes a message, `count` counts a request against its rate."""

    def __init__(
        self,
        service: NodeService,
        post: Callable[[bytes], None],
        count: Callable[[Caller], RateVerdict],
        figures: RequestFigures,
    ) -> None:
        self._trading = service.trading
        self._post = post
        self._actions = OrderActions(service, count)
        self._view = service.texts.order
        self._figures = figures
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[_Message, None] = {}  # oldest first
        self._size = 0  # requests in them
        self._room = asyncio.Event()
        self._room.set()
        self._overdue: asyncio.TimerHandle | None = None
        self._undecided: dict[_OrderKey, list[_Applied]] = {}
        self._listening: dict[int, Callable[[], None]] = {}  # by account

    # Requests

    def take(self, message: ReadMessage, caller: Caller) -> Coroutine[Any, Any, None] | None:
        """Apply the requests of a message; what is returned waits before, while too many are under way."""
        if self._size >= limits.STREAM_IN_FLIGHT or not self._trading.open:
            return self._take_later(message, caller)
        self._take(message, caller)
        return None

    async def _take_later(self, message: ReadMessage, caller: Caller) -> None:
        while self._size >= limits.STREAM_IN_FLIGHT:
            self._room.clear()
            await self._room.wait()
        if not self._trading.open:
            await self._trading.opened()
        self._take(message, caller)

    def _take(self, message: ReadMessage, caller: Caller) -> None:
        taken = _Message(message, self._loop.time())
        applied = False
        for request in message.requests:
            if isinstance(request, Refused):
                self._figures.add_socket(f"stream {request.op}", request.problem.code, 0.0)
                taken.results.append(request)
            else:
                found = self._carry_out(taken, request, caller)
                taken.results.append(found)
                applied = applied or type(found) is _Applied
        if not applied:
            taken.durable = True
            self._answer(taken)
            return
        self._under_way[taken] = None
        self._size += taken.size
        if self._overdue is None:
            self._watch()
        self._trading.when_durable(lambda error: self._durable(taken, error))

    def refuse(self, refused: Refused) -> None:
        """Answer a message that could not be read."""
        self._figures.add_socket(f"stream {refused.op}", refused.problem.code, 0.0)
        self._post(encode(refused))

    def _carry_out(self, message: _Message, request: Any, caller: Caller) -> _Applied | Refused:
        began, code = perf_counter(), "ok"
        op = request.__struct_config__.tag
        found: _Applied | Refused
        try:
            full = len(self._undecided) >= limits.STREAM_UNDECIDED
            effect = self._actions.apply(request, caller, full=full)
            found = _Applied(message, request, op, effect)
            if effect.orders:
                self._show(found, effect.orders)
        except ServiceError as error:
            code = error.code
            found = refusal(op, request.id, error, body=request.BODY)
        except Exception as error:  # as REST contains it
            failed = incident_of(f"stream {op}", error)
            code = failed.code
            found = refusal(op, request.id, failed)
        self._figures.add_socket(f"stream {op}", code, perf_counter() - began)
        return found

    # Answers

    def _show(self, found: _Applied, orders: Sequence[Order]) -> None:
        account, view = found.account, self._view
        for order in orders:
            found.views[order.number] = view(order)
            if order.pending:
                found.undecided.add(order.number)
                self._undecided.setdefault((account, order.number), []).append(found)
                if account not in self._listening:
                    listen = self._trading.listen(account, lambda news: self._learn(account, news))
                    self._listening[account] = listen

    def _durable(self, message: _Message, error: CommandRejected | None) -> None:
        """The disk has a message's requests, or failed."""
        if message.answered:
            return
        message.durable = True
        if error is not None:
            self._give_up(message, service_error(error))
        elif message.deciding():
            wait = self._trading.take_answer_wait
            message.timer = self._loop.call_later(wait, self._answer, message)
        else:
            self._answer(message)

    def _learn(self, account: int, news: AccountNews) -> None:
        """Durable changes of an account that has undecided orders here."""
        for order in news.orders:
            waiting = self._undecided.get((account, order.number))
            if waiting is None:
                continue
            view = self._view(order)
            for found in waiting:
                found.views[order.number] = view
            if not order.pending:
                del self._undecided[account, order.number]
                for found in waiting:
                    found.undecided.discard(order.number)
                    self._decided(found)
        if not any(key[0] == account for key in self._undecided):
            self._listening.pop(account, lambda: None)()

    def _decided(self, found: _Applied) -> None:
        if found.undecided:
            return
        message = found.message
        if message.answered:
            self._post(encode(_outcome(found)))
        elif message.durable and not message.deciding():
            self._answer(message)

    def _answer(self, message: _Message) -> None:
        if message.answered:
            return
        self._end(message)
        answers = [_answer_of(result) for result in message.results]
        if message.many:
            self._post(encode(Results(id=message.id, results=answers)))
        else:
            self._post(encode(answers[0]))

    def _give_up(self, message: _Message, error: ServiceError) -> None:
        """Answer a message whose effect is not known."""
        for at, found in enumerate(message.results):
            if isinstance(found, _Applied):
                self._forget(found)
                message.results[at] = refusal(found.op, found.request_id, error)
        self._answer(message)

    def _forget(self, found: _Applied) -> None:
        for number in found.undecided:
            waiting = self._undecided.get((found.account, number), [])
            if found in waiting:
                waiting.remove(found)
            if not waiting:
                self._undecided.pop((found.account, number), None)
        found.undecided.clear()

    def _end(self, message: _Message) -> None:
        message.answered = True
        if message.timer is not None:
            message.timer.cancel()
        if message in self._under_way:
            del self._under_way[message]
            self._size -= message.size
            self._room.set()

    def _watch(self) -> None:
        """Answer what is under way for too long, and look again when the next one would be."""
        now, self._overdue = self._loop.time(), None
        for message in list(self._under_way):
            due = message.began + limits.HANDLER_TIMEOUT
            if due > now:
                self._overdue = self._loop.call_at(due, self._watch)
                return
            detail = (
                f"the request took longer than {limits.HANDLER_TIMEOUT:g} s; its outcome is not known yet: "
                "look it up, or repeat it with the same client_id"
            )
            self._give_up(message, ServiceError(504, "no_answer", detail))

    # The end

    async def close(self) -> None:
        """The connection has ended. Requests that were applied stay so."""
        for stop in self._listening.values():
            stop()
        self._listening.clear()
        self._undecided.clear()
        if self._overdue is not None:
            self._overdue.cancel()
        for message in self._under_way:
            message.answered = True
            if message.timer is not None:
                message.timer.cancel()
        for account in self._actions.cancelled_at_end:
            try:
                await self._trading.cancel_many(Selection(account=account), reason="dead_man")
            except CommandRejected as error:
                log.warning(
                    "account %d: its connection ended and its orders were not cancelled: %s",
                    account,
                    error.detail,
                )


def _answer_of(found: _Applied | Refused) -> Any:
    if isinstance(found, Refused):
        return found
    if found.answer is not None:
        return found.answer
    views, decided = list(found.views.values()), not found.undecided
    return Accepted(id=found.request_id, op=found.op, decided=decided, orders=views)


def _outcome(found: _Applied) -> Outcome:
    return Outcome(id=found.request_id, op=found.op, orders=list(found.views.values()))
