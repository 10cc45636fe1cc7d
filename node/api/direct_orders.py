"""Placing an order over REST in one synchronous call: the short way of `POST /v1/orders`.

See `p2p.base.direct_requests`. All checks of the middlewares and of the general handler are made here too, by the
same functions; what fails one of them before the order is placed is left to the general way. From the request's
count against the caller's rate on, the answer is made here, with the same texts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Final

import orjson

from exchange.model.commands import HOUSE
from exchange.orders.engine_context import CommandRejected
from node.api import limits
from node.api.access import AccessControl
from node.api.node_service import NodeService
from node.api.problems import CONTENT_TYPE, incident_of, problem_headers, problem_members
from node.api.route import decode_body, dumps, no_answer
from node.http.direct_answers import response
from node.http.http_requests import RequestFigures
from node.http.rate_limit import RateVerdict
from node.http.request_guard import RequestGuard
from node.operations.trading_operations import SUBMIT_ORDER
from node.service.refusals import service_error
from node.views.views import OrderRequest, ServiceError
from p2p.base.direct_requests import DirectConnection, Head

JSON: Final = "application/json"
JSON_TYPES: Final = frozenset({JSON, f"{JSON}; charset=utf-8"})
_PATH: Final = SUBMIT_ORDER.path


class _Request:
    """A request that was taken, until it is answered."""

    __slots__ = ("answered", "began", "connection", "headers")

    def __init__(self, connection: DirectConnection, verdict: RateVerdict) -> None:
        self.connection = connection
        self.headers = rate_lines(verdict)
        self.began = perf_counter()
        self.answered = False


class DirectOrders:
    """Handler of orders. `guard` and `access` are those of the general way."""

    def __init__(
        self,
        service: NodeService,
        guard: RequestGuard,
        access: AccessControl,
        figures: RequestFigures,
    ) -> None:
        self._service = service
        self._trading = service.trading
        self._guard = guard
        self._access = access
        self._figures = figures
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, _Request]] = deque()  # by the time when each is overdue
        self._overdue: asyncio.TimerHandle | None = None

    def serve(self, connection: DirectConnection, head: Head, body: bytes) -> bool:
        """Place the order of a request; see `DirectHandler`."""
        headers = head.headers
        if (
            headers.get("content-type") not in JSON_TYPES
            or not self._trading.open
            or not self._guard.admits(connection, headers)
        ):
            return False
        access, texts = self._access, self._service.texts
        try:
            caller = access.identify(headers, secure=connection.secure, remote=connection.remote)
            if not caller.may("trade"):
                return False
            account = HOUSE if caller.account is None else caller.account
            order = texts.new_order(decode_body(body, OrderRequest), account)
        except Exception:  # the general way meets it again, and answers
            return False
        verdict = access.count(caller, connection.remote, self._loop.time())
        if not verdict.allowed:
            return False
        request = _Request(connection, verdict)
        try:
            view = texts.order(self._trading.place_now(order)[0])
        except CommandRejected as refused:
            self._refuse(request, service_error(refused))
            return True
        except Exception as error:
            self._refuse(request, incident_of(f"{SUBMIT_ORDER.method} {_PATH!r}", error))
            return True
        lines = f"Location: {_PATH}/{view.id}\r\n{request.headers}"
        answer = response(SUBMIT_ORDER.status, JSON, dumps(view), lines)
        self._watch(request)
        self._trading.when_durable(lambda error: self._durable(request, answer, error))
        return True

    def _durable(self, request: _Request, answer: bytes, error: CommandRejected | None) -> None:
        if request.answered:
            return
        if error is not None:
            self._refuse(request, service_error(error))
        else:
            self._answer(request, SUBMIT_ORDER.status, answer)

    def _refuse(self, request: _Request, error: ServiceError) -> None:
        members = problem_members(error.status, error.code, error.detail, _PATH, error.extra)
        lines = "".join(
            f"{name}: {value}\r\n" for name, value in problem_headers(error.status, None).items()
        )
        body = orjson.dumps(members, default=str)
        self._figures.problems[error.code] += 1
        answer = response(error.status, CONTENT_TYPE, body, lines + request.headers)
        self._answer(request, error.status, answer)

    def _answer(self, request: _Request, status: int, answer: bytes) -> None:
        request.answered = True
        self._figures.add(SUBMIT_ORDER.name, status, perf_counter() - request.began)
        request.connection.answer(answer)

    # Requests that take too long

    def _watch(self, request: _Request) -> None:
        waiting = self._under_way
        while waiting and waiting[0][1].answered:
            waiting.popleft()
        waiting.append((self._loop.time() + limits.HANDLER_TIMEOUT, request))
        if self._overdue is None:
            self._overdue = self._loop.call_later(limits.HANDLER_TIMEOUT, self._end_overdue)

    def _end_overdue(self) -> None:
        """Answer what is under way for too long, and look again when the next one would be."""
        now, waiting, self._overdue = self._loop.time(), self._under_way, None
        while waiting:
            due, request = waiting[0]
            if not request.answered:
                if due > now:
                    self._overdue = self._loop.call_at(due, self._end_overdue)
                    return
                self._refuse(request, no_answer("placing the order"))
            waiting.popleft()

    def close(self) -> None:
        """Stop the timer."""
        if self._overdue is not None:
            self._overdue.cancel()


def rate_lines(verdict: RateVerdict) -> str:
    """The lines of a response about its caller's rate."""
    if not verdict.limit:
        return ""
    return (
        f"RateLimit-Limit: {verdict.limit}\r\nRateLimit-Remaining: {verdict.remaining}\r\n"
        f"RateLimit-Reset: {verdict.reset}\r\n"
    )
