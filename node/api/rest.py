"""Requests of HTTP to the routes, and the routes' answers to them.

A request is served in the turn in which it came. Only an answer that has to wait for something else has a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import CoroutineType
from typing import Any, Final, TypeVar

from exchange.orders.engine_context import CommandRejected
from node.api import limits
from node.api.access import AccessControl
from node.api.node_service import NodeService
from node.api.problems import no_route
from node.api.route import Call, Durable, Route, decode_body, no_answer, query_values
from node.api.routes import ROUTES
from node.http.http_messages import JSON, Response
from node.http.http_server import Application
from node.http.limits import READ_TIMEOUT
from node.http.router import Handler
from node.http.server_connection import BodyTooLarge, BodyTooSlow, Request
from node.service.refusals import service_error
from node.views.views import ServiceError

T = TypeVar("T")
METRICS: Final = "/metrics"


def add_routes(application: Application, service: NodeService, door: AccessControl) -> None:
    """Put every route of the table, and /metrics, on an application."""
    clock = asyncio.get_running_loop().time
    router = application.router
    for route in ROUTES:
        operation = route.operation
        handler = _Rest(application, service, door, route, clock).serve
        router.add(operation.method, operation.path, handler, operation.name)

    def get_metrics(request: Request) -> Response:
        door.admit(request, clock(), "node")
        query_values(request.head.target.query)
        return Response(body=service.reports.metrics(), content_type=limits.METRICS_TYPE)

    router.add("GET", METRICS, get_metrics)
    for prefix in ("/v1/", METRICS):
        router.missing(prefix, _after(lambda request: door.admit(request, clock()), no_route))


def _after(check: Callable[[Request], object], handler: Handler) -> Handler:
    def checked(request: Request) -> Response | Awaitable[Response] | None:
        check(request)
        return handler(request)

    return checked


class _Rest:
    """Serves one route."""

    def __init__(
        self,
        application: Application,
        service: NodeService,
        door: AccessControl,
        route: Route[Any, Any, Any],
        clock: Callable[[], float],
    ) -> None:
        self._application = application
        self._service = service
        self._door = door
        self._route = route
        self._clock = clock
        self._no_answer = partial(no_answer, route.doing)

    def serve(self, request: Request) -> Response | Awaitable[Response] | None:
        route, service, operation = self._route, self._service, self._route.operation
        caller = self._door.admit(request, self._clock(), operation.access)
        head = request.head
        call = route.read(
            service, caller, self._door.rules, head.target.route.params, head.target.query
        )
        if operation.body is not None:
            call.body = read_body(request, operation.body)
        found = route.work(service, call)
        if isinstance(found, Durable):
            response = route.answer(call.params, found.value)
            self._application.watch(request, limits.HANDLER_TIMEOUT, self._no_answer)
            service.trading.when_durable(lambda error: self._durable(request, response, error))
            return None
        if isinstance(found, CoroutineType):
            if route.until_gone:
                return self._until_gone(request, call, found)
            if route.doing:
                self._application.watch(request, limits.HANDLER_TIMEOUT, self._no_answer)
            return self._await(call, found)
        if route.private_read:
            return self._await_disk(call, found)
        return route.answer(call.params, found)

    def _durable(self, request: Request, response: Response, error: CommandRejected | None) -> None:
        """Answer a request, all of whose decisions are on the disk or cannot be written."""
        if error is None:
            self._application.answer(request, response)
        else:
            self._application.refuse(request, service_error(error))

    async def _await(self, call: Call[Any, Any], work: Awaitable[Any]) -> Response:
        return await self._await_disk(call, await work)

    async def _await_disk(self, call: Call[Any, Any], found: Any) -> Response:
        if self._route.private_read:
            account = call.account if self._route.of_account else None
            await self._service.trading.durable(account)
        return self._route.answer(call.params, found)

    async def _until_gone(
        self, request: Request, call: Call[Any, Any], work: Awaitable[Any]
    ) -> Response:
        """Wait for work that has a deadline of its own; it is cancelled when the client has gone."""
        task = asyncio.ensure_future(work)
        request.connection.when_gone(task.cancel)
        try:
            return await self._await(call, task)
        finally:
            task.cancel()


def read_body(request: Request, kind: type[T]) -> T:
    """Decode the JSON body of a request.

    Raises:
        ServiceError: it is of another type, too large, too late, or wrong.
    """
    sent = request.head.headers.get("content-type", "")
    if sent != JSON and sent.partition(";")[0].strip().lower() != JSON:
        # Also a defence: a page of another site can post a form or text without asking first.
        detail = (
            f"the body was sent as {sent[:100] or 'no Content-Type'}; send JSON with the header "
            "Content-Type: application/json (with curl: --json)"
        )
        raise ServiceError(415, "unsupported_media_type", detail)
    if "content-encoding" in request.head.headers:
        raise ServiceError(415, "unsupported_media_type", "the body is encoded; send it as it is")
    try:
        raw = request.body
    except BodyTooLarge:
        detail = "the body is longer than 64 KiB, the limit of a request"
        raise ServiceError(413, "body_too_large", detail) from None
    except BodyTooSlow:
        detail = f"the body did not arrive within {READ_TIMEOUT:g} s"
        raise ServiceError(408, "request_timeout", detail) from None
    return decode_body(raw, kind)
