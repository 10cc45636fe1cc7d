"""Middleware of a node that may not be the node any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from node.api.problems import problem

# About the machine, not about orders and money.
ANSWERED: Final = frozenset({"/v1/status", "/v1/health", "/v1/ready", "/metrics"})


def only_while(serves: Callable[[], bool]) -> Middleware:
    """Return a middleware that refuses requests while `serves` is false."""

    @web.middleware
    async def refuse_or_pass(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not serves() and request.path not in ANSWERED:
            return problem(
                request,
                503,
                "not_primary",
                "this machine cannot prove that it is the node: its standby or the lease store have not answered. Try again, "
                "or use the address of the other machine",
            )
        return await handler(request)

    return refuse_or_pass
