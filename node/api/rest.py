"""Requests of aiohttp to the routes, and the routes' answers to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from inspect import isawaitable
from typing import Any, Final, TypeVar, cast

from aiohttp import web

from node.api import limits
from node.api.access import DOORKEEPER, admit
from node.api.node_service import NodeService
from node.api.route import Answer, Route, decode_body, no_answer, query_values
from node.api.routes import ROUTES
from node.http.http_requests import NEXT_CURSOR, route_path
from node.http.http_requests import read_body as read_bytes
from node.views.views import ServiceError

SERVICE: Final = web.AppKey("service", NodeService)
TASKS: Final = web.AppKey("tasks", set[asyncio.Task[Any]])
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(app: web.Application, service: NodeService) -> None:
    """Puts every route of the table, and /metrics, on `app`."""
    app.router.add_get("/metrics", get_metrics)
    app[SERVICE] = service
    app[TASKS] = set()
    for route in ROUTES:
        operation = route.operation
        path = route_path(operation.path)
        if operation.method == "GET":
            app.router.add_get(path, handler_of(route))
        else:
            app.router.add_route(operation.method, path, handler_of(route))
    _refuse_other_methods(app)
    app.on_cleanup.append(_cancel_work)


def handler_of(route: Route[Any, Any, Any]) -> Handler:
    """Serve the route's operation to those who may."""
    access, body = route.operation.access, route.operation.body
    private_read, of_account = route.private_read, route.of_account

    async def handler(request: web.Request) -> web.StreamResponse:
        caller = admit(request, access)
        service = request.app[SERVICE]
        pairs: Iterable[tuple[str, str]] = (
            request.query.items() if request.rel_url.raw_query_string else ()
        )
        call = route.read(service, caller, request.app[DOORKEEPER].rules, request.match_info, pairs)
        if body is not None:
            call.body = await read_body(request, body)
        found = route.work(service, call)
        if isawaitable(found):
            if route.doing:
                found = await finish(request, cast(Coroutine[Any, Any, Any], found), route.doing)
            elif route.until_gone:
                found = await _until_gone(request, found)
            else:
                found = await found
        if private_read:
            await service.trading.durable(call.account if of_account else None)
        return _response(request, route.answer(call.params, found))

    return handler


def _response(request: web.Request, answer: Answer) -> web.Response:
    if answer.next_cursor is not None:
        request[NEXT_CURSOR] = answer.next_cursor
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type="application/json",
        headers={"Location": answer.location} if answer.location else None,
    )


async def get_metrics(request: web.Request) -> web.Response:
    admit(request, "node")
    query_values(request.query.items())
    return web.Response(
        body=request.app[SERVICE].metrics(), headers={"Content-Type": limits.METRICS_TYPE}
    )


def _refuse_other_methods(app: web.Application) -> None:
    """Answer other methods at a path without parameters with 405, where a path with one fits it too: PATCH
    of /v1/orders/cancel-after is not about an order of that name."""
    methods: dict[str, list[str]] = {}
    for route in ROUTES:
        methods.setdefault(route.operation.path, []).append(route.operation.method)
    templates = [re.sub(r"\{\w+\}", "[^/]+", path) for path in methods if "{" in path]
    for path, allowed in methods.items():
        if "{" not in path and any(re.fullmatch(template, path) for template in templates):
            app.router.add_route("*", path, _not_allowed(allowed))


def _not_allowed(allowed: list[str]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return refuse


async def read_body(request: web.Request, kind: type[T]) -> T:
    """Reads and decodes a JSON body within `limits.MAX_BODY` and `limits.READ_TIMEOUT`."""
    if request.content_type != "application/json":
        # Also a defence: a page of another site can post a form or text without asking first.
        sent = request.headers.get("Content-Type", "no Content-Type")
        detail = (
            f"the body was sent as {sent[:100]}; send JSON with the header "
            "Content-Type: application/json (with curl: --json)"
        )
        raise ServiceError(415, "unsupported_media_type", detail)
    try:
        raw = await read_bytes(request, limits.READ_TIMEOUT)
    except TimeoutError:
        detail = f"the body did not arrive within {limits.READ_TIMEOUT:g} s"
        raise ServiceError(408, "request_timeout", detail) from None
    return decode_body(raw, kind)


async def finish(request: web.Request, work: Coroutine[Any, Any, T], what: str) -> T:
    """Waits for `work` up to `limits.HANDLER_TIMEOUT`.

    The work is not cancelled when the time is over: an order half submitted is worse than a late
    answer. The application owns the task and cancels it when the node stops.
    """
    tasks = request.app[TASKS]
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    tasks.add(task)
    # What `asyncio.wait` does, for one task and at half the cost.
    ended: asyncio.Future[None] = loop.create_future()

    def end(done: asyncio.Future[T] | None = None) -> None:
        if done is not None:
            tasks.discard(task)
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    timer = loop.call_later(limits.HANDLER_TIMEOUT, end)
    try:
        await ended
    finally:
        timer.cancel()
    if task.done():
        return task.result()
    task.add_done_callback(
        lambda late: late.cancelled() or late.exception()
    )  # no client requests it
    raise no_answer(what)


async def _until_gone(request: web.Request, work: Awaitable[T]) -> T:
    """Waits for `work`, which has a deadline of its own; cancels it when the client has gone."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=limits.GONE_CHECK)
            if done:
                return task.result()
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has gone")
    finally:
        task.cancel()


async def _cancel_work(app: web.Application) -> None:
    tasks = app[TASKS].copy()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
