"""The aiohttp application around a node's service, and its life on a socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import Final, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Middleware

from node.api import limits
from node.api.access import (
    DOORKEEPER,
    AccessControl,
    AccessRules,
    is_loopback,
    refuse_credentials,
    set_caller,
)
from node.api.direct_orders import DirectOrders
from node.api.documents import add_documents
from node.api.node_service import NodeService
from node.api.problems import PROBLEM, ProblemConnection, problem, problem_middleware
from node.api.rest import SERVICE, add_routes
from node.api.routes import ROUTES
from node.api.stream_socket import add_stream
from node.api.web_page import add_page
from node.api.worker_socket import add_worker
from node.http.api_tls import Tls
from node.http.connection_limits import ConnectionLimits, connections_allowed
from node.http.direct_answers import COMMON_HEADERS
from node.http.http_requests import FIGURES, NEXT_CURSOR, UNMATCHED, RequestFigures
from node.http.rate_limit import RateVerdict
from node.http.request_guard import NODE_HEADER, RequestGuard, names_no_site
from node.operations.public_operations import GET_HEALTH, GET_READY
from node.operations.trading_operations import SUBMIT_ORDER
from node.parts.table import annexes
from node.views.limits import CURSOR_HEADER
from node.views.views import ServiceError
from p2p.base.direct_requests import DirectHandlers

log = logging.getLogger("node.api")

GUARD: Final = web.AppKey("guard", RequestGuard)
DIRECT: Final = web.AppKey("direct", DirectHandlers)  # the short ways of annexes
PROBES: Final = frozenset({GET_HEALTH.name, GET_READY.name})  # of load balancers
_VERDICT: Final = web.RequestKey("verdict", RateVerdict)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _from_another_site(request: web.Request) -> bool:
    """Return True if a browser says that another site's page makes this request, other than by a link.

    Pages load images, scripts and frames without an Origin header. They cannot read the answer, but
    need not get one. Following a link is fine: it opens a tab of this node's own origin.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is None or site in ("same-origin", "none"):
        return False
    return (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")) != (
        "navigate",
        "document",
    )


@web.middleware
async def guard_middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuse requests that a web page in a browser could send.

    A page that resolves its own name to 127.0.0.1 (DNS rebinding) shows in the Host header; a
    cross-origin request or WebSocket shows in the Origin header. Neither can be set by the page.
    """
    if isinstance(request.protocol, ProblemConnection):
        request.protocol.requested()
    header = request.headers.get("Host", "")
    transport = request.transport
    sockname = transport.get_extra_info("sockname") if transport else None
    probe = _operation_of(request) in PROBES and names_no_site(header)
    if not probe and not request.app[GUARD].serves(header, sockname):
        detail = (
            f"the Host header {header[:100]!r} is not an address of this node's API; "
            "use the URL that the node printed at its start"
        )
        return problem(request, 403, "forbidden_host", detail)
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() != f"{request.scheme}://{header}".lower():
        detail = (
            f"requests from pages of {origin[:100]!r} are refused; the API serves no other origins"
        )
        return problem(request, 403, "forbidden_origin", detail)
    if origin is None and _from_another_site(request):
        detail = "pages of other sites cannot load from this node; open its address in a tab"
        return problem(request, 403, "forbidden_origin", detail)
    wanted = request.headers.get(NODE_HEADER)
    if wanted is not None:
        node_id = request.app[SERVICE].node_id
        if wanted != node_id:
            detail = f"this is node {node_id}, not {wanted[:64]}"
            return problem(request, 421, "wrong_node", detail, extra={"node_id": node_id})
    return await handler(request)


@web.middleware
async def auth_middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Authenticate the caller, and count the request. The Bitfinex dialect has its own
    authentication."""
    if not request.path.startswith(("/v1/", "/metrics")):
        return await handler(request)
    door, remote = request.app[DOORKEEPER], request.remote or ""
    caller, failure = None, None
    try:
        refuse_credentials(request.query, "query parameter")
        if len(request.headers.getall("Authorization", ())) > 1:
            detail = "the header Authorization is given twice, and they may be different callers'"
            raise ServiceError(401, "bad_authorization", f"{detail}; send it once")
        caller = door.identify(request.headers, secure=request.secure, remote=remote)
    except ServiceError as error:
        failure = error
    verdict = door.count(caller, remote, _monotonic())
    request[_VERDICT] = verdict
    if not verdict.allowed:
        detail = f"more than {verdict.limit} requests a minute; wait {verdict.reset} s"
        headers = {"Retry-After": str(verdict.reset)}
        return problem(request, 429, "rate_limited", detail, headers=headers)
    if caller is None:
        raise failure or RuntimeError("nobody")
    set_caller(request, caller)
    return await handler(request)


@web.middleware
async def figures_middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Count every request with its duration. WebSocket connections are counted by their requests."""
    began = perf_counter()
    response = await handler(request)
    if response.status != 101:
        figures = request.app[FIGURES]
        figures.add(_operation_of(request), response.status, perf_counter() - began)
        code = request.get(PROBLEM)
        if code is not None:
            figures.problems[code] += 1
    return response


_OPERATIONS: Final = {
    (route.operation.method, route.operation.path): route.operation.name for route in ROUTES
}


def _operation_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    if resource is None:
        return UNMATCHED
    path = resource.canonical
    method = "GET" if request.method == "HEAD" else request.method
    return _OPERATIONS.get((method, path), path)


async def _common_headers(request: web.Request, response: web.StreamResponse) -> None:
    verdict = request.get(_VERDICT)
    if verdict is not None and verdict.limit:
        response.headers["RateLimit-Limit"] = str(verdict.limit)
        response.headers["RateLimit-Remaining"] = str(verdict.remaining)
        response.headers["RateLimit-Reset"] = str(verdict.reset)
    cursor = request.get(NEXT_CURSOR)
    if cursor is not None:
        response.headers[CURSOR_HEADER] = cursor
    cached = response.headers.get("Cache-Control")
    response.headers.update(COMMON_HEADERS)
    if cached is not None:
        response.headers["Cache-Control"] = cached


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def make_app(
    service: NodeService,
    *,
    hosts: Iterable[str] = (),
    rules: AccessRules | None = None,
    figures: RequestFigures | None = None,
    outermost: Sequence[Middleware] = (),
) -> web.Application:
    """The API of `service`. `hosts` are names besides the loopback ones that clients may use. `outermost`:
    middlewares around all others."""
    rules = rules or AccessRules()
    app = web.Application(
        middlewares=[
            *outermost,
            figures_middleware,
            problem_middleware,
            guard_middleware,
            auth_middleware,
        ],
        client_max_size=limits.MAX_BODY,
    )
    app[FIGURES] = figures or RequestFigures()
    app[DOORKEEPER] = AccessControl(service.accounts, rules)
    app[GUARD] = RequestGuard(hosts, service.node_id)
    app.on_response_prepare.append(_common_headers)
    add_routes(app, service)
    add_stream(app, service.stream_registry)
    add_worker(app)
    app[DIRECT] = {}
    for annex in annexes():
        if annex.application:
            app[DIRECT] |= annex.load(annex.application)(app, service, rules)
    add_page(app)
    add_documents(app)
    return app


class DebugAccessLog(AbstractAccessLogger):
    """Access log with a line for each request, at debug level only."""

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.DEBUG)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.debug(
            "%s %r -> %d in %.1f ms", request.method, request.path_qs, response.status, time * 1000
        )


class _Server(web.Server):
    connection_limits: ConnectionLimits
    direct: DirectHandlers

    def __call__(self) -> ProblemConnection:
        return ProblemConnection(
            self, self.direct, self.connection_limits, loop=self._loop, **self._kwargs
        )


class _Runner(web.AppRunner):
    __slots__ = ("connection_limits", "direct")

    direct: DirectHandlers

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # the only way in to the class of its connections
        made = cast(_Server, server)
        made.direct = self.direct
        self.connection_limits = made.connection_limits = ConnectionLimits(
            asyncio.get_running_loop(),
            most=connections_allowed(limits.CONNECTIONS),
            per_address=limits.CONNECTIONS_PER_ADDRESS,
            header_timeout=limits.HEADER_TIMEOUT,
        )
        return server


class ApiServer:
    """Serves one node's API until it is stopped."""

    def __init__(
        self,
        service: NodeService,
        *,
        rules: AccessRules | None = None,
        tls: Tls | None = None,
        outermost: Sequence[Middleware] = (),
        sees_orders: bool = True,
        direct: bool = True,
    ) -> None:
        """`outermost`: see `make_app`. `direct`: orders take the short way (`node.api.direct_orders`),
        unless there are outermost middlewares, which see all requests; without `sees_orders` all but
        those."""
        self._service = service
        self._rules = rules or AccessRules()
        self._tls = tls
        self._outermost = outermost
        self._direct = direct and not (outermost and sees_orders)
        self._orders: DirectOrders | None = None
        self.figures = RequestFigures()
        self._runner: _Runner | None = None
        self._server: asyncio.Server | None = None
        self.url = ""

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the certificate, hex; None without TLS."""
        return None if self._tls is None else self._tls.fingerprint

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listens on `host`:`port` (0: a free port) and returns the URL for clients on this machine.

        Raises:
            OSError: the address cannot be bound.
        """
        if self._runner is not None:
            raise RuntimeError("the API is already started")
        host = host.strip("[]")
        if host.lower().rstrip(".") == "localhost":
            host = "127.0.0.1"  # one socket, one port: port 0 would get another for each family
        names = frozenset[str]() if self._tls is None else self._tls.names
        app = make_app(
            self._service,
            hosts=[host, *names],
            rules=self._rules,
            figures=self.figures,
            outermost=self._outermost,
        )
        runner = _Runner(
            app,
            access_log=log,
            access_log_class=DebugAccessLog,
            keepalive_timeout=limits.KEEPALIVE,
            shutdown_timeout=limits.SHUTDOWN_TIMEOUT,
        )
        runner.direct = self._direct_handlers(app)
        await runner.setup()
        try:
            context = None if self._tls is None else self._tls.context
            # Not by web.TCPSite, which has no limit on the time of a TLS handshake.
            self._server = await asyncio.get_running_loop().create_server(
                _protocol_factory(runner),
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=None if context is None else limits.TLS_TIMEOUT,
                backlog=limits.BACKLOG,
            )
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        bound = self._server.sockets[0].getsockname()
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://{_reachable(host, str(bound[0]))}:{bound[1]}"
        if not is_loopback(str(bound[0])) and self._tls is None:
            log.warning(
                "the API listens on %s without TLS: %s",
                host,
                "anyone on the network path can read its clients' keys"
                if self._rules.plain_keys
                else "keys from other machines are refused",
            )
        return self.url

    def _direct_handlers(self, app: web.Application) -> DirectHandlers:
        if not self._direct:
            return {}
        self._orders = DirectOrders(self._service, app[GUARD], app[DOORKEEPER], self.figures)
        orders = {(SUBMIT_ORDER.method, SUBMIT_ORDER.path): self._orders.serve}
        return orders if self._outermost else app[DIRECT] | orders

    async def stop(self) -> None:
        """Closes streams and connections; requests in progress get a few seconds. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if self._server is not None:
            self._server.close()
        await runner.cleanup()
        runner.connection_limits.close()
        if self._orders is not None:
            self._orders.close()


def _protocol_factory(runner: _Runner) -> web.Server:
    """The factory of the server's connections."""
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    return server


def _reachable(host: str, bound: str) -> str:
    """`host` as it goes into a URL for this machine: a wildcard address becomes loopback."""
    if bound == "0.0.0.0":
        return "127.0.0.1"
    if bound == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
